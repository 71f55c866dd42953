"""The one edit interface: what a method is asked, what it answers, what is written down of it.

Everything here is a frozen value. Nothing here imports an image library, a tensor library or
anything else of this project, so that a plug-in can depend on this module alone.

Conventions (held by ``bench.images``, relied on everywhere else):

* An image is a ``PIL.Image.Image`` of mode ``RGB``.
* A mask is a ``PIL.Image.Image`` of mode ``L`` of the same size, 255 = edit, 0 = keep, nothing between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

CATEGORIES: tuple[str, ...] = ("attribute", "replacement", "background", "multi_object")
"""The four edit categories of the paper, in the order in which every table shows them."""

CONTROLS: tuple[str, ...] = (
    "oracle",
    "copy_input",
    "jpeg",
    "resize_round_trip",
    "autoencoder_round_trip",
    "noise_fill",
    "flat_color_fill",
)
"""Registered names of the controls: ceiling, noise floor and junk. Tables show them apart, and never as the best."""

REQUEST_FIELDS: frozenset[str] = frozenset(
    {
        "source",
        "mask",
        "source_prompt",
        "target_prompt",
        "region_prompt",
        "instruction",
        "edit_words",
        "regions",
    }
)
"""What ``EditMethod.needs`` may name."""


@dataclass(frozen=True, eq=False)
class Region:
    """One part of a multi-object edit: where, and what it shall show."""

    mask: Image
    prompt: str
    words: tuple[str, ...] = ()
    """The words of the target prompt that this region must show."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """All that a method may see. The ground truth is absent, so it cannot leak."""

    source: Image
    mask: Image
    source_prompt: str
    target_prompt: str
    region_prompt: str
    instruction: str
    edit_words: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Claim:
    """One checkable promise of an edit, in the vocabulary of the data set's annotations.

    ``Claim("Eyeglasses", "no", "yes")`` or ``Claim("color", "red", "blue", region=1)``. Where ``before`` equals
    ``after``, the value has to stay: the colour of an object that becomes another one. A judge that reads
    annotations (the truth judge of the mini world, a classifier of a real data set) checks it; methods never see it.
    """

    attribute: str
    before: str
    after: str
    region: int = 0
    """Index into ``EditRequest.regions``; with no regions, 0 means the whole mask."""


@dataclass(frozen=True, eq=False)
class EditCase:
    """One question of a benchmark: a request, and what is known about its right answer."""

    id: str
    category: str
    request: EditRequest
    source_id: str
    """The source image. Cases of one source are one cluster in every interval."""
    claims: tuple[Claim, ...] = ()
    truth: Image | None = None
    """The ideal result, where one exists."""
    tags: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class EditMethod(Protocol):
    """A method is its paper and nothing else; seeding, resizing, timing and storing are the runner's.

    Class attributes: ``native_size`` is the side length in pixels at which ``edit`` wants its square
    images, or None where any size will do. The runner resizes there and back. A method with
    ``wants_cases = True`` is given ``edit_cases(cases)`` instead: cases without truth, claims and tags, for one
    that must know which case it answers. A class method ``case_problems(options, ids)`` says what the ids of the
    planned cases show to be wrong, before any edit.
    """

    needs: frozenset[str]
    native_size: int | None

    def edit(self, requests: Sequence[EditRequest]) -> Sequence[Image]:
        """A batch in, a batch of the same length and the same sizes out, in order.

        Each result depends on its own request alone (its ``seed`` feeds its own generator), never on
        what it was batched with, but for the rounding of floating point.
        """
        ...


@dataclass(frozen=True)
class MethodSpec:
    """Which method with which options: what identifies an edit's maker.

    Device, batch size and whatever else changes no more than rounding stay outside.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """Name in the tables; not part of the digest, nor is anything below."""
    display: str = ""
    """Printed in LaTeX tables instead of the title."""
    cite: str = ""
    """BibTeX keys that LaTeX tables cite after the name, joined by commas."""
    group: str = ""
    """The heading above its rows in printed tables."""

    @property
    def digest(self) -> str:
        """12 hex digits of SHA-256 over the canonical JSON of name and options."""
        return stable_digest({"name": self.name, "options": dict(self.options)})

    @property
    def title(self) -> str:
        """One printable line, whatever the label holds: it goes to terminals, Markdown, CSV and LaTeX."""
        return one_line(self.label) or self.name


@dataclass(frozen=True)
class EditKey:
    """The identity of one edit: two edits with one key are the same edit."""

    protocol: str
    protocol_version: str
    method: str
    """The method's digest."""
    case: str
    seed: int

    @property
    def digest(self) -> str:
        return stable_digest([self.protocol, self.protocol_version, self.method, self.case, self.seed])


@dataclass(frozen=True)
class EditRecord:
    """What happened to one edit. Exactly one of ``file`` and ``error`` is set."""

    key: EditKey
    file: str | None
    """Path of the lossless PNG, relative to the run folder, with forward slashes."""
    sha256: str | None
    """Of the PNG's bytes."""
    seconds: float | None
    """Wall time of the batch, divided by the edits in it."""
    error: str | None = None
    peak_memory: int | None = None
    """Bytes on the accelerator at most, where it can tell."""


@dataclass(frozen=True)
class ScoreRecord:
    """One value of one metric for one edit. A value that could not be computed is None with a reason."""

    key: EditKey
    metric: str
    metric_version: str
    value: float | None
    reason: str | None = None
    edit: str | None = None
    """SHA-256 of the PNG that was scored, empty where there was none; None where it is not known."""


class EditProtocol(Protocol):
    """A benchmark: where its cases come from, and the real images that realism is measured against.

    The class attribute ``rendered = True`` says that every picture is drawn by the rendered world, which is all that
    the embedded networks (the mini CLIP, the attribute reader) have seen. On other protocols they score nothing.
    """

    name: str
    version: str
    categories: Sequence[str]
    canvas: int
    """Side length in pixels of every source, mask and truth."""

    @property
    def digest(self) -> str:
        """12 hex digits that change whenever any case changes."""
        ...

    def cases(self) -> Sequence[EditCase]: ...

    def reference(self) -> Iterator[Image]:
        """The real images for FID, at the canvas's size. A fresh iterator each time."""
        ...


def one_line(text: str) -> str:
    """``text`` as one line of printable characters: whatever else it holds becomes a space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def stable_digest(value: Any) -> str:
    """12 hex digits of SHA-256 over canonical JSON (sorted keys, no spaces). Raises TypeError for what JSON lacks."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
