"""The head of ImageReward and of LAION's second aesthetic score: linear layers without activations between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Positions of the linear layers in the published files. Between them are dropouts, which do nothing in evaluation.
_LAYERS = (0, 2, 4, 6, 7)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Computes in float64."""

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    """Weight ``(out, in)`` and bias ``(out,)`` of each."""

    @classmethod
    def of_state(cls, state: Mapping[str, torch.Tensor], prefix: str = "") -> LinearHead:
        """Raises KeyError where the state dict lacks a layer."""
        return cls(
            tuple(
                (
                    state[f"{prefix}layers.{n}.weight"].double().numpy(),
                    state[f"{prefix}layers.{n}.bias"].double().numpy(),
                )
                for n in _LAYERS
            )
        )

    @property
    def width(self) -> int:
        """Length of the rows that it reads."""
        return int(self.layers[0][0].shape[1])

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """``(N, D)`` -> ``(N,)``."""
        values = rows.astype(np.float64)
        for weight, bias in self.layers:
            values = values @ weight.T + bias
        return values[:, 0]
