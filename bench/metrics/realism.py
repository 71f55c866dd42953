"""Realism: the distance between a set of edits and a set of real images, in a network's feature space.

==================  =======================================  ============================================
metric              network and features                     distance
==================  =======================================  ============================================
``fid``             FID's Inception, 2048, by clean-fid      Fréchet (Heusel et al. 2017, eq. 6)
``kid``             the same                                 unbiased MMD^2, cubic kernel
``cmmd``            OpenAI CLIP ViT-L/14 at 336 px           biased MMD^2, Gaussian kernel, times 1000
``vgg16_frechet``   VGG16 of LPIPS, 512, pooled              Fréchet (not FID and never called so)
``vgg16_kid``       the same                                 as kid
``mini_clip_cmmd``  the embedded CLIP                        as cmmd
==================  =======================================  ============================================

Images are resized as clean-fid does: Pillow's antialiased bicubic in floating point, nothing rounded in between. The
side is 299 for Inception. For VGG16 it is 224, or the image's own where that is smaller, because pixels made by
enlarging carry no information. CLIP's transform is open_clip's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from bench.files import sha256_bytes
from bench.metrics.distances import (
    CMMD_SCALE,
    FloatND,
    Gaussian,
    cmmd,
    frechet,
    gaussian_kernel,
    kid,
    polynomial_kernel,
)
from bench.metrics.jackknife import (
    FrechetWithout,
    KernelSums,
    LeaveOut,
    distance_interval,
    jackknife_variance,
    leave_out_groups,
    mean_kernels,
)
from bench.metrics.networks import lpips_weights
from bench.metrics.networks.weights import INCEPTION
from bench.metrics.options import LEAST_CLUSTERS, RealismOptions, versioned
from bench.metrics.streams import Fingerprint, fingerprints_of
from bench.metrics.types import RgbImage, SetMetric, SetValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

    Features2D = NDArray[np.float32]
    """Feature rows ``(N, D)``."""

T = TypeVar("T")

# Number of images per set below which a distance gets a warning.
SMALL_N = 2048
VGG16_SIDE = 224


class _Remembered(Generic[T]):
    """A function of the reference's rows that caches its last result, because all methods have one reference."""

    def __init__(self, compute: Callable[[Features2D], T]) -> None:
        self._compute = compute
        self._last: tuple[str, T] | None = None

    def __call__(self, reference: Features2D) -> T:
        # Hashing the rows costs far less than fitting them again.
        key = sha256_bytes(np.ascontiguousarray(reference).data) + str(reference.shape)
        if self._last is None or self._last[0] != key:
            self._last = key, self._compute(reference)
        return self._last[1]


class _Distance(SetMetric):
    """Common part: features, choice of images, interval, warnings. A subclass has the network and the distance."""

    version = "3"
    unit = "distance"
    higher_is_better = False
    uses_features = True
    composited = True

    def __init__(self, features: Features) -> None:
        self.features = features
        self.options: RealismOptions = features.options.realism
        # The network and all options are part of the version: another choice is another score.
        self.version = versioned(type(self).version, self._identity(), self.options)

    def _identity(self) -> str:
        """Identity of a network that the user can exchange. Empty for a network that the metric's name implies."""
        return ""

    def rows(self, images: Sequence[RgbImage]) -> Features2D:
        """Feature rows ``(N, D)`` float32 of images of one size."""
        raise NotImplementedError

    def space(self, size: tuple[int, int]) -> str:
        """Name under which features of images of ``(height, width)`` are cached."""
        raise NotImplementedError

    def distance(self, edited: Features2D, reference: Features2D) -> float:
        raise NotImplementedError

    def leave_out(self, edited: Features2D, reference: Features2D) -> tuple[LeaveOut, LeaveOut]:
        """The distance without some of the edited rows, and without some of the reference's."""
        raise NotImplementedError

    def variance_factors(self, n: int, m: int) -> tuple[float, float]:
        """Factors on the variances of n edited and m real rows, for the metric's own random choice among them."""
        return 1.0, 1.0

    def see(self, images: Sequence[RgbImage]) -> None:
        """Computes and caches the features of these images, so that they need not be decoded again."""
        if self.options.n is not None:
            return  # score_set uses only n images, and can choose them only after all were read
        # VGG16's side, and so the space in the cache, depends on the image's size.
        by_size: dict[tuple[int, int], list[RgbImage]] = defaultdict(list)
        for image in images:
            by_size[image.size].append(image)
        for same in by_size.values():
            self.rows(same)

    def score_set(
        self,
        edited: Collection[RgbImage],
        reference: Collection[RgbImage],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        """The distance of ``edited`` from ``reference``. See :class:`~bench.metrics.types.SetMetric`."""
        # Images in order of content, so that subsets and draws do not depend on the order given.
        names = list(clusters) if clusters is not None else [str(index) for index in range(len(edited))]
        before, after = fingerprints_of(reference), fingerprints_of(edited)
        chosen = _by_content(after, self.options.n)
        after, names = [after[i] for i in chosen], [names[i] for i in chosen]
        before = [before[i] for i in _by_content(before, self.options.n)]
        # A covariance, and an unbiased MMD, need two rows.
        if len(after) < 2 or len(before) < 2:
            reason = (
                f"too few images: {len(after)} edited and {len(before)} real; at least two of each are needed"
            )
            return SetValue(None, len(after), len(before), reason)
        # Features of different sizes come from different preprocessing and are not comparable.
        sizes = {one.size for one in (*after, *before)}
        if len(sizes) > 1:
            listed = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
            return SetValue(None, len(after), len(before), f"images of different sizes: {listed}")

        # Features and distance.
        # (n, D) and (m, D).
        space = self.space(after[0].size)
        x, y = (
            self.features.streamed(space, self.rows, images, [one.key for one in fingerprints])
            for images, fingerprints in ((edited, after), (reference, before))
        )
        value = self.distance(x, y)
        if not np.isfinite(value):
            return SetValue(None, len(x), len(y), f"not a finite number ({value})")

        low, high, problem = self.interval(value, x, y, names)
        warnings = [self._small_n_warning(len(x), len(y), x.shape[1]), problem]
        return SetValue(value, len(x), len(y), None, low, high, "; ".join(filter(None, warnings)) or None)

    def interval(
        self, value: float, edited: Features2D, reference: Features2D, clusters: Sequence[str]
    ) -> tuple[float | None, float | None, str | None]:
        """``(low, high, None)``, or ``(None, None, reason)``. All are None where no interval was requested."""
        limit, seed = self.options.groups, self.options.seed
        if not limit:
            return None, None, None
        sources = len(set(clusters))
        if min(sources, len(reference)) < LEAST_CLUSTERS:
            reason = (
                f"no interval: {sources} source and {len(reference)} real images, "
                f"at least {LEAST_CLUSTERS} of each are needed"
            )
            return None, None, reason
        # Every real image is a cluster of its own.
        groups = [
            leave_out_groups(names, limit, seed=seed)
            for names in (clusters, [str(index) for index in range(len(reference))])
        ]
        # Variance that each set adds, with groups - 1 degrees of freedom.
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

    def _small_n_warning(self, n: int, m: int, dimensions: int) -> str | None:
        """Warning for a small n, on which Fréchet and similar distances depend (Chong and Forsyth 2020)."""
        # The smaller side decides. A covariance of D dimensions needs well over D rows.
        least = min(n, m)
        if least >= max(SMALL_N, 2 * dimensions):
            return None
        text = f"small n: {n} edited, {m} real"
        if least < 2 * dimensions:
            text += f", {dimensions} dimensions"
        return text + "; compare only with values of the same n"


def _by_content(fingerprints: Sequence[Fingerprint], n: int | None) -> list[int]:
    """Indices in order of content hash, the first ``n``. Additional images do not reshuffle the others."""
    return sorted(range(len(fingerprints)), key=lambda index: fingerprints[index].key)[:n]


# -- distances ----------------------------------------------------------------------------------


class _Frechet(_Distance):
    unit = "squared distance"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._gaussian = _Remembered(Gaussian.of_rows)

    def distance(self, edited: Features2D, reference: Features2D) -> float:
        # The reference's Gaussian is fitted once for all methods and categories.
        return frechet(Gaussian.of_rows(edited), self._gaussian(reference))

    def leave_out(self, edited: Features2D, reference: Features2D) -> tuple[LeaveOut, LeaveOut]:
        return (
            FrechetWithout(edited, self._gaussian(reference)),
            FrechetWithout(reference, Gaussian.of_rows(edited)),
        )


class _Mmd(_Distance):
    unbiased = False

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._reference_sums = _Remembered(partial(KernelSums.of_rows, self.kernel))

    def kernel(self, x: FloatND, y: FloatND) -> FloatND:
        """``(N, M)`` of ``(N, D)`` and ``(M, D)``, in the metric's unit."""
        raise NotImplementedError

    def leave_out(self, edited: Features2D, reference: Features2D) -> tuple[LeaveOut, LeaveOut]:
        x, y = KernelSums.of_rows(self.kernel, edited), self._reference_sums(reference)
        # One pass over the (n, m) kernel serves both sides.
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

    def distance(self, edited: Features2D, reference: Features2D) -> float:
        options = self.options
        return kid(
            edited,
            reference,
            subsets=options.kid_subsets,
            subset_size=options.kid_subset_size,
            seed=options.seed,
        )

    def variance_factors(self, n: int, m: int) -> tuple[float, float]:
        # A subset of s of n rows scatters about the mean over all pairs by n / s - 1 times the variance of all n.
        # The mean over the subsets scatters by that, divided by their number.
        # 1 where the subsets are whole sets, because then nothing is random.
        size, subsets = min(n, m, self.options.kid_subset_size), self.options.kid_subsets
        return 1 + (n / size - 1) / subsets, 1 + (m / size - 1) / subsets


# -- networks -----------------------------------------------------------------------------------


class _Inception(_Distance):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        problem = INCEPTION.problem()
        return [] if problem is None else [problem]

    def rows(self, images: Sequence[RgbImage]) -> Features2D:
        return self.features.inception_features(images)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.inception_space()


class _Vgg16(_Distance):
    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return lpips_weights.problems("vgg")

    def rows(self, images: Sequence[RgbImage]) -> Features2D:
        # Never enlarged: interpolated pixels carry no information.
        return self.features.vgg16(images, min(VGG16_SIDE, *images[0].size))

    def space(self, size: tuple[int, int]) -> str:
        return self.features.vgg16_space(min(VGG16_SIDE, *size))


# -- metrics ------------------------------------------------------------------------------------


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
    """Slot of the CLIP in :class:`~bench.metrics.features.Features` that encodes the images."""

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)

    def _identity(self) -> str:
        return self.features.clip_spec(self.slot).identity

    def rows(self, images: Sequence[RgbImage]) -> Features2D:
        return self.features.clip_images(self.slot, images)

    def space(self, size: tuple[int, int]) -> str:
        return self.features.clip_space(self.slot)

    def distance(self, edited: Features2D, reference: Features2D) -> float:
        return cmmd(edited, reference)

    def kernel(self, x: FloatND, y: FloatND) -> FloatND:
        return CMMD_SCALE * gaussian_kernel(x, y)


class MiniClipCmmd(Cmmd):
    name = "mini_clip_cmmd"
    heading = "mini CLIP CMMD"
    summary = "as cmmd, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True
    checkpoint = "clip"
