"""Two runs side by side: what was asked differently, which scores differ, which cases flipped.

Values are paired case by case, so that what is hard about a case cancels; intervals resample source images,
whose cases are not independent. A difference is always B minus A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import CATEGORIES, MethodSpec
from bench.files import is_relative, sha256_file
from bench.store import RunStore
from reports.share.verification.recompute import TOLERANCE
from reports.tables import table as tables
from reports.tables.table import ALL, HEADINGS, MetricFacts, ReportError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

ABSENT = "–"

CONDITIONS = ("batch_sizes", "threads")
"""Keys of a method in the manifest whose values change its pixels by rounding alone."""
ROUNDING = 1e-6
"""A mean difference up to this, relative to values of 1 or more, is that of float32 arithmetic and no finding."""


@dataclass(frozen=True)
class Change:
    """One thing of the configuration that is not the same. None: not there."""

    what: str
    """``seed``, ``versions.torch``, ``methods.sd_inpainting.steps``, ..."""
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Difference:
    """One metric of one method, in A and in B, over the cases that have a value in both."""

    protocol: str
    category: str
    method: str
    metric: str
    a: float | None
    b: float | None
    difference: float | None
    """Mean of B minus A."""
    low: float | None
    high: float | None
    """95 % interval clustered on the source image (``reports.data.statistics.differences``); None for sets of edits."""
    n: int
    """Pairs; for sets of edits the smaller set."""
    unpaired: int = 0
    """Values of common cases that only one of the runs has."""
    higher_is_better: bool | None = None
    same: bool = False
    """Every case has the same value in both; for sets of edits, the sets have."""
    remark: str = ""
    """Why nothing is compared, where that is so."""

    @property
    def separable(self) -> bool:
        """Whether the interval leaves out zero, by more than rounding."""
        return self._leaves_out_zero and not self.rounding

    @property
    def rounding(self) -> bool:
        """Whether the interval leaves out zero only because arithmetic rounds."""
        if not self._leaves_out_zero or self.difference is None:
            return False
        return abs(self.difference) <= ROUNDING * max(1.0, abs(self.a or 0), abs(self.b or 0))

    @property
    def _leaves_out_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def better(self) -> bool | None:
        """Whether B is better than A, as far as that can be told."""
        if not self.separable or self.higher_is_better is None or self.difference is None:
            return None
        return (self.difference > 0) == self.higher_is_better


@dataclass(frozen=True)
class Flip:
    """A case that one run edits with success and the other without."""

    protocol: str
    category: str
    case: str
    method: str
    metric: str
    gained: bool
    """Success in B alone; else in A alone."""
    prompt: str
    """The target prompt."""


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    a: str
    b: str
    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]
    """What could not be compared, and why."""

    def headline(self) -> list[Difference]:
        """Over all categories, the metrics of the main table."""
        picked = [d for d in self.differences if d.category == ALL and d.metric in tables.MAIN_METRICS]
        return picked or [d for d in self.differences if d.category == ALL]


def compare(
    a: RunStore,
    b: RunStore,
    facts: Mapping[str, MetricFacts] | None = None,
    *,
    draws: int = 2_000,
    seed: int = 0,
) -> Comparison:
    """Compares run ``b`` with run ``a``. ``facts`` say of a metric which direction is better.

    Methods are matched by digest, then by title, then by name where both runs have it once. Where a
    protocol's digest differs, the cases are those whose line, source and mask are the same in both. Raises
    :class:`ReportError` where the runs have no protocol or no method in common, StoreError as reading does.
    """
    notes: list[str] = []
    methods = _matched(a.methods, b.methods)
    matched_a, matched_b = {x for x, _ in methods}, {y for _, y in methods}
    titles_a, titles_b = tables.method_titles(a), tables.method_titles(b)
    names = {
        pair: titles_a[pair[0]]
        if titles_a[pair[0]] == titles_b[pair[1]]
        else f"{titles_a[pair[0]]} → {titles_b[pair[1]]}"
        for pair in methods
    }
    for label, titles, there in (("A", titles_a, matched_a), ("B", titles_b, matched_b)):
        alone = [title for digest, title in titles.items() if digest not in there]
        if alone:
            notes.append(f"only in {label}: method {', '.join(alone)}")
    protocols = [name for name in a.protocols() if name in b.protocols()]
    for label, store in (("A", a), ("B", b)):
        alone = [name for name in store.protocols() if name not in protocols]
        if alone:
            notes.append(f"only in {label}: protocol {', '.join(alone)}")
    if not protocols or not methods:
        what = "protocol" if not protocols else "method"
        raise ReportError(
            f"{a.path} and {b.path} have no {what} in common, so nothing can be paired. Compare runs that do."
        )
    rounded = [names[x, y] for x, y in methods if _conditions(a, x) != _conditions(b, y)]
    if rounded:
        notes.append(
            f"made with another batch size or number of threads: {', '.join(rounded)}. For that alone single "
            f"pixels may be a level lighter or darker, and a score of one edit may move by about {TOLERANCE:g}"
        )
    scores_a, scores_b = a.scores(), b.scores()
    sets_a, sets_b = a.set_scores(), b.set_scores()
    differences: list[Difference] = []
    flips: list[Flip] = []
    for protocol in protocols:
        cases = _common_cases(a, b, protocol, notes)
        for pair in methods:
            left = _of(scores_a, protocol, pair[0])
            right = _of(scores_b, protocol, pair[1])
            found, flipped = _pair(
                left, right, cases, protocol, names[pair], facts or {}, draws=draws, seed=seed
            )
            differences += found
            flips += flipped
            differences += _pair_sets(
                _of(sets_a, protocol, pair[0]),
                _of(sets_b, protocol, pair[1]),
                protocol,
                names[pair],
                facts or {},
            )
    label_a, label_b = _labels(a.path, b.path)
    return Comparison(
        label_a, label_b, tuple(_changes(a, b, methods)), tuple(differences), tuple(flips), tuple(notes)
    )


def _conditions(store: RunStore, method: str) -> dict[str, Any]:
    """Empty for a run of an earlier version, which does not say."""
    entry = store.manifest["methods"][method]
    return {name: entry[name] for name in CONDITIONS if name in entry}


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names, or their paths where the names are the same."""
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _matched(a: Mapping[str, MethodSpec], b: Mapping[str, MethodSpec]) -> list[tuple[str, str]]:
    pairs = [(digest, digest) for digest in a if digest in b]
    for key in ("title", "name"):
        left = [d for d in a if d not in {x for x, _ in pairs}]
        right = [d for d in b if d not in {y for _, y in pairs}]
        of_left = [getattr(a[d], key) for d in left]
        of_right = [getattr(b[d], key) for d in right]
        for digest, what in zip(left, of_left, strict=True):
            if of_left.count(what) == 1 and of_right.count(what) == 1:
                pairs.append((digest, right[of_right.index(what)]))
    order = list(a)
    return sorted(pairs, key=lambda pair: order.index(pair[0]))


# --- configuration -------------------------------------------------------------------------------------


def _changes(a: RunStore, b: RunStore, methods: Sequence[tuple[str, str]]) -> Iterator[Change]:
    left, right = _flat(_configuration(a)), _flat(_configuration(b))
    for x, y in methods:
        # Under one name, so that what the label or the digest does to the key is no change of its own.
        spec_a, spec_b = a.methods[x], b.methods[y]
        place = f"methods.{spec_a.title}"
        entry_a, entry_b = a.manifest["methods"][x], b.manifest["methods"][y]
        left |= _flat(_method(spec_a, entry_a), place)
        right |= _flat(_method(spec_b, entry_b), place)
    matched_a, matched_b = {x for x, _ in methods}, {y for _, y in methods}
    left |= {f"methods.{s.title}": s.digest for d, s in a.methods.items() if d not in matched_a}
    right |= {f"methods.{s.title}": s.digest for d, s in b.methods.items() if d not in matched_b}
    for what in dict.fromkeys([*left, *right]):
        if left.get(what) != right.get(what):
            yield Change(what, left.get(what), right.get(what))


def _configuration(store: RunStore) -> dict[str, Any]:
    manifest = store.manifest
    suite = {
        key: value
        for key, value in (manifest.get("suite") or {}).items()
        # Protocols and methods are compared as they ran, the seed as the run's.
        if key not in ("protocols", "methods", "seed")
    }
    return {
        "seed": manifest.get("seed"),
        "suite": suite,
        "protocols": manifest["protocols"],
        "versions": manifest.get("versions", {}),
        "metrics": _metric_versions(store),
    }


def _metric_versions(store: RunStore) -> dict[str, str]:
    scores = store.scores()[["metric", "metric_version"]].drop_duplicates("metric", keep="last")
    sets = store.set_scores()[["metric", "metric_version"]].drop_duplicates("metric", keep="last")
    return {
        name: str(version)
        for frame in (scores, sets)
        for name, version in zip(frame["metric"].tolist(), frame["metric_version"].tolist(), strict=True)
    }


def _method(spec: MethodSpec, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": spec.name,
        "label": spec.title,
        "digest": spec.digest,
        "dtype": entry.get("dtype"),
        "devices": entry.get("devices"),
        **{name: entry[name] for name in CONDITIONS if name in entry},
        "options": spec.options,
    }


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; whatever else as text."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for name, item in value.items():
            found |= _flat(item, f"{prefix}.{name}" if prefix else str(name))
        return found
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return {prefix: str(value)} if prefix and not (isinstance(value, Mapping) and not value) else {}


# --- values --------------------------------------------------------------------------------------------


def _common_cases(a: RunStore, b: RunStore, protocol: str, notes: list[str]) -> dict[str, Mapping[str, Any]]:
    """Case id -> row, of the cases that are the same edit in both runs."""
    left, right = a.cases(protocol), b.cases(protocol)
    rows_a = {row["id"]: row for row in left.rows}
    rows_b = {row["id"]: row for row in right.rows}
    common: dict[str, Mapping[str, Any]] = {case: row for case, row in rows_a.items() if case in rows_b}
    if left.info.get("digest") != right.info.get("digest"):
        seen: dict[Path, str] = {}

        def pixels(path: Path) -> str:
            if path not in seen:
                seen[path] = sha256_file(path) if path.is_file() else ""
            return seen[path]

        same = {
            case: row
            for case, row in common.items()
            if row == rows_b[case]
            and all(
                is_relative(row[kind])
                and pixels(left.directory / row[kind]) == pixels(right.directory / row[kind])
                for kind in ("source", "mask")
            )
        }
        notes.append(
            f"{protocol}: its digest differs ({left.info.get('digest')} in A, {right.info.get('digest')} in B);"
            f" of {len(common)} cases in both, the {len(same)} whose prompts, source and mask are the same"
            " are compared; values of whole sets are of other cases in A than in B"
        )
        common = same
    else:
        more = [(label, len(rows) - len(common)) for label, rows in (("A", rows_a), ("B", rows_b))]
        for label, count in more:
            if count:
                notes.append(f"{protocol}: {count} cases are only in {label} and are left out")
    return common


def _of(frame: pd.DataFrame, protocol: str, method: str) -> pd.DataFrame:
    return frame[(frame["protocol"] == protocol) & (frame["method"] == method)]


def _pair(
    left: pd.DataFrame,
    right: pd.DataFrame,
    cases: Mapping[str, Mapping[str, Any]],
    protocol: str,
    method: str,
    facts: Mapping[str, MetricFacts],
    *,
    draws: int,
    seed: int,
) -> tuple[list[Difference], list[Flip]]:
    """Every metric that both have, per category, from one matrix of cases and metrics."""
    import numpy as np

    from reports.data.statistics import differences as paired

    refused: list[Difference] = []
    flips: list[Flip] = []
    by_a = dict(tuple(left.groupby("metric", sort=False)))
    by_b = dict(tuple(right.groupby("metric", sort=False)))
    metrics: list[str] = []
    for metric in (name for name in by_a if name in by_b):
        versions = [sorted(set(frame["metric_version"].tolist())) for frame in (by_a[metric], by_b[metric])]
        if versions[0] == versions[1]:
            metrics.append(metric)
            continue
        remark = f"metric version {', '.join(versions[0])} in A, {', '.join(versions[1])} in B"
        refused.append(
            Difference(
                *(protocol, ALL, method, metric, None, None, None, None, None, 0),
                higher_is_better=_direction(metric, facts),
                remark=remark,
            )
        )
    rows = list(cases.values())
    order = {case: i for i, case in enumerate(cases)}
    a, b = (np.full((len(rows), len(metrics)), np.nan) for _ in range(2))
    for k, metric in enumerate(metrics):
        for values, frame in ((a, by_a[metric]), (b, by_b[metric])):
            for case, value in _by_case(frame, cases).items():
                values[order[case], k] = value
        if metric.startswith("success_"):
            judged = ~np.isnan(a[:, k]) & ~np.isnan(b[:, k])
            for i in np.flatnonzero(judged & ((a[:, k] > 0.5) != (b[:, k] > 0.5))).tolist():
                row = rows[i]
                gained = bool(b[i, k] > 0.5)
                flips.append(
                    Flip(protocol, row["category"], row["id"], method, metric, gained, row["target_prompt"])
                )
    gap = b - a
    declared = tables.outcomes(metrics, facts)
    outcome = np.array([metric in declared for metric in metrics], dtype=bool)
    alone = np.isnan(a) != np.isnan(b)
    _, cluster = np.unique([str(row["source_id"]) for row in rows], return_inverse=True)
    differences: list[Difference] = []
    for category in (ALL, *CATEGORIES):
        chosen = np.flatnonzero([category in (ALL, row["category"]) for row in rows])
        means = paired(b[chosen], a[chosen], cluster[chosen], outcome, draws=draws, seed=seed)
        for k, metric in enumerate(metrics):
            both = chosen[~np.isnan(gap[chosen, k])]
            if not len(both):
                continue
            differences.append(
                Difference(
                    protocol=protocol,
                    category=category,
                    method=method,
                    metric=metric,
                    a=float(a[both, k].mean()),
                    b=float(b[both, k].mean()),
                    difference=float(means.value[k]),
                    low=_finite(means.low[k]),
                    high=_finite(means.high[k]),
                    n=len(both),
                    unpaired=int(alone[chosen, k].sum()),
                    higher_is_better=_direction(metric, facts),
                    same=not gap[both, k].any(),
                )
            )
    return [*refused, *differences], flips


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _by_case(frame: pd.DataFrame, cases: Mapping[str, Any]) -> dict[str, float]:
    """Case id -> value, of the cases asked for that have one; with several seeds, their mean."""
    found: dict[str, list[float]] = {}
    for case, value in zip(frame["case"].tolist(), frame["value"].tolist(), strict=True):
        if case in cases and not math.isnan(value):
            found.setdefault(case, []).append(value)
    return {case: math.fsum(values) / len(values) for case, values in found.items()}


def _pair_sets(
    left: pd.DataFrame,
    right: pd.DataFrame,
    protocol: str,
    method: str,
    facts: Mapping[str, MetricFacts],
) -> list[Difference]:
    """Metrics of sets have no value per case: the two values, with no interval of their difference."""
    rows_a = {(row["metric"], row["category"]): row for row in left.to_dict(orient="records")}
    rows_b = {(row["metric"], row["category"]): row for row in right.to_dict(orient="records")}
    found = []
    for metric, category in (place for place in rows_a if place in rows_b):
        one, other = rows_a[metric, category], rows_b[metric, category]
        remark = ""
        if one["metric_version"] != other["metric_version"]:
            remark = f"metric version {one['metric_version']} in A, {other['metric_version']} in B"
        elif one["n"] != other["n"]:
            remark = f"sets of {one['n']} and {other['n']} edits: not comparable"
        values = [None if math.isnan(row["value"]) else float(row["value"]) for row in (one, other)]
        x, y = values
        gap = y - x if x is not None and y is not None and not remark else None
        found.append(
            Difference(
                *(protocol, category, method, metric, x, y, gap, None, None),
                n=int(min(one["n"], other["n"])),
                higher_is_better=_direction(metric, facts),
                same=gap == 0,
                remark=remark,
            )
        )
    return found


def _direction(metric: str, facts: Mapping[str, MetricFacts]) -> bool | None:
    known = tables.facts_of(metric, facts)
    return None if known is None else known.higher_is_better


# --- showing -------------------------------------------------------------------------------------------


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return ABSENT
    return f"{value:+.3g}" if sign and value else f"{value:.4g}"


def _span(entry: Difference) -> str:
    if entry.low is None or entry.high is None:
        return ""
    return f"{_number(entry.low, sign=True)} to {_number(entry.high, sign=True)}"


def _verdict(entry: Difference) -> str:
    if entry.remark:
        return entry.remark
    if entry.same:
        return "the same"
    if entry.low is None:
        return ""
    if entry.rounding:
        return "the same but for rounding"
    if not entry.separable:
        return "not separable"
    return {True: "better", False: "worse", None: "differs"}[entry.better]


def _heading(metric: str) -> str:
    base = metric.removesuffix("_pasted")
    return HEADINGS.get(base, base) + (", pasted" if base != metric else "")


def _notes(comparison: Comparison) -> list[str]:
    return [
        f"A: {comparison.a}; B: {comparison.b}. Differences are B minus A, paired by case; their 95 % intervals"
        " are clustered on source images (of shares: Newcombe's; of other means: studentised bootstrap) and not"
        " corrected for their number.",
        *comparison.notes,
    ]


def terminal(
    comparison: Comparison, *, everything: bool = False, flips: int = 20
) -> Iterator[RenderableType]:
    """Rich renderables. ``everything``: every category and metric; ``flips``: at most so many are listed."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    def table(title: str, *columns: str) -> RichTable:
        made = RichTable(
            title=Text(title, style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        for column in columns:
            made.add_column(
                column,
                justify="right" if column in _RIGHT else "left",
                overflow="fold",
                no_wrap=column in _RIGHT,
            )
        return made

    if comparison.changes:
        shown = table("What was asked differently", "what", "in A", "in B")
        for change in comparison.changes:
            shown.add_row(Text(change.what), Text(change.a or ABSENT), Text(change.b or ABSENT))
        yield shown
    else:
        yield Text("The configurations are the same.", style="bold")
    yield Text()
    head = ("method", "metric", "A", "B", "B - A", "95 % interval", "n", "")
    entries = comparison.differences if everything else comparison.headline()
    same = [entry for entry in entries if _verdict(entry) == "the same"]
    if not everything:
        entries = [entry for entry in entries if _verdict(entry) != "the same"]
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        for category in dict.fromkeys(entry.category for entry in entries):
            rows = [e for e in entries if e.protocol == protocol and e.category == category]
            if not rows:
                continue
            name = "all categories" if category == ALL else category.replace("_", "-")
            shown = table(f"{protocol}: {name}", *head)
            before = ""
            for entry in rows:
                verdict = _verdict(entry)
                shown.add_row(
                    Text(entry.method if entry.method != before else ""),
                    Text(_heading(entry.metric)),
                    _number(entry.a),
                    _number(entry.b),
                    _number(entry.difference, sign=True),
                    _span(entry),
                    str(entry.n),
                    Text(verdict, style=_STYLES.get(verdict, "dim")),
                )
                before = entry.method
            yield shown
            yield Text()
    if same and not everything:
        yield Text(f"The same in both: {len(same)} of {len(same) + len(entries)} values of the main metrics.")
    yield Text(_flip_line(comparison), style="bold")
    for flip in comparison.flips[:flips]:
        yield Text(f"  {_flip(flip)}", style="green" if flip.gained else "red")
    if len(comparison.flips) > flips:
        yield Text(f"  ... and {len(comparison.flips) - flips} more", style="dim")
    for note in _notes(comparison):
        yield Text(note, style="dim italic")


_RIGHT = ("A", "B", "B - A", "95 % interval", "n")
_STYLES = {"better": "bold green", "worse": "bold red", "differs": "bold"}


def _flip_line(comparison: Comparison) -> str:
    gained = sum(flip.gained for flip in comparison.flips)
    return f"Cases that flipped: {gained} gained in B, {len(comparison.flips) - gained} lost"


def _flip(flip: Flip) -> str:
    way = "gained" if flip.gained else "lost"
    return (
        f"{way}: {flip.case} ({flip.category.replace('_', '-')}, {flip.protocol}) by {flip.method}, "
        f"{_heading(flip.metric)}: {flip.prompt}"
    )


def markdown(comparison: Comparison) -> str:
    """The whole comparison: configuration, every difference, every flip."""
    lines = [f"# {_text(comparison.a)} and {_text(comparison.b)}", ""]
    lines += ["## What was asked differently", ""]
    if comparison.changes:
        lines += ["| what | A | B |", "| :-- | :-- | :-- |"]
        for change in comparison.changes:
            lines.append(
                f"| {_text(change.what)} | {_text(change.a or ABSENT)} | {_text(change.b or ABSENT)} |"
            )
    else:
        lines.append("Nothing.")
    lines += ["", "## Differences", ""]
    for protocol in dict.fromkeys(entry.protocol for entry in comparison.differences):
        for category in (ALL, *CATEGORIES):
            rows = [e for e in comparison.differences if e.protocol == protocol and e.category == category]
            if not rows:
                continue
            name = "all categories" if category == ALL else category.replace("_", "-")
            lines += [f"### {_text(protocol)}: {name}", ""]
            lines += ["| method | metric | A | B | B - A | 95 % interval | n | |"]
            lines += ["| :-- | :-- | --: | --: | --: | --: | --: | :-- |"]
            for entry in rows:
                gap = _number(entry.difference, sign=True)
                lines.append(
                    f"| {_text(entry.method)} | {_text(_heading(entry.metric))} | {_number(entry.a)} "
                    f"| {_number(entry.b)} | {f'**{gap}**' if entry.separable else gap} | {_span(entry)} "
                    f"| {entry.n} | {_text(_verdict(entry))} |"
                )
            lines.append("")
    lines += ["## Flips", "", f"{_flip_line(comparison)}.", ""]
    lines += [f"- {_text(_flip(flip))}" for flip in comparison.flips]
    lines += ["", *(f"{_text(note)}  " for note in _notes(comparison)), ""]
    return "\n".join(lines)


def _text(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown would read as more than a letter."""
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())
