"""Checks the images and masks that callers of the public API pass, and converts them to the project's own form.

An input is a path, a PIL image or a NumPy array. An ambiguous input is refused with an error that names the argument
and the remedy, because a metric would silently give a wrong value for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.errors import BenchError
from bench.files import whole_text
from bench.images import check_mask, mask_image, read_mask, read_rgb, to_mask, to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]


class InputError(BenchError):
    """An argument that cannot be used. The message names the argument and the remedy."""


def image_input(value: ImageInput, name: str) -> Image.Image:
    """Returns an ``RGB`` image.

    Arrays are (H, W, 3), (H, W) or (H, W, 1), either uint8 in 0..255 or float in [0, 1]. Floats become
    ``round(255 x)``. PIL images and files are converted as :func:`bench.images.read_rgb` says. Raises
    :class:`InputError` for other arrays, and ``ImageError`` for transparent or unreadable images.
    """
    # Files and PIL images follow the rules of bench.images.
    if isinstance(value, str | os.PathLike):
        return read_rgb(value)
    if isinstance(value, Image.Image):
        return to_rgb(value, name)
    # (H, W), (H, W, 3) or (H, W, 4) uint8 in 0..255
    pixels = _pixels(_array(value, name), name)
    # A float image that was cast to uint8 has only the values 0 and 1, and would be read as a black image.
    if pixels.max() == 1:
        raise InputError(
            f"{name}: its uint8 values are 0 and 1, which is a black image. Give uint8 in 0..255 or float in [0, 1]."
        )
    return to_rgb(Image.fromarray(pixels), name)


def mask_input(value: ImageInput, size: tuple[int, int], name: str) -> Image.Image:
    """Returns an ``L`` mask: 255 = edit, 0 = keep. ``size`` is the source's (width, height).

    Arrays of one channel are bool, or numbers of any dtype that are all 0 or 1, or all 0 or 255. Soft edges (uint8 in
    0..255, float in [0, 1]) are cut at one half. PIL images and files are read as :func:`bench.images.read_mask` says,
    0 and 1 included. Raises :class:`InputError` or ``ImageError`` for another size, for many gray values, and for a
    mask that is empty or full.
    """
    if isinstance(value, str | os.PathLike):
        name = str(value)
        mask = read_mask(value, size)
    elif isinstance(value, Image.Image):
        # Modes 1 and L hold mask values. Others are read as a file: a photo with a hole, or gray in RGB.
        mask = (
            _mask_of_array(np.asarray(value), size, name)
            if value.mode in ("1", "L")
            else to_mask(value, name, size)
        )
    else:
        mask = _mask_of_array(_array(value, name), size, name)
    check_mask(mask, name)
    return mask


def _mask_of_array(array: NDArray[Any], size: tuple[int, int], name: str) -> Image.Image:
    # (H, W, 1) -> (H, W)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    # PIL's size is (width, height), an array's shape (height, width).
    if array.shape[:2] != size[::-1]:
        raise InputError(
            f"{name}: its shape is {array.shape}, the source's (H, W) is {size[::-1]}. "
            "Give a mask of the source's size."
        )
    # 0 and 1, or 0 and 255, in any dtype.
    if array.ndim == 2 and (array.dtype == np.bool_ or np.issubdtype(array.dtype, np.number)):
        levels = np.unique(array)
        if levels.size <= 2 and (np.isin(levels, (0, 1)).all() or np.isin(levels, (0, 255)).all()):
            return mask_image(array != 0)
    # Everything else is read as a mask file: soft edges pass, photographs and label maps do not.
    return to_mask(Image.fromarray(_pixels(array, name)), name, size)


def _array(value: Any, name: str) -> NDArray[Any]:
    """Returns a NumPy array as it is. Other types are refused: a tensor may be (C, H, W) in [-1, 1]."""
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"{name}: a {type(value).__name__} where a path, a PIL image or a NumPy array is expected. "
            "Convert a tensor by tensor.permute(1, 2, 0).cpu().numpy()."
        )
    return value


def _pixels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Returns uint8 (H, W), (H, W, 3) or (H, W, 4) in 0..255. Raises InputError for another shape, dtype or range."""
    # Shape.
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0:
        raise InputError(f"{name}: the array of shape {array.shape} is empty. Give an image.")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4:
        raise InputError(
            f"{name}: the shape {array.shape} has its channels first. Move them last: array.transpose(1, 2, 0)."
        )
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InputError(f"{name}: the shape is {array.shape}, where (H, W, 3) or (H, W) is expected.")

    # Dtype and range.
    # uint8 needs no conversion.
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    # Other integers: int64 in 0..255 and in 0..1 are both frequent, so neither is assumed.
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"{name}: the dtype is {array.dtype}. Give uint8 in 0..255 or float in [0, 1], such as "
            "array.astype(np.uint8) if its values are in 0..255."
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name}: it holds NaN or infinite values. Replace them.")
    # [0, 255] and [-1, 1] are frequent mistakes, so each has its own remedy.
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        remedy = "Divide by 255." if low >= 0 and high <= 255 else "Scale it to [0, 1]."
        if low >= -1 and high <= 1:
            remedy = "Map [-1, 1] to [0, 1] by (array + 1) / 2."
        raise InputError(f"{name}: its float values run from {low:g} to {high:g}, beyond [0, 1]. {remedy}")
    # x in [0, 1] -> round(255 x). In float64, since 255 x of a float16 is not exact.
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def check_prompt(value: object, name: str) -> None:
    """Raises :class:`InputError` where a prompt is no text, and ``BrokenText`` where UTF-8 cannot encode it."""
    if not isinstance(value, str):
        raise InputError(
            f"{name}: a {type(value).__name__} where a text is expected. Give one prompt as a str."
        )
    whole_text(value, name)


def check_names(value: object, name: str) -> None:
    """Raises :class:`InputError` for one text in place of a list of names. It would be read letter by letter."""
    if isinstance(value, str):
        raise InputError(f"{name}: a str where a list of names is expected. Write {name}=[{value!r}].")


def same_size(source: Image.Image, edited: Image.Image, name: str) -> None:
    """Raises :class:`InputError` where the edit is not of the source's size."""
    if edited.size != source.size:
        raise InputError(
            f"{name}: it is {edited.width}x{edited.height} pixels, the source {source.width}x{source.height}. "
            "Bring the edit to the source's size first."
        )


def input_name(value: ImageInput, argument: str) -> str:
    """Name of an input in messages: its path, or the argument's name."""
    return str(Path(value)) if isinstance(value, str | os.PathLike) else argument
