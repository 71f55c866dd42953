"""Rewards learned from people: their formulas with random weights, against open_clip, transformers and torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.metrics import rewards
from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipNet, ClipSpec
from bench.metrics.networks.weights import WeightFile, weights_folder
from bench.metrics.types import MetricError, NoValue, Pair, RgbImage

PROMPTS = ["a red car", "a dog on a green meadow"]


@pytest.fixture
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    images = [RgbImage(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)) for _ in range(4)]
    return [
        Pair(source=images[k], edited=images[2 + k], mask=None, target_prompt=prompt)
        for k, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture
def transformers_clip(tmp_path: Path) -> tuple[Any, ClipSpec]:
    """A small CLIP of transformers with random weights, and the spec that loads its file into open_clip."""
    import open_clip
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    shared = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**shared, "hidden_act": "gelu", "max_position_embeddings": 16},
        vision_config={**shared, "hidden_act": "gelu", "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn_like(values) * 0.1)
        model.logit_scale.fill_(3.0)
    tower = {"layers": 2, "width": 32}
    (tmp_path / "small-clip-of-transformers.json").write_text(
        json.dumps(
            {
                "embed_dim": 24,
                "vision_cfg": {**tower, "image_size": 32, "patch_size": 8, "head_width": 16},
                "text_cfg": {**tower, "context_length": 16, "vocab_size": 49408, "heads": 2},
            }
        )
    )
    open_clip.add_model_config(tmp_path)
    weights_folder().mkdir(parents=True, exist_ok=True)
    save_file(
        {name: values.contiguous() for name, values in model.state_dict().items()},
        weights_folder() / "small.safetensors",
    )
    file = WeightFile("small.safetensors", "", "https://example.org/small.safetensors", ())
    return model, ClipSpec("small-clip-of-transformers", file=file)


def test_weights_of_transformers_give_the_same_features(transformers_clip: tuple[Any, ClipSpec]) -> None:
    model, spec = transformers_clip
    net = ClipNet(spec)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 32, 3), dtype=np.uint8))
    prepared = net.prepare(image)
    tokens = spec.tokenizer(PROMPTS)
    with torch.no_grad():
        of_image = model.visual_projection(model.vision_model(pixel_values=prepared[None]).pooler_output)
        of_texts = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    for ours, theirs in ((net.encode_images([prepared]), of_image), (net.encode_texts(PROMPTS), of_texts)):
        assert ours == pytest.approx(torch.nn.functional.normalize(theirs).numpy(), abs=1e-5)


def test_pick_score_is_the_cosine_times_the_exponential_of_the_scale(
    transformers_clip: tuple[Any, ClipSpec], pairs: list[Pair]
) -> None:
    _, spec = transformers_clip
    features, net = Features(pick_score=spec), ClipNet(spec)
    images = net.encode_images([net.prepare(Image.fromarray(pair.edited.pixels)) for pair in pairs])
    expected = math.exp(3.0) * (images * net.encode_texts(PROMPTS)).sum(axis=1)
    assert rewards.PickScore(features).score(pairs) == pytest.approx(expected.tolist(), abs=1e-4)


def test_an_image_is_padded_where_its_longer_side_is_resized(transformers_clip: tuple[Any, ClipSpec]) -> None:
    spec = replace(transformers_clip[1], resize="longest")
    prepared = ClipNet(spec).prepare(Image.new("RGB", (64, 32), "white"))
    assert prepared.shape == (3, 32, 32)
    brightness = prepared.mean(dim=(0, 2)).numpy()
    assert (brightness[:8] < 0).all()
    assert (brightness[8:24] > 0).all()
    assert (brightness[24:] < 0).all()
    assert spec.identity != transformers_clip[1].identity


def test_hps_is_100_times_the_cosine(clip_folder: Path, pairs: list[Pair]) -> None:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    with torch.no_grad():
        images = model.eval().encode_image(
            torch.stack([transform(Image.fromarray(pair.edited.pixels)) for pair in pairs])
        )
        texts = model.encode_text(tokenizer(PROMPTS))
    expected = 100 * torch.nn.functional.cosine_similarity(images, texts)
    metric = rewards.HpsV21(Features(hps_v21=ClipSpec(folder=str(clip_folder))))
    assert metric.score(pairs) == pytest.approx(expected.tolist(), abs=1e-4)
    long = replace(pairs[0], target_prompt="car " * 40)
    assert metric.score([long]) == [NoValue("a prompt is longer than the 16 tokens that hps_v21 reads")]


def test_the_aesthetic_score_is_that_of_the_published_layers(
    clip_folder: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "LAION_HEAD", replace(rewards.LAION_HEAD, sha256=""))
    torch.manual_seed(2)
    layers = torch.nn.Sequential(
        torch.nn.Linear(24, 12),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(12, 8),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, 6),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(6, 4),
        torch.nn.Linear(4, 1),
    ).eval()
    weights_folder().mkdir(parents=True, exist_ok=True)
    state = {f"layers.{name}": values for name, values in layers.state_dict().items()}
    torch.save(state, weights_folder() / rewards.LAION_HEAD.name)
    spec = ClipSpec(folder=str(clip_folder))
    net = ClipNet(spec)
    rows = net.encode_images([net.prepare(Image.fromarray(pair.edited.pixels)) for pair in pairs])
    with torch.no_grad():
        expected = layers(torch.from_numpy(rows))[:, 0].tolist()
    features = Features(clip_l14=spec)
    assert rewards.LaionAesthetic(features).score(pairs) == pytest.approx(expected, abs=1e-5)
    # A head for another CLIP.
    torch.save({**state, "layers.0.weight": torch.zeros(12, 768)}, weights_folder() / rewards.LAION_HEAD.name)
    with pytest.raises(MetricError, match="reads 768 numbers"):
        rewards.LaionAesthetic(features).score(pairs)


def test_image_reward_has_no_value_for_a_prompt_that_is_cut(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tokenizer:
        def cut(self, prompts: list[str]) -> list[bool]:
            return [prompt == PROMPTS[0] for prompt in prompts]

    class Net:
        tokenizer = Tokenizer()

        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def rewards(self, images: list[torch.Tensor], prompts: list[str]) -> list[float]:
            assert prompts == [PROMPTS[1]]
            assert torch.equal(images[0], rewards.blip.prepare(Image.fromarray(pairs[1].edited.pixels)))
            return [0.5]

    monkeypatch.setattr(rewards.blip, "ImageRewardNet", Net)
    monkeypatch.setattr(rewards.blip, "identity", lambda: "x")
    values = rewards.ImageReward(Features()).score(pairs)
    assert values == [NoValue("the prompt is longer than the 35 tokens that ImageReward reads"), 0.5]


def test_missing_weights_are_named() -> None:
    features = Features()
    names = {
        rewards.HpsV21: "HPS_v2.1_compressed.pt",
        rewards.PickScore: "PickScore_v1.safetensors",
        rewards.ImageReward: "ImageReward.pt",
        rewards.LaionAesthetic: "sac+logos+ava1-l14-linearMSE.pth",
    }
    for metric, name in names.items():
        assert any(name in str(problem) for problem in metric.problems(features)), metric.name
