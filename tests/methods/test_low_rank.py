"""Differences of low rank: what is learnt, stored and read back is one and the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from methods import low_rank
from methods.prompt_edit_diff.model import PromptEditDiffUNet

TINY: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SHARE = 0.4


def moved(network: nn.Module, by: float = 0.05) -> None:
    """Every weight a little elsewhere, as after a training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def base(tmp_path: Path) -> UNet2DConditionModel:
    torch.manual_seed(0)
    UNet2DConditionModel(**TINY).half().save_pretrained(tmp_path / "base" / "unet")
    built: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
        tmp_path / "base" / "unet", dtype=torch.float32
    )
    return built


@pytest.fixture
def saved(tmp_path: Path, base: UNet2DConditionModel) -> tuple[Path, UNet2DConditionModel]:
    """A folder with a network that was cut and learnt on, and that network."""
    network = UNet2DConditionModel.from_config(base.config)
    network.load_state_dict(base.state_dict())
    moved(network)
    assert low_rank.cut(network, base.state_dict(), SHARE)
    moved(network.conv_out)
    folder = tmp_path / "mine" / "unet"
    low_rank.whole(network).half().save_pretrained(folder)
    low_rank.write(folder, network, tmp_path / "base" / "unet")
    return folder, network.eval()


def outputs(network: nn.Module, channels: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x, text = (torch.randn(shape, generator=generator) for shape in ((2, channels, 8, 8), (2, 5, 8)))
    with torch.no_grad():
        result: Tensor = network(x, torch.tensor([10, 900]), text).sample
    return result


def test_the_cut_is_the_best_of_its_rank() -> None:
    """Eckart and Young (1936): what is lost are the other singular values."""
    torch.manual_seed(0)
    matrix = torch.randn(96, 10, 3, 3)
    part = low_rank.LowRankDelta(matrix, 0.5)
    rank = low_rank.ranked((96, 90), 0.5)
    assert part.up.shape == (96, rank)
    assert part.down.shape == (rank, 90)
    error = (part(torch.zeros_like(matrix)) - matrix).square().sum()
    values = torch.linalg.svdvals(matrix.flatten(1))
    assert float(error.detach()) == pytest.approx(float(values[rank:].square().sum()), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.58, 1.0])
def test_the_rank_keeps_within_the_share(share: float) -> None:
    rank = low_rank.ranked((80, 720), share)
    assert rank >= 1
    assert rank == 1 or rank * (80 + 720) <= share * 80 * 720 < (rank + 1) * (80 + 720)


def test_only_the_difference_learns(base: UNet2DConditionModel) -> None:
    network = UNet2DConditionModel.from_config(base.config)
    network.load_state_dict(base.state_dict())
    moved(network)
    names = low_rank.cut(network, base.state_dict(), SHARE)
    assert "mid_block.resnets.0.conv1.weight" in names
    assert not any(name.startswith(("conv_out", "conv_in")) for name in names)
    network(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 2, 8)).sample.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.endswith(".original"), name
    conv = network.mid_block.resnets[0].conv1
    start = base.state_dict()["mid_block.resnets.0.conv1.weight"]
    assert torch.equal(conv.parametrizations.weight.original, start)
    values = torch.linalg.svdvals((conv.weight - start).detach().flatten(1))
    rank = low_rank.ranked((32, 288), SHARE)
    assert values[rank] < 1e-5 < values[rank - 1]


def test_a_widened_layer_and_a_prefix(base: UNet2DConditionModel) -> None:
    """PromptEditDiff's network holds its base under a prefix, with more input channels."""
    network = PromptEditDiffUNet.from_base(base, factor=4, mask_width=16, mask_tokens=4, count=2)
    moved(network)
    assert low_rank.cut(network, base.state_dict(), SHARE) == []
    names = low_rank.cut(network, base.state_dict(), SHARE, "unet.")
    assert names
    assert all(name.startswith("unet.") for name in names)
    assert "unet.conv_in.weight" not in names


def test_what_is_stored_comes_back(saved: tuple[Path, UNet2DConditionModel]) -> None:
    folder, network = saved
    again = low_rank.load(UNet2DConditionModel, folder, torch.float32)
    assert not again.training
    assert [p for p in again.parameters() if not p.requires_grad] == []
    # Factors in half precision: as far off as weights in half precision are.
    assert torch.allclose(outputs(again), outputs(network), atol=5e-3)
    assert torch.allclose(outputs(low_rank.whole(network)), outputs(network), atol=1e-5)
    assert low_rank.load(UNet2DConditionModel, folder, torch.bfloat16).dtype == torch.bfloat16
    stored_names = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored_names.values()} == {torch.float16}
    weight = "mid_block.resnets.0.conv1.weight"
    assert weight not in stored_names
    rank = low_rank.ranked((32, 288), SHARE)
    assert stored_names[weight + low_rank.UP].shape == (32, rank)
    assert stored_names[weight + low_rank.DOWN].shape == (rank, 288)


def test_a_second_cut_changes_nothing(
    saved: tuple[Path, UNet2DConditionModel], base: UNet2DConditionModel
) -> None:
    """A warm start cuts what has low rank already."""
    folder, _ = saved
    again = low_rank.load(UNet2DConditionModel, folder, torch.float32)
    before = outputs(again)
    low_rank.cut(again, base.state_dict(), SHARE)
    assert torch.allclose(outputs(again), before, atol=1e-4)


def test_text_encoders_too(tmp_path: Path) -> None:
    config = CLIPTextConfig(
        vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPTextModel(config).half().save_pretrained(tmp_path / "base")
    base = CLIPTextModel.from_pretrained(tmp_path / "base", dtype=torch.float32)
    network = CLIPTextModel(config)
    network.load_state_dict(base.state_dict())
    moved(network)
    assert low_rank.cut(network, base.state_dict(), SHARE)
    low_rank.whole(network).half().save_pretrained(tmp_path / "mine")
    low_rank.write(tmp_path / "mine", network, tmp_path / "base")
    again = low_rank.load(CLIPTextModel, tmp_path / "mine", torch.float32)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected, result = (m.eval()(ids).last_hidden_state for m in (network, again))
    assert torch.allclose(expected, result, atol=5e-3)


def test_a_whole_folder_is_read_as_ever(tmp_path: Path, base: UNet2DConditionModel) -> None:
    folder = tmp_path / "base" / "unet"
    assert not low_rank.stored(folder)
    again = low_rank.load(UNet2DConditionModel, folder, torch.float32, local_files_only=True)
    assert torch.equal(outputs(again), outputs(base.eval()))


def test_another_base_is_refused(saved: tuple[Path, UNet2DConditionModel], tmp_path: Path) -> None:
    folder, _ = saved
    UNet2DConditionModel(**TINY).half().save_pretrained(tmp_path / "base" / "unet")
    with pytest.raises(low_rank.LowRankError, match=r"is not the base .* SHA-256 differs"):
        low_rank.load(UNet2DConditionModel, folder, torch.float32)


def test_a_base_that_is_gone_is_named(saved: tuple[Path, UNet2DConditionModel]) -> None:
    folder, _ = saved
    (folder / low_rank.BASE).write_text(json.dumps({"folder": "../../gone/unet", "sha256": "0" * 64}))
    with pytest.raises(low_rank.LowRankError, match=r"gone.unet is missing; restore it"):
        low_rank.load(UNet2DConditionModel, folder, torch.float32)


@pytest.mark.parametrize("ending", [low_rank.DOWN, ".bias"])
def test_tensors_that_are_missing_are_named(saved: tuple[Path, UNet2DConditionModel], ending: str) -> None:
    folder, _ = saved
    path = folder / "diffusion_pytorch_model.safetensors"
    stored_names = load_file(path)
    lost = next(name for name in stored_names if name.endswith(ending))
    save_file({name: value for name, value in stored_names.items() if name != lost}, path)
    with pytest.raises(low_rank.LowRankError, match=lost.removesuffix(low_rank.DOWN).replace(".", r"\.")):
        low_rank.load(UNet2DConditionModel, folder, torch.float32)
