"""Attention whose probabilities a method reads or replaces.

:func:`install` puts the processor into every attention layer of a UNet. Each call of the UNet then takes a
:class:`Control` in ``cross_attention_kwargs={"control": control}``. Layers that the control does not want, and calls
without one, compute the layers' own attention by torch's kernel, which never forms the probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Control(Protocol):
    """A method's view of the attention of one call of the UNet."""

    def wants(self, cross: bool, positions: int) -> bool:
        """Whether to form the probabilities of a layer with ``positions`` queries, of cross- or self-attention."""
        ...

    def __call__(self, probabilities: Tensor, cross: bool) -> Tensor:
        """Probabilities, float32 (rows, heads, positions, keys) => those that the layer uses, of that shape."""
        ...


class MapAttention:
    """Attention processor of diffusers for the transformer blocks of Stable Diffusion 1.x and 2.x."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: Control | None = None,
    ) -> Tensor:
        import torch.nn.functional as F

        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if encoder_hidden_states is not None else hidden_states

        # (rows, heads, positions or keys, channels of a head).
        query, key, value = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if control is None or not control.wants(cross, query.shape[2]):
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        else:
            # In float32, because half precision rounds small probabilities to 0.
            scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
            out = control(scores.softmax(-1), cross).to(value.dtype) @ value
        projected: Tensor = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        return projected


class AttentionRecorder:
    """A control that changes nothing and keeps the cross-attention of the layers with ``positions`` queries."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self._layers: list[Tensor] = []

    def wants(self, cross: bool, positions: int) -> bool:
        return cross and positions == self.positions

    def __call__(self, probabilities: Tensor, cross: bool) -> Tensor:
        self._layers.append(probabilities.mean(1))
        return probabilities

    def mean(self) -> Tensor:
        """The mean over layers and heads of the last call, float32 (rows, positions, tokens)."""
        import torch

        maps = torch.stack(self._layers).mean(0)
        self._layers.clear()
        return maps


def install(unet: Any) -> None:
    """Puts :class:`MapAttention` into every attention layer of ``unet``. Its outputs stay the same."""
    unet.set_attn_processor(MapAttention())


def predicted(unet: Any, z: Tensor, t: int, context: Tensor, control: Control | None = None) -> Tensor:
    """The UNet's output, float32 (B, 4, h, w), for latents of that shape at time step ``t`` and text (B, L, D)."""
    import torch

    output: Tensor = unet(
        z.to(unet.dtype),
        torch.tensor(t, device=z.device),
        encoder_hidden_states=context.to(unet.dtype),
        cross_attention_kwargs={"control": control},
    ).sample.float()
    return output


def map_factor_problems(factor: int, config: dict[str, Any]) -> list[str]:
    """Problems of an option ``map_factor``, for the configuration of a UNet that must have attention there."""
    blocks = config.get("down_block_types", [])
    # The level n of the UNet works on latents 2 ** n times smaller.
    factors = [2**level for level, block in enumerate(blocks) if str(block).startswith("CrossAttn")]
    if factor in factors:
        return []
    return [f"map_factor {factor}: the network has attention at {', '.join(map(str, factors))}"]
