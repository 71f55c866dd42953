"""The attribute classifier behind a judge's interface: what it reads, answers and refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.judges.chat import ask, connect, image_url, request_body
from bench.judges.options import JudgeError, JudgeOptions, judge_problems, make_judge
from bench.judges.pairwise import judge_pairs, planned_pairs
from bench.judges.pointwise import judge_run, judged_edits, missing_calls, new_edits
from bench.judges.rubrics import load_rubric
from bench.judges.world import CHANGE, answered, better, changed_area, read_parts, request_of, score
from bench.plan import Plan, PlanRow
from run_bench import PROGRAM
from tests.bench.fakes import make_case
from tests.bench.scored import OTHER, SPEC, add_edits, by_case, scored_run

OPTIONS = {"rubric": "masked-edit", "server": "world", "model": "attribute-classifier", "retries": 0}
RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


class Colours:
    """Reads the share of red, blue and other pixels of a region as a colour, and finds a car everywhere."""

    identity = "abc"

    def __call__(
        self, images: NDArray[np.uint8], masks: NDArray[np.bool_], /
    ) -> Sequence[Mapping[str, Mapping[str, float]]]:
        answers = []
        for image, mask in zip(images, masks, strict=True):
            red, blue = (float((image[mask] == colour).all(axis=1).mean()) for colour in (RED, BLUE))
            colors = {"red": red, "blue": blue, "other": 1 - red - blue}
            answers.append({"color": colors, "category": {"car": 1.0, "bus": 0.0, "other": 0.0}})
        return answers


def picture(left: tuple[int, int, int], right: tuple[int, int, int]) -> NDArray[np.uint8]:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = left, right
    return pixels


LEFT = np.arange(8)[None].repeat(8, 0) < 4


@pytest.mark.parametrize(
    ("request_text", "parts"),
    [
        ("make his hair blond", [(("hair_color", "blond"),)]),
        ("make her smile", [(("mouth", "smile"),)]),
        ("give her earrings", [(("Wearing_Earrings", "yes"),)]),
        ("put her in the snow", [(("background", "snow"),)]),
        ("change the background to a beach", [(("background", "beach"),)]),
        ("make it night", [(("background", "night"),)]),
        ("make the bottle yellow", [(("category", "bottle"), ("color", "yellow"))]),
        (
            "turn the orange kite into an orange ball and make the suitcase red",
            [
                (("category", "suitcase"), ("color", "red")),
                (("color", "orange"), ("category", "sports ball")),
            ],
        ),
        (
            "close his mouth and give him a hat and earrings",
            [(("mouth", "neutral"),), (("Wearing_Hat", "yes"),), (("Wearing_Earrings", "yes"),)],
        ),
        ("The image should show: a woman with a hat", []),
        ("swap the colors of the two cars", []),
    ],
)
def test_a_request_is_read_by_its_phrases(
    request_text: str, parts: list[tuple[tuple[str, str], ...]]
) -> None:
    assert read_parts(request_text) == parts


def test_every_request_of_the_demo_names_its_claims() -> None:
    """What is read is what the case's own record of the change says."""
    session = PROGRAM.session()
    for protocol in map(session.protocol, ("mini-celeba-hq", "mini-coco")):
        # Images are drawn on the way, so not every case.
        for case in islice(protocol.cases(), 60):
            claims = {(claim.attribute, claim.after) for claim in case.claims}
            read = {value for part in read_parts(case.request.instruction) for value in part}
            assert read == claims, case.request.instruction


def test_the_three_scores_by_hand() -> None:
    parts = read_parts("make the car red")
    source = picture(BLUE, GREY)
    # Done, not done, half done, and a region that shows no colour at all.
    for edited, expected in (
        (picture(RED, GREY), [10, 10, 10]),
        (source, [0, 10, 10]),
        (picture(GREY, GREY), [0, 10, 0]),
        # Outside, colour turns from other to red: half of the attributes change.
        (picture(RED, RED), [10, 5, 10]),
    ):
        assert score(Colours(), source, edited, LEFT, parts) == expected
    half = picture(RED, GREY)
    half[:4, :4] = BLUE
    assert score(Colours(), source, half, LEFT, parts) == [5, 10, 10]


def test_objects_apart_are_read_apart() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, :2] = mask[:, 6:] = True
    parts = read_parts("make the car red and make the car blue")
    assert len(parts) == 2
    assert score(Colours(), picture(GREY, GREY), picture(RED, BLUE), mask, parts)[0] == 10
    assert score(Colours(), picture(GREY, GREY), picture(RED, RED), mask, parts)[0] == 5


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        # Done and not done, in both orders.
        (picture(RED, GREY), picture(GREY, GREY), "A"),
        (picture(GREY, GREY), picture(RED, GREY), "B"),
        # Both done.
        (picture(RED, GREY), picture(RED, GREY), "tie"),
        # Neither changed anything.
        (picture(BLUE, GREY), picture(BLUE, GREY), "tie"),
    ],
)
def test_the_better_edit_by_hand(first: NDArray[np.uint8], second: NDArray[np.uint8], winner: str) -> None:
    assert better(Colours(), picture(BLUE, GREY), first, second, read_parts("make the car red")) == winner


def test_the_changed_area_is_that_of_either_edit_without_noise() -> None:
    source = np.zeros((32, 32, 3), np.uint8)
    one, other = source.copy(), source.copy()
    one[4:12, 4:12] = 200
    other[20:28, 20:24, 1] = CHANGE
    # Noise: changes that are small in level, or in size.
    one[16:, :8] = CHANGE - 1
    other[0, 31] = 255
    expected = np.zeros((32, 32), bool)
    expected[4:12, 4:12] = expected[20:28, 20:24] = True
    assert np.array_equal(changed_area(source, [one, other]), expected)
    assert not changed_area(source, [source, source]).any()


def test_pairs_of_a_run_are_judged_without_a_flip(tmp_path: Path) -> None:
    classifier = Colours()
    cases = [make_case(i, instruction="make the car red") for i in range(3)]
    with scored_run(tmp_path / "run", cases) as store:
        add_edits(store, cases, OTHER)
        judge = make_judge(JudgeOptions(**{**OPTIONS, "rubric": "pairs"}), classifier)
        assert planned_pairs(store, judge).calls == 6
        assert str(planned_pairs(store, judge)) == "6 calls, at least 0.0 minutes, cost 0.00"
        with answered(judge, classifier) as asked:
            votes, summary = judge_pairs(store, asked, {SPEC.digest: "one", OTHER.digest: "other"})
    assert (summary.calls, summary.pairs, summary.flips) == (6, 3, 0)
    assert set(votes["rater"]) == {"attribute-classifier-abc"}
    assert set(votes["rater_kind"]) == {"model"}


def test_it_answers_over_http_and_refuses_other_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Colours()
    judge = make_judge(JudgeOptions(**OPTIONS), classifier)
    (question,) = load_rubric("masked-edit").questions
    text = question.prompt.replace("<request>", "make the car red")
    assert request_of(text) == "make the car red"
    mask = np.repeat(LEFT[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
    urls = [image_url(image, judge.options) for image in (picture(BLUE, GREY), picture(RED, GREY), mask)]
    with answered(judge, classifier) as asked:
        assert asked.server.url.startswith("http://127.0.0.1:")
        # A port is no part of what the replies depend on.
        assert (asked.url, asked.digest) == ("world:abc", judge.digest)
        endpoint = connect(asked)
        reply = ask(endpoint, request_body(judge.options, text, urls, 0))
        assert (reply.text or "").endswith('"score": [10, 10, 10]}')
        assert reply.model == "attribute-classifier-abc"
        other = question.prompt.replace("<request>", "make it nicer")
        refused = ask(endpoint, request_body(judge.options, other, urls, 0))
        assert "none of the rendered world's phrases" in (refused.refusal or "")
        for body in (
            request_body(judge.options, "Which is better?", urls, 0),
            request_body(judge.options, text, urls[:2], 0),
            request_body(judge.options, text, [*urls[:2], "data:image/png;base64,AAAA"], 0),
            {"messages": []},
        ):
            problem = ask(endpoint, body).problem
            assert problem is not None
            assert problem.kind == "rejected"
    problem = ask(connect(asked), request_body(judge.options, text, urls, 0)).problem
    assert problem is not None
    assert problem.kind == "transport"


def test_a_run_is_judged_within_its_limit_and_again_without_a_call(tmp_path: Path) -> None:
    classifier = Colours()
    cases = [make_case(i, instruction="make the car red") for i in range(4)]
    with scored_run(tmp_path / "run", cases) as store:
        few = make_judge(JudgeOptions(**OPTIONS, limit=1), classifier)
        categories = {case.category for case in cases}
        assert missing_calls(store, few) == len(judged_edits(store, few.options)) == len(categories)
        assert missing_calls(store, few, ["another-protocol"]) == 0
        with answered(few, classifier) as asked:
            assert judge_run(store, asked).calls == len(categories)
            assert judge_run(store, asked).calls == 0
        # Another port, and all cases: only the others are asked about.
        every = make_judge(JudgeOptions(**OPTIONS), classifier)
        with answered(every, classifier) as asked:
            assert judge_run(store, asked).calls == len(cases) - len(categories)
        assert len(by_case(store, "judge_follow")) == len(cases)


def test_the_plan_counts_no_more_cases_than_the_limit() -> None:
    row = PlanRow("p", "m", "d", 14, 0, {"attribute": 10, "background": 1}, None)
    plan = Plan((), (), (0, 1), (row, row), ())
    assert new_edits(plan, JudgeOptions(**OPTIONS)) == 22
    assert new_edits(plan, JudgeOptions(**OPTIONS, limit=3)) == 2 * (6 + 1)


@pytest.mark.parametrize(
    ("changes", "rendered", "problem"),
    [
        ({"rubric": "viescore", "prompts": "x"}, True, "answers the rubrics masked-edit and pairs alone"),
        ({"rubric": "pairs", "passes": 2}, True, "leave passes and label out"),
        ({"model": "gpt-4.1"}, True, "its model is attribute-classifier, not 'gpt-4.1'"),
        ({"limit": 0}, True, "limit 0: expected at least 1"),
        ({}, False, "reads the rendered world only, and no protocol shows it"),
    ],
)
def test_what_it_cannot_do_is_said(changes: dict[str, object], rendered: bool, problem: str) -> None:
    options = JudgeOptions(**OPTIONS | changes)  # type: ignore[arg-type]
    assert any(problem in text for text in judge_problems(options, Colours(), rendered=rendered))


def test_without_a_checkpoint_there_is_no_judge() -> None:
    with pytest.raises(JudgeError, match="the checkpoint of the attribute classifier is missing"):
        make_judge(JudgeOptions(**OPTIONS))
