"""Scores stored edits. It never makes an edit.

A score that is stored already, for the same image and the same version of the metric, is skipped, so that the same
command resumes. Edits are scored source by source: the features of a source are computed once for all methods.

Metrics of single edits score the raw edit. Those that declare ``composited`` also score the composited edit, under
``<name>_pasted``. Leakage metrics do not, because a composited edit has no change outside the mask.
``bench.set_scoring`` scores sets.

A value that could not be computed is None with a reason, never 0. :class:`~bench.metrics.types.ReasonCode` says which
reasons the next run tries again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.edit import EditKey, EditRecord, ScoreRecord
from bench.edit_scoring import Variant, compute, score_chunk, unmet_need, variants_of
from bench.metrics.choice import (
    MetricChoice,
    choose_metrics,
    embedded_reason,
    load_metrics,
    metric_registry,
    refusal,
)
from bench.metrics.types import (
    NO_MASK,
    Metric,
    MetricBase,
    MetricError,
    Pair,
    ReasonCode,
    RgbImage,
    SetMetric,
)
from bench.progress import Progress, Silent
from bench.registry import Registry
from bench.scoring_workers import ScoringWorkers
from bench.set_scoring import References, score_sets
from bench.store import RunStore
from bench.stored_pairs import ScoringOptions, ScoringSummary, pairs_in_chunks

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.metrics.features import Features


# -- one pair ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScore:
    """The result of one metric for one pair."""

    value: float | None
    reason: str | None
    unit: str
    higher_is_better: bool | None
    summary: str


def score_pair(
    source: Image,
    edited: Image,
    mask: Image | None,
    *,
    features: Features,
    source_prompt: str = "",
    target_prompt: str = "",
    region_prompt: str = "",
    names: Sequence[str] | None = None,
    rendered: bool = False,
    registry: Registry | None = None,
) -> dict[str, PairScore]:
    """Scores one pair: ``RGB`` images and an ``L`` mask of one size, or None without a mask.

    ``names`` None computes every metric of single edits whose prompts were given. A metric whose weights are missing
    then has None with the reason. ``rendered`` says that the images show the rendered world, so that embedded
    networks may score them. Raises :class:`MetricError` for sizes that differ, and for a metric in ``names`` that
    cannot be computed.
    """
    from bench.images import mask_array

    registry = registry or metric_registry()
    pair = Pair(
        source=RgbImage.of(source),
        edited=RgbImage.of(edited),
        mask=None if mask is None else mask_array(mask),
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        region_prompt=region_prompt,
    )

    # Metrics: those requested, or all that fit the pair.
    scores: dict[str, PairScore] = {}
    if names is not None:
        if not rendered:
            # Networks that have seen only the rendered world must not score photographs.
            embedded = [name for name in names if registry.load(name).embedded]
            if embedded:
                remedy = "If the images are of the rendered world, pass rendered=True."
                raise refusal({name: [f"{embedded_reason(name)} {remedy}"] for name in embedded})
        # Checked before weights, so that nobody fetches an Inception for one pair.
        for name in names:
            if registry.load(name).kind != "edit":
                raise MetricError(
                    f"{name} compares sets of images. It has no value for one pair. Score a suite instead."
                )
        choice = MetricChoice(list(names))
    else:
        choice = choose_metrics(features, rendered=rendered, registry=registry)
        choice.names[:] = [name for name in choice.names if _fits(registry.load(name), pair)]

    # Values of the raw and, where declared, of the composited edit.
    for metric in load_metrics(choice.names, features, registry):
        assert isinstance(metric, Metric)  # sets are refused above
        for composited, name in metric.stored_names:
            # composite(): the source outside the mask.
            value: float | None = None
            reason: str | None = NO_MASK
            if pair.mask is not None or not composited:
                value, reason = compute(metric, [pair.composite() if composited else pair])[0]
            scores[name] = PairScore(value, reason, metric.unit, metric.higher_is_better, metric.summary)

    # Reasons of metrics that cannot be computed here.
    for name, reasons in choice.left_out.items():
        cls = registry.load(name)
        if _fits(cls, pair):
            # Alone it stays as it is: metrics that lack the same files are listed together, with one command.
            reason = reasons[0] if len(reasons) == 1 else " ".join(reasons)
            scores[name] = PairScore(None, reason, cls.unit, cls.higher_is_better, cls.summary)
    features.flush()
    return scores


def _fits(cls: type[MetricBase], pair: Pair) -> bool:
    """True where the metric scores single edits and the pair has all that it needs."""
    return cls.kind == "edit" and unmet_need(cls, pair) is None


# -- a whole run --------------------------------------------------------------------------------


def score_run(
    store: RunStore,
    metrics: Sequence[Metric | SetMetric],
    *,
    features: Features | None = None,
    references: References | None = None,
    protocols: Collection[str] | None = None,
    options: ScoringOptions | None = None,
    progress: Progress | None = None,
    workers: ScoringWorkers | None = None,
) -> ScoringSummary:
    """Scores every stored edit by every metric that has not scored it yet, and writes the scores.

    ``workers`` compute the scores of edits and the features of sets, where they are given. This process reads, writes,
    and computes distances between sets.

    ``references`` gives the real images of each protocol, for metrics of sets. ``protocols`` restricts scoring to
    edits of these protocols. ``features`` is the object that the metrics were constructed with. Its disk cache is
    written together with the scores. Raises :class:`~bench.store.StoreError` for a run folder that cannot be read or
    written. Stored scores stay.
    """
    options, progress = options or ScoringOptions(), progress or Silent()
    summary = ScoringSummary()
    # Metrics of single edits are computed first, then metrics of sets.
    edit_metrics = [metric for metric in metrics if isinstance(metric, Metric)]
    set_metrics = [metric for metric in metrics if isinstance(metric, SetMetric)]
    try:
        records = [r for r in store.edits() if protocols is None or r.key.protocol in protocols]
        # Edits whose files were deleted keep their scores, but these cannot be verified any more.
        missing = [r.file for r in records if r.file is not None and not (store.path / r.file).is_file()]
        if missing:
            summary.warnings.append(
                f"{len(missing)} edits have no file any more (such as {missing[0]}): their scores cannot be verified. "
                "Run the suite again."
            )
        _score_edits(store, records, edit_metrics, features, options, progress, summary, workers)
        if features is not None:
            summary.warnings += features.cut_prompts()
        score_sets(
            store, records, set_metrics, features, references or {}, options, progress, summary, workers
        )
    finally:
        # Computed features are saved even when scoring is interrupted.
        progress.stop()
        if features is not None:
            features.flush()
    return summary


def _score_edits(
    store: RunStore,
    records: Sequence[EditRecord],
    metrics: Sequence[Metric],
    features: Features | None,
    options: ScoringOptions,
    progress: Progress,
    summary: ScoringSummary,
    workers: ScoringWorkers | None,
) -> None:
    # Scores that are not stored yet, by the edit's key.
    variants = variants_of(metrics)
    done = _stored_scores(store, {record.key.digest for record in records if record.file is not None})
    todo: dict[str, list[Variant]] = {}
    for record in records:
        digest = record.key.digest
        # A score is identified by edit, name and version: a new version of a metric is scored again.
        pending = [v for v in variants if (digest, v.name, v.metric.version) not in done]
        summary.skipped += len(variants) - len(pending)
        if pending:
            todo[digest] = pending
    if not todo:
        return

    def save() -> None:
        store.append_scores(unsaved)
        unsaved.clear()
        if features is not None:
            features.flush()

    # Chunks of edits, decoded ahead.
    progress.start(len(todo), "scoring edits")
    unsaved: list[ScoreRecord] = []
    edits_since_save = 0
    todo_records = [record for record in records if record.key.digest in todo]
    chunks = pairs_in_chunks(store, todo_records, options)
    scored: Iterable[list[list[ScoreRecord]]] = (score_chunk(chunk, todo) for chunk in chunks)
    if workers is not None:
        scored = workers.scores(chunks, todo, progress.note)
    for scores_of_edits in scored:
        for scores in scores_of_edits:
            for score in scores:
                summary.count(score.value, score.reason)
            unsaved += scores
        edits_since_save += len(scores_of_edits)
        progress.advance(len(scores_of_edits))
        # Each save is one more file: not after every chunk.
        if edits_since_save >= options.save_every:
            save()
            edits_since_save = 0
    save()


def _stored_scores(store: RunStore, edited: set[str]) -> set[tuple[str, str, str]]:
    """``(key digest, metric name, metric version)`` of stored scores that need not be computed again.

    ``edited``: digests of the keys that have an edit by now.
    """
    frame = store.scores()
    digests: dict[tuple[Any, ...], str] = {}
    done = set()
    # Lists of columns: much faster than the rows of a data frame.
    columns = [frame[name].tolist() for name in ("protocol", "protocol_version", "method", "case", "seed")]
    reasons = frame["reason"].astype(object).where(frame["reason"].notna(), "").tolist()
    for *place, metric, version, reason in zip(
        *columns, frame["metric"].tolist(), frame["metric_version"].tolist(), reasons, strict=True
    ):
        key = tuple(place)
        # The digest of an edit's key is computed once for all of its scores.
        if key not in digests:
            protocol, protocol_version, method, case, seed = place
            digests[key] = EditKey(protocol, protocol_version, method, case, int(seed)).digest
        digest = digests[key]
        # A score that failed for a temporary cause does not count as stored: it is computed again.
        code = ReasonCode.of(reason)
        if code is ReasonCode.ERROR or (code is ReasonCode.NO_EDIT and digest in edited):
            continue
        done.add((digest, metric, version))
    return done
