"""Answers of a chat server, and a judge of it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image

from bench.judges.options import Judge, JudgeOptions, make_judge
from tests.bench.endpoints.fake_server import Answer, Form


def chat(text: str | None, model: str = "judge-2025-04-14", finish: str = "stop", **message: Any) -> Answer:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return Answer(body=json.dumps({"model": model, "choices": [choice], "usage": usage}).encode())


def scores(*values: float, **answer: Any) -> Answer:
    return chat(json.dumps({"reasoning": "x", "score": values}), **answer)


def images_of(form: Form) -> list[Image.Image]:
    """The images of a question, in order."""
    parts = form.json["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def text_of(form: Form) -> str:
    text: str = form.json["messages"][0]["content"][0]["text"]
    return text


def by_pixels(form: Form) -> Answer:
    """Scores that depend on the edit alone, as those of a judge at temperature 0."""
    value = sum(images_of(form)[-1 if len(images_of(form)) < 3 else 1].convert("RGB").tobytes()) % 11
    return scores(value, 10 - value, 5)


def judge(**options: Any) -> Judge:
    settings = {"rubric": "masked-edit", "model": "judge-2025", "requests_per_minute": 1e9, "retries": 0}
    return make_judge(JudgeOptions(**settings | options))
