"""Locations of instances, in the forms that UniFusion takes (paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Shapes:
    """Locations of the instances of one image in slots, float32. Unused slots hold zeros, and ``present`` is 0 there.

    Coordinates (x, y) are shares of the image's width and height.
    """

    # (R,): 1 for a slot with an instance.
    present: NDArray[np.float32]
    # (R, 4): left, top, right, bottom.
    boxes: NDArray[np.float32]
    # (R, 2): the centre of the box.
    points: NDArray[np.float32]
    # (R, 2 * K): K points of the mask, half of them at its edge.
    polygons: NDArray[np.float32]
    # (R, H, W): the masks.
    masks: NDArray[np.float32]


def shapes_of(masks: Sequence[NDArray[np.bool_]], slots: int, polygon_points: int) -> Shapes:
    """The locations of ``masks``, bool (H, W) each. Raises ValueError for no, too many, or an empty one."""
    if not 0 < len(masks) <= slots:
        raise ValueError(f"{len(masks)} instances: this checkpoint takes 1 to {slots}")
    shapes = Shapes(
        present=np.zeros(slots, np.float32),
        boxes=np.zeros((slots, 4), np.float32),
        points=np.zeros((slots, 2), np.float32),
        polygons=np.zeros((slots, 2 * polygon_points), np.float32),
        masks=np.zeros((slots, *masks[0].shape), np.float32),
    )
    for slot, mask in enumerate(masks):
        box = box_of(mask)
        shapes.present[slot] = 1
        shapes.boxes[slot] = box
        shapes.points[slot] = (box[:2] + box[2:]) / 2
        shapes.polygons[slot] = points_of(mask, polygon_points).reshape(-1)
        shapes.masks[slot] = mask
    return shapes


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(left, top, right, bottom) of a mask, float32 in [0, 1]. Raises ValueError for an empty one."""
    if not mask.any():
        raise ValueError("an instance has an empty mask")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    box = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return np.array(box, np.float32)


def points_of(mask: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """``count`` points (x, y) of a mask that is not empty, float32 (count, 2) in [0, 1], from the top left corner on.

    One half lies on the mask's edge, evenly along its pixels. The other half lies inside, evenly by the distance from
    the mask's centre. Points repeat where there are fewer pixels.
    """
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge, area = np.argwhere(mask & ~inner), np.argwhere(mask)
    centre = area.mean(0)
    # In the order of the angle around the centre, and of the distance from it.
    edge = edge[np.argsort(np.arctan2(*(edge - centre).T), kind="stable")]
    area = area[np.argsort(((area - centre) ** 2).sum(1), kind="stable")]
    chosen = np.concatenate([_evenly(edge, count // 2), _evenly(area, count - count // 2)])
    chosen = chosen[np.argsort((chosen**2).sum(1), kind="stable")]
    points: NDArray[np.float32] = (chosen[:, ::-1] / np.array(mask.shape[::-1])).astype(np.float32)
    return points


def _evenly(pixels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = pixels[np.linspace(0, len(pixels) - 1, count).astype(np.int64)]
    return chosen
