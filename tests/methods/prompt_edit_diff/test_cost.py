"""The cost of full-size training: counted operations against formulas, memory against its own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from methods.prompt_edit_diff import cost


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_parameters() -> None:
    """Of y = relu(W x): x for the gradient of W, and relu's result; W itself is a parameter."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU())
        x = torch.zeros(4, 8)
    with cost._kept(model) as kept:
        model(x)
    assert sum(kept.values()) == 4 * (4 * 8 + 4 * 16)


def test_operations_are_counted_as_two_per_multiplication() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        nn.Conv2d(3, 5, 3, padding=1)(torch.zeros(1, 3, 16, 16))
    assert counter.get_total_flops() == 2 * 16 * 16 * 5 * 3 * 9


TINY = {
    "block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1, "norm_num_groups": 8,
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 64, "attention_head_dim": 8,
}  # fmt: skip


def counted(gigabytes: float, **options: object) -> cost.StepCost:
    config = cost.preset(gigabytes, out="x", **options)
    return cost.count(cost._model(config.variant, TINY), config)


@pytest.fixture(scope="module")
def large() -> cost.StepCost:
    return counted(80)


def test_the_network_is_stable_diffusions_and_a_little_more() -> None:
    parameters = sum(p.numel() for p in cost._model("prompt_edit_diff", cost.UNET).parameters())
    assert 859_520_964 < parameters < 1.03 * 859_520_964


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
    # Self-attention: 2 blocks on the way down and 3 on the way up at each of 64, 32 and 16 cells, 1 at 8 cells.
    places = [(64, 320, 5), (32, 640, 5), (16, 1280, 5), (8, 1280, 1)]
    attention = sum(blocks * 4.0 * n**2 * width * (n**2 + 77) for n, width, blocks in places)
    assert cost.forward_flops() == pytest.approx(sum(layers) + attention, rel=1e-3)


def test_the_leaner_configuration_learns_less_and_costs_less(large: cost.StepCost) -> None:
    small = counted(24)
    assert small.trainable < large.trainable == large.parameters == small.parameters
    assert small.flops < large.flops


def test_gradient_checkpointing_trades_memory_for_one_more_forward_pass(large: cost.StepCost) -> None:
    plain = counted(80, gradient_checkpointing=False)
    assert large.kept < 0.5 * plain.kept
    assert plain.recomputed == 0 < large.recomputed < plain.kept
    # Forward once more: 4/3 of forward and backward, less what lies outside the blocks.
    assert 1.1 * plain.flops < large.flops < 4 / 3 * plain.flops * 1.001


@pytest.mark.parametrize(("gigabytes", "gpu"), [(24, cost.GPUS[0]), (80, cost.GPUS[1])])
def test_each_preset_is_32_examples_a_step(gigabytes: float, gpu: cost.Gpu, large: cost.StepCost) -> None:
    config = cost.preset(gigabytes, out="x")
    assert config.batch * config.accumulate == 32
    found = cost.priced(large, config, gpu)
    assert found.seconds_per_step == pytest.approx(
        32 * (large.flops + large.encoding_flops) / (cost.UTILISATION * gpu.peak)
    )
    assert found.hours == pytest.approx(found.seconds_per_step * config.steps / 3600)


def test_memory_grows_by_what_a_further_example_keeps(large: cost.StepCost) -> None:
    one, two = (cost.priced(large, cost.preset(80, out="x", batch=b), cost.GPUS[1]).memory for b in (1, 2))
    assert two - one == pytest.approx(large.kept + large.recomputed)
