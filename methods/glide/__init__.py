"""GLIDE's inpainting models (Nichol et al., ICML 2022): a pixel-space base and an upsampler, guided by a prompt.

The networks, the samplers and the loss are this project's torch code. Their parameters have the names and shapes of
OpenAI's published state dicts, which therefore load strictly.

===============================  =========================================================================
paper, published code            here
===============================  =========================================================================
x_t, x_0, eps                    ``x``, ``x0``, ``eps``: float32 (B, 3, S, S) in [-1, 1], eps without bounds
caption's tokens, their mask     ``tokens`` int64 (B, L), ``present`` bool (B, L)
K final token embeddings         ``TextFeatures.sequence`` (B, L, W): more keys and values for each attention
last token embedding             ``TextFeatures.pooled`` (B, 4 C): added to the embedding of t
image, mask of the fine-tuning   ``image`` (B, 3, S, S) and ``visible`` (B, 1, S, S) in {0, 1}. **1 = given**,
                                 the opposite of this project's masks: ``method`` inverts, nothing else does
s, guidance scale                ``guidance``: eps = eps(no text) + s (eps(text) - eps(no text)), section 2.3
Sigma = exp(v log beta +         ``diffusion.Diffusion``: the learned range of Nichol and Dhariwal (2021),
  (1 - v) log beta~)             equation 15, on a respaced process
x_0 <- known pixels              ``diffusion.Diffusion.sample``: at every step, before the clamp
===============================  =========================================================================

Importing this package, or ``method`` in it, imports no torch.
"""
