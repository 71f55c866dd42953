from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from bench.study import tokens
from bench.study.tokens import TokenExpired, TokenForged, keystream, opaque, sign, study_of, verify

SECRET = tokens.new_secret()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_says_what_was_signed() -> None:
    token = sign(SECRET, "invitation", "taste", "nonce", NOW + timedelta(days=1))
    claims = verify(token, SECRET, "invitation", NOW)
    assert (claims.study, claims.subject, claims.expires) == ("taste", "nonce", NOW + timedelta(days=1))
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


def test_another_secret_or_purpose_does_not_pass() -> None:
    token = sign(SECRET, "invitation", "taste", "n")
    for secret, purpose in ((tokens.new_secret(), "invitation"), (SECRET, "session")):
        with pytest.raises(TokenForged):
            verify(token, secret, purpose, NOW)


def test_a_token_ends_a_moment_after_its_end() -> None:
    token = sign(SECRET, "invitation", "taste", "n", NOW)
    verify(token, SECRET, "invitation", NOW + timedelta(seconds=tokens.SKEW))
    with pytest.raises(TokenExpired, match="01 January 2026"):
        verify(token, SECRET, "invitation", NOW + timedelta(seconds=tokens.SKEW + 1))


def test_opaque_ids_are_the_same_for_the_same_names_alone() -> None:
    assert opaque(SECRET, "picture", "r", "t", 0) == opaque(SECRET, "picture", "r", "t", 0)
    others = {opaque(SECRET, "picture", "r", "t", i) for i in range(100)}
    others |= {opaque(SECRET, "picture", "r", "t1", 0), opaque(tokens.new_secret(), "picture", "r", "t", 0)}
    # ("a", "bc") and ("ab", "c") are other names.
    others |= {opaque(SECRET, "a", "bc"), opaque(SECRET, "ab", "c")}
    assert len(others) == 104


def test_the_keystream_has_the_length_and_no_pattern() -> None:
    assert keystream(SECRET, 0, "x") == b""
    data = keystream(SECRET, 65_536, "x")
    assert len(data) == 65_536
    # Each byte value 256 times, give or take 6 standard deviations of 16.
    assert all(abs(data.count(bytes([value])) - 256) < 96 for value in range(256))
    assert keystream(SECRET, 100, "x") != keystream(SECRET, 100, "y")
