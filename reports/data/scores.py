"""The scores of a run, read once: one dense array per protocol, which every table, test and figure shares.

A *unit* is one case with one seed; all methods answered it, so their scores on it are paired. Units of one
source image form a *cluster*, the unit of every interval and test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import CATEGORIES

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.edit import EditRecord
    from bench.store import RunStore

    FloatND = NDArray[np.float64]
    BoolND = NDArray[np.bool_]
    IndexND = NDArray[np.intp]

ALL = "all"
"""The category of a row that is over all categories."""

SECONDS = "seconds_per_edit"
PEAK_MEMORY = "peak_memory"


@dataclass(frozen=True, eq=False)
class ProtocolScores:
    """Per-image scores of one protocol: U units, M methods, K metrics."""

    protocol: str
    methods: tuple[str, ...]
    """Digests, in the order in which they joined the run."""
    titles: tuple[str, ...]
    """What the tables call them."""
    controls: tuple[bool, ...]
    metrics: tuple[str, ...]
    values: FloatND
    """``(U, M, K)``; NaN where there is no value."""
    recorded: BoolND
    """``(U, M, K)``: something was stored, a value or the reason why there is none."""
    cases: tuple[str, ...]
    """``U`` case ids."""
    category: IndexND
    """``(U,)``: index into ``CATEGORIES``; -1 for another one."""
    cluster: IndexND
    """``(U,)``: source images, numbered in order of first appearance."""

    def units(self, category: str = ALL) -> IndexND:
        """Indices of the units of a category."""
        if category == ALL:
            return np.arange(len(self.cases))
        return np.flatnonzero(self.category == CATEGORIES.index(category))

    def metric(self, name: str) -> FloatND:
        """``(U, M)`` of one metric. Raises ValueError for one that the run does not have."""
        return self.values[:, :, self.metrics.index(name)]

    @cached_property
    def contenders(self) -> IndexND:
        """Indices of the methods that are no controls."""
        return np.flatnonzero(~np.array(self.controls, dtype=bool))


@dataclass(frozen=True, eq=False)
class RunScores:
    """Everything of a run that reports count with."""

    protocols: Mapping[str, ProtocolScores]
    sets: pd.DataFrame
    """``RunStore.set_scores``."""
    failed: Mapping[str, Mapping[str, Counter[str]]]
    """Protocol -> method digest -> category (or ``all``) -> planned edits of which no image exists."""
    seconds: Mapping[str, FloatND]
    """Protocol -> ``(U, M)`` seconds per edit; NaN where there is none."""
    peak_memory: Mapping[str, Mapping[str, int]]
    """Protocol -> method digest -> most bytes on the accelerator, where it could tell."""
    titles: Mapping[str, str]
    """Digest -> what the tables call the method."""
    names: Mapping[str, str]
    """Title -> the name under which the method is registered."""
    controls: frozenset[str]
    """Titles."""
    edits: Sequence[EditRecord]
    """``RunStore.edits``."""

    @property
    def metrics(self) -> list[str]:
        """Every metric there is, of single edits, of sets, of cost."""
        single = [metric for scores in self.protocols.values() for metric in scores.metrics]
        return list(dict.fromkeys([*single, *self.sets["metric"].tolist(), SECONDS, PEAK_MEMORY]))


def load(store: RunStore) -> RunScores:
    """Reads scores, set scores and edit records, each once. Raises ``bench.store.StoreError``."""
    import pandas as pd

    titles = method_titles(store)
    controls = control_titles(store)
    frame = store.scores()
    records = store.edits()
    codes = {name: pd.factorize(frame[name]) for name in ("protocol", "method", "case", "metric")}
    seeds, _ = pd.factorize(frame["seed"])
    values = frame["value"].to_numpy(dtype=np.float64)
    explained = ~np.isnan(values) | frame["reason"].notna().to_numpy()
    of_protocol = {name: code for code, name in enumerate(codes["protocol"][1])}
    places: dict[str, list[EditRecord]] = {}
    for record in records:
        places.setdefault(record.key.protocol, []).append(record)
    protocols: dict[str, ProtocolScores] = {}
    failed: dict[str, dict[str, Counter[str]]] = {}
    seconds: dict[str, FloatND] = {}
    peaks: dict[str, dict[str, int]] = {}
    for protocol in store.protocols():
        rows = store.cases(protocol).rows
        chosen = np.flatnonzero(codes["protocol"][0] == of_protocol.get(protocol, -1))
        mine = places.get(protocol, [])
        scores = _dense(
            protocol,
            rows,
            titles,
            controls,
            {name: (codes[name][0][chosen], list(codes[name][1])) for name in ("method", "case", "metric")},
            seeds[chosen],
            values[chosen],
            explained[chosen],
        )
        protocols[protocol] = scores
        failed[protocol] = _failed(mine, rows, titles)
        seconds[protocol] = _seconds(mine, scores)
        peaks[protocol] = {}
        for record in mine:
            if record.peak_memory is not None:
                before = peaks[protocol].get(record.key.method, 0)
                peaks[protocol][record.key.method] = max(before, record.peak_memory)
    names = {titles[digest]: spec.name for digest, spec in store.methods.items()}
    return RunScores(protocols, store.set_scores(), failed, seconds, peaks, titles, names, controls, records)


def _dense(
    protocol: str,
    rows: Sequence[Mapping[str, object]],
    titles: Mapping[str, str],
    controls: Iterable[str],
    codes: Mapping[str, tuple[IndexND, Sequence[str]]],
    seed: IndexND,
    values: FloatND,
    explained: BoolND,
) -> ProtocolScores:
    """Scatters long records into ``(U, M, K)``; what is of no known case or method is left out.

    ``codes``: of ``method``, ``case`` and ``metric`` each record's code, and what the codes stand for.
    """
    method, method_names = codes["method"]
    case, case_names = codes["case"]
    metric, metric_names = codes["metric"]
    controls = frozenset(controls)
    digests = list(titles)
    position = {digest: index for index, digest in enumerate(digests)}
    order = {str(row["id"]): index for index, row in enumerate(rows)}
    to_method = np.array([position.get(name, -1) for name in method_names], dtype=np.intp)
    to_case = np.array([order.get(name, -1) for name in case_names], dtype=np.intp)
    m = to_method[method] if len(method) else method
    c = to_case[case] if len(case) else case
    kept = (m >= 0) & (c >= 0) & explained
    m, c, k, s, x = m[kept], c[kept], metric[kept], seed[kept], values[kept]
    # Metrics of this protocol alone, in order of appearance.
    used, first = np.unique(k, return_index=True)
    used = used[np.argsort(first, kind="stable")]
    to_metric = np.full(len(metric_names), -1, dtype=np.intp)
    to_metric[used] = np.arange(len(used))
    # Every case has a unit, scored or not; further seeds add units.
    spread = int(s.max()) + 1 if len(s) else 1
    keys = np.unique(c * spread + s)
    missing = np.setdiff1d(np.arange(len(rows)), keys // spread)
    keys = np.sort(np.concatenate([keys, missing * spread]))
    unit = np.searchsorted(keys, c * spread + s)
    shape = (len(keys), len(digests), len(used))
    dense, recorded = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    dense[unit, m, to_metric[k]] = x
    recorded[unit, m, to_metric[k]] = True
    sources: dict[object, int] = {}
    cluster = np.array([sources.setdefault(row["source_id"], len(sources)) for row in rows], dtype=np.intp)
    known = {name: index for index, name in enumerate(CATEGORIES)}
    category = np.array([known.get(str(row["category"]), -1) for row in rows], dtype=np.intp)
    of_unit = (keys // spread).astype(np.intp)
    ids = [str(row["id"]) for row in rows]
    return ProtocolScores(
        protocol,
        tuple(digests),
        tuple(titles[digest] for digest in digests),
        tuple(titles[digest] in controls for digest in digests),
        tuple(metric_names[index] for index in used),
        dense,
        recorded,
        tuple(ids[index] for index in of_unit),
        category[of_unit],
        cluster[of_unit],
    )


def _seconds(records: Sequence[EditRecord], scores: ProtocolScores) -> FloatND:
    found = np.full((len(scores.cases), len(scores.methods)), np.nan)
    unit = {case: index for index, case in reversed(list(enumerate(scores.cases)))}
    method = {digest: index for index, digest in enumerate(scores.methods)}
    for record in records:
        u, m = unit.get(record.key.case), method.get(record.key.method)
        if u is not None and m is not None and record.error is None and record.seconds is not None:
            found[u, m] = record.seconds
    return found


def _failed(
    records: Sequence[EditRecord], rows: Sequence[Mapping[str, object]], titles: Mapping[str, str]
) -> dict[str, Counter[str]]:
    made: dict[str, set[str]] = {digest: set() for digest in titles}
    for record in records:
        if record.error is None and record.key.method in made:
            made[record.key.method].add(record.key.case)
    missing: dict[str, Counter[str]] = {}
    for digest, there in made.items():
        categories = [str(row["category"]) for row in rows if row["id"] not in there]
        missing[digest] = Counter({ALL: len(categories), **Counter(categories)})
    return missing


def method_titles(store: RunStore) -> dict[str, str]:
    """Digest -> what the tables call the method; the digest is added where two would be called the same."""
    methods = store.methods
    shared = Counter(spec.title for spec in methods.values())
    return {
        digest: spec.title if shared[spec.title] == 1 else f"{spec.title} ({digest[:6]})"
        for digest, spec in methods.items()
    }


def control_titles(store: RunStore) -> frozenset[str]:
    """What the tables call the run's controls, whatever label a suite gave them."""
    titles = method_titles(store)
    return frozenset(titles[digest] for digest, spec in store.methods.items() if spec.is_control)
