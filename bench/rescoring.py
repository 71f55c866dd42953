"""Computes the stored scores of a run again, for ``verify``. Nothing is stored in the run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.edit import EditCase, EditRecord, ScoreRecord
    from bench.metrics import Metric, SetMetric
    from bench.metrics.features import Features
    from bench.session import Session
    from bench.store import RunStore, SetScore


def protocol_cases(session: Session, store: RunStore, name: str) -> Iterable[EditCase]:
    """Returns the cases of a run's protocol as this installation makes them. Raises BenchError where it cannot."""
    # The data may be missing on this machine.
    configured = session.protocol_of_run(store, name)
    if configured.problems:
        raise BenchError(configured.problems[0])
    # Another version of the data or of the program makes other cases.
    protocol = configured.create()
    digest = store.manifest["protocols"][name]["digest"]
    if protocol.digest != digest:
        raise BenchError(
            f"the installed protocol {name} {protocol.version} has the digest {protocol.digest}, the run's {digest}. "
            "Use the version of the program and the data with which the run was made."
        )
    return protocol.cases()


def rescore_edits(
    session: Session, store: RunStore, records: Sequence[EditRecord], *, device: str
) -> Iterator[ScoreRecord]:
    """Yields scores of these edits by those of the run's metrics whose weights are installed."""
    from bench.edit import ScoreRecord
    from bench.edit_scoring import compute
    from bench.metrics import Pair, ReasonCode, RgbImage, SetMetric

    metrics_of_protocols, _ = _stored_metrics(session, store, store.scores()["metric"].unique(), device)
    for protocols, metrics in metrics_of_protocols.items():
        chosen = [record for record in records if record.key.protocol in protocols]
        # Stored cases and stored edits, as they were scored.
        pairs = [
            Pair.of_case(store.cases(r.key.protocol).get(r.key.case), RgbImage.of(store.image(r)))
            for r in chosen
        ]
        for metric in metrics:
            assert not isinstance(metric, SetMetric)
            # The raw edit, and where the metric scores it too, the edit composited into its source.
            for composited, name in metric.stored_names:
                variants = [pair.composite() for pair in pairs] if composited else pairs
                for record, (value, reason) in zip(chosen, compute(metric, variants), strict=True):
                    # An error of this machine says nothing about the run.
                    if ReasonCode.of(reason) is not ReasonCode.ERROR:
                        yield ScoreRecord(record.key, name, metric.version, value, reason)


def rescore_sets(
    session: Session, store: RunStore, sets: Sequence[tuple[str, str]], *, device: str
) -> Iterator[SetScore]:
    """Yields scores of sets of edits, where the weights and the real images are available.

    ``sets`` lists pairs (protocol, method digest). They are scored as in a run, in a temporary folder that links to
    the run's edits.
    """
    from bench.metrics import ReasonCode
    from bench.scoring import score_run
    from bench.store import RunStore, SetScore

    # Real images of the protocols. Sets of a protocol without them are left out.
    chosen = set(sets)
    references = session.references(store, {protocol for protocol, _ in sets})
    with tempfile.TemporaryDirectory(prefix="prompteditbench-") as empty:
        linked = link_run(store, Path(empty) / "run", ("run.json", "cases", "edits"))
        # The copy has the chosen sets alone, so that nothing else is scored.
        with RunStore.open(linked) as copy:
            # Scoring reads the journal of edits, so an edit that is not in it is not scored.
            copy.append_edits(
                [
                    record
                    for record in store.edits()
                    if (record.key.protocol, record.key.method) in chosen
                    and record.key.protocol in references
                ]
            )
            stored_names = store.set_scores()["metric"].unique()
            metrics_of_protocols, features = _stored_metrics(session, store, stored_names, device)
            for protocols, metrics in metrics_of_protocols.items():
                score_run(copy, metrics, features=features, references=references, protocols=protocols)
            rows = copy.set_scores()
    # Rows of the copy as records; pandas has NaN where a record has None.
    columns = [field.name for field in fields(SetScore)]
    for row in rows[columns].astype(object).where(rows[columns].notna(), None).to_dict("records"):
        score = SetScore(**{str(name): value for name, value in row.items()})
        # An error of this machine says nothing about the run.
        if ReasonCode.of(score.reason) is not ReasonCode.ERROR:
            yield score


def link_run(store: RunStore, folder: Path, names: Sequence[str]) -> Path:
    """Makes a folder with links to parts of a run, and returns it. New files in it do not reach the run."""
    # Links, since edits take gigabytes.
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (store.path / name).exists():
            (folder / name).symlink_to((store.path / name).resolve())
    return folder


def _stored_metrics(
    session: Session, store: RunStore, stored_names: Iterable[str], device: str
) -> tuple[dict[tuple[str, ...], list[Metric | SetMetric]], Features]:
    """Protocols -> the metrics that gave their stored values, and the networks, without a cache on disk."""
    from bench.metrics import raw_name
    from bench.metrics.choice import load_metrics

    # No cache: cached features of an earlier run could hide that an edit has changed.
    features = session.program.make_features(device, None)
    stored = {raw_name(name) for name in stored_names}
    names = [name for name in session.metrics.names() if name in stored]
    choices = session.metric_choices(features, store.manifest["protocols"], names)
    return {
        protocols: load_metrics(choice.names, features, session.metrics)
        for protocols, choice in choices.items()
    }, features
