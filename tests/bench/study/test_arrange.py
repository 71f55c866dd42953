from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, pairwise
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.study.arrange import ArrangeError, Counts, arrange, schedule, williams
from bench.study.types import GROUND_TRUTH, NOISE, SOURCE, ImageRef, StudyCase, Trial

REF = ImageRef("x.png", "0" * 64)


def case(name: str, category: str = "attribute", truth: bool = True) -> StudyCase:
    return StudyCase(
        "coco",
        name,
        f"source-{name[-1]}",
        category,
        "",
        "a cat",
        "",
        "",
        REF,
        REF,
        {},
        REF if truth else None,
    )


def cases(count: int, categories: int = 1) -> list[StudyCase]:
    return [case(f"case-{i:03d}", f"category-{i % categories}") for i in range(count)]


def pairs(
    n_cases: int, n_methods: int, raters: int, per_sheet: int, *, categories: int = 1, seed: int = 0
) -> list[Trial]:
    trials = arrange(
        cases(n_cases, categories),
        [f"m{i}" for i in range(n_methods)],
        kinds=("pair",),
        questions=("overall",),
        counts=Counts(raters, per_sheet, 0, 0, 0),
        seed=seed,
    )
    return [trial for trial in trials if trial.role == "trial"]


def spread(counts: Counter[str]) -> int:
    return max(counts.values()) - min(counts.values())


@settings(max_examples=60, deadline=None)
@given(
    n_cases=st.integers(1, 9),
    n_methods=st.integers(2, 6),
    raters=st.integers(1, 12),
    per_sheet=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_one_stratum_is_balanced_over_cases_pairs_units_and_sides(
    n_cases: int, n_methods: int, raters: int, per_sheet: int, seed: int
) -> None:
    n_pairs = comb(n_methods, 2)
    if per_sheet > n_cases * n_pairs:
        with pytest.raises(ArrangeError, match="too many"):
            pairs(n_cases, n_methods, raters, per_sheet, seed=seed)
        return
    trials = pairs(n_cases, n_methods, raters, per_sheet, seed=seed)
    assert len(trials) == raters * per_sheet
    # Cases and pairs occur equally often, give or take one.
    by_case = Counter({c.key: 0 for c in cases(n_cases)})
    by_case.update(trial.case for trial in trials)
    assert spread(by_case) <= 1
    by_pair = Counter({frozenset(p): 0 for p in combinations([f"m{i}" for i in range(n_methods)], 2)})
    by_pair.update(frozenset(trial.candidates) for trial in trials)
    assert spread(by_pair) <= 1
    # Units too, once there are as many trials as units.
    units = Counter(trial.unit for trial in trials)
    if len(trials) >= n_cases * n_pairs:
        assert len(units) == n_cases * n_pairs
        assert spread(units) <= 1
    else:
        # Incomplete: as many different comparisons as there are trials.
        assert len(units) == len(trials)
    # Each method of a pair is on the left about half of the time.
    sides: defaultdict[frozenset[str], Counter[str]] = defaultdict(Counter)
    unit_sides: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cycles = -(-len(trials) // (n_cases * n_pairs))
    for trial in trials:
        sides[frozenset(trial.candidates)][trial.candidates[0]] += 1
        unit_sides[trial.unit][trial.candidates[0]] += 1
    for pair, first in sides.items():
        a, b = sorted(pair)
        # Alternating; with an even number of cases the cycle's own turn may shift the last, unfinished one.
        assert abs(first[a] - first[b]) <= 2 if cycles > 1 else abs(first[a] - first[b]) <= 1
    for first in unit_sides.values():
        counts = [first[key] for key in first]
        assert abs(counts[0] - (counts[1] if len(counts) > 1 else 0)) <= 1
    # No sheet holds a unit twice, and positions are consecutive.
    for sheet in range(raters):
        on_sheet = [trial for trial in trials if trial.sheet == sheet]
        assert len({trial.unit for trial in on_sheet}) == per_sheet
        assert [trial.position for trial in sorted(on_sheet, key=lambda t: t.position)] == list(
            range(per_sheet)
        )


def test_a_sheet_is_balanced_over_categories_and_pairs() -> None:
    trials = pairs(40, 5, 10, 40, categories=4)
    kinds = {c.key: c.category for c in cases(40, 4)}
    for sheet in range(10):
        on_sheet = [trial for trial in trials if trial.sheet == sheet]
        assert Counter(kinds[trial.case] for trial in on_sheet) == {f"category-{i}": 10 for i in range(4)}
        by_pair = Counter(frozenset(trial.candidates) for trial in on_sheet)
        assert len(by_pair) == 10
        assert spread(by_pair) == 0
        left = Counter(trial.candidates[0] for trial in on_sheet)
        assert all(4 <= left[f"m{i}"] <= 12 for i in range(5)), (
            left
        )  # 8 of the 16 it is shown in, give or take 4


@settings(max_examples=60, deadline=None)
@given(
    n_cases=st.integers(6, 24),
    categories=st.integers(1, 6),
    n_methods=st.integers(2, 6),
    questions=st.integers(1, 3),
    raters=st.integers(1, 12),
    per_sheet=st.integers(1, 12),
)
def test_a_question_shows_all_pairs_and_sides_equally_often_over_its_strata(
    n_cases: int, categories: int, n_methods: int, questions: int, raters: int, per_sheet: int
) -> None:
    names = ("overall", "prompt", "real")[:questions]
    # Some combinations ask for more trials than there are comparisons.
    titles = [f"m{i}" for i in range(n_methods)]
    try:
        trials = arrange(
            cases(n_cases, categories),
            titles,
            kinds=("pair",),
            questions=names,
            counts=Counts(raters, per_sheet, 0, 0, 0),
            seed=0,
        )
    except ArrangeError:
        return  # too many trials for so few cases
    for question in names:
        some = [t for t in trials if t.role == "trial" and t.question == question]
        by_pair = Counter({frozenset(pair): 0 for pair in combinations(titles, 2)})
        by_pair.update(frozenset(t.candidates) for t in some)
        assert spread(by_pair) <= 1
        for a, b in combinations(titles, 2):
            first = Counter(t.candidates[0] for t in some if set(t.candidates) == {a, b})
            # One more on a side at most, and one for each stratum in which cases came again.
            assert abs(first[a] - first[b]) <= 1 + categories


def test_eleven_methods_in_eight_strata_are_all_compared() -> None:
    # 10 raters of 16 trials, as in the demo's study: 34 of 55 pairs, methods 18 to 67 times, when every
    # stratum began near the start of the cycle.
    trials = pairs(64, 11, 10, 16, categories=8)
    by_pair = Counter(frozenset(trial.candidates) for trial in trials)
    assert (len(by_pair), set(by_pair.values())) == (55, {2, 3})
    by_method = Counter(title for trial in trials for title in trial.candidates)
    assert (min(by_method.values()), max(by_method.values())) == (27, 30)
    first = Counter(trial.candidates[0] for trial in trials)
    assert all(0.45 <= first[title] / count <= 0.55 for title, count in by_method.items())


@pytest.mark.parametrize(("raters", "per_sheet"), [(3, 4), (6, 8), (12, 12), (55, 8), (56, 4)])
@pytest.mark.parametrize("n_methods", [3, 4, 6])
def test_each_rater_meets_many_pairs(raters: int, per_sheet: int, n_methods: int) -> None:
    # With 3 raters of 4 trials in 4 categories, every category has each pair once, so nothing tells which
    # rater gets which; at first, each got the same pair four times.
    trials = pairs(60, n_methods, raters, per_sheet, categories=4)
    met = Counter((trial.sheet, frozenset(trial.candidates)) for trial in trials)
    assert max(met.values()) <= -(-per_sheet // comb(n_methods, 2)) + 1


def test_overlapping_sheets_ask_several_raters_about_each_comparison_from_both_sides() -> None:
    trials = [
        trial
        for trial in arrange(
            cases(12, 2), ["a", "b", "c", "d"], kinds=("pair",), questions=("overall",),
            counts=Counts(6, 6, 0, 0, 0, overlap=2), seed=0,
        )
        if trial.role == "trial"
    ]  # fmt: skip
    assert Counter(trial.sheet for trial in trials) == dict.fromkeys(range(6), 6)
    # Two raters per unit, from different sheets, with the sides swapped.
    units: defaultdict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        units[trial.unit].append(trial)
    assert len(units) == 18
    for one, other in units.values():
        assert one.sheet != other.sheet
        assert one.candidates == other.candidates[::-1]
    # Five raters for groups of two: the last different sheet has one rater.
    odd = arrange(
        cases(12, 2), ["a", "b", "c", "d"], kinds=("pair",), questions=("overall",),
        counts=Counts(5, 6, 0, 0, 0, overlap=2), seed=0,
    )  # fmt: skip
    votes = Counter(trial.unit for trial in odd if trial.role == "trial")
    assert Counter(votes.values()) == {2: 12, 1: 6}


def test_left_out_trials_per_stratum_turn_round() -> None:
    # Five trials in four categories: the one too many falls on each category in turn.
    trials = pairs(16, 3, 8, 5, categories=4)
    kinds = {c.key: c.category for c in cases(16, 4)}
    assert Counter(kinds[trial.case] for trial in trials) == {f"category-{i}": 10 for i in range(4)}


def test_no_two_trials_of_one_source_in_a_row_where_it_can_be() -> None:
    all_cases = [case(f"case-{i:03d}", f"category-{i % 4}") for i in range(40)]
    by_key = {c.key: c for c in all_cases}
    for sheet in range(10):
        order = [t for t in pairs(40, 4, 10, 20, categories=4) if t.sheet == sheet]
        sources = [by_key[trial.case].source_id for trial in sorted(order, key=lambda t: t.position)]
        assert all(a != b for a, b in pairwise(sources))


def test_repeats_swap_sides_and_name_their_trial() -> None:
    arranged = arrange(
        cases(6), ["a", "b", "c"], kinds=("pair", "best"), questions=("overall", "real"),
        counts=Counts(3, 9, 1, 0, 0), seed=1,
    )  # fmt: skip
    trials = {trial.id: trial for trial in arranged if trial.role == "trial"}
    repeats = [trial for trial in arranged if trial.role == "repeat"]
    assert {trial.repeat_of for trial in repeats} == set(trials)
    for again in repeats:
        first = trials[again.repeat_of or ""]
        assert again.candidates == first.candidates[::-1]
        assert (again.unit, again.case, again.question) == (first.unit, first.case, first.question)


@pytest.mark.parametrize("count", range(2, 9))
def test_williams_squares_balance_places_and_neighbours(count: int) -> None:
    rows = williams(count)
    assert len(rows) == (count if count % 2 == 0 else 2 * count)
    assert all(sorted(row) == list(range(count)) for row in rows)
    places = Counter((place, value) for row in rows for place, value in enumerate(row))
    assert len(set(places.values())) == 1
    # Every item follows every other item equally often.
    neighbours = Counter(pair for row in rows for pair in pairwise(row))
    assert len(neighbours) == count * (count - 1)
    assert len(set(neighbours.values())) == 1


@pytest.mark.parametrize("n_cases", [6, 7, 8])
def test_best_of_all_shows_each_method_equally_often_at_each_place(n_cases: int) -> None:
    arranged = arrange(
        cases(n_cases), ["a", "b", "c", "d"], kinds=("best",), questions=("overall",),
        counts=Counts(2 * n_cases, 4, 0, 0, 0), seed=0,
    )  # fmt: skip
    trials = [trial for trial in arranged if trial.role == "trial"]
    places = Counter((i, title) for trial in trials for i, title in enumerate(trial.candidates))
    assert spread(places) <= 1
    # A case that comes again comes in another order.
    orders = defaultdict(list)
    for trial in trials:
        orders[trial.case].append(trial.candidates)
    assert all(len(set(rows)) == min(4, len(rows)) for rows in orders.values())


def test_attention_checks_show_the_good_picture_at_each_place_equally_often() -> None:
    arranged = arrange(
        cases(5), ["a", "b", "c"], kinds=("pair",), questions=("overall", "real"),
        counts=Counts(2, 10, 0, 4, 3), seed=5,
    )  # fmt: skip
    checks = [trial for trial in arranged if trial.role == "attention"]
    assert len(checks) == 16
    assert Counter(trial.candidates.index(GROUND_TRUTH) for trial in checks) == {0: 8, 1: 8}
    assert {trial.expected for trial in checks} == {GROUND_TRUTH}
    assert all(NOISE in trial.candidates for trial in checks)
    practice = [trial for trial in arranged if trial.role == "practice"]
    assert [SOURCE in t.candidates for t in practice] == [t.question == "overall" for t in practice]


def test_without_a_truth_the_source_stands_in_and_best_has_as_many_candidates() -> None:
    arranged = arrange(
        [case(f"c{i}", truth=False) for i in range(3)], ["a", "b", "c", "d"], kinds=("best",),
        questions=("overall",), counts=Counts(1, 3, 0, 1, 1), seed=0,
    )  # fmt: skip
    checks = [trial for trial in arranged if trial.expected is not None]
    assert all(set(t.candidates) == {SOURCE, NOISE, f"{NOISE}-2", f"{NOISE}-3"} for t in checks)
    assert {trial.expected for trial in checks} == {SOURCE}


@given(
    rater=st.integers(0, 50), per=st.integers(1, 40), repeats=st.integers(0, 5), attention=st.integers(0, 5)
)
@settings(max_examples=50, deadline=None)
def test_a_schedule_holds_what_was_asked_and_repeats_late(
    rater: int, per: int, repeats: int, attention: int
) -> None:
    repeats = min(repeats, per)
    roles = schedule(Counts(1, per + repeats + attention, repeats, attention, 2), 0, rater)
    assert roles[:2] == ("practice", "practice")
    expected = {"practice": 2, "trial": per, "repeat": repeats, "attention": attention}
    assert Counter(roles) == {role: count for role, count in expected.items() if count}
    main = roles[2:]
    for place, role in enumerate(main):
        if role == "repeat":
            nth = main[: place + 1].count("repeat")
            before = [i for i, r in enumerate(main[:place]) if r == "trial"]
            # The nth repeat is of the nth trial: it has been there, and a third of the session ago.
            assert len(before) >= nth
            if per >= 12:
                assert place - before[nth - 1] >= per // 3


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
    assert pairs(8, 4, 5, 6, seed=3) == pairs(8, 4, 5, 6, seed=3)
    assert pairs(8, 4, 5, 6, seed=3) != pairs(8, 4, 5, 6, seed=4)
