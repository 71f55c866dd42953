"""Recipe: the autoencoder (diffusers' AutoencoderKL, 64 px to 16x16x4), on which all latent methods stand.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022), section 3.1, without
the adversarial term: the mini world has no textures that would need one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.training import Budget, Machine, Recording, Report, TrainingResult, silent, train
from methods.zoo.data import World, to_pictures, to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG: dict[str, Any] = {
    "block_out_channels": [16, 48, 96],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    # With as many groups as a thin layer has channels, GroupNorm is instance norm and wipes out absolute colour.
    "norm_num_groups": 1,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
BUDGET = Budget(samples=56_000, batch=16, learning_rate=1.5e-3, decay=0.5, ema=0.9985)
_KL = 1e-6


def build() -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**CONFIG)


def run(
    world: World,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
    start: AutoencoderKL | None = None,
) -> TrainingResult:
    """Train on freshly rendered pictures. Figures: PSNR of training reconstructions, and the KL term."""
    torch.manual_seed(0)
    model = (start or build()).to(memory_format=torch.channels_last)

    def batch(step: int) -> Tensor:
        pictures = np.stack([world.picture(step * budget.batch + i) for i in range(budget.batch)])
        return to_tensor(pictures)

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        posterior = model.encode(x.to(memory_format=torch.channels_last)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device)
        y = model.decode(z).sample.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        value, mse = distance(x, y)
        value = value + _KL * kl
        return value, {"psnr": float(10 * torch.log10(4 / mse.detach())), "kl": float(kl.detach())}

    def sample(weights: Mapping[str, dict[str, Tensor]], path: Path) -> None:
        from methods.zoo.data import save_grid

        probe = build()
        probe.load_state_dict(weights["vae"])
        probe.eval()
        x = to_tensor(np.stack([world.picture(-1 - i) for i in range(24)]))
        with torch.no_grad():
            y = probe(x).sample
        save_grid(path, [x, y], columns=12)

    return train(
        work, {"vae": model}, loss, batch, budget, machine, report, sample, Recording(sample_every=20_000)
    )


def scaled(model: nn.Module, world: World) -> float:
    """1 / standard deviation of the latents of 512 pictures: the pipelines' ``scaling_factor``."""
    x = to_tensor(np.stack([world.picture(10_000_000 + i) for i in range(512)]))
    with torch.no_grad():
        z = torch.cat([model.encode(part).latent_dist.mean for part in x.split(64)])  # type: ignore[operator]
    return float(1 / z.std())


SPREAD = 0.01
"""Standard deviation of the published posterior, in standard deviations of a latent."""


def narrow(model: AutoencoderKL, world: World) -> None:
    """Give the posterior the spread ``SPREAD``, in place; its means stay as they are.

    A weak KL term leaves the learnt spread where the decoder tolerates it, a quarter of a latent here. Diffusers'
    inpainting pipelines sample the masked source's latents from the posterior, while trainings here see the means: the
    difference would be noise in what an editor is to copy. Only the bias of the log-variance is moved, so
    what varies between places still does.
    """
    x = to_tensor(np.stack([world.picture(10_000_000 + i) for i in range(512)]))
    with torch.no_grad():
        posteriors = [model.encode(part).latent_dist for part in x.split(64)]
        means = torch.cat([posterior.mean for posterior in posteriors])
        spread = torch.cat([posterior.std for posterior in posteriors]).square().mean().sqrt()
        bias = model.quant_conv.bias
        bias[len(bias) // 2 :] += 2 * torch.log(SPREAD * means.std() / spread)


def psnr(model: nn.Module, world: World, count: int = 1_000) -> float:
    """Mean over held-out pictures of the PSNR of their 8-bit reconstruction, in dB."""
    total = 0.0
    for start in range(0, count, 100):
        pictures = np.stack([world.picture(-1 - start - i) for i in range(min(100, count - start))])
        with torch.no_grad():
            z = model.encode(to_tensor(pictures)).latent_dist.mean  # type: ignore[operator]
            again = to_pictures(model.decode(z).sample)  # type: ignore[operator]
        mse = ((again.astype(np.float64) - pictures) ** 2).mean(axis=(1, 2, 3))
        total += float((10 * np.log10(255**2 / mse)).sum())
    return total / count


DECODER_BUDGET = Budget(samples=80_000, batch=16, learning_rate=6e-4, decay=0.5, ema=0.999)


def run_decoder(
    model: AutoencoderKL,
    world: World,
    work: Path,
    budget: Budget = DECODER_BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
) -> TrainingResult:
    """Train the decoder alone, on the latents of the frozen encoder, slightly perturbed.

    The perturbation stands for what a diffusion model's latents lack in precision.
    """
    torch.manual_seed(1)
    model = model.to(memory_format=torch.channels_last)
    model.requires_grad_(False)
    learning = {"decoder": model.decoder, "post_quant_conv": model.post_quant_conv}
    for module in learning.values():
        module.requires_grad_(True)
    deviation = 1 / float(model.config.scaling_factor)

    def batch(step: int) -> Tensor:
        first = 50_000_000 + step * budget.batch
        return to_tensor(np.stack([world.picture(first + i) for i in range(budget.batch)]))

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            z = model.encode(x.to(memory_format=torch.channels_last)).latent_dist.mean.float()
        jitter = torch.rand((len(z), 1, 1, 1), generator=noise, device=z.device) * 0.12 * deviation
        z = z + jitter * torch.randn(z.shape, generator=noise, device=z.device)
        y = model.decode(z).sample.float()
        value, mse = distance(x, y)
        return value, {"psnr": float(10 * torch.log10(4 / mse.detach()))}

    return train(work, learning, loss, batch, budget, machine, report)


ENCODER_BUDGET = Budget(samples=48_000, batch=16, learning_rate=5e-4, decay=0.6, ema=0.998)


def run_encoder(
    model: AutoencoderKL,
    pictures: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    work: Path,
    budget: Budget = ENCODER_BUDGET,
    machine: Machine | None = None,
    report: Report = silent,
) -> TrainingResult:
    """Teach the encoder to look past a hole: outside it, a masked picture's latents shall be the picture's own.

    Normalisation over the whole of a thin layer lets a gray hole shift latents far away, and an inpainting model
    that sees shifted latents outside its mask paints shifted pixels there. The encoder before the training is
    the teacher for both the whole and the masked picture, so the decoder, and all that was trained on the
    latents, stay valid. ``pictures(step)``: uint8 (N, H, W, 3), and bool (N, H, W), True in the hole, whole cells.

    Figures: root mean square of the deviation from the teacher, in standard deviations of a latent, of whole
    pictures (``whole``) and of masked ones outside the hole (``masked``).
    """
    import copy

    torch.manual_seed(2)
    model = model.to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    model.requires_grad_(False)
    learning = {"encoder": model.encoder, "quant_conv": model.quant_conv}
    for module in learning.values():
        module.requires_grad_(True)
    scale = float(model.config.scaling_factor)
    factor = 2 ** (len(model.config.block_out_channels) - 1)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        images, holes = pictures(step)
        return to_tensor(images), torch.from_numpy(~holes)[:, None].float()

    def loss(data: tuple[Tensor, Tensor], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x, keep = (part.to(memory_format=torch.channels_last) for part in data)
        teacher.to(x.device)
        with torch.no_grad():
            wanted = teacher.encode(x).latent_dist.mean.float()
        found = model.encode(torch.cat([x, x * keep])).latent_dist.mean.float()
        cells = keep[:, :, ::factor, ::factor]
        whole = (((found[: len(x)] - wanted) * scale) ** 2).mean()
        error = ((found[len(x) :] - wanted) * scale) ** 2
        masked = (error * cells).sum() / (cells.sum() * error.shape[1])
        figures = {"whole": float(whole.detach().sqrt()), "masked": float(masked.detach().sqrt())}
        return whole + masked, figures

    return train(work, learning, loss, batch, budget, machine, report)


def distance(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction loss and mean squared error of float32 (N, 3, H, W) in [-1, 1].

    Edges carry the small parts (glasses, mouths), so gradients count beside levels.
    """
    error = y - x
    mse = (error**2).mean()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    return error.abs().mean() + 0.5 * mse + 0.25 * edges, mse
