"""The rendered world at the sizes of public models: faces and scenes of 64 to 1024 px, square or not.

Everything is rendered in memory, with the textures and small marks of large canvases. Sources, kinds of edits and
prompts are those of the mini protocols. Images are not, since no JPEG file stands between.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from PIL import Image

from bench.edit import EditCase
from protocols.faces import EditableFace, FaceOptions, face_kinds, kind_names
from protocols.prompts import MINI_CATEGORIES, MINI_COLORS
from protocols.scenes import EditableScene, SceneOptions, scene_kinds
from protocols.selection import Choice, SelectingProtocol, SelectionOptions
from protocols.world.backdrops import BACKDROPS
from protocols.world.faces import Face, sample_face
from protocols.world.layout import EVALUATION_COUNT, REFERENCE_COUNT
from protocols.world.scenes import sample_scene
from protocols.world.world import (
    EVALUATION,
    REFERENCE,
    WORLD_VERSION,
    face_record,
    face_truth,
    scene_record,
    scene_truth,
)

SMALLEST, LARGEST = 64, 1024
# Autoencoders of diffusion models halve an image three times.
_STEP = 8


def canvas_size(canvas: int | str) -> tuple[int, int]:
    """(width, height) of the option ``canvas``: a side in pixels, or text like "768x512".

    Raises ValueError for anything else, and for sides that are not multiples of 8 from 64 to 1024.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(canvas))
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or any(not SMALLEST <= side <= LARGEST or side % _STEP for side in sides):
        raise ValueError(
            f"canvas is {canvas!r}; name a side such as 512, or WIDTHxHEIGHT such as 768x512, each a multiple of "
            f"{_STEP} from {SMALLEST} to {LARGEST}"
        )
    return sides[0], sides[-1]


@dataclass(frozen=True)
class WorldOptions(SelectionOptions):
    """Options of the rendered protocols of large images."""

    # Pixels: a side, or "WIDTHxHEIGHT". A wider image shows more of the world.
    canvas: int | str = 512
    cases_per_category: int = 50
    # Rendering takes about 0.1 s at 512 px and 0.4 s at 1024 px for each image.
    reference_count: int | None = 500
    backgrounds: tuple[str, ...] = BACKDROPS

    def __post_init__(self) -> None:
        super().__post_init__()
        canvas_size(self.canvas)
        unknown = [name for name in self.backgrounds if name not in BACKDROPS]
        if unknown or not self.backgrounds:
            raise ValueError(f"backgrounds are {list(self.backgrounds)}; choose from {', '.join(BACKDROPS)}")
        if self.reference_count is not None and self.reference_count > REFERENCE_COUNT:
            raise ValueError(
                f"reference_count is {self.reference_count}; it must be at most {REFERENCE_COUNT}, or null for all"
            )


SourceT = TypeVar("SourceT", EditableFace, EditableScene)


class _LargeWorld(SelectingProtocol[WorldOptions, SourceT], Generic[SourceT]):
    """The base of faces and scenes: rendered sources, ground truths and reference images of one size."""

    # The drawings' version: other pixels are other cases.
    version = WORLD_VERSION
    rendered = True
    Options = WorldOptions
    subject: ClassVar[str]

    def __init__(self, options: WorldOptions) -> None:
        super().__init__(options)
        self.size = canvas_size(options.canvas)
        self.canvas: int | tuple[int, int] = self.size[0] if self.size[0] == self.size[1] else self.size

    @property
    def origin(self) -> str:
        return f"the {EVALUATION_COUNT} images of the rendered world"

    @property
    def salt(self) -> str:
        # Not the name: every size selects the same cases.
        return f"world-{self.subject}"

    def sources(self) -> Sequence[str]:
        return [str(number) for number in range(EVALUATION_COUNT)]

    @abstractmethod
    def truth(self, case: EditCase) -> Image.Image:
        """The ground truth of a case."""

    def build(self, choice: Choice) -> EditCase:
        case = super().build(choice)
        return replace(case, truth=self.truth(case))

    @abstractmethod
    def image(self, seed: int) -> Image.Image:
        """The image of a seed."""

    def reference(self) -> Iterator[Image.Image]:
        numbers = self.first_by_hash([str(number) for number in range(REFERENCE_COUNT)], without=frozenset())
        return (self.image(REFERENCE + int(number)) for number in numbers)


class WorldFaces(_LargeWorld[EditableFace]):
    """Rendered portraits at 512 px."""

    name = "world-512-faces"
    summary = "rendered portraits, 512 px or any size to 1024, with the ground truth of every edit (embedded)"
    subject = "faces"

    def __init__(self, options: WorldOptions) -> None:
        super().__init__(options)
        self._edits = FaceOptions(backgrounds=options.backgrounds)

    def names(self, category: str) -> Sequence[str]:
        return kind_names(category, self._edits)

    def kinds(self, source: str, category: str) -> Sequence[str]:
        return face_kinds(self._face(source).attributes(), category, self._edits)

    def decode(self, source: str) -> EditableFace:
        record, _ = face_record(EVALUATION + int(source), source, self.size, detail=True)
        return EditableFace(record, self._edits)

    def offer(self, source: EditableFace, category: str, kind: str) -> Iterator[EditCase]:
        """All cases but those that ask for the background that is there already."""
        # CelebA's annotations, from which cases are made, do not tell the background.
        backdrop = self._face(source.record.id).backdrop
        for case in source.cases(category, kind):
            if all((claim.attribute, claim.after) != ("background", backdrop) for claim in case.claims):
                yield case

    def truth(self, case: EditCase) -> Image.Image:
        return face_truth(self._face(case.source_id), case, detail=True)

    def image(self, seed: int) -> Image.Image:
        return face_record(seed, None, self.size, detail=True)[0].image

    def _face(self, source: str) -> Face:
        return sample_face(EVALUATION + int(source))


class WorldScenes(_LargeWorld[EditableScene]):
    """Rendered scenes at 512 px."""

    name = "world-512-scenes"
    summary = "rendered scenes, 512 px or any size to 1024, with the ground truth of every edit (embedded)"
    subject = "scenes"

    def __init__(self, options: WorldOptions) -> None:
        super().__init__(options)
        width, height = self.size
        self._edits = SceneOptions(
            canvas=self.canvas,
            colors=MINI_COLORS,
            materials=(),
            backgrounds=options.backgrounds,
            categories=tuple(MINI_CATEGORIES.items()),
            # A wide image shows more of the world, and the same object is a smaller share of it.
            min_area=SceneOptions.min_area * min(width, height) / max(width, height),
        )

    def names(self, category: str) -> Sequence[str]:
        return scene_kinds(category, self._edits)

    def kinds(self, source: str, category: str) -> Sequence[str]:
        names = self.names(category)
        if category != "multi_object":
            return names
        objects = sample_scene(EVALUATION + int(source), self.size).objects
        return [name for name in names if int(name) <= len(objects)]

    def decode(self, source: str) -> EditableScene:
        record, _ = scene_record(EVALUATION + int(source), source, self.size, detail=True)
        return EditableScene(record, self._edits)

    def offer(self, source: EditableScene, category: str, kind: str) -> Iterator[EditCase]:
        return source.cases(category, kind)

    def truth(self, case: EditCase) -> Image.Image:
        scene = sample_scene(EVALUATION + int(case.source_id), self.size)
        return scene_truth(scene, case, detail=True)

    def image(self, seed: int) -> Image.Image:
        return scene_record(seed, None, self.size, detail=True)[0].image


@dataclass(frozen=True)
class WorldOptions1024(WorldOptions):
    canvas: int | str = 1024


class WorldFaces1024(WorldFaces):
    """Rendered portraits at 1024 px: the cases of ``world-512-faces``."""

    name = "world-1024-faces"
    summary = "as world-512-faces, 1024 px (embedded)"
    Options = WorldOptions1024


class WorldScenes1024(WorldScenes):
    """Rendered scenes at 1024 px: the cases of ``world-512-scenes``."""

    name = "world-1024-scenes"
    summary = "as world-512-scenes, 1024 px (embedded)"
    Options = WorldOptions1024
