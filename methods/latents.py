"""What the methods share that sample with a loop of their own over a Stable Diffusion pipeline's components.

=================  ===========================  =====================================================
paper              here                         shape, dtype, range
=================  ===========================  =====================================================
x                  ``sources``, ``pixels``      RGB images; float32 (B, 3, H, W) in [-1, 1]
z_0                ``encode(...)``              float32 (B, 4, h, w), about unit variance
m                  ``masks(...)``               float32 (B, 1, h, w), 1 = edit, 0 = keep
alpha-bar_t        ``Schedule.signal(t)``       the share of the signal's variance at time step t
eps_theta, v       ``Guided(...)(z, t)``        what the UNet predicts, float32 (B, 4, h, w)
=================  ===========================  =====================================================

h and w are H and W over the autoencoder's factor. Latents stay float32 whatever the models' precision: the
blend of many steps must not round at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench import images
from methods import pipelines, weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest

MaskCells = Literal["rescue", "cover"]
"""What happens to a mask that does not align with the latent grid: see :func:`latent_mask`."""

CLEAN = -1
"""The time step behind the last one: no noise."""


# --- masks and pictures ------------------------------------------------------------------------------


def latent_mask(mask: NDArray[np.bool_], factor: int, cells: MaskCells) -> NDArray[np.bool_]:
    """Bool (H, W) -> bool (H / factor, W / factor); H and W must be multiples of ``factor``.

    ``rescue`` takes the pixel at the middle of each cell, as Pillow's nearest neighbour does and with it the
    published scripts, and adds the cells of parts that this misses altogether: those that hold mask pixels
    while neither they nor any of their eight neighbours were taken. ``cover`` takes every cell that the mask
    touches.
    """
    held = pipelines.cover_cells(mask, factor)[::factor, ::factor]
    if cells == "cover":
        return held
    sampled = mask[factor // 2 :: factor, factor // 2 :: factor]
    rows, columns = sampled.shape
    padded = np.pad(sampled, 1)
    near: NDArray[np.bool_] = np.zeros_like(sampled)
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + rows, right : right + columns]
    taken: NDArray[np.bool_] = sampled | (held & ~near)
    return taken


def masks(requests: Sequence[EditRequest], factor: int, cells: MaskCells, device: torch.device) -> Tensor:
    """float32 (B, 1, h, w): 1 = edit. Raises ValueError for an empty mask or one of another size."""
    import torch

    found = []
    for request in requests:
        if request.mask.size != request.source.size:
            raise ValueError(f"mask of {request.mask.size} pixels for a source of {request.source.size}")
        mask = images.mask_array(request.mask)
        if not mask.any():
            raise ValueError("the mask is empty: there is nothing to edit")
        found.append(latent_mask(mask, factor, cells))
    return torch.from_numpy(np.stack(found)).to(device, torch.float32)[:, None]


def pixels(sources: Sequence[Image], device: torch.device) -> Tensor:
    """RGB images of one size => float32 (B, 3, H, W) in [-1, 1]."""
    import torch

    array = np.stack([images.to_array(source) for source in sources])
    return torch.from_numpy(array).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures(x: Tensor) -> list[Image]:
    """Float (B, 3, H, W) in [-1, 1] => RGB images, clipped and rounded."""
    import torch

    array = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [images.from_array(one) for one in array.permute(0, 2, 3, 1).cpu().numpy()]


def encode(vae: Any, x: Tensor) -> Tensor:
    """Float (B, 3, H, W) in [-1, 1] => latents z_0: the mean of the posterior, scaled to unit variance."""
    z: Tensor = vae.encode(x.to(vae.dtype)).latent_dist.mean.float() * vae.config.scaling_factor
    return z


def decode(vae: Any, z: Tensor) -> Tensor:
    """Latents => float32 (B, 3, H, W), about [-1, 1]."""
    x: Tensor = vae.decode((z / vae.config.scaling_factor).to(vae.dtype)).sample.float()
    return x


def noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal, shape and device of ``like``: one row from each generator, drawn where it lives.

    The generators live on the CPU, so the same seed gives the same noise on every device.
    """
    import torch

    rows = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(like.device)


# --- the model ---------------------------------------------------------------------------------------


class Guided:
    """The UNet's prediction under classifier-free guidance (Ho and Salimans 2022): u + g (c - u)."""

    def __init__(self, pipeline: Any, prompts: Sequence[str], negative_prompt: str, guidance: float) -> None:
        """``guidance`` 1 switches it off: one pass of the UNet instead of two."""
        import torch

        self.unet = pipeline.unet
        self.guidance = guidance
        text, negative = pipeline.encode_prompt(
            list(prompts), pipeline.device, 1, guidance > 1, [negative_prompt] * len(prompts)
        )
        self.context = torch.cat([negative, text]) if guidance > 1 else text

    def __call__(self, z: Tensor, t: int) -> Tensor:
        """Noisy latents (B, 4, h, w) at time step ``t`` => the prediction, float32 of that shape."""
        import torch

        copies = torch.cat([z, z]) if self.guidance > 1 else z
        output: Tensor = self.unet(
            copies.to(self.unet.dtype),
            torch.tensor(t, device=z.device),
            encoder_hidden_states=self.context,
        ).sample.float()
        if self.guidance <= 1:
            return output
        without, with_text = output.chunk(2)
        return without + self.guidance * (with_text - without)


class Schedule:
    """A checkpoint's noise schedule, and the steps of DDIM and DDPM on it (Song et al. 2021, equation 12).

    Noise levels are named by time step; ``CLEAN`` is the level behind the last step. Written out here, since
    diffusers' own step takes the previous level from arithmetic on t, which leaves the grid where the number of
    steps does not divide the training steps, and takes the root of a rounding error below 0 where a stochastic
    step starts from pure noise (alpha-bar = 0, as in the schedules of Lin et al. 2024).
    """

    def __init__(self, scheduler: Any, **settings: Any) -> None:
        """``settings`` replace those of the checkpoint's scheduler, as ``DDIMScheduler`` names them."""
        from diffusers import DDIMScheduler

        # Latents are not pixels: they are never clipped, though DDIM's default is to.
        self._ddim = DDIMScheduler.from_config(scheduler.config, **{"clip_sample": False} | settings)
        self._signals: list[float] = self._ddim.alphas_cumprod.double().tolist()
        self._final = float(self._ddim.final_alpha_cumprod)
        self.prediction: str = self._ddim.config.prediction_type

    def grid(self, steps: int) -> list[int]:
        """The time steps of a run of ``steps`` steps, the noisiest first."""
        self._ddim.set_timesteps(steps)
        found: list[int] = self._ddim.timesteps.tolist()
        return found

    def signal(self, t: int) -> float:
        """alpha-bar_t; at ``CLEAN`` the level at which the checkpoint's sampler ends."""
        return self._final if t == CLEAN else self._signals[t]

    def noised(self, z0: Tensor, eps: Tensor, t: int) -> Tensor:
        """q(z_t | z_0): sqrt(alpha-bar) z_0 + sqrt(1 - alpha-bar) eps; ``z0`` itself at ``CLEAN``."""
        if t == CLEAN:
            return z0
        signal = self.signal(t)
        noisy: Tensor = signal**0.5 * z0 + (1 - signal) ** 0.5 * eps
        return noisy

    def renoised(self, z: Tensor, eps: Tensor, t: int, higher: int) -> Tensor:
        """q(z_higher | z_t), the forward process from level ``t`` up to the noisier level ``higher``."""
        ratio = self.signal(higher) / self.signal(t)
        noisy: Tensor = ratio**0.5 * z + (1 - ratio) ** 0.5 * eps
        return noisy

    def split(self, output: Tensor, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The prediction at ``z`` of level ``t`` => the clean latents and the noise that it amounts to."""
        signal = self.signal(t)
        a, s = signal**0.5, (1 - signal) ** 0.5
        if self.prediction == "v_prediction":  # Salimans and Ho 2022, appendix D; fine at alpha-bar = 0
            return a * z - s * output, a * output + s * z
        if self.prediction == "sample":
            return output, (z - a * output) / s
        return (z - s * output) / a, output

    def step(
        self, output: Tensor, z: Tensor, t: int, lower: int, eta: float = 0.0, eps: Tensor | None = None
    ) -> Tensor:
        """From level ``t`` to the level ``lower``; ``eta`` 0 is DDIM, 1 is DDPM, which needs fresh noise ``eps``."""
        clean, predicted = self.split(output, z, t)
        here, there = self.signal(t), self.signal(lower)
        variance = eta**2 * (1 - there) / (1 - here) * (1 - here / there)  # equation 16, squared
        direction = max(0.0, 1 - there - variance) ** 0.5
        stepped: Tensor = there**0.5 * clean + direction * predicted
        if eta > 0 and eps is not None:
            stepped = stepped + variance**0.5 * eps
        return stepped


# --- what keeps options from working -------------------------------------------------------------------


def problems(name: str, revision: str | None, steps: int) -> list[str]:
    """What keeps the weights ``name`` from this loop: they are missing or unfit, or too many steps are asked."""
    found = weights.problems(name, revision, channels=(4,))
    if found:
        return found
    found_weights = weights.find(name, revision)
    config = found_weights.config("scheduler")
    trained = config.get("num_train_timesteps", 1000)
    if not isinstance(trained, int):
        file = found_weights.parts["scheduler"] / "scheduler_config.json"
        return [f"{file}: num_train_timesteps is {trained!r}, expected a number"]
    if steps > trained:
        found.append(f"steps {steps}: the checkpoint has {trained} time steps")
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type", "epsilon") == "epsilon":
        found.append(
            f"weights {name!r}: its schedule ends in pure noise, from which a prediction of the noise tells "
            "nothing. Use a checkpoint that predicts v, or one without rescale_betas_zero_snr"
        )
    return found
