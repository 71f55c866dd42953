"""What a metric is, what it is asked, what it answers. No tensor library is imported here.

A third-party metric of single edits is a class like this, named in an entry point of the group
``prompteditbench.metrics`` or in the ``METRICS`` of a plug-in module::

    class MeanBrightness:
        name = "mean_brightness"        # the key of its scores; also the name it is registered under
        version = "1"                   # a new version is scored again
        unit = "0..1"
        higher_is_better = True
        needs = frozenset()             # fields of Pair that must not be empty
        summary = "mean of the edited image"

        def score(self, pairs):         # a list as long as ``pairs``, in order
            return [float(pair.edited.pixels.mean()) / 255 for pair in pairs]

``unit = "0/1"`` declares a yes-or-no outcome: each value is 0 or 1, and reports take their mean as a share of
edits, with a share's interval. Any other unit gets a mean's interval, ``share`` too (shown in per cent).
``higher_is_better = None`` is for a metric of which neither more nor less is better: it has no arrow and no
best method.

None stands for a value that could not be computed; ``NoValue("why")`` says why. NaN and infinities
are stored as None, with that as the reason. These class attributes are optional: ``uses_features =
True`` makes the class be constructed with the shared :class:`~bench.metrics.features.Features` instead
of with nothing; ``pasted = True`` has the pasted-back edit scored too, under ``<name>_pasted``;
``embedded = True`` says that its network has seen only the rendered world, so that protocols which are not
``rendered`` are not scored by it. ``problems(features)`` (a class method) lists what is missing, each with its remedy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import Claim, EditCase

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

PASTED = "_pasted"
"""Suffix of a metric's name where it scores the edit pasted back into its source."""


class MetricError(BenchError):
    """A metric that cannot be computed as asked. The message names the remedy."""


@dataclass(frozen=True)
class NoValue:
    """In place of a value: why there is none."""

    reason: str


Value = float | NoValue | None


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in memory: ``uint8`` ``HWC`` with three channels, sRGB. Read-only."""

    pixels: Uint8HWC

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise MetricError(f"a picture is uint8 (H, W, 3), not {self.pixels.dtype} {self.pixels.shape}.")

    @classmethod
    def of(cls, image: Image) -> Picture:
        """Of a PIL image of mode ``RGB``."""
        from bench.images import to_array

        return cls(to_array(image))

    @cached_property
    def key(self) -> str:
        """40 hex digits of SHA-256 over shape and pixels: the same picture, whatever file it came from."""
        return _digest(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        """The part inside ``(left, top, right, bottom)``."""
        left, top, right, bottom = box
        return Picture(np.ascontiguousarray(self.pixels[top:bottom, left:right]))


@dataclass(frozen=True, eq=False)
class Area:
    """One region of a multi-object edit."""

    mask: BoolHW
    prompt: str
    words: tuple[str, ...] = ()

    @cached_property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """:func:`bounds` of the mask."""
        return bounds(self.mask)


def bounds(mask: BoolHW) -> tuple[int, int, int, int] | None:
    """``(left, top, right, bottom)`` around the True pixels of a ``bool`` ``HW`` mask; None without any."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Pair:
    """One edit to be scored: before, after, where, and what was asked for."""

    source: Picture
    edited: Picture
    mask: BoolHW
    """``bool`` ``HW``, True = edit."""
    source_prompt: str = ""
    target_prompt: str = ""
    region_prompt: str = ""
    instruction: str = ""
    edit_words: tuple[str, ...] = ()
    regions: tuple[Area, ...] = ()
    claims: tuple[Claim, ...] = ()
    category: str = ""
    case: str = ""
    source_id: str = ""
    truth: Picture | None = None
    pasted: bool = False
    """Whether ``edited`` was pasted back: outside the mask it is the source, bit for bit."""

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 2:
            raise MetricError(f"a mask is bool (H, W), not {self.mask.dtype} {self.mask.shape}.")
        if not self.source.size == self.edited.size == self.mask.shape:
            raise MetricError(
                f"sizes differ (height, width): source {self.source.size}, edited {self.edited.size}, "
                f"mask {self.mask.shape}. Bring all three to one size first."
            )

    @cached_property
    def mask_key(self) -> str:
        return _digest(self.mask)

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of what is measured on pixels alone."""
        return self.source.key, self.edited.key, self.mask_key

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """The regions; with none, the whole mask with the region prompt."""
        return self.regions or (Area(self.mask, self.region_prompt, self.edit_words),)

    def paste(self) -> Pair:
        """The same edit, pasted back into its source. Its leakage is zero by construction."""
        if self.pasted:
            return self
        pixels = np.where(self.mask[..., None], self.edited.pixels, self.source.pixels)
        same = np.array_equal(pixels, self.edited.pixels)
        return self.with_edit(self.edited if same else Picture(pixels), pasted=True)

    def with_edit(self, edited: Picture, *, pasted: bool = False) -> Pair:
        """The same case, edited otherwise."""
        return replace(self, edited=edited, pasted=pasted)

    @classmethod
    def of_case(cls, case: EditCase, edited: Picture, *, source: Picture | None = None) -> Pair:
        """The pair of a stored edit. ``source`` spares decoding it again."""
        from bench.images import mask_array

        request = case.request
        return cls(
            source=source or Picture.of(request.source),
            edited=edited,
            mask=mask_array(request.mask),
            source_prompt=request.source_prompt,
            target_prompt=request.target_prompt,
            region_prompt=request.region_prompt,
            instruction=request.instruction,
            edit_words=request.edit_words,
            regions=tuple(Area(mask_array(r.mask), r.prompt, r.words) for r in request.regions),
            claims=case.claims,
            category=case.category,
            case=case.id,
            source_id=case.source_id,
            truth=None if case.truth is None else Picture.of(case.truth),
        )


@runtime_checkable
class Metric(Protocol):
    """A metric of single edits; see the module's docstring for a whole one."""

    name: str
    version: str
    unit: str
    needs: frozenset[str]
    summary: str

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither more nor less is better. A class attribute does."""
        ...

    def score(self, pairs: Sequence[Pair]) -> Sequence[Value]:
        """One value per pair, in order; each depends on its own pair alone."""
        ...


@dataclass(frozen=True)
class SetValue:
    """One value of a metric of a set of edits, with what is needed to trust it."""

    value: float | None
    n: int
    """Edited images."""
    n_reference: int
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    """95 % interval about the value expected at this n, over draws of source images with their edits and of
    real images; None where it was not asked for, or for the reason that ``warning`` states."""
    warning: str | None = None


@runtime_checkable
class SetMetric(Protocol):
    """A metric of the distribution of a method's edits against real images (FID and its kin)."""

    name: str
    version: str
    unit: str
    summary: str

    @property
    def higher_is_better(self) -> bool | None:
        """As that of :class:`Metric`."""
        ...

    def score_set(
        self,
        edited: Collection[Picture],
        reference: Collection[Picture],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        """``clusters`` names the source image of each edited one, for the interval.

        Both sets may be larger than memory: pass over them rather than list them. Each pass decodes them
        again, which a metric spares itself by an optional method ``see(pictures)``: before ``score_set`` it
        is shown every picture of either set once, in batches, and keeps what it needs by ``Picture.key``.
        """
        ...


@dataclass(frozen=True)
class MetricInfo:
    """What tables and ``list`` show of a metric."""

    name: str
    version: str
    unit: str
    higher_is_better: bool | None
    summary: str
    needs: frozenset[str] = field(default_factory=frozenset)
    kind: str = "edit"
    """``edit`` or ``set``."""


def is_set_metric(metric: object) -> bool:
    return hasattr(metric, "score_set")


def info_of(metric: Metric | SetMetric | type) -> MetricInfo:
    """Of a metric or of its class."""
    kind = "set" if is_set_metric(metric) else "edit"
    needs = frozenset(getattr(metric, "needs", ()))
    return MetricInfo(
        metric.name,  # type: ignore[union-attr]
        metric.version,  # type: ignore[union-attr]
        metric.unit,  # type: ignore[union-attr]
        metric.higher_is_better,  # type: ignore[union-attr]
        metric.summary,  # type: ignore[union-attr]
        needs,
        kind,
    )


def _digest(array: NDArray[np.generic]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:40]
