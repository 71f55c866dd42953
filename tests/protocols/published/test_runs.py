"""Whole runs on the published layouts: edits, scores, edits from elsewhere, and the export for official scorers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import bench
import run_bench
from bench.casefile import CaseFile
from bench.images import read_rgb
from tests.command_line import run
from tests.protocols.published.masked_layouts import (
    write_brushbench,
    write_editbench,
    write_magicbrush_test,
    write_pie_bench,
)

pytestmark = pytest.mark.filterwarnings("ignore::bench.errors.BenchWarning")

# The published errors that need no network.
PUBLISHED = ("pie_mse", "brushbench_mse", "magicbrush_l1")


def edited(protocol: str, root: Path, method: object, **options: object) -> tuple[Path, pd.DataFrame]:
    """(run folder, scores) of a method on all cases of a protocol."""
    suite = {
        "name": f"{protocol}-{len(list(Path().glob('runs/*')))}",
        "protocols": [{"name": protocol, "options": {"root": str(root), **options}}],
        "methods": [method],
        "metrics": ["leak_mse", *PUBLISHED],
    }
    session = run_bench.PROGRAM.session()
    store, summary = session.edit(session.configure(suite), device="cpu")
    with store:
        assert summary.ok
        session.score(store, device="cpu")
        return store.path, store.scores()


@pytest.mark.parametrize(
    ("protocol", "write", "options", "cases", "masked"),
    [
        ("pie_bench", write_pie_bench, {}, 3, 2),
        ("brushbench", write_brushbench, {}, 4, 4),
        ("magicbrush", write_magicbrush_test, {}, 3, 3),
        ("editbench", write_editbench, {"hole": "white"}, 3, 3),
    ],
)
def test_copies_and_edits_from_elsewhere_are_scored(
    place: Path,
    protocol: str,
    write: Callable[[Path], Path],
    options: dict[str, object],
    cases: int,
    masked: int,
) -> None:
    root = write(place / "data")
    folder, scores = edited(protocol, root, "copy_input", **options)
    leakage = scores.query("metric == 'leak_mse'").value
    assert len(leakage) == cases
    assert leakage.notna().sum() == masked
    assert (leakage.dropna() == 0).all()

    # The same pictures from a folder, darker by up to 51 of 255 levels. The errors follow by hand.
    (place / "elsewhere").mkdir()
    expected: dict[tuple[str, str], float] = {}
    for case in CaseFile(folder / "cases" / protocol):
        before = np.asarray(case.request.source).astype(float)
        after = before.clip(51, 255) - 51
        Image.fromarray(after.astype(np.uint8)).save(place / "elsewhere" / f"{case.id}.png")
        if case.request.mask is not None:
            outside = np.asarray(case.request.mask) == 0
            error = ((after - before) / 255) ** 2 * outside[..., None]
            expected["pie_mse", case.id] = error.mean()
            expected["brushbench_mse", case.id] = error.sum() / outside.sum()
        if case.truth is not None:
            expected["magicbrush_l1", case.id] = np.abs(after - np.asarray(case.truth)).mean() / 255
    outputs = {"method": "outputs", "options": {"path": "elsewhere"}}
    _, scores = edited(protocol, root, outputs, **options)
    scores = scores[scores.metric.isin(PUBLISHED) & scores.value.notna()]
    values = dict(zip(zip(scores.metric, scores.case, strict=True), scores.value, strict=True))
    assert values == pytest.approx(expected, rel=1e-6)


def test_an_instruction_method_edits_sources_of_any_size(place: Path) -> None:
    root = write_magicbrush_test(place / "data")
    method = {"method": "instruct_pix2pix", "preset": "mini", "options": {"steps": 2}}
    folder, scores = edited("magicbrush", root, method)
    assert (scores.query("metric == 'leak_mse'").value > 0).all()
    for case in CaseFile(folder / "cases" / "magicbrush"):
        (file,) = folder.glob(f"edits/magicbrush/*/{case.id}.png")
        with Image.open(file) as edit:
            assert edit.size == case.request.source.size


@pytest.mark.parametrize(
    ("protocol", "write", "options"),
    [("brushbench", write_brushbench, {}), ("editbench", write_editbench, {"hole": "white"})],
)
def test_captions_serve_an_instruction_method_where_there_is_no_instruction(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
    write: Callable[[Path], Path],
    options: dict[str, object],
) -> None:
    root = write(place / "data")
    method = {"method": "instruct_pix2pix", "preset": "mini", "options": {"steps": 1}}
    with pytest.raises(
        bench.BenchError, match=r"needs instruction, which protocol .*\(prompt_field: target_prompt gives"
    ):
        edited(protocol, root, method, **options)

    method["options"] = {"steps": 1, "prompt_field": "target_prompt"}
    folder, scores = edited(protocol, root, method, **options)
    leakage = scores.query("metric == 'leak_mse'")
    assert len(leakage) == len(CaseFile(folder / "cases" / protocol))
    assert (leakage.value > 0).all()
    # Tables say it beside the name.
    capsys.readouterr()
    assert run("report", str(folder)) == 0
    assert "instruct_pix2pix, target prompt as instruction" in " ".join(capsys.readouterr().out.split())


def test_a_runs_edits_are_exported_for_the_official_scorer(place: Path) -> None:
    root = write_brushbench(place / "data")
    folder, _ = edited("brushbench", root, "copy_input")
    assert run("cases", "brushbench", "--outputs", str(folder), "--out", "official") == 0
    (method,) = Path("official").iterdir()
    names = sorted(p.relative_to(method).as_posix() for p in method.rglob("*") if p.is_file())
    assert names == [f"{s}/images/0000000{n}.jpg" for s in ("inside", "outside") for n in (0, 1)]
    # Without loss: the pixels of the run, although the name is that of a JPEG.
    for name in names:
        with Image.open(method / name) as ours, Image.open(root / name.split("/", 1)[1]) as source:
            assert np.array_equal(np.asarray(ours), np.asarray(source))


def test_the_layout_of_another_benchmark_is_refused_unless_it_fits(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = edited("brushbench", write_brushbench(place / "data"), "copy_input")

    def export(*arguments: str) -> tuple[int, str]:
        code = run("cases", "--outputs", str(folder), "--out", "official", *arguments)
        return code, " ".join(capsys.readouterr().err.split())

    # Its own layout, by its name, and for a run of one protocol without the protocol's.
    assert export("--layout", "brushbench") == (0, "")
    assert len([path for path in Path("official").rglob("*") if path.is_file()]) == 4
    for layout, says in {
        "imgedit": "--layout imgedit: does not fit brushbench, whose categories inside, outside are not among its own",
        "gedi": "--layout 'gedi': no such layout. Did you mean 'gedit'? There are: ",
        "editbench": "editbench: the benchmark has no layout of outputs of its own",
    }.items():
        code, errors = export("--layout", layout)
        assert code == 2
        assert says in errors
    assert run("cases", "brushbench", "--out", "official", "--layout", "brushbench") == 2
    assert "--layout goes with --outputs" in capsys.readouterr().err
    assert run("cases", "--out", "official") == 2
    assert "Name a PROTOCOL" in capsys.readouterr().err


def test_cases_of_the_same_shape_fit_another_benchmarks_layout(place: Path) -> None:
    """Those of ``mini-gedit`` have GEdit-Bench's categories, and neither a key nor a language."""
    session = run_bench.PROGRAM.session()
    protocols = [
        {"name": "mini-gedit", "options": {"cases_per_category": 1, "reference_count": 1}},
        {"name": "brushbench", "options": {"root": str(write_brushbench(place / "data"))}},
    ]
    suite = {"name": "two", "protocols": protocols, "methods": ["copy_input"], "metrics": ["leak_mse"]}
    store, _ = session.edit(session.configure(suite), device="cpu")
    store.close()
    # Neither the layout nor the number of protocols decides.
    assert run("cases", "--outputs", str(store.path), "--out", "official", "--layout", "gedit") == 2
    assert (
        run("cases", "mini-gedit", "--outputs", str(store.path), "--out", "official", "--layout", "gedit")
        == 0
    )
    (method,) = Path("official").iterdir()
    for case in CaseFile(store.path / "cases" / "mini-gedit"):
        edit = method / "fullset" / case.category / "en" / f"{case.id}.png"
        for file in (edit, edit.with_name(f"{case.id}_SRCIMG.png")):
            assert np.array_equal(read_rgb(file), case.request.source)
    # The layout decides which of two protocols is meant.
    assert run("cases", "--outputs", str(store.path), "--out", "second", "--layout", "brushbench") == 0
    assert list(Path("second").rglob("inside"))


def test_a_missing_edit_is_counted_and_other_protocols_and_options_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = edited("brushbench", write_brushbench(place / "data"), "copy_input")
    lines = (folder / "edits.jsonl").read_text().splitlines(keepends=True)
    (folder / "edits.jsonl").write_text("".join(lines[:-1]))
    assert run("cases", "brushbench", "--outputs", str(folder), "--out", "official") == 0
    assert "1 cases have no edit" in " ".join(capsys.readouterr().err.split())
    # Not in this run, and options that the run has decided.
    assert run("cases", "pie_bench", "--outputs", str(folder), "--out", "official") == 2
    assert "no cases of 'pie_bench'" in " ".join(capsys.readouterr().err.split())
    assert run("cases", "brushbench", "--outputs", str(folder), "--out", "official", "--limit", "1") == 2
    assert "leave --option and --limit out" in " ".join(capsys.readouterr().err.split())
