"""Prompt-to-Prompt (Hertz et al., ICLR 2023) on a real image, which an inversion brings into the diffusion model.

The source and the edit are sampled side by side from one noisy latent. In the first steps the edit takes over the
source's cross-attention maps, word by word, and its self-attention maps.

==================  ===================================  =======================================================
paper               here                                 what it is
==================  ===================================  =======================================================
P, P*               source prompt, target prompt         of the request
M_t, M*_t           source and target rows of the        cross-attention maps, (rows, heads, positions, tokens)
                    probabilities in ``control``
A, c                ``TokenMap``, ``reweight``           alignment of the tokens, factor of a word's map
tau                 ``cross_replace * steps``            step at which the source's maps are no longer used
LocalBlend          ``blend: words``                     the region by the maps of the edited words
z*_T .. z*_0        ``pivots``                           the inverted source (Mokady et al., CVPR 2023)
∅_t                 ``null_text`` of ``inversion``       null embeddings, optimised for each step
==================  ===================================  =======================================================

Two inversions. ``direct`` (Ju et al., ICLR 2024) sets the source branch to the pivots at every step. ``null_text``
(Mokady et al.) optimises the embedding of the empty prompt until guided sampling follows the pivots.
"""
