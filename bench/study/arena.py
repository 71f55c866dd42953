"""Reads pairwise votes in the form of arena exports: ``model_a``, ``model_b`` and ``winner``, one row per vote.

Chat and image arenas publish such files, and pairwise judges write them. They have no trials, attention checks or
reaction times, so no exclusion rule applies. Whose votes they are is said by whoever imports them, and votes of models
are never counted together with people's.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.study.types import BOTH_BAD, CONTROL, NO_PREFERENCE, TIE
from bench.study.votes.exclusion import Exclusion
from bench.study.votes.frame import ALL, VotesError, check_votes

if TYPE_CHECKING:
    import pandas as pd

# Names of a value in files of different arenas, the usual one first.
FIRST = ("model_a", "left_model", "model_1")
SECOND = ("model_b", "right_model", "model_2")
WINNER = ("winner", "vote_type", "vote", "preference")
RATER = ("rater", "judge", "judge_user_id", "user_id", "evaluator")
CASE = ("case", "question_id", "key", "id", "instruction", "prompt")
CATEGORY = ("category", "task_type", "task")
TIME = ("tstamp", "timestamp", "time")

# Words for the outcome of a vote, in small letters and without spaces, dashes, underscores and brackets.
OUTCOMES: Mapping[str, str] = {
    **dict.fromkeys(("modela", "a", "left", "leftbetter", "leftvote", "1", "model1"), "first"),
    **dict.fromkeys(("modelb", "b", "right", "rightbetter", "rightvote", "2", "model2"), "second"),
    **dict.fromkeys(("tie", "same", "equal", "draw", "bothgood", "tiebothgood"), TIE),
    **dict.fromkeys(("tiebothbad", "bothbad", "neither", "bothbadvote"), BOTH_BAD),
}


@dataclass(frozen=True)
class Origin:
    """Facts about the votes of a file that the file itself does not hold."""

    study: str
    # `human` or `model`.
    rater_kind: str
    protocol: str = "arena"
    question: str = "overall"
    # Name of the rater where no row names one.
    rater: str = "unknown"


def import_arena(path: Path, origin: Origin) -> pd.DataFrame:
    """The votes of an arena's file: ``.csv``, ``.json`` (a list), ``.jsonl`` or ``.parquet``.

    Columns: those of :mod:`bench.study.votes.frame`. A row's case is what identifies its question, or else its number.
    Raises VotesError that names the row.
    """
    import pandas as pd

    rows = _rows(path)
    if not rows:
        raise VotesError(f"{path}: holds no votes. Give another file.")
    now = datetime.now(UTC)
    votes = pd.DataFrame([_vote(path, number, row, origin, now) for number, row in enumerate(rows, 1)])
    for column in ("candidates", "repeat_of", "expected"):
        votes[column] = votes[column].astype(object)
    return check_votes(votes)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            from pyarrow import parquet

            return list(parquet.read_table(path).to_pylist())
        text = path.read_text(encoding="utf-8-sig")
        if ending == ".csv":
            return list(csv.DictReader(text.splitlines(keepends=True)))
        if ending == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if ending == ".json":
            content = json.loads(text)
            if isinstance(content, list):
                return content
            raise ValueError("it is no list of votes")
    # ValueError is also what JSON, Unicode and Parquet raise.
    except (OSError, ValueError, csv.Error) as error:
        raise VotesError(f"{path}: cannot be read ({error}). Give a file of votes.") from error
    raise VotesError(f"{path.name}: the name must end in .csv, .json, .jsonl or .parquet.")


def _vote(path: Path, number: int, row: Any, origin: Origin, now: datetime) -> dict[str, Any]:
    """One vote by column. Raises VotesError."""
    where = f"{path}, vote {number}"
    if not isinstance(row, Mapping):
        raise VotesError(f"{where}: is no record with model_a, model_b and winner.")
    first, second = _value(row, FIRST), _value(row, SECOND)
    if not first or not second:
        raise VotesError(f"{where}: has no {FIRST[0]} and {SECOND[0]}. Rename the columns.")
    for title in (first, second):
        if title in NO_PREFERENCE or title.startswith(CONTROL) or "|" in title:
            raise VotesError(f"{where}: the model {title!r} has a name that means something else. Rename it.")
    if first == second:
        raise VotesError(f"{where}: compares {first!r} with itself. Leave it out.")
    case = _value(row, CASE) or str(number)
    # A whole prompt is no id.
    case = case if len(case) <= 60 else hashlib.sha256(case.encode()).hexdigest()[:16]
    category = _value(row, CATEGORY) or origin.protocol
    return {
        "study": origin.study,
        "rater": _value(row, RATER) or origin.rater,
        "trial": f"v{number:06d}",
        "question": origin.question,
        "protocol": origin.protocol,
        "case": case,
        "source": case,
        "category": f"{category} (category)" if category == ALL else category,
        "kind": "pair",
        "candidates": (first, second),
        "answer": _answer(where, row, first, second),
        "role": "trial",
        "repeat_of": None,
        "expected": None,
        # Not known. The rule below therefore excludes nobody.
        "reaction_ms": 0,
        "server_time": _time(where, _value(row, TIME), now),
        "rater_kind": origin.rater_kind,
        "exclusion": Exclusion(None, None, None).to_json(),
    }


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that has a value, as text."""
    for name in names:
        value = row.get(name)
        # NaN differs from itself.
        if value is not None and value == value and str(value).strip():
            return str(value).strip()
    return ""


def _answer(where: str, row: Mapping[str, Any], first: str, second: str) -> str:
    text = _value(row, WINNER)
    if text in (first, second):
        return text
    plain = "".join(letter for letter in text.lower() if letter.isalnum())
    outcome = OUTCOMES.get(plain)
    if outcome is None:
        raise VotesError(
            f"{where}: the winner {text[:40]!r} is none of model_a, model_b, tie and tie (bothbad). Rename it."
        )
    return {"first": first, "second": second}.get(outcome, outcome)


def _time(where: str, text: str, now: datetime) -> datetime:
    """A time in seconds since 1970 or in ISO 8601. ``now`` where a row has none."""
    if not text:
        return now
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise VotesError(f"{where}: {text[:40]!r} is no time.") from None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        raise VotesError(f"{where}: {text[:40]!r} is no time.") from None
