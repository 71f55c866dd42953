"""Reported values: made-up papers, and what the suite's own file may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.tables.table import Cell, Column, Row, Table
from reports.tables import paper
from reports.tables.paper_check import check_paper
from reports.tables.paper_columns import reported_tables, with_reported


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
    return check_paper(paper.load(made_up(tmp_path, list(places))))


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


SHARES = {"metrics": ["preference_votes"], "higher_is_better": True, "unit": "%", "sums_to": "100"}


def shares(tmp_path: Path, same: dict[str, str], *places: dict[str, Any]) -> list[str]:
    """The lines on a file whose quantity ``votes`` holds shares of one choice."""
    quantities = {"votes": SHARES, "preference": {"metrics": ["preference"], "unit": "%"}}
    return check_paper(
        paper.load(made_up(tmp_path, list(places), quantities=quantities, same=same, absent=[]))
    )


def test_shares_that_do_not_sum_are_found(tmp_path: Path) -> None:
    votes = [cell("60", quantity="votes"), cell("30", "Theirs", "votes")]
    assert shares(tmp_path, {}, place("Table 3", *votes)) == [
        "votes on Faces: the values of Table 3, p. 3 sum to 90; shares, as votes is, to 100"
    ]
    assert shares(tmp_path, {}, place("Table 3", *votes, cell("10", "Third", "votes"))) == []
    # Rounded to whole per cent, two shares may miss 100 by one.
    third = [cell("60", quantity="votes"), cell("39", "Theirs", "votes")]
    assert shares(tmp_path, {}, place("Table 3", *third)) == []


def test_what_one_table_gives_as_shares_another_cannot_give_as_anything_else(tmp_path: Path) -> None:
    votes = [cell("60", quantity="votes", dataset=None), cell("40", "Theirs", "votes", dataset=None)]
    rates = [cell("60", quantity="preference"), cell("70", "Theirs", "preference")]
    tables = place("Table 1", *rates), place("Table 3", *votes)
    assert shares(tmp_path, {}, *tables) == []
    assert shares(tmp_path, {"votes": "preference"}, *tables) == [
        "votes of Theirs: 40 % in Table 3, p. 3, which no data set has: 70 % on Faces (Table 1, p. 3)",
        "preference on Faces: the values of Table 1, p. 3 sum to 130; shares, as votes is, to 100",
    ]


@pytest.mark.parametrize(("value", "agrees"), [("2", True), ("2.0", False), ("2.1", True), ("3", False)])
def test_a_ratio_must_be_that_of_two_cells(tmp_path: Path, value: str, agrees: bool) -> None:
    """84.7 of 40 is 2.1, to the digits that the sentence states."""
    ratio = {"method": "Ours", "quantity": "preference", "value": value}
    statement = {"place": "section 4", "quote": "far more", "ratio": ratio}
    votes = place(
        "Table 3", cell("84.7", quantity="preference"), cell("40", "Theirs", "preference"), cell("6.2")
    )
    lines = check_paper(paper.load(made_up(tmp_path, [votes], statements=[statement])))
    assert lines == (
        []
        if agrees
        else [
            '"far more" (section 4): the ratios of preference are 2.1 to Theirs on Faces (Table 3, p. 3)',
        ]
    )


def test_methods_that_the_text_compares_with_must_be_in_a_table(tmp_path: Path) -> None:
    statement = {"place": "section 3", "quote": "we compare", "compared": ["Theirs", "GLIDE"]}
    table = place("Table 1", cell("6.2"), cell("8", "Theirs"), cell("9", "Some Model"))
    assert check_paper(paper.load(made_up(tmp_path, [table], statements=[statement]))) == [
        '"we compare" (section 3): no table has a value of GLIDE; the tables compare with Some Model'
    ]
    statement["compared"] = ["Theirs"]
    assert check_paper(paper.load(made_up(tmp_path, [table], statements=[statement]))) == []


def test_two_names_of_one_method_are_compared(tmp_path: Path) -> None:
    tables = [place("Table 1", cell("8", "Their GAN")), place("Table 2", cell("9", "GAN (theirs)"))]
    assert check_paper(paper.load(made_up(tmp_path, tables))) == []
    same = {"Their GAN": "GAN (theirs)"}
    assert check_paper(paper.load(made_up(tmp_path, tables, same=same))) == [
        "FID of Their GAN on Faces: 8 in Table 1, p. 3, but 9 in Table 2, p. 3 (GAN (theirs))"
    ]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (place("Table 1", cell("7.1") | {"value": 7.1}), "in quotes"),
        (place("Table 1", cell("n/a")), "no number"),
        (place("Table 1", cell("NaN")), "no number"),
        (place("Table 1", cell("7", quantity="speed")), "no quantity 'speed'"),
        (place("Table 1", cell("7", category="colour")), "no category 'colour'"),
        (place("Table 1", cell("7", note="x")), "no field 'note'"),
        (place("Table 1", cell("7"), gives={"seed": "0"}), "no field 'seed'"),
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
    table = with_reported(measured("celeba_hq", "fid"), read, NAMES)
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
    assert with_reported(table, read, NAMES) is table


def test_reported_tables_hold_nothing_measured(tmp_path: Path) -> None:
    read = paper.load(
        made_up(
            tmp_path,
            [place("Table 1", cell("6.20"), cell("84.7", quantity="preference"), cell("9", "Theirs"))],
        )
    )
    (table,) = reported_tables(read)
    assert all(column.reported for column in table.columns)
    assert [[c.value for c in row.cells] for row in table.rows] == [[6.2, 84.7], [9.0, None]]
    assert not any(c.best or c.second for row in table.rows for c in row.cells)


UNNAMED = {"same": {"A GAN": "The GAN"}, "unnamed": {"The GAN": ["lama", "glide"]}}


def test_an_unnamed_model_is_compared_only_as_the_user_says(tmp_path: Path) -> None:
    read = paper.load(made_up(tmp_path, [place("Table 1", cell("6.2"), cell("12.2", "A GAN"))], **UNNAMED))
    table = measured("celeba_hq", "fid")
    plain = with_reported(table, read, NAMES)
    assert [row.label for row in plain.rows] == ["mine", "glide"]
    assert [row.cells[1] for row in plain.rows] == [Cell(6.2), Cell(None)]
    for name in ("The GAN", "A GAN"):
        chosen = paper.with_baselines(read, [f"{name}=glide"])
        compared = with_reported(table, chosen, NAMES)
        # Its value is in a row of its own; the measured rows stay as they are.
        assert compared.rows[:2] == plain.rows
        assert compared.rows[2].label == (
            "reported for The GAN, an unnamed model; compared with glide by your choice"
        )
        assert compared.rows[2].cells == (Cell(None), Cell(12.2))
    # On another data set the paper has no value of it, so it has no row.
    other = measured("coco", "fid")
    assert with_reported(other, chosen, NAMES) is other


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("GLIDE=glide", "no unnamed model 'GLIDE'. Write NAME=METHOD with one of The GAN"),
        ("The GAN", "may be compared with glide, lama"),
        ("The GAN=sdedit", "may be compared with glide, lama"),
    ],
)
def test_a_wrong_comparison_is_refused(tmp_path: Path, pair: str, says: str) -> None:
    read = paper.load(made_up(tmp_path, [], **UNNAMED))
    with pytest.raises(paper.PaperError, match=says):
        paper.with_baselines(read, [pair])


def test_gaps_are_said(tmp_path: Path) -> None:
    places = [place("Table 1", gives={"n": "400"}), place("Table 2", gives={"interval": "95 %"})]
    assert paper.load(made_up(tmp_path, places, **UNNAMED)).gaps == [
        "no number of edits or votes (n) is given for Table 2",
        "no interval or test is given for Table 1",
        "no protocol (cases, masks, prompts) is given for Table 1, Table 2",
        "The GAN is an unnamed model, so it stands beside no method; --paper-baseline 'The GAN=lama' or "
        "'The GAN=glide' compares them",
        "Table 9 (the weather): the file holds no value of it, so none is shown",
    ]


def test_the_suites_own_file_names_a_source_for_every_value() -> None:
    own = paper.load()
    assert all(own.read_in[cell.place] for cell in own.cells)
    assert {place: sum(c.place == place for c in own.cells) for place in own.read_in} == {
        "abstract": 2, "Table 1": 12, "Table 2": 6, "Table 3": 3, "Table 4": 12, "Table 5": 4,
    }  # fmt: skip
    assert own.absent == ()
    # Names that stand in no table need no counterpart; those of other people's models have none.
    assert {own.one_name(c.method) for c in own.cells if c.method not in own.methods} == set(own.unnamed)


def test_what_the_paper_contradicts_in_itself_is_computed_from_its_cells() -> None:
    lines = check_paper(paper.load())
    differing = [line for line in lines if line.startswith("FID of")]
    assert [line.partition(":")[0] for line in differing] == [
        "FID of Baseline Diffusion on CelebA-HQ",
        "FID of Inpainting GAN on CelebA-HQ",
        "FID of PromptEditDiff on COCO",
        "FID of Baseline Diffusion on COCO",
        "FID of Inpainting GAN on COCO",
    ]
    # 84.7 + 61.2 + 54.9 and 83.1 + 60.4 + 51.6; 84.7 / 9.5 and 84.7 / 5.8.
    (faces, objects) = [line for line in lines if "sum to" in line]
    assert "200.8" in faces
    assert "195.1" in objects
    (ratio,) = [line for line in lines if "57 times" in line]
    assert "8.9 to Baseline Diffusion (Table 3); 14.6 to GAN-Inpainting (Table 3)" in ratio
    assert any("no table has a value of GLIDE" in line for line in lines)
    assert sum("which no data set has" in line for line in lines) == 2
    assert len(lines) == 12
