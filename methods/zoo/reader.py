"""Recipe: the attribute reader, the mini world's judge. It says what a region of a picture shows.

A small convolutional network with one softmax head for each attribute; its fourth input channel marks the region.
It is trained on renders, half of them degraded the way generated pictures are (blurred, noisy, recoloured,
passed through the autoencoder where one is given), since it will read generated pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from methods.zoo.data import World, to_pictures, to_tensor
from methods.zoo.loop import Budget, Machine, Outcome, Report, silent, train

BUDGET = Budget(samples=110_000, batch=64, rate=2e-3, warmup=5_000, decay=0.4, ema=0.999, weight_decay=0.02)
WIDTHS = (32, 64, 96, 128)


class Reader(nn.Module):
    """Pictures and regions in, one row of logits per attribute out.

    ``labels``: attribute -> its values, in the order of the logits.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.labels = {name: tuple(values) for name, values in labels.items()}
        self.widths = tuple(widths)
        layers: list[nn.Module] = [nn.Conv2d(4, widths[0], 3, stride=2, padding=1)]
        for here, there in zip(widths, [*widths[1:], widths[-1]], strict=True):
            layers += [_Block(here), nn.Conv2d(here, there, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*layers, _Block(widths[-1]))
        self.head = nn.Linear(4 * widths[-1], sum(len(v) for v in self.labels.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Float (N, 4, 64, 64), colours in [-1, 1] and the region in {-1, 1} => attribute -> logits (N, values)."""
        features = F.silu(self.body(x)).flatten(1)
        parts = self.head(features).split([len(v) for v in self.labels.values()], dim=1)
        return dict(zip(self.labels, parts, strict=True))

    @torch.no_grad()
    def read(
        self, pictures: NDArray[np.uint8], regions: NDArray[np.bool_]
    ) -> list[dict[str, dict[str, float]]]:
        """uint8 (N, H, W, 3) and bool (N, H, W) => for each, attribute -> value -> probability."""
        device = self.head.weight.device
        x = with_region(to_tensor(pictures), torch.from_numpy(regions)).to(device)
        if x.shape[-1] != 64:
            x = F.interpolate(x, size=(64, 64), mode="area")
        chances = {name: logits.float().softmax(1).cpu().numpy() for name, logits in self(x).items()}
        return [
            {name: dict(zip(self.labels[name], map(float, p[i]), strict=True)) for name, p in chances.items()}
            for i in range(len(pictures))
        ]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm(x)))
        out: Tensor = x + self.conv2(F.silu(h))
        return out


def with_region(x: Tensor, regions: Tensor) -> Tensor:
    """Float (N, 3, H, W) and bool (N, H, W) => float (N, 4, H, W)."""
    return torch.cat([x, regions[:, None].to(x.dtype) * 2 - 1], 1)


def run(
    world: World,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    vae: nn.Module | None = None,
    model: Reader | None = None,
) -> Outcome:
    """Train on freshly rendered pictures. Figures: the running accuracy, degraded pictures included."""
    torch.manual_seed(0)
    model = model or Reader(world.labels())
    index = {name: {value: k for k, value in enumerate(values)} for name, values in model.labels.items()}

    def batch(step: int) -> dict[str, Any]:
        drawn = [world.labelled(step * budget.batch + i) for i in range(budget.batch)]
        x = to_tensor(np.stack([d[0] for d in drawn]))
        x = degrade(x, torch.Generator().manual_seed(step), vae)
        regions = torch.from_numpy(np.stack([d[1] for d in drawn]))
        answers = {
            name: torch.tensor([values[d[2][name]] if name in d[2] else -1 for d in drawn])
            for name, values in index.items()
        }
        return {"x": with_region(x, regions), "answers": answers}

    def loss(data: dict[str, Any], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        logits = model(data["x"])
        total, right, asked = data["x"].new_zeros(()), 0.0, 0
        for name, answer in data["answers"].items():
            known = answer >= 0
            if known.any():
                total = total + F.cross_entropy(logits[name][known].float(), answer[known])
                right += float((logits[name][known].argmax(1) == answer[known]).sum())
                asked += int(known.sum())
        return total, {"accuracy": right / max(asked, 1)}

    return train(work, {"reader": model}, loss, batch, budget, machine, report)


def degrade(x: Tensor, generator: torch.Generator, vae: nn.Module | None = None) -> Tensor:
    """Half of the pictures as a generator might have made them; (N, 3, H, W) in [-1, 1], new tensor."""
    out = x.clone()
    n = x.shape[0]
    kind = torch.rand(n, generator=generator)
    blurred = kind < 0.15
    if blurred.any():
        soft = F.avg_pool2d(F.pad(out[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        out[blurred] = soft
    noisy = (kind >= 0.10) & (kind < 0.25)
    out[noisy] += 0.08 * torch.randn(out[noisy].shape, generator=generator)
    coarse = (kind >= 0.25) & (kind < 0.35)
    if coarse.any():
        small = F.interpolate(out[coarse], scale_factor=0.5, mode="area")
        out[coarse] = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    tinted = (kind >= 0.30) & (kind < 0.5)
    k = int(tinted.sum())
    if k:
        gain = 1 + 0.12 * (torch.rand((k, 3, 1, 1), generator=generator) - 0.5)
        shift = 0.12 * (torch.rand((k, 1, 1, 1), generator=generator) - 0.5)
        out[tinted] = out[tinted] * gain + shift
    if vae is not None:
        coded = kind >= 0.88
        with torch.no_grad():
            z = vae.encode(out[coded]).latent_dist.mean  # type: ignore[operator]
            z = z + 0.15 * z.std() * torch.randn(z.shape, generator=generator)
            out[coded] = vae.decode(z).sample  # type: ignore[operator]
    return out.clamp_(-1, 1)


def accuracy(model: Reader, world: World, count: int = 2_000) -> dict[str, float]:
    """Share of right answers per attribute on ``count`` held-out renders."""
    right: dict[str, int] = {}
    asked: dict[str, int] = {}
    for start in range(0, count, 200):
        drawn = [world.labelled(-1 - start - i) for i in range(min(200, count - start))]
        read = model.read(np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn]))
        for answer, (_, _, labels) in zip(read, drawn, strict=True):
            for name, value in labels.items():
                asked[name] = asked.get(name, 0) + 1
                right[name] = right.get(name, 0) + (max(answer[name], key=answer[name].__getitem__) == value)
    return {name: right[name] / asked[name] for name in asked}


def kept(model: Reader, world: World, vae: nn.Module, count: int = 1_000) -> float:
    """Share of the attributes read off held-out renders that are read the same off their reconstructions."""
    same, asked = 0, 0
    for start in range(0, count, 200):
        drawn = [world.labelled(-1 - start - i) for i in range(min(200, count - start))]
        pictures, regions = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
        before, after = model.read(pictures, regions), model.read(reconstruct(vae, pictures), regions)
        for one, two, (_, _, labels) in zip(before, after, drawn, strict=True):
            for name in labels:
                asked += 1
                same += max(one[name], key=one[name].__getitem__) == max(two[name], key=two[name].__getitem__)
    return same / asked


def reconstruct(vae: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3) through the autoencoder and back."""
    with torch.no_grad():
        z = vae.encode(to_tensor(pictures)).latent_dist.mean  # type: ignore[operator]
        return to_pictures(vae.decode(z).sample)  # type: ignore[operator]


def save(folder: Path, model: Reader) -> None:
    """``config.json`` and half-precision ``reader.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / "reader.safetensors"
    )
    config = {"labels": {k: list(v) for k, v in model.labels.items()}, "widths": list(model.widths)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "cpu") -> Reader:
    """The reader of a folder that :func:`save` wrote, in evaluation mode, float32."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Reader(config["labels"], config["widths"])
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "reader.safetensors").items()})
    return model.to(device).eval()
