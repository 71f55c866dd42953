from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from methods.blended_diffusion.augment import DRAWS, affine, augment, corners, perspective_grid

NONE = 0.99
"""A draw that leaves an augmentation out."""


def draws(**values: float) -> Tensor:
    """One row: nothing happens but what is named."""
    row = torch.full((1, DRAWS), 0.5)
    names = {"affine": 0, "turn": 1, "down": 2, "right": 3, "perspective": 4}
    row[0, 0] = row[0, 4] = NONE
    row[0, 5:] = 0
    for name, value in values.items():
        row[0, names[name]] = value
    return row


def ramp(size: int = 32) -> Tensor:
    """x in the first channel, y in the second, both in [-1, 1] at pixel centres."""
    line = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)])[None]


def inner(x: Tensor, border: int) -> Tensor:
    return x[..., border:-border, border:-border]


def test_without_a_chance_nothing_changes() -> None:
    assert torch.equal(augment(ramp(), draws()), ramp())


def test_a_turn_is_by_at_most_15_degrees_about_the_centre() -> None:
    for draw, degrees in ((0.0, -15), (0.5, 0), (1.0, 15)):
        turned = augment(ramp(), draws(affine=0.1, turn=draw))
        angle = math.radians(degrees)
        x, y = ramp()[:, 0], ramp()[:, 1]
        # The lookup is a rotation of the output's coordinates.
        expected = torch.stack(
            [math.cos(angle) * x + math.sin(angle) * y, -math.sin(angle) * x + math.cos(angle) * y], 1
        )
        assert torch.allclose(inner(turned[:, :2], 8), inner(expected, 8), atol=1e-5)


def test_a_shift_is_vertical_only_and_by_a_tenth_unless_put_right() -> None:
    at = draws(affine=0.1, down=1.0, right=1.0)
    moved = augment(ramp(40), at)
    assert torch.allclose(inner(moved, 8)[:, 0], inner(ramp(40), 8)[:, 0], atol=1e-6)
    assert torch.allclose(inner(moved, 8)[:, 1], inner(ramp(40), 8)[:, 1] - 0.2, atol=1e-6)
    both = augment(ramp(40), at, vertical=False)
    assert torch.allclose(inner(both, 8)[:, 0], inner(ramp(40), 8)[:, 0] - 0.2, atol=1e-6)


def test_a_shift_repeats_the_border() -> None:
    moved = augment(ramp(40), draws(affine=0.1, down=1.0))
    assert torch.allclose(moved[0, 1, :4], ramp(40)[0, 1, :1].expand(4, 40), atol=1e-6)


def test_corners_move_inwards_by_at_most_the_published_share() -> None:
    row = draws()
    row[0, 5:] = 1.0
    assert torch.allclose(corners(row.double()).abs(), torch.full((1, 4, 2), 0.3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    result = corners(torch.rand((500, DRAWS), generator=generator).double())
    assert float(result.abs().min()) > 0.3
    assert float(result.abs().max()) < 1.0


def test_the_perspective_takes_the_frames_corners_to_the_points() -> None:
    """Against homographies composed by hand: for random ones, H(frame) are the points, and the grid undoes H."""
    random = np.random.default_rng(0)
    matrices = np.eye(3) + random.uniform(-0.15, 0.15, (5, 3, 3))
    matrices[:, 2, 2] = 1
    frame = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], dtype=np.float64)
    mapped = frame @ matrices.transpose(0, 2, 1)
    points = torch.from_numpy(mapped[..., :2] / mapped[..., 2:])
    grid = perspective_grid(points, 6, 9)
    ys, xs = np.mgrid[0:6, 0:9]
    pixels = np.stack([(2 * xs + 1) / 9 - 1, (2 * ys + 1) / 6 - 1, np.ones_like(xs, dtype=float)], -1)
    back = pixels @ np.linalg.inv(matrices).transpose(0, 2, 1)[:, None]
    assert np.allclose(grid.numpy(), back[..., :2] / back[..., 2:])


def test_outside_a_bent_picture_is_mid_grey() -> None:
    row = draws(perspective=0.1)
    row[0, 5:] = 1.0
    bent = augment(torch.ones(1, 3, 20, 20), row)
    assert float(bent[0, 0, 10, 10]) == 1.0
    assert float(bent[0, 0, 3, 10]) == 0.0


def test_both_parts_happen_to_seven_views_in_ten_independently() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand((2000, DRAWS), generator=generator)
    views = ramp(6).expand(2000, 3, 6, 6)
    still = (augment(views, rows) - views).abs().amax(dim=(1, 2, 3)) == 0
    assert abs(float(still.float().mean()) - 0.09) < 0.02


def test_each_view_depends_on_its_own_numbers_alone_and_passes_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand((6, DRAWS), generator=generator)
    views = torch.rand((6, 3, 16, 16), generator=generator).requires_grad_()
    whole = augment(views, rows)
    for i in range(6):
        assert torch.allclose(whole[i : i + 1], augment(views[i : i + 1], rows[i : i + 1]), atol=1e-6)
    whole.sum().backward()
    assert views.grad is not None
    assert bool((views.grad.abs().sum(dim=(1, 2, 3)) > 0).all())


def test_the_affine_matrix_is_a_rigid_motion() -> None:
    generator = torch.Generator().manual_seed(3)
    theta = affine(torch.rand((50, DRAWS), generator=generator).double(), vertical=True)
    rotation = theta[:, :, :2]
    assert torch.allclose(
        rotation @ rotation.transpose(1, 2), torch.eye(2, dtype=torch.float64).expand(50, 2, 2)
    )
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(50, dtype=torch.float64))
