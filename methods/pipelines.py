"""What the methods that run on a diffusers pipeline have in common.

Loading a pipeline from parts, calling it without its silent traps, and the arithmetic of masks on the
latent grid. torch and diffusers are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.errors import BenchError
from methods.weights import MODEL_PARTS, Weights, WeightsError, read_json

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

SchedulerName = Literal["ddim", "ddpm", "dpm++", "dpm++_sde", "euler", "euler_a", "lms", "pndm", "unipc"]

_SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

_CLASSES: Mapping[str, tuple[str, str]] = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
"""The class of a part that ``model_index.json`` does not name, because another checkpoint holds it."""


class ArgumentError(BenchError):
    """A pipeline was to be called with an argument that it would have swallowed and ignored."""


# --- loading ---------------------------------------------------------------------------------------


def load_pipeline(pipeline_class: str, found: Weights, runtime: Runtime, scheduler: str | None = None) -> Any:
    """The pipeline of ``found``, in evaluation mode, on the device and in the precision of ``runtime``.

    Whatever precision is on disk is converted to ``runtime.dtype``. There is no safety checker and no
    progress bar. ``scheduler`` replaces the checkpoint's own sampler and keeps its noise schedule.
    """
    import diffusers

    index = read_json(found.root / "model_index.json")
    parts = {part: load_part(part, found, runtime, index.get(part)) for part in found.parts}
    cls: Any = getattr(diffusers, pipeline_class)
    pipeline = cls(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if scheduler is not None:
        name, settings = _SCHEDULERS[scheduler]
        pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(runtime.device)


def load_part(part: str, found: Weights, runtime: Runtime, named: Any = None) -> Any:
    """One part by itself. ``named`` is its line ``[library, class]`` of ``model_index.json``, if it has one.

    Models are in evaluation mode and in ``runtime.dtype``; on the CPU, where the pipeline moves them from.
    """
    library, name = _class_of(part, found, named)
    cls = getattr(importlib.import_module(library), name)
    folder = found.parts[part]
    if part not in MODEL_PARTS:
        return cls.from_pretrained(str(folder), local_files_only=True)
    from methods import low_rank

    variant = Weights(found.kind, found.name, found.root, {part: folder}).variant
    with quiet():
        return low_rank.load(cls, folder, torch_dtype(runtime), variant=variant, local_files_only=True)


def _class_of(part: str, found: Weights, named: Any) -> tuple[str, str]:
    if isinstance(named, list) and len(named) == 2 and all(isinstance(name, str) for name in named):
        library, name = named
    elif part == "scheduler":
        library, name = "diffusers", str(found.config("scheduler").get("_class_name"))
    else:
        library, name = _CLASSES[part]
    # The name comes from a file: only these two libraries may be asked for a class.
    if library not in ("diffusers", "transformers") or not name.isidentifier() or name.startswith("_"):
        raise WeightsError(f"{found.root / 'model_index.json'}: {part}: unknown class {library}.{name}")
    return library, name


def save_pipeline(folder: Path, pipeline: Any, shared: Mapping[str, str] | None = None) -> None:
    """Writes a pipeline in diffusers' layout as half-precision safetensors; the pipeline stays as it is.

    ``shared`` maps a part to the sibling folder that holds it already; such parts are left out and
    ``shared.json`` names them, and what else the checkpoint needs (a base). An existing folder's other files
    (cards) are kept.
    """
    import copy
    import json
    import shutil

    import diffusers
    import torch

    shared = dict(shared or {})
    parts: dict[str, Any] = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
        if name not in shared
    }
    index = {name: value for name, value in pipeline.config.items() if name not in shared}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        if part is not None:
            part.save_pretrained(str(folder / name))
    for name in shared:
        shutil.rmtree(folder / name, ignore_errors=True)
        if name in pipeline.components:
            index[name] = [None, None]
    index["_class_name"] = type(pipeline).__name__
    index["_diffusers_version"] = diffusers.__version__
    index.pop("_name_or_path", None)
    (folder / "model_index.json").write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    if shared:
        (folder / "shared.json").write_text(json.dumps(shared, sort_keys=True) + "\n", encoding="utf-8")
    else:
        (folder / "shared.json").unlink(missing_ok=True)


def torch_dtype(runtime: Runtime) -> torch.dtype:
    import torch

    try:
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[runtime.dtype]
    except KeyError:
        raise ValueError(f"dtype {runtime.dtype!r}: expected float32, float16 or bfloat16") from None


def runtime_problems(runtime: Runtime) -> list[str]:
    if runtime.dtype not in ("float32", "float16", "bfloat16"):
        return [f"dtype {runtime.dtype!r}: expected float32, float16 or bfloat16"]
    if runtime.dtype == "float16" and runtime.device.split(":")[0] == "cpu":
        return ["dtype float16 does not run on the CPU: use float32, or bfloat16"]
    return []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries' own progress bars off, and back to what they were: the benchmark has its own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: list[Any] = [diffusers_logging, transformers_logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


# --- calling ---------------------------------------------------------------------------------------


def call(pipeline: Any, **arguments: Any) -> list[Any]:
    """``pipeline(**arguments).images``, refusing names that the pipeline does not declare.

    diffusers' pipelines take ``**kwargs`` and drop what they do not know, so that a misspelt name, or one
    that only a sister pipeline has, would silently fall back to a default.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
    unknown = sorted(set(arguments) - named)
    if unknown:
        raise ArgumentError(
            f"{type(pipeline).__name__} has no argument {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(sorted(named))}"
        )
    images: list[Any] = pipeline(**arguments).images
    return images


def masked_latents(
    pipeline: Any, sources: Sequence[Image], masks: Sequence[NDArray[np.bool_]]
) -> torch.Tensor:
    """Scaled latents (B, 4, H/f, W/f) of the sources with gray where their masks (bool HW) are True.

    Where an inpainting pipeline is given a mask widened to whole cells, it would hide the whole cells. With these
    as its ``masked_image_latents`` the network sees every pixel that it is to keep. The posterior's mode, not a
    sample: what is to be copied should not arrive with noise.
    """
    import torch

    pixels = pipeline.image_processor.preprocess(list(sources))
    keep = torch.from_numpy(~np.stack(masks)[:, None])
    vae = pipeline.vae
    with torch.no_grad():
        hidden = (pixels * keep).to(device=vae.device, dtype=vae.dtype)
        latents: torch.Tensor = vae.encode(hidden).latent_dist.mode() * vae.config.scaling_factor
    return latents


def generators(requests: Sequence[EditRequest]) -> list[torch.Generator]:
    """One generator per request, so that a result does not depend on what it was batched with.

    They live on the CPU whatever the device: diffusers then draws the noise there and moves it, and the
    same seed gives the same noise on every device.
    """
    import torch

    return [torch.Generator(device="cpu").manual_seed(request.seed) for request in requests]


def prompts(requests: Sequence[EditRequest], name: str) -> list[str]:
    """The field ``name`` of every request. Raises ValueError where one is empty."""
    texts: list[str] = [getattr(request, name) for request in requests]
    for position, text in enumerate(texts):
        if not text.strip():
            raise ValueError(
                f"request {position} of the batch has an empty {name}, which is what the method follows"
            )
    return texts


def one_size(requests: Sequence[EditRequest], factor: int) -> tuple[int, int]:
    """The (width, height) that all sources of the batch share.

    Raises ValueError where they differ, or where a side is no multiple of ``factor``.
    """
    sizes = {request.source.size for request in requests}
    if len(sizes) != 1:
        # InstructPix2Pix would resize all of them to the first one's size without a word.
        raise ValueError(f"the sources of one batch differ in size: {sorted(sizes)}")
    width, height = sizes.pop()
    if width % factor or height % factor:
        raise ValueError(f"source of {width} x {height} pixels: both sides must be multiples of {factor}")
    return width, height


# --- masks on the latent grid -----------------------------------------------------------------------


def rescue_thin(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """The mask, with cells of the latent grid filled where it would otherwise vanish. bool HW -> bool HW.

    diffusers' pipelines take every ``factor``-th pixel of the mask, the first of each cell of the latent
    grid. Parts that hold no such pixel (an earring, a thin moustache: a band 7 pixels wide can miss all
    of them) would not be edited at all. Here a cell that holds mask pixels is filled whole if neither its own
    first pixel nor that of any of its eight neighbours is in the mask. Masks wide enough to be sampled
    come back unchanged, so that results on them are the published pipeline's.

    H and W must be multiples of ``factor``.
    """
    sampled = mask[::factor, ::factor]
    held = _cells(mask, factor)
    padded = np.pad(sampled, 1)
    rows, columns = sampled.shape
    near: NDArray[np.bool_] = np.zeros((rows, columns), dtype=np.bool_)
    for down in range(3):
        for right in range(3):
            np.logical_or(near, padded[down : down + rows, right : right + columns], out=near)
    rescued: NDArray[np.bool_] = mask | _pixels(held & ~near, factor)
    return rescued


def cover_cells(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Every cell of the latent grid that holds a mask pixel, filled whole (max-pooling). bool HW -> bool HW.

    No part of the edit region is lost at its edges, and up to ``factor - 1`` pixels around it become
    editable. H and W must be multiples of ``factor``.
    """
    return _pixels(_cells(mask, factor), factor)


def _cells(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    held: NDArray[np.bool_] = np.asarray(blocks.any(axis=(1, 3)), dtype=np.bool_)
    return held


def _pixels(cells: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    return cells.repeat(factor, axis=0).repeat(factor, axis=1)
