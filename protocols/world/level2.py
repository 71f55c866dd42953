"""Level 2: several objects of one class, in the words of level 1. Only bindings are harder.

Which of two cups becomes red is told by the regions, and by what the source shows inside the mask. The caption names
the objects in a shuffled order, so that their order tells nothing. A method that sees neither the regions nor the
inside can only guess: ``CEILINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protocols.prompts import join, noun
from protocols.world.arrange import draw_categories, draw_category, draw_colors, row, scene_of
from protocols.world.composed import Part, SceneEdit, SceneTexts, edited_scene, listed, object_phrase
from protocols.world.scenes import CATEGORIES, Scene

PAPER_CATEGORIES: Mapping[str, str] = {
    "swap2": "multi_object",
    "perm3": "multi_object",
    "one_of_3": "attribute",
    "cross2": "multi_object",
}
"""Kind -> the category of the paper that it belongs to.

* swap2: two objects of one class exchange their colours
* perm3: the colours of three objects of one class move on by one object
* one_of_3: one of three objects of one class gets another colour
* cross2: two objects exchange their classes, under box masks
"""

CEILINGS: Mapping[str, float] = {"swap2": 1 / 2, "perm3": 1 / 6}
"""Expected success of the best guess without regions and without the inside: one of 2! and 3! orders of colours."""

# Index of an object -> attribute -> new value.
Changes = Mapping[int, Mapping[str, str]]

# Scales of two and of three objects side by side.
_PAIR, _TRIPLE = (12.5, 14.5), (9.0, 11.5)
_GROUNDED = tuple(name for name, category in CATEGORIES.items() if not category.floats)


def level_2_edit(kind: str, seed: int) -> SceneEdit:
    """The edit of one kind that belongs to a seed."""
    rng = np.random.Generator(np.random.PCG64([seed, 21]))
    scene, changes = _KINDS[kind](rng, seed)
    order = [int(index) for index in rng.permutation(len(scene.objects))]
    return edit_of(kind, scene, changes, order)


def edit_of(kind: str, scene: Scene, changes: Changes, order: Sequence[int]) -> SceneEdit:
    """The edit whose prompts name the objects in this order."""
    # The regions come in the order of the words, as in level 1.
    changed = [index for index in order if index in changes]
    parts = [_part(scene, index, changes[index]) for index in changed]
    edited = edited_scene(scene, parts)
    texts = SceneTexts(
        source=listed(scene, order),
        target=listed(edited, order),
        instruction=join([_instruction(scene, edited, index) for index in changed]),
        region=join([part.prompt for part in parts]),
        words=tuple(dict.fromkeys(word for part in parts for word in part.words)),
    )
    return SceneEdit(kind, PAPER_CATEGORIES[kind], scene, parts, texts)


def _part(scene: Scene, index: int, changes: Mapping[str, str]) -> Part:
    thing = edited_scene(scene, [Part(index, "", (), changes)]).objects[index]
    return Part(index, object_phrase(thing), (thing.color, noun(thing.category)), changes)


def _instruction(scene: Scene, edited: Scene, index: int) -> str:
    old, new = scene.objects[index], edited.objects[index]
    if new.category != old.category:
        return f"turn the {old.color} {noun(old.category)} into {object_phrase(new)}"
    return f"make the {old.color} {noun(old.category)} {new.color}"


# --- kinds ----------------------------------------------------------------------------------------------


def _swap2(rng: np.random.Generator, seed: int) -> tuple[Scene, Changes]:
    colors = draw_colors(rng, 2)
    scene = scene_of(rng, seed, row(rng, [draw_category(rng)] * 2, colors, _PAIR))
    return scene, _recolored(colors[::-1])


def _perm3(rng: np.random.Generator, seed: int) -> tuple[Scene, Changes]:
    colors = draw_colors(rng, 3)
    scene = scene_of(rng, seed, row(rng, [draw_category(rng)] * 3, colors, _TRIPLE))
    step = 1 if rng.random() < 0.5 else -1
    return scene, _recolored(colors[step:] + colors[:step])


def _one_of_3(rng: np.random.Generator, seed: int) -> tuple[Scene, Changes]:
    *colors, new = draw_colors(rng, 4)
    scene = scene_of(rng, seed, row(rng, [draw_category(rng)] * 3, colors, _TRIPLE))
    return scene, {int(rng.integers(3)): {"color": new}}


def _cross2(rng: np.random.Generator, seed: int) -> tuple[Scene, Changes]:
    # On the ground alone: a car in a kite's place would hang in the sky.
    names = draw_categories(rng, 2, _GROUNDED)
    scene = scene_of(rng, seed, row(rng, names, draw_colors(rng, 2), _PAIR))
    return scene, {0: {"category": names[1]}, 1: {"category": names[0]}}


def _recolored(colors: Sequence[str]) -> Changes:
    return {index: {"color": color} for index, color in enumerate(colors)}


_KINDS: Mapping[str, Callable[[np.random.Generator, int], tuple[Scene, Changes]]] = {
    "swap2": _swap2,
    "perm3": _perm3,
    "one_of_3": _one_of_3,
    "cross2": _cross2,
}
