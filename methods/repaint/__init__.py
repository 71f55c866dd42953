"""RePaint (Lugmayr et al., CVPR 2022): an unconditional pixel-space diffusion model that fills the mask.

Written from the paper. The authors' program has a licence that forbids commercial use, and nothing of it is here.

=================  ===========================  =================================================================
paper              here                         what it is
=================  ===========================  =================================================================
x_0, m             ``source``, 1 - ``mask``     RGB in [-1, 1]. The paper's m is 1 where pixels are known
x^known            ``x_known``                  the source, noised to the level that the step reaches (8a)
x^unknown          ``x_unknown``                the network's step (8b)
T                  ``steps``                    levels that the network's schedule is divided into
jump length j      ``jump_length``              levels that each jump back covers
resampling r       ``resamplings``              runs of each stretch of ``jump_length`` levels
=================  ===========================  =================================================================
"""
