"""Recipe: the unconditional pixel-space diffusion model of the mini Blended Diffusion.

Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021): residual blocks that resample, scale-shift
norms, attention in the deepest level, learned variances by the hybrid objective of Nichol and Dhariwal (2021). Two
departures make 64 pixels affordable on one CPU thread. The network has squares of 2 x 2 pixels as channels (Luhman and
Luhman 2022), so it has 12 input and 24 output channels for the image's 3 and 6. At 64 positions per side, half the
width took more than twice as long. The network predicts v on the cosine schedule, like the zoo's other diffusion
models, because a network this small gives bad clean images from a prediction of the noise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from methods.blended_diffusion.adm import predict
from methods.blended_diffusion.schedule import ReverseProcess, betas_of
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
from methods.zoo import corpus as cp
from methods.zoo.data import save_grid, to_tensor
from methods.zoo.job import Job

if TYPE_CHECKING:
    from diffusers import UNet2DModel
    from PIL.Image import Image

    from bench.edit import EditCase
    from bench.thresholds import ThresholdCheck
    from methods.zoo.data import World

NAME = "blended_diffusion"
# Side of the squares that become channels, in pixels.
PATCH = 2
CONFIG: dict[str, Any] = {
    "sample_size": 64 // PATCH,
    "in_channels": 3 * PATCH**2,
    "out_channels": 6 * PATCH**2,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 32,
    "norm_num_groups": 8,
    "attn_norm_num_groups": 8,
    "norm_eps": 1e-5,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "variance_type": "learned_range",
    "clip_sample": False,
}
BUDGET = Budget(samples=160_000, batch=32, learning_rate=1.2e-3, warmup=6_000, decay=0.4, ema=0.999)
# Largest number of edits for the threshold. Each takes one backward pass through the network per step.
CASES = 96


def build() -> UNet2DModel:
    """A new network, with the same weights at every call."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet: UNet2DModel = UNet2DModel(**CONFIG)
    return unet


def schedule(steps: int) -> ReverseProcess:
    """The reverse process in ``steps`` steps."""
    return ReverseProcess(betas_of(SCHEDULE), steps, "v_prediction")


def batches(corpus: cp.Corpus, size: int) -> Callable[[int], Tensor]:
    """Step => ``size`` images, float32 (B, 3, 64, 64) in [-1, 1]: sources and ground truths of edits, without masks.

    A chunk of the corpus feeds as many steps as it has images for. Their order changes with every pass over the corpus.
    """
    # Sources and ground truths of a chunk, without a remainder.
    per_chunk = 2 * cp.CHUNK // size
    if per_chunk < 1:
        raise ValueError(f"batch {size}: a chunk of the corpus has {2 * cp.CHUNK} images; take fewer")

    def batch(step: int) -> Tensor:
        turn = step // per_chunk
        arrays = corpus.cached_images(turn % len(corpus.chunks))
        # Sources first, then ground truths.
        count = len(arrays["source"])
        # Seeded by the pass over the corpus alone, so that a resumed training sees the same order.
        order = np.random.Generator(np.random.PCG64([turn, 31])).permutation(2 * count)
        first = step % per_chunk * size
        rows = order[first : first + size]
        return to_tensor(
            np.stack([arrays["truth"][i - count] if i >= count else arrays["source"][i] for i in rows])
        )

    return batch


class VelocityHybridLoss:
    """L_simple + L_vlb (Nichol and Dhariwal 2021, section 3.1), with v in place of the noise in the first term.

    The second term is the divergence KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per colour value. It only
    teaches the variances, since the mean enters it without its gradient. It is left out at t = 0, whose variance no
    sampler uses.
    """

    def __init__(self) -> None:
        # float64 until the step is chosen.
        full = schedule(SCHEDULE["num_train_timesteps"])
        alpha_bar = torch.from_numpy(full.alpha_bar)
        self.constants = {
            "signal": alpha_bar.sqrt(),
            "sigma": (1 - alpha_bar).sqrt(),
            "log_posterior": torch.from_numpy(full.log_posterior),
            "log_beta": torch.from_numpy(full.log_beta),
            "from_x0": torch.from_numpy(full.from_x0),
        }

    def __call__(
        self, unet: UNet2DModel, x0: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """``x0``, ``noise`` float32 (B, 3, H, W). ``t`` int64 (B,). Gives the loss and both terms."""
        # The constants of each example's step, (B, 1, 1, 1).
        at = {
            name: value.to(x0.device, torch.float32)[t].view(-1, 1, 1, 1)
            for name, value in self.constants.items()
        }
        # L_simple, on v = a noise - s x_0.
        # x_t = a x_0 + s noise, with a² + s² = 1.
        x = at["signal"] * x0 + at["sigma"] * noise
        v, variance = predict(unet, x, t)
        simple = ((v - (at["signal"] * noise - at["sigma"] * x0)) ** 2).mean()
        # Both means are from_x0 * x0 + from_x * x, so they differ only by the difference of the clean images.
        difference = at["from_x0"] * (x0 - (at["signal"] * x - at["sigma"] * v.detach()))
        # Equation 15: the log variance lies between those of beta and of the posterior.
        f = (variance + 1) / 2
        log_variance = f * at["log_beta"] + (1 - f) * at["log_posterior"]
        # KL of two normal distributions.
        true = at["log_posterior"]
        nats = 0.5 * (
            log_variance - true - 1 + (true - log_variance).exp() + difference**2 * (-log_variance).exp()
        )
        # 1 bit is ln 2 nats.
        bits = (nats.mean(dim=(1, 2, 3)) / float(np.log(2)) * (t > 0)).mean()
        figures = {"simple": float(simple.detach()), "vlb_bits": float(bits.detach())}
        return simple + bits, figures


def run(
    images: Callable[[int], Tensor],
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    start: UNet2DModel | None = None,
    sample: Callable[[Weights, Path], None] | None = None,
) -> TrainingResult:
    """Train on images by step. Figures: both terms of the loss."""
    unet = start or build()
    hybrid = VelocityHybridLoss()
    steps = SCHEDULE["num_train_timesteps"]

    def loss(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        t = torch.randint(0, steps, (len(x0),), generator=generator, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        return hybrid(unet, x0, t, noise)

    return train(
        work, {"unet": unet}, loss, images, budget, machine, report, sample, Recording(sample_every=40_000)
    )


@torch.no_grad()
def generate(unet: UNet2DModel, count: int) -> Tensor:
    """Unconditional samples by 50 steps of ancestral sampling, float32 (N, 3, 64, 64) in [-1, 1]."""
    steps = 50
    process = schedule(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((count, 3, 64, 64), generator=generator)
    # Ancestral sampling: the mean, plus noise in all but the last step.
    for t in reversed(range(steps)):
        now = process.prediction_of(*predict(unet, x, torch.full((count,), int(process.timesteps[t]))), x, t)
        noise = torch.randn(x.shape, generator=generator)
        x = now.mean + (0.5 * now.log_variance).exp() * noise if t else now.mean
    return x.clamp(-1, 1)


def save(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the layout of diffusers: ``unet/`` in half precision, ``scheduler/`` and ``model_index.json``."""
    import diffusers

    unet = build()
    unet.load_state_dict(dict(weights))
    # Files of an earlier layout would end in the manifest.
    for part in ("unet", "scheduler"):
        shutil.rmtree(folder / part, ignore_errors=True)
    unet.half().save_pretrained(str(folder / "unet"))
    diffusers.DDPMScheduler(**SCHEDULE).save_pretrained(str(folder / "scheduler"))
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> UNet2DModel:
    """A saved network, float32."""
    from diffusers import UNet2DModel

    unet: UNet2DModel = UNet2DModel.from_pretrained(str(folder / "unet"), dtype=torch.float32)
    return unet


def blended_diffusion(task: Job) -> Path:
    """Train (or resume) the network on the corpus's images and save it with its card."""
    budget, folder = task.budget or BUDGET, task.root / NAME
    images = batches(task.edits(), budget.batch)

    def sample(weights: Weights, path: Path) -> None:
        probe = build()
        probe.load_state_dict(weights["unet"])
        save_grid(path, [generate(probe.eval(), 24)], columns=12)

    start = load(folder) if task.warm else None
    result = run(images, task.work, budget, task.machine, task.report, start, sample)
    save(folder, result.weights["unet"])
    return task.write_card(folder, result, budget, {}, warm=task.warm)


def check_blended_diffusion(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """Held-out edits by the mini preset: the share that shows its target (``thresholds.STEERED``)."""
    from bench.edit import Runtime
    from methods.blended_diffusion.method import BlendedDiffusion
    from methods.zoo.thresholds import STEERED, edit_all, judge_levels

    folders = {"weights": str(root / NAME), "clip": str(root / "clip_guide")}
    options = BlendedDiffusion.Options(**{**BlendedDiffusion.PRESETS["mini"], **folders})
    method = BlendedDiffusion(options, Runtime())

    def edit(edits: Sequence[EditCase]) -> list[Image]:
        return edit_all(method, [case.request for case in edits])

    return judge_levels(NAME, edit, world, root, min(cases, CASES), STEERED)
