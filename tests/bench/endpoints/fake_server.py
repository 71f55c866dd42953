"""A server on this machine that answers like an endpoint of images or of chats, or misbehaves as it is told."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

KEY = "sk-the-secret-key-0123456789"


@dataclass
class Form:
    """What one request held."""

    path: str
    headers: dict[str, str]
    fields: dict[str, str]
    files: dict[str, bytes]
    """Of several files with one name, the later ones are called ``name 2``, ``name 3``."""
    types: dict[str, str]
    json: Any = None
    """The body, where it is JSON and no form."""

    def image(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self.files[name]))


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    """Promise more bytes than are sent."""
    drop: bool = False
    """Close the connection without an answer."""


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "some_error", "code": code}}).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def painted(form: Form) -> Answer:
    """The edit: red wherever the mask's alpha is 0, and black in the corner to mark that the server saw it."""
    pixels = np.array(form.image("image").convert("RGB"))
    pixels[np.asarray(form.image("mask").getchannel("A")) == 0] = (255, 0, 0)
    pixels[0, 0] = (0, 0, 0)
    return image_answer(Image.fromarray(pixels))


def tinted(form: Form) -> Answer:
    """The edit by an instruction: the source halfway to a colour that the prompt gives."""
    return image_answer(
        _tinted(form.image("image" if "image" in form.files else "image[]"), form.fields["prompt"])
    )


def gemini_tinted(form: Form) -> Answer:
    """As ``tinted``, in Gemini's form, after a text and a draft."""
    text, source, *_ = form.json["contents"][0]["parts"]
    image = Image.open(io.BytesIO(base64.b64decode(source["inlineData"]["data"])))
    return gemini_answer(
        {"text": "Here it is."},
        {"thought": True, "inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        gemini_image(_tinted(image, text["text"])),
    )


def gemini_image(image: Image.Image) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": _base64(image)}}


def gemini_answer(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> Answer:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}
    return Answer(body=json.dumps({"candidates": [candidate], **more}).encode())


def edited(form: Form) -> Answer:
    """The edit of any of these endpoints."""
    if form.json is not None:
        return gemini_tinted(form)
    return painted(form) if "mask" in form.files else tinted(form)


def _tinted(image: Image.Image, prompt: str) -> Image.Image:
    color = tuple(hashlib.sha256(prompt.encode()).digest()[:3])
    return Image.blend(image.convert("RGB"), Image.new("RGB", image.size, color), 0.5)


def _base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def image_answer(image: Image.Image) -> Answer:
    data = [{"b64_json": _base64(image)}]
    return Answer(body=json.dumps({"created": 1, "data": data, "usage": {"total_tokens": 7}}).encode())


@dataclass
class FakeApi:
    url: str
    forms: list[Form] = field(default_factory=list)
    answers: list[Answer | Callable[[Form], Answer]] = field(default_factory=list)
    """Taken one by one, then ``default``."""
    default: Callable[[Form], Answer] = edited
    """Answers once ``answers`` are used up."""
    key: str | None = KEY
    """None: anybody may call."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allows(self, headers: dict[str, str]) -> bool:
        return self.key is None or self.key in (
            headers.get("Authorization", "").removeprefix("Bearer "),
            headers.get("x-goog-api-key"),
        )


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
            with api.lock:
                api.forms.append(form)
                answer = api.answers.pop(0) if api.answers else api.default
            if not api.allows(form.headers):
                answer = error(401, f"Incorrect API key provided: {form.headers.get('Authorization')}")
            response = answer if isinstance(answer, Answer) else answer(form)
            time.sleep(response.delay)
            if response.drop:
                self.close_connection = True
                return
            try:
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(response.body) + (100 if response.cut else 0)))
                self.end_headers()
                self.wfile.write(response.body)
            except OSError:
                pass  # the client has gone, as it does after its timeout

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = FakeApi(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def parse(path: str, headers: dict[str, str], body: bytes) -> Form:
    """By the standard library's MIME parser, which knows nothing of the client's writer."""
    if headers["Content-Type"] == "application/json":
        return Form(path, headers, {}, {}, {}, json.loads(body))
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields, files, types = {}, {}, {}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_filename() is None:
            fields[name] = data.decode()
        else:
            same = sum(other.partition(" ")[0] == name for other in files)
            name = f"{name} {same + 1}" if same else name
            files[name], types[name] = data, part.get_content_type()
    return Form(path, headers, fields, files, types)
