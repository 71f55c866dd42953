from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from methods.glide.config import BASE, UPSAMPLER, UNetConfig, from_json, to_json
from methods.glide.unet import AttentionBlock, GlideUNet, ResBlock, timestep_embedding
from methods.weights import WeightsError
from tests.methods.glide import seeded


def on_meta(config: UNetConfig) -> GlideUNet:
    with torch.device("meta"):
        return GlideUNet(config)


def attending(stages: torch.nn.ModuleList) -> list[int]:
    return [i for i, stage in enumerate(stages) if any(isinstance(layer, AttentionBlock) for layer in stage)]


@pytest.mark.parametrize(
    ("config", "parameters", "keys", "blocks", "attention_in", "attention_out"),
    [
        (BASE, 385_037_638, 783, 16, [5, 6, 7, 9, 10, 11, 13, 14, 15], list(range(12))),
        (UPSAMPLER, 398_368_198, 797, 18, [10, 11, 13, 14, 16, 17], list(range(9))),
    ],
    ids=["base", "upsampler"],
)
def test_the_published_networks_have_their_size_and_blocks(
    config: UNetConfig,
    parameters: int,
    keys: int,
    blocks: int,
    attention_in: list[int],
    attention_out: list[int],
) -> None:
    network = on_meta(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == keys
    assert len(network.input_blocks) == len(network.output_blocks) == blocks
    assert attending(network.input_blocks) == attention_in
    assert attending(network.output_blocks) == attention_out


def test_parameters_have_the_published_names_and_shapes() -> None:
    base = {name: tuple(value.shape) for name, value in on_meta(BASE).state_dict().items()}
    upsampler = on_meta(UPSAMPLER).state_dict()
    expected = {
        "token_embedding.weight": (50257, 512),
        "positional_embedding": (128, 512),
        "padding_embedding": (128, 512),
        "time_embed.0.weight": (768, 192),
        "time_embed.2.weight": (768, 768),
        "transformer.resblocks.15.attn.c_qkv.weight": (1536, 512),
        "transformer.resblocks.0.attn.c_proj.bias": (512,),
        "transformer.resblocks.0.ln_1.weight": (512,),
        "transformer.resblocks.0.ln_2.bias": (512,),
        "transformer.resblocks.0.mlp.c_fc.weight": (2048, 512),
        "transformer.resblocks.0.mlp.c_proj.weight": (512, 2048),
        "final_ln.weight": (512,),
        "transformer_proj.weight": (768, 512),
        "input_blocks.0.0.weight": (192, 7, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (192,),
        "input_blocks.1.0.in_layers.2.weight": (192, 192, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (384, 768),
        "input_blocks.1.0.out_layers.0.weight": (192,),
        "input_blocks.1.0.out_layers.3.weight": (192, 192, 3, 3),
        "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),  # down
        "input_blocks.5.0.skip_connection.weight": (384, 192, 1, 1),
        "input_blocks.5.1.norm.weight": (384,),
        "input_blocks.5.1.qkv.weight": (1152, 384, 1),
        "input_blocks.5.1.encoder_kv.weight": (768, 512, 1),
        "input_blocks.5.1.proj_out.weight": (384, 384, 1),
        "middle_block.0.in_layers.2.weight": (768, 768, 3, 3),
        "middle_block.1.qkv.weight": (2304, 768, 1),
        "middle_block.2.out_layers.3.bias": (768,),
        "output_blocks.3.2.in_layers.2.weight": (768, 768, 3, 3),  # up, after the attention
        "output_blocks.15.0.skip_connection.weight": (192, 384, 1, 1),
        "out.0.weight": (192,),
        "out.2.weight": (6, 192, 3, 3),
    }
    assert {name: base.get(name) for name in expected} == expected
    assert tuple(upsampler["input_blocks.0.0.weight"].shape) == (192, 10, 3, 3)
    # Without attention the up block comes second.
    assert "output_blocks.11.1.in_layers.2.weight" in upsampler
    assert "output_blocks.11.2.in_layers.2.weight" not in upsampler


def test_the_time_embedding_is_cosines_then_sines() -> None:
    result = timestep_embedding(torch.tensor([0, 1, 500]), 6)
    rates = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    for row, t in zip(result, (0.0, 1.0, 500.0), strict=True):
        assert torch.allclose(row, torch.cat([(t * rates).cos(), (t * rates).sin()]), atol=1e-4)


def test_the_text_beyond_the_prompt_does_not_matter_and_its_place_does() -> None:
    network = GlideUNet(seeded.BASE)
    network.load_state_dict(seeded.weights(network.state_dict(), 7))
    example = seeded.inputs("base")
    present = example["present"].clone()
    other = example["tokens"].clone()
    other[~present] = 3
    with torch.no_grad():
        one = network.encode_text(example["tokens"], present)
        same = network.encode_text(other, present)
        shorter = present.clone()
        shorter[0, 5] = False
        cut = network.encode_text(example["tokens"], shorter)
    assert torch.equal(one.sequence, same.sequence)
    assert not torch.allclose(one.sequence[0], cut.sequence[0])


def test_known_pixels_alone_are_seen() -> None:
    """What the image shows where nothing is known must not reach the network: in an edit it is the old picture."""
    network = GlideUNet(seeded.BASE).eval()
    network.load_state_dict(seeded.weights(network.state_dict(), 7))
    example = seeded.inputs("base")
    text = network.encode_text(example["tokens"], example["present"])
    changed = example["image"] + 5 * (1 - example["known"])
    with torch.no_grad():
        one = network(example["x"], example["t"], text, example["image"], example["known"])
        two = network(example["x"], example["t"], text, changed, example["known"])
    assert torch.equal(one, two)


def test_an_untrained_network_predicts_nothing_and_every_parameter_learns() -> None:
    network = GlideUNet(replace(seeded.BASE, dropout=0.0))
    example = seeded.inputs("base")

    def forward() -> torch.Tensor:
        text = network.encode_text(example["tokens"], example["present"])
        out: torch.Tensor = network(example["x"], example["t"], text, example["image"], example["known"])
        return out

    assert not forward().any()
    network.load_state_dict(seeded.weights(network.state_dict(), 7))
    forward().square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_low_res_is_the_upsamplers() -> None:
    example = seeded.inputs("upsampler")
    for config, low in ((seeded.BASE, example["low_res"]), (seeded.UPSAMPLER, None)):
        network = GlideUNet(config)
        text = network.encode_text(example["tokens"], example["present"])
        with pytest.raises(ValueError, match="low_res is for the upsampler"):
            network(example["x"], example["t"], text, low_res=low)


def test_blocks_resample_both_of_their_branches() -> None:
    x, emb = torch.randn(1, 32, 8, 8), torch.randn(1, 128)
    with torch.no_grad():
        # Untrained, a block is its skip connection.
        down = ResBlock(32, 32, seeded.BASE, down=True)(x, emb)
        up = ResBlock(32, 32, seeded.BASE, up=True)(x, emb)
    assert torch.allclose(down[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert torch.equal(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_config_survives_json_and_a_wrong_one_is_named() -> None:
    for config in (BASE, UPSAMPLER, seeded.UPSAMPLER):
        assert from_json(to_json(config), "f") == config
        assert config.problems() == []
    good = to_json(BASE)
    for change, message in (
        ({"_class_name": "UNet2DModel"}, "f: a UNet2DModel"),
        ({"channels": "192"}, "f: channels: .*integer.*got '192'"),
        ({"channels": True}, "f: channels: .*integer.*got True"),
        ({"kind": "middle"}, "f: kind: .*'base' or 'upsampler', got 'middle'"),
        ({"schedule": "cosine"}, "f: schedule: .*got 'cosine'"),
        ({"depth": 3}, "f: unknown depth"),
        ({"channels": 200}, "do not divide into norm_groups"),
        ({"attention_factors": [16]}, "the levels are"),
        ({"image_size": 60}, "multiple of 8"),
        ({"text_heads": 7}, "does not divide into 7 heads"),
        ({"res_blocks": 0}, "res_blocks: expected a number above 0"),
    ):
        with pytest.raises(WeightsError, match=message):
            from_json(good | change, "f")
    with pytest.raises(WeightsError, match="image_size: Field required"):
        from_json({name: value for name, value in good.items() if name != "image_size"}, "f")
