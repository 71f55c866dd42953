"""CLIP scores against open_clip itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.downloads import MissingFiles, WebFile
from bench.metrics import alignment, success
from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipNet, ClipSpec
from bench.metrics.types import Area, MetricError, NoValue
from tests.bench.metrics.pictures import box, natural, noise, pair

PROMPTS = {
    "source_prompt": "a red ball on a beach",
    "target_prompt": "a blue car on a beach",
    "region_prompt": "a blue car",
}


@pytest.fixture
def features(clip_folder: Path) -> Features:
    return Features(mini_clip=clip_folder)


class Direct:
    """open_clip as its own documentation uses it, one image at a time."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def image(self, pixels: Any) -> Any:
        import torch

        with torch.no_grad():
            return self._unit(self.model.encode_image(self.transform(Image.fromarray(pixels))[None])[0])

    def text(self, prompt: str) -> Any:
        import torch

        with torch.no_grad():
            return self._unit(self.model.encode_text(self.tokenizer([prompt]))[0])

    @staticmethod
    def _unit(feature: Any) -> Any:
        vector = feature.double().numpy()
        return vector / np.linalg.norm(vector)


def test_against_open_clip(features: Features, clip_folder: Path) -> None:
    direct = Direct(clip_folder)
    before, after, mask = natural(1), natural(2), box(64, 20, 10, 16, 24)
    one = pair(before, after, mask, **PROMPTS)
    (target,) = alignment.MiniClipTarget(features).score([one])
    (region,) = alignment.MiniClipRegion(features).score([one])
    (direction,) = alignment.MiniClipDirectional(features).score([one])
    text = {name: direct.text(prompt) for name, prompt in PROMPTS.items()}
    assert target == pytest.approx(100 * direct.image(after) @ text["target_prompt"], abs=1e-4)
    # The box: 24 wide, and a tenth of that on both sides; square; around rows 20..35, columns 10..33.
    crop = after[14:42, 8:36]
    assert region == pytest.approx(100 * direct.image(crop) @ text["region_prompt"], abs=1e-4)
    image_step = direct.image(after) - direct.image(before)
    text_step = text["target_prompt"] - text["source_prompt"]
    cosine = image_step @ text_step / np.linalg.norm(image_step) / np.linalg.norm(text_step)
    assert direction == pytest.approx(cosine, abs=1e-4)


def test_several_regions_are_averaged(features: Features, clip_folder: Path) -> None:
    direct = Direct(clip_folder)
    left, right = box(64, 0, 0, 20, 20), box(64, 40, 40, 20, 20)
    regions = (Area(left, "a red hat"), Area(right, "a tall tree"))
    after = natural(2)
    one = pair(natural(1), after, left | right, **PROMPTS, regions=regions)
    (value,) = alignment.MiniClipRegion(features).score([one])
    boxes = [(slice(0, 24), slice(0, 24)), (slice(38, 62), slice(38, 62))]
    expected = [
        direct.image(after[where]) @ direct.text(region.prompt)
        for where, region in zip(boxes, regions, strict=True)
    ]
    assert value == pytest.approx(100 * float(np.mean(expected)), abs=1e-4)


class TestDirectional:
    def test_analytic(self) -> None:
        def unit(*angle: float) -> Any:
            return np.array([[math.cos(a), math.sin(a)] for a in angle], np.float32)

        def of(*angles: float) -> Any:
            before, after, text_before, text_after = (unit(a) for a in angles)
            return alignment.directional(before, after, text_before, text_after)

        # A chord's direction is that of its middle angle turned by a quarter.
        assert of(0.0, 1.0, 0.0, 1.0) == [pytest.approx(1.0)]
        assert of(0.0, 1.0, 1.0, 0.0) == [pytest.approx(-1.0)]
        assert of(0.0, 1.0, 0.3, 1.1) == [pytest.approx(math.cos(0.5 - 0.7), abs=1e-6)]

    def test_no_change_has_no_direction(self, features: Features) -> None:
        mask = box(64, 0, 0, 9, 9)
        same = pair(natural(1), natural(1), mask, **PROMPTS)
        vague = pair(natural(1), natural(2), mask, **{**PROMPTS, "source_prompt": PROMPTS["target_prompt"]})
        unchanged, undirected = alignment.MiniClipDirectional(features).score([same, vague])
        assert isinstance(unchanged, NoValue)
        assert "image did not change" in unchanged.reason
        assert isinstance(undirected, NoValue)
        assert "prompts are the same" in undirected.reason


def region_box(mask: Any, margin: float) -> tuple[int, ...]:
    bounds = Area(mask, "").bounds
    assert bounds is not None
    return alignment.square_around(bounds, mask.shape, margin)


class TestRegionBox:
    @pytest.mark.parametrize(
        ("mask", "margin", "expected"),
        [
            (box(64, 20, 10, 10, 10), 0.0, (10, 20, 20, 30)),
            (box(64, 20, 10, 10, 10), 0.1, (9, 19, 21, 31)),
            (box(64, 0, 0, 10, 10), 0.1, (0, 0, 12, 12)),
            (box(64, 54, 54, 10, 10), 0.1, (52, 52, 64, 64)),
            (box(64, 20, 10, 10, 30), 0.0, (10, 10, 40, 40)),
            (box(64, 0, 0, 64, 64), 0.5, (0, 0, 64, 64)),
            (box(64, 5, 7, 1, 1), 0.1, (7, 5, 8, 6)),
        ],
    )
    def test_known(self, mask: Any, margin: float, expected: tuple[int, ...]) -> None:
        assert region_box(mask, margin) == expected

    def test_always_holds_the_region_within_the_image(self) -> None:
        generator = np.random.default_rng(0)
        for _ in range(200):
            height, width = generator.integers(8, 80, 2)
            mask = np.zeros((height, width), bool)
            top, left = generator.integers(0, height), generator.integers(0, width)
            mask[top : top + generator.integers(1, 40), left : left + generator.integers(1, 40)] = True
            x0, y0, x1, y1 = region_box(mask, 0.1)
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert mask[y0:y1, x0:x1].sum() == mask.sum()

    def test_empty(self) -> None:
        assert Area(np.zeros((8, 8), bool), "").bounds is None


def test_batches_and_order_do_not_matter(clip_folder: Path) -> None:
    mask = box(64, 10, 10, 30, 20)
    pairs = [
        pair(natural(i % 2), noise(i), mask, **{**PROMPTS, "target_prompt": f"number {i % 3}"})
        for i in range(6)
    ]
    metrics = (alignment.MiniClipTarget, alignment.MiniClipRegion, alignment.MiniClipDirectional)
    for metric in metrics:
        together = metric(Features(mini_clip=clip_folder)).score(pairs)
        alone = metric(Features(mini_clip=clip_folder, batch_pixels=1)).score(pairs)
        backwards = metric(Features(mini_clip=clip_folder)).score(pairs[::-1])[::-1]
        assert together == pytest.approx(alone, abs=1e-4)
        assert together == pytest.approx(backwards, abs=1e-4)


class TestWhichNetwork:
    def test_another_network_is_another_version(self, make_clip: Callable[[int], Path]) -> None:
        first = alignment.MiniClipTarget(Features(mini_clip=make_clip(0)))
        second = alignment.MiniClipTarget(Features(mini_clip=make_clip(1)))
        assert first.version != second.version
        mask = box(64, 0, 0, 9, 9)
        one = pair(natural(1), natural(2), mask, **PROMPTS)
        assert first.score([one]) != second.score([one])

    def test_missing_weights_are_named_with_their_sha256(self) -> None:
        (problem,) = alignment.ClipTarget.problems(Features())
        assert isinstance(problem, MissingFiles)
        assert "ViT-L-14.pt is not on this machine" in problem
        (file,) = problem.downloads
        assert isinstance(file, WebFile)
        assert file.sha256 == "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
        assert "openaipublic" in file.url
        (problem,) = alignment.MiniClipTarget.problems(Features())
        assert "folder" in problem

    def test_a_wrong_file_is_not_taken_for_the_published_one(self) -> None:
        place = Path("~/.cache/clip/ViT-L-14.pt").expanduser()
        place.parent.mkdir(parents=True)
        place.write_bytes(b"half a download")
        (problem,) = alignment.ClipTarget.problems(Features())
        assert str(place) in problem
        assert "not the published file" in problem

    def test_an_unknown_model(self) -> None:
        (problem,) = ClipSpec("ViT-L-14", "openay").problems()
        assert "openai" in problem

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        assert "no open_clip_config.json" in ClipSpec(folder=str(tmp_path)).problems()[0]
        (tmp_path / "open_clip_config.json").write_text("{}")
        assert "no weights" in ClipSpec(folder=str(tmp_path)).problems()[0]
        with pytest.raises(MetricError, match="no weights"):
            ClipNet(ClipSpec(folder=str(tmp_path)))

    def test_openais_file_keeps_its_own_activation(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """OpenAI's models use QuickGELU, which open_clip's configuration of the same name does not."""
        import open_clip
        import torch

        torch.manual_seed(0)
        model = open_clip.model.CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
            quick_gelu=True,
        )
        model = model.half().float().eval()  # OpenAI's weights are half precision
        weights = tmp_path / "weights"
        weights.mkdir()
        torch.save(model.state_dict(), weights / "tiny.pt")
        sha256 = hashlib.sha256((weights / "tiny.pt").read_bytes()).hexdigest()
        monkeypatch.setenv("PROMPTEDITBENCH_WEIGHTS", str(weights))
        config = {"url": f"https://example.org/{sha256}/tiny.pt", "quick_gelu": True}
        monkeypatch.setattr(ClipSpec, "_config", lambda self: config)
        net = ClipNet(ClipSpec("tiny", "openai"))
        image = Image.fromarray(natural(1, 32))
        prepared = net.prepare(image)
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        by_hand = (np.asarray(image) / 255 - mean) / std
        np.testing.assert_allclose(prepared.numpy(), by_hand.transpose(2, 0, 1), atol=1e-5)
        with torch.no_grad():
            expected = model.encode_image(prepared[None], normalize=True).numpy()
        np.testing.assert_allclose(net.encode_images([prepared]), expected, atol=1e-5)


class TestLongPrompts:
    """The small model reads 16 tokens: 14 words between its start and its end token."""

    WORDS = ("a blue car " * 5).split()

    def test_a_prompt_is_cut_from_the_first_token_that_does_not_fit(
        self, clip_folder: Path, own_tokenizer: Path
    ) -> None:
        for folder in (clip_folder, own_tokenizer):
            features = Features(mini_clip=folder)
            prompts = ["", *(" ".join(self.WORDS[:n]) for n in (1, 13, 14, 15)), "ball " * 200]
            assert features.clip_context("mini_clip") == 16
            assert features.clip_cuts("mini_clip", prompts) == [False] * 4 + [True] * 2
            assert features.clip_cuts("mini_clip", prompts[::-1]) == [True] * 2 + [False] * 4
            assert not features._clips, "only the tokenizer is needed"

    def test_the_published_model_reads_77_tokens(self) -> None:
        features = Features()
        assert features.clip_context("clip") == 77
        assert features.clip_cuts("clip", ["x " * 75, "x " * 76]) == [False, True]

    @pytest.mark.parametrize("field", ["source_prompt", "target_prompt", "region_prompt"])
    def test_a_cut_prompt_gives_no_value_and_the_reason(self, features: Features, field: str) -> None:
        reads = {
            alignment.MiniClipTarget: {"target_prompt"},
            alignment.MiniClipRegion: {"region_prompt"},
            alignment.MiniClipDirectional: {"source_prompt", "target_prompt"},
            success.JudgeMiniClip: {"source_prompt", "target_prompt", "region_prompt"},
            success.SuccessMiniClip: {"source_prompt", "target_prompt", "region_prompt"},
        }
        mask = box(64, 20, 10, 16, 24)
        whole = pair(natural(1), natural(2), mask, **PROMPTS)
        cut = pair(natural(1), natural(2), mask, **{**PROMPTS, field: " ".join(self.WORDS)})
        for metric, prompts in reads.items():
            values = metric(features).score([whole, cut])
            assert isinstance(values[0], float), metric.name
            if field in prompts:
                assert values[1] == NoValue("a prompt is longer than the 16 tokens that mini_clip reads")
            else:
                assert values[1] == values[0], metric.name

    def test_one_cut_region_of_several_is_enough(self, features: Features) -> None:
        left, right = box(64, 0, 0, 20, 20), box(64, 40, 40, 20, 20)
        regions = (Area(left, "a red hat"), Area(right, " ".join(self.WORDS)))
        one = pair(natural(1), natural(2), left | right, **PROMPTS, regions=regions)
        (value,) = alignment.MiniClipRegion(features).score([one])
        assert isinstance(value, NoValue)

    def test_cut_prompts_are_counted_once_each(self, features: Features) -> None:
        assert features.cut_prompts() == []
        features.clip_cuts("mini_clip", ["a", "b", "a", "long " * 20, "long " * 20, "wide " * 30])
        (line,) = features.cut_prompts()
        assert line.startswith("mini_clip: 2 of 4 prompts are longer than the 16 tokens that it reads")
        assert "One of them is 'long long " in line


@pytest.fixture
def own_tokenizer(clip_folder: Path, tmp_path: Path) -> Path:
    """The small model with a word-level vocabulary in transformers' layout beside it."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<start>", "<end>", "<unk>", "a", "blue", "car", "red", "ball"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
    ).save_pretrained(tmp_path)
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(vocab_size=8, hf_tokenizer_name="own")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    state = load_file(clip_folder / "open_clip_model.safetensors")
    torch.manual_seed(3)
    state["token_embedding.weight"] = torch.randn(8, 32)
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_the_embedded_folder_may_bring_its_own_tokenizer(own_tokenizer: Path) -> None:
    features = Features(mini_clip=own_tokenizer)
    one, other = features.clip_texts("mini_clip", ["a blue car", "a red ball"])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert abs(one @ other) < 0.9999
    before = features.clip_spec("mini_clip").identity
    text = (own_tokenizer / "tokenizer.json").read_text()
    (own_tokenizer / "tokenizer.json").write_text(text.replace("blue", "blau"))
    assert Features(mini_clip=own_tokenizer).clip_spec("mini_clip").identity != before
