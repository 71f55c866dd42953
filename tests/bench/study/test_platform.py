"""What a recruiting platform asks for: screening, early ends, codes, outcomes, pay, and a second wave."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from bench.study.build import build
from bench.study.design import Design
from bench.study.interface import NotFinished, TookPart, VoteRefused
from bench.study.outcomes import hourly_pay, to_csv
from bench.study.results import rater_outcomes
from bench.study.settings import ScreenerQuestion, StudySettings
from bench.study.store import StudyStore
from tests.bench.study.runs import OPEN, HandClock, answer_all, on_sheet

AGE = ScreenerQuestion("How old are you?", ("under 18", "18 or more"), ("18 or more",))
INFO = ScreenerQuestion("Do you edit pictures?", ("yes", "no"))
TERMS = replace(
    OPEN,
    completion_code="DONE",
    screen_out_code="NOT4U",
    failed_check_code="CHECKS",
    return_url="https://x.example/?cc={code}",
    reward=1.5,
    currency="EUR",
    exclusion={"max_attention_failures": 1},
)


@pytest.fixture
def open_study(memory: Path, run_folder: Path, design: Design, clock: HandClock):
    stores: list[StudyStore] = []

    def make(settings: StudySettings) -> StudyStore:
        store = StudyStore.open(memory / f"{len(stores)}.db", clock=clock)
        stores.append(store)
        store.create("taste", design, settings)
        return store

    yield make
    for store in stores:
        store.close()


def enter(store: StudyStore, external: str) -> str:
    rater = store.enter(
        "taste", external, {"PROLIFIC_PID": external, "STUDY_ID": "s"} if external else None
    ).rater
    store.consent(rater)
    return rater


def answer(store: StudyStore, rater: str, *, fail: int = 0, most: int = 100) -> int:
    """Answers trials, and fails the first ``fail`` attention checks. Returns the number of answers."""
    count = 0
    while count < most and (trial := store.next_trial(rater)) is not None:
        content = on_sheet(store, rater, trial.id)
        position = 0
        if content.role == "attention":
            right = content.candidates.index(str(content.expected))
            position = 1 - right if fail > 0 else right
            fail -= 1
        store.vote(rater, trial.id, position, 2000)
        count += 1
    return count


def test_a_screened_out_rater_frees_the_sheet_and_gets_another_code(open_study) -> None:
    store = open_study(replace(TERMS, screener=(AGE, INFO)))
    rater = enter(store, "p-1")
    sheets = [store._load("taste")]
    assert store.progress(rater).state == "screener"
    for wrong in ([0], [0, 2], [-1, 0], [0, 0, 0]):
        with pytest.raises(VoteRefused, match="no answers to the screener"):
            store.screen(rater, wrong)
    assert store.screen(rater, [0, 1]) is False
    # The first answers count.
    assert store.screen(rater, [1, 1]) is False
    assert store.progress(rater).state == "screened out"
    assert store.next_trial(rater) is None
    completion = store.completion(rater)
    assert (completion.code, completion.url, completion.ended) == (
        "NOT4U", "https://x.example/?cc=NOT4U", "screened out",
    )  # fmt: skip
    # All six sheets are free for others.
    for number in range(6):
        other = enter(store, f"q-{number}")
        assert store.screen(other, [1, 0])
        assert store.progress(other).state == "practice"
    status = store.status("taste")
    assert (status.raters, status.ended_early, status.finished) == (7, 1, 0)
    assert sheets


def test_screening_is_deleted_with_a_withdrawal(open_study) -> None:
    store = open_study(replace(TERMS, screener=(AGE,)))
    rater = enter(store, "p-1")
    store.screen(rater, [1])
    store.withdraw(rater)
    from sqlalchemy import text

    rows = store._db.read(lambda c: c.execute(text("SELECT screening, external FROM raters")).all())
    assert [tuple(row) for row in rows] == [(None, None)]


@pytest.mark.parametrize("stop", [False, True])
def test_failed_checks_give_another_code_at_the_end_or_at_once(open_study, stop: bool) -> None:
    store = open_study(replace(TERMS, stop_at_failed_checks=stop))
    careful, careless = enter(store, "p-1"), enter(store, "p-2")
    answer(store, careful, fail=1)
    answered = answer(store, careless, fail=2)
    assert store.completion(careful).code == "DONE"
    completion = store.completion(careless)
    assert completion.code == "CHECKS"
    assert completion.ended == ("failed checks" if stop else None)
    # Twelve trials and one for practice.
    assert answered == 13 if not stop else answered < 13
    assert store.progress(careless).state == ("failed checks" if stop else "finished")


def test_a_check_that_was_corrected_is_not_failed(open_study) -> None:
    store = open_study(replace(TERMS, stop_at_failed_checks=True, exclusion={"max_attention_failures": 0}))
    rater = enter(store, "p-1")
    while (trial := store.next_trial(rater)) is not None:
        content = on_sheet(store, rater, trial.id)
        if content.role == "attention":
            right = content.candidates.index(str(content.expected))
            store.vote(rater, trial.id, 1 - right)
            store.correct(rater, trial.id, right)
        else:
            store.vote(rater, trial.id, 0)
    assert store.progress(rater).state == "finished"


def test_after_the_time_limit_no_trial_is_handed_out(open_study, clock: HandClock) -> None:
    store = open_study(replace(TERMS, time_limit_minutes=10))
    rater = enter(store, "p-1")
    clock.forward(9 * 60)
    trial = store.next_trial(rater)
    assert trial is not None
    clock.forward(2 * 60)
    # The answer under way still counts.
    assert store.vote(rater, trial.id, 0).new
    assert store.next_trial(rater) is None
    assert store.progress(rater).state == "timed out"
    completion = store.completion(rater)
    assert (completion.code, completion.url, completion.ended) == (None, None, "timed out")


def test_outcomes_follow_the_stated_rule(open_study, clock: HandClock) -> None:
    store = open_study(replace(TERMS, screener=(AGE,)))
    raters = {name: enter(store, name) for name in ("good", "careless", "left", "out", "fast")}
    for name, rater in raters.items():
        store.screen(rater, [0 if name == "out" else 1])
    answer(store, raters["careless"], fail=2)
    answer(store, raters["left"], most=3)
    fast = raters["fast"]
    while (trial := store.next_trial(fast)) is not None:
        content = on_sheet(store, fast, trial.id)
        right = content.candidates.index(content.expected) if content.expected else 0
        store.vote(fast, trial.id, right, 200)
    clock.forward(6 * 60)
    answer(store, raters["good"])

    entries = {entry.participant: entry for entry in rater_outcomes(store, "taste")}
    assert {name: entry.outcome for name, entry in entries.items()} == {
        "good": "approve",
        "careless": "reject",
        "left": "ask to return",
        "out": "screened out",
        "fast": "ask to return",
    }
    assert entries["careless"].reason == "2 attention checks failed, 1 allowed"
    assert entries["left"].reason == "left after 2 of 12 answers"
    assert "median reaction 200 ms" in entries["fast"].reason
    assert [entries[name].code for name in ("good", "careless", "out")] == ["DONE", "CHECKS", "NOT4U"]
    # 1.50 in six minutes.
    assert entries["good"].minutes == pytest.approx(6)
    assert hourly_pay(list(entries.values())) == (pytest.approx(6), pytest.approx(15))
    # The CSV has a row each, and the parameters of the link.
    rows = list(csv.DictReader(io.StringIO(to_csv(list(entries.values())))))
    assert [row["participant"] for row in rows] == ["good", "careless", "left", "out", "fast"]
    assert {row["STUDY_ID"] for row in rows} == {"s"}
    assert (rows[0]["per_hour"], rows[1]["failed_checks"], rows[2]["minutes"]) == ("15.00", "2", "")


def test_a_long_study_needs_two_failed_checks_for_a_rejection(open_study) -> None:
    store = open_study(replace(TERMS, exclusion={"max_attention_failures": 0}))
    rater = enter(store, "p-1")
    answer(store, rater, fail=1)
    (entry,) = rater_outcomes(store, "taste")
    # Thirteen trials take three minutes: one check is enough.
    assert entry.outcome == "reject"
    loaded = store.study("taste")
    from bench.study.outcomes import outcomes

    (longer,) = outcomes(
        store.raters("taste"), store.quality("taste"), {rater: "1 of 2 attention checks failed"},
        loaded.settings, planned_minutes=12,
    )  # fmt: skip
    assert (longer.outcome, longer.reason) == ("ask to return", "1 of 2 attention checks failed")


def test_ids_that_a_spreadsheet_would_run_are_harmless(open_study) -> None:
    store = open_study(TERMS)
    enter(store, "=HYPERLINK(1)")
    assert "\r\n'=HYPERLINK(1)," in to_csv(rater_outcomes(store, "taste"))


def test_a_second_wave_takes_other_raters_and_compares_anew(
    open_study, run_folder: Path, design: Design
) -> None:
    store = open_study(TERMS)
    first = enter(store, "p-1")
    answer_all(store, first)
    again = build([run_folder], replace(design.options, seed=design.options.seed + 1))
    store.create("taste-2", again, replace(TERMS, continues="taste"))
    store.create("taste-3", again, replace(TERMS, continues="taste-2"))
    for wave in ("taste-2", "taste-3"):
        for refused in (
            lambda wave=wave: store.enter(wave, "p-1"),
            lambda wave=wave: store.redeem(store.invite(wave)[0], external="p-1"),
            lambda wave=wave: store.check_invitation(store.invite(wave)[0], external="p-1"),
        ):
            with pytest.raises(TookPart, match="took part in taste"):
                refused()
        assert store.enter(wave, "p-2" if wave == "taste-2" else "p-3").rater
    # Who is new in the second wave is none in the third.
    with pytest.raises(TookPart, match="took part in taste-2"):
        store.enter("taste-3", "p-2")
    # The comparisons are others, and each wave is balanced by itself.
    units = [{trial.unit for trial in one.trials if trial.role == "trial"} for one in (design, again)]
    assert units[0] != units[1]
    assert set(again.pair_votes().values()) == set(design.pair_votes().values())
    assert store.enter("taste", "p-1").rater == first


def test_nobody_gets_a_code_before_the_end(open_study) -> None:
    store = open_study(TERMS)
    rater = enter(store, "p-1")
    with pytest.raises(NotFinished):
        store.completion(rater)
