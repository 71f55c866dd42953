"""A sample of the scores is computed again and compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.edit import EditRecord, ScoreRecord
from bench.store import RunStore
from reports.share.verification.recompute import Recompute
from reports.share.verification.run import verify
from tests.reports.share.verification.tampering import rescoring


def test_scores_that_come_out_again_hold(folder: Path) -> None:
    requested: list[EditRecord] = []
    result = verify(RunStore.open(folder), Recompute(scores=rescoring(lambda s: s, requested)), sample=10)
    assert result.ok
    assert len(requested) == 10
    assert "20 of 20 values" in result.check("edits scored again").how
    assert result.largest_difference == 0


def test_the_sample_follows_its_seed_and_not_the_order(folder: Path) -> None:
    chosen = []
    for seed in (0, 0, 1):
        requested: list[EditRecord] = []
        verify(
            RunStore.open(folder), Recompute(scores=rescoring(lambda s: s, requested)), sample=12, seed=seed
        )
        chosen.append({record.key.digest for record in requested})
    assert chosen[0] == chosen[1] != chosen[2]


def test_scores_that_differ_are_named(folder: Path) -> None:
    def half(score: ScoreRecord) -> ScoreRecord:
        value = score.value if score.metric == "leak_lpips" else 1 - (score.value or 0)
        return ScoreRecord(score.key, score.metric, "1", value)

    result = verify(RunStore.open(folder), Recompute(scores=rescoring(half, [])), sample=5)
    assert len(result.problems) == 5
    assert all(problem.startswith("scores: success_truth of ") for problem in result.problems)
    assert result.largest_difference == 1


def test_a_difference_within_the_tolerance_is_none(folder: Path) -> None:
    def verdict(shift: float) -> bool:
        def shifted(score: ScoreRecord) -> ScoreRecord:
            return ScoreRecord(score.key, score.metric, "1", (score.value or 0) + shift)

        return verify(RunStore.open(folder), Recompute(scores=rescoring(shifted, [])), sample=5).ok

    assert verdict(5e-4)
    assert not verdict(2e-3)


def test_a_value_that_is_there_once_alone_is_a_discrepancy(folder: Path) -> None:
    def none(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "1", None, "why not")

    result = verify(RunStore.open(folder), Recompute(scores=rescoring(none, [])), sample=1)
    assert len(result.problems) == 2
    assert all(problem.endswith("computed again no value") for problem in result.problems)


def test_what_another_version_scored_is_not_compared(folder: Path) -> None:
    def newer(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "2", 99.0)

    result = verify(RunStore.open(folder), Recompute(scores=rescoring(newer, [])), sample=3)
    assert result.ok
    # A version that is not here must not make the row look checked.
    assert result.check("edits scored again").checked == 0
    assert "not checked" in result.check("edits scored again").how
    assert "edits scored again" in result.verdict
    assert "leak_lpips (stored 1, here 2)" in result.notes[-1]


def test_metrics_that_cannot_be_computed_here_are_said(folder: Path) -> None:
    result = verify(
        RunStore.open(folder),
        Recompute(scores=rescoring(lambda s: s if s.metric == "leak_lpips" else None, [])),
        sample=3,
    )
    assert "not scored again: success_truth" in result.notes


def test_a_metric_that_raises_leaves_the_scores_unchecked(folder: Path) -> None:
    def broken(store: RunStore, records: Sequence[EditRecord]) -> Iterable[ScoreRecord]:
        raise RuntimeError("no weights")

    check = verify(RunStore.open(folder), Recompute(scores=broken)).check("edits scored again")
    assert check.checked == 0
    assert check.how == "not checked: the sample cannot be scored again (RuntimeError: no weights)"
