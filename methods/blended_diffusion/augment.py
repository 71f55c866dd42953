"""Augmentations of the CLIP's input: rotation, shift and perspective, differentiable.

Avrahami et al. 2022, section 3.3 and supplementary: without them, gradients of a CLIP find adversarial pixels. The
caller draws the random numbers, per image, so that a result does not depend on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Uniform numbers per augmented view.
DRAWS = 13
# Probability of the affine part and of the perspective part, independently.
CHANCE = 0.7
# Largest rotation.
DEGREES = 15.0
# Largest shift, as a share of the side length.
SHIFT = 0.1
# A corner moves inwards by at most half of this share of the side length, along each axis.
DISTORTION = 0.7


def augment(views: Tensor, draws: Tensor, vertical: bool = True) -> Tensor:
    """Float (N, 3, S, S) in [-1, 1] => the same. ``draws`` is float (N, DRAWS), uniform in [0, 1).

    ``vertical``: shift along that axis only, as the original's scalar ``translate`` does.
    """
    # The geometry is computed in float64 on the CPU, so that every device samples at the same places.
    draws = draws.double().cpu()
    shape = list(views.shape)

    # Rotation and shift. Outside, the border is repeated.
    # align_corners=False: -1 and 1 are the outer edges of the border pixels, as for the grids below.
    theta = affine(draws, vertical).to(views)
    turned = F.grid_sample(
        views, F.affine_grid(theta, shape, align_corners=False), padding_mode="border", align_corners=False
    )
    views = torch.where(_chosen(draws[:, 0], views), turned, views)

    # Perspective. Outside is mid-grey, 0.
    bent = F.grid_sample(
        views, perspective_grid(corners(draws), shape[2], shape[3]).to(views), align_corners=False
    )
    return torch.where(_chosen(draws[:, 4], views), bent, views)


def _chosen(draw: Tensor, views: Tensor) -> Tensor:
    return (draw < CHANCE).view(-1, 1, 1, 1).to(views.device)


def affine(draws: Tensor, vertical: bool) -> Tensor:
    """float64 (N, 2, 3): output to input coordinates, both in [-1, 1], as ``affine_grid`` takes them."""
    angle = torch.deg2rad((2 * draws[:, 1] - 1) * DEGREES)
    # A share of the side length is twice that share of [-1, 1].
    down = (2 * draws[:, 2] - 1) * SHIFT * 2
    right = torch.zeros_like(down) if vertical else (2 * draws[:, 3] - 1) * SHIFT * 2
    cos, sin = angle.cos(), angle.sin()
    # Input = R (output - shift): the content is turned about the centre, then moved.
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    offset = -(rotation @ torch.stack([right, down], 1)[..., None])
    return torch.cat([rotation, offset], 2)


_FRAME = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)


def corners(draws: Tensor) -> Tensor:
    """float64 (N, 4, 2): the moved corners of the frame (top left, then clockwise). x, y in [-1, 1]."""
    moved = draws[:, 5:13].view(-1, 4, 2) * DISTORTION
    # draws lie in [0, 1), so corners move only towards the centre.
    return _FRAME * (1 - moved)


def perspective_grid(points: Tensor, height: int, width: int) -> Tensor:
    """float64 (N, H, W, 2) for ``grid_sample``: the projective map that takes the frame's corners to ``points``."""
    # ``grid_sample`` looks up where an output pixel comes from, so this solves for the inverse homography, from
    # (x, y) = ``points`` to (u, v) = the frame: 8 linear equations for its entries, the last of which is 1.
    count = points.shape[0]
    frame = _FRAME.expand(count, 4, 2)
    x, y = points[..., 0], points[..., 1]
    u, v = frame[..., 0], frame[..., 1]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 2)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 2)
    # u (g x + h y + 1) = a x + b y + c, and v likewise: both are linear in the entries a to h.
    system = torch.cat([rows_u, rows_v], 1)
    solution = torch.linalg.solve(system, torch.cat([u, v], 1)[..., None])[..., 0]
    matrix = torch.cat([solution, solution.new_ones(count, 1)], 1).view(count, 3, 3)

    # The homography at every pixel's centre, then the division by its third coordinate.
    ys = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
    xs = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    pixels = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], 2).view(1, -1, 3)
    mapped = pixels @ matrix.transpose(1, 2)
    return (mapped[..., :2] / mapped[..., 2:]).view(count, height, width, 2)
