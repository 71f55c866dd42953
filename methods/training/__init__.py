"""The training loop of the project: resumable, averaged, logged, on one device or several.

A caller provides modules, a loss, and a function from the number of a forward pass to its batch. The batch and the
noise follow from that number alone, so a run that was interrupted and continued by the same call gives the same
weights as one that was not.

``samples`` always counts training examples and ``step`` counts updates of the weights. A step has
``Machine.accumulate`` forward passes.
"""

from __future__ import annotations

from methods.training.loop import Loss, TrainingResult, Weights, train
from methods.training.settings import (
    Budget,
    Machine,
    Precision,
    ProgressReport,
    Recording,
    TrainingError,
    autocast,
    budget_fields,
    silent,
)
from methods.training.state import Ema

__all__ = [
    "Budget",
    "Ema",
    "Loss",
    "Machine",
    "Precision",
    "Recording",
    "ProgressReport",
    "TrainingError",
    "TrainingResult",
    "Weights",
    "autocast",
    "budget_fields",
    "silent",
    "train",
]
