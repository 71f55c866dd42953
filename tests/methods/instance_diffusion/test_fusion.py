"""UniFusion: Fourier features, learned replacements, and the order of the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from methods.instance_diffusion.fusion import SEGMENTS, Grounding, fourier
from methods.instance_diffusion.model import InstanceAdapter
from tests.methods.instance_diffusion.conftest import grounding, tiny_adapter


def test_fourier_features_are_those_of_gligen() -> None:
    from diffusers.models.embeddings import get_fourier_embeds_from_boundingbox

    torch.manual_seed(0)
    boxes = torch.rand(2, 3, 4)
    assert torch.allclose(fourier(boxes, 16), get_fourier_embeds_from_boundingbox(16, boxes), atol=1e-5)
    # By hand: frequencies 1 and 10.
    x = torch.tensor([0.5, 0.25])
    expected = [x.sin(), x.cos(), (10 * x).sin(), (10 * x).cos()]
    assert torch.allclose(fourier(x, 2), torch.cat(expected))


def test_tokens_come_form_by_form_and_then_the_masks(adapter: InstanceAdapter) -> None:
    fusion, one = adapter.fusion, grounding()
    with torch.no_grad():
        tokens = fusion(one)
        assert tokens.shape == (2, 3 * 3 + 4, 32)
        # The token of an instance by hand: an MLP over its caption and its location's features.
        for number, form in enumerate(("box", "point", "polygon")):
            inputs = torch.cat([one.text[1, 2], fourier(one.locations[form][1, 2], 4)])
            assert torch.allclose(tokens[1, 3 * number + 2], fusion.projections[form](inputs), atol=1e-5)
        # A slot without an instance has the learned vectors.
        empty = fusion.projections["point"](torch.cat([fusion.null_text, fusion.nulls["point"]]))
        assert torch.allclose(tokens[0, 3 + 2], empty, atol=1e-5)


def test_what_is_dropped_is_replaced_and_the_rest_stays(adapter: InstanceAdapter) -> None:
    one = grounding()
    fusion = adapter.fusion
    with torch.no_grad():
        whole = fusion(one)
        dropped = fusion(
            replace(one, keep={"box": torch.tensor([1.0, 0.0]), SEGMENTS: torch.tensor([0.0, 1.0])})
        )
        # A form that is not given at all.
        absent = fusion(replace(one, locations={k: v for k, v in one.locations.items() if k != "box"}))
        nothing = fusion(one.nothing())
        segments = fusion.projections[SEGMENTS](fusion.nulls[SEGMENTS] + fusion.segment_positions)[0]
    assert torch.allclose(dropped[0, :9], whole[0, :9], atol=1e-6)
    assert torch.allclose(dropped[1, 3:], whole[1, 3:], atol=1e-6)
    assert not torch.allclose(dropped[1, :3], whole[1, :3], atol=1e-3)
    assert torch.allclose(dropped[1, :3], absent[1, :3], atol=1e-6)
    assert torch.allclose(dropped[0, 9:], segments, atol=1e-5)
    assert torch.allclose(nothing[:, 9:], segments.expand(2, -1, -1), atol=1e-5)
    # Without instances no input counts.
    other = replace(one, text=one.text + 1)
    assert torch.equal(fusion(other.nothing()), nothing)


def test_a_token_of_the_masks_holds_every_nth_cell(adapter: InstanceAdapter) -> None:
    # A backbone that passes 4 x 4 cells through: 4 tokens of 4 cells for each of 16 channels.
    fusion = tiny_adapter().fusion
    cells = torch.arange(2 * 16 * 16).float().view(2, 16, 4, 4)

    class Backbone(nn.Module):
        embeddings = staticmethod(lambda x: cells)
        encoder = type("Encoder", (), {"stages": []})

    fusion.backbone = Backbone()
    with torch.no_grad():
        fusion.segment_positions.zero_()
        features = fusion._segments(grounding())
    assert features.shape == (2, 4, 64)
    for token in range(4):
        by_hand = torch.cat([channel.flatten()[token::4] for channel in cells[1]])
        assert torch.equal(features[1, token], by_hand)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"forms \['star'\]"):
        tiny_adapter(forms=("box", "star"))
    with pytest.raises(ValueError, match="segment_tokens 5"):
        tiny_adapter(segment_tokens=5)


def test_grounding_nothing_keeps_the_shapes() -> None:
    one = grounding()
    none: Grounding = one.nothing()
    assert none.masks.shape == one.masks.shape
    assert not none.present.any()
    assert not none.locations["polygon"].any()
