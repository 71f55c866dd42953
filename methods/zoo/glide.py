"""Recipe: a mini GLIDE, both networks from scratch: the base at 32 pixels, the upsampler from 32 to 64.

The published model classes at a small width, over words instead of byte pairs. Both learn the inpainting task of
Nichol et al. (2022), section 2.5, from the corpus of edits: the target is the truth under the target prompt or, for
30 %, the source under its own; what is known is the source outside the mask. No autoencoder takes part, so that the
recipe needs no other checkpoint than the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.images import from_array, resize, to_array
from methods.glide.checkpoints import PARTS, check_state, read_state
from methods.glide.config import Part, UNetConfig, read_config, to_json
from methods.glide.diffusion import Diffusion, conditioned, eight_bits, guided
from methods.glide.losses import hybrid, normalized
from methods.glide.schedule import RespacedSchedule
from methods.glide.tokenizer import Tokenizer, words
from methods.glide.unet import GlideUNet
from methods.mask_grid import cover_cells
from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo import corpus as cp
from methods.zoo.data import save_grid, to_pictures, to_tensor
from methods.zoo.manifest import CHECKPOINTS
from methods.zoo.text import build_tokenizer

if TYPE_CHECKING:
    from methods.glide.unet import TextFeatures
    from methods.zoo.data import World
    from methods.zoo.thresholds import ThresholdCheck

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
CONFIGS: Mapping[Part, UNetConfig] = {"base": _BASE, "upsampler": _UPSAMPLER}
"""Without the size of the vocabulary, which is the world's."""

BUDGETS: Mapping[Part, Budget] = {
    "base": Budget(samples=370_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.4, ema=0.999),
    "upsampler": Budget(samples=123_000, batch=64, learning_rate=1.2e-3, warmup=6_000, decay=0.4, ema=0.999),
}
"""The base, which starts from scratch, is to see as many samples as the latent editors with their own base: 130,000 of
text to image, 200,000 of edits, 40,000 after the cut to low rank. The upsampler sees a third."""
BUDGET = BUDGETS["base"]
"""What ``--samples`` changes; the upsampler's share stays the same."""

PLAIN = 0.3
"""Share of the examples whose target is the source itself, described by its own prompt."""
NO_TEXT = 0.15
OUTSIDE = 0.1
"""Weight of the loss outside an edit's mask (inside: 1), where the sampler puts the known pixels back anyway."""
COARSE_NOISE = 0.1
"""The upsampler's low resolution gets noise of a standard deviation from 0 to this, since it will see generated ones
(Ho et al. 2022, conditioning augmentation)."""
SAMPLE_STEPS: Mapping[Part, str] = {"base": "25", "upsampler": "4,3,1,1,1"}
GUIDANCE = 5.0


# --- data -------------------------------------------------------------------------------------------


def shrink(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, 64, 64, 3) => (N, 32, 32, 3), as the adapter resizes."""
    small = [to_array(resize(from_array(picture), SIDES["base"])) for picture in pictures]
    return np.stack(small)


class GlideBatches:
    """GlideBatches of one network by step: which edits, which of their texts, which of them without a text.

    The corpus is read chunk by chunk, in an order of its own for every epoch, so that it need not fit in memory.
    """

    def __init__(self, part: Part, edits: cp.Corpus, tokenizer: Tokenizer, size: int) -> None:
        self.part, self.edits, self.size = part, edits, size
        self.length = CONFIGS[part].text_ctx
        self.tokenizer = tokenizer
        self._chunk = lru_cache(maxsize=2)(self._read)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target``, ``image`` float32 (B, 3, S, S) in [-1, 1]; ``known`` float32 (B, 1, S, S); ``tokens`` int64 and
        ``present`` bool (B, L); for the upsampler ``low_res`` (B, 3, 32, 32). S is the network's side.
        """
        rng = np.random.Generator(np.random.PCG64([step, 31]))
        raw = self._rows(step)
        chance = rng.random((2, self.size))
        plain, no_text = chance[0] < PLAIN, chance[1] < NO_TEXT
        source, mask = raw["source"], raw["mask"]
        target = np.where(plain[:, None, None, None], source, raw["truth"])
        prompts = np.where(plain, raw["source_prompt"], raw["target_prompt"])
        prompts[no_text] = ""
        small = shrink(target)
        out: dict[str, Tensor] = {}
        if self.part == "base":
            # The mask that the mini preset gives the base: every cell that the edit touches.
            mask = np.stack([cover_cells(m, FACTOR)[::FACTOR, ::FACTOR] for m in mask])
            source, target = shrink(source), small
        else:
            low = to_tensor(small)
            scale = COARSE_NOISE * rng.random((self.size, 1, 1, 1))
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

    def _rows(self, step: int) -> dict[str, NDArray[Any]]:
        parts: list[dict[str, NDArray[Any]]] = []
        position, left = step * self.size, self.size
        while left:
            epoch, within = divmod(position, self.edits.size)
            rng = np.random.Generator(np.random.PCG64([epoch, 32]))
            chunk = int(rng.permutation(len(self.edits.chunks))[within // cp.CHUNK])
            order = np.random.Generator(np.random.PCG64([epoch, 33, chunk])).permutation(cp.CHUNK)
            first = within % cp.CHUNK
            rows = order[first : first + left]
            parts.append({name: values[rows] for name, values in self._chunk(chunk).items()})
            position, left = position + len(rows), left - len(rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _read(self, chunk: int) -> dict[str, NDArray[Any]]:
        wanted = ("source", "truth", "mask", "source_prompt", "target_prompt")
        pictures = self.edits.pictures(chunk)
        return {name: pictures[name] for name in wanted}


# --- training ---------------------------------------------------------------------------------------


def start(part: Part, vocabulary: int) -> GlideUNet:
    """A fresh network, the same at every call."""
    torch.manual_seed(0)
    return GlideUNet(replace(CONFIGS[part], vocabulary=vocabulary))


def loss_terms(
    network: GlideUNet, process: Diffusion, batch: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scalars: the simple and the variational term of one batch, whose sum is the loss."""
    x0, known = batch["target"], batch["known"]
    step = torch.randint(0, len(process), (x0.shape[0],), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    x = process.noised(x0, eps, step)
    text = network.encode_text(batch["tokens"], batch["present"])
    # Convolutions on the CPU are faster channels-last.
    seen = x.contiguous(memory_format=torch.channels_last)
    out = network(seen, process.timesteps[step], text, batch["image"], known, batch.get("low_res"))
    weight = normalized(1 - (1 - OUTSIDE) * known)
    terms = hybrid(out, x0, x, eps, step, process, weight)
    return terms.simple, terms.bound


def run(
    network: GlideUNet,
    draw: GlideBatches,
    work: Path,
    budget: Budget,
    machine: Machine | None = None,
    report: Report = silent,
    sample: Any = None,
) -> TrainingResult:
    """Train one network. Figures: the loss's two terms."""
    machine = machine or Machine()
    network.to(memory_format=torch.channels_last)
    process = Diffusion(RespacedSchedule.of(network.config.schedule), machine.device)

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        simple, bound = loss_terms(network, process, batch, generator)
        return simple + bound, {"simple": float(simple.detach()), "bound": float(bound.detach())}

    return train(
        work,
        {"network": network},
        loss,
        draw,
        budget,
        machine,
        report,
        sample,
        Recording(sample_every=40_000),
    )


# --- looking at a network in training -----------------------------------------------------------------


@torch.no_grad()
def look(
    network: GlideUNet, tokenizer: Tokenizer, pictures: Mapping[str, NDArray[Any]], prompts: Sequence[str]
) -> NDArray[np.uint8]:
    """One network by itself on held-out edits: uint8 (N, S, S, 3). The upsampler is given the truths, made small.

    ``pictures``: ``source``, ``truth`` uint8 (N, 64, 64, 3) and ``mask`` bool (N, 64, 64).
    """
    part, device = network.config.kind, next(network.parameters()).device
    source, mask, low = pictures["source"], pictures["mask"], None
    if part == "base":
        source = shrink(source)
        mask = np.stack([cover_cells(m, FACTOR)[::FACTOR, ::FACTOR] for m in mask])
    else:
        low = to_tensor(shrink(pictures["truth"])).to(device)
    image, known = to_tensor(source).to(device), torch.from_numpy(~mask)[:, None].float().to(device)

    def encode(texts: Sequence[str]) -> TextFeatures:
        ids, present = tokenizer(texts, network.config.text_ctx)
        return network.encode_text(ids.to(device), present.to(device))

    text = encode(prompts)
    if part == "base":
        model = guided(network, text, encode([""] * len(prompts)), image, known, GUIDANCE)
    else:
        model = conditioned(network, text, image, known, low)
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(image.shape, generator=generator).to(device)

    process = Diffusion(RespacedSchedule.of(network.config.schedule, SAMPLE_STEPS[part]), device)
    return to_pictures(process.sample(model, noise(), noise, image, known))


def _held_out(world: World, count: int, first: int = 0) -> tuple[dict[str, NDArray[Any]], list[str]]:
    cases = [world.case(-1 - first - i) for i in range(count)]
    return cp._arrays(cases), [case.request.target_prompt for case in cases]


def sample_grid(network: GlideUNet, tokenizer: Tokenizer, world: World, path: Path) -> None:
    """16 held-out edits as source, mask, result, truth, at 64 pixels."""
    raw, prompts = _held_out(world, 16)
    made = np.stack([_enlarged(picture) for picture in look(network, tokenizer, raw, prompts)])
    mask = np.repeat(raw["mask"][..., None], 3, axis=3).astype(np.uint8) * np.uint8(255)
    save_grid(path, [to_tensor(x) for x in (raw["source"], mask, made, raw["truth"])], columns=16)


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = SIDES["upsampler"]
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), np.uint8)


def upsampler_psnr(network: GlideUNet, tokenizer: Tokenizer, world: World, count: int) -> float:
    """Mean over held-out edits of the PSNR inside the mask, in dB, of truths made small and upsampled."""
    found = []
    for first in range(0, count, 20):
        raw, prompts = _held_out(world, min(20, count - first), first)
        made = look(network, tokenizer, raw, prompts).astype(np.float64)
        for a, b, mask in zip(made, raw["truth"], raw["mask"], strict=True):
            error = np.mean((a[mask] - b[mask]) ** 2)
            found.append(10 * np.log10(255**2 / max(float(error), 1e-3)))
    return float(np.mean(found))


# --- files ------------------------------------------------------------------------------------------


def save(folder: Path, network: GlideUNet) -> None:
    """``config.json`` and half-precision ``model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    text = json.dumps(to_json(network.config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> GlideUNet:
    """What :func:`save` wrote, float32, ready to learn on."""
    network = GlideUNet(read_config(folder / "config.json"))
    state = read_state(folder / "model.safetensors")
    check_state(state, network.state_dict(), folder / "model.safetensors")
    network.load_state_dict(state)
    return network


# --- the recipes ------------------------------------------------------------------------------------


def publish(
    parts: Sequence[Part], world: World, work: Path, *, budget: Budget | None = None,
    machine: Machine | None = None, report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False,
    corpus: int | None = None,
) -> Path:  # fmt: skip
    """Train (or resume) networks and save them in ``root/glide`` with a card. ``warm`` starts from the saved ones.

    ``budget`` is the base's; the upsampler sees its share of the samples, see ``BUDGETS``. Figure: the upsampler's
    PSNR on held-out truths. What the base is worth, the gate says.
    """
    from methods.zoo import publish as pb

    machine = machine or Machine()
    edits = cp.Corpus(world, pb._corpus_folder(work), corpus or pb.CORPUS)
    edits.render(pb._as_progress(report, "edits rendered"))
    folder = root / "glide"
    tokenizer = _tokenizer(world, root / "tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared.json").write_text(json.dumps({"tokenizer": "tokenizer"}) + "\n", encoding="utf-8")
    for part in parts:
        saved = warm and (folder / part).is_dir()
        network = load(folder / part) if saved else start(part, tokenizer.vocabulary)
        chosen = _budget(part, budget)

        def sample(
            weights: Mapping[str, dict[str, Tensor]],
            path: Path,
            shape: UNetConfig = network.config,
        ) -> None:
            copy = GlideUNet(shape)
            copy.load_state_dict(weights["network"])
            sample_grid(copy.eval(), tokenizer, world, path)

        draw = GlideBatches(part, edits, tokenizer, chosen.batch)
        outcome = run(network, draw, work / part, chosen, machine, report, sample)
        network.load_state_dict(outcome.weights["network"])
        save(folder / part, network)
        figures = {}
        if (folder / "upsampler").is_dir():
            upsampler = load(folder / "upsampler").eval()
            figures["upsampler_psnr_db"] = upsampler_psnr(upsampler, tokenizer, world, pb.HELD_OUT // 5)
        pb._card(folder, world, outcome, chosen, machine, figures, root, stage=part, warm=bool(saved))
    return folder


def _tokenizer(world: World, folder: Path) -> Tokenizer:
    """The one that the zoo's text models share; made where no other recipe has made it yet."""
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        build_tokenizer(world.words()).save_pretrained(str(folder))
    return words(CLIPTokenizer.from_pretrained(str(folder)))


def _budget(part: Part, asked: Budget | None) -> Budget:
    """``asked`` for the base; for the upsampler its own, with the same share of the samples as by default."""
    if asked is None or part == "base":
        return asked or BUDGETS[part]
    share = BUDGETS["upsampler"].samples / BUDGETS["base"].samples
    return replace(BUDGETS[part], samples=max(1, round(share * asked.samples)), batch=asked.batch)


glide = partial(publish, PARTS)
# Each by itself, so that two cores train both at once.
glide_base = partial(publish, ("base",))
glide_upsampler = partial(publish, ("upsampler",))


# --- the gate ---------------------------------------------------------------------------------------


def check_glide(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """The method with its mini preset, on held-out edits: the target shows, and nothing outside the mask changed."""
    from bench.edit import Runtime
    from bench.images import mask_array
    from methods.glide.method import Glide
    from methods.zoo.thresholds import TRAINED, _at_least, _reader, judged

    options = Glide.Options(**{**Glide.PRESETS["mini"], "weights": str(root / "glide")})
    method = Glide(options, Runtime())
    asked = [world.case(-1 - i) for i in range(cases)]
    edited: list[Any] = []
    for first in range(0, cases, 16):
        edited += method.edit(
            [replace(case.request, seed=i) for i, case in enumerate(asked[first : first + 16])]
        )
    changed = sum(
        bool((to_array(image)[~mask] != to_array(case.request.source)[~mask]).any())
        for image, case in zip(edited, asked, strict=True)
        for mask in [mask_array(case.request.mask)]
    )
    return [
        *judged("glide", _reader(root), edited, asked, TRAINED, root),
        _at_least("glide", 1 - changed / cases, 1.0, "edits that change no pixel outside the mask"),
    ]
