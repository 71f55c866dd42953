"""Thresholds that each embedded checkpoint must reach, measured on held-out seeds: ``run_bench.py zoo check``.

Every figure is computed here from the checkpoint on disk, and none comes from a card. A threshold says whether a
network was trained well enough to be a fair example of its method. None says which method must win: comparable methods
share one threshold (``TRAINED``, ``STEERED``).

Thresholds are measured on level 1 of the world. On its other levels, editors have a figure per kind of edit without a
threshold, and the attribute classifier must read the ground truths (``READ``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import CATEGORIES, EditCase, EditRequest, Runtime
from bench.errors import BenchError
from bench.images import mask_array
from bench.thresholds import ThresholdCheck
from methods.prompt_edit_diff import VARIANTS
from methods.zoo.manifest import CHECKPOINTS, ZooError, entry, manifest_path, read_manifest, training_gap

if TYPE_CHECKING:
    from PIL.Image import Image

    from methods.zoo.classifier import ClassifierNetwork
    from methods.zoo.data import World

# Held-out edits, half of them portraits, half scenes.
CASES = 400
# Edits that a method makes at once.
BATCH = 16
# Smallest share of held-out edits that show their target, overall and in each category, for every network that was
# trained to edit. PromptEditDiff, its competitors and its ablations share it, since an ablation that learned less
# than the whole method would flatter it.
TRAINED = (0.80, 0.65)
# The same for methods that steer a generator which never learned to edit (blending, SDEdit, guidance by CLIP). It is
# lower for that reason, and has no threshold per category.
STEERED = (0.65, None)
# Largest share of edits by ``noise_fill`` and ``flat_color_fill`` in which the classifier may see the target.
JUNK = 0.05
# Smallest share of the ground truths of a level that the classifier must read.
READ = 0.98
# Largest size of all checkpoints together.
MEGABYTES = 95.0


# World, root of the checkpoints, number of cases => checks.
Measure = Callable[[Any, Path, int], list[ThresholdCheck]]
# Cases => their raw edits.
Editor = Callable[[Sequence[EditCase]], "Sequence[Image]"]


def check(
    world: World,
    root: Path = CHECKPOINTS,
    cases: int = CASES,
    names: Collection[str] = (),
    report: Callable[[str], None] = lambda name: None,
) -> list[ThresholdCheck]:
    """Every requirement, in the order of the recipes.

    ``cases``: held-out edits of each level. ``names``: only these networks and methods. ``report`` receives the name of
    each before it is measured. Raises BenchError for a world without level 1, and for an unknown name.
    """
    level_1(world)
    if unknown := [name for name in names if name not in _MEASURES]:
        raise BenchError(f"{unknown[0]} has no thresholds. Known: {', '.join(_MEASURES)}.")
    checks: list[ThresholdCheck] = []
    for name, measure in _MEASURES.items():
        if names and name not in names:
            continue
        report(name)
        try:
            # A checkpoint that is absent or changed fails with its remedy, and the others are measured all the
            # same.
            entry(_BASES.get(name, name), root)
            checks += measure(world, root, cases)
        except ZooError as error:
            checks.append(ThresholdCheck(name, None, float("nan"), False, str(error)))
    return checks if names else [*checks, _size(root)]


def at_least(name: str, figure: float, threshold: float, detail: str, gap: str = "") -> ThresholdCheck:
    """The check of a figure that must not be smaller."""
    passed = bool(figure >= threshold)
    return ThresholdCheck(name, float(figure), threshold, passed, detail, "" if passed else gap)


def at_most(name: str, figure: float, threshold: float, detail: str) -> ThresholdCheck:
    """The check of a figure that must not be larger."""
    return ThresholdCheck(name, figure, threshold, bool(figure <= threshold), f"at most: {detail}")


def _size(root: Path) -> ThresholdCheck:
    if not manifest_path(root).is_file():
        why = "no checkpoint is there: `git checkout -- methods/zoo`, or train them"
        return ThresholdCheck("all", None, MEGABYTES, False, why)
    total = sum(line["bytes"] for line in read_manifest(root).values()) / 1e6
    return at_most("all", total, MEGABYTES, "MB of all checkpoints by the manifest")


# --- edits of a method ------------------------------------------------------------------------------


def classifier_of(root: Path) -> ClassifierNetwork:
    """The embedded attribute classifier."""
    from methods.zoo.classifier import load

    return load(entry("reader", root))


def level_1(world: World) -> World:
    """The part of the world that thresholds are measured on. Raises BenchError where it has no level 1."""
    levels = world.by_level()
    if 1 not in levels:
        names = ", ".join(map(str, levels))
        raise BenchError(f"levels {names}: thresholds are measured on level 1, so name level 1 too")
    return levels[1]


def held_out(world: World, count: int) -> list[EditCase]:
    """The first held-out cases."""
    return [world.case(-1 - i) for i in range(count)]


def edit_all(method: Any, requests: Sequence[EditRequest]) -> list[Image]:
    """The edits of all requests, in batches."""
    return [
        image
        for start in range(0, len(requests), BATCH)
        for image in method.edit(requests[start : start + BATCH])
    ]


def in_batches(editor: Editor) -> Editor:
    """An editor of any number of cases. The noise of a case follows from its place in its batch."""

    def edit(cases: Sequence[EditCase]) -> list[Image]:
        return [image for i in range(0, len(cases), BATCH) for image in editor(cases[i : i + BATCH])]

    return edit


def judge_levels(
    name: str,
    edit: Editor,
    world: World,
    root: Path,
    count: int,
    thresholds: tuple[float, float | None],
    *,
    checkpoint: str = "",
    remark: str = "",
) -> list[ThresholdCheck]:
    """The checks of :func:`judged` on level 1, then the figures of :func:`other_levels`. ``count`` edits per level."""
    cases = held_out(level_1(world), count)
    checks = judged(
        name, classifier_of(root), edit(cases), cases, thresholds, root, checkpoint=checkpoint, remark=remark
    )
    return [*checks, *other_levels(name, edit, world, root, count)]


def other_levels(name: str, edit: Editor, world: World, root: Path, count: int) -> Iterator[ThresholdCheck]:
    """The share of held-out edits that show their target, for each level above 1 and kind of edit.

    There are ``count`` edits per level, and no threshold.
    """
    classifier = classifier_of(root)
    for level, part in world.by_level().items():
        if level == 1:
            continue
        for kind, cases in by_kind(held_out(part, count)).items():
            where = f"level {level}, {kind}"
            missing = {claim.attribute for case in cases for claim in case.claims} - set(classifier.labels)
            if missing:
                reason = f"{where}: the classifier has no attribute {', '.join(sorted(missing))}"
                yield ThresholdCheck(name, None, None, True, reason)
                continue
            share = float(np.mean(recognised(classifier, edit(cases), cases)))
            yield ThresholdCheck(name, share, None, True, f"{where}, {len(cases)} edits")


def by_kind(cases: Sequence[EditCase]) -> dict[str, list[EditCase]]:
    """Category -> its cases, in alphabetical order. The categories of levels 2 and 3 are their kinds of edit."""
    kinds: dict[str, list[EditCase]] = {}
    for case in sorted(cases, key=lambda case: case.category):
        kinds.setdefault(case.category, []).append(case)
    return kinds


def judged(
    name: str,
    classifier: ClassifierNetwork,
    edited: Sequence[Image],
    cases: Sequence[EditCase],
    thresholds: tuple[float, float | None],
    root: Path,
    *,
    checkpoint: str = "",
    remark: str = "",
) -> list[ThresholdCheck]:
    """The checks of a method: the share of edits that show their target, overall and per category if requested.

    ``thresholds`` is ``TRAINED`` or ``STEERED``. ``checkpoint`` names the weights where they have another name than the
    method. ``remark`` ends the first check's detail.
    """
    overall, per_category = thresholds
    gap = training_gap(checkpoint or name, root)
    hits = recognised(classifier, edited, cases)
    by_category = {
        category: [hit for hit, case in zip(hits, cases, strict=True) if case.category == category]
        for category in CATEGORIES
    }
    shares = [(category, float(np.mean(of)), len(of)) for category, of in by_category.items() if of]
    detail = f"target shown in the region, {len(cases)} edits"
    if per_category is None:
        detail += f"; %: {', '.join(f'{category} {100 * share:.1f}' for category, share, _ in shares)}"
    checks = [at_least(name, float(np.mean(hits)), overall, detail + remark, gap)]
    if per_category is not None:
        checks += [
            at_least(name, share, per_category, f"{category}, {n} edits", gap)
            for category, share, n in shares
        ]
    return checks


def recognised(
    classifier: ClassifierNetwork, edited: Sequence[Image], cases: Sequence[EditCase]
) -> list[bool]:
    """True if the classifier recognises every expected attribute change of a case, each within its own region."""
    images, regions, expected = [], [], []
    for image, case in zip(edited, cases, strict=True):
        for claim in case.claims:
            images.append(np.asarray(image.convert("RGB"), np.uint8))
            regions.append(mask_array(case.areas[claim.region]))
            expected.append((case.id, claim))
    # One wrong answer makes the whole case wrong.
    hits = {case.id: True for case in cases}
    answers = classifier.read(np.stack(images), np.stack(regions))
    for answer, (case_id, claim) in zip(answers, expected, strict=True):
        hits[case_id] &= _says(answer, claim.attribute, claim.after)
    return [hits[case.id] for case in cases]


def _says(answer: dict[str, dict[str, float]], attribute: str, value: str) -> bool:
    # A classifier of level 1 lacks the attributes of level 3.
    probabilities = answer.get(attribute)
    return probabilities is not None and max(probabilities, key=probabilities.__getitem__) == value


# --- the measures -----------------------------------------------------------------------------------


def _check_reader(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.classifier_recipe import accuracy, edit_accuracy

    classifier, first = classifier_of(root), level_1(world)
    # Renders by head, then edits, then junk, then the other levels.
    heads = accuracy(classifier, first, 10 * cases)
    worst = min(heads, key=heads.__getitem__)
    detail = ", ".join(f"{name} {100 * value:.1f}" for name, value in heads.items())
    edits = edit_accuracy(classifier, first, 2 * cases)
    return [
        at_least("reader", heads[worst], 0.98, f"accuracy of its worst head, {worst}; all: {detail}"),
        at_least("reader", edits["ideal"], 0.98, f"every claim read off ideal edits, {2 * cases} of them"),
        at_least("reader", edits["spoiled"], 0.95, f"spoiled edits read as other, {2 * cases} of them"),
        *junk_checks(classifier, first, cases),
        *(
            _truths_read(classifier, level, part, cases)
            for level, part in world.by_level().items()
            if level > 1
        ),
    ]


def _truths_read(classifier: ClassifierNetwork, level: int, world: World, count: int) -> ThresholdCheck:
    """The check that the classifier reads every expected value off the ground truths of a level."""
    shares, hits = [], 0.0
    for kind, cases in by_kind(held_out(world, count)).items():
        share = float(np.mean(recognised(classifier, [truth_of(case) for case in cases], cases)))
        hits += share * len(cases)
        shares.append(f"{kind} {100 * share:.1f}")
    detail = f"level {level}, ground truths read, {count} of them; %: {', '.join(shares)}"
    return at_least("reader", hits / count, READ, detail)


def truth_of(case: EditCase) -> Image:
    """The ground truth of a case. Every case of the rendered world has one."""
    assert case.truth is not None
    return case.truth


def junk_checks(classifier: ClassifierNetwork, world: World, count: int) -> Iterator[ThresholdCheck]:
    """One check for each control that fills the region with junk."""
    from bench.edit import NoOptions
    from methods.controls import FlatColorFill, NoiseFill

    cases = held_out(world, count)
    requests = [replace(case.request, seed=position) for position, case in enumerate(cases)]
    for name, control in (("noise", NoiseFill), ("flat colour", FlatColorFill)):
        hits = recognised(classifier, control(NoOptions(), Runtime()).edit(requests), cases)
        detail = f"regions filled with {name} in which the target is seen, {count} of them"
        yield at_most("reader", float(np.mean(hits)), JUNK, detail)


def _check_autoencoder(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.autoencoder import load_vae, psnr
    from methods.zoo.classifier_recipe import preserved

    vae = load_vae(root)
    same = preserved(classifier_of(root), world, vae, cases)
    return [
        at_least("autoencoder", psnr(vae, world, cases), 28.0, "PSNR of reconstructions, dB"),
        at_least("autoencoder", same, 0.96, "attributes that reconstructions keep, as read"),
    ]


def _check_text_to_image(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.diffusion import load_parts, pipeline
    from methods.zoo.grids import generate

    generator = pipeline("text_to_image", load_parts("text_to_image", root))
    prompts = [world.described(-1 - i)[1:] for i in range(cases)]
    classifier, right, total = classifier_of(root), 0, 0
    for start in range(0, cases, BATCH):
        batch = prompts[start : start + BATCH]
        images = np.stack(
            [np.asarray(x.convert("RGB")) for x in generate(generator, [text for text, _ in batch])]
        )
        # The region is the whole image.
        everywhere = np.ones(images.shape[:3], bool)
        for answer, (_, labels) in zip(classifier.read(images, everywhere), batch, strict=True):
            right += sum(_says(answer, name, value) for name, value in labels.items())
            total += len(labels)
    return [at_least("text_to_image", right / total, 0.80, f"named attributes that show, {total} of them")]


def _check_editor(name: str, world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.diffusion import load_parts, pipeline
    from methods.zoo.grids import edit

    editor = partial(edit, name, pipeline(name, load_parts(name, root)))
    return judge_levels(name, in_batches(editor), world, root, cases, TRAINED)


def _check_prompt_edit_diff(variant: str, world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.prompt_edit_diff import edit, load, pipeline

    editor = partial(edit, pipeline(*load(variant, root)))
    return judge_levels(variant, in_batches(editor), world, root, cases, TRAINED)


def _check_steered(name: str, target: str, world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """A method without weights of its own: its adapter ``target`` edits with the base, by its preset ``mini``."""
    cls = _imported(target)
    options = replace(cls.Options(**cls.PRESETS["mini"]), weights=str(entry("text_to_image", root)))
    method = cls(options, Runtime())

    def edit(edits: Sequence[EditCase]) -> list[Image]:
        return edit_all(method, [replace(case.request, seed=i) for i, case in enumerate(edits)])

    return judge_levels(
        name, edit, world, root, cases, STEERED, checkpoint="text_to_image",
        remark=f"; {options.steps} steps of text_to_image",
    )  # fmt: skip


def _check_clip_guide(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.clip import EmbeddedClip, caption_choice

    figure = caption_choice(EmbeddedClip(entry("clip_guide", root)), world, cases)
    return [at_least("clip_guide", figure, 0.95, "prefers an edit's own prompt to its source's")]


def _check_clip(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.zoo.clip import EmbeddedClip, caption_choice, zero_shot

    model = EmbeddedClip(entry("clip", root))
    figure = caption_choice(model, world, cases)
    accuracies = zero_shot(model, world, cases)
    worst = min(accuracies, key=accuracies.__getitem__)
    detail = ", ".join(f"{name} {100 * value:.1f}" for name, value in accuracies.items())
    return [
        at_least("clip", figure, 0.95, "prefers an edit's own prompt to its source's"),
        at_least(
            "clip", accuracies[worst], 0.90, f"zero-shot top-1 of its worst attribute, {worst}; all: {detail}"
        ),
    ]


def _check_elsewhere(target: str, world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """A measure that is defined in the module of its recipe."""
    checks: list[ThresholdCheck] = _imported(target)(world, root, cases)
    return checks


def _imported(target: str) -> Any:
    """``"module:name"`` => the object. The import happens on use."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _on_level_1(measure: Measure) -> Measure:
    return lambda world, root, cases: measure(level_1(world), root, cases)


# Methods without a checkpoint of their own, and the checkpoint that they edit with.
_BASES = dict.fromkeys(("blended_latent_diffusion", "latent_blending", "sdedit"), "text_to_image")

_MEASURES: dict[str, Measure] = {
    "reader": _check_reader,
    "autoencoder": _on_level_1(_check_autoencoder),
    "text_to_image": _on_level_1(_check_text_to_image),
    "sd_inpainting": partial(_check_editor, "sd_inpainting"),
    "instruct_pix2pix": partial(_check_editor, "instruct_pix2pix"),
    "controlnet_inpaint": partial(_check_editor, "controlnet_inpaint"),
    "smartbrush": partial(_check_elsewhere, "methods.zoo.smartbrush:check_smartbrush"),
    "instance_diffusion": partial(
        _check_elsewhere, "methods.zoo.instance_diffusion:check_instance_diffusion"
    ),
    "blended_latent_diffusion": partial(
        _check_steered, "blended_latent_diffusion", "methods.blended_latent_diffusion:BlendedLatentDiffusion"
    ),
    "latent_blending": partial(_check_steered, "latent_blending", "methods.latent_blending:LatentBlending"),
    "sdedit": partial(_check_steered, "sdedit", "methods.diffusion.stable_diffusion:SdEdit"),
    "glide": partial(_check_elsewhere, "methods.zoo.glide:check_glide"),
    "blended_diffusion": partial(_check_elsewhere, "methods.zoo.adm:check_blended_diffusion"),
    "lama": _on_level_1(partial(_check_elsewhere, "methods.zoo.lama:check_lama")),
    **{name: partial(_check_prompt_edit_diff, name) for name in VARIANTS},
    "clip": _on_level_1(_check_clip),
    "clip_guide": _on_level_1(_check_clip_guide),
}
