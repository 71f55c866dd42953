"""The network: what it equals untrained, who sees what, what learns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.prompt_edit_diff.attention import Guide, InjectMask, RouteTokens, extend, owners, route
from methods.prompt_edit_diff.mask_encoder import MaskEncoder, coverage, pooled, positions
from methods.prompt_edit_diff.model import PromptEditDiffUNet
from tests.methods.conftest import FACTOR, tiny_components
from tests.methods.prompt_edit_diff.conftest import awake, tiny_model

L, W = 12, 32


def inputs(batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    # Two regions apart from each other, two words each, in 64 pixels; the second picture has one region.
    generator = torch.Generator().manual_seed(seed)
    regions = torch.zeros(batch, 2, 64, 64)
    regions[:, 0, 4:28, 4:28] = 1
    regions[:, 1, 36:60, 40:62] = 1
    regions[1:, 1] = 0
    member = torch.zeros(batch, 2, L, dtype=torch.bool)
    member[:, 0, 2:4] = True
    member[:, 1, 5:7] = True
    member[1:, 1] = False
    words = torch.zeros(batch, L, dtype=torch.bool)
    words[:, 1:8] = True
    return {
        "sample": torch.randn(batch, 4, 32, 32, generator=generator),
        "timestep": torch.full((batch,), 300),
        "encoder_hidden_states": torch.randn(batch, L, W, generator=generator),
        "mask": regions.amax(1, keepdim=True),
        "source": torch.randn(batch, 4, 32, 32, generator=generator),
        "masked_source": torch.randn(batch, 4, 32, 32, generator=generator),
        "regions": regions,
        "member": member,
        "words": words,
    }


def untagged(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in batch.items() if k not in ("regions", "member", "words")}


# --- untrained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source_latents", ["pixels", "cells", "concat", "none"])
def test_untrained_it_is_its_base(source_latents: str) -> None:
    base, model, batch = tiny_components(4)["unet"], tiny_model(source_latents=source_latents), inputs()
    with torch.no_grad():
        expected = base(batch["sample"], batch["timestep"], batch["encoder_hidden_states"]).sample
        # Rounding of float32 on values of up to 2: kernels without AVX-512 add in another order.
        assert torch.allclose(model(**untagged(batch)), expected, atol=1e-5)
        # With tags, but no word in any region: nothing to route.
        # With tags, but without words in a region, there is nothing to route.
        batch["member"] = torch.zeros_like(batch["member"])
        assert torch.allclose(model(**batch), expected, atol=1e-5)


def test_untrained_with_tags_it_is_its_base_under_the_rule() -> None:
    # What is added, prompt tokens included, adds nothing: the same as masks handed to diffusers' own layers.
    model, batch = tiny_model(rest_bias=0.0), inputs()
    base = tiny_components(4)["unet"]

    class Masked:
        """diffusers' attention with a mask per number of queries, written without this package's code."""

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
            attention_mask: Tensor | None = None, temb: Tensor | None = None,
        ) -> Tensor:  # fmt: skip
            text = encoder_hidden_states
            assert text is not None
            b, n, _ = hidden_states.shape
            side = int(n**0.5)
            step = 64 // side
            allowed = torch.ones(b, n, L, dtype=torch.bool)
            for i in range(b):
                for p in range(n):
                    y, x = p // side * step, p % side * step
                    for r in range(2):
                        if batch["regions"][i, r].any():
                            inside = bool(batch["regions"][i, r, y : y + step, x : x + step].any())
                            allowed[i, p, batch["member"][i, r]] = inside
            q, k, v = (
                f(z).view(b, -1, attn.heads, hidden_states.shape[2] // attn.heads).transpose(1, 2)
                for f, z in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
            )
            scores = (q @ k.transpose(2, 3)) * attn.scale
            scores = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(3)
            return attn.to_out[0]((scores @ v).transpose(1, 2).reshape(b, n, -1))

    processors = {
        name: Masked() if "attn2" in name else processor for name, processor in base.attn_processors.items()
    }
    base.set_attn_processor(processors)
    with torch.no_grad():
        expected = base(batch["sample"], batch["timestep"], batch["encoder_hidden_states"]).sample
        prediction = model(**batch)
        assert torch.allclose(prediction, expected, atol=1e-5)
        assert not torch.allclose(prediction, model(**untagged(batch)), atol=1e-4)  # the rule does something


@pytest.mark.parametrize("stored", ["cells", "concat"])
def test_with_hidden_cells_what_lies_inside_the_mask_is_not_seen(stored: str) -> None:
    model, batch = awake(tiny_model(source_latents=stored)), inputs()
    with torch.no_grad():
        before = model(**batch)
        inside = model.cells(batch["mask"]).bool()
        batch["source"] = torch.where(inside, torch.randn_like(batch["source"]), batch["source"])
        assert torch.equal(model(**batch), before)
        batch["source"] = batch["source"] + 1
        assert not torch.allclose(model(**batch), before, atol=1e-3)


def test_with_hidden_pixels_the_masked_source_is_seen_everywhere_and_the_source_nowhere() -> None:
    model, batch = awake(tiny_model()), inputs()
    assert torch.equal(
        model.surroundings(batch["mask"], batch["source"], batch["masked_source"]), batch["masked_source"]
    )
    with torch.no_grad():
        before = model(**batch)
        assert torch.equal(model(**{**batch, "source": None}), before)
        inside = model.cells(batch["mask"]).bool()
        batch["masked_source"] = torch.where(inside, batch["masked_source"] + 1, batch["masked_source"])
        assert not torch.allclose(model(**batch), before, atol=1e-3)


def test_the_latents_need_the_source_they_were_made_for() -> None:
    batch = inputs()
    for view, needed in (("pixels", "masked_source"), ("cells", "source")):
        with pytest.raises(ValueError, match="source"):
            tiny_model(source_latents=view)(**{k: v for k, v in batch.items() if k != needed})
    with pytest.raises(ValueError, match="source's latents"):
        tiny_model(token_content="source")(**{k: v for k, v in batch.items() if k != "source"})
    for options in ({"source_latents": "half"}, {"token_content": "half"}):
        with pytest.raises(ValueError, match="half"):
            tiny_model(**options)
    with pytest.raises(ValueError, match="no effect without prompt_tokens"):
        tiny_model(prompt_tokens=False, token_time=True)
    with pytest.raises(ValueError, match="in_channels"):
        tiny_model(source_latents="none").__class__(base={}, in_channels=4)
    with pytest.raises(ValueError, match="text-to-image"):
        PromptEditDiffUNet.from_base(tiny_components(9)["unet"])


# --- learning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", ["", "prompt_tokens", "masked_attention", "mask_encoder"])
def test_gradients_reach_every_new_parameter(off: str) -> None:
    model, batch = tiny_model(**({off: False} if off else {})), inputs()
    model(**batch).square().mean().backward()
    # Before training, gradients only reach parameters behind a zero.
    first = {name for name, p in model.added().items() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    # At first, only what stands behind a zero: the gates, and the prompt tokens' last layer.
    if off != "mask_encoder":
        assert {f"injections.{key}.phi" for key in model.injections} <= first
    if off != "prompt_tokens":
        assert {"prompts.mlp_out.weight", "prompts.mlp_out.bias"} <= first
    if off != "masked_attention":
        assert {f"routings.{key}.rest" for key in model.routings} <= first
    # With open gates, all of them.
    awake(model).zero_grad()
    model(**batch).square().mean().backward()
    for name, p in model.added().items():
        assert p.grad is not None, name
        assert bool(p.grad.abs().sum() > 0), name
    expected = {
        "": {"encoder", "prompts", "injections", "routings"},
        "prompt_tokens": {"encoder", "injections", "routings"},
        "masked_attention": {"encoder", "prompts", "injections"},
        "mask_encoder": {"prompts", "routings"},
    }[off]
    assert {name.split(".")[0] for name in model.added()} == expected


def test_checkpointing_changes_no_gradient() -> None:
    model, batch = awake(tiny_model()).train(), inputs()
    model(**batch).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.enable_gradient_checkpointing()
    model(**batch).square().mean().backward()
    for name, p in model.named_parameters():
        if name in plain:
            assert p.grad is not None
            assert torch.allclose(p.grad, plain[name], atol=1e-5), name


def test_gradients_reach_the_new_inputs_of_the_prompt_tokens() -> None:
    model, batch = awake(tiny_model(token_content="source", token_time=True)), inputs()
    model(**batch).square().mean().backward()
    new = {
        name: p for name, p in model.added().items() if name.startswith(("prompts.content", "prompts.time"))
    }
    assert len(new) == 4
    for name, p in new.items():
        assert p.grad is not None, name
        assert bool(p.grad.abs().sum() > 0), name


# --- who sees what ------------------------------------------------------------------------------------


def weights_of(bias: Tensor) -> Tensor:
    # Attention weights of equal scores under a bias (B, 1, N, T).
    return bias[:, 0].softmax(2)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (8, 8)])
def test_a_tagged_token_has_no_weight_outside_its_region(size: tuple[int, int]) -> None:
    batch = inputs()
    routes = route(batch["regions"], batch["member"], batch["words"], size)
    weight = weights_of(routes.hard)
    inside = coverage(batch["regions"], size).flatten(2) > 0
    for i in range(2):
        for r in range(2 - i):
            here, token = inside[i, r], batch["member"][i, r]
            assert (weight[i][~here][:, token] == 0).all()
            assert (weight[i][here][:, token] > 0).all()
    # Tokens of no region.
    free = ~batch["member"].any(1)
    assert (weight.transpose(1, 2)[free] > 0).all()  # all others are seen everywhere
    assert torch.allclose(weight.sum(2), torch.ones(()))


def test_the_network_keeps_regions_apart_end_to_end() -> None:
    # Changing region B's words must not change what region A's places read from the text.
    model, batch = awake(tiny_model()), inputs(1)
    outputs: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        return lambda module, args, output: outputs.__setitem__(name, output.detach())

    # The first cross-attention layer's output, before and after another text in region B.
    name, layer = next((n, m) for n, m in model.unet.named_modules() if n.endswith("attn2"))
    handle = layer.register_forward_hook(watch(name))
    changed = {**batch, "encoder_hidden_states": batch["encoder_hidden_states"].clone()}
    changed["encoder_hidden_states"][:, 5:7] += 3
    with torch.no_grad():
        model(**batch)
        before = outputs[name]
        model(**changed)
        after = outputs[name]
    handle.remove()
    side = int(before.shape[1] ** 0.5)
    here = coverage(batch["regions"], (side, side))[0, 1].flatten() > 0
    assert (before - after)[0, ~here].abs().max() == 0
    assert (before - after)[0, here].abs().max() > 1e-3


def test_prompt_tokens_are_seen_in_their_region_only_and_take_the_last_places() -> None:
    batch, slots = inputs(), 3
    routes = route(batch["regions"], batch["member"], batch["words"], (16, 16), slots)
    weight = weights_of(routes.hard)
    assert weight.shape == (2, 256, L + 2 * slots)
    inside = coverage(batch["regions"], (16, 16)).flatten(2) > 0
    for i in range(2):
        for r in range(2):
            own = weight[i][:, L + r * slots : L + (r + 1) * slots]
            here = inside[i, r] if batch["member"][i, r].any() else torch.zeros(256, dtype=torch.bool)
            assert ((own > 0) == here[:, None]).all()
        anywhere = inside[i].any(0)
        assert ((weight[i][:, L - slots : L] == 0) == anywhere[:, None]).all()


def test_places_that_two_regions_share_weigh_the_same() -> None:
    # Two regions on one place bring twice as many prompt tokens; together they weigh what the padding weighed.
    regions = torch.ones(1, 2, 8, 8)
    member = torch.zeros(1, 2, L, dtype=torch.bool)
    member[:, 0, 2] = member[:, 1, 4] = True
    words = torch.zeros(1, L, dtype=torch.bool)
    weight = weights_of(route(regions, member, words, (4, 4), 2).hard)
    assert torch.allclose(weight[..., L:].sum(2), torch.tensor(2 / L))


def test_without_masked_attention_everything_is_seen_everywhere() -> None:
    batch = inputs()
    routes = route(batch["regions"], batch["member"], batch["words"], (8, 8), 2, masked=False)
    weight = weights_of(routes.hard)
    assert (weight[..., : L - 2] > 0).all()
    assert (weight[0, :, L:] > 0).all()
    assert (weight[1, :, L : L + 2] > 0).all()
    assert (weight[1, :, L + 2 :] == 0).all()
    assert torch.allclose(weight[..., L:].sum(2), torch.tensor(2 / L))
    assert not routes.rest.any()


def test_words_of_no_region_are_lowered_inside_regions_alone() -> None:
    batch = inputs()
    routes = route(batch["regions"], batch["member"], batch["words"], (16, 16))
    inside = coverage(batch["regions"], (16, 16)).flatten(2).amax(1) > 0
    free = batch["words"] & ~batch["member"].any(1)
    assert torch.equal(routes.rest[:, 0].bool(), inside[:, :, None] & free[:, None])


def test_no_place_is_left_without_a_token() -> None:
    # Even where every token belongs to a region elsewhere.
    regions = torch.zeros(1, 1, 8, 8)
    regions[..., :4] = 1
    member, words = torch.ones(1, 1, L, dtype=torch.bool), torch.ones(1, L, dtype=torch.bool)
    for slots in (0, 2):
        weight = weights_of(route(regions, member, words, (4, 4), slots).hard)
        assert torch.isfinite(weight).all()
    assert not torch.isnan(awake(tiny_model())(**{**inputs(1), "member": member.expand(1, 2, L)})).any()


def test_a_coarse_cell_belongs_to_the_region_that_covers_most_of_it_and_none_disappears() -> None:
    regions = torch.zeros(1, 3, 8, 8)
    regions[0, 0, :, :5] = 1
    regions[0, 1, :, 6:] = 1
    regions[0, 2, 0, 5] = 1  # a single pixel
    cells = owners(regions, (2, 2))[0]
    assert cells[0].tolist() == [True, False, True, False]
    assert cells[1].tolist() == [False, True, False, True]
    assert cells[2].tolist() == [False, True, False, False]
    assert not owners(torch.zeros(1, 2, 8, 8), (2, 2)).any()


def test_extension_is_the_last_tokens_plus_a_difference() -> None:
    text, difference = torch.randn(2, L, W), torch.randn(2, 3, 2, W)
    out = extend(text, difference)
    assert out.shape == (2, L + 6, W)
    assert torch.equal(out[:, :L], text)
    assert torch.allclose(out[:, L + 2 : L + 4], text[:, -2:] + difference[:, 1])


def test_injection_is_its_formula() -> None:
    # gamma Attn(H) + phi Attn(H, F_M), with softmax written out.
    model, batch = awake(tiny_model()), inputs(1)
    assert model.encoder is not None
    with torch.no_grad():
        features = model.encoder(batch["mask"])
        layer = next(m for n, m in model.unet.named_modules() if n.endswith("attn1"))
        add = layer.processor.injection
        channels, n = layer.to_q.in_features, 256
        h = torch.randn(1, n, channels)
        injected = layer(h, guide=Guide(None, features))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            heads = [x.unflatten(2, (layer.heads, -1)).transpose(1, 2) for x in (q, k, v)]
            scores = (heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[3] ** 0.5).softmax(3)
            return (scores @ heads[2]).transpose(1, 2).flatten(2)

        # The formula, term by term.
        own = attend(layer.to_q(h), layer.to_k(h), layer.to_v(h))
        mask = attend(
            layer.to_q(h) + add.to_q(features.levels[n]), add.to_k(features.tokens), add.to_v(features.tokens)
        )
        expected = layer.to_out[0](add.gamma * own + add.phi * mask)
    assert torch.allclose(injected, expected, atol=1e-5)


def test_layers_that_are_no_transformer_blocks_are_refused() -> None:
    from diffusers.models.attention_processor import Attention

    layer = Attention(8, heads=2, dim_head=4, norm_num_groups=4)
    for processor in (InjectMask(None), RouteTokens(None)):
        with pytest.raises(ValueError, match="group_norm"):
            processor(layer, torch.randn(1, 4, 8))


def test_a_guide_for_one_layer_serves_any_batch() -> None:
    # Examples with different tags in one batch: each as by itself.
    model, batch = awake(tiny_model()), inputs(3)
    batch["member"][2] = False
    with torch.no_grad():
        together = model(**batch)
        for i in range(3):
            alone = model(**{k: v[i : i + 1] for k, v in batch.items()})
            assert torch.allclose(together[i], alone[0], atol=1e-5)
        # Without its empty second region, too.
        one = {k: v[1:2] for k, v in batch.items()}
        one["regions"], one["member"] = one["regions"][:, :1], one["member"][:, :1]
        assert torch.allclose(together[1], model(**one)[0], atol=1e-5)


# --- mask encoder -------------------------------------------------------------------------------------


def test_the_mask_encoder_sees_single_pixels_and_all_levels() -> None:
    torch.manual_seed(0)
    encoder = MaskEncoder(factor=4, attends=[True, True, True], width=16, token_size=8)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    features = encoder(mask)
    assert {n: tuple(f.shape) for n, f in features.levels.items()} == {
        256: (1, 256, 16), 64: (1, 64, 16), 16: (1, 16, 16),
    }  # fmt: skip
    assert features.tokens.shape == (1, 64, 16)
    # One pixel less changes the features.
    mask[..., 20, 20] = 0
    assert not torch.equal(encoder(mask).tokens, features.tokens)


@pytest.mark.parametrize(("side", "levels", "tokens"), [(512, 4, 64), (64, 2, 64), (40, 3, 25)])
def test_tokens_are_never_more_than_asked_for(side: int, levels: int, tokens: int) -> None:
    encoder = MaskEncoder(factor=4 if side < 512 else 8, attends=[True] * levels, width=8, token_size=8)
    assert encoder(torch.ones(1, 1, side, side)).tokens.shape[1] == tokens


def test_positions_agree_across_levels() -> None:
    # The average of four fine cells' coordinates is the coarse cell's: low frequencies nearly agree.
    # Four fine cells make one coarse cell.
    fine, coarse = positions(16, 16, 16), positions(8, 8, 16)
    averaged = fine.view(8, 2, 8, 2, 16).mean((1, 3)).view(64, 16)
    lowest = [0, 4, 8, 12]
    assert (averaged - coarse)[:, lowest].abs().max() < 0.01
    assert len({tuple(row.tolist()) for row in fine.round(decimals=4)}) == 256


def test_pooling_is_the_mean_over_the_region() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    regions = torch.zeros(1, 2, 8, 8)
    regions[0, 0, :2, :4] = 1
    assert pooled(features, regions)[0, :, 0].tolist() == [0.5, 0.0]


# --- on disk, and at full size ------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, half: bool) -> None:
    model, batch = awake(tiny_model()), inputs()
    if half:
        model = model.half()
    model.save_pretrained(str(tmp_path))
    again = PromptEditDiffUNet.from_pretrained(str(tmp_path), dtype=torch.float32).eval()
    assert dict(again.config)["base"]["block_out_channels"] == [32, 64]
    assert again.config.in_channels == 8
    with torch.no_grad():
        assert torch.equal(model.float()(**batch), again(**batch))


SD15: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}


def test_at_the_size_of_stable_diffusion_little_is_added() -> None:
    with torch.device("meta"):
        model = PromptEditDiffUNet(base=SD15, in_channels=8)
    base = sum(p.numel() for p in model.unet.parameters())
    # 859,520,964 parameters of the base, and 9 x 320 x 4 weights for the four new channels.
    assert base == 859_520_964 + 9 * 320 * 4
    added = sum(p.numel() for p in model.added().values())
    assert base + added == sum(p.numel() for p in model.parameters())
    assert 0.005 < added / base < 0.03
    assert len(model.injections) == len(model.routings) == 16


@pytest.mark.skipif(
    "PROMPTEDITBENCH_SLOW" not in os.environ, reason="needs 10 GB and minutes: PROMPTEDITBENCH_SLOW=1"
)
def test_a_step_at_the_size_of_stable_diffusion() -> None:
    model = PromptEditDiffUNet(base=SD15, in_channels=8).train()
    model.enable_gradient_checkpointing()
    regions = torch.zeros(1, 1, 512, 512)
    regions[..., 100:300, 200:400] = 1
    member = torch.zeros(1, 1, 77, dtype=torch.bool)
    member[..., 3:5] = True
    words = torch.zeros(1, 77, dtype=torch.bool)
    words[:, 1:9] = True
    z = torch.randn(1, 4, 64, 64)
    out = model(z, torch.tensor([500]), torch.randn(1, 77, 768), regions, z, regions, member, words)
    assert out.shape == z.shape
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.unet.parameters())
    assert all(float(i.phi.grad.abs()) > 0 for i in model.injections.values())


def test_the_factor_is_the_pipelines() -> None:
    assert tiny_model().config.factor == FACTOR
