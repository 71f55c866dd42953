"""The protocols of levels 2 and 3. A case's category is its kind of edit, so that tables show success per kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from PIL import Image

from bench.edit import EditCase, EditProtocol, stable_digest
from protocols.selection import CaseList, Choice, check_case, fingerprint
from protocols.world import level2, level3
from protocols.world.composed import SceneEdit, compose
from protocols.world.world import EVALUATION, REFERENCE, RETRY, SIZE


class _Level(EditProtocol, ABC):
    """A level: so many cases of each kind, drawn in memory when they are asked for."""

    version = "1"
    rendered = True
    canvas = SIZE

    @dataclass(frozen=True)
    class Options:
        cases_per_category: int = 50
        """Cases of each kind of edit."""
        reference_count: int = 2_048
        """Images that realism is measured against."""

        def __post_init__(self) -> None:
            for name in ("cases_per_category", "reference_count"):
                value = getattr(self, name)
                if not 1 <= value <= 100_000:
                    raise ValueError(f"{name} is {value}; it must be at least 1 and at most 100000")

    @abstractmethod
    def edit(self, kind: str, seed: int) -> SceneEdit | None:
        """The edit of a kind that belongs to a seed. None where the seed gives none."""

    def cases(self) -> CaseList[Choice]:
        choices = [
            Choice(str(number), kind, kind, f"{kind}-{number:03d}")
            for kind in self.categories
            for number in range(self.options.cases_per_category)
        ]
        return CaseList(
            choices, lambda choice: self._case(EVALUATION, choice.kind, int(choice.source), choice.id)
        )

    def reference(self) -> Iterator[Image.Image]:
        """Sources of further cases, the kinds in turn."""
        for number in range(self.options.reference_count):
            kind = self.categories[number % len(self.categories)]
            yield self._case(REFERENCE, kind, number // len(self.categories), "reference").request.source

    @cached_property
    def digest(self) -> str:
        """12 hex digits over all cases, pixels included. Draws every case once."""
        cases = []
        for case in self.cases():
            check_case(case)
            cases.append(fingerprint(case))
        return stable_digest({"name": self.name, "version": self.version, "cases": cases})

    def _case(self, first: int, kind: str, number: int, id: str) -> EditCase:
        # A seed serves one kind only, so that no two kinds show the same background.
        seed = first + number * len(self.categories) + list(self.categories).index(kind)
        for attempt in count():
            # A seed that gives no case hands over to another one, far away.
            edit = self.edit(kind, seed + attempt * RETRY)
            case = None if edit is None else compose(edit, id)
            if case is not None:
                return case
        raise AssertionError


class WorldLevel2(_Level):
    """Several objects of one class."""

    name = "world-level-2"
    summary = "rendered scenes with several objects of one class, with ground truth (embedded)"
    categories: Sequence[str] = tuple(level2.PAPER_CATEGORIES)
    ceilings: Mapping[str, float] = level2.CEILINGS

    def edit(self, kind: str, seed: int) -> SceneEdit | None:
        return level2.level_2_edit(kind, seed)


class WorldLevel3(_Level):
    """Relations, references, swaps, and parts that are small or half hidden."""

    name = "world-level-3"
    summary = (
        "rendered scenes: relations, references, swaps, small and hidden parts, with ground truth (embedded)"
    )
    # 2: an edit of a trim expects nothing of the object's class and colour.
    version = "2"
    categories: Sequence[str] = tuple(level3.PAPER_CATEGORIES)

    def edit(self, kind: str, seed: int) -> SceneEdit | None:
        return level3.level_3_edit(kind, seed)
