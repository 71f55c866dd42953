"""The scores of a run as one dense array per protocol, which every table, test and figure shares.

A *unit* is one case with one seed. All methods edited it, so their scores on it are paired. The units of one source
image form a *cluster*, which intervals and tests take as their unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL, CATEGORIES

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.edit import EditRecord
    from bench.store import RunStore

    FloatND = NDArray[np.float64]
    BoolND = NDArray[np.bool_]
    IndexND = NDArray[np.intp]
    CaseRows = Sequence[Mapping[str, object]]

SECONDS = "seconds_per_edit"
PEAK_MEMORY = "peak_memory"


@dataclass(frozen=True, eq=False)
class ProtocolScores:
    """Scores of single edits in one protocol: U units, M methods, K metrics."""

    protocol: str
    # Digests, in the order in which they joined the run.
    methods: tuple[str, ...]
    # Names of the methods in the tables.
    titles: tuple[str, ...]
    controls: tuple[bool, ...]
    metrics: tuple[str, ...]
    # ``(U, M, K)``. NaN where there is no value.
    values: FloatND
    # ``(U, M, K)``: whether a value or the reason of a missing value is stored.
    recorded: BoolND
    # ``U`` case ids.
    cases: tuple[str, ...]
    # The paper's four, then those that the protocol has of its own.
    categories: tuple[str, ...]
    # ``(U,)``: index into ``categories``.
    category: IndexND
    # ``(U,)``: number of the source image, in order of first appearance.
    cluster: IndexND
    # ``(U,)``: seed of the edits. A case without any score has the first seed that was scored.
    seed: IndexND
    # Category -> expected success of the best blind guess. Empty where the protocol states none.
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def units(self, category: str = ALL) -> IndexND:
        """Indices of the units of a category."""
        if category == ALL:
            return np.arange(len(self.cases))
        return np.flatnonzero(self.category == self.categories.index(category))

    def metric(self, name: str) -> FloatND:
        """``(U, M)`` of one metric. Raises ValueError for a metric that the run does not have."""
        return self.values[:, :, self.metrics.index(name)]

    @cached_property
    def contenders(self) -> IndexND:
        """Indices of the methods that are no controls."""
        return np.flatnonzero(~np.array(self.controls, dtype=bool))


@dataclass(frozen=True, eq=False)
class RunScores:
    """Every number of a run that a report shows or computes with."""

    protocols: Mapping[str, ProtocolScores]
    # ``RunStore.set_scores``.
    sets: pd.DataFrame
    # Protocol -> method digest -> category (or ``all``) -> number of planned edits without an image.
    failed: Mapping[str, Mapping[str, Counter[str]]]
    # Protocol -> ``(U, M)`` seconds per edit. NaN where they are unknown.
    seconds: Mapping[str, FloatND]
    # Protocol -> method digest -> largest number of bytes on the accelerator, where it is known.
    peak_memory: Mapping[str, Mapping[str, int]]
    # Method digest -> name in the tables.
    titles: Mapping[str, str]
    # Name in the tables -> name under which the method is registered.
    names: Mapping[str, str]
    # Names of the controls in the tables.
    controls: frozenset[str]
    # Name in the tables -> remark of the method ("under-trained"). Methods without one are left out.
    remarks: Mapping[str, str]
    # ``RunStore.edits``.
    edits: Sequence[EditRecord]

    @property
    def ceilings(self) -> dict[str, Mapping[str, float]]:
        """Protocol -> :attr:`ProtocolScores.ceilings`."""
        return {name: scores.ceilings for name, scores in self.protocols.items()}

    @property
    def metrics(self) -> list[str]:
        """Every metric of single edits, of sets, and of cost."""
        single = [metric for scores in self.protocols.values() for metric in scores.metrics]
        return list(dict.fromkeys([*single, *self.sets["metric"].tolist(), SECONDS, PEAK_MEMORY]))


def load(store: RunStore) -> RunScores:
    """Reads scores, set scores and edit records, each once. Raises ``bench.store.StoreError``."""
    # Each file is read once, and long scores are coded once: a run may have millions of rows.
    titles, controls = method_titles(store), control_titles(store)
    records = store.edits()
    long_scores = _LongScores.of(store.scores())
    protocols: dict[str, ProtocolScores] = {}
    failed: dict[str, dict[str, Counter[str]]] = {}
    seconds: dict[str, FloatND] = {}
    peak_memory: dict[str, dict[str, int]] = {}
    for name in store.protocols():
        # Every protocol gets an entry, also one that has no edit yet.
        of_protocol = [record for record in records if record.key.protocol == name]
        case_file = store.cases(name)
        rows = case_file.rows
        dense = _dense(name, rows, titles, controls, long_scores.of_protocol(name))
        protocols[name] = replace(dense, ceilings=case_file.info.get("ceilings", {}))
        failed[name] = _failures(of_protocol, rows, titles, store.seeds)
        seconds[name] = _seconds(of_protocol, protocols[name])
        peak_memory[name] = _peaks(of_protocol)
    names = {titles[digest]: spec.name for digest, spec in store.methods.items()}
    return RunScores(
        protocols,
        store.set_scores(),
        failed,
        seconds,
        peak_memory,
        titles,
        names,
        controls,
        remarks(store),
        records,
    )


@dataclass(frozen=True, eq=False)
class _LongScores:
    """The stored scores, one row each. Names are integers, so that selecting and sorting are fast."""

    # Column -> the names that its integers stand for.
    names: Mapping[str, Sequence[str]]
    # Column (``protocol``, ``method``, ``case``, ``metric``, ``seed``) -> ``(N,)`` integers.
    codes: Mapping[str, IndexND]
    # ``(N,)``. NaN where there is no value.
    values: FloatND
    # ``(N,)``: whether there is a value or a reason.
    recorded: BoolND

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _LongScores:
        import pandas as pd

        columns = ("protocol", "method", "case", "metric", "seed")
        # pandas.factorize gives -1 for a missing name, and numbers in order of first appearance.
        factors = {column: pd.factorize(frame[column]) for column in columns}
        values = frame["value"].to_numpy(dtype=np.float64)
        return cls(
            {column: list(factor[1]) for column, factor in factors.items()},
            {column: factor[0] for column, factor in factors.items()},
            values,
            ~np.isnan(values) | frame["reason"].notna().to_numpy(),
        )

    def of_protocol(self, protocol: str) -> _LongScores:
        names = self.names["protocol"]
        # No row has the code -1 in this column, so a protocol without scores selects nothing.
        code = names.index(protocol) if protocol in names else -1
        return self.select(self.codes["protocol"] == code)

    def select(self, rows: BoolND) -> _LongScores:
        codes = {column: values[rows] for column, values in self.codes.items()}
        return _LongScores(self.names, codes, self.values[rows], self.recorded[rows])

    def positions(self, column: str, order: Sequence[str]) -> IndexND:
        """``(N,)``: position of each row's name in ``order``, -1 where it is absent."""
        # Names are looked up once each, rows by their integers.
        position = {name: index for index, name in enumerate(order)}
        table = np.array([position.get(name, -1) for name in self.names[column]], dtype=np.intp)
        return table[self.codes[column]] if len(table) else self.codes[column]


def _dense(
    protocol: str,
    rows: CaseRows,
    titles: Mapping[str, str],
    controls: frozenset[str],
    long_scores: _LongScores,
) -> ProtocolScores:
    """Scatters the stored scores into ``(U, M, K)``. Scores of unknown cases or methods are left out."""
    ids = [str(row["id"]) for row in rows]
    methods = list(titles)
    # A row with neither value nor reason is of a metric that did not finish. It counts as not scored.
    is_known = (
        (long_scores.positions("method", methods) >= 0)
        & (long_scores.positions("case", ids) >= 0)
        & long_scores.recorded
    )
    long_scores = long_scores.select(is_known)
    method, case = long_scores.positions("method", methods), long_scores.positions("case", ids)
    seed = long_scores.codes["seed"]

    # Metrics of this protocol alone, in order of appearance.
    # (codes in ascending order, row of their first appearance)
    codes, first = np.unique(long_scores.codes["metric"], return_index=True)
    metrics = [long_scores.names["metric"][code] for code in codes[np.argsort(first, kind="stable")]]
    metric = long_scores.positions("metric", metrics)

    # Units are (case, seed) pairs, sorted. A case without any score has one unit.
    # (case, seed) as one integer, so that sorting and looking up need no pairs.
    seeds = int(seed.max()) + 1 if len(seed) else 1
    keys = np.unique(case * seeds + seed)
    unscored = np.setdiff1d(np.arange(len(rows)), keys // seeds)
    keys = np.sort(np.concatenate([keys, unscored * seeds]))
    unit = np.searchsorted(keys, case * seeds + seed)
    case_of_unit = (keys // seeds).astype(np.intp)

    shape = (len(keys), len(methods), len(metrics))
    values, recorded = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    # A score that was stored twice keeps its last value.
    values[unit, method, metric] = long_scores.values
    recorded[unit, method, metric] = True

    # Category and source image of each unit.
    categories = tuple(dict.fromkeys([*CATEGORIES, *(str(row["category"]) for row in rows)]))
    category = np.array([categories.index(str(row["category"])) for row in rows], dtype=np.intp)
    sources: dict[object, int] = {}
    cluster = np.array([sources.setdefault(row["source_id"], len(sources)) for row in rows], dtype=np.intp)
    return ProtocolScores(
        protocol=protocol,
        methods=tuple(methods),
        titles=tuple(titles.values()),
        controls=tuple(title in controls for title in titles.values()),
        metrics=tuple(metrics),
        values=values,
        recorded=recorded,
        cases=tuple(ids[index] for index in case_of_unit),
        categories=categories,
        category=category[case_of_unit],
        cluster=cluster[case_of_unit],
        # Without any score there is one unit for each case, and no seed.
        seed=np.array([*long_scores.names["seed"], 0], dtype=np.int64)[keys % seeds],
    )


def _seconds(records: Sequence[EditRecord], scores: ProtocolScores) -> FloatND:
    """``(U, M)`` seconds per edit, at the first unit of each case. NaN where they are unknown."""
    seconds = np.full((len(scores.cases), len(scores.methods)), np.nan)
    # Records do not say which of several seeds they are, so the time stands at the first unit.
    first_unit = {case: index for index, case in reversed(list(enumerate(scores.cases)))}
    column = {digest: index for index, digest in enumerate(scores.methods)}
    for record in records:
        unit, method = first_unit.get(record.key.case), column.get(record.key.method)
        succeeded = record.error is None and record.seconds is not None
        if unit is not None and method is not None and succeeded:
            seconds[unit, method] = record.seconds
    return seconds


def _failures(
    records: Sequence[EditRecord], rows: CaseRows, titles: Mapping[str, str], seeds: Sequence[int]
) -> dict[str, Counter[str]]:
    """Method digest -> category (or ``all``) -> number of edits without an image. Refused cases do not count."""
    # An edit is a failure if no record of it has an image, also where it was never tried.
    edited: dict[str, set[tuple[str, int]]] = {digest: set() for digest in titles}
    for record in records:
        # Records of methods that the run no longer lists are left out, as in the tables.
        if (record.error is None or record.is_refused) and record.key.method in edited:
            edited[record.key.method].add((record.key.case, record.key.seed))
    failures: dict[str, Counter[str]] = {}
    for digest, edits in edited.items():
        categories = [
            str(row["category"]) for seed in seeds for row in rows if (row["id"], seed) not in edits
        ]
        # A Counter answers 0 for a category in which nothing failed.
        failures[digest] = Counter({ALL: len(categories), **Counter(categories)})
    return failures


def _peaks(records: Sequence[EditRecord]) -> dict[str, int]:
    """Method digest -> largest number of bytes on the accelerator."""
    peaks: dict[str, int] = {}
    for record in records:
        if record.peak_memory is not None:
            peaks[record.key.method] = max(peaks.get(record.key.method, 0), record.peak_memory)
    return peaks


def method_titles(store: RunStore) -> dict[str, str]:
    """Method digest -> name in the tables, with the digest where two methods have the same title."""
    methods = store.methods
    # Rows of tables and legends are looked up by title, so titles must be unique.
    count = Counter(spec.title for spec in methods.values())
    return {
        digest: spec.title if count[spec.title] == 1 else f"{spec.title} ({digest[:6]})"
        for digest, spec in methods.items()
    }


def remarks(store: RunStore) -> dict[str, str]:
    """Name in the tables -> remark of the method, such as "under-trained". Methods without one are left out."""
    titles = method_titles(store)
    return {titles[digest]: spec.remark for digest, spec in store.methods.items() if spec.remark}


def control_titles(store: RunStore) -> frozenset[str]:
    """Names of the run's controls in the tables, which a suite may have relabelled."""
    titles = method_titles(store)
    return frozenset(titles[digest] for digest, spec in store.methods.items() if spec.is_control)
