from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.case_rows import case_row, check_case
from bench.images import resize
from protocols.published.magicbrush import MagicBrush
from protocols.selection import ProtocolError
from tests.protocols.published.masked_layouts import (
    MASK_BOX,
    box_mask,
    hole_picture,
    picture,
    write_magicbrush_table,
    write_magicbrush_test,
)

pytestmark = pytest.mark.filterwarnings("ignore:magicbrush. 3 cases")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_magicbrush_test(tmp_path_factory.mktemp("test"))


def protocol(root: Path, **options: Any) -> MagicBrush:
    return MagicBrush(MagicBrush.Options(root=str(root), **options))


def test_turns_are_cases_that_begin_with_the_true_image(archive: Path) -> None:
    cases = list(protocol(archive).cases())
    for case in cases:
        check_case(case)
    assert [case.id for case in cases] == ["30-1", "139-1", "139-2"]
    assert [case.category for case in cases] == ["turn_1", "turn_1", "turn_2"]
    assert [case.source_id for case in cases] == ["30", "139", "139"]
    # The second turn begins with the target of the first, not with an edit.
    first, second = cases[1], cases[2]
    assert first.truth is not None
    assert second.request.source.tobytes() == first.truth.tobytes()
    assert second.request.instruction == "remove the dog"
    assert second.request.source_prompt == "all of 139 after turn 1"
    assert second.request.target_prompt == "all of 139 after turn 2"
    # Local captions, which the published CLIP-T uses.
    assert second.request.region_prompt == "what turn 2 of 139 changed"
    assert cases[0].request.source_prompt == "the input of 30"


def test_masks_are_what_is_not_opaque_at_the_sources_size(archive: Path) -> None:
    case = protocol(archive).cases()[0]
    assert case.request.source.size == (128, 96)
    # The mask's file has twice the size, and half transparent pixels count.
    left, top, right, bottom = (side // 2 for side in MASK_BOX)
    expected = box_mask((128, 96), (left, top, right, bottom))
    assert np.array_equal(np.asarray(case.request.mask) == 255, expected)


def test_the_ground_truth_is_brought_to_the_sources_size(archive: Path) -> None:
    case = protocol(archive).cases()[0]
    assert case.truth is not None
    assert case.truth.tobytes() == resize(picture(301, (256, 192)), (128, 96)).tobytes()


def test_without_captions_the_instruction_alone_is_left(archive: Path, tmp_path: Path) -> None:
    bare = write_magicbrush_test(tmp_path)
    for name in ("global_descriptions.json", "local_descriptions.json"):
        (bare / name).unlink()
    with pytest.raises(ProtocolError, match=r"global_descriptions\.json: missing.*option global_captions"):
        protocol(bare)
    case = protocol(bare, global_captions="", local_captions="").cases()[0]
    check_case(case)
    assert case.request.target_prompt == case.request.region_prompt == ""
    # A release with other names.
    (bare / "other.json").write_text((archive / "local_descriptions.json").read_text())
    other = protocol(bare, global_captions="", local_captions="other.json")
    assert other.cases()[0].request.region_prompt == "what turn 1 of 30 changed"


def test_the_dev_set_has_the_same_cases_without_captions(archive: Path, tmp_path: Path) -> None:
    dev = protocol(write_magicbrush_table(tmp_path, "dev", captions=False), split="dev")
    for ours, published in zip(dev.cases(), protocol(archive).cases(), strict=True):
        check_case(ours)
        assert ours.id == published.id
        assert ours.request.source.tobytes() == published.request.source.tobytes()
        assert np.array_equal(np.asarray(ours.request.mask), np.asarray(published.request.mask))
        assert ours.truth is not None
        assert published.truth is not None
        assert ours.truth.tobytes() == published.truth.tobytes()
        assert ours.request.instruction == published.request.instruction
        assert ours.request.target_prompt == ""


def test_imagenhub_resizes_everything_to_a_square(tmp_path: Path) -> None:
    root = write_magicbrush_table(tmp_path, "filtered", captions=True)
    hub = protocol(root, split="imagenhub")
    case = hub.cases()[2]
    check_case(case)
    assert hub.canvas == 512
    assert (
        case.request.source.tobytes() == picture(1391, (96, 96)).resize((512, 512), Image.LANCZOS).tobytes()
    )
    assert case.request.source_prompt == "before turn 2"
    assert case.request.target_prompt == "after turn 2"
    assert case.request.region_prompt == "change of turn 2"
    # Everything that smoothing leaves below 255 is edited: more than the box.
    smooth = hole_picture(1390, (192, 192), MASK_BOX).resize((512, 512), Image.LANCZOS)
    assert np.array_equal(np.asarray(case.request.mask) == 255, np.asarray(smooth)[..., 3] != 255)
    box = box_mask((192, 192), MASK_BOX)
    assert (np.asarray(case.request.mask) == 255).mean() > box.mean()


def test_edits_are_exported_as_the_official_programs_name_them(archive: Path, tmp_path: Path) -> None:
    paths = [next(iter(MagicBrush.output_files(case_row(case)))) for case in protocol(archive).cases()]
    assert paths == ["30/30_1.png", "139/139_1.png", "139/139_inde_2.png"]
    hub = protocol(write_magicbrush_table(tmp_path, "filtered", captions=True), split="imagenhub")
    paths = [next(iter(MagicBrush.output_files(case_row(case)))) for case in hub.cases()]
    assert paths == ["sample_30_1.jpg", "sample_139_1.jpg", "sample_139_2.jpg"]


def test_an_opaque_mask_is_refused_until_white_is_chosen(tmp_path: Path) -> None:
    root = write_magicbrush_test(tmp_path)
    pixels = np.asarray(picture(5, (256, 192))).copy().clip(0, 254)
    left, top, right, bottom = MASK_BOX
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(root / "images" / "30" / "30-mask1.png")
    with pytest.raises(ProtocolError, match=r"30, mask of turn 1.*opaque_masks to white"):
        protocol(root).cases()[0]
    mask = protocol(root, opaque_masks="white").cases()[0].request.mask
    assert np.array_equal(np.asarray(mask) == 255, box_mask((128, 96), (20, 30, 60, 70)))


def test_a_missing_mask_is_one_sentence_before_the_remedy(tmp_path: Path) -> None:
    root = write_magicbrush_test(tmp_path)
    mask = root / "images" / "30" / "30-mask1.png"
    mask.unlink()
    with pytest.raises(ProtocolError) as refused:
        protocol(root).cases()[0]
    assert str(refused.value).startswith(f"{mask}: cannot be read (No such file or directory). MagicBrush")


def test_a_mask_of_another_aspect_ratio_is_named_with_its_file(tmp_path: Path) -> None:
    root = write_magicbrush_test(tmp_path)
    path = next((root / "images" / "30").glob("*mask1.png"))
    with Image.open(path) as mask:
        mask.crop((0, 0, mask.width // 2, mask.height)).save(path)
    with pytest.raises(
        ProtocolError, match=rf"{path.name}: is 128x192, another aspect ratio than .* of 128x96"
    ):
        protocol(root).cases()[0]


def test_a_mask_of_another_aspect_ratio_is_not_made_square(tmp_path: Path) -> None:
    """ImagenHub makes all of its pictures square, and a mask of another shape would land elsewhere."""
    root = write_magicbrush_table(tmp_path, "filtered", captions=True)
    entry = protocol(root, split="imagenhub")
    wide = hole_picture(1390, (192, 96), MASK_BOX)
    images = entry._images
    entry._images = lambda of: (images(of)[0], wide, images(of)[2])  # type: ignore[method-assign]
    with pytest.raises(
        ProtocolError, match=r"mask of turn 2: is 192x96, another aspect ratio than .* of 96x96"
    ):
        entry.cases()[2]


def test_missing_files_are_named_with_source_licence_and_count(tmp_path: Path) -> None:
    for split, count, name in (
        ("test", "1053", "images"),
        ("dev", "528", "dev-*.parquet"),
        ("imagenhub", "179", "filtered-*.parquet"),
    ):
        options = MagicBrush.Options(root=str(tmp_path), split=split)
        problem = MagicBrush.problems(options)[0]
        assert f"{name}: missing" in problem
        assert f"{count} cases" in problem
        assert "licence" in problem


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"input": "../../30-input.png"}, "leaves its folder"),
        ({"instruction": 3}, "no proper 'instruction'"),
        ({"output": "none.png"}, r"none\.png"),
    ],
)
def test_a_broken_turn_is_named(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    path = write_magicbrush_test(tmp_path) / "edit_sessions.json"
    sessions = json.loads(path.read_text())
    sessions["30"][0] |= value
    path.write_text(json.dumps(sessions))
    with pytest.raises(ProtocolError, match=message):
        list(protocol(tmp_path).cases())
