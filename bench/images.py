"""Decoding, resizing, masks and PNG. No other module of the project decodes images or converts ranges.

Conventions everywhere in this project:

* An image is a PIL image of mode ``RGB``, or a ``uint8`` array ``(H, W, 3)``.
* A mask is a PIL image of mode ``L`` with 255 = edit and 0 = keep, or a ``bool`` array ``(H, W)`` with True = edit.
* A ``size`` is PIL's ``(width, height)``. An int stands for a square.
"""

from __future__ import annotations

import io
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.errors import BenchError
from bench.files import PathLike, write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
"""Suffixes of the images in a folder, in lower case. Other files in it are ignored."""

# Pillow's modes of 16-bit gray. "I" has 32 bits, but is what a 16-bit PNG decodes to.
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Level of compression. The SHA-256 of every stored edit depends on it, so it must not change.
_PNG_LEVEL = 4


class ImageError(BenchError):
    """An image or a mask that cannot be used. The message names the file and the remedy."""


def read_rgb(path: PathLike) -> Image.Image:
    """Reads a file as an upright 8-bit ``RGB`` image.

    EXIF orientation is applied. Palettes, gray, CMYK and 16-bit gray are converted (16 bit: value / 257, rounded). An
    animation gives its first frame. Raises :class:`ImageError` for a missing, unreadable, truncated or unsupported
    file, and for one with transparent pixels, whose colour is undefined.
    """
    return to_rgb(_decode(Path(path)), str(path))


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Converts an image in memory as :func:`read_rgb` converts a file. ``name`` is its name in errors."""
    # An alpha channel that is opaque everywhere is dropped.
    alpha = _alpha(image)
    if alpha is not None and alpha.min() < 255:
        raise ImageError(
            f"{name}: {(alpha < 255).mean():.1%} of its pixels are transparent, so their colour is undefined. "
            "Composite it onto its source image (or onto white) and save it without transparency."
        )
    return _opaque(image, name)


def read_mask(path: PathLike, size: tuple[int, int] | None = None) -> Image.Image:
    """Reads a file as a mask: mode ``L``, 255 = edit, 0 = keep. Two kinds of files are masks:

    * black and white, soft edges included: edit where the value is at least 128,
    * a photo that is transparent in part, as OpenAI's image endpoint takes it: edit where it is transparent.

    Raises :class:`ImageError` as :func:`read_rgb` does, for a mask that is not of ``size``, for a file of neither
    kind, and for one whose brightest value lies between 1 and 127: a mask of 0 and 1 would look empty.
    """
    return to_mask(_decode(Path(path)), str(path), size)


def to_mask(image: Image.Image, name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Converts an image in memory as :func:`read_mask` converts a file. ``name`` is its name in errors."""
    # Size.
    if size is not None and image.size != tuple(size):
        raise ImageError(
            f"{name}: the mask is {image.width}x{image.height} pixels, its image {size[0]}x{size[1]}. "
            "Give a mask of the image's own size (resize it with nearest neighbour)."
        )

    # A photo with a transparent hole.
    rgb = _opaque(image, name)
    alpha = _alpha(image)
    if alpha is not None and alpha.min() < 128:
        if not _is_photo(to_array(rgb)[alpha >= 128]) or not _is_two_valued(alpha):
            raise ImageError(
                f"{name}: the mask is transparent in part, but it is no photo with a clear hole. So it does not say "
                f"whether its bright or its transparent part is to be edited. {_MASK_KINDS}"
            )
        return mask_image(alpha < 128)

    # Black and white.
    if np.ptp(to_array(rgb), axis=2).max() > _GRAY_SPREAD:
        raise ImageError(f"{name}: the mask has colours: it is a photo or a map of labels. {_MASK_KINDS}")
    gray = to_array(rgb.convert("L"))  # (H, W) uint8
    if not _is_two_valued(gray):
        raise ImageError(
            f"{name}: the mask has many gray values that are no soft edges: it is a photo, a depth map or a map of "
            f"labels. {_MASK_KINDS}"
        )
    brightest = int(gray.max())
    if 0 < brightest < 128:
        raise ImageError(
            f"{name}: the mask's brightest value is {brightest}; 255 marks what to edit, 0 what to keep. "
            "Scale its values to 0 and 255."
        )
    return mask_image(gray >= 128)


_MASK_KINDS = (
    "A mask is either black and white without transparency, white (255) where to edit, or the photo itself, "
    "transparent where to edit (as OpenAI's image endpoint takes it). Save it as one of the two."
)
# Largest difference between a gray pixel's channels: lossy compression shifts them a little.
_GRAY_SPREAD = 32
# A photo has more colours than this at 4 bits a channel. Gray at 4 bits has at most 16.
_PHOTO_COLORS = 16


def _is_photo(pixels: NDArray[np.uint8]) -> bool:
    """True where ``uint8`` ``(N, 3)`` are the colours of a photo, not those of a gray image or of a few flat areas."""
    # One code of 12 bits per pixel: 4 bits a channel.
    codes = (pixels >> 4).astype(np.int32) @ np.array([256, 16, 1], np.int32)
    return np.unique(codes).size > _PHOTO_COLORS


def _is_two_valued(values: NDArray[np.uint8]) -> bool:
    """True where ``uint8`` ``(H, W)`` has two values only, or dark and light parts with soft edges between them."""
    # Soft edges are the pixels between dark (below 32) and light (from 224). They are at most half of all pixels.
    dark, light = values < 32, values >= 224
    between = ~(dark | light)
    if not between.any() or np.unique(values).size <= 2:
        return True
    if between.mean() > 0.5:
        return False
    from scipy.ndimage import maximum_filter, minimum_filter

    # A pixel of a soft edge has a dark and a light pixel within a sixth of the longer side (at least 12 pixels), and
    # is not the middle of 5x5 equal pixels.
    reach = max(12.0, max(values.shape) / 6)
    edges = dilate(dark, reach) & dilate(light, reach)
    flat = maximum_filter(values, 5) == minimum_filter(values, 5)
    # Two-valued: every gray pixel is on such an edge.
    return not (between & (flat | ~edges)).any()


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by their suffix, sorted. Hidden files (macOS writes ``._x.jpg``) are left out.

    Raises :class:`ImageError` for a folder that cannot be listed.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(
            f"{folder}: cannot be listed ({error.strerror or error}). Check the path and its permissions."
        ) from error
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]


def probe(path: PathLike) -> bool:
    """True where a file may have transparent pixels, by its header. Nothing is decoded.

    Raises :class:`ImageError` for a file whose header is not that of an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return bool(image.has_transparency_data)
    except Exception as error:  # Pillow's decoders raise whatever a malformed file provokes
        raise _unreadable(Path(path), error) from error


def header_size(path: PathLike) -> tuple[int, int]:
    """(width, height) as the file's header has them, before a camera's rotation. Nothing is decoded.

    Raises :class:`ImageError` for a file whose header is not that of an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Exception as error:  # Pillow's decoders raise whatever a malformed file provokes
        raise _unreadable(Path(path), error) from error


def _unreadable(path: PathLike, error: Exception) -> ImageError:
    # Pillow's message for an unknown format shows a buffer's address and nothing else.
    why = "no known format" if isinstance(error, UnidentifiedImageError) else _first_line(error)
    return ImageError(f"{path}: not a readable image ({why}). Give a PNG or a JPEG file, or fetch it again.")


def _decode(path: Path) -> Image.Image:
    """The first frame, upright, in the file's own mode. Raises :class:`ImageError`."""
    # Read the file.
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file. Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder. Give an image file.") from None
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror or error}). Check its permissions."
        ) from error
    if not data:
        raise ImageError(f"{path}: the file is empty. Fetch it again.")
    return decode(data, path)


def decode(data: bytes, path: PathLike) -> Image.Image:
    """The first frame of an encoded image, upright, in the mode that it was stored in.

    ``path``: its name in errors. Raises :class:`ImageError`.
    """
    # Read the header, then the pixels: the two fail for different reasons.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Exception as error:
        # Pillow's decoders raise whatever a malformed file provokes: OSError, SyntaxError, struct.error, ...
        raise _unreadable(path, error) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise ImageError(
            f"{path}: the image is truncated or damaged ({_first_line(error)}). Fetch it again."
        ) from error
    return upright


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    """``uint8`` ``(H, W)``, 255 = opaque. None for an image without transparency."""
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _opaque(image: Image.Image, name: str) -> Image.Image:
    """The image as 8-bit ``RGB`` without its transparency."""
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{name}: its values run from {values.min()} to {values.max()}, beyond 16 bits. "
                "Save it as an 8-bit PNG."
            )
        # value / 257 maps 0..65535 to 0..255. Adding half of 257 rounds.
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    try:
        # By way of RGBA, so that a transparent colour of a palette is decoded before transparency is dropped.
        if image.has_transparency_data:
            return image.convert("RGBA").convert("RGB")
        if image.mode == "F":
            raise ValueError("floating-point values have no agreed range")
        converted = image.convert("RGB")
    except ValueError as error:
        raise ImageError(
            f"{name}: images of mode {image.mode} are not supported ({_first_line(error)}). "
            "Save it as an 8-bit RGB PNG."
        ) from error
    return converted


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _width_height(size: int | tuple[int, int]) -> tuple[int, int]:
    width, height = (size, size) if isinstance(size, int) else size
    if width < 1 or height < 1:
        raise ImageError(f"cannot resize to {width}x{height} pixels: both sides must be at least 1.")
    return int(width), int(height)


def resize(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """``image`` at ``size``, resampled by Lanczos. The same object where it has that size already."""
    target = _width_height(size)
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def resize_mask(mask: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """``mask`` at ``size``, by nearest neighbour, so that 0 and 255 stay the only values."""
    target = _width_height(size)
    return mask if mask.size == target else mask.resize(target, Image.Resampling.NEAREST)


def fit(image: Image.Image, size: tuple[int, int], *, mirror: bool) -> Image.Image:
    """``image`` at ``size`` (width, height) without distortion: in the middle of a frame of that aspect ratio.

    ``mirror`` fills the rest of the frame with the image mirrored at its borders, and resamples by Lanczos. Without
    it, for a mask, the rest is 0 (nothing to edit), and the nearest pixel is taken. The same object where it has that
    size already.
    """
    if image.size == size:
        return image
    width, height = _frame(image.size, size)
    pixels = to_array(image)
    # The frame may end within a pixel, which the padded image has as a whole.
    (left, top), outer = _margins(image.size, size), (math.ceil(width), math.ceil(height))
    around = [(top, outer[1] - image.height - top), (left, outer[0] - image.width - left), (0, 0)]
    padded = from_array(np.pad(pixels, around[: pixels.ndim], mode="symmetric" if mirror else "constant"))
    if padded.size == size:
        return padded
    way = Image.Resampling.LANCZOS if mirror else Image.Resampling.NEAREST
    return padded.resize(size, way, box=(0, 0, float(width), float(height)))


def unfit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of ``image`` that :func:`fit` made of an image of ``size`` (width, height), at that size.

    The same object where it has that size already.
    """
    if image.size == size:
        return image
    width, height = _frame(size, image.size)
    left, top = _margins(size, image.size)
    if width.denominator == height.denominator == 1:
        # A frame of whole pixels: resized, then cropped.
        return resize(image, (int(width), int(height))).crop((left, top, left + size[0], top + size[1]))
    # Pixels of ``image`` per pixel of the frame. min: the product may be rounded beyond the image.
    scale = image.width / width
    right = min(float((left + size[0]) * scale), image.width)
    bottom = min(float((top + size[1]) * scale), image.height)
    box = (float(left * scale), float(top * scale), right, bottom)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def _frame(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[Fraction, Fraction]:
    """Exact width and height of the smallest frame around ``inner`` with the aspect ratio of ``outer``."""
    width = max(Fraction(inner[0]), Fraction(inner[1] * outer[0], outer[1]))
    return width, width * outer[1] / outer[0]


def _margins(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Left and top margin, in whole pixels, of ``inner`` in the middle of its frame."""
    width, height = _frame(inner, outer)
    return (math.ceil(width) - inner[0]) // 2, (math.ceil(height) - inner[1]) // 2


def crop_square(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image or a mask inside PIL's ``box`` ``(left, top, right, bottom)``.

    Raises :class:`ImageError` for a box that is not square or leaves the image, where Pillow would pad silently.
    """
    left, top, right, bottom = box
    if right - left != bottom - top or right <= left:
        raise ImageError(f"the crop {box} is not a square (left, top, right, bottom).")
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        raise ImageError(f"the crop {box} leaves the image of {image.width}x{image.height} pixels.")
    return image.crop(box)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """A writable copy of the pixels: ``uint8``, ``(H, W, 3)`` of an ``RGB`` image, ``(H, W)`` of an ``L`` one.

    Raises :class:`ImageError` for other modes.
    """
    if image.mode not in ("RGB", "L"):
        raise ImageError(f"an image of mode {image.mode} where RGB or L is expected. Convert it first.")
    return np.array(image, dtype=np.uint8)


def from_array(array: NDArray[np.uint8]) -> Image.Image:
    """The ``RGB`` image of ``uint8`` ``(H, W, 3)``, or the ``L`` image of ``uint8`` ``(H, W)``.

    Raises :class:`ImageError` for anything else.
    """
    if array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} where uint8 is expected. Scale it to 0..255 and round.")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise ImageError(f"an array of shape {array.shape} where (H, W, 3) or (H, W) is expected.")
    return Image.fromarray(np.ascontiguousarray(array))


def mask_array(mask: Image.Image) -> NDArray[np.bool_]:
    """``bool`` ``(H, W)``, True where an ``L`` mask is at least 128. Raises ImageError for other modes."""
    _check_mode(mask)
    return np.asarray(mask) >= 128


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """The ``L`` mask (0 and 255) of a ``bool`` ``(H, W)`` array. Raises ImageError for anything else."""
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ImageError(f"a mask array of {mask.dtype} {mask.shape} where bool (H, W) is expected.")
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def check_mask(mask: Image.Image, name: str = "the mask") -> None:
    """Raises :class:`ImageError` for an empty or a full mask. ``name`` is its name in the message."""
    _check_mode(mask)
    # Number of pixels of each value, which Pillow counts without an array. 128 and more is True in mask_array.
    counts = mask.histogram()
    if not any(counts[128:]):
        raise ImageError(f"{name} is empty: no pixel is marked for editing (255). Mark the region to edit.")
    if not any(counts[:128]):
        raise ImageError(f"{name} is full: no pixel is left to keep (0). Leave something outside the region.")


def _check_mode(mask: Image.Image) -> None:
    if mask.mode != "L":
        raise ImageError(f"a mask of mode {mask.mode} where L is expected. Read it with read_mask.")


def dilate(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilates a ``bool`` ``(H, W)`` mask: True where a True pixel is within ``radius`` pixels (Euclidean)."""
    if radius < 0:
        raise ImageError(f"a radius of {radius} pixels; it must not be negative.")
    # No centre of another pixel is nearer than 1, and without a True pixel the distances have no meaning.
    if radius < 1 or not mask.any():
        return mask.copy()
    from scipy.ndimage import distance_transform_edt

    # (H, W) float64: distance of each pixel to the nearest True one.
    distance: NDArray[np.float64] = distance_transform_edt(~mask)
    return distance <= radius


def composite(source: Image.Image, edited: Image.Image, mask: Image.Image) -> Image.Image:
    """``RGB``: ``edited`` where the mask is 255, and ``source`` where it is 0, bit for bit.

    Raises :class:`ImageError` for different sizes.
    """
    # np.where would broadcast some wrong sizes.
    if not source.size == edited.size == mask.size:
        raise ImageError(
            f"sizes differ: source {source.size}, edited {edited.size}, mask {mask.size}. Resize them first."
        )
    inside = mask_array(mask)[..., None]  # (H, W, 1), broadcast over the channels
    return from_array(np.where(inside, to_array(edited), to_array(source)))


def png_bytes(image: Image.Image) -> bytes:
    """The PNG of an ``RGB`` or ``L`` image, without metadata.

    One version of Pillow and zlib gives the same bytes for the same pixels.
    """
    buffer = io.BytesIO()
    # Through an array, so that the image's ``info`` (profiles, EXIF, times) does not reach the file.
    from_array(to_array(image)).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def write_png(path: PathLike, image: Image.Image) -> None:
    """Writes the PNG, whole or not at all. Raises OSError."""
    write_atomic(path, png_bytes(image))
