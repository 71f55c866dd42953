"""One random edit of an annotated scene: what the zoo's training data is made of.

A benchmark selects its cases by hash (``protocols.selection``). A training draws as many as it wants, so each is drawn
from a random generator, and only the drawn one is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.edit import CATEGORIES, EditCase
from protocols.scenes import (
    MULTI_SIZES,
    EditableScene,
    SceneOptions,
    SceneRecord,
    Target,
    free_targets,
    scene_kinds,
)


def random_scene_case(
    record: SceneRecord,
    rng: np.random.Generator,
    options: SceneOptions,
    category: str | None = None,
) -> EditCase | None:
    """One sensible edit: a category, then an instance, a kind and a target, each drawn evenly.

    Only the drawn edit is built. None where the record admits no edit (of this category).
    """
    scene = EditableScene(record, options)
    wanted = CATEGORIES if category is None else (category,)
    for i in rng.permutation(len(wanted)):
        case = _draw(scene, wanted[i], rng)
        if case is not None:
            return case
    return None


def _draw(scene: EditableScene, category: str, rng: np.random.Generator) -> EditCase | None:
    case = None
    if category == "background":
        targets = scene.options.backgrounds
        for n in rng.permutation(len(targets)):
            case = case or scene.background_case(targets[n])
        return case
    if category == "multi_object":
        groups = [found for size in MULTI_SIZES for found in scene.groups(int(size))]
        for n in rng.permutation(len(groups)):
            caption, group = groups[n]
            case = case or _draw_group(scene, caption, group, rng)
        return case
    plans = [
        (i, caption, targets[kind])
        for i, (caption, targets) in scene.plans.items()
        for kind in scene_kinds(category, scene.options)
        if kind in targets
    ]
    for n in rng.permutation(len(plans)):
        i, caption, choices = plans[n]
        case = case or scene.object_case(caption, [(i, choices[rng.integers(len(choices))])], category)
    return case


def _draw_group(
    scene: EditableScene, caption: int, group: Sequence[int], rng: np.random.Generator
) -> EditCase | None:
    changes: list[tuple[int, Target]] = []
    for i in group:
        left = free_targets(scene.targets(i, scene.phrases[caption][i]), changes)
        if not left:
            return None
        choices = left[list(left)[rng.integers(len(left))]]
        changes.append((i, choices[rng.integers(len(choices))]))
    return scene.object_case(caption, changes, "multi_object")
