"""diffusers pipelines: they are loaded from their parts, saved, and called with checked arguments.

torch and diffusers are imported on use.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.errors import BenchError
from methods.runtime import torch_dtype
from methods.weights import MODEL_PARTS, Weights, WeightsError, read_json

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import Runtime

SchedulerName = Literal["ddim", "ddpm", "dpm++", "dpm++_sde", "euler", "euler_a", "lms", "pndm", "unipc"]

# Name of a sampler -> its class in diffusers and the settings that make it that sampler.
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

# The class of a part that ``model_index.json`` does not name, because another checkpoint holds it.
_CLASSES: Mapping[str, tuple[str, str]] = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}


class ArgumentError(BenchError):
    """A pipeline would silently ignore an argument of the call."""


# --- loading ---------------------------------------------------------------------------------------


def load_pipeline(
    pipeline_class: str,
    checkpoint: Weights,
    runtime: Runtime,
    scheduler: str | None = None,
    place: Callable[[Any], object] | None = None,
    **extra: Any,
) -> Any:
    """A pipeline of diffusers, in evaluation mode, on the device and in the precision of ``runtime``.

    The weights are converted to ``runtime.dtype``, whatever their precision on disk. There is no safety checker and no
    progress bar. ``scheduler`` replaces the checkpoint's own sampler. ``place`` moves the pipeline to the device, None
    moves all of it. ``extra`` holds further components of the pipeline that are already loaded.
    """
    import diffusers

    index = read_json(checkpoint.root / "model_index.json")
    parts = {part: load_part(part, checkpoint, runtime, index.get(part)) for part in checkpoint.parts}
    cls: Any = getattr(diffusers, pipeline_class)
    # A safety checker replaces images by black ones, which a benchmark would score as edits.
    pipeline = cls(
        **parts, **extra, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    set_scheduler(pipeline, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if place is None:
        pipeline.to(runtime.device)
    else:
        place(pipeline)
    return pipeline


def set_scheduler(pipeline: Any, scheduler: str | None) -> None:
    """Replaces the pipeline's sampler, and keeps its noise schedule. None keeps the sampler."""
    import diffusers

    if scheduler is not None:
        name, settings = _SCHEDULERS[scheduler]
        # From the checkpoint's own configuration: betas and the kind of prediction belong to the network, not to
        # the sampler.
        pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)


def load_part(part: str, checkpoint: Weights, runtime: Runtime, class_path: Any = None) -> Any:
    """One part by itself: a model in evaluation mode and in ``runtime.dtype``, a tokenizer or a scheduler.

    Models stay on the CPU, from which the pipeline moves them. ``class_path`` is the part's entry
    ``[library, class]`` in ``model_index.json``, if it has one.
    """
    library, name = _class_of(part, checkpoint, class_path)
    cls = getattr(importlib.import_module(library), name)
    folder = checkpoint.parts[part]
    if part not in MODEL_PARTS:
        return cls.from_pretrained(str(folder), local_files_only=True)
    from methods import low_rank

    variant = Weights(checkpoint.kind, checkpoint.name, checkpoint.root, {part: folder}).variant
    with quiet():
        return low_rank.load(cls, folder, torch_dtype(runtime), variant=variant, local_files_only=True)


def _class_of(part: str, checkpoint: Weights, class_path: Any) -> tuple[str, str]:
    """(library, class) of a part. Raises WeightsError for a library that is not allowed."""
    if (
        isinstance(class_path, list)
        and len(class_path) == 2
        and all(isinstance(name, str) for name in class_path)
    ):
        library, name = class_path
    elif part == "scheduler":
        library, name = "diffusers", str(checkpoint.config("scheduler").get("_class_name"))
    else:
        library, name = _CLASSES[part]
    # The name comes from a file: only these two libraries may be asked for a class.
    if library not in ("diffusers", "transformers") or not name.isidentifier() or name.startswith("_"):
        raise WeightsError(f"{checkpoint.root / 'model_index.json'}: {part}: unknown class {library}.{name}")
    return library, name


def save_pipeline(folder: Path, pipeline: Any, shared: Mapping[str, str] | None = None) -> None:
    """Writes a pipeline in diffusers' layout as half-precision safetensors. The pipeline itself stays as it is.

    ``shared`` maps a part to the sibling folder that holds it already. Such parts are left out, and ``shared.json``
    names them and whatever else the checkpoint needs (a base). Other files of an existing folder (cards) stay.
    """
    import copy

    import diffusers
    import torch

    shared = dict(shared or {})

    # Parts of its own, as half-precision copies.
    folder.mkdir(parents=True, exist_ok=True)
    for name in shared:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, part in pipeline.components.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        if part is not None and name not in shared:
            # `half` changes a module in place, hence the copy.
            stored: Any = copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
            stored.save_pretrained(str(folder / name))

    # The index of classes, which knows a shared part as absent.
    index = {name: value for name, value in pipeline.config.items() if name not in shared}
    index |= {name: [None, None] for name in shared if name in pipeline.components}
    index |= {"_class_name": type(pipeline).__name__, "_diffusers_version": diffusers.__version__}
    # A path of this machine, which would change the digest of the files.
    index.pop("_name_or_path", None)
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model_index.json").write_text(text, encoding="utf-8")

    # Where the shared parts are.
    if shared:
        (folder / "shared.json").write_text(json.dumps(shared, sort_keys=True) + "\n", encoding="utf-8")
    else:
        (folder / "shared.json").unlink(missing_ok=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Switches the libraries' own progress bars off and restores them: the benchmark has its own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: list[Any] = [diffusers_logging, transformers_logging]
    enabled = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in enabled:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in enabled:
            library.enable_progress_bar()


# --- calling ---------------------------------------------------------------------------------------


def call(pipeline: Any, output: str = "images", /, **arguments: Any) -> list[Any]:
    """``pipeline(**arguments).images``. Raises ArgumentError as :func:`call_method` does.

    ``output`` is the field of the result that has the images, for the few classes that call it otherwise.
    """
    images: list[Any] = getattr(call_method(pipeline, "__call__", **arguments), output)
    return images


def call_method(pipeline: Any, method: str, /, **arguments: Any) -> Any:
    """``pipeline.method(**arguments)``. Raises ArgumentError for a name that the method does not declare.

    diffusers' pipelines take ``**kwargs`` and drop unknown names. A misspelt name, or one that only another pipeline
    has, would silently fall back to a default.
    """
    accepted = set(accepted_names(getattr(type(pipeline), method)))
    unknown = sorted(set(arguments) - accepted)
    if unknown:
        raise ArgumentError(
            f"{type(pipeline).__name__} has no argument {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(sorted(accepted))}"
        )
    return getattr(pipeline, method)(**arguments)


def accepted_names(method: Any) -> list[str]:
    """Names of the arguments that a method of a class declares, without ``self``."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def masked_latents(
    pipeline: Any, sources: Sequence[Image], masks: Sequence[NDArray[np.bool_]]
) -> torch.Tensor:
    """Scaled latents (B, 4, H / f, W / f) of the sources with gray where their masks (bool (H, W)) are True.

    An inpainting pipeline that is given a mask widened to whole cells would hide the whole cells. With these latents
    as its ``masked_image_latents`` the network sees every pixel that must stay.
    """
    import torch

    pixels = pipeline.image_processor.preprocess(list(sources))  # float32 (B, 3, H, W) in [-1, 1]
    keep = torch.from_numpy(~np.stack(masks)[:, None])  # bool (B, 1, H, W)
    vae = pipeline.vae
    with torch.no_grad():
        visible = (pixels * keep).to(device=vae.device, dtype=vae.dtype)
        # The posterior's mode, not a sample: what is to be copied should not arrive with noise.
        latents: torch.Tensor = vae.encode(visible).latent_dist.mode() * vae.config.scaling_factor
    return latents
