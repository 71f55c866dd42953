"""One HTTP endpoint that costs money: retries, a rate limit, a ceiling, and answers that are kept.

The standard library alone. The key goes into one header and nowhere else: not into a log, a message or a file.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import images
from bench.errors import BenchError
from bench.files import parse_json

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer at most; an image of 1024 x 1024 in base64 is a few MiB."""


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


class EndpointError(BenchError):
    """The endpoint did not give what was asked for; the message says why and what to do."""


class Refused(EndpointError):
    """The endpoint refuses this very request: asking again would change nothing."""


@dataclass(frozen=True)
class Part:
    """One file of a multipart form."""

    name: str
    data: bytes
    content_type: str = "image/png"

    @property
    def filename(self) -> str:
        return f"{self.name}.png"


class RateLimit:
    """At most ``per_minute`` calls a minute, evenly spaced. Shared by threads."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        self._gap = 60 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next call is due; each caller has a turn of its own."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """POSTs forms to one URL."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        limit: RateLimit,
        timeout: float = 180.0,
        retries: int = 5,
        backoff: float = 2.0,
        longest_wait: float = 300.0,
        max_calls: int | None = None,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        """``timeout``, ``backoff`` and ``longest_wait`` in seconds; ``max_calls`` counts retries too."""
        self.url = url
        self.calls = 0
        self._key = key
        self._limit = limit
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._max_calls = max_calls
        self._sleep = sleep
        self._lock = threading.Lock()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def post(self, fields: Mapping[str, str], files: list[Part]) -> dict[str, Any]:
        """The JSON object that answers a multipart form.

        Timeouts, broken connections, status 408, 429 and 5xx are tried again, after ``backoff`` seconds doubled
        each time, or what ``Retry-After`` asks for if that is longer. Raises Refused for any other status, at
        once, and EndpointError for the last of those and for an answer that is no JSON object.
        """
        body, content_type = multipart(fields, files)
        for attempt in range(self._retries + 1):
            self._count()
            self._limit.wait()
            request = urllib.request.Request(
                self.url,
                data=body,
                headers={
                    "Authorization": f"Bearer {self._key}",
                    "Content-Type": content_type,
                    "Accept": "application/json",
                    "User-Agent": "prompteditbench",
                },
                method="POST",
            )
            asked: float | None = None
            try:
                with self._opener.open(request, timeout=self._timeout) as answer:
                    data = answer.read(MAX_ANSWER + 1)
                    if len(data) <= MAX_ANSWER and answer.length:
                        # Read with a limit, an answer that breaks off ends without a word.
                        raise http.client.IncompleteRead(data, answer.length)
                return self._object(data)
            except urllib.error.HTTPError as error:
                with error:
                    message, code = self._told(error)
                if not _passing(error.code, code):
                    raise Refused(self._refusal(error.code, message, code)) from None
                asked = retry_after(error.headers.get("Retry-After"))
                why = f"status {error.code}: {message}"
            except (OSError, http.client.HTTPException) as error:
                # urllib wraps what happens while connecting; what happens while reading comes bare.
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                why = self._safe(f"{type(reason).__name__}: {reason}".strip(": "))
            if attempt == self._retries:
                break
            pause = max(self._backoff * 2**attempt, asked or 0.0)
            if asked is not None and asked > self._longest_wait:
                raise EndpointError(f"{self.url}: {why} It asks to wait {asked:.0f} s: run again after that.")
            self._sleep(min(pause, self._longest_wait))
        raise EndpointError(
            f"{self.url}: {why} Given up after {self._retries + 1} calls: run again later, or raise retries."
        )

    def _count(self) -> None:
        with self._lock:
            if self._max_calls is not None and self.calls >= self._max_calls:
                raise EndpointError(
                    f"{self.url}: max_requests {self._max_calls} is reached. What was answered is kept: "
                    "raise it to go on."
                )
            self.calls += 1

    def _object(self, data: bytes) -> dict[str, Any]:
        if len(data) > MAX_ANSWER:
            raise EndpointError(f"{self.url}: an answer of more than {MAX_ANSWER} bytes.")
        try:
            value = parse_json(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise EndpointError(
                f"{self.url}: the answer is no JSON object ({len(data)} bytes). Is it the address of the API?"
            )
        return value

    def _told(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        """The message and the code of an error's body, as OpenAI words them; the bare reason elsewhere."""
        try:
            told = parse_json(error.read(100_000))["error"]
            message, code = str(told["message"]), str(told.get("code") or told.get("type") or "")
        except (ValueError, KeyError, TypeError, AttributeError, OSError, http.client.HTTPException):
            message, code = str(error.reason), ""
        return self._safe(" ".join(message.split())[:300]), code

    def _refusal(self, status: int, message: str, code: str) -> str:
        if status in (401, 403):
            remedy = "Check the key in the environment, and what it is allowed to do."
        elif code == "insufficient_quota":
            remedy = "The account's quota is used up."
        elif status == 404:
            remedy = "Check the address and the model."
        else:
            remedy = ""
        coded = f" ({code})" if code else ""
        return f"{self.url}: status {status}: {message}{coded}. {remedy}".rstrip()

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "<key>") if self._key else text


def _passing(status: int, code: str) -> bool:
    """Whether a status is likely to go away by itself. A spent quota has the status of a rate limit."""
    return (status in (408, 429) and code != "insufficient_quota") or 500 <= status < 600


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now())
    except ValueError:
        return None


def multipart(fields: Mapping[str, str], files: list[Part]) -> tuple[bytes, str]:
    """The body of a ``multipart/form-data`` request and its content type (RFC 7578)."""
    boundary = uuid.uuid4().hex
    lines: list[bytes] = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        lines += [head.encode(), value.encode(), b"\r\n"]
    for part in files:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"; filename="{part.filename}"\r\n'
            f"Content-Type: {part.content_type}\r\n\r\n"
        )
        lines += [head.encode(), part.data, b"\r\n"]
    lines.append(f"--{boundary}--\r\n".encode())
    return b"".join(lines), f"multipart/form-data; boundary={boundary}"


class Kept:
    """Answers on disk by the key of what was asked, whole or not at all: what is paid for is paid for once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def find(self, key: str) -> Path | None:
        path = self.path(key)
        return path if path.is_file() else None

    def keep(self, key: str, data: bytes) -> Path:
        """Raises OSError."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def key_of(question: Mapping[str, Any]) -> str:
    """64 hex digits of SHA-256 over the canonical JSON of a question."""
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return images.sha256_bytes(text.encode())
