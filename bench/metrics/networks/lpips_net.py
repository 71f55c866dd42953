"""LPIPS in two halves, so that the source's half is computed once for all of its edits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks import lpips_weights
from bench.metrics.networks.precision import exact

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.types import RgbImage

MIN_SIDE = 32
"""Pixels. Below it, nothing of an image is left in AlexNet's last layers."""

_BUDGETS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Pixels per batch. VGG's first layer holds 256 bytes per pixel: on a CPU, a batch stays near its caches."""
_EPSILON = 1e-10
"""Of ``lpips.normalize_tensor``."""
_KEPT_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}


class LpipsNet:
    """``lpips.LPIPS(net=...)`` with the published weights; ``alex`` or ``vgg``."""

    def __init__(self, net: str, device: str = "cpu", batch_pixels: int | None = None) -> None:
        self.net = net
        self.device = device
        kind = device.split(":")[0]
        self._budget = batch_pixels or _BUDGETS.get(kind, _BUDGETS["cpu"])
        self._kept_bytes = _KEPT_BYTES.get(kind, _KEPT_BYTES["cpu"])
        # Channels last: the layout that the convolutions work in, so that nothing is reordered in between.
        self._model: Any = _channels_last(lpips_weights.load_lpips(net, device))
        self._sources: OrderedDict[str, list[torch.Tensor]] = OrderedDict()
        self._held = 0

    @property
    def identity(self) -> str:
        return lpips_weights.identity(self.net)

    def activations(self, pictures: Sequence[RgbImage]) -> list[torch.Tensor]:
        """Five layers ``float32`` ``(N, C, h, w)``, unit length over channels (Zhang et al. 2018, eq. 1)."""
        import torch

        pixels = torch.from_numpy(np.stack([p.pixels for p in pictures])).to(self.device)
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # LPIPS reads [-1, 1]
        layers: list[torch.Tensor] = list(self._model.net(self._model.scaling_layer(x)))
        for layer in layers:
            # In place: by now every layer has been read by the one above it.
            layer.div_(torch.linalg.vector_norm(layer, dim=1, keepdim=True) + _EPSILON)
        return layers

    def maps(self, sources: Sequence[RgbImage], others: Sequence[RgbImage]) -> NDArray[np.float32]:
        """``float32`` ``(N, H, W)``: LPIPS per pixel of each pair, as ``LPIPS(spatial=True)`` gives it.

        All pictures have one size of at least ``MIN_SIDE`` pixels a side. Equal pictures give exactly zero,
        equal pairs exactly the same map.
        """
        import torch

        height, width = sources[0].size
        result = np.zeros((len(sources), height, width), np.float32)
        # Equal pictures are not shown to the network, equal pairs once: its rounding differs with the place
        # in a batch.
        first: dict[tuple[str, str], int] = {}
        same = [
            first.setdefault((a.key, b.key), i) for i, (a, b) in enumerate(zip(sources, others, strict=True))
        ]
        todo = [i for (a, b), i in first.items() if a != b]
        size = max(1, self._budget // (height * width))
        with exact(self.device):
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                before = self._sources_of([sources[i] for i in batch])
                after = self.activations([others[i] for i in batch])
                total = torch.zeros(len(batch), 1, height, width, device=self.device)
                for index, difference in enumerate(after):
                    for row, source in enumerate(before):
                        difference[row].sub_(source[index])
                    distance = self._model.lins[index](difference.square_())
                    total += torch.nn.functional.interpolate(
                        distance, size=(height, width), mode="bilinear", align_corners=False
                    )
                result[batch] = total[:, 0].cpu().numpy()
        return result[same]

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean over the plane of the backbone's last ReLU: ``float32`` NCHW in [0, 255] -> ``(N, C)``."""
        x = pixels / 127.5 - 1
        pooled: torch.Tensor = self._model.net(self._model.scaling_layer(x))[-1].mean(dim=(2, 3))
        return pooled

    def _sources_of(self, pictures: Sequence[RgbImage]) -> list[list[torch.Tensor]]:
        """Of each picture its five layers ``(C, h, w)``, from memory where it was seen lately."""
        fresh = {p.key: p for p in pictures if p.key not in self._sources}
        found = {p.key: self._sources[p.key] for p in pictures if p.key in self._sources}
        if fresh:
            layers = self.activations(list(fresh.values()))
            for index, key in enumerate(fresh):
                # Copies: a view would keep its whole batch in memory.
                found[key] = [layer[index].clone() for layer in layers]
        for key in found:
            if key not in self._sources:
                self._held += _bytes(found[key])
            self._sources[key] = found[key]
            self._sources.move_to_end(key)
        while self._held > self._kept_bytes and self._sources:
            _, dropped = self._sources.popitem(last=False)
            self._held -= _bytes(dropped)
        return [found[p.key] for p in pictures]


def _channels_last(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    # Of the type of Module.to, the overload with a memory format alone is missing in some versions.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _bytes(layers: Sequence[torch.Tensor]) -> int:
    return sum(layer.numel() * layer.element_size() for layer in layers)
