"""SmartBrush: text and shape guided object inpainting (Xie et al., CVPR 2023). A re-implementation.

Its authors have published neither code nor weights. This implementation follows the paper's description (arXiv
2212.05034), in the latents of Stable Diffusion.

==============================  ==========================================================================
paper                           code
==============================  ==========================================================================
x_0, the clean image            ``z0``: the latents of the source in sampling
m, the object's mask            ``objects``: the latent cells that the object touches
m_s, mask of precision s        ``precision.at_precision``: 0 is the exact mask, ``BOX`` the bounding box
s, as a condition               ``class_labels`` of the UNet: a learned vector, added to that of the time step
x~_t = x_t m_s + x_0 (1 - m_s)  ``noised_inside``: only the mask's cells are noised, the rest is the clean image
predicted mask                  the network's last output channel, a logit per latent cell
L = L_DM + lambda L_prediction  ``losses.brush_loss``, where lambda is ``DICE_WEIGHT``
background preservation         ``losses.brush_loss`` (training), ``sampler.fill`` (sampling)
==============================  ==========================================================================

Choices where the paper is silent, or where an edit differs from the insertion of an object:

* **The object of an edit** is what the edit changes inside its mask. So an edit that exchanges an object has to cover
  the old one, and an edit that removes a part has a mask too.
* **Background preservation.** Cells of m_s that are not the object's are trained to become the source again. In
  sampling, the first steps trust the given mask. Then the predicted one takes its place, at precision 0, and the source
  comes back outside of it.
* **Several regions** are filled one after another, each with its own text, since a text belongs to one object.
* **The precision of a given mask** is the user's to say. Without an answer it is guessed from the mask's shape.

Importing this package imports no torch.
"""
