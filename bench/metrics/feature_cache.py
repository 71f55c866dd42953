"""Rows of features, computed once and cached: in memory, and on disk across methods and runs."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bench.errors import BenchWarning
from bench.files import safe_part, write_atomic
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

T = TypeVar("T")


class FeatureCache:
    """Rows of float32 by space and key, in memory, and in files where a folder is given.

    A space is the name of a network and its preprocessing, a key the hash of an image or text. A file holds many
    rows, is written whole or not at all, and never changes, so that several runs may share a folder. The rows of a
    damaged file are computed again. A folder that cannot be written causes a warning, not an error.
    """

    def __init__(self, folder: Path | str | None = None, *, rows_per_file: int = 2048) -> None:
        self._folder = None if folder is None else Path(folder)
        self._rows_per_file = rows_per_file
        self._rows: dict[str, dict[str, Rows]] = {}
        self._unsaved: dict[str, list[str]] = {}

    def get(
        self,
        space: str,
        keys: Sequence[str],
        items: Sequence[T],
        compute: Callable[[Sequence[T]], Rows],
    ) -> Rows:
        """``(len(keys), D)``: cached rows, and for the items without one the rows of ``compute``.

        ``D`` is 0 for no keys.
        """
        rows = self._space(space)
        # Equal images in one call are computed once.
        missing: dict[str, T] = {}
        for key, item in zip(keys, items, strict=True):
            if key not in rows:
                missing.setdefault(key, item)
        if missing:
            values = np.asarray(compute(list(missing.values())), dtype=np.float32)
            if values.ndim != 2 or len(values) != len(missing):
                raise MetricError(f"{space}: features of shape {values.shape} for {len(missing)} images.")
            # Remembered in memory now, on disk at the next flush.
            rows.update(zip(missing, values, strict=True))
            self._unsaved.setdefault(space, []).extend(missing)
            if len(self._unsaved[space]) >= self._rows_per_file:
                self.flush()
        return self.remembered(space, keys)

    def missing(self, space: str, keys: Iterable[str]) -> set[str]:
        """The keys that have no row yet."""
        rows = self._space(space)
        return {key for key in keys if key not in rows}

    def remembered(self, space: str, keys: Sequence[str]) -> Rows:
        """``(len(keys), D)`` of rows that were computed before. Raises :class:`MetricError` where one was not."""
        rows = self._space(space)
        try:
            return np.stack([rows[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)
        except KeyError as error:
            raise MetricError(
                f"{space}: an image that was read before ({error}) has no features now. "
                "The images changed while they were scored. Score them again."
            ) from None

    def take(self) -> dict[str, dict[str, Rows]]:
        """All rows in memory, by space and key. The cache is empty then."""
        rows, self._rows, self._unsaved = self._rows, {}, {}
        return rows

    def add(self, rows: Mapping[str, Mapping[str, Rows]]) -> None:
        """Adds rows that another process has computed, as :meth:`take` gives them. A row that is there stays."""
        for space, by_key in rows.items():
            here = self._space(space)
            new = {key: row for key, row in by_key.items() if key not in here}
            here.update(new)
            self._unsaved.setdefault(space, []).extend(new)

    def flush(self) -> None:
        """Writes the rows that are in no file yet. Warns, and stops writing, where the folder cannot be written."""
        if self._folder is None:
            return
        for space, keys in self._unsaved.items():
            if not keys:
                continue
            # The name is a hash of the keys: two runs that write the same rows write the same file.
            buffer = io.BytesIO()
            rows = self._rows[space]
            np.savez(buffer, keys=np.array(keys), rows=np.stack([rows[key] for key in keys]))
            digest = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:24]
            try:
                write_atomic(self._folder / safe_part(space) / f"{digest}.npz", buffer.getvalue())
            except OSError as error:
                warnings.warn(
                    f"features are not kept on disk: {self._folder} cannot be written ({error.strerror}).",
                    BenchWarning,
                    stacklevel=2,
                )
                self._folder = None
                return
            keys.clear()

    def _space(self, space: str) -> dict[str, Rows]:
        """Rows of one space by key. Reads its files on first use."""
        if space not in self._rows:
            self._rows[space] = {}
            if self._folder is not None:
                for path in sorted((self._folder / safe_part(space)).glob("*.npz")):
                    self._rows[space].update(_read_rows(path))
        return self._rows[space]


def _read_rows(path: Path) -> dict[str, Rows]:
    try:
        # Never a pickle: the folder may be shared.
        with np.load(path, allow_pickle=False) as file:
            keys, rows = file["keys"], file["rows"]
        # Features that are not finite are computed again too.
        if (
            rows.ndim != 2
            or rows.dtype != np.float32
            or len(rows) != len(keys)
            or not np.isfinite(rows).all()
        ):
            return {}
        return dict(zip(keys.tolist(), rows, strict=True))
    except Exception:
        # Whatever a damaged file raises (zip, numpy, OS): its features are computed again.
        return {}
