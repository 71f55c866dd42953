"""Several seeds: their spread, and rows that choose the best of several edits of a case."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from bench.edit import EditKey, EditRecord, MethodSpec, ScoreRecord
from bench.store import RunStore
from reports.build import compute
from reports.data.report_data import ReportData
from reports.data.scores import load
from reports.data.seeds import best_of_notes, parse_best_of, seed_spread, with_best_of
from tests.reports import fake

SEEDS = (0, 1, 2)
CASES = fake.cases()
N = len(CASES)
METHODS = (MethodSpec("lama", best_of="2 by my_error"), MethodSpec("copy_input", is_control=True))
METRICS = {"my_error": fake.info("", False), "my_other": fake.info("", True)}
TITLE = "lama, best of 2 by my_error"


def value(case: int, seed: int) -> float:
    """The error of an edit. The best of seeds 0 and 1 is that of seed 1 in every second case."""
    return case + (0.5 if (case + seed) % 2 else 0.0) + 0.25 * seed


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Errors by :func:`value`. The other metric is 10 times the seed plus 1."""
    fake.run(tmp_path / "r", {}, methods=METHODS)
    with RunStore.open(tmp_path / "r") as run:
        info = dict(run.manifest["protocols"]["mini-coco"])
        run.configure(seeds=SEEDS, protocols={"mini-coco": info}, methods=METHODS)
        records, scores = [], []
        for spec in METHODS:
            for seed in SEEDS:
                for k, case in enumerate(CASES):
                    key = EditKey("mini-coco", "1", spec.digest, case.id, seed)
                    file = run.edit_file("mini-coco", spec, case.id, seed)
                    sha256 = run.write_edit(file, case.request.source)
                    records.append(EditRecord(key, file, sha256, 0.1))
                    error = value(k, seed) if spec.name == "lama" else 1.0
                    scores.append(ScoreRecord(key, "my_error", "1", error, edit=sha256))
                    scores.append(ScoreRecord(key, "my_other", "1", 10.0 * seed + 1, edit=sha256))
        run.append_edits(records)
        run.append_scores(scores)
    return RunStore.open(tmp_path / "r")


def test_the_spread_is_the_deviation_of_the_means_of_the_seeds(store: RunStore) -> None:
    frame = seed_spread(load(store)).set_index(["method", "metric"])
    means = [statistics.fmean(value(k, seed) for k in range(N)) for seed in SEEDS]
    row = frame.loc[("lama", "my_error")]
    assert row["value"] == pytest.approx(statistics.stdev(means), rel=1e-12)
    assert row["n"] == 3
    # Means 1, 11 and 21.
    assert frame.loc[("lama", "my_other")]["value"] == pytest.approx(10.0)
    assert frame.loc[("copy_input", "my_error")]["value"] == 0.0


def test_the_best_of_two_is_chosen_case_by_case_with_all_of_its_values(store: RunStore) -> None:
    scores = with_best_of(load(store), store.methods, store.seeds, METRICS)
    loaded = scores.protocols["mini-coco"]
    column = loaded.titles.index(TITLE)
    errors, others = loaded.metric("my_error")[:, column], loaded.metric("my_other")[:, column]
    first = loaded.seed == 0
    best = [min(SEEDS[:2], key=lambda seed: value(k, seed)) for k in range(N)]
    assert set(best) == {0, 1}
    assert errors[first].tolist() == [value(k, seed) for k, seed in enumerate(best)]
    assert others[first].tolist() == [10.0 * seed + 1 for seed in best]
    # A case counts once, with the controls.
    assert np.isnan(errors[~first]).all()
    assert TITLE in scores.controls
    assert column not in loaded.contenders.tolist()


def test_a_case_of_which_an_edit_has_no_value_has_no_best_one(store: RunStore) -> None:
    loaded = load(store).protocols["mini-coco"]
    loaded.values[(loaded.seed == 1) & (np.array(loaded.cases) == CASES[0].id), 0, 0] = np.nan
    scores = load(store)
    chosen = with_best_of(
        type(scores)(**{**vars(scores), "protocols": {"mini-coco": loaded}}),
        store.methods,
        store.seeds,
        METRICS,
    ).protocols["mini-coco"]
    errors = chosen.metric("my_error")[:, chosen.titles.index(TITLE)]
    assert int((~np.isnan(errors)).sum()) == N - 1


def test_the_seeds_of_a_case_are_one_cluster_and_every_seed_counts(store: RunStore) -> None:
    scores = load(store)
    loaded = scores.protocols["mini-coco"]
    assert len(loaded.cases) == 3 * N
    # As many clusters as sources.
    assert len(set(loaded.cluster.tolist())) == len({case.source_id for case in CASES})
    assert scores.failed["mini-coco"][METHODS[0].digest]["all"] == 0


def test_an_edit_that_failed_with_one_seed_is_one_failed_edit(store: RunStore) -> None:
    with RunStore.open(store.path) as run:
        key = EditKey("mini-coco", "1", METHODS[0].digest, CASES[0].id, 2)
        run.append_edits([EditRecord(key, None, None, None, "no memory")])
    assert load(RunStore.open(store.path)).failed["mini-coco"][METHODS[0].digest]["all"] == 1


def test_the_tables_show_the_spread_and_state_the_choice(store: RunStore) -> None:
    content = compute(store, METRICS, resamples=50)
    assert isinstance(content.data, ReportData)
    tables = {table.name: table for table in content.tables}
    spread = tables["seeds-mini-coco"]
    assert [row.label for row in spread.rows] == ["lama", "copy_input"]
    assert not any(cell.best for row in spread.rows for cell in row.cells)
    main = tables["main-mini-coco"]
    row = next(row for row in main.rows if row.label == TITLE)
    assert (row.control, row.n) == (True, N)
    note = best_of_notes(content.scores, store.methods, store.seeds)[TITLE]
    assert note in main.notes
    assert note not in spread.notes
    assert any("seeds 0, 1, 2" in note for note in main.notes)


def test_a_choice_is_a_number_and_a_metric() -> None:
    assert parse_best_of("4 by clip_target") == (4, "clip_target")
