"""Recipes: the latent diffusion models. One UNet, three ways of conditioning it.

=====================  ========  ==================================================================
recipe                 channels  the UNet sees, besides the noisy latents (4) and the text
=====================  ========  ==================================================================
``text_to_image``      4         nothing (Rombach et al. 2022)
``sd_inpainting``      9         the mask (1) and the masked source's latents (4), as in
                                 Stable Diffusion inpainting
``instruct_pix2pix``   8         the source's latents, unscaled (Brooks et al. 2023); the text is the
                                 instruction
=====================  ========  ==================================================================

All learn v-prediction (Salimans and Ho 2022, appendix D) on a schedule whose last step is pure noise (Lin et al.
2024), with classifier-free guidance by dropping the text (Ho and Salimans 2022). The two editors start from the
text-to-image base, new input channels at zero, as their papers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo.text import WIDTH, build_text_encoder, tokenize

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

UNET: dict[str, Any] = {
    "sample_size": 16,
    "out_channels": 4,
    "block_out_channels": [64, 80, 112],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # of no effect with trailing steps; the pipelines insist on it
}
CHANNELS = {"text_to_image": 4, "sd_inpainting": 9, "instruct_pix2pix": 8}
BUDGETS = {
    "text_to_image": Budget(
        samples=130_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.25, ema=0.9985
    ),
    "sd_inpainting": Budget(
        samples=200_000, batch=64, learning_rate=1.0e-3, warmup=6_000, decay=0.4, ema=0.9990
    ),
    "instruct_pix2pix": Budget(
        samples=200_000, batch=64, learning_rate=1.0e-3, warmup=6_000, decay=0.4, ema=0.9990
    ),
}
OUTSIDE = 0.4
"""Weight of the loss outside an edit's mask (inside: 1) in the first half of a training: what to paint is learnt
first. In the second half both weigh the same, since copying to the last decibel takes long."""
PLAIN = 0.3
"""Share of the inpainting examples whose target is the source itself, described by its own prompt."""
NO_TEXT = 0.1
BASE = "text_to_image"
SHARE = 0.58
"""Of an editor's large weights, how many numbers it stores: its differences from the base have low rank
(``methods.low_rank``). It learns all of them first, then goes on with what is left of them after the cut."""
LOW_RANK = Budget(samples=40_000, batch=64, learning_rate=1.0e-3, warmup=2_000, decay=0.9, ema=0.9990)
"""Of the second part. Where the first is shortened, this one is in proportion (``low_rank_budget``)."""


def low_rank_budget(whole: Budget) -> Budget:
    """The second part's budget after a first one of ``whole``."""
    samples = max(1, round(LOW_RANK.samples * whole.samples / BUDGETS["sd_inpainting"].samples))
    return replace(LOW_RANK, samples=samples, batch=whole.batch)


def build_unet(channels: int) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(in_channels=channels, **UNET)


def build_scheduler() -> DDIMScheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE)


@dataclass
class DiffusionParts:
    """A latent diffusion model in training: what learns (UNet, text encoder) and what is given."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: nn.Module
    """Its ``config.scaling_factor`` brings latents to unit variance."""

    @property
    def learning(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text_encoder": self.text_encoder}


def start(
    kind: str, tokenizer: CLIPTokenizer, vae: nn.Module, base: DiffusionParts | None = None
) -> DiffusionParts:
    """Fresh parts, or a copy of ``base`` widened to the input channels of ``kind``."""
    torch.manual_seed(0)
    unet, text_encoder = build_unet(CHANNELS[kind]), build_text_encoder(tokenizer)
    if base is not None:
        text_encoder.load_state_dict(base.text_encoder.state_dict())
        state = {k: v.clone() for k, v in base.unet.state_dict().items()}
        known = state["conv_in.weight"]
        wide = known.new_zeros(known.shape[0], CHANNELS[kind], *known.shape[2:])
        wide[:, : known.shape[1]] = known
        state["conv_in.weight"] = wide
        unet.load_state_dict(state)
    return DiffusionParts(unet, text_encoder, tokenizer, vae)


def run(
    kind: str,
    parts: DiffusionParts,
    data: Mapping[str, Any],
    work: Path,
    budget: Budget | None = None,
    machine: Machine | None = None,
    report: Report = silent,
    sample: Callable[[Mapping[str, dict[str, Tensor]], Path], None] | None = None,
    second: bool = False,
) -> TrainingResult:
    """Train ``parts`` on ``data`` (``Corpus.load``). Figures: the weighted v-loss.

    ``second``: it goes on where an earlier training ended, so that the outside weighs as much as the inside throughout.
    """
    budget = budget or BUDGETS[kind]
    draw = LatentBatches(kind, parts, data, budget.batch, 0 if second else budget.samples)
    scheduler = build_scheduler()
    alphas = scheduler.alphas_cumprod.double()
    signal, sigma = alphas.sqrt().float(), (1 - alphas).sqrt().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x0 = batch["target"].float()
        device = x0.device
        t = torch.randint(0, 1000, (x0.shape[0],), generator=generator, device=device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        a, s = signal.to(device)[t].view(-1, 1, 1, 1), sigma.to(device)[t].view(-1, 1, 1, 1)
        context = parts.text_encoder(batch["tokens"]).last_hidden_state
        condition = [batch["condition"].float()] if "condition" in batch else []
        v = parts.unet(torch.cat([a * x0 + s * noise, *condition], 1), t, context).sample.float()
        error = (v - (a * noise - s * x0)) ** 2
        value = (error * batch["weight"]).mean()
        return value, {"plain": float(error.detach().mean())}

    return train(
        work, parts.learning, loss, draw, budget, machine, report, sample, Recording(sample_every=40_000)
    )


class LatentBatches:
    """Batches of one recipe, by step: which edits, which of their texts, which of them without a text."""

    def __init__(
        self, kind: str, parts: DiffusionParts, data: Mapping[str, Any], size: int, total: int = 0
    ) -> None:
        self.kind, self.size, self.total = kind, size, total
        self.data = data
        scale = float(parts.vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
        self.scale = np.float32(scale)
        self.count = len(data["cells"])
        names = ["instruction"] if kind == "instruct_pix2pix" else ["source_prompt", "target_prompt"]
        self.tokens = {name: tokenize(parts.tokenizer, data[name]).to(torch.int32) for name in names}
        self.empty = tokenize(parts.tokenizer, [""])[0]

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.Generator(np.random.PCG64([step, 11]))
        # Epochs without repetition: each is a permutation of its own.
        first = step * self.size
        epoch = first // self.count
        order = np.random.Generator(np.random.PCG64([epoch, 12])).permutation(self.count)
        rows = order[(first + np.arange(self.size)) % self.count]
        chance = rng.random((3, self.size))
        plain = chance[0] < (0.5 if self.kind == "text_to_image" else PLAIN)
        if self.kind == "instruct_pix2pix":
            plain[:] = False
        target = np.where(plain[:, None, None, None], self.data["z_source"][rows], self.data["z_truth"][rows])
        out = {"target": torch.from_numpy(target.astype(np.float32) * self.scale)}
        cells = torch.from_numpy(self.data["cells"][rows]).float()[:, None]
        no_text = chance[1] < NO_TEXT
        if self.kind == "text_to_image":
            out["weight"] = torch.ones_like(cells)
        else:
            outside = OUTSIDE if first < self.total / 2 else 1.0
            out["weight"] = outside + (1 - outside) * cells
        if self.kind == "sd_inpainting":
            masked = torch.from_numpy(self.data["z_masked"][rows].astype(np.float32) * self.scale)
            out["condition"] = torch.cat([cells, masked], 1)
        elif self.kind == "instruct_pix2pix":
            source = torch.from_numpy(self.data["z_source"][rows].astype(np.float32))
            # Brooks et al., section 3.2.1: 5 % without the text, 5 % without the image, 5 % without both.
            no_image = (chance[2] < 0.05) | ((chance[2] >= 0.05) & (chance[2] < 0.10))
            no_text = (chance[2] < 0.05) | ((chance[2] >= 0.10) & (chance[2] < 0.15))
            source[torch.from_numpy(no_image)] = 0
            out["condition"] = source
        if self.kind == "instruct_pix2pix":
            tokens = self.tokens["instruction"][rows].long()
        else:
            choose = torch.from_numpy(plain)[:, None]
            tokens = torch.where(
                choose, self.tokens["source_prompt"][rows], self.tokens["target_prompt"][rows]
            ).long()
        tokens[torch.from_numpy(no_text)] = self.empty
        out["tokens"] = tokens
        return out


def pipeline(kind: str, parts: DiffusionParts, weights: Mapping[str, dict[str, Tensor]] | None = None) -> Any:
    """The diffusers pipeline that runs these parts, with ``weights`` (of an outcome) in place of their own."""
    import copy

    import diffusers

    unet, text_encoder = parts.unet, parts.text_encoder
    if weights is not None:
        unet, text_encoder = copy.deepcopy(unet), copy.deepcopy(text_encoder)
        unet.load_state_dict(weights["unet"])
        text_encoder.load_state_dict(weights["text_encoder"])
    cls = {
        "text_to_image": diffusers.StableDiffusionPipeline,
        "sd_inpainting": diffusers.StableDiffusionInpaintPipeline,
        "instruct_pix2pix": diffusers.StableDiffusionInstructPix2PixPipeline,
    }[kind]
    made = cls(
        vae=parts.vae, text_encoder=text_encoder.eval(), tokenizer=parts.tokenizer, unet=unet.eval(),
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made
