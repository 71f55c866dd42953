"""LPIPS in two steps, activations and distances, so that a source's activations serve all of its edits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks import lpips_weights
from bench.metrics.networks.precision import exact

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.types import RgbImage

# Least side in pixels. AlexNet's last layers would be empty for a smaller image.
MIN_SIDE = 32

# Pixels per batch. VGG's first layer has 256 bytes per pixel: on a CPU, a batch should nearly fit into the caches.
_BUDGETS = {"cpu": 1 << 17, "cuda": 1 << 22}
# The constant of ``lpips.normalize_tensor``, which keeps the division finite.
_EPSILON = 1e-10
# Memory for activations of sources.
_SOURCE_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}


class LpipsNet:
    """``lpips.LPIPS(net=...)`` with the published weights. ``net`` is ``alex``, ``vgg`` or ``squeeze``."""

    def __init__(self, net: str, device: str = "cpu", batch_pixels: int | None = None) -> None:
        self.net = net
        self.device = device
        kind = device.split(":")[0]
        self._budget = batch_pixels or _BUDGETS.get(kind, _BUDGETS["cpu"])
        self._source_limit = _SOURCE_BYTES.get(kind, _SOURCE_BYTES["cpu"])
        # Channels last: the layout that the convolutions work in, so that nothing is reordered in between.
        self._model: Any = _channels_last(lpips_weights.load_lpips(net, device))
        self._sources: OrderedDict[str, list[torch.Tensor]] = OrderedDict()
        self._source_bytes = 0

    def activations(self, images: Sequence[RgbImage]) -> list[torch.Tensor]:
        """The layers ``(N, C, h, w)`` float32, of unit length over channels (Zhang et al. 2018, eq. 1).

        SqueezeNet has seven, the other backbones five.
        """
        import torch

        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(self.device)
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, H, W) in [-1, 1]
        layers: list[torch.Tensor] = list(self._model.net(self._model.scaling_layer(x)))
        for layer in layers:
            # In place, to save memory: by now every layer has been read by the one above it.
            layer.div_(torch.linalg.vector_norm(layer, dim=1, keepdim=True) + _EPSILON)
        return layers

    def maps(self, sources: Sequence[RgbImage], edits: Sequence[RgbImage]) -> NDArray[np.float32]:
        """``(N, H, W)`` float32: LPIPS per pixel of each pair, as ``LPIPS(spatial=True)`` gives it.

        All images have one size of at least ``MIN_SIDE`` pixels a side. Equal images give exactly zero, and equal
        pairs exactly the same map.
        """
        import torch

        height, width = sources[0].size

        def enlarged(distance: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(
                distance, size=(height, width), mode="bilinear", align_corners=False
            )[:, 0]

        return self._distances(sources, edits, enlarged, (height, width))

    def means(self, sources: Sequence[RgbImage], edits: Sequence[RgbImage]) -> NDArray[np.float32]:
        """``(N,)`` float32: LPIPS of each pair, averaged over the plane of each layer, as ``LPIPS()`` gives it.

        Images as in :meth:`maps`.
        """
        return self._distances(sources, edits, lambda distance: distance.mean(dim=(1, 2, 3)), ())

    def _distances(
        self,
        sources: Sequence[RgbImage],
        edits: Sequence[RgbImage],
        reduce: Callable[[torch.Tensor], torch.Tensor],
        shape: tuple[int, ...],
    ) -> NDArray[np.float32]:
        """``(N, *shape)``: sum over layers of the weighted squared differences ``(B, 1, h, w)``, each reduced."""
        import torch

        height, width = sources[0].size
        result = np.zeros((len(sources), *shape), np.float32)
        # The network's rounding depends on the position in a batch. So it gets no pair of equal images, and only one
        # of several equal pairs.
        first: dict[tuple[str, str], int] = {}
        first_of_pair = [
            first.setdefault((a.key, b.key), i) for i, (a, b) in enumerate(zip(sources, edits, strict=True))
        ]
        todo = [i for (a, b), i in first.items() if a != b]
        # Batches of as many pairs as the budget of pixels allows.
        size = max(1, self._budget // (height * width))
        with exact(self.device):
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                before = self._sources_of([sources[i] for i in batch])
                after = self.activations([edits[i] for i in batch])
                # Zhang et al. 2018, eq. 1.
                total = torch.zeros(len(batch), *shape, device=self.device)
                for index, difference in enumerate(after):
                    for row, source in enumerate(before):
                        difference[row].sub_(source[index])
                    total += reduce(self._model.lins[index](difference.square_()))
                result[batch] = total.cpu().numpy()
        return result[first_of_pair]

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean over the plane of the backbone's last ReLU: ``(N, 3, H, W)`` float32 in [0, 255] -> ``(N, C)``."""
        # LPIPS's own input range, [-1, 1].
        x = pixels / 127.5 - 1
        pooled: torch.Tensor = self._model.net(self._model.scaling_layer(x))[-1].mean(dim=(2, 3))
        return pooled

    def forget(self) -> None:
        """Drops the activations of sources."""
        self._sources.clear()
        self._source_bytes = 0

    def _sources_of(self, images: Sequence[RgbImage]) -> list[list[torch.Tensor]]:
        """The layers ``(C, h, w)`` of each image, from memory where it was used recently."""
        new = {image.key: image for image in images if image.key not in self._sources}
        layers_of = {image.key: self._sources[image.key] for image in images if image.key in self._sources}
        if new:
            layers = self.activations(list(new.values()))
            for index, key in enumerate(new):
                # Copies: a view would keep its whole batch in memory.
                layers_of[key] = [layer[index].clone() for layer in layers]

        # Remember these as the last ones used, and drop those used longest ago.
        for key in layers_of:
            if key not in self._sources:
                self._source_bytes += _bytes(layers_of[key])
            self._sources[key] = layers_of[key]
            self._sources.move_to_end(key)
        while self._source_bytes > self._source_limit and self._sources:
            _, dropped = self._sources.popitem(last=False)
            self._source_bytes -= _bytes(dropped)
        return [layers_of[image.key] for image in images]


def _channels_last(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    # Some versions of torch lack the type of this overload of Module.to.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _bytes(layers: Sequence[torch.Tensor]) -> int:
    return sum(layer.numel() * layer.element_size() for layer in layers)
