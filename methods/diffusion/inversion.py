"""Editors that first bring the source back to noise: LEDITS++ (Brack et al., CVPR 2024), DiffEdit (Couairon et al.,
ICLR 2023).

Both edit one image a call. The work before the call gives it its further arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods import pipelines

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.edit import EditRequest
    from methods.diffusion.options import DiffusersOptions


@dataclass(frozen=True, eq=False)
class Inversion:
    """Everything that the work before a call gets."""

    pipeline: Any
    options: DiffusersOptions
    request: EditRequest
    source: Image
    """At the size at which the model works."""
    text: str
    generator: torch.Generator


def ledits(work: Inversion) -> dict[str, Any]:
    """Inverts the source, which the pipeline keeps. Its number of steps is that of the edit."""
    options = work.options
    width, height = work.source.size
    pipelines.call_method(
        work.pipeline,
        "invert",
        image=work.source,
        generator=work.generator,
        width=width,
        height=height,
        **_given(num_inversion_steps=options.steps),
        **_own(work, "invert"),
    )
    arguments: dict[str, Any] = _given(
        editing_prompt=[work.text],
        edit_guidance_scale=options.guidance,
        negative_prompt=options.negative_prompt,
    )
    # LEDITS++ for SDXL has no generator in its call: what it draws, the inversion draws.
    if "generator" in pipelines.accepted_names(type(work.pipeline).__call__):
        arguments["generator"] = work.generator
    return arguments | _own(work, "__call__")


def diffedit(work: Inversion) -> dict[str, Any]:
    """Computes the mask from the two prompts and inverts the source (sections 3.1 and 3.2 of the paper)."""
    options, generator = work.options, work.generator
    shared = _given(num_inference_steps=options.steps, guidance_scale=options.guidance)
    mask = pipelines.call_method(
        work.pipeline,
        "generate_mask",
        image=work.source,
        source_prompt=work.request.source_prompt,
        target_prompt=work.text,
        generator=generator,
        **shared,
        **_own(work, "generate_mask"),
    )
    inverted = pipelines.call_method(
        work.pipeline,
        "invert",
        prompt=work.request.source_prompt,
        image=work.source,
        generator=generator,
        inpaint_strength=options.strength,
        **shared,
        **_own(work, "invert"),
    )
    return {
        "prompt": work.text,
        "mask_image": mask,
        "image_latents": inverted.latents,
        "inpaint_strength": options.strength,
        "generator": generator,
        **shared,
        **_given(negative_prompt=options.negative_prompt),
        **_own(work, "__call__"),
    }


INVERSIONS: Mapping[str, Callable[[Inversion], dict[str, Any]]] = {"ledits": ledits, "diffedit": diffedit}


def _own(work: Inversion, method: str) -> dict[str, Any]:
    """The arguments of the option ``call`` that a method of the pipeline has."""
    names = pipelines.accepted_names(getattr(type(work.pipeline), method))
    return {name: value for name, value in work.options.call.items() if name in names}


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None, which stands for the pipeline's default."""
    return {name: value for name, value in arguments.items() if value is not None}
