"""Recipe: the autoencoder (diffusers' AutoencoderKL, 64 px => 16 x 16 x 4), the base of all latent methods.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022), section 3.1, without the
adversarial term: the mini world has no textures that would need it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.training import (
    Budget,
    Machine,
    ProgressReport,
    Recording,
    TrainingResult,
    Weights,
    silent,
    train,
)
from methods.zoo.data import World, save_grid, to_images, to_tensor
from methods.zoo.manifest import CHECKPOINTS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG: dict[str, Any] = {
    "block_out_channels": [16, 48, 96],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    # With as many groups as a thin layer has channels, GroupNorm is instance norm and removes absolute colour.
    "norm_num_groups": 1,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
BUDGET = Budget(samples=56_000, batch=16, learning_rate=1.5e-3, decay=0.5, ema=0.9985)
DECODER_BUDGET = Budget(samples=80_000, batch=16, learning_rate=6e-4, decay=0.5, ema=0.999)
ENCODER_BUDGET = Budget(samples=48_000, batch=16, learning_rate=5e-4, decay=0.6, ema=0.998)
# Weight of the KL term.
# Weak, as in Rombach et al. (2022): it bounds the latents, and reconstruction decides the rest.
_KL = 1e-6
# Standard deviation of the published posterior, in standard deviations of a latent.
SPREAD = 0.01


def build() -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**CONFIG)


def load_vae(root: Path = CHECKPOINTS, device: str = "cpu") -> Any:
    """The zoo's autoencoder, float32, in evaluation mode."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(str(root / "autoencoder"), dtype=torch.float32).to(device).eval()


def run(
    world: World,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    start: AutoencoderKL | None = None,
) -> TrainingResult:
    """Train on new renders. Figures: PSNR of training reconstructions in dB, and the KL term."""
    torch.manual_seed(0)
    model = (start or build()).to(memory_format=torch.channels_last)

    def batch(step: int) -> Tensor:
        # New renders at every step: the world is endless, so nothing is seen twice.
        return _renders(world, step * budget.batch, budget.batch)

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        # z ~ q(z | x), by reparametrisation.
        posterior = model.encode(x.to(memory_format=torch.channels_last)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device)
        y = model.decode(z).sample.float()
        # KL(q(z | x) || N(0, 1)), summed over the latent.
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        value, mse = distance(x, y)
        value = value + _KL * kl
        # [-1, 1] is 2 wide, and PSNR takes the square of the range.
        return value, {"psnr": float(10 * torch.log10(4 / mse.detach())), "kl": float(kl.detach())}

    def sample(weights: Weights, path: Path) -> None:
        probe = build()
        probe.load_state_dict(weights["vae"])
        probe.eval()
        # Negative indices are held out.
        x = to_tensor(np.stack([world.picture(-1 - i) for i in range(24)]))
        with torch.no_grad():
            y = probe(x).sample
        save_grid(path, [x, y], columns=12)

    recording = Recording(sample_every=20_000)
    return train(work, {"vae": model}, loss, batch, budget, machine, report, sample, recording)


def run_decoder(
    model: AutoencoderKL,
    world: World,
    work: Path,
    budget: Budget = DECODER_BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
) -> TrainingResult:
    """Train the decoder alone, on slightly perturbed latents of the frozen encoder.

    The perturbation stands for the inexact latents of a diffusion model.
    """
    torch.manual_seed(1)
    model = model.to(memory_format=torch.channels_last)
    learning = _only(model, "decoder", "post_quant_conv")
    deviation = 1 / float(model.config.scaling_factor)

    def batch(step: int) -> Tensor:
        # Far from the first training's renders.
        return _renders(world, 50_000_000 + step * budget.batch, budget.batch)

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            z = model.encode(x.to(memory_format=torch.channels_last)).latent_dist.mean.float()
        # Noise of up to 0.12 standard deviations of a latent.
        strength = torch.rand((len(z), 1, 1, 1), generator=noise, device=z.device) * 0.12 * deviation
        z = z + strength * torch.randn(z.shape, generator=noise, device=z.device)
        y = model.decode(z).sample.float()
        value, mse = distance(x, y)
        return value, {"psnr": float(10 * torch.log10(4 / mse.detach()))}

    return train(work, learning, loss, batch, budget, machine, report)


def run_encoder(
    model: AutoencoderKL,
    images: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    work: Path,
    budget: Budget = ENCODER_BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
) -> TrainingResult:
    """Teach the encoder that a hole changes no latents outside it.

    Normalisation over a whole thin layer lets a gray hole shift latents far away. An inpainting model that sees shifted
    latents outside its mask paints shifted pixels there. The encoder before the training teaches both the whole and the
    masked image, so the decoder, and all models trained on the latents, stay valid.

    ``images(step)`` gives uint8 (N, H, W, 3), and bool (N, H, W), True in the hole, which consists of whole cells.
    Figures: root mean square deviation from the teacher, in standard deviations of a latent, of whole images
    (``whole``) and of masked ones outside the hole (``masked``).
    """
    import copy

    torch.manual_seed(2)
    model = model.to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    learning = _only(model, "encoder", "quant_conv")
    scale = float(model.config.scaling_factor)
    factor = 2 ** (len(model.config.block_out_channels) - 1)  # pixels per cell

    def batch(step: int) -> tuple[Tensor, Tensor]:
        pixels, holes = images(step)
        return to_tensor(pixels), torch.from_numpy(~holes)[:, None].float()

    def loss(data: tuple[Tensor, Tensor], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x, keep = (part.to(memory_format=torch.channels_last) for part in data)
        teacher.to(x.device)
        with torch.no_grad():
            expected = teacher.encode(x).latent_dist.mean.float()
        # Whole and masked images in one pass.
        z = model.encode(torch.cat([x, x * keep])).latent_dist.mean.float()
        whole = (((z[: len(x)] - expected) * scale) ** 2).mean()
        # Masked images count outside the hole.
        cells = keep[:, :, ::factor, ::factor]
        error = ((z[len(x) :] - expected) * scale) ** 2
        masked = (error * cells).sum() / (cells.sum() * error.shape[1])
        figures = {"whole": float(whole.detach().sqrt()), "masked": float(masked.detach().sqrt())}
        return whole + masked, figures

    return train(work, learning, loss, batch, budget, machine, report)


def _only(model: nn.Module, *names: str) -> dict[str, nn.Module]:
    """The named parts, which learn. The rest of the model is frozen."""
    model.requires_grad_(False)
    return {name: model.get_submodule(name).requires_grad_(True) for name in names}


def _renders(world: World, first: int, count: int) -> Tensor:
    """Float32 (count, 3, 64, 64) in [-1, 1]."""
    return to_tensor(np.stack([world.picture(first + i) for i in range(count)]))


def distance(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction loss and mean squared error of float32 (N, 3, H, W) in [-1, 1]."""
    error = y - x
    # L1 + 0.5 MSE + 0.25 L1 of the gradients.
    mse = (error**2).mean()
    # Edges make up the small parts (glasses, mouths), so gradients count beside levels.
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 0.5 * mse + 0.25 * (across.abs().mean() + down.abs().mean()), mse


# --- the published posterior ------------------------------------------------------------------------


def scaled(model: Any, world: World) -> float:
    """1 / standard deviation of the latents of 512 images: the pipelines' ``scaling_factor``."""
    with torch.no_grad():
        z = torch.cat([model.encode(x).latent_dist.mean for x in _renders(world, 10_000_000, 512).split(64)])
    return float(1 / z.std())


def narrow(model: AutoencoderKL, world: World) -> None:
    """Set the posterior's spread to ``SPREAD``, in place. Its means stay as they are.

    With a weak KL term the learned spread is what the decoder tolerates, a quarter of a latent here. Diffusers'
    inpainting pipelines sample the masked source's latents from the posterior, while the trainings here use the means.
    The difference would be noise in the part that an editor should copy.
    """
    with torch.no_grad():
        posteriors = [model.encode(x).latent_dist for x in _renders(world, 10_000_000, 512).split(64)]
        means = torch.cat([posterior.mean for posterior in posteriors])
        spread = torch.cat([posterior.std for posterior in posteriors]).square().mean().sqrt()
        # Only the bias of the log-variance moves, so its differences between positions stay.
        # The first half of its channels are the means, the second half the log-variances: twice the log of a
        # deviation.
        bias = model.quant_conv.bias
        bias[len(bias) // 2 :] += 2 * torch.log(SPREAD * means.std() / spread)


def psnr(model: Any, world: World, count: int = 1_000) -> float:
    """Mean over held-out images of the PSNR of their 8-bit reconstruction, in dB."""
    # The mean of the images' own values in dB.
    total = 0.0
    for start in range(0, count, 100):
        images = np.stack([world.picture(-1 - start - i) for i in range(min(100, count - start))])
        with torch.no_grad():
            z = model.encode(to_tensor(images)).latent_dist.mean
            reconstructed = to_images(model.decode(z).sample)
        mse = ((reconstructed.astype(np.float64) - images) ** 2).mean(axis=(1, 2, 3))
        total += float((10 * np.log10(255**2 / mse)).sum())
    return total / count
