"""Comparisons of runs whose differences are known."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.edit import MethodSpec
from bench.store import RunStore
from reports.data.report_data import ReportError
from reports.share.comparison import text as comparison_text
from reports.share.comparison.result import Comparison, MetricDifference
from reports.share.comparison.run import compare
from reports.share.comparison.text import markdown, terminal
from tests.bench import one_column
from tests.reports import fake

CASES = fake.cases()
N = len(CASES)
SD = "sd_inpainting"


def run(
    path: Path, success: Sequence[float | None], leak: Sequence[float | None], **more: object
) -> RunStore:
    values = {"success_truth": {SD: list(success)}, "leak_lpips": {SD: list(leak)}}
    return fake.run(path, values, **more)  # type: ignore[arg-type]


def pick(comparison: Comparison, metric: str, category: str = "all", method: str = SD) -> MetricDifference:
    rows = [
        d for d in comparison.differences if (d.metric, d.category, d.method) == (metric, category, method)
    ]
    assert len(rows) == 1
    return rows[0]


BEFORE = [0.1 + 0.01 * k for k in range(N)]
AFTER = [0.1 + 0.01 * k - 0.002 * (k % 5) for k in range(N)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, RunStore]:
    folder = tmp_path_factory.mktemp("runs")
    success = [float(k % 2) for k in range(N)]
    # Three cases flip, and one leakage is missing in B.
    flipped = [1 - v if k in (0, 1, 2) else v for k, v in enumerate(success)]
    sets: Mapping[str, tuple[float, float | None, float | None]] = {SD: (40.0, 38.0, 42.0)}
    a = run(folder / "a", success, BEFORE, sets=sets)
    b = run(folder / "b", flipped, [*AFTER[:-1], None], sets={SD: (35.0, None, None)})
    return a, b


def test_another_batch_size_is_said(tmp_path: Path) -> None:
    values = [0.5] * N
    stores = [run(tmp_path / name, values, values) for name in ("a", "b")]
    for store, size in zip(stores, (8, 1), strict=True):
        with RunStore.open(store.path) as again:
            for digest in again.methods:
                again.note_conditions(digest, 8 if again.methods[digest].name != SD else size, 2)
    comparison = compare(*(RunStore.open(store.path) for store in stores), fake.METRICS)
    assert [(c.what, c.a, c.b) for c in comparison.changes] == [(f"methods.{SD}.batch_sizes", "8", "1")]
    assert [
        note for note in comparison.notes if "another batch size or number of threads: sd_inpainting." in note
    ]


def test_the_difference_is_that_of_the_pairs_with_a_bootstrap_over_sources(
    runs: tuple[RunStore, RunStore],
) -> None:
    row = pick(compare(*runs, fake.METRICS), "leak_lpips")
    gap = np.array(AFTER[:-1]) - np.array(BEFORE[:-1])
    clusters = [case.source_id for case in CASES[:-1]]
    expected = one_column.mean(gap, clusters, draws=2_000)
    assert row.difference == pytest.approx(expected.value, abs=1e-15)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (row.n, row.unpaired) == (N - 1, 1)
    assert row.b is not None
    assert row.a is not None
    assert row.b - row.a == pytest.approx(row.difference)


def test_direction_says_which_run_is_better(runs: tuple[RunStore, RunStore]) -> None:
    a, b = runs
    assert pick(compare(a, b, fake.METRICS), "leak_lpips").better is True
    assert pick(compare(b, a, fake.METRICS), "leak_lpips").better is False
    # Nobody said which direction is better.
    assert pick(compare(a, b), "leak_lpips").better is None
    assert pick(compare(a, b), "leak_lpips").separable


@pytest.mark.parametrize(("change", "verdict"), [(2.5e-8, "the same but for rounding"), (2.5e-5, "worse")])
def test_rounding_is_no_difference(tmp_path: Path, change: float, verdict: str) -> None:
    one = [1.0] * N
    comparison = compare(
        run(tmp_path / "a", one, [0.0] * N),
        run(tmp_path / "b", one, [change * (1 + k / 100) for k in range(N)]),
        fake.METRICS,
    )
    leak = pick(comparison, "leak_lpips")
    assert leak.low is not None
    assert leak.low > 0
    assert leak.better is (False if verdict == "worse" else None)
    assert leak.separable is (verdict == "worse")
    assert f"| {verdict} |" in markdown(comparison)


def test_swapping_the_runs_turns_the_sign(runs: tuple[RunStore, RunStore]) -> None:
    a, b = runs
    one, other = pick(compare(a, b), "leak_lpips"), pick(compare(b, a), "leak_lpips")
    assert one.difference == pytest.approx(-(other.difference or 0))
    assert one.low == pytest.approx(-(other.high or 0), rel=1e-9)


def test_categories_are_their_own_cases(runs: tuple[RunStore, RunStore]) -> None:
    comparison = compare(*runs)
    gap = np.array(AFTER) - np.array(BEFORE)
    assert pick(comparison, "leak_lpips", "replacement").difference == pytest.approx(gap[4:8].mean())
    assert pick(comparison, "leak_lpips", "replacement").n == 4


def test_flips_are_listed_with_their_way(runs: tuple[RunStore, RunStore]) -> None:
    comparison = compare(*runs)
    assert [(flip.case, flip.gained) for flip in comparison.flips] == [
        ("attribute-0", True),
        ("attribute-1", False),
        ("attribute-2", True),
    ]
    assert comparison.flips[0].prompt == CASES[0].request.target_prompt
    assert pick(comparison, "success_truth").difference == pytest.approx(1 / N)


def test_sets_have_two_values_and_no_interval(runs: tuple[RunStore, RunStore]) -> None:
    row = pick(compare(*runs), "fid")
    assert (row.a, row.b, row.difference) == (40.0, 35.0, -5.0)
    assert row.low is None
    assert row.better is None


def test_a_run_is_the_same_as_itself(runs: tuple[RunStore, RunStore]) -> None:
    comparison = compare(runs[0], runs[0], fake.METRICS)
    assert comparison.changes == ()
    assert comparison.flips == ()
    assert {d.difference for d in comparison.differences} == {0}
    assert all(d.same for d in comparison.differences), "metrics of sets, too"
    assert not any(d.separable for d in comparison.differences)


def edit_manifest(store: RunStore, **changes: object) -> RunStore:
    path = store.path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return RunStore.open(store.path)


def test_what_was_asked_differently_is_listed(tmp_path: Path) -> None:
    flat = [0.0] * N
    a = run(tmp_path / "a", flat, flat)
    # Another option gives another digest. One method is missing in B.
    faster = replace(fake.METHODS[0], options={"steps": 1, "guidance": 2.0})
    b = run(tmp_path / "b", flat, flat, methods=[faster, *fake.METHODS[1:3]])
    a = edit_manifest(a, versions={"torch": "1", "numpy": "2"}, suite={"limit": 5})
    b = edit_manifest(b, versions={"torch": "2", "numpy": "2"}, suite={"limit": None}, seed=4)
    comparison = compare(a, b)
    changes = {change.what: (change.a, change.b) for change in comparison.changes}
    assert changes == {
        "seed": ("0", "4"),
        "suite.limit": ("5", "None"),
        "versions.torch": ("1", "2"),
        f"methods.{SD}.digest": (fake.METHODS[0].digest, faster.digest),
        f"methods.{SD}.options.steps": ("2", "1"),
        f"methods.{SD}.options.guidance": (None, "2.0"),
        "methods.oracle": (fake.METHODS[3].digest, None),
    }
    assert "only in A: method oracle" in comparison.notes
    # Matched by its title, though its digest is another.
    assert pick(comparison, "leak_lpips").n == N


def test_methods_match_by_name_where_labels_differ(tmp_path: Path) -> None:
    flat = [0.0] * N
    a = run(tmp_path / "a", flat, flat)
    renamed = MethodSpec(SD, {"steps": 9}, label="SD, nine steps")
    b = run(tmp_path / "b", flat, flat, methods=[renamed])
    assert pick(compare(a, b), "leak_lpips", method=f"{SD} → SD, nine steps").n == N


def test_another_metric_version_is_not_compared(tmp_path: Path) -> None:
    flat = [0.0] * N
    a, b = run(tmp_path / "a", flat, flat), run(tmp_path / "b", flat, flat)
    with RunStore.open(b.path) as store:
        frame = store.scores()
        newer = frame[frame["metric"] == "leak_lpips"].assign(metric_version="2", value=5.0)
        store.append_scores(newer)
    row = pick(compare(a, RunStore.open(b.path)), "leak_lpips")
    assert row.difference is None
    assert row.remark == "metric version 1 in A, 2 in B"


def test_another_protocol_digest_pairs_only_what_is_the_same_edit(tmp_path: Path) -> None:
    flat = [0.0] * N
    a, b = run(tmp_path / "a", flat, flat), run(tmp_path / "b", flat, flat)
    for name in ("run.json", "cases/mini-coco/protocol.json"):
        path = b.path / name
        path.write_text(path.read_text().replace("d" * 12, "e" * 12))
    # One case has another prompt, one another mask.
    rows = (b.path / "cases/mini-coco/cases.jsonl").read_text().splitlines()
    other = json.loads(rows[0])
    rows[0] = json.dumps({**other, "target_prompt": "something else"})
    (b.path / "cases/mini-coco/cases.jsonl").write_text("\n".join(rows) + "\n")
    mask = b.path / "cases/mini-coco" / json.loads(rows[1])["mask"]
    mask.write_bytes((b.path / "cases/mini-coco" / json.loads(rows[2])["mask"]).read_bytes())
    comparison = compare(a, RunStore.open(b.path))
    assert pick(comparison, "leak_lpips").n == N - 2
    assert any("of 16 cases in both, the 14" in note for note in comparison.notes)


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    flat = [0.0] * N
    a = run(tmp_path / "a", flat, flat)
    b = run(tmp_path / "b", flat, flat, protocol="elsewhere")
    with pytest.raises(ReportError, match="no protocol in common"):
        compare(a, b)
    c = run(tmp_path / "c", flat, flat, methods=[MethodSpec("another", {})])
    with pytest.raises(ReportError, match="no method in common"):
        compare(a, c)


def test_the_terminal_shows_what_differs_and_counts_the_rest(
    runs: tuple[RunStore, RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_text, "MOST_FLIPS", 2)
    out = io.StringIO()
    console = Console(file=out, width=120)
    for part in terminal(compare(*runs, fake.METRICS)):
        console.print(part)
    text = out.getvalue()
    assert "better" in text
    assert "Cases that flipped: 2 gained in B, 1 lost" in text
    assert "... and 1 more" in text


def test_markdown_is_whole_and_escaped(runs: tuple[RunStore, RunStore]) -> None:
    comparison = compare(*runs, fake.METRICS)
    text = markdown(comparison)
    # The prompts hold <edited> and underscores.
    assert r"\<edited\>\_0" in text
    assert "<edited>" not in text
    assert text.count("\n| sd") == len(comparison.differences)
    header = [line for line in text.splitlines() if line.startswith("| method")]
    assert len(header) == 5
