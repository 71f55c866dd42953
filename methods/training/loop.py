"""The loop itself: batches, gradient accumulation, updates, records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.training.records import Checkpoints, TrainingLog
from methods.training.settings import Budget, Machine, ProgressReport, Recording, autocast, silent
from methods.training.state import TrainingState

# State dicts by the name of their module.
Weights: TypeAlias = Mapping[str, dict[str, Tensor]]
# Batch and noise generator => scalar loss, and scalar figures for the log.
Loss: TypeAlias = Callable[[Any, torch.Generator], tuple[Tensor, Mapping[str, float | Tensor]]]


@dataclass
class TrainingResult:
    """The averaged weights of each module, and the figures of the card."""

    weights: dict[str, dict[str, Tensor]]
    samples: int
    seconds: float
    figures: dict[str, float]


def train(
    folder: Path,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    batch: Callable[[int], Any],
    budget: Budget,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Callable[[Weights, Path], None] | None = None,
    recording: Recording | None = None,
    *,
    groups: Sequence[Mapping[str, Any]] | None = None,
    noise_seed: Callable[[int], int] = int,
    distributed: nn.parallel.DistributedDataParallel | None = None,
) -> TrainingResult:
    """Train until the samples of the budget are learned. The same call resumes an interrupted run.

    ``batch(number)`` gives the batch of a forward pass as tensors in dicts or tuples. A thread calls it one pass
    ahead. ``sample(weights, path)`` draws a sample grid of the averaged weights. ``groups`` are the optimizer's
    parameter groups, each with a ``scale`` of the learning rate. The default is one group per module.
    ``noise_seed`` maps the number of a forward pass to the seed of its noise. ``distributed`` is the wrapper that
    ``loss`` calls where several processes train together. Only the first process then writes files.

    ``folder`` receives checkpoints, ``log.csv`` and ``samples-*.png``.
    """
    machine, recording = machine or Machine(), recording or Recording()
    folder.mkdir(parents=True, exist_ok=True)
    main = distributed is None or torch.distributed.get_rank() == 0

    # Restore the last checkpoint, or start anew.
    state = TrainingState(modules, groups or _module_groups(modules), budget, machine)
    checkpoints = Checkpoints(folder, recording)
    checkpoints.load(state)
    log = TrainingLog(folder, recording, state.step, state.step * budget.batch) if main else None
    every = recording.sample_every
    # The next multiple after the samples that were learned, so that a resumed run draws the same grids.
    next_sample = (state.step * budget.batch // every + 1) * every if every else 0

    # Learn the remaining steps.
    running: dict[str, float] = {}
    clock = logged_at = time.monotonic()
    first, last = state.step * machine.accumulate, budget.steps * machine.accumulate
    batches = _prefetched(batch, first, last, state.device)
    while state.step < budget.steps:
        figures, norm = _step(state, batches, loss, budget, machine, noise_seed, distributed)
        # Wall time without sample grids, and running averages of the figures.
        samples, now = state.step * budget.batch, time.monotonic()
        state.seconds += now - clock
        clock = now
        for name, value in figures.items():
            # A figure that appears for the first time begins at its own value.
            share = recording.smoothing if name in running else 0.0
            running[name] = share * running[name] + (1 - share) * value if share else value
        # The other processes only learn.
        if not main:
            continue

        # Log, save, and draw a sample grid.
        if log is not None and (now - logged_at >= recording.log_seconds or state.step == budget.steps):
            logged_at = now
            rate = state.optimizer.param_groups[0]["lr"]
            counters = {
                "step": state.step,
                "samples": samples,
                "seconds": round(state.seconds, 1),
                "rate": rate,
            }
            log.write({**counters, "norm": norm, **running})
            report(samples, budget.samples, running)
        if checkpoints.due(state.step):
            checkpoints.save(state)
        if sample is not None and every and samples >= next_sample:
            next_sample += every
            sample(state.weights(), folder / f"samples-{recording.position(state.step, samples)}.png")
            # Drawing a grid is not training, so its time is not counted.
            clock = time.monotonic()
    if main:
        checkpoints.save(state)
    return TrainingResult(state.weights(), state.step * budget.batch, state.seconds, running)


def _step(
    state: TrainingState,
    batches: Iterator[tuple[int, Any]],
    loss: Loss,
    budget: Budget,
    machine: Machine,
    noise_seed: Callable[[int], int],
    distributed: nn.parallel.DistributedDataParallel | None,
) -> tuple[dict[str, float], float]:
    """One update of the weights: figures, averaged over its forward passes, and the norm of the gradient."""
    # Each group has its share of the scheduled learning rate.
    rate = budget.learning_rate_at(state.step * budget.batch)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]

    # Accumulate the gradient over the forward passes. Processes exchange it in the last one.
    figures: dict[str, float] = {}
    for remaining in reversed(range(machine.accumulate)):
        number, data = next(batches)
        noise = torch.Generator(state.device).manual_seed(noise_seed(number))
        waits = distributed.no_sync() if distributed is not None and remaining else nullcontext()
        # The backward pass may recompute the forward one (gradient checkpointing), so it needs the same kernels.
        with waits, _attention(state.device):
            with autocast(state.device, machine.dtype):
                value, terms = loss(data, noise)
            state.scaler.scale(value / machine.accumulate).backward()
        # Figures are averaged over the passes of the step.
        for name, term in {"loss": value.detach(), **terms}.items():
            figures[name] = figures.get(name, 0.0) + float(term) / machine.accumulate

    # A step whose gradient is not finite is left out.
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.parameters, budget.max_grad_norm)
    if torch.isfinite(norm):
        state.scaler.step(state.optimizer)
        # The average follows the weights only when they have moved.
        state.ema.update(state.modules, state.step)
    state.scaler.update()
    # None frees the memory of the gradients until the next backward pass.
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return figures, float(norm)


def _module_groups(modules: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in module.parameters() if p.requires_grad], "scale": 1.0}
        for module in modules.values()
    ]


def _prefetched(
    batch: Callable[[int], Any], first: int, last: int, device: torch.device
) -> Iterator[tuple[int, Any]]:
    """Numbers and batches of the forward passes. A thread prepares each batch during the step before."""
    with ThreadPoolExecutor(1) as executor:
        # One batch is always in preparation.
        pending = executor.submit(batch, first)
        for number in range(first, last):
            data = _to(pending.result(), device)
            if number + 1 < last:
                pending = executor.submit(batch, number + 1)
            yield number, data


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, Tensor):
        # Copies from pinned memory overlap with computation.
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {key: _to(value, device) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(_to(value, device) for value in data)
    return data


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, plain attention: on sequences as short as the zoo's, the fused kernel takes 1.5 times as long."""
    if device.type == "cpu":
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain
    return nullcontext()
