"""What a paper reported, as data: every value with the place where it stands. Nothing here was measured.

The data lies in ``paper.json``; a user's own file of the same form (``--paper FILE``) takes its place. A value
is a cell only where it was read in a source that the file names. The suite's own file knows the paper's
abstract and nothing else: its five tables are listed under ``absent``, and every report says so. To fill
them in, copy the file, move a table from ``absent`` to ``places`` and write down its cells as printed
(``"6.20"``, not ``6.2``: the digits say how far two cells may differ by rounding alone)::

    {"place": "Table 1", "page": 5, "read_in": "the article's PDF", "sums_to": null, "cells": [
        {"method": "...", "dataset": "COCO", "quantity": "FID", "category": null, "value": "..."}]}
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.edit import CATEGORIES
from reports.tables import ALL, Cell, Column, Row, Table, slug

FORMAT = 1
OWN_FILE = Path(__file__).with_name("paper.json")


class PaperError(ValueError):
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
    sums: Mapping[str, Decimal] = field(default_factory=dict)
    """Place -> what its shares of one quantity and data set sum to, where the paper says so."""

    @property
    def gaps(self) -> list[str]:
        """A line for each place whose values are not established here."""
        return [
            f"{place} ({what}): no value established from a source, so none is shown"
            for place, what in self.absent
        ]


def load(path: Path | None = None) -> Paper:
    """The suite's own file, or a user's. Raises :class:`PaperError`."""
    path = path or OWN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
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
        {"format", "title", "source", "methods", "protocols", "quantities", "places", "absent"},
    )
    quantities = {
        name: Quantity(
            name, tuple(entry.get("metrics", ())), entry.get("higher_is_better"), entry.get("unit", "")
        )
        for name, entry in data.get("quantities", {}).items()
    }
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
        {p["place"]: Decimal(str(p["sums_to"])) for p in places if p.get("sums_to") is not None},
    )


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

    def cells(self, place: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[Reported]:
        known = {"place", "page", "read_in", "sums_to", "cells"}
        self.keys(place, "a place", known, ("place", "read_in"))
        name = str(place["place"])
        for number, cell in enumerate(place.get("cells", []), 1):
            where = f"{name}, cell {number}"
            fields = {"method", "dataset", "quantity", "category", "value", "kind"}
            self.keys(cell, where, fields, ("method", "quantity", "value"))
            if cell["quantity"] not in quantities:
                raise PaperError(
                    f"--paper {self.path}: {where}: no quantity {cell['quantity']!r}. "
                    f"The file has {_list(quantities)}; add it under 'quantities'."
                )
            category = cell.get("category")
            if category not in (None, ALL, *CATEGORIES):
                raise PaperError(
                    f"--paper {self.path}: {where}: no category {category!r}. Use one of {_list(CATEGORIES)}."
                )
            try:
                value = Decimal(cell["value"]) if isinstance(cell["value"], str) else None
            except InvalidOperation:
                value = None
            if value is None or not value.is_finite():
                raise PaperError(
                    f"--paper {self.path}: {where}: the value {cell['value']!r} is no number in quotes. "
                    'Write the digits as printed, as "6.20".'
                )
            yield Reported(
                name, place.get("page"), cell["method"], cell.get("dataset"), cell["quantity"], value,
                None if category == ALL else category, cell.get("kind") or "",
            )  # fmt: skip


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


# --- does the paper agree with itself? -------------------------------------------------------------------


def check_paper(paper: Paper) -> list[str]:
    """Every inconsistency that comparing the cells finds, a line each with both values and places.

    Found are: cells of the same quantity that differ by more than the rounding of the less exact one; cells
    of one name that are figures of different kinds; a value without a data set that none of the same
    quantity's values with one equals; shares that do not sum to what they are said to.
    """
    groups: dict[tuple[str, str | None, str, str | None], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        groups[cell.quantity, cell.category, cell.method, cell.dataset].append(cell)
    lines = []
    for group in groups.values():
        for a, b in itertools.combinations(group, 2):
            if a.kind != b.kind:
                lines.append(
                    f"{_what(a)}: {_shown(a, paper)} ({a.where}) and {_shown(b, paper)} ({b.where}) are figures of "
                    f"different kinds: {a.kind or 'not said which'}; {b.kind or 'not said which'}"
                )
            elif not agree(a, b):
                lines.append(
                    f"{_what(a)}: {_shown(a, paper)} in {a.where}, but {_shown(b, paper)} in {b.where}"
                )
    lines += _unplaced(paper)
    lines += _sums(paper)
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
            and (other.method, other.quantity, other.category, other.kind)
            == (cell.method, cell.quantity, cell.category, cell.kind)
        ]
        if others and not any(agree(cell, other) for other in others):
            shown = "; ".join(f"{_shown(o, paper)} on {o.dataset} ({o.where})" for o in others)
            yield f"{_what(cell)}: {_shown(cell, paper)} in {cell.where}, which no data set has: {shown}"


def _sums(paper: Paper) -> Iterator[str]:
    groups: dict[tuple[str, str, str | None, str | None, str], list[Reported]] = defaultdict(list)
    for cell in paper.cells:
        groups[cell.place, cell.quantity, cell.dataset, cell.category, cell.kind].append(cell)
    for (place, quantity, dataset, _, _), cells in groups.items():
        expected = paper.sums.get(place)
        if expected is None or len(cells) < 2:
            continue
        total = sum((cell.value for cell in cells), Decimal(0))
        slack = sum((Decimal(5).scaleb(-cell.decimals - 1) for cell in cells), Decimal(0))
        if abs(total - expected) > slack:
            on = f" on {dataset}" if dataset else ""
            yield f"{quantity}{on}: the shares of {cells[0].where} sum to {total}, not to {expected}"


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
    Fréchet distance over other features is not FID, a rendered world is not COCO.
    """
    columns: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in table.rows]
    for index, column in enumerate(table.columns):
        columns.append(column)
        for row, kept in zip(table.rows, cells, strict=True):
            kept.append(row.cells[index])
        for place, values in _beside(column, paper).items():
            found = [values.get(names.get(row.method, "")) for row in table.rows]
            if not any(found):
                continue
            scale = 100.0 if column.percent else 1.0
            decimals = max(cell.decimals for cell in found if cell is not None)
            columns.append(
                replace(column, heading=f"{column.heading}, {place}", reported=True, decimals=decimals)
            )
            for cell, kept in zip(found, cells, strict=True):
                kept.append(Cell(None if cell is None else float(cell.value) / scale))
    if len(columns) == len(table.columns):
        return table
    note = f"Reported: values of the paper, copied from where its heading says ({paper.source}); not measured here."
    rows = tuple(replace(row, cells=tuple(kept)) for row, kept in zip(table.rows, cells, strict=True))
    return replace(table, columns=tuple(columns), rows=rows, notes=(*table.notes, note))


def _beside(column: Column, paper: Paper) -> dict[str, dict[str, Reported]]:
    """Place -> the suite's method -> the cell that measures what the column does."""
    datasets = {name for name, protocols in paper.protocols.items() if column.protocol in protocols}
    found: dict[str, dict[str, Reported]] = defaultdict(dict)
    for cell in paper.cells:
        quantity = paper.quantities[cell.quantity]
        same = column.metric in quantity.metrics and (cell.category or ALL) == column.category
        if same and cell.dataset in datasets and cell.method in paper.methods:
            found[cell.where][paper.methods[cell.method]] = cell
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
                counts=(),
            )
        )
    return tables
