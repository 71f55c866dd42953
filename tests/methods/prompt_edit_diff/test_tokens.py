"""The prompt tokens' further inputs: the source inside a region, and the time step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.prompt_edit_diff.model import PromptEditDiffUNet
from methods.prompt_edit_diff.tokens import MEANS, source_means
from tests.methods.prompt_edit_diff.conftest import awake, tiny_model
from tests.methods.prompt_edit_diff.test_model import inputs

WITH = {"token_content": "source", "token_time": True}


def tokens(model: PromptEditDiffUNet, batch: dict[str, Tensor], **changes: Tensor) -> Tensor:
    # The differences (B, R, count, W) that a model without ``token_time`` hands to the attention layers.
    values = {**batch, **changes}
    text = values["encoder_hidden_states"]
    names = ("mask", "regions", "member", "words", "source", "masked_source")
    with torch.no_grad():
        prepared = model.conditions(text, **{name: values[name] for name in names})
    own = prepared.text[:, text.shape[1] :].unflatten(1, (values["regions"].shape[1], -1))
    return own - text[:, None, -own.shape[2] :]


def cells_of(regions: Tensor) -> Tensor:
    # Cells with a pixel of each region, bool (B, R, 32, 32).
    return torch.nn.functional.max_pool2d(regions, 2) > 0


# --- the means ------------------------------------------------------------------------------------------


def test_means_of_a_rectangle_are_those_of_its_quarters() -> None:
    # One latent cell per pixel: rows 2 to 5, columns 4 to 7.
    source = torch.arange(64.0).view(1, 1, 8, 8)
    regions = torch.zeros(1, 1, 8, 8)
    regions[..., 2:6, 4:8] = 1
    part = source[0, 0, 2:6, 4:8]
    expected = [part, part[:2, :2], part[:2, 2:], part[2:, :2], part[2:, 2:]]
    assert torch.allclose(source_means(source, regions)[0, 0], torch.stack([p.mean() for p in expected]))


def test_means_agree_with_a_loop_over_pixels() -> None:
    # Any shape, four pixels per cell. A cell's latent counts once for each pixel of the region.
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 3, 6, 6, generator=generator)
    regions = (torch.rand(2, 2, 12, 12, generator=generator) > 0.6).float()
    result = source_means(source, regions).unflatten(2, (MEANS, 3))
    for b in range(2):
        for r in range(2):
            pixels = torch.nonzero(regions[b, r]).tolist()
            y0 = sum(y for y, _ in pixels) / len(pixels)
            x0 = sum(x for _, x in pixels) / len(pixels)
            parts: list[list[Tensor]] = [[] for _ in range(MEANS)]
            for y, x in pixels:
                latent = source[b, :, y // 2, x // 2]
                parts[0].append(latent)
                parts[1 + 2 * (y >= y0) + (x >= x0)].append(latent)
            expected = torch.stack([torch.stack(part).mean(0) for part in parts])
            assert torch.allclose(result[b, r], expected, atol=1e-5)


def test_a_quadrant_without_pixels_has_the_whole_mean_and_an_empty_region_zeros() -> None:
    source = torch.randn(1, 4, 4, 4)
    regions = torch.zeros(1, 2, 8, 8)
    regions[0, 0, 5, 2] = 1
    means = source_means(source, regions).unflatten(2, (MEANS, 4))
    assert torch.allclose(means[0, 0], source[0, :, 2, 1].expand(MEANS, -1))
    assert not means[0, 1].any()


# --- who sees what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"token_content": "source"}, {"token_time": True}, WITH])
def test_new_inputs_change_nothing_at_first(changes: dict[str, object]) -> None:
    # A trained network that gets the new inputs: their maps are zero, and everything else is its own.
    trained, model, batch = awake(tiny_model()), tiny_model(**changes), inputs()
    missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all(not model.state_dict()[name].any() for name in missing)
    with torch.no_grad():
        assert torch.allclose(model(**batch), trained(**batch), atol=1e-6)


def test_tokens_follow_the_source_in_their_own_region_and_nowhere_else() -> None:
    model, batch = awake(tiny_model(token_content="source")), inputs(1)
    before = tokens(model, batch)
    own = cells_of(batch["regions"])
    for r in range(2):
        noise = torch.randn_like(batch["source"])
        # All latents outside the region change, those of the other region included.
        outside = torch.where(own[:, r : r + 1], batch["source"], noise)
        assert torch.equal(tokens(model, batch, source=outside)[:, r], before[:, r])
        # Those inside change.
        inside = torch.where(own[:, r : r + 1], noise, batch["source"])
        changed = tokens(model, batch, source=inside)
        assert not torch.allclose(changed[:, r], before[:, r], atol=1e-3)
        assert torch.equal(changed[:, 1 - r], before[:, 1 - r])


def test_the_quadrants_tell_a_mirrored_region_from_itself() -> None:
    model, batch = awake(tiny_model(token_content="source")), inputs(1)
    # The first region is rows and columns 4 to 27, which are the cells 2 to 13.
    mirrored = batch["source"].clone()
    mirrored[..., 2:14, 2:14] = batch["source"][..., 2:14, 2:14].flip(3)
    assert not torch.allclose(
        tokens(model, batch, source=mirrored)[:, 0], tokens(model, batch)[:, 0], atol=1e-3
    )


def test_the_shuffled_control_sees_another_example_in_training_and_has_the_same_capacity() -> None:
    model, batch = awake(tiny_model(token_content="shuffled")).train(), inputs(3)
    before = tokens(model, batch)
    # The source of example 0 reaches example 1, and not example 0.
    changed = batch["source"].clone()
    changed[0] += torch.randn_like(changed[0])
    after = tokens(model, batch, source=changed)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1, 0], before[1, 0], atol=1e-3)
    assert torch.equal(after[2], before[2])
    # Capacity, and a batch in which there is nothing to exchange.
    own = tiny_model(token_content="source")
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in own.state_dict().items()
    }
    with pytest.raises(ValueError, match="two examples"):
        tokens(model, inputs(1))


def test_tokens_follow_the_time_step_where_they_shall() -> None:
    model, batch = awake(tiny_model(token_time=True)), inputs(1)
    seen: list[Tensor] = []
    assert model.prompts is not None
    original = model.prompts.differences

    def watched(read: Tensor, time: Tensor | None = None) -> Tensor:
        seen.append(original(read, time))
        return seen[-1]

    model.prompts.differences = watched  # type: ignore[method-assign]
    with torch.no_grad():
        for t in (300, 300, 700):
            model(**{**batch, "timestep": torch.tensor([t])})
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)


@pytest.mark.parametrize("kind", ["source", "shuffled"])
def test_a_result_does_not_depend_on_its_batch(kind: str) -> None:
    # In evaluation, where the control does not shuffle.
    model, batch = awake(tiny_model(token_content=kind, token_time=True)), inputs(3)
    batch["timestep"] = torch.tensor([100, 500, 900])
    with torch.no_grad():
        together = model(**batch)
        for i in range(3):
            alone = model(**{k: v[i : i + 1] for k, v in batch.items()})
            assert torch.allclose(together[i], alone[0], atol=1e-5)
