"""The edits that one annotated scene allows: which ones make sense, their masks, and their prompts.

It reads no files: a record in memory goes in, cases come out. ``protocols.coco`` reads the data set, and the mini world
makes its records from what it renders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from PIL import Image

from bench.edit import Claim, EditCase
from bench.images import crop_square, mask_array, mask_image, resize, resize_mask, to_array
from protocols.captions import Caption, NounPhrase, region_phrase
from protocols.colors import dominant_color
from protocols.masks import Mask, apart, bounds, dilate, erode, rounded_box, square_crop, union, usable
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
from protocols.selection import MULTI_SIZES, build_case, rank

# A replacement's box may cover at most this share of another salient instance. The edit would erase more of it.
MAX_COVER = 0.25
# At least this share of an instance must be inside the crop. A cut object is hard to replace by a whole one.
MIN_VISIBLE = 0.9


# eq=False for values that hold images: comparing two of them would compare pixels, or raise.
@dataclass(frozen=True, eq=False)
class Instance:
    """One annotated object. ``mask``: bool (H, W) at the image's size. ``crowd``: a group under one outline."""

    id: str
    category: str
    supercategory: str
    mask: Mask
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class SceneRecord:
    """One annotated scene. ``image``: RGB of any size. ``captions``: the texts of the data set, unchanged."""

    id: str
    image: Image.Image
    instances: Sequence[Instance]
    captions: Sequence[str]


@dataclass(frozen=True)
class SceneOptions:
    """The vocabulary of the edits, and the size of the objects that are edited."""

    # Pixels of all records after crop and resizing: the side of a square, or (width, height).
    canvas: int | tuple[int, int] = 512
    colors: tuple[str, ...] = COLORS
    # Empty: no material edits.
    materials: tuple[str, ...] = tuple(MATERIALS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    # (category, supercategory) of the annotation file: the classes that a replacement chooses from.
    categories: tuple[tuple[str, str], ...] = ()
    # Bounds of an edited instance's share of the crop. Below, the edit is hardly visible. Above, little is kept.
    min_area: float = 0.02
    max_area: float = 0.40


# For the rendered world: its own colours and classes, no materials.
MINI_SCENES = SceneOptions(
    canvas=64, colors=MINI_COLORS, materials=(), categories=tuple(MINI_CATEGORIES.items())
)


@dataclass(frozen=True)
class Target:
    """One thing to change about one instance."""

    # "color", "material" or "category".
    kind: str
    value: str


@dataclass(frozen=True)
class _Wording:
    """The texts and claims of one changed object."""

    phrase: NounPhrase
    # Replaces the phrase in the caption.
    new_phrase: str
    # Words of the new phrase that the edit is about.
    edit_words: tuple[str, ...]
    instruction: str
    claims: tuple[Claim, ...]


class EditableScene:
    """A record on the canvas: one square crop, the instances in it, and the edits that make sense there.

    Each image has one crop, not each edit, so that all cases of one source have the same pixels. An instance is
    named by its index in ``record.instances``, a caption by its index in ``record.captions``.
    """

    def __init__(self, record: SceneRecord, options: SceneOptions) -> None:
        self.record = record
        self.options = options
        canvas = options.canvas
        # (width, height) of the canvas in pixels.
        self.size = (canvas, canvas) if isinstance(canvas, int) else canvas
        # Lengths below are in pixels of a canvas of 64 px, and grow with the canvas.
        self.unit = min(self.size) / 64
        self.shape = self.size[::-1]
        self._colors: dict[int, str | None] = {}
        self._masks: dict[tuple[int, str], Mask | None] = {}
        # Crowds and specks count too: a caption may mean them.
        self._counts: dict[str, int] = {}
        for instance in record.instances:
            self._counts[instance.category] = self._counts.get(instance.category, 0) + 1
        self.box = self._crop()
        self.image = self._image()
        left, top, right, bottom = self.box
        cropped = [instance.mask[top:bottom, left:right] for instance in record.instances]
        areas = [int(np.count_nonzero(instance.mask)) for instance in record.instances]
        self._visible = [
            np.count_nonzero(mask) / area if area else 0.0 for mask, area in zip(cropped, areas, strict=True)
        ]
        # At the canvas's size the masks stay exact: resampling and a threshold could move their outlines.
        self.masks: list[Mask] = [
            mask if mask.shape == self.shape else mask_array(resize_mask(mask_image(mask), self.size))
            for mask in cropped
        ]
        self.shares = [np.count_nonzero(mask) / mask.size for mask in self.masks]
        self.captions = [Caption(text) for text in record.captions]

    # ------------------------------------------------------------ crop

    def _crop(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the square that shows most of the objects that may be edited."""
        width, height = self.record.image.size
        if (width, height) == self.size:
            return 0, 0, width, height
        if self.size[0] != self.size[1]:
            raise ValueError(f"a record of {width}x{height} on a canvas of {self.size[0]}x{self.size[1]}")
        side, length = min(width, height), max(width, height)
        spans = []
        for instance in self.record.instances:
            box = bounds(instance.mask)
            large = np.count_nonzero(instance.mask) >= self.options.min_area * side * side
            if box is None or not large or not self._is_single(instance):
                continue
            low, high = (box[0], box[2]) if width > height else (box[1], box[3])
            # A mask reaches beyond its object, and a replacement may be larger than it.
            margin = (high - low) // 4
            spans.append((max(low - margin, 0), min(high + margin, length)))
        return square_crop(width, height, spans)

    def _image(self) -> Image.Image:
        image = self.record.image
        if self.box != (0, 0, *image.size):
            image = crop_square(image, self.box)
        return resize(image, self.size)

    @cached_property
    def pixels(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """uint8 (H, W, 3) of ``image``."""
        return to_array(self.image)

    # ------------------------------------------------------------ objects and their targets

    def _is_single(self, instance: Instance) -> bool:
        # Of two cups, "the cup" names neither: a prompt could not say which one to change.
        return not instance.crowd and self._counts[instance.category] == 1

    @cached_property
    def candidates(self) -> list[int]:
        """The instances that may be edited: one of their class, wholly visible, neither tiny nor huge."""
        return [
            i
            for i, instance in enumerate(self.record.instances)
            if self._is_single(instance)
            and self._visible[i] >= MIN_VISIBLE
            and self.options.min_area <= self.shares[i] <= self.options.max_area
        ]

    @cached_property
    def phrases(self) -> list[dict[int, NounPhrase]]:
        """For each caption: candidate -> the phrase that names it."""
        # Without a phrase there is no target prompt, so such an object is not edited.
        return [
            {
                i: phrase
                for i in self.candidates
                if (phrase := caption.noun_phrase(self.record.instances[i].category)) is not None
            }
            for caption in self.captions
        ]

    def color_of(self, index: int) -> str | None:
        """The colour of most of the instance's pixels, None where no colour is clear."""
        if index not in self._colors:
            self._colors[index] = dominant_color(self.pixels[self.masks[index]], self.options.colors)
        return self._colors[index]

    def targets(self, index: int, phrase: NounPhrase) -> dict[str, list[Target]]:
        """Kind of edit -> the targets that differ from the present state of the instance. No kind is empty."""
        instance = self.record.instances[index]
        targets: dict[str, list[Target]] = {}
        if instance.supercategory not in NO_COLOR_GROUPS and instance.category not in NO_COLOR:
            # Caption and pixels may disagree. Neither colour is a target, or the edit might change nothing.
            present = {phrase.color, self.color_of(index)}
            targets["color"] = [
                Target("color", color) for color in self.options.colors if color not in present
            ]
            targets["material"] = [
                Target("material", material)
                for material in MATERIALS_OF.get(instance.category, ())
                if material in self.options.materials and MATERIALS[material] != phrase.material
            ]
        if not phrase.bound and self.mask(index, "category") is not None:
            # The new class has the same supercategory: a boat may stand where a car was, a banana may not. The image
            # has no object of that class yet, since nobody could tell the new object from it.
            targets["category"] = [
                Target("category", name)
                for name, group in self.options.categories
                if group == instance.supercategory
                and name not in self._counts
                and name not in NO_TARGET
                and name != instance.category
            ]
        return {kind: options for kind, options in targets.items() if options}

    # ------------------------------------------------------------ masks

    def mask(self, index: int, kind: str) -> Mask | None:
        """Bool (H, W) where the edit happens. None where the mask would be unusable.

        For another class it is a rounded box, because the silhouette would give the old class away. For another
        colour or material it is the silhouette with a rim.
        """
        key = (index, "category" if kind == "category" else "color")
        if key not in self._masks:
            if kind == "category":
                mask = self._box_mask(index)
            else:
                # COCO's polygons cut corners: the rim covers what they leave of the object's outline.
                mask = dilate(self.masks[index], 1.5 * self.unit)
            self._masks[key] = mask if mask is not None and usable(mask) else None
        return self._masks[key]

    def _box_mask(self, index: int) -> Mask | None:
        """The bounding box, widened where it is narrow. None where it would cover much of a neighbour."""
        box = bounds(self.masks[index])
        if box is None:
            return None
        left, top, right, bottom = map(float, box)
        width, height = right - left, bottom - top
        # The short side becomes at least 0.7 of the long one, so that an object of another shape has room.
        if width < 0.7 * height:
            middle, half = (left + right) / 2, 0.35 * height
            left, right = middle - half, middle + half
        elif height < 0.7 * width:
            top = bottom - 0.7 * width  # objects stand on the ground, so the room is above
        margin = 0.08 * max(width, height) + self.unit
        # Rounded, because a user brushes no sharp corners, and objects rarely reach into them.
        mask = rounded_box(
            self.shape,
            (left - margin, top - margin, right + margin, bottom + margin),
            0.25 * max(width, height),
        )
        for other, (other_mask, share) in enumerate(zip(self.masks, self.shares, strict=True)):
            # COCO annotates specks too. They must not forbid an edit.
            if other == index or share < 0.01:
                continue
            if np.count_nonzero(mask & other_mask) > MAX_COVER * np.count_nonzero(other_mask):
                return None
        return mask

    @cached_property
    def background_mask(self) -> Mask | None:
        """Bool (H, W): the complement of the salient instances, their outlines included in the edit.

        None where there is a crowd, no salient instance, or too little background.
        """
        # A crowd's outline is coarse and may leave people in the background.
        if any(instance.crowd for instance in self.record.instances):
            return None
        salient = [
            mask
            for mask, share in zip(self.masks, self.shares, strict=True)
            if share >= self.options.min_area
        ]
        if not salient:
            return None
        # Pixels of the outline mix object and old background. A kept rim would be a halo in the new one.
        mask = ~erode(union(salient, self.shape), max(1.0, 0.5 * self.unit))
        # On less than a fifth of the image, no viewer could name the new background.
        return mask if usable(mask) and mask.mean() >= 0.2 else None

    # ------------------------------------------------------------ single cases

    def object_case(
        self, caption: int, changes: Sequence[tuple[int, Target]], category: str
    ) -> EditCase | None:
        """One instance changed, or several at once, in the words of one caption.

        ``changes`` holds (instance, target). None where a mask is unusable, or where two masks overlap too much.
        """
        # Regions, actions and prompts follow the order of the caption.
        phrases = self.phrases[caption]
        changes = sorted(changes, key=lambda change: phrases[change[0]].start)
        masks = [mask for i, target in changes if (mask := self.mask(i, target.kind)) is not None]
        if len(masks) < len(changes) or not apart(masks):
            return None
        wordings = [
            self._wording(i, target, phrases[i], region) for region, (i, target) in enumerate(changes)
        ]
        region_prompts = [region_phrase(wording.new_phrase) for wording in wordings]
        text = self.captions[caption]
        return build_case(
            id=self._object_case_id(changes),
            category=category,
            source_id=self.record.id,
            source=self.image,
            source_prompt=text.text,
            target_prompt=text.replace([(wording.phrase, wording.new_phrase) for wording in wordings]),
            instruction=join([wording.instruction for wording in wordings]),
            regions=[
                (mask, prompt, wording.edit_words)
                for mask, prompt, wording in zip(masks, region_prompts, wordings, strict=True)
            ],
            region_prompt=join(region_prompts),
            claims=tuple(claim for wording in wordings for claim in wording.claims),
            tags={
                "kind": "+".join(target.kind for _, target in changes),
                "target": "+".join(target.value for _, target in changes),
                "instances": "+".join(self.record.instances[i].id for i, _ in changes),
            },
        )

    def _object_case_id(self, changes: Sequence[tuple[int, Target]]) -> str:
        # Stored runs name their cases by these ids.
        several = len(changes) > 1
        parts = [self.record.id, *(["multi"] if several else [])]
        for i, target in changes:
            kind = "" if several else f"{target.kind}-"
            parts.append(f"{self.record.instances[i].category}-{kind}{target.value}".replace(" ", "_"))
        return "-".join(parts)

    def _wording(self, index: int, target: Target, phrase: NounPhrase, region: int) -> _Wording:
        """The texts and claims of one change. ``region``: the index of the change within its case."""
        category = self.record.instances[index].category
        # COCO annotates no materials.
        before = "unknown"
        if target.kind == "color":
            new_phrase = phrase.with_color(target.value)
            edit_words = [target.value, *phrase.noun.split()]
            instruction = f"make the {phrase.noun} {target.value}"
            # The annotator's word comes before the vote of the pixels, which shadows and reflections mislead.
            before = phrase.color or self.color_of(index) or "unknown"
        elif target.kind == "material":
            adjective = MATERIALS[target.value]
            new_phrase = phrase.with_material(adjective)
            edit_words = [adjective, *phrase.noun.split()]
            instruction = f"make the {phrase.noun} out of {target.value}"
        else:
            new_phrase = phrase.with_category(target.value)
            edit_words = new_phrase.split()[1:]  # without the article
            old = f"{phrase.color} {phrase.noun}" if phrase.color else phrase.noun
            instruction = f"turn the {old} into {region_phrase(new_phrase)}"
            before = category
        claims = [Claim(target.kind, before, target.value, region=region)]
        # The region's prompt names what stays, too: a pink bus is still pink as a boat, and still a bus when red.
        if target.kind != "category":
            claims.append(Claim("category", category, category, region=region))
        elif phrase.color:
            claims.append(Claim("color", phrase.color, phrase.color, region=region))
        return _Wording(phrase, new_phrase, tuple(edit_words), instruction, tuple(claims))

    def background_case(self, target: str) -> EditCase | None:
        """Another background, in the words of the first caption that can name it. None where none can."""
        mask = self.background_mask
        if mask is None:
            return None
        for caption in self.captions:
            target_prompt = caption.with_background(target)
            if target_prompt is not None:
                break
        else:
            return None
        return build_case(
            id=f"{self.record.id}-background-{target}",
            category="background",
            source_id=self.record.id,
            source=self.image,
            source_prompt=caption.text,
            target_prompt=target_prompt,
            instruction=background_instruction(target),
            regions=[(mask, BACKGROUNDS[target].noun, (target,))],
            region_prompt=BACKGROUNDS[target].noun,
            claims=(Claim("background", caption.background() or "unknown", target),),
            tags={"kind": "background", "target": target},
        )

    # ------------------------------------------------------------ all cases, in an order by hash

    @cached_property
    def plans(self) -> dict[int, tuple[int, dict[str, list[Target]]]]:
        """Candidate -> (the first caption that names it, its targets by kind)."""
        plans: dict[int, tuple[int, dict[str, list[Target]]]] = {}
        for caption, phrases in enumerate(self.phrases):
            for i, phrase in phrases.items():
                if i not in plans:
                    plans[i] = caption, self.targets(i, phrase)
        return plans

    def groups(self, size: int) -> list[tuple[int, tuple[int, ...]]]:
        """(caption, instances) for each set of ``size`` instances that one caption names, first by hash."""
        captions: dict[tuple[int, ...], int] = {}
        for caption, phrases in enumerate(self.phrases):
            # Sorted, so that one set of instances is one key, whatever the order of their phrases.
            for group in combinations(sorted(phrases), size):
                captions.setdefault(group, caption)
        return [(captions[group], group) for group in sorted(captions, key=lambda g: self._rank("multi", *g))]

    def _rank(self, *parts: object) -> str:
        """Sort key of the parts in the record's own order. An int stands for an instance."""
        # Instances go in by the data set's id: their index changes when an annotation is added before them.
        return rank(
            self.record.id, *(self.record.instances[p].id if isinstance(p, int) else p for p in parts)
        )

    def edits(self, kind: str) -> list[tuple[int, int, Target]]:
        """(place of the target among the instance's targets, instance, target), first by hash.

        The first target of every instance comes before any second one.
        """
        # A benchmark asks each source for one case of a kind, so a large image must not always give its first object.
        edits = []
        for i, (_, targets) in self.plans.items():
            ordered = sorted(targets.get(kind, ()), key=lambda target: self._rank(i, kind, target.value))
            edits += [(place, i, target) for place, target in enumerate(ordered)]
        return sorted(edits, key=lambda edit: (edit[0], self._rank(edit[1], kind, edit[2].value)))

    def cases(self, category: str, kind: str) -> Iterator[EditCase]:
        """The cases of one kind of :func:`scene_kinds`, first by hash, each built when it is needed."""
        if category == "background":
            cases = (self.background_case(target) for target in (kind,))
        elif category == "multi_object":
            cases = (self._group_case(caption, group) for caption, group in self.groups(int(kind)))
        else:
            cases = (self.object_case(self.plans[i][0], [(i, t)], category) for _, i, t in self.edits(kind))
        return (case for case in cases if case is not None)

    def _group_case(self, caption: int, group: Sequence[int]) -> EditCase | None:
        """One change of each instance of the group, first by hash. None where an instance has no target left."""
        changes: list[tuple[int, Target]] = []
        for i in group:
            targets = free_targets(self.targets(i, self.phrases[caption][i]), changes)
            if not targets:
                return None
            kind = min(targets, key=lambda kind: self._rank("multi", *group, i, kind))
            target = min(targets[kind], key=lambda t: self._rank("multi", *group, i, kind, t.value))
            changes.append((i, target))
        return self.object_case(caption, changes, "multi_object")


def scene_kinds(category: str, options: SceneOptions) -> tuple[str, ...]:
    """The kinds of edit of a category: for backgrounds their names, for several objects the numbers of changes."""
    if category == "attribute":
        return ("color", "material") if options.materials else ("color",)
    if category == "replacement":
        return ("category",)
    return options.backgrounds if category == "background" else MULTI_SIZES


def free_targets(
    targets: Mapping[str, list[Target]], changes: Sequence[tuple[int, Target]]
) -> dict[str, list[Target]]:
    """The targets that no other change of the same edit uses: two new boats could not be told apart."""
    used = {target for _, target in changes}
    free = {kind: [target for target in options if target not in used] for kind, options in targets.items()}
    return {kind: options for kind, options in free.items() if options}
