"""The votes as a table: which columns, what they may hold, and what is refused before anything is counted.

One row is one answer of one rater to one trial:

=============  ====================================================================================
study          which study
rater          who answered (an id of the study's store, never a name)
trial          which showing; unique per study and rater
question       the name of the question asked
protocol       which data set the edits are of
case, source   the edit case and its source image; votes on one source are not independent
category       the edit category of the case
kind           ``"pair"`` (two candidates, a tie is allowed) or ``"best"`` (two or more, one is chosen)
candidates     tuple of method titles in the order shown, left to right
answer         one of the candidates, or ``"tie"`` where the kind is ``"pair"``
role           ``"trial"``, ``"repeat"``, ``"attention"`` or ``"practice"``; only the first is a vote
repeat_of      of a repeat: the trial that it repeats; else None
expected       of an attention check: the right answer; else None
reaction_ms    milliseconds from the showing to the answer
server_time    when the answer was stored, UTC
rater_kind     optional: ``"human"`` (the default) or ``"simulated"``
exclusion      optional: the exclusion rule that the study stated, as JSON; None where it is not known
=============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.edit import ALL as ALL
from bench.study import StudyError
from bench.study.types import KINDS, ROLES
from bench.study.types import TIE as TIE

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "study",
    "rater",
    "trial",
    "question",
    "protocol",
    "case",
    "source",
    "category",
    "kind",
    "candidates",
    "answer",
    "role",
    "repeat_of",
    "expected",
    "reaction_ms",
    "server_time",
)
OPTIONAL = ("rater_kind", "exclusion")
RATER_KINDS = ("human", "simulated")
SCOPE = ("question", "protocol", "category")
"""Columns that say what a result is about; ``"all"`` where it is about all of them together."""

_TEXTS = ("study", "rater", "trial", "question", "protocol", "case", "source", "category", "answer")


class VotesError(StudyError):
    """Votes that cannot be read or counted. The message names the column, a row and the remedy."""


def check_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """``votes`` with a fresh index and the columns above alone, everything in them checked.

    ``rater_kind`` and ``exclusion`` are filled in; candidates are tuples; missing values of ``repeat_of`` and
    ``expected`` are None; ``server_time`` is UTC; texts are of dtype object. The order of the rows stays. Raises
    :class:`VotesError`.
    """
    import pandas as pd

    missing = [column for column in COLUMNS if column not in votes.columns]
    if missing:
        raise VotesError(
            f"the votes lack the columns {', '.join(missing)}. Export them from the study again."
        )
    found = votes[[*COLUMNS, *(c for c in OPTIONAL if c in votes.columns)]].reset_index(drop=True).copy()
    if "rater_kind" not in found.columns:
        found["rater_kind"] = pd.Series(["human"] * len(found), dtype=object)
    for column in (*_TEXTS, "kind", "role", "rater_kind"):
        values = found[column].tolist()
        found[column] = pd.Series(values, dtype=object)
        _refuse(found, [not (isinstance(v, str) and v) for v in values], column, "is no text")
    for column, known in (("kind", KINDS), ("role", ROLES), ("rater_kind", RATER_KINDS)):
        _refuse(found, ~found[column].isin(known), column, f"is none of {', '.join(known)}")
    for column in ("question", "protocol", "category"):
        _refuse(found, found[column] == ALL, column, "is a word that stands for all of them: rename it")
    if "exclusion" not in found.columns:
        found["exclusion"] = None
    for column in ("repeat_of", "expected", "exclusion"):
        found[column] = pd.Series([None if _absent(v) else v for v in found[column].tolist()], dtype=object)
    found["candidates"] = pd.Series([_titles(v) for v in found["candidates"].tolist()], dtype=object)
    shown = found["candidates"].tolist()
    _refuse(found, [c is None for c in shown], "candidates", "is no list of distinct method titles")
    _refuse(found, [TIE in c for c in shown], "candidates", f"has a method titled {TIE!r}: rename the method")
    pair = (found["kind"] == "pair").to_numpy()
    sizes = [len(c) for c in shown]
    wrong = [n != 2 if p else n < 2 for n, p in zip(sizes, pair, strict=True)]
    _refuse(
        found, wrong, "candidates", "has not the number of methods of its kind (pair: 2; best: at least 2)"
    )
    _refuse(
        found,
        [
            a not in c and not (p and a == TIE)
            for a, c, p in zip(found["answer"].tolist(), shown, pair, strict=True)
        ],
        "answer",
        "was not among the candidates (a tie is an answer to a pair alone)",
    )
    attention = (found["role"] == "attention").to_numpy()
    _refuse(
        found,
        [
            check and e not in (*c, TIE)
            for check, e, c in zip(attention, found["expected"], shown, strict=True)
        ],
        "expected",
        "of an attention check is not among its candidates",
    )
    repeat = (found["role"] == "repeat").to_numpy()
    _refuse(found, repeat & found["repeat_of"].isna().to_numpy(), "repeat_of", "of a repeat names no trial")
    found["reaction_ms"] = pd.to_numeric(found["reaction_ms"], errors="coerce").astype("float64")
    _refuse(found, ~(found["reaction_ms"] >= 0), "reaction_ms", "is no number of milliseconds")
    times = pd.to_datetime(found["server_time"], utc=True, errors="coerce")
    _refuse(found, times.isna(), "server_time", "is no time")
    found["server_time"] = times.astype("datetime64[us, UTC]")
    twice = found.duplicated(["study", "rater", "trial"])
    _refuse(found, twice, "trial", "was answered twice by one rater: the votes hold doubles")
    return found


def scopes(votes: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], NDArray[np.bool_]]]:
    """What results are made of: (question, protocol, category), and which rows are inside; none without rows.

    All votes together; each question, protocol and category; each category of each protocol; where there are
    several questions, the same within each of them.
    """
    questions, protocols, categories = (sorted(set(votes[column])) for column in SCOPE)
    parts = [(ALL, ALL), *((p, ALL) for p in protocols), *((ALL, c) for c in categories)]
    parts += [(p, c) for p in protocols for c in categories]
    asked = questions if len(questions) > 1 else []
    combinations = [(ALL, p, c) for p, c in parts] + [(q, p, c) for q in asked for p, c in parts]
    if not asked:
        combinations += [(q, ALL, ALL) for q in questions]
    for scope in combinations:
        inside = np.ones(len(votes), dtype=bool)
        for column, value in zip(SCOPE, scope, strict=True):
            if value != ALL:
                inside &= (votes[column] == value).to_numpy()
        if inside.any():
            yield scope, inside


def _refuse(votes: pd.DataFrame, wrong: Any, column: str, why: str) -> None:
    wrong = np.asarray(wrong, dtype=bool)
    if wrong.any():
        rows = np.flatnonzero(wrong)
        first = votes.iloc[rows[0]]
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise VotesError(
            f"{column} of trial {first['trial']!r}, rater {first['rater']!r}, {why}: {first[column]!r}{more}."
        )


def _absent(value: object) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType") or value == ""


def _titles(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return None
    titles = tuple(value)
    good = all(isinstance(title, str) and title for title in titles) and len(set(titles)) == len(titles)
    return titles if good else None
