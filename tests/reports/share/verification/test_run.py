"""A whole run holds. Every way of tampering with it is named once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.text import Text

from bench.edit import EditCase, ScoreRecord
from bench.store import RunStore, StoreError
from reports.share.verification.recompute import Recompute
from reports.share.verification.run import verify
from tests.reports.share.verification.tampering import (
    N,
    add_case,
    add_set,
    an_edit,
    change_claim,
    change_manifest,
    change_row,
    change_score,
    change_set,
    change_text,
    check,
    cut_log,
    dilate_masks,
    double_record,
    drop_case,
    forge_digests,
    invert,
    other_figure,
    other_options,
    other_pixels,
    other_protocol,
    unlike_set,
)


def test_a_whole_run_holds(folder: Path) -> None:
    result = check(folder)
    assert result.problems == []
    assert result.ok
    assert "is what it claims as far as it was checked" in result.verdict
    # One edit failed, as it is recorded: that is said, and contradicts nothing.
    assert result.notes == ["failed: 1 edits of instruct_pix2pix in mini-coco, as recorded"]
    assert result.check("edits").extent == f"all {4 * N - 1}"
    assert result.check("records of scores").total == 2 * (4 * N - 1)


def test_everything_that_can_be_computed_again_is(folder: Path, everything: Recompute) -> None:
    result = verify(RunStore.open(folder), everything, sample=1000)
    assert result.problems == []
    assert result.verdict == f"{folder}: is what it claims."
    assert {check.what: check.extent for check in result.checks} == {
        "methods in run.json": "all 4",
        "files": f"all {result.check('files').total}",
        "cases of mini-coco": f"all {N}",
        "records of edits": f"all {4 * N}",
        "edits": f"all {4 * N - 1}",
        "records of scores": f"all {2 * (4 * N - 1)}",
        "edits scored again": f"all {4 * N - 1}",
        "set scores": "all 3",
        "files of the report": f"all {result.check('files of the report').total}",
    }
    assert all(check.result == "holds" for check in result.checks)


def test_what_was_checked_in_part_or_not_is_said(folder: Path, everything: Recompute) -> None:
    result = verify(RunStore.open(folder), everything, sample=10, sets=1)
    assert result.ok
    assert f"not wholly: edits scored again (10 of {4 * N - 1}), set scores (1 of 3)" in result.verdict
    assert "1 of 3 sets (seed 0)" in result.check("set scores").how
    result = check(folder)
    assert result.check("set scores").result == "not checked"
    assert "set scores (0 of 3)" in result.verdict
    # Digests stand in for the protocol and for the report's building, and are named as such.
    assert "digests alone" in result.check("cases of mini-coco").how
    assert "by its digest alone" in result.check("files of the report").how


def test_checking_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    check(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


RECOMPUTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "masks dilated": (dilate_masks, "attribute-0: not the protocol's: mask"),
    "source": (lambda f: invert(f, "cases/*/sources/*.png"), "not the protocol's: source"),
    "truth": (lambda f: invert(f, "cases/*/truths/*.png"), "not the protocol's: truth"),
    "region": (lambda f: invert(f, "cases/*/regions/*/*.png"), "not the protocol's: mask of region 0"),
    "prompt": (
        lambda f: change_row(f, lambda row: row.update(target_prompt="else")),
        "attribute-0: not the protocol's: target_prompt",
    ),
    "instruction": (
        lambda f: change_row(f, lambda row: row.update(instruction="")),
        "not the protocol's: instruction",
    ),
    "claims": (lambda f: change_row(f, change_claim), "attribute-0: not the protocol's: claims"),
    "seed of a case": (lambda f: change_row(f, lambda row: row.update(seed=8)), "not the protocol's: seed"),
    "one case more": (add_case, "one-more: the protocol has no such case"),
    "one case fewer": (drop_case, "attribute-0: missing; the protocol has it"),
    "set score": (change_set, "value is 10, computed again 11"),
    "interval of a set score": (lambda f: change_set(f, "low"), "low is 9, computed again 10"),
    "one set score more": (add_set, "there twice"),
    "score": (change_score, "success_truth of attribute-0"),
    "table, tex": (
        lambda f: change_text(f, "tables/tables.tex", "toprule", "midrule"),
        "report/tables/tables.tex: differs",
    ),
    "table, csv": (
        lambda f: change_text(f, "data/summary.csv", "1.0", "2.0"),
        "report/data/summary.csv: differs",
    ),
    "html": (
        lambda f: change_text(f, "tables/tables.html", "<td", "<th"),
        "report/tables/tables.html: differs",
    ),
    "page": (
        lambda f: change_text(f, "page/data/run.js", "mini", "maxi"),
        "report/page/data/run.js: differs",
    ),
    "page, script": (lambda f: change_text(f, "page/core.js", "const", "var"), "page/core.js: differs"),
    "figure": (other_figure, "report/figures/grid-random-mini-coco.png: differs"),
    "figure removed": (
        lambda f: (f / "report/figures/grid-random-mini-coco.pdf").unlink(),
        "grid-random-mini-coco.pdf: missing",
    ),
}


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_is_computed_again_cannot_be_forged(
    folder: Path, everything: Recompute, name: str, forged: bool
) -> None:
    tamper, line = RECOMPUTED[name]
    tamper(folder)
    if forged:
        forge_digests(folder)
    result = verify(RunStore.open(folder), everything, sample=1000)
    assert [problem for problem in result.problems if line in problem], result.problems
    assert "is not what it claims" in result.verdict
    assert any(check.problems for check in result.checks)


@pytest.mark.parametrize("name", RECOMPUTED)
def test_without_the_protocol_and_the_weights_digests_stand_in(folder: Path, name: str) -> None:
    RECOMPUTED[name][0](folder)
    problems = check(folder).problems
    assert any(p.endswith(("not the file that was written", "missing; it was written")) for p in problems)


def test_numbers_of_another_processor_are_the_same(folder: Path, everything: Recompute) -> None:
    change_text(folder, "data/summary.csv", ",0.5,", ",0.50000000000000011,")
    forge_digests(folder)
    assert verify(RunStore.open(folder), everything).ok


def test_the_report_of_another_version_is_held_against_its_digests(
    folder: Path, everything: Recompute
) -> None:
    assert everything.report is not None
    fresh = everything.report(RunStore.open(folder), folder)
    # A program of another version may write other files rightly.
    other = replace(everything, report=lambda store, empty: replace(fresh, same_program=False))
    change_text(folder, "tables/tables.tex", "toprule", "midrule")
    result = verify(RunStore.open(folder), other)
    assert result.problems == ["report/tables/tables.tex: not the file that was written"]
    assert "another version of the program" in result.check("files of the report").how
    note = "report: differ when built again: tables/tables.tex; made with another version of the program"
    assert note in result.notes


def test_what_else_lies_in_the_report_is_told_apart(folder: Path, everything: Recompute) -> None:
    (folder / "report/best.csv").write_text("method,success\nmine,100\n")
    result = verify(RunStore.open(folder), everything)
    assert "not of this report: best.csv: `report` does not write them" in result.notes
    assert "files of the report" in result.verdict


def test_a_run_from_before_digests_holds_and_says_what_could_not_be_checked(
    folder: Path, everything: Recompute
) -> None:
    (folder / "digests.jsonl").unlink()
    change_text(folder, "tables/tables.tex", "toprule", "midrule")
    assert everything.report is not None
    fresh = everything.report(RunStore.open(folder), folder)
    # A report that does not say how it was made.
    old = replace(everything, report=lambda store, empty: replace(fresh, recorded=False, same_program=False))
    result = verify(RunStore.open(folder), old, sample=1000)
    assert result.problems == []
    assert result.check("files").result == "not checked"
    assert "made before digests were written" in result.check("files").how
    assert "not checked: 1; 1 files differ" in result.check("files of the report").how
    assert "files of the report" in result.verdict
    # Going on with it writes digests of what is new, and does not claim to know what was there before.
    with RunStore.open(folder) as store:
        store.write_file("report/new.csv", b"x")
    result = check(folder)
    assert result.ok
    assert result.check("files").checked == 1


def test_a_protocol_that_is_not_here_is_said(folder: Path, everything: Recompute) -> None:
    def absent(name: str) -> list[EditCase]:
        raise ValueError("no data in data/coco")

    result = verify(RunStore.open(folder), replace(everything, cases=absent))
    assert result.ok
    assert "no data in data/coco" in result.check("cases of mini-coco").how
    assert result.check("cases of mini-coco").extent == f"all {N}"


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pixels": (other_pixels, "its SHA-256 is"),
    "missing edit": (lambda folder: an_edit(folder).unlink(), "png: missing"),
    "torn log": (cut_log, "its last line is torn"),
    "options": (lambda folder: change_manifest(folder, other_options), "its name and options make"),
    "seed": (lambda folder: change_manifest(folder, lambda m: m.update(seed=7)), "seed 0, run.json says 7"),
    "protocol digest": (other_protocol, "digest is 'eeeeeeeeeeee', run.json says 'dddddddddddd'"),
    "unknown case": (double_record, "there is no such case"),
    "missing mask": (lambda f: sorted(f.glob("cases/*/masks/*"))[0].unlink(), "attribute-0 names it"),
    "stray file": (lambda f: (f / "edits/mini-coco/x.png").write_bytes(b"x"), "nothing in the run names"),
    "stray link": (lambda f: (f / "cases/link").symlink_to("/"), "nothing in the run names this file"),
    "broken scores": (lambda f: (f / "scores/part-000002.parquet").write_bytes(b"x"), "cannot be read"),
    "set of others": (unlike_set, "of other edits than those that are here"),
    "no manifest": (lambda f: (f / "run.json").write_text("{"), "no manifest that can be read"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named(folder: Path, name: str) -> None:
    tamper, line = TAMPERINGS[name]
    store = RunStore.open(folder)
    tamper(folder)
    store = RunStore(folder) if name == "no manifest" else RunStore.open(folder)
    result = verify(store)
    assert not result.ok
    assert [problem for problem in result.problems if line in problem], result.problems
    assert all("\n" not in problem for problem in result.problems)
    assert "is not what it claims" in result.verdict


def test_one_changed_file_is_one_line(folder: Path) -> None:
    other_pixels(folder)
    assert len(check(folder).problems) == 1


def test_scores_of_edits_that_failed_are_named(folder: Path) -> None:
    with RunStore.open(folder) as store:
        record = next(r for r in store.edits() if r.error is not None)
        store.append_scores([ScoreRecord(record.key, "leak_lpips", "1", 0.5)])
    assert check(folder).problems == ["scores: 1 with a value, of edits that failed"]


def test_two_versions_of_one_metric_are_named(folder: Path) -> None:
    with RunStore.open(folder) as store:
        record = store.edits()[0]
        store.append_scores([ScoreRecord(record.key, "leak_lpips", "2", 0.5)])
    assert check(folder).problems == ["scores: leak_lpips is there in versions 1, 2: score again"]


def test_an_unfinished_run_is_a_note(folder: Path) -> None:
    log = folder / "edits.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    gone = json.loads(lines[-1])
    log.write_text("".join(lines[:-1]))
    result = check(folder)
    assert "unfinished: 1 of 16 edits of oracle in mini-coco were never made" in result.notes
    # Its picture, its scores and those of its set are there without it.
    files = [problem.partition(":")[0] for problem in result.problems]
    assert files == ["scores", "scores/set.json", gone["file"]]


@pytest.mark.parametrize("entry", [{}, {"version": "1"}, "mini-coco", None])
def test_a_manifest_of_broken_protocols_is_a_problem(folder: Path, entry: object) -> None:
    def change(manifest: dict[str, object]) -> None:
        manifest["protocols"] = {"mini-coco": entry}

    change_manifest(folder, change)
    result = verify(RunStore(folder))
    assert result.problems[0].startswith("run.json: no manifest that can be read")
    with pytest.raises(StoreError, match=r"run\.json: cannot be read \(protocols: mini-coco"):
        RunStore.open(folder)


def test_many_lines_of_one_kind_are_counted(folder: Path) -> None:
    shutil.rmtree(folder / "edits")
    lines = [part.plain for part in check(folder).terminal() if isinstance(part, Text)]
    # Twenty problems, the number of the others, one note, and the verdict.
    assert len(lines) == 20 + 1 + 1 + 1
    assert f"problem: ... and {4 * N - 1 - 20} more such lines" in lines


def test_a_report_of_the_earlier_layout_is_named_as_such(folder: Path, everything: Recompute) -> None:
    (folder / "report/data/summary.csv").rename(folder / "report/summary.csv")
    result = verify(RunStore.open(folder), everything)
    assert "report of an earlier layout: run `report` again" in result.check("files of the report").how
