"""Assigns trials to raters: who compares which edits, in which order, on which side. Pure and deterministic.

A *stratum* is one kind of trial with one question in one category of one protocol. Its units are its comparisons: a
case with a pair of methods, a case with one method where edits are rated, or a case alone where the best of all is
chosen. They form an endless sequence. In every
consecutive part of it, the counts of any two cases differ by at most one, and so do the counts of any two pairs.

A rater's *sheet* takes a consecutive part of each stratum, which begins where the part of the previous sheet ends. The
lengths of the parts differ by at most one. The sheets are therefore a balanced incomplete block design, for any number
of raters and trials. In a study with more trials than units, the counts of any two units differ by at most one.

The cycle of pairs continues from one stratum of a question to the next. Over all protocols and categories of a
question, the counts of any two pairs therefore differ by at most one. The order of the sheets rotates from stratum to
stratum, so that each rater sees many pairs. With ``Counts.overlap`` raters per comparison the sheets are repeated, and
every second time the candidates are reversed.

Nothing is drawn at random. An order that looks random is the order of SHA-256 of the seed and a name, which is the same
on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from math import gcd, lcm

from bench.study import StudyError
from bench.study.scales import HIGH, LOW
from bench.study.types import GROUND_TRUTH, NOISE, RATINGS, SOURCE, Kind, Role, StudyCase, Trial

# Number of rotations of the sheets from stratum to stratum that are tried.
TURNS = 8


class ArrangeError(StudyError):
    """More trials per rater than the cases and methods allow."""


@dataclass(frozen=True)
class Counts:
    """Number of raters, and of each kind of trial per rater."""

    # Number of sheets.
    raters: int
    # Votes per rater without practice: trials of the sheet, repeats and attention checks.
    trials: int
    repeats: int
    attention: int
    practice: int
    # Raters per comparison: number of sheets with the same units.
    overlap: int = 1

    @property
    def per_sheet(self) -> int:
        """Trials of one sheet."""
        return self.trials - self.repeats - self.attention


def rank(seed: int, *names: object) -> bytes:
    """Sort key of a name in an order that looks random: SHA-256 of the seed and the name."""
    return hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()


def arrange(
    cases: Sequence[StudyCase],
    methods: Sequence[str],
    *,
    kinds: Sequence[Kind],
    questions: Sequence[str],
    counts: Counts,
    seed: int,
) -> tuple[Trial, ...]:
    """All trials of a study: those of the sheets with their repeats, then attention and practice trials.

    Every sheet has ``counts.per_sheet`` trials. Each of them has a repeat with the candidates reversed. All raters
    share the attention and practice trials. Raises :class:`ArrangeError` where a rater would be asked about one unit
    twice.
    """
    # Which comparisons are on which sheet.
    strata = _strata(cases, methods, kinds, questions, seed)
    sheets = _sheets(strata, counts)

    # The order within a sheet, the ids, and the repeats.
    trials = []
    for number, sheet in enumerate(sheets):
        for position, trial in enumerate(_ordered(sheet, cases, seed, number)):
            placed = replace(
                trial, id=f"t{number * counts.per_sheet + position:05d}", sheet=number, position=position
            )
            trials.append(placed)
            trials.append(
                replace(
                    placed,
                    id=placed.id.replace("t", "r"),
                    role="repeat",
                    candidates=placed.candidates[::-1],
                    repeat_of=placed.id,
                )
            )
    # Four times as many checks as a rater gets: each rater begins at another one.
    trials += _checks("attention", 4 * counts.attention, cases, methods, kinds, questions, seed)
    trials += _checks("practice", counts.practice, cases, methods, kinds, questions, seed)
    return tuple(trials)


def schedule(counts: Counts, seed: int, rater: int) -> tuple[Role, ...]:
    """Roles of the trials, in order, of the rater with this number (from 0).

    Practice comes first. Attention checks are spread over the rest, repeats over its second half. As the oldest trials
    are repeated first, about half of the session lies between a trial and its repeat.
    """
    # (place in the session from 0 to 1, order of equal places, role)
    places: list[tuple[float, bytes, Role]] = []
    for index in range(counts.per_sheet):
        places.append(((index + 0.5) / counts.per_sheet, b"", "trial"))
    for index in range(counts.attention):
        digest = rank(seed, "attention", rater, index)
        # Irregular, so that a rater cannot learn when a check comes.
        jitter = digest[0] / 255 - 0.5
        places.append(((index + 0.5 + 0.6 * jitter) / counts.attention, digest, "attention"))
    for index in range(counts.repeats):
        digest = rank(seed, "repeat", rater, index)
        places.append((0.5 + (index + 0.5) / (2 * counts.repeats), digest, "repeat"))
    practice: list[Role] = ["practice"] * counts.practice
    return (*practice, *(role for _, _, role in sorted(places)))


# --- strata -----------------------------------------------------------------------------------------------


class _Stratum:
    """An endless sequence of trials. Every stretch of it is balanced over cases, pairs and sides.

    An *arm* is a pair of methods, one method where edits are rated, or an order of all where the best is chosen.
    """

    def __init__(self, kind: Kind, question: str, cases: Sequence[StudyCase], methods: Sequence[str]) -> None:
        self.kind, self.question = kind, question
        self.cases, self.methods = cases, methods
        # Indices into `methods`.
        self.arms: Sequence[tuple[int, ...]] = (
            williams(len(methods))
            if kind == "best"
            else list(combinations(range(len(methods)), 2 if kind == "pair" else 1))
        )
        # Where in the cycle of arms the sequence begins, and how often each arm has occurred before.
        self.offset = 0
        self.occurrences: Counter[int] = Counter()

    @property
    def units(self) -> int:
        """Length of the longest stretch in which no unit occurs twice."""
        return len(self.cases) * (1 if self.kind == "best" else len(self.arms))

    def arm(self, step: int) -> int:
        """Index of the arm of trial number ``step`` (from 0)."""
        cases, arms = len(self.cases), len(self.arms)
        within = step % (cases * arms)
        # With `within` alone, the same (case, arm) would come back after lcm(cases, arms) steps, before all have
        # occurred. The second term moves the cycle on by one at each multiple of that.
        return (within + within // cases * gcd(cases, arms) // arms + self.offset) % arms

    def __iter__(self) -> Iterator[Trial]:
        # Cases in turn. Arms follow the cycle of `arm`.
        for step in count():
            case = self.cases[step % len(self.cases)]
            yield self._trial(case, self.arm(step), step // (len(self.cases) * len(self.arms)))

    def _trial(self, case: StudyCase, arm: int, cycle: int) -> Trial:
        order = list(self.arms[arm])
        if self.kind == "pair":
            # Sides alternate with each occurrence of the pair. A cycle has a pair once per case, so with an even
            # number of cases a unit would come back on the same side. There the cycle alternates too.
            turn = self.occurrences[arm] + (cycle if len(self.cases) % 2 == 0 else 0)
            # The sum of the indices makes every method begin on the left in half of its pairs.
            if (turn + sum(order)) % 2 == 0:
                order.reverse()
            self.occurrences[arm] += 1
        titles = tuple(self.methods[index] for index in order)
        return Trial("", "trial", self.kind, self.question, case.key, titles)


def williams(count: int) -> list[tuple[int, ...]]:
    """Orders of ``count`` items in which each item is equally often at each place and after each other item.

    There are ``count`` orders for an even count, and twice as many for an odd one. Source: E. J. Williams, Experimental
    designs balanced for the estimation of residual effects of treatments, Aust. J. Sci. Res. A2 (1949).
    """
    # The first row is 0, 1, n-1, 2, n-2, ... The others are its cyclic shifts.
    first = [0]
    for index in range(1, count):
        first.append((index + 1) // 2 if index % 2 else count - index // 2)
    rows = [tuple((value + shift) % count for value in first) for shift in range(count)]
    return rows + [row[::-1] for row in rows] if count % 2 else rows


def _strata(
    cases: Sequence[StudyCase],
    methods: Sequence[str],
    kinds: Sequence[Kind],
    questions: Sequence[str],
    seed: int,
) -> list[_Stratum]:
    """One stratum per kind, question, protocol and category, with cases and methods in orders of their own."""
    grouped: defaultdict[tuple[str, str], list[StudyCase]] = defaultdict(list)
    for case in cases:
        grouped[case.protocol, case.category].append(case)
    strata: list[_Stratum] = []
    for kind in kinds:
        # One trial of ratings asks all scales.
        for question in (RATINGS,) if kind == "rate" else questions:
            order = sorted(methods, key=lambda method: rank(seed, kind, question, method))
            for group in grouped.values():
                # Each stratum has its own order, so that a case is not always early.
                mixed = sorted(group, key=lambda case: rank(seed, kind, question, case.key))
                strata.append(_Stratum(kind, question, mixed, order))
    return strata


def _sheets(strata: Sequence[_Stratum], counts: Counts) -> list[list[Trial]]:
    """Each rater's trials, stratum by stratum. Raises :class:`ArrangeError`."""
    _check_size(strata, counts)
    # How many trials each sheet takes from each stratum. The remainder goes to each stratum in turn.
    each, extra = divmod(counts.per_sheet, len(strata))
    distinct = -(-counts.raters // counts.overlap)
    lengths = [
        [each + ((index - sheet * extra) % len(strata) < extra) for index in range(len(strata))]
        for sheet in range(distinct)
    ]
    _continue_cycles(strata, lengths)

    # A rotation of the sheets changes no total. Choose the one in which raters see the most different pairs.
    turns = range(min(distinct, TURNS))
    best = min(turns, key=lambda turn: _repetition(strata, lengths, turn))
    parts: list[list[list[Trial]]] = [[] for _ in lengths]
    for index, stratum in enumerate(strata):
        sequence = iter(stratum)
        for sheet in _rotated(distinct, index * best):
            parts[sheet].append([next(sequence) for _ in range(lengths[sheet][index])])
    sheets = [[trial for part in sheet for trial in part] for sheet in parts]

    # With overlap, further raters get the same sheets, every second time with the candidates reversed.
    for number in range(distinct, counts.raters):
        sheets.append(
            [replace(trial, candidates=trial.candidates[::-1]) for trial in sheets[number - distinct]]
        )
    return sheets


def _check_size(strata: Sequence[_Stratum], counts: Counts) -> None:
    """Raises :class:`ArrangeError` where a sheet would hold a unit twice."""
    # The longest stretch that a sheet takes from a stratum.
    most = -(-counts.per_sheet // len(strata))
    for stratum in strata:
        if most > stratum.units:
            noun = {"pair": "pairs of edits", "rate": "edits", "best": "cases"}[stratum.kind]
            raise ArrangeError(
                f"{counts.trials} trials per rater are too many: {most} of them would be about the question "
                f"{stratum.question!r} in category {stratum.cases[0].category} of {stratum.cases[0].protocol}, "
                f"which has {stratum.units} different {noun}. Ask for fewer trials, or use more cases."
            )


def _continue_cycles(strata: Sequence[_Stratum], lengths: Sequence[Sequence[int]]) -> None:
    """Makes each stratum begin where the previous stratum of the same kind and question ends.

    This holds for the cycle of arms and for the alternation of sides. ``lengths[sheet][stratum]``: number of trials.
    """
    occurrences: defaultdict[tuple[Kind, str], Counter[int]] = defaultdict(Counter)
    for index, stratum in enumerate(strata):
        total = sum(row[index] for row in lengths)
        before = occurrences[stratum.kind, stratum.question]
        # Whole cycles hold each arm equally often, so the offset has to fit the remainder only.
        remainder = total % lcm(len(stratum.cases), len(stratum.arms))
        stratum.offset = before.total() - stratum.arm(total - remainder)
        stratum.occurrences = before.copy()
        before.update(stratum.arm(step) for step in range(total))


def _rotated(sheets: int, first: int) -> Sequence[int]:
    """The numbers of all sheets, beginning at ``first`` and going round."""
    return [(first + index) % sheets for index in range(sheets)]


def _repetition(strata: Sequence[_Stratum], lengths: Sequence[Sequence[int]], turn: int) -> int:
    """Number of times that raters meet an arm again, if each stratum begins ``turn`` sheets further on."""
    meetings: Counter[tuple[int, Kind, str, int]] = Counter()
    for index, stratum in enumerate(strata):
        step = count()
        for sheet in _rotated(len(lengths), index * turn):
            for _ in range(lengths[sheet][index]):
                meetings[sheet, stratum.kind, stratum.question, stratum.arm(next(step))] += 1
    return sum(times * (times - 1) for times in meetings.values())


def _ordered(sheet: Sequence[Trial], cases: Sequence[StudyCase], seed: int, number: int) -> Iterator[Trial]:
    """A sheet's trials in a mixed order.

    Where possible, no two in a row have the same source image. Where that is possible too, no two have one category.
    """
    by_key = {case.key: case for case in cases}
    pending = sorted(sheet, key=lambda trial: rank(seed, "order", number, trial.unit))
    per_source = Counter(_source(by_key[trial.case]) for trial in pending)
    last: StudyCase | None = None
    while pending:
        # The cheapest trial comes next. The index keeps the mixed order among equal ones.
        costs = [
            (*_cost(by_key[trial.case], last, per_source, len(pending)), index)
            for index, trial in enumerate(pending)
        ]
        trial = pending.pop(min(costs)[-1])
        last = by_key[trial.case]
        per_source[_source(last)] -= 1
        yield trial


def _source(case: StudyCase) -> tuple[str, str]:
    return case.protocol, case.source_id


def _cost(
    case: StudyCase, last: StudyCase | None, per_source: Mapping[tuple[str, str], int], pending: int
) -> tuple[bool, bool, bool]:
    """Cost of a case after the ``last`` one: the lowest comes next. ``pending``: number of trials left."""
    return (
        last is not None and _source(case) == _source(last),
        # A source with more than half of the trials left has to come now. Later it could not be separated.
        2 * per_source[_source(case)] <= pending,
        last is not None and case.category == last.category,
    )


# --- trials with one right answer -------------------------------------------------------------------------


def _checks(
    role: Role,
    count: int,
    cases: Sequence[StudyCase],
    methods: Sequence[str],
    kinds: Sequence[Kind],
    questions: Sequence[str],
    seed: int,
) -> Iterator[Trial]:
    """Trials that show a good image among images of noise.

    The good image is the ground truth, or the source where there is none. It is equally often at each place. A check
    has as many candidates as other trials of its kind. In a practice trial, the source replaces one image of noise if
    the question makes the source the worse answer.
    """
    # Cases, kinds and questions in turn.
    order = sorted(cases, key=lambda case: rank(seed, role, case.key))
    for index in range(count):
        case = order[index % len(order)]
        kind = kinds[index % len(kinds)]
        question = questions[(index // len(kinds)) % len(questions)]
        if kind == "rate":
            yield _rating_check(role, index, case, good=(index // len(kinds)) % 2 == 1)
            continue
        # The good image, and the bad ones beside it.
        good = SOURCE if case.truth is None else GROUND_TRUTH
        width = 2 if kind == "pair" else len(methods)
        bad = [NOISE if number == 0 else f"{NOISE}-{number + 1}" for number in range(width - 1)]
        if role == "practice" and good == GROUND_TRUTH and question in ("overall", "prompt"):
            bad[0] = SOURCE
        # The good image goes through the places in turn. The seed decides at which place it begins.
        place = (index + rank(seed, role, "place")[0]) % width
        yield Trial(
            id=f"{role[0]}{index:03d}",
            role=role,
            kind=kind,
            question=question,
            case=case.key,
            candidates=(*bad[:place], good, *bad[place:]),
            position=index,
            expected=good,
        )


def _rating_check(role: Role, index: int, case: StudyCase, *, good: bool) -> Trial:
    """A trial of ratings that shows noise, or the ground truth where ``good`` and the case has one."""
    good = good and case.truth is not None
    return Trial(
        id=f"{role[0]}{index:03d}",
        role=role,
        kind="rate",
        question=RATINGS,
        case=case.key,
        candidates=(GROUND_TRUTH if good else NOISE,),
        position=index,
        expected=HIGH if good else LOW,
    )
