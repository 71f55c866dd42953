from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from bench.judges.reading import Unread, read_scores

REPLIES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "replies.yaml").read_text("utf-8"))
FORMS: dict[str, tuple[Literal["list", "lines"], tuple[str, ...], tuple[float, float]]] = {
    "two": ("list", ("success", "minimal"), (0, 10)),
    "three": ("list", ("follow", "keep", "real"), (0, 10)),
    "lines": ("lines", ("first", "second", "third"), (1, 5)),
}


def test_there_are_sixty_replies_of_every_kind() -> None:
    assert len(REPLIES) >= 60
    kinds = {reply["want"] for reply in REPLIES if isinstance(reply["want"], str)}
    assert kinds == {"refused", "truncated", "unparsable", "out of range"}


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: f"{reply['form']}-{reply['text'][:30]!r}")
def test_a_reply_gives_its_scores_or_the_kind_of_its_failure(reply: dict[str, Any]) -> None:
    form, names, scale = FORMS[reply["form"]]
    result = read_scores(
        reply["text"], form, names, scale, finish=reply.get("finish"), refusal=reply.get("refusal")
    )
    assert (result.kind if isinstance(result, Unread) else result) == reply["want"]


@pytest.mark.parametrize("text", ["[" * 5000, "{" * 5000 + "}" * 5000, '"' * 999, "1" * 10_000, "[1e999, 1]"])
def test_a_hostile_reply_ends_and_is_no_score(text: str) -> None:
    result = read_scores(text, "list", ("a", "b"), (0, 10))
    assert isinstance(result, Unread)
    assert len(result.reason) < 200


def test_a_single_score_needs_no_list() -> None:
    for text in ('{"score": 7}', '{"score": [7]}', "[7]", '{"score": "7/10"}'):
        assert read_scores(text, "list", ("a",), (0, 10)) == [7]
