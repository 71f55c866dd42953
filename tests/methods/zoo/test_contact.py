"""The contact sheet: what is where, to the pixel, and that chance alone picks the cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditCase
from bench.images import mask_array
from methods.zoo import contact
from methods.zoo.contact import GAP, MARGIN, OUTLINE, TEXT, choose_cases, contact_sheet
from protocols.world.world import MiniWorld

WORLD = MiniWorld()


def copies(cases: Sequence[EditCase]) -> list[Image.Image]:
    return [case.request.source for case in cases]


def truths(cases: Sequence[EditCase]) -> list[Image.Image]:
    return [case.truth for case in cases if case.truth is not None]


def cell(sheet: np.ndarray, row: int, column: int, rows: int, side: int = 192) -> np.ndarray:
    # A cell by its distance from the lower edge and the left one.
    foot = 24 + MARGIN
    top = sheet.shape[0] - foot - (rows - row) * (side + GAP)
    left = MARGIN + TEXT + GAP + column * (side + GAP)
    return sheet[top : top + side, left : left + side]


def test_every_picture_is_in_its_cell(tmp_path: Path) -> None:
    indices = contact_sheet(WORLD, {"copy_input": copies, "oracle": truths}, tmp_path / "sheet.png", cases=3)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape[1] == 2 * MARGIN + TEXT + 5 * (192 + GAP)
    for row, index in enumerate(indices):
        case = WORLD.case(index)
        source, truth = (
            np.asarray(p).repeat(3, axis=0).repeat(3, axis=1) for p in (case.request.source, case.truth)
        )
        for column, expected in ((0, source), (2, truth), (3, source), (4, truth)):
            assert np.array_equal(cell(sheet, row, column, 3), expected), (row, column)
        # The mask's outline lies inside the mask.
        outlined = cell(sheet, row, 1, 3)
        line = (outlined == OUTLINE).all(axis=2)
        mask = mask_array(case.request.mask).repeat(3, axis=0).repeat(3, axis=1)
        assert line.any()
        assert not line[~mask].any()
        assert np.array_equal(outlined[mask & ~line], source[mask & ~line])
        # A border pixel of the mask is on the line, wherever it is not the picture's frame.
        right = mask[:, :-1] & ~mask[:, 1:]
        assert line[:, :-1][right].all()


def test_text_stands_left_of_the_pictures_and_above_them(tmp_path: Path) -> None:
    contact_sheet(WORLD, {"a_method_with_a_rather_long_name_that_wraps": copies}, tmp_path / "s.png", cases=2)
    with Image.open(tmp_path / "s.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    # Text is darker than paper.
    ink = (sheet < 200).any(axis=2)
    rows = 2 * (192 + GAP)
    top = sheet.shape[0] - 24 - MARGIN - rows
    for row in range(2):
        block = ink[top + row * (192 + GAP) : top + (row + 1) * (192 + GAP)]
        assert block[:, MARGIN : MARGIN + TEXT].sum() > 500
        assert not block[:, : MARGIN - 2].any()
        assert not block[:, MARGIN + TEXT - 2 : MARGIN + TEXT + GAP].any()  # no prompt runs into a picture
        colored = (
            np.abs(sheet[top + row * 200 : top + (row + 1) * 200, : MARGIN + TEXT] - contact.ACCENT) < 8
        ).all(2)
        assert colored.any()  # the words that the edit is about
    for column in range(4):
        left = MARGIN + TEXT + GAP + column * (192 + GAP)
        assert ink[:top, left : left + 192].any()
    assert not ink[:4].any()


def test_the_seed_alone_picks_the_cases(tmp_path: Path) -> None:
    assert choose_cases(0, 10) == choose_cases(0, 10)
    assert choose_cases(0, 10) != choose_cases(1, 10)
    # Indices are different, in range, and alternate.
    many = choose_cases(3, 400)
    assert len(set(many)) == 400
    assert all(-contact.LAST < index <= -contact.FIRST for index in many)
    assert [index % 2 for index in many[:4]] == [0, 1, 0, 1]
    for name in ("a", "b"):
        contact_sheet(WORLD, {"copy_input": copies}, tmp_path / f"{name}.png", cases=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_method_is_asked_once_and_held_to_its_promise(tmp_path: Path) -> None:
    calls = []

    def counted(cases: Sequence[EditCase]) -> list[Image.Image]:
        calls.append(len(cases))
        return copies(cases)

    contact_sheet(WORLD, {"counted": counted}, tmp_path / "s.png", cases=3, scale=1)
    assert calls == [3]
    with pytest.raises(ValueError, match="'short' gave 2 images for 3"):
        contact_sheet(WORLD, {"short": lambda cases: copies(cases)[1:]}, tmp_path / "t.png", cases=3)
    with pytest.raises(ValueError, match=r"'small' gave \(32, 32\)"):
        contact_sheet(
            WORLD,
            {"small": lambda cases: [p.resize((32, 32)) for p in copies(cases)]},
            tmp_path / "t.png",
            cases=2,
        )
    assert not (tmp_path / "t.png").exists()


def test_lines_fit_and_no_word_is_lost() -> None:
    font = contact._font(18)
    text = "a photo of " + "w" * 80 + " and a man with black hair, wearing eyeglasses, in front of a beach"
    lines = contact._wrapped(text, font, 200)
    assert all(font.getlength(line) <= 201 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_words_are_marked_where_their_group_stands() -> None:
    def words(prompt: str, *groups: tuple[str, ...]) -> list[str]:
        split = prompt.split()
        return [split[i] for i in sorted(contact.marked(split, groups))]

    prompt = "a blue umbrella and a blue cup, on a beach"
    split = prompt.split()
    assert contact.marked(split, [("blue", "cup")]) == {5, 6}
    assert words(prompt, ("beach",), ("blue", "umbrella")) == ["blue", "umbrella", "beach"]
    assert contact.marked(split, [("cup", "blue")]) == {6, 1}  # not as a whole: the first of each
    assert contact.marked(split, [("blue",), ("blue",), ("blue",)]) == {1, 5}
    assert contact.marked(split, [("snow",), ()]) == set()
