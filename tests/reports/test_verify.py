"""A whole run holds; every way of tampering with it is named, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.edit import EditRecord, ScoreRecord
from bench.store import RunStore
from reports.verify import Verification, verify
from tests.reports import fake

N = len(fake.cases())
VALUES = {
    "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
    "leak_lpips": {spec.name: [0.01 * k for k in range(N)] for spec in fake.METHODS},
}


def small_run(path: Path) -> RunStore:
    return fake.run(path, VALUES, failed=[("instruct_pix2pix", "background-1")])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run") / "r").path


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
    assert found.verdict.endswith("is what it claims.")
    # One edit failed, as it is recorded: that is said, and contradicts nothing.
    assert found.notes == ["failed: 1 edits of instruct_pix2pix in mini-coco, as recorded"]
    assert found.counts["edits hashed"] == 4 * N - 1
    assert found.counts["scores"] == 2 * (4 * N - 1)


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
    # Its picture and its scores are there without it.
    assert [problem.partition(":")[0] for problem in found.problems] == ["scores", gone["file"]]


def test_the_installed_protocol_is_compared(folder: Path) -> None:
    store = RunStore.open(folder)
    assert verify(store, digests={"mini-coco": "d" * 12, "elsewhere": "0" * 12}).ok
    found = verify(store, digests={"mini-coco": "f" * 12})
    assert "the installed protocol's ffffffffffff" in found.problems[0]


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
    found = verify(RunStore.open(folder), rescoring(lambda s: s, seen), sample=10)
    assert found.ok
    assert len(seen) == 10
    assert found.counts["scores compared"] == 20
    assert found.largest_difference == 0


def test_the_sample_follows_its_seed_and_not_the_order(folder: Path) -> None:
    chosen = []
    for seed in (0, 0, 1):
        seen: list[EditRecord] = []
        verify(RunStore.open(folder), rescoring(lambda s: s, seen), sample=12, seed=seed)
        chosen.append({record.key.digest for record in seen})
    assert chosen[0] == chosen[1] != chosen[2]


def test_scores_that_differ_are_named(folder: Path) -> None:
    def half(score: ScoreRecord) -> ScoreRecord:
        value = score.value if score.metric == "leak_lpips" else 1 - (score.value or 0)
        return ScoreRecord(score.key, score.metric, "1", value)

    found = verify(RunStore.open(folder), rescoring(half, []), sample=5)
    assert len(found.problems) == 5
    assert all(problem.startswith("scores: success_truth of ") for problem in found.problems)
    assert found.largest_difference == 1


def test_a_difference_within_the_tolerance_is_none(folder: Path) -> None:
    def near(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "1", (score.value or 0) + 5e-4)

    store = RunStore.open(folder)
    assert verify(store, rescoring(near, []), sample=5).ok
    assert not verify(store, rescoring(near, []), sample=5, tolerance=1e-4).ok


def test_a_value_that_is_there_once_alone_is_a_discrepancy(folder: Path) -> None:
    def none(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "1", None, "why not")

    found = verify(RunStore.open(folder), rescoring(none, []), sample=1)
    assert len(found.problems) == 2
    assert all(problem.endswith("computed again no value") for problem in found.problems)


def test_what_another_version_scored_is_not_compared(folder: Path) -> None:
    def newer(score: ScoreRecord) -> ScoreRecord:
        return ScoreRecord(score.key, score.metric, "2", 99.0)

    found = verify(RunStore.open(folder), rescoring(newer, []), sample=3)
    assert found.ok
    assert found.counts["scores compared"] == 0
    assert "leak_lpips (stored 1, here 2)" in found.notes[-1]


def test_metrics_that_cannot_be_computed_here_are_said(folder: Path) -> None:
    found = verify(
        RunStore.open(folder),
        rescoring(lambda s: s if s.metric == "leak_lpips" else None, []),
        sample=3,
    )
    assert "not scored again: success_truth" in found.notes


def test_a_metric_that_raises_is_a_finding(folder: Path) -> None:
    def broken(store: RunStore, records: Sequence[EditRecord]) -> Iterable[ScoreRecord]:
        raise RuntimeError("no weights")

    assert verify(RunStore.open(folder), broken).problems == [
        "scores: the sample cannot be scored again (RuntimeError: no weights)"
    ]


def test_many_lines_of_one_kind_are_counted(folder: Path) -> None:
    shutil.rmtree(folder / "edits")
    lines = check(folder).lines()
    assert len(lines) == 20 + 1 + 1 + 2
    assert f"problem: ... and {4 * N - 1 - 20} more such lines" in lines
