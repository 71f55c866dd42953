from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.blended_diffusion import adm
from tests.methods.blended_diffusion.conftest import TINY, drawn, tiny_unet


def test_the_mapped_network_computes_what_guided_diffusion_computes(
    reference: dict[str, Any], state: dict[str, Tensor]
) -> None:
    unet = adm.load(state, TINY)
    with torch.no_grad():
        output, variance = adm.predict(unet, drawn(8, 2, 3, 16, 16), torch.tensor([17, 801]))
    expected = torch.from_numpy(reference["adm_output"])
    assert expected.std() > 0.5
    assert torch.allclose(torch.cat([output, variance], 1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "change", [{"attn_norm_num_groups": None}, {"freq_shift": 1}, {"flip_sin_to_cos": False}]
)
def test_the_comparison_sees_a_wrong_configuration(
    change: dict[str, Any], reference: dict[str, Any], state: dict[str, Tensor]
) -> None:
    unet = tiny_unet(**change)
    unet.load_state_dict(adm.convert(state, TINY), strict=False)
    with torch.no_grad():
        output, _ = adm.predict(unet, drawn(8, 2, 3, 16, 16), torch.tensor([17, 801]))
    assert (output - torch.from_numpy(reference["adm_output"])[:, :3]).abs().max() > 1e-3


def test_the_comparison_sees_queries_keys_and_values_in_thirds(
    reference: dict[str, Any], state: dict[str, Tensor]
) -> None:
    converted = adm.convert(state, TINY)
    key = "mid_block.attentions.0"
    thirds = state["middle_block.1.qkv.weight"][..., 0].chunk(3)
    for leaf, value in zip(("to_q", "to_k", "to_v"), thirds, strict=True):
        assert not torch.equal(converted[f"{key}.{leaf}.weight"], value)
        converted[f"{key}.{leaf}.weight"] = value
    unet = tiny_unet()
    unet.load_state_dict(converted)
    with torch.no_grad():
        output, _ = adm.predict(unet, drawn(8, 2, 3, 16, 16), torch.tensor([17, 801]))
    assert (output - torch.from_numpy(reference["adm_output"])[:, :3]).abs().max() > 1e-4


def test_the_published_model_has_its_parameters_and_every_tensor_has_one_place(
    reference: dict[str, Any],
) -> None:
    from diffusers import UNet2DModel

    shapes = reference["adm_256_shapes"]
    assert len(shapes) == 566
    with torch.device("meta"):
        unet = UNet2DModel(**adm.unet_config(adm.ADM_256))
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
    assert sum(p.numel() for p in unet.parameters()) == 552_814_086
    converted = adm.convert(state, adm.ADM_256)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in unet.state_dict().items()}
    # Each of the 566 becomes one tensor, and each fused qkv (weight or bias) three.
    fused = sum(".qkv." in key for key in shapes)
    assert len(converted) == 566 + 2 * fused
    places = adm.modules(adm.ADM_256)
    assert len(set(places.values())) == len(places)
    assert sum(v.numel() for v in converted.values()) == 552_814_086


def test_loading_is_strict_and_names_the_culprit(state: dict[str, Tensor]) -> None:
    without = {k: v for k, v in state.items() if k != "input_blocks.1.0.in_layers.2.weight"}
    with pytest.raises(ValueError, match=r"x\.pt: 1 tensors are missing.*down_blocks\.0\.resnets\.0\.conv1"):
        adm.load(without, TINY, "x.pt")
    with pytest.raises(ValueError, match=r"1 tensors are not of this ADM, the first 'label_emb\.weight'"):
        adm.load({**state, "label_emb.weight": torch.zeros(2, 2)}, TINY)
    with pytest.raises(
        ValueError, match=r"'conv_out\.weight'.*shape \(3, 32, 3, 3\), expected \(6, 32, 3, 3\)"
    ):
        adm.load({**state, "out.2.weight": state["out.2.weight"][:3]}, TINY)
    # A residual block of one width has no shortcut; the mapping names a place for it all the same.
    with pytest.raises(ValueError, match=r"holds 'mid_block\.resnets\.0\.conv_shortcut\.weight'"):
        adm.load({**state, "middle_block.0.skip_connection.weight": torch.zeros(64, 64, 1, 1)}, TINY)


def test_a_file_is_read_as_tensors_only(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "good.pt")
    unet = adm.load_file(tmp_path / "good.pt", TINY)
    assert torch.equal(unet.conv_in.weight, state["input_blocks.0.0.weight"])
    assert not unet.training
    assert not any(p.requires_grad for p in unet.parameters())
    torch.save({"weights": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code\.pt: not a file of plain tensors"):
        adm.load_file(tmp_path / "code.pt", TINY)
    torch.save({"step": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: expected a state dict"):
        adm.load_file(tmp_path / "other.pt", TINY)


def test_patches_are_the_pixels_of_a_square_and_outputs_keep_their_place() -> None:
    """A network that returns its input, the variances' half negated, is the identity whatever the patch."""

    class Echo:
        dtype = torch.float32

        def __init__(self, patch: int) -> None:
            self.config = {"in_channels": 3 * patch**2, "out_channels": 6 * patch**2}

        def __call__(self, x: Tensor, t: Tensor) -> Any:
            assert x.shape[1] == self.config["in_channels"]
            return type("Output", (), {"sample": torch.cat([x, -x], 1)})

    x = drawn(1, 2, 3, 8, 8)
    for patch in (1, 2, 4):
        echo: Any = Echo(patch)
        output, variance = adm.predict(echo, x, torch.tensor([0, 0]))
        assert torch.equal(output, x)
        assert torch.equal(variance, -x)


@pytest.mark.parametrize("channels", [(4, 8), (3, 3), (12, 12), (0, 0), (6, 12)])
def test_channels_that_no_such_model_has_are_refused(channels: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="learnt sigma"):
        adm.patch_of(*channels)
