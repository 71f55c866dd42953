"""Settings of a training: its budget, the machine, and what it records."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from bench.errors import BenchError


class TrainingError(BenchError):
    """A training cannot start or continue. The message states the remedy."""


class ProgressReport(Protocol):
    """Receives the progress of a training: samples learned so far, samples in total, current figures."""

    def __call__(self, samples: int, total: int, figures: Mapping[str, float]) -> None: ...


def silent(samples: int, total: int, figures: Mapping[str, float]) -> None:
    """A report that shows nothing."""


@dataclass(frozen=True)
class Budget:
    """Length and speed of a training. All counts are samples, not steps."""

    samples: int
    # Samples per step.
    batch: int
    # Peak learning rate.
    learning_rate: float
    # Samples of linear warm-up.
    warmup: int = 2_000
    # Final share of the samples, in which the learning rate falls linearly to ``final`` of its peak.
    decay: float = 0.3
    weight_decay: float = 0.01
    # Decay of the exponential moving average of the weights, per step.
    ema: float = 0.999
    max_grad_norm: float = 1.0
    final: float = 0.01

    @property
    def steps(self) -> int:
        return -(-self.samples // self.batch)

    def learning_rate_at(self, samples: int) -> float:
        """Learning rate of the step that follows ``samples`` samples: warm-up, plateau, decay."""
        # Linear warm-up. The first step already has a part of the peak.
        if samples < self.warmup:
            return self.learning_rate * (samples + self.batch) / (self.warmup + self.batch)
        # Plateau, until the final share of the samples begins.
        start = self.samples * (1 - self.decay)
        if samples <= start:
            return self.learning_rate
        # Linear decay to ``final`` of the peak.
        remaining = max(0.0, (self.samples - samples) / max(self.samples - start, 1))
        return self.learning_rate * (self.final + (1 - self.final) * remaining)


Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Machine:
    """Where and how a training runs. Nothing here belongs to the recipe."""

    device: str = "cpu"
    # Element type under autocast. "auto" is bfloat16 where the device computes it faster than float32.
    precision: Precision = "auto"
    # Forward passes per step. More of them need less memory for the same ``Budget.batch``.
    accumulate: int = 1
    # Device of the averaged weights. "cpu" saves one copy of the weights in the GPU's memory.
    ema_device: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the forward pass. float32 means no autocast."""
        if self.precision != "auto":
            dtype: torch.dtype = getattr(torch, self.precision)
            return dtype
        # bfloat16 pays where the hardware multiplies it: recent GPUs, and CPUs with AVX-512 BF16.
        if self.device.startswith("cuda"):
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_has("avx512_bf16")
        return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class Recording:
    """Files of a training, and how often it writes them."""

    # Seconds between checkpoints: the most work that an interruption costs.
    save_seconds: float = 120.0
    # Steps between checkpoints. If positive, it replaces ``save_seconds``, and each checkpoint has its own folder.
    save_steps: int = 0
    # Number of checkpoint folders that stay.
    keep: int = 1
    # Seconds between lines of the log. 0 writes a line per step.
    log_seconds: float = 5.0
    # Decay of the running averages of the logged figures. 0 logs each step's own figures.
    smoothing: float = 0.98
    # Samples between sample grids. 0 draws none.
    sample_every: int = 0
    # Also write the figures to ``tensorboard/``.
    tensorboard: bool = False

    def position(self, step: int, samples: int) -> str:
        """Number in the names of files: the step where checkpoints count steps, else the samples."""
        return f"{step:07d}" if self.save_steps else f"{samples:08d}"


def budget_fields(budget: Budget) -> dict[str, float]:
    """The budget as cards state it, under the names that cards have had from the beginning."""
    # Stored cards have other names for two fields, and no ``final``.
    fields = asdict(budget)
    del fields["final"]
    names = {"learning_rate": "rate", "max_grad_norm": "clip"}
    return {names.get(name, name): value for name, value in fields.items()}


def autocast(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``. Does nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


def _cpu_has(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
