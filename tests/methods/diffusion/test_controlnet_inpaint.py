from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.downloads import HubFiles, MissingFiles
from bench.edit import Runtime
from methods import published
from methods.diffusion.control import control_images
from methods.diffusion.stable_diffusion import ControlNetInpaint
from tests.methods.conftest import SIZE, box_mask, picture, request, tiny_components
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def tiny_control(cross_attention_dim: int = 32, widths: tuple[int, ...] = (16, 32)) -> Any:
    """Random everywhere, its closing convolutions too: those of a fresh ControlNet are zero."""
    from diffusers import ControlNetModel

    torch.manual_seed(1)
    control = ControlNetModel(
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
        conditioning_embedding_out_channels=widths,
    )
    for module in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(module.weight, std=0.2)
    torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.2)
    return control.eval()


@pytest.fixture(scope="module")
def control_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("control")
    tiny_control().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def method(tiny_folder: Folder, control_folder: str) -> ControlNetInpaint:
    return make(tiny_folder(4), control_folder)


def make(base: str, control: str, **options: Any) -> ControlNetInpaint:
    method_options = ControlNetInpaint.Options(
        **{"weights": base, "controlnet": control, "steps": 3} | options
    )
    return ControlNetInpaint(method_options, Runtime())


def test_the_control_is_minus_one_where_it_is_to_be_edited() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[16:48, 8:40] = True
    control = control_images([picture(0), picture(1)], [mask, ~mask])
    assert control.shape == (2, 3, SIZE, SIZE)
    assert control.dtype == torch.float32
    source = torch.from_numpy(np.asarray(picture(0), np.float32) / 255).permute(2, 0, 1)
    outside = torch.from_numpy(~mask)
    assert (control[0][:, ~outside] == -1).all()
    assert torch.equal(control[0][:, outside], source[:, outside])
    assert (control[1][:, outside] == -1).all()


@pytest.mark.parametrize("in_channels", [4, 9])
def test_is_the_bare_pipeline(tiny_folder: Folder, control_folder: str, in_channels: int) -> None:
    from diffusers import StableDiffusionControlNetInpaintPipeline

    pipeline = StableDiffusionControlNetInpaintPipeline(
        **tiny_components(in_channels),
        controlnet=tiny_control(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    mask = box_mask(8, 16, 40, 48)
    control = torch.from_numpy(np.asarray(picture(5), np.float32) / 255).permute(2, 0, 1)[None].clone()
    control[:, :, 16:48, 8:40] = -1
    (expected,) = pipeline(
        prompt="a face with a hat 5",
        image=picture(5),
        mask_image=mask,
        control_image=control,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
    ).images
    (edited,) = make(tiny_folder(in_channels), control_folder).edit([request(5, mask)])
    assert edited.tobytes() == expected.tobytes()


def test_the_network_sees_the_control_as_it_is(method: ControlNetInpaint) -> None:
    inputs: list[torch.Tensor] = []
    handle = method.pipeline.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["controlnet_cond"].clone()), with_kwargs=True
    )
    thin = request(0, box_mask(21, 0, 22, SIZE))  # the exact mask, whatever the latent grid makes of it
    method.edit([thin])
    handle.remove()
    masked = (inputs[0][0] == -1).all(dim=0)
    assert torch.equal(masked, torch.from_numpy(np.asarray(thin.mask) == 255))


def test_every_option_has_an_effect(
    tiny_folder: Folder, control_folder: str, method: ControlNetInpaint
) -> None:
    base = small(1, box_mask(9, 9, 21, 21, SMALL))
    one = method.edit([base])[0].tobytes()
    for options in (
        {"control_scale": 1.0},
        {"control_scale": 0.0},
        {"negative_prompt": "blurry"},
        {"guidance": 1.0},
        {"mask_cells": "cover"},
        {"scheduler": "euler_a"},
        {"strength": 0.5},
        {"prompt_field": "region_prompt"},
        {"paste": True},
    ):
        assert make(tiny_folder(4), control_folder, **options).edit([base])[0].tobytes() != one, options


def test_the_part_may_lie_in_a_folder_of_its_own(
    tmp_path: Path, tiny_folder: Folder, method: ControlNetInpaint
) -> None:
    tiny_control().save_pretrained(tmp_path / "whole" / "controlnet")
    other = make(tiny_folder(4), str(tmp_path / "whole"))
    assert other.edit([request(1)])[0].tobytes() == method.edit([request(1)])[0].tobytes()


def test_both_weights_are_its_identity(tiny_folder: Folder, control_folder: str, tmp_path: Path) -> None:
    options = ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=control_folder)
    identity = ControlNetInpaint.identity(options)
    assert set(identity) == {"sha256", "controlnet_sha256"}
    with torch.no_grad():
        control = tiny_control()
        control.controlnet_mid_block.bias += 1
    control.save_pretrained(tmp_path / "other")
    other = ControlNetInpaint.identity(
        ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=str(tmp_path / "other"))
    )
    assert other["sha256"] == identity["sha256"]
    assert other["controlnet_sha256"] != identity["controlnet_sha256"]


def test_missing_weights_say_what_to_fetch(tiny_folder: Folder) -> None:
    base, control = ControlNetInpaint.problems(ControlNetInpaint.Options())
    assert "'stable-diffusion-v1-5/stable-diffusion-v1-5' at revision" in base
    revision = published.PUBLIC["lllyasviel/control_v11p_sd15_inpaint"].revision
    for needed in (
        f"'lllyasviel/control_v11p_sd15_inpaint' at revision {revision}",
        "0.72 GB",
        "OpenRAIL",
        "run_bench.py fetch",
    ):
        assert needed in control
    assert isinstance(control, MissingFiles)
    (files,) = control.downloads
    assert isinstance(files, HubFiles)
    assert files.patterns == ("config.json", "diffusion_pytorch_model.fp16.safetensors")
    (only,) = ControlNetInpaint.problems(ControlNetInpaint.Options(weights=tiny_folder(4)))
    assert only == control


def test_an_incomplete_or_unfit_control_is_refused(
    tmp_path: Path, tiny_folder: Folder, control_folder: str
) -> None:
    tiny_control().save_pretrained(tmp_path / "part")
    (tmp_path / "part" / "diffusion_pytorch_model.safetensors").unlink()
    options = ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=str(tmp_path / "part"))
    (problem,) = ControlNetInpaint.problems(options)
    assert "lacks controlnet/diffusion_pytorch_model.safetensors" in problem
    tiny_control(cross_attention_dim=16).save_pretrained(tmp_path / "narrow")
    options = ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=str(tmp_path / "narrow"))
    (problem,) = ControlNetInpaint.problems(options)
    assert "does not fit" in problem
    assert "cross_attention_dim is 16 and 32" in problem
    # Three widths halve the control twice, and the autoencoder halves once.
    tiny_control(widths=(16, 32, 96)).save_pretrained(tmp_path / "small")
    options = ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=str(tmp_path / "small"))
    (problem,) = ControlNetInpaint.problems(options)
    assert "it reduces images by 4, the autoencoder by 2" in problem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_scale": -1.0}, "control_scale -1.0"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, control_folder: str, options: dict[str, Any], message: str
) -> None:
    method_options = ControlNetInpaint.Options(weights=tiny_folder(4), controlnet=control_folder, **options)
    (problem,) = ControlNetInpaint.problems(method_options)
    assert message in problem
    with pytest.raises(ValueError, match=message):
        ControlNetInpaint(method_options, Runtime())
