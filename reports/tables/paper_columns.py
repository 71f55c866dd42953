"""Reported values beside measured ones, and in tables of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from bench.edit import ALL
from bench.tables.table import Cell, Column, Row, Table, slug
from reports.tables.paper import Paper, Reported

CAPTION = "Reported: the paper's own values, not measured here."


def with_reported(table: Table, paper: Paper, names: Mapping[str, str]) -> Table:
    """The table with a column of reported values after every measured one that the paper has a value for.

    ``names``: title -> the suite's name of the method. Only the paper's own data and quantity count: a Fréchet distance
    over other features is not FID, a rendered world is not COCO. Values of an unnamed model stand in a row of their
    own, below the method that the user compares it with (``with_baselines``).
    """
    # Rows: (measured row or None, key of the reported values).
    lines: list[tuple[Row | None, str]] = [(row, names.get(row.label, "")) for row in table.rows]
    for model, method in paper.baselines.items():
        # Below the last one, since several configurations of a method may stand in the table.
        last = max(
            (i for i, (row, key) in enumerate(lines) if row is not None and key == method), default=None
        )
        if last is not None:
            lines.insert(last + 1, (None, model))

    # Columns: each measured one, then the places that report the same.
    columns: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in lines]
    models_with_values: set[str] = set()
    for index, column in enumerate(table.columns):
        columns.append(column)
        for (row, _), of_row in zip(lines, cells, strict=True):
            of_row.append(Cell(None) if row is None else row.cells[index])
        for place, values in _same_quantity(column, paper).items():
            in_rows = [values.get(key) for _, key in lines]
            # A column of dashes would say that the paper reports something about these methods.
            if not any(in_rows):
                continue
            models_with_values |= {
                key for (row, key), cell in zip(lines, in_rows, strict=True) if row is None and cell
            }
            # Papers print per cent. A column with `percent` holds shares of 1 and multiplies them when it is
            # printed.
            scale = 100.0 if column.percent else 1.0
            # The digits that were printed. More would claim a precision that nobody reported.
            decimals = max(cell.decimals for cell in in_rows if cell is not None)
            columns.append(
                replace(column, heading=f"{column.heading}, {place}", reported=True, decimals=decimals)
            )
            for cell, of_row in zip(in_rows, cells, strict=True):
                of_row.append(Cell(None if cell is None else float(cell.value) / scale))
    # Nothing was added, so no note must speak of reported values.
    if len(columns) == len(table.columns):
        return table

    # Rows of unnamed models without a value are left out again.
    rows = []
    for (row, key), of_row in zip(lines, cells, strict=True):
        if row is not None:
            rows.append(replace(row, cells=tuple(of_row)))
        elif key in models_with_values:
            label = (
                f"reported for {key}, an unnamed model; compared with {paper.baselines[key]} by your choice"
            )
            # In the group of the method that it is compared with, which stands above it.
            rows.append(Row(label, False, tuple(of_row), 0, 0, group=rows[-1].group))
    note = f"Reported: values of the paper, copied from where its heading says ({paper.source}); not measured here."
    caption = f"{table.caption} {CAPTION}".strip()
    return replace(
        table, columns=tuple(columns), rows=tuple(rows), notes=(*table.notes, note), caption=caption
    )


def _same_quantity(column: Column, paper: Paper) -> dict[str, dict[str, Reported]]:
    """Place -> method of the suite, or compared unnamed model -> the cell that measures the same as ``column``."""
    datasets = {name for name, protocols in paper.protocols.items() if column.protocol in protocols}
    cells: dict[str, dict[str, Reported]] = defaultdict(dict)
    for cell in paper.cells:
        quantity = paper.quantities[cell.quantity]
        same = column.metric in quantity.metrics and (cell.category or ALL) == column.category
        # An unnamed model counts only where the user compares it with a method.
        model = paper.one_name(cell.method)
        key = paper.methods.get(cell.method, model if model in paper.baselines else "")
        if same and key and cell.dataset in datasets:
            cells[cell.where][key] = cell
    return cells


def reported_tables(paper: Paper) -> list[Table]:
    """The paper's own values, one table per place."""
    places = dict.fromkeys(cell.place for cell in paper.cells)
    return [_reported_table(place, paper) for place in places]


# Quantity, data set, category, kind: one column of a place.
_Key = tuple[str, str | None, str | None, str]


def _reported_table(place: str, paper: Paper) -> Table:
    cells: dict[_Key, dict[str, Reported]] = defaultdict(dict)
    for cell in paper.cells:
        if cell.place == place:
            cells[cell.quantity, cell.dataset, cell.category, cell.kind][cell.method] = cell
    columns = [_reported_column(key, list(of_column.values()), paper) for key, of_column in cells.items()]

    # One row per method, in the order of the paper.
    of_place = [cell for cell in paper.cells if cell.place == place]
    rows = []
    for method in dict.fromkeys(cell.method for cell in of_place):
        values = [of_column.get(method) for of_column in cells.values()]
        # No interval and n = 0: papers rarely state them, and `gaps` lists where they do not.
        row = tuple(Cell(None if cell is None else float(cell.value)) for cell in values)
        rows.append(Row(method, False, row, 0, 0))
    note = (
        f"All values are the paper's own ({paper.source}), read in {paper.read_in[place]}; "
        "none was measured here."
    )
    title = f"As reported: {of_place[0].where}"
    name = f"reported-{slug(place)}"
    return Table(name, title, tuple(columns), tuple(rows), (note,), caption=CAPTION, counts=())


def _reported_column(key: _Key, cells: list[Reported], paper: Paper) -> Column:
    name, dataset, category, kind = key
    quantity = paper.quantities[name]
    extra = ", ".join(filter(None, [(category or "").replace("_", "-"), kind]))
    return Column(
        name + (f" ({extra})" if extra else "") + (f" {quantity.unit}" if quantity.unit else ""),
        name,
        category or ALL,
        quantity.higher_is_better,
        # The longest value of the column, so that no printed digit is cut.
        decimals=max(cell.decimals for cell in cells),
        group=dataset or "data set not stated",
        reported=True,
    )
