"""Files of a training: checkpoints and the log."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from bench.files import atomic_folder, write_atomic
from methods.training.settings import Recording, TrainingError
from methods.training.state import TrainingState


class Checkpoints:
    """Files of the states: ``last.pt``, or ``checkpoint-<step>/state.pt``, of which the last ``keep`` stay.

    A checkpoint has its final name only when it is complete.
    """

    def __init__(self, folder: Path, recording: Recording) -> None:
        self.folder, self.recording = folder, recording
        self.saved_step, self.saved_at = -1, time.monotonic()

    def load(self, state: TrainingState) -> None:
        """Restore the last checkpoint, where there is one."""
        folders = self._folders()
        # Runs that save by steps have folders, the others one file.
        path = folders[-1] / "state.pt" if folders else self.folder / "last.pt"
        if path.exists():
            state.load(path)
            self.saved_step = state.step

    def due(self, step: int) -> bool:
        if self.recording.save_steps:
            return step % self.recording.save_steps == 0
        return time.monotonic() - self.saved_at > self.recording.save_seconds

    def save(self, state: TrainingState) -> None:
        # A finished run has nothing new to save.
        if state.step == self.saved_step:
            return
        if self.recording.save_steps:
            path = self.folder / f"checkpoint-{state.step:07d}"
            shutil.rmtree(path, ignore_errors=True)
            with atomic_folder(path) as temporary:
                state.save(temporary / "state.pt")
            # Rotation: the oldest folders go.
            for old in self._folders()[: -self.recording.keep]:
                shutil.rmtree(old)
        else:
            state.save(self.folder / "last.pt")
        self.saved_step, self.saved_at = state.step, time.monotonic()

    def _folders(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        # The step is the number in the name. Other files in the folder are ignored.
        numbers = {path: path.name.removeprefix("checkpoint-") for path in self.folder.glob("checkpoint-*")}
        return sorted(
            (path for path, n in numbers.items() if n.isdigit()), key=lambda path: int(numbers[path])
        )


class TrainingLog:
    """``log.csv``, cut back to the step that the run resumes from, and TensorBoard beside it if requested."""

    def __init__(self, folder: Path, recording: Recording, step: int, samples: int) -> None:
        self.path, self.columns, self.board = folder / "log.csv", [""], None
        if self.path.exists():
            self._cut({"step": step, "samples": samples})
        if recording.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError(
                    "log tensorboard needs the package tensorboard: pip install tensorboard, or use log csv"
                ) from error
            # Purging removes the points of steps that are made again.
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def _cut(self, position: Mapping[str, int]) -> None:
        """Drop the lines after ``position``: the steps that they describe are made again."""
        with self.path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[""]]
        # The first column counts steps, or samples in logs of earlier versions.
        last = position.get(header[0], 0)
        rows = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= last]
        if not rows:
            self.path.unlink()
            return
        self.columns = header
        # Rewrite the file with the lines that stay.
        text = StringIO(newline="")
        csv.writer(text).writerows([header, *rows])
        write_atomic(self.path, text.getvalue().encode())

    def write(self, line: Mapping[str, float]) -> None:
        new = not self.path.exists()
        if new:
            self.columns = list(line)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            # A log keeps the columns that it began with.
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(
                {name: value if isinstance(value, int) else f"{value:.7g}" for name, value in line.items()}
            )
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, int(line["step"]))
