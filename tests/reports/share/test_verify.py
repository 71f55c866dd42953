"""A whole run holds; every way of tampering with it is named, once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageFilter, ImageOps

from bench.edit import Claim, EditCase, EditRecord, Region, ScoreRecord
from bench.store import RunStore, SetScore, StoreError
from reports import build
from reports.page import write_page
from reports.share.verify import Rebuilt, Recompute, Verification, verify
from tests.reports import fake

N = len(fake.cases())
VALUES = {
    "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
    "leak_lpips": {spec.name: [0.01 * k for k in range(N)] for spec in fake.METHODS},
}


# The fake run's set scores are over all cases, and one edit of instruct_pix2pix fails.
SETS = {
    name: (10.0 + i, 9.0 + i, 11.0 + i) for i, name in enumerate(("sd_inpainting", "copy_input", "oracle"))
}


def cases() -> list[EditCase]:
    """The fake protocol's cases, with all that a case may hold."""
    return [
        replace(
            case,
            truth=ImageOps.invert(case.request.source),
            claims=(Claim("color", "red", "blue"),),
            tags={"from": "here"},
            request=replace(
                case.request,
                edit_words=("edited",),
                regions=(Region(case.request.mask, "a part", ("part",)),),
                seed=7,
            ),
        )
        for case in fake.cases()
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "r"
    failed = [("instruct_pix2pix", "background-1")]
    with fake.run(path, VALUES, failed=failed, sets=SETS, picked=cases()) as store:
        made = build.write_report(store, fake.FACTS, resamples=100)
        write_page(store, fake.FACTS, tables=made.tables)
    return path


@pytest.fixture(scope="module")
def everything(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Recompute:
    """What computing everything again gives: what the run had before anybody touched it."""
    report = Path(shutil.copytree(original / "report", tmp_path_factory.mktemp("again") / "report"))
    store = RunStore.open(original)
    names = list(SetScore.__dataclass_fields__)
    sets = [SetScore(**row) for row in store.set_scores()[names].assign(reason=None).to_dict("records")]
    return Recompute(
        cases=lambda name: cases(),
        scores=rescoring(lambda score: score, []),
        sets=lambda store, chosen: [s for s in sets if (s.protocol, s.method) in chosen],
        report=lambda store, empty: Rebuilt(report, recorded=True, same_program=True),
    )


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "r"))


def check(folder: Path) -> Verification:
    return verify(RunStore.open(folder))


def an_edit(folder: Path) -> Path:
    return sorted(folder.glob("edits/mini-coco/sd_inpainting-*/*.png"))[0]


def change_manifest(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "run.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_run_holds(folder: Path) -> None:
    found = check(folder)
    assert found.problems == []
    assert found.ok
    assert "is what it claims as far as it was checked" in found.verdict
    # One edit failed, as it is recorded: that is said, and contradicts nothing.
    assert found.notes == ["failed: 1 edits of instruct_pix2pix in mini-coco, as recorded"]
    assert found.check("edits").extent == f"all {4 * N - 1}"
    assert found.check("records of scores").total == 2 * (4 * N - 1)


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


def cut_log(folder: Path) -> None:
    log = folder / "edits.jsonl"
    log.write_bytes(log.read_bytes()[:-10])


def other_pixels(folder: Path) -> None:
    Image.new("RGB", (64, 64), "#123456").save(an_edit(folder))


def other_options(manifest: dict[str, object]) -> None:
    methods = manifest["methods"]
    assert isinstance(methods, dict)
    next(iter(methods.values()))["options"] = {"steps": 3}


def other_protocol(folder: Path) -> None:
    path = folder / "cases/mini-coco/protocol.json"
    path.write_text(path.read_text().replace("d" * 12, "e" * 12))


def dilate_masks(folder: Path) -> None:
    for path in (folder / "cases/mini-coco/masks").glob("*.png"):
        Image.open(path).filter(ImageFilter.MaxFilter(5)).save(path)


def invert(folder: Path, pattern: str) -> None:
    path = sorted(folder.glob(pattern))[0]
    ImageOps.invert(Image.open(path)).save(path)


def change_row(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Changes the first case."""
    path = folder / "cases/mini-coco/cases.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[0])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_claim(row: dict[str, object]) -> None:
    row["claims"] = [{"attribute": "color", "before": "red", "after": "green", "region": 0}]


def add_case(folder: Path) -> None:
    path = folder / "cases/mini-coco/cases.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps({**row, "id": "one-more"}) + "\n")


def drop_case(folder: Path) -> None:
    path = folder / "cases/mini-coco/cases.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


def change_set(folder: Path, name: str = "value") -> None:
    path = folder / "scores/set.json"
    rows = json.loads(path.read_text())
    rows[1][name] -= 1.0
    path.write_text(json.dumps(rows, indent=1) + "\n")


def add_set(folder: Path) -> None:
    path = folder / "scores/set.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {**rows[0], "value": 1.0}]))


def change_score(folder: Path) -> None:
    path = sorted(folder.glob("scores/part-*.parquet"))[0]
    frame = pd.read_parquet(path)
    frame.loc[(frame["metric"] == "success_truth") & (frame["case"] == "attribute-0"), "value"] = 1.0
    frame.to_parquet(path, index=False, compression="zstd")


def change_text(folder: Path, name: str, before: str, after: str) -> None:
    path = folder / "report" / name
    text = path.read_text()
    assert before in text, name
    path.write_text(text.replace(before, after, 1))


def other_figure(folder: Path) -> None:
    path = folder / "report/figures/grid-random-mini-coco.png"
    ImageOps.mirror(Image.open(path)).save(path)


def forge_digests(folder: Path) -> None:
    """Makes every digest fit what is there, as whoever changes files can."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [
        json.dumps({"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()})
        for name in names
        if name.startswith(("cases/", "scores/", "report/", "run.json"))
    ]
    (folder / "digests.jsonl").write_text("\n".join(['{"complete": true}', *lines]) + "\n")


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
        lambda f: change_text(f, "tables.tex", "toprule", "midrule"),
        "report/tables.tex: differs",
    ),
    "table, csv": (lambda f: change_text(f, "summary.csv", "1.0", "2.0"), "report/summary.csv: differs"),
    "html": (lambda f: change_text(f, "tables.html", "<td", "<th"), "report/tables.html: differs"),
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
    change_text(folder, "summary.csv", ",0.5,", ",0.50000000000000011,")
    forge_digests(folder)
    assert verify(RunStore.open(folder), everything).ok


def test_the_report_of_another_version_is_held_against_its_digests(
    folder: Path, everything: Recompute
) -> None:
    assert everything.report is not None
    fresh = everything.report(RunStore.open(folder), folder)
    other = replace(everything, report=lambda store, empty: replace(fresh, same_program=False))
    change_text(folder, "tables.tex", "toprule", "midrule")
    result = verify(RunStore.open(folder), other)
    assert result.problems == ["report/tables.tex: not the file that was written"]
    assert "another version of the program" in result.check("files of the report").how
    note = "report: differ when built anew: tables.tex; made with another version of the program"
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
    change_text(folder, "tables.tex", "toprule", "midrule")
    assert everything.report is not None
    fresh = everything.report(RunStore.open(folder), folder)
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


def double_record(folder: Path) -> None:
    log = folder / "edits.jsonl"
    row = json.loads(log.read_text().splitlines()[0])
    log.write_text(log.read_text() + json.dumps({**row, "case": "nowhere"}) + "\n")


def unlike_set(folder: Path) -> None:
    row = {
        "protocol": "mini-coco",
        "protocol_version": "1",
        "method": fake.METHODS[0].digest,
        "category": "all",
        "metric": "fid",
        "metric_version": "1",
        "value": 1.0,
        "low": None,
        "high": None,
        "n": N,
        "reason": None,
        "inputs": "0" * 12,
    }
    (folder / "scores/set.json").write_text(json.dumps([row]))


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
    found = verify(store)
    assert not found.ok
    assert [problem for problem in found.problems if line in problem], found.problems
    assert all("\n" not in problem for problem in found.problems)
    assert "is not what it claims" in found.verdict


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
    found = check(folder)
    assert "unfinished: 1 of 16 edits of oracle in mini-coco were never made" in found.notes
    # Its picture, its scores and those of its set are there without it.
    files = [problem.partition(":")[0] for problem in found.problems]
    assert files == ["scores", "scores/set.json", gone["file"]]


# --- scoring a sample again ----------------------------------------------------------------------------


def rescoring(
    change: Callable[[ScoreRecord], ScoreRecord | None], seen: list[EditRecord]
) -> Callable[[RunStore, Sequence[EditRecord]], Iterable[ScoreRecord]]:
    """Gives what the fake run stored, changed."""
    order = {case.id: k for k, case in enumerate(fake.cases())}
    names = {spec.digest: spec.name for spec in fake.METHODS}

    def rescore(store: RunStore, records: Sequence[EditRecord]) -> Iterable[ScoreRecord]:
        seen.extend(records)
        for record in records:
            for metric, by_method in VALUES.items():
                value = by_method[names[record.key.method]][order[record.key.case]]
                changed = change(ScoreRecord(record.key, metric, "1", value))
                if changed is not None:
                    yield changed

    return rescore


def test_scores_that_come_out_again_hold(folder: Path) -> None:
    seen: list[EditRecord] = []
    found = verify(RunStore.open(folder), Recompute(scores=rescoring(lambda s: s, seen)), sample=10)
    assert found.ok
    assert len(seen) == 10
    assert "20 of 20 values" in found.check("edits scored again").how
    assert found.largest_difference == 0


def test_the_sample_follows_its_seed_and_not_the_order(folder: Path) -> None:
    chosen = []
    for seed in (0, 0, 1):
        seen: list[EditRecord] = []
        verify(RunStore.open(folder), Recompute(scores=rescoring(lambda s: s, seen)), sample=12, seed=seed)
        chosen.append({record.key.digest for record in seen})
    assert chosen[0] == chosen[1] != chosen[2]


def test_scores_that_differ_are_named(folder: Path) -> None:
    def half(score: ScoreRecord) -> ScoreRecord:
        value = score.value if score.metric == "leak_lpips" else 1 - (score.value or 0)
        return ScoreRecord(score.key, score.metric, "1", value)

    found = verify(RunStore.open(folder), Recompute(scores=rescoring(half, [])), sample=5)
    assert len(found.problems) == 5
    assert all(problem.startswith("scores: success_truth of ") for problem in found.problems)
    assert found.largest_difference == 1


def test_a_difference_within_the_tolerance_is_none(folder: Path) -> None:
    def near(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "1", (score.value or 0) + 5e-4)

    store = RunStore.open(folder)
    assert verify(store, Recompute(scores=rescoring(near, [])), sample=5).ok
    assert not verify(store, Recompute(scores=rescoring(near, [])), sample=5, tolerance=1e-4).ok


def test_a_value_that_is_there_once_alone_is_a_discrepancy(folder: Path) -> None:
    def none(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "1", None, "why not")

    found = verify(RunStore.open(folder), Recompute(scores=rescoring(none, [])), sample=1)
    assert len(found.problems) == 2
    assert all(problem.endswith("computed again no value") for problem in found.problems)


def test_what_another_version_scored_is_not_compared(folder: Path) -> None:
    def newer(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "2", 99.0)

    found = verify(RunStore.open(folder), Recompute(scores=rescoring(newer, [])), sample=3)
    assert found.ok
    # A version that is not here must not make the row look checked.
    assert found.check("edits scored again").checked == 0
    assert "not checked" in found.check("edits scored again").how
    assert "edits scored again" in found.verdict
    assert "leak_lpips (stored 1, here 2)" in found.notes[-1]


def test_metrics_that_cannot_be_computed_here_are_said(folder: Path) -> None:
    found = verify(
        RunStore.open(folder),
        Recompute(scores=rescoring(lambda s: s if s.metric == "leak_lpips" else None, [])),
        sample=3,
    )
    assert "not scored again: success_truth" in found.notes


def test_a_metric_that_raises_leaves_the_scores_unchecked(folder: Path) -> None:
    def broken(store: RunStore, records: Sequence[EditRecord]) -> Iterable[ScoreRecord]:
        raise RuntimeError("no weights")

    check = verify(RunStore.open(folder), Recompute(scores=broken)).check("edits scored again")
    assert check.checked == 0
    assert check.how == "not checked: the sample cannot be scored again (RuntimeError: no weights)"


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
    lines = check(folder).lines()
    assert len(lines) == 20 + 1 + 1 + len(check(folder).checks) + 1
    assert f"problem: ... and {4 * N - 1 - 20} more such lines" in lines
