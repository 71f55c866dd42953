"""One random edit of an annotated face, for training.

A benchmark selects its cases by hash (``protocols.selection``). A training needs any number of them, so each one comes
from a random generator, and no other case is built.
"""

from __future__ import annotations

import numpy as np

from bench.edit import CATEGORIES, EditCase
from protocols.faces import EditableFace, FaceRecord, kind_names


def random_face_case(
    record: FaceRecord,
    rng: np.random.Generator,
    category: str | None = None,
) -> EditCase | None:
    """One random edit: a category, then a kind, then a target, each uniform over those possible.

    None where the record allows no edit, or none of this category.
    """
    face = EditableFace(record)
    categories = CATEGORIES if category is None else (category,)
    for i in rng.permutation(len(categories)):
        case = _random_case(face, categories[i], rng)
        if case is not None:
            return case
    return None


# The order of calls to the generator below is fixed: the corpora of trained checkpoints depend on it.


def _random_case(face: EditableFace, category: str, rng: np.random.Generator) -> EditCase | None:
    if category == "background":
        targets = face.options.backgrounds
        return face.background_case(targets[rng.integers(len(targets))])
    if category == "multi_object":
        return _random_group_case(face, rng)
    kinds = [kind for kind in kind_names(category) if kind in face.changes]
    if not kinds:
        return None
    changes = face.changes[kinds[rng.integers(len(kinds))]]
    return face.part_case([changes[rng.integers(len(changes))]], category)


def _random_group_case(face: EditableFace, rng: np.random.Generator) -> EditCase | None:
    """Two or three changes. Three become two where no third kind is compatible."""
    size = int(rng.integers(2, 4))
    candidates = list(face.changes)
    kinds: list[str] = []
    for i in rng.permutation(len(candidates)):
        if len(kinds) < size and face.are_compatible([*kinds, candidates[i]]):
            kinds.append(candidates[i])
    if len(kinds) < 2:
        return None
    # In the order of ``face.changes``, which is the order in which prompts name the kinds.
    changes = [options[rng.integers(len(options))] for kind, options in face.changes.items() if kind in kinds]
    return face.part_case(changes, "multi_object")
