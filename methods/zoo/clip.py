"""Recipe: a small CLIP (open_clip), the embedded alignment metric.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Every batch has both
sides of each edit, the source with its prompt and the ground truth with the target prompt, so the hardest negatives
differ in one word. A third of the images are crops of the edited region with the region's prompt. Crops of failed edits
(the source's, half-way ones, noise) must be further from that prompt.
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

from methods.training import Budget, Machine, ProgressReport, TrainingResult, silent, train
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
# Configuration of the CLIP that guides Blended Diffusion. It must not judge, since an image that is optimised for a
# judge deceives it. The paper's guide, ViT-B/16, is not its usual judge either.
GUIDE_CONFIG: dict[str, Any] = {
    **CONFIG,
    "embed_dim": 96,
    "vision_cfg": {**CONFIG["vision_cfg"], "width": 14},
    "text_cfg": {**CONFIG["text_cfg"], "width": 96, "layers": 1},
}
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
# Share of the images that are blurred or noisy, like unfinished or imperfect edits.
DEGRADED = 0.5
# Weight of the choice between the two prompts of an image's own edit, and of the choice between a region's edit and a
# failed one.
PAIR = 0.5
# Margin of a region's crop around its mask's bounding box, as a share of the box's longer side.
MARGIN = 0.1


def build(tokenizer: CLIPTokenizer, config: Mapping[str, Any] = CONFIG) -> nn.Module:
    """A new model of open_clip."""
    from open_clip import CLIP

    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    model: nn.Module = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=config["vision_cfg"],
        text_cfg={**text, "vocab_size": len(tokenizer)},
    )
    return model


def crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], margin: float = MARGIN) -> NDArray[np.uint8]:
    """The square around a mask, uint8 (H, W, 3) => (64, 64, 3). An empty mask gives the whole image."""
    # Bounding box of the mask, and a square around it inside the image.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return image
    height, width = image.shape[:2]
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1
    side = int(min(round(side * (1 + 2 * margin)), height, width))
    top = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, width - side))
    part = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def degraded(x: Tensor, generator: torch.Generator, share: float = DEGRADED) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1]: half of a ``share`` of them are blurred, the other half get noise.

    The blur is a resize to 1/4 to 1 of the size and back. The noise is Gaussian, with a standard deviation up to 0.4.
    """
    out = x.clone()
    # Which images, and how strongly. Drawn for all, so that the stream does not depend on the choice.
    chance = torch.rand(len(x), generator=generator)
    strength = torch.rand(len(x), generator=generator)
    size = x.shape[-2:]
    noise = torch.randn(x.shape, generator=generator)
    # One by one: every image has a size of its own between the two resizes.
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
    """A region in which the edit failed: unchanged, half-way, or lost in noise. All are uint8 (H, W, 3)."""
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
    report: ProgressReport = silent,
    model: nn.Module | None = None,
) -> TrainingResult:
    """Contrastive training. Figure: the share of a batch's images that rank a right text first."""
    torch.manual_seed(0)
    network = model or build(tokenizer)
    # The batch counts images with a text, of which each edit has three.
    edits = budget.batch // 3

    def batch(step: int) -> dict[str, Tensor]:
        # A chunk serves 16 steps.
        arrays = corpus.cached_images((step // 16) % len(corpus.chunks))
        rng = np.random.Generator(np.random.PCG64([step, 13]))
        rows = rng.choice(CHUNK, edits, replace=False)
        margins = rng.uniform(0, 0.25, edits)
        crops, failed = [], []
        for i, margin in zip(rows, margins, strict=True):
            before, after = (crop(arrays[name][i], arrays["mask"][i], margin) for name in ("source", "truth"))
            crops.append(after)
            failed.append(spoiled(before, after, rng))
        # Three images per edit, in thirds of the batch: source, ground truth, crop. The failed crops follow.
        images = np.concatenate([arrays["source"][rows], arrays["truth"][rows], np.stack(crops)])
        texts = [
            str(arrays[name][i]) for name in ("source_prompt", "target_prompt", "region_prompt") for i in rows
        ]
        _, same = np.unique(texts, return_inverse=True)
        generator = torch.Generator().manual_seed(step)
        # Each channel up to 5 % darker or lighter.
        gain = 1 + 0.1 * (torch.rand((len(texts), 3, 1, 1), generator=generator) - 0.5)
        x = degraded((to_tensor(images) * gain).clamp(-1, 1), generator)
        return {
            "x": torch.cat([x, to_tensor(np.stack(failed))]),
            "tokens": tokenize(tokenizer, texts),
            "same": torch.from_numpy(same),
        }

    def loss(data: dict[str, Tensor], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images, texts, scale = network(data["x"], data["tokens"])[:3]
        return contrastive_loss(images.float(), texts.float(), scale.float(), data["same"])

    return train(work, {"clip": network}, loss, batch, budget, machine, report)


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, same: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Loss of unit features: ``images`` (4 E, D) of sources, ground truths, crops and failed crops of E edits.

    ``texts`` (3 E, D) are those of the first three. ``same`` (3 E,) numbers them so that equal texts have equal
    numbers.
    """
    images, failed = images[: len(texts)], images[len(texts) :]
    edits = len(failed)
    # The scale is learned, as in CLIP. Features have length 1, so the product is the cosine.
    logits = scale * images @ texts.T
    # Equal texts are equally right: "a hat" under one crop is no wrong answer for another.
    right = (same[:, None] == same[None]).float()
    target = right / right.sum(1, keepdim=True)
    value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    # Each image chooses between the two texts of its own edit. A portrait's prompt without a background fits any
    # background, so among the batch's other texts it is never the worst.
    own = torch.arange(2 * edits, device=logits.device)
    other = (own + edits) % (2 * edits)
    value = value + PAIR * F.softplus(logits[own, other] - logits[own, own]).mean()
    # Each region's prompt chooses between the edit that shows it and a failed one.
    shows = logits.diagonal()[2 * edits :]
    fails = scale * (failed * texts[2 * edits :]).sum(1)
    value = value + PAIR * F.softplus(fails - shows).mean()
    hits = right.gather(1, logits.argmax(1, keepdim=True)).mean()
    return value, {"top1": float(hits)}


def save(
    folder: Path, weights: dict[str, Tensor], tokenizer: CLIPTokenizer, layout: Mapping[str, Any] = CONFIG
) -> None:
    """Write open_clip's own layout: configuration, half-precision weights, and the tokenizer's files."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # Integer buffers keep their type.
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}
    save_file(half, folder / "open_clip_model.safetensors")
    text = {**layout["text_cfg"], "vocab_size": len(tokenizer)}
    config = {"model_cfg": {**layout, "text_cfg": text}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(str(folder))


class EmbeddedClip:
    """A saved CLIP, in evaluation mode. It gives unit features of images and texts."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        import open_clip

        name = f"local-dir:{folder}"
        self.device = device
        self.model = open_clip.create_model(name, precision="fp32", device=device).eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def images(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 (N, 64, 64, 3) => float32 (N, D)."""
        out: Tensor = self.model.encode_image(to_tensor(images).to(self.device), normalize=True)
        return out.float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts => float32 (N, D)."""
        out: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=True)
        return out.float().cpu()


def caption_choice(model: EmbeddedClip, world: World, count: int = 1_000) -> float:
    """Share of held-out edits whose ground truth is closer to its own prompt than to the source's prompt.

    This includes background edits of portraits, whose source prompt names no background.
    """
    cases = [world.case(-1 - i) for i in range(count)]
    # Features of the ground truths and of both prompts, (N, D).
    truths = model.images(np.stack([np.asarray(c.truth, np.uint8) for c in cases]))
    right = model.texts([c.request.target_prompt for c in cases])
    wrong = model.texts([c.request.source_prompt for c in cases])
    return float(((truths * right).sum(1) > (truths * wrong).sum(1)).float().mean())


def zero_shot(model: EmbeddedClip, world: World, count: int = 600) -> dict[str, float]:
    """Top-1 accuracy per attribute, among the prompts that differ in this attribute alone."""
    hits: dict[str, list[bool]] = {}
    for index in range(-1, -1 - count, -1):
        image, _, _ = world.described(index)
        feature = model.images(image[None])[0]
        for name, texts in world.contrasts(index).items():
            hits.setdefault(name, []).append(int((model.texts(texts) @ feature).argmax()) == 0)
    return {name: float(np.mean(of)) for name, of in hits.items()}
