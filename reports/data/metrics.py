"""Metrics in reports: headings, order, units, direction.

A metric of a composited edit (its kept part pasted back from the source) has the name of the plain metric with the
suffix ``_pasted``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from bench.metrics.types import COMPOSITED_SUFFIX, LABEL, OUTCOME, MetricInfo, raw_name
from reports.data.scores import PEAK_MEMORY, SECONDS

# Metric -> heading of its column, in the order of the detail tables. Other metrics are called by their own
# name.
HEADINGS: Mapping[str, str] = {
    "success_truth": "success (truth)",
    "success_clip": "success (CLIP)",
    "success_mini_clip": "success (mini CLIP)",
    "leak_lpips": "leak LPIPS",
    "leak_lpips_undiluted": "leak LPIPS, undiluted",
    "leak_lpips_vgg": "leak LPIPS-VGG",
    "leak_psnr": "leak PSNR",
    "leak_ssim": "leak SSIM",
    "leak_mse": "leak MSE",
    "leak_changed": "leak changed",
    "leak_area": "leak area",
    "drift_px": "drift px",
    "drift_zoom": "drift zoom %",
    "leak_lpips_aligned": "leak LPIPS, aligned",
    "leak_psnr_aligned": "leak PSNR, aligned",
    "leak_ssim_aligned": "leak SSIM, aligned",
    "leak_lpips_edge": "LPIPS at edge",
    "leak_lpips_near": "LPIPS near",
    "leak_lpips_mid": "LPIPS mid",
    "leak_lpips_far": "LPIPS far",
    "clip_target": "CLIP target",
    "clip_region": "CLIP region",
    "clip_directional": "CLIP direction",
    "mini_clip_target": "mini CLIP target",
    "mini_clip_region": "mini CLIP region",
    "mini_clip_directional": "mini CLIP direction",
    "hps_v21": "HPS v2.1",
    "pick_score": "PickScore",
    "image_reward": "ImageReward",
    "laion_aesthetic": "LAION aesthetic",
    "vqa_score_instructblip": "VQAScore (InstructBLIP)",
    "face_identity": "ArcFace identity",
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
    "vgg16_frechet": "VGG16 Fréchet",
    "vgg16_kid": "VGG16 KID",
    "mini_clip_cmmd": "mini CLIP CMMD",
    "judge_truth": "judge (truth)",
    "judge_clip": "judge (CLIP)",
    "judge_mini_clip": "judge (mini CLIP)",
    "edit_change": "change inside",
    "edit_area": "area inside",
    "truth_lpips": "LPIPS to reference",
    "truth_rmse": "RMSE to reference",
    "truth_ssim": "SSIM to reference",
    "truth_clip_i": "CLIP-I to reference",
    "truth_dino_i": "DINO-I to reference",
    "truth_dreamsim": "DreamSim to reference",
    "dreamsim": "DreamSim",
    "dino_structure": "DINO structure",
    SECONDS: "s / edit",
    PEAK_MEMORY: "memory GiB",
    "preference": "preferred",
    "preference_votes": "votes",
    "simulated_preference": "preferred (SIMULATED RATERS)",
    "simulated_preference_votes": "votes (SIMULATED RATERS)",
}

# Columns of the main table, in order, as far as the run has them.
MAIN_METRICS: tuple[str, ...] = (
    "success_truth",
    "success_clip",
    "success_mini_clip",
    "leak_lpips",
    "leak_psnr",
    "leak_area",
    "clip_target",
    "clip_region",
    "clip_directional",
    "mini_clip_target",
    "mini_clip_region",
    "mini_clip_directional",
    "fid",
    "vgg16_frechet",
    "kid",
    "vgg16_kid",
    "cmmd",
    "mini_clip_cmmd",
)

# Families of metrics, the preferred one first. A protocol shows the first that it has.
SUCCESS = ("success_truth", "success_clip", "success_mini_clip")
FRECHET = ("fid", "vgg16_frechet")

# Columns of a narrow terminal: of each family the first metric that the table has.
TERMINAL_METRICS: tuple[tuple[str, ...], ...] = (
    SUCCESS,
    ("leak_lpips",),
    ("leak_psnr",),
    ("clip_target", "mini_clip_target"),
    FRECHET,
)


def _own(name: str, unit: str, higher_is_better: bool, summary: str) -> MetricInfo:
    return MetricInfo(name, "1", unit, higher_is_better, summary)


# Values that the reports compute themselves: cost and votes.
OWN_METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        _own(SECONDS, "s", False, "mean wall time of an edit, in the batches that it was made in"),
        _own(PEAK_MEMORY, "GiB", False, "largest memory use of the accelerator, where it is recorded"),
        _own(
            "preference",
            "share",
            True,
            "share of an edit's comparisons that people decided for it, ties half",
        ),
        _own("preference_votes", "share", True, "share of all votes that a method got, a tie half for each"),
        _own("simulated_preference", "share", True, "as preference, of simulated raters, not people"),
        _own(
            "simulated_preference_votes",
            "share",
            True,
            "as preference_votes, of simulated raters, not people",
        ),
    )
}


# Units that state their range in words.
_RANGES: Mapping[str, tuple[float, float]] = {
    "share": (0, 1),
    "cosine": (-1, 1),
    "100 * cosine": (-100, 100),
}


def is_composited(metric: str) -> bool:
    return metric.endswith(COMPOSITED_SUFFIX)


def is_success(metric: str) -> bool:
    """True for a success metric of any judge. A plug-in's counts too if its name begins with ``success_``."""
    # Stored scores have names only, so this is the one place that reads the prefix.
    return metric.startswith("success_")


def heading(metric: str) -> str:
    """Heading of a column of the metric, without a mark for composited edits."""
    name, label = raw_name(metric), metric.partition(LABEL)[2]
    return HEADINGS.get(name, name) + (f" ({label})" if label else "")


def full_heading(metric: str) -> str:
    """Heading of a column that may stand beside one of the plain metric."""
    return heading(metric) + (", composited" if is_composited(metric) else "")


def display_order(metric: str) -> tuple[int, bool, str]:
    """Sort key: the order of ``HEADINGS``, composited after plain, unknown metrics last."""
    # False sorts before True, so the composited form follows the plain one.
    names = list(HEADINGS)
    base = raw_name(metric)
    return (names.index(base) if base in HEADINGS else len(names), is_composited(metric), metric)


def metric_info(metric: str, metrics: Mapping[str, MetricInfo]) -> MetricInfo | None:
    """Declaration of a metric. A metric of composited edits has the declaration of the plain metric."""
    return metrics.get(metric) or metrics.get(raw_name(metric)) or OWN_METRICS.get(metric)


def outcomes(names: Iterable[str], metrics: Mapping[str, MetricInfo]) -> frozenset[str]:
    """Names of metrics that declare the unit ``0/1``: their mean is a share of edits."""
    infos = ((name, metric_info(name, metrics)) for name in names)
    return frozenset(name for name, info in infos if info is not None and info.unit == OUTCOME)


def value_range(metric: str, metrics: Mapping[str, MetricInfo]) -> tuple[float, float]:
    """Least and largest value of a metric, as its unit (``-1..1``, ``share``) states. Infinite where it states none."""
    info = metric_info(metric, metrics)
    unit = "" if info is None else info.unit
    if ends := re.match(r"(-?\d+)\.\.(\d+)", unit):
        return float(ends[1]), float(ends[2])
    return _RANGES.get(unit, (-math.inf, math.inf))


def directions(names: Iterable[str], metrics: Mapping[str, MetricInfo]) -> dict[str, bool]:
    """Metric -> True where higher is better, for metrics that declare a direction."""
    infos = ((name, metric_info(name, metrics)) for name in names)
    return {
        name: info.higher_is_better
        for name, info in infos
        if info is not None and info.higher_is_better is not None
    }


def is_set_distance(metric: str) -> bool:
    """True where the metric has one value per set of edits (Fréchet distance, KID, CMMD)."""
    # Names of such metrics end with the distance: `vgg16_kid`, `mini_clip_cmmd`.
    return raw_name(metric).endswith(("fid", "frechet", "kid", "cmmd"))


def is_frechet(metric: str) -> bool:
    return raw_name(metric).endswith(("fid", "frechet"))
