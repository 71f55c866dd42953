"""Realism: how far a set of edits lies from a set of real images, in a network's feature space.

==================  =======================================  ============================================
metric              network and features                     distance
==================  =======================================  ============================================
``fid``             FID's Inception, 2048, by clean-fid      Fréchet (Heusel et al. 2017, eq. 6)
``kid``             the same                                 unbiased MMD^2, cubic kernel
``cmmd``            OpenAI CLIP ViT-L/14 at 336 px           biased MMD^2, Gaussian kernel, times 1000
``vgg16_frechet``   VGG16 of LPIPS, 512, pooled              Fréchet; not FID and never called so
``vgg16_kid``       the same                                 as kid
``mini_clip_cmmd``  the embedded CLIP                        as cmmd
==================  =======================================  ============================================

Images are resized as clean-fid does (Pillow's antialiased bicubic, in floating point, nothing rounded in
between): to 299 for Inception; for VGG16 to 224, or left at their size where that is smaller, because pixels
made by enlarging carry nothing. CLIP's transform is open_clip's.

Statistics are accumulated in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks import lpips_weights
from bench.metrics.networks.weights import INCEPTION
from bench.metrics.options import RealismOptions, versioned
from bench.metrics.streams import Mark, marks_of
from bench.metrics.types import MetricError, Picture, SetValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

    FloatND = NDArray[np.float64]
    Rows = NDArray[np.floating]

SMALL_N = 2048
VGG16_SIDE = 224
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
_CHUNK = 2048
KERNEL_LIMIT = 8192
"""Images a side up to which whole kernel matrices are kept (512 MB each)."""


@dataclass
class Moments:
    """Mean and covariance of a stream of feature rows, in float64, a batch at a time.

    Batches are merged by Chan et al. 1983, eq. 2.1, which does not cancel when the mean is large.
    """

    n: int = 0
    mean: FloatND = field(default_factory=lambda: np.zeros(0))
    scatter: FloatND = field(default_factory=lambda: np.zeros((0, 0)))
    """Sum of outer products of what is left after the mean."""

    def update(self, rows: Rows) -> None:
        """``rows``: ``(N, D)``."""
        x = np.asarray(rows, dtype=np.float64)
        if x.ndim != 2 or (self.n and x.shape[1] != len(self.mean)):
            raise MetricError(f"feature rows of shape {x.shape}; expected (N, {len(self.mean) or 'D'}).")
        if not len(x):
            return
        mean = x.mean(axis=0)
        centred = x - mean
        scatter = centred.T @ centred
        if not self.n:
            self.n, self.mean, self.scatter = len(x), mean, scatter
            return
        step = mean - self.mean
        total = self.n + len(x)
        self.scatter += scatter + np.outer(step, step) * (self.n * len(x) / total)
        self.mean = self.mean + step * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> FloatND:
        """``(D, D)``, unbiased. Raises :class:`MetricError` for fewer than two rows."""
        if self.n < 2:
            raise MetricError("a covariance needs at least two images.")
        return self.scatter / (self.n - 1)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean ``(D,)`` and a factor ``(R, D)`` of the covariance: ``S = F.T @ F``, R as small as may be."""

    mean: FloatND
    factor: FloatND

    @cached_property
    def trace(self) -> float:
        return float(np.square(self.factor).sum())

    @classmethod
    def of_rows(cls, rows: Rows) -> Gaussian:
        """Of feature rows ``(N, D)``: the centred rows are a factor, reduced to D rows where N > D."""
        x = np.asarray(rows, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise MetricError("a Fréchet distance needs at least two images on either side.")
        mean = x.mean(axis=0)
        factor = (x - mean) / np.sqrt(len(x) - 1)
        if len(x) > x.shape[1]:
            # R of a QR decomposition: the same product, and no precision lost to squaring.
            factor = np.linalg.qr(factor, mode="r")
        return cls(mean, factor)

    @classmethod
    def of_covariance(cls, mean: FloatND, covariance: FloatND) -> Gaussian:
        """Of statistics, as clean-fid's files hold them."""
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        return cls(np.asarray(mean, np.float64), np.sqrt(values.clip(0))[:, None] * vectors.T)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982).

    With S1 = F.T F and S2 = G.T G, the trace of (S1 S2)^(1/2) is the sum of the singular values of F G.T:
    no matrix square root, nothing complex, and little work where there are fewer images than dimensions.
    """
    cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    step = a.mean - b.mean
    return float(max(0.0, step @ step + a.trace + b.trace - 2 * cross))


def polynomial_kernel(x: Rows, y: Rows) -> FloatND:
    """``(N, M)`` of ``(N, D)`` and ``(M, D)``: (x.y / D + 1)^3 (Binkowski et al. 2018, section 3)."""
    kernel: FloatND = (np.asarray(x, np.float64) @ np.asarray(y, np.float64).T / x.shape[1] + 1) ** 3
    return kernel


def mmd2_unbiased(kxx: FloatND, kyy: FloatND, kxy: FloatND) -> float:
    """Unbiased squared MMD of kernel matrices (Gretton et al. 2012, eq. 3); may be below zero."""
    n, m = kxy.shape
    within_x = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def kid(
    edited: Rows, reference: Rows, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Kernel inception distance: the mean unbiased MMD^2 over random subsets, as clean-fid draws them.

    After ``numpy.random.seed(seed)``, ``cleanfid.fid.kernel_distance(reference, edited)`` draws the same
    subsets. Rows are ``(N, D)``, at least two on either side.
    """
    x, y = np.asarray(edited, np.float64), np.asarray(reference, np.float64)
    size = min(len(x), len(y), subset_size)
    if size < 2:
        raise MetricError("a kernel distance needs at least two images on either side.")
    draw = np.random.RandomState(seed)
    # One product per pair of images instead of one per subset, where that fits in memory.
    whole = max(len(x), len(y)) <= KERNEL_LIMIT
    kxx, kyy, kxy = (
        (polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)) if whole else (None,) * 3
    )
    total = 0.0
    for _ in range(subsets):
        i = draw.choice(len(x), size, replace=False)
        j = draw.choice(len(y), size, replace=False)
        if kxx is not None and kyy is not None and kxy is not None:
            total += mmd2_unbiased(kxx[np.ix_(i, i)], kyy[np.ix_(j, j)], kxy[np.ix_(i, j)])
        else:
            a, b = x[i], y[j]
            total += mmd2_unbiased(polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b))
    return total / subsets


def cmmd(edited: Rows, reference: Rows) -> float:
    """CLIP maximum mean discrepancy (Jayasumana et al. 2024).

    1000 times the biased MMD^2 of unit features under a Gaussian kernel with sigma 10. Rows are ``(N, D)``,
    at least one on either side.
    """
    x, y = np.asarray(edited, np.float64), np.asarray(reference, np.float64)
    if not len(x) or not len(y):
        raise MetricError("CMMD needs at least one image on either side.")
    return CMMD_SCALE * (_mean_gaussian(x, x) + _mean_gaussian(y, y) - 2 * _mean_gaussian(x, y))


def gaussian_kernel(x: FloatND, y: FloatND) -> FloatND:
    """``(N, M)``: exp(-|x - y|^2 / (2 sigma^2))."""
    distance = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * x @ y.T
    kernel: FloatND = np.exp(-distance.clip(0) / (2 * CMMD_SIGMA**2))
    return kernel


def _mean_gaussian(x: FloatND, y: FloatND) -> float:
    """The mean over all pairs, by blocks of rows."""
    total = sum(
        float(gaussian_kernel(x[start : start + _CHUNK], y).sum()) for start in range(0, len(x), _CHUNK)
    )
    return total / (len(x) * len(y))


def bootstrap_interval(
    value: float,
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[str],
    *,
    draws: int,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval ``value`` +- 1.96 standard errors, from resampling source images with their edits.

    ``statistic`` gets the indices of the edits drawn. The percentiles themselves would not do: a resample
    repeats images, which moves a distance between distributions upwards.
    """
    from statistics import NormalDist

    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    members = [np.flatnonzero(owner == cluster) for cluster in range(int(owner.max()) + 1)]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = generator.integers(len(members), size=len(members))
        values.append(statistic(np.concatenate([members[cluster] for cluster in drawn])))
    error = float(np.std(values, ddof=1)) * NormalDist().inv_cdf(0.975)
    return value - error, value + error


class Resampled:
    """Fréchet distances of resamples of some rows from one Gaussian, without building a resample.

    A resample is a count per row. All that a distance needs of the rows is their products with each other
    and with the other side, which are formed once; a draw then costs the eigenvalues of one small matrix.
    """

    def __init__(self, rows: Rows, other: Gaussian) -> None:
        """``rows``: ``(N, D)``, at least two."""
        self.rows = np.asarray(rows, dtype=np.float64)
        self.other = other
        self.squares = np.square(self.rows).sum(axis=1)
        self.cross = self.rows @ other.factor.T
        """``(N, R)``: X G.T of :func:`frechet`."""
        self.gram = self.cross @ self.cross.T if len(self.rows) <= self.cross.shape[1] else None

    def __call__(self, indices: NDArray[np.intp]) -> float:
        """The distance of the rows at ``indices`` (with repeats), at least two of them."""
        count = np.bincount(indices, minlength=len(self.rows)).astype(np.float64)
        drawn = np.flatnonzero(count)
        weight, n = count[drawn], float(len(indices))
        mean = weight @ self.rows[drawn] / n
        trace = (weight @ self.squares[drawn] - n * (mean @ mean)) / (n - 1)
        scale = np.sqrt(weight / (n - 1))
        if self.gram is not None:
            # The centred products: H P H.T with H = I - 1 w.T / n.
            gram = self.gram[np.ix_(drawn, drawn)]
            towards = gram @ weight / n
            gram = gram - towards[:, None] - towards + weight @ towards / n
            product = scale[:, None] * gram * scale
        else:
            cross = self.cross[drawn]
            left = scale[:, None] * (cross - weight @ cross / n)
            product = left.T @ left
        # Singular values of F G.T are the roots of the eigenvalues of its product with itself.
        singular = np.sqrt(np.linalg.eigvalsh(product).clip(0)).sum()
        step = mean - self.other.mean
        return float(max(0.0, step @ step + trace + self.other.trace - 2 * singular))


def resampled_mmd(kxx: FloatND, kxy: FloatND, *, unbiased: bool) -> Callable[[NDArray[np.intp]], float]:
    """The squared MMD of resamples of X from Y, less what Y alone adds, from kernel matrices of all rows.

    Unbiased, a pair of two copies of one image is no pair: else every repeat would move the distance.
    """
    towards = kxy.mean(axis=1)

    def distance(indices: NDArray[np.intp]) -> float:
        weight = np.bincount(indices, minlength=len(kxx)).astype(np.float64)
        n = weight.sum()
        within, pairs = weight @ kxx @ weight, n * n
        if unbiased:
            within -= np.square(weight) @ np.diagonal(kxx)
            pairs -= np.square(weight).sum()
        return float(within / pairs - 2 * (weight @ towards) / n)

    return distance


class _SetMetric:
    name = ""
    version = "2"
    unit = "distance"
    higher_is_better = False
    summary = ""
    uses_features = True
    pasted = True
    needs: frozenset[str] = frozenset()

    def __init__(self, features: Features) -> None:
        self.features = features
        self.options: RealismOptions = features.options.realism
        self.version = versioned(type(self).version, self._identity(), self.options)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        raise NotImplementedError

    def _identity(self) -> str:
        """Of a network that may be another one each time; empty for the one that the name stands for."""
        return ""

    def rows(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Feature rows ``float32`` ``(N, D)``."""
        raise NotImplementedError

    def space(self, size: tuple[int, int]) -> str:
        """The name under which the features of pictures of ``(height, width)`` are kept."""
        raise NotImplementedError

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        raise NotImplementedError

    def resampled(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Callable[[NDArray[np.intp]], float]:
        """The distance of a resample of ``edited``, given by indices with repeats, up to a constant."""
        return lambda indices: self.distance(edited[indices], reference)

    def see(self, pictures: Sequence[Picture]) -> None:
        """Keeps the features of these pictures, which then need not be decoded again."""
        if self.options.n is not None:
            return  # few of many may be wanted; which, is known when all have been seen
        by_size: dict[tuple[int, int], list[Picture]] = defaultdict(list)
        for picture in pictures:
            by_size[picture.size].append(picture)
        for same in by_size.values():
            self.rows(same)

    def score_set(
        self,
        edited: Collection[Picture],
        reference: Collection[Picture],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        """The distance of ``edited`` from ``reference``; see :class:`~bench.metrics.types.SetMetric`."""
        names = list(clusters) if clusters is not None else [str(index) for index in range(len(edited))]
        # In order of content, so that subsets and draws do not depend on the order given.
        before, after = marks_of(reference), marks_of(edited)
        kept = _chosen(after, self.options.n)
        after, names = [after[i] for i in kept], [names[i] for i in kept]
        before = [before[i] for i in _chosen(before, self.options.n)]
        if len(after) < 2 or len(before) < 2:
            reason = f"{len(after)} edited and {len(before)} real images; at least two of each are needed"
            return SetValue(None, len(after), len(before), reason)
        sizes = {mark.size for mark in (*after, *before)}
        if len(sizes) > 1:
            shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
            return SetValue(None, len(after), len(before), f"images of different sizes: {shown}")
        space = self.space(after[0].size)
        x, y = (
            self.features.streamed(space, self.rows, pictures, [mark.key for mark in marks])
            for pictures, marks in ((edited, after), (reference, before))
        )
        value = self.distance(x, y)
        if not np.isfinite(value):
            return SetValue(None, len(x), len(y), f"not a finite number ({value})")
        low = high = None
        if self.options.bootstrap:
            low, high = bootstrap_interval(
                value,
                self.resampled(x, y),
                names,
                draws=self.options.bootstrap,
                seed=self.options.seed,
            )
        return SetValue(value, len(x), len(y), None, low, high, self._warning(len(x), len(y), x.shape[1]))

    def _warning(self, n: int, m: int, dimensions: int) -> str | None:
        """Fréchet distances and their kin depend on n (Chong and Forsyth 2020)."""
        least = min(n, m)
        if least >= max(SMALL_N, 2 * dimensions):
            return None
        text = f"small n: {n} edited, {m} real"
        if least < 2 * dimensions:
            text += f", {dimensions} dimensions"
        return text + "; compare only with values of the same n"


class _Frechet(_SetMetric):
    unit = "squared distance"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._last: tuple[str, Gaussian] | None = None

    def _gaussian(self, reference: NDArray[np.float32]) -> Gaussian:
        # The same reference serves every method, category and draw: factorise it once.
        key = _content(reference)
        if self._last is None or self._last[0] != key:
            self._last = key, Gaussian.of_rows(reference)
        return self._last[1]

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return frechet(Gaussian.of_rows(edited), self._gaussian(reference))

    def resampled(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Callable[[NDArray[np.intp]], float]:
        return Resampled(edited, self._gaussian(reference))


class _Kid(_SetMetric):
    unit = "MMD^2"

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        options = self.options
        return kid(
            edited,
            reference,
            subsets=options.kid_subsets,
            subset_size=options.kid_subset_size,
            seed=options.seed,
        )

    def resampled(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Callable[[NDArray[np.intp]], float]:
        # Over all pairs instead of over random subsets, whose own scatter is not the sample's.
        if len(edited) > KERNEL_LIMIT:
            return super().resampled(edited, reference)
        kxx, kxy = polynomial_kernel(edited, edited), polynomial_kernel(edited, reference)
        return resampled_mmd(kxx, kxy, unbiased=True)


class _Inception(_SetMetric):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        problem = INCEPTION.problem()
        return [] if problem is None else [f"FID's Inception: {problem}"]

    def rows(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        return self.features.inception_features(pictures)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.inception_space()


class _Vgg16(_SetMetric):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return lpips_weights.problems("vgg")

    def rows(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        return self.features.vgg16(pictures, min(VGG16_SIDE, *pictures[0].size))

    def space(self, size: tuple[int, int]) -> str:
        return self.features.vgg16_space(min(VGG16_SIDE, *size))


class Fid(_Inception, _Frechet):
    name = "fid"
    summary = "Fréchet inception distance to real images, by clean-fid's preprocessing"


class Kid(_Inception, _Kid):
    name = "kid"
    summary = "kernel inception distance to real images (unbiased; better than FID at small n)"


class Vgg16Frechet(_Vgg16, _Frechet):
    name = "vgg16_frechet"
    summary = "Fréchet distance to real images over VGG16's features (ImageNet weights; not FID)"


class Vgg16Kid(_Vgg16, _Kid):
    name = "vgg16_kid"
    summary = "kernel distance to real images over VGG16's features (ImageNet weights; not KID)"


class Cmmd(_SetMetric):
    name = "cmmd"
    unit = "1000 * MMD^2"
    summary = "CLIP maximum mean discrepancy to real images (ViT-L/14 at 336 px)"
    slot = "cmmd_clip"
    embedded = False

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)

    def _identity(self) -> str:
        return self.features.clip_spec(self.slot).identity

    def rows(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        return self.features.clip_images(self.slot, pictures)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.clip_space(self.slot)

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return cmmd(edited, reference)

    def resampled(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Callable[[NDArray[np.intp]], float]:
        if len(edited) > KERNEL_LIMIT:
            return super().resampled(edited, reference)
        x, y = np.asarray(edited, np.float64), np.asarray(reference, np.float64)
        kxx, kxy = CMMD_SCALE * gaussian_kernel(x, x), CMMD_SCALE * gaussian_kernel(x, y)
        return resampled_mmd(kxx, kxy, unbiased=False)


class MiniClipCmmd(Cmmd):
    name = "mini_clip_cmmd"
    summary = "as cmmd, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True


def _chosen(marks: Sequence[Mark], n: int | None) -> list[int]:
    """Indices by content hash, the first ``n``: adding pictures does not reshuffle the rest."""
    return sorted(range(len(marks)), key=lambda index: marks[index].key)[:n]


def _content(rows: NDArray[np.float32]) -> str:
    from bench.files import sha256_bytes

    return sha256_bytes(np.ascontiguousarray(rows).data) + str(rows.shape)
