"""The CLIP's recipe: crops, degraded images and failed edits."""

from __future__ import annotations

import numpy as np
import torch

from methods.zoo import clip, data
from protocols.world.world import MiniWorld

WORLD = MiniWorld()


def test_a_crop_is_a_square_around_the_mask() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[20:30, 40:50] = 255
    mask = np.zeros((64, 64), bool)
    mask[20:30, 40:50] = True
    assert (clip.crop(picture, mask, margin=0) == 255).all()
    # Half a side of margin on each side quarters the share of the mask.
    loose = clip.crop(picture, mask, margin=0.5)
    assert loose.shape == (64, 64, 3)
    assert 0.2 < (loose > 127).mean() < 0.3
    assert np.array_equal(clip.crop(picture, np.zeros((64, 64), bool)), picture)


def test_degraded_pictures_are_as_many_as_said_and_stay_pictures() -> None:
    x = data.to_tensor(np.stack([WORLD.picture(-600 - i) for i in range(400)]))
    generator = torch.Generator().manual_seed(0)
    out = clip.degraded(x, generator, share=0.5)
    changed = (out != x).flatten(1).any(1)
    assert 0.4 < float(changed.float().mean()) < 0.6
    assert float(out.abs().max()) <= 1
    # A blur is closer to the mean colour, noise further from it.
    calmer = out[changed].flatten(2).std(2).mean(1) < x[changed].flatten(2).std(2).mean(1)
    assert 0.3 < float(calmer.float().mean()) < 0.7


def test_failed_edits_lie_between_the_source_and_the_truth_or_in_noise() -> None:
    source, truth = np.full((8, 8, 3), 40, np.uint8), np.full((8, 8, 3), 240, np.uint8)
    rng = np.random.default_rng(0)
    means, spreads = zip(
        *((float(p.mean()), float(p.std())) for p in (clip.spoiled(source, truth, rng) for _ in range(60))),
        strict=True,
    )
    assert any(mean == 40 for mean in means)
    # Half-way edits are flat, and lie between the two levels.
    half = [mean for mean, spread in zip(means, spreads, strict=True) if spread == 0 and mean != 40]
    assert half
    assert all(100 <= mean <= 160 for mean in half)
    assert any(spread > 30 for spread in spreads)
    assert not any(mean == 240 for mean in means)
