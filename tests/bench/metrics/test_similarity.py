"""Similarity of whole images against independent forward passes on random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.images import from_array
from bench.metrics import similarity
from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipSpec
from bench.metrics.types import Pair, RgbImage
from tests.bench.metrics.networks.test_dino import transformer
from tests.bench.metrics.pictures import natural

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pair(**changes: object) -> Pair:
    source, edited, truth = (RgbImage(natural(seed, 96)[:64]) for seed in (1, 2, 3))
    fields: dict[str, object] = {"source": source, "edited": edited, "mask": None, "truth": truth}
    return Pair(**fields | changes)  # type: ignore[arg-type]


def normalised(image: Image.Image) -> torch.Tensor:
    """``(1, 3, 224, 224)`` float64."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy((pixels - MEAN) / DEVIATION).permute(2, 0, 1)[None]


def test_clip_i_is_the_cosine_with_the_ground_truth(clip_folder: Path) -> None:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    one = pair()
    assert one.truth is not None
    with torch.no_grad():
        edit, truth = (
            model.eval().encode_image(transform(Image.fromarray(image.pixels))[None])
            for image in (one.edited, one.truth)
        )
    expected = torch.nn.functional.cosine_similarity(edit, truth).item()
    metric = similarity.TruthClipI(Features(clip=ClipSpec(folder=str(clip_folder))))
    assert metric.score([one]) == pytest.approx([expected], abs=1e-5)
    assert metric.score([pair(edited=one.truth)]) == pytest.approx([1], abs=1e-6)


def test_dino_i_is_the_cosine_of_class_tokens(small_dino: Callable[[str], Path]) -> None:
    state = torch.load(small_dino("vits16"), weights_only=True)
    one = pair()
    assert one.truth is not None
    tokens = []
    for image in (one.edited, one.truth):
        # DINO's evaluation: the shorter side becomes 256, then the middle.
        height, width = image.pixels.shape[:2]
        wide = from_array(image.pixels).resize((256 * width // height, 256), Image.Resampling.BICUBIC)
        left, top = round((wide.width - 224) / 2), 16
        tokens.append(transformer(state, normalised(wide.crop((left, top, left + 224, top + 224))))[0])
    expected = torch.nn.functional.cosine_similarity(tokens[0], tokens[1], dim=0).item()
    assert similarity.TruthDinoI(Features()).score([one]) == pytest.approx([expected], abs=1e-4)


def test_the_structure_distance_takes_any_shape_and_values_of_0_to_1(
    small_dino: Callable[[str], Path],
) -> None:
    state = torch.load(small_dino("vitb8"), weights_only=True)
    one = pair()
    matrices = []
    for image in (one.source, one.edited):
        whole = from_array(image.pixels).resize((224, 224), Image.Resampling.BICUBIC)
        _, keys = transformer(state, normalised(whole))
        unit = keys / keys.norm(dim=1, keepdim=True)
        matrices.append(unit @ unit.T)
    expected = float((matrices[0] - matrices[1]).square().mean())
    assert expected > 1e-5
    features = Features()
    assert similarity.DinoStructure(features).score([one]) == pytest.approx([expected], rel=1e-3)
    assert similarity.DinoStructure(features).score([pair(edited=one.source)]) == [0]


def test_the_two_structure_distances_share_a_network_and_no_value(small_dino: Callable[[str], Path]) -> None:
    from bench.metrics.published.pie import PieStructure

    small_dino("vitb8")
    source, edited = RgbImage(natural(1, 64)), RgbImage(natural(2, 64))
    square = pair(source=source, edited=edited)
    features = Features()
    (ours,) = similarity.DinoStructure(features).score([square])
    (theirs,) = PieStructure(features).score([square])
    assert ours != theirs
    assert [theirs] == PieStructure(Features()).score([square])


def test_missing_weights_are_named() -> None:
    assert "dino_deitsmall16_pretrain.pth is not on this machine" in str(
        similarity.TruthDinoI.problems(Features())[0]
    )
    assert "dino_vitbase8_pretrain.pth is not on this machine" in str(
        similarity.DinoStructure.problems(Features())[0]
    )
