"""Checks of the scores of single edits: they belong to existing edits, and a sample is computed again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.edit import EditRecord, ScoreRecord
from bench.metrics import METRICS, raw_name
from bench.store import RunStore, StoreError
from reports.share.verification.recompute import ScoreEdits, sample_rank, value_text, values_differ
from reports.share.verification.result import Check, Verification

if TYPE_CHECKING:
    import pandas as pd

# Protocol, protocol version, method digest, case id, seed: the columns that name an edit.
EditPlace = tuple[str, str, str, str, int]
PLACE_COLUMNS = ("protocol", "protocol_version", "method", "case", "seed")


def edit_place(record: EditRecord | ScoreRecord) -> EditPlace:
    key = record.key
    return (key.protocol, key.protocol_version, key.method, key.case, key.seed)


def check_scores(
    result: Verification, store: RunStore, records: Sequence[EditRecord], expected_files: set[str]
) -> pd.DataFrame | None:
    """Checks that every score is of an edit that exists. Returns the scores, None where they cannot be read."""
    problems_before = len(result.problems)
    folder = store.path / "scores"
    if folder.is_dir():
        # Part files are named by number. set.json holds the scores of sets.
        expected_files |= {f"scores/{path.name}" for path in folder.glob("part-*.parquet")}
        expected_files.add("scores/set.json")
    try:
        scores = store.scores()
    except (StoreError, ValueError) as error:
        result.problems.append(f"scores: {error}")
        return None

    # Stale scores are of an image that was replaced. They are a problem where the present image has no score.
    names = ["protocol", "method", "case", "seed", "metric"]
    current = set(zip(*(scores[name].tolist() for name in names), strict=True))
    result.problems += [
        f"scores: {row.metric} of {row.case} by {row.method} in {row.protocol}: of another edit than the one that is "
        "here. Score again"
        # By edit and metric: an image that was made anew and scored again makes its old score harmless.
        for row in store.scores(stale=True).itertuples(index=False)
        if (row.protocol, row.method, row.case, row.seed, row.metric) not in current
    ]

    result.problems += _unsupported_scores(scores, records)
    # A table must not mix two versions of one metric. A judge's failures have the version of no model.
    versions = scores.loc[scores["value"].notna(), ["metric", "metric_version"]].drop_duplicates()
    for metric, count in Counter(versions["metric"].tolist()).items():
        if count > 1:
            several = ", ".join(sorted(versions.loc[versions["metric"] == metric, "metric_version"].tolist()))
            if raw_name(metric) in METRICS and METRICS[raw_name(metric)].startswith("bench.judges."):
                # Nobody can make a server answer with one model. The tables name each.
                result.notes.append(f"{metric}: the scores of several models that answered: {several}")
            else:
                result.problems.append(f"scores: {metric} is there in versions {several}: score again")

    how = "of edits that exist, one version of a metric, a reason where there is no value"
    problems = len(result.problems) - problems_before
    result.checks.append(Check("records of scores", len(scores), len(scores), how, problems))
    return scores


def _unsupported_scores(scores: pd.DataFrame, records: Sequence[EditRecord]) -> list[str]:
    """One line for each way in which scores lack an edit, an image or a reason."""
    # A failed edit has a record and no image. Scores may say so with a reason, but not with a value.
    recorded = {edit_place(record) for record in records}
    with_image = {edit_place(record) for record in records if record.file is not None}
    has_value = scores["value"].notna()
    counts: Counter[str] = Counter()
    places = zip(*(scores[column].tolist() for column in PLACE_COLUMNS), strict=True)
    for place, valued in zip(places, has_value.tolist(), strict=True):
        if place not in recorded:
            counts["of edits that are not recorded"] += 1
        elif valued and place not in with_image:
            counts["with a value, of edits that failed"] += 1
    unexplained = int((~has_value & scores["reason"].isna()).sum())
    if unexplained:
        counts["without a value and without a reason"] = unexplained
    return [f"scores: {count} {what}" for what, count in counts.items()]


def check_sampled_scores(
    result: Verification,
    store: RunStore,
    records: Sequence[EditRecord],
    scores: pd.DataFrame,
    score_edits: ScoreEdits | None,
    sample: int,
    seed: int,
) -> None:
    """Computes the scores of ``sample`` edits again and compares them with the stored ones.

    ``records`` are those whose file is the recorded one.
    """
    what = "edits scored again"
    if score_edits is None or not sample:
        result.checks.append(Check(what, 0, len(records), "not checked: not computed again"))
        return
    # The same seed chooses the same edits, whatever the order of the records.
    chosen = sorted(records, key=lambda record: sample_rank(seed, record.key.digest))[:sample]
    stored = _stored_values(scores, chosen)
    try:
        fresh = list(score_edits(store, chosen))
    # A metric may be a plug-in. Whatever it raises ends this check and no other.
    except Exception as error:
        reason = f"not checked: the sample cannot be scored again ({type(error).__name__}: {error})"
        result.checks.append(Check(what, 0, len(records), reason))
        return

    problems_before = len(result.problems)
    checked, compared = _compare_scores(result, stored, fresh)
    # Metrics whose weights are not on this machine.
    absent = sorted({metric for _, metric in stored} - {score.metric for score in fresh})
    if absent:
        result.notes.append(f"not scored again: {', '.join(absent)}")
    how = f"computed again by the metrics, {compared:,} of {len(stored):,} values; sampled with seed {seed}"
    if result.largest_difference is not None:
        how += f"; largest difference {result.largest_difference:.2g}"
    if not checked:
        how = "not checked: none of the stored values could be computed again"
    problems = len(result.problems) - problems_before
    result.checks.append(Check(what, checked, len(records), how, problems))


# (edit, metric) -> (metric version, value). The value is NaN where there is none.
StoredValues = Mapping[tuple[EditPlace, str], tuple[str, float]]


def _stored_values(scores: pd.DataFrame, records: Sequence[EditRecord]) -> StoredValues:
    """The stored values of these edits."""
    sampled = {edit_place(record) for record in records}
    # The selection by case makes the loop short. It may still hold other methods' edits.
    rows = scores[scores["case"].isin([record.key.case for record in records])]
    columns = (*PLACE_COLUMNS, "metric", "metric_version", "value")
    values: dict[tuple[EditPlace, str], tuple[str, float]] = {}
    for *place, metric, version, value in zip(*(rows[column].tolist() for column in columns), strict=True):
        edit: EditPlace = tuple(place)
        if edit in sampled:
            values[edit, metric] = (version, value)
    return values


def _compare_scores(
    result: Verification, stored: StoredValues, fresh: Iterable[ScoreRecord]
) -> tuple[int, int]:
    """Adds a problem for each value that differs. Returns the numbers of compared edits and of compared values."""
    largest, compared = 0.0, 0
    checked: set[EditPlace] = set()
    other_versions: set[str] = set()
    for score in fresh:
        place = edit_place(score)
        if (place, score.metric) not in stored:
            continue
        version, before = stored[place, score.metric]
        # Values of another version may differ without an error.
        if version != score.metric_version:
            other_versions.add(f"{score.metric} (stored {version}, here {score.metric_version})")
            continue
        compared += 1
        checked.add(place)
        after = math.nan if score.value is None else score.value
        if not math.isnan(before) and not math.isnan(after):
            # Relative only above 1: most scores lie in [0, 1], where a relative difference of a tiny value means
            # nothing.
            largest = max(largest, abs(after - before) / max(1.0, abs(before)))
        if values_differ(before, after, least_scale=1.0):
            key = score.key
            result.problems.append(
                f"scores: {score.metric} of {key.case} by {key.method} in {key.protocol}: "
                f"stored {value_text(before)}, computed again {value_text(after)}"
            )
    if other_versions:
        result.notes.append(
            "another version: not compared, since scored by another version: "
            f"{', '.join(sorted(other_versions))}"
        )
    result.largest_difference = largest if compared else None
    return len(checked), compared
