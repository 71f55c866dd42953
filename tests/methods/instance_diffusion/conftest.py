"""Tiny additions to the tiny UNet of the other methods: 64 pixels, 2 pixels per latent cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.instance_diffusion.fusion import Grounding
from methods.instance_diffusion.model import InstanceAdapter
from tests.methods.conftest import tiny_components

CONFIG: dict[str, Any] = {
    "slots": 3,
    "hidden": 16,
    "frequencies": 4,
    "polygon_points": 6,
    "segment_side": 32,
    "segment_depths": (1, 1),
    "segment_widths": (8, 16),
    "segment_tokens": 4,
}


def tiny_adapter(awake: bool = True, **config: Any) -> InstanceAdapter:
    """Additions to the tiny UNet. ``awake``: nothing is zero, as after some training."""
    torch.manual_seed(1)
    adapter = InstanceAdapter.from_base(tiny_components(4)["unet"], **{**CONFIG, **config}).eval()
    if awake:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in adapter.parameters():
                if not bool(p.any()):
                    p.add_(0.5 * torch.randn(p.shape, generator=generator))
    return adapter


def tiny_pipeline() -> Any:
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline(
        **tiny_components(4), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_adapter(folder: Path) -> None:
    tiny_adapter().save_pretrained(str(folder / "instance"))


def grounding(batch: int = 2, slots: int = 3, side: int = 64, points: int = 6) -> Grounding:
    """Random instances: two in the first image, three in the others."""
    generator = torch.Generator().manual_seed(4)
    present = torch.ones(batch, slots)
    present[0, -1] = 0
    masks = torch.zeros(batch, slots, side, side)
    for slot in range(slots):
        masks[:, slot, 16 * slot : 16 * slot + 12, 4:20] = 1
    masks = masks * present[..., None, None]

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(batch, slots, *shape, generator=generator)

    locations = {"box": random(4), "point": random(2), "polygon": random(2 * points)}
    return Grounding(present, random(32), locations, masks)


@pytest.fixture(scope="package")
def adapter() -> InstanceAdapter:
    return tiny_adapter()
