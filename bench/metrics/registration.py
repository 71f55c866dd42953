"""Registration of an edited image to its source by one shift and one zoom, estimated where the source had to stay.

Instruction editors often return the whole image slightly shifted or enlarged. :func:`register` estimates this
similarity without rotation, ``T(p) = scale * p + shift``, from the luminance of the pixels that count:

1. Start: the identity, and the peak of the masked normalised cross-correlation at about 64 px, over several scales
   (Padfield, "Masked object registration in the Fourier domain", 2012).
2. Refinement: Gauss-Newton on an image pyramid with a free gain and offset of the luminance (Lucas and Kanade 1981).
   Geman-McClure weights ignore what the edit changed.
3. Decision: both candidates are compared by the correlation of small tiles. The identity wins unless the other leaves
   clearly less unexplained. Where fewer than half of the tiles match, there is no answer.

No function draws random numbers: equal images give equal results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.types import NoValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    FloatHW = NDArray[np.float32]
    Uint8HWC = NDArray[np.uint8]

COARSE_SIDE, FINE_SIDE = 64, 256
"""Longer side in pixels of the coarsest and of the finest level of the pyramid. A smaller image is its own finest."""
SMOOTHING = 1.0
"""Standard deviation, in pixels of a level, of the filter before registration. Without it, the interpolation at a
fraction of a pixel would smooth noise away, and noise alone would look like a shift."""
WINDOW = 6.0
"""Standard deviation, in pixels of a level, of the window of the local mean and contrast."""
FAINT = 4 / 255
"""Contrast below which structure is not amplified to the contrast of the rest."""
MARGIN = 4
"""Pixels of a level, next to the mask, that are left out too: the filter and the interpolation reach that far."""

SCALES = tuple(float(x) for x in np.exp(np.linspace(np.log(0.8), np.log(1.25), 11)))
"""Scales that the coarse search tries. 1 is among them."""
LARGEST_SHIFT = 0.3
"""Largest shift of the coarse search, as a share of each side."""

TILE = 1 / 16
"""Side of a tile as a share of the shorter side, at least 8 pixels of the finest level."""
TEXTURED = 0.4
"""A tile counts where the standard deviation of the source's local contrast in it exceeds this: about 2/255 in the
luminance."""
MATCHING = 0.5
"""A tile matches where its correlation exceeds this. Blur, JPEG and colour casts stay above it."""
LEAST_MATCHING = 0.5
"""Smallest share of matching tiles with an answer."""
LEAST_GAIN = 0.15
"""A drift counts where it leaves this share less unexplained than the identity does."""
LEAST_DETAIL = 0.02
"""Smallest root mean square of the local contrast's change per pixel of drift, in the direction with the least detail."""

_ITERATIONS = 12


@dataclass(frozen=True)
class Similarity:
    """Maps a pixel of the source to the place of its content in the edited image, both relative to the centre."""

    scale: float = 1.0
    """Above 1 the content is enlarged."""
    dx: float = 0.0
    """Shift to the right, in pixels."""
    dy: float = 0.0
    """Shift downwards, in pixels."""

    def displacement(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Length of T(p) - p of every pixel of an image of ``(height, width)``: ``(H, W)``, in pixels."""
        y, x = (_centred(side) for side in size)
        grow = self.scale - 1
        lengths: NDArray[np.float64] = np.hypot(grow * x[None, :] + self.dx, grow * y[:, None] + self.dy)
        return lengths


IDENTITY = Similarity()


def _centred(side: int) -> NDArray[np.float64]:
    """Coordinates of the pixel centres of one axis, relative to the centre of the image."""
    return np.arange(side) - (side - 1) / 2


# -- resampling ---------------------------------------------------------------------------------


def undo(edited: Uint8HWC, drift: Similarity) -> tuple[Uint8HWC, BoolHW]:
    """The edited image brought back onto its source, by Lanczos interpolation of radius 3.

    Also returns ``(H, W)`` bool: the pixels whose content lies within the edited image. The others repeat its border.
    """
    if drift == IDENTITY:
        return edited, np.ones(edited.shape[:2], bool)
    pixels, inside = _resample(edited.astype(np.float32), drift, radius=3)
    return pixels.round().clip(0, 255).astype(np.uint8), inside


def _resample(image: NDArray[np.float32], drift: Similarity, radius: int) -> tuple[Any, BoolHW]:
    """``image(T(p))`` of ``(H, W)`` or ``(H, W, C)``, and where T(p) lies within the image, ``(H, W)`` bool."""
    # Without a rotation the axes separate: one sparse matrix for the rows, one for the columns.
    height, width = image.shape[:2]
    rows, rows_inside = _taps(height, drift.scale, drift.dy, radius)
    columns, columns_inside = _taps(width, drift.scale, drift.dx, radius)
    moved = (rows @ image.reshape(height, -1)).reshape(height, width, -1)
    moved = np.moveaxis(moved, 0, 1).reshape(width, -1)
    moved = np.moveaxis((columns @ moved).reshape(width, height, -1), 0, 1)
    return moved.reshape(image.shape), rows_inside[:, None] & columns_inside[None, :]


def _taps(side: int, scale: float, shift: float, radius: int) -> tuple[Any, NDArray[np.bool_]]:
    """Lanczos weights of one axis as a sparse ``(side, side)`` matrix, and the positions within the image."""
    from scipy.sparse import csr_matrix

    at = scale * _centred(side) + shift + (side - 1) / 2
    taps = np.floor(at).astype(np.intp)[:, None] + np.arange(1 - radius, 1 + radius)  # (side, 2 radius)
    distance = at[:, None] - taps
    weights = np.sinc(distance) * np.sinc(distance / radius)
    weights /= weights.sum(axis=1, keepdims=True)
    # The border is repeated.
    indices = taps.clip(0, side - 1).ravel()
    matrix = csr_matrix(
        (weights.ravel().astype(np.float32), indices, np.arange(0, indices.size + 1, 2 * radius)),
        shape=(side, side),
    )
    return matrix, (at >= 0) & (at <= side - 1)


# -- pyramid ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images at one size, smoothed: ``(h, w)`` float32 luminance in [0, 1]."""

    source: FloatHW
    edited: FloatHW
    counts: BoolHW
    """Pixels of the source that count."""

    @property
    def size(self) -> tuple[int, int]:
        return self.source.shape[0], self.source.shape[1]

    def to(self, other: _Level, drift: Similarity) -> Similarity:
        """A drift in pixels of this level in pixels of another."""
        # Sizes are rounded, so each axis has its own factor. The scale is the same at every size.
        (h, w), (height, width) = self.size, other.size
        return Similarity(drift.scale, drift.dx * width / w, drift.dy * height / h)


def _pyramid(source: Uint8HWC, edited: Uint8HWC, mask: BoolHW) -> list[_Level]:
    """The levels, the finest first. Each has half the side of the one before."""
    from PIL import Image
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    height, width = mask.shape
    side = min(FINE_SIDE, max(height, width))
    # Rec. 601 luma, as PIL's mode L.
    luma = np.array([0.299, 0.587, 0.114], np.float32) / 255
    images = [Image.fromarray((pixels @ luma).astype(np.float32)) for pixels in (source, edited)]
    # In pixels of the full size.
    distance = distance_transform_edt(~mask).astype(np.float32) if mask.any() else None
    levels: list[_Level] = []
    while not levels or side >= COARSE_SIDE:
        factor = side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        luminance = [np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images]
        counts = np.ones(luminance[0].shape, bool)
        if distance is not None:
            at_level = Image.fromarray(distance).resize(size, Image.Resampling.BILINEAR)
            counts = np.asarray(at_level) * factor > MARGIN
        before, after = (_local_contrast(image, counts) for image in luminance)
        levels.append(_Level(before, after, counts))
        side //= 2
    return levels


def _local_contrast(luminance: FloatHW, counts: BoolHW) -> FloatHW:
    """Luminance less its local mean, divided by its local standard deviation, both over the pixels that count.

    Changes of light and colour, even local ones, then cancel.
    """
    from scipy.ndimage import gaussian_filter

    def local(image: Any) -> Any:
        return gaussian_filter(image, WINDOW, mode="nearest")

    weight = counts.astype(np.float32)
    total = local(weight).clip(1e-3)
    smooth = gaussian_filter(luminance, SMOOTHING, mode="nearest")
    mean = local(weight * smooth) / total
    variance = local(weight * (smooth - mean) ** 2) / total
    return np.asarray((smooth - mean) / np.sqrt(variance + FAINT**2))


# -- estimation ---------------------------------------------------------------------------------


def register(source: Uint8HWC, edited: Uint8HWC, mask: BoolHW) -> Similarity | NoValue:
    """The drift of the edited image, or the reason why it cannot be told.

    ``source`` and ``edited`` are ``(H, W, 3)`` uint8, ``mask`` is ``(H, W)`` bool, True = edit. An empty mask takes the
    whole image. Equal pixels outside the mask have the identity. Shifts up to 30 % of a side and zooms of 0.8 to 1.25
    are searched.
    """
    if np.array_equal(source[~mask], edited[~mask]):
        return IDENTITY if not mask.all() else NoValue("no pixel lies outside the mask")
    levels = _pyramid(source, edited, mask)
    fine, coarse = levels[0], levels[-1]
    tiles = _Tiles(fine)
    if not tiles.count or not _has_detail(fine):
        return NoValue("the part outside has too little detail to measure drift")

    # Candidates: from the identity, and from the coarse peak where that is another place.
    candidates = [_refine(levels, IDENTITY)]
    start = _coarse_search(coarse)
    if start != IDENTITY:
        candidates.append(_refine(levels, coarse.to(fine, start)))
    drift, agreement = IDENTITY, tiles.correlations(IDENTITY)
    for candidate in candidates:
        candidate = _gauss_newton(tiles.matching(candidate), candidate)
        correlations = tiles.correlations(candidate)
        if _explains_more(correlations, agreement):
            drift, agreement = candidate, correlations
    matching = float((agreement > MATCHING).sum() / np.isfinite(agreement).sum().clip(1))
    if matching < LEAST_MATCHING:
        return NoValue("less than half of the part outside shows the source: drift cannot be measured")
    # In pixels of the full size.
    height, width = mask.shape
    return Similarity(drift.scale, drift.dx * width / fine.size[1], drift.dy * height / fine.size[0])


def _refine(levels: Sequence[_Level], start: Similarity) -> Similarity:
    """Gauss-Newton from the coarsest level to the finest. ``start`` and the result are in pixels of the finest."""
    drift = levels[0].to(levels[-1], start)
    for level, finer in zip(levels[::-1], [*levels[-2::-1], levels[0]], strict=True):
        drift = level.to(finer, _gauss_newton(level, drift))
    return drift


def _gauss_newton(level: _Level, drift: Similarity) -> Similarity:
    """Minimises a robust sum of ``(edited(T(p)) - gain * source(p) - offset)^2`` over the pixels that count."""
    height, width = level.size
    radius = max(height, width) / 2
    x = (_centred(width) / radius).astype(np.float32)[None, :]
    y = (_centred(height) / radius).astype(np.float32)[:, None]
    for _ in range(_ITERATIONS):
        moved, inside = _resample(level.edited, drift, radius=2)
        counts = level.counts & inside
        if counts.sum() < 64:
            return drift
        residual = (moved - level.source)[counts]
        # Geman-McClure, with the scale of the inliers.
        spread = max(1.4826 * float(np.median(np.abs(residual))), 0.02)
        weight = (1 + (residual / (3 * spread)) ** 2) ** -2
        # Derivatives of the residual by the scale (in units of the radius) and the shift.
        down, right = (slope / drift.scale for slope in np.gradient(moved))
        columns = np.stack([(x * right + y * down)[counts], right[counts], down[counts]])
        weighted = columns * weight
        step, *_ = np.linalg.lstsq(
            (weighted @ columns.T).astype(np.float64), -(weighted @ residual).astype(np.float64), rcond=None
        )
        drift = Similarity(
            *(float(x) for x in (drift.scale + step[0] / radius, drift.dx + step[1], drift.dy + step[2]))
        )
        if not 0.5 < drift.scale < 2:
            return IDENTITY
        # In pixels at the border.
        if np.abs(step[:3]).max() < 0.005:
            break
    return drift


def _coarse_search(level: _Level) -> Similarity:
    """Peak of the masked normalised cross-correlation over shifts and :data:`SCALES`, in pixels of the level."""
    from scipy.fft import irfft2, next_fast_len, rfft2
    from scipy.ndimage import gaussian_filter

    height, width = level.size
    shape = [next_fast_len(2 * side, real=True) for side in level.size]

    # Fine structure only: smooth gradients correlate at any shift.
    def detail(image: FloatHW) -> FloatHW:
        return np.asarray(image - gaussian_filter(image, 4 * SMOOTHING, mode="nearest"))

    def spectrum(image: Any) -> Any:
        return rfft2(image, shape)

    weight = level.counts.astype(np.float32)
    source = detail(level.source) * weight
    of_weight, of_source, of_square = (
        spectrum(image).conj() for image in (weight, source, source * source)
    )
    edited_detail = detail(level.edited)
    # Shifts up to LARGEST_SHIFT, negative ones at the end of the axis.
    allowed = [np.r_[0 : int(LARGEST_SHIFT * s) + 1, -int(LARGEST_SHIFT * s) : 0] for s in level.size]
    best, peak = IDENTITY, -1.0
    for scale in SCALES:
        edited, inside = _resample(edited_detail, Similarity(scale), radius=2)
        edited, present = edited * inside, spectrum(inside.astype(np.float32))
        first, second = spectrum(edited), spectrum(edited * edited)

        # Sums over the overlap at every shift (Padfield 2012, eqs. 8 to 13).
        def at_shifts(product: Any) -> Any:
            return irfft2(product, shape)[np.ix_(*allowed)]

        n = at_shifts(of_weight * present)
        s, e = at_shifts(of_source * present), at_shifts(of_weight * first)
        ss, ee = at_shifts(of_square * present), at_shifts(of_weight * second)
        se = at_shifts(of_source * first)
        usable = n > 0.4 * weight.sum()
        n = np.where(usable, n, 1)
        power = (ss - s * s / n).clip(1e-9) * (ee - e * e / n).clip(1e-9)
        correlation = np.where(usable, (se - s * e / n) / np.sqrt(power), -1)
        at = np.unravel_index(int(correlation.argmax()), correlation.shape)
        if correlation[at] > peak:
            peak = float(correlation[at])
            # The shift was found in the rescaled image: T(p) = scale * (p + shift).
            best = Similarity(scale, scale * float(allowed[1][at[1]]), scale * float(allowed[0][at[0]]))
    return best


# -- decision -----------------------------------------------------------------------------------


class _Tiles:
    """Correlation of both images in small tiles: it ignores brightness and contrast, and locates changes."""

    def __init__(self, level: _Level) -> None:
        self.level = level
        side = max(8.0, TILE * min(level.size))
        self.starts = [(side * np.arange(max(1, int(n / side)))).astype(np.intp) for n in level.size]
        n, s, ss = (self._sums(image) for image in (np.ones_like(level.source), level.source, level.source**2))
        # Only tiles of the source with texture can tell where they are.
        area = self._sums(np.ones_like(level.source), np.ones_like(level.counts))
        variance = ss / n.clip(1) - (s / n.clip(1)) ** 2
        self.textured = (n > area / 2) & (variance > TEXTURED**2)
        self.count = int(self.textured.sum())

    def _sums(self, image: FloatHW, counts: BoolHW | None = None) -> NDArray[np.float64]:
        counts = self.level.counts if counts is None else counts
        rows = np.add.reduceat(image * counts, self.starts[0], axis=0, dtype=np.float64)
        return np.add.reduceat(rows, self.starts[1], axis=1)

    def matching(self, drift: Similarity) -> _Level:
        """The level with the pixels of matching tiles alone. All that count, where no tile matches."""
        matches = np.zeros(self.textured.shape, bool)
        matches[self.textured] = self.correlations(drift) > MATCHING
        if not matches.any():
            return self.level
        sides = (np.diff([*starts, side]) for starts, side in zip(self.starts, self.level.size, strict=True))
        rows, columns = sides
        pixels = matches.repeat(rows, axis=0).repeat(columns, axis=1)
        return replace(self.level, counts=self.level.counts & pixels)

    def correlations(self, drift: Similarity) -> NDArray[np.float64]:
        """Correlation of each textured tile with the edited image after undoing a drift. NaN beyond the border."""
        edited, inside = _resample(self.level.edited, drift, radius=2)
        counts, source = self.level.counts & inside, self.level.source
        n, s, e, ss, ee, se = (
            self._sums(image, counts)[self.textured]
            for image in (np.ones_like(source), source, edited, source**2, edited**2, source * edited)
        )
        whole = self._sums(np.ones_like(source))[self.textured]
        n = np.where(n > whole / 4, n, np.nan)
        power = (ss - s * s / n).clip(1e-9) * (ee - e * e / n).clip(1e-9)
        return np.asarray((se - s * e / n) / np.sqrt(power))


def _explains_more(candidate: NDArray[np.float64], present: NDArray[np.float64]) -> bool:
    """True where the correlations ``candidate`` leave clearly less unexplained than ``present``."""
    # Tiles that the edit changed match neither way, and tiles beyond the border say nothing.
    among = np.isfinite(candidate) & np.isfinite(present) & (np.fmax(candidate, present) > MATCHING)
    if not among.any():
        return False
    # 1 - r^2 is the share of the variance that the other image leaves unexplained.
    left, before = (float((1 - r[among].clip(0) ** 2).mean()) for r in (candidate, present))
    return left < (1 - LEAST_GAIN) * before


def _has_detail(level: _Level) -> bool:
    """True where every change of scale or shift would be visible in the source."""
    height, width = level.size
    radius = max(height, width) / 2
    x, y = _centred(width)[None, :] / radius, _centred(height)[:, None] / radius
    down, right = np.gradient(level.source)
    columns = np.stack([(x * right + y * down), right, down])[:, level.counts].astype(np.float64)
    # The mean square of the luminance's change per pixel, in the weakest direction.
    weakest = np.linalg.eigvalsh(columns @ columns.T / max(1, columns.shape[1]))[0]
    return bool(weakest > LEAST_DETAIL**2)
