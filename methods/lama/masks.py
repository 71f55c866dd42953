"""Holes for training and evaluation: strokes and boxes (LaMa, WACV 2022, section 2.4), and masks of edits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# Largest share of the image that a random hole takes. An edit's mask (of a background) may take more.
FULLEST = 0.75


def strokes(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """One to three thick polylines with round joints, bool (size, size): the paper's "wide" setting, scaled."""
    sheet = Image.new("L", (size, size))
    draw = ImageDraw.Draw(sheet)
    for _ in range(int(rng.integers(1, 4))):
        # One polyline: a start, a direction, and one to four segments that turn a little each.
        # Wide strokes: large holes make the network use its whole receptive field (section 2.4).
        width = int(rng.integers(max(2, size // 12), size // 4))
        x, y = rng.uniform(0, size, 2)
        angle = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(1, 5))):
            angle += rng.uniform(-1.2, 1.2)
            length = rng.uniform(size / 8, size / 2)
            x2 = float(np.clip(x + length * np.cos(angle), 0, size - 1))
            y2 = float(np.clip(y + length * np.sin(angle), 0, size - 1))
            draw.line((x, y, x2, y2), fill=255, width=width)
            for cx, cy in ((x, y), (x2, y2)):
                # Pillow's lines have square ends. Discs at both ends make them round, and joints without a gap.
                r = width / 2
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
            x, y = x2, y2
    return np.asarray(sheet) > 0


def boxes(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """One to three boxes, bool (size, size), with sides from an eighth to a half of the image's."""
    out = np.zeros((size, size), np.bool_)
    for _ in range(int(rng.integers(1, 4))):
        height, width = (int(n) for n in rng.integers(size // 8, size // 2 + 1, 2))
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        out[top : top + height, left : left + width] = True
    return out


def hole(rng: np.random.Generator, size: int, edits: Sequence[NDArray[np.bool_]] = ()) -> NDArray[np.bool_]:
    """A random hole, bool (size, size), neither empty nor full.

    Two fifths are masks out of ``edits`` (bool (size, size) each), half of those mirrored. The rest are strokes and
    boxes in equal parts. ``edits`` must not hold the image's own mask: its silhouette would show what it hides.
    """
    # Rejection: drawn again until the hole is neither empty nor too large.
    while True:
        kind = rng.random()
        if kind < 0.4 and len(edits):
            mask = edits[int(rng.integers(len(edits)))]
            mask = mask[:, ::-1] if rng.random() < 0.5 else mask
            if mask.any() and not mask.all():
                return np.ascontiguousarray(mask)
        mask = strokes(rng, size) if rng.random() < 0.5 else boxes(rng, size)
        if mask.any() and mask.mean() <= FULLEST:
            return mask
