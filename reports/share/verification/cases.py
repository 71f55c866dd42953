"""Checks of the stored cases: their files exist, and the protocol makes the same cases again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.edit import EditCase
from bench.files import is_relative
from bench.store import RunStore, StoreError
from bench.suite import limited
from reports.share.verification.result import Check, Verification

if TYPE_CHECKING:
    from PIL.Image import Image

# Case id -> its row in ``cases.jsonl``.
CaseRows = Mapping[str, Mapping[str, Any]]


def check_case_files(
    result: Verification, store: RunStore, protocol: str, info: Mapping[str, Any], expected_files: set[str]
) -> CaseRows:
    """Checks that every file of a protocol's cases exists, and adds it to ``expected_files``.

    ``info``: the protocol's entry in ``run.json``. Returns the rows of the cases.
    """
    folder = f"cases/{protocol}"
    # Expected even where the cases cannot be read: then these files are damaged, and not stray files.
    expected_files |= {f"{folder}/protocol.json", f"{folder}/cases.jsonl"}
    try:
        stored = store.cases(protocol)
    except (StoreError, ValueError) as error:
        result.problems.append(f"{folder}: {error}")
        return {}
    for key in ("name", "version", "digest"):
        if stored.info.get(key) != info.get(key):
            result.problems.append(
                f"{folder}/protocol.json: {key} is {stored.info.get(key)!r}, run.json says {info.get(key)!r}"
            )
    # Files of each case. A name that leads out of the folder is not followed.
    rows: dict[str, Mapping[str, Any]] = {}
    for row in stored.rows:
        rows[row["id"]] = row
        for name in _files_of(row):
            if not is_relative(name):
                result.problems.append(f"{folder}/cases.jsonl: case {row['id']}: {name!r} leaves its folder")
                continue
            path = f"{folder}/{name}"
            # Cases share sources. A missing one is reported once.
            if path not in expected_files and not (store.path / path).is_file():
                result.problems.append(f"{path}: missing; case {row['id']} names it")
            expected_files.add(path)
    return rows


def check_against_protocol(
    result: Verification,
    store: RunStore,
    protocol: str,
    rows: CaseRows,
    make_cases: Callable[[str], Iterable[EditCase]] | None,
    unchanged_files: set[str] | None,
) -> None:
    """Compares every stored case with the case that the protocol makes again.

    Where the protocol cannot make its cases, the digests of the files must do. ``unchanged_files`` are the
    files with the recorded digest, None where the folder records no digests.
    """
    what, folder = f"cases of {protocol}", f"cases/{protocol}"
    problems_before = len(result.problems)

    # The stronger check: the protocol makes its cases again.
    reason = "it was not asked for"
    if make_cases is not None and rows:
        try:
            count = _compare_cases(result, store, protocol, rows, make_cases(protocol))
            how = "made again by the protocol: every image, mask, prompt and expected attribute change"
            problems = len(result.problems) - problems_before
            result.checks.append(Check(what, count, len(rows), how, problems))
            return
        # A protocol may be a plug-in. Whatever it raises ends this check and no other.
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"

    # The weaker check: digests. Somebody who changes a file can change its digest too.
    count = 0
    if unchanged_files is None:
        how = f"not checked: the protocol cannot make them again ({reason}), and there are no digests"
    else:
        how = f"digests alone, since the protocol cannot make them again ({reason})"
        if f"{folder}/cases.jsonl" in unchanged_files:
            count = sum(
                all(f"{folder}/{name}" in unchanged_files for name in _files_of(row)) for row in rows.values()
            )
    result.checks.append(Check(what, count, len(rows), how))


def _files_of(row: Mapping[str, Any]) -> list[str]:
    """Files of a case, relative to its protocol's folder."""
    scored = row["scored"] or {"regions": []}
    files = [row["source"], *(row[name] for name in ("mask", "truth") if row[name])]
    files += [scored["mask"]] if row["scored"] else []
    files += row["references"]
    return [*files, *(region["mask"] for region in (*row["regions"], *scored["regions"]))]


def _compare_cases(
    result: Verification, store: RunStore, protocol: str, rows: CaseRows, fresh_cases: Iterable[EditCase]
) -> int:
    """Adds a problem for each case that differs from the protocol's. Returns the number of compared cases."""
    stored, where, compared = store.cases(protocol), f"cases/{protocol}", 0
    # Stored cases against fresh ones.
    categories: dict[str, str] = {}
    for case in fresh_cases:
        categories[case.id] = case.category
        if case.id not in rows:
            continue
        compared += 1
        try:
            differing = _differing_parts(stored.get(case.id), case)
        except ValueError as error:
            result.problems.append(f"{where}: case {case.id}: cannot be read ({error})")
            continue
        if differing:
            result.problems.append(f"{where}: case {case.id}: not the protocol's: {', '.join(differing)}")
    # Cases that only one side has. A run with a limit holds the first cases of each category.
    for case_id in rows:
        if case_id not in categories:
            result.problems.append(f"{where}: case {case_id}: the protocol has no such case")
    for case_id in sorted(limited(categories, stored.info.get("limit")) - set(rows)):
        result.problems.append(f"{where}: case {case_id}: missing; the protocol has it")
    return compared


def _differing_parts(stored: EditCase, fresh: EditCase) -> list[str]:
    """Parts in which two cases differ, by the names they have in ``cases.jsonl``."""
    one, other = stored.request, fresh.request
    # Texts and numbers.
    # Compared field by field, so that a problem names what differs.
    values = {
        name: (getattr(stored, name), getattr(fresh, name)) for name in ("category", "source_id", "claims")
    }
    for name in ("source_prompt", "target_prompt", "region_prompt", "instruction", "edit_words", "seed"):
        values[name] = (getattr(one, name), getattr(other, name))
    values["tags"] = (dict(stored.tags), dict(fresh.tags))
    differing = [name for name, (before, after) in values.items() if before != after]

    # Images. Regions are compared one by one where both cases have as many.
    images = [("source", one.source, other.source)]
    if one.mask is not None and other.mask is not None:
        images.append(("mask", one.mask, other.mask))
    elif one.mask is not other.mask:
        differing.append("mask")
    if len(one.regions) != len(other.regions):
        differing.append("regions")
    else:
        for i, (before, after) in enumerate(zip(one.regions, other.regions, strict=True)):
            images.append((f"mask of region {i}", before.mask, after.mask))
            if (before.prompt, tuple(before.words)) != (after.prompt, tuple(after.words)):
                differing.append(f"prompt of region {i}")
    # Further input images.
    if len(one.references) != len(other.references):
        differing.append("references")
    else:
        pairs = enumerate(zip(one.references, other.references, strict=True))
        images += [(f"reference {i}", before, after) for i, (before, after) in pairs]
    # Areas of the metrics, where they are not those of the request.
    if (stored.scored is None) != (fresh.scored is None) or len(stored.areas) != len(fresh.areas):
        differing.append("scored")
    elif stored.scored is not None and fresh.scored is not None:
        images.append(("scored mask", stored.scored.mask, fresh.scored.mask))
        images += [
            (f"scored region {i}", before, after)
            for i, (before, after) in enumerate(zip(stored.areas, fresh.areas, strict=True))
        ]
    # The ground truth is the ideal edit. Not every protocol has one.
    if (stored.truth is None) != (fresh.truth is None):
        differing.append("truth")
    elif stored.truth is not None and fresh.truth is not None:
        images.append(("truth", stored.truth, fresh.truth))
    return differing + [name for name, before, after in images if not _same_image(before, after)]


def _same_image(one: Image, other: Image) -> bool:
    # Decoded pixels: another version of a library may compress the same image to other bytes.
    return one.size == other.size and one.mode == other.mode and one.tobytes() == other.tobytes()
