"""Gated injection of the mask's features (paper, 2.D), and cross-attention restricted by regions (paper, 2.C).

Both are attention processors of diffusers. They sit in the layers of an unchanged ``UNet2DConditionModel`` and
receive the inputs of a call in ``cross_attention_kwargs={"guide": Guide}``. Without a guide they compute the layers'
own attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.prompt_edit_diff.mask_encoder import MaskFeatures, coverage


@dataclass(frozen=True, eq=False)
class Route:
    """Visibility of the tokens at one resolution, for N positions and T tokens."""

    # (B, 1, N, T) added to the scores: 0, -inf where hidden, -log n where n regions share a position.
    hard: Tensor
    # (B, 1, N, T): 1 where a position inside a region sees a word that belongs to no region, else 0.
    rest: Tensor


@dataclass(frozen=True, eq=False)
class Guide:
    """Inputs of the attention layers for one call."""

    # Routes by the number of query positions. None makes all tokens visible everywhere.
    routes: Mapping[int, Route] | None = None
    mask: MaskFeatures | None = None


# Scores per head up to which attention on the CPU is computed by the plain formula.
SMALL = 64 * 256


# --- visibility of tokens ---------------------------------------------------------------------------


def owners(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Assign the cells of a layer to regions: (B, R, H, W) in [0, 1] => bool (B, R, h * w).

    A cell belongs to the region that covers most of it, or to several where they cover it equally. A region that would
    lose all of its cells keeps its best one, shared.
    """
    share = coverage(regions.float(), size).flatten(2)  # (B, R, N)
    # The region with the largest share of a cell owns it.
    most = share.amax(1, keepdim=True)
    own = (share > 0) & (share >= most)
    # Small regions keep the cell that they cover most.
    best = F.one_hot(share.argmax(2), share.shape[2]).bool()
    lost = ~own.any(2, keepdim=True) & (share.amax(2, keepdim=True) > 0)
    return own | (best & lost)


def route(
    regions: Tensor, member: Tensor, words: Tensor, size: tuple[int, int], slots: int = 0, masked: bool = True
) -> Route:
    """The rule of masked cross-attention at a layer of ``size`` (rows, columns).

    ``regions`` (B, R, H, W) in [0, 1]. ``member`` bool (B, R, L). ``words`` bool (B, L).

    * A token of one or more regions is visible in those regions and nowhere else.
    * A token of no region is visible everywhere.
    * With ``slots`` > 0 the sequence ends with R * slots prompt tokens (``extend``). Each region with words sees its
      own in place of the last ``slots`` tokens of the prompt.
    * ``masked=False`` leaves the first rule out and shows every region's prompt tokens everywhere.

    Where these rules would hide all tokens, all prompt tokens (words) are visible.
    """
    # Regions that act: those with words and pixels.
    inside = owners(regions, size)  # (B, R, N)
    acts = member.any(2) & (regions.amax((2, 3)) > 0)  # (B, R)
    member = member & acts[:, :, None]
    if not masked:
        inside = acts[:, :, None].expand_as(inside)
    active = inside & acts[:, :, None]
    tagged = member.any(1)  # (B, L): tokens of some region

    # Hide tagged tokens outside their regions; lower untagged words inside regions.
    visible = torch.matmul(active.transpose(1, 2).float(), member.float()) > 0  # (B, N, L)
    if masked:
        hidden = tagged[:, None] & ~visible
        rest = (active.any(1)[:, :, None] & (words & ~tagged)[:, None]).float()
    else:
        hidden = torch.zeros_like(visible)
        rest = torch.zeros(visible.shape, device=regions.device)
    # Rows that would hide everything hide nothing.
    hard = torch.zeros(visible.shape, device=regions.device)
    hard = hard.masked_fill(hidden & ~hidden.all(2, keepdim=True), float("-inf"))
    if slots:
        hard, rest = _with_slots(hard, rest, active, slots)
    return Route(hard[:, None], rest[:, None])


def _with_slots(hard: Tensor, rest: Tensor, active: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Append the regions' prompt tokens: (B, N, L) => (B, N, L + R * slots), for ``active`` bool (B, R, N)."""
    batch, regions, positions = active.shape
    length = hard.shape[2]
    # A region's tokens are visible where the prompt's last tokens were. Where n regions share a position, each of
    # their tokens weighs 1 / n, so that together they weigh what the replaced tokens weighed.
    shared = active.sum(1).clamp(min=1).float()  # (B, N)
    base = hard[:, :, -slots:]
    own = base[:, :, None] - shared.log()[:, :, None, None]  # (B, N, 1, slots)
    own = own.expand(-1, -1, regions, -1).masked_fill(~active.transpose(1, 2)[..., None], float("-inf"))
    replaced = active.any(1)[:, :, None]
    hard = torch.cat([hard, own.reshape(batch, positions, regions * slots)], 2)
    hard[:, :, length - slots : length] = base.masked_fill(replaced, float("-inf"))
    rest = torch.cat([rest, rest[:, :, -slots:].repeat(1, 1, regions)], 2)
    return hard, rest


def extend(text: Tensor, differences: Tensor) -> Tensor:
    """The prompt's tokens (B, L, W), followed by each region's: (B, R, K, W) plus the last K of the prompt's."""
    own = text[:, None, -differences.shape[2] :] + differences
    # (B, L + R * K, W).
    return torch.cat([text, own.flatten(1, 2).to(text.dtype)], 1)


# --- the layers -------------------------------------------------------------------------------------


class Injection(nn.Module):
    """Parameters that a self-attention layer of ``channels`` needs to attend to F_M."""

    def __init__(self, channels: int, mask_width: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(mask_width, channels, bias=False)
        self.to_v = nn.Linear(mask_width, channels, bias=False)
        # Added to the layer's own queries: the mask's features at the query's position.
        self.to_q = nn.Linear(mask_width, channels, bias=False)
        # The learnable scalars of the paper; phi starts at zero.
        self.gamma = nn.Parameter(torch.ones(()))
        self.phi = nn.Parameter(torch.zeros(()))


class Routing(nn.Module):
    """The learned amount by which a cross-attention layer lowers the words of no region inside regions."""

    def __init__(self, rest_bias: float) -> None:
        super().__init__()
        self.rest = nn.Parameter(torch.tensor(float(rest_bias)))


class InjectMask:
    """H <- gamma Attn(H) + phi Attn(H, F_M) (paper, 2.D), before the output projection that both terms share.

    Without an injection it is Attn(H).
    """

    def __init__(self, injection: Injection | None) -> None:
        self.injection = injection

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        _plain(attn, attention_mask)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        attended = _attend(attn, query, attn.to_k(context), attn.to_v(context))  # Attn(H)
        add = self.injection
        if add is not None and guide is not None and guide.mask is not None:
            mask_query = query + add.to_q(guide.mask.levels[hidden_states.shape[1]])
            tokens = guide.mask.tokens
            to_mask = _attend(attn, mask_query, add.to_k(tokens), add.to_v(tokens))  # Attn(H, F_M)
            attended = add.gamma * attended + add.phi * to_mask
        return _projected(attn, attended.to(query.dtype))


class RouteTokens:
    """Cross-attention under a ``Route``. Without a routing, no word is lowered."""

    def __init__(self, routing: Routing | None) -> None:
        self.routing = routing

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        _plain(attn, attention_mask)
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        bias = None
        if guide is not None and guide.routes is not None:
            at_level = guide.routes[hidden_states.shape[1]]
            bias = at_level.hard
            if self.routing is not None:
                bias = bias + self.routing.rest * at_level.rest
        attended = _attend(attn, query, attn.to_k(text), attn.to_v(text), bias)
        return _projected(attn, attended.to(query.dtype))


def _attend(attn: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Queries (B, N, C), keys and values (B, T, C), bias (B, 1, N, T) => (B, N, C)."""
    heads = int(attn.heads)
    # (B, heads, N, C / heads).
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if bias is not None:
        bias = bias.to(query.dtype)
    if query.device.type == "cpu" and query.shape[2] * key.shape[2] <= SMALL:
        # On short sequences the formula itself is faster than the kernels. The fused kernel's backward pass takes three
        # times as long. The plain kernel also searches for rows that see nothing, and there are none here.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        out: Tensor = (scores if bias is None else scores + bias).softmax(-1).to(value.dtype) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


def _projected(attn: Any, attended: Tensor) -> Tensor:
    out: Tensor = attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor
    return out


def _plain(attn: Any, attention_mask: Tensor | None) -> None:
    """Raises ValueError for a layer that the two processors would compute wrongly."""
    # Normalisations and residuals of other UNets are not implemented here.
    odd = [
        name
        for name in ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross")
        if getattr(attn, name)
    ]
    if odd or attn.residual_connection or attention_mask is not None:
        what = ", ".join(odd) or ("residual_connection" if attn.residual_connection else "attention_mask")
        raise ValueError(
            f"attention with {what} is not what a Stable Diffusion UNet's transformer blocks have"
        )
