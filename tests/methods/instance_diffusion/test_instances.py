"""Locations of instances by hand."""

from __future__ import annotations

import numpy as np
import pytest

from methods.instance_diffusion.instances import box_of, points_of, shapes_of


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 80), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_box_and_point_are_shares_of_the_image() -> None:
    mask = rectangle(10, 30, 20, 60)
    assert box_of(mask).tolist() == [0.25, 0.25, 0.75, 0.75]
    shapes = shapes_of([mask, rectangle(0, 4, 0, 8)], slots=3, polygon_points=8)
    assert shapes.present.tolist() == [1, 1, 0]
    assert np.allclose(shapes.boxes, [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.1, 0.1], [0, 0, 0, 0]])
    assert np.allclose(shapes.points, [[0.5, 0.5], [0.05, 0.05], [0, 0]])
    assert np.array_equal(shapes.masks[0], mask)
    assert not shapes.masks[2].any()
    assert not shapes.polygons[2].any()
    assert shapes.polygons.shape == (3, 16)


def test_half_of_the_points_lie_on_the_edge_and_all_in_the_mask() -> None:
    mask = rectangle(10, 30, 20, 60)
    points = points_of(mask, 40)
    assert points.shape == (40, 2)
    assert points.dtype == np.float32
    x, y = np.rint(points * [80, 40]).astype(int).T
    assert mask[y, x].all()
    on_edge = (x == 20) | (x == 59) | (y == 10) | (y == 29)
    # Points inside, too, may lie on the edge.
    assert 20 <= on_edge.sum() <= 30
    # They reach all four sides, in the order of their distance from the corner, in pixels.
    assert {int(x.min()), int(x.max()), int(y.min()), int(y.max())} == {20, 59, 10, 29}
    distances = x**2 + y**2
    assert (np.diff(distances) >= 0).all()
    # A single pixel is repeated.
    assert (points_of(rectangle(5, 6, 7, 8), 4) == np.array([7 / 80, 5 / 40], np.float32)).all()


def test_impossible_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        shapes_of([rectangle(0, 0, 0, 0)], 3, 4)
    with pytest.raises(ValueError, match="4 instances: this checkpoint takes 1 to 3"):
        shapes_of([rectangle(0, 2, 0, 2)] * 4, 3, 4)
