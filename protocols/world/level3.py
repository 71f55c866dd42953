"""Level 3: relations, references and swaps in new words, and parts and objects that are small or half hidden.

No regions tell which object is meant. In the kinds ``relational`` and ``swap`` the mask covers every object of the
class, so that the words alone locate the edit. The objects that must stay are checked too: a method that recolours the
wrong cup, or all of them, does not succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protocols.prompts import join, noun, plural, with_article
from protocols.world.arrange import (
    behind,
    draw_categories,
    draw_category,
    draw_colors,
    row,
    scene_of,
    stack,
)
from protocols.world.composed import Part, SceneEdit, SceneTexts, in_place, listed, object_phrase
from protocols.world.scenes import CATEGORIES, TRIMMED, Object, Scene, render_scene

PAPER_CATEGORIES: Mapping[str, str] = {
    "relational": "attribute",
    "reference": "attribute",
    "swap": "multi_object",
    "trim": "attribute",
    "occluded": "attribute",
    "small": "attribute",
}
"""Kind -> the category of the paper that it belongs to.

* relational: "make the left cup red", "make the cup above the car red"
* reference: "make the cup the same color as the car", the car outside the mask, its colour not named
* swap: "swap the colors of the two cups"
* trim: stripes, a label, straps, a cross or a rim get another colour: parts of 1 to 3 px
* occluded: an object partly behind another one gets another colour
* small: one of several objects of 8 to 11 px gets another colour
"""

_PAIR, _TRIPLE, _STACK = (12.5, 14.5), (9.0, 11.5), (7.5, 9.5)
_GROUNDED = tuple(name for name, category in CATEGORIES.items() if not category.floats)
# Longer side of a small object, in units: pixels at 64 px.
_SMALL = (8.0, 11.0)
# Share of the object behind that is seen. With less, nobody could name it. With more, hardly anything is hidden.
_LEAST_SEEN, _MOST_SEEN = 0.4, 0.85

Edit = tuple[Scene, list[Part], SceneTexts]


def level_3_edit(kind: str, seed: int) -> SceneEdit | None:
    """The edit of one kind that belongs to a seed. None where one object hides too much or too little of another."""
    rng = np.random.Generator(np.random.PCG64([seed, 22]))
    edit = _KINDS[kind](rng, seed)
    if edit is None:
        return None
    return SceneEdit(kind, PAPER_CATEGORIES[kind], *edit, hide_regions=True)


# --- relations ------------------------------------------------------------------------------------------


def _relational(rng: np.random.Generator, seed: int) -> Edit:
    """One of two or three objects of a class, told by its place."""
    place = ("left", "right", "middle", "above", "below")[int(rng.integers(5))]
    name = draw_category(rng)
    *colors, new = draw_colors(rng, 4)
    flipped = bool(rng.random() < 0.5)
    if place in ("left", "right"):
        objects = row(rng, [name] * 2, colors[:2], _PAIR)
        alike, target = [0, 1], 0 if place == "left" else 1
        instruction = f"make the {place} {noun(name)} {new}"
        describe = _beside
    elif place == "middle":
        objects = row(rng, [name] * 3, colors, _TRIPLE)
        alike, target = [0, 1, 2], 1
        instruction = f"make the middle {noun(name)} {new}"
        describe = _between
    else:
        anchor = draw_category(rng, [other for other in CATEGORIES if other != name])
        objects = stack(rng, [name, anchor, name], colors, _STACK)
        alike, target = [0, 2], 0 if place == "above" else 2
        instruction = f"make the {noun(name)} {place} the {noun(anchor)} {new}"
        describe = _around
    scene = scene_of(rng, seed, objects)
    edited = scene.with_claim("color", new, target)
    parts = [_recolor(edited, index, new if index == target else None) for index in alike]
    words = (new, noun(name))
    return scene, parts, _texts(scene, edited, lambda s: describe(s.objects, flipped), instruction, words)


def _swap(rng: np.random.Generator, seed: int) -> Edit:
    """Two objects of a class exchange their colours, which the instruction does not name."""
    name, colors = draw_category(rng), draw_colors(rng, 2)
    flipped, upright = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
    objects = stack(rng, [name] * 2, colors, _PAIR) if upright else row(rng, [name] * 2, colors, _PAIR)
    describe = _over if upright else _beside
    scene = scene_of(rng, seed, objects)
    edited = scene.with_claim("color", colors[1], 0).with_claim("color", colors[0], 1)
    parts = [_recolor(edited, index, colors[1 - index]) for index in (0, 1)]
    owners = ("of the two", "of both")[int(rng.integers(2))]
    instruction = f"swap the colors {owners} {plural(noun(name))}"
    words = (colors[1], noun(name), colors[0])
    return scene, parts, _texts(scene, edited, lambda s: describe(s.objects, flipped), instruction, words)


def _beside(objects: Sequence[Object], flipped: bool) -> str:
    left, right = map(object_phrase, objects)
    return f"{right} right of {left}" if flipped else f"{left} left of {right}"


def _over(objects: Sequence[Object], flipped: bool) -> str:
    upper, lower = map(object_phrase, objects)
    return f"{lower} below {upper}" if flipped else f"{upper} above {lower}"


def _between(objects: Sequence[Object], flipped: bool) -> str:
    first, middle, last = map(object_phrase, objects)
    return f"{middle} in the middle of {join([last, first] if flipped else [first, last])}"


def _around(objects: Sequence[Object], flipped: bool) -> str:
    upper, anchor, lower = objects
    things = [(object_phrase(upper), "above"), (object_phrase(lower), "below")]
    (first, side), (second, other) = things[::-1] if flipped else things
    return f"{first} {side} {object_phrase(anchor)} and {second} {other} the {noun(anchor.category)}"


# --- references -----------------------------------------------------------------------------------------


def _reference(rng: np.random.Generator, seed: int) -> Edit:
    """An object takes the colour of another one outside the mask. A third object shows a colour that is wrong."""
    names, colors = draw_categories(rng, 3), draw_colors(rng, 3)
    scene = scene_of(rng, seed, row(rng, names, colors, _TRIPLE))
    target, model, third = (int(index) for index in rng.permutation(3))
    own, other = noun(names[target]), noun(names[model])
    same = f"{with_article(own)} the same color as the {other}"
    plain = [with_article(noun(names[index])) for index in (model, third)]
    order = [int(index) for index in rng.permutation(3)]

    def caption(phrase: str) -> str:
        phrases = [phrase, *plain]
        return in_place(join([phrases[index] for index in order]), scene.backdrop)

    words = ("same", "color", own)
    texts = SceneTexts(
        source=caption(object_phrase(scene.objects[target])),
        target=caption(same),
        instruction=f"make the {own} the same color as the {other}",
        region=same,
        words=words,
    )
    return scene, [Part(target, same, words, {"color": colors[model]})], texts


# --- small, thin and hidden -----------------------------------------------------------------------------


def _trim(rng: np.random.Generator, seed: int) -> Edit:
    """The trim of one object, often beside another one."""
    name = draw_category(rng, TRIMMED)
    color, other_color, trim, new = draw_colors(rng, 4)
    beside = (
        [draw_category(rng, [other for other in CATEGORIES if other != name])] if rng.random() < 0.5 else []
    )
    colors = [color, other_color][: 1 + len(beside)]
    objects = row(rng, [name, *beside], colors, _PAIR if beside else (13.0, 15.5))
    scene = scene_of(rng, seed, objects).with_claim("trim", trim, 0)
    edited = scene.with_claim("trim", new, 0)
    order = [int(index) for index in rng.permutation(len(objects))]
    words = (new, "trim", noun(name))
    part = Part(0, object_phrase(edited.objects[0]), words, {"trim": new})
    instruction = f"make the trim of the {noun(name)} {new}"
    return scene, [part], _texts(scene, edited, lambda s: listed(s, order), instruction, words, part.prompt)


def _occluded(rng: np.random.Generator, seed: int) -> Edit | None:
    """The object behind another one of another class."""
    names = draw_categories(rng, 2, _GROUNDED)
    *colors, new = draw_colors(rng, 3)
    scene = scene_of(rng, seed, behind(rng, names, colors))
    alone = Scene(seed, scene.backdrop, scene.objects[:1])
    visible_share = render_scene(scene)[1][0].sum() / render_scene(alone)[1][0].sum()
    if not _LEAST_SEEN <= visible_share <= _MOST_SEEN:
        return None
    order = [int(index) for index in rng.permutation(2)]
    return _one_recolored(scene, 0, new, order, f"make the {noun(names[0])} {new}")


def _small(rng: np.random.Generator, seed: int) -> Edit:
    """One of three or four small objects of one class."""
    name, count = draw_category(rng), 3 + int(rng.integers(2))
    *colors, new = draw_colors(rng, count + 1)
    category = CATEGORIES[name]
    longer = max(2 * category.half_width, category.height)
    scales = (_SMALL[0] / longer, _SMALL[1] / longer)
    scene = scene_of(rng, seed, row(rng, [name] * count, colors, scales, feet=(40.0, 60.0)))
    target = int(rng.integers(count))
    order = [int(index) for index in rng.permutation(count)]
    return _one_recolored(scene, target, new, order, f"make the {colors[target]} {noun(name)} {new}")


def _one_recolored(scene: Scene, index: int, new: str, order: Sequence[int], instruction: str) -> Edit:
    edited = scene.with_claim("color", new, index)
    part = _recolor(edited, index, new)
    return (
        scene,
        [part],
        _texts(scene, edited, lambda s: listed(s, order), instruction, part.words, part.prompt),
    )


def _recolor(edited: Scene, index: int, new: str | None) -> Part:
    """An object with its new colour. None: it lies in the mask and keeps its own."""
    thing = edited.objects[index]
    words = (thing.color, noun(thing.category))
    return Part(index, object_phrase(thing), words, {} if new is None else {"color": new})


def _texts(
    scene: Scene,
    edited: Scene,
    describe: Callable[[Scene], str],
    instruction: str,
    words: tuple[str, ...],
    region: str | None = None,
) -> SceneTexts:
    """``describe`` says what a scene shows. ``region``: what the mask shows, None: all that ``describe`` says."""
    target = describe(edited)
    if region is not None:
        return SceneTexts(describe(scene), target, instruction, region, words)
    return SceneTexts(
        in_place(describe(scene), scene.backdrop),
        in_place(target, scene.backdrop),
        instruction,
        target,
        words,
    )


_KINDS: Mapping[str, Callable[[np.random.Generator, int], Edit | None]] = {
    "relational": _relational,
    "reference": _reference,
    "swap": _swap,
    "trim": _trim,
    "occluded": _occluded,
    "small": _small,
}
