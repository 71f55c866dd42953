"""The ``--style`` option: one line of text, checked when it is read."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import get_args

from bench.tables.style import Captions, Intervals, Layout, Style, StyleError

EXAMPLE = "columns=success_truth,leak_lpips;decimals=3;intervals=brackets;layout=two-column"
MOST_DECIMALS = 8

_CHOICES = {"intervals": Intervals, "layout": Layout, "captions": Captions}


def parse(text: str) -> Style:
    """``key=value;key=value``, as :data:`EXAMPLE`. Raises :class:`StyleError`, which names the part at fault."""
    known = [field.name for field in fields(Style)]
    chosen: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise StyleError(f"--style: {part!r} is no key=value. Write it as: {EXAMPLE}")
        if key not in known:
            raise StyleError(f"--style: {_unknown(key, known, 'key')} It takes: {', '.join(known)}.")
        if key in chosen:
            raise StyleError(f"--style: {key} is given twice. Give it once.")
        if not value:
            raise StyleError(f"--style {key}: no value. Give one, or leave {key} out.")
        chosen[key] = _value(key, value)
    return Style(**chosen)  # type: ignore[arg-type]


def _value(key: str, value: str) -> object:
    if key == "columns":
        columns = tuple(column.strip() for column in value.split(",") if column.strip())
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice or not columns:
            what = f"{', '.join(twice)} is named twice" if twice else "names no metric"
            raise StyleError(f"--style columns: {what}. Name each metric once, with commas between.")
        return columns
    if key == "decimals":
        if not value.isascii() or not value.isdigit() or int(value) > MOST_DECIMALS:
            raise StyleError(f"--style decimals: {value!r} is no whole number from 0 to {MOST_DECIMALS}.")
        return int(value)
    options = list(get_args(_CHOICES[key]))
    if value not in options:
        raise StyleError(
            f"--style {key}: {_unknown(value, options, 'choice')} Choose {' or '.join(options)}."
        )
    return value


def _unknown(name: str, known: list[str], what: str) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"no {what} {name!r}." + (f" Did you mean {close[0]}?" if close else "")
