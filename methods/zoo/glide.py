"""Recipe: a mini GLIDE, both networks from scratch: the base at 32 pixels, the upsampler from 32 to 64.

These are the published model classes at a small width, over words instead of byte pairs. Both learn the inpainting task
of Nichol et al. (2022), section 2.5, from the corpus of edits. The target is the ground truth with the target prompt
or, for 30 %, the source with its own prompt. The known pixels are those of the source outside the mask. The recipe
needs no other checkpoint than the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.edit import Runtime
from bench.images import from_array, mask_array, resize, to_array
from methods.glide.checkpoints import PARTS, check_state, read_state
from methods.glide.config import Part, UNetConfig, read_config, to_json
from methods.glide.diffusion import Diffusion, conditioned, eight_bits, guided
from methods.glide.losses import hybrid, normalized
from methods.glide.schedule import RespacedSchedule
from methods.glide.tokenizer import Tokenizer, words
from methods.glide.unet import GlideUNet
from methods.mask_grid import cover_cells
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
from methods.zoo import job
from methods.zoo.data import save_grid, to_images, to_tensor
from methods.zoo.job import Job
from methods.zoo.text import build_tokenizer, load_with_new_words

if TYPE_CHECKING:
    from PIL import Image

    from bench.edit import EditCase
    from bench.thresholds import ThresholdCheck
    from methods.glide.unet import TextFeatures
    from methods.zoo.data import World

SIDES: Mapping[Part, int] = {"base": 32, "upsampler": 64}
FACTOR = 2
_TEXT: dict[str, Any] = {"text_ctx": 32, "text_width": 128, "text_layers": 2, "text_heads": 4, "dropout": 0.0}
_BASE = UNetConfig(
    kind="base",
    image_size=SIDES["base"],
    channel_mult=(1, 2, 4, 4),
    res_blocks=1,
    attention_factors=(4, 8),
    schedule="squaredcos_cap_v2",
    channels=24,
    head_channels=24,
    norm_groups=8,
    **_TEXT,
)
_UPSAMPLER = UNetConfig(
    kind="upsampler",
    image_size=SIDES["upsampler"],
    channel_mult=(1, 1, 2, 4),
    res_blocks=1,
    attention_factors=(8,),
    schedule="linear",
    channels=16,
    head_channels=32,
    norm_groups=8,
    **_TEXT,
)
# Without the size of the vocabulary, which depends on the world.
CONFIGS: Mapping[Part, UNetConfig] = {"base": _BASE, "upsampler": _UPSAMPLER}

# The base starts from scratch and sees as many samples as the latent editors together with their own base: 130,000 of
# text to image, 200,000 of edits, 40,000 after the cut to low rank. The upsampler sees a third.
BUDGETS: Mapping[Part, Budget] = {
    "base": Budget(samples=370_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.4, ema=0.999),
    "upsampler": Budget(samples=123_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.4, ema=0.999),
}
# The budget that ``--samples`` changes. The upsampler keeps its share.
BUDGET = BUDGETS["base"]

# Share of the examples whose target is the source itself, described by its own prompt.
PLAIN = 0.3
# Share of the examples without text.
NO_TEXT = 0.15
# Weight of the loss outside an edit's mask (inside: 1), where the sampler restores the known pixels anyway.
OUTSIDE = 0.1
# Largest standard deviation of the noise on the upsampler's low resolution, since its inputs will be generated images
# (Ho et al. 2022, conditioning augmentation).
COARSE_NOISE = 0.1
SAMPLE_STEPS: Mapping[Part, str] = {"base": "25", "upsampler": "4,3,1,1,1"}
GUIDANCE = 5.0


# --- data -------------------------------------------------------------------------------------------


def shrink(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, 64, 64, 3) => (N, 32, 32, 3), resized like in the adapter."""
    return np.stack([to_array(resize(from_array(image), SIDES["base"])) for image in images])


def shrink_masks(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool (N, 64, 64) => (N, 32, 32): every cell that a mask touches, like in the mini preset."""
    return np.stack([cover_cells(mask, FACTOR)[::FACTOR, ::FACTOR] for mask in masks])


class GlideBatches:
    """Batches of one network by step: the choice of edits, of their texts, and of those without text.

    The corpus is read chunk by chunk, in another order every epoch, so it need not fit in memory.
    """

    def __init__(self, part: Part, edits: cp.Corpus, tokenizer: Tokenizer, size: int) -> None:
        self.part, self.edits, self.size = part, edits, size
        self.length = CONFIGS[part].text_ctx
        self.tokenizer = tokenizer

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target``, ``image`` float32 (B, 3, S, S) in [-1, 1]. ``known`` float32 (B, 1, S, S), 1 where the pixels are
        known. ``tokens`` int64 and ``present`` bool (B, L). For the upsampler ``low_res`` (B, 3, 32, 32). S is the
        network's side.
        """
        rng = np.random.Generator(np.random.PCG64([step, 31]))
        arrays = self.arrays(step)
        chances = rng.random((2, self.size))
        plain, no_text = chances[0] < PLAIN, chances[1] < NO_TEXT
        source, mask = arrays["source"], arrays["mask"]
        target = np.where(plain[:, None, None, None], source, arrays["truth"])
        prompts = np.where(plain, arrays["source_prompt"], arrays["target_prompt"])
        prompts[no_text] = ""
        small = shrink(target)
        out: dict[str, Tensor] = {}
        if self.part == "base":
            mask, source, target = shrink_masks(mask), shrink(source), small
        else:
            low = to_tensor(small)
            scale = COARSE_NOISE * rng.random((self.size, 1, 1, 1))
            # A strength of its own for each example, from none to COARSE_NOISE.
            low += torch.from_numpy((scale * rng.standard_normal(low.shape)).astype(np.float32))
            out["low_res"] = eight_bits(low.clamp_(-1, 1))
        ids, present = self.tokenizer([str(text) for text in prompts], self.length)
        return out | {
            "target": to_tensor(target),
            "image": to_tensor(source),
            "known": torch.from_numpy(~mask)[:, None].float(),
            "tokens": ids,
            "present": present,
        }

    def arrays(self, step: int) -> dict[str, NDArray[Any]]:
        """The corpus's arrays of the step's edits. A batch may end one chunk and begin the next."""
        parts: list[dict[str, NDArray[Any]]] = []
        position, remaining = step * self.size, self.size
        while remaining:
            # The epoch's order of chunks, and the order within the chunk.
            epoch, within = divmod(position, self.edits.size)
            rng = np.random.Generator(np.random.PCG64([epoch, 32]))
            chunk = int(rng.permutation(len(self.edits.chunks))[within // cp.CHUNK])
            order = np.random.Generator(np.random.PCG64([epoch, 33, chunk])).permutation(cp.CHUNK)
            first = within % cp.CHUNK
            rows = order[first : first + remaining]
            images = self.edits.cached_images(chunk)
            names = ("source", "truth", "mask", "source_prompt", "target_prompt")
            parts.append({name: images[name][rows] for name in names})
            position, remaining = position + len(rows), remaining - len(rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- training ---------------------------------------------------------------------------------------


def start(part: Part, vocabulary: int) -> GlideUNet:
    """A new network, the same at every call."""
    torch.manual_seed(0)
    return GlideUNet(replace(CONFIGS[part], vocabulary=vocabulary))


def loss_terms(
    network: GlideUNet, process: Diffusion, batch: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The simple and the variational term of one batch, scalars. Their sum is the loss."""
    # Noise the target.
    x0, visible = batch["target"], batch["known"]
    step = torch.randint(0, len(process), (x0.shape[0],), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    x = process.noised(x0, eps, step)
    # Predict. Convolutions on the CPU are faster channels-last.
    text = network.encode_text(batch["tokens"], batch["present"])
    x_input = x.contiguous(memory_format=torch.channels_last)
    out = network(x_input, process.timesteps[step], text, batch["image"], visible, batch.get("low_res"))
    # Known pixels weigh OUTSIDE, the others 1.
    weight = normalized(1 - (1 - OUTSIDE) * visible)
    terms = hybrid(out, x0, x, eps, step, process, weight)
    return terms.simple, terms.bound


def run(
    network: GlideUNet,
    batches: GlideBatches,
    work: Path,
    budget: Budget,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Any = None,
) -> TrainingResult:
    """Train one network. Figures: both terms of the loss."""
    machine = machine or Machine()
    network.to(memory_format=torch.channels_last)
    # Training uses all 1000 steps. Only sampling takes fewer.
    process = Diffusion(RespacedSchedule.of(network.config.schedule), machine.device)

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        simple, bound = loss_terms(network, process, batch, generator)
        return simple + bound, {"simple": float(simple.detach()), "bound": float(bound.detach())}

    return train(
        work,
        {"network": network},
        loss,
        batches,
        budget,
        machine,
        report,
        sample,
        Recording(sample_every=40_000),
    )


# --- held-out edits of one network ------------------------------------------------------------------


@torch.no_grad()
def sample(
    network: GlideUNet, tokenizer: Tokenizer, arrays: Mapping[str, NDArray[Any]], prompts: Sequence[str]
) -> NDArray[np.uint8]:
    """Edits of one network alone: uint8 (N, S, S, 3). The upsampler receives the ground truths at 32 pixels.

    ``arrays``: ``source``, ``truth`` uint8 (N, 64, 64, 3) and ``mask`` bool (N, 64, 64).
    """
    # Inputs at the network's own size.
    part, device = network.config.kind, next(network.parameters()).device
    source, mask, low = arrays["source"], arrays["mask"], None
    if part == "base":
        source, mask = shrink(source), shrink_masks(mask)
    else:
        low = to_tensor(shrink(arrays["truth"])).to(device)
    image, visible = to_tensor(source).to(device), torch.from_numpy(~mask)[:, None].float().to(device)

    def encode(texts: Sequence[str]) -> TextFeatures:
        ids, present = tokenizer(texts, network.config.text_ctx)
        return network.encode_text(ids.to(device), present.to(device))

    # The base has classifier-free guidance, the upsampler has none.
    text = encode(prompts)
    if part == "base":
        model = guided(network, text, encode([""] * len(prompts)), image, visible, GUIDANCE)
    else:
        model = conditioned(network, text, image, visible, low)
    # Sample with one generator for the whole batch.
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(image.shape, generator=generator).to(device)

    process = Diffusion(RespacedSchedule.of(network.config.schedule, SAMPLE_STEPS[part]), device)
    return to_images(process.sample(model, noise(), noise, image, visible))


def _held_out(world: World, count: int, first: int = 0) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Arrays and target prompts of held-out cases."""
    cases = [world.case(-1 - first - i) for i in range(count)]
    return cp.image_arrays(cases), [case.request.target_prompt for case in cases]


def sample_grid(network: GlideUNet, tokenizer: Tokenizer, world: World, path: Path) -> None:
    """Draw 16 held-out edits as source, mask, result and ground truth, at 64 pixels."""
    arrays, prompts = _held_out(world, 16)
    edited = sample(network, tokenizer, arrays, prompts)
    factor = SIDES["upsampler"] // edited.shape[1]
    edited = edited.repeat(factor, axis=1).repeat(factor, axis=2)
    mask = np.repeat(arrays["mask"][..., None], 3, axis=3).astype(np.uint8) * np.uint8(255)
    save_grid(path, [to_tensor(x) for x in (arrays["source"], mask, edited, arrays["truth"])], columns=16)


def upsampler_psnr(network: GlideUNet, tokenizer: Tokenizer, world: World, count: int) -> float:
    """PSNR inside the mask of ground truths that were shrunk and upsampled, in dB: the mean over held-out edits."""
    values = []
    for first in range(0, count, 20):
        arrays, prompts = _held_out(world, min(20, count - first), first)
        upsampled = sample(network, tokenizer, arrays, prompts).astype(np.float64)
        for a, b, mask in zip(upsampled, arrays["truth"], arrays["mask"], strict=True):
            error = np.mean((a[mask] - b[mask]) ** 2)
            # A region without any error would have an infinite PSNR, and so would the mean.
            values.append(10 * np.log10(255**2 / max(float(error), 1e-3)))
    return float(np.mean(values))


def _upsampler_figures(network: GlideUNet, tokenizer: Tokenizer, world: World) -> dict[str, float]:
    return {"upsampler_psnr_db": upsampler_psnr(network, tokenizer, world, job.HELD_OUT // 5)}


# --- files ------------------------------------------------------------------------------------------


def save(folder: Path, network: GlideUNet) -> None:
    """Write ``config.json`` and half-precision ``model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    text = json.dumps(to_json(network.config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> GlideUNet:
    """A network that :func:`save` wrote, float32, ready to train."""
    network = GlideUNet(read_config(folder / "config.json"))
    # Tensors of another network are refused by name.
    state = read_state(folder / "model.safetensors")
    check_state(state, network.state_dict(), folder / "model.safetensors")
    network.load_state_dict(state)
    return network


# --- the recipes ------------------------------------------------------------------------------------


def publish(parts: Sequence[Part], task: Job) -> Path:
    """Train (or resume) networks and save them in ``root/glide`` with a card.

    The job's budget is the base's. The upsampler gets its share of the samples, see ``BUDGETS``. Figure: the
    upsampler's PSNR on held-out ground truths. The threshold measures the base.
    """
    edits, folder = task.edits(), task.root / "glide"
    tokenizer = load_tokenizer(task.world, task.root / "tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared.json").write_text(json.dumps({"tokenizer": "tokenizer"}) + "\n", encoding="utf-8")
    for part in parts:
        warm = task.warm and (folder / part).is_dir()
        network = start(part, tokenizer.vocabulary)
        if warm:
            load_with_new_words(network, load(folder / part).state_dict(), "token_embedding.weight")
        budget = _budget(part, task.budget)

        # The default binds this pass's configuration: `network` is another one in the next pass of the loop.
        def draw(weights: Weights, path: Path, config: UNetConfig = network.config) -> None:
            probe = GlideUNet(config)
            probe.load_state_dict(weights["network"])
            sample_grid(probe.eval(), tokenizer, task.world, path)

        batches = GlideBatches(part, edits, tokenizer, budget.batch)
        result = run(network, batches, task.work / part, budget, task.machine, task.report, draw)
        network.load_state_dict(result.weights["network"])
        save(folder / part, network)
        figures = {}
        if (folder / "upsampler").is_dir():
            upsampler = load(folder / "upsampler").eval()
            figures = task.figures(partial(_upsampler_figures, upsampler, tokenizer))
        task.write_card(folder, result, budget, figures, stage=part, warm=warm)
    return folder


def load_tokenizer(world: World, folder: Path) -> Tokenizer:
    """The tokenizer that the zoo's text models share. It is made where no other recipe has made it yet."""
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        build_tokenizer(world.words()).save_pretrained(str(folder))
    return words(CLIPTokenizer.from_pretrained(str(folder)))


def _budget(part: Part, base: Budget | None) -> Budget:
    """Training budget of ``part``. ``base``: that of the base network, and the upsampler gets its share of it.

    None for the recipe's own.
    """
    if base is None or part == "base":
        return base or BUDGETS[part]
    share = BUDGETS["upsampler"].samples / BUDGETS["base"].samples
    return replace(BUDGETS[part], samples=max(1, round(share * base.samples)), batch=base.batch)


glide = partial(publish, PARTS)
# Each by itself, so that two cores train both at once.
glide_base = partial(publish, ("base",))
glide_upsampler = partial(publish, ("upsampler",))


# --- threshold --------------------------------------------------------------------------------------


def check_glide(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """Held-out edits by the mini preset: the target shows, and no pixel outside the mask changes."""
    from methods.glide.method import Glide
    from methods.zoo import thresholds as th

    options = Glide.Options(**{**Glide.PRESETS["mini"], "weights": str(root / "glide")})
    method, edits = Glide(options, Runtime()), th.held_out(th.level_1(world), cases)

    def edit(edits: Sequence[EditCase]) -> list[Image.Image]:
        # Seeds count within a batch.
        return th.edit_all(method, [replace(case.request, seed=i % th.BATCH) for i, case in enumerate(edits)])

    edited, changed = edit(edits), 0
    for image, case in zip(edited, edits, strict=True):
        outside = ~mask_array(case.request.needed_mask)
        # Any level of any channel: the mask is fine and nothing is composited, so the sampler itself must keep it.
        changed += bool((to_array(image)[outside] != to_array(case.request.source)[outside]).any())
    return [
        *th.judged("glide", th.classifier_of(root), edited, edits, th.TRAINED, root),
        th.at_least("glide", 1 - changed / cases, 1.0, "edits that change no pixel outside the mask"),
        *th.other_levels("glide", edit, world, root, cases),
    ]
