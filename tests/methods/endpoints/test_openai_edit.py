from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditRequest, PixelArea, Runtime
from bench.endpoints import client as endpoint
from bench.executors import LocalExecutor, Task
from bench.images import unfit
from bench.registry import OptionError, Registry, options_dict, parse_options
from bench.suite import configure_method
from methods.endpoints.openai_images import FIXED_SIZES, RETIRED, OpenAiEdit, OpenAiImages
from tests.bench.endpoints.fake_server import KEY, Answer, FakeApi, error, fake_api, image_answer, tinted
from tests.methods.conftest import picture, request
from tests.methods.test_outputs import case


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "answers"))
    with fake_api() as server:
        monkeypatch.setenv("PROMPTEDITBENCH_QWEN_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_QWEN_KEY", KEY)
        yield server


def make(**options: Any) -> OpenAiEdit:
    settings = {"server": "qwen", "model": "m", "requests_per_minute": 1e9, "timeout": 5.0} | options
    return OpenAiEdit(OpenAiEdit.Options(**settings), Runtime())


def wide(seed: int = 0, **changes: Any) -> EditRequest:
    return replace(request(seed, source=picture(seed, (96, 64))), **{"mask": None} | changes)


def test_the_form_has_neither_mask_nor_square(api: FakeApi) -> None:
    (edit,) = make().edit([wide(2)])
    (form,) = api.forms
    assert form.path == "/v1/images/edits"
    assert form.fields == {"model": "m", "prompt": wide(2).instruction, "n": "1", "size": "96x64"}
    assert set(form.files) == {"image"}
    assert form.image("image").tobytes() == picture(2, (96, 64)).tobytes()
    assert edit.tobytes() == Image.open(_png_of(tinted(form))).tobytes()


def _png_of(answer: Answer) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(json.loads(answer.body)["data"][0]["b64_json"]))


def test_settings_of_open_models_are_fields_of_the_form(api: FakeApi) -> None:
    method = make(
        steps=20, guidance=1.0, true_cfg_scale=4.0, negative_prompt=" ", send_seed=True, quality="low"
    )
    method.edit([replace(wide(0), seed=7)])
    fields = api.forms[0].fields
    assert {name: fields[name] for name in set(fields) - {"model", "prompt", "n", "size"}} == {
        "num_inference_steps": "20",
        "guidance_scale": "1.0",
        "true_cfg_scale": "4.0",
        "negative_prompt": " ",
        "seed": "7",
        "quality": "low",
    }


@pytest.mark.parametrize("answer", [error(404, "no such model"), error(400, "gone", "model_not_found")])
def test_a_refused_model_that_its_maker_ended_has_a_successor_in_the_error(
    api: FakeApi, answer: Answer
) -> None:
    api.answers = [answer, answer]
    with pytest.raises(endpoint.Refused, match=r"gpt-image-1.5 on 1 December 2026.*gpt-image-2.6-sunburst"):
        make(model="gpt-image-1.5").edit([wide(1)])
    with pytest.raises(endpoint.Refused) as caught:
        make(model="another").edit([wide(1)])
    assert "successor" not in str(caught.value)


def test_another_refusal_of_such_a_model_names_no_successor(api: FakeApi) -> None:
    api.answers = [error(400, "blocked", "moderation_blocked")]
    with pytest.raises(endpoint.Refused, match="moderation_blocked") as caught:
        make(model="gpt-image-1.5").edit([wide(1)])
    assert "successor" not in str(caught.value)


@pytest.mark.parametrize("method", [OpenAiEdit, OpenAiImages])
def test_no_default_is_a_model_that_its_maker_ended(method: type[OpenAiEdit | OpenAiImages]) -> None:
    presets = {options["model"] for options in method.PRESETS.values()}
    assert method.Options().model not in RETIRED
    # Of the presets, one stays for the runs that name it.
    assert presets & set(RETIRED) <= {"gpt-image-1.5"}


def test_references_follow_the_source(api: FakeApi) -> None:
    pictures = (picture(8, (40, 30)), picture(9, (20, 50)))
    make().edit([wide(1, references=pictures)])
    (form,) = api.forms
    assert list(form.files) == ["image", "image 2", "image 3"]
    assert [form.image(name).size for name in form.files] == [(96, 64), (40, 30), (20, 50)]
    assert form.image("image 3").tobytes() == pictures[1].tobytes()
    # Other references are another request.
    make().edit([wide(1, references=pictures[:1])])
    assert len(api.forms) == 2
    make().edit([wide(1, references=pictures)])
    assert len(api.forms) == 2


def test_seventeen_images_are_refused_before_they_cost_anything(api: FakeApi) -> None:
    pictures = tuple(picture(seed, (8, 8)) for seed in range(16))
    with pytest.raises(ValueError, match="17 input images: the endpoint takes 16 at most"):
        make().edit([wide(1, references=pictures)])
    make().edit([wide(1, references=pictures[:15])])
    assert len(api.forms) == 1


def test_openai_takes_several_images_in_brackets(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    method.is_openai = True
    method.edit([wide(1, references=(picture(8, (40, 30)),))])
    assert list(api.forms[0].files) == ["image[]", "image[] 2"]


@pytest.mark.parametrize(
    ("server", "model", "size", "source", "native"),
    [
        ("openai", "gpt-image-1.5", "auto", (640, 480), (1536, 1024)),
        ("openai", "gpt-image-1", "auto", (480, 640), (1024, 1536)),
        ("openai", "gpt-image-1-mini", "auto", (512, 512), (1024, 1024)),
        ("openai", "gpt-image-2", "auto", (640, 480), (1184, 880)),
        ("openai", "gpt-image-2.6-flare", "auto", (640, 480), (1184, 880)),
        ("qwen", "Qwen-Image-Edit-2511", "auto", (640, 480), (1184, 896)),
        ("openai", "gpt-image-2", "2048x1152", (640, 480), (2048, 1152)),
    ],
)
def test_the_working_size_fits_the_model_and_the_source(
    monkeypatch: pytest.MonkeyPatch,
    api: FakeApi,
    server: str,
    model: str,
    size: str,
    source: tuple[int, int],
    native: tuple[int, int],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    working = make(server=server, model=model, size=size).native_size
    assert (
        working.size(source) if isinstance(working, (PixelArea, type(FIXED_SIZES))) else working
    ) == native


def test_in_the_engine_the_edit_comes_back_at_the_sources_size_and_frame(api: FakeApi) -> None:
    """The server gets 384 x 256 for sources of 3:2 and 1:1, edits nothing, and the source comes back."""
    api.default = lambda form: image_answer(form.image("image"))
    names = Registry("method", {"openai_edit": "methods.endpoints.openai_images:OpenAiEdit"}, "")
    options = {"server": "qwen", "model": "m", "size": "384x256", "requests_per_minute": 1e9}
    configured = configure_method("openai_edit", names, options=options)
    session = LocalExecutor(batch_size=2).open(configured, print)
    smooth = picture(0, (16, 16)).resize((192, 128), Image.Resampling.BICUBIC)
    square = smooth.crop((0, 0, 128, 128))
    tasks = [
        Task(name, 0, lambda name=name, image=image: replace(case(name, 0), request=wide(0, source=image)))  # type: ignore[misc]
        for name, image in (("wide", smooth), ("square", square))
    ]
    outcomes = [outcome for batch in session.edits(tasks) for outcome in batch]
    session.close()
    assert [form.image("image").size for form in api.forms] == [(384, 256)] * 2
    for outcome, source in zip(outcomes, (smooth, square), strict=True):
        assert outcome.image is not None
        back = np.asarray(unfit(outcome.image, source.size), int)
        assert np.abs(back - np.asarray(source, int)).mean() < 1.5


def test_a_server_may_round_the_size_but_not_change_the_frame(api: FakeApi) -> None:
    api.answers = [image_answer(picture(0, (192, 124))), image_answer(picture(0, (64, 64)))]
    (edit,) = make().edit([wide(0)])
    assert edit.size == (96, 64)
    with pytest.raises(endpoint.EndpointError, match=r"64x64 pixels where about 96x64 .* another frame"):
        make().edit([wide(1)])


def test_what_is_answered_is_never_paid_for_twice(api: FakeApi) -> None:
    first = make().edit([wide(0), wide(1)])
    assert len(api.forms) == 2
    again = make(timeout=9.0, max_requests=5, price_per_image=0.1, max_cost=1.0, ask_base64=True)
    assert [image.tobytes() for image in again.edit([wide(0), wide(1)])] == [
        image.tobytes() for image in first
    ]
    assert len(api.forms) == 2
    make().edit([wide(0, instruction="another")])
    make(steps=3).edit([wide(0)])
    assert len(api.forms) == 4


def test_the_ceiling_of_cost_stops_before_the_call(api: FakeApi) -> None:
    method = make(price_per_image=0.4, max_cost=1.0)
    method.edit([wide(0), wide(1)])
    with pytest.raises(endpoint.CeilingReached, match="max_cost 1 is reached after 2 calls"):
        method.edit([wide(2)])
    assert len(api.forms) == 2


def test_a_server_that_throttles_and_cuts_connections_is_survived(api: FakeApi) -> None:
    api.answers = [error(429, Retry_After="1"), Answer(drop=True), Answer(body=b'{"da', cut=True), error(503)]
    assert make(retries=4).edit([wide(0)])[0].size == (96, 64)
    assert len(api.forms) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "1024"}, "size '1024': expected auto"),
        ({"size": "0x5"}, "size '0x5'"),
        ({"model": ""}, "model is empty"),
        ({"max_cost": 1.0}, "max_cost needs price_per_image"),
        ({"server": "other"}, "PROMPTEDITBENCH_OTHER_URL is not set"),
        ({"server": "openai", "steps": 3}, "OpenAI's API has no num_inference_steps"),
        ({"server": "openai", "send_seed": True}, "OpenAI's API has no seed"),
    ],
)
def test_unfit_options_are_named(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (problem,) = OpenAiEdit.problems(OpenAiEdit.Options(**{"server": "qwen", "model": "m"} | options))
    assert message in problem


def test_a_suite_names_neither_an_address_nor_a_key() -> None:
    for option in ("base_url", "url", "key", "api_key", "key_variable"):
        with pytest.raises(OptionError, match=f"option '{option}': a suite names a server"):
            parse_options(OpenAiEdit, {option: "https://example.com"})


def test_the_digest_has_the_address_and_no_limit(api: FakeApi) -> None:
    options = OpenAiEdit.Options(server="qwen", model="m")
    assert OpenAiEdit.identity(options) == {"url": api.url}
    assert set(options_dict(options)) == {
        "server",
        "model",
        "size",
        "quality",
        "input_fidelity",
        "prompt_field",
        "ask_base64",
        "steps",
        "guidance",
        "true_cfg_scale",
        "negative_prompt",
        "send_seed",
    }


def test_the_method_with_a_mask_takes_any_shape_too(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_URL", api.url)
    monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", KEY)
    settings = {"size": "auto", "model": "gpt-image-1.5", "requests_per_minute": 1e9}
    method = OpenAiImages(OpenAiImages.Options(**settings), Runtime())
    assert method.native_size == FIXED_SIZES
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (8, 8, 40, 40))
    (edit,) = method.edit(
        [wide(0, references=(picture(3, (9, 9)),)).__class__(**{**vars(wide(0)), "mask": mask})]
    )
    assert edit.size == (96, 64)
    assert api.forms[0].fields["size"] == "96x64"
    assert api.forms[0].image("mask").size == (96, 64)
