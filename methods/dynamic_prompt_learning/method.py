"""The adapter: Dynamic Prompt Learning behind the one edit interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from methods.mask_grid import latent_mask
from methods.prompt_to_prompt.method import EditTexts, PromptToPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from bench.edit import EditRequest
    from methods.attention_maps.words import TextTokens
    from methods.dynamic_prompt_learning.learning import Learner, Prompt

_MINI = dict(PromptToPrompt.PRESETS["mini"])


class DynamicPromptLearning(PromptToPrompt):
    name = "dynamic_prompt_learning"
    summary = "Dynamic Prompt Learning, LocInv: learns the source's nouns, then edits by Prompt-to-Prompt"

    @dataclass(frozen=True)
    class Options(PromptToPrompt.Options):
        prior: Literal["mask", "none"] = "mask"
        """Where the nouns should be seen. ``mask``: the edited words inside the mask of their region, LocInv's losses.
        ``none``: all nouns in different places, DPL's losses."""
        learning_steps: int = 31
        """Steps of AdamW on the embeddings of the nouns at each step of the sampler, at most."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "dpl": {"prior": "none", "learning_steps": 21, "inversion": "null_text", "null_steps": 51},
        "mini": {**_MINI, "learning_steps": 5},
        "mini_dpl": {**_MINI, "learning_steps": 5, "prior": "none"},
    }

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        problems = super().option_problems(options)
        if options.learning_steps < 1:
            problems.append(f"learning_steps {options.learning_steps}: expected at least 1")
        return problems

    @classmethod
    def needs_of(cls, options: Any) -> frozenset[str]:
        fields = super().needs_of(options)
        return fields | {"mask"} if options.prior == "mask" else fields

    def texts_of_steps(
        self, requests: Sequence[EditRequest], pivots: Sequence[Tensor], texts: EditTexts
    ) -> list[EditTexts]:
        # Nouns are learnt along the inverted source, each step from the one before.
        learner, target_ids, target_slots = self._learner(requests, pivots[0])
        vectors = learner.initial()
        at_steps = []
        for i, t in enumerate(self.grid):
            vectors = learner.learnt(vectors, pivots[i], t, i / len(self.grid))
            source = learner.text(learner.ids, learner.slots, vectors)
            target = learner.text(target_ids, target_slots, vectors)
            at_steps.append(replace(texts, source=source, target=target))
        return at_steps

    def _learner(self, requests: Sequence[EditRequest], z: Tensor) -> tuple[Learner, Tensor, Tensor]:
        """The learner, and the token ids and slots (B, L) of the target's prompts."""
        import numpy as np
        import torch

        from methods.attention_maps.words import refined, tokens_of
        from methods.dynamic_prompt_learning.learning import Learner

        tokenizer, factor = self.pipeline.tokenizer, self.options.map_factor
        sides = z.shape[2] // factor, z.shape[3] // factor
        source = tokens_of(tokenizer, [request.source_prompt for request in requests])
        target = tokens_of(tokenizer, [request.target_prompt for request in requests])
        prompts = [self._prompt(request, each) for request, each in zip(requests, source, strict=True)]

        # Each token of a noun has a vector of its own. A word that the target keeps, keeps its vector.
        slots = np.full((2, len(requests), len(source[0].ids)), -1, np.int64)
        for n, prompt in enumerate(prompts):
            positions = [int(p) for noun in prompt.nouns for p in noun.tokens]
            slots[0, n, positions] = np.arange(len(positions))
            matrix = refined(source[n], target[n]).matrix
            rows, columns = matrix.nonzero()
            slots[1, n, columns] = slots[0, n, rows]
        ids, slots_of = (
            [torch.from_numpy(each).to(z.device) for each in pair]
            for pair in ([np.stack([t.ids for t in side]) for side in (source, target)], slots)
        )
        learner = Learner(
            self.pipeline.unet,
            self.pipeline.text_encoder,
            ids[0],
            slots_of[0],
            prompts,
            sides,
            self.options.learning_steps,
        )
        return learner, ids[1], slots_of[1]

    def _prompt(self, request: EditRequest, tokens: TextTokens) -> Prompt:
        import numpy as np
        import torch

        from bench.images import mask_array
        from methods.dynamic_prompt_learning.learning import Prompt
        from methods.dynamic_prompt_learning.nouns import nouns_of, nouns_of_regions
        from methods.prompt_edit_diff import tags

        if self.options.prior == "none":
            return Prompt(nouns_of(tokens), tokens.end, None)
        nouns = nouns_of_regions(tokens, tags.back(tags.tag_request(request), request.source_prompt))
        areas = [mask_array(region.mask) for region in request.regions] or [mask_array(request.needed_mask)]
        pixels = self.factor * self.options.map_factor
        cells = [latent_mask(area, pixels, "cover").ravel() for area in areas]
        masks = np.stack(cells)[[noun.region or 0 for noun in nouns]].astype(np.float32)
        return Prompt(nouns, tokens.end, torch.from_numpy(masks).to(self.pipeline.device))
