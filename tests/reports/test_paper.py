"""Reported values: made-up papers, and what the suite's own file may hold."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reports import paper
from reports.tables import Cell, Column, Row, Table


def made_up(tmp_path: Path, places: list[dict[str, Any]], **more: Any) -> Path:
    data = {
        "format": 1,
        "title": "Made up",
        "source": "a test",
        "methods": {"Ours": "prompt_edit_diff", "Theirs": "glide"},
        "protocols": {"Faces": ["celeba_hq"]},
        "quantities": {
            "FID": {"metrics": ["fid"], "higher_is_better": False, "unit": ""},
            "preference": {"metrics": ["preference"], "higher_is_better": True, "unit": "%"},
        },
        "places": places,
        "absent": [{"place": "Table 9", "what": "the weather"}],
        **more,
    }
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(data))
    return path


def cell(
    value: str, method: str = "Ours", quantity: str = "FID", dataset: str | None = "Faces", **more: str
) -> dict:
    return {"method": method, "dataset": dataset, "quantity": quantity, "value": value, **more}


def place(name: str, *cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"place": name, "page": 3, "read_in": "a test", "cells": list(cells), **more}


def check(tmp_path: Path, *places: dict[str, Any]) -> list[str]:
    return paper.check_paper(paper.load(made_up(tmp_path, list(places))))


def test_a_cell_that_differs_between_tables_is_found_with_both_values(tmp_path: Path) -> None:
    lines = check(
        tmp_path,
        place("Table 1", cell("7.1"), cell("9.0", "Theirs")),
        place("Table 2", cell("7.4"), cell("9.0", "Theirs")),
    )
    assert lines == ["FID of Ours on Faces: 7.1 in Table 1, p. 3, but 7.4 in Table 2, p. 3"]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("6.2", "6.23", True),
        ("6.2", "6.25", True),
        ("6.2", "6.26", False),
        ("6.2", "6.3", False),
        ("6.20", "6.2", True),
    ],
)
def test_rounding_is_no_contradiction(tmp_path: Path, a: str, b: str, same: bool) -> None:
    assert (check(tmp_path, place("Table 1", cell(a)), place("Table 2", cell(b))) == []) is same


def test_other_methods_data_sets_and_categories_are_other_cells(tmp_path: Path) -> None:
    assert not check(
        tmp_path,
        place("Table 1", cell("7.1"), cell("8.1", "Theirs"), cell("9.1", category="background")),
        place("Table 2", cell("10.1", dataset="Objects")),
    )


def test_figures_of_different_kinds_are_said_to_be_so(tmp_path: Path) -> None:
    lines = check(
        tmp_path,
        place("Table 1", cell("84.7", quantity="preference", kind="of comparisons")),
        place("Table 3", cell("61", quantity="preference", kind="of votes")),
    )
    assert lines == [
        "preference of Ours on Faces: 84.7 % (Table 1, p. 3) and 61 % (Table 3, p. 3) are figures of different "
        "kinds: of comparisons; of votes"
    ]


def test_a_value_without_data_set_must_be_one_of_those_with(tmp_path: Path) -> None:
    tables = place("Table 1", cell("7.1"), cell("8.1", dataset="Objects"))
    assert check(tmp_path, place("abstract", cell("7.1", dataset=None)), tables) == []
    (line,) = check(tmp_path, place("abstract", cell("6.2", dataset=None)), tables)
    assert line.startswith("FID of Ours: 6.2 in abstract, p. 3, which no data set has: 7.1 on Faces")


def test_shares_that_do_not_sum_are_found(tmp_path: Path) -> None:
    shares = [cell("60", quantity="preference"), cell("30", "Theirs", "preference")]
    (line,) = check(tmp_path, place("Table 3", *shares, sums_to=100))
    assert "sum to 90, not to 100" in line
    assert check(tmp_path, place("Table 3", *shares, sums_to=90)) == []
    # Rounded to whole per cent, two shares may miss 100 by one.
    third = [cell("60", quantity="preference"), cell("39", "Theirs", "preference")]
    assert check(tmp_path, place("Table 3", *third, sums_to=100)) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (place("Table 1", cell("7.1") | {"value": 7.1}), "in quotes"),
        (place("Table 1", cell("n/a")), "no number"),
        (place("Table 1", cell("NaN")), "no number"),
        (place("Table 1", cell("7", quantity="speed")), "no quantity 'speed'"),
        (place("Table 1", cell("7", category="colour")), "no category 'colour'"),
        (place("Table 1", cell("7", note="x")), "no field 'note'"),
        ({"place": "Table 1", "cells": []}, "'read_in' is missing"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, broken: dict[str, Any], says: str) -> None:
    with pytest.raises(paper.PaperError, match=says) as caught:
        paper.load(made_up(tmp_path, [broken]))
    assert "paper.json" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(paper.PaperError, match="cannot be read"):
        paper.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(paper.PaperError, match="format 1"):
        paper.load(tmp_path / "x.json")


def measured(protocol: str, metric: str) -> Table:
    column = Column("FID", metric, protocol=protocol, higher_is_better=False)
    rows = (Row("mine", False, (Cell(8.0, best=True),), 4, 0), Row("glide", False, (Cell(9.0),), 4, 0))
    return Table("t", "t", (column,), rows)


NAMES = {"mine": "prompt_edit_diff", "glide": "glide"}


def test_reported_columns_stand_beside_and_touch_nothing(tmp_path: Path) -> None:
    read = paper.load(made_up(tmp_path, [place("Table 1", cell("6.20"))]))
    table = paper.with_reported(measured("celeba_hq", "fid"), read, NAMES)
    assert [column.reported for column in table.columns] == [False, True]
    assert table.columns[1].heading == "FID, Table 1, p. 3"
    assert table.columns[1].decimals == 2
    assert [row.cells[1] for row in table.rows] == [Cell(6.2), Cell(None)]
    assert [row.cells[0] for row in table.rows] == [Cell(8.0, best=True), Cell(9.0)]
    assert any("not measured here" in note for note in table.notes)


@pytest.mark.parametrize(
    ("protocol", "metric"), [("mini-celeba-hq", "fid"), ("celeba_hq", "vgg16_frechet"), ("coco", "fid")]
)
def test_another_data_set_or_metric_gets_no_reported_column(
    tmp_path: Path, protocol: str, metric: str
) -> None:
    read = paper.load(made_up(tmp_path, [place("Table 1", cell("6.20"))]))
    table = measured(protocol, metric)
    assert paper.with_reported(table, read, NAMES) is table


def test_reported_tables_hold_nothing_measured(tmp_path: Path) -> None:
    read = paper.load(
        made_up(
            tmp_path,
            [place("Table 1", cell("6.20"), cell("84.7", quantity="preference"), cell("9", "Theirs"))],
        )
    )
    (table,) = paper.reported_tables(read)
    assert all(column.reported for column in table.columns)
    assert [[c.value for c in row.cells] for row in table.rows] == [[6.2, 84.7], [9.0, None]]
    assert not any(c.best or c.second for row in table.rows for c in row.cells)


def test_gaps_are_said(tmp_path: Path) -> None:
    assert paper.load(made_up(tmp_path, [])).gaps == [
        "Table 9 (the weather): no value established from a source, so none is shown"
    ]


def test_the_suites_own_file_names_a_source_for_every_value() -> None:
    own = paper.load()
    assert all(own.read_in[cell.place] for cell in own.cells)
    assert {cell.value for cell in own.cells} == {Decimal("6.2"), Decimal("84.7")}
    assert [place for place, _ in own.absent] == [f"Table {i}" for i in range(1, 6)]
    assert paper.check_paper(own) == []
