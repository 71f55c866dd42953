"""Options of metrics. An option that differs from its default changes the metric's version."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bench.edit import stable_digest
from bench.metrics.types import MetricError


@dataclass(frozen=True)
class LeakageOptions:
    """Bands around the mask and what counts as changed. Lengths are shares of the image's shorter side."""

    edge: float = 1 / 64
    """Width of the band at the mask's edge that is left out of every leak_* but leak_lpips_edge, at least one
    pixel. 1/64 of 512 px is 8 px: one cell of the latents of an f8 autoencoder."""
    near: float = 1 / 16
    """leak_lpips_near covers the distances from the edge band to here."""
    mid: float = 1 / 4
    """leak_lpips_mid covers the distances from near to here, leak_lpips_far those beyond."""
    visible: float = 8 / 255
    """A pixel has visibly changed where some channel, in [0, 1], differs by more than this."""
    tile: float = 1 / 12
    """Side of the square around a pixel over which leak_area and edit_area take the mean, at least one pixel."""
    repainted: float = 0.15
    """A pixel was repainted where this mean differs by more than this in some channel, in [0, 1]."""

    def __post_init__(self) -> None:
        # Each band begins where the one before ends.
        if not 0 <= self.edge <= self.near <= self.mid <= 1:
            raise MetricError("leakage: edge, near and mid must rise, within 0 and 1.")
        if not 0 <= self.visible < 1:
            raise MetricError("leakage: visible is a difference of values in [0, 1].")
        if not 0 < self.tile <= 1 or not 0 <= self.repainted < 1:
            raise MetricError(
                "leakage: tile is a share of the side, repainted a difference of values in [0, 1]."
            )


@dataclass(frozen=True)
class SuccessRule:
    """Defines when an edit succeeds. No other code does. All three conditions must hold.

    1. **The judge says yes.** ``truth``: for every expected attribute change of the case, the attribute classifier's
       most probable value is the expected one, and it is more probable than the one before (where the case names
       that). ``clip``: the edited image is closer to the target prompt than to the source prompt by more than
       ``clip_margin`` (cosine), and every region's crop is closer to the region's prompt after the edit than
       before by more than ``region_margin``, or ``mini_region_margin`` for the embedded CLIP.
    2. **It changed.** More than ``min_edit_area`` of the area inside the mask was repainted (``edit_area``).
    3. **It stayed inside.** At most ``max_leak_area`` of the area outside was repainted (``leak_area``), and the
       PSNR outside is at least ``min_leak_psnr`` (``leak_psnr``). An edit without a valid outside (the mask
       covers everything but its edge) passes, because there is nothing to leak into.

    A pixel counts as repainted where the mean colour of the square around it, 1/12 of the shorter side wide, differs
    from the source by more than 15 % of the range in some channel. Conditions 2 and 3 depend on neither the size of
    the mask nor that of the image. ``tests/perf/leak_rule.py`` prints which damage they let through.
    """

    min_edit_area: float = 0.05
    """In 400 held-out cases, every ideal edit but one repaints more than this. JPEG at quality 75 and a round trip
    through the embedded autoencoder never do."""
    max_leak_area: float = 0.02
    """An object that disappears counts as leakage where it covers more than this."""
    min_leak_psnr: float = 20.0
    """In dB. It detects noise and blur, which repaint nothing. The autoencoder's round trip has a higher PSNR in all of
    400 held-out cases, JPEG at quality 75 in 398."""
    clip_margin: float = 0.0
    region_margin: float = 0.0
    """Not calibrated: calibration needs edits of known success and a published CLIP. At 0, a region passes if it comes
    closer to its prompt by any amount. So ``success_clip`` is lenient: state the margin beside its values."""
    mini_region_margin: float = 0.08
    """The largest margin at which the embedded CLIP accepts all of 600 held-out ideal edits
    (``methods/zoo/TRAINING.md``). It is above 0 because even a failed edit comes slightly closer to the prompt."""

    def holds(self, judged: bool, edit_area: float, leak_area: float | None, leak_psnr: float | None) -> bool:
        """True where the edit succeeds. ``leak_area`` and ``leak_psnr`` are None without a valid outside."""
        # Condition 3. The two bounds catch different damage: repainted objects, and noise or blur.
        inside = (leak_area is None or leak_area <= self.max_leak_area) and (
            leak_psnr is None or leak_psnr >= self.min_leak_psnr
        )
        # Conditions 1 and 2.
        return judged and edit_area > self.min_edit_area and inside


# Least number of source images, and of real ones, for the interval of a distance between sets. In a simulation, the
# interval of a Fréchet distance contained the expected value in 94 % of the samples with 4 source images, in 92 % with
# 3 and in 88 % with 2.
LEAST_CLUSTERS = 4


@dataclass(frozen=True)
class RealismOptions:
    """Numbers of images, subsets and groups for distances of sets."""

    n: int | None = None
    """Compare this many edited images (those of the smallest content hash) and as many real ones, so that
    methods are compared at one n. None takes all."""
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    groups: int = 32
    """Largest number of groups for the interval. Source images with their edits, and real images, are left out group
    by group. 0 reports no interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 2:
            raise MetricError("realism: n must be at least 2.")
        if self.kid_subsets < 1 or self.kid_subset_size < 2:
            raise MetricError("realism: kid_subsets must be at least 1 and kid_subset_size at least 2.")
        # An interval from fewer groups contains the expected value too rarely (see LEAST_CLUSTERS).
        if self.groups and self.groups < LEAST_CLUSTERS:
            raise MetricError(f"realism: groups must be at least {LEAST_CLUSTERS}, or 0 for no interval.")


@dataclass(frozen=True)
class AlignmentOptions:
    """Crops of regions."""

    margin: float = 0.1
    """Added to each side of a region's bounding box, as a share of its longer side."""

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise MetricError("alignment: margin must not be negative.")


@dataclass(frozen=True)
class MetricOptions:
    """All options of metrics."""

    leakage: LeakageOptions = field(default_factory=LeakageOptions)
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    realism: RealismOptions = field(default_factory=RealismOptions)
    success: SuccessRule = field(default_factory=SuccessRule)


def versioned(version: str, *choices: Any) -> str:
    """``version``, followed by a digest of what differs from the defaults among ``choices``.

    A choice is an options dataclass, or the identity of a network (a string, empty for none).
    """
    # Default options are not part of the digest, so that versions stay the same when an option is added.
    parts: list[Any] = []
    for choice in choices:
        if isinstance(choice, str):
            parts.extend([choice] if choice else [])
        elif choice != type(choice)():
            parts.append(dataclasses.asdict(choice))
    return f"{version}-{stable_digest(parts)[:8]}" if parts else version
