"""Small copies of large images: a gallery of thousands of full-size ones would fill the browser's memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from bench.files import sha256_bytes

# Longest side of a small copy, in pixels. A smaller image needs none.
SIDE = 256
# 64 bits: two different images of a run do not collide.
_DIGITS = 16


def thumbnails(images: Sequence[Path], folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Name and bytes (WebP) of each image's small copy, in order.

    The name is made of the SHA-256 of the image's bytes. Where ``folder`` holds that copy already, the bytes are None.
    The name is empty where an image is small enough, or cannot be read.
    """
    # Threads suffice: Pillow releases Python's global lock while it decodes, scales and encodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In portions, so that the bytes of thousands of images are not in memory at once.
        for start in range(0, len(images), 256):
            yield from pool.map(lambda path: _thumbnail(path, folder), images[start : start + 256])


def _thumbnail(path: Path, folder: Path) -> tuple[str, bytes | None]:
    try:
        with Image.open(path) as image:
            if max(image.size) <= SIDE:
                return "", None
        data = path.read_bytes()
        name = f"{sha256_bytes(data)[:_DIGITS]}.webp"
        # The name depends on the content, so a copy of that name is never out of date.
        if (folder / name).is_file():
            return name, None
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError):
        # The page shows it as missing, and `verify` names it.
        return "", None
    buffer = io.BytesIO()
    # method: 0 is the fastest, 6 the smallest. A gallery has thousands of copies.
    small.save(buffer, "WEBP", quality=80, method=2)
    return name, buffer.getvalue()
