from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditRequest, MethodSpec, Runtime
from bench.endpoints import client as endpoint
from bench.executors import LocalExecutor, Task
from bench.registry import OptionError, Registry, options_dict, parse_options
from bench.suite import configure_method
from methods.endpoints.openai_images import OpenAiImages, mask_png
from tests.bench.endpoints.fake_server import (
    KEY,
    Answer,
    FakeApi,
    error,
    fake_api,
    image_answer,
    painted,
)
from tests.methods.conftest import box_mask, picture, request
from tests.methods.test_outputs import case

SIDE = 256


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    with fake_api() as server:
        monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", KEY)
        yield server


def make(api: FakeApi, **options: Any) -> OpenAiImages:
    settings = {"size": SIDE, "requests_per_minute": 1e9, "timeout": 5.0} | options
    return OpenAiImages(OpenAiImages.Options(**settings), Runtime())


def big(seed: int = 0, mask: Image.Image | None = None) -> EditRequest:
    size = (SIDE, SIDE)
    return request(seed, mask or box_mask(32, 64, 160, 192, size), picture(seed, size))


def test_the_form_is_the_endpoints(api: FakeApi) -> None:
    make(api, quality="low", input_fidelity="high").edit([big(3)])
    (form,) = api.forms
    assert form.path == "/v1/images/edits"
    assert form.fields == {
        "model": "gpt-image-2.6-sunburst",
        "prompt": "a face with a hat 3",
        "n": "1",
        "size": "256x256",
        "quality": "low",
        "input_fidelity": "high",
    }
    assert form.image("image").mode == "RGB"
    assert form.image("image").tobytes() == picture(3, (SIDE, SIDE)).tobytes()
    assert set(form.types.values()) == {"image/png"}
    assert form.image("mask").size == form.image("image").size


def test_polarity_alpha_0_is_edit(api: FakeApi) -> None:
    edit_request = big(1)
    (edited,) = make(api).edit([edit_request])
    alpha = np.asarray(api.forms[0].image("mask").getchannel("A"))
    inside = np.asarray(edit_request.mask) == 255
    assert (alpha[inside] == 0).all()
    assert (alpha[~inside] == 255).all()
    # And seen from the other end: what the server painted is what was to be edited.
    red = (np.asarray(edited) == (255, 0, 0)).all(axis=2)
    assert np.array_equal(red, inside)


def test_the_mask_is_rgba_of_two_values() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 3] = True
    image = Image.open(io.BytesIO(mask_png(mask)))
    assert (image.mode, image.format, image.size) == ("RGBA", "PNG", (8, 8))
    assert np.array_equal(np.asarray(image)[..., 3], np.where(mask, 0, 255))


def test_each_request_gets_its_own_answer_in_order(api: FakeApi) -> None:
    batch = [big(seed, box_mask(16 * seed, 0, 16 * seed + 16, 16, (SIDE, SIDE))) for seed in range(4)]
    edited = make(api).edit(batch)
    for one, image in zip(batch, edited, strict=True):
        red = (np.asarray(image) == (255, 0, 0)).all(axis=2)
        expected = np.asarray(one.mask) == 255
        expected[0, 0] = False  # the server's mark
        assert np.array_equal(red, expected)


@pytest.mark.parametrize("field", ["target_prompt", "region_prompt", "instruction"])
def test_prompt_field(api: FakeApi, field: str) -> None:
    method = make(api, prompt_field=field)
    assert method.needs == {"source", "mask", field}
    method.edit([big(2)])
    assert api.forms[0].fields["prompt"] == getattr(big(2), field)


# --- money ---------------------------------------------------------------------------------------------


def test_what_is_answered_is_never_paid_for_twice(api: FakeApi) -> None:
    first = make(api).edit([big(0), big(1)])
    assert len(api.forms) == 2
    again = make(api).edit([big(1), big(0)])  # another process, another order
    assert len(api.forms) == 2
    assert [image.tobytes() for image in again[::-1]] == [image.tobytes() for image in first]


def test_another_question_is_another_answer(api: FakeApi) -> None:
    base = big(0)
    make(api).edit([base])
    batch = [
        replace(base, target_prompt="a dog"),
        replace(base, seed=1),
        replace(base, source=picture(5, (SIDE, SIDE))),
        replace(base, mask=box_mask(0, 0, 8, 8, (SIDE, SIDE))),
    ]
    for count, one in enumerate(batch, 2):
        make(api).edit([one])
        assert len(api.forms) == count
    for count, options in enumerate(({"model": "m"}, {"quality": "low"}, {"input_fidelity": "low"}), 6):
        make(api, **options).edit([base])
        assert len(api.forms) == count
    # What changes nothing in the answer asks nothing anew.
    make(api, paste=True, timeout=9.0, retries=1, ask_base64=True).edit([base])
    make(api).edit([replace(base, region_prompt="x", instruction="y")])
    assert len(api.forms) == 8


def test_a_killed_run_goes_on_where_it_was(api: FakeApi) -> None:
    refused = error(400, "refused", "moderation_blocked")
    method = make(api)
    batch = [big(seed) for seed in range(4)]
    method.edit(batch[:2])
    api.answers = [refused]
    with pytest.raises(endpoint.Refused, match="moderation_blocked"):
        method.edit([batch[2]])
    assert len(api.forms) == 3
    with pytest.raises(endpoint.Refused, match="moderation_blocked"):
        method.edit(batch)  # 0 and 1 are kept, 2 was refused, 3 is new
    assert len(api.forms) == 4
    assert len(make(api).edit([batch[0], batch[1], batch[3]])) == 3
    assert len(api.forms) == 4


def test_inside_the_engine_a_refusal_spoils_no_other(api: FakeApi, tmp_path: Path) -> None:
    names = Registry("method", {"openai_images": "methods.endpoints.openai_images:OpenAiImages"}, "")
    options = {"size": SIDE, "requests_per_minute": 1e9}
    configured = configure_method("openai_images", names, options=options)

    def answer(form: Any) -> Answer:
        return (
            error(400, "refused", "moderation_blocked") if "hat 1" in form.fields["prompt"] else painted(form)
        )

    api.answers = [answer] * 9
    session = LocalExecutor(batch_size=3).open(configured, print)
    tasks = [Task(f"case-{i}", i, lambda i=i: case(f"case-{i}", i)) for i in range(3)]  # type: ignore[misc]
    outcomes = [outcome for batch in session.edits(tasks) for outcome in batch]
    session.close()
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "moderation_blocked" in str(outcomes[1].error)
    assert len(api.forms) == 3
    assert [outcome.image.size for outcome in outcomes if outcome.image is not None] == [(SIDE, SIDE)] * 2


def test_retries_and_the_ceiling_reach_the_endpoint(api: FakeApi) -> None:
    api.answers = [error(429, Retry_After="1"), error(503)]
    method = make(api, max_requests=4)
    method.edit([big(0)])
    assert len(api.forms) == 3
    method.edit([big(1)])
    with pytest.raises(endpoint.EndpointError, match="max_requests 4 is reached"):
        method.edit([big(2)])
    assert len(api.forms) == 4
    api.answers = [error(503), error(503)]
    with pytest.raises(endpoint.EndpointError, match="Given up after 1 calls"):
        make(api, retries=0).edit([big(3)])


def test_the_rate_limit_is_the_options(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.endpoints import base

    rates: list[float] = []
    real = endpoint.RequestPacer
    monkeypatch.setattr(base, "RequestPacer", lambda rate: rates.append(rate) or real(1e9))
    make(api, requests_per_minute=7.0)
    assert rates == [7.0]


def test_the_estimate() -> None:
    options = OpenAiImages.Options(requests_per_minute=5.0, price_per_image=0.04)
    result = OpenAiImages.estimate(options, 250)
    assert (result.requests, result.minutes) == (250, 50.0)
    assert result.cost == pytest.approx(10.0)
    assert str(result) == "250 requests, at least 50.0 minutes, cost 10.00"
    unknown = OpenAiImages.estimate(OpenAiImages.Options(), 10)
    assert unknown.cost is None
    assert "set price_per_image" in str(unknown)


# --- the key -------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_the_header(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        method = make(api)
        method.edit([big(0)])
        api.answers = [error(500, f"what is {KEY}?")] * 9
        with pytest.raises(endpoint.EndpointError) as caught:
            method.edit([big(1)])
    assert api.forms[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(api.forms[0].fields)
    assert KEY not in json.dumps(options_dict(method.options))
    assert KEY not in str(caught.value) + caplog.text + "".join(capsys.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_bad_key_fails_at_once(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", "sk-bad")
    with pytest.raises(endpoint.Refused, match=r"status 401.*Check the key") as caught:
        make(api).edit([big(0)])
    assert "sk-bad" not in str(caught.value)
    assert len(api.forms) == 1


@pytest.mark.parametrize("option", ["base_url", "key_variable"])
def test_a_suite_chooses_neither_the_server_nor_the_secret(option: str) -> None:
    with pytest.raises(OptionError, match=f"option '{option}': a suite does not choose"):
        parse_options(OpenAiImages, {option: "https://example.com/v1"})


def test_openais_key_goes_to_openai_alone(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.delenv("PROMPTEDITBENCH_IMAGES_KEY")
    # A server on this machine may do without a key. This one does not.
    with pytest.raises(endpoint.NoAccess, match="status 401"):
        make(api).edit([big(0)])
    assert "Authorization" not in api.forms[0].headers
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", f" {KEY}\n")
    make(api).edit([big(0)])
    assert api.forms[1].headers["Authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("PROMPTEDITBENCH_IMAGES_URL")
    assert make(api).endpoint.url == "https://api.openai.com/v1/images/edits"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        make(api)


def test_options_for_another_server_are_refused(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a worker of a cluster has another environment."""
    options = OpenAiImages.Options()
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_URL", "https://example.com/v1")
    (problem,) = OpenAiImages.problems(options)
    assert problem.startswith("PROMPTEDITBENCH_IMAGES_URL is 'https://example.com/v1', these options are for")


def test_what_cannot_be_a_key_is_refused(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", "sk-a\r\nX-Evil: 1")
    with pytest.raises(ValueError, match="PROMPTEDITBENCH_IMAGES_KEY holds what cannot be a key") as caught:
        make(api)
    assert "Evil" not in str(caught.value)


# --- what comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, r"no data\[0\]"),
        ({"data": []}, r"no data\[0\]"),
        ({"data": "text"}, r"no data\[0\]"),
        ({"data": [{}]}, r"no data\[0\].b64_json"),
        ({"data": [{"b64_json": 7}]}, r"no data\[0\].b64_json"),
        ({"data": [{"url": "https://example.com/x.png"}]}, "set ask_base64"),
        ({"data": [{"b64_json": "%%%"}]}, "not base64"),
        ({"data": [{"b64_json": base64.b64encode(b"no image").decode()}]}, "no usable image"),
        ({"data": [{"b64_json": ""}]}, "no usable image"),
    ],
)
def test_a_malformed_answer_is_one_error_and_is_not_kept(
    api: FakeApi, tmp_path: Path, body: object, message: str
) -> None:
    api.answers = [Answer(body=json.dumps(body).encode())]
    method = make(api)
    for _ in range(2):  # the second time it is not asked
        with pytest.raises(endpoint.Refused, match=message):
            method.edit([big(0)])
    assert len(api.forms) == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert make(api).edit([big(0)])[0].size == (SIDE, SIDE)  # another run asks again
    assert len(api.forms) == 2


def test_an_image_of_another_size_is_an_error(api: FakeApi) -> None:
    api.answers = [image_answer(picture(0, (128, 128)))]
    with pytest.raises(endpoint.EndpointError, match="128x128 pixels where 256x256 were asked for"):
        make(api).edit([big(0)])


def test_transparency_and_palettes_become_rgb(api: FakeApi) -> None:
    api.answers = [image_answer(picture(0, (SIDE, SIDE)).convert("RGBA"))]
    (edited,) = make(api).edit([big(0)])
    assert edited.tobytes() == picture(0, (SIDE, SIDE)).tobytes()


def test_a_transparent_answer_is_refused_with_the_reason(api: FakeApi, tmp_path: Path) -> None:
    cutout = picture(0, (SIDE, SIDE)).convert("RGBA")
    cutout.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    api.answers = [image_answer(cutout)]
    with pytest.raises(endpoint.Refused, match=r"no usable image: 50\.0% of its pixels are transparent"):
        make(api, cache=str(tmp_path)).edit([big(0)])
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_ask_base64(api: FakeApi) -> None:
    make(api, ask_base64=True).edit([big(0)])
    assert api.forms[0].fields["response_format"] == "b64_json"
    make(api).edit([big(1)])
    assert "response_format" not in api.forms[1].fields


# --- what is refused before ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model is empty"),
        ({"requests_per_minute": 0.0}, "requests_per_minute 0.0"),
        ({"timeout": 0.0}, "timeout 0.0"),
        ({"retries": -1}, "retries -1"),
        ({"max_requests": 0}, "max_requests 0"),
        ({"cache": __file__}, "cannot be written"),
    ],
)
def test_unfit_options_are_named(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAiImages.problems(OpenAiImages.Options()) == []
    (problem,) = OpenAiImages.problems(OpenAiImages.Options(**options))
    assert message in problem


@pytest.mark.parametrize(
    "url", ["http://example.com/v1", "ftp://example.com", "https://[::1", "http://localhost:x"]
)
def test_unfit_addresses_are_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_URL", url)
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", KEY)
    (problem,) = OpenAiImages.problems(OpenAiImages.Options())
    assert problem.startswith(f"PROMPTEDITBENCH_IMAGES_URL {url!r}: expected https")


def test_the_digest_of_openais_rows_is_what_it_was() -> None:
    """Runs made while the server was an option of the suite go on."""
    options = {
        "model": "gpt-image-1",
        "base_url": "https://api.openai.com/v1",
        "size": 1024,
        "quality": None,
        "input_fidelity": None,
        "prompt_field": "target_prompt",
        "ask_base64": False,
        "paste": False,
    }
    assert options_dict(OpenAiImages.Options(model="gpt-image-1")) == options
    assert MethodSpec("openai_images", options).digest == "ad967ce581dc"


def test_unfit_requests_cost_nothing(api: FakeApi) -> None:
    with pytest.raises(ValueError, match="expected 256 x 256"):
        make(api).edit([request(0)])
    with pytest.raises(ValueError, match="the mask is empty"):
        make(api).edit([big(0, box_mask(0, 0, 0, 0, (SIDE, SIDE)))])
    with pytest.raises(ValueError, match="empty target_prompt"):
        make(api).edit([replace(big(0), target_prompt=" ")])
    with pytest.raises(ValueError, match="max_bytes is 1000"):
        make(api, max_bytes=1000).edit([big(0)])
    assert api.forms == []


def test_only_what_changes_pixels_is_in_the_digest() -> None:
    parsed = parse_options(OpenAiImages, {"timeout": 9, "price_per_image": 0.2, "model": "m"})
    assert (parsed.timeout, parsed.price_per_image) == (9.0, 0.2)
    assert set(options_dict(parsed)) == {
        "model",
        "base_url",
        "size",
        "quality",
        "input_fidelity",
        "prompt_field",
        "ask_base64",
        "paste",
    }
    with pytest.raises(OptionError, match="api_key"):
        parse_options(OpenAiImages, {"api_key": "x"})
    with pytest.raises(OptionError, match="size"):
        parse_options(OpenAiImages, {"size": 300})
