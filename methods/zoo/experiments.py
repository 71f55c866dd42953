"""The trainings of PromptEditDiff in the zoo: the method, its ablations, and variants that answer one question each.

Each is a recipe of its own (``run_bench.py train NAME``). A name says what differs from ``prompt_edit_diff``: ``no_X``
lacks X, any other ending adds something. All see the same edits in the same order, so equal commands are equal budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from methods.prompt_edit_diff import VARIANTS, ablation


@dataclass(frozen=True)
class Experiment:
    """How one training differs from that of ``prompt_edit_diff``."""

    # Adapter that edits with the checkpoint (option ``weights``). A warm start begins with this method's checkpoint.
    method: str = VARIANTS[0]
    # Options of ``PromptEditDiffUNet``, besides the method's three switches.
    model: Mapping[str, Any] = field(default_factory=dict)
    # See ``losses.edit_loss``.
    weighting: Literal["terms", "equal"] = "terms"
    mask_dropout: bool = True

    def options(self) -> dict[str, Any]:
        """The options of ``PromptEditDiffUNet`` that differ from the recipe's own."""
        return {**ablation(self.method), **self.model}


_NO_MASK_ENCODER = "prompt_edit_diff_no_mask_encoder"
_CONTENT_AND_TIME = {"token_content": "source", "token_time": True}

EXPERIMENTS: Mapping[str, Experiment] = {
    # The method and the paper's three ablations.
    **{name: Experiment(name) for name in VARIANTS},
    # Who tells the network where the mask is: F_M, the masked source, both or neither. Two of the four are above.
    "prompt_edit_diff_no_source_latents": Experiment(model={"source_latents": "none"}),
    "prompt_edit_diff_no_mask_encoder_no_source_latents": Experiment(
        _NO_MASK_ENCODER, {"source_latents": "none"}
    ),
    # The network does not see the pixels that share a latent cell with the mask: the input of the first checkpoints.
    "prompt_edit_diff_no_edge_pixels": Experiment(model={"source_latents": "cells"}),
    "prompt_edit_diff_no_mask_dropout": Experiment(mask_dropout=False),
    "prompt_edit_diff_equal_weights": Experiment(weighting="equal"),
    # Prompt tokens that see the source inside their region (T1), the time step (T2), or both.
    "prompt_edit_diff_token_content": Experiment(model={"token_content": "source"}),
    "prompt_edit_diff_token_time": Experiment(model={"token_time": True}),
    "prompt_edit_diff_token_content_time": Experiment(model=_CONTENT_AND_TIME),
    # Controls: the capacity of T1 without its information, and other numbers of tokens.
    "prompt_edit_diff_shuffled_token_content": Experiment(model={"token_content": "shuffled"}),
    "prompt_edit_diff_token_content_time_count_1": Experiment(model={**_CONTENT_AND_TIME, "count": 1}),
    "prompt_edit_diff_token_content_time_count_8": Experiment(model={**_CONTENT_AND_TIME, "count": 8}),
}
