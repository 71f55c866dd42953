"""MagicBrush's metrics against torch's losses, open_clip and the cosines of a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.edit_scoring import compute
from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipSpec
from bench.metrics.published import magicbrush
from bench.metrics.types import NoValue, Pair
from tests.bench.metrics.published.test_pie import value


def tensor(image: Any) -> Any:
    from torchvision.transforms import ToTensor

    return ToTensor()(image.pixels.copy())


@pytest.mark.parametrize(
    ("metric", "loss"), [(magicbrush.MagicBrushL1, "L1Loss"), (magicbrush.MagicBrushL2, "MSELoss")]
)
def test_distances_are_torchs_losses(photograph: Pair, metric: Any, loss: str) -> None:
    import torch

    expected = getattr(torch.nn, loss)()(
        tensor(photograph.edited).double(), tensor(photograph.truth).double()
    )
    assert value(metric, photograph) == pytest.approx(expected.item(), rel=1e-6)
    assert value(metric, replace(photograph, edited=photograph.truth)) == 0


def test_the_source_and_the_mask_do_not_count(photograph: Pair) -> None:
    other = replace(photograph, mask=~photograph.mask, source=photograph.edited)
    for metric in (magicbrush.MagicBrushL1, magicbrush.MagicBrushL2):
        assert value(metric, other) == value(metric, photograph)


def test_a_case_without_a_target_image_has_a_reason(photograph: Pair) -> None:
    ((number, reason),) = compute(magicbrush.MagicBrushL1(Features()), [replace(photograph, truth=None)])
    assert number is None
    assert reason == "the case has no truth"


def test_clip_i_and_clip_t_are_plain_cosines(photograph: Pair, clip_folder: Path) -> None:
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    assert photograph.truth is not None
    with torch.no_grad():
        edit, truth = (
            model.eval().encode_image(transform(Image.fromarray(image.pixels))[None])
            for image in (photograph.edited, photograph.truth)
        )
        # The local description, not the global one.
        text = model.encode_text(tokenizer([photograph.region_prompt]))
        cosine = torch.nn.functional.cosine_similarity
        clip_i, clip_t = cosine(edit, truth).item(), cosine(edit, text).item()
    features = Features(clip_b32=ClipSpec(folder=str(clip_folder)))
    assert value(magicbrush.MagicBrushClipI, photograph, features) == pytest.approx(clip_i, abs=1e-5)
    assert value(magicbrush.MagicBrushClipT, photograph, features) == pytest.approx(clip_t, abs=1e-5)
    same = replace(photograph, edited=photograph.truth)
    assert value(magicbrush.MagicBrushClipI, same, features) == pytest.approx(1, abs=1e-6)


def test_clip_t_without_a_local_description_has_a_reason(photograph: Pair, clip_folder: Path) -> None:
    from bench.metrics.types import Area

    features = Features(clip_b32=ClipSpec(folder=str(clip_folder)))
    metric = magicbrush.MagicBrushClipT(features)
    regions = (Area(photograph.mask, "a woman"),)
    without = replace(photograph, region_prompt="", regions=regions)
    assert metric.score([without, photograph])[0] == NoValue("the case has no local description")


def test_dino_i_is_the_cosine_of_class_tokens(photograph: Pair, small_dino: Callable[[str], Path]) -> None:
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms

    path = small_dino("vits16")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    model.load_state_dict(torch.load(path, weights_only=True))
    # The transform as MagicBrush's code lists it.
    transform = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert photograph.truth is not None
    with torch.no_grad():
        edit, truth = (
            model.eval()(transform(Image.fromarray(image.pixels))[None])
            for image in (photograph.edited, photograph.truth)
        )
        expected = torch.nn.functional.cosine_similarity(edit, truth).item()
    assert value(magicbrush.MagicBrushDinoI, photograph) == pytest.approx(expected, abs=1e-5)
    same = replace(photograph, edited=photograph.truth)
    assert value(magicbrush.MagicBrushDinoI, same) == pytest.approx(1, abs=1e-6)


def test_the_version_names_the_weights(small_dino: Callable[[str], Path]) -> None:
    """DINO's authors state no hash, so other weights must not share scores."""
    import torch

    path = small_dino("vits16")
    first = magicbrush.MagicBrushDinoI(Features()).version
    state = torch.load(path, weights_only=True)
    state["norm.bias"] += 1
    torch.save(state, path)
    assert magicbrush.MagicBrushDinoI(Features()).version != first
