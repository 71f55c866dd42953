"""Small copies of large pictures: a gallery of thousands of full-size ones would fill the browser's memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from bench.files import sha256_bytes

SIDE = 256
"""Longest side of a small copy, in pixels; a smaller picture needs none."""
_DIGITS = 16


def thumbnails(pictures: Sequence[Path], folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """For each picture the name of its small copy and its bytes, in order.

    The name is made of the SHA-256 of the picture's bytes, so that a copy in ``folder`` is never of another
    picture; its bytes are then None. The name is empty where a picture is small enough, or cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In portions: the bytes of thousands of pictures are not held at once.
        for start in range(0, len(pictures), 256):
            yield from pool.map(lambda path: _one(path, folder), pictures[start : start + 256])


def _one(path: Path, folder: Path) -> tuple[str, bytes | None]:
    try:
        with Image.open(path) as image:
            if max(image.size) <= SIDE:
                return "", None
        data = path.read_bytes()
        name = f"{sha256_bytes(data)[:_DIGITS]}.webp"
        if (folder / name).is_file():
            return name, None
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError):
        # Shown as missing; `verify` names it.
        return "", None
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=2)
    return name, buffer.getvalue()
