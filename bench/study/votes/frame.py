"""The votes as a table: its columns, what they may hold, and the checks before anything is counted.

One row is one answer of one rater to one trial:

=============  ====================================================================================
study          which study
rater          who answered (an id of the study's store, never a name)
trial          which showing, unique per study and rater
question       the name of the question asked. For ratings, the name of the scale: one row per scale
protocol       which data set the edits are of
case, source   the edit case and its source image: votes on one source are not independent
category       the edit category of the case
kind           ``"pair"`` (two candidates, a tie is allowed), ``"best"`` (two or more, one is chosen) or ``"rate"``
               (one candidate, which is rated)
candidates     tuple of method titles in the order shown, left to right
answer         one of the candidates, or where the kind is ``"pair"`` ``"tie"`` or ``"both bad"``, or where it is
               ``"rate"`` one of the values of the scale, as text
role           ``"trial"``, ``"repeat"``, ``"attention"`` or ``"practice"``: only the first is a vote
repeat_of      the trial that a repeat repeats, else None
expected       the right answer to an attention check, else None. For ratings ``"low"`` or ``"high"``
reaction_ms    milliseconds from the showing to the answer
server_time    when the answer was stored, UTC
rater_kind     optional: ``"human"`` (the default), ``"simulated"`` or ``"model"`` (a judge that is a program)
exclusion      optional: the exclusion rule that the study stated, as JSON, or None where it is not known
first_answer   optional: the answer that the rater gave first and then took back, else None
probability    optional: how likely an adaptive study was to choose the trial, else None
over_time      optional: whether the answer was given after the time limit of the trial, when its pictures were
               covered. None without a limit
scale          optional: the values of the scale of a rating, as JSON, from the worst to the best, else None
both_orders    optional: for a pair that was shown twice, the answers to the candidates in their order and in the
               reverse order, as a JSON list of two. ``answer`` is what both have in common. Else None
=============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.edit import ALL as ALL
from bench.files import parse_json
from bench.study import StudyError
from bench.study.scales import HIGH, LOW
from bench.study.types import KINDS, NO_PREFERENCE, ROLES
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
# Columns that files of older versions lack.
OPTIONAL = ("rater_kind", "exclusion", "first_answer", "scale", "probability", "over_time", "both_orders")
# Columns that identify a row.
KEY = ["study", "rater", "trial", "question"]
RATER_KINDS = ("human", "simulated", "model")

# Columns that say what a result is about: ``"all"`` where it is about all of them together.
SCOPE = ("question", "protocol", "category")

_TEXTS = ("study", "rater", "trial", "question", "protocol", "case", "source", "category", "answer")


class VotesError(StudyError):
    """Votes that cannot be read or counted. The message names the column, a row and the remedy."""


def check_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """A checked copy of ``votes`` with a fresh index and the columns above alone.

    ``rater_kind`` and ``exclusion`` are filled in. Candidates are tuples, missing values of ``repeat_of`` and
    ``expected`` are None, ``server_time`` is UTC, texts are of dtype object. The order of the rows stays. Raises
    :class:`VotesError`.
    """
    missing = [column for column in COLUMNS if column not in votes.columns]
    if missing:
        raise VotesError(
            f"the votes lack the columns {', '.join(missing)}. Export them from the study again."
        )
    optional = [column for column in OPTIONAL if column in votes.columns]
    checked = votes[[*COLUMNS, *optional]].reset_index(drop=True).copy()
    # Texts first: the later checks compare with them.
    _check_texts(checked)
    _check_candidates(checked)
    _check_answers(checked)
    _check_times(checked)
    _check_probabilities(checked)
    _check_over_time(checked)
    _check_both_orders(checked)
    # A file that is imported twice would make intervals too narrow.
    twice = checked.duplicated(KEY)
    _refuse(checked, twice, "trial", "was answered twice by one rater: the votes hold doubles")
    return checked


def _check_texts(votes: pd.DataFrame) -> None:
    """Checks the columns of text in place, and fills in the optional ones."""
    import pandas as pd

    if "rater_kind" not in votes.columns:
        votes["rater_kind"] = pd.Series(["human"] * len(votes), dtype=object)
    for column in ("exclusion", "first_answer", "scale", "probability", "over_time", "both_orders"):
        if column not in votes.columns:
            votes[column] = None
    # Object dtype: a column of numbers or categories would compare and sort in other ways.
    for column in (*_TEXTS, "kind", "role", "rater_kind"):
        values = votes[column].tolist()
        votes[column] = pd.Series(values, dtype=object)
        _refuse(votes, [not (isinstance(v, str) and v) for v in values], column, "is no text")
    for column, allowed in (("kind", KINDS), ("role", ROLES), ("rater_kind", RATER_KINDS)):
        _refuse(votes, ~votes[column].isin(allowed), column, f"is none of {', '.join(allowed)}")
    # Results over everything have the value "all" in these columns.
    for column in SCOPE:
        _refuse(votes, votes[column] == ALL, column, "is a word that stands for all of them: rename it")
    for column in ("repeat_of", "expected", "exclusion", "first_answer", "scale", "both_orders"):
        values = [None if _absent(value) else value for value in votes[column].tolist()]
        votes[column] = pd.Series(values, dtype=object)


def _check_candidates(votes: pd.DataFrame) -> None:
    """Makes the candidates tuples, in place, and checks them and their number."""
    import pandas as pd

    titles = [_titles(value) for value in votes["candidates"].tolist()]
    votes["candidates"] = pd.Series(titles, dtype=object)
    _refuse(votes, [c is None for c in titles], "candidates", "is no list of distinct method titles")
    candidates = votes["candidates"].tolist()
    # A vote for such a method could not be told from a vote without a preference.
    for word in NO_PREFERENCE:
        named = [word in c for c in candidates]
        _refuse(votes, named, "candidates", f"has a method titled {word!r}: rename the method")
    kinds = votes["kind"].tolist()
    exact = {"pair": 2, "rate": 1}
    wrong = [
        len(c) != exact[kind] if kind in exact else len(c) < 2
        for c, kind in zip(candidates, kinds, strict=True)
    ]
    _refuse(
        votes,
        wrong,
        "candidates",
        "has not the number of methods of its kind (pair: 2; rate: 1; best: at least 2)",
    )


def _check_answers(votes: pd.DataFrame) -> None:
    """Checks the answers, the expected answers of attention checks, and the trials that repeats name."""
    _check_ratings(votes)
    candidates = votes["candidates"].tolist()
    answers = zip(votes["answer"], candidates, votes["kind"], strict=True)
    _refuse(
        votes,
        [
            kind != "rate" and answer not in c and not (kind == "pair" and answer in NO_PREFERENCE)
            for answer, c, kind in answers
        ],
        "answer",
        "was not among the candidates (a tie is an answer to a pair alone)",
    )
    checks = zip(votes["role"], votes["expected"], candidates, votes["kind"], strict=True)
    _refuse(
        votes,
        [
            role == "attention" and expected not in ((LOW, HIGH) if kind == "rate" else (*c, TIE))
            for role, expected, c, kind in checks
        ],
        "expected",
        "of an attention check is not among its candidates",
    )
    repeat = (votes["role"] == "repeat").to_numpy()
    _refuse(votes, repeat & votes["repeat_of"].isna().to_numpy(), "repeat_of", "of a repeat names no trial")


def _check_ratings(votes: pd.DataFrame) -> None:
    """Checks that each rating is a value of its scale, and that other answers have no scale."""
    rated = (votes["kind"] == "rate").to_numpy()
    _refuse(votes, rated != votes["scale"].notna().to_numpy(), "scale", "does not fit the kind of the vote")
    values = {text: scale_values(text) for text in set(votes["scale"][rated])}
    wrong = [values[text] is None if text is not None else False for text in votes["scale"]]
    _refuse(votes, wrong, "scale", "is no JSON list of at least two rising numbers")
    ratings = zip(votes["answer"], votes["scale"], strict=True)
    _refuse(
        votes,
        [scale is not None and _number(answer) not in (values[scale] or ()) for answer, scale in ratings],
        "answer",
        "is no value of its scale",
    )


def scale_values(text: str) -> tuple[float, ...] | None:
    """The values of a scale, from the worst to the best. None for a text that is no scale."""
    try:
        values = tuple(float(value) for value in parse_json(text))
    except (TypeError, ValueError):
        return None
    return values if len(values) > 1 and list(values) == sorted(set(values)) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_probabilities(votes: pd.DataFrame) -> None:
    """Makes probabilities floats or None, in place, and checks them."""
    import pandas as pd

    values = [None if _absent(value) else value for value in votes["probability"].tolist()]
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce")
    wrong = [value is not None and not 0 < number <= 1 for value, number in zip(values, numbers, strict=True)]
    _refuse(votes, wrong, "probability", "is no number above 0 and up to 1")
    plain = [None if value is None else float(number) for value, number in zip(values, numbers, strict=True)]
    votes["probability"] = pd.Series(plain, dtype=object)


def _check_over_time(votes: pd.DataFrame) -> None:
    """Makes the values True, False or None, in place."""
    import pandas as pd

    values = [None if _absent(value) else value for value in votes["over_time"].tolist()]
    _refuse(
        votes, [value not in (None, True, False) for value in values], "over_time", "is not true or false"
    )
    votes["over_time"] = pd.Series([None if value is None else bool(value) for value in values], dtype=object)


def _check_both_orders(votes: pd.DataFrame) -> None:
    """Checks that the answers in both orders are answers to a pair, and that the vote's answer follows from them."""

    def is_wrong(text: str | None, kind: str, candidates: tuple[str, ...], answer: str) -> bool:
        if text is None:
            return False
        answers = order_answers(text)
        if kind != "pair" or answers is None or not set(answers) <= {*candidates, *NO_PREFERENCE}:
            return True
        return answer != (answers[0] if answers[0] == answers[1] else TIE)

    columns = (votes[name] for name in ("both_orders", "kind", "candidates", "answer"))
    wrong = [is_wrong(*row) for row in zip(*columns, strict=True)]
    _refuse(votes, wrong, "both_orders", "does not fit the candidates and the answer")


def order_answers(text: str) -> tuple[str, str] | None:
    """The two answers of ``both_orders``. None for a text that holds no two answers."""
    try:
        first, second = parse_json(text)
    except (TypeError, ValueError):
        return None
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None


def _check_times(votes: pd.DataFrame) -> None:
    """Makes milliseconds floats and times UTC, in place, and checks them."""
    import pandas as pd

    votes["reaction_ms"] = pd.to_numeric(votes["reaction_ms"], errors="coerce").astype("float64")
    # "not >=" refuses NaN too.
    _refuse(votes, ~(votes["reaction_ms"] >= 0), "reaction_ms", "is no number of milliseconds")
    times = pd.to_datetime(votes["server_time"], utc=True, errors="coerce")
    _refuse(votes, times.isna(), "server_time", "is no time")
    # Microseconds: what databases and parquet files store, so votes from both compare equal.
    votes["server_time"] = times.astype("datetime64[us, UTC]")


def scopes(votes: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], NDArray[np.bool_]]]:
    """Iterates over the scopes of results: (question, protocol, category) and the mask of its rows, (N,).

    All votes together, each question, protocol and category, and each category of each protocol. Where there are
    several questions, the same within each of them. Scopes without rows are left out.
    """
    # Sorted, so that the order of the votes does not touch the order of results.
    questions, protocols, categories = (sorted(set(votes[column])) for column in SCOPE)
    parts = [(ALL, ALL), *((p, ALL) for p in protocols), *((ALL, c) for c in categories)]
    parts += [(p, c) for p in protocols for c in categories]
    # Every combination of protocol and category, over all questions.
    combinations = [(ALL, p, c) for p, c in parts]
    if len(questions) > 1:
        combinations += [(q, p, c) for q in questions for p, c in parts]
    else:
        # The parts of a single question are those of all of them.
        combinations += [(q, ALL, ALL) for q in questions]
    for scope in combinations:
        inside = np.ones(len(votes), dtype=bool)
        for column, value in zip(SCOPE, scope, strict=True):
            if value != ALL:
                inside &= (votes[column] == value).to_numpy()
        if inside.any():
            yield scope, inside


def _refuse(votes: pd.DataFrame, wrong: Any, column: str, why: str) -> None:
    """Raises VotesError with the first of the ``wrong`` rows, a mask (N,), and their number."""
    wrong = np.asarray(wrong, dtype=bool)
    if wrong.any():
        rows = np.flatnonzero(wrong)
        first = votes.iloc[rows[0]]
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise VotesError(
            f"{column} of trial {first['trial']!r}, rater {first['rater']!r}, {why}: {first[column]!r}{more}."
        )


def _absent(value: object) -> bool:
    # NaN differs from itself. NA and NaT are pandas' own, and a CSV file has the empty string.
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType") or value == ""


def _titles(value: Any) -> tuple[str, ...] | None:
    """A list of distinct titles as a tuple, or None. A text is no list, though it is iterable."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return None
    titles = tuple(value)
    good = all(isinstance(title, str) and title for title in titles) and len(set(titles)) == len(titles)
    return titles if good else None
