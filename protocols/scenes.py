"""The edits that one annotated scene admits: which of them make sense, where they happen, how they are said.

Pure: a record in memory in, cases out. Reading the data set is ``protocols.coco``; the mini world calls
this on what it renders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice

import numpy as np
from PIL import Image

from bench.edit import Claim, EditCase
from bench.images import crop_square, mask_array, mask_image, resize, resize_mask, to_array
from protocols.captions import Caption, NounPhrase, region_phrase
from protocols.colors import dominant_color
from protocols.masks import Mask, apart, bounds, dilate, erode, rounded_box, union, usable
from protocols.prompts import (
    BACKGROUNDS,
    COLORS,
    MATERIALS,
    MATERIALS_OF,
    MINI_CATEGORIES,
    MINI_COLORS,
    NO_COLOR,
    NO_COLOR_GROUPS,
    NO_TARGET,
    background_instruction,
    join,
)
from protocols.selection import build_case, rank

MAX_COVER = 0.25
"""A replacement's box may cover at most this share of another salient instance."""
MIN_VISIBLE = 0.9
"""At least this share of an instance must survive the crop."""


@dataclass(frozen=True, eq=False)
class Instance:
    """One annotated object. ``mask``: bool (H, W) at the image's size. ``crowd``: no single object."""

    id: str
    category: str
    supercategory: str
    mask: Mask
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class SceneRecord:
    """One annotated scene of any size; ``image`` is RGB, ``captions`` as the data set gives them."""

    id: str
    image: Image.Image
    instances: Sequence[Instance]
    captions: Sequence[str]


@dataclass(frozen=True)
class SceneOptions:
    canvas: int = 512
    colors: tuple[str, ...] = COLORS
    materials: tuple[str, ...] = tuple(MATERIALS)
    """Empty: no material edits."""
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    categories: tuple[tuple[str, str], ...] = ()
    """(category, supercategory) of the annotation file: what a replacement chooses from."""
    min_area: float = 0.02
    max_area: float = 0.40
    """Bounds of an edited instance's share of the crop."""
    targets_per_instance: int = 3
    """How many targets ``scene_cases`` tries for each instance and kind of edit, first by hash."""
    multi_per_source: int = 4


MINI_SCENES = SceneOptions(
    canvas=64, colors=MINI_COLORS, materials=(), categories=tuple(MINI_CATEGORIES.items())
)
"""For the rendered world: its own colours and classes, no materials."""


@dataclass(frozen=True)
class Target:
    """One thing to change about one instance."""

    kind: str
    """"color", "material" or "category"."""
    value: str


class EditableScene:
    """A record on the canvas: one square crop, the instances in it, and the edits that make sense there.

    There is one crop for each image, not for each edit, so that all cases of one source share its pixels.
    """

    def __init__(self, record: SceneRecord, options: SceneOptions) -> None:
        self.record = record
        self.options = options
        self.unit = options.canvas / 64
        self.shape = (options.canvas, options.canvas)
        self._colors: dict[int, str | None] = {}
        self._masks: dict[tuple[int, str], Mask | None] = {}
        self._counts: dict[str, int] = {}
        for instance in record.instances:
            self._counts[instance.category] = self._counts.get(instance.category, 0) + 1
        self.box = self._crop()
        self.image = self._image()
        self._whole = [int(np.count_nonzero(instance.mask)) for instance in record.instances]
        left, top, right, bottom = self.box
        cut = [instance.mask[top:bottom, left:right] for instance in record.instances]
        self._visible = [
            np.count_nonzero(part) / whole if whole else 0.0
            for part, whole in zip(cut, self._whole, strict=True)
        ]
        side = right - left
        self.masks: list[Mask] = [
            part if side == options.canvas else mask_array(resize_mask(mask_image(part), options.canvas))
            for part in cut
        ]
        self.shares = [np.count_nonzero(mask) / mask.size for mask in self.masks]
        self.captions = [Caption(text) for text in record.captions]

    def _crop(self) -> tuple[int, int, int, int]:
        """The largest square that shows most of what could be edited; the most central one among equals."""
        width, height = self.record.image.size
        side = min(width, height)
        slack = max(width, height) - side
        if slack == 0:
            return 0, 0, side, side
        spans = []
        for instance in self.record.instances:
            box = bounds(instance.mask)
            if (
                self._alone(instance)
                and box
                and np.count_nonzero(instance.mask) >= self.options.min_area * side * side
            ):
                low, high = (box[0], box[2]) if width > height else (box[1], box[3])
                room = (high - low) // 4  # an edit needs a rim around its object
                spans.append((max(low - room, 0), min(high + room, side + slack)))
        starts = {slack // 2}
        for low, high in spans:
            starts |= {min(max(start, 0), slack) for start in (low, high - side, (low + high - side) // 2)}

        def shown(start: int) -> float:
            return sum(
                max(0, min(high, start + side) - max(low, start)) / (high - low) for low, high in spans
            )

        start = min(starts, key=lambda s: (-round(shown(s), 6), abs(s - slack // 2), s))
        return (start, 0, start + side, side) if width > height else (0, start, side, start + side)

    def _image(self) -> Image.Image:
        image = self.record.image
        if self.box != (0, 0, *image.size):
            image = crop_square(image, self.box)
        return resize(image, self.options.canvas)

    @cached_property
    def pixels(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return to_array(self.image)

    # ------------------------------------------------------------ what may change

    def _alone(self, instance: Instance) -> bool:
        return not instance.crowd and self._counts[instance.category] == 1

    @cached_property
    def candidates(self) -> list[int]:
        """Indices of instances that can be named without doubt and seen without squinting."""
        return [
            i
            for i, instance in enumerate(self.record.instances)
            if self._alone(instance)
            and self._visible[i] >= MIN_VISIBLE
            and self.options.min_area <= self.shares[i] <= self.options.max_area
        ]

    @cached_property
    def phrases(self) -> list[dict[int, NounPhrase]]:
        """For each caption: index of an editable instance -> the phrase that names it."""
        found = []
        for caption in self.captions:
            here = {}
            for i in self.candidates:
                phrase = caption.noun_phrase(self.record.instances[i].category)
                if phrase is not None:
                    here[i] = phrase
            found.append(here)
        return found

    def color_of(self, index: int) -> str | None:
        """What the instance's pixels mostly show."""
        if index not in self._colors:
            self._colors[index] = dominant_color(self.pixels[self.masks[index]], self.options.colors)
        return self._colors[index]

    def targets(self, index: int, phrase: NounPhrase) -> dict[str, list[Target]]:
        """Kind of edit -> the targets that differ from what is there."""
        instance = self.record.instances[index]
        found: dict[str, list[Target]] = {}
        if instance.supercategory not in NO_COLOR_GROUPS and instance.category not in NO_COLOR:
            shown = {phrase.color, self.color_of(index)}
            found["color"] = [Target("color", color) for color in self.options.colors if color not in shown]
            found["material"] = [
                Target("material", material)
                for material in MATERIALS_OF.get(instance.category, ())
                if material in self.options.materials and MATERIALS[material] != phrase.material
            ]
        if not phrase.bound and self.mask(index, "category") is not None:
            found["category"] = [
                Target("category", name)
                for name, group in self.options.categories
                if group == instance.supercategory
                and name not in self._counts
                and name not in NO_TARGET
                and name != instance.category
            ]
        return {kind: targets for kind, targets in found.items() if targets}

    # ------------------------------------------------------------ where

    def mask(self, index: int, kind: str) -> Mask | None:
        """Where the edit happens: a rounded box for another class, else the silhouette, a little larger."""
        key = (index, "category" if kind == "category" else "color")
        if key not in self._masks:
            drawn = (
                self._box_mask(index) if kind == "category" else dilate(self.masks[index], 1.5 * self.unit)
            )
            self._masks[key] = drawn if drawn is not None and usable(drawn) else None
        return self._masks[key]

    def _box_mask(self, index: int) -> Mask | None:
        """The bounding box with room for another silhouette: neither side is much shorter than the other.

        None where the box would cover a neighbour.
        """
        box = bounds(self.masks[index])
        if box is None:
            return None
        left, top, right, bottom = map(float, box)
        width, height = right - left, bottom - top
        if width < 0.7 * height:
            middle, half = (left + right) / 2, 0.35 * height
            left, right = middle - half, middle + half
        elif height < 0.7 * width:
            top = bottom - 0.7 * width  # things stand on the ground, so the room is above
        margin = 0.08 * max(width, height) + self.unit
        mask = rounded_box(
            self.shape,
            (left - margin, top - margin, right + margin, bottom + margin),
            0.25 * max(width, height),
        )
        for other, (theirs, share) in enumerate(zip(self.masks, self.shares, strict=True)):
            if other == index or share < 0.01:
                continue
            if np.count_nonzero(mask & theirs) > MAX_COVER * np.count_nonzero(theirs):
                return None
        return mask

    @cached_property
    def background_mask(self) -> Mask | None:
        """The complement of the salient instances, their outlines included in the edit."""
        if any(instance.crowd for instance in self.record.instances):
            return None
        salient = [
            mask
            for mask, share in zip(self.masks, self.shares, strict=True)
            if share >= self.options.min_area
        ]
        if not salient:
            return None
        mask = ~erode(union(salient, self.shape), max(1.0, 0.5 * self.unit))
        return mask if usable(mask) and mask.mean() >= 0.2 else None

    # ------------------------------------------------------------ cases

    def object_case(
        self, caption: int, changes: Sequence[tuple[int, Target]], category: str
    ) -> EditCase | None:
        """One instance changed, or several at once, in the words of one caption."""
        said = self.phrases[caption]
        changes = sorted(changes, key=lambda change: said[change[0]].start)
        drawn = [mask for i, target in changes if (mask := self.mask(i, target.kind)) is not None]
        if len(drawn) < len(changes) or not apart(drawn):
            return None
        replaced, prompts, words, actions, claims = [], [], [], [], []
        for region, (i, target) in enumerate(changes):
            phrase, instance = said[i], self.record.instances[i]
            before: str
            if target.kind == "color":
                new = phrase.with_color(target.value)
                before = phrase.color or self.color_of(i) or "unknown"
                shown = [target.value, *phrase.noun.split()]
                actions.append(f"make the {phrase.noun} {target.value}")
            elif target.kind == "material":
                adjective = MATERIALS[target.value]
                new = phrase.with_material(adjective)
                before = "unknown"
                shown = [adjective, *phrase.noun.split()]
                actions.append(f"make the {phrase.noun} out of {target.value}")
            else:
                new = phrase.with_category(target.value)
                before = instance.category
                shown = new.split()[1:]
                old = " ".join([*([phrase.color] if phrase.color else []), phrase.noun])
                actions.append(f"turn the {old} into {region_phrase(new)}")
            replaced.append((phrase, new))
            prompts.append(region_phrase(new))
            words.append(tuple(shown))
            claims.append(Claim(target.kind, before, target.value, region=region))
            # The region's prompt names what stays, too: a pink bus is still pink as a boat, and still a bus when red.
            if target.kind != "category":
                claims.append(Claim("category", instance.category, instance.category, region=region))
            elif phrase.color:
                claims.append(Claim("color", phrase.color, phrase.color, region=region))
        text = self.captions[caption]
        several = len(changes) > 1
        kinds = ["" if several else f"{target.kind}-" for _, target in changes]
        names = [
            f"{self.record.instances[i].category}-{kind}{target.value}".replace(" ", "_")
            for kind, (i, target) in zip(kinds, changes, strict=True)
        ]
        return build_case(
            id="-".join([self.record.id, *(["multi"] if several else []), *names]),
            category=category,
            source_id=self.record.id,
            source=self.image,
            source_prompt=text.text,
            target_prompt=text.replace(replaced),
            instruction=join(actions),
            regions=list(zip(drawn, prompts, words, strict=True)),
            region_prompt=join(prompts),
            claims=tuple(claims),
            tags={
                "kind": "+".join(target.kind for _, target in changes),
                "target": "+".join(target.value for _, target in changes),
                "instances": "+".join(self.record.instances[i].id for i, _ in changes),
            },
        )

    def background_case(self, target: str) -> EditCase | None:
        mask = self.background_mask
        if mask is None:
            return None
        for caption in self.captions:
            said = caption.with_background(target)
            if said is not None:
                break
        else:
            return None
        words = (target,)
        return build_case(
            id=f"{self.record.id}-background-{target}",
            category="background",
            source_id=self.record.id,
            source=self.image,
            source_prompt=caption.text,
            target_prompt=said,
            instruction=background_instruction(target),
            regions=[(mask, BACKGROUNDS[target].noun, words)],
            region_prompt=BACKGROUNDS[target].noun,
            claims=(Claim("background", caption.background() or "unknown", target),),
            tags={"kind": "background", "target": target},
        )

    @cached_property
    def plans(self) -> dict[int, tuple[int, dict[str, list[Target]]]]:
        """Editable instance -> (the first caption that names it, its targets by kind)."""
        found: dict[int, tuple[int, dict[str, list[Target]]]] = {}
        for caption, here in enumerate(self.phrases):
            for i, phrase in here.items():
                if i not in found:
                    found[i] = caption, self.targets(i, phrase)
        return found

    def groups(self, size: int) -> list[tuple[int, tuple[int, ...]]]:
        """(caption, instances) for each set of so many instances that one caption names, first by hash."""
        found: dict[tuple[int, ...], int] = {}
        for caption, here in enumerate(self.phrases):
            for group in combinations(sorted(here), size):
                found.setdefault(group, caption)
        return [
            (caption, group)
            for group, caption in sorted(found.items(), key=lambda g: self._rank("multi", *g[0]))
        ]

    def _rank(self, *parts: object) -> str:
        """A place in the record's own order; ints are instances."""
        return rank(
            self.record.id, *(self.record.instances[p].id if isinstance(p, int) else p for p in parts)
        )

    def edits(self, kind: str) -> list[tuple[int, int, Target]]:
        """(how many of the instance's targets come before it, instance, target), first by hash.

        The first target of every instance comes before any second one.
        """
        found = []
        for i, (_, targets) in self.plans.items():
            ordered = sorted(targets.get(kind, ()), key=lambda target: self._rank(i, kind, target.value))
            found += [(place, i, target) for place, target in enumerate(ordered)]
        return sorted(found, key=lambda edit: (edit[0], self._rank(edit[1], kind, edit[2].value)))

    def cases(self, category: str, kind: str) -> Iterator[EditCase]:
        """The cases of one kind (as ``scene_kinds`` names them), by hash, each built when it is asked for."""
        if category == "background":
            made = (self.background_case(target) for target in (kind,))
        elif category == "multi_object":
            made = (self._group_case(caption, group) for caption, group in self.groups(int(kind)))
        else:
            made = (self.object_case(self.plans[i][0], [(i, t)], category) for _, i, t in self.edits(kind))
        return (case for case in made if case is not None)

    def _group_case(self, caption: int, group: Sequence[int]) -> EditCase | None:
        changes: list[tuple[int, Target]] = []
        for i in group:
            left = free_targets(self.targets(i, self.phrases[caption][i]), changes)
            if not left:
                return None
            kind = min(left, key=lambda kind: self._rank("multi", *group, i, kind))
            changes.append((i, min(left[kind], key=lambda t: self._rank("multi", *group, i, kind, t.value))))
        return self.object_case(caption, changes, "multi_object")


MULTI_SIZES = ("2", "3")


def scene_kinds(category: str, options: SceneOptions) -> tuple[str, ...]:
    """The kinds of edit of a category: of a background its target, of a multi-object edit how many change."""
    if category == "attribute":
        return ("color", "material") if options.materials else ("color",)
    if category == "replacement":
        return ("category",)
    return options.backgrounds if category == "background" else MULTI_SIZES


def scene_cases(record: SceneRecord, options: SceneOptions) -> list[EditCase]:
    """The sensible edits of one record, category by category; where there are many, the first by hash."""
    stage = EditableScene(record, options)
    cases: list[EditCase | None] = []
    for category in ("attribute", "replacement"):
        for kind in scene_kinds(category, options):
            cases += [
                stage.object_case(stage.plans[i][0], [(i, target)], category)
                for place, i, target in stage.edits(kind)
                if place < options.targets_per_instance
            ]
    cases += [stage.background_case(target) for target in options.backgrounds]
    multi = (case for size in MULTI_SIZES for case in stage.cases("multi_object", size))
    cases += islice(multi, options.multi_per_source)
    return [case for case in cases if case is not None]


def free_targets(
    targets: Mapping[str, list[Target]], taken: Sequence[tuple[int, Target]]
) -> dict[str, list[Target]]:
    """The targets that no other change of the same edit has taken: two new boats could not be told apart."""
    used = {target for _, target in taken}
    left = {kind: [target for target in options if target not in used] for kind, options in targets.items()}
    return {kind: options for kind, options in left.items() if options}
