"""Attend-and-Excite (Chefer et al., SIGGRAPH 2023) inside the mask of an edit.

The paper generates images: it moves the latents until every subject of the prompt has a place where the cross-attention
looks at it. Here that happens inside the mask, and the source's latents come back outside it at every step.

==================  =========================  ==============================================================
paper               here                       what it is
==================  =========================  ==============================================================
S                   ``subjects``               tokens of the words of the edit
A_t                 ``maps``                   cross-attention, mean over layers and heads
L = max L_s         ``subject_loss``           1 - the maximum of the least attended token, for each image
alpha_t             ``rate * sqrt(scale)``     size of a step on the latents (the authors' program)
t_1, ..., t_k       ``_THRESHOLDS``            steps that are repeated until the maxima are high enough
==================  =========================  ==============================================================
"""
