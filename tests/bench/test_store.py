from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.casefile import protocol_info
from bench.edit import EditKey, EditRecord, MethodSpec, ScoreRecord
from bench.store import SCORE_COLUMNS, SET_COLUMNS, RunStore, SetScore, StoreError
from tests.bench.fakes import Fakes, make_case, noise

SPEC = MethodSpec("fake", {"strength": 1.0}, "Fake")
INFO = protocol_info(Fakes(Fakes.Options()))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.open(tmp_path / "run", create=True) as opened:
        yield opened


def key(case: str = "case-000", method: str = SPEC.digest) -> EditKey:
    return EditKey("fakes", "1", method, case, 0)


def made(store: RunStore, case: str = "case-000", seconds: float = 0.5) -> EditRecord:
    file = store.edit_file("fakes", SPEC, case)
    return EditRecord(key(case), file, store.write_edit(file, noise(case, 16)), seconds)


def failed(case: str = "case-000") -> EditRecord:
    return EditRecord(key(case), None, None, 0.1, error="ZeroDivisionError: x")


def configure(store: RunStore, **changes: object) -> None:
    arguments: dict[str, object] = {"seed": 0, "protocols": {"fakes": INFO}, "methods": [SPEC], **changes}
    store.configure(**arguments)  # type: ignore[arg-type]


def full_disk(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Lets ``after`` more bytes be written, in part, then raises what a full disk raises."""
    write, left = os.write, [after]

    def limited(descriptor: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, bytes(data)[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)


# Digests


def test_every_file_has_the_digest_of_what_it_holds(store: RunStore) -> None:
    configure(store)
    store.write_cases([make_case(i) for i in range(3)], INFO)
    store.append_scores([ScoreRecord(key(), "m", "1", 0.5)])
    store.append_set_scores([SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 2.0, 3)])
    store.write_file("report/x.csv", b"1")
    store.write_file("report/x.csv", b"2")
    made(store)  # an edit has its digest in its record
    digests, complete = store.digests()
    files = {p.relative_to(store.path).as_posix() for p in store.path.rglob("*") if p.is_file()}
    assert complete
    assert set(digests) == {f for f in files if not f.startswith(("edits/", "lock", "digests"))}
    for name, digest in digests.items():
        assert digest == hashlib.sha256((store.path / name).read_bytes()).hexdigest()


def test_a_folder_from_before_digests_goes_on_and_does_not_claim_to_be_complete(store: RunStore) -> None:
    configure(store)
    store.close()
    (store.path / "digests.jsonl").unlink()
    with RunStore.open(store.path) as again:
        assert again.digests() == ({}, False)
        again.write_file("report/x.csv", b"2")
        digests, complete = again.digests()
    assert (list(digests), complete) == (["report/x.csv"], False)


def test_digests_outlive_a_full_disk_and_a_torn_line(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_file("report/x.csv", b"1")
    with monkeypatch.context() as patch:
        full_disk(patch, after=10)
        with pytest.raises(StoreError, match="disk is full"):
            store.write_file("report/y.csv", b"2")
    before = store.digests()
    assert "report/y.csv" not in before[0]
    store.write_file("report/y.csv", b"2")
    assert set(store.digests()[0]) == {*before[0], "report/y.csv"}
    store.write_digest("report/y.csv", None)
    assert store.digests() == before


# Opening


def test_open_makes_only_where_asked_and_never_takes_a_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such run folder.*Run a suite"):
        RunStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="holds other files"):
        RunStore.open(tmp_path / "other", create=True)
    with pytest.raises(StoreError, match=r"no run\.json"):
        RunStore.open(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        RunStore.open(tmp_path / "file", create=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_another_format_is_refused(tmp_path: Path) -> None:
    RunStore.open(tmp_path / "run", create=True).close()
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format 99; this version reads format 1"):
        RunStore.open(tmp_path / "run")
    path.write_text("{")
    with pytest.raises(StoreError, match=r"run\.json: cannot be read"):
        RunStore.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: [manifest], "it is no manifest of a run"),
        (lambda manifest: {}, "it is no manifest of a run"),
        (lambda manifest: {**manifest, "seed": "0"}, "seed: of a wrong type"),
        (lambda manifest: {**manifest, "suite": []}, "suite: of a wrong type"),
        (lambda manifest: {**manifest, "protocols": []}, "its protocols are missing"),
        (
            lambda manifest: {**manifest, "protocols": {"fakes": {}}},
            "protocols: fakes: digest, version: missing",
        ),
        (lambda manifest: {**manifest, "methods": {"x": "fake"}}, "methods: x: of a wrong type"),
        (
            lambda manifest: {**manifest, "methods": {"x": {"name": 1, "label": "", "options": {}}}},
            "methods: x: devices, dtype, name: missing or of a wrong type",
        ),
    ],
)
def test_a_manifest_of_another_shape_is_one_error(store: RunStore, change: Any, message: str) -> None:
    configure(store)
    path = store.path / "run.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StoreError) as caught:
        RunStore.open(store.path)
    assert f"run.json: cannot be read ({message}" in str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "edits.jsonl", "scores/set.json", "digests.jsonl"])
def test_nesting_without_end_is_one_error(store: RunStore, name: str) -> None:
    path = store.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[" * 100_000 + "]" * 100_000 + "\n{}\n")
    with pytest.raises(StoreError, match=r"nested too deeply|Extra data"):
        _ = [RunStore.open(store.path).edits(), store.set_scores(), store.digests()]


def test_one_process_writes_and_others_read(store: RunStore) -> None:
    configure(store)
    store.append_edits([made(store)])
    code = (
        "import sys; from bench.store import RunStore, StoreError\n"
        "store = RunStore.open(sys.argv[1])\n"
        "print(len(store.edits()))\n"
        "try: store.lock()\n"
        "except StoreError as error: print(error)\n"
        "else: print('locked')"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert first.startswith("1\n")
    assert f"another process is writing this run (process {os.getpid()} on " in first
    store.close()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\nlocked\n"


def test_the_lock_of_a_killed_process_is_no_obstacle_and_its_leftovers_are_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from bench.store import RunStore\n"
        "store = RunStore.open(sys.argv[1], create=True)\n"
        "(store.temp_dir / '.half.png.tmp').write_bytes(b'x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = tmp_path / "run"
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == -9
    assert (run / "tmp" / ".half.png.tmp").exists()
    with RunStore.open(run) as store:
        store.lock()
        assert list(store.temp_dir.iterdir()) == []


# Configuration


def test_methods_and_protocols_join_a_run(store: RunStore) -> None:
    configure(store)
    other = MethodSpec("fake", {"strength": 0.5})
    configure(store, methods=[other], protocols={"others": {**INFO, "name": "others"}}, device="cuda")
    again = RunStore.open(store.path)
    assert list(again.methods.values()) == [SPEC, other]
    assert list(again.manifest["protocols"]) == ["fakes", "others"]
    assert again.manifest["methods"][SPEC.digest]["devices"] == ["cpu"]
    configure(store, device="cuda")
    assert store.manifest["methods"][SPEC.digest]["devices"] == ["cpu", "cuda"]


def test_a_run_from_before_printed_names_is_read(store: RunStore) -> None:
    spec = MethodSpec("fake", {}, "Fake", "Ours", "a2026", "mask-free")
    store.configure(seed=0, protocols={}, methods=[spec])
    assert store.methods[spec.digest] == spec
    old = json.loads((store.path / "run.json").read_text())
    for key in ("display", "cite", "group"):
        del old["methods"][spec.digest][key]
    (store.path / "run.json").write_text(json.dumps(old))
    assert RunStore.open(store.path).methods[spec.digest] == MethodSpec("fake", {}, "Fake")


def test_a_run_from_before_controls_were_declared_knows_them_by_their_names(store: RunStore) -> None:
    specs = [
        MethodSpec("copy_input", is_control=True),
        MethodSpec("lama"),
        MethodSpec("own", is_control=True),
    ]
    store.configure(seed=0, protocols={}, methods=specs)
    assert [spec.is_control for spec in store.methods.values()] == [True, False, True]
    stored = json.loads((store.path / "run.json").read_text())
    for entry in stored["methods"].values():
        del entry["is_control"]
    (store.path / "run.json").write_text(json.dumps(stored))
    assert [spec.is_control for spec in RunStore.open(store.path).methods.values()] == [True, False, False]


def test_what_cannot_stand_beside_the_stored_results_is_refused(store: RunStore) -> None:
    configure(store)
    before = (store.path / "run.json").read_bytes()
    with pytest.raises(
        StoreError, match=r"fakes 1 \(digest .*\), the suite asks fakes 2 \(digest 0000.*another folder"
    ):
        configure(store, protocols={"fakes": {**INFO, "version": "2", "digest": "0" * 12}})
    with pytest.raises(StoreError, match="has the seed 0, the suite 1"):
        configure(store, seed=1)
    with pytest.raises(StoreError, match=r"protocol name '../x' cannot become a file name"):
        configure(store, protocols={"../x": INFO})
    assert (store.path / "run.json").read_bytes() == before


def test_a_dtype_is_kept_once_there_are_edits(store: RunStore) -> None:
    configure(store, dtype="float32")
    configure(store, dtype="float16")
    store.append_edits([made(store)])
    with pytest.raises(
        StoreError, match=r"Fake edited with float16 so far, now with float32.*Go on with float16"
    ):
        configure(store, dtype="float32")


# Edits


def test_records_come_back_and_the_last_one_counts(store: RunStore) -> None:
    first, second = failed(), replace(made(store), peak_memory=12345)
    store.append_edits([first, made(store, "case-001")])
    assert store.edits()[0] == first
    assert store.done() == {key("case-001").digest}
    store.append_edits([second])
    assert RunStore.open(store.path).edits() == [second, made(store, "case-001")]
    assert store.done() == {key().digest, key("case-001").digest}


def test_an_edit_is_done_only_while_its_file_is_there(store: RunStore) -> None:
    record = made(store)
    store.append_edits([record])
    store.image_path(record).unlink()
    assert store.done() == set()
    with pytest.raises(StoreError, match=r"cannot be read.*Run the suite again"):
        store.image(record)


def test_image_is_the_recorded_one_or_an_error(store: RunStore) -> None:
    record = made(store)
    assert (np.asarray(store.image(record)) == np.asarray(noise("case-000", 16))).all()
    store.write_edit(str(record.file), noise("else", 16))
    with pytest.raises(StoreError, match="not the file that was recorded"):
        store.image(record)
    with pytest.raises(StoreError, match="case-000 was not edited: ZeroDivisionError"):
        store.image(failed())


@pytest.mark.parametrize(
    "tail", [b'{"protocol": "fakes", "protoc', b"\0" * 40, b"\0" * 40 + b"\n", b"{}{}\n", b"["]
)
def test_a_torn_tail_is_passed_over_and_cut_by_the_next_append(store: RunStore, tail: bytes) -> None:
    records = [made(store, f"case-{i:03d}") for i in range(3)]
    store.append_edits(records[:2])
    store.close()
    with (store.path / "edits.jsonl").open("ab") as file:
        file.write(tail)
    assert store.edits() == records[:2]
    store.append_edits(records[2:])
    assert store.edits() == records
    assert (store.path / "edits.jsonl").read_bytes().count(b"\n") == 3


def test_a_log_that_is_nothing_but_torn_is_empty(store: RunStore) -> None:
    (store.path / "edits.jsonl").write_bytes(b'{"protocol"')
    assert store.edits() == []
    store.append_edits([made(store)])
    assert len(store.edits()) == 1


def test_a_long_line_before_a_torn_tail_survives(store: RunStore) -> None:
    long = replace(failed(), error="x" * 200_000)
    store.append_edits([failed("case-001"), long])
    store.close()
    with (store.path / "edits.jsonl").open("ab") as file:
        file.write(b"y" * 100_000)
    store.append_edits([failed("case-002")])
    assert store.edits() == [failed("case-001"), long, failed("case-002")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "protocol, protocol_version, method, case, seed, file, sha256, seconds, error: missing"),
        ("[]", "protocol, protocol_version, method, case, seed, file, sha256, seconds, error: missing"),
        ({"seed": "0"}, "seed: missing or of a wrong type"),
        ({"seed": True}, "seed: missing or of a wrong type"),
        ({"case": ["case-000"]}, "case: missing or of a wrong type"),
        ({"file": 5}, "file: missing or of a wrong type"),
        ({"file": "../../x.png"}, "leaves its folder"),
        ({"sha256": 7, "seconds": "1"}, "sha256, seconds: missing or of a wrong type"),
        ({"error": {}}, "error: missing or of a wrong type"),
        ({"peak_memory": "much"}, "peak_memory: of a wrong type"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_whole_line_that_is_no_record_is_an_error_wherever_it_stands(
    store: RunStore, line: Any, message: str, last: bool
) -> None:
    store.append_edits([made(store)])
    store.close()
    path = store.path / "edits.jsonl"
    good = path.read_text()
    bad = line if isinstance(line, str) else json.dumps({**json.loads(good), **line})
    path.write_text(good + bad + "\n" + ("" if last else good))
    with pytest.raises(StoreError) as caught:
        store.edits()
    assert str(caught.value).startswith(f"{path}:2: not an edit record (")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{}", "[]", '{"file": 1, "sha256": null}', '{"file": "a"}', '{"complete": 1}']
)
def test_a_whole_line_that_is_no_digest_is_an_error(store: RunStore, line: str) -> None:
    store.close()
    with (store.path / "digests.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match="not a digest"):
        store.digests()


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(store: RunStore) -> None:
    store.append_edits([made(store)])
    store.close()
    path = store.path / "edits.jsonl"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(StoreError, match=r"edits\.jsonl:1: not an edit record.*Delete that line"):
        store.edits()


def test_a_record_from_elsewhere_cannot_point_outside(store: RunStore) -> None:
    record = replace(made(store), file="edits/../../secret.png")
    store.append_edits([record, failed("case-001")])
    with pytest.raises(StoreError, match=r"edits\.jsonl:1: .*leaves its folder"):
        store.edits()


@pytest.mark.parametrize("bad", ["../../evil", "a/b", "", "x" * 300])
def test_ids_are_checked_before_they_become_paths(store: RunStore, bad: str) -> None:
    for arguments in [("fakes", SPEC, bad), (bad, SPEC, "c"), ("fakes", MethodSpec(bad), "c")]:
        with pytest.raises(StoreError, match="cannot become a file name"):
            store.edit_file(*arguments)
    with pytest.raises(StoreError, match="cannot become a file name"):
        store.cases(bad)


def test_cases_are_stored_and_found(store: RunStore) -> None:
    store.write_cases([make_case(0), make_case(1)], INFO)
    configure(store)
    assert store.protocols() == ["fakes"]
    assert store.cases("fakes").ids == ["case-000", "case-001"]
    with pytest.raises(StoreError, match=r"holds no cases of 'other'\. It has: fakes"):
        store.cases("other")


# A disk that fails


def test_a_full_disk_keeps_every_record_and_takes_more_once_there_is_space(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [made(store, f"case-{i:03d}") for i in range(4)]
    store.append_edits(records[:2])
    full_disk(monkeypatch, after=100)
    with pytest.raises(
        StoreError, match=r"cannot record edits: the disk is full.*What is stored is kept.*Free some"
    ):
        store.append_edits(records[2:])
    assert store.edits() == records[:2]
    monkeypatch.undo()
    store.append_edits(records[2:])
    assert store.edits() == records


def test_a_full_disk_that_cannot_even_be_cut(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [made(store, f"case-{i:03d}") for i in range(3)]
    store.append_edits(records[:1])
    line = (store.path / "edits.jsonl").stat().st_size

    def broken(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", broken)
    full_disk(monkeypatch, after=line + line // 2)
    with pytest.raises(StoreError, match="disk is full"):
        store.append_edits(records[1:])
    monkeypatch.undo()
    assert (store.path / "edits.jsonl").stat().st_size == 2 * line + line // 2
    assert store.edits() == records[:2], "the half line counts for nothing"
    store.append_edits(records[2:])
    assert store.edits() == records


def test_a_failed_fsync_is_no_success(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append_edits([made(store)])

    def broken(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="cannot record edits: the disk is full"):
        store.append_edits([failed("case-001")])
    with pytest.raises(StoreError, match="cannot write an edit: the disk is full"):
        made(store, "case-002")
    with pytest.raises(StoreError, match="cannot write scores: the disk is full"):
        store.append_scores([ScoreRecord(key(), "m", "1", 1.0)])
    monkeypatch.undo()
    assert len(store.edits()) == 1
    assert len(store.scores()) == 0
    assert not (store.path / "edits/fakes" / f"fake-{SPEC.digest}" / "case-002.png").exists()


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system can only be mounted by root on Linux; the simulated ones ran")
    try:
        store = RunStore.open(disk / "run", create=True)
        stored = []

        def fill() -> None:
            for i in range(1000):
                record = made(store, f"case-{i:03d}")
                store.append_edits([record])
                stored.append(record)

        with pytest.raises(StoreError, match="the disk is full"):
            fill()
        assert 5 < len(stored) < 1000
        assert store.edits() == stored
        assert all(store.image(record) is not None for record in stored)
        store.image_path(stored[0]).unlink()
        store.image_path(stored[1]).unlink()
        store.append_edits([failed("late")])
        assert store.edits() == [*stored, failed("late")]
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder(store: RunStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    configure(store)
    store.append_edits([made(store)])
    store.close()
    real = os.open

    def closed(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(
        StoreError, match=r"cannot lock the run: the run folder is read-only.*Make it writable"
    ):
        store.lock()
    with pytest.raises(StoreError, match="read-only"):
        RunStore.open(store.path.parent / "new", create=True)
    assert len(store.edits()) == 1, "reading needs no lock"


def test_a_really_read_only_folder(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with RunStore.open(disk / "run", create=True) as store:
        store.append_edits([made(store)])
    if os.geteuid() != 0:
        for path in (disk / "run", disk / "run" / "lock"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        undo = [["chmod", "-R", "u+w", str(disk)]]
    else:
        done = subprocess.run(["mount", "--bind", str(disk), str(disk)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("root without the right to mount can write everywhere; the simulated ones ran")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        undo = [["umount", str(disk)]]
    try:
        store = RunStore.open(disk / "run")
        with pytest.raises(StoreError, match="the run folder is read-only"):
            store.append_edits([failed("case-001")])
        assert len(store.edits()) == 1
    finally:
        for command in undo:
            subprocess.run(command, check=True)


# Scores


def test_scores_come_back_typed_and_the_last_one_counts(store: RunStore) -> None:
    assert list(store.scores().columns) == list(SCORE_COLUMNS)
    store.append_scores(
        [
            ScoreRecord(key(), "leak_psnr", "1", 30.0),
            ScoreRecord(key(), "leak_ssim", "1", None, "no valid pixel"),
            ScoreRecord(key("case-001"), "leak_psnr", "1", 31.0),
        ]
    )
    frame = store.scores()
    frame = frame[frame["case"] == "case-000"].assign(value=[29.0, 0.5], reason=None)
    store.append_scores(frame)
    scores = RunStore.open(store.path).scores()
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert scores["value"].dtype == np.float64
    assert scores["seed"].dtype == np.int64
    found = {(row.case, row.metric): (row.value, row.reason) for row in scores.itertuples()}
    assert len(scores) == 3
    assert found["case-000", "leak_psnr"][0] == 29.0
    assert found["case-000", "leak_ssim"][0] == 0.5
    assert pd.isna(found["case-000", "leak_ssim"][1])
    assert found["case-001", "leak_psnr"][0] == 31.0


def test_a_missing_value_keeps_its_reason_and_nan_gets_one(store: RunStore) -> None:
    store.append_scores(
        [
            ScoreRecord(key(), "a", "1", None, "why"),
            ScoreRecord(key(), "b", "1", math.nan),
            ScoreRecord(key(), "c", "1", 1.0),
        ]
    )
    scores = store.scores().set_index("metric")
    assert scores.loc["a", "reason"] == "why"
    assert scores.loc["b", "reason"] == "the metric gave NaN"
    assert pd.isna(scores.loc["c", "reason"])
    assert scores["value"].isna().tolist() == [True, True, False]


def test_scores_without_a_column_are_refused(store: RunStore) -> None:
    with pytest.raises(StoreError, match="scores without reason"):
        store.append_scores(pd.DataFrame(columns=list(SCORE_COLUMNS[:-1])))


def test_many_appends_are_merged_into_few_files_and_lose_nothing(store: RunStore) -> None:
    for i in range(150):
        store.append_scores([ScoreRecord(key(f"case-{i % 100:03d}"), "m", "1", float(i))])
    assert len(list((store.path / "scores").iterdir())) <= 64
    values = store.scores().set_index("case")["value"]
    assert len(values) == 100
    assert values.to_dict() == {f"case-{i % 100:03d}": float(i) for i in range(50, 150)}


def test_merging_that_is_interrupted_loses_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(64):
        store.append_scores([ScoreRecord(key(), "m", "1", float(i))])

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.append_scores([ScoreRecord(key(), "m", "1", 99.0)])
    monkeypatch.undo()
    assert store.scores()["value"].tolist() == [99.0]
    store.append_scores([ScoreRecord(key(), "m", "1", 100.0)])
    assert store.scores()["value"].tolist() == [100.0]


def test_a_broken_score_file_is_named(store: RunStore) -> None:
    store.append_scores([ScoreRecord(key(), "m", "1", 1.0)])
    (store.path / "scores" / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"part-000001\.parquet: cannot be read"):
        store.scores()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "it is no list of set scores"),
        (["fid"], "row 1 is no set score"),
        ([{}], "row 1 is no set score"),
        ([{"value": "1.0"}], "row 1 is no set score"),
        ([{"n": 1.5}], "row 1 is no set score"),
        ([{"category": None}], "row 1 is no set score"),
    ],
)
def test_set_scores_of_another_shape_are_one_error(store: RunStore, rows: Any, message: str) -> None:
    store.append_set_scores([SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100)])
    path = store.path / "scores" / "set.json"
    (good,) = json.loads(path.read_text())
    changed = [{**good, **row} if isinstance(row, dict) and row else row for row in rows]
    path.write_text(json.dumps(changed if isinstance(rows, list) else rows))
    with pytest.raises(StoreError) as caught:
        store.set_scores()
    assert f"set.json: cannot be read ({message})" in str(caught.value)


@dataclass(frozen=True)
class Detailed(SetScore):
    weights: str = ""


def test_set_scores_keep_what_subclasses_add(store: RunStore) -> None:
    plain = SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100)
    store.append_set_scores([plain, Detailed(*astuple(replace(plain, metric="kid")), weights="abc")])
    frame = store.set_scores()
    assert list(frame.columns) == [*SET_COLUMNS, "weights"]
    assert frame.set_index("metric").loc["kid", "weights"] == "abc"
    assert pd.isna(frame.set_index("metric").loc["fid", "weights"])


def test_set_scores(store: RunStore) -> None:
    assert list(store.set_scores().columns) == list(SET_COLUMNS)
    first = SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100, low=12.0, high=13.0)
    store.append_set_scores([first, replace(first, category="attribute", value=math.nan, n=3)])
    store.append_set_scores([replace(first, value=11.0)])
    frame = RunStore.open(store.path).set_scores().set_index("category")
    assert len(frame) == 2
    assert frame.loc["all", ["value", "low", "high", "n"]].tolist() == [11.0, 12.0, 13.0, 100]
    assert math.isnan(frame.loc["attribute", "value"])
    assert frame.loc["attribute", "reason"] == "the metric gave nan"
    json.loads((store.path / "scores" / "set.json").read_text(), parse_constant=lambda name: 1 / 0)
