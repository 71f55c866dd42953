"""PromptEditDiff: latent diffusion editing with a mask encoder, routed prompt tokens and gated injection.

No code or weights of the paper are public; this is an implementation of its description, on diffusers.

===============================  =========================================================================
paper                            here
===============================  =========================================================================
I, M, T, I1                      ``source``, ``mask`` (1 = edit), ``target_prompt``, ``truth``
E, the prompt's tokens           ``encoder_hidden_states`` (B, L, W)
tagged tokens                    ``tags.Tagged``; as tensors ``member`` (B, R, L) and ``words`` (B, L)
sub-regions of M                 ``regions`` (B, R, H, W), pixels; one region (M itself) where none are given
F_M                              ``mask_encoder.MaskFeatures``: per resolution, and as tokens
H <- gamma Attn(H)               ``attention.InjectMask``: ``gamma`` (1 at first) and ``phi`` (0 at first) of
     + phi Attn(H, F_M)          each self-attention layer
masked cross-attention           ``attention.RouteTokens`` and ``attention.route``
dynamic prompt tokens            ``tokens.PromptTokens``: ``count`` tokens per region
outside M: diffusion halted      ``pipeline.PromptEditDiffPipeline``: q_sample(source, t) replaces it each step
L = denoising + lambda recon.    ``losses.edit_loss``; lambda is ``outside``
mask dropout                     ``augment.MaskDropout``
full, and the three ablations    ``ablation``: the switches ``prompt_tokens``, ``masked_attention``,
                                 ``mask_encoder``
===============================  =========================================================================

Where the paper is silent or unclear, the choice made:

* **Where F_M enters.** ``Attn(H)`` with one argument is taken as self-attention; the second term shares its
  queries and its output projection and has keys and values of its own (over F_M's tokens), to which each query
  adds the features of its own place, so that a place can ask for what the mask looks like around it.
* **"Equal to its base" and routing.** With phi = 0 and untrained prompt tokens the new parameters add nothing.
  What routes tagged tokens is not learned but a rule, which holds from the first step on; so the untrained model
  equals its base exactly for requests without tags, and equals the base under the same rule for those with.
* **"Unrelated tokens have the least effect inside the mask."** Words of the prompt that no region claims stay
  visible everywhere; inside a region their scores are lowered by a learned amount (``rest`` of each layer, which
  starts at ``rest_bias``). The sequence's start, end and padding are never lowered or hidden, so that no place is
  left without a token.
* **Prompt tokens that start as nothing.** A zero key still takes a share of the softmax. So a region's tokens
  take the place of the sequence's last ``count`` tokens (padding, as a rule) within the region, as those tokens
  plus a difference that is zero at first.
* **What the network sees of the source.** Replacement of the outside alone shows the network clean surroundings
  only late in sampling. ``source_latents="concat"`` (the default) adds the source's latents outside M, zeros
  inside, as four more input channels, which start at zero; ``"none"`` is the letter of the description. M itself
  is never an input channel.
* **Small regions.** A cell of a coarse layer belongs to the region that covers most of it; no region ever
  disappears: its best cell is always its own.
* **Noise outside M.** One noise per image, drawn once: what is put back at step t is q_sample(source, t) of it.

Importing this package imports no torch.
"""

from __future__ import annotations

VARIANTS: tuple[str, ...] = (
    "prompt_edit_diff",
    "prompt_edit_diff_no_prompt_tokens",
    "prompt_edit_diff_no_cross_attention",
    "prompt_edit_diff_no_mask_encoder",
)
"""The method and its ablations, by the names of their adapters and of their embedded checkpoints."""


def ablation(variant: str) -> dict[str, bool]:
    """The three switches of a variant. Raises ValueError for a name that is none."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; the variants are {', '.join(VARIANTS)}")
    return {
        "prompt_tokens": not variant.endswith("_no_prompt_tokens"),
        "masked_attention": not variant.endswith("_no_cross_attention"),
        "mask_encoder": not variant.endswith("_no_mask_encoder"),
    }
