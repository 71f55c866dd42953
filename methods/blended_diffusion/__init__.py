"""Blended Diffusion (Avrahami, Lischinski and Fried, "Blended Diffusion for Text-driven Editing of Natural Images",
CVPR 2022): an unconditional pixel-space diffusion model, guided by a CLIP, blended with the noised source.

==========  ====================================  ====================================================
paper       code                                  what it is
==========  ====================================  ====================================================
x, x_t      ``source``, ``x``                     the source, and the sample at level t: RGB in [-1, 1]
m           ``mask``                              1 = edit, 0 = keep
x̂_0         ``StepPrediction.x0``                 clean image predicted from ``x``, not clipped
d           ``region prompt``                     the text that the masked region should match
D_CLIP      ``guidance.distance``                 distance of CLIP features on the unit sphere
λ           ``clip_lambda``, ``range_lambda``...  weights of the guidance terms
k           ``steps - skip``                      steps that are run, from the noised source
N           ``augmentations``                     views per image that the CLIP distance is averaged over
==========  ====================================  ====================================================

The authors' program differs from their paper in places, and does some things that look unintended. With
``faithful=True`` all of that is kept, so that results are the published program's. With ``faithful=False`` it is
corrected. The code marks each place by its number:

1. ``background level``: after the step from t to t - 1, the background is the source noised to t, one step noisier
   than the sample it is blended with. Right: t - 1, and at the end the source itself.
2. ``background noise``: all candidates of one pass share it. Right: each draws its own.
3. ``output``: the clean image predicted in the last step, which neither that step's blend nor its guidance
   touches. Right: the blended sample after the last step.
4. ``ranking input``: the CLIP that ranks the candidates gets [0, 1] pixels without its mean and deviation, black
   outside the mask. Right: the same input as in guidance, grey outside, normalised.
5. ``masked background``: the optional background loss compares the prediction with the mask cut out to the whole
   source. Right: the same cut in both.
6. ``shared mean``: the squared error of that loss is averaged over the candidates of a pass, so its weight falls
   with their number. Right: each image has its own mean.
7. ``vertical shift``: the augmentation's ``translate=0.1`` moves images vertically only. Right: both ways.
8. ``guidance index``: guidance finds its noise level by rounding the network's timestep down, which for some step
   counts (not 100) is a neighbouring level. Right: the level of the step.
9. ``truncation``: pixels become 8-bit by cutting off. Right: rounding.

Not kept in either mode: masks are binary (the program takes 1 of 255 for "edit"), an empty prompt is refused (the
program runs unguided), and the final paste happens in 8 bits, so that it is exact.
"""
