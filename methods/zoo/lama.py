"""Recipe: the inpainting GAN, a miniature LaMa (Suvorov et al., WACV 2022).

This follows sections 2.2 and 2.3 of the paper, with differences that bring the training to minutes on one thread:

* There is no perceptual loss of high receptive field, since no segmentation network of this world is large enough. A
  weak L1 inside the hole replaces it: it keeps the colours, and the discriminator restores the detail that it blurs.
* Both networks learn from the same fakes in one step instead of in turn, so the common loop with one optimiser serves.
  Neither loss reaches the other network's parameters.
* The fake's patches with a hole weigh together as much as the image's, and those without a hole half as much. As
  equation 3 counts patches, two of three patches of a fake are real, and the discriminator soon calls all of them real.
* The discriminator has no normalisation. Its features are matched by L1 (as in pix2pixHD). The gradient penalty is
  computed every ``R1_EVERY`` steps and weighs that much more (StyleGAN2's lazy regularisation).
* At the end the statistics of the batch normalisations are measured again for the averaged weights.
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
from methods.training import (
    Budget,
    Machine,
    ProgressReport,
    Recording,
    TrainingResult,
    Weights,
    silent,
    train,
)
from methods.zoo import job
from methods.zoo.corpus import Corpus
from methods.zoo.data import save_grid, to_tensor
from methods.zoo.job import Job

if TYPE_CHECKING:
    from bench.thresholds import ThresholdCheck
    from methods.zoo.data import World

# Steps that a chunk of the corpus serves.
STEPS_PER_CHUNK = 16
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

# Weights of the terms. The first is that of the published training, the others fit this network's scale.
# L1 outside the hole.
KNOWN = 10.0
# At 1, large holes get more speckles in the middle, which the discriminator takes for objects.
ADVERSARIAL = 0.5
# L1 inside the hole, discounted with the distance from the known pixels.
HOLE = 4.0
# Discount per pixel: the content deep in a hole is less certain than that at its border (the spatially discounted
# loss of Yu et al. 2018, whose 0.99 is for holes of 128 pixels).
DISCOUNT = 0.9
# L1 between the discriminator's features of the fake and of the image.
FEATURES = 4.0
# Gradient penalty of the discriminator, halved like in Mescheder et al. Without normalisation, a larger one keeps the
# discriminator from learning anything within this budget (measured: 0.001, 0.05 and 1).
R1 = 0.00001
R1_EVERY = 8


class Discriminator(nn.Module):
    """One logit per patch of 26 pixels: (B, 3, H, W) in [0, 1] => (B, 1, H/4, W/4), and the layers' features."""

    def __init__(self, widths: Sequence[int] = (24, 48, 64)) -> None:
        super().__init__()
        # Two layers of stride 2, then stride 1.
        ins = (3, *widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) if i < 2 else nn.Conv2d(a, b, 3, 1, 1)
            for i, (a, b) in enumerate(pairwise(ins))
        )
        for layer in self.layers:
            # No normalisation compensates for weights that shrink the signal.
            assert isinstance(layer, nn.Conv2d)
            # 0.2 is the slope of the leaky ReLU below 0.
            nn.init.kaiming_normal_(layer.weight, 0.2)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        # Pixels that one output sees: 4, 10 and 18 after the layers, 26 after the head.
        self.head = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = x * 2 - 1
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x).float(), features


def patches(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The patches with a pixel of the hole: (B, 1, H, W) => (B, 1, h, w), 0 or 1. Only those count as fake."""
    return F.adaptive_max_pool2d(mask, size)


def discriminator_loss(real: Tensor, fake: Tensor, holes: Tensor) -> Tensor:
    """Equation 3 of the paper, from logits (B, 1, h, w). Patches of the fake without a hole count as real."""
    # Each of the three kinds of patches counts by its mean, the last one with half the weight.
    filled = (holes * F.softplus(fake)).sum() / holes.sum().clamp_min(1)
    outside = ((1 - holes) * F.softplus(-fake)).sum() / (1 - holes).sum().clamp_min(1)
    return F.softplus(-real).mean() + filled + 0.5 * outside


def generator_loss(fake: Tensor, holes: Tensor) -> Tensor:
    """Equation 4 of the paper, non-saturating, over the patches that the generator can change."""
    return (holes * F.softplus(-fake)).sum() / holes.sum().clamp_min(1)


def gradient_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """R1: E |d sum(D(x)) / dx|^2 over real images, in float32 (Mescheder et al. 2018)."""
    with torch.autocast(real.device.type, enabled=False):
        x = real.float().detach().requires_grad_(True)
        logits, _ = discriminator(x)
        # create_graph: the penalty is a gradient that is differentiated once more, by the parameters.
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


class HoleBatches:
    """Batches by step: images of the corpus (sources and ground truths alike), and holes that are unrelated to them.

    ``image`` float32 (B, 3, 64, 64) in [0, 1]. ``mask`` float32 (B, 1, 64, 64), 1 = hole. ``weight`` of
    :func:`discounted`. ``penalty`` bool: whether the step computes the gradient penalty.
    """

    def __init__(self, corpus: Corpus, size: int) -> None:
        self.corpus, self.size = corpus, size

    def __call__(self, step: int) -> dict[str, Any]:
        # A chunk serves several steps, since reading is slow and its 2,000 edits are in random order.
        arrays = self.corpus.cached_images((step // STEPS_PER_CHUNK) % len(self.corpus.chunks))
        rng = np.random.Generator(np.random.PCG64([step, 31]))
        # Images: source or ground truth, as it is or mirrored.
        count = len(arrays["source"])
        rows = rng.choice(count, self.size, replace=self.size > count)
        truths = rng.random(self.size) < 0.5
        images = np.where(truths[:, None, None, None], arrays["truth"][rows], arrays["source"][rows])
        mirrored = rng.random(self.size) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        # Holes, some of them masks of other edits.
        other_masks = arrays["mask"][rng.integers(0, count, 2 * self.size)]
        masks = np.stack([hole(rng, SIZE, other_masks) for _ in range(self.size)])
        return {
            "image": to_unit(images),
            "mask": torch.from_numpy(masks[:, None]).float(),
            "weight": torch.from_numpy(np.stack([discounted(mask) for mask in masks])[:, None]),
            "penalty": step % R1_EVERY == 0,
        }


def discounted(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The weight of each pixel, bool (H, W) => float32 (H, W): 1 at the border of the hole, ``DISCOUNT`` times less per
    pixel further in, 0 outside.
    """
    from scipy.ndimage import distance_transform_edt

    if mask.all():
        return np.ones(mask.shape, np.float32)
    distance = distance_transform_edt(mask)
    return np.where(mask, DISCOUNT ** (distance - 1), 0).astype(np.float32)


def to_unit(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) => float32 (N, 3, H, W) in [0, 1]."""
    return to_tensor(images).add_(1).div_(2)


def run(
    batch: Callable[[int], dict[str, Any]],
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    start: Generator | None = None,
    sample: Callable[[Weights, Path], None] | None = None,
) -> TrainingResult:
    """Train generator and discriminator. Figures: each unweighted term, and the share of patches judged correctly."""
    torch.manual_seed(0)
    generator = (start or Generator(MODEL)).to(memory_format=torch.channels_last)
    discriminator = Discriminator().to(memory_format=torch.channels_last)

    def loss(data: dict[str, Any], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        # The fake: the image with its hole filled.
        image = data["image"].to(memory_format=torch.channels_last)
        mask = data["mask"]
        painted = generator.paint(image, mask)
        fake = mask * painted + (1 - mask) * image

        # The discriminator's loss.
        real_logits, real_features = discriminator(image)
        # The discriminator's loss must not reach the generator.
        fake_logits, _ = discriminator(fake.detach())
        holes = patches(mask, (real_logits.shape[2], real_logits.shape[3]))
        judge = discriminator_loss(real_logits, fake_logits, holes)
        penalty = torch.zeros((), device=image.device)
        if data["penalty"]:
            # Half of the batch halves the cost of the second derivative.
            penalty = gradient_penalty(discriminator, image[: max(1, len(image) // 2)])

        # The generator's loss, with a frozen copy of the discriminator's parameters.
        frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
        logits, features = torch.func.functional_call(discriminator, frozen, (fake,))
        adversarial = generator_loss(logits, holes)
        matching = torch.stack(
            [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(features, real_features, strict=True)]
        ).mean()
        error = (painted - image).abs().mean(dim=1, keepdim=True)
        outside = (error * (1 - mask)).mean()
        inside = (error * data["weight"]).sum() / data["weight"].sum()

        value = (
            KNOWN * outside + HOLE * inside + ADVERSARIAL * adversarial + FEATURES * matching
            + judge + 0.5 * R1 * R1_EVERY * penalty
        )  # fmt: skip
        right = ((real_logits > 0) * holes).sum() + ((fake_logits <= 0) * holes).sum()
        figures = {
            "known": outside, "inside": inside, "adversarial": adversarial, "matching": matching,
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
    """A generator with averaged ``weights``, in evaluation mode.

    The running statistics of its normalisations belong to no average of the weights, so they are measured again over
    ``batches`` (as in SWA).
    """
    generator = Generator(config)
    generator.load_state_dict(weights)
    # Reset the statistics and average them over all batches.
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    generator.train()
    for data in batches:
        generator.paint(data["image"], data["mask"])
    return generator.eval()


def lama(task: Job) -> Path:
    """Train (or resume) the miniature and save it with its card."""
    budget, folder = task.budget or BUDGET, task.root / "lama"
    batches = HoleBatches(task.edits(), budget.batch)
    start = load(folder) if task.warm else None
    config = start.config if start is not None else MODEL
    # Batches for the statistics, with other holes than those of the training.
    # 16 steps apart, so that each is of another chunk (`HoleBatches.stay`).
    last = [batches(10_000_000 + 16 * i) for i in range(16)]

    def on_cpu(weights: Weights) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in weights["generator"].items()}

    def sample(weights: Weights, path: Path) -> None:
        sample_grid(settled(config, on_cpu(weights), last[:4]), task.world, path)

    result = run(batches, task.work, budget, task.machine, task.report, start, sample)
    save(folder, settled(config, on_cpu(result.weights), last))
    figures = task.figures(lambda world: measure(world, folder, job.HELD_OUT))
    return task.write_card(folder, result, budget, figures, warm=task.warm)


# --- figures ----------------------------------------------------------------------------------------


def held_out(world: World, count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Held-out images, each with a hole that is unrelated to it. Every call gives the same ones."""
    cases = [world.case(-1 - i) for i in range(count)]
    masks = [mask_array(case.request.needed_mask) for case in cases]
    # One stream for all holes, so that the examples depend on the count alone.
    rng = np.random.Generator(np.random.PCG64(41))
    return [
        # Without the image's own mask, whose silhouette would show what it hides.
        (np.asarray(case.request.source, np.uint8), hole(rng, SIZE, masks[:i] + masks[i + 1 :]))
        for i, case in enumerate(cases)
    ]


def measure(world: World, folder: Path, count: int) -> dict[str, float]:
    """Figures of the checkpoint, through its own adapter, on held-out images whose hidden content is available.

    ``leak``: the largest change outside the hole, in levels. ``seam``: the mean step across the hole's border, as a
    multiple of the image's own step there (1 is invisible). ``detail``: the mean step inside the hole, likewise (a blur
    has less than 1). ``error``: mean absolute error inside the hole, in levels. The last three also exist for the two
    fills without learning, as ``mean_...`` and ``diffusion_...``.
    """
    from methods.lama.method import Lama

    method = Lama(Lama.Options(weights=str(folder)), Runtime())
    examples = held_out(world, count)
    # Fill every hole in three ways.
    filled: dict[str, list[NDArray[np.uint8]]] = {
        "": [],
        "mean_": [fills.mean_fill(*example) for example in examples],
        "diffusion_": [fills.diffusion_fill(*example) for example in examples],
    }
    for first in range(0, count, 50):
        requests = [_request(*example) for example in examples[first : first + 50]]
        filled[""] += [np.asarray(image, np.uint8) for image in method.edit(requests)]

    # The largest of all images: one changed pixel outside any hole must show.
    leak = max(
        int(np.abs(new.astype(int) - old)[~mask].max(initial=0))
        for new, (old, mask) in zip(filled[""], examples, strict=True)
    )
    figures = {"leak": float(leak)}
    for name, images in filled.items():
        pairs = [(image, mask) for image, (_, mask) in zip(images, examples, strict=True)]
        # Over the image's own steps there: a hole in grass has a rough border even where the fill is perfect.
        figures[f"{name}seam"] = _pooled(fills.seam, pairs) / _pooled(fills.seam, examples)
        figures[f"{name}detail"] = _pooled(fills.detail, pairs) / _pooled(fills.detail, examples)
        errors = [
            np.abs(new.astype(np.float64) - old)[mask]
            for new, (old, mask) in zip(images, examples, strict=True)
        ]
        figures[f"{name}error"] = float(np.concatenate(errors).mean())
    return figures


def _pooled(
    count: Callable[[NDArray[np.uint8], NDArray[np.bool_]], tuple[float, int]],
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
) -> float:
    """Mean step over the pixels of all images. ``count`` gives the sum and the number of steps of one image."""
    sums = np.array([count(*pair) for pair in pairs])
    return float(sums[:, 0].sum() / max(sums[:, 1].sum(), 1))


def _request(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> EditRequest:
    return EditRequest(from_array(image), mask_image(mask), "", "", "", "")


# Thresholds. The last is not lower, because absolute error favours blurs, which the second rules out.
MOST_SEAM, LEAST_DETAIL, MOST_ERROR = 1.3, 0.7, 0.95


def check_lama(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """Nothing changes outside, the border does not show, the fill is no blur, and it is better than both simple fills.

    LaMa follows no prompt, so there is no threshold on prompts.
    """
    from methods.zoo.thresholds import at_least, at_most

    figures = measure(world, root / "lama", cases)

    def simple(name: str) -> str:
        return f"mean colour {figures[f'mean_{name}']:.2f}, diffusion {figures[f'diffusion_{name}']:.2f}"

    share = figures["error"] / min(figures["mean_error"], figures["diffusion_error"])
    return [
        at_most("lama", figures["leak"], 0.0, "largest change outside the hole, levels"),
        at_most(
            "lama", figures["seam"], MOST_SEAM,
            f"step across the hole's border, times the image's own; {simple('seam')}",
        ),
        at_least(
            "lama", figures["detail"], LEAST_DETAIL,
            f"step inside the hole, times the image's own; {simple('detail')}",
        ),
        at_most(
            "lama", share, MOST_ERROR,
            f"error inside the hole, as a share of the better fill's; levels: {figures['error']:.1f}, "
            f"{simple('error')}",
        ),
    ]  # fmt: skip


def sample_grid(generator: Generator, world: World, path: Path) -> None:
    """Draw 16 held-out images with a hole, filled and original, then 16 edits with the benchmark's masks."""
    examples = held_out(world, 16)
    examples += [
        (np.asarray(case.request.source, np.uint8), mask_array(case.request.needed_mask))
        for case in (world.case(-101 - i) for i in range(16))
    ]
    image = to_unit(np.stack([pixels for pixels, _ in examples]))
    mask = torch.from_numpy(np.stack([m for _, m in examples])[:, None]).float()
    with torch.no_grad():
        filled = generator(image, mask)
    save_grid(path, [x * 2 - 1 for x in (image * (1 - mask) + 0.5 * mask, filled, image)], columns=16)
