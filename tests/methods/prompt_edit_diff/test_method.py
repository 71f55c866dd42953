"""The adapters: four methods, what they refuse, how they tag."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.edit import EditMethod, Region, Runtime
from bench.images import mask_array
from bench.registry import OptionError, parse_options
from methods import METHODS
from methods.pipelines import save_pipeline
from methods.prompt_edit_diff import VARIANTS, ablation
from methods.prompt_edit_diff.method import (
    PromptEditDiff,
    PromptEditDiffNoCrossAttention,
    PromptEditDiffNoMaskEncoder,
    PromptEditDiffNoPromptTokens,
)
from methods.prompt_edit_diff.tags import render
from tests.methods.conftest import box_mask, request, tiny_pipeline
from tests.methods.prompt_edit_diff.conftest import awake, tiny_editor, tiny_model

CLASSES = (
    PromptEditDiff,
    PromptEditDiffNoPromptTokens,
    PromptEditDiffNoCrossAttention,
    PromptEditDiffNoMaskEncoder,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    paths = {}
    for variant in VARIANTS:
        path = tmp_path_factory.mktemp(variant)
        save_pipeline(path, tiny_editor(awake(tiny_model(**ablation(variant)))))
        paths[variant] = str(path)
    return paths


def test_four_methods_from_one_code() -> None:
    assert tuple(cls.name for cls in CLASSES) == VARIANTS
    for cls in CLASSES:
        assert METHODS[cls.name] == f"methods.prompt_edit_diff.method:{cls.__name__}"
        assert cls.Options().weights == cls.PRESETS["mini"]["weights"] == f"zoo:{cls.name}"
        assert parse_options(cls, cls.PRESETS["sd15"]).steps == 50
    # Each ablation switches off one part.
    switches = [ablation(v) for v in VARIANTS]
    assert all(switches[0].values())
    assert [[k for k, on in s.items() if not on] for s in switches[1:]] == [
        ["prompt_tokens"], ["masked_attention"], ["mask_encoder"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="variants are"):
        ablation("full")


def test_naming_the_methods_imports_no_torch() -> None:
    code = (
        "import sys, methods.prompt_edit_diff.method, methods.prompt_edit_diff.tags;"
        "import methods.prompt_edit_diff.training_tuples;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'accelerate') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_each_edits_with_its_own_weights_and_refuses_the_others(folders: dict[str, str]) -> None:
    for cls in CLASSES:
        for variant, folder in folders.items():
            # Only the variant's own weights are accepted.
            problems = cls.problems(cls.Options(weights=folder))
            if variant == cls.name:
                assert problems == []
            else:
                [problem] = problems
                assert cls.name in problem
        method = cls(cls.Options(weights=folders[cls.name], steps=2), Runtime())
        assert isinstance(method, EditMethod)
        assert method.native_size == 64
        requests = [request(0), request(1, box_mask(0, 0, 20, 64))]
        for image, r in zip(method.edit(requests), requests, strict=True):
            keep = ~mask_array(r.mask)
            assert np.array_equal(np.asarray(image)[keep], np.asarray(r.source)[keep])
        assert method.edit([]) == []


@pytest.mark.parametrize(
    "variant",
    [
        {"source_latents": "none"},
        {"source_latents": "cells"},
        {"token_content": "source", "token_time": True, "count": 1},
        {"token_content": "shuffled"},
    ],
)
def test_a_variant_of_the_network_is_an_option_of_its_method(
    tmp_path: Path, variant: dict[str, object]
) -> None:
    save_pipeline(tmp_path, tiny_editor(awake(tiny_model(**variant))))
    options = PromptEditDiff.Options(weights=str(tmp_path), steps=2)
    assert PromptEditDiff.problems(options) == []
    requests = [request(0), request(1, box_mask(0, 0, 20, 64))]
    method = PromptEditDiff(options, Runtime())
    together = method.edit(requests)
    # Each result depends on its own request alone, the shuffled control's too.
    for image, single in zip(together, requests, strict=True):
        [alone] = method.edit([single])
        assert np.abs(np.asarray(alone).astype(int) - np.asarray(image)).max() <= 1


def test_weights_of_other_methods_are_refused(tmp_path: Path) -> None:
    tiny_pipeline(4).save_pretrained(tmp_path)
    [problem] = PromptEditDiff.problems(PromptEditDiff.Options(weights=str(tmp_path)))
    assert "no PromptEditDiffUNet" in problem
    [missing] = PromptEditDiff.problems(PromptEditDiff.Options(weights="./nowhere"))
    assert "trainer" in missing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 0.01}, "leave no step"),
        ({"guidance": 0.5}, "guidance"),
        ({"guidance": 1.0, "negative_prompt": "x"}, "no effect"),
        ({"eta": 2.0}, "eta"),
        ({"eta": 0.5, "scheduler": "ddpm"}, "eta"),
    ],
)
def test_options_without_sense_are_problems(
    folders: dict[str, str], options: dict[str, object], message: str
) -> None:
    unusable = PromptEditDiff.Options(**{"weights": folders[VARIANTS[0]], **options})  # type: ignore[arg-type]
    # Refused both before and at construction.
    [problem] = PromptEditDiff.problems(unusable)
    assert message in problem
    with pytest.raises(ValueError, match="prompt_edit_diff: "):
        PromptEditDiff(unusable, Runtime())
    with pytest.raises(OptionError):
        parse_options(PromptEditDiff, {"step": 3})


def test_tagging_is_by_request_automatic_or_off(folders: dict[str, str]) -> None:
    def tagged(tagging: str) -> str:
        options = PromptEditDiff.Options(weights=folders[VARIANTS[0]], tagging=tagging)  # type: ignore[arg-type]
        method = PromptEditDiff(options, Runtime())
        assert ("source_prompt" in method.needs) == (tagging == "automatic")
        return render(method.tags(edit))

    edit = replace(
        request(0), source_prompt="a face", target_prompt="a face with a red hat", edit_words=("hat",)
    )
    assert tagged("request") == "a face with a red [hat](1)"
    assert tagged("automatic") == "a face with a [red hat](1)"
    assert tagged("off") == "a face with a red hat"


def test_regions_route_their_words(folders: dict[str, str]) -> None:
    # Two regions whose words change places: another edit.
    method = PromptEditDiff(PromptEditDiff.Options(weights=folders[VARIANTS[0]], steps=2), Runtime())
    masks = [box_mask(4, 4, 24, 24), box_mask(36, 36, 60, 60)]
    both = box_mask(4, 4, 24, 24)
    both.paste(255, (36, 36, 60, 60))

    def ask(first: str, second: str) -> object:
        regions = (Region(masks[0], first, (first,)), Region(masks[1], second, (second,)))
        edit = replace(request(0, both), target_prompt="a hat and a scarf", regions=regions)
        return method.edit([edit])[0].tobytes()

    assert ask("hat", "scarf") == ask("hat", "scarf")
    assert ask("hat", "scarf") != ask("scarf", "hat")


def test_an_empty_mask_or_prompt_is_refused(folders: dict[str, str]) -> None:
    method = PromptEditDiff(PromptEditDiff.Options(weights=folders[VARIANTS[0]], steps=1), Runtime())
    with pytest.raises(ValueError, match="empty"):
        method.edit([request(0, box_mask(0, 0, 0, 0))])
    with pytest.raises(ValueError, match="target_prompt"):
        method.edit([replace(request(0), target_prompt=" ")])
