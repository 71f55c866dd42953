"""BrushBench's metrics: three times the usual MSE, 1000 dB, and LAION's linear head."""

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
from bench.metrics.published import brushbench, pie
from bench.metrics.types import MetricError, NoValue, Pair
from tests.bench.metrics.published.test_pie import outside_mse, value


def test_mse_is_three_times_the_mean_over_channels(photograph: Pair) -> None:
    for of_pair in (photograph, replace(photograph, mask=~photograph.mask)):
        outside = outside_mse(of_pair)
        assert value(brushbench.BrushMse, of_pair) == pytest.approx(3 * outside, rel=1e-6)
        psnr = -10 * math.log10(outside) - 10 * math.log10(3)
        assert value(brushbench.BrushPsnr, of_pair) == pytest.approx(psnr, abs=1e-6)


def test_brushbench_and_pie_bench_measure_the_same_error(photograph: Pair) -> None:
    """MSE_pie = f MSE_brush / 3."""
    share = float((~photograph.mask).mean())
    brush = value(brushbench.BrushMse, photograph)
    assert value(pie.PieMse, photograph) == pytest.approx(share * brush / 3, rel=1e-9)


def test_an_unchanged_outside_has_1000_db(photograph: Pair) -> None:
    copy = replace(photograph, edited=photograph.source)
    assert value(brushbench.BrushMse, copy) == 0
    assert value(brushbench.BrushPsnr, copy) == 1000


def test_a_full_mask_has_no_value(photograph: Pair, squeezenet: Path) -> None:
    full = replace(photograph, mask=np.ones((512, 512), bool))
    for metric in (brushbench.BrushMse, brushbench.BrushPsnr, brushbench.BrushLpips):
        assert value(metric, full) == NoValue("no pixel lies outside the mask")


def test_lpips_and_clip_are_those_of_pie_bench(photograph: Pair, squeezenet: Path, clip_folder: Path) -> None:
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    for brush, other in (
        (brushbench.BrushLpips, pie.PieLpips),
        (brushbench.BrushClip, pie.PieClipWhole),
    ):
        assert value(brush, photograph, features) == value(other, photograph, features)


def test_the_aesthetic_score_is_linear_in_the_clip_feature(
    photograph: Pair, clip_folder: Path, store_weights: Callable[[object, str, object], Path]
) -> None:
    import open_clip
    import torch
    from PIL import Image

    torch.manual_seed(3)
    head = torch.nn.Linear(24, 1)
    store_weights(brushbench, "AESTHETIC_HEAD", head.state_dict())
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    with torch.no_grad():
        feature = model.eval().encode_image(transform(Image.fromarray(photograph.edited.pixels))[None])
        expected = head(feature / feature.norm(dim=-1, keepdim=True)).item()
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    assert value(brushbench.BrushAesthetic, photograph, features) == pytest.approx(expected, abs=1e-5)


def test_a_head_of_another_clip_is_refused(
    photograph: Pair, clip_folder: Path, store_weights: Callable[[object, str, object], Any]
) -> None:
    import torch

    store_weights(brushbench, "AESTHETIC_HEAD", torch.nn.Linear(768, 1).state_dict())
    features = Features(clip_l14=ClipSpec(folder=str(clip_folder)))
    with pytest.raises(MetricError, match="768"):
        value(brushbench.BrushAesthetic, photograph, features)
