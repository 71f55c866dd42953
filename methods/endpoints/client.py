"""One HTTP endpoint that costs money: retries, a rate limit, a ceiling of calls, and a cache of its answers.

The key goes into one header and nowhere else: not into a log, a message or a file.
"""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.files import parse_json, sha256_bytes, write_atomic

if TYPE_CHECKING:
    import httpx2

# Bytes of an answer at most. An image of 1024 x 1024 in base64 is a few MiB.
MAX_ANSWER = 64 * 2**20
# Bytes of an error's body that are looked at.
MAX_ERROR = 100_000


class EndpointError(BenchError):
    """The endpoint did not give what was requested. The message says why and what to do."""


class Refused(EndpointError):
    """The endpoint refuses this very request: sending it again would change nothing."""


@dataclass(frozen=True)
class FormFile:
    """One file of a multipart form."""

    name: str
    data: bytes
    content_type: str = "image/png"


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


class RequestPacer:
    """At most ``per_minute`` calls a minute, evenly spaced. Shared by threads."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        # Seconds between two calls.
        self._gap = 60 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next_turn = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next call is due. Each caller has a turn of its own."""
        # The turn is reserved under the lock, and waited for outside of it: others can take theirs meanwhile.
        with self._lock:
            now = self._clock()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._gap
        if turn > now:
            self._sleep(turn - now)


class Endpoint:
    """Sends forms to one URL by POST."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        pacer: RequestPacer,
        timeout: float = 180.0,
        retries: int = 5,
        backoff: float = 2.0,
        longest_wait: float = 300.0,
        max_calls: int | None = None,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        """``timeout``, ``backoff`` and ``longest_wait`` are in seconds. ``max_calls`` counts retries too."""
        import httpx2

        self.url = url
        self.calls = 0
        self._key = key
        self._pacer = pacer
        self._retries = retries
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._max_calls = max_calls
        self._sleep = sleep
        self._lock = threading.Lock()
        self._client = httpx2.Client(
            headers={
                "Authorization": f"Bearer {key}",
                "Accept": "application/json",
                # Uncompressed, so that the limit on the size of an answer counts what comes over the line.
                "Accept-Encoding": "identity",
                "User-Agent": "prompteditbench",
            },
            timeout=timeout,
            # A redirect would carry the key to wherever it points.
            follow_redirects=False,
            # A kept connection that the server closed meanwhile would look like a failed call, which is retried and
            # counted.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def post(self, fields: Mapping[str, str], files: Sequence[FormFile]) -> dict[str, Any]:
        """The JSON object that answers a multipart form.

        Timeouts, broken connections and status 408, 429 and 5xx are tried again after ``backoff`` seconds, doubled
        each time, or after what ``Retry-After`` says if that is longer. Raises Refused for any other status, at once.
        Raises EndpointError when the retries are used up and for an answer that is no JSON object.
        """
        import httpx2

        for attempt in range(self._retries + 1):
            # Before the call: one that fails may have been charged for.
            self._count_call()
            self._pacer.wait()
            server_wait: float | None = None
            try:
                status, headers, body = self._send(fields, files)
                if 200 <= status < 300:
                    return self._json_object(body)
                message, code = self._error_message(status, body)
                if not _is_transient(status, code):
                    raise Refused(self._refusal(status, message, code))
                # A server that is overloaded says how long to stay away. Calling earlier prolongs it.
                server_wait = retry_after(headers.get("Retry-After"))
                reason = f"status {status}: {message}"
            except httpx2.RequestError as error:
                reason = self._without_key(f"{type(error).__name__}: {error}".strip(": "))

            # Waiting before the next attempt.
            if attempt == self._retries:
                break
            if server_wait is not None and server_wait > self._longest_wait:
                raise EndpointError(
                    f"{self.url}: {reason} It asks to wait {server_wait:.0f} s: run again after that."
                )
            # Exponential backoff, never shorter than what the server asks for.
            self._sleep(min(max(self._backoff * 2**attempt, server_wait or 0.0), self._longest_wait))
        raise EndpointError(
            f"{self.url}: {reason} Given up after {self._retries + 1} calls: run again later, or raise retries."
        )

    def _send(
        self, fields: Mapping[str, str], files: Sequence[FormFile]
    ) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and body of one call, the body cut off behind its limit."""
        # A part without a file name would be an ordinary field, which the endpoint refuses.
        form_files = [(file.name, (f"{file.name}.png", file.data, file.content_type)) for file in files]
        with self._client.stream("POST", self.url, data=dict(fields), files=form_files) as response:
            limit = MAX_ANSWER if response.is_success else MAX_ERROR
            body = bytearray()
            # In chunks: a server that never stops sending must not fill the memory.
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > limit:
                    break
            return response.status_code, response.headers, bytes(body)

    def _count_call(self) -> None:
        with self._lock:
            if self._max_calls is not None and self.calls >= self._max_calls:
                raise EndpointError(
                    f"{self.url}: max_requests {self._max_calls} is reached. What was answered is kept: "
                    "raise it to go on."
                )
            self.calls += 1

    def _json_object(self, body: bytes) -> dict[str, Any]:
        if len(body) > MAX_ANSWER:
            raise EndpointError(f"{self.url}: an answer of more than {MAX_ANSWER} bytes.")
        try:
            value = parse_json(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise EndpointError(
                f"{self.url}: the answer is no JSON object ({len(body)} bytes). Is it the address of the API?"
            )
        return value

    def _error_message(self, status: int, body: bytes) -> tuple[str, str]:
        """The message and the code in an error's body in OpenAI's format. Otherwise the status's own phrase."""
        import httpx2

        try:
            error = parse_json(body)["error"]
            message, code = str(error["message"]), str(error.get("code") or error.get("type") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, code = httpx2.codes.get_reason_phrase(status), ""
        return self._without_key(" ".join(message.split())[:300]), code

    def _refusal(self, status: int, message: str, code: str) -> str:
        if status in (401, 403):
            remedy = "Check the key in the environment, and what it is allowed to do."
        elif code == "insufficient_quota":
            remedy = "The account's quota is used up."
        elif status == 404:
            remedy = "Check the address and the model."
        else:
            remedy = ""
        code_note = f" ({code})" if code else ""
        return f"{self.url}: status {status}: {message}{code_note}. {remedy}".rstrip()

    def _without_key(self, text: str) -> str:
        # Servers quote the key in messages such as "Incorrect API key provided: ...".
        return text.replace(self._key, "<key>") if self._key else text


def _is_transient(status: int, code: str) -> bool:
    """True for a status that may go away when the call is repeated."""
    # A spent quota has the status of a rate limit, and does not go away.
    return (status in (408, 429) and code != "insufficient_quota") or 500 <= status < 600


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait by a ``Retry-After`` header: a number, or a date (RFC 9110, section 10.2.3).

    None where there is no header, or one that is neither.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        # Clocks differ: a date in the past means at once.
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now())
    except ValueError:
        return None


class AnswerCache:
    """Answers on disk by the key of their request, so that what is paid for is paid for once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the answer to ``key`` is or will be."""
        # Two levels: one folder would hold every answer of all runs.
        return self.folder / key[:2] / key

    def find(self, key: str) -> Path | None:
        """The file of an answer, or None."""
        path = self.path(key)
        return path if path.is_file() else None

    def store(self, key: str, data: bytes) -> Path:
        """Writes an answer, whole or not at all. Raises OSError."""
        path = self.path(key)
        write_atomic(path, data)
        return path


def request_key(request: Mapping[str, Any]) -> str:
    """64 hex digits of SHA-256 over the canonical JSON of everything that determines an answer."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256_bytes(text.encode())
