"""One random edit of an annotated scene, for training.

A benchmark selects its cases by hash (``protocols.selection``). A training needs any number of them, so each one comes
from a random generator, and no other case is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.edit import CATEGORIES, EditCase
from protocols.scenes import EditableScene, SceneOptions, SceneRecord, Target, free_targets, scene_kinds
from protocols.selection import MULTI_SIZES


def random_scene_case(
    record: SceneRecord,
    rng: np.random.Generator,
    options: SceneOptions,
    category: str | None = None,
) -> EditCase | None:
    """One random edit: a category, then an instance and kind, then a target, each uniform over those possible.

    None where the record allows no edit, or none of this category.
    """
    scene = EditableScene(record, options)
    categories = CATEGORIES if category is None else (category,)
    for i in rng.permutation(len(categories)):
        case = _random_case(scene, categories[i], rng)
        if case is not None:
            return case
    return None


# The order of calls to the generator below is fixed: the corpora of trained checkpoints depend on it. So a loop over a
# permutation tries candidates until one gives a case.


def _random_case(scene: EditableScene, category: str, rng: np.random.Generator) -> EditCase | None:
    if category == "background":
        return _random_background_case(scene, rng)
    if category == "multi_object":
        return _random_group_case(scene, rng)
    return _random_object_case(scene, category, rng)


def _random_background_case(scene: EditableScene, rng: np.random.Generator) -> EditCase | None:
    targets = scene.options.backgrounds
    for n in rng.permutation(len(targets)):
        case = scene.background_case(targets[n])
        if case is not None:
            return case
    return None


def _random_object_case(scene: EditableScene, category: str, rng: np.random.Generator) -> EditCase | None:
    plans = [
        (i, caption, targets[kind])
        for i, (caption, targets) in scene.plans.items()
        for kind in scene_kinds(category, scene.options)
        if kind in targets
    ]
    for n in rng.permutation(len(plans)):
        i, caption, targets = plans[n]
        case = scene.object_case(caption, [(i, targets[rng.integers(len(targets))])], category)
        if case is not None:
            return case
    return None


def _random_group_case(scene: EditableScene, rng: np.random.Generator) -> EditCase | None:
    groups = [group for size in MULTI_SIZES for group in scene.groups(int(size))]
    for n in rng.permutation(len(groups)):
        caption, instances = groups[n]
        changes = _random_changes(scene, caption, instances, rng)
        case = scene.object_case(caption, changes, "multi_object") if changes else None
        if case is not None:
            return case
    return None


def _random_changes(
    scene: EditableScene, caption: int, instances: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, Target]] | None:
    """One change of each instance, no two of them alike. None where an instance has no target left."""
    changes: list[tuple[int, Target]] = []
    for i in instances:
        targets = free_targets(scene.targets(i, scene.phrases[caption][i]), changes)
        if not targets:
            return None
        options = targets[list(targets)[rng.integers(len(targets))]]
        changes.append((i, options[rng.integers(len(options))]))
    return changes
