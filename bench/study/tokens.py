"""Signed tokens and opaque ids. HMAC-SHA256 with the study's own secret, compared in constant time.

A token is ``BODY.MAC``, both base64url without padding; BODY is a JSON object, MAC is over ``purpose|BODY``.
Signing keeps anyone from making or altering a token; that an invitation is used once is the store's part,
which binds its nonce to a rater.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.study import StudyError

SECRET_BYTES = 32
MAX_TOKEN = 2000
"""Characters; a longer text is no token of ours, and is not looked into."""

SKEW = 60
"""Seconds that a token stays good after its end: two servers' clocks may differ."""


class TokenError(StudyError):
    """A token that is not accepted. Its text may be shown to whoever gave it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class TokenForged(TokenError):
    """Not signed by this study, or altered, or no token at all."""


class TokenExpired(TokenError):
    """Signed by this study, past its end."""


class TokenUsed(TokenError):
    """An invitation that another rater took up."""


@dataclass(frozen=True)
class Claims:
    """What a verified token says."""

    study: str
    subject: str
    """An invitation's nonce, or a session's rater."""
    expires: datetime | None


def new_secret() -> str:
    """64 hex digits of randomness."""
    return secrets.token_hex(SECRET_BYTES)


def new_id(size: int = 12) -> str:
    """An opaque random id of ``size`` bytes, safe in a URL."""
    return secrets.token_urlsafe(size)


def sign(secret: str, purpose: str, study: str, subject: str, expires: datetime | None = None) -> str:
    """A token for ``purpose`` (``"invitation"``, ``"session"``); one for another purpose does not pass for it."""
    body: dict[str, Any] = {"v": 1, "study": study, "sub": subject}
    if expires is not None:
        body["exp"] = int(expires.timestamp())
    text = _encode(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    return f"{text}.{_encode(_mac(secret, purpose, text))}"


def study_of(token: str) -> str:
    """The study that a token claims to be of, unverified: it says which secret to verify with."""
    return str(_body(token).get("study", ""))


def verify(token: str, secret: str, purpose: str, now: datetime) -> Claims:
    """What the token says. Raises :class:`TokenForged` or :class:`TokenExpired`.

    The signature is checked before anything in the token is believed.
    """
    body = _body(token)
    text, _, mac = token.partition(".")
    try:
        given = _decode(mac)
    except ValueError:
        given = b""
    # Only the canonical spelling: base64 has several for one MAC, which would be several tokens.
    if not hmac.compare_digest(given, _mac(secret, purpose, text)) or _encode(given) != mac:
        raise TokenForged("This link is not valid: it was altered or was not made by this study.")
    expires = body.get("exp")
    end = None if expires is None else datetime.fromtimestamp(expires, UTC)
    if end is not None and (now - end).total_seconds() > SKEW:
        raise TokenExpired(
            f"This link ended on {end:%d %B %Y at %H:%M} UTC. Ask the person who sent it for a new one."
        )
    return Claims(str(body["study"]), str(body["sub"]), end)


def opaque(secret: str, *names: object, size: int = 16) -> str:
    """An id of ``size`` bytes in hex that only the secret's holder can tell from randomness.

    The same for the same names, so that nothing has to be stored; without the secret it cannot be inverted.
    """
    text = "\x1f".join(map(str, names))
    return hmac.new(bytes.fromhex(secret), f"opaque\x1f{text}".encode(), hashlib.sha256).hexdigest()[
        : 2 * size
    ]


def keystream(secret: str, length: int, *names: object) -> bytes:
    """``length`` bytes that look random, the same for the same names. SHAKE-256 under an HMAC key."""
    key = hmac.new(
        bytes.fromhex(secret), ("stream\x1f" + "\x1f".join(map(str, names))).encode(), hashlib.sha256
    ).digest()
    return hashlib.shake_256(key).digest(length)


def _mac(secret: str, purpose: str, text: str) -> bytes:
    return hmac.new(bytes.fromhex(secret), f"{purpose}|{text}".encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises ValueError."""
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _body(token: str) -> Mapping[str, Any]:
    broken = "This link is not complete. Open it again from the message it came in, or copy all of it."
    if not isinstance(token, str) or len(token) > MAX_TOKEN or token.count(".") != 1:
        raise TokenForged(broken)
    try:
        body = json.loads(_decode(token.partition(".")[0]))
    except (ValueError, binascii.Error, RecursionError):
        raise TokenForged(broken) from None
    if not isinstance(body, dict):
        raise TokenForged(broken)
    return body
