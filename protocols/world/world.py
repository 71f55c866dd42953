"""The mini world as a source of examples: pictures, labels, and edits with their exact ground truth.

Seeds are split so that no two uses of the world ever draw the same picture:

=====================  =======================================
use                    seeds
=====================  =======================================
evaluation             ``EVALUATION`` + 0, 1, 2, ...
reference (realism)    ``REFERENCE`` + 0, 1, 2, ...
held out for the zoo   ``HELD_OUT`` + 1, 2, 3, ...
training               ``TRAINING`` + 0, 1, 2, ...
=====================  =======================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.edit import EditCase
from bench.images import from_array, mask_array
from protocols.faces import FaceRecord
from protocols.masks import Mask, bounds, dilate
from protocols.prompts import RELATION_WORDS, face_prompt, vocabulary
from protocols.random_faces import random_face_case
from protocols.random_scenes import random_scene_case
from protocols.scenes import MINI_SCENES, Instance, SceneRecord
from protocols.selection import ProtocolError
from protocols.world import level2, level3
from protocols.world.backdrops import BACKDROPS
from protocols.world.canvas import Size
from protocols.world.composed import SceneEdit, class_box, compose, listed
from protocols.world.faces import HAIR_COLORS, MOUTHS, Face, render_face, sample_face
from protocols.world.scenes import CATEGORIES, COLORS, TRIMMED, Object, Scene, render_scene, sample_scene

EVALUATION = 0
REFERENCE = 1_000_000
HELD_OUT = 2_000_000
TRAINING = 10_000_000
# Added to a seed that admits no edit, as often as needed: a distance that no other use of the world reaches.
RETRY = 100_000_000

SIZE = 64

# Goes up with every change of the drawings at 64 px. A test pins it together with a digest of pixels.
WORLD_VERSION = "1"

_YES_NO = ("no", "yes")
# Attribute of the world's pictures -> its values: the vocabulary of claims and of the attribute classifier.
LABELS: Mapping[str, tuple[str, ...]] = {
    "background": BACKDROPS,
    "hair_color": tuple(HAIR_COLORS),
    "mouth": MOUTHS,
    "Male": _YES_NO,
    "Eyeglasses": _YES_NO,
    "Wearing_Hat": _YES_NO,
    "Wearing_Earrings": _YES_NO,
    "Wearing_Lipstick": _YES_NO,
    "No_Beard": _YES_NO,
    "category": tuple(CATEGORIES),
    "color": tuple(COLORS),
}


def face_record(
    seed: int, id_: str | None = None, size: Size = SIZE, detail: bool = False
) -> tuple[FaceRecord, Face]:
    """(one annotated portrait, as the protocol reads it from disk, the face that it was drawn from)."""
    face = sample_face(seed)
    pixels, parts = render_face(face, size, detail)
    return FaceRecord(id_ or str(seed), from_array(pixels), parts, face.attributes()), face


def scene_record(
    seed: int, id_: str | None = None, size: Size = SIZE, detail: bool = False
) -> tuple[SceneRecord, Scene]:
    """(one annotated scene, as the protocol reads it from disk, the scene that it was drawn from)."""
    scene = sample_scene(seed, size)
    pixels, masks = render_scene(scene, size, detail)
    instances = [
        Instance(str(k), o.category, CATEGORIES[o.category].supercategory, mask)
        for k, (o, mask) in enumerate(zip(scene.objects, masks, strict=True))
    ]
    return SceneRecord(id_ or str(seed), from_array(pixels), instances, [caption(scene)]), scene


def caption(scene: Scene) -> str:
    """The caption of a scene: all objects, then the background, always in one form."""
    return listed(scene, range(len(scene.objects)))


def face_truth(face: Face, case: EditCase, detail: bool = False) -> Image.Image:
    """The ideal edit: the face with the case's claims inside the mask, the source's own pixels outside."""
    edited = face
    for claim in case.claims:
        edited = edited.with_claim(claim.attribute, claim.after)
    return _inside(case, render_face(edited, case.request.source.size, detail)[0])


def scene_truth(scene: Scene, case: EditCase, detail: bool = False) -> Image.Image:
    """The ideal edit: the scene with the case's claims inside the mask, the source's own pixels outside."""
    return _inside(case, render_scene(edited_scene(scene, case), case.request.source.size, detail)[0])


def edited_scene(scene: Scene, case: EditCase) -> Scene:
    """The scene with the case's claims. A claim is about the object that its region covers most."""
    edited = scene
    # A background needs no object, and drawing the scene for its masks takes time.
    masks = (
        render_scene(scene, case.request.source.size)[1]
        if any(c.attribute != "background" for c in case.claims)
        else []
    )
    for claim in case.claims:
        if claim.before == claim.after:
            continue  # what stays as it is needs no drawing
        index = 0
        if claim.attribute != "background":
            regions = case.request.regions
            region = mask_array(regions[claim.region].mask if regions else case.request.needed_mask)
            index = int(np.argmax([(region & mask).sum() / max(float(mask.sum()), 1.0) for mask in masks]))
        edited = edited.with_claim(claim.attribute, claim.after, index)
    return edited


def _inside(case: EditCase, pixels: NDArray[np.uint8]) -> Image.Image:
    """The pixels inside the case's mask, and the source's outside.

    The ideal edit then has no leakage by definition. A rim of a shadow or of an outline that the drawing changes beyond
    the mask stays as it was.
    """
    mask = mask_array(case.request.needed_mask)
    return from_array(np.where(mask[..., None], pixels, np.asarray(case.request.source, np.uint8)))


class MiniWorld:
    """The training source of the zoo's recipes. Even indices are faces, odd ones scenes. Negative ones are held out.

    ``levels``: the levels of its scenes, in equal shares. Faces belong to level 1 and are left out without it.
    Only with ``(1,)`` are the examples those that the shipped labels of edits (``methods.zoo.labelled``) number.
    Raises ProtocolError for other levels than 1, 2 and 3.
    """

    def __init__(self, levels: Sequence[int] = (1,)) -> None:
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= {1, 2, 3}:
            raise ProtocolError(f"levels is {list(levels)}; name one or more of 1, 2 and 3, each once")
        self.levels = tuple(sorted(levels))
        # A corpus of one mixture is of no use to another.
        names = "" if self.levels == (1,) else f", levels {' '.join(map(str, self.levels))}"
        self.version = WORLD_VERSION + names

    def by_level(self) -> dict[int, MiniWorld]:
        """Level -> the same source with the scenes of this level alone."""
        return {level: _one_level(level) for level in self.levels}

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 (64, 64, 3)."""
        seed = _seed(index)
        if (edit := self._composed(index)) is not None:
            return render_scene(edit.scene)[0]
        return render_face(sample_face(seed))[0] if index % 2 == 0 else render_scene(sample_scene(seed))[0]

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Every attribute that :meth:`labelled` may name, with all of its values."""
        return {**LABELS, "trim": tuple(COLORS)} if 3 in self.levels else dict(LABELS)

    def labelled(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], dict[str, str]]:
        """(picture, region, labels): uint8 (64, 64, 3), bool (64, 64), attribute -> value.

        On faces the region is any sloppy shape, because their attributes belong to the whole picture. In scenes it
        marks the object of ``category`` and ``color`` as loosely as the mask of an edit would.
        """
        # Every call of the generator below is part of the shipped corpora: none may be added or moved.
        seed = _seed(index)
        rng = np.random.Generator(np.random.PCG64([seed, 7]))
        if (edit := self._composed(index)) is not None:
            return _labelled_part(edit, rng)
        if index % 2 == 0:
            face = sample_face(seed)
            pixels, parts = render_face(face)
            names = list(parts)
            part = parts[names[int(rng.integers(len(names)))]]
            region = _sloppy(part, rng)
            # A complement, as the mask of a background edit is.
            return pixels, ~region if rng.random() < 0.25 else region, face_labels(face)
        scene = sample_scene(seed)
        if rng.random() < 0.6:
            scene = _with_replacements(scene, rng)
        pixels, masks = render_scene(scene)
        # The whole picture, where no second object could be meant.
        if len(masks) == 1 and rng.random() < 0.2:
            return pixels, np.ones_like(masks[0]), _object_labels(scene, 0)
        if rng.random() < 0.15:
            background = ~np.logical_or.reduce(masks)
            return pixels, background, {"background": scene.backdrop}
        index_of_object = int(rng.integers(len(masks)))
        return pixels, _sloppy(masks[index_of_object], rng), _object_labels(scene, index_of_object)

    def described(self, index: int) -> tuple[NDArray[np.uint8], str, dict[str, str]]:
        """(picture of one subject, its prompt, attribute -> value of all that the prompt names)."""
        subject = self._subject(index)
        if isinstance(subject, Face):
            labels = face_labels(subject)
            for name in ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Lipstick"):
                if labels[name] == "no":
                    del labels[name]  # what a prompt does not mention, it does not forbid
            if subject.hat or not subject.beard:
                labels.pop("No_Beard")
            text = _prompt(subject)
            # A hat or a bald head can keep the hair out of the prompt.
            if labels.get("hair_color", "") not in text:
                del labels["hair_color"]
            return render_face(subject)[0], text, labels
        thing = subject.objects[0]
        labels = {"background": subject.backdrop, "category": thing.category, "color": thing.color}
        if thing.trim is not None:
            labels["trim"] = thing.trim
        return render_scene(subject)[0], _prompt(subject), labels

    def contrasts(self, index: int) -> dict[str, list[str]]:
        """Attribute that the prompt of ``described(index)`` names -> that prompt, then one for each other value."""
        subject = self._subject(index)
        _, text, labels = self.described(index)
        values = self.labels()
        contrasts: dict[str, list[str]] = {}
        for name, value in labels.items():
            if name in ("Male", "No_Beard"):
                continue  # another value would change half of the face
            alternatives = [other for other in values[name] if other != value]
            if name == "category" and "trim" in labels:
                # Only a class with a trim can differ in nothing else.
                alternatives = [other for other in alternatives if other in TRIMMED]
            prompts = [_prompt(_with_value(subject, name, other)) for other in alternatives]
            contrasts[name] = [text, *prompts]
        return contrasts

    def case(self, index: int) -> EditCase:
        """One edit of a random category with its ground truth."""
        for attempt in range(100):
            # A picture that allows no edit is replaced by another one, far away in the order of seeds.
            seed = _seed(index) + attempt * RETRY
            if self._level(index) > 1:
                edit = self._composed(index, attempt)
                case = None if edit is None else compose(edit, str(seed))
            else:
                case = face_case(seed) if index % 2 == 0 else scene_case(seed)
            if case is not None:
                return case
        raise RuntimeError(f"no edit could be drawn for index {index}")  # pragma: no cover

    def words(self) -> Sequence[str]:
        """Every word that any prompt of this world uses. Those of level 3 come last."""
        return (*_words(), *RELATION_WORDS) if 3 in self.levels else _words()

    def _level(self, index: int) -> int:
        if self.levels == (1,) or (index % 2 == 0 and 1 in self.levels):
            return 1
        rng = np.random.Generator(np.random.PCG64([_seed(index), 31]))
        return self.levels[int(rng.integers(len(self.levels)))]

    def _composed(self, index: int, first: int = 0) -> SceneEdit | None:
        """The edit of an index at level 2 or 3. None for an index of level 1.

        ``first``: the number of the first retry of the seed.
        """
        level = self._level(index)
        if level == 1:
            return None
        rng = np.random.Generator(np.random.PCG64([_seed(index), 32]))
        kinds = tuple(level2.PAPER_CATEGORIES if level == 2 else level3.PAPER_CATEGORIES)
        kind = kinds[int(rng.integers(len(kinds)))]
        for attempt in range(first, first + 100):
            seed = _seed(index) + attempt * RETRY
            edit = level2.level_2_edit(kind, seed) if level == 2 else level3.level_3_edit(kind, seed)
            if edit is not None:
                return edit
        raise RuntimeError(f"no scene could be drawn for index {index}")  # pragma: no cover

    def _subject(self, index: int) -> Face | Scene:
        """The subject of ``described``. At level 3, half of the objects that can have a trim have one."""
        subject = _subject(index)
        rng = np.random.Generator(np.random.PCG64([_seed(index), 33]))
        if 3 not in self.levels or isinstance(subject, Face) or rng.random() < 0.5:
            return subject
        return _with_trim(subject, 0, rng) if _shows_trim(subject.objects[0]) else subject


@cache
def _one_level(level: int) -> MiniWorld:
    # One object per level: what is cached for a world is found again.
    return MiniWorld((level,))


@lru_cache(maxsize=1)
def _words() -> tuple[str, ...]:
    return tuple(vocabulary())


def face_case(seed: int) -> EditCase | None:
    """One edit of the face of this seed, with its ground truth. None where the face allows none."""
    record, face = face_record(seed)
    case = random_face_case(record, np.random.Generator(np.random.PCG64([seed, 6])))
    if case is None or any((c.attribute, c.after) == ("background", face.backdrop) for c in case.claims):
        # CelebA annotates no background, so the case may ask for the one that the face has: no edit at all.
        return None
    return replace(case, truth=face_truth(face, case))


def scene_case(seed: int) -> EditCase | None:
    """One edit of the scene of this seed, with its ground truth. None where the scene allows none."""
    record, scene = scene_record(seed)
    case = random_scene_case(record, np.random.Generator(np.random.PCG64([seed, 6])), MINI_SCENES)
    return None if case is None else replace(case, truth=scene_truth(scene, case))


def face_labels(face: Face) -> dict[str, str]:
    """Attribute -> value of a face. The hair's colour is missing where no hair is visible."""
    yes_no = {name: _YES_NO[value] for name, value in face.attributes().items() if name in LABELS}
    labels = {**yes_no, "mouth": face.mouth, "background": face.backdrop}
    if face.style != "bald" and not (face.hat and face.male):
        labels["hair_color"] = face.hair
    return labels


def _object_labels(scene: Scene, index: int) -> dict[str, str]:
    thing = scene.objects[index]
    return {"background": scene.backdrop, "category": thing.category, "color": thing.color}


def _seed(index: int) -> int:
    return TRAINING + index if index >= 0 else HELD_OUT - index


def _with_replacements(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after random replacements, as edits leave it: a ball where a kite was.

    A classifier that never saw one calls everything in the sky a kite. A class may occur twice, because the classifier
    is asked about one region.
    """
    for place, thing in enumerate(scene.objects):
        # Kites are the one class that flies, so most of them are replaced.
        kite = thing.category == "kite"
        if rng.random() < (0.8 if kite else 0.4):
            group = CATEGORIES[thing.category].supercategory
            same = [n for n, c in CATEGORIES.items() if c.supercategory == group and n != thing.category]
            names = same if rng.random() < 0.6 else list(CATEGORIES)
            scene = scene.with_claim("category", names[int(rng.integers(len(names)))], place)
    return scene


def _subject(index: int) -> Face | Scene:
    """A face, or a scene of a single object: the subject of ``described`` at level 1."""
    seed = _seed(index)
    if index % 2 == 0:
        return sample_face(seed)
    while len(sample_scene(seed).objects) > 1:
        seed += RETRY
    return sample_scene(seed)


def _with_value(subject: Face | Scene, attribute: str, value: str) -> Face | Scene:
    """The subject with another value of one attribute. An object of another class keeps its trim."""
    changed = subject.with_claim(attribute, value)
    if attribute == "category" and isinstance(subject, Scene) and subject.objects[0].trim is not None:
        return changed.with_claim("trim", subject.objects[0].trim)
    return changed


def _labelled_part(
    edit: SceneEdit, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask, dict[str, str]]:
    """As :meth:`MiniWorld.labelled`, for a scene before or after an edit of level 2 or 3.

    Silhouettes are closer than in level 1: objects are small, and their neighbours are of the same class.
    """
    scene = edit.edited if rng.random() < 0.5 else edit.scene
    index = int(rng.integers(len(scene.objects)))
    if edit.kind in level3.PAPER_CATEGORIES and rng.random() < 0.75:
        # Few objects can have a trim that is seen. Without this choice 4 % of the regions would have one, and
        # a classifier that saw 160,000 of them read trims hardly better than by chance.
        trimmable = [place for place, thing in enumerate(scene.objects) if _shows_trim(thing)]
        if trimmable:
            index = trimmable[int(rng.integers(len(trimmable)))]
            scene = _with_trim(scene, index, rng)
    thing = scene.objects[index]
    pixels, masks = render_scene(scene)
    if rng.random() < 0.1:
        return pixels, ~np.logical_or.reduce(masks), {"background": scene.backdrop}
    labels = {"background": scene.backdrop, "category": thing.category, "color": thing.color}
    if thing.trim is None:
        return _labelled_object(scene, index, pixels, masks, labels, rng)
    # Half of the regions are the thin parts alone, as the edits of a trim are.
    labels["trim"] = thing.trim
    if rng.random() < 0.5:
        return pixels, _close(masks[index], rng), labels
    other = next(color for color in COLORS if color != thing.trim)
    thin = (pixels != render_scene(scene.with_claim("trim", other, index))[0]).any(axis=2)
    return pixels, dilate(thin, float(rng.integers(2))), labels


def _labelled_object(
    scene: Scene,
    index: int,
    pixels: NDArray[np.uint8],
    masks: Sequence[Mask],
    labels: dict[str, str],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], Mask, dict[str, str]]:
    """An object without a trim, in a region whose shape does not tell its class.

    A classifier that had learned from silhouettes and their boxes alone guessed the class from the region. In the box
    of the class before an edit it read one of ten ground truths wrongly, and nearly none in a box of the right class.
    """
    # Another class in the box of this one.
    if rng.random() < 0.45:
        box = class_box(scene, pixels, masks, index)
        if box is not None:
            others = [name for name in CATEGORIES if name != scene.objects[index].category]
            other = others[int(rng.integers(len(others)))]
            changed, _ = render_scene(scene.with_claim("category", other, index))
            return changed, box, labels | {"category": other}
    # A box far around the object, or its silhouette.
    if rng.random() < 0.3:
        return pixels, _loose(masks, index, rng), labels
    return pixels, _close(masks[index], rng), labels


# Smallest scale at which the lines of a trim are nearly one pixel wide at 64 px, and not a mere tint.
_LEAST_TRIMMED = 9.0


def _shows_trim(thing: Object) -> bool:
    """Whether the object's class has a trim, and the object is large enough to show it."""
    return thing.category in TRIMMED and thing.scale >= _LEAST_TRIMMED


def _with_trim(scene: Scene, index: int, rng: np.random.Generator) -> Scene:
    """The scene with a trim of a random new colour on one object."""
    thing = scene.objects[index]
    colors = [color for color in COLORS if color not in (thing.color, thing.trim)]
    return scene.with_claim("trim", colors[int(rng.integers(len(colors)))], index)


def _close(mask: Mask, rng: np.random.Generator) -> Mask:
    """The silhouette grown by up to 2 px, or in a quarter of the cases its box grown by as much."""
    grow = int(rng.integers(3))
    if not mask.any() or rng.random() < 0.75:
        return dilate(mask, grow)
    return _box(mask, [grow] * 4)


def _box(mask: Mask, grow: Sequence[int] | NDArray[np.int64]) -> Mask:
    """The box of a mask that is not empty. ``grow``: pixels that it grows at the top, bottom, left and right."""
    box = bounds(mask)
    assert box is not None
    left, top, right, bottom = box
    region = np.zeros_like(mask)
    region[max(0, top - grow[0]) : bottom + grow[1], max(0, left - grow[2]) : right + grow[3]] = True
    return region


def _loose(masks: Sequence[Mask], index: int, rng: np.random.Generator) -> Mask:
    """A box around one object, each side moved outwards by up to 9 px, without the other objects."""
    region = _box(masks[index], rng.integers(10, size=4))
    for place, other in enumerate(masks):
        if place != index:
            region &= ~dilate(other, 1)
    return region | masks[index]


def _prompt(subject: Face | Scene) -> str:
    if isinstance(subject, Face):
        return face_prompt(subject.attributes(), subject.backdrop)
    return caption(subject)


def _sloppy(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The silhouette or its box, grown by a few pixels."""
    grow = rng.integers(0, 6, size=4)
    if rng.random() < 0.5:
        return _box(mask, grow)
    region = np.zeros_like(mask)
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            region |= np.roll(mask, (dy, dx), (0, 1))
    return region
