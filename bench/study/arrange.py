"""From cases and methods to trials: who is shown what, in which order, on which side. Pure, deterministic.

A *stratum* is one kind of trial with one question in one category of one protocol. Its units (case x pair of
methods, or case alone where the best of all is chosen) stand in an endless sequence, every stretch of which
is balanced: cases occur equally often, give or take one, and so do pairs. A rater's *sheet* takes from each
stratum a stretch of equal length, give or take one, right after the one that the sheet before took. So the
sheets form a balanced incomplete block design, however many raters there are and however few trials each
has; and a study whose raters cover all units more than once covers each equally often, give or take one.

The cycle of pairs goes on from one stratum of a question to the next, so each question shows all pairs equally
often, give or take one, however many data sets and categories share it. The sheets take their stretches in an
order that turns from stratum to stratum, so that each rater too meets many pairs. Where several raters are asked
about each comparison (``Counts.overlap``), the sheets are repeated, every second time with the candidates reversed.

Nothing is drawn at random: what looks random is an order by SHA-256 of the seed and a name, so it is the
same on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from math import gcd, lcm
from typing import TypeVar

from bench.study import StudyError
from bench.study.types import CONTROL, NOISE, SOURCE, TRUTH, Kind, Role, StudyCase, Trial

T = TypeVar("T")

TURNS = 8
"""How many ways of spreading the strata's stretches over the sheets are tried."""


class ArrangeError(StudyError):
    """Cases, methods and counts that no design can satisfy."""


@dataclass(frozen=True)
class Counts:
    """How many raters, and of what each is shown how much."""

    raters: int
    """Sheets: raters who answer everything."""
    trials: int
    """Votes per rater, practice not counted: ``trial`` + ``repeats`` + ``attention``."""
    repeats: int
    attention: int
    practice: int
    overlap: int = 1
    """Raters per comparison: so many sheets ask about the same units."""

    @property
    def per_sheet(self) -> int:
        """Trials of the design per rater."""
        return self.trials - self.repeats - self.attention


def rank(seed: int, *names: object) -> bytes:
    """The place of a name in an order that looks random: SHA-256 of the seed and the name."""
    return hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()


def shuffled(items: Iterable[T], seed: int, *salt: object) -> list[T]:
    """``items`` in the order of the :func:`rank` of their texts; items must differ in text."""
    return sorted(items, key=lambda item: rank(seed, *salt, item))


def arrange(
    cases: Sequence[StudyCase],
    methods: Sequence[str],
    *,
    kinds: Sequence[Kind],
    questions: Sequence[str],
    counts: Counts,
    seed: int,
) -> tuple[Trial, ...]:
    """All trials of a study.

    For every sheet ``counts.per_sheet`` trials and, for each of them, the repeat that shows it with the
    order of its candidates reversed; then the attention and the practice trials, which all raters share.
    Raises :class:`ArrangeError` for counts that would ask a rater about one unit twice.
    """
    strata = _strata(cases, methods, kinds, questions, seed)
    sheets = _sheets(strata, counts)
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
    trials += _checks("attention", 4 * counts.attention, cases, methods, kinds, questions, seed)
    trials += _checks("practice", counts.practice, cases, methods, kinds, questions, seed)
    return tuple(trials)


def schedule(counts: Counts, seed: int, rater: int) -> tuple[Role, ...]:
    """The roles of a rater's trials in order, for the rater of that number.

    Practice first; attention spread over all of the rest; repeats over its second half, so that about half
    of the session lies between a trial and its repeat, which takes the rater's oldest trials first.
    """
    places: list[tuple[float, bytes, Role]] = []
    for index in range(counts.per_sheet):
        places.append(((index + 0.5) / counts.per_sheet, b"", "trial"))
    for index in range(counts.attention):
        digest = rank(seed, "attention", rater, index)
        jitter = digest[0] / 255 - 0.5
        places.append(((index + 0.5 + 0.6 * jitter) / counts.attention, digest, "attention"))
    for index in range(counts.repeats):
        digest = rank(seed, "repeat", rater, index)
        places.append((0.5 + (index + 0.5) / (2 * counts.repeats), digest, "repeat"))
    practice: list[Role] = ["practice"] * counts.practice
    return (*practice, *(role for _, _, role in sorted(places)))


# --- strata -----------------------------------------------------------------------------------------------


class _Stratum:
    """An endless sequence of trials, every stretch of which is balanced over cases, pairs and sides."""

    def __init__(self, kind: Kind, question: str, cases: Sequence[StudyCase], methods: Sequence[str]) -> None:
        self.kind, self.question = kind, question
        self.cases, self.methods = cases, methods
        # Pairs of methods, or orders of all methods.
        self.arms: Sequence[tuple[int, ...]] = williams(len(methods))
        if kind == "pair":
            self.arms = list(combinations(range(len(methods)), 2))
        self.offset = 0
        """Where in the cycle of arms the sequence begins."""
        self.seen: Counter[int] = Counter()
        """How often each arm has occurred: in the strata before, when the sequence begins."""

    @property
    def units(self) -> int:
        """The length of the longest stretch without a unit that occurs twice."""
        return len(self.cases) * (len(self.arms) if self.kind == "pair" else 1)

    def arm(self, step: int) -> int:
        """The arm of the trial of that number, from 0."""
        cases, arms = len(self.cases), len(self.arms)
        within = step % (cases * arms)
        # The running number modulo the arms; the second term moves on once per least common multiple, where
        # the plain running number would come back to the same (case, arm) before all have occurred.
        return (within + within // cases * gcd(cases, arms) // arms + self.offset) % arms

    def __iter__(self) -> Iterator[Trial]:
        for step in count():
            case = self.cases[step % len(self.cases)]
            yield self._trial(case, self.arm(step), step // (len(self.cases) * len(self.arms)))

    def _trial(self, case: StudyCase, arm: int, cycle: int) -> Trial:
        shown = list(self.arms[arm])
        if self.kind == "pair":
            # Sides alternate with each occurrence of the pair. A cycle holds a pair once per case: with an
            # even number of cases a unit would come back on the same side, but for the cycle's own turn.
            turn = self.seen[arm] + (cycle if len(self.cases) % 2 == 0 else 0)
            # Begins as a tournament in which every method stands left in half of its pairs.
            if (turn + sum(shown)) % 2 == 0:
                shown.reverse()
            self.seen[arm] += 1
        titles = tuple(self.methods[index] for index in shown)
        return Trial("", "trial", self.kind, self.question, case.key, titles)


def williams(count: int) -> list[tuple[int, ...]]:
    """Orders of ``count`` things: each stands equally often at each place and after each other thing.

    ``count`` orders where it is even, twice as many where it is odd. Source: E. J. Williams, Experimental
    designs balanced for the estimation of residual effects of treatments, Aust. J. Sci. Res. A2 (1949).
    """
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
    grouped: defaultdict[tuple[str, str], list[StudyCase]] = defaultdict(list)
    for case in cases:
        grouped[case.protocol, case.category].append(case)
    found: list[_Stratum] = []
    for kind in kinds:
        for question in questions:
            order = shuffled(methods, seed, kind, question)
            for group in grouped.values():
                mixed = sorted(group, key=lambda case: rank(seed, kind, question, case.key))
                found.append(_Stratum(kind, question, mixed, order))
    return found


def _sheets(strata: Sequence[_Stratum], counts: Counts) -> list[list[Trial]]:
    """Each rater's trials, stratum by stratum."""
    # Too many trials.
    each, extra = divmod(counts.per_sheet, len(strata))
    for stratum in strata:
        most = each + (extra > 0)
        if most > stratum.units:
            what = "pairs of edits" if stratum.kind == "pair" else "cases"
            raise ArrangeError(
                f"{counts.trials} trials per rater are too many: {most} of them would be about the question "
                f"{stratum.question!r} in category {stratum.cases[0].category} of {stratum.cases[0].protocol}, "
                f"which has {stratum.units} different {what}. Ask for fewer trials, or use more cases."
            )

    # How many trials each sheet takes from each stratum: what is left over falls on each stratum in turn.
    different = -(-counts.raters // counts.overlap)
    taken = [
        [each + ((index - sheet * extra) % len(strata) < extra) for index in range(len(strata))]
        for sheet in range(different)
    ]

    # Within a question, each stratum goes on in the cycle of arms, and with the sides, after the trials of the
    # strata before. Whole turns through the arms hold each equally often: what counts is where the rest begins.
    before: defaultdict[tuple[Kind, str], Counter[int]] = defaultdict(Counter)
    for index, stratum in enumerate(strata):
        total = sum(row[index] for row in taken)
        seen = before[stratum.kind, stratum.question]
        rest = total % lcm(len(stratum.cases), len(stratum.arms))
        stratum.offset = seen.total() - stratum.arm(total - rest)
        stratum.seen = seen.copy()
        seen.update(stratum.arm(step) for step in range(total))

    # Who gets which stretch changes no total: sheets turn from stratum to stratum, so that a rater meets all pairs.
    turns = range(min(different, TURNS))
    best = min(turns, key=lambda turn: _repetition(strata, taken, turn))
    parts: list[list[list[Trial]]] = [[] for _ in taken]
    for index, stratum in enumerate(strata):
        sequence = iter(stratum)
        for sheet in _order(different, index * best):
            parts[sheet].append([next(sequence) for _ in range(taken[sheet][index])])
    sheets = [[trial for part in sheet for trial in part] for sheet in parts]

    # The same sheets again for further raters, every second time the other way round.
    for number in range(different, counts.raters):
        again = sheets[number - different]
        sheets.append([replace(trial, candidates=trial.candidates[::-1]) for trial in again])
    return sheets


def _order(sheets: int, first: int) -> Sequence[int]:
    """The sheets from ``first`` on, round to the one before it."""
    return [(first + index) % sheets for index in range(sheets)]


def _repetition(strata: Sequence[_Stratum], taken: Sequence[Sequence[int]], turn: int) -> int:
    """How often raters would meet an arm of a question again, if each stratum begins ``turn`` sheets further on."""
    met: Counter[tuple[int, Kind, str, int]] = Counter()
    for index, stratum in enumerate(strata):
        step = count()
        for sheet in _order(len(taken), index * turn):
            for _ in range(taken[sheet][index]):
                met[sheet, stratum.kind, stratum.question, stratum.arm(next(step))] += 1
    return sum(times * (times - 1) for times in met.values())


def _ordered(sheet: Sequence[Trial], cases: Sequence[StudyCase], seed: int, number: int) -> Iterator[Trial]:
    """A sheet's trials mixed: where it can be, no two of one source image in a row, then of one category."""
    known = {case.key: case for case in cases}
    left = sorted(sheet, key=lambda trial: rank(seed, "order", number, trial.unit))
    count = Counter(_source(known[trial.case]) for trial in left)
    last: StudyCase | None = None
    while left:
        costs = [(*_cost(known[trial.case], last, count, len(left)), i) for i, trial in enumerate(left)]
        trial = left.pop(min(costs)[-1])
        last = known[trial.case]
        count[_source(last)] -= 1
        yield trial


def _source(case: StudyCase) -> tuple[str, str]:
    return case.protocol, case.source_id


def _cost(
    case: StudyCase, last: StudyCase | None, count: Mapping[tuple[str, str], int], left: int
) -> tuple[bool, bool, bool]:
    """How ill a case comes after another; a source of more than half of what is left has to come now."""
    return (
        last is not None and _source(case) == _source(last),
        2 * count[_source(case)] <= left,
        last is not None and case.category == last.category,
    )


# --- trials whose answer is known -------------------------------------------------------------------------


def _checks(
    role: Role,
    count: int,
    cases: Sequence[StudyCase],
    methods: Sequence[str],
    kinds: Sequence[Kind],
    questions: Sequence[str],
    seed: int,
) -> Iterator[Trial]:
    """Trials that show a good picture (the truth; without one, the source) among pictures of noise.

    As many candidates as the other trials of their kind have, the good one at each place equally often.
    A practice trial shows the source in place of one noise where the question tells it from the truth.
    """
    order = sorted(cases, key=lambda case: rank(seed, role, case.key))
    for index in range(count):
        case = order[index % len(order)]
        kind = kinds[index % len(kinds)]
        question = questions[(index // len(kinds)) % len(questions)]
        good = SOURCE if case.truth is None else TRUTH
        width = 2 if kind == "pair" else len(methods)
        bad = [NOISE if number == 0 else f"{NOISE}-{number + 1}" for number in range(width - 1)]
        if role == "practice" and good == TRUTH and question in ("overall", "prompt"):
            bad[0] = SOURCE
        # One turn through the places, then the next; which comes first hangs on the seed.
        place = (index + rank(seed, role, "place")[0]) % width
        shown = (*bad[:place], good, *bad[place:])
        yield Trial(
            f"{role[0]}{index:03d}", role, kind, question, case.key, shown, position=index, expected=good
        )


def is_control(title: str) -> bool:
    return title.startswith(CONTROL)
