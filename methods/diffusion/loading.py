"""Loads the pipeline behind the adapter's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods import pipelines, weights
from methods.diffusion import checkpoints
from methods.diffusion.checkpoints import CONTROL_PART, control_config, lora_path
from methods.diffusion.inference import pipeline_class
from methods.diffusion.table import INVERTIBLE
from methods.runtime import torch_dtype

if TYPE_CHECKING:
    from bench.edit import Runtime
    from methods.diffusion.checkpoints import Checkpoint
    from methods.diffusion.options import DiffusersOptions
    from methods.weights import Weights

# The network that does the denoising, by its possible names in a pipeline.
_DENOISERS = ("transformer", "unet")


def load(checkpoint: Checkpoint, options: DiffusersOptions, runtime: Runtime) -> Any:
    """The pipeline, in evaluation mode, on the device and in the precision of ``runtime``.

    There is no safety checker, no progress bar and no download.
    """
    extra: dict[str, Any] = {}
    if options.controlnet:
        extra["controlnet"] = _controlnet(options, runtime)
    if checkpoint.row.channels:
        pipeline = _from_parts(checkpoint, options, runtime, extra)
    else:
        pipeline = _whole(checkpoint, options, runtime, extra)
        pipelines.set_scheduler(pipeline, _scheduler(checkpoint, options))
        pipeline.set_progress_bar_config(disable=True)
        _place(pipeline, options, runtime)
    for number, lora in enumerate(options.loras):
        _add_lora(pipeline, lora, f"lora{number}")
    if options.compile:
        for name in _DENOISERS:
            if (network := getattr(pipeline, name, None)) is not None:
                network.compile()
    return pipeline


def device_problems(checkpoint: Checkpoint, options: DiffusersOptions, runtime: Runtime) -> list[str]:
    """Reasons why these options cannot be used on this device, or the class in this precision."""
    problems = []
    if options.offload != "none" and runtime.device.split(":")[0] == "cpu":
        problems.append(
            f"offload {options.offload} moves parts to an accelerator, and the device is cpu: leave it out"
        )
    fit = checkpoint.row.dtypes
    if fit and runtime.dtype not in fit:
        problems.append(
            f"{checkpoint.pipeline} does not work in {runtime.dtype}: use --dtype {' or '.join(fit)}"
        )
    return problems


def _from_parts(
    checkpoint: Checkpoint, options: DiffusersOptions, runtime: Runtime, extra: dict[str, Any]
) -> Any:
    """A pipeline on the parts of a Stable Diffusion checkpoint, which may lie in several folders."""
    if checkpoint.row.first == "diffedit":
        import diffusers

        # Inversion needs a sampler and its inverse: both DDIM, on the checkpoint's own noise schedule.
        config = checkpoint.weights.config("scheduler")
        extra["inverse_scheduler"] = diffusers.DDIMInverseScheduler.from_config(config)
    return pipelines.load_pipeline(
        checkpoint.pipeline,
        checkpoint.weights,
        runtime,
        _scheduler(checkpoint, options),
        place=lambda pipeline: _place(pipeline, options, runtime),
        **extra,
    )


def _whole(checkpoint: Checkpoint, options: DiffusersOptions, runtime: Runtime, extra: dict[str, Any]) -> Any:
    cls = pipeline_class(checkpoint.pipeline)
    parts = weights.read_json(checkpoint.weights.root / "model_index.json")
    if "safety_checker" in parts:
        # A safety checker replaces images by black ones, which a benchmark would score as edits.
        extra |= {"safety_checker": None, "requires_safety_checker": False}
    if options.quantization != "none":
        denoisers = [name for name in _DENOISERS if name in parts]
        extra["quantization_config"] = _quantization(options.quantization, denoisers)
    prior = checkpoints.prior(options)
    if prior is None:
        return _from_files(cls, checkpoint.weights, runtime, extra)
    # Each half of the cascade is loaded as the pipeline that it is. The class by itself would look the prior up in
    # the README of the weights.
    from diffusers import DiffusionPipeline

    first = _from_files(DiffusionPipeline, prior, runtime, {})
    second = _from_files(DiffusionPipeline, checkpoint.weights, runtime, extra)
    return cls(**second.components, **{f"prior_{name}": part for name, part in first.components.items()})


def _from_files(cls: Any, files: Weights, runtime: Runtime, extra: Mapping[str, Any]) -> Any:
    with pipelines.quiet():
        return cls.from_pretrained(
            str(files.root),
            dtype=torch_dtype(runtime),
            variant=files.variant,
            local_files_only=True,
            **extra,
        )


def _scheduler(checkpoint: Checkpoint, options: DiffusersOptions) -> str | None:
    """Name of the sampler, None for the checkpoint's own. Inversions work with one sampler each."""
    return options.scheduler or INVERTIBLE.get(checkpoint.row.first)


def _quantization(name: str, denoisers: Sequence[str]) -> Any:
    """The configuration that loads the parts named by ``denoisers`` with fewer bits per weight."""
    import diffusers
    from diffusers.quantizers import PipelineQuantizationConfig

    if name == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    elif name == "bitsandbytes-8bit":
        config = diffusers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = diffusers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return PipelineQuantizationConfig(quant_mapping=dict.fromkeys(denoisers, config))


def _controlnet(options: DiffusersOptions, runtime: Runtime) -> Any:
    name = control_config(options).get("_class_name", "ControlNetModel")
    files = weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART)
    return pipelines.load_part("controlnet", files, runtime, ["diffusers", name])


def _place(pipeline: Any, options: DiffusersOptions, runtime: Runtime) -> None:
    """Moves the pipeline to the device, whole or part by part as it is used."""
    import torch

    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=runtime.device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=runtime.device)
    elif options.offload == "group":
        pipeline.enable_group_offload(onload_device=torch.device(runtime.device), offload_type="leaf_level")
    else:
        pipeline.to(runtime.device)


def _add_lora(pipeline: Any, lora: str, name: str) -> None:
    path = lora_path(lora)
    # The options were checked: it is there.
    assert path is not None
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    pipeline.load_lora_weights(str(Path(folder)), weight_name=file, adapter_name=name, local_files_only=True)
