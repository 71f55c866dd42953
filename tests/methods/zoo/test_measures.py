"""The held-out measurements, against known answers: rings of a mask, leakage of made-up edits, and their commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditCase
from bench.images import mask_array, to_array
from methods.zoo import measures
from methods.zoo.manifest import ZooError
from protocols.world.world import MiniWorld
from tests.command_line import run

WORLD = MiniWorld()


def test_rings_are_distances_from_the_touched_cells() -> None:
    # One pixel in the cell of rows and columns 20 to 23.
    mask = np.zeros((64, 64), bool)
    mask[21, 22] = True
    rings = measures.rings(mask, 4)
    assert rings["cells"].sum() == 15
    assert not rings["cells"][21, 22]
    # Along row 21: the cell ends at column 23.
    assert [name for x in (24, 27, 28, 31, 32, 60) for name in rings if name != "outside" and rings[name][21, x]] == [
        "1-4 px", "1-4 px", "5-8 px", "5-8 px", "9+ px", "9+ px",
    ]  # fmt: skip
    # The rings are a partition of the outside.
    total = sum(rings[name].astype(int) for name in rings if name != "outside")
    assert np.array_equal(total, (~mask).astype(int))
    assert np.array_equal(rings["outside"], ~mask)


def test_leakage_of_an_edit_that_is_wrong_in_one_ring_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every pixel of the touched cells is off by 51 of 255 in one channel: MSE 0.04 / 3 there, and none elsewhere.
    def editor(cases: Sequence[EditCase]) -> list[Image.Image]:
        edited = []
        for case in cases:
            pixels = to_array(case.request.source).copy()
            off = measures.rings(mask_array(case.request.mask))["cells"]
            pixels[off, 1] = np.where(pixels[off, 1] > 127, pixels[off, 1] - 51, pixels[off, 1] + 51)
            pixels[mask_array(case.request.mask)] = 0
            edited.append(Image.fromarray(pixels))
        return edited

    monkeypatch.setattr(measures, "editor_of", lambda name: editor)
    rows = {row.ring: row for row in measures.leakage(WORLD, ["x"], 20)}
    assert rows["cells"].psnr == pytest.approx(-10 * np.log10(0.04 / 3))
    assert rows["cells"].error == pytest.approx(1)
    assert rows["9+ px"].error == 0
    assert rows["9+ px"].psnr == float("inf")
    assert rows["outside"].psnr == pytest.approx(-10 * np.log10(0.04 / 3 * rows["cells"].pixels))
    assert sum(row.pixels for name, row in rows.items() if name != "outside") == pytest.approx(1)


def test_strengths_compare_the_same_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.zoo import prompt_edit_diff as recipe

    # Ground truth at strength 1, and the source below it.
    def edit(editor: object, cases: Sequence[EditCase], strength: float) -> list[Image.Image]:
        ideal = [case.truth or case.request.source for case in cases]
        return ideal if strength == 1 else [case.request.source for case in cases]

    monkeypatch.setattr(recipe, "edit", edit)
    monkeypatch.setattr(recipe, "load", lambda name: (None, None))
    monkeypatch.setattr(recipe, "pipeline", lambda *parts: None)
    rows = measures.strengths(WORLD, (1.0, 0.5), count=24)
    whole = {row.strength: row for row in rows if row.category == "all"}
    assert (whole[1.0].rmse, whole[1.0].difference, whole[1.0].error) == (0, 0, 0)
    assert whole[1.0].shown > 0.9
    assert whole[0.5].shown == 0
    assert whole[0.5].difference == whole[0.5].rmse > 0.1
    by_category = [row for row in rows if row.strength == 0.5 and row.category != "all"]
    assert sum(row.edits for row in by_category) == whole[0.5].edits == 24
    mean = sum(row.rmse * row.edits for row in by_category) / 24
    assert mean == pytest.approx(whole[0.5].rmse)


def test_editors_are_found_by_name_and_unknown_ones_are_refused() -> None:
    case = WORLD.case(-1)
    [edited] = measures.editor_of("autoencoder")([case])
    error = np.abs(to_array(edited).astype(int) - to_array(case.request.source)).mean()
    assert 0 < error < 12
    with pytest.raises(ZooError, match="no_such"):
        measures.editor_of("no_such")


def test_the_commands_print_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = measures.LeakageRow("sd_inpainting", "cells", 21.6, 0.09, 0.42)
    monkeypatch.setattr(measures, "leakage", lambda world, names, cases: [row])
    assert run("zoo", "leakage", "sd_inpainting", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["psnr"] == 21.6
    assert run("zoo", "leakage") == 0
    assert "21.6" in capsys.readouterr().out
    change = measures.StrengthRow(0.7, "all", 96, 0.97, 0.131, -0.004, 0.001)
    monkeypatch.setattr(measures, "strengths", lambda world, values, name, cases: [change])
    assert run("zoo", "strength", "--strength", "0.7") == 0
    assert "-0.0040" in capsys.readouterr().out
    assert run("zoo", "strength", "--strength", "1.5") == 2


def test_a_seed_is_for_the_recipes_that_have_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "lama", "--seed", "1") == 2
    assert "one seed" in capsys.readouterr().err
