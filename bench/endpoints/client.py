"""One HTTP endpoint that costs money: retries, a rate limit, ceilings of calls and cost, and a cache of its answers.

The key goes into one header and nowhere else: not into a log, a message or a file. Editing methods and judges use the
same client.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
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
# Seconds before the second attempt. Each further pause is twice as long.
_FIRST_WAIT = 2.0
# Longest pause in seconds. A server that asks for more is an error.
_LONGEST_WAIT = 300.0


class EndpointError(BenchError):
    """The endpoint did not give what was requested. The message says why and what to do."""

    def __init__(self, message: str, status: int | None = None, code: str = "") -> None:
        """``status``: HTTP status of the last answer, None where there was none. ``code``: the server's own word."""
        super().__init__(message)
        self.status = status
        self.code = code


class Refused(EndpointError):
    """The endpoint refuses this very request: sending it again would change nothing."""


class NoAccess(Refused):
    """The endpoint refuses every request: a wrong key, address or model, or no money left."""


class CeilingReached(EndpointError):
    """A ceiling of calls or cost that the user set. No further call is made."""


@dataclass(frozen=True)
class FormFile:
    """One file of a multipart form."""

    name: str
    data: bytes
    content_type: str = "image/png"


@dataclass(frozen=True)
class Ceiling:
    """How much a run may call. None stands for no limit."""

    max_requests: int | None = None
    """Number of calls, retries included."""
    max_cost: float | None = None
    """In the currency of ``price``."""
    price: float | None = None
    """Price of one call, where all cost the same. ``max_cost`` needs it, or a price with each call."""

    def check(self, calls: int, spent: float, price: float | None) -> None:
        """Raises :class:`CeilingReached` where a call of ``price`` is too much after ``calls`` that cost ``spent``."""
        remedy = "What was answered is kept: raise it to go on."
        if self.max_requests is not None and calls >= self.max_requests:
            raise CeilingReached(f"max_requests {self.max_requests} is reached. {remedy}")
        # A retry may have been charged for, so every call counts with its full price.
        if self.max_cost is not None and price is not None and spent + price > self.max_cost * (1 + 1e-9):
            cost = (
                f"at {price:g}" if price == self.price else f"for {spent:.4g}; the next may cost {price:.2g}"
            )
            raise CeilingReached(
                f"max_cost {self.max_cost:g} is reached after {calls} calls {cost}. {remedy}"
            )


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

    def pause(self, seconds: float) -> None:
        """Lets no further call begin before ``seconds`` from now, whichever thread makes it."""
        with self._lock:
            self._next_turn = max(self._next_turn, self._clock() + seconds)


class Endpoint:
    """Sends forms or JSON to one URL by POST. Threads may share it."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        pacer: RequestPacer,
        key_header: str = "Authorization",
        timeout: float = 180.0,
        retries: int = 5,
        ceiling: Ceiling | None = None,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        """``timeout`` is in seconds. An empty ``key`` is not sent.

        ``key_header``: name of the header that has the key, ``Bearer KEY`` in ``Authorization``, and the bare key in
        any other.
        """
        import httpx2

        self.url = url
        self.calls = 0
        self.spent = 0.0
        """Price of all calls so far, failed ones included."""
        self._key = key
        self._pacer = pacer
        self._retries = retries
        self._ceiling = ceiling or Ceiling()
        self._sleep = sleep
        self._lock = threading.Lock()
        # Set once the endpoint refuses every request.
        self._no_access: NoAccess | None = None
        scheme = "Bearer " if key_header == "Authorization" else ""
        self._client = httpx2.Client(
            headers={
                **({key_header: scheme + key} if key else {}),
                "Accept": "application/json",
                # Uncompressed, so that the limit on the size of an answer counts what comes over the line.
                "Accept-Encoding": "identity",
                "User-Agent": "prompteditbench",
            },
            timeout=timeout,
            # Without TLS there is no certificate to check, and loading the authorities takes a third of a second.
            verify=not url.startswith("http://"),
            # A redirect would carry the key to wherever it points.
            follow_redirects=False,
            # A kept connection that the server closed meanwhile would look like a failed call, which is retried and
            # counted.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def post(self, fields: Mapping[str, str], files: Sequence[FormFile]) -> dict[str, Any]:
        """The JSON object that answers a multipart form. Raises as :meth:`post_json` does."""
        # A part without a file name would be an ordinary field, which the endpoint refuses.
        form_files = [(file.name, (_file_name(file), file.data, file.content_type)) for file in files]
        return self._answer({"data": dict(fields), "files": form_files})

    def post_json(self, value: Mapping[str, Any], *, price: float | None = None) -> dict[str, Any]:
        """The JSON object that answers a JSON object. ``price``: the most that one call may cost, if not the ceiling's.

        Timeouts, broken connections and status 408, 429 and 5xx are tried again after two seconds, doubled
        each time, or after what the server asks for if that is longer. Raises Refused for any other status, at once.
        Raises EndpointError when the retries are used up and for an answer that is no JSON object.
        """
        return self._answer({"json": dict(value)}, price)

    def _answer(self, content: Mapping[str, Any], price: float | None = None) -> dict[str, Any]:
        """The answer to a request body, given as arguments of the HTTP client."""
        import httpx2

        for attempt in range(self._retries + 1):
            # Before the call: one that fails may have been charged for.
            self._count_call(price)
            self._pacer.wait()
            server_wait, status = None, None
            try:
                status, headers, body = self._send(content)
                if 200 <= status < 300:
                    return self._json_object(status, body)
                error = _server_error(status, body)
                if not _is_transient(status, error.code):
                    raise self._refusal(status, error)
                # A server that is overloaded says how long to stay away. Calling earlier prolongs it.
                server_wait = retry_after(headers.get("Retry-After"))
                server_wait = error.retry_delay if server_wait is None else server_wait
                reason = f"status {status}: {self._without_key(error.message)}".rstrip(".")
            except httpx2.RequestError as failure:
                reason = self._without_key(f"{type(failure).__name__}: {failure}".strip(": ")).rstrip(".")

            # Waiting before the next attempt.
            if attempt == self._retries:
                break
            if server_wait is not None and server_wait > _LONGEST_WAIT:
                raise EndpointError(
                    f"{self.url}: {reason}. It asks to wait {server_wait:.0f} s: run again after that.",
                    status,
                )
            # Exponential backoff, never shorter than what the server asks for.
            pause = min(max(_FIRST_WAIT * 2**attempt, server_wait or 0.0), _LONGEST_WAIT)
            if server_wait is not None:
                # The other threads stay away as well.
                self._pacer.pause(pause)
            self._sleep(pause)
        raise EndpointError(
            f"{self.url}: {reason}. Given up after {self._retries + 1} calls: run again later, or raise retries.",
            status,
        )

    def _send(self, content: Mapping[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and body of one call, the body cut off behind its limit."""
        with self._client.stream("POST", self.url, **content) as response:
            limit = MAX_ANSWER if response.is_success else MAX_ERROR
            body = bytearray()
            # In chunks: a server that never stops sending must not fill the memory.
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > limit:
                    break
            return response.status_code, response.headers, bytes(body)

    def settle(self, price: float, cost: float) -> None:
        """Corrects ``spent`` after an answer: the call was counted with ``price`` and cost ``cost``."""
        with self._lock:
            self.spent += cost - price

    def _count_call(self, price: float | None) -> None:
        price = self._ceiling.price if price is None else price
        with self._lock:
            if self._no_access is not None:
                raise self._no_access
            try:
                self._ceiling.check(self.calls, self.spent, price)
            except CeilingReached as error:
                raise CeilingReached(f"{self.url}: {error}") from None
            self.calls += 1
            self.spent += price or 0.0

    def _json_object(self, status: int, body: bytes) -> dict[str, Any]:
        if len(body) > MAX_ANSWER:
            raise EndpointError(f"{self.url}: an answer of more than {MAX_ANSWER} bytes.", status)
        try:
            value = parse_json(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise EndpointError(
                f"{self.url}: the answer is no JSON object ({len(body)} bytes). Is it the address of the API?",
                status,
            )
        return value

    def _refusal(self, status: int, error: _ServerError) -> Refused:
        remedies = {
            401: "Check the key in the environment, and what it is allowed to do.",
            402: "The account has no money left.",
            403: "Check the key in the environment, and what it is allowed to do.",
            404: "Check the address and the model.",
        }
        remedy = "The account's quota is used up." if error.code in _SPENT else remedies.get(status, "")
        code = f" ({error.code})" if error.code else ""
        text = f"{self.url}: status {status}: {self._without_key(error.message)}{code}. {remedy}".rstrip()
        # A status 403 may concern the content of one request.
        if status in (401, 402, 404) or error.code in _SPENT:
            self._no_access = NoAccess(text, status, error.code)
            return self._no_access
        return Refused(text, status, error.code)

    def _without_key(self, text: str) -> str:
        # Servers quote the key in messages such as "Incorrect API key provided: ...".
        return text.replace(self._key, "<key>") if self._key else text


@dataclass(frozen=True)
class _ServerError:
    """An answer that reports an error."""

    message: str
    code: str
    # Seconds to wait, where the body asks for that.
    retry_delay: float | None


# Codes of a spent quota. It has the status of a rate limit, and does not go away.
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")


def _server_error(status: int, body: bytes) -> _ServerError:
    """The error in a body of OpenAI's, Gemini's, vLLM's or FastAPI's format. Otherwise the status's own phrase."""
    import httpx2

    try:
        value = parse_json(body)
    except ValueError:
        value = None
    answer = value if isinstance(value, dict) else {}
    # vLLM's earlier versions have the message at the top, FastAPI has a detail.
    error = answer.get("error", answer)
    error = error if isinstance(error, dict) else {"message": error}
    message = error.get("message") or error.get("detail") or httpx2.codes.get_reason_phrase(status)
    code = error.get("code")
    if not isinstance(code, str) or not code:
        # Gemini's code is the status again. Its status is a word.
        code = error.get("status") or error.get("type") or ""
    return _ServerError(" ".join(str(message).split())[:300], str(code)[:80], _retry_delay(error))


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Seconds of Google's ``RetryInfo`` among the details of an error: ``"retryDelay": "30s"``."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?s", delay):
            return float(delay[:-1])
    return None


def _file_name(file: FormFile) -> str:
    return f"{file.name.rstrip('[]')}.{file.content_type.rpartition('/')[2]}"


def _is_transient(status: int, code: str) -> bool:
    """True for a status that may go away when the call is repeated."""
    return (status in (408, 429) and code not in _SPENT) or 500 <= status < 600


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

    def problems(self) -> list[str]:
        """The reason why nothing can be stored in the folder, with its remedy. Empty where it can be written."""
        # The folder need not exist yet. The nearest one that does must be writable.
        parent = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if parent.is_dir() and os.access(parent, os.W_OK):
            return []
        return [
            f"cache {self.folder}: cannot be written, and an answer that is not stored is paid for again. "
            "Name another folder with cache"
        ]

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
