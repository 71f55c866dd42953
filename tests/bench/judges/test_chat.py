from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.endpoints.client import CeilingReached, NoAccess
from bench.judges.chat import ask, connect, image_url, read_answer, request_body
from bench.judges.options import JudgeOptions, make_judge
from tests.bench.endpoints.fake_server import Answer, FakeApi, error
from tests.bench.judges.chats import chat, images_of

OPTIONS = JudgeOptions("masked-edit", "m", requests_per_minute=1e9, retries=0)


def options(**changes: Any) -> JudgeOptions:
    return JudgeOptions("masked-edit", "m", **{"requests_per_minute": 1e9, "retries": 0} | changes)


def test_the_body_is_a_chat_with_images(api: FakeApi) -> None:
    api.answers = [chat("hello")]
    pixels = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)
    body = request_body(options(seed=7), "what?", [image_url(pixels, OPTIONS)] * 2, number=2)
    reply = ask(connect(make_judge(OPTIONS)), body)
    (form,) = api.forms
    assert form.path == "/v1/chat/completions"
    assert {name: form.json[name] for name in set(form.json) - {"messages"}} == {
        "model": "m",
        "max_tokens": 1400,
        "temperature": 0.0,
        "seed": 9,
    }
    assert [np.array_equal(np.asarray(image), pixels) for image in images_of(form)] == [True, True]
    assert (reply.text, reply.status, reply.model, reply.finish) == ("hello", 200, "judge-2025-04-14", "stop")
    assert reply.usage == {"prompt_tokens": 100, "completion_tokens": 10}


def test_what_is_none_is_not_sent() -> None:
    body = request_body(
        options(temperature=None, token_field="max_completion_tokens", max_tokens=9), "x", [], 0
    )
    assert set(body) == {"model", "messages", "max_completion_tokens"}


def test_images_are_made_smaller_and_never_larger() -> None:
    pixels = np.zeros((300, 200, 3), np.uint8)
    for side, size in ((150, (100, 150)), (1024, (200, 300)), (None, (200, 300))):
        url = image_url(pixels, options(longest_side=side))
        assert _image(url).size == size
    jpeg = _image(image_url(pixels, options(codec="jpeg")))
    assert (jpeg.format, jpeg.size) == ("JPEG", (200, 300))


def _image(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("answer", "kind", "is_final"),
    [
        (error(400, "blocked", "content_policy_violation"), "refused", True),
        (error(400, "unknown parameter", "invalid_request_error"), "rejected", False),
        (error(503, "busy"), "transport", False),
        (Answer(drop=True), "transport", False),
        (Answer(body=b"<html>"), "transport", False),
        (Answer(body=b'{"object": "list"}'), "rejected", False),
        (Answer(body=b'{"choices": []}'), "rejected", False),
    ],
)
def test_a_failed_call_is_a_reply_with_its_kind(
    api: FakeApi, answer: Answer, kind: str, is_final: bool
) -> None:
    api.answers = [answer]
    reply = ask(connect(make_judge(OPTIONS)), {"a": 1})
    assert reply.text is None
    assert reply.problem is not None
    assert reply.problem.kind == kind
    assert reply.is_final is is_final


def test_no_access_and_a_ceiling_end_the_calls(api: FakeApi) -> None:
    api.answers = [error(401, "wrong key")]
    with pytest.raises(NoAccess, match="wrong key"):
        ask(connect(make_judge(OPTIONS)), {})
    api.answers = [chat("a")]
    endpoint = connect(make_judge(options(price_per_call=0.5, max_cost=0.9)))
    ask(endpoint, {})
    with pytest.raises(CeilingReached, match=r"max_cost 0\.9"):
        ask(endpoint, {})


def test_an_answer_in_parts_or_without_content_is_read() -> None:
    parts = [{"type": "text", "text": "[8, "}, {"type": "text", "text": "9]"}]
    assert read_answer({"choices": [{"message": {"content": parts}}]}).text == "[8, 9]"
    refused = read_answer(
        {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]}
    )
    assert (refused.text, refused.refusal) == ("", "no")
