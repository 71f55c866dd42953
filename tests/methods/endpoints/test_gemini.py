from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.edit import EditRequest, Runtime
from bench.endpoints import client as endpoint
from methods.endpoints.gemini import RATIOS, RETIRED, GeminiEdit
from tests.bench.endpoints.fake_server import (
    KEY,
    Answer,
    FakeApi,
    fake_api,
    gemini_answer,
    gemini_image,
)
from tests.methods.conftest import picture, request


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "answers"))
    with fake_api() as server:
        monkeypatch.setenv("PROMPTEDITBENCH_G_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_G_KEY", KEY)
        yield server


def make(**options: Any) -> GeminiEdit:
    settings = {"server": "g", "requests_per_minute": 1e9, "timeout": 5.0} | options
    return GeminiEdit(GeminiEdit.Options(**settings), Runtime())


def flat(seed: int = 0, size: tuple[int, int] = (1200, 896), **changes: Any) -> EditRequest:
    # One colour: its PNG is small.
    source = Image.new("RGB", size, (seed, 100, 200))
    return replace(request(seed, source=source), **{"mask": None} | changes)


def test_the_request_is_geminis(api: FakeApi) -> None:
    reference = picture(4, (30, 20))
    make().edit([flat(1, references=(reference,))])
    (form,) = api.forms
    assert form.path == "/v1/models/gemini-3.1-flash-image:generateContent"
    assert form.headers["x-goog-api-key"] == KEY
    assert "Authorization" not in form.headers
    (content,) = form.json["contents"]
    text, *pictures = content["parts"]
    assert text == {"text": flat(1).instruction}
    images = [Image.open(io.BytesIO(base64.b64decode(part["inlineData"]["data"]))) for part in pictures]
    assert [image.size for image in images] == [(1200, 896), (30, 20)]
    assert images[1].tobytes() == reference.tobytes()
    assert {part["inlineData"]["mimeType"] for part in pictures} == {"image/png"}
    assert form.json["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": "4:3"},
    }


def test_no_default_is_a_model_that_its_maker_ended() -> None:
    presets = {options["model"] for options in GeminiEdit.PRESETS.values()}
    assert GeminiEdit.Options().model not in RETIRED
    assert presets & set(RETIRED) <= {"gemini-2.5-flash-image"}


def test_resolution_and_seed_are_sent_where_they_are_given(api: FakeApi) -> None:
    method = make(resolution="2K", send_seed=True)
    config = method.call(replace(flat(0, (2048, 2048)), seed=2**40 + 5), "x").identity["config"]
    assert config["imageConfig"] == {"aspectRatio": "1:1", "imageSize": "2K"}
    assert config["seed"] == 5


def test_each_ratio_is_about_its_name_and_a_megapixel() -> None:
    for name, (width, height) in RATIOS.items():
        first, second = map(int, name.split(":"))
        assert abs(math.log(width / height / (first / second))) < 0.015 + 0.005 * (name == "21:9") + 0.005
        assert 0.95e6 < width * height < 1.15e6


@pytest.mark.parametrize(
    ("source", "native"),
    [
        ((640, 480), (1200, 896)),
        ((512, 512), (1024, 1024)),
        ((480, 640), (896, 1200)),
        ((1000, 300), (1584, 672)),
    ],
)
def test_the_working_size_is_the_ratio_nearest_to_the_source(
    api: FakeApi, source: tuple[int, int], native: tuple[int, int]
) -> None:
    assert make().native_size.size(source) == native  # type: ignore[union-attr]


def test_the_last_image_counts_and_a_thought_does_not(api: FakeApi) -> None:
    draft, final = Image.new("RGB", (1184, 864), (9, 9, 9)), Image.new("RGB", (1184, 864), (1, 2, 3))
    api.answers = [
        gemini_answer(
            {"thought": True, **gemini_image(draft)}, gemini_image(draft), gemini_image(final), {"text": "x"}
        )
    ]
    (edit,) = make().edit([flat(0)])
    # The model's own size for 4:3 differs by a few pixels: the frame is the same.
    assert edit.size == (1200, 896)
    assert edit.getpixel((600, 448)) == (1, 2, 3)


def test_another_frame_is_refused(api: FakeApi) -> None:
    api.answers = [gemini_answer(gemini_image(Image.new("RGB", (1024, 1024))))]
    with pytest.raises(endpoint.EndpointError, match="another frame"):
        make().edit([flat(0)])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (gemini_answer(finish="IMAGE_SAFETY"), "no image: it ended with IMAGE_SAFETY"),
        (
            gemini_answer({"text": "I cannot  edit people."}, finish="NO_IMAGE"),
            "NO_IMAGE; it says: I cannot edit",
        ),
        (
            Answer(body=b'{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}'),
            "blocked .PROHIBITED_CONTENT",
        ),
        (Answer(body=b"{}"), "it is empty"),
        (Answer(body=b'{"candidates": [7], "promptFeedback": 3}'), "it is empty"),
        (gemini_answer({"inlineData": {"data": "%%"}}), "not base64"),
        (gemini_answer({"inlineData": {"data": "AAAA"}}), "no usable image"),
    ],
)
def test_an_answer_without_an_image_is_a_refusal_with_the_servers_reason(
    api: FakeApi, tmp_path: Path, answer: Answer, message: str
) -> None:
    api.answers = [answer]
    method = make()
    for _ in range(2):  # the second time it is not asked
        with pytest.raises(endpoint.Refused, match=message):
            method.edit([flat(0)])
    assert len(api.forms) == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_wrong_key_ends_the_calls(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
    api.answers = [Answer(400, json.dumps(body).encode())]
    with pytest.raises(endpoint.Refused, match=r"API key not valid\. .INVALID_ARGUMENT"):
        make().edit([flat(0)])


def test_too_many_images_and_unknown_sizes_cost_nothing(api: FakeApi) -> None:
    with pytest.raises(ValueError, match="15 input images: the endpoint takes 14 at most"):
        make().edit([flat(0, references=(picture(1, (8, 8)),) * 14)])
    with pytest.raises(ValueError, match="expected one of"):
        make().edit([flat(0, (640, 480))])
    assert api.forms == []


@pytest.mark.parametrize("model", ["../evil", "a/b", "m:generateContent?key=", ""])
def test_a_model_is_no_path(api: FakeApi, model: str) -> None:
    (problem,) = GeminiEdit.problems(GeminiEdit.Options(server="g", model=model))
    assert "model" in problem
