"""A network saved without its base's tensors comes back as it was, and refuses another base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from methods.prompt_edit_diff import on_base
from methods.prompt_edit_diff.model import PromptEditDiffUNet

TINY = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path, PromptEditDiffUNet]:
    """Folders of a network that learnt all that ``freeze_base`` lets it, and of its base; and the network."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(**TINY).half()
    base.save_pretrained(tmp_path / "base" / "unet")
    model = PromptEditDiffUNet.from_base(base.float(), factor=4, mask_width=16, mask_tokens=4, count=2)
    model.freeze_base()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.half().save_pretrained(tmp_path / "mine" / "unet")
    return tmp_path / "mine" / "unet", tmp_path / "base" / "unet", model.float()


def test_what_is_left_out_comes_back(saved: tuple[Path, Path, PromptEditDiffUNet]) -> None:
    folder, base, model = saved
    share = on_base.leave_out(folder, base)
    kept = load_file(folder / on_base.TENSORS)
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learnt <= set(kept)
    assert not any("resnets" in name for name in kept)
    assert share < 0.9
    again = PromptEditDiffUNet.from_pretrained(str(folder), dtype=torch.float32)
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    half = PromptEditDiffUNet.from_pretrained(folder.parent, subfolder="unet", dtype=torch.float16)
    assert half.dtype == torch.float16


def test_the_whole_layout_still_loads(saved: tuple[Path, Path, PromptEditDiffUNet]) -> None:
    folder, _, model = saved
    again = PromptEditDiffUNet.from_pretrained(str(folder), dtype=torch.float32)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_another_base_or_none_is_refused(saved: tuple[Path, Path, PromptEditDiffUNet]) -> None:
    folder, base, _ = saved
    on_base.leave_out(folder, base)
    where = json.loads((folder / on_base.BASE).read_text())
    assert where["folder"] == "../../base/unet"
    tensors = load_file(base / on_base.TENSORS)
    tensors["conv_out.bias"] += 1
    save_file(tensors, base / on_base.TENSORS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not the base that this network was trained on"):
        PromptEditDiffUNet.from_pretrained(str(folder))
    (base / on_base.TENSORS).unlink()
    with pytest.raises(ValueError, match="is missing"):
        PromptEditDiffUNet.from_pretrained(str(folder))


def test_freezing_leaves_the_convolutions_alone() -> None:
    model = PromptEditDiffUNet.from_base(
        UNet2DConditionModel(**TINY), factor=4, mask_width=16, mask_tokens=4, count=2
    )
    model.freeze_base()
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(model.added()) <= learns
    assert {"unet.conv_in.weight", "unet.conv_in.bias"} <= learns
    assert any(".attentions." in name for name in learns)
    assert not any(".resnets." in name or "conv_out" in name for name in learns)
