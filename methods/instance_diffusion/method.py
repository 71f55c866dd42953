"""The adapter of InstanceDiffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from methods import batches
from methods.diffusion.base import StableDiffusionMethod, StableDiffusionOptions
from methods.instance_diffusion import published
from methods.mask_grid import MaskCells
from methods.runtime import torch_dtype
from methods.weights import training_remark

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime
    from methods.weights import Weights


class InstanceDiffusion(StableDiffusionMethod):
    name = "instance_diffusion"
    summary = "InstanceDiffusion: regions as instances of a grounded generator, the source put back outside"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt", "region_prompt"})

    @dataclass(frozen=True)
    class Options(StableDiffusionOptions):
        instance_weights: str = published.HUB
        """The additions to the base: the authors' file (``owner/name`` of the hub, or a path), a folder with
        ``instance/``, or ``zoo:NAME``."""
        grounded: float = 0.8
        """Share of the steps in which the instances act, the authors' alpha."""
        multi: float = 0.36
        """Share of the steps in which every instance has a run of its own (Multi-instance Sampler). It takes as many
        more passes. 0 is plain sampling."""
        merge: Literal["average", "paste"] = "average"
        """How the runs are joined: their mean, as in the authors' code, or each instance's latents in its own mask."""
        mask_cells: MaskCells = "rescue"
        """As for ``latent_blending``: the cells that are generated."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:text_to_image",
            "instance_weights": "zoo:instance_diffusion",
            "steps": 10,
            "guidance": 4.0,
            "mask_cells": "cover",
        },
    }

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        instance = published.identity(options.instance_weights)
        return super().identity(options) | {f"instance_{name}": value for name, value in instance.items()}

    @classmethod
    def remark(cls, options: Options) -> str:
        return super().remark(options) or training_remark(options.instance_weights)

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        shares = {"grounded": options.grounded, "multi": options.multi}
        return super().option_problems(options) + [
            f"{name} {value}: expected 0 to 1" for name, value in shares.items() if not 0 <= value <= 1
        ]

    @classmethod
    def weights_problems(cls, options: Options) -> list[str]:
        base = super().weights_problems(options)
        return base + published.problems(options.instance_weights) or _misfit(options)

    def load(self, checkpoint: Weights, runtime: Runtime) -> Any:
        from methods.instance_diffusion.model import InstanceAdapter

        pipeline = super().load(checkpoint, runtime)
        additions = published.find(self.options.instance_weights)
        if isinstance(additions, Path):
            adapter = published.load(additions, pipeline.unet)
        else:
            adapter = InstanceAdapter.from_pretrained(
                str(additions.parts[published.PART]), local_files_only=True
            )
        self.adapter = adapter.to(pipeline.device, torch_dtype(runtime)).eval()
        return pipeline

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        from methods.instance_diffusion import sampler

        options = self.options
        # All raise for a request that cannot be edited, before the networks run.
        batches.edit_masks(requests)
        for field in ("target_prompt", "region_prompt"):
            batches.prompts(requests, field)
        settings = sampler.InstanceSettings(
            options.steps, options.guidance, options.negative_prompt, options.grounded, options.multi, options.merge,
            options.mask_cells,
        )  # fmt: skip
        return sampler.edit(self.pipeline, self.adapter, requests, settings)


def _misfit(options: InstanceDiffusion.Options) -> list[str]:
    """Reasons why a base and additions that both exist cannot work together."""
    from methods import weights

    additions = published.find(options.instance_weights)
    base = weights.find(options.weights, options.revision).config("unet")
    widths = {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
    if isinstance(additions, Path):
        wrong = [f"{name} is {base.get(name)}" for name, value in widths.items() if base.get(name) != value]
        if wrong:
            return [
                f"instance_weights {options.instance_weights!r} are made for Stable Diffusion 1.5, and the UNet of "
                f"weights {options.weights!r} is another: {', '.join(wrong)}"
            ]
        return []
    # The decoder's first inputs are as wide as the base's levels.
    config = additions.config(published.PART)
    decoder = list(config.get("decoder", {}).values())
    text = config.get("text_width")
    if decoder[:1] != base.get("block_out_channels", [])[-1:] or text != base.get("cross_attention_dim"):
        return [
            f"instance_weights {options.instance_weights!r} do not fit weights {options.weights!r}: widths are "
            f"{decoder[:1]} and {base.get('block_out_channels', [])[-1:]}, text {text} and "
            f"{base.get('cross_attention_dim')}. Take additions that were trained for this base"
        ]
    return []
