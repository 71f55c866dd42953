from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.downloads import HubFiles, MissingFiles
from bench.edit import EditCase, EditMethod, NoOptions, Region, Runtime
from bench.images import mask_array, mask_image
from methods.controls import (
    COLORS,
    AutoencoderRoundTrip,
    CopyInput,
    FlatColorFill,
    Jpeg,
    NoiseFill,
    Oracle,
    ResizeRoundTrip,
)
from tests.methods.conftest import SIZE, picture, request, tiny_components

RUNTIME = Runtime()


def case(truth: Image.Image | None) -> EditCase:
    return EditCase(id="face-7", category="attribute", request=request(), source_id="7", truth=truth)


def test_copy_input_returns_the_source_bit_for_bit() -> None:
    method = CopyInput(NoOptions(), RUNTIME)
    assert isinstance(method, EditMethod)
    requests = [request(1), request(2)]
    edited = method.edit(requests)
    assert [image.tobytes() for image in edited] == [r.source.tobytes() for r in requests]
    # A copy: a metric that draws into its image must not draw into the source.
    edited[0].putpixel((0, 0), (1, 2, 3))
    assert requests[0].source.getpixel((0, 0)) == picture(1).getpixel((0, 0))


def test_oracle_returns_the_truth() -> None:
    truth = picture(99)
    (edited,) = Oracle(NoOptions(), RUNTIME).edit_cases([case(truth)])
    assert edited.tobytes() == truth.tobytes()


def test_oracle_without_a_truth_names_the_case() -> None:
    method = Oracle(NoOptions(), RUNTIME)
    with pytest.raises(ValueError, match="'face-7' has no ground truth"):
        method.edit_cases([case(picture(1)), case(None)])
    with pytest.raises(ValueError, match="does not hold the ground truth"):
        method.edit([request()])


@pytest.mark.parametrize("quality", [10, 75, 95])
def test_jpeg_is_pillows_own(quality: int) -> None:
    source = picture(3)
    file = io.BytesIO()
    source.save(file, "JPEG", quality=quality)
    (edited,) = Jpeg(Jpeg.Options(quality=quality), RUNTIME).edit([request(source=source)])
    assert edited.tobytes() == Image.open(io.BytesIO(file.getvalue())).convert("RGB").tobytes()
    assert edited.mode == "RGB"


def test_jpeg_loses_less_at_higher_quality() -> None:
    source = np.asarray(picture(3), dtype=float)

    def loss(quality: int) -> float:
        (edited,) = Jpeg(Jpeg.Options(quality=quality), RUNTIME).edit([request(source=picture(3))])
        return float(np.abs(np.asarray(edited, dtype=float) - source).mean())

    assert loss(10) > loss(75) > loss(95) > 0


@pytest.mark.parametrize("quality", [0, 96, -1])
def test_jpeg_refuses_a_quality_off_the_scale(quality: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 95"):
        Jpeg(Jpeg.Options(quality=quality), RUNTIME)


def test_resize_round_trip() -> None:
    source = picture(5)
    (edited,) = ResizeRoundTrip(ResizeRoundTrip.Options(scale=0.5), RUNTIME).edit([request(source=source)])
    half = source.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS)
    assert edited.tobytes() == half.resize((SIZE, SIZE), Image.Resampling.LANCZOS).tobytes()


def test_resize_round_trip_keeps_a_flat_image_and_any_size() -> None:
    flat = Image.new("RGB", (37, 21), (10, 200, 90))
    method = ResizeRoundTrip(ResizeRoundTrip.Options(scale=0.3), RUNTIME)
    edited, tiny = method.edit([request(source=flat), request(source=Image.new("RGB", (1, 1), (9, 8, 7)))])
    assert edited.tobytes() == flat.tobytes()
    assert tiny.getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("scale", [0.0, -0.5, 1.0, 9.0])
def test_resize_round_trip_refuses_a_scale_without_meaning(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        ResizeRoundTrip(ResizeRoundTrip.Options(scale=scale), RUNTIME)


def test_autoencoder_round_trip_is_the_modes_decoding(tiny_folder: Callable[[int], str]) -> None:
    import torch

    method = AutoencoderRoundTrip(AutoencoderRoundTrip.Options(weights=tiny_folder(9)), RUNTIME)
    edited = method.edit([request(1), request(2)])
    vae = tiny_components(9)["vae"]
    for seed, image in zip((1, 2), edited, strict=True):
        pixels = torch.tensor(np.asarray(picture(seed), dtype=np.float32) / 255 * 2 - 1).permute(2, 0, 1)[
            None
        ]
        with torch.no_grad():
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0]
        expected = np.clip((decoded.permute(1, 2, 0).numpy() + 1) / 2, 0, 1) * 255
        # Half a level for rounding; random weights magnify the order of float operations to 0.02.
        assert np.abs(np.asarray(image, dtype=float) - expected).max() <= 0.6
        assert expected.std() > 1  # the tiny decoder does depend on its input


def test_autoencoder_round_trip_takes_a_bare_autoencoder_and_any_size(tmp_path: Path) -> None:
    tiny_components(4)["vae"].save_pretrained(tmp_path / "vae-alone")
    options = AutoencoderRoundTrip.Options(weights=str(tmp_path / "vae-alone"))
    assert AutoencoderRoundTrip.problems(options) == []
    method = AutoencoderRoundTrip(options, RUNTIME)
    (edited,) = method.edit([request(source=picture(1, (33, 21)))])
    assert edited.size == (33, 21)
    assert edited.mode == "RGB"
    assert method.edit([]) == []


def test_autoencoder_fetches_the_autoencoder_alone() -> None:
    (problem,) = AutoencoderRoundTrip.problems(AutoencoderRoundTrip.Options())
    assert isinstance(problem, MissingFiles)
    (files,) = problem.downloads
    assert isinstance(files, HubFiles)
    assert files.patterns == ("vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors")
    assert "0.17 GB" in problem


def test_noise_fill_is_uniform_noise_inside_the_mask_and_the_source_outside() -> None:
    one, other = replace(request(1), seed=3), replace(request(1), seed=4)
    inside = mask_array(one.mask)
    first, again, second = (
        np.asarray(NoiseFill(NoOptions(), RUNTIME).edit([r])[0]) for r in (one, one, other)
    )
    assert (first == again).all()
    assert (first[~inside] == np.asarray(one.source)[~inside]).all()
    assert (first != second)[inside].mean() > 0.98
    # Uniform on 0..255: mean 127.5 and standard deviation 73.9, with more than a thousand draws.
    assert abs(first[inside].mean() - 127.5) < 10
    assert abs(first[inside].std() - 73.9) < 5


def test_flat_color_fill_takes_the_color_that_each_region_names() -> None:
    left, right = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    left[4:12, 2:10] = right[4:12, 14:22] = True
    regions = (
        Region(mask_image(left), "a red bus", ("red", "bus")),
        Region(mask_image(right), "a hat", ("hat",)),
    )
    edit_request = replace(request(1), mask=mask_image(left | right), regions=regions)
    (edited,) = FlatColorFill(NoOptions(), RUNTIME).edit([edit_request])
    source, pixels = np.asarray(edit_request.source), np.asarray(edited)
    assert (pixels[left] == COLORS["red"]).all()
    assert (pixels[right] == source[right].mean(axis=0).round()).all()
    assert (pixels[~(left | right)] == source[~(left | right)]).all()


def test_flat_color_fill_without_regions_reads_the_regions_prompt() -> None:
    edit_request = replace(request(1), regions=(), region_prompt="Blond hair")
    (edited,) = FlatColorFill(NoOptions(), RUNTIME).edit([edit_request])
    assert (np.asarray(edited)[mask_array(edit_request.mask)] == COLORS["blond"]).all()
