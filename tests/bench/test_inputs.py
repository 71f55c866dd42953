"""Inputs of the public API: what is accepted, how it is converted, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import BenchError
from bench.inputs import image_input, mask_input, same_size

SIZE = (6, 4)
"""Width, height."""


def pixels() -> np.ndarray:
    """(4, 6, 3) uint8, every value different."""
    return np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "pil", "path", "not contiguous"])
def test_every_form_of_an_image_gives_the_same_pixels(kind: str, tmp_path: Path) -> None:
    array = pixels()
    Image.fromarray(array).save(tmp_path / "a.png")
    value = {
        "uint8": array,
        "float32": (array / 255).astype(np.float32),
        "float64": array / 255,
        "pil": Image.fromarray(array),
        "path": tmp_path / "a.png",
        "not contiguous": np.asfortranarray(array),
    }[kind]
    np.testing.assert_array_equal(np.asarray(image_input(value, "source")), array)


def test_gray_arrays_become_rgb() -> None:
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    for value in (gray, gray[:, :, None]):
        image = np.asarray(image_input(value, "source"))
        assert image.shape == (4, 6, 3)
        assert (image == gray[:, :, None]).all()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (pixels().astype(np.float32), r"source: its float values run from 0 to 213, beyond \[0, 1\]. Divide by 255"),
        (pixels() / 127.5 - 1, r"run from -1 to 0.67\d*, beyond \[0, 1\]. Map \[-1, 1\]"),
        (np.full((4, 6, 3), np.nan), "source: it holds NaN"),
        (np.full((4, 6, 3), np.inf), "source: it holds NaN or infinite"),
        (pixels().astype(np.int64), "source: the dtype is int64. Give uint8"),
        (pixels() > 9, "source: the dtype is bool"),
        ((pixels() > 9).astype(np.uint8), "source: its uint8 values are 0 and 1"),
        (pixels().transpose(2, 0, 1), r"source: the shape \(3, 4, 6\) has its channels first"),
        (pixels()[None], r"source: the shape is \(1, 4, 6, 3\)"),
        (pixels()[:, :, :2], r"source: the shape is \(4, 6, 2\)"),
        (np.zeros((0, 6, 3), np.uint8), r"source: the array of shape \(0, 6, 3\) is empty"),
        ([[0, 1]], "source: a list where a path, a PIL image or a NumPy array"),
        (np.dstack([pixels(), np.zeros((4, 6), np.uint8)]), "source: 100.0% of its pixels are transparent"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_by_the_arguments_name(value: object, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        image_input(value, "source")  # type: ignore[arg-type]


def region() -> np.ndarray:
    """(4, 6) bool."""
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    return mask


@pytest.mark.parametrize(
    "value",
    [
        region(),
        region().astype(np.uint8),
        region().astype(np.uint8) * np.uint8(255),
        region().astype(np.int64),
        region().astype(np.int64) * 255,
        region().astype(np.float32),
        region().astype(np.float64) * 255,
        region()[:, :, None],
        Image.fromarray(region()),
        Image.fromarray(region().astype(np.uint8)),
        Image.fromarray(region().astype(np.uint8) * np.uint8(255)),
        Image.fromarray(region().astype(np.uint8) * np.uint8(255)).convert("RGB"),
    ],
    ids=["bool", "01", "0255", "int 01", "int 0255", "float", "float 0255", "HW1", "1", "L01", "L", "RGB"],
)
def test_every_form_of_a_mask_marks_the_same_pixels(value: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(mask_input(value, SIZE, "mask")), region() * np.uint8(255))


def test_soft_edges_are_cut_at_one_half() -> None:
    # One column of the edge just below one half, one at it.
    soft = np.zeros((40, 40), np.uint8)
    soft[10:30, 10:30] = 255
    soft[10:30, 9], soft[10:30, 30] = 127, 128
    for value in (soft, soft / 255):
        edit = np.asarray(mask_input(value, (40, 40), "mask")) > 0
        np.testing.assert_array_equal(edit, soft >= 128)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros((4, 6), bool), "mask is empty"),
        (np.ones((4, 6), np.uint8), "mask is full"),
        (region()[:, :5], r"mask: its shape is \(4, 5\), the source's \(H, W\) is \(4, 6\)"),
        (np.arange(24).reshape(4, 6), "mask: the dtype is int64"),
        (np.arange(24, dtype=np.uint8).reshape(4, 6) * 10, "mask: the mask has many gray values"),
        (np.linspace(0, 2, 24).reshape(4, 6), "mask: its float values run from 0 to 2"),
        (np.full((4, 6), np.nan), "mask: it holds NaN"),
        (region() * np.uint8(7), "mask: the mask's brightest value is 7"),
        (None, "mask: a NoneType where"),
    ],
)
def test_what_is_no_mask_is_refused(value: np.ndarray, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        mask_input(value, SIZE, "mask")


def test_a_mask_file_is_named_by_its_path(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "m.png")
    with pytest.raises(BenchError, match=r"m\.png is empty"):
        mask_input(tmp_path / "m.png", SIZE, "mask")


def test_an_edit_of_another_size_is_refused() -> None:
    with pytest.raises(BenchError, match="edited: it is 5x4 pixels, the source 6x4"):
        same_size(Image.new("RGB", SIZE), Image.new("RGB", (5, 4)), "edited")
