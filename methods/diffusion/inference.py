"""A row for a class of pipelines that the table does not have, inferred from the signature of its call."""

from __future__ import annotations

import inspect
from typing import Any

from bench.registry import did_you_mean
from methods.diffusion.table import PIPELINES, PipelineRow
from methods.pipelines import accepted_names
from methods.weights import WeightsError

# Arguments that hold the source, and those that hold the mask, in the order in which they are looked for.
_IMAGES = ("image", "images", "input_image", "input_images", "init_image", "control_image")
_MASKS = ("mask_image", "mask", "control_mask")


def row_of(name: str) -> PipelineRow:
    """The row of a class, from the table or inferred. Raises WeightsError for a class that cannot edit."""
    return PIPELINES.get(name) or infer(pipeline_class(name))


def pipeline_class(name: str) -> Any:
    """The class ``name`` of diffusers. Raises WeightsError where there is none."""
    import diffusers

    cls = getattr(diffusers, name, None) if name.isidentifier() else None
    if not isinstance(cls, type) or not issubclass(cls, diffusers.DiffusionPipeline):
        raise WeightsError(
            f"pipeline {name!r}: diffusers {diffusers.__version__} has no pipeline of this name."
            f"{did_you_mean(name, PIPELINES)} Name a class of diffusers, or update diffusers"
        )
    return cls


def infer(cls: Any) -> PipelineRow:
    """The row that the signature of ``cls.__call__`` suggests. Images are edited one at a time."""
    names = accepted_names(cls.__call__)
    image = next((name for name in _IMAGES if name in names), "")
    if not image or "prompt" not in names:
        raise WeightsError(
            f"pipeline {cls.__name__!r} takes no {'prompt' if image else 'image'}, so it cannot edit one. "
            "Name another class in the option pipeline"
        )
    mask = next((name for name in _MASKS if name in names), "")
    parameters = inspect.signature(cls.__call__).parameters
    # Later stages of a cascade need what an earlier stage made, such as embeddings or a smaller image.
    arguments = ("self", "prompt", image, mask)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in kinds and parameter.default is inspect.Parameter.empty
    }
    # DeepFloyd's second stages have a default for it, and no result without it.
    needed |= {"original_image"} & set(parameters)
    lacking = [name for name in parameters if name in needed - set(arguments)]
    if lacking:
        raise WeightsError(
            f"pipeline {cls.__name__!r} also takes {', '.join(lacking)}, which no request has. "
            "Name another class in the option pipeline"
        )
    # Classes with both scales guide by the one that is on by default. The other is for distilled models.
    true_cfg = "true_cfg_scale" in names and parameters["true_cfg_scale"].default > 1
    return PipelineRow(
        image=image,
        images="references" if image.endswith("images") else "one",
        # Nothing in a signature says whether a class draws all its noise from the generator.
        draws=True,
        dtypes=(),
        mask=mask,
        # Inpainting models were trained on captions, the others follow instructions.
        prompt_field="target_prompt" if mask or "strength" in names else "instruction",
        negative=_if_in(names, "negative_prompt"),
        default_negative=" " if true_cfg else None,
        steps=_if_in(names, "num_inference_steps"),
        guidance="true_cfg_scale" if true_cfg else _if_in(names, "guidance_scale"),
        image_guidance=_if_in(names, "image_guidance_scale"),
        strength=_if_in(names, "strength"),
        size="arguments" if {"height", "width"} <= set(names) else "source",
        # Every current model divides sides of this kind.
        multiple=32,
    )


def description(row: PipelineRow) -> str:
    """Arguments of an inferred row, for the note that the user gets."""
    facts = [f"{row.image} is the source"]
    if row.mask:
        facts.append(f"{row.mask} the mask (white is edited)")
    facts.append(f"the prompt is the {row.prompt_field}")
    size = "height and width are passed" if row.size == "arguments" else "the size is the source's"
    facts += [size, "images are edited one at a time"]
    return ", ".join(facts)


def _if_in(names: list[str], name: str) -> str:
    return name if name in names else ""
