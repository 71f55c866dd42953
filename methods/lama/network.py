"""The generator: fast Fourier convolutions (Chi et al., NeurIPS 2020) in LaMa's arrangement (WACV 2022, section 2.1).

Channels are split in two: a local part for ordinary convolutions, and a global part, which is also convolved in the
frequency domain, where a kernel of one sample spans the whole image. Every layer mixes both.

Sides must be multiples of ``2 ** downs`` and large enough that the coarsest level has 2 samples, since all padding
is by reflection. Transforms run in float32 whatever the autocast, since most devices have none in half precision.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.files import parse_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class GeneratorConfig:
    """The published big-lama is ``GeneratorConfig(width=64, downs=3, blocks=18)``. The default is the embedded one."""

    # Channels at full resolution. They double at each level down.
    width: int = 24
    # Levels below full resolution.
    downs: int = 3
    # Residual blocks at the coarsest level, two fast Fourier convolutions each.
    blocks: int = 4
    # Share of the coarsest level's channels that are global.
    global_share: float = 0.75

    @property
    def factor(self) -> int:
        """Multiple that the sides of images must be."""
        return int(2**self.downs)


class FourierUnit(nn.Module):
    """Real FFT, a pointwise convolution over real and imaginary parts as channels, normalisation, ReLU, inverse FFT.

    Float (B, C, H, W) => float32 (B, C, H, W). The pointwise convolution in frequency acts on the whole image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # No bias before a BatchNorm, which subtracts the mean anyway. The same holds for all convolutions here.
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # "ortho": the spectrum has the size of the values, whatever the resolution, so one network serves all
        # sizes.
        spectrum = torch.view_as_real(torch.fft.rfft2(x.float(), norm="ortho"))  # (B, C, H, W/2+1, 2)
        # Real and imaginary parts become channels: (B, 2 C, H, W/2+1).
        parts = spectrum.permute(0, 1, 4, 2, 3).reshape(batch, 2 * channels, height, width // 2 + 1)
        parts = torch.relu(self.norm(self.conv(parts))).float()
        spectrum = parts.view(batch, channels, 2, height, width // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        # s: from W/2+1 columns alone, an odd width could not be told from an even one.
        out: Tensor = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(height, width), norm="ortho")
        return out


class SpectralTransform(nn.Module):
    """The path from global to global: half the channels, a Fourier unit with a residual, all channels again."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        inner = channels_out // 2
        self.narrow = nn.Sequential(
            nn.Conv2d(channels_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        self.fourier = FourierUnit(inner)
        self.widen = nn.Conv2d(inner, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        out: Tensor = self.widen(x + self.fourier(x))
        return out


class FFC(nn.Module):
    """One fast Fourier convolution, normalisation, ReLU: (local, global) => (local, global).

    A part without channels is None. ``stride`` 2 is for layers without a global input.
    """

    def __init__(self, ins: tuple[int, int], outs: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        # LaMa's strided layers have no global input: the channels are split at the last of them.
        if stride != 1 and ins[1]:
            raise ValueError("a fast Fourier convolution with a global input has stride 1")
        self.local_to_local = _conv(ins[0], outs[0], stride)
        self.local_to_global = _conv(ins[0], outs[1], stride)
        self.global_to_local = _conv(ins[1], outs[0], stride)
        self.global_to_global = SpectralTransform(ins[1], outs[1]) if ins[1] and outs[1] else None
        self.norm_local = nn.BatchNorm2d(outs[0])
        self.norm_global = nn.BatchNorm2d(outs[1]) if outs[1] else None

    def forward(self, local: Tensor, wide: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert self.local_to_local is not None
        # local_out = conv(local) + conv(global)
        near = self.local_to_local(local)
        if wide is not None and self.global_to_local is not None:
            near = near + self.global_to_local(wide)
        near = torch.relu(self.norm_local(near))
        if self.local_to_global is None or self.norm_global is None:
            return near, None
        # global_out = conv(local) + spectral(global)
        far = self.local_to_global(local)
        if wide is not None and self.global_to_global is not None:
            far = far + self.global_to_global(wide)
        return near, torch.relu(self.norm_global(far))


def _conv(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d | None:
    if not channels_in or not channels_out:
        return None
    # Reflection: zeros at the border would be an edge that the network continues into the hole.
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False, padding_mode="reflect")


class ResidualFFC(nn.Module):
    """Two fast Fourier convolutions and the identity."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.second = FFC(channels, channels), FFC(channels, channels)

    def forward(self, local: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        near, far = self.second(*self.first(local, wide))
        return local + near, wide + far


class Generator(nn.Module):
    """``generator(image, mask)`` is the call of the published TorchScript. ``paint`` is the bare network."""

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        width, downs = config.width, config.downs
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(4, width, 7, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        coarse = width * 2**downs
        # Down: the last level splits into local and global channels.
        # Whole pairs of channels, so that the spectral transform can halve them.
        wide = 2 * round(coarse * config.global_share / 2)
        self.down = nn.ModuleList(
            FFC((width * 2**i, 0), (coarse - wide, wide) if i == downs - 1 else (width * 2 ** (i + 1), 0), 2)
            for i in range(downs)
        )
        self.blocks = nn.ModuleList(ResidualFFC((coarse - wide, wide)) for _ in range(config.blocks))
        # Up: transposed convolutions on both parts together.
        self.up = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(2 * n, n, 3, stride=2, padding=1, output_padding=1),
                    nn.BatchNorm2d(n),
                    nn.ReLU(),
                )
                for n in (width * 2**i for i in reversed(range(downs)))
            )
        )
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Sigmoid())

    def paint(self, image: Tensor, mask: Tensor) -> Tensor:
        """Every pixel as the network paints it, (B, 3, H, W) in [0, 1]."""
        # x' = stack(x (1 - m), m): what lies in the hole never enters.
        local: Tensor = self.stem(torch.cat([image * (1 - mask), mask], 1))
        wide: Tensor | None = None
        for down in self.down:
            local, wide = down(local, wide)
        for block in self.blocks:
            local, wide = block(local, wide)
        assert wide is not None
        painted: Tensor = self.head(self.up(torch.cat([local, wide], 1)))
        return painted.float()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """``image`` float (B, 3, H, W) in [0, 1], ``mask`` (B, 1, H, W), 1 = hole => the image, its hole filled."""
        # Known pixels pass through, so that the loss and the result concern the hole alone.
        return mask * self.paint(image, mask) + (1 - mask) * image


def save(folder: Path, generator: Generator) -> None:
    """Writes configuration and safetensors: weights in half precision, statistics of the normalisations in full."""
    # The statistics are a hundredth of the numbers, and variances leave half precision's range at both ends.
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() and "running_" not in name else value)
        for name, value in generator.state_dict().items()
    }
    save_file({name: value.cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS_FILE)
    text = json.dumps(asdict(generator.config), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def load(folder: Path, device: str = "cpu") -> Generator:
    """The generator of a folder, float32, in evaluation mode. Raises ValueError naming the file that does not fit."""
    from safetensors.torch import load_file

    path = folder / CONFIG_FILE
    try:
        generator = Generator(GeneratorConfig(**parse_json(path.read_text(encoding="utf-8"))))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the configuration of a LaMa generator ({error})") from error
    path = folder / WEIGHTS_FILE
    try:
        generator.load_state_dict(load_file(path))
    except Exception as error:
        # safetensors raises its own kinds of error, torch a RuntimeError that lists every key.
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: does not fit {CONFIG_FILE} beside it ({reason})") from error
    return generator.float().eval().to(device)
