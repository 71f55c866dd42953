"""PromptEditDiff: latent diffusion editing with a mask encoder, routed prompt tokens and gated injection.

The paper has no public code or weights. This is an implementation of its description, on diffusers.

===============================  =========================================================================
paper                            code
===============================  =========================================================================
I, M, T, I1                      ``source``, ``mask`` (1 = edit), ``target_prompt``, ``truth``
(I, M, T, I1)                    a training tuple: ``training_tuples``
E, the prompt's tokens           ``encoder_hidden_states`` (B, L, W)
tagged tokens                    ``tags.Tagged``, and as tensors ``member`` (B, R, L) and ``words`` (B, L)
sub-regions of M                 ``regions`` (B, R, H, W) in pixels, or M itself where there are none
F_M                              ``mask_encoder.MaskFeatures``: per resolution, and as tokens
H <- gamma Attn(H)               ``attention.InjectMask``: ``gamma`` (1 at first) and ``phi`` (0 at first) of
     + phi Attn(H, F_M)          each self-attention layer
masked cross-attention           ``attention.RouteTokens`` and ``attention.route``
dynamic prompt tokens            ``tokens.PromptTokens``: ``count`` tokens per region, made of its words and of F_M,
                                 and by option of the source inside it and of the time step
outside M: diffusion halted      ``pipeline.PromptEditDiffPipeline``: q_sample(source, t) replaces it each step
start from the noised source     option ``strength`` below 1
L = denoising + lambda recon.    ``losses.edit_loss``, where lambda is ``outside``
mask dropout                     ``augment.MaskDropout``
full, and the three ablations    ``ablation``: the switches ``prompt_tokens``, ``masked_attention``,
                                 ``mask_encoder``
===============================  =========================================================================

Choices where the paper is silent or unclear:

* **Where F_M enters.** ``Attn(H)`` with one argument is taken as self-attention. The second term shares its queries and
  its output projection and has its own keys and values over F_M's tokens. Each query also gets the mask's features of
  its own position, so that it can ask for the shape of the mask around it.
* **"Equal to its base" and routing.** With phi = 0 and untrained prompt tokens the new parameters add nothing. The
  routing of tagged tokens is a rule and not learned, so it holds from the first step. The untrained model thus equals
  its base for requests without tags, and equals the base under the same rule for those with tags.
* **"Unrelated tokens have the least effect inside the mask."** Words of no region stay visible everywhere. Inside a
  region their scores are lowered by a learned amount (``rest`` of each layer, which starts at ``rest_bias``). The
  sequence's start, end and padding are never lowered or hidden, so every position sees some token.
* **Prompt tokens that start as nothing.** A zero key still takes a share of the softmax. So a region's tokens replace
  the sequence's last ``count`` tokens (usually padding) within the region: they are those tokens plus a difference that
  is zero at first.
* **The network's view of the source.** Replacing the outside alone shows the network clean surroundings only late in
  sampling. ``source_latents="pixels"`` (the default) adds four input channels, which start at zero: the latents of the
  source with gray in M's own pixels, as in Stable Diffusion inpainting. ``"cells"``, which the first checkpoints have
  under the name ``"concat"``, shows zeros in every latent cell that M touches. Such a network must invent the pixels
  that share a cell with M. ``"none"`` follows the description to the letter. M itself is never an input channel.
* **What the prompt tokens can know.** The words reach a region by routing and F_M by injection, so tokens made of these
  two carry nothing new. ``token_content="source"`` adds means of the uncovered source's latents inside the region, and
  ``token_time`` the time step. Both are off by default.
* **The start of sampling.** The paper adds noise to the input image. With zero terminal SNR the last step is pure
  noise, so ``strength`` 1 sees nothing of the source inside M. Below 1 the first latents hold its noised content.
* **Small regions.** A cell of a coarse layer belongs to the region that covers most of it. No region disappears: its
  best cell is always its own.
* **Noise outside M.** There is one noise per image. The outside at step t is q_sample(source, t) with this noise.

Importing this package imports no torch.
"""

from __future__ import annotations

# The method and its ablations, by the names of their adapters and of their embedded checkpoints.
VARIANTS: tuple[str, ...] = (
    "prompt_edit_diff",
    "prompt_edit_diff_no_prompt_tokens",
    "prompt_edit_diff_no_cross_attention",
    "prompt_edit_diff_no_mask_encoder",
)


def ablation(variant: str) -> dict[str, bool]:
    """The three switches of a variant. Raises ValueError for an unknown name."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; the variants are {', '.join(VARIANTS)}")
    return {
        "prompt_tokens": not variant.endswith("_no_prompt_tokens"),
        "masked_attention": not variant.endswith("_no_cross_attention"),
        "mask_encoder": not variant.endswith("_no_mask_encoder"),
    }
