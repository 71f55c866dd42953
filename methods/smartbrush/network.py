"""The network: a UNet2DConditionModel with one more input and output channel, and a vector per precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.smartbrush.precision import PRECISIONS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

# Channels of the latents. The last input channel is the mask, and the last output channel the logit of the object's.
LATENTS = 4
CHANNELS = LATENTS + 1


def from_base(base: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a text-to-image UNet with the additions, all of which are zero at first.

    The new network then predicts what its base predicts, and a logit of 0 everywhere. Raises ValueError for a base
    that has other channels than four.
    """
    from diffusers import UNet2DConditionModel

    if (base.config["in_channels"], base.config["out_channels"]) != (LATENTS, LATENTS):
        raise ValueError(
            f"the base UNet has {base.config['in_channels']} input and {base.config['out_channels']} output channels: "
            f"expected a text-to-image one with {LATENTS} and {LATENTS}"
        )
    # Private entries of the configuration depend on the machine.
    settings: dict[str, Any] = {k: v for k, v in base.config.items() if not k.startswith("_")}
    settings |= {"in_channels": CHANNELS, "out_channels": CHANNELS, "num_class_embeds": PRECISIONS}
    network: UNet2DConditionModel = UNet2DConditionModel.from_config(settings)
    own, state = network.state_dict(), {}
    for name, value in own.items():
        origin = base.state_dict().get(name)
        # Zeros, with the base's values first along every dimension.
        state[name] = value.new_zeros(value.shape)
        if origin is not None:
            state[name][tuple(slice(size) for size in origin.shape)] = origin
    network.load_state_dict(state)
    return network


def noised_inside(x0: Tensor, noisy: Tensor, cells: Tensor) -> Tensor:
    """x~_t = x_t m_s + x_0 (1 - m_s): the noisy latents (B, C, h, w) where ``cells`` (B, 1, h, w) is 1."""
    import torch

    return torch.where(cells > 0.5, noisy, x0)


def predict(
    unet: UNet2DConditionModel, x: Tensor, coverage: Tensor, t: Tensor, context: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """(the prediction (B, 4, h, w), logits of the object's cells (B, 1, h, w)), float32.

    ``x`` (B, 4, h, w) are the latents of ``noised_inside``, and ``coverage`` (B, 1, h, w) is the share of each cell
    that the mask covers. ``t`` is int64, one for all or (B,). ``context`` (B, L, W) is the text. ``precision`` is
    int64 (B,).
    """
    import torch

    inputs = torch.cat([x, coverage.to(x.dtype)], 1).to(unet.dtype)
    output = unet(inputs, t, context, class_labels=precision).sample.float()
    return output[:, :LATENTS], output[:, LATENTS:]
