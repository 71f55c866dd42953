"""The adapter: GLIDE's base and upsampler behind the one edit interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench import images
from bench.edit import EditMethod
from methods import batches, mask_grid
from methods.glide import checkpoints
from methods.glide.schedule import RespacedSchedule, spacing
from methods.mask_grid import MaskCells
from methods.runtime import refuse, runtime_problems, torch_dtype
from methods.weights import training_remark

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime
    from methods.glide.unet import GlideUNet


class Glide(EditMethod):
    summary = (
        "GLIDE (filtered) inpainting: fills the mask by the prompt, in pixels, 64 then 256 (or mini weights)"
    )
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 256

    @dataclass(frozen=True)
    class Options:
        weights: str = checkpoints.PUBLISHED
        """``openai:glide-filtered`` (OpenAI's files in the cache folder), a folder, or ``zoo:NAME``."""
        base_steps: str = "100"
        """The steps that the base takes out of its 1000: a number, numbers per section as ``"10,10,3,2,2"``, the
        least noisy section first, or ``"fast27"``."""
        upsampler_steps: str = "fast27"
        guidance: float = 5.0
        """Scale of the base's classifier-free guidance. 1 switches it off. The upsampler is not guided."""
        upsample_temperature: float = 0.997
        """Standard deviation of the noise that the upsampler starts from. Below 1 is smoother."""
        prompt_field: Literal["target_prompt", "region_prompt"] = "target_prompt"
        """Text of the request that is the prompt. The networks were trained on captions of whole images."""
        mask_cells: MaskCells = "rescue"
        """The mask at the base's size. ``rescue``: every n-th pixel of it, as published, with the cells of parts that
        would vanish. ``cover``: every cell that the mask touches."""
        upsampler_mask: Literal["coarse", "fine"] = "coarse"
        """The region that the upsampler fills. ``coarse``: the base's mask, enlarged, as published: cells at the
        mask's edge are filled or kept whole. ``fine``: the mask itself: every pixel outside is kept exactly."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:glide",
            "base_steps": "25",
            "upsampler_steps": "4,3,1,1,1",
            "guidance": 5.0,
            "mask_cells": "cover",
            "upsampler_mask": "fine",
        },
    }

    @classmethod
    def needs_of(cls, options: Glide.Options) -> frozenset[str]:
        return frozenset({"source", "mask", options.prompt_field})

    @classmethod
    def remark(cls, options: Options) -> str:
        return training_remark(options.weights)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return checkpoints.identity(options.weights)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = []
        for name, steps in (("base_steps", options.base_steps), ("upsampler_steps", options.upsampler_steps)):
            try:
                spacing(steps)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if options.guidance < 1:
            problems.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if not 0 < options.upsample_temperature <= 1:
            problems.append(
                f"upsample_temperature {options.upsample_temperature}: expected more than 0 and at most 1"
            )
        return problems + checkpoints.problems(options.weights)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("glide", self.problems(options) + runtime_problems(runtime))
        from methods.glide.diffusion import Diffusion

        self.options, self.runtime = options, runtime
        files = checkpoints.find(options.weights)
        self.native_size = self.side = files.native_size
        self.factor = files.native_size // files.configs["base"].image_size
        # A run is refused only where the field is absent that these options read.
        self.needs = self.needs_of(options)
        self.tokenizer = checkpoints.load_tokenizer(files)
        # Weights stay in float32: other precisions are autocast, as the published ones keep their norms in float32.
        self.base: GlideUNet = checkpoints.load_network(files, "base", runtime.device)
        self.upsampler: GlideUNet = checkpoints.load_network(files, "upsampler", runtime.device)
        steps = {"base": options.base_steps, "upsampler": options.upsampler_steps}
        self.base_process, self.upsampler_process = (
            Diffusion(
                RespacedSchedule.of(network.config.schedule, steps[network.config.kind]), runtime.device
            )
            for network in (self.base, self.upsampler)
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits sources and masks of the native size."""
        import torch

        if not requests:
            return []
        if batches.one_size(requests) != (self.side, self.side):
            raise ValueError(
                f"sources of {requests[0].source.size} pixels; GLIDE edits squares of {self.side} pixels"
            )
        prompts = batches.prompts(requests, self.options.prompt_field)
        sources = batches.sources(requests)
        # The base sees the source at its own size, as in training.
        small = [images.resize(source, self.base.config.image_size) for source in sources]

        # The masks of both networks: bool (B, s, s) for the base, bool (B, S, S) for the upsampler.
        masks = batches.edit_masks(requests)
        cells = np.stack([self._cells(mask) for mask in masks])
        fine = np.stack(masks)
        if self.options.upsampler_mask == "coarse":
            fine = cells.repeat(self.factor, axis=1).repeat(self.factor, axis=2)

        # The base draws at low resolution, the upsampler from its result. One generator per image serves both.
        # Drawn on the CPU, so that a seed gives the same noise on every device.
        generators = batches.generators(requests)
        dtype = torch_dtype(self.runtime)
        device = torch.device(self.runtime.device).type
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            low = self._generate(prompts, self._tensor(small), self._visible(cells), generators)
            high = self._upsample(prompts, self._tensor(sources), self._visible(fine), low, generators)
        edited = batches.to_images(high)
        return batches.composite(requests, edited) if self.options.paste else edited

    def _generate(
        self, prompts: Sequence[str], image: Tensor, visible: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """The base's sample, float32 (B, 3, s, s) in [-1, 1]."""
        from methods.glide.diffusion import conditioned, guided

        text = self._encode(self.base, prompts)
        # At scale 1 the formula gives the conditional prediction: half of the work suffices.
        if self.options.guidance == 1:
            network = conditioned(self.base, text, image, visible)
        else:
            no_text = self._encode(self.base, [""] * len(prompts))
            network = guided(self.base, text, no_text, image, visible, self.options.guidance)
        noise = partial(batches.noise, image, generators)
        return self.base_process.sample(network, noise(), noise, image, visible)

    def _upsample(
        self,
        prompts: Sequence[str],
        image: Tensor,
        visible: Tensor,
        low: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """The upsampler's sample, float32 (B, 3, S, S) in [-1, 1], from the base's."""
        from methods.glide.diffusion import conditioned, eight_bits

        text = self._encode(self.upsampler, prompts)
        network = conditioned(self.upsampler, text, image, visible, eight_bits(low))
        noise = partial(batches.noise, image, generators)
        # Only the start is scaled. The noise of the steps is not, as in the published notebook.
        start = noise() * self.options.upsample_temperature
        return self.upsampler_process.sample(network, start, noise, image, visible)

    def _encode(self, network: GlideUNet, prompts: Sequence[str]) -> Any:
        ids, present = self.tokenizer(prompts, network.config.text_ctx)
        return network.encode_text(ids.to(self.runtime.device), present.to(self.runtime.device))

    def _tensor(self, pictures: Sequence[Image]) -> Tensor:
        return batches.to_tensor(pictures, self.runtime.device)

    def _visible(self, edit: NDArray[np.bool_]) -> Tensor:
        """Bool (B, H, W), True = edit => float32 (B, 1, H, W), 1 = visible. Only here the polarity turns."""
        import torch

        return torch.from_numpy(~edit)[:, None].to(self.runtime.device, torch.float32)

    def _cells(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask at the base's size."""
        filled = mask_grid.on_grid(mask, self.factor, self.options.mask_cells)
        # The first pixel of each cell, as in the published code. Enlarging gives the cell back.
        return filled[:: self.factor, :: self.factor]
