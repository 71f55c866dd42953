"""The adapter: RePaint behind the one edit interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import EditMethod
from methods import batches, pipelines
from methods.latent_blending import jumps
from methods.repaint import files
from methods.runtime import refuse, runtime_problems, torch_dtype
from methods.weights import WeightsError, training_remark

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime
    from methods.repaint.sampler import Model


class RePaint(EditMethod):
    summary = "RePaint: fills the mask by an unconditional pixel diffusion model, without a prompt"
    needs: frozenset[str] = frozenset({"source", "mask"})
    native_size: int | None = 256

    @dataclass(frozen=True)
    class Options:
        weights: str = files.GUIDED_DIFFUSION
        """``owner/name`` of the hub, a ``.pt`` file of guided-diffusion's 256 px architecture, a folder in diffusers'
        layout (a UNet2DModel and its scheduler), or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub."""
        steps: int = 250
        """Levels that the whole noise schedule is divided into."""
        jump_length: int = 10
        """Levels that each jump back covers, the paper's j."""
        resamplings: int = 10
        """Runs of each stretch of ``jump_length`` levels, the paper's r. 1 makes no jumps back."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "portraits": {"weights": files.PORTRAITS},
        "mini": {"weights": "zoo:blended_diffusion", "steps": 20, "jump_length": 2, "resamplings": 4},
    }

    @classmethod
    def remark(cls, options: Options) -> str:
        return training_remark(options.weights)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return files.identity(options.weights, options.revision)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = []
        if options.steps < 2:
            problems.append(f"steps {options.steps}: expected at least 2")
        for name in ("jump_length", "resamplings"):
            if getattr(options, name) < 1:
                problems.append(f"{name} {getattr(options, name)}: expected at least 1")
        try:
            learnt = files.shape(options.weights, options.revision).learnt_variance
            checkpoint = files.find(options.weights, options.revision).checkpoint
            if checkpoint is not None:
                problems += files.schedule_problems(options.weights, checkpoint, learnt)
        except WeightsError as error:
            problems.append(error.problem)
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("repaint", self.problems(options) + runtime_problems(runtime))
        self.options = options
        self.device = runtime.device
        shape = files.shape(options.weights, options.revision)
        self.native_size, self.factor = shape.native_size, shape.factor
        self.model = _load(options, runtime, shape.learnt_variance)
        self.walk = jumps(options.steps, options.jump_length, options.resamplings)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Fills the masks of sources of one size, whose sides are multiples of the network's factor."""
        import torch

        from methods.repaint.sampler import repaint

        if not requests:
            return []
        batches.one_size(requests, self.factor)
        masks = torch.from_numpy(np.stack(batches.edit_masks(requests, "fill")))[:, None].float()
        source = batches.to_tensor(batches.sources(requests), self.device)
        generators = batches.generators(requests)

        def fresh_noise() -> Tensor:
            return batches.noise(source, generators)

        with torch.no_grad():
            x = repaint(self.model, source, masks.to(self.device), self.walk, fresh_noise)
        return batches.composite(requests, batches.to_images(x))


def _load(options: RePaint.Options, runtime: Runtime, learnt_variance: bool) -> Model:
    """The network, frozen, and its reverse process."""
    from methods.blended_diffusion import adm
    from methods.blended_diffusion.schedule import ReverseProcess, betas_of, linear_betas
    from methods.repaint.sampler import Model

    model = files.find(options.weights, options.revision)
    if model.file is not None:
        # guided-diffusion's own file, with the schedule that it was trained with.
        unet: Any = adm.load_file(model.file, dtype=torch_dtype(runtime))
        process, large = ReverseProcess(linear_betas(), options.steps), False
    else:
        checkpoint = model.checkpoint
        assert checkpoint is not None
        unet = pipelines.load_part("unet", checkpoint, runtime, ["diffusers", "UNet2DModel"])
        config = checkpoint.config("scheduler")
        process = ReverseProcess(betas_of(config), options.steps, config.get("prediction_type", "epsilon"))
        large = config.get("variance_type") == "fixed_large"
    return Model(unet.eval().requires_grad_(False).to(runtime.device), process, learnt_variance, large)
