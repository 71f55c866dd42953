"""Checks of the rest of a run folder: the manifest, the recorded digests, the report and stray files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.edit import MethodSpec
from bench.files import sha256_file
from bench.store import DIGESTS, RunStore, StoreError
from reports.share.report_files import different_files, file_names
from reports.share.verification.recompute import RebuiltReport
from reports.share.verification.result import Check, Verification


def check_manifest(result: Verification, manifest: Mapping[str, Any]) -> None:
    """Checks the digests of the methods in ``run.json``, and its seed against the suite's."""
    problems_before = len(result.problems)
    # A method's digest is its identity: another name or option is another method.
    for digest, entry in manifest["methods"].items():
        try:
            expected = MethodSpec(entry["name"], entry["options"]).digest
        except (KeyError, TypeError, ValueError) as error:
            result.problems.append(f"run.json: method {digest}: no name or no options ({error})")
            continue
        if expected != digest:
            result.problems.append(
                f"run.json: method {entry['name']}: its digest is {digest}, its name and options make {expected}"
            )
    # A run of a suite has the suite's seed.
    suite, seed = manifest.get("suite"), manifest.get("seed")
    # A run may be made without a suite file, through the Python interface.
    if isinstance(suite, Mapping) and suite.get("seed", seed) != seed:
        result.problems.append(f"run.json: the suite's seed is {suite['seed']}, the run's {seed}")
    # A run may have more seeds than its last suite.
    if isinstance(suite, Mapping) and not set(suite.get("seeds") or ()) <= set(manifest.get("seeds", [seed])):
        result.problems.append(f"run.json: not all of the suite's seeds {suite['seeds']} are the run's")
    count = len(manifest["methods"])
    how = "each digest against the method's name and options; the seed against the suite's"
    problems = len(result.problems) - problems_before
    result.checks.append(Check("methods in run.json", count, count, how, problems))


def check_digests(result: Verification, store: RunStore) -> set[str] | None:
    """Compares every file with the SHA-256 that was recorded when it was written.

    Returns the names of the unchanged files, None where the folder records no digests.
    """
    problems_before, what = len(result.problems), "files"
    try:
        digests, complete = store.digests()
    except StoreError as error:
        result.problems.append(f"{DIGESTS}: {error}")
        return None
    present = {name for name in file_names(store.path) if _needs_digest(name)}
    if not digests:
        how = "not checked: the folder was made before digests were written"
        result.checks.append(Check(what, 0, len(present), how))
        return None

    # Files with a digest. Four threads overlap reading.
    names = sorted(present & set(digests))
    with ThreadPoolExecutor(4) as pool:
        current = dict(zip(names, pool.map(lambda name: sha256_file(store.path / name), names), strict=True))
    unchanged = {name for name in names if current[name] == digests[name]}
    result.problems += [f"{name}: not the file that was written" for name in names if name not in unchanged]

    # Files without a digest, and digests without a file. check_case_files reports missing files of cases.
    for name in sorted(set(digests) - present):
        if not name.startswith("cases/"):
            result.problems.append(f"{name}: missing; it was written")
    for name in sorted(present - set(digests)):
        # Older runs have digests only of the files that were written since they were introduced.
        if complete and name.partition("/")[0] in ("cases", "scores"):
            result.problems.append(f"{name}: this program did not write it")

    how = "against the SHA-256 written down with it, which whoever changes a file can change too"
    problems = len(result.problems) - problems_before
    result.checks.append(Check(what, len(names), len(present), how, problems))
    return unchanged


def _needs_digest(name: str) -> bool:
    """True where a file has a recorded digest. Edits have theirs in ``edits.jsonl``, logs and temporary files none."""
    top = name.partition("/")[0]
    # The replies of a judge are a log, its description is none.
    return (
        name == "run.json"
        or top in ("cases", "scores", "report")
        or (top == "judge" and name.endswith(".json"))
    )


def check_report(
    result: Verification,
    store: RunStore,
    build_report: Callable[[RunStore, Path], RebuiltReport] | None,
    unchanged_files: set[str] | None,
) -> None:
    """Compares every file of the report with a report that is built again.

    Files that the new report does not cover are compared with their recorded digest.
    """
    problems_before, what = len(result.problems), "files of the report"
    stored = file_names(store.report_dir)
    if not stored:
        result.checks.append(Check(what, 0, 0, "there is no report"))
        return

    # The stronger check: build the report again.
    compared, reason = set[str](), "it was not built again"
    if "summary.csv" in stored:
        # Reports now have it in data/, so that no file of the two reports would match.
        reason = "report of an earlier layout: run `report` again"
    elif build_report is not None:
        compared, reason = _compare_with_rebuilt(result, store, build_report, stored)

    # The weaker check: digests of the other files. Somebody who changes a file can change its digest too.
    digested = {name for name in stored if f"report/{name}" in (unchanged_files or ())}
    by_digest = (stored - compared) & digested
    unchecked = stored - compared - by_digest
    # One line says how many files each of the checks covers, the weakest last.
    how = f"built again from the scores and compared: {len(compared)}"
    how += f"; by its digest alone: {len(by_digest)}" if by_digest else ""
    how += f"; not checked: {len(unchecked)}" if unchecked else ""
    how += f"; {reason}" if reason else ""
    problems = len(result.problems) - problems_before
    result.checks.append(Check(what, len(compared) + len(by_digest), len(stored), how, problems))
    if not reason and unchecked:
        result.notes.append(f"not of this report: {_first_names(unchecked)}: `report` does not write them")


def _compare_with_rebuilt(
    result: Verification,
    store: RunStore,
    build_report: Callable[[RunStore, Path], RebuiltReport],
    stored: set[str],
) -> tuple[set[str], str]:
    """Names of the files that a new report confirms or contradicts, and the reason why others are undecided."""
    with tempfile.TemporaryDirectory(prefix="prompteditbench-") as empty:
        try:
            rebuilt = build_report(store, Path(empty))
            different = different_files(store.report_dir, rebuilt.folder)
            same = file_names(rebuilt.folder) & stored - set(different)
        # Whatever a report raises ends this check and no other.
        except Exception as error:
            return set(), f"it cannot be built again ({error})"
    if not different:
        return same, ""
    # A difference counts only where the same program with the same options should have made the same file.
    if rebuilt.recorded and rebuilt.same_program:
        result.problems += [f"report/{name}: {how}" for name, how in different.items()]
        return same | set(different) & stored, ""
    made_by = "another version of the program" if rebuilt.recorded else "options that it does not name"
    result.notes.append(f"report: differ when built again: {_first_names(different)}; made with {made_by}")
    return same, f"{len(different)} files differ, which were made with {made_by}"


def _first_names(names: Iterable[str]) -> str:
    """The first five names and the number of the others."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def check_stray_files(result: Verification, store: RunStore, expected_files: set[str]) -> None:
    """Adds a problem for each file that no record names. The report, temporary files and the lock are exempt."""
    expected = expected_files | {"run.json", "lock", DIGESTS}
    # The replies of each judge, and its description.
    expected |= {
        f"judge/{path.stem}{suffix}"
        for path in store.path.glob("judge/*.json")
        for suffix in (".json", ".jsonl")
    }
    expected |= {"judge/votes.csv", "judge/votes.parquet"}
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        # A link to a folder is a file here, so that it cannot hide anything.
        top = name.partition("/")[0]
        if top == "report" or (path.is_dir() and not path.is_symlink()):
            continue
        if top == "tmp":
            result.notes.append(f"{name}: left by a process that was stopped, or still being written")
        elif name not in expected:
            result.problems.append(f"{name}: nothing in the run names this file")
