"""Dynamic Prompt Learning (Wang et al., NeurIPS 2023) and LocInv (Tang et al., 2024), before Prompt-to-Prompt.

The nouns of the source's prompt often look at the wrong places of a real image. At every step of the inverted source,
the nouns' token embeddings are learnt until their cross-attention maps lie where they should. Prompt-to-Prompt then
edits with the learnt embeddings. Written from the papers: the authors' code has no licence, and nothing of it is here.

=====================  ===============================  ===========================================================
papers                 here                             what it is
=====================  ===============================  ===========================================================
V_t                    ``vectors``                      learnt embeddings of the nouns at a step, (B, K, W)
A_t                    ``maps``                         cross-attention of the source's prompt, mean over layers
DPL: L_at, L_di        ``balance``, ``disjoint``        attention balancing, and different places for the nouns
LocInv: L_sim, L_ovl   ``similarity``, ``overlap``      each noun's map against the mask of its region
LocInv: L_adj          ``binding``                      an adjective's map against its noun's
=====================  ===============================  ===========================================================
"""
