"""Scores edits that are in memory. :mod:`bench.scoring` reads them and stores the scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.edit import EditRecord, ScoreRecord
from bench.metrics.types import (
    NO_MASK,
    OUTCOME,
    Metric,
    MetricBase,
    MetricError,
    NoValue,
    Pair,
    ReasonCode,
    Value,
)
from bench.stored_pairs import StoredPair

# -- values of pairs ----------------------------------------------------------------------------


def compute(metric: Metric, pairs: Sequence[Pair]) -> list[tuple[float | None, str | None]]:
    """``(value, reason)`` of each pair. Exactly one of the two is None.

    The metric never gets a pair that lacks what it needs. Where it raises, the pairs are scored again in halves. So
    one bad pair loses only its own value, and a batch that is too large for memory loses none.
    """
    scores: list[tuple[float | None, str | None]] = [(None, unmet_need(metric, pair)) for pair in pairs]
    # Only pairs that have everything the metric needs.
    complete = [index for index, (_, reason) in enumerate(scores) if reason is None]
    values = _values_of(metric, [pairs[index] for index in complete])
    for index, value in zip(complete, values, strict=True):
        scores[index] = _checked(value, metric.unit)
    return scores


def unmet_need(metric: MetricBase | type[MetricBase], pair: Pair) -> str | None:
    """Reason why the pair lacks what the metric needs. None where it has all."""
    for need in sorted(metric.needs):
        # A need is the name of a field of Pair, which the registry checks.
        value = getattr(pair, need)
        # Every region needs a prompt of its own.
        if need == "region_prompt" and pair.areas:
            empty = not all(area.prompt for area in pair.areas)
        elif need == "mask":
            empty = pair.mask is None or not pair.mask.any()
        else:
            empty = not value
        if empty:
            return f"the case has no {need.replace('_', ' ')}"
    return None


def _values_of(metric: Metric, pairs: Sequence[Pair]) -> list[Value]:
    if not pairs:
        return []
    try:
        values = list(metric.score(pairs))
        if len(values) != len(pairs):
            raise ValueError(f"{len(values)} values for {len(pairs)} edits")
    except MetricError:
        raise
    except (Exception, SystemExit) as error:
        # SystemExit too: a metric that calls sys.exit loses its value and does not end the scoring.
        if len(pairs) == 1:
            return [NoValue(ReasonCode.ERROR.text(f"{type(error).__name__}: {error}"))]
        # Halves isolate one bad pair in about log2(n) calls, and reach a batch that fits into memory.
        middle = len(pairs) // 2
        return _values_of(metric, pairs[:middle]) + _values_of(metric, pairs[middle:])
    return values


def _checked(value: Value, unit: str) -> tuple[float | None, str | None]:
    """``(value, reason)`` as they are stored, whatever a third party's metric returned."""
    if value is None:
        return None, "the metric gave no value"
    if isinstance(value, NoValue):
        if isinstance(value.reason, str) and value.reason.strip():
            return None, value.reason
        return None, ReasonCode.ERROR.text("NoValue without a text that says why")
    try:
        # Numbers of any library (numpy, torch) count, as far as Python can convert them.
        number = float(value)
    except OverflowError:
        return None, ReasonCode.ERROR.text("a number too large to be stored")
    except Exception:  # whatever a third party's value raises when it is converted
        description = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        return None, ReasonCode.ERROR.text(f"not a number ({description:.80})")
    if not math.isfinite(number):
        return None, f"not a finite number ({number})"
    if unit == OUTCOME and number not in (0.0, 1.0):
        return None, ReasonCode.ERROR.text(f"{number:g}, where the metric's unit {OUTCOME} declares 0 or 1")
    return number, None


# -- chunks of edits ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Variant:
    """A metric on raw or on composited edits."""

    metric: Metric
    composited: bool
    name: str
    """Name of the scores."""


def variants_of(metrics: Iterable[Metric]) -> list[Variant]:
    """Every metric on the raw edit and, where it declares so, on the composited one."""
    return [
        Variant(metric, composited, name) for metric in metrics for composited, name in metric.stored_names
    ]


def score_chunk(
    chunk: Sequence[StoredPair], todo: Mapping[str, Sequence[Variant]]
) -> list[list[ScoreRecord]]:
    """Computes the missing scores of each of these edits. ``todo`` has them by the digest of the edit's key."""
    # One batch per variant: the edits of the chunk that it has to score.
    scores: dict[int, list[ScoreRecord]] = defaultdict(list)
    batches: dict[Variant, list[tuple[int, Pair]]] = defaultdict(list)
    for index, (record, pair) in enumerate(chunk):
        for variant in todo[record.key.digest]:
            # An edit without a pair (failed, damaged, of another size) has the same reason for every metric.
            if isinstance(pair, NoValue):
                scores[index].append(score_record(record, variant, None, pair.reason))
            elif variant.composited and pair.mask is None:
                scores[index].append(score_record(record, variant, None, NO_MASK))
            else:
                batches[variant].append((index, pair))

    # All metrics score the same composited pair, so that its hash is computed once.
    composites: dict[int, Pair] = {}
    for variant, batch in batches.items():
        if variant.composited:
            for index, pair in batch:
                if index not in composites:
                    composites[index] = pair.composite()
            batch = [(index, composites[index]) for index, _ in batch]
        values = compute(variant.metric, [pair for _, pair in batch])
        for (index, _), (value, reason) in zip(batch, values, strict=True):
            scores[index].append(score_record(chunk[index][0], variant, value, reason))
    return [scores[index] for index in range(len(chunk))]


def score_record(
    record: EditRecord, variant: Variant, value: float | None, reason: str | None
) -> ScoreRecord:
    """The score of an edit, with its provenance. Exactly one of ``value`` and ``reason`` is None."""
    return ScoreRecord(
        record.key, variant.name, variant.metric.version, value, reason, edit=record.sha256 or ""
    )
