"""The additions to a frozen UNet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from methods.instance_diffusion.model import (
    InstanceAdapter,
    InstanceTokens,
    ScaleU,
    decoder_inputs,
    largest_attention,
    low_frequencies,
    masked_attention_bias,
    transformer_blocks,
)
from tests.methods.conftest import tiny_components
from tests.methods.instance_diffusion.conftest import grounding, tiny_adapter


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_components(4)["unet"]


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 32, 32), torch.tensor([10, 900]), torch.randn(2, 7, 32)


def test_untrained_additions_change_nothing_to_the_bit(unet: Any) -> None:
    adapter, (x, t, context) = tiny_adapter(awake=False), inputs()
    with torch.no_grad():
        expected = unet(x, t, context).sample
        tokens = adapter.tokens(grounding(), largest_attention(unet, 32, 32))
        assert torch.equal(adapter.predict(unet, x, t, context, tokens), expected)
        assert torch.equal(adapter.predict(unet, x, t, context, None), expected)


def test_the_base_is_as_before_after_a_call(unet: Any, adapter: InstanceAdapter) -> None:
    x, t, context = inputs()
    names = set(unet.state_dict())
    with torch.no_grad():
        expected = unet(x, t, context).sample
        tokens = adapter.tokens(grounding(), largest_attention(unet, 32, 32))
        assert not torch.allclose(adapter.predict(unet, x, t, context, tokens), expected, atol=1e-3)
        # Also after a call that fails.
        with pytest.raises(RuntimeError), adapter.lend(unet):
            unet(x, t, torch.zeros(2, 7, 5))
        assert torch.equal(unet(x, t, context).sample, expected)
    assert set(unet.state_dict()) == names
    assert not hasattr(unet, "position_net")


def test_instances_and_scales_count_by_themselves(unet: Any, adapter: InstanceAdapter) -> None:
    x, t, context = inputs()
    size = largest_attention(unet, 32, 32)
    one = grounding()
    with torch.no_grad():
        without = adapter.predict(unet, x, t, context, None)
        grounded = adapter.predict(unet, x, t, context, adapter.tokens(one, size))
        empty = adapter.predict(unet, x, t, context, adapter.tokens(one.nothing(), size))
        # Without tokens ScaleU alone is left.
        assert not torch.allclose(without, unet(x, t, context).sample, atol=1e-3)
    assert not torch.allclose(grounded, without, atol=1e-3)
    assert not torch.allclose(grounded, empty, atol=1e-3)


def test_a_gate_of_zero_closes_its_layer(unet: Any) -> None:
    adapter = tiny_adapter()
    with torch.no_grad():
        for fuser in adapter.fusers.values():
            fuser.alpha_attn.zero_()
            fuser.alpha_dense.zero_()
        x, t, context = inputs()
        tokens = adapter.tokens(grounding(), largest_attention(unet, 32, 32))
        assert torch.equal(
            adapter.predict(unet, x, t, context, tokens), adapter.predict(unet, x, t, context, None)
        )


def test_the_fuser_without_masking_is_that_of_gligen(adapter: InstanceAdapter) -> None:
    from diffusers.models.attention import GatedSelfAttentionDense

    fuser = next(iter(adapter.fusers.values()))
    original = GatedSelfAttentionDense(64, 32, fuser.attn.heads, 64 // fuser.attn.heads).eval()
    original.load_state_dict(fuser.state_dict())
    torch.manual_seed(0)
    x, values = torch.randn(2, 9, 64), torch.randn(2, 5, 32)
    with torch.no_grad():
        assert torch.allclose(fuser(x, InstanceTokens(values, {})), original(x, values), atol=1e-6)


def test_every_block_has_its_additions(unet: Any, adapter: InstanceAdapter) -> None:
    assert len(adapter.fusers) == len(transformer_blocks(unet)) == 4
    assert [scale.backbone.numel() for scale in adapter.scales.values()] == list(
        decoder_inputs(unet).values()
    )
    # The first inputs by hand: the middle block's width, then that of the block before.
    assert list(decoder_inputs(unet).values()) == [64, 64, 64, 32]
    assert largest_attention(unet, 32, 32) == (16, 16)
    assert largest_attention(unet, 33, 16) == (17, 8)


def test_scale_u_by_hand() -> None:
    torch.manual_seed(0)
    scale = ScaleU(2)
    joined = torch.randn(1, 5, 8, 8)
    assert torch.equal(scale(joined), joined)
    with torch.no_grad():
        scale.backbone.copy_(torch.tensor([0.3, -0.4]))
        scale.skip.fill_(0.5)
        out = scale(joined)
    factors = 1 + np.tanh([0.3, -0.4])
    for channel in range(2):
        assert torch.allclose(out[0, channel], joined[0, channel] * factors[channel], atol=1e-5)
    # The filter of the skip: frequencies around zero, after a shift, scaled by 1 + tanh(0.5).
    for channel in range(2, 5):
        spectrum = np.fft.fftshift(np.fft.fft2(joined[0, channel].numpy()))
        spectrum[3:5, 3:5] *= 1 + np.tanh(0.5)
        expected = np.fft.ifft2(np.fft.ifftshift(spectrum)).real
        assert np.allclose(out[0, channel].detach(), expected, atol=1e-5)


def test_a_constant_is_a_low_frequency_and_a_checkerboard_is_none() -> None:
    constant = torch.full((1, 1, 8, 8), 3.0)
    assert torch.allclose(low_frequencies(constant), constant, atol=1e-5)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert torch.allclose(low_frequencies(board[None, None]), torch.zeros(1, 1, 8, 8), atol=1e-5)


def test_who_sees_whom() -> None:
    # Five positions: 0 and 1 in the first instance, 1 and 2 in the second, 3 and 4 in none. There are one form, two
    # slots, and one token of the masks.
    cells = torch.tensor([[[1.0, 1, 0, 0, 0], [0, 1, 1, 0, 0]]])
    bias = masked_attention_bias(cells, forms=1, tokens=3)[0]
    assert bias.shape == (8, 8)
    sees = [
        [1, 1, 0, 0, 0, 1, 0, 1],
        [1, 1, 1, 0, 0, 1, 1, 1],
        [0, 1, 1, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1, 0, 0, 1],
        [0, 0, 0, 1, 1, 0, 0, 1],
        [1, 1, 0, 0, 0, 1, 1, 1],
        [0, 1, 1, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert torch.equal(bias == 0, torch.tensor(sees).bool())
    assert torch.equal(bias == float("-inf"), ~torch.tensor(sees).bool())


def test_masking_keeps_instances_apart(unet: Any) -> None:
    # The caption of one instance reaches no position of the other in the masked layers.
    adapter, one = tiny_adapter(), grounding(1, 3)
    size = largest_attention(unet, 32, 32)
    fuser = adapter.fusers["down_blocks_1_attentions_0_transformer_blocks_0"]
    torch.manual_seed(0)
    x = torch.randn(1, size[0] * size[1], 64)
    text = one.text.clone()
    text[:, 1] += 1
    with torch.no_grad():
        before, after = (fuser(x, adapter.tokens(g, size)) for g in (one, replace(one, text=text)))
        unmasked = tiny_adapter(masked=False).tokens(one, size).bias
    changed = (before != after).any(2).view(size)
    inside = torch.nn.functional.adaptive_max_pool2d(one.masks[0, 1][None], size)[0] > 0
    assert torch.equal(changed, inside)
    assert unmasked == {}


def test_saving_keeps_the_function(unet: Any, adapter: InstanceAdapter, tmp_path: Any) -> None:
    adapter.save_pretrained(str(tmp_path))
    again = InstanceAdapter.from_pretrained(str(tmp_path)).eval()
    x, t, context = inputs()
    size = largest_attention(unet, 32, 32)
    with torch.no_grad():
        results = [a.predict(unet, x, t, context, a.tokens(grounding(), size)) for a in (adapter, again)]
    assert torch.equal(*results)
