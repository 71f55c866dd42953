"""The one training loop of the zoo: warm-up, plateau, decay; EMA; resumable at any step; the same on CPU and GPU.

A recipe gives it modules, a function from a batch to a loss, and a function from a step number to a batch.
Batches are a function of the step alone, so that a run that was killed and resumed sees what the
uninterrupted run would have seen.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Report(Protocol):
    """Where a training tells how far it is (a progress bar, a test, nothing)."""

    def __call__(self, samples: int, total: int, figures: Mapping[str, float]) -> None: ...


def silent(samples: int, total: int, figures: Mapping[str, float]) -> None:
    """A report that goes nowhere."""


@dataclass(frozen=True)
class Budget:
    """How long and how fast a recipe learns. ``samples`` counts training examples, not steps."""

    samples: int
    batch: int
    rate: float
    """Peak learning rate."""
    warmup: int = 2_000
    """Samples of linear warm-up."""
    decay: float = 0.3
    """Last share of the samples, in which the rate falls linearly to a hundredth."""
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0

    def learning_rate(self, seen: int) -> float:
        """The rate at which the batch after ``seen`` samples is learnt (warm-up, plateau, decay)."""
        if seen < self.warmup:
            return self.rate * (seen + self.batch) / (self.warmup + self.batch)
        start = self.samples * (1 - self.decay)
        if seen <= start:
            return self.rate
        rest = max(0.0, (self.samples - seen) / max(self.samples - start, 1))
        return self.rate * (0.01 + 0.99 * rest)


@dataclass(frozen=True)
class Machine:
    """Where a training runs; nothing here belongs to the recipe."""

    device: str = "cpu"
    bf16: bool | None = None
    """Autocast to bfloat16. None: where the device computes it faster than float32."""
    save_every: float = 120.0
    """Seconds between checkpoints on disk: what a kill may cost."""

    @property
    def autocast(self) -> bool:
        if self.bf16 is not None:
            return self.bf16
        if self.device.startswith("cuda"):
            return bool(torch.cuda.is_bf16_supported())
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_has("avx512_bf16")


def _cpu_has(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


class Ema:
    """Exponential moving average of modules' parameters, in float32, with the usual early bias correction."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.values = {
            f"{name}.{key}": p.detach().clone().float()
            for name, module in modules.items()
            for key, p in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = [], []
        for name, module in modules.items():
            for key, p in module.named_parameters():
                mine.append(self.values[f"{name}.{key}"])
                theirs.append(p.detach().float())
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def state(self, name: str, module: nn.Module) -> dict[str, Tensor]:
        """The module's state dict with the averaged parameters in place of the current ones."""
        out = {k: v.detach().clone() for k, v in module.state_dict().items()}
        prefix = f"{name}."
        for key, value in self.values.items():
            if key.startswith(prefix):
                out[key[len(prefix) :]] = value.to(out[key[len(prefix) :]].dtype).clone()
        return out


@dataclass
class TrainingResult:
    """What a training leaves: averaged weights per module, and the figures of its card."""

    weights: dict[str, dict[str, Tensor]]
    samples: int
    seconds: float
    figures: dict[str, float]


def train(
    work: Path,
    modules: Mapping[str, nn.Module],
    loss: Callable[[Any, torch.Generator], tuple[Tensor, dict[str, float]]],
    batch: Callable[[int], Any],
    budget: Budget,
    machine: Machine | None = None,
    report: Report = silent,
    sample: Callable[[Mapping[str, dict[str, Tensor]], Path], None] | None = None,
    sample_every: int = 0,
    rates: Mapping[str, float] | None = None,
) -> TrainingResult:
    """Train until the budget's samples are seen; the same call resumes what an earlier one began.

    ``loss(batch, generator)`` returns the loss and figures to log; ``batch(step)`` builds the batch of a step
    (called on a thread, ahead of time). ``sample(weights, path)`` draws a grid every ``sample_every`` samples.
    ``rates`` scales the learning rate of single modules.

    Files in ``work``: ``last.pt`` (everything needed to resume), ``log.csv``, ``samples-*.png``.
    """
    machine = machine or Machine()
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device(machine.device)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in m.parameters() if p.requires_grad], "scale": (rates or {}).get(name, 1.0)}
        for name, m in modules.items()
    ]
    for module in modules.values():
        module.to(device).train()
    optimizer = torch.optim.AdamW(
        groups, lr=budget.rate, weight_decay=budget.weight_decay, betas=(0.9, 0.99), fused=True
    )
    ema = Ema(modules, budget.ema)
    step, seconds = 0, 0.0
    last = work / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(saved["modules"][name])
        optimizer.load_state_dict(saved["optimizer"])
        ema.values = {k: v.to(device) for k, v in saved["ema"].items()}
        step, seconds = saved["step"], saved["seconds"]

    def save() -> None:
        state = {
            "modules": {name: m.state_dict() for name, m in modules.items()},
            "optimizer": optimizer.state_dict(),
            "ema": ema.values,
            "step": step,
            "seconds": seconds,
            "budget": asdict(budget),
        }
        part = last.with_suffix(".part")
        torch.save(state, part)
        part.replace(last)

    steps = -(-budget.samples // budget.batch)
    running: dict[str, float] = {}
    clock, saved_at, logged_at = time.monotonic(), time.monotonic(), time.monotonic()
    next_sample = (step * budget.batch // sample_every + 1) * sample_every if sample_every else None
    parameters = [p for g in groups for p in g["params"]]
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(batch, step)
        while step < steps:
            data = _to(pending.result(), device)
            pending = ahead.submit(batch, step + 1)
            for group in optimizer.param_groups:
                group["lr"] = budget.learning_rate(step * budget.batch) * group["scale"]
            noise = torch.Generator(device).manual_seed(step)
            with _attention(device), torch.autocast(device.type, torch.bfloat16, enabled=machine.autocast):
                value, figures = loss(data, noise)
            value.backward()
            norm = nn.utils.clip_grad_norm_(parameters, budget.clip)
            if torch.isfinite(norm):
                optimizer.step()
                ema.update(modules, step)
            optimizer.zero_grad(set_to_none=True)
            step += 1
            now = time.monotonic()
            seconds += now - clock
            clock = now
            for key, figure in {"loss": float(value.detach()), **figures}.items():
                running[key] = figure if key not in running else 0.98 * running[key] + 0.02 * figure
            if now - logged_at > 5 or step == steps:
                logged_at = now
                report(step * budget.batch, budget.samples, running)
                _log(work / "log.csv", step * budget.batch, seconds, optimizer.param_groups[0]["lr"], running)
            if now - saved_at > machine.save_every:
                save()
                saved_at = time.monotonic()
            if sample and next_sample and step * budget.batch >= next_sample:
                next_sample += sample_every
                weights = {name: ema.state(name, m) for name, m in modules.items()}
                sample(weights, work / f"samples-{step * budget.batch:08d}.png")
                clock = time.monotonic()
        pending.cancel()
    save()
    return TrainingResult(
        {name: ema.state(name, m) for name, m in modules.items()}, step * budget.batch, seconds, running
    )


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, plain attention: for sequences as short as the zoo's, the fused one takes 1.5 times as long a step."""
    if device.type == "cpu":
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain
    return nullcontext()


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {k: _to(v, device) for k, v in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(_to(v, device) for v in data)
    return data


def _log(path: Path, samples: int, seconds: float, rate: float, figures: Mapping[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["samples", "seconds", "rate", *figures])
        writer.writerow([samples, round(seconds, 1), f"{rate:.3e}", *(f"{v:.5f}" for v in figures.values())])
