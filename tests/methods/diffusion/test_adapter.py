"""The adapter's options, weights and notes. ``test_table`` has the pixels of every row."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.edit import Runtime
from bench.registry import Registry, parse_options
from bench.suite import configure_method
from methods import METHODS
from methods.diffusion import checkpoints, inference, loading
from methods.diffusion.adapter import Diffusers
from methods.diffusion.presets import PRESETS
from methods.diffusion.table import PIPELINES
from methods.published import PUBLIC
from methods.weights import Weights, WeightsError
from tests.methods.conftest import picture, request
from tests.methods.diffusion.tiny_transformers import flux
from tests.methods.diffusion.tiny_unets import deepfloyd, kandinsky22, sdxl_inpaint
from tests.methods.small import small

REGISTRY = Registry("method", METHODS)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL inpainting pipeline, saved whole."""
    folder = tmp_path_factory.mktemp("sdxl")
    sdxl_inpaint().save_pretrained(folder)
    return folder


def problems(**options: Any) -> list[str]:
    return Diffusers.problems(Diffusers.Options(**options))


# --- weights ------------------------------------------------------------------------------------------


def test_a_saved_pipeline_is_loaded_and_called(sdxl: Path) -> None:
    """Its class is that of model_index.json, its native size that of its UNet: 16 samples of 2 pixels."""
    method = Diffusers(Diffusers.Options(weights=str(sdxl), steps=2), Runtime())
    assert type(method.pipeline).__name__ == "StableDiffusionXLInpaintPipeline"
    assert method.needs == {"source", "mask", "target_prompt"}
    one = small(1)
    bare = sdxl_inpaint()
    bare.set_progress_bar_config(disable=True)
    (expected,) = bare(
        prompt=one.target_prompt, image=one.source, mask_image=one.mask, strength=1.0, width=32, height=32,
        num_inference_steps=2, generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip
    assert method.edit([one])[0].tobytes() == expected.tobytes()
    larger = request(
        1, source=picture(1, (96, 80)), mask=picture(1, (96, 80)).convert("L").point(lambda v: 255)
    )
    assert method.edit([larger])[0].size == (96, 80)


def test_the_identity_is_the_content_of_every_part(sdxl: Path, tmp_path: Path) -> None:
    options = Diffusers.Options(weights=str(sdxl))
    assert set(Diffusers.identity(options)) == {"sha256"}
    pipeline = sdxl_inpaint()
    with torch.no_grad():
        next(iter(pipeline.text_encoder_2.parameters())).add_(1)
    pipeline.save_pretrained(tmp_path)
    assert Diffusers.identity(replace(options, weights=str(tmp_path))) != Diffusers.identity(options)


def test_missing_and_broken_files_are_named(sdxl: Path, tmp_path: Path) -> None:
    assert "weights is empty" in problems()[0]
    assert "no such folder" in problems(weights="./nowhere")[0]
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": ["my_code", "Mine"]}))
    assert "Only classes of diffusers are loaded" in problems(weights=str(tmp_path))[0]
    index = json.loads((sdxl / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (problem,) = problems(weights=str(tmp_path))
    assert "unet/" in problem
    assert "vae/*.safetensors" in problem
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "vae" / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "vae/model-00001-of-00002.safetensors" in problems(weights=str(tmp_path))[0]
    assert problems(weights=str(sdxl)) == []


def test_an_embedded_checkpoint_works_by_its_class() -> None:
    """The same weights as the method ``sd_inpainting``, with the same result at the same settings."""
    options = {"weights": "zoo:sd_inpainting", "steps": 2, "guidance": 3.0, "mask_cells": "cover"}
    generic = configure_method("diffusers", REGISTRY, options={**options, "negative_prompt": ""})
    named = configure_method("sd_inpainting", REGISTRY, preset="mini", options={"steps": 2})
    assert generic.problems == ()
    assert generic.needs == named.needs
    assert generic.spec.options["_identity"] == named.spec.options["_identity"]
    one = request(1)
    ours, theirs = (method.create(Runtime()).edit([one])[0] for method in (generic, named))
    assert ours.tobytes() == theirs.tobytes()


def test_an_sdxl_checkpoint_is_none_of_stable_diffusion_1(sdxl: Path) -> None:
    (problem,) = problems(weights=str(sdxl), pipeline="StableDiffusionInpaintPipeline")
    assert "SDXL" in problem


# --- options ------------------------------------------------------------------------------------------


def test_quantization_reaches_the_denoiser_whatever_its_name(
    sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's denoiser is a UNet, which once stayed as it was."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(loading, "_from_files", lambda cls, files, runtime, extra: seen.update(extra))
    options = Diffusers.Options(weights=str(sdxl), quantization="bitsandbytes-8bit")
    loading._whole(checkpoints.find(options), options, Runtime(), {})
    (part, config), *others = seen["quantization_config"].quant_mapping.items()
    assert part == "unet"
    assert config.load_in_8bit
    assert not others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0: expected at least 1"),
        ({"guidance": -1.0}, "guidance -1.0: expected at least 0"),
        ({"strength": 0.0}, "strength 0.0: expected more than 0"),
        ({"size": "big"}, "size 'big'"),
        ({"image_guidance": 2.0}, "has no guidance towards the source"),
        ({"controlnet": "a/b"}, "controlnet: StableDiffusionXLInpaintPipeline has none"),
        ({"call": {"clip_skipp": 1}}, "has no argument clip_skipp; it has: "),
        ({"call": {"height": 64}}, "the adapter sets height itself"),
        ({"pipeline": "FluxFilPipeline"}, "Did you mean 'FluxFillPipeline'?"),
        ({"pipeline": "AutoencoderKL"}, "has no pipeline of this name"),
        ({"loras": ["a/b"]}, "peft"),
        ({"quantization": "torchao-int8"}, "pip install torchao"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    sdxl: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether or not these packages are there.
    monkeypatch.setattr("methods.diffusion.options.find_spec", lambda name: None)
    listed = problems(**{"weights": str(sdxl)} | options)
    assert any(message in problem for problem in listed), listed
    with pytest.raises(ValueError, match="diffusers: "):
        Diffusers(Diffusers.Options(**{"weights": str(sdxl)} | options), Runtime())


def test_a_negative_prompt_that_flux_would_ignore_is_refused() -> None:
    options = {"weights": "a/b", "pipeline": "FluxKontextPipeline", "negative_prompt": "blur"}
    ignored = [problem for problem in problems(**options) if "negative_prompt" in problem]
    assert "set call: {true_cfg_scale: 4.0}" in ignored[0]
    with_scale = problems(**options, call={"true_cfg_scale": 4.0})
    assert not any("negative_prompt" in problem for problem in with_scale)


def test_offloading_needs_an_accelerator(sdxl: Path) -> None:
    with pytest.raises(ValueError, match="offload model moves parts to an accelerator"):
        Diffusers(Diffusers.Options(weights=str(sdxl), offload="model"), Runtime())


@pytest.mark.parametrize(
    ("pipeline", "dtype", "fit"),
    [
        ("FluxFillPipeline", "float16", False),
        ("FluxFillPipeline", "bfloat16", True),
        ("FluxFillPipeline", "float32", True),
        ("ZImageOmniPipeline", "float32", False),
        ("StableDiffusionXLInpaintPipeline", "float16", True),
    ],
)
def test_a_precision_in_which_a_class_overflows_is_refused(pipeline: str, dtype: str, fit: bool) -> None:
    options = Diffusers.Options(weights="a/b", pipeline=pipeline)
    tiny = checkpoints.Checkpoint(pipeline, PIPELINES[pipeline], Weights("hub", "a/b", Path(), {}))
    problems = loading.device_problems(tiny, options, Runtime("cuda", dtype))
    assert (problems == []) == fit
    if not fit:
        assert "use --dtype bfloat16" in problems[0]


def test_run_time_options_are_no_part_of_the_digest(sdxl: Path) -> None:
    plain = configure_method("diffusers", REGISTRY, options={"weights": str(sdxl)}).spec
    options = {"weights": str(sdxl), "offload": "group", "compile": True}
    assert configure_method("diffusers", REGISTRY, options=options).spec.digest == plain.digest
    options = {"weights": str(sdxl), "resize": "crop"}
    assert configure_method("diffusers", REGISTRY, options=options).spec.digest != plain.digest


def test_composited_results_keep_the_source_at_its_own_size(sdxl: Path) -> None:
    """Bit for bit, although the model works at another size."""
    one = request(1, source=picture(1, (50, 37)), mask=picture(1, (50, 37)).convert("L").point(_left))
    method = Diffusers(Diffusers.Options(weights=str(sdxl), steps=1, paste=True), Runtime())
    edited, outside = np.asarray(method.edit([one])[0]), np.asarray(one.mask) == 0
    assert np.array_equal(edited[outside], np.asarray(one.source)[outside])
    assert (edited[~outside] != np.asarray(one.source)[~outside]).any()


def _left(value: int) -> int:
    return 255 if value < 110 else 0


# --- references ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "paste", "optional"),
    [
        ("FluxKontextPipeline", True, {"instruction", "mask"}),
        ("FluxKontextPipeline", False, {"instruction"}),
        # The pipeline itself takes the mask.
        ("FluxFillPipeline", True, set()),
    ],
)
def test_what_one_option_alone_needs_is_optional(pipeline: str, paste: bool, optional: set[str]) -> None:
    options = Diffusers.Options(pipeline=pipeline, paste=paste)
    assert ("mask" in Diffusers.needs_of(options)) == (paste or pipeline == "FluxFillPipeline")
    assert set(Diffusers.optional_needs(options)) == optional


def test_references_follow_the_source_in_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def echo(pipeline: Any, output: str, **arguments: Any) -> list[Any]:
        calls.append(arguments)
        return [picture(1)]

    method = object.__new__(Diffusers)
    method.row, method.pixels, method.factor = PIPELINES["Flux2KleinPipeline"], 64 * 64, 2
    method.options = method.call_options = Diffusers.Options(weights="a/b")
    method.pipeline = None
    monkeypatch.setattr("methods.pipelines.call", echo)
    references = (picture(8, (20, 30)), picture(9, (16, 16)))
    method.edit([replace(request(1), references=references), request(2)])
    assert [entry.size for entry in calls[0]["image"]] == [(64, 64), (20, 30), (16, 16)]
    assert [entry.size for entry in calls[1]["image"]] == [(64, 64)]


# --- classes that the table does not have -------------------------------------------------------------


def test_an_unknown_class_is_inferred_and_said_so(tmp_path: Path) -> None:
    """StableDiffusionXLImg2ImgPipeline is not in the table."""
    name = "StableDiffusionXLImg2ImgPipeline"
    assert name not in PIPELINES
    row = inference.row_of(name)
    assert (row.image, row.mask, row.strength, row.prompt_field) == ("image", "", "strength", "target_prompt")
    assert not row.batchable
    index = {"_class_name": name}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (note,) = Diffusers.notes(Diffusers.Options(weights=str(tmp_path)))
    assert "inferred from its signature" in note
    assert "image is the source" in note
    assert "one at a time" in note
    assert Diffusers.needs_of(Diffusers.Options(weights=str(tmp_path))) == {"source", "target_prompt"}
    with pytest.raises(WeightsError, match="takes no image"):
        inference.row_of("StableDiffusionPipeline")


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("KandinskyInpaintPipeline", "image_embeds, negative_image_embeds"),
        ("IFInpaintingSuperResolutionPipeline", "original_image"),
    ],
)
def test_a_later_stage_of_a_cascade_is_refused(name: str, lacking: str) -> None:
    with pytest.raises(WeightsError, match=f"also takes {lacking}, which no request has"):
        inference.row_of(name)


@pytest.mark.parametrize(
    ("name", "mask", "strength"),
    [("KandinskyInpaintCombinedPipeline", "mask_image", ""), ("IFImg2ImgPipeline", "", "strength")],
)
def test_first_and_whole_cascades_are_inferred(name: str, mask: str, strength: str) -> None:
    assert name not in PIPELINES
    row = inference.row_of(name)
    assert (row.image, row.mask, row.strength) == ("image", mask, strength)
    assert (row.prompt_field, row.negative) == ("target_prompt", "negative_prompt")


def test_inference_finds_what_the_table_says_of_known_classes() -> None:
    import diffusers

    for name, row in PIPELINES.items():
        if row.first or not row.text:
            continue
        inferred = inference.infer(getattr(diffusers, name))
        assert (inferred.image, inferred.mask) == (row.image, row.mask), name
        assert inferred.strength == row.strength, name
        assert inferred.guidance == row.guidance, name
        assert bool(inferred.mask) == bool(row.mask), name


def test_unpinned_weights_are_said_to_be() -> None:
    (note,) = Diffusers.notes(Diffusers.Options(weights="somebody/model", pipeline="FluxFillPipeline"))
    assert "somebody/model has no pinned commit" in note
    pinned = Diffusers.Options(weights="somebody/model", revision="a" * 40, pipeline="FluxFillPipeline")
    assert Diffusers.notes(pinned) == []


# --- presets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_lacks_nothing_but_its_weights(name: str) -> None:
    options = parse_options(Diffusers, PRESETS[name])
    assert Diffusers.option_problems(options) == []
    problem, *further = Diffusers.weights_problems(options)
    assert options.weights in problem
    # The other half of a cascade is missing too, and fetched with the first.
    prior = PIPELINES[options.pipeline].prior
    assert [download.repository for text in further for download in text.downloads] == [prior] * bool(prior)
    published = PUBLIC[options.weights]
    assert published.licence
    # The page of the methods states them.
    page = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
    (row_of_page,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"`{options.weights}` | {options.steps}, {options.guidance:g}" in row_of_page
    assert published.licence in row_of_page
    assert ("gated" in row_of_page) == published.gated
    assert (f"strength {options.strength:g}" in row_of_page) == (options.strength != 1)
    assert sum(size for _, size in published.files.values()) > 1e9
    # Presets state their numbers, which the defaults of a later diffusers then do not change.
    row = PIPELINES[options.pipeline]
    assert options.steps is not None
    assert (options.guidance is not None) == bool(row.guidance)
    assert (options.image_guidance is not None) == bool(row.image_guidance)


def test_flux_fill_is_loaded_whole(tmp_path: Path) -> None:
    """A pipeline with two text encoders and a transformer, saved and loaded as a user's folder."""
    flux("FluxFillPipeline", 20, 8).save_pretrained(tmp_path)
    options = Diffusers.Options(weights=str(tmp_path), steps=1, size="source")
    checkpoint = checkpoints.find(options)
    assert (checkpoint.pipeline, checkpoint.pixels) == ("FluxFillPipeline", 1024 * 1024)
    assert set(checkpoint.weights.parts) == {
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae",
    }  # fmt: skip
    method = Diffusers(options, Runtime())
    parameters = set(inspect.signature(type(method.pipeline).__call__).parameters)
    assert "negative_prompt" not in parameters
    assert not any(part.training for part in (method.pipeline.transformer, method.pipeline.text_encoder_2))
    assert method.edit([small(1)])[0].size == (32, 32)


# --- cascades -----------------------------------------------------------------------------------------


def test_the_halves_of_a_cascade_may_lie_apart(tmp_path: Path) -> None:
    """Kandinsky's prior comes from the hub's cache, and its commit is part of the identity."""
    name = "KandinskyV22InpaintCombinedPipeline"
    prior, commit = PIPELINES[name].prior, "ab" * 20
    whole = kandinsky22()
    whole.save_pretrained(tmp_path / "whole")
    whole.decoder_pipe.save_pretrained(tmp_path / "decoder")
    settings: dict[str, Any] = {"steps": 2, "size": "64x64", "call": {"prior_num_inference_steps": 2}}
    options = Diffusers.Options(weights=str(tmp_path / "decoder"), pipeline=name, **settings)
    (problem,) = Diffusers.problems(options)
    assert prior in problem
    assert Diffusers.identity(options)["prior_hub"] == prior

    cache = tmp_path / "hub" / f"models--{prior.replace('/', '--')}"
    whole.prior_pipe.save_pretrained(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    assert Diffusers.problems(options) == []
    identity = Diffusers.identity(options)
    assert (identity["prior_hub"], identity["prior_revision"]) == (prior, commit)
    assert any(prior in note for note in Diffusers.notes(options))

    # A folder that has both halves needs nothing else.
    together = Diffusers.Options(weights=str(tmp_path / "whole"), **settings)
    assert not any("prior" in fact for fact in Diffusers.identity(together))
    (edited,) = Diffusers(options, Runtime()).edit([small(1)])
    assert edited.tobytes() == Diffusers(together, Runtime()).edit([small(1)])[0].tobytes()


def test_deepfloyd_works_on_squares_of_64_pixels(tmp_path: Path) -> None:
    """Its mask keeps parts that a grid of 8 x 8 pixels would widen."""
    deepfloyd().save_pretrained(tmp_path)
    options = Diffusers.Options(weights=str(tmp_path), steps=1)
    assert Diffusers.problems(options) == []
    method = Diffusers(options, Runtime())
    assert method.frame((150, 101)).target == (64, 64)
    assert method.factor == 1
    assert method.edit([small(1)])[0].size == (32, 32)
