"""A server on this machine that answers like the images-edit endpoint, or misbehaves as it is told."""

from __future__ import annotations

import base64
import email.parser
import email.policy
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
    types: dict[str, str]

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


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "some_error", "code": code}}).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def painted(form: Form) -> Answer:
    """The edit: red wherever the mask's alpha is 0, and black in the corner to mark that the server saw it."""
    pixels = np.array(form.image("image").convert("RGB"))
    pixels[np.asarray(form.image("mask").getchannel("A")) == 0] = (255, 0, 0)
    pixels[0, 0] = (0, 0, 0)
    return image_answer(Image.fromarray(pixels))


def image_answer(image: Image.Image) -> Answer:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]
    return Answer(body=json.dumps({"created": 1, "data": data, "usage": {"total_tokens": 7}}).encode())


@dataclass
class FakeApi:
    url: str
    forms: list[Form] = field(default_factory=list)
    answers: list[Answer | Callable[[Form], Answer]] = field(default_factory=list)
    """Taken one by one; ``painted`` once they are used up."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
            with api.lock:
                api.forms.append(form)
                answer = api.answers.pop(0) if api.answers else painted
            if form.headers.get("Authorization") != f"Bearer {KEY}":
                answer = error(401, f"Incorrect API key provided: {form.headers.get('Authorization')}")
            response = answer if isinstance(answer, Answer) else answer(form)
            time.sleep(response.delay)
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
            files[name], types[name] = data, part.get_content_type()
    return Form(path, headers, fields, files, types)
