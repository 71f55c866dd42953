"""The network around a base, and the input of the paper."""

from __future__ import annotations

import pytest
import torch

from methods.smartbrush.network import CHANNELS, from_base, noised_inside, predict
from methods.smartbrush.precision import PRECISIONS
from tests.methods.conftest import tiny_components


def test_an_untrained_network_is_its_base() -> None:
    base = tiny_components(4)["unet"]
    network = from_base(base).eval()
    assert network.config["in_channels"] == network.config["out_channels"] == CHANNELS
    torch.manual_seed(0)
    x, context, t = torch.randn(2, 4, 32, 32), torch.randn(2, 7, 32), torch.tensor([10, 900])
    with torch.no_grad():
        expected = base(x, t, context).sample
        for precision in range(PRECISIONS):
            output, logits = predict(
                network, x, torch.rand(2, 1, 32, 32), t, context, torch.full((2,), precision)
            )
            assert torch.allclose(output, expected, atol=1e-5)
            assert not logits.any()
    with pytest.raises(ValueError, match="9 input"):
        from_base(tiny_components(9)["unet"])


def test_mask_and_precision_count_once_they_are_learned(brush: object) -> None:
    network = brush.unet  # type: ignore[attr-defined]
    torch.manual_seed(0)
    x, context, t = torch.randn(1, 4, 32, 32), torch.randn(1, 7, 32), torch.tensor([500])
    zeros, ones = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    exact, box = torch.tensor([0]), torch.tensor([PRECISIONS - 1])
    with torch.no_grad():
        first, logits = predict(network, x, zeros, t, context, exact)
        assert logits.any()
        assert not torch.allclose(first, predict(network, x, ones, t, context, exact)[0], atol=1e-3)
        assert not torch.allclose(first, predict(network, x, zeros, t, context, box)[0], atol=1e-3)


def test_only_the_inside_is_noised() -> None:
    x0, noisy = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    cells = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert torch.equal(noised_inside(x0, noisy, cells), cells.expand(1, 4, 2, 2))
