"""One reading of a run: everything in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.edit import CATEGORIES, EditKey, EditRecord, ScoreRecord
from bench.store import RunStore
from reports.data import scores
from tests.reports import fake

N = len(fake.cases())


def test_values_land_at_their_unit_method_and_metric(tmp_path: Path) -> None:
    values = {
        "leak_lpips": {"oracle": [0.01 * k for k in range(N)], "sd_inpainting": [None, *[0.5] * (N - 1)]},
        "my": {"copy_input": [float(k) for k in range(N)]},
    }
    run = scores.load(fake.run(tmp_path / "r", values, failed=[("copy_input", "background-1")]))
    loaded = run.protocols["mini-coco"]
    assert loaded.titles == ("sd_inpainting", "instruct_pix2pix", "copy_input", "oracle")
    assert loaded.controls == (False, False, True, True)
    assert loaded.contenders.tolist() == [0, 1]
    assert loaded.cases == tuple(case.id for case in fake.cases())
    assert [CATEGORIES[code] for code in loaded.category] == [case.category for case in fake.cases()]
    # Values in the order of the cases, one column per method.
    oracle = loaded.metric("leak_lpips")[:, 3]
    assert oracle.tolist() == [0.01 * k for k in range(N)]
    k = loaded.metrics.index("leak_lpips")
    assert np.isnan(loaded.values[0, 0, k])
    assert loaded.recorded[0, 0, k]
    assert not loaded.recorded[:, 1, k].any()
    unit = loaded.cases.index("background-1")
    assert np.isnan(loaded.metric("my")[unit, 2])
    assert loaded.metric("my")[unit + 1, 2] == unit + 1
    assert run.failed["mini-coco"][loaded.methods[2]]["background"] == 1
    assert len(set(loaded.cluster.tolist())) == 8
    assert loaded.units("attribute").tolist() == [0, 1, 2, 3]


def test_two_seeds_of_a_case_are_two_units_of_one_cluster(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"my": {"oracle": [1.0] * N}})
    digest = next(d for d, spec in store.methods.items() if spec.name == "oracle")
    # A second seed of the first case.
    key = EditKey("mini-coco", "1", digest, "attribute-0", 7)
    with RunStore.open(store.path) as again:
        again.append_scores([ScoreRecord(key, "my", "1", 5.0)])
    loaded = scores.load(RunStore.open(store.path)).protocols["mini-coco"]
    assert len(loaded.cases) == N + 1
    assert loaded.cases[:2] == ("attribute-0", "attribute-0")
    assert loaded.cluster[0] == loaded.cluster[1]
    assert loaded.metric("my")[:2, loaded.methods.index(digest)].tolist() == [1.0, 5.0]


def test_an_edit_that_failed_the_second_time_is_failed_and_has_no_score(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"my": {"oracle": [1.0] * N}})
    first = next(r for r in store.edits() if store.methods[r.key.method].name == "oracle")
    with RunStore.open(store.path) as again:
        again.append_edits([EditRecord(first.key, None, None, None, "out of luck")])
    run = scores.load(RunStore.open(store.path))
    loaded = run.protocols["mini-coco"]
    values = loaded.metric("my")[:, loaded.methods.index(first.key.method)]
    assert np.isnan(values).tolist() == [True, *[False] * (N - 1)]
    assert run.failed["mini-coco"][first.key.method]["all"] == 1


def test_cost_is_read_from_the_edits(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"my": {"oracle": [1.0] * N}})
    records = store.edits()
    with RunStore.open(store.path) as again:
        again.append_edits(
            [
                EditRecord(r.key, r.file, r.sha256, 0.5, None, 3 * 2**30 if i == 2 else 2**30)
                for i, r in enumerate(records)
                if r.key.method == records[0].key.method
            ]
        )
    run = scores.load(RunStore.open(store.path))
    assert (run.seconds["mini-coco"][:, 0] == 0.5).all()
    assert (run.seconds["mini-coco"][:, 1] == 0.1).all()
    assert run.peak_memory["mini-coco"] == {records[0].key.method: 3 * 2**30}
    from reports.data.summary import cost_summary

    rows = {(r["method"], r["metric"]): r for r in cost_summary(run).to_dict(orient="records")}
    assert rows["sd_inpainting", "peak_memory"]["value"] == 3.0
    assert rows["sd_inpainting", "seconds_per_edit"]["value"] == 0.5
    assert ("oracle", "peak_memory") not in rows
