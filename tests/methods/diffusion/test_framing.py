"""The way of a picture to a model's size and back, against answers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from methods.diffusion.framing import Frame, size_problem, working_size
from tests.methods.conftest import box_mask, picture

SIZES = ((1024, 1024), (832, 1248), (1248, 832))


def test_the_native_size_keeps_the_pixels_and_the_aspect_ratio() -> None:
    # sqrt(1024 * 1024 * 4 / 3) = 1182.4 and 886.8, to multiples of 16.
    assert working_size("native", (640, 480), 16, 1024 * 1024) == (1184, 880)
    assert working_size("native", (512, 512), 16, 1024 * 1024) == (1024, 1024)
    # Among given sizes the nearest aspect ratio, landscape and portrait.
    assert working_size("native", (640, 480), 16, 1024 * 1024, SIZES) == (1248, 832)
    assert working_size("native", (480, 640), 16, 1024 * 1024, SIZES) == (832, 1248)


def test_sizes_of_the_option() -> None:
    assert working_size("source", (150, 101), 16, 1) == (144, 96)
    assert working_size("source", (5, 5), 16, 1) == (16, 16)
    assert working_size("768x512", (5, 5), 16, 1) == (768, 512)
    assert working_size("65536", (200, 100), 8, 1) == (360, 184)
    with pytest.raises(ValueError, match="multiples of 16"):
        working_size("770x512", (5, 5), 16, 1)
    for fit in ("native", "source", "1024x768", "1000"):
        assert size_problem(fit) == ""
    for unfit in ("", "0", "1024x", "0x5", "big", "-3"):
        assert "expected" in size_problem(unfit)


def test_crop_edits_the_middle_and_keeps_the_rest() -> None:
    source = picture(1, (100, 60))
    frame = Frame((100, 60), (32, 32), "crop")
    assert frame.image(source).size == (32, 32)
    # The largest square in the middle: columns 20 to 79.
    back = np.asarray(frame.back(Image.new("RGB", (32, 32), (255, 0, 0)), source))
    assert (back[:, 20:80] == (255, 0, 0)).all()
    outside = np.r_[0:20, 80:100]
    assert np.array_equal(back[:, outside], np.asarray(source)[:, outside])
    with pytest.raises(ValueError, match="outside the part that resize: crop keeps"):
        frame.mask(box_mask(0, 0, 15, 60, (100, 60)))


def test_exact_stretches_both_ways() -> None:
    source = picture(1, (100, 50))
    frame = Frame((100, 50), (64, 64), "exact")
    assert np.array_equal(
        np.asarray(frame.image(source)), np.asarray(source.resize((64, 64), Image.Resampling.LANCZOS))
    )
    assert frame.back(Image.new("RGB", (64, 64)), source).size == (100, 50)
    half = np.asarray(frame.mask(box_mask(0, 0, 50, 50, (100, 50))))
    assert (half[:, :32] == 255).all()
    assert (half[:, 32:] == 0).all()


@pytest.mark.parametrize("resize", ["pad", "crop", "exact"])
def test_a_picture_of_the_models_size_stays_as_it_is(resize: str) -> None:
    source, frame = picture(2, (64, 48)), Frame((64, 48), (64, 48), resize)  # type: ignore[arg-type]
    assert frame.image(source).tobytes() == source.tobytes()
    assert frame.back(source, source).tobytes() == source.tobytes()


def test_a_pipeline_that_chooses_its_own_size_is_brought_back() -> None:
    source, frame = picture(2, (64, 48)), Frame((64, 48), (64, 48), "pad")
    assert frame.back(Image.new("L", (80, 60)), source).size == (64, 48)
