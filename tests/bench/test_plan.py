"""A plan counts, finds problems, and neither writes nor loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import CaseError
from bench.executors import LocalExecutor
from bench.plan import Plan, PlanError, make_plan
from bench.runner import run
from bench.store import RunStore
from tests.bench.executed import execute
from tests.bench.fakes import LOG, Fake, Fakes, make_case, method, protocol


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    LOG.clear()


def test_a_plan_counts_writes_nothing_and_loads_nothing(tmp_path: Path) -> None:
    plan = make_plan([protocol(count=8), protocol("others", count=4)], [method(), method("oracle")])
    assert [(row.protocol, row.method, row.total, row.done, row.todo) for row in plan.rows] == [
        ("fakes", "fake", 8, 0, 8),
        ("fakes", "oracle", 8, 0, 8),
        ("others", "fake", 4, 0, 4),
        ("others", "oracle", 4, 0, 4),
    ]
    assert plan.todo == 24
    assert plan.rows[0].by_category == dict.fromkeys(Fakes.categories, 2)
    assert plan.rows[0].seconds is None
    assert LOG.loaded == []
    assert list(tmp_path.iterdir()) == []


def test_a_plan_after_a_run_knows_what_is_left_and_about_how_long(tmp_path: Path) -> None:
    execute(tmp_path / "run", method(delay=0.01), count=8, limit=1)
    with RunStore.open(tmp_path / "run") as store:
        plan = make_plan([protocol(count=8)], [method(delay=0.01)], store=store)
        seconds = [record.seconds for record in store.edits()]
    (row,) = plan.rows
    assert (row.total, row.done, row.todo) == (8, 4, 4)
    assert min(seconds) >= 0.01
    assert row.seconds == pytest.approx(4 * np.mean(seconds))
    assert sum(row.by_category.values()) == 4


def test_a_method_is_shown_the_ids_and_the_size_of_the_selected_cases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Fake,
        "case_problems",
        classmethod(lambda cls, options, ids, size: [f"not {ids[0]} of {size}"]),
        raising=False,
    )
    plan = make_plan([protocol(count=8)], [method()], limit=1)
    (problem,) = plan.problems
    assert problem == f"method fake on protocol fakes: not {plan.protocols[0].rows[0]['id']} of (32, 32)"
    assert len(plan.protocols[0].rows) == 4


def test_a_greater_limit_adds_cases_and_exchanges_none() -> None:
    chosen = []
    for limit in (1, 3, 5, None):
        plan = make_plan([protocol(count=24)], [method()], limit=limit)
        ids = [row["id"] for row in plan.protocols[0].rows]
        assert ids == sorted(ids), "the protocol's order is kept"
        assert len(ids) == 4 * (limit or 6)
        chosen.append(set(ids))
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
    assert chosen[0] != {"case-000", "case-001", "case-002", "case-003"}, "not merely the first ones"


def test_needs_are_checked_before_any_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = [make_case(i, instruction="", regions=()) for i in range(4)]
    monkeypatch.setattr(Fakes, "cases", lambda self: bare)
    monkeypatch.setattr(Fake, "needs", frozenset({"source", "instruction", "regions"}))
    with RunStore.open(tmp_path / "run", create=True) as store:
        plan = make_plan([protocol()], [method(), method("oracle")], store=store)
        message = (
            "method fake needs instruction, regions, which protocol fakes does not provide: "
            "leave one of the two out"
        )
        assert plan.problems == (message,)
        with pytest.raises(PlanError, match=message):
            run(plan, store, LocalExecutor())
    assert LOG.loaded == []
    assert not (tmp_path / "run" / "cases").exists()


def test_what_a_method_needs_may_depend_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is refused once, with the field that no case has, before any model is loaded."""
    cases = [make_case(0, region_prompt="", mask=None, regions=()), make_case(1, region_prompt="")]
    monkeypatch.setattr(Fakes, "cases", lambda self: cases)
    monkeypatch.setattr(
        Fake,
        "needs_of",
        classmethod(
            lambda cls, options: (
                frozenset({"source", "mask", "region_prompt"})
                if options.strength == 0.5
                else frozenset({"source"})
            )
        ),
    )
    assert make_plan([protocol()], [method()]).problems == ()
    plan = make_plan([protocol()], [method(strength=0.5)])
    assert plan.problems == (
        "method fake needs region_prompt, which protocol fakes does not provide: leave one of the two out",
    )


def test_seeds_that_a_method_has_no_edits_for_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Fake, "seed_problems", classmethod(lambda cls, options, seeds: [f"not with seeds {seeds}"])
    )
    plan = make_plan([protocol()], [method()], seeds=(0, 7))
    assert plan.problems == ("method fake: not with seeds (0, 7)",)


def test_the_oracle_needs_truths() -> None:
    plan = make_plan([protocol(truth=False)], [method("oracle"), method()])
    assert plan.problems == (
        "method oracle needs the ground truth, which protocol fakes does not have: leave one of the two out",
    )


def test_all_problems_are_told_at_once_and_keep_the_rest_of_the_plan() -> None:
    missing = replace(
        method(label="A"), problems=("weights x are missing: run `y`", "z is missing: fetch it")
    )
    nothing = replace(protocol("others"), problems=("no folder data/others: fetch it",))
    plan = make_plan([protocol(), nothing], [missing, method(strength=0.5)])
    assert plan.problems == (
        "no folder data/others: fetch it",
        "weights x are missing: run `y`",
        "z is missing: fetch it",
    )
    assert [(row.protocol, row.method) for row in plan.rows] == [("fakes", "A"), ("fakes", "fake")]


def test_a_protocol_without_cases_is_a_problem() -> None:
    assert "fakes has no cases" in make_plan([protocol(count=0)], [method()]).problems[0]


@pytest.mark.parametrize("bad", ["../../evil", "a/b", "x" * 300])
def test_an_id_that_escapes_stops_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setattr(Fakes, "cases", lambda self: [replace(make_case(0), id=bad)])
    with pytest.raises(CaseError, match="cannot become a file name"):
        execute(tmp_path / "in" / "run", method())
    assert LOG.loaded == []
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {
        "run.json",
        "lock",
        "digests.jsonl",
    }


def test_plans_are_values() -> None:
    plan = make_plan([protocol()], [method()])
    assert isinstance(plan, Plan)
    with pytest.raises(AttributeError):
        plan.seeds = (3,)  # type: ignore[misc]
