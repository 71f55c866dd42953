"""The embedded checkpoints' gates that a run decides: its CLIP's verdicts against the truth, and its edits' cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reports.data.scores import RunScores, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

AGREEMENT = 0.92
"""Least share of the run's edits on which the embedded CLIP's success rule and the truth's say the same."""
SECONDS = 0.5
"""Most seconds per edit."""
RULE, TRUTH = "success_mini_clip", "success_truth"


@dataclass(frozen=True)
class RunGate:
    """One requirement, with the fields of ``methods.zoo.thresholds.Gate``. ``figure`` is None where there is no run."""

    name: str
    figure: float | None
    threshold: float
    passed: bool
    detail: str


def run_gates(folder: Path) -> list[RunGate]:
    """The gates, from a scored run of the embedded benchmark; not passed, with the remedy, where there is none."""
    from bench.store import RunStore, StoreError

    try:
        scores = load(RunStore.open(folder))
        return [_agreement(scores), _cost(scores)]
    except (StoreError, ValueError) as error:
        why = f"needs a scored run, and {folder} is none ({error}); `run_bench.py demo` makes it"
        return [
            RunGate("clip", None, AGREEMENT, False, why),
            RunGate("all", None, SECONDS, False, why),
        ]


def _agreement(scores: RunScores) -> RunGate:
    said: list[NDArray[np.bool_]] = []
    of_controls: list[NDArray[np.bool_]] = []
    for of_protocol in scores.protocols.values():
        rule, truth = of_protocol.metric(RULE), of_protocol.metric(TRUTH)
        there = ~np.isnan(rule) & ~np.isnan(truth)
        said.append(((rule > 0.5) == (truth > 0.5))[there])
        of_controls.append(np.broadcast_to(np.array(of_protocol.controls, bool), rule.shape)[there])
    same, controls = np.concatenate(said), np.concatenate(of_controls)
    if not len(same):
        raise ValueError(f"no edit has both {RULE} and {TRUTH}")
    figure = float(same.mean())
    detail = (
        f"edits of the demo on which its success rule agrees with the truth's, {len(same)} edits; "
        f"without the controls {same[~controls].mean():.3f} of {int((~controls).sum())}"
    )
    return RunGate("clip", figure, AGREEMENT, figure >= AGREEMENT, detail)


def _cost(scores: RunScores) -> RunGate:
    sums: dict[str, list[float]] = {}
    for name, of_protocol in scores.protocols.items():
        for title, column in zip(of_protocol.titles, scores.seconds[name].T, strict=True):
            sums.setdefault(title, []).extend(column[~np.isnan(column)].tolist())
    means = {title: float(np.mean(seconds)) for title, seconds in sums.items() if seconds}
    if not means:
        raise ValueError("no edit has a time")
    slowest = max(means, key=means.__getitem__)
    detail = f"at most: seconds per edit in the demo of the slowest method, {slowest}"
    return RunGate("all", means[slowest], SECONDS, means[slowest] <= SECONDS, detail)
