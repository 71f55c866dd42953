"""LaMa: inpainting with a GAN of fast Fourier convolutions (Suvorov et al., WACV 2022). It takes no prompt.

===============================  =========================================================================
paper                            here
===============================  =========================================================================
x, m (1 = hole)                  ``image`` float (B, 3, H, W) in [0, 1], ``mask`` float (B, 1, H, W), 0 or 1
x' = stack(x * (1 - m), m)       ``network.Generator.paint``: four channels in
fast Fourier convolution         ``network.FFC``, a local and a global branch (Chi et al., NeurIPS 2020)
spectral transform, Fourier unit ``network.SpectralTransform``, ``network.FourierUnit``
inpainted = m * f(x') + (1-m)*x  ``network.Generator.forward``: the same call as the published TorchScript
===============================  =========================================================================

``method`` is the adapter. ``checkpoint`` finds and checks the weights. ``masks`` draws holes to train on. ``fills`` has
two simple fills that a GAN must beat, and measures the seam. Importing this package, ``method`` or ``checkpoint``
imports no torch.
"""
