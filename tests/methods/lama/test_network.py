"""The Fourier convolutions against formulations that share no code with them, and what the generator promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from methods.lama import network
from methods.lama.network import FFC, FourierUnit, Generator, GeneratorConfig, SpectralTransform

TINY = GeneratorConfig(width=4, downs=3, blocks=1)


def awake(module: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with normalisations that do something."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data = 0.5 + torch.rand(part.weight.shape, generator=random)
            part.bias.data = torch.randn(part.bias.shape, generator=random) * 0.3
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=random) * 0.3)
            part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=random))
    return module.eval()


def normalised(x: NDArray[np.float64], norm: nn.BatchNorm2d) -> NDArray[np.float64]:
    """Batch normalisation in evaluation mode, (C, ...), written out."""

    def shaped(value: Tensor | None) -> NDArray[np.float64]:
        assert value is not None
        return value.detach().double().numpy().reshape(-1, *[1] * (x.ndim - 1))

    scaled = (x - shaped(norm.running_mean)) / np.sqrt(shaped(norm.running_var) + norm.eps)
    return scaled * shaped(norm.weight) + shaped(norm.bias)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (5, 7)])
def test_the_fourier_unit_is_sums_of_cosines(size: tuple[int, int]) -> None:
    """The transforms as matrices of complex exponentials, over the whole spectrum, in double precision."""
    torch.manual_seed(1)
    unit = awake(FourierUnit(3))
    assert isinstance(unit, FourierUnit)
    height, width = size
    x = torch.randn(2, 3, height, width)
    down = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
    across = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
    kernel = unit.conv.weight.detach().double().numpy()[:, :, 0, 0]
    half = width // 2 + 1
    expected = []
    for picture in x.double().numpy():
        spectrum = (down @ picture @ across / np.sqrt(height * width))[:, :, :half]
        # Real and imaginary part of a channel stand side by side.
        parts = np.stack([spectrum.real, spectrum.imag], axis=1).reshape(6, height, half)
        parts = np.maximum(normalised(np.tensordot(kernel, parts, 1), unit.norm), 0)
        pairs = parts.reshape(3, 2, height, half)
        changed = pairs[:, 0] + 1j * pairs[:, 1]
        # Back along the columns, then along the rows as the real sum over the half that is stored: a column that
        # has a mirror image counts twice, and of the others only the real part is left.
        columns = np.conj(down) @ changed
        twice = np.full(half, 2.0)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        rows = np.exp(2j * np.pi * np.outer(np.arange(half), np.arange(width)) / width)
        expected.append((columns * twice @ rows).real / np.sqrt(height * width))
    with torch.no_grad():
        result = unit(x).double().numpy()
    assert np.abs(result - np.stack(expected)).max() < 1e-5


def test_the_spectral_transform_is_its_formula() -> None:
    torch.manual_seed(2)
    transform = awake(SpectralTransform(6, 4))
    assert isinstance(transform, SpectralTransform)
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        inner = transform.narrow(x)
        by_hand = torch.einsum(
            "oi,bihw->bohw", transform.widen.weight[:, :, 0, 0], inner + transform.fourier(inner)
        )
        assert torch.allclose(transform(x), by_hand, atol=1e-5)
    assert transform.fourier.conv.weight.shape == (4, 4, 1, 1)  # half of the channels, real and imaginary


def test_a_fast_fourier_convolution_is_four_paths() -> None:
    torch.manual_seed(3)
    layer = awake(FFC((2, 6), (3, 5)))
    assert isinstance(layer, FFC)
    local, wide = torch.randn(2, 2, 8, 8), torch.randn(2, 6, 8, 8)

    def conv(x: Tensor, by: nn.Module | None) -> Tensor:
        assert isinstance(by, nn.Conv2d)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), by.weight)

    with torch.no_grad():
        near, far = layer(local, wide)
        assert layer.global_to_global is not None
        assert layer.norm_global is not None
        assert torch.allclose(
            near,
            layer.norm_local(conv(local, layer.local_to_local) + conv(wide, layer.global_to_local)).relu(),
            atol=1e-5,
        )
        assert torch.allclose(
            far,
            layer.norm_global(conv(local, layer.local_to_global) + layer.global_to_global(wide)).relu(),
            atol=1e-5,
        )


def test_every_pixel_sees_the_whole_picture_through_the_global_branch_alone() -> None:
    torch.manual_seed(4)
    for layer, sees_all in ((FFC((4, 4), (4, 4)), True), (FFC((4, 0), (4, 0)), False)):
        awake(layer)
        wide = torch.randn(1, 4, 16, 16) if sees_all else None
        local = torch.randn(1, 4, 16, 16)
        moved = wide.clone() if wide is not None else local.clone()
        moved[..., 0, 0] += 1
        with torch.no_grad():
            if wide is not None:
                near, far = layer(local, wide)
                near2, far2 = layer(local, moved)
                assert (far - far2)[..., 8:, 8:].abs().amax() > 0
            else:
                near, far = layer(local, None)
                near2, _ = layer(moved, None)
                assert far is None
            assert (near - near2)[..., 8:, 8:].abs().amax() == 0


@pytest.mark.parametrize("size", [(64, 64), (16, 40), (24, 16)])
@pytest.mark.parametrize("downs", [2, 3])
def test_composes_keeps_the_outside_and_never_sees_the_hole(size: tuple[int, int], downs: int) -> None:
    torch.manual_seed(5)
    generator = awake(Generator(GeneratorConfig(width=4, downs=downs, blocks=1)))
    assert isinstance(generator, Generator)
    image = torch.rand(2, 3, *size)
    mask = torch.zeros(2, 1, *size)
    mask[0, :, 2:10, 3:12] = 1
    mask[1, :, :, :5] = 1
    with torch.no_grad():
        filled = generator(image, mask)
        assert filled.shape == image.shape
        outside = (mask == 0).expand_as(image)
        assert torch.equal(filled[outside], image[outside])
        assert torch.equal(filled[~outside], generator.paint(image, mask)[~outside])
        assert 0 <= float(filled.min()) <= float(filled.max()) <= 1
        other = torch.where(outside, image, torch.rand(image.shape))
        assert torch.equal(generator(other, mask), filled)
        changed = image.clone()
        changed[..., -8:, -8:] = 1 - changed[..., -8:, -8:]
        assert not torch.equal(generator(changed, mask)[~outside], filled[~outside])


def test_the_default_is_lamas_arrangement() -> None:
    """Three levels, no global part before the coarsest, three quarters global there; 51 M parameters at full size."""
    with torch.device("meta"):
        big = Generator(GeneratorConfig(width=64, downs=3, blocks=18))
    assert sum(p.numel() for p in big.parameters()) == pytest.approx(51e6, rel=0.02)
    layers = [layer for layer in big.down if isinstance(layer, FFC)]
    assert [layer.local_to_global is not None for layer in layers] == [False, False, True]
    assert layers[-1].norm_local.num_features * 3 == 384


@pytest.mark.parametrize("share", [0.25, 0.5, 0.73])
def test_any_share_of_global_channels_works(share: float) -> None:
    generator = Generator(GeneratorConfig(width=5, downs=2, blocks=1, global_share=share)).eval()
    with torch.no_grad():
        out = generator(torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16))
    assert out.shape == (1, 3, 16, 16)


def test_autocast_changes_little() -> None:
    """The transforms stay in float32, which half precision has none of."""
    torch.manual_seed(6)
    generator = awake(Generator(TINY))
    image, mask = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    with torch.no_grad():
        exact = generator(image, mask)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(image, mask)
    assert rough.dtype == torch.float32
    assert float((exact - rough).abs().max()) < 0.05


def test_saved_and_loaded_is_the_same_up_to_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(7)
    generator = awake(Generator(TINY))
    assert isinstance(generator, Generator)
    network.save(tmp_path, generator)
    again = network.load(tmp_path)
    assert again.config == TINY
    assert not again.training
    assert json.loads((tmp_path / "config.json").read_text())["width"] == 4
    for name, value in generator.state_dict().items():
        limit = 0.0 if "running_" in name else 1e-3
        assert torch.allclose(again.state_dict()[name], value, atol=limit, rtol=limit), name
    image, mask = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    with torch.no_grad():
        assert float((generator(image, mask) - again(image, mask)).abs().max()) < 0.01


def test_a_folder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    network.save(tmp_path, Generator(TINY))
    (tmp_path / "config.json").write_text('{"width": 8}')
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit"):
        network.load(tmp_path)
    (tmp_path / "config.json").write_text('{"breadth": 8}')
    with pytest.raises(ValueError, match=r"config\.json: not the configuration"):
        network.load(tmp_path)
    (tmp_path / "config.json").write_text('{"width": 4, "downs": 3, "blocks": 1}')
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit"):
        network.load(tmp_path)
