"""Published metrics stand in a table of their own, with one sentence per benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.metrics import info_of
from bench.metrics.choice import metric_registry
from bench.metrics.types import MetricInfo
from bench.tables.table import Table
from reports.build import compute
from tests.reports import fake

REGISTRY = metric_registry()
METRICS: Mapping[str, MetricInfo] = {
    **fake.METRICS,
    **{name: info_of(REGISTRY.load(name)) for name in REGISTRY.names() if REGISTRY.load(name).published},
}
COUNT = len(fake.cases())


def values(*metrics: str) -> dict[str, dict[str, list[float]]]:
    return {
        metric: {spec.name: [float(place + k)] * COUNT for k, spec in enumerate(fake.METHODS)}
        for place, metric in enumerate(metrics)
    }


def metrics_of(tables: tuple[Table, ...]) -> dict[str, set[str]]:
    return {table.name: {column.metric for column in table.columns} for table in tables}


def test_no_table_mixes_them_with_the_suites_own(tmp_path: Path) -> None:
    names = ("leak_lpips", "pie_psnr", "pie_mse", "brushbench_mse", "magicbrush_l1")
    store = fake.run(tmp_path / "run", values(*names))
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


def test_a_run_without_them_has_no_such_table(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "run", values("leak_lpips"))
    assert not any(
        name.startswith("published") for name in metrics_of(compute(store, METRICS, resamples=20).tables)
    )


def test_a_run_of_them_alone_has_a_report(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "run", values("pie_psnr"))
    by_table = metrics_of(compute(store, METRICS, resamples=20).tables)
    assert by_table["published-mini-coco"] == {"pie_psnr"}
    assert not any("pie_psnr" in metrics for name, metrics in by_table.items() if "published" not in name)
