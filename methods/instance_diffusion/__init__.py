"""InstanceDiffusion: instance-level control of text-to-image diffusion (Wang et al., CVPR 2024), used as an editor.

Nothing is copied from the authors' repository (Apache-2.0). Names and shapes of its weights are facts, which
``published`` maps.

==============================  ==========================================================================
paper                           code
==============================  ==========================================================================
an instance: caption, location  a region of the request, its prompt, and ``instances.Shapes`` of its mask
UniFusion                       ``fusion.UniFusion``: one token per instance and kind of location, and tokens
                                of all masks as an image
gated self-attention            ``model.Fuser``, between self- and cross-attention
instance-masked attention       ``model.masked_attention_bias``: instances do not see each other
ScaleU                          ``model.ScaleU``, before each block of the decoder
Multi-instance Sampler          ``sampler.edit``: each instance has a run of its own for the first steps, and
                                their latents are averaged
scheduled sampling (alpha)      ``sampler.InstanceSettings.grounded``
==============================  ==========================================================================

Choices where an edit differs from generation, or where the authors' code differs from the paper:

* **It generates and does not edit.** So the latents outside the mask are replaced by the noised source's at every step,
  as in ``methods.latent_blending``. The network never sees the source inside the mask.
* **A request without regions** has one instance, its mask with the region's prompt.
* **The Multi-instance Sampler needs two instances.** With one it is plain sampling. The authors' code also averages the
  run of a single instance, whose prompt is the instance's alone.
* **Averaging or pasting.** The paper crops each instance's latents and pastes them. The authors' code averages, and so
  does the default here. ``merge="paste"`` pastes by the mask.
* **Masked attention** works at the largest resolution that has attention, as in the authors' training. Their programs
  switch it off when they sample, and so does the map of the published weights.

Importing this package imports no torch.
"""
