"""Registration of an edited image to its source by one shift and one zoom, estimated where the source had to stay.

Instruction editors often return the whole image slightly shifted or enlarged. :func:`register` estimates this
similarity without rotation, ``T(p) = scale * p + shift``, from the luminance of the pixels that count:

1. Start: the identity, and the peak of the masked normalised cross-correlation at about 64 px, over several scales
   (Padfield, "Masked object registration in the Fourier domain", 2012).
2. Refinement: Gauss-Newton on an image pyramid (Lucas and Kanade 1981). Geman-McClure weights ignore what the edit
   changed.
3. Decision: the candidates are compared by the correlation of small tiles. The identity wins unless another leaves
   clearly less unexplained.
4. Refusal: where less than half of the area stayed the same, there is no answer. A tile with texture stayed where it
   matches, and a pixel without texture where it has the colour that the matching tiles predict.

Steps 1 to 3 compare local contrast, in which changes of light and colour cancel. Step 4 estimates such changes.

No function draws random numbers: equal images give equal results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.relighting import relit, smooth_colours
from bench.metrics.types import NoValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    FloatHW = NDArray[np.float32]
    FloatHWC = NDArray[np.float32]
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
SAME_COLOUR = 0.12
"""A pixel without texture stayed the same where no channel differs by more than this from what the matching tiles
predict. Half of it where the edited image has texture."""
LEAST_SAME = 0.5
"""Smallest share of the area that stayed the same with an answer."""
LEAST_TILES = 4
"""Smallest number of textured tiles with an answer."""
LEAST_GAIN, GAIN_OF_TILES = 0.15, 3.0
"""A drift counts where it leaves this share less unexplained than the identity does. With fewer than 20 tiles the share
is 3 / tiles, because chance then explains more."""
LEAST_DRIFT = 0.1
"""Smallest mean displacement that counts, in pixels of the finest level. The estimate is not more accurate."""
LEAST_DETAIL = 0.02
"""Smallest root mean square of the local contrast's change per pixel of drift, in the direction with least detail."""

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
    return np.arange(side, dtype=np.float64) - (side - 1) / 2


# -- resampling ---------------------------------------------------------------------------------


def undo(edited: Uint8HWC, drift: Similarity) -> tuple[Uint8HWC, BoolHW]:
    """The edited image brought back onto its source, by Lanczos interpolation of radius 4.

    Also returns ``(H, W)`` bool: the pixels whose content lies within the edited image. The others repeat its border.
    """
    if drift == IDENTITY:
        return edited, np.ones(edited.shape[:2], bool)
    # Radius 4 loses about 1 dB less than radius 3 on photographs.
    pixels, inside = _resample(edited.astype(np.float32), drift, radius=4)
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
class _PyramidLevel:
    """Both images at one size, smoothed: ``(h, w)`` float32 luminance in [0, 1]."""

    source: FloatHW
    edited: FloatHW
    counts: BoolHW
    """Pixels of the source that count."""

    @property
    def size(self) -> tuple[int, int]:
        return self.source.shape[0], self.source.shape[1]

    def to(self, other: _PyramidLevel, drift: Similarity) -> Similarity:
        """A drift in pixels of this level in pixels of another."""
        # Sizes are rounded, so each axis has its own factor. The scale is the same at every size.
        (h, w), (height, width) = self.size, other.size
        return Similarity(drift.scale, drift.dx * width / w, drift.dy * height / h)


def _pyramid(source: Uint8HWC, edited: Uint8HWC, mask: BoolHW | None) -> list[_PyramidLevel]:
    """The levels, the finest first. Each has half the side of the one before."""
    from PIL import Image
    from scipy.ndimage import distance_transform_edt

    height, width = source.shape[:2]
    side = min(FINE_SIDE, max(height, width))
    # Rec. 601 luma, as PIL's mode L.
    luma = np.array([0.299, 0.587, 0.114], np.float32) / 255
    images = [Image.fromarray((pixels @ luma).astype(np.float32)) for pixels in (source, edited)]
    # In pixels of the full size.
    distance = None if mask is None or not mask.any() else distance_transform_edt(~mask).astype(np.float32)
    levels: list[_PyramidLevel] = []
    while not levels or side >= COARSE_SIDE:
        factor = side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        luminance = [np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images]
        counts = np.ones(luminance[0].shape, bool)
        if distance is not None:
            at_level = Image.fromarray(distance).resize(size, Image.Resampling.BILINEAR)
            counts = np.asarray(at_level) * factor > MARGIN
        before, after = (_local_contrast(image, counts) for image in luminance)
        levels.append(_PyramidLevel(before, after, counts))
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


def register(source: Uint8HWC, edited: Uint8HWC, mask: BoolHW | None) -> Similarity | NoValue:
    """The drift of the edited image, or the reason why it cannot be measured.

    ``source`` and ``edited`` are ``(H, W, 3)`` uint8, ``mask`` is ``(H, W)`` bool, True = edit. None takes the whole
    image. Where all pixels outside are equal, the drift is the identity. Shifts up to 30 % of a side and zooms of 0.8
    to 1.25 are searched.
    """
    # Cases with an answer before any search.
    outside = np.ones(source.shape[:2], bool) if mask is None else ~mask
    if not outside.any():
        return NoValue("no pixel lies outside the mask")
    if np.array_equal(source[outside], edited[outside]):
        return IDENTITY
    levels = _pyramid(source, edited, mask)
    fine, coarse = levels[0], levels[-1]
    tiles = _Tiles(fine)
    part = "image" if mask is None else "part outside the mask"
    if tiles.textured.sum() < LEAST_TILES or not _has_detail(fine):
        return NoValue(f"the {part} has too little detail to measure drift")

    # Candidates: from the identity, and from the coarse peak where that is another place.
    peak = _coarse_search(coarse)
    starts = [IDENTITY] if peak == IDENTITY else [IDENTITY, coarse.to(fine, peak)]
    drift, agreement = IDENTITY, tiles.correlations(IDENTITY)
    for start in starts:
        candidate = _refine(levels, start)
        # Once more without the tiles that the edit changed, which pull at the fit.
        candidate = _gauss_newton(tiles.matching(candidate), candidate)
        correlations = tiles.correlations(candidate)
        visible = candidate.displacement(fine.size).mean() >= LEAST_DRIFT
        if visible and _explains_more(correlations, agreement):
            drift, agreement = candidate, correlations

    # Refusal.
    colours = [smooth_colours(pixels, fine.size) for pixels in (source, edited)]
    if tiles.same_share(drift, *colours) < LEAST_SAME:
        return NoValue(f"less than half of the {part} matches the source: drift cannot be measured")
    # In pixels of the full size.
    (height, width), (h, w) = source.shape[:2], fine.size
    return Similarity(drift.scale, drift.dx * width / w, drift.dy * height / h)


def _refine(levels: Sequence[_PyramidLevel], start: Similarity) -> Similarity:
    """Gauss-Newton from the coarsest level to the finest. ``start`` and the result are in pixels of the finest."""
    drift = levels[0].to(levels[-1], start)
    for level, finer in zip(levels[::-1], [*levels[-2::-1], levels[0]], strict=True):
        drift = level.to(finer, _gauss_newton(level, drift))
    return drift


def _gauss_newton(level: _PyramidLevel, drift: Similarity) -> Similarity:
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


def _coarse_search(level: _PyramidLevel) -> Similarity:
    """Peak of the masked normalised cross-correlation over shifts and :data:`SCALES`, in pixels of the level."""
    # Allowed shifts of each axis. Negative ones stand at the end, as in a discrete Fourier transform.
    reach = [int(LARGEST_SHIFT * side) for side in level.size]
    shifts = [np.r_[0 : limit + 1, -limit:0] for limit in reach]
    best, peak = IDENTITY, -1.0
    for scale in SCALES:
        edited, inside = _resample(level.edited, Similarity(scale), radius=2)
        correlation = _shifted_correlation(level.source, level.counts, edited, inside, shifts)
        row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
        if correlation[row, column] > peak:
            peak = float(correlation[row, column])
            # The shift applies to the rescaled image: T(p) = scale * (p + shift).
            best = Similarity(scale, scale * float(shifts[1][column]), scale * float(shifts[0][row]))
    return best


def _shifted_correlation(
    source: FloatHW, counts: BoolHW, edited: FloatHW, inside: BoolHW, shifts: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Correlation of the source with the edited image at every pair of row and column ``shifts``.

    Each is taken over the overlap of ``counts`` with the shifted ``inside`` (Padfield 2012), and is -1 where less than
    half of ``counts`` overlaps.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    # Twice the size, so that no shift wraps around.
    shape = [next_fast_len(2 * side, real=True) for side in source.shape]
    weight, present = counts.astype(np.float64), inside.astype(np.float64)
    before, after = source * weight, edited * present
    of_weight, of_source, of_square = (rfft2(x, shape).conj() for x in (weight, before, before**2))
    in_frame, of_edited, of_edited_square = (rfft2(x, shape) for x in (present, after, after**2))

    # Sums over the overlap at every shift.
    def sums(left: Any, right: Any) -> Any:
        return irfft2(left * right, shape)[np.ix_(*shifts)]

    n = sums(of_weight, in_frame)
    enough = n > weight.sum() / 2
    n = np.where(enough, n, 1)
    correlation = _correlation(
        n,
        sums(of_source, in_frame),
        sums(of_weight, of_edited),
        sums(of_square, in_frame),
        sums(of_weight, of_edited_square),
        sums(of_source, of_edited),
    )
    return np.where(enough, correlation, -1)


def _correlation(n: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> NDArray[np.float64]:
    """Pearson's correlation from the number of values and the sums of x, y, x^2, y^2 and xy."""
    power = (xx - x * x / n).clip(1e-9) * (yy - y * y / n).clip(1e-9)
    return np.asarray((xy - x * y / n) / np.sqrt(power))


# -- decision -----------------------------------------------------------------------------------


class _Tiles:
    """Correlation of both images in small square tiles, which locates what an edit changed."""

    def __init__(self, level: _PyramidLevel) -> None:
        self.level = level
        # The last tile of an axis takes the rest.
        side = max(8.0, TILE * min(level.size))
        self._starts = [(side * np.arange(max(1, int(n / side)))).astype(np.intp) for n in level.size]
        n, s, ss = (
            self._sums(x, level.counts) for x in (np.ones_like(level.source), level.source, level.source**2)
        )
        variance = ss / n.clip(1) - (s / n.clip(1)) ** 2
        # A correlation of few pixels is chance.
        self.textured = (n >= side**2 / 4) & (variance > TEXTURED**2)
        """``(rows, columns)`` bool: tiles of the source with enough texture to tell where they are."""
        self._pixels = n[self.textured]

    def correlations(self, drift: Similarity) -> NDArray[np.float64]:
        """Correlation of each textured tile after undoing a drift. NaN where most of the tile left the image."""
        edited, inside = _resample(self.level.edited, drift, radius=2)
        counts, source = self.level.counts & inside, self.level.source
        n, *sums = (
            self._sums(x, counts)[self.textured]
            for x in (np.ones_like(source), source, edited, source**2, edited**2, source * edited)
        )
        return _correlation(np.where(n > self._pixels / 2, n, np.nan), *sums)

    def matching(self, drift: Similarity) -> _PyramidLevel:
        """The level with the pixels of matching tiles alone. All that count, where no tile matches."""
        pixels = self._pixels_of(self.textured, self.correlations(drift) > MATCHING)
        return replace(self.level, counts=self.level.counts & pixels) if pixels.any() else self.level

    def same_share(self, drift: Similarity, source: FloatHWC, edited: FloatHWC) -> float:
        """Share of the area that stayed the same, after undoing a drift and changes of light and colour.

        ``source`` and ``edited`` are ``(h, w, 3)`` smoothed colours in [0, 1], at the size of the level. The share is
        in [0, 1], and 0 where no tile matches.
        """
        correlations = self.correlations(drift)
        matches = self._pixels_of(self.textured, correlations > MATCHING)
        if not matches.any():
            return 0.0
        colours, inside = _resample(edited, drift, radius=2)
        counts = self.level.counts & inside

        # Replaced flat parts have no texture that could fail to match, so their colour decides.
        difference = np.abs(colours - relit(source, colours, counts & matches)).max(axis=-1)
        contrast, _ = _resample(self.level.edited, drift, radius=2)
        n, s, ss = (self._sums(x, counts) for x in (np.ones_like(contrast), contrast, contrast**2))
        now_textured = ss / n.clip(1) - (s / n.clip(1)) ** 2 > TEXTURED**2
        tolerance = np.where(self._pixels_of(now_textured), SAME_COLOUR / 2, SAME_COLOUR)

        # A tile that mostly left the image has no correlation.
        compared = self._pixels_of(self.textured, np.isfinite(correlations))
        same = np.where(compared, matches, difference < tolerance)
        return float(same[counts].mean()) if counts.any() else 0.0

    def _pixels_of(self, tiles: BoolHW, among: NDArray[np.bool_] | None = None) -> BoolHW:
        """``(h, w)``: the pixels of these ``(rows, columns)`` tiles, or of those ``among`` them, in their order."""
        chosen = tiles.copy()
        if among is not None:
            chosen[tiles] = among
        rows, columns = (
            np.diff([*starts, side]) for starts, side in zip(self._starts, self.level.size, strict=True)
        )
        return np.asarray(chosen.repeat(rows, axis=0).repeat(columns, axis=1))

    def _sums(self, image: FloatHW, counts: BoolHW) -> NDArray[np.float64]:
        rows = np.add.reduceat(image * counts, self._starts[0], axis=0, dtype=np.float64)
        return np.asarray(np.add.reduceat(rows, self._starts[1], axis=1))


def _explains_more(candidate: NDArray[np.float64], present: NDArray[np.float64]) -> bool:
    """True where the correlations ``candidate`` leave clearly less unexplained than ``present``."""
    # Tiles that the edit changed match neither way, and tiles beyond the border say nothing.
    among = np.isfinite(candidate) & np.isfinite(present) & (np.fmax(candidate, present) > MATCHING)
    if not among.any():
        return False
    # 1 - r^2 is the share of the variance that the other image leaves unexplained.
    left, before = (float((1 - r[among].clip(0) ** 2).mean()) for r in (candidate, present))
    least_gain = max(LEAST_GAIN, GAIN_OF_TILES / int(among.sum()))
    return left < (1 - least_gain) * before


def _has_detail(level: _PyramidLevel) -> bool:
    """True where every change of scale or shift would be visible in the source."""
    height, width = level.size
    radius = max(height, width) / 2
    x, y = _centred(width)[None, :] / radius, _centred(height)[:, None] / radius
    down, right = np.gradient(level.source)
    columns = np.stack([(x * right + y * down), right, down])[:, level.counts].astype(np.float64)
    # The mean square of the luminance's change per pixel, in the weakest direction.
    weakest = np.linalg.eigvalsh(columns @ columns.T / max(1, columns.shape[1]))[0]
    return bool(weakest > LEAST_DETAIL**2)
