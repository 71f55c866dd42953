"""VQAScore by a tiny InstructBLIP with random weights, against the class's own forward pass."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.downloads import MissingFiles
from bench.metrics.features import Features
from bench.metrics.networks import blip, vqa
from bench.metrics.networks.weights import weights_folder
from bench.metrics.rewards import VqaScoreInstructBlip
from bench.metrics.types import MetricError, NoValue, Pair, RgbImage

PROMPTS = ["a red car", "two small dogs on a green meadow"]
QUESTION_WORDS = 'Question : Does this figure show " ? Please answer yes or no .'
WORDS = [*QUESTION_WORDS.split(), *" ".join(PROMPTS).split()]
IMAGE_TOKEN = 3


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model of the published class, stored where the metric looks."""
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    monkeypatch.setattr(vqa, "_hub_snapshot", lambda: None)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InstructBlipConfig(
        vision_config={**size, "image_size": 224, "patch_size": 56},
        qformer_config={**size, "vocab_size": 64, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config={
            "model_type": "t5", "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
            "vocab_size": 64, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu",
        },
        num_query_tokens=4,
        image_token_index=IMAGE_TOKEN,
    )  # fmt: skip
    net = InstructBlipForConditionalGeneration(config).eval()
    with torch.no_grad():
        for values in net.parameters():
            values.add_(torch.randn_like(values) * 0.2)
    folder = weights_folder() / "instructblip-flan-t5-xl"
    net.save_pretrained(folder)
    # T5 ends a text with </s>, BERT encloses it.
    _tokenizer("$A </s>").save_pretrained(folder)
    _tokenizer("[CLS] $A [SEP]").save_pretrained(folder / "qformer_tokenizer")
    return net


def _tokenizer(template: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>", "<image>", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, vocabulary[name]) for name in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    images = [RgbImage(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)) for _ in range(4)]
    return [
        Pair(source=images[k], edited=images[2 + k], mask=None, target_prompt=prompt)
        for k, prompt in enumerate(PROMPTS)
    ]


def expected(net: Any, pair: Pair) -> float:
    """exp(-loss) of the class itself, with the image's tokens among those of the text."""
    text, query = _tokenizer("$A </s>"), _tokenizer("[CLS] $A [SEP]")
    question = f'Question: Does this figure show "{pair.target_prompt}"? Please answer yes or no.'
    ids = text(question)["input_ids"]
    with torch.no_grad():
        output = net(
            pixel_values=blip.prepare(Image.fromarray(pair.edited.pixels))[None],
            qformer_input_ids=torch.tensor([query(question)["input_ids"]]),
            input_ids=torch.tensor([[IMAGE_TOKEN] * 4 + ids]),
            labels=torch.tensor([text("yes")["input_ids"]]),
        )
    return math.exp(-float(output.loss))


def test_the_score_is_that_of_the_models_own_loss_whatever_the_batch(model: Any, pairs: list[Pair]) -> None:
    assert VqaScoreInstructBlip.problems(Features()) == []
    metric = VqaScoreInstructBlip(Features())
    values = metric.score(pairs)
    assert values == pytest.approx([expected(model, pair) for pair in pairs], rel=1e-4)
    assert len({round(float(value), 6) for value in values}) == 2  # type: ignore[arg-type]
    assert [metric.score([pair])[0] for pair in pairs] == pytest.approx(values, rel=1e-5)
    assert metric.version.startswith("1-") or "instructblip-flan-t5-xl" in metric.version


def test_a_question_that_is_too_long_has_no_value(model: Any, pairs: list[Pair]) -> None:
    long = Pair(pairs[0].source, pairs[0].edited, None, target_prompt="car " * 200)
    first, second = VqaScoreInstructBlip(Features()).score([long, pairs[1]])
    assert first == NoValue("the question has more than the 128 tokens that InstructBLIP reads")
    assert isinstance(second, float)


def test_missing_files_are_a_download_and_other_files_one_error(model: Any) -> None:
    folder = weights_folder() / "instructblip-flan-t5-xl"
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(MetricError, match=r"does not hold Salesforce/instructblip.*Delete it"):
        vqa.VqaNet()
    (folder / "model.safetensors").unlink()
    (problem,) = VqaScoreInstructBlip.problems(Features())
    assert isinstance(problem, MissingFiles)
    assert problem.downloads == (vqa.FILES,)
    with pytest.raises(MetricError, match="is not on this machine"):
        vqa.identity()


def test_a_folder_needs_every_shard_of_its_index(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(weights_folder() / "instructblip-flan-t5-xl", folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    )
    assert vqa.tensor_files(folder) == []
    (folder / "model-2.safetensors").write_bytes(b"")
    assert [path.name for path in vqa.tensor_files(folder)] == ["model-2.safetensors", "model.safetensors"]
    (folder / "model.safetensors.index.json").write_text("[]")
    assert vqa.tensor_files(folder) == []


def test_the_version_changes_with_the_weights(model: Any) -> None:
    before = vqa.identity()
    with torch.no_grad():
        model.query_tokens.add_(1)
    model.save_pretrained(weights_folder() / "instructblip-flan-t5-xl")
    assert vqa.identity() != before
