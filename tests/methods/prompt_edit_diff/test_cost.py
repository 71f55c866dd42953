"""Counted cost of the full-size training: operations against a formula, configurations against each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from methods.prompt_edit_diff import cost
from methods.prompt_edit_diff.config import Config

TINY = {
    "block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1, "norm_num_groups": 8,
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 64, "attention_head_dim": 8,
}  # fmt: skip


def counted(gigabytes: float, **options: object) -> cost.ExampleCost:
    return cost.example_cost(Config.for_memory(gigabytes, out="x", **options), TINY)


@pytest.fixture(scope="module")
def large() -> cost.ExampleCost:
    return counted(80)


def test_a_pass_of_stable_diffusions_unet_is_its_layers_and_its_attention() -> None:
    from diffusers import UNet2DConditionModel

    layers: list[float] = []

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        # Each value of the output is a sum of as many products as a row of the weight has.
        layers.append(2.0 * out.numel() * module.weight[0].numel())  # type: ignore[index, union-attr]

    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(**cost.UNET)
        for module in unet.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        unet(torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768))
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964  # Stable Diffusion 1.5's
    # Self-attention: 2 blocks on the way down and 3 on the way up at each of 64, 32 and 16 cells, 1 at 8 cells.
    places = [(64, 320, 5), (32, 640, 5), (16, 1280, 5), (8, 1280, 1)]
    attention = sum(blocks * 4.0 * n**2 * width * (n**2 + 77) for n, width, blocks in places)
    assert cost.forward_flops() == pytest.approx(sum(layers) + attention, rel=1e-3)


def test_the_leaner_configuration_trains_fewer_parameters_and_costs_less(large: cost.ExampleCost) -> None:
    # Both have the same network.
    small = counted(24)
    assert small.trainable < large.trainable == large.parameters == small.parameters
    assert small.flops < large.flops


def test_gradient_checkpointing_costs_one_more_forward_pass(large: cost.ExampleCost) -> None:
    plain = counted(80, gradient_checkpointing=False)
    # Forward once more: 4/3 of forward and backward, less the part outside the blocks.
    assert 1.1 * plain.flops < large.flops < 4 / 3 * plain.flops * 1.001


@pytest.mark.parametrize("gigabytes", [24, 80])
def test_each_configuration_has_32_examples_per_step(gigabytes: float) -> None:
    assert Config.for_memory(gigabytes, out="x").budget().batch == 32


def test_seconds_per_step_are_those_of_the_log(tmp_path: Path) -> None:
    assert cost.measured_seconds(tmp_path) is None
    (tmp_path / "log.csv").write_text("step,samples,seconds\n1,32,10.0\n")
    assert cost.measured_seconds(tmp_path) is None
    (tmp_path / "log.csv").write_text("step,samples,seconds\n1,32,10.0\n2,64,13.0\n5,160,22.0\n")
    assert cost.measured_seconds(tmp_path) == pytest.approx(3.0)
