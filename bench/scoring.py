"""Scores stored edits; never edits.

What is scored already, the same picture with the same version of the metric, is skipped, so that the same command
resumes.
Edits are taken source by source: the features of a source are computed once for all methods.

Metrics of single edits score the raw edit. Those that declare ``pasted`` score the edit pasted back into its
source too, under ``<name>_pasted``. Leakage does not: pasted back, nothing outside the mask differs.

A value that could not be computed is None with a reason, never 0. Reasons that begin with ``no edit:`` or
``error:`` are tried again by the next run; all others are final.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bench.edit import EditCase, EditKey, EditRecord, ScoreRecord
from bench.metrics import METRICS, STAND_INS
from bench.metrics.streams import Fingerprint, ImageStream, batches
from bench.metrics.types import (
    ALL,
    OUTCOME,
    Metric,
    MetricError,
    NoValue,
    Pair,
    ReasonCode,
    RgbImage,
    SetMetric,
    SetValue,
    Value,
)
from bench.progress import Progress, Silent
from bench.registry import Registry, plugin_code, problems_of
from bench.store import RunStore, StoreError, set_inputs
from bench.store import SetScore as StoredSetScore

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.casefile import CaseFile
    from bench.metrics.features import Features

T = TypeVar("T")


@dataclass(frozen=True)
class ScoringOptions:
    chunk: int = 128
    """Edits scored at once; their features are batched together."""
    save_every: int = 1024
    """Edits after which scores are written to disk, at the latest."""
    workers: int = 2
    """Threads that decode the next edits while some are scored."""


@dataclass
class ScoringSummary:
    """What a run of scoring did."""

    scored: int = 0
    """Values computed, those without a value included."""
    skipped: int = 0
    """Values that were there already."""
    missing: dict[str, int] = field(default_factory=dict)
    """Reason -> how many new values are None for it."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SetScoreRecord(StoredSetScore):
    """A stored set score with its provenance."""

    n_reference: int = 0
    """Real images."""
    failed: int = 0
    """Edits of this method and category that do not exist, and so are not among ``n``."""
    warning: str | None = None
    inputs: str = ""
    """Digest of which edits and which protocol's real images were compared."""


def registry() -> Registry:
    """The suite's metrics and installed plug-ins'."""
    return Registry("metric", METRICS)


def metric_problems(
    names: Iterable[str], features: Features, known: Registry | None = None
) -> dict[str, list[str]]:
    """Of each metric that cannot be computed here: what is missing, with remedies. Loads no network."""
    known = known or registry()
    found: dict[str, list[str]] = {}
    for name in names:
        problems = problems_of(known.load(name), features, f"metric {name!r}")
        if problems:
            found[name] = list(problems)
    return found


@dataclass(frozen=True)
class MetricChoice:
    """Which metrics can be computed on some data."""

    names: list[str]
    """To compute, in order."""
    left_out: dict[str, list[str]]
    """Metric -> why it is not computed, each reason with its remedy."""
    stand_ins: dict[str, tuple[str, list[str]]]
    """Published metric whose weights are missing -> the one in ``names`` that takes its place under its own name, and
    what is missing, with the remedy."""


def choose_metrics(
    features: Features,
    *,
    rendered: bool = False,
    wanted: Sequence[str] | None = None,
    known: Registry | None = None,
) -> MetricChoice:
    """The metrics to compute on data of one kind. Loads no network.

    ``rendered``: the pictures are of the rendered world. There, of a published metric and its stand-in, the stand-in is
    chosen: published networks never saw that world. On all other data the published one is chosen where its weights
    are here, else its stand-in, and a metric whose network is embedded is left out, even where it was asked for.

    ``wanted`` (default: every metric known) narrows the choice; a published name there admits its stand-in.
    """
    known = known or registry()
    pool = list(wanted) if wanted is not None else known.names()
    published = {stand_in: name for name, stand_in in STAND_INS.items()}
    options: dict[str, list[str]] = {}
    for name in pool:
        if published.get(name) in pool:
            continue  # decided with the published metric
        stand_in = STAND_INS.get(name)
        of = [name] if stand_in is None or stand_in not in known.names() else [name, stand_in]
        options[name] = of[::-1] if rendered else of
    problems = metric_problems({option for of in options.values() for option in of}, features, known)
    choice = MetricChoice([], {}, {})
    for name, of in options.items():
        native = [option for option in of if rendered or not is_embedded(option, known)]
        usable = next((option for option in native if option not in problems), None)
        if usable is None:
            choice.left_out[name] = problems[native[0]] if native else [foreign(name)]
            continue
        if usable not in choice.names:
            choice.names.append(usable)
        if not rendered and usable != name:
            choice.stand_ins[name] = usable, problems[name]
    return choice


def is_embedded(name: str, known: Registry | None = None) -> bool:
    """Whether a metric's network has seen only the rendered world, as its class declares."""
    return bool((known or registry()).load(name).embedded)


def foreign(name: str) -> str:
    """Why a metric with an embedded network has no value on data that are not rendered."""
    instead = next((main for main, stand_in in STAND_INS.items() if stand_in == name), None)
    remedy = f"Ask for {instead}." if instead else "Leave it out."
    return (
        f"an embedded network, which has seen only the rendered world, cannot score these pictures. {remedy}"
    )


def refusal(problems: Mapping[str, Sequence[str]]) -> MetricError:
    """One error that lists every problem once, with the metrics that have it."""
    shown = "\n".join(f"  {', '.join(of)}: {line}" for line, of in by_problem(problems).items())
    return MetricError(f"these metrics cannot be computed here:\n{shown}")


def by_problem(problems: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Problem -> the metrics that have it."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, lines in problems.items():
        for line in lines:
            grouped[line].append(name)
    return dict(grouped)


def load_metrics(
    names: Iterable[str], features: Features, known: Registry | None = None
) -> list[Metric | SetMetric]:
    """The metrics, constructed. Raises :class:`MetricError` that lists all that is missing, with remedies."""
    known = known or registry()
    names = list(dict.fromkeys(names))
    problems = metric_problems(names, features, known)
    if problems:
        raise refusal(problems)
    loaded = []
    for name in names:
        found = known.load(name)
        with plugin_code(found, f"metric {name!r}"):
            metric = found(features) if found.uses_features else found()
        if metric.name != name:
            raise MetricError(
                f"the metric registered as {name!r} calls itself {metric.name!r}; use one name."
            )
        loaded.append(metric)
    return loaded


# -- values of single edits ---------------------------------------------------------------------


def compute(metric: Metric, pairs: Sequence[Pair]) -> list[tuple[float | None, str | None]]:
    """``(value, reason)`` of each pair; exactly one of the two is None.

    A pair that lacks what the metric needs is not shown to it. Where the metric raises, it is asked again
    in halves, so that one bad pair costs one value (and too large a batch none).
    """
    result: list[tuple[float | None, str | None]] = [(None, _lacks(metric, pair)) for pair in pairs]
    able = [index for index, (_, reason) in enumerate(result) if reason is None]
    values = _ask(metric, [pairs[index] for index in able])
    for index, value in zip(able, values, strict=True):
        result[index] = _checked(value, metric.unit)
    return result


def _lacks(metric: Metric, pair: Pair) -> str | None:
    for need in sorted(metric.needs):
        value = getattr(pair, need, None)
        empty = not value.any() if need == "mask" and value is not None else not value
        if need == "region_prompt":
            empty = not all(area.prompt for area in pair.areas)
        if empty:
            return f"the case has no {need.replace('_', ' ')}"
    return None


def _ask(metric: Metric, pairs: Sequence[Pair]) -> list[Value]:
    if not pairs:
        return []
    try:
        values = list(metric.score(pairs))
        if len(values) != len(pairs):
            raise ValueError(f"{len(values)} values for {len(pairs)} edits")
    except MetricError:
        raise
    except (Exception, SystemExit) as error:
        # SystemExit too: a metric ends its value, never the scoring.
        if len(pairs) == 1:
            return [NoValue(ReasonCode.ERROR.text(f"{type(error).__name__}: {error}"))]
        middle = len(pairs) // 2
        return _ask(metric, pairs[:middle]) + _ask(metric, pairs[middle:])
    return values


def _checked(value: Value, unit: str) -> tuple[float | None, str | None]:
    if value is None:
        return None, "the metric gave no value"
    if isinstance(value, NoValue):
        if isinstance(value.reason, str) and value.reason.strip():
            return None, value.reason
        return None, ReasonCode.ERROR.text("NoValue without a text that says why")
    try:
        number = float(value)
    except OverflowError:
        return None, ReasonCode.ERROR.text("a number too large to be stored")
    except Exception:  # whatever a value of a third party raises when it is asked for its number
        shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        return None, ReasonCode.ERROR.text(f"not a number ({shown:.80})")
    if not math.isfinite(number):
        return None, f"not a finite number ({number})"
    if unit == OUTCOME and number not in (0.0, 1.0):
        return None, ReasonCode.ERROR.text(f"{number:g}, where the metric's unit {OUTCOME} declares 0 or 1")
    return number, None


@dataclass(frozen=True)
class PairScore:
    """One metric's answer for one pair."""

    value: float | None
    reason: str | None
    unit: str
    higher_is_better: bool | None
    summary: str


def score_pair(
    source: Image,
    edited: Image,
    mask: Image,
    *,
    features: Features,
    source_prompt: str = "",
    target_prompt: str = "",
    region_prompt: str = "",
    names: Sequence[str] | None = None,
    rendered: bool = False,
    known: Registry | None = None,
) -> dict[str, PairScore]:
    """All metrics of single edits for one pair: ``RGB`` images and an ``L`` mask of one size.

    Without ``names``, those whose prompts were given; one whose weights are missing has no value, and the reason.
    ``rendered``: the images are of the rendered world, so that embedded networks may judge them. Raises
    :class:`MetricError` for sizes that differ and for a metric asked for that cannot be computed.
    """
    from bench.images import mask_array

    known = known or registry()
    pair = Pair(
        source=RgbImage.of(source),
        edited=RgbImage.of(edited),
        mask=mask_array(mask),
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        region_prompt=region_prompt,
    )
    choice = choose_metrics(features, rendered=rendered, wanted=names, known=known)
    if names is not None:
        alien = {name: [foreign(name)] for name in names if not rendered and is_embedded(name, known)}
        if alien:
            raise refusal(alien)
    asked = names is not None
    chosen = list(names) if names is not None else choice.names
    scores: dict[str, PairScore] = {}
    for metric in load_metrics(
        (name for name in chosen if asked or known.load(name).kind == "edit"), features, known
    ):
        if isinstance(metric, SetMetric):
            raise MetricError(f"{metric.name} compares sets of images; it has no value for one pair.")
        if not asked and _lacks(metric, pair) is not None:
            continue
        for composited, name in metric.stored_names:
            value, reason = compute(metric, [pair.composite() if composited else pair])[0]
            scores[name] = PairScore(value, reason, metric.unit, metric.higher_is_better, metric.summary)
    for name, reasons in choice.left_out.items() if not asked else ():
        cls = known.load(name)
        if cls.kind == "edit" and _lacks(cls, pair) is None:
            scores[name] = PairScore(None, " ".join(reasons), cls.unit, cls.higher_is_better, cls.summary)
    features.flush()
    return scores


# -- a whole run --------------------------------------------------------------------------------

References = Mapping[str, Callable[[], Iterable["Image"]]]
"""Protocol name -> the real images, as ``EditProtocol.reference``."""


def score_run(
    store: RunStore,
    metrics: Sequence[Metric | SetMetric],
    *,
    features: Features | None = None,
    references: References | None = None,
    protocols: Collection[str] | None = None,
    options: ScoringOptions | None = None,
    progress: Progress | None = None,
) -> ScoringSummary:
    """Scores every stored edit by every metric that has not scored it yet, and writes the scores.

    ``protocols``: only edits of these; of all where it is None.
    ``features`` is the one that the metrics were made with; its disk cache is written as scores are.
    Raises :class:`StoreError` for a run folder that cannot be read or written; what is stored stays.
    """
    options, progress = options or ScoringOptions(), progress or Silent()
    summary = ScoringSummary()
    singles = [metric for metric in metrics if not isinstance(metric, SetMetric)]
    sets = [metric for metric in metrics if isinstance(metric, SetMetric)]
    try:
        records = [r for r in store.edits() if protocols is None or r.key.protocol in protocols]
        missing = [r.file for r in records if r.file is not None and not (store.path / r.file).is_file()]
        if missing:
            summary.warnings.append(
                f"{len(missing)} edits are no longer there ({missing[0]} for one): their scores are of files that "
                "nobody can look at. Run the suite again."
            )
        _score_singles(store, records, singles, features, options, progress, summary)
        if features is not None:
            summary.warnings += features.cut_prompts()
        _score_sets(store, records, sets, features, references or {}, options, progress, summary)
    finally:
        progress.stop()
        if features is not None:
            features.flush()
    return summary


def _score_singles(
    store: RunStore,
    records: Sequence[EditRecord],
    metrics: Sequence[Metric],
    features: Features | None,
    options: ScoringOptions,
    progress: Progress,
    summary: ScoringSummary,
) -> None:
    asked = [(metric, pasted) for metric in metrics for pasted in _variants(metric)]
    done = _scored(store, {record.key.digest for record in records if record.file is not None})
    todo: dict[int, list[tuple[Metric, bool]]] = {}
    for index, record in enumerate(records):
        wanted = [
            (metric, pasted)
            for metric, pasted in asked
            if (record.key.digest, _named(metric, pasted), metric.version) not in done
        ]
        summary.skipped += len(asked) - len(wanted)
        if wanted:
            todo[index] = wanted
    if not todo:
        return
    unsaved: list[ScoreRecord] = []
    since = 0
    progress.start(len(todo), "scoring edits")

    def save() -> None:
        store.append_scores(unsaved)
        unsaved.clear()
        if features is not None:
            features.flush()

    for chunk in _chunks(store, [records[index] for index in todo], options):
        wanted_by_key = {records[index].key.digest: wanted for index, wanted in todo.items()}
        scores = _score_chunk(chunk, wanted_by_key)
        for score in scores:
            summary.scored += 1
            if score.value is None:
                reason = score.reason or ""
                summary.missing[reason] = summary.missing.get(reason, 0) + 1
        unsaved += scores
        since += len(chunk)
        progress.advance(len(chunk))
        if since >= options.save_every:
            save()
            since = 0
    save()


Loaded = tuple[EditRecord, "Pair | NoValue"]


def _score_chunk(
    chunk: Sequence[Loaded], wanted: Mapping[str, Sequence[tuple[Metric, bool]]]
) -> list[ScoreRecord]:
    """Every wanted score of these edits, in order of the edits."""
    result: dict[int, list[ScoreRecord]] = defaultdict(list)
    by_metric: dict[tuple[int, bool], list[int]] = defaultdict(list)
    metrics: dict[int, Metric] = {}
    for index, (record, pair) in enumerate(chunk):
        for metric, pasted in wanted[record.key.digest]:
            if isinstance(pair, NoValue):
                result[index].append(_score_record(record, metric, pasted, None, pair.reason))
            else:
                by_metric[id(metric), pasted].append(index)
                metrics[id(metric)] = metric
    pastes: dict[int, Pair] = {}
    for (identity, pasted), indices in by_metric.items():
        metric = metrics[identity]
        pairs = []
        for index in indices:
            pair = chunk[index][1]
            assert isinstance(pair, Pair)
            if pasted:
                pair = pastes.setdefault(index, pair.composite()) if index not in pastes else pastes[index]
            pairs.append(pair)
        for index, (value, reason) in zip(indices, compute(metric, pairs), strict=True):
            result[index].append(_score_record(chunk[index][0], metric, pasted, value, reason))
    return [score for index in range(len(chunk)) for score in result[index]]


def _score_record(
    record: EditRecord, metric: Metric, pasted: bool, value: float | None, reason: str | None
) -> ScoreRecord:
    return ScoreRecord(
        record.key, _named(metric, pasted), metric.version, value, reason, edit=record.sha256 or ""
    )


def _chunks(
    store: RunStore, records: Sequence[EditRecord], options: ScoringOptions
) -> Iterator[list[Loaded]]:
    """The edits with their pairs, source by source, about ``options.chunk`` at a time, decoded ahead."""
    files = {protocol: store.cases(protocol) for protocol in {record.key.protocol for record in records}}
    groups = _groups(files, records)

    def load(group: tuple[str, str, list[EditRecord]]) -> list[Loaded]:
        protocol, case, edits = group
        return _load_case(store, files[protocol].get(case), edits)

    with ThreadPoolExecutor(max(1, options.workers), thread_name_prefix="decode") as pool:
        waiting: list[tuple[int, Future[list[Loaded]]]] = []
        held = 0
        chunk: list[Loaded] = []
        position = 0
        while position < len(groups) or waiting:
            # One chunk is decoded while one is scored, and no more: images are large.
            while position < len(groups) and held < 2 * options.chunk:
                size = len(groups[position][2])
                waiting.append((size, pool.submit(load, groups[position])))
                held += size
                position += 1
            size, future = waiting.pop(0)
            chunk += future.result()
            held -= size
            if len(chunk) >= options.chunk:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _groups(
    files: Mapping[str, CaseFile], records: Sequence[EditRecord]
) -> list[tuple[str, str, list[EditRecord]]]:
    """``(protocol, case, its edits)``, those of one source next to each other."""
    by_case: dict[tuple[str, str], list[EditRecord]] = defaultdict(list)
    for record in records:
        by_case[record.key.protocol, record.key.case].append(record)
    sources = {
        (protocol, row["id"]): row["source_id"] for protocol, file in files.items() for row in file.rows
    }
    order = sorted(by_case, key=lambda place: (place[0], sources.get(place, ""), place[1]))
    return [(protocol, case, by_case[protocol, case]) for protocol, case in order]


def _load_case(store: RunStore, case: EditCase, records: Sequence[EditRecord]) -> list[Loaded]:
    source = RgbImage.of(case.request.source)
    loaded: list[Loaded] = []
    template: Pair | None = None
    for record in records:
        edited = _picture(store, record)
        if isinstance(edited, NoValue):
            loaded.append((record, edited))
            continue
        try:
            if template is None:
                template = Pair.of_case(case, edited, source=source)
                pair = template
            else:
                pair = template.with_edit(edited)
        except MetricError as error:
            loaded.append((record, NoValue(str(error))))
            continue
        loaded.append((record, pair))
    return loaded


def _picture(store: RunStore, record: EditRecord) -> RgbImage | NoValue:
    if record.error is not None or record.file is None:
        return NoValue(ReasonCode.NO_EDIT.text(record.error or "it has no file"))
    try:
        return RgbImage.of(store.image(record))
    except ValueError as error:  # StoreError and ImageError: one bad file must not end the scoring
        return NoValue(ReasonCode.NO_EDIT.text(str(error)))


def _variants(metric: Metric | SetMetric) -> tuple[bool, ...]:
    return tuple(composited for composited, _ in metric.stored_names)


def _named(metric: Metric | SetMetric, pasted: bool) -> str:
    return dict(metric.stored_names)[pasted]


def _scored(store: RunStore, edited: set[str]) -> set[tuple[str, str, str]]:
    """``(key digest, metric name, metric version)`` of what need not be computed again.

    ``edited``: digests of the keys that have an edit by now.
    """
    frame = store.scores()
    digests: dict[tuple[Any, ...], str] = {}
    done = set()
    columns = [frame[name].tolist() for name in _PLACE]
    reasons = [
        "" if missing else text for text, missing in zip(frame["reason"], frame["reason"].isna(), strict=True)
    ]
    for *place, metric, version, reason in zip(
        *columns, frame["metric"].tolist(), frame["metric_version"].tolist(), reasons, strict=True
    ):
        key = tuple(place)
        if key not in digests:
            protocol, protocol_version, method, case, seed = place
            digests[key] = EditKey(protocol, protocol_version, method, case, int(seed)).digest
        digest = digests[key]
        code = ReasonCode.of(reason)
        again = code is ReasonCode.ERROR or (code is ReasonCode.NO_EDIT and digest in edited)
        if not again:
            done.add((digest, metric, version))
    return done


_PLACE = ("protocol", "protocol_version", "method", "case", "seed")


# -- sets ---------------------------------------------------------------------------------------


def _score_sets(
    store: RunStore,
    records: Sequence[EditRecord],
    metrics: Sequence[SetMetric],
    features: Features | None,
    references: References,
    options: ScoringOptions,
    progress: Progress,
    summary: ScoringSummary,
) -> None:
    if not metrics:
        return
    grouped: dict[tuple[str, str, str], list[EditRecord]] = defaultdict(list)
    for record in records:
        grouped[record.key.protocol, record.key.protocol_version, record.key.method].append(record)
    todo = _sets_to_do(store, metrics, grouped, summary)
    if not todo:
        return
    progress.start(len(todo), "scoring sets")
    by_protocol: dict[str, list[_SetTask]] = defaultdict(list)
    for task in todo:
        by_protocol[task.protocol].append(task)
    for protocol, tasks in by_protocol.items():
        real: ImageStream | None = None
        why = "no real images were given for this protocol"
        if protocol in references:
            try:
                real = _seen_reference(references[protocol], {id(t.metric): t.metric for t in tasks}, options)
            except Exception as error:  # one bad file must not end the scoring
                why = ReasonCode.ERROR.text(f"the real images cannot be read: {error}")
        by_method: dict[str, list[_SetTask]] = defaultdict(list)
        for task in tasks:
            by_method[task.method].append(task)
        for of_method in by_method.values():
            seen = _seen_edits(store, of_method, options, show=real is not None)
            results = []
            for task in of_method:
                marks = seen[task.pasted]
                present = [record for record in task.records if record.key.digest in marks]
                edited = ImageStream(
                    partial(_edits, store, present, task.pasted),
                    [marks[record.key.digest] for record in present],
                )
                value = (
                    SetValue(None, len(present), 0, why)
                    if real is None
                    else _set_value(
                        task.metric,
                        edited,
                        real,
                        [task.sources.get(record.key.case, record.key.case) for record in present],
                    )
                )
                results.append(_set_record(task, value, len(task.records) - len(present)))
                summary.scored += 1
                if value.value is None:
                    reason = value.reason or ""
                    summary.missing[reason] = summary.missing.get(reason, 0) + 1
                if value.warning and value.warning not in summary.warnings:
                    summary.warnings.append(value.warning)
                progress.advance()
            store.append_set_scores(results)
            if features is not None:
                features.flush()


@dataclass(frozen=True)
class _SetTask:
    metric: SetMetric
    pasted: bool
    protocol: str
    protocol_version: str
    method: str
    category: str
    records: Sequence[EditRecord]
    """Of the category, failed ones included."""
    sources: Mapping[str, str]
    """Case id -> source id."""
    inputs: str


def _sets_to_do(
    store: RunStore,
    metrics: Sequence[SetMetric],
    records: Mapping[tuple[str, str, str], Sequence[EditRecord]],
    summary: ScoringSummary,
) -> list[_SetTask]:
    """Every set score that is not stored for the same edits, real images and version."""
    stored = {
        (row["protocol"], row["protocol_version"], row["method"], row["category"], row["metric"]): row
        for row in store.set_scores().to_dict("records")
    }
    todo = []
    for (protocol, version, method), all_of_method in records.items():
        rows = store.cases(protocol).rows
        categories = {row["id"]: row["category"] for row in rows}
        sources = {row["id"]: row["source_id"] for row in rows}
        named: dict[str, list[EditRecord]] = {ALL: list(all_of_method)}
        for record in all_of_method:
            named.setdefault(categories.get(record.key.case, ""), []).append(record)
        digest = store.manifest["protocols"].get(protocol, {}).get("digest", "")
        for category, chosen in named.items():
            inputs = set_inputs(digest, (record.sha256 for record in chosen))
            for metric in metrics:
                for pasted in _variants(metric):
                    before = stored.get((protocol, version, method, category, _named(metric, pasted)))
                    if before is not None and _current(before, metric, chosen, inputs):
                        summary.skipped += 1
                        continue
                    todo.append(
                        _SetTask(metric, pasted, protocol, version, method, category, chosen, sources, inputs)
                    )
    return todo


def _current(row: Mapping[Any, Any], metric: SetMetric, records: Sequence[EditRecord], inputs: str) -> bool:
    if row["metric_version"] != metric.version or isinstance(row.get("reason"), str):
        return False
    if isinstance(row.get("inputs"), str):
        return bool(row["inputs"] == inputs)
    return int(row["n"]) == sum(record.file is not None for record in records)


def _seen_reference(
    images: Callable[[], Iterable[Image]], metrics: Mapping[int, SetMetric], options: ScoringOptions
) -> ImageStream:
    """A protocol's real images, once shown to every metric that wants to see them."""
    stream = ImageStream(lambda: map(RgbImage.of, images()))
    for batch in _ahead(batches(stream, options.chunk)):
        _show(metrics.values(), batch)
    return stream


def _seen_edits(
    store: RunStore, tasks: Sequence[_SetTask], options: ScoringOptions, *, show: bool
) -> dict[bool, dict[str, Fingerprint]]:
    """One method's edits, raw (False) and pasted back (True), by key digest; once shown to the metrics.

    Edits that are not there have no mark.
    """
    records = list({record.key.digest: record for task in tasks for record in task.records}.values())
    marks: dict[bool, dict[str, Fingerprint]] = {False: {}, True: {}}
    wanted = [
        (pasted, {id(task.metric): task.metric for task in tasks if task.pasted == pasted})
        for pasted in sorted({task.pasted for task in tasks})
    ]
    for chunk in _chunks(store, records, options):
        for pasted, metrics in wanted:
            pictures = {
                record.key.digest: (pair.composite() if pasted else pair).edited
                for record, pair in chunk
                if isinstance(pair, Pair)
            }
            if show:
                _show(metrics.values(), list(pictures.values()))
            marks[pasted].update((digest, Fingerprint.of(picture)) for digest, picture in pictures.items())
    return marks


def _show(metrics: Iterable[SetMetric], pictures: Sequence[RgbImage]) -> None:
    for metric in metrics:
        if pictures:
            # What it raises it will raise again when it is asked for its value, which records it.
            with suppress(Exception, SystemExit):
                metric.see(pictures)


def _edits(store: RunStore, records: Sequence[EditRecord], pasted: bool) -> Iterator[RgbImage]:
    """Each record's edit, decoded again. Raises :class:`StoreError` for one that is not there any more."""
    files: dict[str, CaseFile] = {}
    for record in records:
        edited = RgbImage.of(store.image(record))
        if pasted:
            protocol = record.key.protocol
            if protocol not in files:
                files[protocol] = store.cases(protocol)
            edited = Pair.of_case(files[protocol].get(record.key.case), edited).composite().edited
        yield edited


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; the next one is made in a thread while one is used."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item
            del item


def _set_value(
    metric: SetMetric, edited: ImageStream, real: ImageStream, clusters: Sequence[str]
) -> SetValue:
    try:
        value = metric.score_set(edited, real, clusters)
        wrong = _wrong_set_value(value)
        if wrong:
            raise TypeError(wrong)
    except StoreError:
        raise
    except (Exception, SystemExit) as error:
        return SetValue(
            None, len(edited), len(real), ReasonCode.ERROR.text(f"{type(error).__name__}: {error}")
        )
    return value


def _wrong_set_value(value: object) -> str:
    """Reason why an answer of a set metric cannot be stored; empty where it can."""
    if not isinstance(value, SetValue):
        return f"it gave a {type(value).__name__}, where a SetValue is due"
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


def _set_record(task: _SetTask, value: SetValue, failed: int) -> SetScoreRecord:
    return SetScoreRecord(
        protocol=task.protocol,
        protocol_version=task.protocol_version,
        method=task.method,
        category=task.category,
        metric=_named(task.metric, task.pasted),
        metric_version=task.metric.version,
        value=value.value,
        n=value.n,
        low=value.low,
        high=value.high,
        reason=value.reason,
        n_reference=value.n_reference,
        failed=failed,
        warning=value.warning,
        inputs=task.inputs,
    )
