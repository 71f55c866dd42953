"""Recipes: PromptEditDiff and its three ablations, mini.

From the same text-to-image base, the same edits, and the same number of samples as the mini Stable Diffusion
inpainting. What they need beyond the corpus, the mask of each region and the words that belong to it, is drawn once
from the world and kept beside it.
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
from torch import Tensor, nn

from bench.edit import EditCase
from bench.images import mask_array
from methods import low_rank
from methods.pipelines import call, quiet, save_pipeline
from methods.prompt_edit_diff import VARIANTS, ablation
from methods.prompt_edit_diff.augment import MaskDropout
from methods.prompt_edit_diff.losses import objective
from methods.prompt_edit_diff.model import PromptEditDiffUNet, mean_gate
from methods.prompt_edit_diff.tags import Tagged, back, tag, tag_request, to_tokens
from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo import corpus as cp
from methods.zoo import diffusion as df
from methods.zoo.data import save_grid
from methods.zoo.manifest import CHECKPOINTS
from methods.zoo.text import LENGTH

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
    from methods.zoo.data import World

MODEL: dict[str, Any] = {"factor": cp.FACTOR, "mask_width": 64, "mask_tokens": 8, "count": 4}
BUDGET: Budget = df.BUDGETS["sd_inpainting"]
PREFIX = "unet."
"""Of the base's tensors within the network's."""
REGIONS = 3
"""The most regions that an edit of the world has."""
SIDE = 64
AUGMENT = MaskDropout(probability=0.2)
OUTSIDE = 0.1
"""Weight of the reconstruction term. The sampler puts the outside back, so it serves the features alone."""


# --- data -------------------------------------------------------------------------------------------


class Regions:
    """Masks and words of the regions of every edit of a corpus, in chunks beside it.

    Per edit: ``masks`` uint8 (N, 3, 512), 64 x 64 bits each; ``regions``, JSON of the prompt and words of each;
    ``target_prompt`` and ``mask``, to tell that it is the corpus's edit; ``known``, False where the world does not
    draw that edit (any more): then the mask is one region, its words found by comparing the prompts.
    """

    def __init__(self, corpus: cp.Corpus) -> None:
        self.corpus = corpus

    def draw(self, report: Report = silent) -> None:
        """Draw what is not drawn yet, or was drawn for another corpus. Raises ValueError where most is unknown."""
        known = []
        for chunk in self.corpus.chunks:
            with np.load(self.corpus._pictures(chunk)) as file:
                edits = {name: file[name] for name in ("mask", "target_prompt", "region_prompt")}
            path = self._path(chunk)
            if not (path.exists() and _fits(path, edits)):
                cases = [self.corpus.world.case(chunk * cp.CHUNK + i) for i in range(cp.CHUNK)]
                cp._save(path, **_region_arrays(cases, edits))
            with np.load(path) as file:
                known.append(float(file["known"].mean()))
            done = (chunk + 1) * cp.CHUNK
            report(done, self.corpus.size, {"regions drawn": float(done), "known": float(np.mean(known))})
        if np.mean(known) < 0.5:
            raise ValueError(
                f"the corpus in {self.corpus.folder} was drawn by another version of the world: of its edits, "
                f"{np.mean(known):.0%} are this one's. Delete the folder, and it is drawn anew."
            )

    def load(self) -> dict[str, Any]:
        """All of it in memory: ``masks`` as above, ``regions`` a list of (prompt, words) per edit."""
        masks, texts = [], []
        for chunk in self.corpus.chunks:
            with np.load(self._path(chunk)) as file:
                masks.append(file["masks"])
                texts += [json.loads(str(text)) for text in file["regions"]]
        return {"masks": np.concatenate(masks), "regions": texts}

    def _path(self, chunk: int) -> Path:
        return self.corpus.folder / f"regions-{chunk:04d}.npz"


def _fits(path: Path, edits: Mapping[str, Any]) -> bool:
    with np.load(path) as file:
        same_texts = file["target_prompt"].tolist() == edits["target_prompt"].tolist()
        return same_texts and bool(np.array_equal(file["mask"], _packed(edits["mask"])))


def _packed(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(masks.reshape(*masks.shape[:-2], SIDE * SIDE), axis=-1)


def _region_arrays(cases: Sequence[EditCase], edits: Mapping[str, Any]) -> dict[str, Any]:
    masks = np.zeros((len(cases), REGIONS, SIDE, SIDE), np.bool_)
    texts: list[str] = []
    known = np.zeros(len(cases), np.bool_)
    for n, case in enumerate(cases):
        request = case.request
        areas = [mask_array(region.mask) for region in request.regions] or [mask_array(request.mask)]
        spoken: list[tuple[str, list[str]]]
        known[n] = (
            len(areas) <= REGIONS
            and request.target_prompt == str(edits["target_prompt"][n])
            and np.array_equal(mask_array(request.mask), edits["mask"][n])
        )
        if known[n]:
            spoken = [(region.prompt, list(region.words)) for region in request.regions]
            spoken = spoken or [(request.region_prompt, list(request.edit_words))]
            masks[n, : len(areas)] = areas
        else:
            spoken = [(str(edits["region_prompt"][n]), [])]
            masks[n, 0] = edits["mask"][n]
        texts.append(json.dumps(spoken))
    return {
        "masks": _packed(masks),
        "regions": np.array(texts),
        "known": known,
        "target_prompt": edits["target_prompt"],
        "mask": _packed(edits["mask"]),
    }


class RegionBatches:
    """RegionBatches by step: which edits, which way (to the truth, or back to the source), whose text is left out.

    A share ``PLAIN`` goes back: its target is the source, told by the source's prompt; words that stand where the
    edit's words stand are the region's. Where the edit only adds, none are, and the tags are empty.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        scale: float,
        data: Mapping[str, Any],
        regions: Mapping[str, Any],
        size: int,
        augment: MaskDropout = AUGMENT,
    ) -> None:
        self.data, self.size, self.augment = data, size, augment
        self.scale = np.float32(scale)
        self.masks = regions["masks"]
        self.count = len(self.masks)
        there = [
            tag(target, source, spoken)
            for target, source, spoken in zip(
                data["target_prompt"], data["source_prompt"], regions["regions"], strict=True
            )
        ]
        self.there = self._coded(tokenizer, there)
        self.back = self._coded(
            tokenizer, [back(t, source) for t, source in zip(there, data["source_prompt"], strict=True)]
        )
        self.empty = to_tokens(tokenizer, [tag("")], LENGTH).ids[0]

    @staticmethod
    def _coded(tokenizer: CLIPTokenizer, tagged: Sequence[Tagged]) -> dict[str, NDArray[Any]]:
        parts = [
            to_tokens(tokenizer, tagged[i : i + 2000], LENGTH, REGIONS) for i in range(0, len(tagged), 2000)
        ]
        return {
            "tokens": np.concatenate([p.ids for p in parts]).astype(np.int32),
            "member": np.concatenate([p.member for p in parts]),
            "words": np.concatenate([p.words for p in parts]),
        }

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target``, ``source`` (B, 4, h, w), scaled; ``mask`` (B, 1, H, W), ``regions`` (B, R, H, W) float32;
        ``tokens`` int64 (B, L), ``member`` bool (B, R, L), ``words`` bool (B, L).
        """
        rng = np.random.Generator(np.random.PCG64([step, 21]))
        # The edits of a step are those of the other editors' recipes.
        first = step * self.size
        order = np.random.Generator(np.random.PCG64([first // self.count, 12])).permutation(self.count)
        rows = order[(first + np.arange(self.size)) % self.count]
        chance = rng.random((2, self.size))
        plain, no_text = chance[0] < df.PLAIN, chance[1] < df.NO_TEXT
        areas = (
            np.unpackbits(self.masks[rows], axis=2).astype(np.bool_).reshape(self.size, REGIONS, SIDE, SIDE)
        )
        areas = self.augment(areas, rng)
        z_source, z_truth = self.data["z_source"][rows], self.data["z_truth"][rows]
        target = np.where(plain[:, None, None, None], z_source, z_truth)
        texts = {
            name: np.where(
                plain.reshape(-1, *[1] * (self.there[name].ndim - 1)),
                self.back[name][rows],
                self.there[name][rows],
            )
            for name in ("tokens", "member", "words")
        }
        texts["tokens"][no_text] = self.empty
        texts["member"][no_text] = False
        texts["words"][no_text] = False
        return {
            "target": torch.from_numpy(target.astype(np.float32) * self.scale),
            "source": torch.from_numpy(z_source.astype(np.float32) * self.scale),
            "mask": torch.from_numpy(areas.any(1, keepdims=True)).float(),
            "regions": torch.from_numpy(areas).float(),
            "tokens": torch.from_numpy(texts["tokens"]).long(),
            "member": torch.from_numpy(texts["member"]),
            "words": torch.from_numpy(texts["words"]),
        }


# --- training ---------------------------------------------------------------------------------------


def start(variant: str, base: df.DiffusionParts) -> PromptEditDiffUNet:
    """The variant's network around a copy of the base's UNet. The same weights at every call."""
    torch.manual_seed(0)
    made: PromptEditDiffUNet = PromptEditDiffUNet.from_base(base.unet, **MODEL, **ablation(variant))
    return made


def run(
    unet: PromptEditDiffUNet,
    parts: df.DiffusionParts,
    draw: RegionBatches,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    sample: Any = None,
) -> TrainingResult:
    """Train ``unet`` and the text encoder of ``parts``. Figures: both terms of the loss, and the mean gate."""
    alpha_bars = df.build_scheduler().alphas_cumprod.double().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        text = parts.text_encoder(batch["tokens"]).last_hidden_state
        conditions = {name: batch[name] for name in ("mask", "source", "regions", "member", "words")}

        def predict(x: Tensor, t: Tensor) -> Tensor:
            prediction: Tensor = unet(x, t, text, **conditions)
            return prediction

        value, inside, outside = objective(
            predict, batch["source"], batch["target"], unet.cells(batch["mask"]), alpha_bars, "v_prediction",
            generator, outside=OUTSIDE,
        )  # fmt: skip
        figures = {"inside": float(inside.detach()), "outside": float(outside.detach())}
        if unet.encoder is not None:
            figures["phi"] = mean_gate(unet)
        return value, figures

    modules: dict[str, nn.Module] = {"unet": unet, "text_encoder": parts.text_encoder}
    return train(work, modules, loss, draw, budget, machine, report, sample, Recording(sample_every=40_000))


def pipeline(
    unet: PromptEditDiffUNet, parts: df.DiffusionParts, weights: Mapping[str, dict[str, Tensor]] | None = None
) -> PromptEditDiffPipeline:
    """The pipeline of these parts, with ``weights`` (of an outcome) in place of their own."""
    import copy

    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline

    text: CLIPTextModel = parts.text_encoder
    if weights is not None:
        unet, text = copy.deepcopy(unet), copy.deepcopy(text)
        unet.load_state_dict(weights["unet"])
        text.load_state_dict(weights["text_encoder"])
    made = PromptEditDiffPipeline(parts.vae, text.eval(), parts.tokenizer, unet.eval(), df.build_scheduler())
    made.set_progress_bar_config(disable=True)
    return made


def load(variant: str, root: Path = CHECKPOINTS) -> tuple[PromptEditDiffUNet, df.DiffusionParts]:
    """A saved variant, float32, ready to learn on or to edit with."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from methods.zoo.publish import load_vae

    folder = root / variant
    with quiet():
        unet: PromptEditDiffUNet = low_rank.load(PromptEditDiffUNet, folder / "unet", torch.float32, PREFIX)
        text = low_rank.load(CLIPTextModel, folder / "text_encoder", torch.float32)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"))
    return unet, df.DiffusionParts(unet.unet, text, tokenizer, load_vae(root))


def edit(made: PromptEditDiffPipeline, cases: Sequence[EditCase], guidance: float = 3.0) -> list[Any]:
    """The edits of one batch of cases, raw."""
    from methods.zoo.grids import STEPS, _generators

    requests = [case.request for case in cases]
    return call(
        made,
        prompt=[r.target_prompt for r in requests],
        image=[r.source for r in requests],
        mask_image=[r.mask for r in requests],
        tags=[tag_request(r) for r in requests],
        regions=[[region.mask for region in r.regions] for r in requests],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=_generators(len(cases)),
        paste=False,
    )


def sample_grid(made: PromptEditDiffPipeline, world: World, path: Path) -> None:
    """16 held-out edits as source, mask, edit, truth."""
    from methods.zoo.grids import _stack

    cases = [world.case(-1 - i) for i in range(16)]
    rows = [
        [c.request.source for c in cases],
        [c.request.mask.convert("RGB") for c in cases],
        edit(made, cases),
        [c.truth for c in cases if c.truth is not None],
    ]
    save_grid(path, [_stack(row) for row in rows], columns=16)


def publish(
    variant: str, world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int | None = None,
) -> Path:  # fmt: skip
    """Train (or resume) one variant and save it with its card. ``warm`` starts from the saved one."""
    from methods.zoo import publish as pb

    machine = machine or Machine()
    corpus = corpus or pb.CORPUS
    vae = pb.load_vae(root, machine.device)
    edits = cp.Corpus(world, pb._corpus_folder(work), corpus)
    edits.render(pb._as_progress(report, "edits rendered"))
    edits.encode(vae, machine.device, pb._as_progress(report, "edits encoded"), machine.dtype)
    areas = Regions(edits)
    areas.draw(report)
    base = pb.load_parts(df.BASE, root)
    data, masks = edits.load(vae), areas.load()
    folder = root / variant

    def learn(
        unet: PromptEditDiffUNet, parts: df.DiffusionParts, work: Path, chosen: Budget, second: bool
    ) -> None:
        def sample(weights: Mapping[str, dict[str, Tensor]], path: Path) -> None:
            sample_grid(pipeline(unet, parts, weights), world, path)

        draw = RegionBatches(parts.tokenizer, float(vae.config.scaling_factor), data, masks, chosen.batch)
        outcome = run(unet, parts, draw, work, chosen, machine, report, sample)
        made = pipeline(unet, parts, outcome.weights).to("cpu")
        if second:
            pb.save_low_rank(folder, made, root)
        else:
            save_pipeline(folder, made, shared=pb.SHARED)
        pb._card(folder, world, outcome, chosen, machine, {}, root, warm=second)

    warm = warm and folder.is_dir()
    if not warm:
        # A second copy of the base: its text encoder learns in place, and the cut needs it as it was.
        parts = replace(pb.load_parts(df.BASE, root), vae=vae)
        learn(start(variant, parts), parts, work, budget or BUDGET, False)
    unet, parts = load(variant, root)
    parts = replace(parts, vae=vae)
    low_rank.cut(unet, base.unet.state_dict(), df.SHARE, PREFIX)
    low_rank.cut(parts.text_encoder, base.text_encoder.state_dict(), df.SHARE)
    # A shorter first part asks for a shorter second one; a warm start is the second one alone.
    rest = budget if warm else df.low_rank_budget(budget or BUDGET)
    learn(unet, parts, work / "low_rank", rest or df.LOW_RANK, True)
    return folder


# The recipes by name: the whole method, and it without one of its three parts.
prompt_edit_diff = partial(publish, VARIANTS[0])
prompt_edit_diff_no_prompt_tokens = partial(publish, VARIANTS[1])
prompt_edit_diff_no_cross_attention = partial(publish, VARIANTS[2])
prompt_edit_diff_no_mask_encoder = partial(publish, VARIANTS[3])
