"""Tables of images in parquet and Arrow files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from bench.errors import BenchWarning
from protocols.published.brushbench import BrushBench
from protocols.published.common import Publication, PublishedTable
from protocols.published.editbench import EditBench
from protocols.published.magicbrush import MagicBrush
from protocols.published.pie_bench import PieBench
from protocols.selection import ProtocolError
from tests.protocols.published.masked_layouts import (
    write_brushbench,
    write_editbench,
    write_magicbrush_test,
    write_pie_bench,
)

PUBLICATION = Publication("Colours", "nowhere", "CC0", 7)


def cell(value: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(values: range) -> pa.Table:
    return pa.table({"name": [f"n{v}" for v in values], "image": [cell(v) for v in values]})


def parquet_file(path: Path, values: range) -> Path:
    # Two rows a group, so that a file has several.
    parquet.write_table(table(values), path.with_suffix(".parquet"), row_group_size=2)
    return path.with_suffix(".parquet")


def arrow_stream(path: Path, values: range) -> Path:
    path = path.with_suffix(".arrow")
    with pa.ipc.new_stream(str(path), table(values).schema) as writer:
        writer.write_table(table(values), max_chunksize=2)
    return path


def arrow_file(path: Path, values: range) -> Path:
    path = path.with_suffix(".arrow")
    with pa.ipc.new_file(str(path), table(values).schema) as writer:
        writer.write_table(table(values), max_chunksize=2)
    return path


@pytest.mark.parametrize("write", [parquet_file, arrow_stream, arrow_file])
def test_rows_are_those_of_all_files_in_any_order(
    tmp_path: Path, write: Callable[[Path, range], Path]
) -> None:
    files = [write(tmp_path / "a", range(5)), write(tmp_path / "b", range(5, 7))]
    rows = PublishedTable(files, {"name", "image"}, PUBLICATION)
    assert len(rows) == 7
    assert rows.texts(["name"]) == [{"name": f"n{i}"} for i in range(7)]
    for i in np.random.default_rng(0).permutation(7).tolist():
        row = rows.row(i)
        assert row["name"] == f"n{i}"
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.getpixel((0, 0)) == (i, 0, 0)


def test_a_missing_column_and_a_broken_file_are_named_with_the_remedy(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "a", range(3))
    with pytest.raises(ProtocolError, match=r"a.parquet: has no column mask.*CC0.*nowhere"):
        PublishedTable([file], {"name", "mask"}, PUBLICATION)
    for name in ("cut.parquet", "cut.arrow"):
        cut = tmp_path / name
        cut.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ProtocolError, match=f"{name}: cannot be read.*nowhere"):
            PublishedTable([cut], {"name"}, PUBLICATION)


def test_a_missing_folder_is_one_message_with_all_that_it_should_have(tmp_path: Path) -> None:
    (problem,) = PieBench.problems(PieBench.Options(root=str(tmp_path / "none")))
    assert problem.startswith(
        f"{tmp_path / 'none'}: missing. Expected a folder with mapping_file.json, annotation_im"
    )
    (problem,) = PieBench.problems(PieBench.Options(root=""))
    assert problem.startswith("pie_bench: option root is missing.")
    assert "700 cases" in problem


def test_digests_stay(tmp_path: Path) -> None:
    """A stored run goes on only with the digest that it began with."""
    protocols = [
        PieBench(PieBench.Options(root=str(write_pie_bench(tmp_path / "pie", "PNG")))),
        BrushBench(BrushBench.Options(root=str(write_brushbench(tmp_path / "brush", "PNG")))),
        MagicBrush(MagicBrush.Options(root=str(write_magicbrush_test(tmp_path / "magic")))),
        EditBench(EditBench.Options(root=str(write_editbench(tmp_path / "edit")), hole="white")),
    ]
    with pytest.warns(BenchWarning):
        assert [protocol.digest for protocol in protocols] == [
            "3eedc1ad9d85",
            "ae4caf8e680f",
            "d55f6a6c04f2",
            "b480ac1d7f15",
        ]
