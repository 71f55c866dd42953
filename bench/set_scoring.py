"""Scores sets of stored edits against a protocol's real images (FID and similar metrics).

A set contains all edits of one method on one protocol, or those of one category. Images are decoded a few at a time,
because a set may be larger than memory. Each image is decoded once and passed to every metric, which keeps what it
needs of it. An image of which a metric has kept nothing is decoded again.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bench.edit import ALL, EditRecord
from bench.metrics.streams import Fingerprint, ImageStream, batches
from bench.metrics.types import NO_MASK, Pair, ReasonCode, RgbImage, SetMetric, SetValue
from bench.progress import Progress
from bench.scoring_workers import ScoringWorkers
from bench.store import RunStore, SetScore, StoreError, set_inputs
from bench.stored_pairs import ScoringOptions, ScoringSummary, pairs_in_chunks

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.casefile import CaseFile
    from bench.metrics.features import Features

T = TypeVar("T")

References = Mapping[str, Callable[[], Iterable["Image"]]]
"""Protocol name -> function that returns its real images, as ``EditProtocol.reference``."""


@dataclass(frozen=True)
class SetScoreRecord(SetScore):
    """A stored set score with its provenance."""

    n_reference: int = 0
    """Number of real images."""
    failed: int = 0
    """Edits of this method and category that do not exist. ``n`` does not count them."""
    warning: str | None = None
    inputs: str = ""
    """Digest of the edits and of the protocol whose real images were compared."""


@dataclass(frozen=True)
class _SetTask:
    """One set score to compute."""

    metric: SetMetric
    composited: bool
    # Name of the score.
    name: str
    protocol: str
    protocol_version: str
    method: str
    category: str
    # All edits of the category, failed ones included.
    records: Sequence[EditRecord]
    # Case id -> source id.
    sources: Mapping[str, str]
    # Case ids without a mask, neither for the method nor for metrics.
    unmasked: Set[str]
    inputs: str


def score_sets(
    store: RunStore,
    records: Sequence[EditRecord],
    metrics: Sequence[SetMetric],
    features: Features | None,
    references: References,
    options: ScoringOptions,
    progress: Progress,
    summary: ScoringSummary,
    workers: ScoringWorkers | None = None,
) -> None:
    """Computes and stores every set score of these edits that is not stored yet, method by method.

    ``workers`` compute the features of images.
    """

    def shown(batches: Iterable[_DecodedBatch]) -> Iterator[_DecodedBatch]:
        """The same batches, each once its metrics have got the images."""
        if workers is not None:
            batches = workers.see(batches, lambda batch: (batch.metrics, batch.images), progress.note)
        for batch in batches:
            _show(batch)
            yield batch

    # Set scores to compute, by protocol: its real images serve all methods.
    todo = _tasks(store, metrics, records, summary)
    if not todo:
        return
    progress.start(len(todo), "scoring sets")
    for protocol, tasks in _grouped(todo, lambda task: task.protocol).items():
        # Real images, once per protocol.
        real: ImageStream | None = None
        # The reason of every set of a protocol without real images.
        problem = "no real images were given for this protocol"
        if protocol in references:
            try:
                real = _read_reference(references[protocol], _metrics_of(tasks), options, shown)
            except Exception as error:  # one bad file must not end the scoring
                problem = ReasonCode.ERROR.text(f"the real images cannot be read: {error}")

        # Values, written to disk after each method.
        for of_method in _grouped(tasks, lambda task: task.method).values():
            fingerprints = _read_edits(store, of_method, options, shown if real is not None else iter)
            scores = []
            for task in of_method:
                score = _score_task(store, task, fingerprints[task.composited], real, problem)
                summary.count(score.value, score.reason)
                if score.warning and score.warning not in summary.warnings:
                    summary.warnings.append(score.warning)
                scores.append(score)
                progress.advance()
            # A method at a time: an interrupted run goes on with the next method.
            store.append_set_scores(scores)
            if features is not None:
                features.flush()


def _grouped(tasks: Iterable[_SetTask], key: Callable[[_SetTask], str]) -> dict[str, list[_SetTask]]:
    groups: dict[str, list[_SetTask]] = defaultdict(list)
    for task in tasks:
        groups[key(task)].append(task)
    return groups


# -- what is to be scored -----------------------------------------------------------------------


def _tasks(
    store: RunStore,
    metrics: Sequence[SetMetric],
    records: Sequence[EditRecord],
    summary: ScoringSummary,
) -> list[_SetTask]:
    """Every set score that is not stored for the same edits, real images and version."""
    if not metrics:
        return []
    stored = {
        (row["protocol"], row["protocol_version"], row["method"], row["category"], row["metric"]): row
        for row in store.set_scores().to_dict("records")
    }
    # A set is of one method on one version of one protocol.
    edits: dict[tuple[str, str, str], list[EditRecord]] = defaultdict(list)
    for record in records:
        edits[record.key.protocol, record.key.protocol_version, record.key.method].append(record)
    todo = []
    for (protocol, version, method), of_method in edits.items():
        # The method's edits of all categories, and of each.
        rows = store.cases(protocol).rows
        categories = {row["id"]: row["category"] for row in rows}
        sources = {row["id"]: row["source_id"] for row in rows}
        unmasked = {row["id"] for row in rows if not (row["scored"] or row)["mask"]}
        sets: dict[str, list[EditRecord]] = {ALL: list(of_method)}
        for record in of_method:
            sets.setdefault(categories.get(record.key.case, ""), []).append(record)

        protocol_digest = store.manifest["protocols"].get(protocol, {}).get("digest", "")
        for category, chosen in sets.items():
            # A digest of edits and real images tells whether a stored score is still that of these sets.
            inputs = set_inputs(protocol_digest, (record.sha256 for record in chosen))
            for metric in metrics:
                for composited, name in metric.stored_names:
                    task = _SetTask(
                        *(metric, composited, name, protocol, version, method, category),
                        *(chosen, sources, unmasked, inputs),
                    )
                    row = stored.get((protocol, version, method, category, name))
                    if row is not None and _is_current(row, task):
                        summary.skipped += 1
                    else:
                        todo.append(task)
    return todo


def _is_current(row: Mapping[Any, Any], task: _SetTask) -> bool:
    """True where a stored score is the task's result already. Scores without a value are computed again."""
    if row["metric_version"] != task.metric.version or isinstance(row.get("reason"), str):
        return False
    if isinstance(row.get("inputs"), str):
        return bool(row["inputs"] == task.inputs)
    # Runs of an earlier version store no digest of the inputs: the number of edits decides.
    return int(row["n"]) == sum(record.file is not None for record in task.records)


# -- images, decoded once and passed to every metric --------------------------------------------


@dataclass(frozen=True, eq=False)
class _DecodedBatch:
    """Decoded images, and the metrics that need them."""

    metrics: Sequence[SetMetric]
    images: Sequence[RgbImage]
    # Whether they are composited edits.
    composited: bool = False
    # Digests of the edits' keys, one per image. Empty for real images.
    digests: Sequence[str] = ()


# Yields the same batches, each once its metrics have got the images.
_Shown = Callable[[Iterable[_DecodedBatch]], Iterator[_DecodedBatch]]


def _metrics_of(tasks: Iterable[_SetTask]) -> list[SetMetric]:
    return list({id(task.metric): task.metric for task in tasks}.values())


def _read_reference(
    images: Callable[[], Iterable[Image]],
    metrics: Sequence[SetMetric],
    options: ScoringOptions,
    shown: _Shown,
) -> ImageStream:
    """Reads a protocol's real images, passes each to every metric, and returns them as a stream."""
    # Later, only metrics that did not keep what they need read the images again.
    stream = ImageStream(lambda: map(RgbImage.of, images()))
    for _ in shown(_DecodedBatch(metrics, batch) for batch in _one_ahead(batches(stream, options.chunk))):
        pass
    return stream


def _read_edits(
    store: RunStore, tasks: Sequence[_SetTask], options: ScoringOptions, shown: _Shown
) -> dict[bool, dict[str, Fingerprint]]:
    """Fingerprints of one method's edits, raw (False) and composited (True), by key digest.

    An edit that does not exist has none. ``shown`` passes every edit to the metrics.
    """
    # The same edit is in the set of its category and in that of all categories: decode it once.
    records = list({record.key.digest: record for task in tasks for record in task.records}.values())
    fingerprints: dict[bool, dict[str, Fingerprint]] = {False: {}, True: {}}
    # (composited, the metrics that score this variant).
    variants = [
        (composited, _metrics_of(task for task in tasks if task.composited == composited))
        for composited in sorted({task.composited for task in tasks})
    ]

    def decoded() -> Iterator[_DecodedBatch]:
        for chunk in pairs_in_chunks(store, records, options):
            for composited, metrics in variants:
                # Without a mask, an edit cannot be composited.
                images = {
                    record.key.digest: (pair.composite() if composited else pair).edited
                    for record, pair in chunk
                    if isinstance(pair, Pair) and (pair.mask is not None or not composited)
                }
                yield _DecodedBatch(metrics, list(images.values()), composited, list(images))

    for batch in shown(decoded()):
        fingerprints[batch.composited].update(
            (digest, Fingerprint.of(image)) for digest, image in zip(batch.digests, batch.images, strict=True)
        )
    return fingerprints


def _show(batch: _DecodedBatch) -> None:
    for metric in batch.metrics:
        if batch.images:
            # A metric that fails here fails again in score_set, where the error is recorded.
            with suppress(Exception, SystemExit):
                metric.see(batch.images)


def _decode_edits(store: RunStore, records: Sequence[EditRecord], composited: bool) -> Iterator[RgbImage]:
    """Each record's edit, decoded again. Raises :class:`StoreError` for one that does not exist any more."""
    case_files: dict[str, CaseFile] = {}
    for record in records:
        edited = RgbImage.of(store.image(record))
        if composited:
            protocol = record.key.protocol
            if protocol not in case_files:
                case_files[protocol] = store.cases(protocol)
            # Composited: the mask comes from the case.
            edited = Pair.of_case(case_files[protocol].get(record.key.case), edited).composite().edited
        yield edited


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the same items. A thread computes the next one while the caller uses the current one."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item
            del item  # else two batches are in memory while the next one is awaited


# -- one value ----------------------------------------------------------------------------------


def _score_task(
    store: RunStore,
    task: _SetTask,
    fingerprints: Mapping[str, Fingerprint],
    real: ImageStream | None,
    problem: str,
) -> SetScoreRecord:
    """Computes one score. ``problem`` is its reason where there are no real images."""
    # Failed edits are counted and not compared.
    present = [record for record in task.records if record.key.digest in fingerprints]
    if task.composited and any(record.key.case in task.unmasked for record in task.records):
        # A set of some of the edits would be another set than that of the raw edits beside it.
        value = SetValue(None, 0, 0, NO_MASK)
        present = [record for record in task.records if record.file is not None]
    elif real is None:
        value = SetValue(None, len(present), 0, problem)
    else:
        edited = ImageStream(
            partial(_decode_edits, store, present, task.composited),
            [fingerprints[record.key.digest] for record in present],
        )
        # Edits of one source image are one cluster: they are left out together for the interval.
        clusters = [task.sources.get(record.key.case, record.key.case) for record in present]
        value = _set_value(task.metric, edited, real, clusters)
    return SetScoreRecord(
        protocol=task.protocol,
        protocol_version=task.protocol_version,
        method=task.method,
        category=task.category,
        metric=task.name,
        metric_version=task.metric.version,
        value=value.value,
        n=value.n,
        low=value.low,
        high=value.high,
        reason=value.reason,
        n_reference=value.n_reference,
        failed=sum(not record.is_refused for record in task.records) - len(present),
        warning=value.warning,
        inputs=task.inputs,
    )


def _set_value(
    metric: SetMetric, edited: ImageStream, real: ImageStream, clusters: Sequence[str]
) -> SetValue:
    try:
        value = metric.score_set(edited, real, clusters)
        problem = _malformed(value)
        if problem:
            raise TypeError(problem)
    except StoreError:
        raise
    except (Exception, SystemExit) as error:
        reason = ReasonCode.ERROR.text(f"{type(error).__name__}: {error}")
        return SetValue(None, len(edited), len(real), reason)
    return value


def _malformed(value: object) -> str:
    """Reason why an answer of a set metric cannot be stored. Empty where it can."""
    if not isinstance(value, SetValue):
        return f"it gave a {type(value).__name__}, where a SetValue is expected"
    # A plug-in may return anything: the store takes floats, whole numbers and texts.
    numbers = [number for number in (value.value, value.low, value.high) if number is not None]
    if not all(isinstance(number, (int, float)) for number in numbers):
        return "value, low or high is no float"
    if not all(abs(number) <= sys.float_info.max for number in numbers if isinstance(number, int)):
        return "value, low or high is too large to be stored"
    if not all(isinstance(count, int) for count in (value.n, value.n_reference)):
        return "n or n_reference is no whole number"
    if not all(isinstance(text, (str, type(None))) for text in (value.reason, value.warning)):
        return "reason or warning is no text"
    return ""
