"""Scores in worker processes: each has its own networks. The driver reads the images and stores the scores.

A worker forgets what it has computed after each batch, and gives its features to the driver. So a score depends on its
own batch alone: neither on the number of workers nor on which of them were lost. A single process remembers features
from batch to batch instead. Rounding depends on the place in a network's batch, so scores of networks may differ from
those of a single process in their last bits (about 1e-7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.edit import ScoreRecord
from bench.edit_scoring import Variant, score_chunk, score_record, variants_of
from bench.metrics.choice import construct
from bench.metrics.types import Metric, MetricBase, ReasonCode, RgbImage, SetMetric
from bench.stored_pairs import StoredPair
from bench.workers import Workers

if TYPE_CHECKING:
    from bench.metrics.features import FeatureNews, Features

T = TypeVar("T")

Note = Callable[[str], object]
"""Takes a message that the user should read."""

MakeFeatures = Callable[[str, Path | None], "Features"]
"""Device and cache folder -> the networks. It can be pickled."""


@dataclass(frozen=True, eq=False)
class _EditToScore:
    """An edit on its way to a worker."""

    pair: StoredPair
    # Names of its missing scores.
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class _ImageToSee:
    """An image of a set on its way to a worker."""

    image: RgbImage
    # Names of the metrics that need its features.
    names: Sequence[str]


class _ScoringWork:
    """The metrics in a worker."""

    def __init__(self, classes: Sequence[type[MetricBase]], make_features: MakeFeatures, device: str) -> None:
        # No cache folder: the driver alone writes.
        self._features = make_features(device, None)
        metrics = [construct(cls, self._features, cls.name) for cls in classes]
        self._variants = {
            variant.name: variant for variant in variants_of(m for m in metrics if isinstance(m, Metric))
        }
        self._set_metrics = {metric.name: metric for metric in metrics if isinstance(metric, SetMetric)}

    def __call__(self, batch: Sequence[_EditToScore | _ImageToSee]) -> tuple[Sequence[object], FeatureNews]:
        """The scores of each edit, or None for each image, and all features that were computed."""
        edits = [item for item in batch if isinstance(item, _EditToScore)]
        images = [item for item in batch if isinstance(item, _ImageToSee)]
        results: Sequence[object] = [None] * len(images)
        if edits:
            todo = {edit.pair[0].key.digest: [self._variants[name] for name in edit.names] for edit in edits}
            results = score_chunk([edit.pair for edit in edits], todo)
        for name in images[0].names if images else ():
            # A metric that fails here fails again in the driver, where the error is recorded.
            with suppress(Exception, SystemExit):
                self._set_metrics[name].see([item.image for item in images])
        return results, self._features.take()


def scoring_workers(
    workers: Workers | None,
    metrics: Sequence[Metric | SetMetric],
    features: Features,
    make_features: MakeFeatures,
) -> ScoringWorkers | None:
    """The workers of one run of scoring. None where this process scores."""
    return None if workers is None else ScoringWorkers(workers, metrics, features, make_features)


class ScoringWorkers:
    """The workers of one run of scoring. They load the metrics on first use."""

    def __init__(
        self,
        workers: Workers,
        metrics: Sequence[Metric | SetMetric],
        features: Features,
        make_features: MakeFeatures,
    ) -> None:
        """``features`` are those of this process, which get all features that workers compute."""
        self._workers = workers
        self._features = features
        self._make = partial(_ScoringWork, [type(metric) for metric in metrics], make_features)
        self._is_loaded = False

    def scores(
        self, chunks: Iterable[Sequence[StoredPair]], todo: Mapping[str, Sequence[Variant]], note: Note
    ) -> Iterator[list[list[ScoreRecord]]]:
        """The missing scores of each edit, chunk by chunk, as :func:`bench.edit_scoring.score_chunk` gives them."""

        def lost(item: _EditToScore, error: str) -> list[ScoreRecord]:
            record = item.pair[0]
            reason = ReasonCode.ERROR.text(error)
            return [score_record(record, variant, None, reason) for variant in todo[record.key.digest]]

        batches = (
            [_EditToScore(pair, [variant.name for variant in todo[pair[0].key.digest]]) for pair in chunk]
            for chunk in chunks
        )
        self._load(note)
        for reply in self._workers.map(batches, lost, note):
            self._add(reply.asides)
            yield reply.results

    def see(
        self,
        batches: Iterable[T],
        content: Callable[[T], tuple[Iterable[SetMetric], Sequence[RgbImage]]],
        note: Note,
    ) -> Iterator[T]:
        """Yields the same batches, each once this process has its features. ``content``: its metrics and images."""
        sent: deque[T] = deque()

        def items() -> Iterator[list[_ImageToSee]]:
            for batch in batches:
                sent.append(batch)
                metrics, images = content(batch)
                names = [metric.name for metric in metrics if metric.uses_features]
                yield [_ImageToSee(image, names) for image in images if names]

        self._load(note)
        # An image that ends every worker has no features. The driver computes them.
        for reply in self._workers.map(items(), lambda item, error: None, note):
            self._add(reply.asides)
            yield sent.popleft()

    def _load(self, note: Note) -> None:
        if not self._is_loaded:
            self._workers.load(self._make, note)
            self._is_loaded = True

    def _add(self, news: Sequence[FeatureNews]) -> None:
        for part in news:
            self._features.add(part)
