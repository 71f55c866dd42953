"""The adapter: Prompt-to-Prompt behind the one edit interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from methods import batches, latents
from methods.attention_maps.method import AttentionMethod
from methods.diffusion.base import PASTE_HINT, StableDiffusionOptions
from methods.mask_grid import MaskCells

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest
    from methods.prompt_to_prompt.control import EditControl


# Longer replacement keeps the old object's shape. The zoo's noisiest level is pure noise, hence the strength.
_MINI: Mapping[str, Any] = {
    "weights": "zoo:text_to_image",
    "steps": 10,
    "guidance": 4.0,
    "strength": 0.9,
    "cross_replace": 0.4,
    "self_replace": 0.0,
    "map_factor": 2,
    "mask_cells": "cover",
}


@dataclass(frozen=True, eq=False)
class EditTexts:
    """The embeddings of a batch's prompts, each (B, L, D)."""

    source: Tensor
    target: Tensor
    null: Tensor


class PromptToPrompt(AttentionMethod):
    name = "prompt_to_prompt"
    summary = "Prompt-to-Prompt: inverts the source and keeps its attention maps while the prompt changes"
    needs: frozenset[str] = frozenset({"source", "source_prompt", "target_prompt", "mask"})

    @dataclass(frozen=True)
    class Options(StableDiffusionOptions):
        strength: float = 1.0
        """Noise level up to which the source is inverted: int(steps * strength) steps. Less than 1 where the noisiest
        level is pure noise, as in checkpoints with zero terminal signal."""
        inversion: Literal["direct", "direct_both", "null_text"] = "direct"
        """``direct`` sets the source branch to the inverted source at every step. ``direct_both`` adds the same
        correction to the edit, so that equal prompts give the source back. ``null_text`` optimises the embedding of
        the empty prompt, and each of its steps costs three passes of the network."""
        fixed_point: int = 3
        """Passes of the network per inverted step. 1 is DDIM inversion as it is published, but for the first guess.
        More solve the equation that it approximates."""
        null_steps: int = 10
        """Steps of Adam per step of the sampler, with ``null_text``."""
        cross_replace: float = 0.8
        """Share of the steps, from the first, in which the edit takes over the source's cross-attention."""
        self_replace: float = 0.4
        """Share of the steps in which it takes over the source's self-attention."""
        reweight: float = 1.0
        """Factor of the attention to the words of the edit, in the steps of ``cross_replace``."""
        token_map: Literal["auto", "refine"] = "auto"
        """``auto`` swaps word by word where both prompts have equally many words, and else refines. ``refine`` keeps
        the attention of the words that both prompts have."""
        blend: Literal["mask", "words", "none"] = "mask"
        """Part kept from the source at every step: all outside the mask, all outside the region that the maps of the
        edited words show (the paper's LocalBlend), or nothing."""
        map_factor: int = 4
        """Latent samples per cell of the finest maps of self-attention that are taken over, and of the maps of
        LocalBlend, along a side. 4 is 16 x 16 cells at 512 pixels."""
        mask_cells: MaskCells = "rescue"
        """Rule that brings a mask onto the latent grid. ``rescue`` takes the middle pixel of each cell, and adds the
        cells of parts that this would miss. ``cover`` makes every cell editable that the mask touches."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": _MINI,
        "mini_null_text": {**_MINI, "inversion": "null_text", "null_steps": 3},
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        for name in ("cross_replace", "self_replace"):
            if not 0 <= getattr(options, name) <= 1:
                problems.append(f"{name} {getattr(options, name)}: expected 0 to 1")
        for name in ("fixed_point", "null_steps"):
            if getattr(options, name) < 1:
                problems.append(f"{name} {getattr(options, name)}: expected at least 1")
        if options.reweight < 0:
            problems.append(f"reweight {options.reweight}: expected 0 or more")
        if options.inversion == "null_text" and options.guidance == 1:
            problems.append("inversion null_text has no effect at guidance 1: use direct")
        return problems

    @classmethod
    def needs_of(cls, options: Any) -> frozenset[str]:
        masked = options.blend == "mask" or options.paste
        return cls.needs if masked else cls.needs - {"mask"}

    @classmethod
    def optional_needs(cls, options: Any) -> Mapping[str, str]:
        return {"mask": PASTE_HINT} if options.paste and options.blend != "mask" else {}

    def sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        from methods.attention_maps.processor import predicted
        from methods.prompt_to_prompt.inversion import NullText, invert

        options, device, unet = self.options, self.pipeline.device, self.pipeline.unet

        # Everything that can be refused comes before the networks run.
        source_prompts = batches.prompts(requests, "source_prompt")
        target_prompts = batches.prompts(requests, "target_prompt")
        mask = None
        if options.blend == "mask":
            mask = latents.masks(requests, self.factor, options.mask_cells, device)  # (B, 1, h, w), 1 = edit
        texts = EditTexts(
            self.embedded(source_prompts),
            self.embedded(target_prompts),
            self.embedded([options.negative_prompt] * len(requests)),
        )

        # The inversion.
        z_source = latents.encode(self.pipeline.vae, batches.to_tensor(sources, device))
        pivots = invert(
            lambda z, t: predicted(unet, z, t, texts.source),
            self.schedule,
            z_source,
            self.grid,
            options.fixed_point,
        )
        at_steps = self.texts_of_steps(requests, pivots, texts)
        if options.inversion == "null_text":
            null_text = NullText(unet, self.schedule, options.guidance, options.null_steps)
            sources_of_steps = [each.source for each in at_steps]
            nulls = null_text.embeddings(pivots, self.grid, sources_of_steps, texts.null)
            at_steps = [replace(each, null=null) for each, null in zip(at_steps, nulls, strict=True)]
        return self._sampled(pivots, at_steps, mask, self._control(requests, z_source), requests)

    def texts_of_steps(
        self, requests: Sequence[EditRequest], pivots: Sequence[Tensor], texts: EditTexts
    ) -> list[EditTexts]:
        """The embeddings that each step of the sampler uses. ``pivots`` are the inverted source at every level."""
        return [texts] * len(self.grid)

    def embedded(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's output, (B, L, D)."""
        # The third argument is the number of images per prompt, the fourth would add the unconditional half.
        embedding: Tensor = self.pipeline.encode_prompt(list(texts), self.pipeline.device, 1, False)[0]
        return embedding

    def _sampled(
        self,
        pivots: Sequence[Tensor],
        texts: Sequence[EditTexts],
        mask: Tensor | None,
        control: EditControl,
        requests: Sequence[EditRequest],
    ) -> Tensor:
        """Both branches, from the noisiest pivot to clean latents: those of the edit, (B, 4, h, w)."""
        options = self.options
        steps = len(self.grid)
        words = self._edited_words(requests) if options.blend == "words" else None
        z_source = z = pivots[0]
        for i, (t, lower) in enumerate(pairwise([*self.grid, latents.CLEAN])):
            control.cross = i < options.cross_replace * steps
            control.self_attention = i < options.self_replace * steps
            next_source, z = self._step(z_source, z, (t, lower), texts[i], control)

            # The source branch: on its own with null-text, on the pivots with direct inversion.
            pivot = pivots[i + 1]
            if options.inversion == "direct_both" and next_source is not None:
                z = z + pivot - next_source
            z_source = pivot
            if options.inversion == "null_text" and next_source is not None:
                z_source = next_source

            # What stays the source.
            if mask is not None:
                z = z * mask + pivot * (1 - mask)
            elif words is not None and i >= 0.2 * steps:
                # The authors blend after a fifth of the steps, when the maps have formed.
                region = self._region(control, words, z)
                z = z * region + z_source * (1 - region)
        return z

    def _step(
        self,
        z_source: Tensor,
        z: Tensor,
        levels: tuple[int, int],
        texts: EditTexts,
        control: EditControl,
    ) -> tuple[Tensor | None, Tensor]:
        """One step of both branches: (the source's or None where it is not needed, the edit's)."""
        import torch

        from methods.attention_maps.processor import predicted

        (t, lower), guidance = levels, self.options.guidance
        follows = self.options.inversion != "direct"
        active = control.cross or control.self_attention or control.keep

        # The rows of one pass, in the order that the control expects: source, rows without a prompt, edit.
        rows: dict[str, tuple[Tensor, Tensor]] = {}
        if follows or active:
            rows["source"] = z_source, texts.source
        if follows and guidance > 1:
            rows["source_null"] = z_source, texts.null
        if guidance > 1:
            rows["null"] = z, texts.null
        rows["edit"] = z, texts.target
        inputs, contexts = (torch.cat(parts) for parts in zip(*rows.values(), strict=True))
        output = predicted(self.pipeline.unet, inputs, t, contexts, control if active else None)
        by_row = dict(zip(rows, output.chunk(len(rows)), strict=True))
        control.finish_step()

        def stepped(name: str, without: str, start: Tensor) -> Tensor:
            conditional = by_row[name]
            unconditional = by_row.get(without, conditional)
            guided = unconditional + guidance * (conditional - unconditional)
            return self.schedule.step(guided, start, t, lower)

        next_source = stepped("source", "source_null", z_source) if follows else None
        return next_source, stepped("edit", "null", z)

    def _control(self, requests: Sequence[EditRequest], z: Tensor) -> EditControl:
        import torch

        from methods.attention_maps.words import refined, token_map, tokens_of
        from methods.prompt_to_prompt.control import EditControl, TokenEdits

        options, tokenizer = self.options, self.pipeline.tokenizer
        source = tokens_of(tokenizer, [request.source_prompt for request in requests])
        target = tokens_of(tokenizer, [request.target_prompt for request in requests])
        rule = refined if options.token_map == "refine" else token_map
        maps = [rule(a, b) for a, b in zip(source, target, strict=True)]
        weight = torch.ones(len(requests), len(target[0].ids))
        if options.reweight != 1:
            weight[self._edited_words(requests)[1].cpu()] = options.reweight
        positions = (z.shape[2] // options.map_factor) * (z.shape[3] // options.map_factor)
        return EditControl(TokenEdits.of(maps, weight, z.device), positions, options.blend == "words")

    def _edited_words(self, requests: Sequence[EditRequest]) -> Tensor:
        """Tokens of the words that the edit changes, bool (2, B, L): of the source's prompts and of the target's."""
        import torch

        from methods.prompt_edit_diff import tags

        tagged = [tags.tag_request(request) for request in requests]
        before = [
            tags.back(one, request.source_prompt) for one, request in zip(tagged, requests, strict=True)
        ]
        members = [tags.to_tokens(self.pipeline.tokenizer, side).member.any(1) for side in (before, tagged)]
        return torch.stack([torch.from_numpy(member) for member in members]).to(self.pipeline.device)

    def _region(self, control: EditControl, words: Tensor, z: Tensor) -> Tensor:
        from methods.prompt_to_prompt.control import local_blend

        assert control.sums is not None
        height, width = z.shape[2:]
        factor = self.options.map_factor
        return local_blend(control.sums, words, (height // factor, width // factor), (height, width))
