"""Splits of tables: the layouts that are read, and what is refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from protocols.published.compbench import CompBench
from protocols.published.emu_edit import EmuEdit
from protocols.published.gedit import GEdit
from protocols.published.splits import image_id, split_files
from protocols.selection import ProtocolError
from tests.protocols.published import instruction_layouts as data


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["test/data-00001-of-00002.arrow", "test/data-00000-of-00002.arrow"],
            "test/data-0000{}-of-00002.arrow",
        ),
        (["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"], "data-0000{}-of-00002.arrow"),
        (
            ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"],
            "data/test-0000{}-of-00002.parquet",
        ),
        (["test/0001.parquet", "test/0000.parquet"], "test/000{}.parquet"),
    ],
)
def test_the_files_of_a_split_are_found_in_every_layout(
    tmp_path: Path, names: list[str], expected: str
) -> None:
    for name in [*names, "data/validation-00000-of-00001.parquet", "validation/0000.parquet"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert split_files(tmp_path, "test") == [tmp_path / expected.format(number) for number in (0, 1)]


def test_arrow_and_parquet_give_equal_cases(tmp_path: Path) -> None:
    # Root is no part of the digest, and the digest has all pixels and texts.
    parquet_root = data.emu_edit(tmp_path / "parquet")
    rows = EmuEdit(EmuEdit.Options(root=str(parquet_root), split="test", equal_captions="keep"))
    arrow_root = data.arrow_folder(
        tmp_path / "arrow", "test", [rows.table.row(index) for index in range(len(rows.table))]
    )
    again = EmuEdit(EmuEdit.Options(root=str(arrow_root), split="test", equal_captions="keep"))
    with pytest.warns(match="cases"):
        assert rows.digest == again.digest


def test_a_missing_folder_and_a_missing_split_name_the_origin(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        (problem,) = GEdit.problems(GEdit.Options(root=str(root)))
        assert str(root) in problem
        for fact in ("train", "606 cases", "MIT", "stepfun-ai/GEdit-Bench"):
            assert fact in problem
    with pytest.raises(ProtocolError, match="606 cases"):
        GEdit(GEdit.Options(root=str(tmp_path)))


def test_two_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    root = data.gedit(tmp_path)
    # The two files of a split are read one after the other: a copy repeats every row.
    shutil.copy(root / "train/data-00000-of-00001.arrow", root / "train/data-00001-of-00001.arrow")
    protocol = GEdit(GEdit.Options(root=str(root)))
    with pytest.raises(ProtocolError, match=r"row 5 of train: is the case a1-en, as row 0 is"):
        protocol.cases()


def test_a_row_without_an_instruction_is_named(tmp_path: Path) -> None:
    rows = [{**row, "instruction": None} if row["key"] == "b2" else row for row in data.GEDIT]
    image = data.cell(data.picture(0))
    tables = [
        row | {"input_image": image, "input_image_raw": image, "Intersection_exist": True} for row in rows
    ]
    protocol = GEdit(GEdit.Options(root=str(data.arrow_folder(tmp_path, "train", tables))))
    with pytest.raises(ProtocolError, match=r"row 2 of train: has no proper 'instruction'"):
        protocol.cases()


@pytest.mark.filterwarnings("ignore::bench.errors.BenchWarning")
def test_the_digests_are_pinned(tmp_path: Path) -> None:
    # A change of texts, pixels, masks, ids or options changes them. The version then goes up.
    digests = {
        "gedit": GEdit(GEdit.Options(root=str(data.gedit(tmp_path / "gedit")))).digest,
        "emu_edit": EmuEdit(
            EmuEdit.Options(
                root=str(data.emu_edit(tmp_path / "emu_edit")), split="test", equal_captions="keep"
            )
        ).digest,
        "compbench": CompBench(CompBench.Options(root=str(data.compbench(tmp_path / "compbench")))).digest,
    }
    assert digests == {"gedit": "5ee133a9024b", "emu_edit": "b676676d0d21", "compbench": "f309a07a1a4c"}


def test_one_picture_has_one_id_however_it_is_encoded() -> None:
    image = data.picture(0, (8, 2))
    again = Image.open(io.BytesIO(data.cell(image)["bytes"])).convert("RGB")
    assert image_id(image) == image_id(again)
    assert image_id(image) != image_id(data.picture(1, (8, 2)))
    assert image_id(Image.new("RGB", (8, 2))) != image_id(Image.new("RGB", (4, 4)))
