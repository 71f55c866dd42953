"""Values that a paper reported, as data: each with the place where it stands. Nothing here was measured.

The data lies in ``paper.json``; a user's own file of the same form (``--paper-file FILE``) takes its place. A value
is a cell only where it was read in a source that the file names. Write a cell as it is printed (``"6.20"``, not
``6.2``: the digits say how far two cells may differ by rounding alone)::

    {"place": "Table 1", "page": 5, "read_in": "the article's PDF", "gives": {"n": "400 edits"}, "cells": [
        {"method": "...", "dataset": "COCO", "quantity": "FID", "category": null, "value": "..."}]}

``gives`` says which of ``GIVEN`` the paper states of the place. ``same`` maps a name to another one that the checks
take for the same method or quantity. ``unnamed`` lists models that the paper does not name, each with those methods of
the suite that it may be compared with where the user says so (``--paper-baseline``). ``statements`` are sentences to be
checked against the cells: a ``ratio`` of a quantity, or the methods ``compared``. ``absent`` lists places whose values
are not in the file.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.edit import CATEGORIES
from bench.errors import BenchError
from bench.files import parse_json
from reports.tables.table import ALL, Cell, Column, Row, Table, slug

FORMAT = 1
GIVEN = {
    "n": "number of edits or votes (n)",
    "interval": "interval or test",
    "protocol": "protocol (cases, masks, prompts)",
}
"""What each place of a paper should state, and what the gaps call it."""
OWN_FILE = Path(__file__).parents[1] / "paper.json"


class PaperError(BenchError):
    """A file of reported values that cannot be used. The message names file, place and remedy."""


@dataclass(frozen=True)
class Reported:
    """One cell of a paper."""

    place: str
    """``Table 1``, ``abstract``, ..."""
    page: int | None
    method: str
    """As the paper calls it."""
    dataset: str | None
    """None: the paper does not say which."""
    quantity: str
    value: Decimal
    """With the digits that were printed."""
    category: str | None = None
    kind: str = ""
    """What sort of figure it is, where one name stands for several (a share of votes, of comparisons)."""

    @property
    def where(self) -> str:
        return self.place + (f", p. {self.page}" if self.page is not None else "")

    @property
    def decimals(self) -> int:
        exponent = self.value.as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0


@dataclass(frozen=True)
class Quantity:
    """What a paper's column measures, and which metrics of the suite measure the same."""

    name: str
    metrics: tuple[str, ...]
    higher_is_better: bool | None
    unit: str
    sums_to: Decimal | None = None
    """Sum over the methods of one place, where the values are shares of one choice."""


@dataclass(frozen=True)
class Statement:
    """A sentence of the paper that its cells can confirm or contradict: a ratio, or the methods compared."""

    place: str
    quote: str
    ratio: Decimal | None = None
    """How many times ``quantity`` of ``method`` is that of another method."""
    method: str = ""
    quantity: str = ""
    compared: tuple[str, ...] = ()
    """Methods that the sentence says the paper compares with."""


@dataclass(frozen=True)
class Paper:
    title: str
    source: str
    methods: Mapping[str, str]
    """The paper's name of a method -> the suite's."""
    protocols: Mapping[str, tuple[str, ...]]
    """The paper's name of a data set -> the protocols over the same data."""
    quantities: Mapping[str, Quantity]
    cells: tuple[Reported, ...]
    read_in: Mapping[str, str]
    """Place -> where it was read."""
    absent: tuple[tuple[str, str], ...] = ()
    """(place, what it shows) of what the file does not hold."""
    given: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Place -> those of ``GIVEN`` that the paper states of it."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Name of a method or quantity -> the name that the checks take for the same."""
    unnamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model that the paper does not name -> the suite's methods that it may be compared with."""
    statements: tuple[Statement, ...] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Unnamed model -> the suite's method that the user compares it with; see :func:`with_baselines`."""

    def one_name(self, name: str) -> str:
        """The name under which the checks compare a method or a quantity."""
        return self.same.get(name, name)

    @property
    def gaps(self) -> list[str]:
        """A line for each thing that the paper does not state, and for each place that the file does not hold."""
        lines = []
        for key, label in GIVEN.items():
            places = [place for place in self.read_in if key not in self.given.get(place, {})]
            if places:
                lines.append(f"no {label} is given for {', '.join(places)}")
        for name, methods in self.unnamed.items():
            choice = " or ".join(f"'{name}={method}'" for method in methods)
            lines.append(
                f"{name} is an unnamed model, so it stands beside no method; --paper-baseline {choice} compares them"
            )
        lines += [
            f"{place} ({what}): no value established from a source, so none is shown"
            for place, what in self.absent
        ]
        return lines


def load(path: Path | None = None) -> Paper:
    """The suite's own file, or a user's. Raises :class:`PaperError`."""
    path = path or OWN_FILE
    try:
        data = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PaperError(f"--paper {path}: cannot be read ({error.strerror}). Mend the path.") from error
    except ValueError as error:
        raise PaperError(f"--paper {path}: is no JSON ({error}).") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PaperError(f"--paper {path}: is no file of reported values of format {FORMAT}.")
    reader = _Reader(path)
    reader.keys(
        data,
        "the file",
        {
            "format", "title", "source", "methods", "protocols", "quantities", "places", "absent", "same", "unnamed",
            "statements",
        },
    )  # fmt: skip
    quantities = {name: reader.quantity(name, entry) for name, entry in data.get("quantities", {}).items()}
    places = data.get("places", [])
    cells = tuple(cell for place in places for cell in reader.cells(place, quantities))
    return Paper(
        data.get("title", path.stem),
        data.get("source", str(path)),
        dict(data.get("methods", {})),
        {name: tuple(protocols) for name, protocols in data.get("protocols", {}).items()},
        quantities,
        cells,
        {place["place"]: place["read_in"] for place in places},
        tuple((entry["place"], entry["what"]) for entry in data.get("absent", [])),
        {place["place"]: dict(place.get("gives", {})) for place in places},
        dict(data.get("same", {})),
        {name: tuple(methods) for name, methods in data.get("unnamed", {}).items()},
        tuple(reader.statement(entry, quantities) for entry in data.get("statements", [])),
    )


def with_baselines(paper: Paper, pairs: Sequence[str]) -> Paper:
    """The paper with unnamed models compared with methods of the suite, as the user says.

    ``pairs``: ``NAME=METHOD``, such as ``"Baseline Diffusion=latent_blending"``. Raises :class:`PaperError` for a name
    that is no unnamed model of the file, and for a method that the file does not offer for it.
    """
    chosen: dict[str, str] = {}
    for pair in pairs:
        name, _, method = pair.partition("=")
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
class _Reader:
    path: Path

    def keys(self, found: Mapping[str, Any], where: str, known: set[str], need: Sequence[str] = ()) -> None:
        for name in found:
            if name not in known:
                raise PaperError(f"--paper {self.path}: {where}: no field {name!r}. It takes {_list(known)}.")
        for name in need:
            if found.get(name) in (None, ""):
                raise PaperError(
                    f"--paper {self.path}: {where}: {name!r} is missing. Every value has its source."
                )

    def quantity(self, name: str, entry: Mapping[str, Any]) -> Quantity:
        where = f"quantity {name!r}"
        self.keys(entry, where, {"metrics", "higher_is_better", "unit", "sums_to"})
        total = entry.get("sums_to")
        return Quantity(
            name,
            tuple(entry.get("metrics", ())),
            entry.get("higher_is_better"),
            entry.get("unit", ""),
            None if total is None else self.number(total, where),
        )

    def statement(self, entry: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Statement:
        self.keys(entry, "a statement", {"place", "quote", "ratio", "compared"}, ("place", "quote"))
        where = f"the statement of {entry['place']}"
        ratio = entry.get("ratio")
        if ratio is None:
            return Statement(entry["place"], entry["quote"], compared=tuple(entry.get("compared", ())))
        fields = ("method", "quantity", "value")
        self.keys(ratio, where, set(fields), fields)
        self.known_quantity(ratio["quantity"], where, quantities)
        value = self.number(ratio["value"], where)
        return Statement(entry["place"], entry["quote"], value, ratio["method"], ratio["quantity"])

    def known_quantity(self, name: str, where: str, quantities: Mapping[str, Quantity]) -> None:
        if name not in quantities:
            raise PaperError(
                f"--paper {self.path}: {where}: no quantity {name!r}. "
                f"The file has {_list(quantities)}; add it under 'quantities'."
            )

    def number(self, text: object, where: str) -> Decimal:
        try:
            value = Decimal(text) if isinstance(text, str) else None
        except InvalidOperation:
            value = None
        if value is None or not value.is_finite():
            raise PaperError(
                f"--paper {self.path}: {where}: the value {text!r} is no number in quotes. "
                'Write the digits as printed, as "6.20".'
            )
        return value

    def cells(self, place: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[Reported]:
        known = {"place", "page", "read_in", "gives", "cells"}
        self.keys(place, "a place", known, ("place", "read_in"))
        name = str(place["place"])
        self.keys(place.get("gives", {}), f"{name}, gives", set(GIVEN))
        for number, cell in enumerate(place.get("cells", []), 1):
            where = f"{name}, cell {number}"
            fields = {"method", "dataset", "quantity", "category", "value", "kind"}
            self.keys(cell, where, fields, ("method", "quantity", "value"))
            self.known_quantity(cell["quantity"], where, quantities)
            category = cell.get("category")
            if category not in (None, ALL, *CATEGORIES):
                raise PaperError(
                    f"--paper {self.path}: {where}: no category {category!r}. Use one of {_list(CATEGORIES)}."
                )
            value = self.number(cell["value"], where)
            yield Reported(
                name, place.get("page"), cell["method"], cell.get("dataset"), cell["quantity"], value,
                None if category == ALL else category, cell.get("kind") or "",
            )  # fmt: skip


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


# --- does the paper agree with itself? -------------------------------------------------------------------


def check_paper(paper: Paper) -> list[str]:
    """Every inconsistency that comparing the cells shows, a line each with both values and places.

    In this order: cells of the same quantity that differ by more than the rounding of the less exact one, or that are
    figures of different kinds; a value without a data set that none of the same quantity's values with one equals;
    values that do not sum to what shares sum to; ratios that no cells have; compared methods that no table has.
    """
    groups: dict[tuple[str, str | None, str, str | None], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        key = (paper.one_name(cell.quantity), cell.category, paper.one_name(cell.method), cell.dataset)
        groups[key].append(cell)
    lines = []
    for group in groups.values():
        for a, b in itertools.combinations(group, 2):
            if a.kind != b.kind:
                lines.append(
                    f"{_what(a)}: {_shown(a, paper)} ({a.where}) and {_shown(b, paper)} ({b.where}) are figures of "
                    f"different kinds: {a.kind or 'not said which'}; {b.kind or 'not said which'}"
                )
            elif not agree(a, b):
                there = f" ({b.method})" if b.method != a.method else ""
                lines.append(
                    f"{_what(a)}: {_shown(a, paper)} in {a.where}, but {_shown(b, paper)} in {b.where}{there}"
                )
    lines += _unplaced(paper)
    lines += _sums(paper)
    for statement in paper.statements:
        lines += _ratios(statement, paper) if statement.ratio is not None else _compared(statement, paper)
    return lines


def agree(a: Reported, b: Reported) -> bool:
    """Whether two values may be one, rounded to different digits."""
    half = Decimal(5).scaleb(-min(a.decimals, b.decimals) - 1)
    return abs(a.value - b.value) <= (half if a.decimals != b.decimals else 0)


def _unplaced(paper: Paper) -> Iterator[str]:
    for cell in paper.cells:
        if cell.dataset is not None:
            continue
        others = [
            other
            for other in paper.cells
            if other.dataset is not None
            and _identity(other, paper) == _identity(cell, paper)
            and other.kind == cell.kind
        ]
        if others and not any(agree(cell, other) for other in others):
            shown = "; ".join(f"{_shown(o, paper)} on {o.dataset} ({o.where})" for o in others)
            yield f"{_what(cell)}: {_shown(cell, paper)} in {cell.where}, which no data set has: {shown}"


def _identity(cell: Reported, paper: Paper) -> tuple[str, str, str | None]:
    return paper.one_name(cell.method), paper.one_name(cell.quantity), cell.category


def _sums(paper: Paper) -> Iterator[str]:
    # Where one place gives shares of one choice, another place's values of the same quantity must be shares too.
    totals = {
        paper.one_name(name): (quantity.sums_to, name)
        for name, quantity in paper.quantities.items()
        if quantity.sums_to is not None
    }
    groups: dict[tuple[str, str, str | None, str | None, str], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        groups[cell.place, cell.quantity, cell.dataset, cell.category, cell.kind].append(cell)
    for (_, quantity, dataset, _, _), cells in groups.items():
        expected, shares = totals.get(paper.one_name(quantity), (None, ""))
        if expected is None or len(cells) < 2:
            continue
        total = sum((cell.value for cell in cells), Decimal(0))
        slack = sum((Decimal(5).scaleb(-cell.decimals - 1) for cell in cells), Decimal(0))
        if abs(total - expected) > slack:
            on = f" on {dataset}" if dataset else ""
            yield (
                f"{quantity}{on}: the values of {cells[0].where} sum to {total}; shares, as {shares} is, "
                f"to {expected}"
            )


def _ratios(statement: Statement, paper: Paper) -> Iterator[str]:
    """A line where no two cells have the ratio that the sentence states, to the digits that it states."""
    assert statement.ratio is not None
    quantity = paper.one_name(statement.quantity)
    mine = [
        cell
        for cell in paper.cells
        if (paper.one_name(cell.method), paper.one_name(cell.quantity))
        == (paper.one_name(statement.method), quantity)
    ]
    ratios = [
        (cell.value / other.value, other)
        for cell in mine
        for other in paper.cells
        if (other.place, other.quantity, other.dataset, other.category)
        == (cell.place, cell.quantity, cell.dataset, cell.category)
        and paper.one_name(other.method) != paper.one_name(cell.method)
        and other.value > 0
    ]
    exponent = statement.ratio.as_tuple().exponent
    half = Decimal(5).scaleb((exponent if isinstance(exponent, int) else 0) - 1)
    if ratios and all(abs(ratio - statement.ratio) > half for ratio, _ in ratios):
        computed = "; ".join(
            f"{ratio:.1f} to {other.method}{f' on {other.dataset}' if other.dataset else ''} ({other.where})"
            for ratio, other in ratios
        )
        yield f'"{statement.quote}" ({statement.place}): the ratios of {quantity} are {computed}'


def _compared(statement: Statement, paper: Paper) -> Iterator[str]:
    """A line where the sentence names methods that no table has a value of."""
    tabled = list(dict.fromkeys(paper.one_name(cell.method) for cell in paper.cells))
    absent = [name for name in statement.compared if paper.one_name(name) not in tabled]
    if absent:
        others = [name for name in tabled if name not in paper.methods and name not in statement.compared]
        yield (
            f'"{statement.quote}" ({statement.place}): no table has a value of {", ".join(absent)}; '
            f"the tables compare with {', '.join(others) or 'no other method'}"
        )


def _what(cell: Reported) -> str:
    on = f" on {cell.dataset}" if cell.dataset else ""
    of = f" ({cell.category.replace('_', '-')})" if cell.category else ""
    return f"{cell.quantity}{of} of {cell.method}{on}"


def _shown(cell: Reported, paper: Paper) -> str:
    unit = paper.quantities[cell.quantity].unit
    return f"{cell.value} {unit}".strip()


# --- beside what was measured ----------------------------------------------------------------------------


def with_reported(table: Table, paper: Paper, names: Mapping[str, str]) -> Table:
    """The table with a column of reported values after every measured one that the paper has a value for.

    ``names``: title -> the suite's name of the method. Only the paper's own data and quantity count: a
    Fréchet distance over other features is not FID, a rendered world is not COCO. Values of an unnamed model stand in
    a row of their own below the method that the user compares it with (:func:`with_baselines`).
    """
    # Rows: (measured row or None, key of the reported values).
    lines: list[tuple[Row | None, str]] = [(row, names.get(row.method, "")) for row in table.rows]
    for model, method in paper.baselines.items():
        last = max(
            (i for i, (row, key) in enumerate(lines) if row is not None and key == method), default=None
        )
        if last is not None:
            lines.insert(last + 1, (None, model))

    # Columns: each measured one, then the places that report the same.
    columns: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in lines]
    told: set[str] = set()
    for index, column in enumerate(table.columns):
        columns.append(column)
        for (row, _), of_row in zip(lines, cells, strict=True):
            of_row.append(Cell(None) if row is None else row.cells[index])
        for place, values in _beside(column, paper).items():
            in_rows = [values.get(key) for _, key in lines]
            if not any(in_rows):
                continue
            told |= {key for (row, key), cell in zip(lines, in_rows, strict=True) if row is None and cell}
            scale = 100.0 if column.percent else 1.0
            decimals = max(cell.decimals for cell in in_rows if cell is not None)
            columns.append(
                replace(column, heading=f"{column.heading}, {place}", reported=True, decimals=decimals)
            )
            for cell, of_row in zip(in_rows, cells, strict=True):
                of_row.append(Cell(None if cell is None else float(cell.value) / scale))
    if len(columns) == len(table.columns):
        return table

    # Rows of unnamed models without a value are left out again.
    rows = []
    for (row, key), of_row in zip(lines, cells, strict=True):
        if row is not None:
            rows.append(replace(row, cells=tuple(of_row)))
        elif key in told:
            # In the group of the method that it is compared with, which stands above it.
            group = rows[-1].group
            rows.append(
                Row(_compared_with(key, paper.baselines[key]), False, tuple(of_row), 0, 0, group=group)
            )
    note = f"Reported: values of the paper, copied from where its heading says ({paper.source}); not measured here."
    caption = f"{table.caption} {note}".strip()
    return replace(
        table, columns=tuple(columns), rows=tuple(rows), notes=(*table.notes, note), caption=caption
    )


def _compared_with(model: str, method: str) -> str:
    return f"reported for {model}, an unnamed model; compared with {method} by your choice"


def _beside(column: Column, paper: Paper) -> dict[str, dict[str, Reported]]:
    """Place -> method of the suite, or unnamed model of ``baselines`` -> the cell that measures the same."""
    datasets = {name for name, protocols in paper.protocols.items() if column.protocol in protocols}
    found: dict[str, dict[str, Reported]] = defaultdict(dict)
    for cell in paper.cells:
        quantity = paper.quantities[cell.quantity]
        same = column.metric in quantity.metrics and (cell.category or ALL) == column.category
        model = paper.one_name(cell.method)
        key = paper.methods.get(cell.method, model if model in paper.baselines else "")
        if same and key and cell.dataset in datasets:
            found[cell.where][key] = cell
    return found


def reported_tables(paper: Paper) -> list[Table]:
    """What the paper reported, place by place, with nothing measured in it."""
    tables = []
    for place in dict.fromkeys(cell.place for cell in paper.cells):
        of_place = [cell for cell in paper.cells if cell.place == place]
        heads = list(dict.fromkeys((c.quantity, c.dataset, c.category, c.kind) for c in of_place))
        methods = list(dict.fromkeys(cell.method for cell in of_place))
        columns = []
        for quantity, dataset, category, kind in heads:
            same = [
                c
                for c in of_place
                if (c.quantity, c.dataset, c.category, c.kind) == (quantity, dataset, category, kind)
            ]
            unit = paper.quantities[quantity].unit
            extra = ", ".join(filter(None, [(category or "").replace("_", "-"), kind]))
            columns.append(
                Column(
                    quantity + (f" ({extra})" if extra else "") + (f" {unit}" if unit else ""),
                    quantity,
                    category or ALL,
                    paper.quantities[quantity].higher_is_better,
                    decimals=max(c.decimals for c in same),
                    group=dataset or "data set not stated",
                    reported=True,
                )
            )
        rows = []
        for method in methods:
            found = {(c.quantity, c.dataset, c.category, c.kind): c for c in of_place if c.method == method}
            rows.append(
                Row(
                    method,
                    False,
                    tuple(Cell(float(found[h].value)) if h in found else Cell(None) for h in heads),
                    0,
                    0,
                )
            )
        read_in = paper.read_in[place]
        note = f"All values are the paper's own ({paper.source}), read in {read_in}; none was measured here."
        where = of_place[0].where
        tables.append(
            Table(
                f"reported-{slug(place)}",
                f"As reported: {where}",
                tuple(columns),
                tuple(rows),
                (note,),
                caption=note,
                counts=(),
            )
        )
    return tables
