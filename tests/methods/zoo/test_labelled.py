"""Labelled edits of methods, as the reader's recipe draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.edit import EditCase
from bench.images import mask_array
from methods import METHODS
from methods.zoo import classifier, classifier_recipe, labelled
from protocols.world.world import MiniWorld

WORLD = MiniWorld()
LEVELS = MiniWorld((1, 2, 3)).by_level()
EDITS = labelled.load()


def case_of(edit: labelled.LabelledEdit) -> EditCase:
    return LEVELS[edit.level].case(edit.index)


def test_every_edit_has_a_training_case_and_a_verdict() -> None:
    assert len(EDITS) > 600
    assert {edit.method for edit in EDITS} <= set(METHODS)
    assert len({(edit.level, edit.index, edit.method) for edit in EDITS}) == len(EDITS)
    shows = np.mean([edit.shows for edit in EDITS])
    assert 0.2 < shows < 0.8
    for edit in EDITS[:: len(EDITS) // 20]:
        assert edit.pixels.shape == (64, 64, 3)
        assert edit.index >= 0, "held-out cases are for measuring"
        assert case_of(edit).claims


def test_edits_of_several_regions_are_among_them() -> None:
    # Edits of several regions, with both verdicts.
    several = [edit for edit in EDITS if case_of(edit).request.regions]
    assert len(several) > 200
    assert {edit.level for edit in several} == {1, 2}  # at level 3 the words alone say what changes where
    assert {edit.level for edit in EDITS} == {1, 2, 3}
    assert 0.2 < np.mean([edit.shows for edit in several]) < 0.8


def test_composed_edits_fit_their_cases() -> None:
    # GLIDE puts the source back outside the mask: the pictures belong to the cases that the table names.
    for edit in [edit for edit in EDITS if edit.method == "glide"][:8]:
        request = case_of(edit).request
        outside = ~mask_array(request.mask)
        difference = edit.pixels[outside].astype(int) - np.asarray(request.source)[outside]
        assert np.abs(difference).mean() < 10  # JPEG: at most 7.2; of another case at least 17


def test_a_drawn_edit_moves_with_its_regions() -> None:
    # A picture that numbers its own regions still does so after it was mirrored and moved.
    index = next(i for i in range(100) if len(WORLD.case(i).request.regions) >= 2)
    case = WORLD.case(index)
    # Each region is filled with its number.
    picture = np.zeros((64, 64, 3), np.uint8)
    for number, region in enumerate(case.request.regions, start=1):
        picture[mask_array(region.mask)] = number
    verdicts = labelled.draw(
        {1: WORLD}, [labelled.LabelledEdit(index, "", True, picture)], 20, np.random.default_rng(0)
    )
    for verdict in verdicts:
        assert verdict.shows
        assert len(verdict.regions) == len(case.request.regions)
        for number, part in enumerate(verdict.regions, start=1):
            assert (verdict.pixels[part.mask] == number).all()
            assert part.claims == {c.attribute: c.after for c in case.claims if c.region == number - 1}
    assert any((verdict.pixels != picture).any() for verdict in verdicts)


def test_an_edit_without_regions_is_read_in_its_mask() -> None:
    index = next(i for i in range(100) if not WORLD.case(i).request.regions)
    case = WORLD.case(index)
    edit = labelled.LabelledEdit(index, "", False, np.asarray(case.request.source))
    (verdict,) = labelled.draw({1: WORLD}, [edit], 1, np.random.default_rng(0))
    (part,) = verdict.regions
    assert part.claims == {claim.attribute: claim.after for claim in case.claims}
    assert abs(int(part.mask.sum()) - int(mask_array(case.request.mask).sum())) < 300


def test_an_edit_of_several_regions_shows_what_all_of_them_claim() -> None:
    # The recipe's likelihood multiplies over the parts of an edit, and keeps edits apart.
    torch.manual_seed(0)
    model = classifier.ClassifierNetwork(WORLD.labels(), widths=(8, 8, 8, 8)).eval()
    edits = [
        labelled.LabelledEdit(i, "", bool(i % 2), np.asarray(WORLD.case(i).truth))
        for i in [i for i in range(60) if WORLD.case(i).truth is not None][:8]
    ]
    # The likelihood is the product over regions and attributes.
    verdicts = labelled.draw({1: WORLD}, edits, 8, np.random.default_rng(1))
    data = classifier_recipe.verdict_batch(verdicts, model.labels)
    with torch.no_grad():
        log_p = classifier_recipe.verdict_log_probabilities(model(data["judged"]), data)
    for value, verdict in zip(log_p.exp().tolist(), verdicts, strict=True):
        expected = 1.0
        for part in verdict.regions:
            (answer,) = model.read(verdict.pixels[None], part.mask[None])
            expected *= float(np.prod([answer[name][claimed] for name, claimed in part.claims.items()]))
        assert value == pytest.approx(expected, rel=1e-4)


def test_claims_hold_with_the_product_of_their_probabilities() -> None:
    logits = {
        "color": torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log(),
        "mouth": torch.tensor([[0.1, 0.9], [0.2, 0.8]]).log(),
    }
    claims = {"color": torch.tensor([1, 0]), "mouth": torch.tensor([-1, 1])}
    p = classifier_recipe.claim_log_probabilities(logits, claims).exp()
    assert p.tolist() == pytest.approx([0.75, 0.5 * 0.8])
