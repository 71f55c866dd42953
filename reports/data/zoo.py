"""Thresholds of the embedded checkpoints that a run decides: agreement of its CLIP with the ground truth, and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.thresholds import ThresholdCheck
from reports.data.scores import RunScores, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Smallest share of edits on which the embedded CLIP's success rule agrees with the ground truth's.
# Requirements of the project on its own checkpoints. No method that is compared must meet them.
LEAST_AGREEMENT = 0.92
# Largest mean time of an edit, in seconds.
MOST_SECONDS = 0.5
RULE, GROUND_TRUTH = "success_mini_clip", "success_truth"


def run_thresholds(folder: Path) -> list[ThresholdCheck]:
    """The requirements, from a scored run of the embedded benchmark. Without one they fail and name the remedy."""
    from bench.store import RunStore, StoreError

    try:
        scores = load(RunStore.open(folder))
        return [_agreement(scores), _cost(scores)]
    except (StoreError, ValueError) as error:
        reason = f"needs a scored run, and {folder} is none ({error}); `run_bench.py demo` makes it"
        return [
            ThresholdCheck("clip", None, LEAST_AGREEMENT, False, reason),
            ThresholdCheck("all", None, MOST_SECONDS, False, reason),
        ]


def _agreement(scores: RunScores) -> ThresholdCheck:
    """Raises ValueError where no edit has both verdicts."""
    agrees: list[NDArray[np.bool_]] = []
    is_control: list[NDArray[np.bool_]] = []
    for of_protocol in scores.protocols.values():
        rule, truth = of_protocol.metric(RULE), of_protocol.metric(GROUND_TRUTH)  # (U, M)
        judged = ~np.isnan(rule) & ~np.isnan(truth)
        agrees.append(((rule > 0.5) == (truth > 0.5))[judged])
        is_control.append(np.broadcast_to(np.array(of_protocol.controls, bool), rule.shape)[judged])
    # All protocols together, controls included: a rule that counts an unchanged image as a success is wrong too.
    same, controls = np.concatenate(agrees), np.concatenate(is_control)
    if not len(same):
        raise ValueError(f"no edit has both {RULE} and {GROUND_TRUTH}")
    # A mean over edits: a protocol with more cases counts more.
    figure = float(same.mean())
    detail = (
        f"edits of the demo on which its success rule agrees with the truth's, {len(same)} edits; "
        f"without the controls {same[~controls].mean():.3f} of {int((~controls).sum())}"
    )
    return ThresholdCheck("clip", figure, LEAST_AGREEMENT, figure >= LEAST_AGREEMENT, detail)


def _cost(scores: RunScores) -> ThresholdCheck:
    """Raises ValueError where no edit has a time."""
    # Mean over the edits of all protocols, method by method.
    seconds: dict[str, list[float]] = {}
    for name, of_protocol in scores.protocols.items():
        for title, column in zip(of_protocol.titles, scores.seconds[name].T, strict=True):
            seconds.setdefault(title, []).extend(column[~np.isnan(column)].tolist())
    means = {title: float(np.mean(of_method)) for title, of_method in seconds.items() if of_method}
    if not means:
        raise ValueError("no edit has a time")
    slowest = max(means, key=means.__getitem__)
    detail = f"at most: seconds per edit in the demo of the slowest method, {slowest}"
    return ThresholdCheck("all", means[slowest], MOST_SECONDS, means[slowest] <= MOST_SECONDS, detail)
