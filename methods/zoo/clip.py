"""Recipe: a small CLIP (open_clip), the embedded alignment metric.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Every batch holds
both sides of each edit, the source under its prompt and the truth under the target prompt, so that the hardest
negatives differ in one word; a third of the pictures are crops of the edited region under the region's prompt. The
same crops where the edit failed (the source's, half-way ones, noise) shall be further from that prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.training import Budget, Machine, Report, TrainingResult, silent, train
from methods.zoo.corpus import CHUNK, Corpus
from methods.zoo.data import to_tensor
from methods.zoo.text import LENGTH, tokenize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from methods.zoo.data import World

SIZE = 64
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 20, "head_width": 32},
    "text_cfg": {
        "context_length": LENGTH,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "hf_tokenizer_name": "tokenizer",
    },
}
GUIDE_CONFIG: dict[str, Any] = {
    **CONFIG,
    "embed_dim": 96,
    "vision_cfg": {**CONFIG["vision_cfg"], "width": 14},
    "text_cfg": {**CONFIG["text_cfg"], "width": 96, "layers": 1},
}
"""Of the CLIP that guides Blended Diffusion. Not the one that judges: an image optimised for a judge deceives it.
The paper's guide, ViT-B/16, is not its usual judge either."""
PREPROCESS = {
    "size": SIZE,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
BUDGET = Budget(
    samples=200_000, batch=192, learning_rate=1.5e-3, warmup=10_000, decay=0.5, ema=0.998, weight_decay=0.05
)
GUIDE_BUDGET = Budget(
    samples=120_000, batch=192, learning_rate=2.0e-3, warmup=10_000, decay=0.5, ema=0.998, weight_decay=0.05
)
DEGRADED = 0.5
"""Share of the pictures that are blurred or noisy, as unfinished or imperfect edits are."""
PAIR = 0.5
"""Weight of the choice between the two prompts of a picture's own edit, and of that between a region's edit and a
failed one."""
MARGIN = 0.1
"""What a region's crop shows beyond its mask's bounding box, as a share of the box's longer side."""


def build(tokenizer: CLIPTokenizer, config: Mapping[str, Any] = CONFIG) -> nn.Module:
    """The model of open_clip, freshly initialised."""
    from open_clip import CLIP

    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    made: nn.Module = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=config["vision_cfg"],
        text_cfg={**text, "vocab_size": len(tokenizer)},
    )
    return made


def crop(picture: NDArray[np.uint8], mask: NDArray[np.bool_], margin: float = MARGIN) -> NDArray[np.uint8]:
    """The square around a mask, uint8 (H, W, 3) => (64, 64, 3); the whole picture for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return picture
    height, width = picture.shape[:2]
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1
    side = int(min(round(side * (1 + 2 * margin)), height, width))
    top = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, width - side))
    part = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def degraded(x: Tensor, generator: torch.Generator, share: float = DEGRADED) -> Tensor:
    """Pictures in [-1, 1], (B, 3, H, W): of a ``share`` of them, half are blurred and half get noise.

    Blur by a resize to 1/4 to 1 of the size and back; Gaussian noise of a standard deviation up to 0.4.
    """
    out = x.clone()
    chance = torch.rand(len(x), generator=generator)
    strength = torch.rand(len(x), generator=generator)
    size = x.shape[-2:]
    noise = torch.randn(x.shape, generator=generator)
    for i in torch.nonzero(chance < share).flatten().tolist():
        if chance[i] < share / 2:
            out[i] += 0.4 * strength[i] * noise[i]
        else:
            small = max(2, round(float(size[0] * (1 - 0.75 * strength[i]))))
            low = F.interpolate(x[i : i + 1], (small, small), mode="area")
            out[i] = F.interpolate(low, size, mode="bilinear")[0]
    return out.clamp(-1, 1)


def spoiled(
    source: NDArray[np.uint8], truth: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A region in which the edit failed: as before, half-way, or lost in noise. uint8 (H, W, 3), all of them."""
    kind = rng.integers(3)
    if kind == 0:
        return source
    if kind == 1:
        share = rng.uniform(0.3, 0.6)
        return np.asarray(np.rint((1 - share) * source + share * truth), np.uint8)
    noise = rng.normal(0, rng.uniform(80, 160), truth.shape)
    return np.asarray(np.clip(np.rint(truth + noise), 0, 255), np.uint8)


def run(
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    model: nn.Module | None = None,
) -> TrainingResult:
    """Contrastive training. Figures: the share of a batch's pictures that find a right text first."""
    torch.manual_seed(0)
    model = model or build(tokenizer)
    edits = budget.batch // 3
    chunks: dict[int, dict[str, Any]] = {}

    def batch(step: int) -> dict[str, Tensor]:
        chunk = (step // 16) % len(corpus.chunks)
        if chunk not in chunks:
            chunks.clear()
            chunks[chunk] = corpus.pictures(chunk)
        data = chunks[chunk]
        rng = np.random.Generator(np.random.PCG64([step, 13]))
        rows = rng.choice(CHUNK, edits, replace=False)
        margins = rng.uniform(0, 0.25, edits)
        crops, failed = [], []
        for i, margin in zip(rows, margins, strict=True):
            before, after = (crop(data[name][i], data["mask"][i], margin) for name in ("source", "truth"))
            crops.append(after)
            failed.append(spoiled(before, after, rng))
        pictures = np.concatenate([data["source"][rows], data["truth"][rows], np.stack(crops)])
        texts = [
            str(data[name][i]) for name in ("source_prompt", "target_prompt", "region_prompt") for i in rows
        ]
        tokens = tokenize(tokenizer, texts)
        _, same = np.unique(texts, return_inverse=True)
        generator = torch.Generator().manual_seed(step)
        gain = 1 + 0.1 * (torch.rand((len(texts), 3, 1, 1), generator=generator) - 0.5)
        x = degraded((to_tensor(pictures) * gain).clamp(-1, 1), generator)
        x = torch.cat([x, to_tensor(np.stack(failed))])
        return {"x": x, "tokens": tokens, "same": torch.from_numpy(same)}

    def loss(data: dict[str, Tensor], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images, texts, scale = model(data["x"], data["tokens"])[:3]
        images, texts = images.float(), texts.float()
        images, failed = images[: len(texts)], images[len(texts) :]
        logits = scale.float() * images @ texts.T
        # Equal texts are equally right: "a hat" under one crop is no wrong answer for another.
        right = (data["same"][:, None] == data["same"][None]).float()
        target = right / right.sum(1, keepdim=True)
        value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        # Each picture between the two texts of its own edit: a portrait's prompt without a background fits any
        # background, and among the batch's other texts it is never the worst.
        own = torch.arange(2 * edits, device=logits.device)
        other = (own + edits) % (2 * edits)
        pair = logits[own, other] - logits[own, own]
        value = value + PAIR * F.softplus(pair).mean()
        # Each region's prompt between the edit that shows it and one that failed.
        shows = logits.diagonal()[2 * edits :]
        fails = scale.float() * (failed * texts[2 * edits :]).sum(1)
        value = value + PAIR * F.softplus(fails - shows).mean()
        hits = right.gather(1, logits.argmax(1, keepdim=True)).mean()
        return value, {"top1": float(hits)}

    return train(work, {"clip": model}, loss, batch, budget, machine, report)


def save(
    folder: Path, weights: dict[str, Tensor], tokenizer: CLIPTokenizer, layout: Mapping[str, Any] = CONFIG
) -> None:
    """open_clip's own layout: configuration, half-precision weights, and the tokenizer's files."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}
    save_file(half, folder / "open_clip_model.safetensors")
    text = {**layout["text_cfg"], "vocab_size": len(tokenizer)}
    config = {"model_cfg": {**layout, "text_cfg": text}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(str(folder))


class EmbeddedClip:
    """A saved CLIP, in evaluation mode: unit features of pictures and texts."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        import open_clip

        name = f"local-dir:{folder}"
        self.device = device
        self.model = open_clip.create_model(name, precision="fp32", device=device).eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def images(self, pictures: NDArray[np.uint8]) -> Tensor:
        """uint8 (N, 64, 64, 3) => float32 (N, 128)."""
        out: Tensor = self.model.encode_image(to_tensor(pictures).to(self.device), normalize=True)
        return out.float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        out: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=True)
        return out.float().cpu()


def caption_choice(model: EmbeddedClip, world: World, count: int = 1_000) -> float:
    """Share of held-out edits for which the truth is closer to its own prompt than to the source's prompt.

    Background edits of portraits, whose source prompt says nothing of a background, are included as they are.
    """
    cases = [world.case(-1 - i) for i in range(count)]
    truths = model.images(np.stack([np.asarray(c.truth, np.uint8) for c in cases]))
    right = model.texts([c.request.target_prompt for c in cases])
    wrong = model.texts([c.request.source_prompt for c in cases])
    return float(((truths * right).sum(1) > (truths * wrong).sum(1)).float().mean())


def zero_shot(model: EmbeddedClip, world: World, count: int = 600) -> dict[str, float]:
    """Top-1 accuracy per attribute: which of the prompts that differ in this attribute alone fits the picture."""
    right: dict[str, int] = {}
    asked: dict[str, int] = {}
    for index in range(-1, -1 - count, -1):
        picture, _, _ = world.described(index)
        feature = model.images(picture[None])[0]
        for name, texts in world.contrasts(index).items():
            asked[name] = asked.get(name, 0) + 1
            right[name] = right.get(name, 0) + (int((model.texts(texts) @ feature).argmax()) == 0)
    return {name: right[name] / asked[name] for name in asked}
