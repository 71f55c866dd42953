"""The contract of every row of the table, on tiny random pipelines: the adapter adds nothing to a bare call."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.edit import EditRequest, Runtime
from methods.diffusion import adapter, checkpoints, loading
from methods.diffusion.adapter import Diffusers
from methods.diffusion.options import row_problems
from methods.diffusion.table import PIPELINES
from tests.methods.conftest import box_mask, picture, request
from tests.methods.diffusion.tiny_pipelines import SAMPLES

# --- the bare calls, as the pipelines' own documentation shows them ------------------------------------


@dataclass(frozen=True)
class Call:
    """One edit, as a user of diffusers has it."""

    source: Image.Image
    mask: Image.Image
    reference: Image.Image
    caption: str
    instruction: str
    region: str

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1)

    @property
    def size(self) -> dict[str, int]:
        return {"width": self.source.width, "height": self.source.height}

    @property
    def inpaint(self) -> dict[str, Any]:
        return {
            "prompt": self.caption,
            "image": self.source,
            "mask_image": self.mask,
            "strength": 1.0,
            **self.size,
        }

    @property
    def edit(self) -> dict[str, Any]:
        return {"prompt": self.instruction, "image": self.source, **self.size}

    @property
    def control(self) -> torch.Tensor:
        return self._control(-1)

    @property
    def gray_control(self) -> torch.Tensor:
        return self._control(0.5)

    def _control(self, hole: float) -> torch.Tensor:
        pixels = np.asarray(self.source, np.float32) / 255
        pixels = np.where(np.asarray(self.mask)[..., None] == 255, np.float32(hole), pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]


KONTEXT = {"max_area": 64 * 32, "_auto_resize": False}

BARE: Mapping[str, Callable[[Call], dict[str, Any]]] = {
    "StableDiffusionInpaintPipeline": lambda c: c.inpaint,
    "StableDiffusionControlNetInpaintPipeline": lambda c: c.inpaint | {"control_image": c.control},
    "StableDiffusionImg2ImgPipeline": lambda c: {"prompt": c.caption, "image": c.source, "strength": 0.9},
    "StableDiffusionInstructPix2PixPipeline": lambda c: {
        "prompt": c.instruction, "image": c.source, "image_guidance_scale": 1.2,
    },
    "StableDiffusionXLInpaintPipeline": lambda c: c.inpaint,
    "StableDiffusionXLControlNetInpaintPipeline": lambda c: c.inpaint | {"control_image": c.control},
    "StableDiffusionXLInstructPix2PixPipeline": lambda c: c.edit,
    "StableDiffusion3InpaintPipeline": lambda c: c.inpaint,
    "StableDiffusion3ControlNetInpaintingPipeline": lambda c: {
        "prompt": c.caption, "control_image": c.source, "control_mask": c.mask, **c.size,
    },
    "FluxFillPipeline": lambda c: c.inpaint,
    "FluxInpaintPipeline": lambda c: c.inpaint | {"negative_prompt": "a blur", "true_cfg_scale": 2.0},
    "FluxControlNetInpaintPipeline": lambda c: c.inpaint | {"control_image": c.gray_control},
    "FluxKontextPipeline": lambda c: c.edit | KONTEXT,
    "FluxKontextInpaintPipeline": lambda c: c.inpaint | KONTEXT | {"prompt": c.instruction},
    "Flux2Pipeline": lambda c: c.edit,
    "Flux2KleinPipeline": lambda c: c.edit,
    "Flux2KleinInpaintPipeline": lambda c: c.inpaint | {"prompt": c.instruction},
    "QwenImageEditPipeline": lambda c: c.edit | {"negative_prompt": " "},
    "QwenImageEditPlusPipeline": lambda c: c.edit | {"negative_prompt": " "},
    "QwenImageEditInpaintPipeline": lambda c: c.inpaint | {
        "prompt": c.instruction, "negative_prompt": " ", "true_cfg_scale": 30.0,
    },
    "QwenImageInpaintPipeline": lambda c: c.inpaint | {"negative_prompt": " "},
    "QwenImageControlNetInpaintPipeline": lambda c: {
        "prompt": c.caption, "negative_prompt": " ", "control_image": c.source, "control_mask": c.mask, **c.size,
    },
    "ChromaInpaintPipeline": lambda c: c.inpaint,
    "ZImageInpaintPipeline": lambda c: c.inpaint,
    "ZImageControlNetInpaintPipeline": lambda c: {
        name: value for name, value in c.inpaint.items() if name != "strength"
    } | {"control_image": c.gray_control},
    "ZImageOmniPipeline": lambda c: c.edit,
    "GlmImagePipeline": lambda c: c.edit | {"image": [c.source]},
    "LongCatImageEditPipeline": lambda c: {"prompt": c.instruction, "image": c.source},
    "OmniGenPipeline": lambda c: {
        "prompt": f"<img><|image_1|></img> {c.instruction}",
        "input_images": [c.source],
        "img_guidance_scale": 1.3,
        **c.size,
    },
    "Kandinsky5I2IPipeline": lambda c: c.edit,
    "DreamLitePipeline": lambda c: c.edit | {"image_guidance_scale": 1.2},
    "BriaFiboEditPipeline": lambda c: c.edit | {
        "prompt": json.dumps({"edit_instruction": c.instruction}), "mask": c.mask,
    },
    "KandinskyV22InpaintCombinedPipeline": lambda c: {
        name: value for name, value in c.inpaint.items() if name != "strength"
    } | {"prior_num_inference_steps": 2},
    "IFInpaintingPipeline": lambda c: {
        "prompt": c.caption, "image": c.source, "mask_image": c.mask, "strength": 1.0, "clean_caption": False,
    },
    "PaintByExamplePipeline": lambda c: {
        "image": c.source, "mask_image": c.mask, "example_image": c.reference,
    },
}  # fmt: skip


def bare(name: str, call: Call) -> Image.Image:
    """The result of the pipeline itself."""
    pipeline, generator = built(name), call.generator
    if name.startswith("LEdits"):
        sides = call.size
        pipeline.invert(image=call.source, num_inversion_steps=3, skip=0.25, generator=generator, **sides)
        more = {"use_intersect_mask": False, "generator": generator} if "XL" not in name else {}
        return pipeline(editing_prompt=[call.region], **more).images[0]
    if name == "StableDiffusionDiffEditPipeline":
        texts, steps = {"source_prompt": "a face", "target_prompt": call.caption}, {"num_inference_steps": 2}
        mask = pipeline.generate_mask(
            image=call.source, num_maps_per_mask=2, **texts, **steps, generator=generator
        )
        inverted = pipeline.invert(
            prompt="a face", image=call.source, inpaint_strength=1.0, generator=generator, **steps
        )
        return pipeline(
            prompt=call.caption, mask_image=mask, image_latents=inverted.latents, inpaint_strength=1.0,
            generator=generator, **steps,
        ).images[0]  # fmt: skip
    # Some draw noise of their own, from the global generator.
    torch.manual_seed(1)
    result = pipeline(**BARE[name](call), num_inference_steps=2, generator=generator)
    return (result.image if name == "Kandinsky5I2IPipeline" else result.images)[0]


# --- the adapter on the same pipelines -----------------------------------------------------------------


@cache
def built(name: str) -> Any:
    pipeline = SAMPLES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def tiny_checkpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The weights of a class are its tiny pipeline."""

    def find(options: Any) -> Any:
        sides = SimpleNamespace(native_size=32, vae_factor=2)
        return checkpoints.Checkpoint(options.pipeline, PIPELINES[options.pipeline], sides)

    monkeypatch.setattr(checkpoints, "problems", lambda options: [])
    monkeypatch.setattr(checkpoints, "find", find)
    monkeypatch.setattr(loading, "load", lambda checkpoint, options, runtime: built(checkpoint.pipeline))
    for sample in SAMPLES.values():
        if sample.small:
            shrink(monkeypatch, sample.small)


def shrink(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """The module's pictures of a megapixel become pictures of 64 x 64 pixels."""
    loaded = importlib.import_module(module)
    original = loaded.calculate_dimensions
    monkeypatch.setattr(loaded, "calculate_dimensions", lambda area, ratio: original(4096, ratio))


def adapter_of(name: str, **options: Any) -> Diffusers:
    settings = {"weights": "tiny/tiny", "pipeline": name, "steps": 2, "size": "source"}
    settings |= dict(SAMPLES[name].options) | options
    dtype = (*PIPELINES[name].dtypes, "float32")[-1 if "float32" in PIPELINES[name].dtypes else 0]
    return Diffusers(Diffusers.Options(**settings), Runtime(dtype=dtype))


def asked(name: str, seed: int = 1, **changes: Any) -> EditRequest:
    size = SAMPLES[name].size
    width, height = size
    mask = box_mask(0, 0, width // 2, height, size)
    needs = PIPELINES[name].needs_reference
    references = (picture(9, (32, 32)),) if needs else ()
    return replace(request(seed, mask, picture(seed, size)), references=references, **changes)


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image, dtype=np.int64)


def test_every_row_has_a_tiny_pipeline() -> None:
    assert set(SAMPLES) == set(PIPELINES)
    special = {name for name, row in PIPELINES.items() if row.first}
    assert set(BARE) == set(PIPELINES) - special


@pytest.mark.parametrize("name", PIPELINES)
def test_the_row_names_arguments_of_the_class(name: str) -> None:
    import diffusers

    row, cls = PIPELINES[name], getattr(diffusers, name)
    names = set(inspect.signature(cls.__call__).parameters)
    if row.first:
        names |= set(inspect.signature(cls.invert).parameters)
    named = {
        row.image, row.mask, row.reference, row.control, row.text, row.negative, row.negative_needs, row.steps,
        row.guidance, row.image_guidance, row.strength, row.area, *row.fixed,
    } - {""}  # fmt: skip
    assert named <= names
    if row.size == "arguments":
        assert {"height", "width"} <= names


@pytest.mark.parametrize("name", PIPELINES)
def test_the_adapter_is_the_bare_call(name: str) -> None:
    """Number for number, alone. In a batch up to rounding, or one at a time where the class takes no batch."""
    one, other = asked(name), asked(name, 2)
    call = Call(
        one.source, one.mask, picture(9, (32, 32)), one.target_prompt, one.instruction, one.region_prompt
    )
    method = adapter_of(name)
    (alone,) = method.edit([one])
    assert alone.tobytes() == bare(name, call).tobytes()
    together = method.edit([one, other])
    tolerance = 1 if PIPELINES[name].batchable else 0
    assert np.abs(pixels(together[0]) - pixels(alone)).max() <= tolerance
    assert np.abs(pixels(together[1]) - pixels(method.edit([other])[0])).max() <= tolerance
    assert np.abs(pixels(together[0]) - pixels(together[1])).max() > 5


@pytest.mark.parametrize("name", [name for name, row in PIPELINES.items() if row.mask])
def test_white_is_edited_and_black_is_kept(name: str) -> None:
    """Left and right in turn: the kept half depends little on the prompt, or the edited half is not seen."""
    method, one = adapter_of(name), asked(name)
    width, height = one.source.size
    for start in (0, width // 2):
        inside = np.zeros((height, width), bool)
        inside[:, start : start + width // 2] = True
        base = replace(one, mask=Image.fromarray(inside.astype(np.uint8) * 255))
        edit = pixels(method.edit([base])[0])
        if SAMPLES[name].keeps:
            # The same noise: the latents of the kept half are the very same ones.
            other = replace(base, target_prompt="a blue whale", instruction="make it rain")
            difference = np.abs(pixels(method.edit([other])[0]) - edit).mean(axis=2)
            # Not beside the seam, where the decoder mixes the halves.
            far = np.abs(np.arange(width) - width // 2) >= width // 8
            assert difference[inside & far].mean() > 2 * difference[~inside & far].mean()
            continue
        painted = pixels(one.source).copy()
        painted[inside] = (255, 0, 0)
        unseen = replace(base, source=Image.fromarray(painted.astype(np.uint8)))
        assert np.array_equal(pixels(method.edit([unseen])[0]), edit)
        painted = pixels(one.source).copy()
        painted[~inside] = (255, 0, 0)
        seen = replace(base, source=Image.fromarray(painted.astype(np.uint8)))
        assert not np.array_equal(pixels(method.edit([seen])[0]), edit)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_misspelt_argument_is_refused_and_a_further_one_is_passed_on(name: str) -> None:
    row = PIPELINES[name]

    def problems(**options: Any) -> list[str]:
        settings = {"weights": "tiny/tiny", "pipeline": name} | options
        return row_problems(Diffusers.Options(**settings), name, row)

    assert problems() == []
    (problem,) = problems(call={"gidance": 3})
    assert f"{name} has no argument gidance" in problem
    (problem,) = problems(call={"output_type": "np"})
    assert "the adapter sets output_type itself" in problem
    if not row.strength:
        assert "has no strength" in problems(strength=0.5)[0]
    if not row.negative:
        assert "negative_prompt" in problems(negative_prompt="x")[0]
    assert ("checkpoint's sampler" in "".join(problems(scheduler="ddim"))) == row.own_sampler


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("resize", ["pad", "crop", "exact"])
def test_framing_and_size_come_back(name: str, resize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that returns its source: the edit of a source of any size is the source, up to resampling."""
    row = PIPELINES[name]
    inputs: dict[str, Any] = {}

    def echo(pipeline: Any, output: str, **arguments: Any) -> list[Any]:
        inputs.update(arguments)
        given = arguments[row.image or "image"]
        return [given[0]] if isinstance(given, list) else [given]

    monkeypatch.setattr(adapter.pipelines, "call", echo)
    monkeypatch.setattr(
        adapter, "INVERSIONS", dict.fromkeys(("ledits", "diffedit"), lambda w: {"image": w.source})
    )
    source = picture(3, (150, 101))
    base = replace(asked(name), source=source, mask=box_mask(40, 30, 110, 70, (150, 101)))
    (edited,) = adapter_of(name, size="128x128" if not row.sizes else "96x64", resize=resize).edit([base])
    assert edited.size == source.size
    assert np.abs(pixels(edited) - pixels(source)).mean() < 4
    if row.size == "arguments":
        assert (inputs["width"], inputs["height"]) == ((96, 64) if row.sizes else (128, 128))
    if row.mask:
        mask = inputs[row.mask]
        (mask,) = mask if isinstance(mask, list) else [mask]
        assert (mask.mode, mask.size) == ("L", (96, 64) if row.sizes else (128, 128))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
