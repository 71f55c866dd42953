"""The base of the protocols: an order by hash, cases and their checks, and the selection of cases.

A data set offers far more edits than a benchmark needs. Hashes alone decide which ones it uses. Further images then
replace the last ones at most, and reshuffle nothing.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import count as count_up
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar, overload

import numpy as np
from PIL import Image

from bench.edit import Claim, EditCase, EditProtocol, EditRequest, ExpectedCases, Region, stable_digest
from bench.errors import BenchError, BenchWarning
from bench.images import ImageError, mask_image, probe, read_rgb
from protocols.masks import Mask, union, usable
from protocols.prompts import words_of


class ProtocolError(BenchError):
    """Missing or broken data. The message names the file, the expected content, and where to get it."""


# ---------------------------------------------------------------- order by hash


def rank(*parts: object) -> str:
    """64 hex digits of SHA-256 over the parts: a place in an order that no further item changes."""
    # Neither file order nor a seeded shuffle would do: both depend on the items that are present. The separator, which
    # no name contains, tells ("a", "bc") from ("ab", "c").
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def pick(options: Sequence[str], *parts: object) -> str:
    """The option that ranks first for these parts. A further option changes the picks that it wins, and no other."""
    return min(options, key=lambda option: rank(*parts, option))


# The kinds of multi-object edits: how many objects change.
MULTI_SIZES = ("2", "3")

# ---------------------------------------------------------------- cases


def build_case(
    *,
    id: str,
    category: str,
    source_id: str,
    source: Image.Image,
    source_prompt: str,
    target_prompt: str,
    instruction: str,
    regions: Sequence[tuple[Mask, str, tuple[str, ...]]],
    region_prompt: str,
    claims: tuple[Claim, ...],
    tags: Mapping[str, str],
) -> EditCase | None:
    """The case, or None where its mask leaves too little to edit or to keep.

    ``regions``: (mask, prompt, words) of each change. The request's mask is the union of their masks. The request has
    regions of its own only for several changes.
    """
    mask = regions[0][0] if len(regions) == 1 else union((m for m, _, _ in regions), regions[0][0].shape)
    if not usable(mask):
        return None
    request_regions = [Region(mask_image(m), prompt, words) for m, prompt, words in regions]
    request = EditRequest(
        source=source,
        mask=mask_image(mask),
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        region_prompt=region_prompt,
        instruction=instruction,
        # Each word once, in order: two changes may share one, such as a colour.
        edit_words=tuple(dict.fromkeys(word for _, _, words in regions for word in words)),
        regions=tuple(request_regions) if len(regions) > 1 else (),
    )
    return EditCase(id=id, category=category, request=request, source_id=source_id, claims=claims, tags=tags)


def check_case(case: EditCase) -> None:
    """Raises ProtocolError unless the case asks for something that can be done and measured."""
    request = case.request
    if request.needed_mask.size != request.source.size:
        raise ProtocolError(
            f"case {case.id}: its mask is {request.needed_mask.size}, its source {request.source.size}"
        )
    mask = np.asarray(request.mask) > 0
    if not usable(mask):
        raise ProtocolError(f"case {case.id}: its mask covers {mask.mean():.1%} of the image")
    if request.source_prompt == request.target_prompt:
        raise ProtocolError(
            f"case {case.id}: source and target prompt are the same: {request.target_prompt!r}"
        )
    # Methods that edit by attention look these words up in the prompt.
    prompt_words = words_of(request.target_prompt)
    edit_words = [*request.edit_words, *(word for region in request.regions for word in region.words)]
    if not request.edit_words or not set(edit_words) <= set(prompt_words):
        raise ProtocolError(
            f"case {case.id}: not all of its edit words {edit_words} are in {request.target_prompt!r}"
        )


def fingerprint(case: EditCase) -> dict[str, Any]:
    """A case without its tags and its ground truth, as JSON values. Images are SHA-256 of their pixels."""
    request = case.request
    facts = {
        "id": case.id,
        "category": case.category,
        "source_id": case.source_id,
        "prompts": [request.source_prompt, request.target_prompt, request.region_prompt, request.instruction],
        "words": list(request.edit_words),
        "regions": [[region.prompt, list(region.words), _pixels(region.mask)] for region in request.regions],
        "claims": [[claim.attribute, claim.before, claim.after, claim.region] for claim in case.claims],
        "source": _pixels(request.source),
        "mask": None if request.mask is None else _pixels(request.mask),
        "seed": request.seed,
    }
    # Absent where there are none, so that the digests of protocols without them stay.
    if request.references:
        facts["references"] = [_pixels(image) for image in request.references]
    if case.scored is not None:
        facts["scored"] = [_pixels(case.scored.mask), *map(_pixels, case.areas)]
    return facts


def _pixels(image: Image.Image) -> str:
    # With mode and size: the bytes alone are equal for 2x8 and 4x4.
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


# ---------------------------------------------------------------- selection


def select(
    sources: Sequence[str],
    names: Sequence[str],
    kinds: Callable[[str], Sequence[str]],
    cases: Callable[[str, str], Iterator[EditCase]],
    *,
    salt: str,
    count: int,
) -> Iterator[tuple[str, EditCase]]:
    """Yields (kind, case), at most ``count`` of them, balanced over the kinds ``names``.

    ``kinds(source)`` tells from annotations alone which kinds a source may offer. ``cases(source, kind)`` decodes the
    source and yields its cases in a fixed order. The rules:

    * The kinds take turns, and each turn gives one case.
    * Each source orders its kinds by hash. A kind asks first the sources that have it in the first place, then those
      that have it in the second place, and so on, by hash among equals. So most sources give one case.
    * A source gives a second case of one kind only when no kind has a first one left.
    * No source is decoded after ``count`` cases.
    """
    # Order. Annotations are read once for each source.
    order = sorted(sources, key=lambda source: rank(salt, source))

    @cache
    def preferences(source: str) -> list[str]:
        return sorted(kinds(source), key=lambda kind: rank(salt, source, kind))

    def by_preference(kind: str) -> Iterator[str]:
        for place in range(len(names)):
            for source in order:
                if preferences(source)[place : place + 1] == [kind]:
                    yield source

    def nth_cases(kind: str, among: Iterable[str], n: int, suppliers: list[str]) -> Iterator[EditCase]:
        """The n-th case (from 0) of each source, if it has one. Appends the sources that have one."""
        for source in among:
            for case in islice(cases(source, kind), n, n + 1):
                suppliers.append(source)
                yield case

    # Turns. The generators are lazy: a source is decoded only when its kind has the turn.
    selected = 0
    among: Mapping[str, Iterable[str]] = {kind: by_preference(kind) for kind in names}
    for n in count_up():
        suppliers: dict[str, list[str]] = {kind: [] for kind in names}
        streams = {kind: nth_cases(kind, among[kind], n, suppliers[kind]) for kind in names}
        while streams:
            for kind in list(streams):
                if selected == count:
                    return
                case = next(streams[kind], None)
                if case is None:
                    del streams[kind]
                else:
                    selected += 1
                    yield kind, case
        # A source without an n-th case has no later one.
        if not any(suppliers.values()):
            return
        among = suppliers


@dataclass(frozen=True)
class Choice:
    """One selected case, by its place in the data, so that it can be built again."""

    source: str
    category: str
    kind: str
    id: str


EntryT = TypeVar("EntryT")


class CaseList(Sequence[EditCase], Generic[EntryT]):
    """A protocol's cases, each built when it is read: 1,000 cases of 512 px would fill over a gigabyte.

    ``choices`` are what the cases are built from, such as ``Choice``.
    """

    def __init__(self, choices: Sequence[EntryT], build: Callable[[EntryT], EditCase]) -> None:
        self.choices = choices
        self._build = build

    def __len__(self) -> int:
        return len(self.choices)

    @overload
    def __getitem__(self, index: int) -> EditCase: ...
    @overload
    def __getitem__(self, index: slice) -> CaseList[EntryT]: ...
    def __getitem__(self, index: int | slice) -> EditCase | CaseList[EntryT]:
        if isinstance(index, slice):
            return CaseList(self.choices[index], self._build)
        return self._build(self.choices[index])


# ---------------------------------------------------------------- protocols

# Pixels of a side: larger than any editor's output, and small enough for a machine's memory.
MAX_CANVAS = 4096


@dataclass(frozen=True)
class SelectionOptions:
    """The number of cases and of reference images."""

    cases_per_category: int = 250
    # Reference images, first by hash. None: all.
    reference_count: int | None = None

    def __post_init__(self) -> None:
        if self.cases_per_category < 1:
            raise ValueError(f"cases_per_category is {self.cases_per_category}; it must be at least 1")
        if self.reference_count is not None and self.reference_count < 1:
            raise ValueError(
                f"reference_count is {self.reference_count}; it must be at least 1, or null for all"
            )


@dataclass(frozen=True)
class CommonOptions(SelectionOptions):
    """The options of every protocol of annotated photographs."""

    # The data set's folder. Not part of the digest: the same data in another folder are the same benchmark.
    root: str = ""
    # Side length in pixels of every source, mask and reference image.
    canvas: int = 512

    def __post_init__(self) -> None:
        if not 32 <= self.canvas <= MAX_CANVAS:
            raise ValueError(f"canvas is {self.canvas} px; it must be at least 32 and at most {MAX_CANVAS}")
        super().__post_init__()


OptionsT = TypeVar("OptionsT", bound=SelectionOptions)
FolderOptionsT = TypeVar("FolderOptionsT", bound=CommonOptions)
SourceT = TypeVar("SourceT")

# Decoded sources in memory. Kinds that take turns ask for the same sources shortly after each other.
_CACHED_SOURCES = 16
# Before a run, the first reference images are decoded, and of the next ones the headers are read. That finds a folder
# of broken files within seconds, where decoding all of it could take an hour.
_DECODED, _PROBED = 200, 5000


class SelectingProtocol(EditProtocol, ABC, Generic[OptionsT, SourceT]):
    """A protocol that selects its cases among those that its sources offer.

    ``SourceT``: a decoded source, such as ``EditableScene``.
    """

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self._lock = Lock()
        # Source id -> decoded source, the least recently used one first.
        self._decoded: OrderedDict[str, SourceT] = OrderedDict()

    @property
    @abstractmethod
    def origin(self) -> str:
        """The origin of the sources, for messages."""

    @property
    def salt(self) -> str:
        """The first part of every hash. Protocols with equal sources and an equal salt select equal cases."""
        return self.name

    @abstractmethod
    def sources(self) -> Sequence[str]:
        """The ids of all images that may have cases, from the annotations alone."""

    @abstractmethod
    def names(self, category: str) -> Sequence[str]:
        """Every kind of edit of a category."""

    @abstractmethod
    def kinds(self, source: str, category: str) -> Sequence[str]:
        """The kinds of edit that a source may offer, from the annotations alone."""

    @abstractmethod
    def decode(self, source: str) -> SourceT:
        """The source with its pixels and masks. Raises ProtocolError."""

    @abstractmethod
    def offer(self, source: SourceT, category: str, kind: str) -> Iterator[EditCase]:
        """The source's cases of one kind, in a fixed order."""

    @abstractmethod
    def reference(self) -> Iterator[Image.Image]:
        """The real images for FID, RGB at the canvas's size. No source of a case is among them."""

    # ------------------------------------------------------------ selection

    def _cases_of(self, source: str, category: str, kind: str) -> Iterator[EditCase]:
        # The engine reads cases in several threads.
        with self._lock:
            decoded = self._decoded.pop(source, None) or self.decode(source)
            self._decoded[source] = decoded
            if len(self._decoded) > _CACHED_SOURCES:
                self._decoded.popitem(last=False)
        return self.offer(decoded, category, kind)

    @cached_property
    def _selection(self) -> tuple[list[Choice], str]:
        """(the selected cases, the digest)."""
        selection: list[tuple[Choice, dict[str, Any]]] = []
        for category in self.categories:
            selection += self._select_category(category)
        if not selection:
            raise ProtocolError(
                f"{self.name}: no edit can be made of any of the {len(self.sources())} images in "
                f"{self.origin}. Check that its annotations belong to its images."
            )
        # Pixels and prompts are in the digest, so that a changed file is noticed before a run goes on.
        options = {name: value for name, value in asdict(self.options).items() if name != "root"}
        digest = stable_digest(
            {
                "name": self.name,
                "version": self.version,
                "options": options,
                "cases": [case_fingerprint for _, case_fingerprint in selection],
            }
        )
        return [choice for choice, _ in selection], digest

    def _select_category(self, category: str) -> list[tuple[Choice, dict[str, Any]]]:
        """(case, its fingerprint) of each selected case of a category. Warns where the data have too few."""
        count = self.options.cases_per_category
        selected = []
        for kind, case in select(
            self.sources(),
            self.names(category),
            lambda source: self.kinds(source, category),
            lambda source, kind: self._cases_of(source, category, kind),
            salt=f"{self.salt}/{category}",
            count=count,
        ):
            check_case(case)
            # Only the fingerprint stays in memory, not the case with its images.
            selected.append((Choice(case.source_id, category, kind, case.id), fingerprint(case)))
        if len(selected) < count:
            warnings.warn(
                f"{self.name}: {len(selected)} of {count} cases of the category {category}: "
                f"{self.origin} has no more.",
                BenchWarning,
                stacklevel=2,
            )
        # The kinds took turns. In the order by hash, the first n cases of a category are a random sample of it.
        return sorted(selected, key=lambda item: rank(item[0].id))

    @property
    def digest(self) -> str:
        """12 hex digits over options and cases, pixels included. Builds every case once."""
        return self._selection[1]

    def cases(self) -> CaseList[Choice]:
        """The selected cases, category by category, by hash within a category."""
        return CaseList(self._selection[0], self.build)

    def build(self, choice: Choice) -> EditCase:
        """Builds a selected case. Raises ProtocolError where its source has changed since the selection."""
        # By id and not by position: an offer may leave out cases, and the id proves that it is the same case.
        for case in self._cases_of(choice.source, choice.category, choice.kind):
            if case.id == choice.id:
                return case
        raise ProtocolError(
            f"{self.name}: case {choice.id} can no longer be built: {self.origin} has changed. Start again."
        )

    @cached_property
    def used(self) -> frozenset[str]:
        """The ids of the images that have selected cases."""
        return frozenset(choice.source for choice in self._selection[0])

    def first_by_hash(self, ids: Sequence[str], without: frozenset[str]) -> list[str]:
        """The first ``reference_count`` of these images by hash, without some."""
        candidates = [i for i in ids if i not in without]
        return sorted(candidates, key=lambda i: rank(self.salt, "reference", i))[
            : self.options.reference_count
        ]


class AnnotatedProtocol(SelectingProtocol[FolderOptionsT, SourceT], ABC):
    """A protocol over a folder of annotated images."""

    def __init__(self, options: FolderOptionsT) -> None:
        problems = self.problems(options)
        if problems:
            raise ProtocolError(problems[0])
        super().__init__(options)
        self.canvas: int = options.canvas

    @classmethod
    def expected(cls, options: FolderOptionsT) -> ExpectedCases:
        # Complete data have more cases than any suite asks for, so the option decides.
        return ExpectedCases(options.canvas, options.cases_per_category)

    @classmethod
    @abstractmethod
    def problems(cls, options: FolderOptionsT) -> list[str]:
        """One message for each missing file, with its expected content and where to get it."""

    @property
    def origin(self) -> str:
        return f"the data in {self.options.root}"

    @abstractmethod
    def reference_files(self) -> list[Path]:
        """The files of the real images for FID. No source of a case is among them."""

    @property
    def digest(self) -> str:
        """12 hex digits over options and cases, pixels included. Builds every case once.

        Warns where reference images cannot be read. Every plan of a run needs the digest, so the warning comes before
        any edit.
        """
        digest = super().digest
        if broken := self._unreadable:
            warnings.warn(
                f"{self.name}: {len(broken)} of {min(len(self.reference_files()), _PROBED)} reference images cannot be "
                f"read, such as {broken[0]}. Mend them or take them out; until then FID and its like have no value",
                stacklevel=2,
            )
        return digest

    @cached_property
    def _unreadable(self) -> list[Path]:
        """The files among the first ``_PROBED`` reference files that cannot be read as images."""
        broken = []
        for number, path in enumerate(self.reference_files()[:_PROBED]):
            try:
                if number < _DECODED:
                    read_rgb(path)
                else:
                    probe(path)
            except ImageError:
                broken.append(path)
        return broken
