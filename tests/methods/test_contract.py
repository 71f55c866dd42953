"""The contract of the edit interface, checked on every method of the registry with tiny random weights.

What a method's own paper promises is tested beside the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.edit import REQUEST_FIELDS, EditCase, EditMethod, EditRequest, Runtime
from bench.images import mask_array
from bench.registry import Registry
from methods import METHODS
from methods.endpoints.base import EndpointMethod
from tests.bench.endpoints.fake_server import KEY, fake_api
from tests.methods.blended_diffusion.conftest import tiny_adm
from tests.methods.conftest import box_mask, picture, request, tiny_pipeline
from tests.methods.diffusion.test_controlnet_inpaint import tiny_control
from tests.methods.glide.conftest import tiny_glide
from tests.methods.instance_diffusion.conftest import write_adapter
from tests.methods.prompt_edit_diff.conftest import awake, tiny_editor, tiny_model
from tests.methods.smartbrush.conftest import tiny_brush

REGISTRY = Registry("method", METHODS)
TEXTS = ("source_prompt", "target_prompt", "region_prompt", "instruction")
BUILDERS: dict[str, Callable[[Path], Any]] = {
    "text_to_image": lambda path: tiny_pipeline(4).save_pretrained(path),
    "inpainting": lambda path: tiny_pipeline(9).save_pretrained(path),
    "instruct": lambda path: tiny_pipeline(8).save_pretrained(path),
    "control": lambda path: tiny_control().save_pretrained(path),
    "brush": lambda path: tiny_brush().save_pretrained(path),
    "instance": write_adapter,
    "glide": tiny_glide,
    "adm": tiny_adm,
}
"""Name of a tiny checkpoint -> what writes it into a folder."""


@dataclass(frozen=True)
class Contract:
    """What a method promises beyond what it declares."""

    checkpoints: dict[str, str] = field(default_factory=dict)
    """Option -> tiny checkpoint."""
    options: dict[str, Any] = field(default_factory=dict)
    follows: frozenset[str] = frozenset()
    """Fields of a request that change the result."""
    composite: dict[str, Any] | None = None
    """Options with which every pixel outside the mask is the source's. None where no option does that."""
    checks_requests: bool = True
    """Whether unfit requests are refused. The controls edit whatever they are given."""
    side: int = 32
    tolerance: int = 1
    """Levels by which the batch may change a pixel: the rounding of floating point."""


def follows(*names: str) -> frozenset[str]:
    return frozenset({"source", *names})


CHECKPOINT = {"weights": "text_to_image"}
PASTE = {"paste": True}
MASKED = follows("mask", "target_prompt", "seed")
CONTRACTS: dict[str, Contract] = {
    "copy_input": Contract(follows=follows(), composite={}, checks_requests=False),
    "jpeg": Contract(follows=follows(), checks_requests=False),
    "resize_round_trip": Contract(follows=follows(), checks_requests=False),
    "autoencoder_round_trip": Contract(CHECKPOINT, follows=follows(), checks_requests=False),
    "noise_fill": Contract(follows=follows("mask", "seed"), composite={}, checks_requests=False),
    "flat_color_fill": Contract(follows=follows("mask"), composite={}, checks_requests=False),
    "sd_inpainting": Contract({"weights": "inpainting"}, {"steps": 2}, MASKED, PASTE),
    "instruct_pix2pix": Contract(
        {"weights": "instruct"}, {"steps": 2}, follows("instruction", "seed"), PASTE
    ),
    "sdedit": Contract(CHECKPOINT, {"steps": 3}, follows("target_prompt", "seed"), PASTE),
    "controlnet_inpaint": Contract(CHECKPOINT | {"controlnet": "control"}, {"steps": 2}, MASKED, PASTE),
    "latent_blending": Contract(CHECKPOINT, {"steps": 3}, MASKED, PASTE),
    "blended_latent_diffusion": Contract(CHECKPOINT, {"steps": 3}, MASKED, {"background": "pixel"}),
    "prompt_to_prompt": Contract(
        CHECKPOINT, {"steps": 2, "map_factor": 2}, follows("mask", "source_prompt", "target_prompt"), PASTE
    ),
    "dynamic_prompt_learning": Contract(
        CHECKPOINT,
        {"steps": 2, "map_factor": 2, "learning_steps": 1},
        follows("mask", "source_prompt", "target_prompt"),
        PASTE,
    ),
    "attend_and_excite": Contract(CHECKPOINT, {"steps": 2, "map_factor": 2, "refinements": 1}, MASKED, PASTE),
    "repaint": Contract(
        {"weights": "adm"},
        {"steps": 3, "jump_length": 1, "resamplings": 2},
        follows("mask", "seed"),
        composite={},
    ),
    "glide": Contract(
        {"weights": "glide"}, {"base_steps": "2", "upsampler_steps": "2"}, MASKED, {"upsampler_mask": "fine"}
    ),
    "blended_diffusion": Contract(
        {"weights": "adm"},
        {"clip": "zoo:clip", "steps": 4, "skip": 2, "augmentations": 2, "batch": 1, "iterations": 1},
        follows("mask", "region_prompt", "seed"),
        composite={},
        tolerance=2,
    ),
    "diffusers": Contract({"weights": "inpainting"}, {"steps": 2}, MASKED, PASTE),
    "smartbrush": Contract(
        {"weights": "brush"}, {"steps": 2}, follows("mask", "region_prompt", "seed"), PASTE
    ),
    "instance_diffusion": Contract(
        CHECKPOINT | {"instance_weights": "instance"},
        {"steps": 2},
        MASKED | {"region_prompt"},
        PASTE,
    ),
    "lama": Contract({"weights": "lama"}, follows=follows("mask"), composite={}),
    # The stand-in for the server paints the mask whatever the prompt, and there is no seed.
    "openai_images": Contract(
        options={"size": 256, "requests_per_minute": 1e9}, follows=follows("mask"), composite=PASTE, side=256
    ),
    # The stand-in draws by the instruction alone.
    "openai_edit": Contract(
        options={"server": "images", "model": "m", "requests_per_minute": 1e9}, follows=follows("instruction")
    ),
    "gemini_edit": Contract(
        options={"server": "images", "requests_per_minute": 1e9}, follows=follows("instruction"), side=1024
    ),
    "prompt_edit_diff": Contract({"weights": "prompt_edit_diff"}, {"steps": 2}, MASKED, composite={}),
    "prompt_edit_diff_no_prompt_tokens": Contract(
        {"weights": "prompt_edit_diff_no_prompt_tokens"}, {"steps": 1}, MASKED, composite={}
    ),
    "prompt_edit_diff_no_cross_attention": Contract(
        {"weights": "prompt_edit_diff_no_cross_attention"}, {"steps": 1}, MASKED, composite={}
    ),
    "prompt_edit_diff_no_mask_encoder": Contract(
        {"weights": "prompt_edit_diff_no_mask_encoder"}, {"steps": 1}, MASKED, composite={}
    ),
}
BY_CASE = ("oracle", "outputs")
"""Methods that edit a case, not a request."""

Make = Callable[..., EditMethod]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Loads a method with its tiny checkpoint, once for all tests."""

    @lru_cache
    def checkpoint(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        if name.startswith("prompt_edit_diff"):
            write_prompt_edit_diff(folder, name)
        elif name == "lama":
            write_lama(folder)
        else:
            BUILDERS[name](folder)
        return str(folder)

    def load(name: str, **more: Any) -> EditMethod:
        return loaded(name, tuple(more.items()))

    @lru_cache
    def loaded(name: str, more: tuple[tuple[str, Any], ...]) -> EditMethod:
        contract, cls = CONTRACTS[name], REGISTRY.load(name)
        weights = {option: checkpoint(tiny) for option, tiny in contract.checkpoints.items()}
        method: EditMethod = cls(cls.Options(**weights | contract.options | dict(more)), Runtime())
        return method

    with fake_api() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTEDITBENCH_IMAGES_URL", server.url)
        patch.setenv("PROMPTEDITBENCH_IMAGES_KEY", KEY)
        patch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path_factory.mktemp("answers")))
        yield load


def write_prompt_edit_diff(folder: Path, variant: str) -> None:
    from methods.pipelines import save_pipeline
    from methods.prompt_edit_diff import ablation

    save_pipeline(folder, tiny_editor(awake(tiny_model(**ablation(variant)))))


def write_lama(folder: Path) -> None:
    import torch

    from methods.lama import network

    torch.manual_seed(0)
    network.save(folder, network.Generator(network.GeneratorConfig(width=4, downs=3, blocks=1)))


def asked_of(name: str, seed: int = 1, mask: Image.Image | None = None) -> EditRequest:
    """A request of the method's size. The masks of two seeds differ."""
    side = CONTRACTS[name].side
    unit, size = side // 8, (side, side)
    mask = mask or box_mask(unit, 2 * unit, (4 + seed) * unit, 6 * unit, size)
    # Words that say what is edited: without them PromptEditDiff compares the prompts, by declaration.
    return replace(request(seed, mask, picture(seed, size)), edit_words=("hat",))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image, dtype=np.int64)


def test_every_method_has_a_contract() -> None:
    assert {*CONTRACTS, *BY_CASE} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_it_declares_what_it_is(name: str) -> None:
    cls = REGISTRY.load(name)
    assert issubclass(cls, EditMethod)
    assert cls.needs <= REQUEST_FIELDS
    assert cls.summary
    assert "\n" not in cls.summary
    assert cls.native_size is None or cls.native_size > 0
    # Every option has a default, and every preset names options that exist.
    options = {entry.name for entry in fields(cls.Options)}
    assert cls.Options() == cls.Options()
    assert all(set(values) <= options for values in cls.PRESETS.values())


def test_the_controls_are_the_methods_whose_result_is_given_in_advance() -> None:
    controls = {name for name in METHODS if REGISTRY.load(name).is_control}
    assert controls == {
        "copy_input",
        "oracle",
        "jpeg",
        "resize_round_trip",
        "autoencoder_round_trip",
        "noise_fill",
        "flat_color_fill",
    }


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_batch_keeps_order_size_and_mode_and_changes_nothing(name: str, make: Make) -> None:
    method, contract = make(name), CONTRACTS[name]
    assert list(method.edit([])) == []
    batch = [asked_of(name, seed) for seed in (1, 2, 3)]
    together = method.edit(batch)
    assert [(image.size, image.mode) for image in together] == [((contract.side,) * 2, "RGB")] * 3
    for one, image in zip(batch, together, strict=True):
        (alone,) = method.edit([one])
        assert np.abs(pixels(alone) - pixels(image)).max() <= contract.tolerance
    assert np.abs(pixels(together[0]) - pixels(together[1])).max() > contract.tolerance


@pytest.mark.parametrize("name", CONTRACTS)
def test_it_depends_on_what_it_needs_and_on_nothing_else(name: str, make: Make) -> None:
    method, contract, base = make(name), CONTRACTS[name], asked_of(name)
    size = base.source.size
    changes: dict[str, Any] = {text: f"a red hat, {text}" for text in TEXTS} | {
        "source": picture(7, size),
        "mask": box_mask(0, 0, size[0] // 4, size[1] // 4, size),
        "seed": 99,
    }
    result = method.edit([base])[0].tobytes()
    assert method.edit([base])[0].tobytes() == result
    for name_of_field, value in changes.items():
        changed = method.edit([replace(base, **{name_of_field: value})])[0].tobytes() != result
        if name_of_field in contract.follows:
            assert changed, name_of_field
        elif name_of_field not in method.needs:
            assert not changed, name_of_field
    assert contract.follows - {"seed"} <= method.needs


@pytest.mark.parametrize(
    "name", [name for name, contract in CONTRACTS.items() if contract.composite is not None]
)
def test_outside_the_mask_it_keeps_the_source_where_it_promises_to(name: str, make: Make) -> None:
    """The mask's 255 is edited, its 0 is kept: also where the mask is turned around."""
    method, base = make(name, **(CONTRACTS[name].composite or {})), asked_of(name)
    turned = replace(base, mask=base.mask.point(lambda value: 255 - value))
    for one in (base, turned):
        inside = mask_array(one.mask)
        edited, source = pixels(method.edit([one])[0]), pixels(one.source)
        assert np.array_equal(edited[~inside], source[~inside])
        if name != "copy_input":
            assert (edited[inside] != source[inside]).any(axis=1).mean() > 0.4


@pytest.mark.parametrize(
    "name", [n for n, contract in CONTRACTS.items() if "paste" in (contract.composite or {})]
)
def test_compositing_leaves_the_inside_as_it_is(name: str, make: Make) -> None:
    one = asked_of(name)
    raw, composited = (pixels(make(name, **more).edit([one])[0]) for more in ({}, PASTE))
    inside = mask_array(one.mask)
    assert np.array_equal(composited[inside], raw[inside])
    assert (raw[~inside] != pixels(one.source)[~inside]).any()
    assert "mask" in make(name, **PASTE).needs


@pytest.mark.parametrize("name", [name for name, contract in CONTRACTS.items() if contract.checks_requests])
def test_unfit_requests_are_refused(name: str, make: Make) -> None:
    method, base = make(name), asked_of(name)
    size = base.source.size
    if "mask" in method.needs:
        with pytest.raises(ValueError, match="mask is empty"):
            method.edit([replace(base, mask=box_mask(0, 0, 0, 0, size))])
        with pytest.raises(ValueError, match="mask of"):
            method.edit([replace(base, mask=box_mask(0, 0, 4, 4, (16, 16)))])
    for text in method.needs & set(TEXTS):
        with pytest.raises(ValueError, match=f"empty {text}"):
            method.edit([replace(base, **{text: " "})])
    if not isinstance(method, EndpointMethod):  # whose requests are sent one by one
        larger = (2 * size[0], size[1])
        other = replace(base, source=picture(1, larger), mask=box_mask(0, 0, 8, 8, larger))
        with pytest.raises(ValueError, match="differ in size"):
            method.edit([base, other])


@pytest.mark.parametrize("name", BY_CASE)
def test_a_method_by_case_refuses_a_request_and_edits_a_case(name: str, tmp_path: Path) -> None:
    picture(5).save(tmp_path / "case-1.png")
    cls = REGISTRY.load(name)
    options = cls.Options(path=str(tmp_path)) if name == "outputs" else cls.Options()
    method = cls(options, Runtime())
    assert method.wants_cases != method.wants_truth
    with pytest.raises(ValueError, match="runs inside a benchmark only"):
        method.edit([request(1)])
    case = EditCase("case-1", "attribute", request(1), "source", truth=picture(5))
    (edited,) = method.edit_cases([case])
    assert edited.tobytes() == picture(5).tobytes()
