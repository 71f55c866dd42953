from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.attention_maps.processor import AttentionRecorder, install, map_factor_problems, predicted
from tests.methods.conftest import tiny_components


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_components(4)["unet"]


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 7, 32, generator=generator)


class Everything:
    """Forms all probabilities, counts them, and uses them as they are."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, int]] = []

    def wants(self, cross: bool, positions: int) -> bool:
        return True

    def __call__(self, probabilities: Tensor, cross: bool) -> Tensor:
        assert torch.allclose(probabilities.sum(-1), torch.ones(()), atol=1e-5)
        assert probabilities.shape[-1] == (7 if cross else probabilities.shape[2])
        self.seen.append((cross, probabilities.shape[2]))
        return probabilities


def test_the_processor_computes_the_layers_own_attention(unet: Any) -> None:
    z, text = inputs()
    with torch.no_grad():
        expected = unet(z, 500, encoder_hidden_states=text).sample
        install(unet)
        control = Everything()
        assert torch.allclose(predicted(unet, z, 500, text), expected, atol=1e-5)
        assert torch.allclose(predicted(unet, z, 500, text, control), expected, atol=1e-5)
    # Each transformer block has one layer of each kind.
    assert len(control.seen) == 2 * sum(cross for cross, _ in control.seen)


def test_the_recorder_averages_layers_and_heads(unet: Any) -> None:
    install(unet)
    z, text = inputs()
    recorder = AttentionRecorder(64)
    with torch.no_grad():
        predicted(unet, z, 500, text, recorder)
        maps = recorder.mean()
        assert maps.shape == (2, 64, 7)
        assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
        # A second call starts anew.
        predicted(unet, z, 500, text, recorder)
        assert torch.equal(recorder.mean(), maps)


def test_the_gradient_of_a_map_reaches_the_latents(unet: Any) -> None:
    install(unet)
    z, text = inputs()
    z.requires_grad_()
    recorder = AttentionRecorder(64)
    predicted(unet, z, 500, text, recorder)
    (gradient,) = torch.autograd.grad(recorder.mean()[0, :, 3].max(), z)
    assert gradient[0].abs().max() > 0
    # A row's maps depend on that row alone.
    assert gradient[1].abs().max() == 0


def test_map_factor_must_be_a_level_with_attention() -> None:
    config = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]}
    assert map_factor_problems(4, config) == []
    assert map_factor_problems(8, config) == ["map_factor 8: the network has attention at 1, 2, 4"]
