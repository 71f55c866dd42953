"""The state of a training: modules, optimizer, averages and counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.files import atomic_file
from methods.training.settings import Budget, Machine


class Ema:
    """Exponential moving average of the parameters that learn, float32, with an early bias correction."""

    def __init__(
        self, modules: Mapping[str, nn.Module], decay: float, device: torch.device | str | None = None
    ) -> None:
        self.decay = decay
        self.values = {
            name: parameter.detach().clone().to(device, torch.float32)
            for name, parameter in _learning(modules).items()
        }

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        # The first steps count more, so that the average does not remember the initial weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = _learning(modules)
        # One fused operation for all parameters.
        averages = list(self.values.values())
        current = [
            parameters[name].detach().to(value.device, torch.float32) for name, value in self.values.items()
        ]
        torch._foreach_lerp_(averages, current, 1 - decay)

    def state(self, name: str, module: nn.Module) -> dict[str, Tensor]:
        """The module's state dict, with the averages in place of the current parameters."""
        # Buffers and frozen parameters come from the module itself.
        state = {key: value.detach().clone() for key, value in module.state_dict().items()}
        for key in state:
            average = self.values.get(f"{name}.{key}")
            if average is not None:
                state[key] = average.to(state[key].dtype, copy=True)
        return state


def _learning(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters with a gradient, by ``MODULE.PARAMETER``."""
    return {
        f"{name}.{key}": parameter
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


class TrainingState:
    """Everything that a checkpoint holds: modules, optimizer, averages, gradient scaler and counters."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        groups: Sequence[Mapping[str, Any]],
        budget: Budget,
        machine: Machine,
    ) -> None:
        self.modules = modules
        self.device = torch.device(machine.device)
        # Moving a module keeps its parameter objects, so the groups stay valid.
        for module in modules.values():
            module.to(self.device).train()
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        # AdamW (Loshchilov and Hutter 2019).
        self.optimizer = torch.optim.AdamW(
            [dict(group) for group in groups], lr=budget.learning_rate, weight_decay=budget.weight_decay,
            betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.ema = Ema(modules, budget.ema, machine.ema_device or self.device)
        # Without float16 the scaler passes everything through.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=machine.dtype == torch.float16)
        self.step, self.seconds = 0, 0.0

    def save(self, path: Path) -> None:
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.values,
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        # Streamed to the file, since the state of a large network should not be in memory twice.
        with atomic_file(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        # The optimizer's state includes the groups' scales.
        self.optimizer.load_state_dict(saved["optimizer"])
        # Earlier versions also averaged frozen parameters, which are left out here.
        self.ema.values = {
            name: saved["ema"][name].to(value.device) for name, value in self.ema.values.items()
        }
        # Without float16 the scaler has no state.
        self.scaler.load_state_dict(saved.get("scaler", {}))
        self.step, self.seconds = saved["step"], saved["seconds"]

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The averaged weights of all modules."""
        return {name: self.ema.state(name, module) for name, module in self.modules.items()}
