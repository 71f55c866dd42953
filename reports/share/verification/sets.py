"""Checks of the scores of whole sets of edits (Fréchet distance and similar metrics)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.edit import EditRecord
from bench.store import RunStore, SetScore, StoreError, set_inputs
from reports.share.verification.cases import CaseRows
from reports.share.verification.recompute import ScoreSets, sample_rank, value_text, values_differ
from reports.share.verification.result import Check, Verification

# One record of ``scores/set.json``.
SetRow = Mapping[Any, Any]


def check_sets(
    result: Verification, store: RunStore, records: Sequence[EditRecord], cases: Mapping[str, CaseRows]
) -> list[SetRow]:
    """Checks that every set score is of the edits that exist. Returns the stored set scores."""
    try:
        rows: list[SetRow] = list(store.set_scores(stale=True).to_dict(orient="records"))
    except (StoreError, ValueError) as error:
        result.problems.append(f"scores/set.json: {error}")
        return []

    # The edits of each set: the digest of their files, and how many have an image.
    hashes: dict[tuple[str, str, str], list[str]] = {}
    images: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        row = cases[record.key.protocol][record.key.case]
        for category in ("all", row["category"]):
            place = (record.key.protocol, record.key.method, category)
            hashes.setdefault(place, []).append(record.sha256 or "")
            # A set score is over the edits that have an image.
            images[place] += record.file is not None
    protocols = store.manifest["protocols"]
    inputs = {
        place: set_inputs(protocols[place[0]]["digest"], set_hashes) for place, set_hashes in hashes.items()
    }

    # Each stored score against its set.
    occurrences = Counter(_set_key(row) for row in rows)
    for protocol, _, method, category, metric in (key for key, count in occurrences.items() if count > 1):
        result.problems.append(f"scores/set.json: {metric} of {method} in {protocol}/{category}: there twice")
    for row in rows:
        place = (row["protocol"], row["method"], row["category"])
        if row["n"] > images[place]:
            result.problems.append(f"{_where(row)}: over {row['n']} edits, there are {images[place]}")
        # Set scores of earlier versions have no digest of their inputs.
        elif isinstance(row.get("inputs"), str) and row["inputs"] != inputs.get(place, ""):
            result.problems.append(f"{_where(row)}: of other edits than those that are here. Score again")
    return rows


def check_set_values(
    result: Verification,
    store: RunStore,
    rows: Sequence[SetRow],
    broken: set[tuple[str, str]],
    score_sets: ScoreSets | None,
    count: int | None,
    seed: int,
) -> None:
    """Computes the scores of some sets again and compares them with the stored ones.

    ``broken``: (protocol, method digest) of sets with a changed or missing edit, which are left out. ``count``:
    number of sets, all if None.
    """
    if not rows:
        return
    what = "set scores"
    every_set = {(row["protocol"], row["method"]) for row in rows}
    # The same seed chooses the same sets, whatever the order of the rows.
    ranked = sorted(every_set - broken, key=lambda place: sample_rank(seed, "/".join(place)))
    chosen = ranked if count is None else ranked[:count]
    if score_sets is None or not chosen:
        result.checks.append(Check(what, 0, len(rows), "not checked: not computed again"))
        return
    try:
        fresh = list(score_sets(store, chosen))
    # A metric may be a plug-in. Whatever it raises ends this check and no other.
    except Exception as error:
        result.checks.append(Check(what, 0, len(rows), f"not checked: {type(error).__name__}: {error}"))
        return

    problems_before = len(result.problems)
    in_chosen_sets = [row for row in rows if (row["protocol"], row["method"]) in chosen]
    compared = _compare_sets(result, in_chosen_sets, fresh)
    how = f"computed again from the edits: {len(chosen)} of {len(every_set)} sets"
    if len(chosen) < len(every_set):
        how += f" (seed {seed})"
    problems = len(result.problems) - problems_before
    result.checks.append(Check(what, compared, len(rows), how, problems))


def _compare_sets(result: Verification, rows: Sequence[SetRow], fresh: Iterable[SetScore]) -> int:
    """Adds a problem for each number that differs. Returns the number of compared set scores."""
    # A score that cannot be computed here, or only by another version, says nothing about the stored one.
    by_key = {_set_key(asdict(score)): score for score in fresh}
    compared, not_recomputed = 0, Counter[str]()
    for row in rows:
        score = by_key.get(_set_key(row))
        if score is None or score.metric_version != row["metric_version"]:
            not_recomputed[row["metric"]] += 1
            continue
        compared += 1
        for name, value in (("value", score.value), ("low", score.low), ("high", score.high), ("n", score.n)):
            before, after = float(row[name]), math.nan if value is None else float(value)
            # A KID or CMMD can be far below 1, so the tolerance is relative to 0.1 at least.
            if values_differ(before, after, least_scale=0.1):
                result.problems.append(
                    f"{_where(row)}: {name} is {value_text(before)}, computed again {value_text(after)}"
                )
    if not_recomputed:
        result.notes.append(
            f"not computed again: {', '.join(sorted(not_recomputed))} ({sum(not_recomputed.values())} set scores): "
            "the weights or the real images are not here, or another version of the metric scored them"
        )
    return compared


def _set_key(row: SetRow) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("protocol", "protocol_version", "method", "category", "metric"))


def _where(row: SetRow) -> str:
    """Beginning of a problem's line."""
    return f"scores/set.json: {row['metric']} of {row['method']} in {row['protocol']}/{row['category']}"
