"""Signed tokens, opaque ids, and the administrator's password.

Tokens are signed with HMAC-SHA256 by ``itsdangerous``, with the study's own secret as the key. Without the secret,
nobody can make or alter a token. The store ensures that an invitation is used only once: it binds the invitation's
nonce to a rater. The store also counts wrong passwords.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.signer import HMACAlgorithm

from bench.study import StudyError

SECRET_BYTES = 32
# Most characters of a token. A longer text is refused unread.
MAX_TOKEN = 2000
# Seconds for which a token is still accepted after its end: the clocks of two servers may differ.
SKEW = 60

# --- tokens -----------------------------------------------------------------------------------------------


class TokenError(StudyError):
    """A token that is not accepted. Its text may be shown to the person who gave the token."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class TokenForged(TokenError):
    """A token that this study did not sign, that was altered, or that is no token at all."""


class TokenExpired(TokenError):
    """A token of this study that has ended."""


class TokenUsed(TokenError):
    """An invitation that another rater has used."""


@dataclass(frozen=True)
class TokenContent:
    """Content of a verified token."""

    study: str
    # The nonce of an invitation, or the rater of a session.
    subject: str
    expires: datetime | None


class _PurposeHmac(HMACAlgorithm):
    """HMAC-SHA256 over ``purpose|text``: a token for one purpose is not valid for another."""

    def __init__(self, purpose: str) -> None:
        super().__init__(hashlib.sha256)
        self._prefix = f"{purpose}|".encode()

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return super().get_signature(key, self._prefix + value)


def _serializer(secret: str, purpose: str) -> URLSafeSerializer:
    # The secret is 32 random bytes, so no key has to be derived from it.
    # One algorithm object per purpose. The salt of itsdangerous is used for derived keys only.
    options = {"key_derivation": "none", "algorithm": _PurposeHmac(purpose)}
    return URLSafeSerializer(bytes.fromhex(secret), signer_kwargs=options)


def sign(secret: str, purpose: str, study: str, subject: str, expires: datetime | None = None) -> str:
    """A signed token of a study for ``purpose`` (``"invitation"`` or ``"session"``), safe in a URL."""
    # A token is the rater's only credential: raters have neither an account nor a password.
    # In alphabetical order: the same content is always the same token.
    content: dict[str, Any] = {"study": study, "sub": subject, "v": 1}
    if expires is not None:
        content = {"exp": int(expires.timestamp()), **content}
    return str(_serializer(secret, purpose).dumps(content))


def study_of(token: str) -> str:
    """The study that a token names, before its signature is verified. The study's secret then verifies it.

    Raises :class:`TokenForged` for a text that is no token.
    """
    content = None
    if len(token) <= MAX_TOKEN:
        # The key does not matter, as the signature is not looked at.
        _, content = _serializer("", "").loads_unsafe(token)
    if not isinstance(content, dict):
        raise TokenForged(
            "This link is not complete. Open it again from the message it came in, or copy all of it."
        )
    return str(content.get("study", ""))


def verify(token: str, secret: str, purpose: str, now: datetime) -> TokenContent:
    """The content of a token. Raises :class:`TokenForged` or :class:`TokenExpired`."""
    # Refuses a text that is no token at all, with a message of its own.
    study_of(token)
    serializer = _serializer(secret, purpose)
    try:
        content = serializer.loads(token)
    except BadData:
        content = None
    # Only the canonical spelling is valid. Base64 has several for one signature, which would be several tokens.
    signed = serializer.make_signer().sign(token.rpartition(".")[0]).decode()
    if content is None or signed != token:
        raise TokenForged("This link is not valid: it was altered or was not made by this study.")
    # The database's time decides, not the clock of this process.
    end = datetime.fromtimestamp(content["exp"], UTC) if "exp" in content else None
    if end is not None and (now - end).total_seconds() > SKEW:
        raise TokenExpired(
            f"This link ended on {end:%d %B %Y at %H:%M} UTC. Ask the person who sent it for a new one."
        )
    return TokenContent(content["study"], content["sub"], end)


# --- ids and noise ----------------------------------------------------------------------------------------


def new_secret() -> str:
    """A random secret: 32 bytes as 64 hex digits."""
    return secrets.token_hex(SECRET_BYTES)


def new_id() -> str:
    """A random id of 12 bytes, safe in a URL."""
    return secrets.token_urlsafe(12)


def opaque(secret: str, *names: object, size: int = 16) -> str:
    """An id of ``size`` bytes, in hex, that is always the same for the same names.

    It need not be stored. Without the secret it looks random and cannot be inverted.
    """
    return _keyed(secret, "opaque", names).hex()[: 2 * size]


def keystream(secret: str, length: int, *names: object) -> bytes:
    """``length`` bytes that look random and are always the same for the same names (SHAKE-256 of a keyed hash)."""
    return hashlib.shake_256(_keyed(secret, "stream", names)).digest(length)


def _keyed(secret: str, purpose: str, names: Sequence[object]) -> bytes:
    # The separator tells ("a", "bc") from ("ab", "c").
    text = "\x1f".join((purpose, *map(str, names)))
    return hmac.digest(bytes.fromhex(secret), text.encode(), hashlib.sha256)


# --- the administrator's password -------------------------------------------------------------------------

# scrypt's N, r and p: 32 MiB and about a quarter of a second. Source: OWASP Password Storage Cheat Sheet.
COST, BLOCK, LANES = 2**15, 8, 3
MIN_LENGTH = 10
# Most characters of a password. A longer one would only keep the server busy.
MAX_LENGTH = 1000


class PasswordError(StudyError):
    """A password that is not accepted. Its text may be shown to the person who gave the password."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class TooManyAttempts(PasswordError):
    """Too many wrong passwords lately. The next one is checked in ``wait`` seconds at the earliest."""

    def __init__(self, wait: int) -> None:
        super().__init__(f"Too many wrong passwords. Try again in {max(1, -(-wait // 60))} minutes.")
        self.wait = wait


def hash_password(password: str) -> str:
    """The text ``scrypt$N$r$p$salt$hash`` with a fresh salt. Salt and hash are in base64.

    Raises :class:`PasswordError` for fewer than 10 or more than 1000 characters.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise PasswordError(f"The password needs {MIN_LENGTH} to {MAX_LENGTH} characters.")
    # A salt per password: equal passwords have different hashes.
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, COST, BLOCK, LANES)
    encoded = [base64.b64encode(data).decode() for data in (salt, digest)]
    return "$".join(["scrypt", str(COST), str(BLOCK), str(LANES), *encoded])


def matches(password: str, stored: str) -> bool:
    """True where ``stored`` is the hash of the password, compared in constant time.

    Raises :class:`PasswordError` where ``stored`` is not a text of :func:`hash_password`.
    """
    try:
        name, cost, block, lanes, salt, digest = stored.split("$")
        if name != "scrypt":
            raise ValueError(name)
        parameters = int(cost), int(block), int(lanes)
        salt_bytes = base64.b64decode(salt, validate=True)
        expected = base64.b64decode(digest, validate=True)
    except ValueError:
        raise PasswordError("The stored password cannot be read. Set it again.") from None
    # Such a password was never accepted, so there is no need to hash it.
    if len(password) > MAX_LENGTH:
        return False
    return hmac.compare_digest(_scrypt(password, salt_bytes, *parameters), expected)


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    # A browser may send half of a surrogate pair, which UTF-8 does not have.
    data = password.encode("utf-8", "surrogatepass")
    # scrypt needs 128 N r bytes. OpenSSL counts some more for the lanes.
    memory = 128 * cost * block * 2 + 2**20 * lanes
    return hashlib.scrypt(data, salt=salt, n=cost, r=block, p=lanes, maxmem=memory, dklen=32)


@dataclass(frozen=True)
class AttemptLimit:
    """Most wrong passwords within a window of time, per client and of all clients together."""

    per_client: int = 5
    # Limits an attacker who sends every guess from another address.
    overall: int = 30
    window: timedelta = timedelta(minutes=15)

    def wait(self, failures: Sequence[datetime], now: datetime, limit: int) -> int:
        """Seconds until another attempt is checked. ``failures``: times of wrong passwords. ``limit``: most of them.

        A failure later than ``now + window`` is ignored: the clock was set back since then, and the failure would lock
        everyone out until the clock reaches its time.
        """
        recent = sorted(min(moment, now) for moment in failures if abs(now - moment) < self.window)
        if len(recent) < limit:
            return 0
        # The next attempt is free when the oldest of the last `limit` failures leaves the window.
        return max(1, round((recent[-limit] + self.window - now).total_seconds()))
