"""PIE-Bench's metrics: the dilution identities on a photograph, and independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipSpec
from bench.metrics.published import pie
from bench.metrics.types import NoValue, Pair, RgbImage
from tests.bench.metrics.pictures import box, natural, pair


def outside_mse(of_pair: Pair) -> float:
    """Mean over pixels and channels outside the mask, values in [0, 1]."""
    before, after = (image.pixels.astype(np.float64) / 255 for image in (of_pair.source, of_pair.edited))
    return float(((before - after) ** 2)[~of_pair.mask].mean())


def value(metric: Any, of_pair: Pair, features: Features | None = None) -> Any:
    return metric(features or Features()).score([of_pair])[0]


def test_mse_and_psnr_are_diluted_by_the_share_outside(photograph: Pair) -> None:
    """MSE_pie = f MSE_outside and PSNR_pie = PSNR_outside - 10 log10 f, for masks of any share."""
    other = [natural(seed, 512) for seed in (1, 2)]
    pairs = [photograph, replace(photograph, mask=~photograph.mask), pair(*other, box(512, 20, 30, 400, 450))]
    for of_pair in pairs:
        outside = outside_mse(of_pair)
        share = float((~of_pair.mask).mean())
        assert value(pie.PieMse, of_pair) == pytest.approx(share * outside, rel=1e-6)
        psnr = -10 * math.log10(outside)
        assert value(pie.PiePsnr, of_pair) == pytest.approx(psnr - 10 * math.log10(share), abs=1e-6)


def test_without_a_mask_psnr_is_the_plain_one(photograph: Pair) -> None:
    whole = replace(photograph, mask=np.zeros((512, 512), bool))
    assert value(pie.PiePsnr, whole) == pytest.approx(-10 * math.log10(outside_mse(whole)), abs=1e-6)


def ssim_by_convolution(a: Any, b: Any) -> float:
    """Wang et al. 2004 by two-dimensional convolutions in float64, over the windows within the image."""
    import torch

    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2

    def blur(x: Any) -> Any:
        return torch.nn.functional.conv2d(x, kernel)

    # (3, 1, H, W)
    x, y = (torch.from_numpy(image / 255.0).permute(2, 0, 1)[:, None] for image in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    ratio = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    return float((ratio / ((mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4))).mean())


def test_ssim_is_that_of_the_blackened_images(photograph: Pair) -> None:
    keep = (~photograph.mask)[..., None]
    expected = ssim_by_convolution(photograph.source.pixels * keep, photograph.edited.pixels * keep)
    assert value(pie.PieSsim, photograph) == pytest.approx(expected, abs=1e-6)


def test_lpips_is_that_of_the_package(photograph: Pair, squeezenet: Path) -> None:
    """``lpips.LPIPS(net="squeeze")`` with its own heads and cut, on blackened images in [-1, 1]."""
    import lpips
    import torch

    model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    state = torch.load(squeezenet, weights_only=True)
    # The layers in order: the package renames them and drops the classifier.
    values = [state[name] for name in state if name.startswith("features.")]
    renamed = dict(zip(model.net.state_dict(), values, strict=True))
    model.net.load_state_dict(renamed)
    keep = (~photograph.mask)[..., None]

    def tensor(image: RgbImage) -> Any:
        return torch.from_numpy(image.pixels * keep).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.no_grad():
        expected = model(tensor(photograph.source), tensor(photograph.edited)).item()
    assert expected > 1e-3
    # A second pair of another size, in one call.
    small = pair(natural(3), natural(4), box(64, 8, 8, 20, 20))
    values_of = pie.PieLpips(Features()).score([photograph, small, photograph])
    assert values_of[0] == values_of[2] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    alone = pie.PieLpips(Features()).score([small])
    assert values_of[1] == pytest.approx(alone[0], rel=1e-5)


def test_pixels_inside_change_no_outside_value(photograph: Pair, squeezenet: Path) -> None:
    painted = photograph.edited.pixels.copy()
    painted[photograph.mask] = 255 - painted[photograph.mask]
    other = replace(photograph, edited=RgbImage(painted))
    for metric in (pie.PieMse, pie.PiePsnr, pie.PieSsim, pie.PieLpips):
        assert value(metric, other) == value(metric, photograph)


@pytest.mark.parametrize(("metric", "black_outside"), [(pie.PieClipWhole, False), (pie.PieClipEdited, True)])
def test_clip_scores_the_image_with_the_whole_prompt(
    photograph: Pair, clip_folder: Path, metric: Any, black_outside: bool
) -> None:
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    pixels = photograph.edited.pixels * (photograph.mask[..., None] if black_outside else 1)
    # Random weights give cosines of both signs. Prompts of both show the clipping at 0.
    scores = []
    for prompt in ("a woman in front of a flag", "a cat", "three red boats", "snow", "an old map"):
        with torch.no_grad():
            image = model.eval().encode_image(transform(Image.fromarray(pixels))[None])
            text = model.encode_text(tokenizer([prompt]))
            expected = max(0.0, 100 * torch.nn.functional.cosine_similarity(image, text).item())
        scores.append(value(metric, replace(photograph, target_prompt=prompt), features))
        assert scores[-1] == pytest.approx(expected, abs=1e-3)
    assert max(scores) > 0


def test_without_a_mask_the_edited_part_is_everything(photograph: Pair, clip_folder: Path) -> None:
    """PIE-Bench's full masks are cases without a mask in this suite."""
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    full, without = (replace(photograph, mask=mask) for mask in (np.ones((512, 512), bool), None))
    expected = value(pie.PieClipEdited, full, features)
    assert value(pie.PieClipEdited, without, features) == expected
    assert expected == value(pie.PieClipWhole, photograph, features)


def test_a_negative_cosine_scores_zero(photograph: Pair, clip_folder: Path) -> None:
    class Opposite(Features):
        def clip_images(self, slot: str, images: Any) -> Any:
            assert slot == "clip_l14"
            return -self.clip_texts(slot, ["a cat"] * len(images))

    features = Opposite(clip_l14=ClipSpec(folder=str(clip_folder)))
    assert value(pie.PieClipWhole, replace(photograph, target_prompt="a cat"), features) == 0


def test_a_prompt_longer_than_clip_reads_has_no_score(photograph: Pair, clip_folder: Path) -> None:
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    long = replace(photograph, target_prompt="a very " * 30 + "long prompt")
    assert isinstance(value(pie.PieClipWhole, long, features), NoValue)


def test_full_masks_unchanged_outsides_and_wide_images_have_reasons(
    photograph: Pair, squeezenet: Path, small_dino: Callable[[str], Path]
) -> None:
    full = replace(photograph, mask=np.ones((512, 512), bool))
    for metric in (pie.PieMse, pie.PiePsnr, pie.PieSsim, pie.PieLpips):
        assert value(metric, full) == NoValue("no pixel lies outside the mask")
    copy = replace(photograph, edited=photograph.source)
    assert value(pie.PieMse, copy) == value(pie.PieLpips, copy) == 0
    assert value(pie.PieSsim, copy) == pytest.approx(1, abs=1e-12)
    assert "infinite" in value(pie.PiePsnr, copy).reason
    small_dino("vitb8")
    wide = pair(natural(1)[:48].copy(), natural(2)[:48].copy(), box(64, 0, 0, 9, 9)[:48])
    values = pie.PieStructure(Features()).score([wide, copy, wide])
    assert values[1] == 0
    assert "square" in values[0].reason
    assert "square" in values[2].reason


def test_missing_networks_are_named_with_the_remedy() -> None:
    features = Features()
    for metric, name in (
        (pie.PieLpips, "squeezenet1_1-b8a52dc0.pth"),
        (pie.PieStructure, "dino_vitbase8_pretrain.pth"),
        (pie.PieClipWhole, "ViT-L-14.pt"),
    ):
        (problem,) = metric.problems(features)
        assert name in problem
        assert "run_bench.py fetch" in problem
