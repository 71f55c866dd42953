"""One question to a judge: chat completions with images, as OpenAI, vLLM and llama.cpp speak them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import images
from bench.endpoints.client import (
    CeilingReached,
    Endpoint,
    EndpointError,
    NoAccess,
    Refused,
    RequestPacer,
)
from bench.judges.options import Judge, JudgeOptions
from bench.judges.reading import Unread

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Codes with which servers refuse the content of a request. Any other refusal is a fault of the request's form.
CONTENT_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "moderation_blocked",
        "safety",
        "ResponsibleAIPolicyViolation",
        "image_content_policy_violation",
    }
)


@dataclass(frozen=True)
class Reply:
    """The answer to one call. Exactly one of ``text`` and ``problem`` is set."""

    text: str | None
    status: int | None
    """HTTP status. None where there was no answer."""
    model: str = ""
    """Model that the server says answered."""
    finish: str | None = None
    """``finish_reason``."""
    refusal: str | None = None
    usage: Mapping[str, Any] | None = None
    """Tokens, as the server counts them."""
    problem: Unread | None = None
    """Why the call gave no text: ``refused``, ``rejected`` or ``transport``."""
    is_final: bool = True
    """False where asking again may help: the transport failed."""
    shared: bool = False
    """True for the reply of another run, which this run did not pay for."""


def connect(judge: Judge) -> Endpoint:
    """The endpoint that answers chats."""
    options, server = judge.options, judge.server
    return Endpoint(
        f"{server.url}/chat/completions",
        server.key,
        # The rate limit spares a provider. The attribute classifier needs none.
        pacer=RequestPacer(1e9 if options.is_world else options.requests_per_minute),
        timeout=options.timeout,
        retries=options.retries,
        ceiling=options.ceiling,
    )


def image_url(pixels: NDArray[np.uint8], options: JudgeOptions) -> str:
    """uint8 (H, W, 3) => a data URL, at the judge's longest side and in its codec."""
    image = images.from_array(pixels)
    size = options.sent_size(image.size)
    if size != image.size:
        image = images.resize(image, size)
    if options.codec == "png":
        data = images.png_bytes(image)
    else:
        buffer = io.BytesIO()
        # 75 is Pillow's default, which the published judges use.
        image.save(buffer, format="JPEG", quality=75)
        data = buffer.getvalue()
    return f"data:image/{options.codec};base64,{base64.b64encode(data).decode('ascii')}"


def request_body(options: JudgeOptions, text: str, urls: Sequence[str], number: int) -> dict[str, Any]:
    """The JSON of one call: the text, then the images. ``number`` counts the passes from 0."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body: dict[str, Any] = {
        "model": options.model,
        "messages": [{"role": "user", "content": content}],
        options.token_field: options.max_tokens,
    }
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.seed is not None:
        body["seed"] = options.seed + number
    return body


def ask(endpoint: Endpoint, body: Mapping[str, Any], *, price: float | None = None) -> Reply:
    """Sends one question, which costs at most ``price``. A refusal and a failed transport are replies too.

    Raises NoAccess and CeilingReached, after which no further call can succeed.
    """
    try:
        answer = endpoint.post_json(body, price=price)
    except (NoAccess, CeilingReached):
        raise
    except Refused as error:
        is_content = error.code in CONTENT_CODES
        problem = Unread("refused" if is_content else "rejected", str(error))
        return Reply(None, error.status, problem=problem, is_final=is_content)
    except EndpointError as error:
        return Reply(None, error.status, problem=Unread("transport", str(error)), is_final=False)
    return read_answer(answer)


def read_answer(answer: Mapping[str, Any]) -> Reply:
    """The reply in the JSON of an answer."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = choice.get("message") if choice else None
    if not isinstance(message, dict) or choice is None:
        return Reply(
            None,
            200,
            problem=Unread(
                "rejected", "the answer has no choices[0].message. Is it the address of a chat API?"
            ),
            is_final=False,
        )
    content = message.get("content")
    # Some servers answer with a list of parts.
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    finish, refusal, usage = choice.get("finish_reason"), message.get("refusal"), answer.get("usage")
    return Reply(
        content if isinstance(content, str) else "",
        200,
        model=str(answer.get("model") or ""),
        finish=finish if isinstance(finish, str) else None,
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        usage=usage if isinstance(usage, dict) else None,
    )
