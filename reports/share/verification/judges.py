"""Checks the scores of judges against the replies that they were read from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.edit import EditRecord
from bench.judges.pointwise import values_of_replies
from bench.judges.replies import stored_judges
from bench.store import RunStore, StoreError
from reports.share.verification.result import Check, Verification
from reports.share.verification.scores import PLACE_COLUMNS, edit_place


def check_judges(
    result: Verification, store: RunStore, records: Sequence[EditRecord], scores: pd.DataFrame
) -> None:
    """Reads every stored reply again and compares the scores to the last digit. Without judges there is no check."""
    judges = [judge for judge in stored_judges(store) if judge.versions]
    if not judges:
        return
    problems_before, checked = len(result.problems), 0
    places = {edit_place(record): record.key.digest for record in records}
    for judge in judges:
        try:
            values = values_of_replies(store, judge, records)
        except StoreError as error:
            result.problems.append(str(error))
            continue
        rows = scores[scores["metric_version"].isin(list(judge.versions)) & scores["value"].notna()]
        for row in rows.to_dict("records"):
            digest = places.get(tuple(row[name] for name in PLACE_COLUMNS))
            expected = values.get((digest, row["metric"])) if digest is not None else None
            checked += 1
            if expected != row["value"]:
                result.problems.append(
                    f"scores: {row['metric']} of {row['case']} by {row['method']}: {row['value']!r} is stored, the "
                    f"replies in judge/{judge.digest}.jsonl give {expected!r}"
                )
    how = "read again from the stored replies, to the last digit"
    result.checks.append(
        Check("scores of judges", checked, checked, how, len(result.problems) - problems_before)
    )
