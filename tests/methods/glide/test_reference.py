"""Agreement with the reference implementation, openai/glide-text2im (commit 69b5307, MIT).

``reference.npz`` holds its outputs on the weights and inputs of ``seeded``: one forward pass of both networks with all
conditions, one with neither text nor known pixels; the base's sampling loop (10 steps, guidance 5) and the
upsampler's (``fast27``, on that base sample), both with the known pixels put back as its inpainting notebook does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.glide.diffusion import Diffusion, conditioned, eight_bits, guided
from methods.glide.schedule import RespacedSchedule
from methods.glide.unet import GlideUNet
from tests.methods.glide import seeded

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(Path(__file__).with_name("reference.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def networks() -> dict[str, GlideUNet]:
    built = {}
    for part, config in seeded.CONFIGS.items():
        network = GlideUNet(config)
        network.load_state_dict(seeded.weights(network.state_dict(), 7))
        built[part] = network.eval()
    return built


def off(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("part", ["base", "upsampler"])
def test_a_forward_pass(part: str, networks: dict[str, GlideUNet], reference: dict[str, Tensor]) -> None:
    example, network = seeded.inputs(part), networks[part]
    low = example.get("low_res")
    with torch.no_grad():
        text = network.encode_text(example["tokens"], example["present"])
        whole = network(example["x"], example["t"], text, example["image"], example["known"], low)
        nothing = network.encode_text(example["tokens"], torch.zeros_like(example["present"]))
        blank = network(example["x"], example["t"], nothing, low_res=low)
    assert off(whole, reference[f"{part}_forward"]) < TOLERANCE
    assert off(blank, reference[f"{part}_blank"]) < TOLERANCE
    assert off(whole, blank) > 0.1


def sample_base(network: GlideUNet, **changes: Any) -> Tensor:
    example = seeded.inputs("base") | changes
    draw = seeded.noise(11, seeded.BASE.image_size)
    text = network.encode_text(example["tokens"], example["present"])
    nothing = network.encode_text(
        torch.full_like(example["tokens"], 39), torch.zeros_like(example["present"])
    )
    model = guided(network, text, nothing, example["image"], example["known"], 5.0)
    process = Diffusion(RespacedSchedule.of("squaredcos_cap_v2", "10"))
    return process.sample(model, draw(), draw, example["image"], example["known"])


@torch.no_grad()
def test_the_base_samples_with_guidance_and_known_pixels(
    networks: dict[str, GlideUNet], reference: dict[str, Tensor]
) -> None:
    sample = sample_base(networks["base"])
    assert off(sample, reference["base_sample"]) < TOLERANCE
    example = seeded.inputs("base")
    assert off(sample * example["known"], example["image"] * example["known"]) < 1e-6


@torch.no_grad()
def test_the_upsampler_samples_from_the_base_sample(
    networks: dict[str, GlideUNet], reference: dict[str, Tensor]
) -> None:
    example, network = seeded.inputs("upsampler"), networks["upsampler"]
    text = network.encode_text(example["tokens"], example["present"])
    low = eight_bits(reference["base_sample"])
    model = conditioned(network, text, example["image"], example["known"], low)
    draw = seeded.noise(12, seeded.UPSAMPLER.image_size)
    process = Diffusion(RespacedSchedule.of("linear", "fast27"))
    sample = process.sample(model, draw() * 0.997, draw, example["image"], example["known"])
    assert off(sample, reference["upsampler_sample"]) < TOLERANCE
    assert off(sample * example["known"], example["image"] * example["known"]) < 1e-6


@torch.no_grad()
def test_the_numbers_notice_a_wrong_order_of_queries_keys_and_values(reference: dict[str, Tensor]) -> None:
    """Three contiguous thirds instead of head-major: the usual mistake, and a small one."""
    network = GlideUNet(seeded.BASE)
    state = seeded.weights(network.state_dict(), 7)
    for name, value in state.items():
        if name.endswith((".qkv.weight", ".qkv.bias")):
            heads = value.shape[0] // 3 // seeded.BASE.head_channels
            state[name] = value.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
    network.load_state_dict(state)
    example = seeded.inputs("base")
    text = network.eval().encode_text(example["tokens"], example["present"])
    out = network(example["x"], example["t"], text, example["image"], example["known"])
    assert off(out, reference["base_forward"]) > 100 * TOLERANCE


@torch.no_grad()
def test_the_numbers_notice_known_pixels_that_are_not_put_back(
    networks: dict[str, GlideUNet], reference: dict[str, Tensor]
) -> None:
    example = seeded.inputs("base")
    shifted = sample_base(networks["base"], known=example["known"].roll(1, dims=3))
    assert off(shifted, reference["base_sample"]) > 0.1
