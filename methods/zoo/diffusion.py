"""The latent diffusion models: one UNet, four ways of conditioning it.

=====================  ========  ===================================================================
recipe                 channels  input of the UNet, besides the noisy latents (4) and the text
=====================  ========  ===================================================================
``text_to_image``      4         nothing (Rombach et al. 2022)
``sd_inpainting``      9         the mask (1) and the masked source's latents (4), as in Stable
                                 Diffusion inpainting
``instruct_pix2pix``   8         the source's latents, unscaled (Brooks et al. 2023). The text is
                                 the instruction
``controlnet_inpaint`` 4         what a ControlNet adds to its feature maps (Zhang et al. 2023). The
                                 control is the source with -1 in the mask's pixels
=====================  ========  ===================================================================

All learn v-prediction (Salimans and Ho 2022, appendix D) on a schedule whose last step is pure noise (Lin et al. 2024),
with classifier-free guidance by dropping the text (Ho and Salimans 2022). The editors start from the text-to-image
base with new input channels at zero, as in their papers.

The ControlNet alone learns in its recipe: UNet and text encoder are the base's (Zhang et al., section 3.1). It starts
as a copy of the UNet's encoder, and its closing convolutions start at zero. Its budget, its loss and its share of
examples without text are those of the other editors. The paper drops half of the texts, so that the control learns to
do without them, but an edit needs its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from methods import low_rank
from methods.diffusion.control import control_pixels
from methods.pipelines import quiet
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
from methods.zoo.autoencoder import load_vae
from methods.zoo.data import epoch_rows
from methods.zoo.manifest import CHECKPOINTS
from methods.zoo.text import WIDTH, build_text_encoder, load_with_new_words, tokenize

if TYPE_CHECKING:
    from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from methods.zoo.job import Job

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
    # Stable Diffusion's betas, rescaled so that the last alpha-bar is 0 (Lin et al. 2024, algorithm 1).
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    # Sampling begins at the very last step, which alone is pure noise (Lin et al. 2024, section 3.3).
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # no effect with trailing steps, but the pipelines insist on it
}
# Input channels of the UNet.
CHANNELS = {"text_to_image": 4, "sd_inpainting": 9, "instruct_pix2pix": 8}
# Widths of the layers that bring the control to the size of the latents. Each after the first halves its sides, so
# that three lead from 64 px to 16. (Stable Diffusion's four halve three times, from 512 to 64.)
CONTROL_WIDTHS = (16, 32, 96)
EDITOR_BUDGET = Budget(samples=200_000, batch=64, learning_rate=1.0e-3, warmup=6_000, decay=0.4, ema=0.9990)
BUDGETS = {
    "text_to_image": Budget(
        samples=130_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.25, ema=0.9985
    ),
    "sd_inpainting": EDITOR_BUDGET,
    "instruct_pix2pix": EDITOR_BUDGET,
    "controlnet_inpaint": EDITOR_BUDGET,
}
# Weight of the loss outside an edit's mask (inside: 1) in the first half of a training, which learns what to paint.
# In the second half both weigh the same, since exact copying takes long to learn.
OUTSIDE = 0.4
# Share of the inpainting examples whose target is the source itself, described by its own prompt.
PLAIN = 0.3
# Share of the examples without text.
NO_TEXT = 0.1
# Number of values stored per value of an editor's large weights: their differences from the base have low rank
# (``methods.low_rank``). All weights learn first, and the factors of the cut weights continue.
SHARE = 0.58
# The same for the ControlNet, which is stored in 1.2 MB.
CONTROL_SHARE = 0.25
# Budget of the second part, after the cut. A shorter first part shortens it in proportion.
LOW_RANK = Budget(samples=40_000, batch=64, learning_rate=1.0e-3, warmup=2_000, decay=0.9, ema=0.9990)


def low_rank_budget(first: Budget) -> Budget:
    """The second part's budget after a first part of ``first``."""
    samples = max(1, round(LOW_RANK.samples * first.samples / EDITOR_BUDGET.samples))
    return replace(LOW_RANK, samples=samples, batch=first.batch)


def second_budget(task: Job, warm: bool) -> Budget:
    """The second part's budget in a job. A warm start consists of the second part alone."""
    return (task.budget or LOW_RANK) if warm else low_rank_budget(task.budget or EDITOR_BUDGET)


def build_unet(channels: int) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(in_channels=channels, **UNET)


def build_control(unet: UNet2DConditionModel) -> ControlNetModel:
    """A new ControlNet of this UNet. It changes nothing before its first step of training."""
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONTROL_WIDTHS)


def build_scheduler() -> DDIMScheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE)


@dataclass
class DiffusionParts:
    """A latent diffusion model in training. UNet and text encoder learn, or the ControlNet alone where there is one."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    # Its ``config.scaling_factor`` brings latents to unit variance.
    vae: nn.Module
    control: ControlNetModel | None = None

    @property
    def learning(self) -> dict[str, nn.Module]:
        if self.control is not None:
            return {"controlnet": self.control}
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    def freeze_others(self, device: str) -> None:
        """Bring the networks that do not learn to ``device``, and keep gradients from their weights."""
        for network in (self.vae, self.unet, self.text_encoder):
            if network not in self.learning.values():
                network.to(device).eval().requires_grad_(False)

    def predict(self, noisy: Tensor, t: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The v that the network predicts, float32 (B, 4, h, w).

        ``noisy`` (B, 4, h, w) are latents at time steps ``t`` int64 (B,). ``batch`` has ``tokens`` and ``condition``
        of :class:`LatentBatches`.
        """
        context = self.text_encoder(batch["tokens"]).last_hidden_state
        condition = [batch["condition"].float()] if "condition" in batch else []
        residuals = {}
        if self.control is not None:
            down, middle = self.control(noisy, t, context, *condition, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            condition = []
        v: Tensor = self.unet(torch.cat([noisy, *condition], 1), t, context, **residuals).sample.float()
        return v


def start(
    kind: str, tokenizer: CLIPTokenizer, vae: nn.Module, base: DiffusionParts | None = None
) -> DiffusionParts:
    """New parts, or a copy of ``base`` widened to the input channels of ``kind`` and to the tokenizer's words.

    A ControlNet is added to ``base``, which it needs.
    """
    torch.manual_seed(0)
    if kind == "controlnet_inpaint":
        assert base is not None
        return replace(base, tokenizer=tokenizer, vae=vae, control=build_control(base.unet))
    # All new weights, in one order.
    unet, text_encoder = build_unet(CHANNELS[kind]), build_text_encoder(tokenizer)
    if base is not None:
        load_with_new_words(text_encoder, base.text_encoder.state_dict(), "embeddings.token_embedding.weight")
        # The base's weights. New input channels start at zero.
        state = {k: v.clone() for k, v in base.unet.state_dict().items()}
        narrow = state["conv_in.weight"]
        wide = narrow.new_zeros(narrow.shape[0], CHANNELS[kind], *narrow.shape[2:])
        wide[:, : narrow.shape[1]] = narrow
        state["conv_in.weight"] = wide
        unet.load_state_dict(state)
    return DiffusionParts(unet, text_encoder, tokenizer, vae)


def load_parts(kind: str, root: Path = CHECKPOINTS) -> DiffusionParts:
    """The parts of a saved diffusion checkpoint, float32, ready to train."""
    from diffusers import ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if kind == "controlnet_inpaint":
        with quiet():
            control = low_rank.load(ControlNetModel, root / kind / "controlnet", torch.float32)
        return replace(load_parts("text_to_image", root), control=control)
    with quiet():
        unet = low_rank.load(UNet2DConditionModel, root / kind / "unet", torch.float32)
        text = low_rank.load(CLIPTextModel, root / kind / "text_encoder", torch.float32)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"))
    return DiffusionParts(unet, text, tokenizer, load_vae(root))


def run(
    kind: str,
    parts: DiffusionParts,
    data: Mapping[str, Any],
    work: Path,
    budget: Budget | None = None,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Callable[[Weights, Path], None] | None = None,
    second: bool = False,
) -> TrainingResult:
    """Train ``parts`` on ``data`` of ``Corpus.load``. Figures: the weighted v-loss, and ``plain``, without weights.

    A ControlNet also needs the arrays ``source`` and ``mask`` of ``Corpus.whole`` in ``data``.

    ``second`` marks the second part of a training, in which the outside weighs as much as the inside.
    """
    budget, machine = budget or BUDGETS[kind], machine or Machine()
    parts.freeze_others(machine.device)
    batches = LatentBatches(kind, parts, data, budget.batch, 0 if second else budget.samples)
    alphas = build_scheduler().alphas_cumprod.double()
    signal, sigma = alphas.sqrt().float(), (1 - alphas).sqrt().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        # x_t = a x_0 + s noise.
        x0 = batch["target"].float()
        device = x0.device
        t = torch.randint(0, 1000, (x0.shape[0],), generator=generator, device=device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        # One level of noise per example: (B,) becomes (B, 1, 1, 1).
        a, s = signal.to(device)[t].view(-1, 1, 1, 1), sigma.to(device)[t].view(-1, 1, 1, 1)
        # Squared error of v = a noise - s x_0.
        v = parts.predict(a * x0 + s * noise, t, batch)
        error = (v - (a * noise - s * x0)) ** 2
        value = (error * batch["weight"]).mean()
        return value, {"plain": float(error.detach().mean())}

    recording = Recording(sample_every=40_000)
    return train(work, parts.learning, loss, batches, budget, machine, report, sample, recording)


class LatentBatches:
    """Batches of one recipe, by step: the choice of edits, of their texts, and of those without a text."""

    def __init__(
        self, kind: str, parts: DiffusionParts, data: Mapping[str, Any], size: int, total: int = 0
    ) -> None:
        self.kind, self.size, self.total, self.data = kind, size, total, data
        self.scale = np.float32(parts.vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
        self.count = len(data["cells"])
        names = ["instruction"] if kind == "instruct_pix2pix" else ["source_prompt", "target_prompt"]
        # int32: all prompts stay in memory, and ids are small.
        self.tokens = {name: tokenize(parts.tokenizer, data[name]).to(torch.int32) for name in names}
        self.empty = tokenize(parts.tokenizer, [""])[0]

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target`` float32 (B, 4, h, w), scaled. ``weight`` (B, 1, h, w). ``tokens`` int64 (B, L). For the editors
        ``condition`` (B, C, h, w), of the ControlNet (B, 3, H, W).
        """
        rng = np.random.Generator(np.random.PCG64([step, 11]))
        rows = epoch_rows(step, self.size, self.count, 12)
        # Three per example in every recipe, so that none of them shifts the stream.
        chances = rng.random((3, self.size))
        cells = torch.from_numpy(self.data["cells"][rows]).float()[:, None]
        if self.kind == "instruct_pix2pix":
            plain, no_text, batch = self._instruction_batch(rows, chances[2])
        else:
            plain = chances[0] < (0.5 if self.kind == "text_to_image" else PLAIN)
            no_text, batch = chances[1] < NO_TEXT, self._prompt_batch(rows, plain, cells)

        # Plain examples have the source for their target.
        target = np.where(plain[:, None, None, None], self.data["z_source"][rows], self.data["z_truth"][rows])
        batch["target"] = torch.from_numpy(target.astype(np.float32) * self.scale)
        batch["tokens"][torch.from_numpy(no_text)] = self.empty
        outside = OUTSIDE if step * self.size < self.total / 2 and self.kind != "text_to_image" else 1.0
        batch["weight"] = outside + (1 - outside) * cells
        return batch

    def _prompt_batch(
        self, rows: np.ndarray[Any, Any], plain: np.ndarray[Any, Any], cells: Tensor
    ) -> dict[str, Tensor]:
        """Tokens of the source's or the target's prompts, and the condition of the two inpainting models."""
        source, target = (self.tokens[name][rows] for name in ("source_prompt", "target_prompt"))
        batch = {"tokens": torch.where(torch.from_numpy(plain)[:, None], source, target).long()}
        if self.kind == "sd_inpainting":
            masked = torch.from_numpy(self.data["z_masked"][rows].astype(np.float32) * self.scale)
            batch["condition"] = torch.cat([cells, masked], 1)
        if self.kind == "controlnet_inpaint":
            batch["condition"] = control_pixels(self.data["source"][rows], self.data["mask"][rows])
        return batch

    def _instruction_batch(
        self, rows: np.ndarray[Any, Any], chance: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, Tensor]]:
        """(plain, without text, batch) of InstructPix2Pix: the condition is the source, and no example is plain."""
        source = torch.from_numpy(self.data["z_source"][rows].astype(np.float32))
        # Brooks et al., section 3.2.1: 5 % without the text, 5 % without the image, 5 % without both.
        no_image = (chance < 0.05) | ((chance >= 0.05) & (chance < 0.10))
        no_text = (chance < 0.05) | ((chance >= 0.10) & (chance < 0.15))
        source[torch.from_numpy(no_image)] = 0
        batch = {"condition": source, "tokens": self.tokens["instruction"][rows].long()}
        return np.zeros(self.size, np.bool_), no_text, batch


def pipeline(kind: str, parts: DiffusionParts, weights: Weights | None = None) -> Any:
    """The diffusers pipeline of these parts, with ``weights`` of a training in place of their own."""
    import copy

    import diffusers

    learning = parts.learning
    if weights is not None:
        # The networks in training keep their own weights, and their training mode.
        learning = {name: copy.deepcopy(network) for name, network in learning.items()}
        for name, network in learning.items():
            network.load_state_dict(weights[name])
    networks = {"unet": parts.unet, "text_encoder": parts.text_encoder, **learning}
    cls: Any = {
        "text_to_image": diffusers.StableDiffusionPipeline,
        "sd_inpainting": diffusers.StableDiffusionInpaintPipeline,
        "instruct_pix2pix": diffusers.StableDiffusionInstructPix2PixPipeline,
        "controlnet_inpaint": diffusers.StableDiffusionControlNetInpaintPipeline,
    }[kind]
    built = cls(
        **{name: network.eval() for name, network in networks.items()}, vae=parts.vae, tokenizer=parts.tokenizer,
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    built.set_progress_bar_config(disable=True)
    return built
