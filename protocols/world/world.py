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
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.edit import EditCase
from bench.images import from_array, mask_array
from protocols.faces import FaceRecord
from protocols.prompts import face_prompt, scene_caption, vocabulary
from protocols.random_faces import random_face_case
from protocols.random_scenes import random_scene_case
from protocols.scenes import MINI_SCENES, Instance, SceneRecord
from protocols.world.backdrops import BACKDROPS
from protocols.world.faces import HAIR_COLORS, MOUTHS, Face, render_face, sample_face
from protocols.world.scenes import CATEGORIES, COLORS, Scene, render_scene, sample_scene

EVALUATION = 0
REFERENCE = 1_000_000
HELD_OUT = 2_000_000
TRAINING = 10_000_000

SIZE = 64

WORLD_VERSION = "1"
"""Goes up with every change of the drawings; pinned by a test together with a digest of pixels."""

_YES_NO = ("no", "yes")
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
"""Every attribute that the world's pictures show, with its values: the vocabulary of claims and of the reader."""


def face_record(seed: int, id_: str | None = None) -> tuple[FaceRecord, Face]:
    """One annotated portrait, as the protocol reads it from disk, and what it was drawn from."""
    face = sample_face(seed)
    pixels, parts = render_face(face, SIZE)
    return FaceRecord(id_ or str(seed), from_array(pixels), parts, face.attributes()), face


def scene_record(seed: int, id_: str | None = None) -> tuple[SceneRecord, Scene]:
    """One annotated scene, as the protocol reads it from disk, and what it was drawn from."""
    scene = sample_scene(seed)
    pixels, masks = render_scene(scene, SIZE)
    instances = [
        Instance(str(k), o.category, CATEGORIES[o.category].supercategory, mask)
        for k, (o, mask) in enumerate(zip(scene.objects, masks, strict=True))
    ]
    return SceneRecord(id_ or str(seed), from_array(pixels), instances, [caption(scene)]), scene


def caption(scene: Scene) -> str:
    """What COCO's annotators would write under a scene, in one fixed manner."""
    return scene_caption([(o.color, o.category) for o in scene.objects], scene.backdrop)


def face_truth(face: Face, case: EditCase) -> Image.Image:
    """The face with the case's claims kept, inside the case's mask; outside, the source's own pixels."""
    edited = face
    for claim in case.claims:
        edited = edited.with_claim(claim.attribute, claim.after)
    return _inside(case, render_face(edited, SIZE)[0])


def scene_truth(scene: Scene, case: EditCase) -> Image.Image:
    """The scene with the case's claims kept, inside the case's mask; outside, the source's own pixels."""
    return _inside(case, render_scene(edited_scene(scene, case), SIZE)[0])


def edited_scene(scene: Scene, case: EditCase) -> Scene:
    """Which object a claim means is read off its region: the one that the region covers most."""
    edited = scene
    masks = render_scene(scene, SIZE)[1] if any(c.attribute != "background" for c in case.claims) else []
    for claim in case.claims:
        if claim.before == claim.after:
            continue  # what stays as it is needs no drawing
        index = 0
        if claim.attribute != "background":
            regions = case.request.regions
            region = mask_array(regions[claim.region].mask if regions else case.request.mask)
            index = int(np.argmax([(region & mask).sum() / max(float(mask.sum()), 1.0) for mask in masks]))
        edited = edited.with_claim(claim.attribute, claim.after, index)
    return edited


def _inside(case: EditCase, pixels: NDArray[np.uint8]) -> Image.Image:
    """The ideal edit is confined to its mask, so that it leaks nothing by definition.

    What a re-render changes beyond the mask (a shadow's rim, an outline's blend) keeps the source's pixels.
    """
    mask = mask_array(case.request.mask)
    return from_array(np.where(mask[..., None], pixels, np.asarray(case.request.source, np.uint8)))


class MiniWorld:
    """The training source of the zoo's recipes: even indices are faces, odd ones scenes; negative ones held out."""

    version = WORLD_VERSION

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 (64, 64, 3)."""
        seed = _seed(index)
        return render_face(sample_face(seed))[0] if index % 2 == 0 else render_scene(sample_scene(seed))[0]

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Every attribute that :meth:`labelled` may name, with all of its values."""
        return dict(LABELS)

    def labelled(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], dict[str, str]]:
        """A picture, a region of it, bool (64, 64), and what the region shows.

        On faces the region is any sloppy shape (their attributes are the whole picture's); in scenes it marks
        the object that ``category`` and ``color`` speak of, as loosely as an edit's mask would.
        """
        seed = _seed(index)
        rng = np.random.Generator(np.random.PCG64([seed, 7]))
        if index % 2 == 0:
            face = sample_face(seed)
            pixels, parts = render_face(face)
            names = list(parts)
            part = parts[names[int(rng.integers(len(names)))]]
            region = _sloppy(part, rng)
            return pixels, ~region if rng.random() < 0.25 else region, face_labels(face)
        scene = sample_scene(seed)
        if rng.random() < 0.6:
            scene = _as_edits_leave_it(scene, rng)
        pixels, masks = render_scene(scene)
        if len(masks) == 1 and rng.random() < 0.2:
            thing = scene.objects[0]
            labels = {"background": scene.backdrop, "category": thing.category, "color": thing.color}
            return pixels, np.ones_like(masks[0]), labels
        if rng.random() < 0.15:
            background = ~np.logical_or.reduce(masks)
            return pixels, background, {"background": scene.backdrop}
        chosen = int(rng.integers(len(masks)))
        thing = scene.objects[chosen]
        labels = {"background": scene.backdrop, "category": thing.category, "color": thing.color}
        return pixels, _sloppy(masks[chosen], rng), labels

    def described(self, index: int) -> tuple[NDArray[np.uint8], str, dict[str, str]]:
        """A picture with one subject, its prompt, and every attribute that the prompt names."""
        subject = _subject(index)
        if isinstance(subject, Face):
            labels = face_labels(subject)
            for name in ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Lipstick"):
                if labels[name] == "no":
                    del labels[name]  # what a prompt does not mention, it does not forbid
            if subject.hat or not subject.beard:
                labels.pop("No_Beard")
            text = _prompt(subject)
            if labels.get("hair_color", "") not in text:
                del labels["hair_color"]
            return render_face(subject)[0], text, labels
        thing = subject.objects[0]
        labels = {"background": subject.backdrop, "category": thing.category, "color": thing.color}
        return render_scene(subject)[0], _prompt(subject), labels

    def contrasts(self, index: int) -> dict[str, list[str]]:
        """For each attribute that the prompt of ``described(index)`` names: the prompt, then what it would be with
        each other value.
        """
        subject = _subject(index)
        _, text, labels = self.described(index)
        out: dict[str, list[str]] = {}
        for name, value in labels.items():
            if name in ("Male", "No_Beard"):
                continue  # exchanged, they would exchange half of the face
            others = [_prompt(subject.with_claim(name, other)) for other in LABELS[name] if other != value]
            out[name] = [text, *others]
        return out

    def case(self, index: int) -> EditCase:
        """One edit of a random category with its ground truth."""
        for attempt in range(100):
            # A picture that admits no edit of the drawn category hands over to another one, far away.
            seed = _seed(index) + attempt * 100_000_000
            case = face_case(seed) if index % 2 == 0 else scene_case(seed)
            if case is not None:
                return case
        raise RuntimeError(f"no edit could be drawn for index {index}")  # pragma: no cover

    def words(self) -> Sequence[str]:
        """Every word that any prompt of this world uses."""
        return _words()


@lru_cache(maxsize=1)
def _words() -> tuple[str, ...]:
    return tuple(vocabulary())


def face_case(seed: int, category: str | None = None) -> EditCase | None:
    """One edit of the face of this seed, with its truth; None where it admits none (of this category)."""
    record, face = face_record(seed)
    case = random_face_case(record, np.random.Generator(np.random.PCG64([seed, 6])), category=category)
    if case is None or any((c.attribute, c.after) == ("background", face.backdrop) for c in case.claims):
        return None  # CelebA's annotations do not tell the background; asking for the one that is there is no edit
    return replace(case, truth=face_truth(face, case))


def scene_case(seed: int, category: str | None = None) -> EditCase | None:
    """One edit of the scene of this seed, with its truth; None where it admits none (of this category)."""
    record, scene = scene_record(seed)
    case = random_scene_case(record, np.random.Generator(np.random.PCG64([seed, 6])), MINI_SCENES, category)
    return None if case is None else replace(case, truth=scene_truth(scene, case))


def face_labels(face: Face) -> dict[str, str]:
    """What can be seen of a face: hair colour only where hair shows."""
    yes_no = {name: _YES_NO[value] for name, value in face.attributes().items() if name in LABELS}
    labels = {**yes_no, "mouth": face.mouth, "background": face.backdrop}
    if face.style != "bald" and not (face.hat and face.male):
        labels["hair_color"] = face.hair
    return labels


def _seed(index: int) -> int:
    return TRAINING + index if index >= 0 else HELD_OUT - index


def _as_edits_leave_it(scene: Scene, rng: np.random.Generator) -> Scene:
    """A ball where a kite was: a reader that never saw one calls all that flies a kite.

    Half of the objects become another of their supercategory, or any other. Nothing makes sure that an object
    occurs once: the reader is asked for one region.
    """
    for place, thing in enumerate(scene.objects):
        kite = thing.category == "kite"
        if rng.random() < (0.8 if kite else 0.4):
            group = CATEGORIES[thing.category].supercategory
            same = [n for n, c in CATEGORIES.items() if c.supercategory == group and n != thing.category]
            names = same if rng.random() < 0.6 else list(CATEGORIES)
            scene = scene.with_claim("category", names[int(rng.integers(len(names)))], place)
    return scene


def _subject(index: int) -> Face | Scene:
    """What ``described`` shows: a face, or a scene of a single object."""
    seed = _seed(index)
    if index % 2 == 0:
        return sample_face(seed)
    while len(sample_scene(seed).objects) > 1:
        seed += 100_000_000
    return sample_scene(seed)


def _prompt(subject: Face | Scene) -> str:
    if isinstance(subject, Face):
        return face_prompt(subject.attributes(), subject.backdrop)
    return caption(subject)


def _sloppy(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The silhouette or its box, grown by a few pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    grow = rng.integers(0, 6, size=4)
    out = np.zeros_like(mask)
    top, bottom = max(0, int(rows[0] - grow[0])), int(rows[-1] + 1 + grow[1])
    left, right = max(0, int(columns[0] - grow[2])), int(columns[-1] + 1 + grow[3])
    if rng.random() < 0.5:
        out[top:bottom, left:right] = True
        return out
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            out |= np.roll(mask, (dy, dx), (0, 1))
    return out
