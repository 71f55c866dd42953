"""Recipe: training and measuring the attribute classifier.

Half of the training images are renders, many of them degraded like generated images (blurred, noisy, warped,
recoloured, passed through the autoencoder where there is one). A quarter are ideal edits. A quarter are edits that
``methods.zoo.failures`` spoils, and their answer is ``other``. Each batch also has edits of real methods with verdicts
given by eye (``methods.zoo.labelled``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench.edit import EditCase
from methods.training import Budget, Machine, ProgressReport, TrainingResult, silent, train
from methods.zoo import failures, labelled
from methods.zoo.classifier import SIDE, ClassifierNetwork, best, views
from methods.zoo.data import World, to_images, to_tensor
from methods.zoo.failures import OTHER, Example
from methods.zoo.labelled import LabelledEdit, Verdict

BUDGET = Budget(
    samples=230_000, batch=64, learning_rate=2e-3, warmup=5_000, decay=0.4, ema=0.999, weight_decay=0.02
)

# Of 20 training indices, 10 are of the last level. The other levels take turns with the other 10.
_CYCLE = 20
# Kinds of edits that were read worst. Three fifths of the indices of the levels after the first are of these kinds.
HARD = frozenset({"cross2", "trim", "occluded", "relational"})
# Another index of the same level is this far away.
_RETRY = 3_000_000
# More steps than any training takes.
_STAGE_STEPS = 10_000

# Cases rendered for each batch. Each gives several examples, since rendering a case costs more than spoiling it.
_CASES = 12


class HarderMixture:
    """Training examples of a world of several levels. The edits that are read worst come most often.

    With levels drawn evenly, half of the images are faces, which are read nearly without error.
    """

    def __init__(self, levels: Mapping[int, World]) -> None:
        """``levels``: level -> the world that has this level alone."""
        self._levels, self._hardest = levels, max(levels)

    def labelled(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], dict[str, str]]:
        """An image, a region and its labels, as of :class:`World`.

        Half of the hard ones are ground truths of edits. At level 1, regions that are the whole picture are read worst,
        so that further renders are tried until the region is one.
        """
        rng = np.random.Generator(np.random.PCG64([index, 11]))
        level, hard = self._level(index), self._is_hard(index)
        if hard and level > 1 and rng.random() < 0.5:
            case = self.case(index)
            example = failures.ideal(case, int(rng.integers(failures.regions(case))))
            return example.pixels, example.region, dict(example.labels)
        render = self._levels[level].labelled(index)
        for attempt in range(1, 5) if hard and level == 1 else ():
            if render[1].all():
                break
            render = self._levels[level].labelled(index + attempt * _RETRY)
        return render

    def case(self, index: int) -> EditCase:
        """One edit with its ground truth."""
        world = self._levels[self._level(index)]
        case = world.case(index)
        attempts = range(1, 13) if self._is_hard(index) and self._level(index) > 1 else ()
        for attempt in attempts:
            if case.category in HARD:
                break
            case = world.case(index + attempt * _RETRY)
        return case

    def _level(self, index: int) -> int:
        others = sorted(set(self._levels) - {self._hardest})
        # Whole cycles, since the world's even indices are faces and its odd ones scenes.
        return self._hardest if index % _CYCLE >= _CYCLE // 2 else others[index // _CYCLE % len(others)]

    def _is_hard(self, index: int) -> bool:
        # Whole cycles too: 12 of 20, with each of the levels.
        return index // _CYCLE % 20 < 12


def run(
    world: World,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    vae: nn.Module | None = None,
    model: ClassifierNetwork | None = None,
    edits: Sequence[LabelledEdit] | None = None,
    stage: int = 0,
) -> TrainingResult:
    """Train on new renders and on labelled edits (None: the shipped ones).

    ``stage``: the number of trainings before this one. Each sees other renders.
    Figures: the running accuracy, degraded and spoiled images included, and the share of verdicts agreed with.
    """
    torch.manual_seed(0)
    network = model or ClassifierNetwork(world.labels())
    # An empty list trains without labelled edits, as does a world that lacks their levels.
    levels = world.by_level()
    source = HarderMixture(levels) if len(levels) > 1 else world
    labelled_edits = [edit for edit in (labelled.load() if edits is None else edits) if edit.level in levels]

    def batch(step: int) -> dict[str, Any]:
        step += stage * _STAGE_STEPS
        data = _rendered_batch(source, network.labels, step, budget.batch, vae)
        if labelled_edits:
            rng = np.random.Generator(np.random.PCG64([step, 10]))
            verdicts = labelled.draw(levels, labelled_edits, budget.batch // 4, rng)
            data |= verdict_batch(verdicts, network.labels)
        return data

    def loss(data: dict[str, Any], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        # One pass over the renders and, after them, the labelled edits.
        count = len(data["x"])
        both = network(torch.cat([data["x"], data["judged"]]) if labelled_edits else data["x"])
        value, accuracy = _answer_loss({name: logits[:count] for name, logits in both.items()}, data)
        figures = {"accuracy": accuracy}
        if labelled_edits:
            log_p = verdict_log_probabilities({name: logits[count:] for name, logits in both.items()}, data)
            # Bernoulli log likelihood of the verdicts, log(1 - p) computed stably.
            shows = data["shows"].float()
            value = (
                value - (shows * log_p + (1 - shows) * torch.log1p(-log_p.exp().clamp(max=1 - 1e-4))).mean()
            )
            figures["verdicts"] = float(((log_p.exp() > 0.5) == data["shows"]).float().mean())
        return value, figures

    return train(work, {"reader": network}, loss, batch, budget, machine, report)


def _rendered_batch(
    world: World | HarderMixture,
    labels: Mapping[str, Sequence[str]],
    step: int,
    size: int,
    vae: nn.Module | None,
) -> dict[str, Any]:
    """``x``: the two views, float (B, 2, 4, 64, 64). ``answers``: attribute -> index of the value, int (B,), or -1."""
    batch = examples(world, step, size)
    generator = torch.Generator().manual_seed(step)
    x = degrade(to_tensor(np.stack([example.pixels for example in batch])), generator, vae)
    regions = torch.from_numpy(np.stack([example.region for example in batch]))
    values = [example.labels for example in batch]
    if vae is not None:
        # The first ideal edits, right after the renders, get noisy latents and show nothing any more.
        first = size // 2
        noisy = slice(first, first + size // 16)
        x[noisy] = drown(x[noisy], regions[noisy], vae, generator)
        values[noisy] = [dict.fromkeys(one, OTHER) for one in values[noisy]]
    index = {name: {value: k for k, value in enumerate(of)} for name, of in labels.items()}
    answers = {
        name: torch.tensor([places[one[name]] if name in one else -1 for one in values])
        for name, places in index.items()
    }
    return {"x": views(x, regions), "answers": answers}


def _answer_loss(logits: Mapping[str, Tensor], data: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Cross-entropy, summed over the heads, and the share of right answers."""
    total, right, count = data["x"].new_zeros(()), 0.0, 0
    for name, answer in data["answers"].items():
        answered = answer >= 0
        if answered.any():
            total = total + F.cross_entropy(logits[name][answered].float(), answer[answered])
            right += float((logits[name][answered].argmax(1) == answer[answered]).sum())
            count += int(answered.sum())
    return total, right / max(count, 1)


def verdict_batch(verdicts: Sequence[Verdict], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Labelled edits as tensors, with one row per region of each edit.

    ``judged``: the two views, float (regions, 2, 4, 64, 64). ``edit_of_region``: int (regions,). ``shows``: bool
    (edits,). ``claims``: attribute -> index of the expected value, int (regions,), -1 where nothing is expected.
    """
    rows = [(edit, region) for edit, verdict in enumerate(verdicts) for region in verdict.regions]
    images = to_tensor(np.stack([verdicts[edit].pixels for edit, _ in rows]))
    index = {name: {value: k for k, value in enumerate(values)} for name, values in labels.items()}
    return {
        "judged": views(images, torch.from_numpy(np.stack([region.mask for _, region in rows]))),
        "edit_of_region": torch.tensor([edit for edit, _ in rows]),
        "shows": torch.tensor([verdict.shows for verdict in verdicts]),
        "claims": {
            name: torch.tensor([values.get(region.claims.get(name, ""), -1) for _, region in rows])
            for name, values in index.items()
        },
    }


def verdict_log_probabilities(logits: Mapping[str, Tensor], data: Mapping[str, Any]) -> Tensor:
    """Log probability that an edit shows all expected values in all regions, float (edits,)."""
    of_regions = claim_log_probabilities(logits, data["claims"])
    return of_regions.new_zeros(len(data["shows"])).index_add(0, data["edit_of_region"], of_regions)


def claim_log_probabilities(logits: Mapping[str, Tensor], claims: Mapping[str, Tensor]) -> Tensor:
    """Log probability that a region shows all expected values, float (N,): the sum over the heads.

    ``claims``: attribute -> index of the expected value, int (N,), -1 where nothing is expected.
    """
    total = next(iter(logits.values())).new_zeros(len(next(iter(claims.values()))), dtype=torch.float32)
    for name, index in claims.items():
        # gather takes no negative index. Heads without an expected value add 0 below.
        chosen = logits[name].float().log_softmax(1).gather(1, index.clamp(min=0)[:, None])[:, 0]
        total = total + torch.where(index >= 0, chosen, 0.0)
    return total


def examples(world: World | HarderMixture, step: int, count: int) -> list[Example]:
    """The images of one batch: half renders, then a quarter ideal and a quarter spoiled edits."""
    renders = count // 2
    # Indices rise with the step, so no render is seen twice.
    out = [Example(*world.labelled(step * count + i)) for i in range(renders)]
    rng = np.random.Generator(np.random.PCG64([step, 8]))
    cases = [world.case(step * _CASES + i) for i in range(min(_CASES, count - renders))]
    for i in range(count - renders):
        case = cases[i % len(cases)]
        region = int(rng.integers(failures.regions(case)))
        spoil = i >= (count - renders) // 2
        out.append(failures.spoiled(case, region, rng) if spoil else failures.ideal(case, region))
    return out


# --- degradations -----------------------------------------------------------------------------------


def drown(x: Tensor, regions: Tensor, vae: nn.Module, generator: torch.Generator) -> Tensor:
    """Images whose latents are mostly noise, inside the regions only. (N, 3, H, W) in [-1, 1], a new tensor."""
    with torch.no_grad():
        noisy = _decode_noisy(x, vae, 1.8, 2.2, generator)
    return torch.where(regions[:, None], noisy.clamp(-1, 1), x)


def _decode_noisy(x: Tensor, vae: Any, least: float, spread: float, generator: torch.Generator) -> Tensor:
    """Through the autoencoder with noise of ``least`` to ``least + spread`` standard deviations of the latents."""
    z = vae.encode(x).latent_dist.mean
    strength = least + spread * torch.rand((len(z), 1, 1, 1), generator=generator)
    decoded: Tensor = vae.decode(z + strength * z.std() * torch.randn(z.shape, generator=generator)).sample
    return decoded


def degrade(x: Tensor, generator: torch.Generator, vae: nn.Module | None = None) -> Tensor:
    """Images as a generator might have made them. (N, 3, H, W) in [-1, 1], a new tensor.

    A fifth of them stay as they are, two fifths without an autoencoder.
    """
    out = x.clone()
    n = x.shape[0]
    # One number decides. The ranges below overlap in places, where an image gets two degradations.
    kind = torch.rand(n, generator=generator)
    # Blur by a box of 3 x 3 pixels.
    blurred = kind < 0.15
    if blurred.any():
        out[blurred] = F.avg_pool2d(F.pad(out[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    # Gaussian noise.
    noisy = (kind >= 0.10) & (kind < 0.25)
    out[noisy] += 0.08 * torch.randn(out[noisy].shape, generator=generator)
    # Half the resolution.
    coarse = (kind >= 0.25) & (kind < 0.35)
    if coarse.any():
        small = F.interpolate(out[coarse], scale_factor=0.5, mode="area")
        out[coarse] = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    # Other colours and brightness.
    tinted = (kind >= 0.30) & (kind < 0.5)
    k = int(tinted.sum())
    if k:
        gain = 1 + 0.12 * (torch.rand((k, 3, 1, 1), generator=generator) - 0.5)
        shift = 0.12 * (torch.rand((k, 1, 1, 1), generator=generator) - 0.5)
        out[tinted] = out[tinted] * gain + shift
    # Slightly wrong shapes.
    warped = (kind >= 0.5) & (kind < 0.62)
    if warped.any():
        out[warped] = _warp(out[warped], generator)
    # Noisy latents.
    encoded = kind >= 0.82
    if vae is not None and encoded.any():
        with torch.no_grad():
            out[encoded] = _decode_noisy(out[encoded], vae, 0.0, 0.4, generator)
    return out.clamp_(-1, 1)


def _warp(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every pixel moved by a smooth random field with a standard deviation of 1.2 pixels (of 64)."""
    n, _, height, width = x.shape
    # grid_sample counts in [-1, 1]: a pixel is 2 / SIDE.
    coarse = torch.randn((n, 2, 6, 6), generator=generator) * (1.2 * 2 / SIDE)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, height, width], align_corners=False)
    moved = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(x, moved, padding_mode="reflection", align_corners=False)


# --- figures ----------------------------------------------------------------------------------------


def accuracy(model: ClassifierNetwork, world: World, count: int = 2_000) -> dict[str, float]:
    """Share of right answers per attribute on ``count`` held-out renders."""
    hits: dict[str, list[bool]] = {}
    for images, regions, labels in _held_out(world, count):
        for answer, values in zip(model.read(images, regions), labels, strict=True):
            for name, value in values.items():
                hits.setdefault(name, []).append(best(answer[name]) == value)
    return {name: float(np.mean(of)) for name, of in hits.items()}


def edit_accuracy(model: ClassifierNetwork, world: World, count: int = 1_000) -> dict[str, float]:
    """Accuracy on held-out edits.

    ``ideal``: share of ideal edits in which every expected value is recognised. ``spoiled``: share of spoiled edits in
    which the answer is ``other`` wherever it should be.
    """
    rng = np.random.Generator(np.random.PCG64([count, 9]))
    right = {"ideal": 0, "spoiled": 0}
    for start in range(0, count, 100):
        for name in right:
            batch = []
            for i in range(start, min(start + 100, count)):
                case = world.case(-1 - i)
                region = int(rng.integers(failures.regions(case)))
                batch.append(
                    failures.ideal(case, region) if name == "ideal" else failures.spoiled(case, region, rng)
                )
            answers = model.read(np.stack([e.pixels for e in batch]), np.stack([e.region for e in batch]))
            for answer, example in zip(answers, batch, strict=True):
                right[name] += all(best(answer[k]) == v for k, v in example.labels.items())
    return {name: hits / count for name, hits in right.items()}


def preserved(model: ClassifierNetwork, world: World, vae: nn.Module, count: int = 1_000) -> float:
    """Share of the attributes of held-out renders that have the same answer in their reconstructions."""
    hits: list[bool] = []
    for images, regions, labels in _held_out(world, count):
        before, after = model.read(images, regions), model.read(reconstruct(vae, images), regions)
        for one, two, values in zip(before, after, labels, strict=True):
            hits += [best(one[name]) == best(two[name]) for name in values]
    return float(np.mean(hits))


def _held_out(
    world: World, count: int, batch: int = 200
) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_], list[dict[str, str]]]]:
    """Held-out renders in batches: images (N, H, W, 3), regions (N, H, W), labels."""
    batches = []
    for start in range(0, count, batch):
        # Negative indices are held out.
        renders = [world.labelled(-1 - i) for i in range(start, min(start + batch, count))]
        images, regions, labels = zip(*renders, strict=True)
        batches.append((np.stack(images), np.stack(regions), list(labels)))
    return batches


def reconstruct(vae: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3) through the autoencoder and back."""
    with torch.no_grad():
        z = vae.encode(to_tensor(images)).latent_dist.mean
        return to_images(vae.decode(z).sample)
