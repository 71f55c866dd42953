"""The admin page's password: scrypt, and how many wrong guesses are let through. Pure; the store counts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.study import StudyError

COST, BLOCK, LANES = 2**15, 8, 3
"""scrypt's N, r, p: 32 MiB and about a quarter of a second. Source: OWASP Password Storage Cheat Sheet."""
MIN_LENGTH = 10
MAX_LENGTH = 1000
"""Characters; longer ones would only make the server work."""


class PasswordError(StudyError):
    """A password that is not accepted. Its text may be shown to whoever gave it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class TooManyAttempts(PasswordError):
    """Too many wrong passwords of late; ``wait`` seconds until the next one is looked at."""

    def __init__(self, wait: int) -> None:
        super().__init__(f"Too many wrong passwords. Try again in {max(1, -(-wait // 60))} minutes.")
        self.wait = wait


def hash_password(password: str, *, cost: int | None = None) -> str:
    """``scrypt$N$r$p$salt$hash`` with a fresh salt; N is ``COST`` by default.

    Raises :class:`PasswordError` for a short or a huge one.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise PasswordError(f"The password needs {MIN_LENGTH} to {MAX_LENGTH} characters.")
    salt, cost = secrets.token_bytes(16), cost or COST
    return "$".join(
        ["scrypt", str(cost), str(BLOCK), str(LANES), _text(salt), _text(_derive(password, salt, cost))]
    )


def matches(password: str, stored: str) -> bool:
    """Whether it is the password that ``stored`` was made of; compared in constant time.

    Raises :class:`PasswordError` where ``stored`` is no such text.
    """
    try:
        name, cost, block, lanes, salt, digest = stored.split("$")
        if name != "scrypt":
            raise ValueError(name)
        parameters = int(cost), int(block), int(lanes)
        wanted = base64.b64decode(digest, validate=True)
        seed = base64.b64decode(salt, validate=True)
    except ValueError:
        raise PasswordError("The stored password cannot be read. Set it again.") from None
    if len(password) > MAX_LENGTH:
        return False
    return hmac.compare_digest(_derive(password, seed, *parameters), wanted)


def _derive(password: str, salt: bytes, cost: int, block: int = BLOCK, lanes: int = LANES) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost,
        r=block,
        p=lanes,
        maxmem=128 * cost * block * 2 + 2**20 * lanes,
        dklen=32,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class RateLimit:
    """At most so many wrong passwords in a stretch of time, of one client and of all together."""

    per_client: int = 5
    overall: int = 30
    """Also where every guess comes from another address."""
    window: timedelta = timedelta(minutes=15)

    def wait(self, failures: Sequence[datetime], now: datetime, most: int) -> int:
        """Seconds until another attempt is looked at; 0 for now. ``failures``: times of wrong ones.

        A failure from further in the future than the window (the clock was set back since) is passed over:
        else it would lock everyone out until the clock has caught up.
        """
        recent = sorted(min(moment, now) for moment in failures if abs(now - moment) < self.window)
        if len(recent) < most:
            return 0
        # When the oldest of the last `most` leaves the window.
        return max(1, round((recent[-most] + self.window - now).total_seconds()))
