"""What each embedded checkpoint must reach, measured on held-out seeds: ``run_bench.py zoo check``.

Every figure is computed here, now, from the checkpoint on disk; none is read from a card. A gate says whether a
network was trained well enough to be a fair example of its method. None says which method must win: comparable
methods share one threshold (``TRAINED``, ``STEERED``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import CATEGORIES, EditCase
from bench.images import mask_array
from methods.prompt_edit_diff import VARIANTS
from methods.zoo.manifest import CHECKPOINTS, ZooError, entry, manifest_path, read_manifest

if TYPE_CHECKING:
    from PIL.Image import Image

    from methods.zoo.classifier import AttributeClassifier
    from methods.zoo.data import World

CASES = 400
"""Held-out edits, half of them portraits, half scenes."""


TRAINED = (0.80, 0.65)
"""Least share of held-out edits that show their target, over all and in each category: for every network that was
trained to edit. PromptEditDiff, its competitors and its ablations share it, since an ablation that learnt less than
the whole method would flatter it."""
STEERED = (0.65, None)
"""The same for methods that steer a generator which never learnt to edit (blending, SDEdit, guidance by CLIP): lower,
because nothing was trained on edits, and without a threshold per category."""


@dataclass(frozen=True)
class ThresholdCheck:
    """One requirement. ``figure`` is None where the checkpoint is missing."""

    name: str
    figure: float | None
    threshold: float
    passed: bool
    detail: str
    training_gap: str = ""
    """``"N of M samples of its recipe"`` where the gate is missed and the network has seen less than its recipe asks
    for. Such a miss is told, and does not fail the check."""


def check(world: World, root: Path = CHECKPOINTS, cases: int = CASES) -> list[ThresholdCheck]:
    """Every gate, in the order of the recipes."""
    gates: list[ThresholdCheck] = []
    for name, measure in _MEASURES.items():
        try:
            entry(_BASES.get(name, name), root)
            gates += measure(world, root, cases)
        except ZooError as error:
            gates.append(ThresholdCheck(name, None, float("nan"), False, str(error)))
    return [*gates, _size(root)]


MEGABYTES = 80.0
"""All checkpoints together, in the repository."""


def _size(root: Path) -> ThresholdCheck:
    if not manifest_path(root).is_file():
        why = "no checkpoint is there: `git checkout -- methods/zoo`, or train them"
        return ThresholdCheck("all", None, MEGABYTES, False, why)
    total = sum(line["bytes"] for line in read_manifest(root).values()) / 1e6
    return ThresholdCheck(
        "all", total, MEGABYTES, total <= MEGABYTES, "at most: MB of all checkpoints by the manifest"
    )


def _at_least(name: str, figure: float, threshold: float, detail: str, gap: str = "") -> ThresholdCheck:
    passed = bool(figure >= threshold)
    return ThresholdCheck(name, float(figure), threshold, passed, detail, "" if passed else gap)


def _reader(root: Path) -> AttributeClassifier:
    from methods.zoo.classifier import load

    return load(entry("reader", root))


def _check_reader(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.classifier import accuracy, edit_accuracy

    reader = _reader(root)
    heads = accuracy(reader, world, 10 * cases)
    worst = min(heads, key=heads.__getitem__)
    detail = ", ".join(f"{name} {100 * value:.1f}" for name, value in heads.items())
    edits = edit_accuracy(reader, world, 2 * cases)
    return [
        _at_least("reader", heads[worst], 0.98, f"accuracy of its worst head, {worst}; all: {detail}"),
        _at_least("reader", edits["ideal"], 0.98, f"every claim read off ideal edits, {2 * cases} of them"),
        _at_least("reader", edits["spoiled"], 0.95, f"spoiled edits read as other, {2 * cases} of them"),
        *_junk(reader, world, cases),
    ]


JUNK = 0.05
"""Greatest share of edits by ``noise_fill`` and by ``flat_color_fill`` in which the reader may see the target."""


def _junk(reader: AttributeClassifier, world: World, cases: int) -> Iterator[ThresholdCheck]:
    """One gate for each control that fills the region with junk."""
    from bench.edit import NoOptions, Runtime
    from methods.controls import FlatColorFill, NoiseFill

    asked = [world.case(-1 - i) for i in range(cases)]
    requests = [replace(case.request, seed=position) for position, case in enumerate(asked)]
    for name, control in (("noise", NoiseFill), ("flat colour", FlatColorFill)):
        hits = shown(reader, control(NoOptions(), Runtime()).edit(requests), asked)
        share = float(np.mean(hits))
        detail = f"at most: regions filled with {name} in which the target is seen, {cases} of them"
        yield ThresholdCheck("reader", share, JUNK, share <= JUNK, detail)


def _check_autoencoder(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.autoencoder import psnr
    from methods.zoo.classifier import kept
    from methods.zoo.publish import load_vae

    vae = load_vae(root)
    return [
        _at_least("autoencoder", psnr(vae, world, cases), 28.0, "PSNR of reconstructions, dB"),
        _at_least(
            "autoencoder",
            kept(_reader(root), world, vae, cases),
            0.96,
            "attributes that reconstructions keep, as read",
        ),
    ]


def _check_text_to_image(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.diffusion import pipeline
    from methods.zoo.grids import generate
    from methods.zoo.publish import load_parts

    made = pipeline("text_to_image", load_parts("text_to_image", root))
    asked = [world.described(-1 - i) for i in range(cases)]
    reader, right, total = _reader(root), 0, 0
    for start in range(0, cases, 16):
        part = asked[start : start + 16]
        pictures = _arrays(generate(made, [text for _, text, _ in part]))
        everywhere = np.ones(pictures.shape[:3], bool)
        for answer, (_, _, labels) in zip(reader.read(pictures, everywhere), part, strict=True):
            right += sum(_says(answer, name, value) for name, value in labels.items())
            total += len(labels)
    return [_at_least("text_to_image", right / total, 0.80, f"named attributes that show, {total} of them")]


def _editor(name: str) -> Callable[[World, Path, int], list[ThresholdCheck]]:
    def measure(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
        from methods.zoo.diffusion import pipeline
        from methods.zoo.grids import edit
        from methods.zoo.publish import load_parts

        made = pipeline(name, load_parts(name, root))
        asked = [world.case(-1 - i) for i in range(cases)]
        edited: list[Image] = []
        for start in range(0, cases, 16):
            edited += edit(name, made, asked[start : start + 16])
        return judged(name, _reader(root), edited, asked, TRAINED, root)

    return measure


def _prompt_edit_diff(variant: str) -> Callable[[World, Path, int], list[ThresholdCheck]]:
    def measure(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
        from methods.zoo.prompt_edit_diff import edit, load, pipeline

        made = pipeline(*load(variant, root))
        asked = [world.case(-1 - i) for i in range(cases)]
        edited = [image for i in range(0, cases, 16) for image in edit(made, asked[i : i + 16])]
        return judged(variant, _reader(root), edited, asked, TRAINED, root)

    return measure


def judged(
    name: str,
    reader: AttributeClassifier,
    edited: Sequence[Image],
    cases: Sequence[EditCase],
    thresholds: tuple[float, float | None],
    root: Path,
    *,
    checkpoint: str = "",
    remark: str = "",
) -> list[ThresholdCheck]:
    """A method's gates: the share of edits whose target shows, over all and, where asked for, per category.

    ``thresholds``: ``TRAINED`` or ``STEERED``. ``checkpoint``: the one that edits, where it is not called as the
    method is. ``remark`` ends the first gate's detail.
    """
    overall, each = thresholds
    gap = training_gap(checkpoint or name, root)
    hits = shown(reader, edited, cases)
    by_category = {
        category: [hit for hit, case in zip(hits, cases, strict=True) if case.category == category]
        for category in CATEGORIES
    }
    rates = [(category, float(np.mean(of)), len(of)) for category, of in by_category.items() if of]
    detail = f"target shown in the region, {len(cases)} edits"
    if each is None:
        detail += f"; %: {', '.join(f'{category} {100 * rate:.1f}' for category, rate, _ in rates)}"
    gates = [_at_least(name, float(np.mean(hits)), overall, detail + remark, gap)]
    if each is not None:
        gates += [_at_least(name, rate, each, f"{category}, {n} edits", gap) for category, rate, n in rates]
    return gates


def training_gap(checkpoint: str, root: Path) -> str:
    """``"N of M samples of its recipe"`` where a checkpoint has seen less than its recipe asks for, else empty.

    N is the sum over the stages of its card. Of a checkpoint with several networks the one that lacks most counts.
    """
    card = root / checkpoint / "card.json"
    if not card.is_file():
        return ""
    seen: Counter[str] = Counter()
    for stage in json.loads(card.read_text(encoding="utf-8"))["stages"]:
        seen[stage["recipe"]] += stage["samples"]
    asked = recipe_samples(checkpoint)
    part = min(asked, key=lambda name: seen[name] / asked[name])
    if seen[part] >= asked[part]:
        return ""
    which = f" ({part})" if len(asked) > 1 else ""
    return f"{seen[part]:,} of {asked[part]:,} samples of its recipe{which}"


def recipe_samples(checkpoint: str) -> Mapping[str, int]:
    """Training examples that a method's recipe asks for, by the name that its card gives to the network."""
    from methods.zoo import diffusion, glide
    from methods.zoo.publish import BUDGETS
    from methods.zoo.recipes import RECIPES

    if checkpoint == "glide":
        return {part: budget.samples for part, budget in glide.BUDGETS.items()}
    budget = BUDGETS.get(checkpoint) or import_module(RECIPES[checkpoint].partition(":")[0]).BUDGET
    # The editors learn whole first, then go on with what is left after the cut to low rank.
    second = (
        diffusion.LOW_RANK.samples if checkpoint in ("sd_inpainting", "instruct_pix2pix", *VARIANTS) else 0
    )
    return {checkpoint: budget.samples + second}


def _check_clip_guide(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.clip import EmbeddedClip, caption_choice

    figure = caption_choice(EmbeddedClip(entry("clip_guide", root)), world, cases)
    return [_at_least("clip_guide", figure, 0.95, "prefers an edit's own prompt to its source's")]


def _check_clip(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.clip import EmbeddedClip, caption_choice, zero_shot

    model = EmbeddedClip(entry("clip", root))
    found = zero_shot(model, world, cases)
    worst = min(found, key=found.__getitem__)
    detail = ", ".join(f"{name} {100 * value:.1f}" for name, value in found.items())
    return [
        _at_least(
            "clip", caption_choice(model, world, cases), 0.95, "prefers an edit's own prompt to its source's"
        ),
        _at_least(
            "clip", found[worst], 0.90, f"zero-shot top-1 of its worst attribute, {worst}; all: {detail}"
        ),
    ]


def _elsewhere(target: str) -> Callable[[World, Path, int], list[ThresholdCheck]]:
    """A measure that stands beside its recipe, imported when it is asked for."""

    def measure(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
        module, _, name = target.partition(":")
        found: list[ThresholdCheck] = getattr(import_module(module), name)(world, root, cases)
        return found

    return measure


_BASES = dict.fromkeys(("blended_latent_diffusion", "latent_blending", "sdedit"), "text_to_image")
"""Methods that have no checkpoint of their own, and the one that they edit with."""

_MEASURES: dict[str, Callable[[Any, Path, int], list[ThresholdCheck]]] = {
    "reader": _check_reader,
    "autoencoder": _check_autoencoder,
    "text_to_image": _check_text_to_image,
    "sd_inpainting": _editor("sd_inpainting"),
    "instruct_pix2pix": _editor("instruct_pix2pix"),
    "blended_latent_diffusion": _elsewhere("methods.zoo.baselines:check_blended_latent_diffusion"),
    "latent_blending": _elsewhere("methods.zoo.baselines:check_latent_blending"),
    "sdedit": _elsewhere("methods.zoo.baselines:check_sdedit"),
    "glide": _elsewhere("methods.zoo.glide:check_glide"),
    "blended_diffusion": _elsewhere("methods.zoo.adm:check_blended_diffusion"),
    "lama": _elsewhere("methods.zoo.lama:check_lama"),
    **{name: _prompt_edit_diff(name) for name in VARIANTS},
    "clip": _check_clip,
    "clip_guide": _check_clip_guide,
}


def shown(reader: AttributeClassifier, edited: Sequence[Image], cases: Sequence[EditCase]) -> list[bool]:
    """Whether every claim of a case can be read off its edit, each within its own region."""
    pictures, regions, asked = [], [], []
    for image, case in zip(edited, cases, strict=True):
        for claim in case.claims:
            request = case.request
            mask = request.regions[claim.region].mask if request.regions else request.mask
            pictures.append(np.asarray(image.convert("RGB"), np.uint8))
            regions.append(mask_array(mask))
            asked.append((case.id, claim))
    hits = {case.id: True for case in cases}
    for answer, (case_id, claim) in zip(
        reader.read(np.stack(pictures), np.stack(regions)), asked, strict=True
    ):
        hits[case_id] &= _says(answer, claim.attribute, claim.after)
    return [hits[case.id] for case in cases]


def _says(answer: dict[str, dict[str, float]], attribute: str, value: str) -> bool:
    chances = answer[attribute]
    return max(chances, key=chances.__getitem__) == value


def _arrays(images: Sequence[Image]) -> Any:
    return np.stack([np.asarray(image.convert("RGB"), np.uint8) for image in images])
