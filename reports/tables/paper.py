"""Values that a paper reported, as data: each with the place where it stands. Nothing here was measured.

The data lies in ``paper.json``. A user's own file of the same form (``--paper-file FILE``) takes its place. A value is
a cell only where it was read in a source that the file names. Write a cell as it is printed (``"6.20"``, not ``6.2``:
the digits say how far two cells may differ by rounding alone)::

    {"place": "Table 1", "page": 5, "read_in": "the article's PDF", "gives": {"n": "400 edits"}, "cells": [
        {"method": "...", "dataset": "COCO", "quantity": "FID", "category": null, "value": "..."}]}

* ``gives``: those of ``EXPECTED`` that the paper states of the place.
* ``same``: name -> another name that the checks take for the same method or quantity.
* ``unnamed``: models that the paper does not name, each with the methods of the suite that it may be compared with
  where the user says so (``--paper-baseline``).
* ``statements``: sentences that are checked against the cells, with a ``ratio`` or the methods ``compared``.
* ``absent``: places whose values are not in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.edit import ALL, CATEGORIES
from bench.errors import BenchError
from bench.files import parse_json

# Raised when a field changes its meaning, so that a file of another format is refused and not misread.
FORMAT = 1
# Statements that every place of a paper should make -> their names in the list of gaps.
EXPECTED = {
    "n": "number of edits or votes (n)",
    "interval": "interval or test",
    "protocol": "protocol (cases, masks, prompts)",
}
OWN_FILE = Path(__file__).parents[1] / "paper.json"


class PaperError(BenchError):
    """A file of reported values that cannot be used. The message names file, place and remedy."""


@dataclass(frozen=True)
class Reported:
    """One cell of a paper."""

    # ``Table 1``, ``abstract``, ...
    place: str
    page: int | None
    # The paper's own name of it.
    method: str
    # None: the paper does not say which.
    dataset: str | None
    quantity: str
    # With the digits that were printed.
    value: Decimal
    category: str | None = None
    # Kind of figure, where one name stands for several (a share of votes, of comparisons).
    kind: str = ""

    @property
    def where(self) -> str:
        return self.place + (f", p. {self.page}" if self.page is not None else "")

    @property
    def decimals(self) -> int:
        # Decimal keeps trailing zeros: "6.20" has the exponent -2. The exponent of NaN is a letter.
        exponent = self.value.as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0

    @property
    def rounding(self) -> Decimal:
        """Half a unit of the last printed digit."""
        return Decimal(5).scaleb(-self.decimals - 1)


@dataclass(frozen=True)
class Quantity:
    """A quantity of a paper, and the metrics of the suite that measure the same."""

    name: str
    metrics: tuple[str, ...]
    higher_is_better: bool | None
    unit: str
    # Sum over the methods of one place, where the values are shares of one choice.
    sums_to: Decimal | None = None


@dataclass(frozen=True)
class Statement:
    """A sentence of the paper that its cells can confirm or contradict."""

    place: str
    quote: str
    # How many times ``quantity`` of ``method`` is that of another method.
    ratio: Decimal | None = None
    method: str = ""
    quantity: str = ""
    # Methods that the sentence says the paper compares with.
    compared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """The reported values of one paper."""

    title: str
    source: str
    # The paper's name of a method -> the suite's.
    methods: Mapping[str, str]
    # The paper's name of a data set -> the protocols over the same data.
    protocols: Mapping[str, tuple[str, ...]]
    quantities: Mapping[str, Quantity]
    cells: tuple[Reported, ...]
    # Place -> source in which it was read.
    read_in: Mapping[str, str]
    # (place, content) of places whose values the file does not hold.
    absent: tuple[tuple[str, str], ...] = ()
    # Place -> those of ``EXPECTED`` that the paper states of it.
    gives: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # Name of a method or quantity -> the name that the checks take for the same.
    same: Mapping[str, str] = field(default_factory=dict)
    # Model that the paper does not name -> the suite's methods that it may be compared with.
    unnamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statements: tuple[Statement, ...] = ()
    # Unnamed model -> the suite's method that the user compares it with (:func:`with_baselines`).
    baselines: Mapping[str, str] = field(default_factory=dict)

    def one_name(self, name: str) -> str:
        """The name under which the checks compare a method or a quantity."""
        return self.same.get(name, name)

    def check_baselines(self, methods: Iterable[str], run: Path) -> None:
        """Raises :class:`PaperError` for a compared method that the run does not have."""
        # Otherwise the model would have no row to stand below, and would be missing without a message.
        available = set(methods)
        absent = set(self.baselines.values()) - available
        if absent:
            raise PaperError(
                f"--paper-baseline: {run} has no method {_list(absent)}. It has: {_list(available)}."
            )

    @property
    def gaps(self) -> list[str]:
        """A line for each thing that the paper does not state, and for each place that the file does not hold."""
        lines = []
        for key, label in EXPECTED.items():
            places = [place for place in self.read_in if key not in self.gives.get(place, {})]
            if places:
                lines.append(f"no {label} is given for {', '.join(places)}")
        for name, methods in self.unnamed.items():
            choice = " or ".join(f"'{name}={method}'" for method in methods)
            lines.append(
                f"{name} is an unnamed model, so it stands beside no method; --paper-baseline {choice} compares them"
            )
        lines += [
            f"{place} ({content}): the file holds no value of it, so none is shown"
            for place, content in self.absent
        ]
        return lines


def load(path: Path | None = None) -> Paper:
    """The suite's own file, or a user's. Raises :class:`PaperError`."""
    path = path or OWN_FILE
    try:
        # utf-8-sig: editors on Windows write a byte order mark, which a JSON parser refuses.
        data = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PaperError(f"--paper {path}: cannot be read ({error.strerror}). Correct the path.") from error
    except ValueError as error:
        raise PaperError(f"--paper {path}: is no JSON ({error}). Correct the file.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PaperError(
            f"--paper {path}: is no file of reported values of format {FORMAT}. See reports/paper.json for one."
        )
    return _Parser(path).paper(data)


def with_baselines(paper: Paper, pairs: Sequence[str]) -> Paper:
    """The paper with unnamed models compared with methods of the suite, as the user says.

    ``pairs``: ``NAME=METHOD``, such as ``"Baseline Diffusion=latent_blending"``. Raises :class:`PaperError` for a name
    that is no unnamed model of the file, and for a method that the file does not offer for it.
    """
    chosen: dict[str, str] = {}
    for pair in pairs:
        name, _, method = pair.partition("=")
        # A paper may call one model by two names, and the user may write either.
        model = paper.one_name(name)
        if model not in paper.unnamed:
            raise PaperError(
                f"--paper-baseline {pair!r}: the paper has no unnamed model {name!r}. "
                f"Write NAME=METHOD with one of {_list(paper.unnamed) or 'none'}."
            )
        if method not in paper.unnamed[model]:
            raise PaperError(
                f"--paper-baseline {pair!r}: {name} may be compared with {_list(paper.unnamed[model])}."
            )
        chosen[model] = method
    return replace(paper, baselines=chosen)


@dataclass(frozen=True)
class _Parser:
    """Checks the fields of a file while it reads them. Every method raises :class:`PaperError`."""

    path: Path

    def paper(self, data: Mapping[str, Any]) -> Paper:
        # An unknown field is an error: a misspelt `absent` would hide what the file lacks.
        fields = {
            "format", "title", "source", "methods", "protocols", "quantities", "places", "absent", "same", "unnamed",
            "statements",
        }  # fmt: skip
        self.check_fields(data, "the file", fields)
        # Before cells and statements, which may only name quantities of the file.
        quantities = {name: self.quantity(name, entry) for name, entry in data.get("quantities", {}).items()}
        places = data.get("places", [])
        cells = tuple(cell for place in places for cell in self.cells(place, quantities))
        return Paper(
            data.get("title", self.path.stem),
            data.get("source", str(self.path)),
            dict(data.get("methods", {})),
            {name: tuple(protocols) for name, protocols in data.get("protocols", {}).items()},
            quantities,
            cells,
            {place["place"]: place["read_in"] for place in places},
            tuple((entry["place"], entry["what"]) for entry in data.get("absent", [])),
            {place["place"]: dict(place.get("gives", {})) for place in places},
            dict(data.get("same", {})),
            {name: tuple(methods) for name, methods in data.get("unnamed", {}).items()},
            tuple(self.statement(entry, quantities) for entry in data.get("statements", [])),
        )

    def check_fields(
        self, entry: Mapping[str, Any], where: str, allowed: set[str], required: Sequence[str] = ()
    ) -> None:
        for name in entry:
            if name not in allowed:
                raise self.error(where, f"no field {name!r}. It takes {_list(allowed)}.")
        for name in required:
            # 0 is a value.
            if entry.get(name) in (None, ""):
                raise self.error(where, f"{name!r} is missing. Every value has its source.")

    def quantity(self, name: str, entry: Mapping[str, Any]) -> Quantity:
        where = f"quantity {name!r}"
        self.check_fields(entry, where, {"metrics", "higher_is_better", "unit", "sums_to"})
        total = entry.get("sums_to")
        return Quantity(
            name,
            tuple(entry.get("metrics", ())),
            entry.get("higher_is_better"),
            entry.get("unit", ""),
            None if total is None else self.number(total, where),
        )

    def statement(self, entry: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Statement:
        self.check_fields(entry, "a statement", {"place", "quote", "ratio", "compared"}, ("place", "quote"))
        where = f"the statement of {entry['place']}"
        ratio = entry.get("ratio")
        if ratio is None:
            # Such a sentence names methods, and needs no number.
            return Statement(entry["place"], entry["quote"], compared=tuple(entry.get("compared", ())))
        fields = ("method", "quantity", "value")
        self.check_fields(ratio, where, set(fields), fields)
        self.check_quantity(ratio["quantity"], where, quantities)
        value = self.number(ratio["value"], where)
        return Statement(entry["place"], entry["quote"], value, ratio["method"], ratio["quantity"])

    def cells(self, place: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[Reported]:
        fields = {"place", "page", "read_in", "gives", "cells"}
        self.check_fields(place, "a place", fields, ("place", "read_in"))
        name = str(place["place"])
        self.check_fields(place.get("gives", {}), f"{name}, gives", set(EXPECTED))
        for position, cell in enumerate(place.get("cells", []), 1):
            where = f"{name}, cell {position}"
            fields = {"method", "dataset", "quantity", "category", "value", "kind"}
            self.check_fields(cell, where, fields, ("method", "quantity", "value"))
            self.check_quantity(cell["quantity"], where, quantities)
            category = cell.get("category")
            # A cell over all categories has null or `all`. Both become None.
            if category not in (None, ALL, *CATEGORIES):
                raise self.error(where, f"no category {category!r}. Use one of {_list(CATEGORIES)}.")
            value = self.number(cell["value"], where)
            yield Reported(
                name, place.get("page"), cell["method"], cell.get("dataset"), cell["quantity"], value,
                None if category == ALL else category, cell.get("kind") or "",
            )  # fmt: skip

    def check_quantity(self, name: str, where: str, quantities: Mapping[str, Quantity]) -> None:
        if name not in quantities:
            raise self.error(
                where, f"no quantity {name!r}. The file has {_list(quantities)}; add it under 'quantities'."
            )

    def number(self, text: object, where: str) -> Decimal:
        # A JSON number would lose the trailing zeros, so that the rounding would be unknown.
        try:
            value = Decimal(text) if isinstance(text, str) else None
        except InvalidOperation:
            value = None
        if value is None or not value.is_finite():
            raise self.error(
                where,
                f'the value {text!r} is no number in quotes. Write the digits as printed, as "6.20".',
            )
        return value

    def error(self, where: str, problem: str) -> PaperError:
        return PaperError(f"--paper {self.path}: {where}: {problem}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
