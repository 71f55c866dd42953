"""Encoding, guidance and noise schedule, for methods with a loop of their own over Stable Diffusion's components.

=================  ==============================  ==================================================
paper              here                            shape, dtype, range
=================  ==============================  ==================================================
x                  ``batches.to_tensor(...)``      float32 (B, 3, H, W) in [-1, 1]
z_0                ``encode(...)``                 float32 (B, 4, h, w), about unit variance
m                  ``masks(...)``                  float32 (B, 1, h, w), 1 = edit, 0 = keep
alpha-bar_t        ``NoiseSchedule.signal(t)``     share of the signal's variance at time step t
eps_theta, v       ``GuidedUNet(...)(z, t)``       prediction of the UNet, float32 (B, 4, h, w)
=================  ==============================  ==================================================

h and w are H and W over the autoencoder's factor. Latents are float32 whatever the models' precision, because many
steps blend them and rounding would add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from methods import batches, weights
from methods.mask_grid import MaskCells, latent_mask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.edit import EditRequest

# Each call draws fresh standard normal noise, float32 (B, 4, h, w).
NoiseSource = Callable[[], "Tensor"]

# The time step behind the last one: no noise.
CLEAN = -1


def masks(requests: Sequence[EditRequest], factor: int, cells: MaskCells, device: torch.device) -> Tensor:
    """float32 (B, 1, h, w): 1 = edit. Raises ValueError for an empty mask or one of another size."""
    import torch

    on_grid = np.stack([latent_mask(mask, factor, cells) for mask in batches.edit_masks(requests)])
    return torch.from_numpy(on_grid).to(device, torch.float32)[:, None]


def encode(vae: Any, x: Tensor) -> Tensor:
    """Float (B, 3, H, W) in [-1, 1] => latents z_0: the mean of the posterior, scaled to unit variance."""
    # The mean, not a sample: encoding must not depend on a seed.
    z: Tensor = vae.encode(x.to(vae.dtype)).latent_dist.mean.float() * vae.config.scaling_factor
    return z


def decode(vae: Any, z: Tensor) -> Tensor:
    """Latents (B, 4, h, w) => float32 (B, 3, H, W), about [-1, 1]."""
    x: Tensor = vae.decode((z / vae.config.scaling_factor).to(vae.dtype)).sample.float()
    return x


class GuidedUNet:
    """The UNet's prediction under classifier-free guidance (Ho and Salimans 2022): u + g (c - u)."""

    def __init__(self, pipeline: Any, prompts: Sequence[str], negative_prompt: str, guidance: float) -> None:
        """Encodes the prompts. ``guidance`` 1 switches guidance off: one pass of the UNet instead of two."""
        import torch

        self.unet = pipeline.unet
        self.guidance = guidance
        # The third argument is the number of images per prompt, the fourth asks for the unconditional half.
        conditional, unconditional = pipeline.encode_prompt(
            list(prompts), pipeline.device, 1, guidance > 1, [negative_prompt] * len(prompts)
        )
        # (2 B, L, D) with the unconditional half first, or (B, L, D) without guidance.
        self.context = torch.cat([unconditional, conditional]) if guidance > 1 else conditional

    def __call__(self, z: Tensor, t: int) -> Tensor:
        """Noisy latents (B, 4, h, w) at time step ``t`` => the prediction, float32 of that shape."""
        import torch

        # Both halves in one batch: one pass of the UNet, in the order of `context`.
        copies = torch.cat([z, z]) if self.guidance > 1 else z
        output: Tensor = self.unet(
            copies.to(self.unet.dtype),
            torch.tensor(t, device=z.device),
            encoder_hidden_states=self.context,
        ).sample.float()
        if self.guidance <= 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)


class NoiseSchedule:
    """A checkpoint's noise schedule, and the steps of DDIM and DDPM on it (Song et al. 2021, equation 12).

    Noise levels are named by time step. ``CLEAN`` is the level behind the last step.
    """

    # Written out here because diffusers' own step has two faults for these loops. It computes the previous level
    # from t, which leaves the grid where the number of steps does not divide the training steps. And it takes the
    # root of a rounding error below 0 where a stochastic step starts from pure noise (alpha-bar = 0, as in the
    # schedules of Lin et al. 2024).

    def __init__(self, scheduler: Any, **settings: Any) -> None:
        """``settings`` replace those of the checkpoint's scheduler, by their names in ``DDIMScheduler``."""
        from diffusers import DDIMScheduler

        # Latents are not pixels: they are never clipped, though DDIM's default is to.
        self._ddim = DDIMScheduler.from_config(scheduler.config, **{"clip_sample": False} | settings)
        self._signals: list[float] = self._ddim.alphas_cumprod.double().tolist()
        self._final = float(self._ddim.final_alpha_cumprod)
        self.prediction: str = self._ddim.config.prediction_type

    def grid(self, steps: int) -> list[int]:
        """The time steps of a run of ``steps`` steps, the noisiest first."""
        # diffusers' grid depends on timestep_spacing and steps_offset, which differ between checkpoints.
        self._ddim.set_timesteps(steps)
        timesteps: list[int] = self._ddim.timesteps.tolist()
        return timesteps

    def signal(self, t: int) -> float:
        """alpha-bar_t. At ``CLEAN`` the level at which the checkpoint's sampler ends."""
        return self._final if t == CLEAN else self._signals[t]

    def noised(self, z0: Tensor, eps: Tensor, t: int) -> Tensor:
        """A sample of q(z_t | z_0), and ``z0`` itself at ``CLEAN``."""
        if t == CLEAN:
            return z0
        signal = self.signal(t)
        # z_t = sqrt(alpha-bar) z_0 + sqrt(1 - alpha-bar) eps
        noisy: Tensor = signal**0.5 * z0 + (1 - signal) ** 0.5 * eps
        return noisy

    def renoised(self, z: Tensor, eps: Tensor, t: int, higher: int) -> Tensor:
        """A sample of q(z_higher | z_t): the forward process from level ``t`` up to the noisier ``higher``."""
        # q(z_higher | z_t) is normal with mean sqrt(ratio) z_t and variance 1 - ratio.
        ratio = self.signal(higher) / self.signal(t)
        noisy: Tensor = ratio**0.5 * z + (1 - ratio) ** 0.5 * eps
        return noisy

    def split(self, output: Tensor, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The UNet's output at ``z`` of level ``t`` => the predicted clean latents and the predicted noise."""
        signal = self.signal(t)
        a, s = signal**0.5, (1 - signal) ** 0.5
        if self.prediction == "v_prediction":
            # Salimans and Ho 2022, appendix D. It is defined at alpha-bar = 0 too.
            return a * z - s * output, a * output + s * z
        if self.prediction == "sample":
            return output, (z - a * output) / s
        return (z - s * output) / a, output

    def step(
        self, output: Tensor, z: Tensor, t: int, lower: int, eta: float = 0.0, eps: Tensor | None = None
    ) -> Tensor:
        """From level ``t`` to level ``lower``. ``eta`` 0 is DDIM. 1 is DDPM, which needs fresh noise ``eps``."""
        clean, direction = self.split(output, z, t)
        signal, signal_below = self.signal(t), self.signal(lower)
        # sigma^2, equation 16 squared.
        variance = eta**2 * (1 - signal_below) / (1 - signal) * (1 - signal / signal_below)
        # Equation 12: the predicted z_0, the direction to z_t, and noise.
        # With eta = 1 and alpha-bar = 0 the difference is 0 but for rounding, which may be negative.
        scale = max(0.0, 1 - signal_below - variance) ** 0.5
        stepped: Tensor = signal_below**0.5 * clean + scale * direction
        if eta > 0 and eps is not None:
            stepped = stepped + variance**0.5 * eps
        return stepped


def problems(name: str, revision: str | None, steps: int) -> list[str]:
    """Reasons why these loops cannot run the weights ``name``: missing or unfit weights, or too many steps."""
    # Four channels: a plain text-to-image UNet. These loops feed it nothing but noisy latents.
    missing = weights.problems(name, revision, channels=(4,))
    if missing:
        return missing
    checkpoint = weights.find(name, revision)
    config = checkpoint.config("scheduler")
    trained = config.get("num_train_timesteps", 1000)
    if not isinstance(trained, int):
        file = checkpoint.parts["scheduler"] / "scheduler_config.json"
        return [f"{file}: num_train_timesteps is {trained!r}, expected a number"]
    unfit = []
    if steps > trained:
        unfit.append(f"steps {steps}: the checkpoint has {trained} time steps")
    # At alpha-bar = 0 the clean latents follow as (z - 1 * eps) / 0.
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type", "epsilon") == "epsilon":
        unfit.append(
            f"weights {name!r}: its schedule ends in pure noise, from which a prediction of the noise tells "
            "nothing. Use a checkpoint that predicts v, or one without rescale_betas_zero_snr"
        )
    return unfit
