"""From a composed scene and what shall change in it to an edit case with its exact ground truth.

Levels 2 and 3 share this. The ground truth is the scene drawn again with the changes, inside the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.edit import Claim, EditCase, EditRequest, Region, ScoredAreas
from bench.images import from_array, mask_image
from protocols.masks import Mask, apart, dilate, union, usable
from protocols.prompts import BACKGROUNDS, join, noun, with_article
from protocols.scenes import MINI_SCENES, EditableScene, Instance, SceneRecord
from protocols.world.scenes import CATEGORIES, Object, Scene, render_scene

# How far a mask reaches beyond the silhouette, in pixels at 64 px: all pixels that an outline blends with, even at the
# tips of sails and canopies. Level 1 has 1.5, which leaves out some of them.
_RIM = 2.3


@dataclass(frozen=True)
class Part:
    """One object that an edit is about: what of it changes, and the words that say so."""

    index: int
    """Index of the object in its scene."""
    prompt: str
    """Description of the region after the edit: "a blue cup"."""
    words: tuple[str, ...]
    changes: Mapping[str, str] = field(default_factory=dict)
    """Attribute (color, category, trim) -> new value. Empty: it lies in the mask and must stay as it is."""


@dataclass(frozen=True)
class SceneTexts:
    """The prompts of one edit."""

    source: str
    target: str
    instruction: str
    region: str
    """Description of what the mask shows after the edit."""
    words: tuple[str, ...]
    """Words of the target prompt that the edit adds or changes."""


@dataclass(frozen=True)
class SceneEdit:
    """A scene, what shall change in it, and the words for it."""

    kind: str
    paper_category: str
    """Which of the paper's four categories the kind belongs to."""
    scene: Scene
    parts: Sequence[Part]
    texts: SceneTexts
    hide_regions: bool = False
    """The method gets the union of the masks and no regions, so that the words alone say what changes where. Metrics
    still look at each region by itself."""

    @property
    def edited(self) -> Scene:
        return edited_scene(self.scene, self.parts)


def compose(edit: SceneEdit, id: str) -> EditCase | None:
    """The case, or None where it would be unsound.

    That is where the mask leaves nothing to edit or to keep, where two regions overlap, and where the edit changes a
    pixel outside the mask.
    """
    scene, parts, texts = edit.scene, edit.parts, edit.texts
    # Source and ground truth, drawn whole.
    before, masks = render_scene(scene)
    after, _ = render_scene(edit.edited)

    # Masks.
    changed = (before != after).any(axis=2)
    areas = _areas(edit, before, masks, changed)
    mask = union(areas, before.shape[:2])
    if not apart(areas) or not all(map(usable, areas)) or not usable(mask):
        return None
    # A blended pixel outside would show the colour that was there, and so the answer to a swap. Only another class may
    # change more than its box, by its shadow.
    if (changed & ~mask).any() and not any("category" in part.changes for part in parts):
        return None

    # The request, and the regions that metrics look at.
    regions = tuple(
        Region(mask_image(area), part.prompt, part.words) for area, part in zip(areas, parts, strict=True)
    )
    several = regions if len(regions) > 1 else ()
    request = EditRequest(
        source=from_array(before),
        mask=mask_image(mask),
        source_prompt=texts.source,
        target_prompt=texts.target,
        region_prompt=texts.region,
        instruction=texts.instruction,
        edit_words=texts.words,
        regions=() if edit.hide_regions else several,
    )
    return EditCase(
        id=id,
        category=edit.kind,
        request=request,
        source_id=id,
        claims=_claims(scene, edit.edited, parts),
        truth=from_array(np.where(mask[..., None], after, before)),
        tags={"kind": edit.kind, "paper_category": edit.paper_category},
        scored=ScoredAreas(request.needed_mask, several) if edit.hide_regions and several else None,
    )


def _areas(edit: SceneEdit, pixels: NDArray[np.uint8], masks: Sequence[Mask], changed: Mask) -> list[Mask]:
    """Mask of each part, empty where a box would cover a neighbour."""
    areas: list[Mask] = []
    for part in edit.parts:
        if "category" in part.changes:
            box = class_box(edit.scene, pixels, masks, part.index)
            areas.append(np.zeros_like(changed) if box is None else box)
        elif "trim" in part.changes:
            # The pixels that its colour changes, and no more.
            areas.append(changed)
        else:
            areas.append(dilate(masks[part.index], _RIM))
    return areas


def class_box(scene: Scene, pixels: NDArray[np.uint8], masks: Sequence[Mask], index: int) -> Mask | None:
    """The box in which an object may become another class, bool (H, W). None where it would cover a neighbour.

    ``pixels`` and ``masks`` are those of the drawn scene.
    """
    return EditableScene(_record(scene, pixels, masks), MINI_SCENES).mask(index, "category")


def edited_scene(scene: Scene, parts: Sequence[Part]) -> Scene:
    """The scene with every change of the parts."""
    for part in parts:
        for attribute, value in part.changes.items():
            scene = scene.with_claim(attribute, value, part.index)
    return scene


def _record(scene: Scene, pixels: NDArray[np.uint8], masks: Sequence[Mask]) -> SceneRecord:
    """The scene as an annotated image without captions: these edits bring their own words."""
    instances = [
        Instance(str(k), thing.category, CATEGORIES[thing.category].supercategory, mask)
        for k, (thing, mask) in enumerate(zip(scene.objects, masks, strict=True))
    ]
    return SceneRecord("", from_array(pixels), instances, ())


def _claims(scene: Scene, edited: Scene, parts: Sequence[Part]) -> tuple[Claim, ...]:
    """Class, colour and trim of every part. What does not change has to stay.

    The area of a trim holds the trim's pixels alone. The object's class and colour lie outside it, where leakage
    measures them.
    """
    claims = []
    for region, part in enumerate(parts):
        old, new = scene.objects[part.index], edited.objects[part.index]
        for attribute in ("trim",) if "trim" in part.changes else ("color", "category", "trim"):
            before, after = getattr(old, attribute), getattr(new, attribute)
            if before is not None and after is not None:
                claims.append(Claim(attribute, before, after, region))
    return tuple(claims)


# --- words ----------------------------------------------------------------------------------------------


def object_phrase(thing: Object) -> str:
    """An object with its colour and the trim that it has been given: "a red bus with a blue trim"."""
    text = with_article(f"{thing.color} {noun(thing.category)}")
    return text if thing.trim is None else f"{text} with {with_article(thing.trim)} trim"


def in_place(text: str, backdrop: str) -> str:
    """A description with the background that it is seen against: "a red cup on a beach"."""
    return f"{text} {BACKGROUNDS[backdrop].phrase}"


def listed(scene: Scene, order: Sequence[int]) -> str:
    """The caption of a scene that names its objects in an order of its own, which tells nothing about their places."""
    return in_place(join([object_phrase(scene.objects[index]) for index in order]), scene.backdrop)
