"""ImageReward's network at a small size, compared with a forward pass in plain tensor operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bench.metrics.networks import blip
from bench.metrics.networks.weights import weights_folder
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    from torch import Tensor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "car", "on", "snow", "##y", "road"]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": len(WORDS) + 2,
}
HEAD = (48, 10, 8, 6, 4, 1)


def random_state() -> dict[str, Tensor]:
    """Random weights under the names of the published file."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual_encoder.cls_token": (1, 1, 32),
        "visual_encoder.pos_embed": (1, 197, 32),
        "visual_encoder.patch_embed.proj.weight": (32, 3, 16, 16),
        "visual_encoder.patch_embed.proj.bias": (32,),
        "text_encoder.embeddings.word_embeddings.weight": (TEXT["vocab_size"], 48),
        "text_encoder.embeddings.position_embeddings.weight": (512, 48),
    }
    linear = {}
    for n in range(2):
        block, layer = f"visual_encoder.blocks.{n}.", f"text_encoder.encoder.layer.{n}."
        linear |= {
            f"{block}attn.qkv": (96, 32),
            f"{block}attn.proj": (32, 32),
            f"{block}mlp.fc1": (64, 32),
            f"{block}mlp.fc2": (32, 64),
            f"{layer}intermediate.dense": (96, 48),
            f"{layer}output.dense": (48, 96),
        }
        for kind, width in (("attention", 48), ("crossattention", 32)):
            linear |= {
                f"{layer}{kind}.self.query": (48, 48),
                f"{layer}{kind}.self.key": (48, width),
                f"{layer}{kind}.self.value": (48, width),
                f"{layer}{kind}.output.dense": (48, 48),
            }
            shapes |= dict.fromkeys(
                [f"{layer}{kind}.output.LayerNorm.weight", f"{layer}{kind}.output.LayerNorm.bias"], (48,)
            )
        shapes |= dict.fromkeys(
            [f"{block}norm{k}.{part}" for k in (1, 2) for part in ("weight", "bias")], (32,)
        )
        shapes |= dict.fromkeys([f"{layer}output.LayerNorm.{part}" for part in ("weight", "bias")], (48,))
    shapes |= dict.fromkeys([f"visual_encoder.norm.{part}" for part in ("weight", "bias")], (32,))
    shapes |= dict.fromkeys(
        [f"text_encoder.embeddings.LayerNorm.{part}" for part in ("weight", "bias")], (48,)
    )
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    state = {f"blip.{name}": torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    for position, (inner, outer) in zip((0, 2, 4, 6, 7), pairwise(HEAD), strict=True):
        state[f"mlp.layers.{position}.weight"] = torch.randn((outer, inner), generator=generator)
        state[f"mlp.layers.{position}.bias"] = torch.randn((outer,), generator=generator)
    # Older files have this constant too.
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    return state


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights of a small network, stored in the places of the published files."""
    monkeypatch.setattr(blip, "_VISION", VISION)
    monkeypatch.setattr(blip, "_TEXT", TEXT)
    monkeypatch.setattr(blip, "BERT_VOCABULARY", replace(blip.BERT_VOCABULARY, sha256=""))
    weights_folder().mkdir(parents=True, exist_ok=True)
    (weights_folder() / blip.BERT_VOCABULARY.name).write_text("\n".join(WORDS) + "\n")
    weights = random_state()
    torch.save(weights, weights_folder() / blip.IMAGE_REWARD.name)
    return weights


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Any = 0) -> Tensor:
    """Softmax attention of ``(T, D)`` with ``heads`` heads."""
    split = [x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k, v)]
    scores = split[0] @ split[1].transpose(1, 2) / split[0].shape[-1] ** 0.5 + bias
    return (scores.softmax(-1) @ split[2]).transpose(0, 1).reshape(len(q), -1)


def expected_reward(state: Mapping[str, Tensor], pixels: Tensor, ids: Sequence[int]) -> float:
    """The published forward pass of one image ``(3, 224, 224)`` and one prompt, in float64."""
    w = {name.removeprefix("blip."): values.double() for name, values in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    # Image.
    name = "visual_encoder."
    patches = F.conv2d(
        pixels[None].double(), w[f"{name}patch_embed.proj.weight"], w[f"{name}patch_embed.proj.bias"], 16
    )
    image = torch.cat([w[f"{name}cls_token"][0], patches[0].flatten(1).T]) + w[f"{name}pos_embed"][0]
    for n in range(2):
        block = f"{name}blocks.{n}."
        q, k, v = linear(f"{block}attn.qkv", norm(f"{block}norm1", image, 1e-6)).chunk(3, dim=1)
        image = image + linear(f"{block}attn.proj", attended(q, k, v, 2))
        inner = F.gelu(linear(f"{block}mlp.fc1", norm(f"{block}norm2", image, 1e-6)))
        image = image + linear(f"{block}mlp.fc2", inner)
    image = norm(f"{name}norm", image, 1e-6)

    # Text. The padding is left out, which is what the attention mask does.
    name = "text_encoder."
    text = w[f"{name}embeddings.word_embeddings.weight"][list(ids)]
    text = text + w[f"{name}embeddings.position_embeddings.weight"][: len(ids)]
    text = norm(f"{name}embeddings.LayerNorm", text, 1e-12)
    for n in range(2):
        layer = f"{name}encoder.layer.{n}."
        for kind, context in (("attention", None), ("crossattention", image)):
            seen = text if context is None else context
            parts = [
                linear(f"{layer}{kind}.self.{part}", x)
                for part, x in (("query", text), ("key", seen), ("value", seen))
            ]
            output = linear(f"{layer}{kind}.output.dense", attended(parts[0], parts[1], parts[2], 3))
            text = norm(f"{layer}{kind}.output.LayerNorm", text + output, 1e-12)
        output = linear(f"{layer}output.dense", F.gelu(linear(f"{layer}intermediate.dense", text)))
        text = norm(f"{layer}output.LayerNorm", text + output, 1e-12)

    # Head.
    value = text[0]
    for position in (0, 2, 4, 6, 7):
        value = linear(f"mlp.layers.{position}", value)
    return (value.item() - 0.16717362830052426) / 1.0333394966054072


def test_rewards_are_those_of_the_published_forward_pass(state: dict[str, Tensor]) -> None:
    net = blip.ImageRewardNet()
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 300, 3), dtype=np.uint8)
    images = [blip.prepare(Image.fromarray(pixels)) for pixels in noise]
    assert images[0].shape == (3, 224, 224)
    # The middle of the wider side, normalised.
    first = (noise[0, 0, 38] / 255 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert images[0][:, 0, 0].numpy() == pytest.approx(first, abs=1e-5)
    # "snowy" is two pieces, and an unknown word is one token.
    prompts = ["a red Car on snowy road", "a zebra"]
    ids = [[2, 5, 6, 7, 8, 9, 10, 11, 3], [2, 5, 1, 3]]
    expected = [expected_reward(state, image, row) for image, row in zip(images, ids, strict=True)]
    assert abs(expected[0] - expected[1]) > 0.1
    assert net.rewards(images, prompts) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_prompts_that_are_longer_than_35_tokens_are_cut(state: dict[str, Tensor]) -> None:
    # Two of the 35 tokens begin and end the prompt.
    assert blip.BertTokenizer().cut(["car " * 33, "car " * 34]) == [False, True]


def test_missing_and_wrong_files_are_named(state: dict[str, Tensor]) -> None:
    assert blip.problems() == []
    torch.save({"blip.visual_encoder.cls_token": torch.zeros(1)}, weights_folder() / "ImageReward.pt")
    with pytest.raises(MetricError, match=r"ImageReward\.pt does not hold ImageReward"):
        blip.ImageRewardNet()
    (weights_folder() / "ImageReward.pt").unlink()
    (problem,) = blip.problems()
    assert "ImageReward.pt is not on this machine" in str(problem)
