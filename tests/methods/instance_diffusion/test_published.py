"""The map of the published weights, with random tensors of their names and shapes.

The list of names and shapes below was derived from the layout of the latent-diffusion UNet of Stable Diffusion 1.5 and
of ConvNeXt-tiny, by hand and not by the map.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.instance_diffusion import published
from methods.weights import WeightsError

# Width of each transformer block, by its place in the published UNet.
INPUTS = {1: 320, 2: 320, 4: 640, 5: 640, 7: 1280, 8: 1280}
OUTPUTS = {3: 1280, 4: 1280, 5: 1280, 6: 640, 7: 640, 8: 640, 9: 320, 10: 320, 11: 320}
# Channels of h before each block of the decoder.
DECODER = (1280, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320)


def layer(name: str, outputs: int, *inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, *inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def fuser(place: str, width: int) -> dict[str, tuple[int, ...]]:
    at = f"{place}.transformer_blocks.0.fuser"
    shapes: dict[str, tuple[int, ...]] = {f"{at}.alpha_attn": (), f"{at}.alpha_dense": ()}
    shapes |= layer(f"{at}.linear", width, 768)
    for name in ("to_q", "to_k", "to_v"):
        shapes |= layer(f"{at}.attn.{name}", width, width, bias=False)
    shapes |= layer(f"{at}.attn.to_out.0", width, width)
    shapes |= layer(f"{at}.ff.net.0.proj", 8 * width, width) | layer(f"{at}.ff.net.2", width, 4 * width)
    return shapes | layer(f"{at}.norm1", width) | layer(f"{at}.norm2", width)


def tokenizer() -> dict[str, tuple[int, ...]]:
    at = "position_net"
    # 16 frequencies, sine and cosine: 128 numbers of a box, 64 of a point, 1,280 of 20 and 16,384 of 256 points.
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}.null_positive_feature": (768,),
        f"{at}.null_position_feature": (128,),
        f"{at}.null_point_feature": (64,),
        f"{at}.null_scribble_feature": (1280,),
        f"{at}.null_polygon_feature": (16384,),
        f"{at}.null_seg_feature": (3072,),
        f"{at}.pos_embedding": (1, 64, 3072),
    }
    for number, inputs in enumerate((768 + 128, 768 + 64, 768 + 1280, 768 + 16384, 3072)):
        shapes |= layer(f"{at}.linears_list.{number}.0", 3072, inputs)
        shapes |= layer(f"{at}.linears_list.{number}.2", 3072, 3072)
        shapes |= layer(f"{at}.linears_list.{number}.4", 768, 3072)
    shapes |= layer(f"{at}.in_conv", 3, 30, 3, 3)
    net, widths = f"{at}.convnext_tiny_backbone", (96, 192, 384, 768)
    shapes |= layer(f"{net}.downsample_layers.0.0", 96, 3, 4, 4) | layer(f"{net}.downsample_layers.0.1", 96)
    for stage, (width, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        if stage:
            shapes |= layer(f"{net}.downsample_layers.{stage}.0", widths[stage - 1])
            shapes |= layer(f"{net}.downsample_layers.{stage}.1", width, widths[stage - 1], 2, 2)
        for block in range(depth):
            name = f"{net}.stages.{stage}.{block}"
            shapes[f"{name}.gamma"] = (width,)
            shapes |= layer(f"{name}.dwconv", width, 1, 7, 7) | layer(f"{name}.norm", width)
            shapes |= layer(f"{name}.pwconv1", 4 * width, width) | layer(f"{name}.pwconv2", width, 4 * width)
    return shapes


def additions() -> dict[str, tuple[int, ...]]:
    shapes = tokenizer()
    for number, width in INPUTS.items():
        shapes |= fuser(f"input_blocks.{number}.1", width)
    shapes |= fuser("middle_block.1", 1280)
    for number, width in OUTPUTS.items():
        shapes |= fuser(f"output_blocks.{number}.1", width)
    for number, width in enumerate(DECODER):
        shapes |= {f"scaleu_b_{number}": (width,), f"scaleu_s_{number}": (1,)}
    return shapes


# Some tensors of the base, which the map leaves out.
BASE = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (320, 320),
    "middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
    "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "time_embed.0.weight": (1280, 320),
    "out.2.weight": (4, 320, 3, 3),
}


@pytest.fixture(scope="module")
def adapter() -> Any:
    """The published additions, without memory for their 0.4 billion numbers."""
    from diffusers import UNet2DConditionModel

    from methods.instance_diffusion.model import InstanceAdapter

    with torch.device("meta"):
        # diffusers' default configuration with the text width of Stable Diffusion 1.5.
        return InstanceAdapter.from_base(UNet2DConditionModel(cross_attention_dim=768), **published.CONFIG)


def test_the_map_is_a_bijection_of_the_additions_with_equal_shapes(adapter: Any) -> None:
    names = additions()
    ours = {name: published.renamed(name) for name in names}
    assert None not in ours.values()
    assert max(Counter(ours.values()).values()) == 1
    own = {name: tuple(value.shape) for name, value in adapter.state_dict().items()}
    assert {ours[name]: shape for name, shape in names.items()} == own
    assert [published.renamed(name) for name in BASE] == [None] * len(BASE)


def test_blocks_lie_where_diffusers_maps_the_base_to() -> None:
    # The base's own converter says where the block around a fuser belongs.
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        theirs = UNet2DConditionModel(cross_attention_dim=768)
    marks: dict[str, Tensor] = {}
    places = [
        *(f"input_blocks.{n}.1" for n in INPUTS),
        "middle_block.1",
        *(f"output_blocks.{n}.1" for n in OUTPUTS),
    ]
    # The converter needs the names of whole blocks.
    for n in range(12):
        marks |= {
            f"input_blocks.{n}.0.x.weight": torch.zeros(1),
            f"output_blocks.{n}.0.x.weight": torch.zeros(1),
        }
    marks |= {f"middle_block.{n}.x.weight": torch.zeros(1) for n in range(3)}
    for name in ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"):
        marks |= {f"{name}.weight": torch.zeros(1), f"{name}.bias": torch.zeros(1)}
    tag = "transformer_blocks.0.norm3.weight"
    marks |= {f"{place}.{tag}": torch.tensor(float(number)) for number, place in enumerate(places)}
    prefixed = {f"model.diffusion_model.{name}": value for name, value in marks.items()}
    converted = convert_ldm_unet_checkpoint(prefixed, dict(theirs.config))
    where = {int(value): name for name, value in converted.items() if name.endswith(tag)}
    for number, place in enumerate(places):
        ours = published.renamed(f"{place}.transformer_blocks.0.fuser.linear.weight")
        block = where[number].removesuffix(".norm3.weight").replace(".", "_")
        assert ours == f"fusers.{block}.linear.weight"


def test_every_tensor_arrives(adapter: Any) -> None:
    # Each tensor is one number, repeated without memory.
    torch.manual_seed(0)
    saved = {name: torch.rand(()).expand(shape) for name, shape in (additions() | BASE).items()}
    state = published.adapter_state(saved)
    adapter.load_state_dict(state, assign=True)
    for name in additions():
        assert torch.equal(state[str(published.renamed(name))], saved[name])


def test_the_average_of_a_training_is_taken(tmp_path: Path) -> None:
    average, plain = {"x": torch.rand(3)}, {"x": torch.rand(3)}
    torch.save({"ema": average, "model": plain, "iters": 3}, tmp_path / "training.pth")
    torch.save({"model": plain}, tmp_path / "model.pth")
    torch.save(plain, tmp_path / "plain.pth")
    save_file(average, tmp_path / "converted.safetensors")
    for name, expected in (
        ("training.pth", average),
        ("model.pth", plain),
        ("plain.pth", plain),
        ("converted.safetensors", average),
    ):
        path = published.find(str(tmp_path / name))
        assert isinstance(path, Path)
        assert torch.equal(published._read(path)["x"], expected["x"])
        assert len(published.identity(str(path))["sha256"]) == 64


def test_files_that_are_no_tensors_or_others_are_refused(tmp_path: Path) -> None:
    from tests.methods.conftest import tiny_components

    unet = tiny_components(4)["unet"]
    torch.save({"ema": nn.Linear(2, 2)}, tmp_path / "objects.pth")
    with pytest.raises(WeightsError, match=r"not read it as plain tensors.*Convert it once"):
        published.load(tmp_path / "objects.pth", unet)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not the published weights"):
        published.load(tmp_path / "other.pth", unet)
