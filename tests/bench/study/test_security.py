"""Tokens, opaque ids and the administrator's password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.study import security
from bench.study.design import Design
from bench.study.security import (
    AttemptLimit,
    PasswordError,
    TokenExpired,
    TokenForged,
    TooManyAttempts,
    hash_password,
    keystream,
    matches,
    opaque,
    sign,
    study_of,
    verify,
)
from bench.study.store import StudyStore
from tests.bench.study.runs import HandClock

RIGHT = "correct horse battery"
SECRET = security.new_secret()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_says_what_was_signed() -> None:
    token = sign(SECRET, "invitation", "taste", "nonce", NOW + timedelta(days=1))
    content = verify(token, SECRET, "invitation", NOW)
    assert (content.study, content.subject, content.expires) == ("taste", "nonce", NOW + timedelta(days=1))
    assert study_of(token) == "taste"


def test_the_signature_is_hmac_sha256_of_purpose_and_body() -> None:
    body, mac = sign(SECRET, "session", "taste", "r").split(".")
    expected = hmac.new(bytes.fromhex(SECRET), f"session|{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(mac + "=") == expected
    assert json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) == {
        "v": 1, "study": "taste", "sub": "r",
    }  # fmt: skip


def test_every_single_changed_character_is_noticed() -> None:
    token = sign(SECRET, "session", "taste", "r")
    # Every place, with letters, digits and signs that a token may hold.
    for place in range(len(token)):
        for other in "A9-_.=x":
            if other != token[place]:
                with pytest.raises(TokenForged):
                    verify(token[:place] + other + token[place + 1 :], SECRET, "session", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.b",
        "é.x",
        "a" * 5000 + ".b",
        "e30.x",
        "bnVsbA.x",
        "W10.x",
        "\x00.\x00",
        "a.b.c",
        "A" * 1999 + ".",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenForged):
        verify(text, SECRET, "session", NOW)


def test_a_token_that_was_signed_before_itsdangerous_signed_them_stays_valid() -> None:
    token = (
        "eyJleHAiOjE3NjczMTIwMDAsInN0dWR5IjoidGFzdGUiLCJzdWIiOiJub25jZSIsInYiOjF9."
        "GOJzm8lP1CUdQE1UsOU4LXK4mCKHfkXwMbAhnhROE_U"
    )
    content = verify(token, "0123456789abcdef" * 4, "invitation", NOW)
    assert (content.study, content.subject, content.expires) == ("taste", "nonce", NOW + timedelta(days=1))


def test_another_secret_or_purpose_does_not_pass() -> None:
    token = sign(SECRET, "invitation", "taste", "n")
    for secret, purpose in ((security.new_secret(), "invitation"), (SECRET, "session")):
        with pytest.raises(TokenForged):
            verify(token, secret, purpose, NOW)


def test_a_token_ends_a_moment_after_its_end() -> None:
    token = sign(SECRET, "invitation", "taste", "n", NOW)
    verify(token, SECRET, "invitation", NOW + timedelta(seconds=security.SKEW))
    with pytest.raises(TokenExpired, match="01 January 2026"):
        verify(token, SECRET, "invitation", NOW + timedelta(seconds=security.SKEW + 1))


def test_opaque_ids_are_the_same_for_the_same_names_alone() -> None:
    assert opaque(SECRET, "picture", "r", "t", 0) == opaque(SECRET, "picture", "r", "t", 0)
    ids = {opaque(SECRET, "picture", "r", "t", i) for i in range(100)}
    ids |= {opaque(SECRET, "picture", "r", "t1", 0), opaque(security.new_secret(), "picture", "r", "t", 0)}
    # ("a", "bc") and ("ab", "c") are different names.
    ids |= {opaque(SECRET, "a", "bc"), opaque(SECRET, "ab", "c")}
    assert len(ids) == 104


def test_the_keystream_has_the_length_and_no_pattern() -> None:
    assert keystream(SECRET, 0, "x") == b""
    # Long enough for a statistical test.
    data = keystream(SECRET, 65_536, "x")
    assert len(data) == 65_536
    # Each byte value 256 times, give or take 6 standard deviations of 16.
    assert all(abs(data.count(bytes([value])) - 256) < 96 for value in range(256))
    assert keystream(SECRET, 100, "x") != keystream(SECRET, 100, "y")


# --- passwords ------------------------------------------------------------------------------------------


@pytest.fixture
def cheap_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that takes a millisecond, not a quarter of a second."""
    monkeypatch.setattr(security, "COST", 2**10)


@pytest.mark.usefixtures("cheap_hash")
def test_the_hash_is_scrypt_and_its_salt_is_fresh() -> None:
    stored = hash_password(RIGHT)
    name, cost, block, lanes, salt, digest = stored.split("$")
    assert (name, cost, block, lanes) == ("scrypt", "1024", "8", "3")
    assert b64decode(digest) == hashlib.scrypt(
        RIGHT.encode(), salt=b64decode(salt), n=1024, r=8, p=3, dklen=32
    )
    assert hash_password(RIGHT) != stored
    assert RIGHT not in stored


@pytest.mark.usefixtures("cheap_hash")
@pytest.mark.parametrize("wrong", ["", "correct horse batterY", RIGHT + " ", "x" * 2000, "\ud800", "\x00"])
def test_only_the_password_matches(wrong: str) -> None:
    stored = hash_password(RIGHT)
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
    limit = AttemptLimit(per_client=3, window=timedelta(minutes=10))
    # Three failures within ten minutes: the next attempt waits for the oldest to pass.
    failures = [NOW - timedelta(minutes=m) for m in (9, 4, 1)]
    assert limit.wait(failures[1:], NOW, 3) == 0
    assert limit.wait(failures, NOW, 3) == 60
    assert limit.wait([NOW - timedelta(minutes=11), *failures[1:]], NOW, 3) == 0
    # The clock was set back: a failure from the far future locks nobody out.
    assert limit.wait([NOW + timedelta(days=1)] * 9, NOW, 3) == 0


@pytest.mark.usefixtures("cheap_hash")
def test_guessing_is_stopped_and_the_count_survives_a_restart(memory: Path, design: Design) -> None:
    clock = HandClock()
    limit = AttemptLimit(per_client=3, overall=5)
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
        clock.forward(15 * 60 + 1)
        store.check_admin("taste", RIGHT, "thief", limit)
