"""The adapter: Attend-and-Excite inside the mask, behind the one edit interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from methods import batches, latents
from methods.attention_maps.method import AttentionMethod
from methods.diffusion.base import BlendingOptions
from methods.mask_grid import latent_mask

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest
    from methods.attend_and_excite.excite import Excitation

# Share of the steps -> value that the largest attention of every subject must reach by then. The authors state steps 0,
# 10 and 20 of 50.
_THRESHOLDS = {0.0: 0.05, 0.2: 0.5, 0.4: 0.8}


class AttendAndExcite(AttentionMethod):
    name = "attend_and_excite"
    summary = "Attend-and-Excite inside the mask: moves latents until each edited word has a place"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})

    @dataclass(frozen=True)
    class Options(BlendingOptions):
        strength: float = 1.0
        """Noise level of the start: int(steps * strength) steps are run. 1 starts at the noisiest step."""
        rate: float = 20.0
        """Size of a step on the latents, the authors' scale factor. At the last step it is multiplied by
        the square root of 0.5."""
        excited: float = 0.5
        """Share of the steps, from the first, that move the latents."""
        refinements: int = 20
        """Largest number of repetitions of each of the three steps, which are repeated until the subjects are seen."""
        inside: bool = False
        """Count a word's attention inside its own region only. Off, as published: anywhere in the image."""
        map_factor: int = 4
        """Latent samples per cell of the maps, along a side. 4 is 16 x 16 cells at 512 pixels."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:text_to_image",
            "steps": 10,
            "guidance": 4.0,
            "strength": 0.9,
            "rate": 5.0,
            "refinements": 3,
            "inside": True,
            "map_factor": 2,
            "mask_cells": "cover",
        },
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if options.prompt_field != "target_prompt":
            problems.append(
                "prompt_field: the words of the edit are words of the target prompt; leave it out"
            )
        if not options.rate >= 0:
            problems.append(f"rate {options.rate}: expected 0 or more")
        if not 0 <= options.excited <= 1:
            problems.append(f"excited {options.excited}: expected 0 to 1")
        if options.refinements < 0:
            problems.append(f"refinements {options.refinements}: expected 0 or more")
        return problems

    def sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        options, schedule, device = self.options, self.schedule, self.pipeline.device
        texts = batches.prompts(requests, "target_prompt")
        mask = latents.masks(requests, self.factor, options.mask_cells, device)  # (B, 1, h, w), 1 = edit
        z_source = latents.encode(self.pipeline.vae, batches.to_tensor(sources, device))
        predict = latents.GuidedUNet(self.pipeline, texts, options.negative_prompt, options.guidance)
        excitation = self._excitation(requests, mask)
        generators = batches.generators(requests)

        z = schedule.noised(z_source, batches.noise(z_source, generators), self.grid[0])
        thresholds = {round(share * len(self.grid)): least for share, least in _THRESHOLDS.items()}
        for i, (t, t_next) in enumerate(pairwise([*self.grid, latents.CLEAN])):
            # Steps on the latents get smaller.
            rate = options.rate * (1 - 0.5 * i / max(1, len(self.grid) - 1)) ** 0.5
            if i in thresholds:
                z = excitation.refined(z, t, rate, thresholds[i], options.refinements)
            if i < options.excited * len(self.grid):
                z = excitation.stepped(z, t, rate)
            z = schedule.step(predict(z, t), z, t, t_next)
            # The source outside the mask, at the level just reached.
            z_outside = schedule.noised(z_source, batches.noise(z_source, generators), t_next)
            z = z * mask + z_outside * (1 - mask)
        return z

    def _excitation(self, requests: Sequence[EditRequest], mask: Tensor) -> Excitation:
        """The words of each request's edit, and the cells in which each may have attention."""
        import numpy as np
        import torch

        from bench.images import mask_array
        from methods.attend_and_excite.excite import Excitation
        from methods.attention_maps.words import tokens_of
        from methods.prompt_edit_diff import tags

        options, tokenizer, device = self.options, self.pipeline.tokenizer, mask.device
        tagged = [tags.tag_request(request) for request in requests]
        member = torch.from_numpy(tags.to_tokens(tokenizer, tagged).member).to(device)  # (B, R, L)
        ends = [
            tokens.end for tokens in tokens_of(tokenizer, [request.target_prompt for request in requests])
        ]

        # The cells of each region, bool (B, R, rows, columns), and with them of each token.
        sides = mask.shape[2] // options.map_factor, mask.shape[3] // options.map_factor
        where = None
        if options.inside:
            cells = np.zeros((len(requests), member.shape[1], *sides), np.float32)
            for n, request in enumerate(requests):
                areas = [region.mask for region in request.regions] or [request.needed_mask]
                for r, area in enumerate(areas):
                    cells[n, r] = latent_mask(mask_array(area), self.factor * options.map_factor, "cover")
            regions = torch.from_numpy(cells).to(device)
            where = torch.einsum("brl,brhw->blhw", member.float(), regions) > 0
        return Excitation(
            unet=self.pipeline.unet,
            text=self.pipeline.encode_prompt([r.target_prompt for r in requests], device, 1, False)[0],
            subjects=member.any(1),
            ends=torch.tensor(ends, device=device),
            sides=sides,
            mask=mask,
            where=where,
        )
