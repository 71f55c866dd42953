"""The edits that one face admits: which of them make sense, where they happen, how they are said.

Pure: a record in memory in, cases out. Reading the data set is ``protocols.celeba_hq``; the mini world
calls this on what it renders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
from PIL import Image

from bench.edit import CATEGORIES, Claim, EditCase
from protocols.masks import Mask, apart, bounds, dilate, erode, rounded_box, union, usable
from protocols.prompts import (
    BACKGROUNDS,
    HAIR_COLORS,
    MOUTH_REGIONS,
    MOUTH_WORDS,
    MOUTHS,
    WEARABLES,
    background_instruction,
    face_prompt,
    hair_color,
    join,
    mouth,
    mouth_instruction,
    pronouns,
)
from protocols.selection import build_case, pick, rank

PARTS: tuple[str, ...] = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
    "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""CelebAMask-HQ's part masks; the background is none of them."""


@dataclass(frozen=True, eq=False)
class FaceRecord:
    """One annotated portrait at the protocol's canvas.

    ``image``: RGB, square. ``parts``: part name -> bool (H, W) at the image's size, True where the part
    is; an absent name is an absent part. ``attributes``: CelebA's attribute name -> whether it holds.
    """

    id: str
    image: Image.Image
    parts: Mapping[str, Mask]
    attributes: Mapping[str, bool]


@dataclass(frozen=True)
class FaceOptions:
    hair_colors: tuple[str, ...] = tuple(HAIR_COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    multi_per_source: int = 6
    """How many multi-object edits ``face_cases`` makes of one record, first by hash."""


DEFAULT = FaceOptions()


@dataclass(frozen=True)
class Change:
    """One thing to change: how it is named in ids, said in prompts, and claimed."""

    kind: str
    target: str
    """Empty where the kind says it all ("eyeglasses")."""
    claim: tuple[str, str, str]
    sets: Mapping[str, bool] = field(default_factory=dict)
    """The annotations that the edit changes."""
    region_prompt: str = ""
    words: tuple[str, ...] = ()
    action: str = ""
    """The instruction; of a thing to wear, only what is given."""
    given: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.target}" if self.target else self.kind


MULTI_SIZES = ("2", "3")
_EXCLUSIVE = (("lipstick", "mouth"), ("hair_color", "hat"))
"""Two changes of one place, or one that hides the other."""
ATTRIBUTE_KINDS = ("hair_color", "lipstick", "mouth")
REPLACEMENT_KINDS = ("eyeglasses", "hat", "earrings")
_WORN_PARTS = {"eyeglasses": "eye_g", "hat": "hat", "earrings": "ear_r"}


def face_changes(facts: Mapping[str, bool], options: FaceOptions = DEFAULT) -> dict[str, list[Change]]:
    """Kind of part edit -> what the annotations let change, in the order in which prompts name them."""
    who = pronouns(facts)
    found: dict[str, list[Change]] = {}
    current = hair_color(facts)
    if current and not facts.get("Wearing_Hat", False):
        found["hair_color"] = [
            Change(
                kind="hair_color",
                target=color,
                claim=("hair_color", current, color),
                sets={name: other == color for other, name in HAIR_COLORS.items()},
                region_prompt=f"{color} hair",
                words=(color, "hair"),
                action=f"make {who.possessive} hair {color}",
            )
            for color in options.hair_colors
            if color != current
        ]
    for kind, (attribute, phrase) in WEARABLES.items():
        if facts.get(attribute, False):
            continue
        if kind == "lipstick" and (facts.get("Male", False) or facts.get("Heavy_Makeup", False)):
            continue
        found[kind] = [
            Change(
                kind=kind,
                target="",
                claim=(attribute, "no", "yes"),
                sets={attribute: True},
                region_prompt=phrase,
                words=(phrase.split()[-1],),
                action=phrase,
                given=True,
            )
        ]
    state = mouth(facts)
    found["mouth"] = [
        Change(
            kind="mouth",
            target=target,
            claim=("mouth", state, target),
            sets={"Smiling": target == "smile", "Mouth_Slightly_Open": target == "open"},
            region_prompt=MOUTH_REGIONS[target],
            words=MOUTH_WORDS[target],
            action=mouth_instruction(target, who),
        )
        for target in MOUTHS
        if target != state
    ]
    return {kind: changes for kind, changes in found.items() if changes}


def kind_names(category: str, options: FaceOptions = DEFAULT) -> tuple[str, ...]:
    """The kinds of edit of a category: of a background its target, of a multi-object edit how many change."""
    if category == "attribute":
        return ATTRIBUTE_KINDS
    if category == "replacement":
        return REPLACEMENT_KINDS
    return options.backgrounds if category == "background" else MULTI_SIZES


def face_kinds(facts: Mapping[str, bool], category: str, options: FaceOptions = DEFAULT) -> list[str]:
    """The kinds of a category that the annotations admit; the parts may rule out some of them."""
    names = kind_names(category, options)
    if category == "background":
        return list(names)
    changes = face_changes(facts, options)
    if category == "multi_object":
        return [size for size in names if len(changes) >= int(size)]
    return [kind for kind in names if kind in changes]


class EditableFace:
    """A record with what its edits need, each computed once: the changes that make sense and their masks."""

    def __init__(self, record: FaceRecord, options: FaceOptions = DEFAULT) -> None:
        self.record = record
        self.options = options
        width, height = record.image.size
        self.shape = (height, width)
        self.unit = width / 64
        self._masks: dict[str, Mask | None] = {}

    @cached_property
    def changes(self) -> dict[str, list[Change]]:
        """Kind of part edit -> its changes: those that annotations, parts and geometry admit."""
        return {
            kind: changes
            for kind, changes in face_changes(self.record.attributes, self.options).items()
            if not self._wears(kind) and self.mask(kind) is not None
        }

    def _wears(self, kind: str) -> bool:
        """By part mask: it disagrees with the annotation now and then, and either is a reason not to add.

        Under a hat, hair is not recoloured.
        """
        part = _WORN_PARTS.get("hat" if kind == "hair_color" else kind)
        return part is not None and self._part(part) is not None

    # ------------------------------------------------------------ where

    def _part(self, *names: str) -> Mask | None:
        """The union of the parts that exist; None where none does."""
        present = [self.record.parts[name] for name in names if name in self.record.parts]
        mask = present[0] if len(present) == 1 else union(present, self.shape)
        return mask if present and mask.any() else None

    def mask(self, kind: str) -> Mask | None:
        """Where an edit of this kind happens; None where the parts do not say, or it is all or nothing."""
        if kind not in self._masks:
            drawn: Mask | None = getattr(self, f"_{kind}_mask")()
            self._masks[kind] = drawn if drawn is not None and usable(drawn) else None
        return self._masks[kind]

    @cached_property
    def _eyes(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]] | None:
        """The bounds of the left and the right eye on the image; None unless both are visible."""
        left, right = self._part("l_eye"), self._part("r_eye")
        if left is None or right is None:
            return None
        boxes = sorted(box for box in (bounds(left), bounds(right)) if box)
        return boxes[0], boxes[1]

    @cached_property
    def _face_width(self) -> tuple[int, int] | None:
        """The face's left and right end between the eyes' top and the mouth."""
        skin = self._part("skin")
        if skin is None or self._eyes is None:
            return None
        top = min(box[1] for box in self._eyes)
        columns = np.flatnonzero(skin[top : top + max(1, int(12 * self.unit))].any(axis=0))
        return (int(columns[0]), int(columns[-1]) + 1) if columns.size else None

    @cached_property
    def _brow_top(self) -> float:
        """The height of the brows' upper edge; a little above the eyes where hair hides them."""
        assert self._eyes is not None
        eyes = min(box[1] for box in self._eyes)
        brows = self._part("l_brow", "r_brow")
        box = bounds(brows) if brows is not None else None
        return min(box[1], eyes) if box else eyes - 3 * self.unit

    def _hair_color_mask(self) -> Mask | None:
        hair = self._part("hair")
        if hair is None:
            return None
        mask = dilate(hair, 2.5 * self.unit)
        features = self._part("l_eye", "r_eye", "nose", "mouth", "u_lip", "l_lip", "eye_g")
        return mask & ~dilate(features, self.unit) if features is not None else mask

    def _mouth_area(self, wide: float, high: float) -> Mask | None:
        """A rounded box around the mouth whose size comes from the face as well as from the mouth.

        A mask cut to the lips would tell a smile from a closed mouth before anything is drawn.
        """
        lips, face = self._part("mouth", "u_lip", "l_lip"), self._face_width
        box = bounds(lips) if lips is not None else None
        if box is None or face is None:
            return None
        size = face[1] - face[0]
        half_width = max((box[2] - box[0]) / 2 + 2 * self.unit, wide * size)
        half_height = max((box[3] - box[1]) / 2 + 2 * self.unit, high * size)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        top = y - half_height
        nose = self._part("nose")
        under = bounds(nose) if nose is not None else None
        if under is not None:
            top = max(top, under[3] - 4 * self.unit)  # a mouth moves the nose's tip, not its bridge
        around = (x - half_width, top, x + half_width, y + half_height)
        return rounded_box(self.shape, around, 0.8 * half_height)

    def _mouth_mask(self) -> Mask | None:
        return self._mouth_area(0.36, 0.22)

    def _lipstick_mask(self) -> Mask | None:
        return self._mouth_area(0.3, 0.14)

    def _eyeglasses_mask(self) -> Mask | None:
        if self._eyes is None or self._face_width is None:
            return None
        left, right = self._eyes
        apart_by = (right[0] + right[2] - left[0] - left[2]) / 2
        bottom = max(left[3], right[3]) + 0.4 * apart_by
        margin = 1.5 * self.unit
        box = (
            self._face_width[0] - margin,
            self._brow_top - margin / 2,
            self._face_width[1] + margin,
            bottom,
        )
        return rounded_box(self.shape, box, 0.3 * apart_by)

    def _hat_mask(self) -> Mask | None:
        """From the image's top to the brows, wider than the head: room for a brim and a crown."""
        head = self._part("skin", "hair", "l_ear", "r_ear")
        if head is None or self._eyes is None:
            return None
        line = self._brow_top
        columns = np.flatnonzero(head[: max(1, int(line))].any(axis=0))
        if columns.size == 0:
            return None
        left, right = int(columns[0]), int(columns[-1]) + 1
        margin = 0.16 * (right - left)
        return rounded_box(self.shape, (left - margin, -self.shape[0], right + margin, line), 5 * self.unit)

    def _earrings_mask(self) -> Mask | None:
        """Around each visible ear and below it, where an earring hangs."""
        drawn = []
        for name in ("l_ear", "r_ear"):
            ear = self._part(name)
            box = bounds(ear) if ear is not None else None
            if box is None:
                continue
            height = max(box[3] - box[1], 5 * self.unit)
            side = max(2 * self.unit, (6 * self.unit - (box[2] - box[0])) / 2)
            around = (box[0] - side, box[1] - self.unit, box[2] + side, box[3] + 1.1 * height)
            drawn.append(rounded_box(self.shape, around, 3 * self.unit))
        return union(drawn, self.shape) if drawn else None

    def _background_mask(self) -> Mask | None:
        """All that is not the person; the outline itself may be redrawn."""
        person = self._part(*PARTS)
        return None if person is None else ~erode(person, max(1.0, 0.5 * self.unit))

    # ------------------------------------------------------------ cases

    def part_case(self, changes: Sequence[Change], category: str) -> EditCase | None:
        """One change, or several at once."""
        masks = [self.mask(change.kind) for change in changes]
        drawn = [mask for mask in masks if mask is not None]
        if len(drawn) < len(changes) or not apart(drawn):
            return None
        facts = self.record.attributes
        after = dict(facts)
        for change in changes:
            after.update(change.sets)
        actions = [change.action for change in changes if not change.given]
        gifts = [change.action for change in changes if change.given]
        if gifts:
            actions.append(f"give {pronouns(facts).object} {join(gifts)}")
        several = len(changes) > 1
        return build_case(
            id="-".join(
                [self.record.id, *(["multi"] if several else []), *(change.name for change in changes)]
            ),
            category=category,
            source_id=self.record.id,
            source=self.record.image,
            source_prompt=face_prompt(facts),
            target_prompt=face_prompt(after),
            instruction=join(actions),
            regions=[
                (mask, change.region_prompt, change.words)
                for mask, change in zip(drawn, changes, strict=True)
            ],
            region_prompt=join([change.region_prompt for change in changes]),
            claims=tuple(Claim(*change.claim, region=i) for i, change in enumerate(changes)),
            tags={
                "kind": "+".join(change.kind for change in changes),
                "target": "+".join(change.target or change.kind for change in changes),
            },
        )

    def background_case(self, target: str) -> EditCase | None:
        mask = self.mask("background")
        if mask is None:
            return None
        facts = self.record.attributes
        words = (target,)
        return build_case(
            id=f"{self.record.id}-background-{target}",
            category="background",
            source_id=self.record.id,
            source=self.record.image,
            source_prompt=face_prompt(facts),
            target_prompt=face_prompt(facts, target),
            instruction=background_instruction(target, pronouns(facts)),
            regions=[(mask, BACKGROUNDS[target].noun, words)],
            region_prompt=BACKGROUNDS[target].noun,
            claims=(Claim("background", "unknown", target),),
            tags={"kind": "background", "target": target},
        )

    def groups(self, size: int) -> Iterator[tuple[str, ...]]:
        """The sets of so many kinds that can be changed at once."""
        return (kinds for kinds in combinations(self.changes, size) if self.together(kinds))

    def together(self, kinds: Sequence[str]) -> bool:
        if any(one in kinds and other in kinds for one, other in _EXCLUSIVE):
            return False
        return apart([mask for kind in kinds if (mask := self.mask(kind)) is not None])

    def cases(self, category: str, kind: str) -> Iterator[EditCase]:
        """The cases of one kind (as ``face_kinds`` names them), by hash, each built when it is asked for."""
        if category == "background":
            made = (self.background_case(target) for target in (kind,))
        elif category == "multi_object":
            made = (self._group_case(kinds) for kinds in self._by_hash(list(self.groups(int(kind)))))
        else:
            names = {change.name: change for change in self.changes.get(kind, ())}
            ordered = sorted(names, key=lambda name: rank(self.record.id, name))
            made = (self.part_case([names[name]], category) for name in ordered)
        return (case for case in made if case is not None)

    def _by_hash(self, groups: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return sorted(groups, key=lambda kinds: rank(self.record.id, "multi", *kinds))

    def _group_case(self, kinds: Sequence[str]) -> EditCase | None:
        chosen = []
        for kind in kinds:
            targets = {change.target: change for change in self.changes[kind]}
            chosen.append(targets[pick(list(targets), self.record.id, "multi", *kinds, kind)])
        return self.part_case(chosen, "multi_object")


def face_cases(record: FaceRecord, options: FaceOptions = DEFAULT) -> list[EditCase]:
    """All sensible edits of one record, category by category; of the multi-object ones, the first by hash."""
    face = EditableFace(record, options)
    cases = [
        case
        for category in CATEGORIES
        if category != "multi_object"
        for kind in face_kinds(record.attributes, category, options)
        for case in face.cases(category, kind)
    ]
    groups = face._by_hash([kinds for size in MULTI_SIZES for kinds in face.groups(int(size))])
    made = [face._group_case(kinds) for kinds in groups[: options.multi_per_source]]
    return cases + [case for case in made if case is not None]


def random_face_case(
    record: FaceRecord,
    rng: np.random.Generator,
    options: FaceOptions = DEFAULT,
    category: str | None = None,
) -> EditCase | None:
    """One sensible edit: a category, then a kind, then a target, each drawn evenly among those possible.

    Only the drawn edit is built. None where the record admits no edit (of this category).
    """
    face = EditableFace(record, options)
    wanted = CATEGORIES if category is None else (category,)
    for i in rng.permutation(len(wanted)):
        case = _draw(face, wanted[i], rng)
        if case is not None:
            return case
    return None


def _draw(face: EditableFace, category: str, rng: np.random.Generator) -> EditCase | None:
    if category == "background":
        targets = face.options.backgrounds
        return face.background_case(targets[rng.integers(len(targets))])
    if category == "multi_object":
        size = int(rng.integers(2, 4))
        names = list(face.changes)
        kinds: list[str] = []
        for i in rng.permutation(len(names)):
            if len(kinds) < size and face.together([*kinds, names[i]]):
                kinds.append(names[i])
        if len(kinds) < 2:
            return None
        chosen = [
            changes[rng.integers(len(changes))] for kind, changes in face.changes.items() if kind in kinds
        ]
        return face.part_case(chosen, category)
    names = [kind for kind in kind_names(category) if kind in face.changes]
    if not names:
        return None
    changes = face.changes[names[rng.integers(len(names))]]
    return face.part_case([changes[rng.integers(len(changes))]], category)
