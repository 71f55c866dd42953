"""Published metrics stand in a table of their own, with one sentence per benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest

from bench.edit import EditKey, EditRecord, ScoreRecord
from bench.metrics import info_of
from bench.metrics.choice import metric_registry
from bench.metrics.types import MetricInfo
from bench.store import RunStore
from bench.tables.table import Table
from reports.build import compute
from tests.reports import fake

REGISTRY = metric_registry()
METRICS: Mapping[str, MetricInfo] = {
    **fake.METRICS,
    **{name: info_of(REGISTRY.load(name)) for name in REGISTRY.names() if REGISTRY.load(name).published},
}
COUNT = len(fake.cases())


def values_of(*metrics: str) -> dict[str, dict[str, list[float]]]:
    return {
        metric: {spec.name: [float(place + k)] * COUNT for k, spec in enumerate(fake.METHODS)}
        for place, metric in enumerate(metrics)
    }


def metrics_of(tables: tuple[Table, ...]) -> dict[str, set[str]]:
    return {table.name: {column.metric for column in table.columns} for table in tables}


def test_no_table_mixes_them_with_the_suites_own(tmp_path: Path) -> None:
    names = ("leak_lpips", "pie_psnr", "pie_mse", "brushbench_mse", "magicbrush_l1")
    store = fake.run(tmp_path / "run", values_of(*names))
    content = compute(store, METRICS, resamples=20)
    published = set(names[1:])
    by_table = metrics_of(content.tables)
    assert by_table.pop("published-mini-coco") == published
    assert any("leak_lpips" in metrics for metrics in by_table.values())
    assert not published & set().union(*by_table.values())

    (table,) = (table for table in content.tables if table.name == "published-mini-coco")
    assert [(column.group, column.heading) for column in table.columns] == [
        ("PIE-Bench", "PSNR"),
        ("PIE-Bench", "MSE"),
        ("BrushBench", "MSE"),
        ("MagicBrush", "L1"),
    ]
    for benchmark in ("PIE-Bench", "BrushBench", "MagicBrush"):
        assert sum(note.startswith(f"{benchmark} ") for note in table.notes) == 1


@pytest.mark.parametrize("ours", [(), ("leak_lpips",)])
def test_their_spread_between_seeds_has_a_table_of_its_own(tmp_path: Path, ours: tuple[str, ...]) -> None:
    """Also where the run has nothing but published metrics."""
    names = (*ours, "pie_psnr", "magicbrush_l1")
    fake.run(tmp_path / "run", {})
    with RunStore.open(tmp_path / "run") as run:
        info = dict(run.manifest["protocols"]["mini-coco"])
        run.configure(seeds=(0, 1), protocols={"mini-coco": info}, methods=fake.METHODS[:2])
        records, scores = [], []
        for spec, seed, case in product(fake.METHODS[:2], (0, 1), fake.cases()):
            key = EditKey("mini-coco", "1", spec.digest, case.id, seed)
            file = run.edit_file("mini-coco", spec, case.id, seed)
            sha256 = run.write_edit(file, case.request.source)
            records.append(EditRecord(key, file, sha256, 0.1))
            scores += [ScoreRecord(key, name, "1", 10.0 + seed, edit=sha256) for name in names]
        run.append_edits(records)
        run.append_scores(scores)
    tables = {
        table.name: table for table in compute(RunStore.open(tmp_path / "run"), METRICS, resamples=20).tables
    }
    spread = tables["seeds-published-mini-coco"]
    assert [(column.group, column.metric) for column in spread.columns] == [
        ("PIE-Bench", "pie_psnr"),
        ("MagicBrush", "magicbrush_l1"),
    ]
    # Means of 10 and 11: the deviation of two seeds is 1 / sqrt(2).
    values = [cell.value for row in spread.rows for cell in row.cells]
    assert values == pytest.approx([0.5**0.5] * 4)
    assert {cell.n for row in spread.rows for cell in row.cells} == {2}
    assert ("seeds-mini-coco" in tables) == bool(ours)
    if ours:
        assert [column.metric for column in tables["seeds-mini-coco"].columns] == list(ours)


def test_a_run_without_them_has_no_such_table(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "run", values_of("leak_lpips"))
    assert not any(
        name.startswith("published") for name in metrics_of(compute(store, METRICS, resamples=20).tables)
    )


def test_a_run_of_them_alone_has_a_report(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "run", values_of("pie_psnr"))
    by_table = metrics_of(compute(store, METRICS, resamples=20).tables)
    assert by_table["published-mini-coco"] == {"pie_psnr"}
    assert not any("pie_psnr" in metrics for name, metrics in by_table.items() if "published" not in name)
