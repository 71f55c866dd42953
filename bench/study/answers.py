"""Answers as pages know them and as the database stores them.

A page knows positions: of the chosen candidate, or of the level on each scale. The database stores the candidate's
title, one of ``types.NO_PREFERENCE``, or the values on the scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from bench.study import scales
from bench.study.design import DesignOptions
from bench.study.interface import Answer, VoteRefused
from bench.study.types import NO_PREFERENCE, TIE


def stored_text(kind: str, candidates: Sequence[str], options: DesignOptions, answer: Answer) -> str:
    """The text to store. Raises :class:`VoteRefused` for an answer that the trial does not have."""
    if kind == "rate":
        if isinstance(answer, (list, tuple)) and len(answer) == len(options.scales):
            levels = [len(scale.levels) for scale in options.scales]
            if all(_is_position(one, count) for one, count in zip(answer, levels, strict=True)):
                return scales.to_text(options.scales, answer)
        raise VoteRefused(
            f"answer {str(answer)[:40]!r}: expected a position on each of {len(options.scales)} scales."
        )
    if kind == "pair" and isinstance(answer, str) and answer in NO_PREFERENCE:
        if options.ties if answer == TIE else options.both_bad:
            return answer
    elif _is_position(answer, len(candidates)):
        return str(candidates[cast("int", answer)])
    raise VoteRefused(
        f"answer {str(answer)[:40]!r}: expected a position from 0 to {len(candidates) - 1}, or an answer "
        "without a preference where the study allows it."
    )


def _is_position(value: object, count: int) -> bool:
    # True is an int in Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def shown_answer(kind: str, candidates: Sequence[str], options: DesignOptions, text: str) -> Answer:
    """A stored answer as a page knows it."""
    if kind == "rate":
        return scales.positions_of(options.scales, text)
    return cast("Answer", text) if text in NO_PREFERENCE else list(candidates).index(text)


def is_expected(kind: str, options: DesignOptions, text: str, expected: str | None) -> bool:
    """True where a stored answer is the right one of an attention check or a practice trial."""
    if kind != "rate" or expected is None:
        return text == expected
    ratings = scales.from_text(text)
    return all(scales.meets(expected, ratings[scale.name], scale.values) for scale in options.scales)
