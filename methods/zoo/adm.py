"""Recipe: the unconditional pixel-space diffusion model of the mini Blended Diffusion.

Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021): residual blocks that resample, scale-shift
norms, attention in the deepest level, learnt variances by the hybrid objective of Nichol and Dhariwal (2021). Two
departures make 64 pixels affordable on one CPU thread. The network sees squares of 2 x 2 pixels as channels (Luhman
and Luhman 2022), so it has 12 input and 24 output channels for the picture's 3 and 6: at 64 positions a side, half the
width took more than twice as long. And it predicts v on the cosine schedule, as the zoo's other diffusion models
predict v: a network this small predicts clean images badly from noise that it has to name exactly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from methods.blended_diffusion.adm import predict
from methods.blended_diffusion.schedule import ReverseProcess, betas_of
from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo import corpus as cp
from methods.zoo.data import save_grid, to_tensor
from methods.zoo.manifest import CHECKPOINTS

if TYPE_CHECKING:
    from diffusers import UNet2DModel

    from methods.zoo.data import World
    from methods.zoo.thresholds import ThresholdCheck

NAME = "blended_diffusion"
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
CASES = 96
"""Edits behind the gate at most: each takes as many backward passes through the network as it has steps."""


def build() -> UNet2DModel:
    """A fresh network, the same weights at every call."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    made: UNet2DModel = UNet2DModel(**CONFIG)
    return made


def schedule(steps: int) -> ReverseProcess:
    """The reverse process in ``steps`` steps."""
    return ReverseProcess(betas_of(SCHEDULE), steps, "v_prediction")


def batches(corpus: cp.Corpus, size: int) -> Callable[[int], Tensor]:
    """Step -> ``size`` pictures, float32 (B, 3, 64, 64) in [-1, 1]: sources and truths of edits, masks unused.

    A function of the step alone. A chunk of the corpus feeds as many steps as it has pictures for, in an order that
    changes whenever the corpus has been gone through.
    """
    per_chunk = 2 * cp.CHUNK // size
    if per_chunk < 1:
        raise ValueError(f"batch {size}: a chunk of the corpus has {2 * cp.CHUNK} pictures; take fewer")
    held: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def batch(step: int) -> Tensor:
        turn = step // per_chunk
        chunk = turn % len(corpus.chunks)
        if chunk not in held:
            held.clear()
            raw = corpus.pictures(chunk)
            held[chunk] = np.concatenate([raw["source"], raw["truth"]])
        order = np.random.Generator(np.random.PCG64([turn, 31])).permutation(len(held[chunk]))
        first = step % per_chunk * size
        return to_tensor(held[chunk][order[first : first + size]])

    return batch


class HybridLoss:
    """L_simple + L_vlb (Nichol and Dhariwal 2021, section 3.1), with v in place of the noise in the first.

    The second is, per step, the divergence KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per colour value; it
    teaches the variances alone: the mean enters it without its gradient. At t = 0, whose variance no sampler uses,
    it is left out.
    """

    def __init__(self) -> None:
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
        """``x0``, ``noise`` float32 (B, 3, H, W); ``t`` int64 (B,)."""
        at = {
            name: value.to(x0.device, torch.float32)[t].view(-1, 1, 1, 1)
            for name, value in self.constants.items()
        }
        x = at["signal"] * x0 + at["sigma"] * noise
        v, variance = predict(unet, x, t)
        simple = ((v - (at["signal"] * noise - at["sigma"] * x0)) ** 2).mean()
        # Both means are from_x0 * x0 + from_x * x, so they differ by the clean images' difference alone.
        difference = at["from_x0"] * (x0 - (at["signal"] * x - at["sigma"] * v.detach()))
        f = (variance + 1) / 2
        log_variance = f * at["log_beta"] + (1 - f) * at["log_posterior"]
        true = at["log_posterior"]
        nats = 0.5 * (
            log_variance - true - 1 + (true - log_variance).exp() + difference**2 * (-log_variance).exp()
        )
        bits = (nats.mean(dim=(1, 2, 3)) / float(np.log(2)) * (t > 0)).mean()
        figures = {"simple": float(simple.detach()), "vlb_bits": float(bits.detach())}
        return simple + bits, figures


def run(
    draw: Callable[[int], Tensor],
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    start: UNet2DModel | None = None,
    sample: Callable[[Mapping[str, dict[str, Tensor]], Path], None] | None = None,
) -> TrainingResult:
    """Train on pictures by step. Figures: both terms of the loss."""
    unet = start or build()
    hybrid = HybridLoss()
    steps = SCHEDULE["num_train_timesteps"]

    def loss(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        t = torch.randint(0, steps, (len(x0),), generator=generator, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        return hybrid(unet, x0, t, noise)

    return train(
        work, {"unet": unet}, loss, draw, budget, machine, report, sample, Recording(sample_every=40_000)
    )


@torch.no_grad()
def generate(unet: UNet2DModel, count: int, steps: int = 50, seed: int = 0) -> Tensor:
    """Unconditional samples, float32 (N, 3, 64, 64) in [-1, 1], ancestral."""
    process = schedule(steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, 3, 64, 64), generator=generator)
    for t in reversed(range(steps)):
        now = process.prediction_of(*predict(unet, x, torch.full((count,), int(process.timesteps[t]))), x, t)
        noise = torch.randn(x.shape, generator=generator)
        x = now.mean + (0.5 * now.log_variance).exp() * noise if t else now.mean
    return x.clamp(-1, 1)


def save(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write ``unet/`` in half precision, ``scheduler/`` and ``model_index.json``: the layout of diffusers."""
    import diffusers

    unet = build()
    unet.load_state_dict(dict(weights))
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

    made: UNet2DModel = UNet2DModel.from_pretrained(str(folder / "unet"), dtype=torch.float32)
    return made


def blended_diffusion(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int | None = None,
) -> Path:  # fmt: skip
    """Train (or resume) the network on the corpus's pictures and save it with its card."""
    from methods.zoo import publish as pb

    machine = machine or Machine()
    edits = cp.Corpus(world, pb._corpus_folder(work), corpus or pb.CORPUS)
    edits.render(pb._as_progress(report, "edits rendered"))
    folder = root / NAME
    chosen = budget or BUDGET

    def sample(weights: Mapping[str, dict[str, Tensor]], path: Path) -> None:
        probe = build()
        probe.load_state_dict(weights["unet"])
        save_grid(path, [generate(probe.eval(), 24)], columns=12)

    outcome = run(
        batches(edits, chosen.batch), work, chosen, machine, report, load(folder) if warm else None, sample
    )
    save(folder, outcome.weights["unet"])
    return pb._card(folder, world, outcome, chosen, machine, {}, root, warm=warm)


def check_blended_diffusion(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """Held-out edits by the adapter's mini preset: how many show their target (``thresholds.STEERED``)."""
    from bench.edit import Runtime
    from methods.blended_diffusion.method import BlendedDiffusion
    from methods.zoo.thresholds import STEERED, _reader, judged

    where = {"weights": str(root / NAME), "clip": str(root / "clip_guide")}
    method = BlendedDiffusion(
        BlendedDiffusion.Options(**{**BlendedDiffusion.PRESETS["mini"], **where}), Runtime()
    )
    asked = [world.case(-1 - i) for i in range(min(cases, CASES))]
    edited = []
    for start in range(0, len(asked), 16):
        edited += method.edit([case.request for case in asked[start : start + 16]])
    return judged(NAME, _reader(root), edited, asked, STEERED, root)
