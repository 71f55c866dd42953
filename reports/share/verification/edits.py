"""Checks of the edits: their records fit the run, and their files have the recorded SHA-256."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.edit import EditRecord
from bench.files import sha256_file
from bench.store import RunStore, StoreError
from reports.share.verification.cases import CaseRows
from reports.share.verification.result import Check, Verification


def check_records(
    result: Verification, store: RunStore, cases: Mapping[str, CaseRows], expected_files: set[str]
) -> list[EditRecord]:
    """Checks ``edits.jsonl`` against ``run.json`` and the cases, and adds the edits' files to ``expected_files``.

    ``cases``: protocol -> case id -> row. Returns the records without a problem.
    """
    expected_files.add("edits.jsonl")
    if _last_line_is_torn(store.path / "edits.jsonl"):
        result.problems.append("edits.jsonl: its last line is torn; the edit of it does not count")
    try:
        records = store.edits()
    except (StoreError, ValueError) as error:
        result.problems.append(f"edits.jsonl: {error}")
        return []

    # Each record by itself.
    manifest, methods = store.manifest, store.methods
    titles = {digest: spec.title for digest, spec in methods.items()}
    sound: list[EditRecord] = []
    for record in records:
        key = record.key
        if record.file is not None:
            expected_files.add(record.file)
        problem = _record_problem(record, manifest, store.seeds, titles, cases)
        if not problem and record.file is not None:
            usual_file = store.edit_file(key.protocol, methods[key.method], key.case, key.seed)
            if record.file != usual_file:
                problem = f"its file is {record.file}, not {usual_file}"
        if problem:
            method = titles.get(key.method, key.method)
            result.problems.append(f"edits.jsonl: {key.case} by {method} in {key.protocol}: {problem}")
        else:
            sound.append(record)

    _note_missing_edits(result, sound, titles, cases, len(store.seeds))
    how = "protocol, version, method, case, seed and file name against run.json and the cases"
    problems = len(records) - len(sound)
    result.checks.append(Check("records of edits", len(records), len(records), how, problems))
    return sound


def _last_line_is_torn(log: Path) -> bool:
    """True where the file does not end with a line break, as after a process that was killed while writing."""
    if not log.is_file() or not log.stat().st_size:
        return False
    with log.open("rb") as stream:
        # One byte before the end (whence 2).
        stream.seek(-1, 2)
        return stream.read(1) != b"\n"


def _record_problem(
    record: EditRecord,
    manifest: Mapping[str, Any],
    seeds: Collection[int],
    titles: Mapping[str, str],
    cases: Mapping[str, CaseRows],
) -> str:
    """The first contradiction between a record and the run, or an empty string."""
    key = record.key
    info = manifest["protocols"].get(key.protocol)
    if info is None:
        return f"protocol {key.protocol} is not in run.json"
    if key.method not in titles:
        return f"method {key.method} is not in run.json"
    if key.protocol_version != info.get("version"):
        return f"protocol version {key.protocol_version}, run.json says {info.get('version')}"
    if key.seed not in seeds:
        return f"seed {key.seed}, run.json says {', '.join(map(str, seeds))}"
    if key.case not in cases[key.protocol]:
        return "there is no such case"
    # Exactly one of the two must be there.
    if (record.file is None) == (record.error is None):
        return "neither a file nor an error, or both"
    return ""


def _note_missing_edits(
    result: Verification,
    records: Sequence[EditRecord],
    titles: Mapping[str, str],
    cases: Mapping[str, CaseRows],
    seeds: int,
) -> None:
    """Adds a note for each method that has fewer edits than cases, and for each that failed on some."""
    # (protocol, method digest) -> number of edits
    recorded = Counter((record.key.protocol, record.key.method) for record in records)
    failed = Counter(
        (record.key.protocol, record.key.method) for record in records if record.error is not None
    )
    for protocol, rows in cases.items():
        for digest, title in titles.items():
            # Notes, not problems: a run may be verified before it is finished.
            planned = len(rows) * seeds
            missing, failures = planned - recorded[protocol, digest], failed[protocol, digest]
            if missing > 0:
                result.notes.append(
                    f"unfinished: {missing} of {planned} edits of {title} in {protocol} were never made"
                )
            if failures:
                result.notes.append(f"failed: {failures} edits of {title} in {protocol}, as recorded")


def check_edit_files(
    result: Verification, store: RunStore, records: Sequence[EditRecord]
) -> list[EditRecord]:
    """Checks the SHA-256 of each edit's file. Returns the records whose file is the recorded one."""
    with_file = [record for record in records if record.file is not None]
    # Four threads overlap reading. Hashing releases Python's global lock.
    with ThreadPoolExecutor(4) as pool:
        problems = list(pool.map(lambda record: _file_problem(store, record), with_file))
    result.problems += [problem for problem in problems if problem]
    how = "SHA-256 of each file against its record; no edit was made again"
    count = sum(map(bool, problems))
    result.checks.append(Check("edits", len(with_file), len(with_file), how, count))
    return [record for record, problem in zip(with_file, problems, strict=True) if not problem]


def _file_problem(store: RunStore, record: EditRecord) -> str:
    """The problem of an edit's file, or an empty string."""
    assert record.file is not None
    try:
        digest = sha256_file(store.path / record.file)
    except FileNotFoundError:
        return f"{record.file}: missing"
    except OSError as error:
        return f"{record.file}: cannot be read ({error.strerror})"
    if digest != record.sha256:
        return f"{record.file}: its SHA-256 is {digest[:12]}…, recorded is {str(record.sha256)[:12]}…"
    return ""
