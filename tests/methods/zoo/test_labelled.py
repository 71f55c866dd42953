"""Labelled edits of methods, as the reader's recipe draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.images import mask_array
from methods import METHODS
from methods.zoo import labelled, reader
from protocols.mini.world import MiniWorld

WORLD = MiniWorld()
EDITS = labelled.load()


def test_every_edit_has_a_case_of_one_region_and_a_verdict() -> None:
    assert len(EDITS) > 600
    assert {edit.method for edit in EDITS} <= set(METHODS)
    assert len({edit.index for edit in EDITS}) == len(EDITS)
    shows = np.mean([edit.shows for edit in EDITS])
    assert 0.2 < shows < 0.8
    for edit in EDITS[:: len(EDITS) // 20]:
        assert edit.pixels.shape == (64, 64, 3)
        assert edit.index >= 0, "held-out cases are for measuring"
        assert not WORLD.case(edit.index).request.regions


def test_composed_edits_fit_their_cases() -> None:
    """GLIDE puts the source back outside the mask: the pictures belong to the cases that the table names."""
    for edit in [edit for edit in EDITS if edit.method == "glide"][:8]:
        request = WORLD.case(edit.index).request
        outside = ~mask_array(request.mask)
        difference = edit.pixels[outside].astype(int) - np.asarray(request.source)[outside]
        assert np.abs(difference).mean() < 10  # JPEG: at most 7.2; of another case at least 17


def test_a_drawn_edit_moves_with_its_region() -> None:
    """A picture that shows its own mask still does so after it was mirrored and moved."""
    edit = EDITS[0]
    mask = mask_array(WORLD.case(edit.index).request.mask)
    picture = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
    marked = labelled.LabelledEdit(edit.index, "", True, picture)
    drawn = labelled.draw(WORLD, [marked], 20, np.random.default_rng(0))
    for verdict in drawn:
        assert (verdict.pixels[..., 0] == verdict.region * 255).all()
        assert verdict.claims == {c.attribute: c.after for c in WORLD.case(edit.index).claims}
        assert verdict.shows
    assert any((verdict.region != mask).any() for verdict in drawn)


def test_claims_hold_with_the_product_of_their_probabilities() -> None:
    logits = {
        "color": torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log(),
        "mouth": torch.tensor([[0.1, 0.9], [0.2, 0.8]]).log(),
    }
    claims = {"color": torch.tensor([1, 0]), "mouth": torch.tensor([-1, 1])}
    held = reader.claims_held(logits, claims).exp()
    assert held.tolist() == pytest.approx([0.75, 0.5 * 0.8])
