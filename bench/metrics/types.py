"""The interface of metrics: base classes, the images and pairs that they get, the values that they return.

No tensor library is imported here. A third-party metric of single edits inherits :class:`Metric`. It is named in an
entry point of the group ``prompteditbench.metrics`` or in the ``METRICS`` of a plug-in module::

    class MeanBrightness(Metric):
        name = "mean_brightness"        # the key of its scores, and its registered name
        version = "1"                   # a new version is scored again
        unit = "0..1"
        higher_is_better = True
        summary = "mean of the edited image"

        def score(self, pairs):         # a list as long as ``pairs``, in order
            return [float(pair.edited.pixels.mean()) / 255 for pair in pairs]

:class:`MetricBase` lists what a metric can declare beyond this, with the defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import Claim, EditCase
    from bench.metrics.features import Features

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

# Unit of a yes-or-no metric: each value is 1 (yes) or 0 (no), and the mean over edits is a share.
OUTCOME = "0/1"

# Suffix of a metric's stored name where it scores composited edits: the edit inside the mask, the source outside.
COMPOSITED_SUFFIX = "_pasted"


# Between the name of a judge's column and the judge's label.
LABEL = "@"

NO_MASK = "the case has no mask"
"""Reason for no value where a metric or compositing needs a mask and the case has none."""


class MetricError(BenchError):
    """A metric that cannot be computed as requested. The message names the remedy."""


# -- values -------------------------------------------------------------------------------------


class ReasonCode(Enum):
    """Kinds of reasons that the program treats differently. A stored reason begins with its code."""

    FINAL = ""
    """The case or the edit has no such value. Scoring does not try again."""
    NO_EDIT = "no edit: "
    """There was no edit to score. Scoring tries again once there is one."""
    ERROR = "error: "
    """The metric failed. The next run of scoring tries again."""
    JUDGE = "judge: "
    """A judge's reply has no score for it. The reply is stored, and the judge is not asked again."""

    def text(self, message: str) -> str:
        """The reason as it is stored."""
        return self.value + message

    @classmethod
    def of(cls, reason: str | None) -> ReasonCode:
        """Code of a stored reason."""
        # FINAL has the empty prefix, which every reason has, so it is the default.
        coded = (
            code for code in (cls.NO_EDIT, cls.ERROR, cls.JUDGE) if (reason or "").startswith(code.value)
        )
        return next(coded, cls.FINAL)


@dataclass(frozen=True)
class NoValue:
    """Replaces a value that could not be computed, and gives the reason."""

    reason: str


Value = float | NoValue | None
"""One score. None and numbers that are not finite are stored as None with a reason."""


@dataclass(frozen=True)
class SetValue:
    """One value of a metric of a set of edits, with its n, interval and warnings."""

    value: float | None
    n: int
    """Number of edited images."""
    n_reference: int
    """Number of real images."""
    reason: str | None = None
    """The reason why ``value`` is None."""
    low: float | None = None
    high: float | None = None
    """95 % interval for the expected value at this n, over samples of source images with their edits and of real
    images. None where no interval was requested, or for the reason in ``warning``."""
    warning: str | None = None


# -- images and pairs ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RgbImage:
    """An image in memory, identified by the hash of its pixels. Read-only."""

    pixels: Uint8HWC
    """``(H, W, 3)`` uint8, sRGB."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise MetricError(f"an image is uint8 (H, W, 3), not {self.pixels.dtype} {self.pixels.shape}.")

    @classmethod
    def of(cls, image: Image) -> RgbImage:
        """Converts a PIL image of mode ``RGB``."""
        from bench.images import to_array

        # (H, W, 3) uint8.
        return cls(to_array(image))

    @cached_property
    def key(self) -> str:
        """40 hex digits of SHA-256 over shape and pixels. Files with the same pixels have the same key."""
        return _array_digest(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def crop(self, box: tuple[int, int, int, int]) -> RgbImage:
        """The part inside ``(left, top, right, bottom)``."""
        # Contiguous, because the hash reads the bytes in order.
        left, top, right, bottom = box
        return RgbImage(np.ascontiguousarray(self.pixels[top:bottom, left:right]))


@dataclass(frozen=True, eq=False)
class Area:
    """One region of an edit: its mask ``(H, W)`` bool and the text that describes it."""

    mask: BoolHW
    prompt: str
    words: tuple[str, ...] = ()

    @cached_property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """Bounding box ``(left, top, right, bottom)`` of the mask, ends exclusive. None for an empty mask."""
        # Rows, then columns, with at least one masked pixel.
        rows = np.flatnonzero(self.mask.any(axis=1))
        if not rows.size:
            return None
        columns = np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Pair:
    """One edit to score: the image before and after, the mask if any, and the requested change.

    Raises :class:`MetricError` where the three differ in size or the mask is not bool.
    """

    source: RgbImage
    edited: RgbImage
    mask: BoolHW | None
    """``(H, W)`` bool, True = edit. The exact one, where the method got an imprecise one. None where the case has no
    mask. A metric whose ``needs`` name it never gets None."""
    source_prompt: str = ""
    target_prompt: str = ""
    region_prompt: str = ""
    instruction: str = ""
    edit_words: tuple[str, ...] = ()
    regions: tuple[Area, ...] = ()
    claims: tuple[Claim, ...] = ()
    """Expected attribute changes, for an attribute classifier to check."""
    category: str = ""
    case: str = ""
    source_id: str = ""
    truth: RgbImage | None = None
    """Ground truth: the ideal result, where the case has one."""
    composited: bool = False
    """True where ``edited`` is the source, bit for bit, outside the mask."""
    given_mask: BoolHW | None = None
    """``(H, W)`` bool: the mask that the method got, where it got one that is not ``mask``."""

    def __post_init__(self) -> None:
        mask = self.mask
        if mask is not None and (mask.dtype != np.bool_ or mask.ndim != 2):
            raise MetricError(f"a mask is bool (H, W), not {mask.dtype} {mask.shape}.")
        # (height, width) of each.
        sizes = {"source": self.source.size, "edited": self.edited.size}
        if mask is not None:
            sizes["mask"] = mask.shape
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise MetricError(f"sizes differ (height, width): {listed}. Bring all to one size first.")

    @property
    def needed_mask(self) -> BoolHW:
        """The mask, for metrics that cannot do without it. Raises ValueError where there is none."""
        # No MetricError, which would end the scoring: only this pair has no value.
        if self.mask is None:
            raise ValueError(f"{NO_MASK}. Name mask among the metric's needs.")
        return self.mask

    @cached_property
    def mask_key(self) -> str:
        """Identity of the mask's pixels. Empty without a mask."""
        return "" if self.mask is None else _array_digest(self.mask)

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of all pixels: of source, edited image and mask."""
        return self.source.key, self.edited.key, self.mask_key

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """The regions. An edit without regions has one: the whole mask with the region prompt. Empty without a mask."""
        if self.mask is None:
            return ()
        return self.regions or (Area(self.mask, self.region_prompt, self.edit_words),)

    def composite(self) -> Pair:
        """The same case with the composited edit: the edit inside the mask that the method got, the source outside.

        Its leakage is zero by construction, unless that mask reaches beyond the exact one. Raises ValueError where
        there is no mask.
        """
        # Compositing twice changes nothing.
        if self.composited:
            return self
        # (H, W, 1) against (H, W, 3): the mask decides for all channels.
        mask = self.needed_mask
        given_mask = mask if self.given_mask is None else self.given_mask
        pixels = np.where(given_mask[..., None], self.edited.pixels, self.source.pixels)
        # An edit that kept the outside stays the same object, so that its hash is not computed again.
        unchanged = np.array_equal(pixels, self.edited.pixels)
        confined = not (given_mask & ~mask).any()
        return replace(self, edited=self.edited if unchanged else RgbImage(pixels), composited=confined)

    def with_edit(self, edited: RgbImage) -> Pair:
        """The same case with another, raw edit."""
        return replace(self, edited=edited, composited=False)

    @classmethod
    def of_case(cls, case: EditCase, edited: RgbImage, *, source: RgbImage | None = None) -> Pair:
        """The pair of a stored edit. ``source`` is the decoded source, if the caller has it already."""
        # 255 on disk and in PIL is True here.
        from bench.images import mask_array

        request = case.request
        # The masks that metrics use, which may differ from those that the method got.
        where = case.scored or request
        return cls(
            source=source or RgbImage.of(request.source),
            edited=edited,
            mask=None if where.mask is None else mask_array(where.mask),
            source_prompt=request.source_prompt,
            target_prompt=request.target_prompt,
            region_prompt=request.region_prompt,
            instruction=request.instruction,
            edit_words=request.edit_words,
            regions=tuple(Area(mask_array(r.mask), r.prompt, r.words) for r in where.regions),
            claims=case.claims,
            category=case.category,
            case=case.id,
            source_id=case.source_id,
            truth=None if case.truth is None else RgbImage.of(case.truth),
            given_mask=mask_array(request.mask)
            if case.scored is not None and request.mask is not None
            else None,
        )


# -- metrics ------------------------------------------------------------------------------------


class MetricBase:
    """The declarations of every metric, with the default where there is one."""

    name: str
    """Key of its scores, and the name it is registered under."""
    version: str
    """Raise it when values change: stored scores are then computed again."""
    unit: str
    """:data:`OUTCOME` declares a yes-or-no metric. Reports then show the mean as a share with a share's interval.
    Any other unit gets a mean's interval."""
    higher_is_better: bool | None
    """None where neither direction is better: the column then has no arrow and no best method."""
    summary: str
    """One line for tables and ``list``."""
    heading: str = ""
    """Head of its column in tables. Empty: its name."""
    needs: frozenset[str] = frozenset()
    """Fields of :class:`Pair` that must not be empty. A case that lacks one gets a reason in place of a value."""
    embedded: bool = False
    """True where its network was trained on the rendered world only. Such a metric scores no other protocol."""
    published: str = ""
    """Name of the public benchmark whose own computation it repeats. Its values stand in tables of their own."""
    checkpoint: str = ""
    """Name of the embedded checkpoint that it needs. ``doctor`` shows the remedy where it is missing."""
    composited: bool = False
    """True where the composited edit is scored too, under ``<name>_pasted``."""
    on_request: bool = False
    """True where it is computed only if a suite, ``--metric`` or ``measure(metrics=...)`` names it."""
    judged: bool = False
    """True where a judge behind a server scores it (``bench.judges``), and ``score`` does not."""
    uses_features: bool = False
    """True where its constructor takes the shared :class:`~bench.metrics.features.Features`."""
    kind: ClassVar[Literal["edit", "set"]]

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        """Lists what is missing to compute it here, each with its remedy. Loads no network."""
        return []

    @property
    def stored_names(self) -> tuple[tuple[bool, str], ...]:
        """``(composited, name of the scores)`` of each edit that it scores."""
        # The stored suffix is that of the first release, so that stored runs stay readable.
        raw = (False, self.name)
        return (raw, (True, self.name + COMPOSITED_SUFFIX)) if self.composited else (raw,)


class Metric(MetricBase):
    """A metric of single edits."""

    kind = "edit"

    def score(self, pairs: Sequence[Pair]) -> Sequence[Value]:
        """One value per pair, in order. Each depends on its own pair alone."""
        raise NotImplementedError


class SetMetric(MetricBase):
    """A metric of the distribution of a method's edits against real images, such as FID."""

    kind = "set"

    def score_set(
        self,
        edited: Collection[RgbImage],
        reference: Collection[RgbImage],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        """The value of one set. ``clusters`` names the source image of each edited one, for the interval.

        Both sets may be larger than memory: iterate over them and keep no list. Each iteration decodes the images
        again.
        """
        raise NotImplementedError

    def see(self, images: Sequence[RgbImage]) -> None:
        """Gets every image of both sets once, in batches, before ``score_set``.

        A metric can compute their features here and keep them by ``RgbImage.key``. ``score_set`` then need not decode
        the images again.
        """


@dataclass(frozen=True)
class MetricInfo:
    """The declarations of a metric as plain data, for tables and ``list``."""

    name: str
    version: str
    unit: str
    higher_is_better: bool | None
    summary: str
    needs: frozenset[str] = frozenset()
    kind: str = "edit"
    """``edit`` or ``set``."""
    heading: str = ""
    embedded: bool = False
    on_request: bool = False
    published: str = ""
    judged: bool = False


def info_of(metric: MetricBase | type[MetricBase]) -> MetricInfo:
    """Describes a metric or its class."""
    return MetricInfo(
        # An instance's version names its options and network, a class's does not.
        name=metric.name,
        version=metric.version,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        summary=metric.summary,
        needs=frozenset(metric.needs),
        kind=metric.kind,
        heading=metric.heading or metric.name,
        embedded=metric.embedded,
        on_request=metric.on_request,
        published=metric.published,
        judged=metric.judged,
    )


def raw_name(stored_name: str) -> str:
    """Name of the metric behind a stored score, of the raw or the composited edit, of whichever judge."""
    # The one place that reads the suffix, and the label of a judge.
    return stored_name.partition(LABEL)[0].removesuffix(COMPOSITED_SUFFIX)


def _array_digest(array: NDArray[np.generic]) -> str:
    # Type and shape too: the same bytes in another shape are another image.
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:40]
