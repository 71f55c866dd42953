"""``cases`` and ``measure``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run


def test_cases_exports_what_others_can_read(place: Path) -> None:
    assert run("cases", "dots", "--out", "exported", "--plugin", "cli_plugin", "--limit", "2") == 0
    rows = [json.loads(line) for line in (place / "exported" / "cases.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows].count("attribute") == 2
    assert [row["category"] for row in rows].count("background") == 2
    with Image.open(place / "exported" / rows[0]["mask"]) as mask:
        assert mask.mode == "L"
        assert np.asarray(mask).sum() == 255 * 12 * 12


def test_measure_gives_the_values_that_follow_by_hand(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[16:32, 16:32] = 250  # inside: no leakage
    after[:, 60:] += 51  # 4 of 64 columns outside, by a fifth of the range
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    for name, array in (("a", before), ("b", after), ("m", mask)):
        Image.fromarray(array).save(place / f"{name}.png")
    assert run("measure", "a.png", "b.png", "--mask", "m.png", "--device", "cpu", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    # Leakage counts pixels more than 1/64 of the side away from the mask.
    from scipy.ndimage import distance_transform_edt

    outside = distance_transform_edt(mask == 0) > 64 / 64
    expected = float((0.2**2 * (after[..., 0] != before[..., 0]))[outside].mean())
    assert scores["leak_mse"]["value"] == pytest.approx(expected, rel=1e-6)
    assert scores["leak_changed"]["value"] == pytest.approx(expected / 0.2**2, rel=1e-6)
    assert scores["edit_change"]["value"] == pytest.approx(150 / 255, rel=1e-6)


def test_measure_reads_a_photo_that_is_transparent_where_to_edit(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    after = colours.copy()
    after[16:32, 16:32] = 255 - after[16:32, 16:32]
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(colours).save(place / "a.png")
    Image.fromarray(after).save(place / "b.png")
    Image.fromarray(mask).save(place / "m.png")
    Image.fromarray(np.dstack([colours, 255 - mask])).save(place / "hole.png")
    # A black and white mask and a hole in the photo mark the same pixels.
    values = []
    for name in ("m.png", "hole.png"):
        assert run("measure", "a.png", "b.png", "--mask", name, "--device", "cpu", "--json") == 0
        values.append(json.loads(capsys.readouterr().out))
    assert values[0] == values[1]
    assert values[0]["leak_mse"]["value"] == 0


def test_measure_hints_at_an_inverted_mask(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[16:48, 16:48] = 250
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    for name, array in (
        ("a", before),
        ("b", after),
        ("m", mask),
        ("inverted", 255 - mask),
        ("all", 255 - after),
    ):
        Image.fromarray(array).save(place / f"{name}.png")
    # (edit, mask): right, inverted, without any change, repainted everywhere.
    hints = {}
    for edited, region in (("b", "m"), ("b", "inverted"), ("a", "m"), ("all", "m")):
        assert run("measure", "a.png", f"{edited}.png", "--mask", f"{region}.png", "--json") == 0
        out, hints[edited, region] = capsys.readouterr()
        json.loads(out)
    assert hints.pop(("b", "inverted")) == (
        "0.0% of the area inside the mask was repainted, 100.0% of the area outside: is inverted.png inverted? "
        "White is where to edit.\n"
    )
    assert set(hints.values()) == {""}


def test_measure_refuses_a_prompt_that_is_no_text(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # What Python makes of an argument's bytes that are no UTF-8.
    assert run("measure", "a.png", "b.png", "--mask", "m.png", "--target-prompt", "a car \udcff") == 2
    assert r"target_prompt holds half a character ('\udcff' at character 7)" in capfd.readouterr().err


def test_measure_refuses_transparent_images(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(place / "a.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 32, 32))
    mask.save(place / "m.png")
    Image.merge("LA", (mask, mask)).save(place / "cutout.png")
    # As source and as edit.
    for pair in (("a.png", "cutout.png"), ("cutout.png", "a.png")):
        assert run("measure", *pair, "--mask", "m.png") == 2
        assert "cutout.png: 93.8% of its pixels are transparent" in capfd.readouterr().err


@pytest.mark.parametrize(("level", "says"), [(0, "m.png is empty"), (255, "m.png is full")])
def test_measure_refuses_a_mask_that_leaves_nothing_to_edit_or_to_keep(
    level: int, says: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save(place / f"{name}.png")
    Image.fromarray(np.full((64, 64), level, np.uint8)).save(place / "m.png")
    assert run("measure", "a.png", "b.png", "--mask", "m.png") == 2
    assert says in capfd.readouterr().err


def test_measure_lets_the_embedded_clip_judge_only_what_is_said_to_be_rendered(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.metrics.networks.clip import ClipSpec

    published = ClipSpec.problems
    monkeypatch.setattr(
        ClipSpec, "problems", lambda self: published(self) if self.folder else ["fetch ViT-L-14.pt"]
    )
    for name, level in (("a", 100), ("b", 200)):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(place / f"{name}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(mask).save(place / "m.png")
    command = ("measure", "a.png", "b.png", "--mask", "m.png", "--target-prompt", "a red car", "--json")
    assert run(*command) == 0
    photograph = json.loads(capsys.readouterr().out)
    assert not any("mini_clip" in name for name in photograph)
    assert photograph["clip_target"]["value"] is None
    assert photograph["clip_target"]["reason"] == "fetch ViT-L-14.pt"
    assert run(*command, "--rendered") == 0
    rendered = json.loads(capsys.readouterr().out)
    assert rendered["mini_clip_target"]["value"] is not None
    assert "clip_target" not in rendered
