"""Gated injection of the mask's features, and cross-attention that keeps each tagged token to its region.

Both are attention processors of diffusers: they sit in the layers of an unchanged ``UNet2DConditionModel`` and
find what belongs to a call in ``cross_attention_kwargs={"guide": Guide}``. Without a guide they are the layers' own
attention.
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
    """Who may see which token at one resolution."""

    hard: Tensor
    """(B, 1, N, T) added to the scores: 0, -inf where hidden, -log n where n regions share a place of tokens."""
    rest: Tensor
    """(B, 1, N, T) 1 where a word of no region is seen from within a region with words, else 0."""


@dataclass(frozen=True, eq=False)
class Guide:
    """What the attention layers need to know of one call."""

    routes: Mapping[int, Route] | None = None
    """By number of query positions. None: all tokens are seen everywhere."""
    mask: MaskFeatures | None = None


SMALL = 64 * 256
"""Scores per head up to which attention on the CPU is computed by the plain formula."""


# --- who sees what ----------------------------------------------------------------------------------


def owners(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells of a layer belong to which region: (B, R, H, W) in [0, 1] => bool (B, R, h * w).

    A cell that a region touches is the region's; one that several touch belongs to those that cover most of it.
    A region that would lose all of its cells that way keeps its best one, shared.
    """
    share = coverage(regions.float(), size).flatten(2)
    most = share.amax(1, keepdim=True)
    mine = (share > 0) & (share >= most)
    best = F.one_hot(share.argmax(2), share.shape[2]).bool()
    lost = ~mine.any(2, keepdim=True) & (share.amax(2, keepdim=True) > 0)
    return mine | (best & lost)


def route(
    regions: Tensor, member: Tensor, words: Tensor, size: tuple[int, int], slots: int = 0, masked: bool = True
) -> Route:
    """The rule of masked cross-attention at a layer of ``size`` positions.

    ``regions`` (B, R, H, W) in [0, 1]; ``member`` bool (B, R, L); ``words`` bool (B, L).

    * A token that regions claim is seen in those regions and nowhere else.
    * A token that none claims is seen everywhere.
    * With ``slots`` > 0 the sequence ends with R * slots prompt tokens (``extend``): in each region with words,
      its own are seen in place of the last ``slots`` tokens of the prompt.
    * ``masked=False`` leaves the first rule out and shows every region's prompt tokens everywhere.

    No position is left without a token: where the rules would hide all, all prompt tokens (words) are seen.
    """
    inside = owners(regions, size)  # (B, R, N)
    speaks = member.any(2) & (regions.amax((2, 3)) > 0)  # (B, R)
    member = member & speaks[:, :, None]
    if not masked:
        inside = speaks[:, :, None].expand_as(inside)
    active = inside & speaks[:, :, None]
    claimed = member.any(1)  # (B, L)
    # (B, N, L): some region that owns the place claims the token.
    welcome = torch.matmul(active.transpose(1, 2).float(), member.float()) > 0
    if masked:
        hidden = claimed[:, None] & ~welcome
        rest = active.any(1)[:, :, None] & (words & ~claimed)[:, None]
    else:
        hidden = torch.zeros_like(welcome)
        rest = torch.zeros_like(welcome)
    hard = torch.zeros(welcome.shape, device=regions.device)
    hard = hard.masked_fill(hidden & ~hidden.all(2, keepdim=True), float("-inf"))
    rest_bias = rest.float()
    if slots:
        batch, count, positions = active.shape
        shared = active.sum(1).clamp(min=1).float()  # (B, N)
        # What stood in the prompt's last places decides who could see it there.
        base = hard[:, :, -slots:]
        own = base[:, :, None] - shared.log()[:, :, None, None]
        own = own.expand(-1, -1, count, -1).masked_fill(~active.transpose(1, 2)[..., None], float("-inf"))
        hard = torch.cat([hard, own.reshape(batch, positions, count * slots)], 2)
        replaced = active.any(1)[:, :, None]
        length = welcome.shape[2]
        hard[:, :, length - slots : length] = base.masked_fill(replaced, float("-inf"))
        last = rest_bias[:, :, -slots:]
        rest_bias = torch.cat([rest_bias, last.repeat(1, 1, count)], 2)
    return Route(hard[:, None], rest_bias[:, None])


def extend(text: Tensor, differences: Tensor) -> Tensor:
    """The prompt's tokens (B, L, W) followed by each region's: (B, R, K, W) plus the last K of the prompt's."""
    own = text[:, None, -differences.shape[2] :] + differences
    return torch.cat([text, own.flatten(1, 2).to(text.dtype)], 1)


# --- the layers -------------------------------------------------------------------------------------


class Injection(nn.Module):
    """What a self-attention layer of ``channels`` adds to see F_M: keys and values, and where its queries are."""

    def __init__(self, channels: int, mask_width: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(mask_width, channels, bias=False)
        self.to_v = nn.Linear(mask_width, channels, bias=False)
        self.to_q = nn.Linear(mask_width, channels, bias=False)
        self.gamma = nn.Parameter(torch.ones(()))
        self.phi = nn.Parameter(torch.zeros(()))


class Routing(nn.Module):
    """What a cross-attention layer adds: how much less a region sees of the words that are not its own."""

    def __init__(self, rest_bias: float) -> None:
        super().__init__()
        self.rest = nn.Parameter(torch.tensor(float(rest_bias)))


class InjectMask:
    """H <- gamma Attn(H) + phi Attn(H, F_M), before the output projection that both terms share.

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
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        seen = _attend(attn, query, attn.to_k(text), attn.to_v(text))
        add = self.injection
        if add is not None and guide is not None and guide.mask is not None:
            here = guide.mask.levels[hidden_states.shape[1]]
            mask_query = query + add.to_q(here)
            tokens = guide.mask.tokens
            mask_seen = _attend(attn, mask_query, add.to_k(tokens), add.to_v(tokens))
            seen = add.gamma * seen + add.phi * mask_seen
        return _projected(attn, seen.to(query.dtype))


class RouteTokens:
    """Cross-attention under a ``Route``; without a routing, nothing is lowered."""

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
            found = guide.routes[hidden_states.shape[1]]
            bias = found.hard if self.routing is None else found.hard + self.routing.rest * found.rest
        seen = _attend(attn, query, attn.to_k(text), attn.to_v(text), bias)
        return _projected(attn, seen.to(query.dtype))


def _attend(attn: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Queries (B, N, C), keys and values (B, T, C), bias (B, 1, N, T) => (B, N, C)."""
    heads = int(attn.heads)
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if bias is not None:
        bias = bias.to(query.dtype)
    if query.device.type == "cpu" and query.shape[2] * key.shape[2] <= SMALL:
        # On short sequences the formula itself is faster than the kernels: the fused one's backward pass takes three
        # times as long, and the plain one looks for rows that see nothing, of which there are none here.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        seen: Tensor = (scores if bias is None else scores + bias).softmax(-1).to(value.dtype) @ value
    else:
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return seen.transpose(1, 2).flatten(2)


def _projected(attn: Any, seen: Tensor) -> Tensor:
    out: Tensor = attn.to_out[1](attn.to_out[0](seen)) / attn.rescale_output_factor
    return out


def _plain(attn: Any, attention_mask: Tensor | None) -> None:
    """Refuses layers that the two processors would compute wrongly."""
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
