"""A batch of edit requests as checked arrays and tensors, and a network's output as images.

======================  ==================================  ===================================
value                   here                                shape, type, range
======================  ==================================  ===================================
RGB images              ``sources``, ``to_images``          PIL images of mode RGB, one size
images for a network    ``to_tensor``                       float (B, 3, H, W) in [-1, 1]
masks                   ``edit_masks``                      bool (H, W), True = edit
noise                   ``noise``                           float32 (B, ...), standard normal
======================  ==================================  ===================================

torch is imported on use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench import images

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest


def one_size(requests: Sequence[EditRequest], factor: int = 1) -> tuple[int, int]:
    """The (width, height) that all sources of the batch share.

    Raises ValueError where they differ, or where a side is no multiple of ``factor``.
    """
    # A batch is one tensor, so its images must have one size.
    sizes = {request.source.size for request in requests}
    if len(sizes) != 1:
        # InstructPix2Pix would resize all of them to the first one's size without a word.
        raise ValueError(f"the sources of one batch differ in size: {sorted(sizes)}")
    width, height = sizes.pop()
    if width % factor or height % factor:
        raise ValueError(f"source of {width} x {height} pixels: both sides must be multiples of {factor}")
    return width, height


def prompts(requests: Sequence[EditRequest], field: str) -> list[str]:
    """The text ``field`` of every request. Raises ValueError where one is empty."""
    texts: list[str] = [getattr(request, field) for request in requests]
    for position, text in enumerate(texts):
        if not text.strip():
            raise ValueError(
                f"request {position} of the batch has an empty {field}, which is what the method follows"
            )
    return texts


def caption_hint(field: str) -> dict[str, str]:
    """``optional_needs`` of a method with the option ``prompt_field``: a caption may stand for the instruction."""
    if field != "instruction":
        return {}
    return {"instruction": "prompt_field: target_prompt gives the method the target prompt as its text"}


def caption_remark(field: str) -> str:
    """The remark of a method that was trained on instructions. Empty where it follows one."""
    return "" if field == "instruction" else f"{field.replace('_', ' ')} as instruction"


def sources(requests: Sequence[EditRequest]) -> list[Image]:
    """The source of every request, in mode RGB."""
    return [request.source.convert("RGB") for request in requests]


def edit_masks(requests: Sequence[EditRequest], purpose: str = "edit") -> list[NDArray[np.bool_]]:
    """The mask of every request: bool (H, W), True = edit.

    Raises ValueError for a mask that is missing, empty or of another size than its source. ``purpose`` is the verb of
    the message.
    """
    masks = []
    for request in requests:
        image = request.needed_mask
        if image.size != request.source.size:
            raise ValueError(f"mask of {image.size} pixels for a source of {request.source.size}")
        mask = images.mask_array(image)
        if not mask.any():
            raise ValueError(f"the mask is empty: there is nothing to {purpose}")
        masks.append(mask)
    return masks


def generators(requests: Sequence[EditRequest]) -> list[torch.Generator]:
    """One random generator per request, so that a result does not depend on the other requests of its batch.

    They live on the CPU whatever the device: noise is drawn there and moved, and the same seed gives the same noise
    on every device.
    """
    import torch

    return [torch.Generator(device="cpu").manual_seed(request.seed) for request in requests]


def noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of the shape and on the device of ``like``: one row from each generator."""
    import torch

    # Row by row: one call for the batch would give a row other numbers in another batch.
    rows = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(like.device)


def to_tensor(pictures: Sequence[Image], device: torch.device | str) -> Tensor:
    """RGB images of one size => float32 (B, 3, H, W) in [-1, 1]."""
    import torch

    pixels = np.stack([images.to_array(image) for image in pictures])  # uint8 (B, H, W, 3)
    # 127.5 maps 0 to -1 and 255 to 1.
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device, torch.float32)
    return tensor / 127.5 - 1


def to_images(x: Tensor) -> list[Image]:
    """Float (B, 3, H, W) in [-1, 1] => RGB images, clipped and rounded."""
    import torch

    levels = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [images.from_array(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]


def composite(requests: Sequence[EditRequest], edited: Sequence[Image]) -> list[Image]:
    """Each edit inside its request's mask, the source's own pixels outside."""
    return [
        images.composite(source, image, request.needed_mask)
        for source, image, request in zip(sources(requests), edited, requests, strict=True)
    ]
