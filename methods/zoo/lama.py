"""Recipe: the inpainting GAN, a miniature LaMa (Suvorov et al., WACV 2022).

Section 2.2 and 2.3 of the paper, with these differences, each for the sake of minutes on one thread:

* No perceptual loss of high receptive field, since no segmentation network of this world is large enough to be
  one. A weak L1 inside the hole stands in for it: it holds the colours, the discriminator adds what it blurs.
* Both networks learn from one step's fakes at once instead of in turn, so that one loop with one optimiser serves
  (``loop.train``: resumable, averaged, logged). Neither's loss reaches the other's parameters.
* The fake's patches with a hole weigh as much as the picture's together, and those without half as much. As equation
  3 counts patches, two in three of a fake's are real ones, and the discriminator soon calls all of them real.
* The discriminator has no normalisation, its features are matched by L1 (as in pix2pixHD), and the gradient penalty
  is computed at every ``R1_EVERY``-th step and weighs that much more (StyleGAN2's lazy regularisation).
* At the end the statistics of the batch normalisations are measured anew for the averaged weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench.edit import EditRequest, Runtime
from bench.images import from_array, mask_array, mask_image
from methods.lama import fills
from methods.lama.masks import hole
from methods.lama.network import Generator, GeneratorConfig, load, save
from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo.corpus import Corpus
from methods.zoo.data import save_grid, to_tensor
from methods.zoo.manifest import CHECKPOINTS

if TYPE_CHECKING:
    from methods.zoo.data import World
    from methods.zoo.thresholds import ThresholdCheck

MODEL = GeneratorConfig(width=24, downs=3, blocks=4)
BUDGET = Budget(
    samples=120_000,
    batch=32,
    learning_rate=1e-3,
    warmup=4_000,
    decay=0.5,
    ema=0.998,
    weight_decay=0.0,
    max_grad_norm=50.0,
)
SIZE = 64

# Weights of the terms. The first is the published training's; the others are to this network's scale.
KNOWN = 10.0
"""L1 outside the hole."""
ADVERSARIAL = 0.5
"""At 1 the middle of large holes fills with more speckles, which the discriminator takes for objects."""
HOLE = 4.0
"""L1 inside the hole, discounted with the distance from what is known."""
DISCOUNT = 0.9
"""By how much per pixel: what lies deep in a hole can be many things, what lies at its border cannot (the spatially
discounted loss of Yu et al. 2018, whose 0.99 is for holes of 128 pixels)."""
FEATURES = 4.0
"""L1 between the discriminator's features of the fake and of the picture."""
R1 = 0.00001
"""Gradient penalty of the discriminator, halved as Mescheder et al. have it. More of it, without normalisation, keeps
the discriminator from learning anything within this budget (measured: 0.001, 0.05 and 1)."""
R1_EVERY = 8


class Discriminator(nn.Module):
    """One logit per patch of 26 pixels: (B, 3, H, W) in [0, 1] => (B, 1, H/4, W/4), and the features on the way."""

    def __init__(self, widths: Sequence[int] = (24, 48, 64)) -> None:
        super().__init__()
        ins = (3, *widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) if i < 2 else nn.Conv2d(a, b, 3, 1, 1)
            for i, (a, b) in enumerate(pairwise(ins))
        )
        for layer in self.layers:
            # There is no normalisation to make up for weights that shrink what passes.
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, 0.2)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.head = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = x * 2 - 1
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x).float(), features


def patches(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Which patches hold a pixel of the hole: (B, 1, H, W) => (B, 1, h, w), 0 or 1. Only those count as fake."""
    return F.adaptive_max_pool2d(mask, size)


def discriminator_loss(real: Tensor, fake: Tensor, holes: Tensor) -> Tensor:
    """The paper's equation 3, from logits (B, 1, h, w): patches of the fake without a hole count as real.

    Each of the three kinds of patches by its mean, the last one at half the weight.
    """
    filled = (holes * F.softplus(fake)).sum() / holes.sum().clamp_min(1)
    kept = ((1 - holes) * F.softplus(-fake)).sum() / (1 - holes).sum().clamp_min(1)
    return F.softplus(-real).mean() + filled + 0.5 * kept


def generator_loss(fake: Tensor, holes: Tensor) -> Tensor:
    """Equation 4, non-saturating, over the patches that the generator can change."""
    return (holes * F.softplus(-fake)).sum() / holes.sum().clamp_min(1)


def gradient_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """R1: E |d sum(D(x)) / dx|^2 over real pictures, in float32 (Mescheder et al. 2018)."""
    with torch.autocast(real.device.type, enabled=False):
        x = real.float().detach().requires_grad_(True)
        logits, _ = discriminator(x)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


class HoleBatches:
    """Batches by step: pictures of the corpus (sources and truths alike) and holes that have nothing to do with them.

    ``image`` float32 (B, 3, 64, 64) in [0, 1]; ``mask`` float32 (B, 1, 64, 64), 1 = hole; ``weight``: ``discounted``
    masks; ``penalty``: bool.
    """

    def __init__(self, corpus: Corpus, size: int, stay: int = 16) -> None:
        self.corpus, self.size, self.stay = corpus, size, stay
        self._chunk: tuple[int, dict[str, Any]] | None = None

    def __call__(self, step: int) -> dict[str, Any]:
        # A chunk serves some steps before the next is read: reading is dear, and its 2,000 edits are random ones.
        chunk = (step // self.stay) % len(self.corpus.chunks)
        if self._chunk is None or self._chunk[0] != chunk:
            self._chunk = chunk, self.corpus.pictures(chunk)
        data = self._chunk[1]
        rng = np.random.Generator(np.random.PCG64([step, 31]))
        count = len(data["source"])
        rows = rng.choice(count, self.size, replace=self.size > count)
        truths = rng.random(self.size) < 0.5
        pictures = np.where(truths[:, None, None, None], data["truth"][rows], data["source"][rows])
        mirrored = rng.random(self.size) < 0.5
        pictures = np.where(mirrored[:, None, None, None], pictures[:, :, ::-1], pictures)
        others = data["mask"][rng.integers(0, count, 2 * self.size)]
        masks = np.stack([hole(rng, SIZE, others) for _ in range(self.size)])
        return {
            "image": to_unit(pictures),
            "mask": torch.from_numpy(masks[:, None]).float(),
            "weight": torch.from_numpy(np.stack([discounted(mask) for mask in masks])[:, None]),
            "penalty": step % R1_EVERY == 0,
        }


def discounted(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The weight of each pixel of a hole: 1 at its border, ``DISCOUNT`` of that a pixel further in; outside 0.

    bool (H, W) => float32 (H, W).
    """
    from scipy.ndimage import distance_transform_edt

    if mask.all():
        return np.ones(mask.shape, np.float32)
    distance = distance_transform_edt(mask)
    return np.where(mask, DISCOUNT ** (distance - 1), 0).astype(np.float32)


def to_unit(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) => float32 (N, 3, H, W) in [0, 1]."""
    return to_tensor(pictures).add_(1).div_(2)


def run(
    batch: Callable[[int], dict[str, Any]],
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    start: Generator | None = None,
    sample: Callable[[Mapping[str, dict[str, Tensor]], Path], None] | None = None,
) -> TrainingResult:
    """Train generator and discriminator. Figures: each term, unweighted, and the share of patches judged rightly."""
    torch.manual_seed(0)
    generator = (start or Generator(MODEL)).to(memory_format=torch.channels_last)
    discriminator = Discriminator().to(memory_format=torch.channels_last)

    def loss(data: dict[str, Any], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        image = data["image"].to(memory_format=torch.channels_last)
        mask = data["mask"]
        painted = generator.paint(image, mask)
        fake = mask * painted + (1 - mask) * image
        real_logits, real_features = discriminator(image)
        fake_logits, _ = discriminator(fake.detach())
        holes = patches(mask, (real_logits.shape[2], real_logits.shape[3]))
        judge = discriminator_loss(real_logits, fake_logits, holes)
        penalty = torch.zeros((), device=image.device)
        if data["penalty"]:
            penalty = gradient_penalty(discriminator, image[: max(1, len(image) // 2)])
        # The generator's view of the discriminator: the same numbers, through which no gradient reaches them.
        frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
        seen_logits, seen_features = torch.func.functional_call(discriminator, frozen, (fake,))
        adversarial = generator_loss(seen_logits, holes)
        matching = torch.stack(
            [
                F.l1_loss(a.float(), b.detach().float())
                for a, b in zip(seen_features, real_features, strict=True)
            ]
        ).mean()
        error = (painted - image).abs().mean(dim=1, keepdim=True)
        known = (error * (1 - mask)).mean()
        inside = (error * data["weight"]).sum() / data["weight"].sum()
        value = (
            KNOWN * known + HOLE * inside + ADVERSARIAL * adversarial + FEATURES * matching
            + judge + 0.5 * R1 * R1_EVERY * penalty
        )  # fmt: skip
        right = ((real_logits > 0) * holes).sum() + ((fake_logits <= 0) * holes).sum()
        figures = {
            "known": known, "inside": inside, "adversarial": adversarial, "matching": matching,
            "judge": judge, "judged_rightly": right / (2 * holes.sum()),
        }  # fmt: skip
        if data["penalty"]:
            figures["penalty"] = penalty
        return value, {name: float(figure.detach()) for name, figure in figures.items()}

    modules: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
    return train(
        work, modules, loss, batch, budget, machine, report, sample, Recording(sample_every=20_000)
    )  # fmt: skip


@torch.no_grad()
def settled(
    config: GeneratorConfig, weights: Mapping[str, Tensor], batches: Iterable[Mapping[str, Any]]
) -> Generator:
    """A generator with ``weights``, its normalisations' statistics measured over ``batches``; in evaluation mode.

    The averaged weights are of no single step, and so fit the running statistics of none (as in SWA).
    """
    generator = Generator(config)
    generator.load_state_dict(weights)
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    generator.train()
    for data in batches:
        generator.paint(data["image"], data["mask"])
    return generator.eval()


def lama(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int | None = None,
) -> Path:  # fmt: skip
    """Train (or resume) the miniature and save it with its card. ``warm`` starts from the saved one."""
    from methods.zoo import publish as pb

    machine = machine or Machine()
    chosen = budget or BUDGET
    edits = Corpus(world, pb._corpus_folder(work), corpus or pb.CORPUS)
    edits.render(pb._as_progress(report, "edits rendered"))
    folder = root / "lama"
    start = load(folder) if warm else None
    config = start.config if start is not None else MODEL
    draw = HoleBatches(edits, chosen.batch)
    # Other steps' holes than any that the training saw.
    last = [draw(10_000_000 + 16 * i) for i in range(16)]

    def sample(weights: Mapping[str, dict[str, Tensor]], path: Path) -> None:
        on_cpu = {name: value.cpu() for name, value in weights["generator"].items()}
        sample_grid(settled(config, on_cpu, last[:4]), world, path)

    outcome = run(draw, work, chosen, machine, report, start, sample)
    save(folder, settled(config, {k: v.cpu() for k, v in outcome.weights["generator"].items()}, last))
    figures = measure(world, folder, pb.HELD_OUT)
    return pb._card(folder, world, outcome, chosen, machine, figures, root, warm=warm)


# --- what it is worth -----------------------------------------------------------------------------------


def held_out(world: World, count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pictures that no recipe trains on, each with a hole that has nothing to do with it; the same at every call."""
    cases = [world.case(-1 - i) for i in range(count)]
    masks = [mask_array(case.request.mask) for case in cases]
    rng = np.random.Generator(np.random.PCG64(41))
    out = []
    for i, case in enumerate(cases):
        others = masks[:i] + masks[i + 1 :]
        out.append((np.asarray(case.request.source, np.uint8), hole(rng, SIZE, others)))
    return out


def measure(world: World, folder: Path, count: int) -> dict[str, float]:
    """The checkpoint, through its own adapter, on held-out pictures whose hidden content is known.

    ``leak``: the largest change outside the hole, levels. ``seam``: the mean step across the hole's border, as a
    multiple of the picture's own there; 1 is invisible. ``detail``: the mean step inside the hole, likewise; a blur
    has less than 1. ``error``: mean absolute error inside the hole, levels. The last three also for the two fills
    without learning, as ``mean_...`` and ``diffusion_...``.
    """
    from methods.lama.method import Lama

    method = Lama(Lama.Options(weights=str(folder)), Runtime())
    asked = held_out(world, count)
    made: dict[str, list[NDArray[np.uint8]]] = {
        "": [],
        "mean_": [fills.mean_fill(*pair) for pair in asked],
        "diffusion_": [fills.diffusion_fill(*pair) for pair in asked],
    }
    for first in range(0, count, 50):
        requests = [_request(*pair) for pair in asked[first : first + 50]]
        made[""] += [np.asarray(image, np.uint8) for image in method.edit(requests)]
    leak = max(
        int(np.abs(new.astype(int) - old)[~mask].max(initial=0))
        for new, (old, mask) in zip(made[""], asked, strict=True)
    )
    figures = {"leak": float(leak)}
    for name, pictures in made.items():
        pairs = [(picture, mask) for picture, (_, mask) in zip(pictures, asked, strict=True)]
        figures[f"{name}seam"] = _pooled(fills.seam, pairs) / _pooled(fills.seam, asked)
        figures[f"{name}detail"] = _pooled(fills.detail, pairs) / _pooled(fills.detail, asked)
        errors = [
            np.abs(new.astype(np.float64) - old)[mask]
            for new, (old, mask) in zip(pictures, asked, strict=True)
        ]
        figures[f"{name}error"] = float(np.concatenate(errors).mean())
    return figures


def _pooled(
    count: Callable[[NDArray[np.uint8], NDArray[np.bool_]], tuple[float, int]],
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
) -> float:
    sums = np.array([count(*pair) for pair in pairs])
    return float(sums[:, 0].sum() / max(sums[:, 1].sum(), 1))


def _request(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> EditRequest:
    return EditRequest(from_array(picture), mask_image(mask), "", "", "", "")


MOST_SEAM, LEAST_DETAIL, MOST_ERROR = 1.3, 0.7, 0.95
"""The last is not lower because absolute error favours blurs, which the one before rules out."""


def check_lama(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """It changes nothing outside, its border does not show, it does not blur, and it beats both fills.

    It follows no prompt, so nothing is asked of it about prompts.
    """
    from methods.zoo.thresholds import ThresholdCheck

    found = measure(world, root / "lama", cases)
    beaten = min(found["mean_error"], found["diffusion_error"])

    def others(name: str) -> str:
        return f"mean colour {found[f'mean_{name}']:.2f}, diffusion {found[f'diffusion_{name}']:.2f}"

    share = found["error"] / beaten
    return [
        ThresholdCheck(
            "lama", found["leak"], 0.0, found["leak"] <= 0, "at most: largest change outside the hole, levels"
        ),
        ThresholdCheck(
            "lama", found["seam"], MOST_SEAM, found["seam"] <= MOST_SEAM,
            f"at most: step across the hole's border, times the picture's own; {others('seam')}",
        ),
        ThresholdCheck(
            "lama", found["detail"], LEAST_DETAIL, found["detail"] >= LEAST_DETAIL,
            f"step inside the hole, times the picture's own; {others('detail')}",
        ),
        ThresholdCheck(
            "lama", share, MOST_ERROR, share <= MOST_ERROR,
            f"at most: error inside the hole, as a share of the better fill's; levels: {found['error']:.1f}, "
            f"{others('error')}",
        ),
    ]  # fmt: skip


def sample_grid(generator: Generator, world: World, path: Path) -> None:
    """16 held-out pictures: with a hole, filled, and as they were; then 16 edits as the benchmark asks for them."""
    asked = held_out(world, 16)
    asked += [
        (np.asarray(case.request.source, np.uint8), mask_array(case.request.mask))
        for case in (world.case(-101 - i) for i in range(16))
    ]
    image = to_unit(np.stack([picture for picture, _ in asked]))
    mask = torch.from_numpy(np.stack([m for _, m in asked])[:, None]).float()
    with torch.no_grad():
        filled = generator(image, mask)
    save_grid(path, [x * 2 - 1 for x in (image * (1 - mask) + 0.5 * mask, filled, image)], columns=16)
