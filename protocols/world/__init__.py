"""The mini world: the two protocols of the paper over rendered data, with the ground truth of every edit.

``layout`` renders the data once into the layouts of the published data sets, and the classes of those data sets read
it. This module adds the ground truth alone: it draws the source again with the case's claims fulfilled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from bench.edit import EditCase
from protocols.celeba_hq import CelebAHQ
from protocols.coco import Coco
from protocols.faces import EditableFace
from protocols.world.backdrops import BACKDROPS
from protocols.world.faces import sample_face
from protocols.world.layout import ensure
from protocols.world.scenes import COLORS, sample_scene
from protocols.world.world import EVALUATION, SIZE, MiniWorld, face_truth, scene_truth

__all__ = ["MiniCelebAHQ", "MiniCoco", "MiniWorld", "WithEach"]

# A fifth of the published protocols' cases, for runs of minutes on a laptop.
_PER_CATEGORY = 50


class MiniCelebAHQ(CelebAHQ):
    """Rendered portraits in CelebAMask-HQ's layout."""

    name = "mini-celeba-hq"
    summary = "rendered portraits, 64 px, with the ground truth of every edit (embedded)"
    rendered = True

    @dataclass(frozen=True)
    class Options(CelebAHQ.Options):
        # The rendered folder, made where it is missing. Empty: a folder in the user's cache.
        root: str = ""
        canvas: int = SIZE
        cases_per_category: int = _PER_CATEGORY
        backgrounds: tuple[str, ...] = BACKDROPS

    @classmethod
    def problems(cls, options: CelebAHQ.Options) -> list[str]:
        # The constructor renders what is missing.
        return []

    def __init__(self, options: CelebAHQ.Options) -> None:
        super().__init__(replace(options, root=str(ensure("celeba_hq", options.root))))

    def offer(self, source: EditableFace, category: str, kind: str) -> Iterator[EditCase]:
        """The cases of one kind, without those that ask for the background that the source has."""
        # CelebA does not annotate backgrounds, so the class that reads it cannot leave them out.
        backdrop = sample_face(EVALUATION + int(source.record.id)).backdrop
        for case in super().offer(source, category, kind):
            if all((c.attribute, c.after) != ("background", backdrop) for c in case.claims):
                yield case

    def cases(self) -> Sequence[EditCase]:  # type: ignore[override]
        def truth(case: EditCase) -> EditCase:
            return replace(case, truth=face_truth(sample_face(EVALUATION + int(case.source_id)), case))

        return WithEach(super().cases(), truth)


class MiniCoco(Coco):
    """Rendered scenes in COCO's layout."""

    name = "mini-coco"
    summary = "rendered scenes, 64 px, with the ground truth of every edit (embedded)"
    rendered = True

    @dataclass(frozen=True)
    class Options(Coco.Options):
        # The rendered folder, made where it is missing. Empty: a folder in the user's cache.
        root: str = ""
        canvas: int = SIZE
        cases_per_category: int = _PER_CATEGORY
        colors: tuple[str, ...] = tuple(COLORS)
        materials: tuple[str, ...] = ()
        backgrounds: tuple[str, ...] = BACKDROPS

    @classmethod
    def problems(cls, options: Coco.Options) -> list[str]:
        return []

    def __init__(self, options: Coco.Options) -> None:
        super().__init__(replace(options, root=str(ensure("coco", options.root))))

    def cases(self) -> Sequence[EditCase]:  # type: ignore[override]
        def truth(case: EditCase) -> EditCase:
            return replace(case, truth=scene_truth(sample_scene(EVALUATION + int(case.source_id)), case))

        return WithEach(super().cases(), truth)


class WithEach(Sequence[EditCase]):
    """Cases that a function completes on access, one at a time, so that they need not fit in memory."""

    def __init__(self, cases: Sequence[EditCase], complete: Callable[[EditCase], EditCase]) -> None:
        self._cases, self._complete = cases, complete

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> EditCase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EditCase]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return WithEach(self._cases[index], self._complete)
        return self._complete(self._cases[index])

    def __iter__(self) -> Iterator[EditCase]:
        return (self._complete(case) for case in self._cases)
