"""Recipe: the attribute reader, the mini world's judge. It says what a region of a picture shows.

A small convolutional network with one softmax head for each attribute. It looks twice: at the whole picture, and at a
square around the region, enlarged, so that small parts are read as well as large ones. The fourth input channel marks
the region. Every head can answer ``other``: the region shows none of the attribute's values.

Half of the training pictures are renders, many of them degraded the way generated pictures are (blurred, noisy, warped,
recoloured, passed through the autoencoder where one is given). A quarter are ideal edits, a quarter edits that
``methods.zoo.failures`` spoils, which the reader must answer with ``other``. To each batch are added edits of real
methods with verdicts given by eye (``methods.zoo.labelled``).
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

from methods.training import Budget, Machine, Report, TrainingResult, silent, train
from methods.zoo import failures, labelled
from methods.zoo.data import World, to_pictures, to_tensor
from methods.zoo.failures import OTHER, Example
from methods.zoo.labelled import LabelledEdit, Verdict

BUDGET = Budget(
    samples=230_000, batch=64, learning_rate=2e-3, warmup=5_000, decay=0.4, ema=0.999, weight_decay=0.02
)
WIDTHS = (32, 64, 96, 128)
SIDE = 64
"""Pixels along each side of both views."""
MARGIN = 0.15
"""Room around the region in the close view, on each side, as a share of the region's longer side."""
LEAST_VIEW = 16 / 64
"""The close view spans at least this share of the picture's shorter side."""

_CASES = 12
"""Edits drawn for each batch; each gives several examples, for drawing a case costs more than spoiling it."""


class AttributeClassifier(nn.Module):
    """Pictures and regions in, one row of logits per attribute out.

    ``labels``: attribute -> its values, in the order of the logits; ``other`` is added to each as the last.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.labels = {name: (*(v for v in values if v != OTHER), OTHER) for name, values in labels.items()}
        self.widths = tuple(widths)
        layers: list[nn.Module] = [nn.Conv2d(4, widths[0], 3, stride=2, padding=1)]
        for width, next_width in zip(widths, [*widths[1:], widths[-1]], strict=True):
            layers += [_Block(width), nn.Conv2d(width, next_width, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*layers, _Block(widths[-1]))
        # Two views of 2 x 2 positions each.
        self.head = nn.Linear(2 * 4 * widths[-1], sum(len(v) for v in self.labels.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The two views of :func:`views`, float (N, 2, 4, 64, 64) => attribute -> logits (N, values)."""
        features = F.silu(self.body(x.flatten(0, 1))).reshape(len(x), -1)
        parts = self.head(features).split([len(v) for v in self.labels.values()], dim=1)
        return dict(zip(self.labels, parts, strict=True))

    @torch.no_grad()
    def read(
        self, pictures: NDArray[np.uint8], regions: NDArray[np.bool_]
    ) -> list[dict[str, dict[str, float]]]:
        """uint8 (N, H, W, 3) and bool (N, H, W) => for each, attribute -> value -> probability, ``other`` included."""
        device = self.head.weight.device
        x = views(to_tensor(pictures), torch.from_numpy(regions)).to(device)
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


def views(x: Tensor, regions: Tensor) -> Tensor:
    """What the reader looks at: the whole picture, and a square around the region.

    Float (N, 3, H, W) in [-1, 1] and bool (N, H, W) => float (N, 2, 4, 64, 64). The fourth channel is 1 in the region
    and -1 outside. A region without a pixel has the whole picture as its close view.
    """
    marked = torch.cat([x, regions[:, None].to(x.dtype) * 2 - 1], 1)
    whole = _to_side(marked)
    close = []
    for picture, region in zip(marked, regions, strict=True):
        left, top, right, bottom = close_box(region)
        close.append(_to_side(picture[None, :, top:bottom, left:right]))
    return torch.stack([whole, torch.cat(close)], 1)


def close_box(region: Tensor) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the square around a bool (H, W) region, within the picture."""
    height, width = region.shape
    rows, columns = (torch.nonzero(region.any(dim=d)).flatten() for d in (1, 0))
    if not len(rows):
        return 0, 0, width, height
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    longer = max(bottom - top, right - left)
    shorter_side = min(height, width)
    side = min(shorter_side, max(round(LEAST_VIEW * shorter_side), round(longer * (1 + 2 * MARGIN))))

    def start(low: int, high: int, size: int) -> int:
        return min(max(0, (low + high - side) // 2), size - side)

    x0, y0 = start(left, right, width), start(top, bottom, height)
    return x0, y0, x0 + side, y0 + side


def _to_side(x: Tensor) -> Tensor:
    """(N, C, H, W) => (N, C, 64, 64), antialiased where it shrinks."""
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def run(
    world: World,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    vae: nn.Module | None = None,
    model: AttributeClassifier | None = None,
    edits: Sequence[LabelledEdit] | None = None,
) -> TrainingResult:
    """Train on freshly rendered pictures and on labelled edits, the shipped ones unless ``edits`` are given.

    Figures: the running accuracy, degraded and spoiled pictures included, and the share of verdicts agreed with.
    """
    torch.manual_seed(0)
    model = model or AttributeClassifier(world.labels())
    verdicts = labelled.load() if edits is None else edits
    index = {name: {value: k for k, value in enumerate(values)} for name, values in model.labels.items()}

    def batch(step: int) -> dict[str, Any]:
        drawn = examples(world, step, budget.batch)
        generator = torch.Generator().manual_seed(step)
        x = degrade(to_tensor(np.stack([example.pixels for example in drawn])), generator, vae)
        regions = torch.from_numpy(np.stack([example.region for example in drawn]))
        labels = [example.labels for example in drawn]
        if vae is not None:
            # Some of the ideal edits, right after the renders, drown in the noise of their latents.
            first = budget.batch // 2
            lost = slice(first, first + budget.batch // 16)
            x[lost] = drown(x[lost], regions[lost], vae, generator)
            labels[lost] = [dict.fromkeys(one, OTHER) for one in labels[lost]]
        answers = {
            name: torch.tensor([values[one[name]] if name in one else -1 for one in labels])
            for name, values in index.items()
        }
        data = {"x": views(x, regions), "answers": answers}
        if verdicts:
            judged = labelled.draw(
                world, verdicts, budget.batch // 4, np.random.Generator(np.random.PCG64([step, 10]))
            )
            data |= verdict_batch(judged, model.labels)
        return data

    def loss(data: dict[str, Any], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        count = len(data["x"])
        both = model(torch.cat([data["x"], data["judged"]]) if verdicts else data["x"])
        logits = {name: values[:count] for name, values in both.items()}
        total, right, asked = data["x"].new_zeros(()), 0.0, 0
        for name, answer in data["answers"].items():
            labelled = answer >= 0
            if labelled.any():
                total = total + F.cross_entropy(logits[name][labelled].float(), answer[labelled])
                right += float((logits[name][labelled].argmax(1) == answer[labelled]).sum())
                asked += int(labelled.sum())
        figures = {"accuracy": right / max(asked, 1)}
        if verdicts:
            shows = data["shows"].float()
            held = verdicts_held({name: values[count:] for name, values in both.items()}, data)
            # Bernoulli log likelihood of the verdicts, log(1 - p) computed stably.
            total = total - (shows * held + (1 - shows) * torch.log1p(-held.exp().clamp(max=1 - 1e-4))).mean()
            figures["verdicts"] = float(((held.exp() > 0.5) == data["shows"]).float().mean())
        return total, figures

    return train(work, {"reader": model}, loss, batch, budget, machine, report)


def verdict_batch(verdicts: Sequence[Verdict], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Labelled edits as tensors: a row for each part of each edit.

    ``judged``: the two views, float (parts, 2, 4, 64, 64); ``edit_of_part``: int (parts,); ``shows``: bool (edits,);
    ``claims``: attribute -> the claimed value's place in ``labels``, int (parts,), -1 where nothing is claimed.
    """
    parts = [(edit, part) for edit, verdict in enumerate(verdicts) for part in verdict.parts]
    pictures = to_tensor(np.stack([verdicts[edit].pixels for edit, _ in parts]))
    place = {name: {value: k for k, value in enumerate(values)} for name, values in labels.items()}
    return {
        "judged": views(pictures, torch.from_numpy(np.stack([part.region for _, part in parts]))),
        "edit_of_part": torch.tensor([edit for edit, _ in parts]),
        "shows": torch.tensor([verdict.shows for verdict in verdicts]),
        "claims": {
            name: torch.tensor([values.get(part.claims.get(name, ""), -1) for _, part in parts])
            for name, values in place.items()
        },
    }


def verdicts_held(logits: Mapping[str, Tensor], data: Mapping[str, Any]) -> Tensor:
    """Log probability that every claim of every part holds, float (edits,); ``data`` of :func:`verdict_batch`."""
    of_parts = claims_held(logits, data["claims"])
    return of_parts.new_zeros(len(data["shows"])).index_add(0, data["edit_of_part"], of_parts)


def claims_held(logits: Mapping[str, Tensor], claims: Mapping[str, Tensor]) -> Tensor:
    """Log probability that all claims hold, float (N,): the sum over the heads of that of the claimed value.

    ``claims``: attribute -> the claimed value's place, int (N,), -1 where nothing is claimed.
    """
    total = next(iter(logits.values())).new_zeros(len(next(iter(claims.values()))), dtype=torch.float32)
    for name, place in claims.items():
        chosen = logits[name].float().log_softmax(1).gather(1, place.clamp(min=0)[:, None])[:, 0]
        total = total + torch.where(place >= 0, chosen, 0.0)
    return total


def examples(world: World, step: int, count: int) -> list[Example]:
    """The pictures of one batch: half renders, then a quarter ideal and a quarter spoiled edits."""
    renders = count // 2
    out = [Example(*world.labelled(step * count + i)) for i in range(renders)]
    rng = np.random.Generator(np.random.PCG64([step, 8]))
    cases = [world.case(step * _CASES + i) for i in range(min(_CASES, count - renders))]
    for i in range(count - renders):
        case = cases[i % len(cases)]
        region = int(rng.integers(failures.regions(case)))
        spoil = i >= (count - renders) // 2
        out.append(failures.spoiled(case, region, rng) if spoil else failures.ideal(case, region))
    return out


def drown(x: Tensor, regions: Tensor, vae: nn.Module, generator: torch.Generator) -> Tensor:
    """Pictures whose latents are mostly noise, inside the regions alone; (N, 3, H, W) in [-1, 1], new tensor."""
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean  # type: ignore[operator]
        strength = 1.8 + 2.2 * torch.rand((len(x), 1, 1, 1), generator=generator)
        noisy = vae.decode(z + strength * z.std() * torch.randn(z.shape, generator=generator)).sample  # type: ignore[operator]
    return torch.where(regions[:, None], noisy.clamp(-1, 1), x)


def degrade(x: Tensor, generator: torch.Generator, vae: nn.Module | None = None) -> Tensor:
    """Pictures as a generator might have made them; (N, 3, H, W) in [-1, 1], new tensor.

    A fifth of them stay as they are, two fifths without an autoencoder.
    """
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
    warped = (kind >= 0.5) & (kind < 0.62)
    if warped.any():
        out[warped] = _warp(out[warped], generator)
    coded = kind >= 0.82
    if vae is not None and coded.any():
        with torch.no_grad():
            z = vae.encode(out[coded]).latent_dist.mean  # type: ignore[operator]
            strength = 0.4 * torch.rand((len(z), 1, 1, 1), generator=generator)
            z = z + strength * z.std() * torch.randn(z.shape, generator=generator)
            out[coded] = vae.decode(z).sample  # type: ignore[operator]
    return out.clamp_(-1, 1)


def _warp(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shapes a little off: every pixel moved by a smooth random field of 1.2 pixels' standard deviation (of 64)."""
    n, _, height, width = x.shape
    coarse = torch.randn((n, 2, 6, 6), generator=generator) * (1.2 * 2 / SIDE)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).permute(
        0, 2, 3, 1
    )
    identity = torch.eye(2, 3).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, height, width], align_corners=False)
    return F.grid_sample(x, grid + field, padding_mode="reflection", align_corners=False)


def accuracy(model: AttributeClassifier, world: World, count: int = 2_000) -> dict[str, float]:
    """Share of right answers per attribute on ``count`` held-out renders."""
    right: dict[str, int] = {}
    asked: dict[str, int] = {}
    for start in range(0, count, 200):
        drawn = [world.labelled(-1 - start - i) for i in range(min(200, count - start))]
        read = model.read(np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn]))
        for answer, (_, _, labels) in zip(read, drawn, strict=True):
            for name, value in labels.items():
                asked[name] = asked.get(name, 0) + 1
                right[name] = right.get(name, 0) + (_best(answer[name]) == value)
    return {name: right[name] / asked[name] for name in asked}


def edit_accuracy(model: AttributeClassifier, world: World, count: int = 1_000) -> dict[str, float]:
    """On held-out edits: ``ideal``, the share of ideal edits of which every claim is read; ``spoiled``, the share of
    spoiled ones that are read as ``other`` wherever that is the answer.
    """
    rng = np.random.Generator(np.random.PCG64([count, 9]))
    right = {"ideal": 0, "spoiled": 0}
    for start in range(0, count, 100):
        for name in right:
            drawn = []
            for i in range(start, min(start + 100, count)):
                case = world.case(-1 - i)
                region = int(rng.integers(failures.regions(case)))
                drawn.append(
                    failures.ideal(case, region) if name == "ideal" else failures.spoiled(case, region, rng)
                )
            answers = model.read(np.stack([d.pixels for d in drawn]), np.stack([d.region for d in drawn]))
            for answer, example in zip(answers, drawn, strict=True):
                right[name] += all(_best(answer[k]) == v for k, v in example.labels.items())
    return {name: hits / count for name, hits in right.items()}


def _best(chances: Mapping[str, float]) -> str:
    return max(chances, key=chances.__getitem__)


def kept(model: AttributeClassifier, world: World, vae: nn.Module, count: int = 1_000) -> float:
    """Share of the attributes read off held-out renders that are read the same off their reconstructions."""
    same, asked = 0, 0
    for start in range(0, count, 200):
        drawn = [world.labelled(-1 - start - i) for i in range(min(200, count - start))]
        pictures, regions = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
        before, after = model.read(pictures, regions), model.read(reconstruct(vae, pictures), regions)
        for one, two, (_, _, labels) in zip(before, after, drawn, strict=True):
            for name in labels:
                asked += 1
                same += _best(one[name]) == _best(two[name])
    return same / asked


def reconstruct(vae: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3) through the autoencoder and back."""
    with torch.no_grad():
        z = vae.encode(to_tensor(pictures)).latent_dist.mean  # type: ignore[operator]
        return to_pictures(vae.decode(z).sample)  # type: ignore[operator]


def save(folder: Path, model: AttributeClassifier) -> None:
    """``config.json`` and half-precision ``reader.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / "reader.safetensors"
    )
    config = {"labels": {k: list(v) for k, v in model.labels.items()}, "widths": list(model.widths)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "cpu") -> AttributeClassifier:
    """The reader of a folder that :func:`save` wrote, in evaluation mode, float32."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = AttributeClassifier(config["labels"], config["widths"])
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "reader.safetensors").items()})
    return model.to(device).eval()
