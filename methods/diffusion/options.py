"""Options of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from methods.diffusion.base import strength_problems
from methods.diffusion.framing import Resize, size_problem
from methods.diffusion.inference import pipeline_class
from methods.diffusion.table import FIRST_METHODS, INVERTIBLE, PipelineRow
from methods.mask_grid import MaskCells
from methods.pipelines import SchedulerName, accepted_names

TextField = Literal["", "instruction", "target_prompt", "region_prompt"]
Offload = Literal["none", "model", "sequential", "group"]
Quantization = Literal["none", "bitsandbytes-4bit", "bitsandbytes-8bit", "torchao-int8"]

# Quantization -> the package that it needs.
_PACKAGES: Mapping[str, str] = {
    "bitsandbytes-4bit": "bitsandbytes",
    "bitsandbytes-8bit": "bitsandbytes",
    "torchao-int8": "torchao",
}

# Marks an option that changes no pixel beyond rounding. Such options are not part of the method's digest.
RunTime = Field(exclude=True)


@dataclass(frozen=True)
class DiffusersOptions:
    weights: str = ""
    """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
    revision: str | None = None
    """Commit, tag or branch on the hub. None is the pinned commit of the known checkpoints, else the newest one."""
    pipeline: str = ""
    """Class of diffusers. Empty is the one that ``model_index.json`` of the weights names."""
    controlnet: str = ""
    """ControlNet, for the classes with one: ``owner/name`` or a folder. Empty where the weights have one."""
    controlnet_revision: str | None = None
    scheduler: SchedulerName | None = None
    """Name of the sampler. None is the checkpoint's own."""
    steps: int | None = None
    """Steps of the sampler. None is the pipeline's default, as for the three options below."""
    guidance: float | None = None
    """Scale of the guidance towards the prompt."""
    image_guidance: float | None = None
    """Scale of the guidance towards the source, for the classes with one."""
    negative_prompt: str | None = None
    """Text that guidance leads away from."""
    strength: float = 1.0
    """1 starts from pure noise. A smaller value keeps more of the source. Tables state it where it is not 1."""
    prompt_field: TextField = ""
    """Text of the request that is the prompt. Empty is the text that the class follows: the instruction for models
    that were trained on instructions, the target prompt for inpainting models."""
    mask_cells: MaskCells = "rescue"
    """Rule that brings a mask onto the latent grid. ``rescue`` fills the cells of parts that the grid would miss.
    ``cover`` fills every cell that the mask touches."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call, by their names there."""
    size: str = "native"
    """Size at which the model works. ``native`` is the model's own number of pixels with the source's aspect ratio, or
    the nearest size of its training. ``source`` is the source's size. ``1024x768`` and a number of pixels work too."""
    resize: Resize = "pad"
    """How a source of another aspect ratio gets to this size. ``pad`` mirrors its borders, and they are cut off
    again. ``crop`` edits the largest middle part. ``exact`` stretches and distorts."""
    loras: tuple[str, ...] = ()
    """LoRA weights that are added, each ``owner/name``, ``owner/name@revision``, a folder or a file."""
    quantization: Quantization = "none"
    """Precision of the largest network's weights."""
    offload: Annotated[Offload, RunTime] = "none"
    """Parts that wait in the computer's memory: whole models, single layers (slow), or groups of layers."""
    compile: Annotated[bool, RunTime] = False
    """Compile the denoising network. The first batch takes minutes."""
    paste: bool = False
    """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""


def option_problems(options: DiffusersOptions) -> list[str]:
    """Values out of range, whatever the class. Needs no weights."""
    problems = []
    if not options.weights:
        problems.append(
            "weights is empty: name owner/name of a model on the hub or a folder, or take a preset "
            "(run_bench.py list methods)"
        )
    if options.steps is not None and options.steps < 1:
        problems.append(f"steps {options.steps}: expected at least 1")
    for name, value in (("guidance", options.guidance), ("image_guidance", options.image_guidance)):
        if value is not None and value < 0:
            problems.append(f"{name} {value}: expected at least 0")
    problems += strength_problems(options.steps or 0, options.strength)
    if problem := size_problem(options.size):
        problems.append(problem)
    package = _PACKAGES.get(options.quantization)
    if package and find_spec(package) is None:
        problems.append(
            f"quantization {options.quantization} needs the package {package}: pip install {package}"
        )
    if options.loras and find_spec("peft") is None:
        problems.append("loras need the package peft: pip install peft")
    return problems


def row_problems(options: DiffusersOptions, name: str, row: PipelineRow) -> list[str]:
    """Options that pipelines of class ``name`` do not have, or that would have no effect."""
    problems = []
    # Options that the class has no argument for.
    if options.strength != 1 and not row.strength:
        problems.append(f"strength {options.strength}: {name} has no strength; leave the option out")
    if options.image_guidance is not None and not row.image_guidance:
        problems.append(f"image_guidance: {name} has no guidance towards the source; leave the option out")
    if options.guidance is not None and not row.guidance:
        problems.append(f"guidance: {name} has no guidance; leave the option out")
    if options.negative_prompt is not None and not row.negative:
        problems.append(f"negative_prompt: {name} has none; leave the option out")
    if options.prompt_field and not row.text:
        problems.append(f"prompt_field: {name} takes no text; leave the option out")
    if options.controlnet and not row.control and "control" not in row.image:
        problems.append(f"controlnet: {name} has none; leave the option out")
    # A negative prompt that would be ignored.
    needed = row.negative_needs
    if options.negative_prompt and needed and not _above_one(options.call.get(needed)):
        problems.append(
            f"negative_prompt has no effect without true guidance: set call: {{{needed}: 4.0}}, or leave it out"
        )
    if options.quantization != "none" and row.channels:
        problems.append(f"quantization: {name} is loaded from its parts; leave the option out")
    sampler = INVERTIBLE.get(row.first)
    if sampler and options.scheduler not in (None, sampler):
        problems.append(f"scheduler {options.scheduler}: {name} works with {sampler}; leave the option out")
    if row.own_sampler and options.scheduler is not None:
        problems.append(
            f"scheduler {options.scheduler}: {name} works with its checkpoint's sampler; leave the option out"
        )
    return problems + _call_problems(options, name, row)


def _call_problems(options: DiffusersOptions, name: str, row: PipelineRow) -> list[str]:
    """Arguments of ``call`` that the class does not have, or that the adapter sets."""
    # Importing a class takes seconds, so only where there is something to check.
    if not options.call:
        return []
    cls = pipeline_class(name)
    names = set(accepted_names(cls.__call__))
    for method in FIRST_METHODS.get(row.first, ()):
        names |= set(accepted_names(getattr(cls, method)))
    reserved = {
        "image", row.image, row.mask, row.control, row.reference, row.text, row.negative, row.steps, row.guidance,
        row.image_guidance, row.strength, row.area, *row.fixed, "height", "width", "generator", "output_type",
        "return_dict", "num_images_per_prompt", "seed",
    }  # fmt: skip
    problems = []
    if taken := sorted(set(options.call) & reserved):
        problems.append(f"call: the adapter sets {', '.join(taken)} itself; use the options")
    if unknown := sorted(set(options.call) - names - reserved):
        free = ", ".join(sorted(names - reserved))
        problems.append(f"call: {name} has no argument {', '.join(unknown)}; it has: {free}")
    return problems


def _above_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 1
