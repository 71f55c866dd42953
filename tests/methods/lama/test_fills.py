"""Fills, seams and holes: against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from methods.lama.fills import detail, diffusion_fill, mean_fill, seam
from methods.lama.masks import FULLEST, boxes, hole, strokes


def ramp(size: int = 32) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.stack([3 * x + 10, 2 * y + 40, x + y + 100], axis=2).astype(np.uint8)


def test_diffusion_gives_a_plane_back() -> None:
    """A linear function is harmonic, so that the solution is known; also in two parts and with a concave border."""
    picture = ramp()
    mask = np.zeros((32, 32), bool)
    mask[5:20, 8:25] = True
    mask[10:14, 8:12] = False
    mask[24:28, 3:9] = True
    spoilt = picture.copy()
    spoilt[mask] = 255
    assert np.array_equal(diffusion_fill(spoilt, mask), picture)


def test_diffusion_at_the_frame_flows_nowhere() -> None:
    """A strip at the frame between a black and a white side: as on a rod, whatever lies along the frame."""
    picture = np.zeros((9, 21, 3), np.uint8)
    picture[:, 20] = 200
    mask = np.zeros((9, 21), bool)
    mask[:, 1:20] = True
    expected = np.round(np.arange(21) * 10).astype(np.uint8)
    assert np.abs(diffusion_fill(picture, mask)[..., 0].astype(int) - expected).max() <= 1


def test_diffusion_is_the_limit_of_averaging_neighbours() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    mask = random.random((12, 12)) < 0.4
    x = picture.astype(float)
    for _ in range(3000):
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
        around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        x[mask] = np.nanmean(around, axis=0)[mask]
    assert np.abs(diffusion_fill(picture, mask) - x).max() <= 0.51


def test_fills_touch_the_hole_alone_and_stand_its_extremes() -> None:
    picture = ramp()
    none, everything = np.zeros((32, 32), bool), np.ones((32, 32), bool)
    for fill in (mean_fill, diffusion_fill):
        assert np.array_equal(fill(picture, none), picture)
        assert (fill(picture, everything) == 128).all()
        mask = np.zeros((32, 32), bool)
        mask[:, 16:] = True
        assert np.array_equal(fill(picture, mask)[:, :16], picture[:, :16])
    assert (mean_fill(picture, mask)[0, 20] == np.round(picture[:, :16].mean(axis=(0, 1)))).all()


def test_seam_and_detail_count_the_pairs_they_name() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 3:] = 30
    picture[:, 5] = [40, 30, 50]
    mask = np.zeros((4, 6), bool)
    mask[1:3, 3:] = True
    # Left border: two pairs, 30 each. Top and bottom: three pairs each, no step.
    assert seam(picture, mask) == (60.0, 8)
    # Inside: two rows of two pairs, the second of which steps by (10 + 0 + 20) / 3; three pairs downwards.
    assert detail(picture, mask) == (pytest.approx(20.0), 7)
    assert seam(picture, ~mask) == (60.0, 8)
    assert seam(picture, np.zeros((4, 6), bool)) == (0.0, 0)


def test_holes_are_of_every_kind_and_never_empty_or_full() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    empty, full = np.zeros((64, 64), bool), np.ones((64, 64), bool)
    edit = np.zeros((64, 64), bool)
    edit[10:20, 40:60] = True
    samples = [hole(rng, 64, [edit, empty, full]) for _ in range(400)]
    assert all(m.shape == (64, 64) and m.dtype == bool and 0 < m.mean() <= FULLEST for m in samples)
    straight = sum(np.array_equal(m, edit) for m in samples)
    mirrored = sum(np.array_equal(m, edit[:, ::-1]) for m in samples)
    assert 0.03 < straight / 400 < 0.11  # two fifths, a third of them usable, half of those mirrored
    assert 0.03 < mirrored / 400 < 0.11
    shares = [m.mean() for m in samples]
    assert min(shares) < 0.05
    assert max(shares) > 0.35
    again = np.random.Generator(np.random.PCG64(0))
    assert np.array_equal(hole(again, 64, [edit, empty, full]), samples[0])


@pytest.mark.parametrize("size", [16, 64, 128])
def test_strokes_and_boxes_scale_with_the_picture(size: int) -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    for kind in (strokes, boxes):
        share = np.mean([kind(rng, size).mean() for _ in range(200)])
        assert 0.1 < share < 0.4, (kind, share)
