"""The edits that one face allows: which ones make sense, their masks, and their prompts.

It reads no files: a record in memory goes in, cases come out. ``protocols.celeba_hq`` reads the data set, and the mini
world makes its records from what it renders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
from PIL import Image

from bench.edit import Claim, EditCase
from protocols.masks import Mask, apart, bounds, dilate, erode, rounded_box, union, usable
from protocols.prompts import (
    BACKGROUNDS,
    HAIR_COLORS,
    MOUTH_REGIONS,
    MOUTH_WORDS,
    MOUTHS,
    WEARABLES,
    Pronouns,
    background_instruction,
    face_prompt,
    hair_color,
    join,
    mouth,
    mouth_instruction,
    pronouns,
)
from protocols.selection import MULTI_SIZES, build_case, pick, rank

# The part masks of CelebAMask-HQ. Their union is the person: the data set has no mask of the background.
PARTS: tuple[str, ...] = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
    "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip


# eq=False for values that hold images: comparing two of them would compare pixels, or raise.
@dataclass(frozen=True, eq=False)
class FaceRecord:
    """One annotated portrait at the protocol's canvas.

    ``image``: RGB, square. ``parts``: name of ``PARTS`` -> bool (H, W) at the image's size, True on the part. A part
    that the image does not show is left out. ``attributes``: CelebA's attribute name -> whether it holds.
    """

    id: str
    image: Image.Image
    parts: Mapping[str, Mask]
    attributes: Mapping[str, bool]


@dataclass(frozen=True)
class FaceOptions:
    """The vocabulary of the edits."""

    hair_colors: tuple[str, ...] = tuple(HAIR_COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)


DEFAULT = FaceOptions()


@dataclass(frozen=True)
class Change:
    """One thing to change, with its part of the id, the prompts and the claims."""

    kind: str
    # Empty where the kind says it all ("eyeglasses").
    target: str
    # Attribute, value before, value after: a ``Claim`` without its region.
    claim: tuple[str, str, str]
    # CelebA's attributes that have another value after the edit.
    attributes: Mapping[str, bool] = field(default_factory=dict)
    region_prompt: str = ""
    words: tuple[str, ...] = ()
    # The instruction. Of a thing to wear it is the thing alone, so that one "give her" can introduce several.
    action: str = ""
    is_worn: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.target}" if self.target else self.kind


# Pairs that one case cannot have: both change the same pixels, or one hides the other.
_EXCLUSIVE = (("lipstick", "mouth"), ("hair_color", "hat"))
ATTRIBUTE_KINDS = ("hair_color", "lipstick", "mouth")
REPLACEMENT_KINDS = ("eyeglasses", "hat", "earrings")
# Kind of edit -> the part mask that rules it out. A hat hides the hair that would be recoloured.
_OBSTACLES = {"eyeglasses": "eye_g", "hat": "hat", "earrings": "ear_r", "hair_color": "hat"}


# ------------------------------------------------------------ changes that the annotations allow


def face_changes(attributes: Mapping[str, bool], options: FaceOptions = DEFAULT) -> dict[str, list[Change]]:
    """Kind of part edit -> the changes that the annotations allow. No kind is empty.

    The kinds stand in the order in which prompts name them.
    """
    person = pronouns(attributes)
    by_kind = {
        "hair_color": _hair_changes(attributes, person, options),
        **{kind: _worn_changes(kind, attributes) for kind in WEARABLES},
        "mouth": _mouth_changes(attributes, person),
    }
    return {kind: changes for kind, changes in by_kind.items() if changes}


def _hair_changes(attributes: Mapping[str, bool], person: Pronouns, options: FaceOptions) -> list[Change]:
    current = hair_color(attributes)
    if current is None or attributes.get("Wearing_Hat", False):
        return []
    return [
        Change(
            kind="hair_color",
            target=color,
            claim=("hair_color", current, color),
            # CelebA has an attribute for each colour. Exactly one of them holds after the edit.
            attributes={name: other == color for other, name in HAIR_COLORS.items()},
            region_prompt=f"{color} hair",
            words=(color, "hair"),
            action=f"make {person.possessive} hair {color}",
        )
        for color in options.hair_colors
        if color != current
    ]


def _worn_changes(kind: str, attributes: Mapping[str, bool]) -> list[Change]:
    attribute, phrase = WEARABLES[kind]
    if attributes.get(attribute, False):
        return []
    # CelebA has hardly any man with lipstick: a classifier trained on it could not check the edit. Heavy make-up mostly
    # includes lipstick, annotated or not: the edit might change nothing.
    if kind == "lipstick" and (attributes.get("Male", False) or attributes.get("Heavy_Makeup", False)):
        return []
    return [
        Change(
            kind=kind,
            target="",
            claim=(attribute, "no", "yes"),
            attributes={attribute: True},
            region_prompt=phrase,
            words=(phrase.split()[-1],),  # without the article
            action=phrase,
            is_worn=True,
        )
    ]


def _mouth_changes(attributes: Mapping[str, bool], person: Pronouns) -> list[Change]:
    current = mouth(attributes)
    return [
        Change(
            kind="mouth",
            target=target,
            claim=("mouth", current, target),
            attributes={"Smiling": target == "smile", "Mouth_Slightly_Open": target == "open"},
            region_prompt=MOUTH_REGIONS[target],
            words=MOUTH_WORDS[target],
            action=mouth_instruction(target, person),
        )
        for target in MOUTHS
        if target != current
    ]


def kind_names(category: str, options: FaceOptions = DEFAULT) -> tuple[str, ...]:
    """The kinds of edit of a category. They are backgrounds, or for multi-object edits the number of changes."""
    if category == "attribute":
        return ATTRIBUTE_KINDS
    if category == "replacement":
        return REPLACEMENT_KINDS
    return options.backgrounds if category == "background" else MULTI_SIZES


def face_kinds(attributes: Mapping[str, bool], category: str, options: FaceOptions = DEFAULT) -> list[str]:
    """The kinds of a category that the annotations allow. The part masks may rule out some of them later."""
    names = kind_names(category, options)
    # CelebA does not annotate backgrounds, so none of them can be ruled out.
    if category == "background":
        return list(names)
    changes = face_changes(attributes, options)
    if category == "multi_object":
        return [size for size in names if len(changes) >= int(size)]
    return [kind for kind in names if kind in changes]


class EditableFace:
    """A record with the changes that make sense, their masks and their cases. Each is computed once."""

    def __init__(self, record: FaceRecord, options: FaceOptions = DEFAULT) -> None:
        self.record = record
        self.options = options
        width, height = record.image.size
        self.shape = (height, width)
        # Lengths below are in pixels of a canvas of 64 px, and grow with the canvas.
        self.unit = min(width, height) / 64
        self._masks: dict[str, Mask | None] = {}

    @cached_property
    def changes(self) -> dict[str, list[Change]]:
        """Kind of part edit -> the changes that annotations, parts and geometry allow."""
        return {
            kind: changes
            for kind, changes in face_changes(self.record.attributes, self.options).items()
            if not self._is_obstructed(kind) and self.mask(kind) is not None
        }

    def _is_obstructed(self, kind: str) -> bool:
        # Part masks and attributes of CelebAMask-HQ were annotated apart and disagree at times. Either one is a reason
        # not to add a thing that may be worn already.
        part = _OBSTACLES.get(kind)
        return part is not None and self._part(part) is not None

    # ------------------------------------------------------------ landmarks

    def _part(self, *names: str) -> Mask | None:
        """The union of the visible parts of these names. None where none is visible."""
        visible = [self.record.parts[name] for name in names if name in self.record.parts]
        mask = visible[0] if len(visible) == 1 else union(visible, self.shape)
        return mask if visible and mask.any() else None

    @cached_property
    def _eyes(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]] | None:
        """The bounds of the left and the right eye on the image. None unless both are visible."""
        left, right = self._part("l_eye"), self._part("r_eye")
        if left is None or right is None:
            return None
        # Sorted, so that it does not matter whose left the data set means, the person's or the viewer's.
        boxes = sorted(box for box in (bounds(left), bounds(right)) if box)
        return boxes[0], boxes[1]

    @cached_property
    def _face_width(self) -> tuple[int, int] | None:
        """(left, right) of the face between the eyes' top and the mouth. None where eyes or skin are not visible."""
        skin = self._part("skin")
        if skin is None or self._eyes is None:
            return None
        # The cheeks alone: hair narrows the forehead, and the chin is narrow.
        top = min(box[1] for box in self._eyes)
        columns = np.flatnonzero(skin[top : top + max(1, int(12 * self.unit))].any(axis=0))
        return (int(columns[0]), int(columns[-1]) + 1) if columns.size else None

    @cached_property
    def _brow_top(self) -> float:
        """The row of the brows' upper edge. Where hair hides the brows, a row a little above the eyes."""
        assert self._eyes is not None
        eyes = min(box[1] for box in self._eyes)
        brows = self._part("l_brow", "r_brow")
        box = bounds(brows) if brows is not None else None
        return min(box[1], eyes) if box else eyes - 3 * self.unit

    # ------------------------------------------------------------ masks

    def mask(self, kind: str) -> Mask | None:
        """Bool (H, W) where an edit of this kind happens.

        None where the parts that locate it are not visible, or where it would cover almost nothing or everything.
        """
        # Two threads that read cases may compute the same mask at once, with the same result.
        if kind not in self._masks:
            mask: Mask | None = getattr(self, f"_{kind}_mask")()
            self._masks[kind] = mask if mask is not None and usable(mask) else None
        return self._masks[kind]

    def _hair_color_mask(self) -> Mask | None:
        hair = self._part("hair")
        if hair is None:
            return None
        # Loose strands lie outside the annotated outline. Facial features stay out of the rim.
        mask = dilate(hair, 2.5 * self.unit)
        features = self._part("l_eye", "r_eye", "nose", "mouth", "u_lip", "l_lip", "eye_g")
        return mask & ~dilate(features, self.unit) if features is not None else mask

    def _mouth_area(self, wide: float, high: float) -> Mask | None:
        """A rounded box around the mouth, at least ``wide`` and ``high`` face widths from its centre to its sides.

        A mask cut to the lips would tell a smile from a closed mouth before anything is edited.
        """
        lips, face = self._part("mouth", "u_lip", "l_lip"), self._face_width
        box = bounds(lips) if lips is not None else None
        if box is None or face is None:
            return None
        # The larger of what the lips need and a share of the face: a small closed mouth still gets room for a smile.
        size = face[1] - face[0]
        half_width = max((box[2] - box[0]) / 2 + 2 * self.unit, wide * size)
        half_height = max((box[3] - box[1]) / 2 + 2 * self.unit, high * size)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        top = y - half_height
        nose = self._part("nose")
        nose_box = bounds(nose) if nose is not None else None
        if nose_box is not None:
            top = max(top, nose_box[3] - 4 * self.unit)  # a mouth moves the nose's tip, not its bridge
        area = (x - half_width, top, x + half_width, y + half_height)
        return rounded_box(self.shape, area, 0.8 * half_height)

    def _mouth_mask(self) -> Mask | None:
        # A smile moves the cheeks too.
        return self._mouth_area(0.36, 0.22)

    def _lipstick_mask(self) -> Mask | None:
        return self._mouth_area(0.3, 0.14)

    def _eyeglasses_mask(self) -> Mask | None:
        if self._eyes is None or self._face_width is None:
            return None
        left, right = self._eyes
        eye_distance = (right[0] + right[2] - left[0] - left[2]) / 2
        # Lenses reach from the brows to the upper cheeks, temples to the sides of the face.
        bottom = max(left[3], right[3]) + 0.4 * eye_distance
        margin = 1.5 * self.unit
        box = (
            self._face_width[0] - margin,
            self._brow_top - margin / 2,
            self._face_width[1] + margin,
            bottom,
        )
        return rounded_box(self.shape, box, 0.3 * eye_distance)

    def _hat_mask(self) -> Mask | None:
        """From the image's top to the brows, wider than the head: room for a brim and a crown."""
        head = self._part("skin", "hair", "l_ear", "r_ear")
        if head is None or self._eyes is None:
            return None
        # The width of the head above the brows. Long hair below may be much wider.
        line = self._brow_top
        columns = np.flatnonzero(head[: max(1, int(line))].any(axis=0))
        if columns.size == 0:
            return None
        left, right = int(columns[0]), int(columns[-1]) + 1
        margin = 0.16 * (right - left)
        # The box begins far above the image, so that its upper corners are not rounded inside it.
        return rounded_box(self.shape, (left - margin, -self.shape[0], right + margin, line), 5 * self.unit)

    def _earrings_mask(self) -> Mask | None:
        """Each visible ear with the room below it, where an earring hangs."""
        areas = []
        for name in ("l_ear", "r_ear"):
            ear = self._part(name)
            box = bounds(ear) if ear is not None else None
            if box is None:
                continue
            # Lower bounds, because hair often leaves only a sliver of the ear visible.
            height = max(box[3] - box[1], 5 * self.unit)
            side = max(2 * self.unit, (6 * self.unit - (box[2] - box[0])) / 2)
            area = (box[0] - side, box[1] - self.unit, box[2] + side, box[3] + 1.1 * height)
            areas.append(rounded_box(self.shape, area, 3 * self.unit))
        return union(areas, self.shape) if areas else None

    def _background_mask(self) -> Mask | None:
        """The complement of the person, with the person's outline."""
        # Pixels of the outline mix person and old background. A kept rim would be a halo in the new one.
        person = self._part(*PARTS)
        return None if person is None else ~erode(person, max(1.0, 0.5 * self.unit))

    # ------------------------------------------------------------ single cases

    def part_case(self, changes: Sequence[Change], category: str) -> EditCase | None:
        """One change, or several at once. None where a mask is unusable, or where two masks overlap too much."""
        masks = [mask for change in changes if (mask := self.mask(change.kind)) is not None]
        if len(masks) < len(changes) or not apart(masks):
            return None
        # The target prompt is the source's prompt of other attributes, so that all else in it stays.
        before = self.record.attributes
        after = dict(before)
        for change in changes:
            after.update(change.attributes)
        several = len(changes) > 1
        return build_case(
            # Stored runs name their cases by these ids.
            id="-".join(
                [self.record.id, *(["multi"] if several else []), *(change.name for change in changes)]
            ),
            category=category,
            source_id=self.record.id,
            source=self.record.image,
            source_prompt=face_prompt(before),
            target_prompt=face_prompt(after),
            instruction=self._instruction(changes),
            regions=[
                (mask, change.region_prompt, change.words)
                for mask, change in zip(masks, changes, strict=True)
            ],
            region_prompt=join([change.region_prompt for change in changes]),
            claims=tuple(Claim(*change.claim, region=i) for i, change in enumerate(changes)),
            tags={
                "kind": "+".join(change.kind for change in changes),
                "target": "+".join(change.target or change.kind for change in changes),
            },
        )

    def _instruction(self, changes: Sequence[Change]) -> str:
        """For example "close his mouth and give him eyeglasses and a hat"."""
        actions = [change.action for change in changes if not change.is_worn]
        things = [change.action for change in changes if change.is_worn]
        if things:
            actions.append(f"give {pronouns(self.record.attributes).object} {join(things)}")
        return join(actions)

    def background_case(self, target: str) -> EditCase | None:
        """Another background. None where the person leaves too little of it, or all of it."""
        mask = self.mask("background")
        if mask is None:
            return None
        attributes = self.record.attributes
        return build_case(
            id=f"{self.record.id}-background-{target}",
            category="background",
            source_id=self.record.id,
            source=self.record.image,
            # CelebA does not annotate backgrounds, so the source's prompt names none.
            source_prompt=face_prompt(attributes),
            target_prompt=face_prompt(attributes, target),
            instruction=background_instruction(target, pronouns(attributes)),
            regions=[(mask, BACKGROUNDS[target].noun, (target,))],
            region_prompt=BACKGROUNDS[target].noun,
            claims=(Claim("background", "unknown", target),),
            tags={"kind": "background", "target": target},
        )

    # ------------------------------------------------------------ all cases, in an order by hash

    def groups(self, size: int) -> Iterator[tuple[str, ...]]:
        """The sets of ``size`` kinds that one case can have."""
        return (kinds for kinds in combinations(self.changes, size) if self.are_compatible(kinds))

    def are_compatible(self, kinds: Sequence[str]) -> bool:
        """True where one case can have all of these kinds: none hides another, and their masks lie apart."""
        if any(one in kinds and other in kinds for one, other in _EXCLUSIVE):
            return False
        return apart([mask for kind in kinds if (mask := self.mask(kind)) is not None])

    def cases(self, category: str, kind: str) -> Iterator[EditCase]:
        """The cases of one kind of :func:`face_kinds`, first by hash, each built when it is needed."""
        if category == "background":
            cases = (self.background_case(target) for target in (kind,))
        elif category == "multi_object":
            groups = sorted(self.groups(int(kind)), key=lambda kinds: rank(self.record.id, "multi", *kinds))
            cases = (self._group_case(kinds) for kinds in groups)
        else:
            by_name = {change.name: change for change in self.changes.get(kind, ())}
            names = sorted(by_name, key=lambda name: rank(self.record.id, name))
            cases = (self.part_case([by_name[name]], category) for name in names)
        return (case for case in cases if case is not None)

    def _group_case(self, kinds: Sequence[str]) -> EditCase | None:
        changes = []
        for kind in kinds:
            by_target = {change.target: change for change in self.changes[kind]}
            changes.append(by_target[pick(list(by_target), self.record.id, "multi", *kinds, kind)])
        return self.part_case(changes, "multi_object")
