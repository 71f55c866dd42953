"""A training job of the zoo: the inputs that all recipes share, and the card that each writes."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from methods import low_rank
from methods.training import Budget, Machine, ProgressReport, TrainingResult, budget_fields, silent
from methods.zoo.corpus import Corpus
from methods.zoo.manifest import CHECKPOINTS, write_manifest
from methods.zoo.recipes import recipe_samples

if TYPE_CHECKING:
    from methods.zoo.data import World

# Edits that the recipes learn from.
CORPUS = 64_000
# Held-out images or edits behind each figure of a card.
HELD_OUT = 1_000
# The checkpoint that the diffusion editors start from.
BASE = "text_to_image"


@dataclass(frozen=True)
class Job:
    """One training: a world, a working folder and a machine. The command line, tests and a GPU use the same recipes."""

    world: World
    # Working folder of the training. The corpus lies beside it, so that recipes share it.
    work: Path
    # None is the recipe's own budget.
    budget: Budget | None = None
    machine: Machine = field(default_factory=Machine)
    report: ProgressReport = silent
    # Folder of the checkpoints.
    root: Path = CHECKPOINTS
    # Start from the weights in ``root`` instead of from scratch.
    warm: bool = False
    # Edits in the corpus.
    corpus: int = CORPUS
    # Weights at the start, order of the data, and noise. Recipes of ``experiments`` use it, the others have one seed.
    seed: int = 0

    def edits(self) -> Corpus:
        """The corpus, with its images rendered."""
        # A corpus serves all recipes of the same parent folder.
        corpus = Corpus(self.world, self.work.parent / "corpus", self.corpus)
        corpus.render(self.progress("edits rendered"))
        return corpus

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A progress function (done, total) that reports under ``label``."""
        return lambda done, total: self.report(done, total, {label: float(done)})

    def figures(self, measure: Callable[[World], Mapping[str, float]]) -> dict[str, float]:
        """Held-out figures of the world, and of each level (``level_N_NAME``) of a world that has several."""
        figures, levels = dict(measure(self.world)), self.world.by_level()
        for level, part in levels.items() if len(levels) > 1 else ():
            figures |= {f"level_{level}_{name}": value for name, value in measure(part).items()}
        return figures

    def write_card(
        self,
        folder: Path,
        result: TrainingResult,
        budget: Budget,
        figures: Mapping[str, float],
        stage: str = "",
        warm: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write ``card.json`` and the manifest. Returns the folder.

        ``stage`` names a part of the checkpoint that was trained by itself. The card lists all stages: a part that was
        trained again replaces its stage, and a warm start adds one. ``options`` are settings of the recipe that this
        training chose.
        """
        path = folder / "card.json"
        # This training.
        entry = {
            "recipe": stage or folder.name,
            "samples": result.samples,
            "hours": round(result.seconds / 3600, 3),
            "budget": budget_fields(budget),
            "machine": describe(self.machine),
            "date": time.strftime("%Y-%m-%d"),
            "training_figures": {name: round(value, 5) for name, value in result.figures.items()},
            **({"options": dict(options)} if options else {}),
        }
        # Earlier stages of the same checkpoint.
        # A warm start continues the stage, so both of its trainings count.
        stages = [s for s in stages_of(folder) if warm or (stage and s["recipe"] != stage)]
        # The card of the whole checkpoint.
        card = {
            "name": folder.name,
            "data": f"mini world {self.world.version}, rendered by protocols.world; held-out seeds for the figures",
            "license": "Apache-2.0",
            "parameters": _parameters(folder),
            **_stored(folder),
            "stages": [*stages, entry],
            # Of any seed: the seeds of a recipe have one budget.
            "recipe_samples": dict(recipe_samples(folder.name.partition("_seed")[0])),
            "held_out": {name: round(value, 4) for name, value in figures.items()},
            "packages": {"torch": torch.__version__, "diffusers": version("diffusers")},
        }
        path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        # Before the manifest, which holds the hashes of these files.
        _remove_origins(folder)
        write_manifest(self.root)
        return folder


def stages_of(folder: Path) -> list[dict[str, Any]]:
    """The trainings that the card of a checkpoint lists. Empty without a card."""
    path = folder / "card.json"
    stages: list[dict[str, Any]] = []
    if path.exists():
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return stages


def _remove_origins(folder: Path) -> None:
    """Remove from the configurations the path that a warm start loaded them from."""
    # A path of one machine would change the digest of the checkpoint.
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stored(folder: Path) -> dict[str, str]:
    """The card's field on the storage of a checkpoint that needs a base. Empty for a complete one."""
    if not any(low_rank.stored(part) for part in folder.iterdir() if part.is_dir()):
        return {}
    return {"stored": f"differences of low rank from {BASE}; parameters are those of the factors"}


def _parameters(folder: Path) -> int:
    """Number of values in the folder's own weight files. Shared parts count where they are stored."""
    from safetensors import safe_open

    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            # The file is no mapping, so it has no shorter way to its names.
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def describe(machine: Machine) -> str:
    """The hardware and precision of a training, for its card."""
    precision = "float32" if machine.dtype == torch.float32 else f"{str(machine.dtype)[6:]} autocast"
    if machine.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, {precision}"
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} threads, {precision}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
