from __future__ import annotations

import hashlib
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.study.database import Clock
from bench.study.design import Design
from bench.study.passwords import PasswordError, RateLimit, TooManyAttempts, hash_password, matches
from bench.study.store import StudyStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RIGHT = "correct horse battery"


def test_the_hash_is_scrypt_and_its_salt_is_fresh() -> None:
    stored = hash_password(RIGHT, cost=2**10)
    name, cost, block, lanes, salt, digest = stored.split("$")
    assert (name, cost, block, lanes) == ("scrypt", "1024", "8", "3")
    assert b64decode(digest) == hashlib.scrypt(
        RIGHT.encode(), salt=b64decode(salt), n=1024, r=8, p=3, dklen=32
    )
    assert hash_password(RIGHT, cost=2**10) != stored
    assert RIGHT not in stored


@pytest.mark.parametrize("wrong", ["", "correct horse batterY", RIGHT + " ", "x" * 2000, "\ud800", "\x00"])
def test_only_the_password_matches(wrong: str) -> None:
    stored = hash_password(RIGHT, cost=2**10)
    assert matches(RIGHT, stored)
    assert not matches(wrong, stored)


@pytest.mark.parametrize("bad", ["short", "x" * 1001])
def test_short_and_huge_passwords_are_refused(bad: str) -> None:
    with pytest.raises(PasswordError, match="characters"):
        hash_password(bad)


@pytest.mark.parametrize("stored", ["", "md5$1$2$3$4$5", "scrypt$x$8$3$AA==$AA=="])
def test_a_broken_hash_is_said_to_be_one(stored: str) -> None:
    with pytest.raises(PasswordError, match="cannot be read"):
        matches(RIGHT, stored)


def test_the_limit_waits_until_the_oldest_failure_leaves_the_window() -> None:
    limit = RateLimit(per_client=3, window=timedelta(minutes=10))
    failures = [NOW - timedelta(minutes=m) for m in (9, 4, 1)]
    assert limit.wait(failures[1:], NOW, 3) == 0
    assert limit.wait(failures, NOW, 3) == 60
    assert limit.wait([NOW - timedelta(minutes=11), *failures[1:]], NOW, 3) == 0
    # The clock was set back: a failure from the far future locks nobody out.
    assert limit.wait([NOW + timedelta(days=1)] * 9, NOW, 3) == 0


class Hand(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


def test_guessing_is_stopped_and_the_count_survives_a_restart(
    memory: Path, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.study.passwords.COST", 2**10)
    clock = Hand()
    limit = RateLimit(per_client=3, overall=5)
    with StudyStore.open(memory / "s.db", clock=clock) as store:
        store.create("taste", design)
        with pytest.raises(PasswordError, match="No password is set"):
            store.check_admin("taste", RIGHT)
        store.set_admin_password("taste", RIGHT)
        for _ in range(20):
            store.check_admin("taste", RIGHT, "home", limit)  # the right one is never counted
        for _ in range(3):
            with pytest.raises(PasswordError, match="Wrong"):
                store.check_admin("taste", "wrong password", "thief", limit)
    with StudyStore.open(memory / "s.db", clock=clock) as store:
        with pytest.raises(TooManyAttempts) as caught:
            store.check_admin("taste", RIGHT, "thief", limit)
        assert caught.value.wait == 15 * 60
        store.check_admin("taste", RIGHT, "home", limit)
        # From ever new addresses, the limit of all together stops it.
        for client in ("a", "b"):
            with pytest.raises(PasswordError, match="Wrong"):
                store.check_admin("taste", "wrong password", client, limit)
        with pytest.raises(TooManyAttempts):
            store.check_admin("taste", RIGHT, "c", limit)
        clock.time += timedelta(minutes=15, seconds=1)
        store.check_admin("taste", RIGHT, "thief", limit)
