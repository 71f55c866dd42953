from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bench.endpoints import client
from bench.endpoints.client import (
    AnswerCache,
    Ceiling,
    CeilingReached,
    Endpoint,
    EndpointError,
    FormFile,
    NoAccess,
    Refused,
    RequestPacer,
    request_key,
    retry_after,
)
from tests.bench.endpoints.fake_server import KEY, Answer, FakeApi, error, fake_api

OK = Answer(body=b'{"data": []}')
PNG = FormFile("image", b"png")


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as server:
        yield server


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def endpoint(api: FakeApi, clock: Clock | None = None, **options: Any) -> Endpoint:
    clock = clock or Clock()
    pacer = RequestPacer(options.pop("per_minute", 1e9), clock, clock.sleep)
    return Endpoint(
        api.url + "/images/edits",
        options.pop("key", KEY),
        **{"pacer": pacer, "sleep": clock.sleep, "timeout": 5.0} | options,
    )


def test_a_form_arrives_as_it_was_sent(api: FakeApi) -> None:
    api.answers = [OK]
    data = bytes(range(256)) * 3 + b"\r\n--x\r\n"
    assert endpoint(api).post({"prompt": "un café ☕\r\nwith a line"}, [FormFile("image", data)]) == {
        "data": []
    }
    (form,) = api.forms
    assert form.path == "/v1/images/edits"
    assert form.fields == {"prompt": "un café ☕\r\nwith a line"}
    assert form.files == {"image": data}
    assert form.types == {"image": "image/png"}
    assert form.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_errors_are_tried_again_with_doubled_pauses(api: FakeApi, status: int) -> None:
    api.answers = [error(status), error(status), error(status), OK]
    clock = Clock()
    assert endpoint(api, clock).post({}, [PNG]) == {"data": []}
    assert len(api.forms) == 4
    assert clock.slept == [2.0, 4.0, 8.0]


def test_retry_after_is_honoured_and_never_shortens_the_pause(api: FakeApi) -> None:
    api.answers = [error(429, Retry_After="30"), error(503, Retry_After="0"), OK]
    clock = Clock()
    endpoint(api, clock).post({}, [PNG])
    assert clock.slept == [30.0, 4.0]


def test_an_answer_that_asks_for_hours_is_an_error_at_once(api: FakeApi) -> None:
    api.answers = [error(429, "slow down", Retry_After="7200")]
    with pytest.raises(EndpointError, match=r"slow down. It asks to wait 7200 s: run again after that"):
        endpoint(api).post({}, [PNG])
    assert len(api.forms) == 1


def test_retry_after_in_both_forms() -> None:
    assert retry_after(None) is None
    assert retry_after("12") == 12.0
    assert retry_after("-5") == 0.0
    assert retry_after("soon") is None
    assert retry_after(formatdate(1_000_060, usegmt=True), now=lambda: 1_000_000.0) == 60.0
    assert retry_after(formatdate(999_000, usegmt=True), now=lambda: 1_000_000.0) == 0.0


def test_it_gives_up_after_the_retries(api: FakeApi) -> None:
    api.answers = [error(503, "overloaded")] * 9
    clock = Clock()
    with pytest.raises(EndpointError, match=r"status 503: overloaded\. Given up after 3 calls") as caught:
        endpoint(api, clock, retries=2).post({}, [PNG])
    assert not isinstance(caught.value, Refused)
    assert len(api.forms) == 3
    assert clock.slept == [2.0, 4.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(400, "your prompt was refused", "moderation_blocked"), "refused .moderation_blocked."),
        (error(404, "no such model", "model_not_found"), "Check the address and the model"),
        (error(403, "not allowed"), "Check the key"),
        (error(429, "you are out of credit", "insufficient_quota"), "quota is used up"),
        (Answer(422, b"<html>teapot</html>"), "status 422"),
    ],
)
def test_other_errors_are_final(api: FakeApi, answer: Answer, message: str) -> None:
    api.answers = [answer, OK]
    with pytest.raises(Refused, match=message):
        endpoint(api).post({}, [PNG])
    assert len(api.forms) == 1


def test_a_bad_key_is_told_without_it(api: FakeApi) -> None:
    """Even where the server's own message spells it out."""
    with pytest.raises(Refused, match=r"status 401: Incorrect API key.*Check the key") as caught:
        endpoint(api, key="sk-wrong-key").post({}, [PNG])
    assert "sk-wrong-key" not in str(caught.value)
    assert "<key>" in str(caught.value)
    assert len(api.forms) == 1


def test_no_redirect_is_followed(api: FakeApi) -> None:
    for status in (301, 302, 307, 308):
        api.answers = [Answer(status, headers={"Location": api.url + "/elsewhere"})]
        with pytest.raises(Refused, match=f"status {status}"):
            endpoint(api).post({}, [PNG])
    assert {form.path for form in api.forms} == {"/v1/images/edits"}


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"[1, 2]", b"\xff\xfe", b'"text"'])
def test_an_answer_that_is_no_object_is_an_error(api: FakeApi, body: bytes) -> None:
    api.answers = [Answer(body=body)]
    with pytest.raises(EndpointError, match="no JSON object"):
        endpoint(api).post({}, [PNG])


def test_an_answer_beyond_the_limit_is_not_read_to_its_end(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    api.answers = [Answer(body=b'{"data": "' + b"x" * 5_000_000 + b'"}')]
    with pytest.raises(EndpointError, match="more than 1000 bytes"):
        endpoint(api).post({}, [PNG])
    assert len(api.forms) == 1


def test_timeouts_and_broken_connections_are_tried_again(api: FakeApi) -> None:
    api.answers = [Answer(delay=1.0), Answer(body=b'{"data', cut=True), OK]
    assert endpoint(api, timeout=0.3).post({}, [PNG]) == {"data": []}
    assert len(api.forms) == 3


def test_a_server_that_is_not_there(api: FakeApi) -> None:
    gone = Endpoint(
        "http://127.0.0.1:1/v1", KEY, pacer=RequestPacer(1e9), retries=1, sleep=lambda seconds: None
    )
    with pytest.raises(EndpointError, match=r"ConnectError: .*refused.*Given up after 2 calls"):
        gone.post({}, [PNG])


def test_the_ceiling_counts_retries_and_stops_before_the_call(api: FakeApi) -> None:
    api.answers = [error(500), OK, OK, OK]
    limited = endpoint(api, ceiling=Ceiling(3))
    limited.post({}, [PNG])
    limited.post({}, [PNG])
    with pytest.raises(EndpointError, match="max_requests 3 is reached"):
        limited.post({}, [PNG])
    assert len(api.forms) == limited.calls == 3


def test_the_ceiling_of_cost_counts_every_call_with_its_price(api: FakeApi) -> None:
    api.answers = [error(500), OK, OK, OK]
    limited = endpoint(api, ceiling=Ceiling(max_cost=0.3, price=0.1))
    limited.post({}, [PNG])
    limited.post({}, [PNG])
    with pytest.raises(CeilingReached, match=r"max_cost 0\.3 is reached after 3 calls at 0\.1"):
        limited.post({}, [PNG])
    assert len(api.forms) == 3


def test_json_is_sent_and_answered(api: FakeApi) -> None:
    api.answers = [OK]
    value = {"text": "un café ☕", "list": [1, 2.5, None, {"a": True}]}
    assert endpoint(api).post_json(value) == {"data": []}
    assert api.forms[0].json == value


def test_a_key_goes_into_the_header_that_is_named(api: FakeApi) -> None:
    api.answers = [OK]
    endpoint(api, key_header="x-goog-api-key").post_json({"a": 1})
    assert api.forms[0].headers["x-goog-api-key"] == KEY
    assert "Authorization" not in api.forms[0].headers


def test_no_key_is_no_header(api: FakeApi) -> None:
    api.key, api.answers = None, [OK]
    endpoint(api, key="").post({}, [PNG])
    assert "Authorization" not in api.forms[0].headers


@pytest.mark.parametrize(
    ("status", "code"), [(401, None), (402, None), (404, "model_not_found"), (429, "insufficient_quota")]
)
def test_after_a_refusal_of_every_request_no_further_call_is_made(
    api: FakeApi, status: int, code: str | None
) -> None:
    api.answers = [error(status, "no", code), OK]
    refused = endpoint(api)
    for _ in range(2):
        with pytest.raises(NoAccess, match="no") as caught:
            refused.post({}, [PNG])
    assert caught.value.status == status
    assert len(api.forms) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"error": {"code": 400, "message": "bad  image", "status": "INVALID_ARGUMENT"}},
            "bad image .INVALID_ARG",
        ),
        (
            {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
            "too long .BadRequ",
        ),
        ({"detail": "Field 'image' is required"}, "Field 'image' is required"),
        ({"error": "no such thing"}, "no such thing"),
        ({"error": {"message": {"a": 1}}}, "a"),
        ([1], "Bad Request"),
    ],
)
def test_errors_of_other_servers_are_told(api: FakeApi, body: object, message: str) -> None:
    api.answers = [Answer(400, json.dumps(body).encode())]
    with pytest.raises(Refused, match=message) as caught:
        endpoint(api).post({}, [PNG])
    assert not isinstance(caught.value, NoAccess)
    assert caught.value.status == 400


def test_the_delay_in_googles_body_is_honoured(api: FakeApi) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
    body = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED", "details": [info]}}
    api.answers = [Answer(429, json.dumps(body).encode()), OK]
    clock = Clock()
    endpoint(api, clock).post({}, [PNG])
    assert clock.slept == [17.5]


def test_when_the_server_asks_to_wait_every_thread_waits() -> None:
    clock = Clock()
    pacer = RequestPacer(6000, clock, clock.sleep)
    pacer.wait()
    pacer.pause(30)
    pacer.wait()  # as another thread would
    assert clock.now == 130.0


def test_a_connection_that_is_closed_without_an_answer_is_tried_again(api: FakeApi) -> None:
    api.answers = [Answer(drop=True), OK]
    assert endpoint(api).post({}, [PNG]) == {"data": []}
    assert len(api.forms) == 2


def test_the_rate_limit_spaces_calls_evenly_and_gives_no_credit_for_idleness() -> None:
    clock = Clock()
    pacer = RequestPacer(6, clock, clock.sleep)
    starts = []
    for _ in range(4):
        pacer.wait()
        starts.append(clock.now)
    assert starts == [100.0, 110.0, 120.0, 130.0]
    clock.now += 1000
    for _ in range(2):
        pacer.wait()
        starts.append(clock.now)
    assert starts[4:] == [1130.0, 1140.0]


def test_the_rate_limit_holds_between_threads() -> None:
    pacer, starts, lock = RequestPacer(60 / 0.05), [], threading.Lock()

    def call() -> None:
        pacer.wait()
        with lock:
            starts.append(time.monotonic())

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(starts) - min(starts) >= 4 * 0.05 - 0.01


def test_retries_count_for_the_rate_limit(api: FakeApi) -> None:
    api.answers = [error(500), OK]
    clock = Clock()
    endpoint(api, clock, per_minute=1).post({}, [PNG])
    assert clock.slept == [2.0, 58.0]


def test_answers_are_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = AnswerCache(tmp_path / "kept"), request_key({"prompt": "a hat"})
    assert cache.find(key) is None
    assert cache.store(key, b"image") == cache.find(key)
    assert cache.path(key).read_bytes() == b"image"
    other = request_key({"prompt": "a cap"})

    def fail(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.store(other, b"image")
    assert cache.find(other) is None
    assert [path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()] == [key]


def test_the_key_of_a_request_is_its_content() -> None:
    assert request_key({"a": 1, "b": {"c": "é"}}) == request_key({"b": {"c": "é"}, "a": 1})
    assert request_key({"a": 1}) != request_key({"a": 2})
    # Pinned: another key for the same question would pay for everything again.
    assert request_key({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
