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

Intervals come from a jackknife: source images with their edits are left out in turn, group by group, and so are
the real images; the variances of the two add up. :func:`distance_interval` says what the interval is about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from bench.metrics.networks import lpips_weights
from bench.metrics.networks.weights import INCEPTION
from bench.metrics.options import LEAST_CLUSTERS, RealismOptions, versioned
from bench.metrics.streams import Fingerprint, fingerprints_of
from bench.metrics.types import MetricError, RgbImage, SetMetric, SetValue

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


LeaveOut = Callable[["NDArray[np.intp]"], float]
"""A distance, up to a constant, without the rows at these indices."""


def leave_out_groups(clusters: Sequence[str], limit: int, *, seed: int = 0) -> list[NDArray[np.intp]]:
    """Indices of the rows in at most ``limit`` groups of whole clusters, of sizes as equal as may be.

    ``clusters`` names the cluster of each row. Which clusters share a group is drawn at random, from ``seed``.
    """
    _, owner, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    # The same number of clusters in each: 33 clusters under a limit of 32 make 17 groups, not 31 of 1 and 1 of 2.
    per_group = -(-len(sizes) // limit)
    count = -(-len(sizes) // per_group)
    group = np.empty(len(sizes), dtype=np.intp)
    group[order] = np.arange(len(sizes)) % count
    return [np.flatnonzero(group[owner] == index) for index in range(count)]


def jackknife_variance(without: LeaveOut, groups: Sequence[NDArray[np.intp]]) -> float:
    """Variance of a distance, by leaving out one group of rows at a time (Kott 2001, delete-a-group jackknife).

    No row is ever repeated: a bootstrap's repeats move a distance between distributions and its scatter too.
    A biased distance rises as rows are left out. That rise, in proportion to the rows that are left, is no
    scatter, and is taken off first; for groups of equal size it is the mean.

    The jackknife overstates the variance of what is not linear in the rows (Efron and Stein 1981): at small n,
    and between nearly equal distributions. ``tests/perf/set_intervals.py`` prints by how much.
    """
    n, count = sum(len(group) for group in groups), len(groups)
    whole = without(np.zeros(0, dtype=np.intp))
    change = np.array([without(group) - whole for group in groups])
    share = np.array([len(group) / (n - len(group)) for group in groups])
    scatter = change - share * (change.sum() / share.sum())
    return float((count - 1) / count * (scatter @ scatter))


def distance_interval(value: float, variances: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """95 % interval of a distance: ``value`` +- Student's t times its standard error, clipped at 0.

    ``variances``: what each of the independent sets adds to the variance, and the degrees of freedom of that
    estimate. The degrees of the sum are Welch and Satterthwaite's.

    The interval is about the expected value at this n, not at infinitely many images: a Fréchet distance and
    a biased MMD^2 fall as n rises, which no interval shows. Compare rows of the same n.

    A distance is never negative, so no end of the interval is. The exception is an unbiased estimate of an
    MMD^2 that is negative itself: then ``low`` is that value, and ``high`` is at least 0.
    """
    from scipy.special import stdtrit

    total = sum(variance for variance, _ in variances)
    half = 0.0
    if total > 0:
        degrees = total**2 / sum(variance**2 / free for variance, free in variances)
        half = float(stdtrit(degrees, 0.975) * np.sqrt(total))
    return max(value - half, min(value, 0.0)), max(value + half, 0.0)


class FrechetWithout:
    """Fréchet distances of some rows from one Gaussian when a few of the rows are left out.

    All that a distance needs of the rows is their sums and their products with the other side, which are
    formed once; each distance then costs the eigenvalues of one small matrix.
    """

    def __init__(self, rows: Rows, other: Gaussian) -> None:
        """``rows``: ``(N, D)``; at least two must be left each time."""
        x = np.asarray(rows, dtype=np.float64)
        mean = x.mean(axis=0)
        # Centred: what is subtracted later does not cancel.
        self.rows = x - mean
        self.other = other
        self.step = mean - other.mean
        self.squares = np.square(self.rows).sum(axis=1)
        self.cross = self.rows @ other.factor.T
        """``(N, R)``: X G.T of :func:`frechet`."""
        self.few = len(x) <= self.cross.shape[1]
        self.products = self.cross @ self.cross.T if self.few else self.cross.T @ self.cross
        """Of the smaller side, ``(N, N)`` or ``(R, R)``: the same eigenvalues but for zeros."""

    def __call__(self, left_out: NDArray[np.intp]) -> float:
        n = len(self.rows) - len(left_out)
        mean = -self.rows[left_out].sum(axis=0) / n
        trace = (self.squares.sum() - self.squares[left_out].sum() - n * (mean @ mean)) / (n - 1)
        if self.few:
            rest = np.delete(np.arange(len(self.rows)), left_out)
            product = self.products[np.ix_(rest, rest)]
            towards = product.mean(axis=0)
            product = product - towards[:, None] - towards + towards.mean()
        else:
            gone = self.cross[left_out]
            total = gone.sum(axis=0)  # minus the sum of the rest, for all of them sum to 0
            product = self.products - gone.T @ gone - np.outer(total, total) / n
        # Singular values of F G.T are the roots of the eigenvalues of its product with itself.
        singular = np.sqrt(np.linalg.eigvalsh(product / (n - 1)).clip(0)).sum()
        step = self.step + mean
        return float(max(0.0, step @ step + trace + self.other.trace - 2 * singular))


Kernel = Callable[["FloatND", "FloatND"], "FloatND"]
"""``(N, D)`` and ``(M, D)`` to ``(N, M)``."""


@dataclass(frozen=True, eq=False)
class KernelSums:
    """A kernel between the rows of one set, summed, so that the sums without some rows are soon had."""

    kernel: Kernel
    rows: FloatND
    """``(N, D)``"""
    sums: FloatND
    """``(N,)``: of each row with every row, itself included."""
    own: FloatND
    """``(N,)``: of each row with itself."""

    @classmethod
    def of_rows(cls, kernel: Kernel, rows: Rows) -> KernelSums:
        x = np.asarray(rows, dtype=np.float64)
        sums, own = np.empty(len(x)), np.empty(len(x))
        for block in _blocks(len(x)):
            part = kernel(x[block], x)
            sums[block] = part.sum(axis=1)
            own[block] = np.diagonal(part[:, block])
        return cls(kernel, x, sums, own)

    def mmd2_without(self, towards: FloatND, *, unbiased: bool) -> LeaveOut:
        """The squared MMD without some rows, less what the other set alone adds.

        ``towards``: ``(N,)``, the mean kernel of each row with the other set. Unbiased, no row is paired with
        itself.
        """

        def distance(left_out: NDArray[np.intp]) -> float:
            n = len(self.rows) - len(left_out)
            gone = self.rows[left_out]
            within = self.sums.sum() - 2 * self.sums[left_out].sum() + self.kernel(gone, gone).sum()
            pairs = n * n
            if unbiased:
                within -= self.own.sum() - self.own[left_out].sum()
                pairs -= n
            return float(within / pairs - 2 * (towards.sum() - towards[left_out].sum()) / n)

        return distance


def mean_kernels(kernel: Kernel, x: FloatND, y: FloatND) -> tuple[FloatND, FloatND]:
    """``(N,)`` and ``(M,)``: the mean kernel of each row of either set with the other set."""
    of_x, of_y = np.empty(len(x)), np.zeros(len(y))
    for block in _blocks(len(x)):
        part = kernel(x[block], y)
        of_x[block] = part.mean(axis=1)
        of_y += part.sum(axis=0)
    return of_x, of_y / len(x)


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


T = TypeVar("T")


class _Remembered(Generic[T]):
    """A function of the reference's rows that keeps its last result: one reference serves every method."""

    def __init__(self, compute: Callable[[NDArray[np.float32]], T]) -> None:
        self._compute = compute
        self._last: tuple[str, T] | None = None

    def __call__(self, reference: NDArray[np.float32]) -> T:
        key = _content(reference)
        if self._last is None or self._last[0] != key:
            self._last = key, self._compute(reference)
        return self._last[1]


class _SetMetric(SetMetric):
    name = ""
    version = "3"
    unit = "distance"
    higher_is_better = False
    summary = ""
    uses_features = True
    composited = True

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

    def rows(self, pictures: Sequence[RgbImage]) -> NDArray[np.float32]:
        """Feature rows ``float32`` ``(N, D)``."""
        raise NotImplementedError

    def space(self, size: tuple[int, int]) -> str:
        """The name under which the features of pictures of ``(height, width)`` are kept."""
        raise NotImplementedError

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        raise NotImplementedError

    def leave_out(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> tuple[LeaveOut, LeaveOut]:
        """The distance without some of the edited rows, and without some of the reference's."""
        raise NotImplementedError

    def variance_factors(self, n: int, m: int) -> tuple[float, float]:
        """By how much the metric's own random choice among n edited and m real rows multiplies the variance."""
        return 1.0, 1.0

    def see(self, pictures: Sequence[RgbImage]) -> None:
        """Keeps the features of these pictures, which then need not be decoded again."""
        if self.options.n is not None:
            return  # few of many may be wanted; which, is known when all have been seen
        by_size: dict[tuple[int, int], list[RgbImage]] = defaultdict(list)
        for picture in pictures:
            by_size[picture.size].append(picture)
        for same in by_size.values():
            self.rows(same)

    def score_set(
        self,
        edited: Collection[RgbImage],
        reference: Collection[RgbImage],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        """The distance of ``edited`` from ``reference``; see :class:`~bench.metrics.types.SetMetric`."""
        names = list(clusters) if clusters is not None else [str(index) for index in range(len(edited))]
        # In order of content, so that subsets and draws do not depend on the order given.
        before, after = fingerprints_of(reference), fingerprints_of(edited)
        kept = _chosen(after, self.options.n)
        after, names = [after[i] for i in kept], [names[i] for i in kept]
        before = [before[i] for i in _chosen(before, self.options.n)]
        if len(after) < 2 or len(before) < 2:
            reason = (
                f"too few images: {len(after)} edited and {len(before)} real; at least two of each are needed"
            )
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
        low, high, problem = self.interval(value, x, y, names)
        warnings = [self._warning(len(x), len(y), x.shape[1]), problem]
        return SetValue(value, len(x), len(y), None, low, high, "; ".join(filter(None, warnings)) or None)

    def interval(
        self,
        value: float,
        edited: NDArray[np.float32],
        reference: NDArray[np.float32],
        clusters: Sequence[str],
    ) -> tuple[float | None, float | None, str | None]:
        """Low and high end, or None and why there is no interval (None too where none was asked for)."""
        limit, seed = self.options.groups, self.options.seed
        if not limit:
            return None, None, None
        sources = len(set(clusters))
        if min(sources, len(reference)) < LEAST_CLUSTERS:
            return (
                None,
                None,
                f"no interval: {sources} source and {len(reference)} real images, "
                f"at least {LEAST_CLUSTERS} of each are needed",
            )
        groups = [
            leave_out_groups(names, limit, seed=seed)
            for names in (clusters, [str(index) for index in range(len(reference))])
        ]
        variances = [
            (factor * jackknife_variance(without, of_set), len(of_set) - 1)
            for without, of_set, factor in zip(
                self.leave_out(edited, reference),
                groups,
                self.variance_factors(len(edited), len(reference)),
                strict=True,
            )
        ]
        low, high = distance_interval(value, variances)
        return low, high, None

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
        self._gaussian = _Remembered(Gaussian.of_rows)

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return frechet(Gaussian.of_rows(edited), self._gaussian(reference))

    def leave_out(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> tuple[LeaveOut, LeaveOut]:
        return (
            FrechetWithout(edited, self._gaussian(reference)),
            FrechetWithout(reference, Gaussian.of_rows(edited)),
        )


class _Mmd(_SetMetric):
    unbiased = False

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._reference_sums = _Remembered(partial(KernelSums.of_rows, self.kernel))

    def kernel(self, x: FloatND, y: FloatND) -> FloatND:
        """``(N, M)`` of ``(N, D)`` and ``(M, D)``, in the metric's unit."""
        raise NotImplementedError

    def leave_out(
        self, edited: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> tuple[LeaveOut, LeaveOut]:
        x, y = KernelSums.of_rows(self.kernel, edited), self._reference_sums(reference)
        to_reference, to_edited = mean_kernels(self.kernel, x.rows, y.rows)
        return (
            x.mmd2_without(to_reference, unbiased=self.unbiased),
            y.mmd2_without(to_edited, unbiased=self.unbiased),
        )


class _Kid(_Mmd):
    unit = "MMD^2"
    unbiased = True

    def kernel(self, x: FloatND, y: FloatND) -> FloatND:
        return polynomial_kernel(x, y)

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        options = self.options
        return kid(
            edited,
            reference,
            subsets=options.kid_subsets,
            subset_size=options.kid_subset_size,
            seed=options.seed,
        )

    def variance_factors(self, n: int, m: int) -> tuple[float, float]:
        # A subset of s of n rows scatters by n / s - 1 times the variance of all n about the mean over all
        # pairs; the mean over the subsets by that, divided by their number.
        size, subsets = min(n, m, self.options.kid_subset_size), self.options.kid_subsets
        return 1 + (n / size - 1) / subsets, 1 + (m / size - 1) / subsets


class _Inception(_SetMetric):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        problem = INCEPTION.problem()
        return [] if problem is None else [f"FID's Inception: {problem}"]

    def rows(self, pictures: Sequence[RgbImage]) -> NDArray[np.float32]:
        return self.features.inception_features(pictures)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.inception_space()


class _Vgg16(_SetMetric):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return lpips_weights.problems("vgg")

    def rows(self, pictures: Sequence[RgbImage]) -> NDArray[np.float32]:
        return self.features.vgg16(pictures, min(VGG16_SIDE, *pictures[0].size))

    def space(self, size: tuple[int, int]) -> str:
        return self.features.vgg16_space(min(VGG16_SIDE, *size))


class Fid(_Inception, _Frechet):
    name = "fid"
    heading = "FID"
    summary = "Fréchet inception distance to real images, by clean-fid's preprocessing"


class Kid(_Inception, _Kid):
    name = "kid"
    heading = "KID"
    summary = "kernel inception distance to real images (unbiased; better than FID at small n)"


class Vgg16Frechet(_Vgg16, _Frechet):
    name = "vgg16_frechet"
    heading = "VGG16 Fréchet"
    summary = "Fréchet distance to real images over VGG16's features (ImageNet weights; not FID)"


class Vgg16Kid(_Vgg16, _Kid):
    name = "vgg16_kid"
    heading = "VGG16 KID"
    summary = "kernel distance to real images over VGG16's features (ImageNet weights; not KID)"


class Cmmd(_Mmd):
    name = "cmmd"
    heading = "CMMD"
    unit = "1000 * MMD^2"
    summary = "CLIP maximum mean discrepancy to real images (ViT-L/14 at 336 px)"
    slot = "cmmd_clip"
    embedded = False

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)

    def _identity(self) -> str:
        return self.features.clip_spec(self.slot).identity

    def rows(self, pictures: Sequence[RgbImage]) -> NDArray[np.float32]:
        return self.features.clip_images(self.slot, pictures)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.clip_space(self.slot)

    def distance(self, edited: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return cmmd(edited, reference)

    def kernel(self, x: FloatND, y: FloatND) -> FloatND:
        return CMMD_SCALE * gaussian_kernel(x, y)


class MiniClipCmmd(Cmmd):
    name = "mini_clip_cmmd"
    heading = "mini CLIP CMMD"
    summary = "as cmmd, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True


def _chosen(marks: Sequence[Fingerprint], n: int | None) -> list[int]:
    """Indices by content hash, the first ``n``: adding pictures does not reshuffle the rest."""
    return sorted(range(len(marks)), key=lambda index: marks[index].key)[:n]


def _content(rows: NDArray[np.float32]) -> str:
    from bench.files import sha256_bytes

    return sha256_bytes(np.ascontiguousarray(rows).data) + str(rows.shape)
