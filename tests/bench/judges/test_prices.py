"""Prices of a judge's calls: the estimate, the ceiling and the bill, against sums by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.judges.chat import Reply
from bench.judges.options import JudgeOptions, judge_problems
from bench.judges.pointwise import judge_run, planned_calls
from bench.judges.prices import Bill, CallTokens, Prices, estimate, spent
from bench.judges.reading import Unread
from tests.bench.endpoints.fake_server import Answer, FakeApi
from tests.bench.fakes import make_case
from tests.bench.judges.chats import judge, scores
from tests.bench.scored import by_case, scored_run

BY_TOKEN = {"price_per_million_input": 2.0, "price_per_million_output": 8.0}


def options(**values: Any) -> JudgeOptions:
    return JudgeOptions(rubric="masked-edit", model="m", **values)


def reply(**usage: Any) -> Reply:
    return Reply("[1, 2, 3]", 200, usage=usage)


def test_tokens_by_rule_are_a_quarter_of_the_characters_and_28_by_28_pixels() -> None:
    # 10 characters: 3 tokens. 56 x 28 pixels: 2, and 29 x 28: 2, since a part counts as one.
    assert CallTokens.by_rule("a" * 10, [(56, 28), (29, 28)], 1400) == CallTokens(3 + 2 + 2, 1400)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 7}, CallTokens(100, 7)),
        ({"prompt_tokens": 100}, None),
        (None, None),
        ({"prompt_tokens": -1, "completion_tokens": 7}, None),
        ({"prompt_tokens": "100", "completion_tokens": 7}, None),
        ({"prompt_tokens": True, "completion_tokens": 7}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 7}, None),
    ],
)
def test_the_servers_count_is_taken_or_is_none(usage: Any, tokens: CallTokens | None) -> None:
    assert CallTokens.of_usage(usage) == tokens


def test_a_price_by_call_and_prices_by_token_add_up() -> None:
    tokens = CallTokens(1_000_000, 500_000)
    assert Prices(0.01).cost(tokens) == Prices(0.01).cost(None) == 0.01
    assert Prices(None, 2.0, 8.0).cost(tokens) == 2.0 + 4.0
    assert Prices(0.5, 2.0, 8.0).cost(tokens) == 6.5
    assert Prices(0.5, 2.0, 8.0).cost(None) is None
    assert Prices().cost(tokens) is None


def test_the_estimate_is_by_rule_and_then_by_the_replies() -> None:
    asked = options(**BY_TOKEN, requests_per_minute=60.0)
    before = estimate(asked, 100, text="a" * 400, images=3, largest=(280, 280))
    # 100 of text and 3 x 100 of images; 1,400 of the reply.
    assert before.cost == pytest.approx(100 * (400 * 2.0 + 1400 * 8.0) / 1e6)
    assert "(400 input and 1400 output tokens a call, by rule" in str(before)
    replies = [
        reply(prompt_tokens=1000, completion_tokens=50),
        reply(prompt_tokens=3000, completion_tokens=150),
    ]
    after = estimate(asked, 100, replies=[*replies, Reply("x", 200)])
    assert after.cost == pytest.approx(100 * (2000 * 2.0 + 100 * 8.0) / 1e6)
    assert "in the mean of the 2 replies so far" in str(after)


def test_an_unknown_size_counts_as_a_square_of_the_longest_side() -> None:
    for side, pixels in ((None, 1024), (280, 280)):
        asked = options(**BY_TOKEN, longest_side=side, max_tokens=1)
        expected = CallTokens.by_rule("", [(pixels, pixels)], 1)
        assert estimate(asked, 1, images=1).cost == Prices(None, 2.0, 8.0).cost(expected)


def test_larger_images_count_as_they_are_sent() -> None:
    asked = options(**BY_TOKEN, longest_side=280, max_tokens=1)
    assert estimate(asked, 1, images=1, largest=(560, 280)).cost == pytest.approx((50 * 2.0 + 8.0) / 1e6)


def test_the_bill_takes_the_servers_count_and_learns_what_an_image_takes() -> None:
    bill = Bill(options(**BY_TOKEN, max_tokens=100))
    place = ("a" * 40, [(28, 28)])
    assert bill.reserve(*place) == pytest.approx((11 * 2.0 + 100 * 8.0) / 1e6)
    price = bill.add({"prompt_tokens": 33, "completion_tokens": 5}, 1.0, *place)
    assert price == pytest.approx((33 * 2.0 + 5 * 8.0) / 1e6)
    # The server counts three times as many: so may the next call.
    assert bill.reserve(*place) == pytest.approx((33 * 2.0 + 100 * 8.0) / 1e6)
    # A reply without a count may have cost what was reserved.
    assert bill.add(None, 0.5, *place) == 0.5
    assert bill.line(2) == "33 input and 5 output tokens, cost at most (1 replies without a count) 0.50"
    assert Bill(options()).line(3) == ""


def test_what_was_spent_leaves_out_shared_and_failed_replies() -> None:
    replies = [
        reply(prompt_tokens=10, completion_tokens=1),
        Reply("x", 200, usage={"prompt_tokens": 99, "completion_tokens": 9}, shared=True),
        Reply(None, 503, problem=Unread("transport", "busy")),
        Reply("x", 200),
    ]
    assert spent(Prices(1.0), replies) == {"calls": 2, "input_tokens": 10, "output_tokens": 1, "cost": 2.0}
    assert spent(Prices(), replies)["cost"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"price_per_call": -1.0}, "price_per_call -1: expected 0 or more"),
        ({"price_per_million_input": 2.0}, "belong together: set both"),
        ({"price_per_million_output": 2.0}, "belong together: set both"),
        ({**BY_TOKEN, "price_per_million_output": -8.0}, "price_per_million_output -8: expected 0 or more"),
        ({"max_cost": 1.0}, "max_cost needs price_per_call"),
        ({"max_cost": 1.0, "price_per_call": 0.0}, "max_cost needs price_per_call"),
        ({"max_cost": -1.0, "price_per_call": 0.1}, "max_cost -1: expected more than 0"),
        ({"max_requests": 0}, "max_requests 0: expected at least 1"),
    ],
)
def test_prices_that_cannot_be_used_are_one_problem(
    api: FakeApi, values: dict[str, float], message: str
) -> None:
    (problem,) = judge_problems(options(**values))
    assert message in problem


def test_a_run_prints_and_stores_its_cost_and_obeys_the_ceiling_by_tokens(
    api: FakeApi, tmp_path: Path
) -> None:
    # Each reply: 100 input and 10 output tokens, 280 millionths. The reserve of a call is far more.
    prices = {**BY_TOKEN, "max_tokens": 100, "concurrency": 1}
    with scored_run(tmp_path / "run", [make_case(i) for i in range(6)]) as store:
        asked = judge(**prices, max_cost=0.0024)
        reserve = planned_calls(asked, 1, largest=(64, 64)).cost
        assert reserve is not None
        summary = judge_run(store, asked)
        assert 0 < summary.calls < 6
        assert "max_cost 0.0024 is reached" in summary.stopped
        # One more call might have passed the ceiling, and none has.
        assert summary.calls * 0.00028 < 0.0024 < summary.calls * 0.00028 + 3 * reserve
        assert summary.bill == (
            f"{100 * summary.calls} input and {10 * summary.calls} output tokens, "
            f"cost {summary.calls * 0.00028:.3g}"
        )
        rest = judge_run(store, judge(**prices))
        assert rest.calls == 6 - summary.calls
        (file,) = (store.path / "judge").glob("*.json")
        assert json.loads(file.read_text())["spent"] == {
            "calls": 6,
            "input_tokens": 600,
            "output_tokens": 60,
            "cost": pytest.approx(6 * 0.00028),
        }
        assert len(by_case(store, "judge_follow")) == 6


def test_a_server_that_does_not_count_tokens_is_charged_the_reserve(api: FakeApi, tmp_path: Path) -> None:
    counted = json.loads(scores(1, 2, 3).body)
    api.default = lambda form: Answer(
        body=json.dumps({key: value for key, value in counted.items() if key != "usage"}).encode()
    )
    with scored_run(tmp_path / "run", [make_case(i) for i in range(6)]) as store:
        asked = judge(**BY_TOKEN, max_tokens=100, concurrency=1, max_cost=0.0035)
        summary = judge_run(store, asked)
        assert "max_cost 0.0035 is reached" in summary.stopped
        assert f"({summary.calls} replies without a count)" in summary.bill
        assert 0 < summary.calls < 6
