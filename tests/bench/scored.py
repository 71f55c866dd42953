"""A run folder of small edits and metrics of their pixels, for tests of scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.casefile import protocol_info
from bench.edit import EditCase, EditKey, EditRecord, MethodSpec
from bench.images import from_array
from bench.metrics import Metric, Pair, SetMetric, SetValue
from bench.store import RunStore
from tests.bench.fakes import Fakes, noise

COUNT = 8
SPEC = MethodSpec("fake")
OTHER = MethodSpec("fake", {"strength": 0.5})


class Mean(Metric):
    """A third-party metric, as the documentation shows it, that writes down what it is asked."""

    name = "mean"
    version = "1"
    unit = "0..1"
    higher_is_better = True
    needs: frozenset[str] = frozenset()
    summary = "mean of the edited image"
    composited = True

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def score(self, pairs: Sequence[Pair]) -> list[Any]:
        self.batches.append([pair.case for pair in pairs])
        return [float(pair.edited.pixels.mean()) / 255 for pair in pairs]

    @property
    def total(self) -> int:
        return sum(map(len, self.batches))


def key(case: str, method: MethodSpec = SPEC) -> EditKey:
    return EditKey("fakes", "1", method.digest, case, 0)


def add_edits(store: RunStore, cases: Sequence[EditCase], method: MethodSpec = SPEC) -> None:
    records = []
    for case in cases:
        file = store.edit_file("fakes", method, case.id)
        sha256 = store.write_edit(file, noise(f"{method.digest}{case.id}", 32))
        records.append(EditRecord(key(case.id, method), file, sha256, 0.1))
    store.append_edits(records)


def by_case(store: RunStore, metric: str, method: MethodSpec = SPEC) -> dict[str, Any]:
    frame = store.scores()
    frame = frame[(frame["metric"] == metric) & (frame["method"] == method.digest)]
    return {
        row["case"]: row["value"] if row["value"] == row["value"] else row["reason"]
        for row in frame.to_dict("records")
    }


def replace_edit(store: RunStore, case: str, level: int) -> None:
    """The edit made again, with another picture: one gray level."""
    file = store.edit_file("fakes", SPEC, case)
    sha256 = store.write_edit(file, from_array(np.full((32, 32, 3), level, np.uint8)))
    store.append_edits([EditRecord(key(case), file, sha256, 0.1)])


class Distance(SetMetric):
    """A metric of sets: the difference of the means."""

    name = "distance"
    version = "1"
    unit = "0..255"
    higher_is_better = False
    summary = "difference of the means"
    composited = True

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.clusters: list[list[str]] = []

    def score_set(self, edited: Any, reference: Any, clusters: Any = None) -> SetValue:
        self.sizes.append((len(edited), len(reference)))
        self.clusters.append(list(clusters))
        means = [np.mean([p.pixels.mean() for p in side]) if side else 0.0 for side in (edited, reference)]
        return SetValue(float(means[0] - means[1]), len(edited), len(reference), warning="few")


def real() -> Iterator[Any]:
    return iter([noise(f"real{i}", 32) for i in range(5)])


@contextmanager
def scored_run(path: Path, cases: Sequence[EditCase]) -> Iterator[RunStore]:
    """A run folder with one edit of every case by ``SPEC``."""
    with RunStore.open(path, create=True) as store:
        info = protocol_info(Fakes(Fakes.Options(count=len(cases))))
        store.configure(protocols={"fakes": info}, methods=[SPEC, OTHER])
        store.write_cases(cases, info)
        add_edits(store, cases)
        yield store
