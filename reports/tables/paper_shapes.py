"""The five tables of the paper, as far as a run has their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.edit import ALL, CATEGORIES
from bench.tables.table import Table
from reports.data.metrics import FRECHET, SUCCESS, heading
from reports.data.preference import EVERYWHERE, SIMULATED
from reports.data.report_data import ReportData
from reports.tables.tabulate import Pick, tabulate

# As `SUCCESS`. Names with `mini_clip` are of the embedded CLIP, which scores the rendered world alone.
REGION = ("clip_region", "mini_clip_region")
# Method of the ablation table. Its variants have names that begin with this and ``_no_``.
ABLATION = "prompt_edit_diff"


def paper_tables(data: ReportData, names: Mapping[str, str]) -> list[Table]:
    """The paper's Tables 1 to 5. ``names``: title -> registered name of the method."""
    run = _Run(data)
    tables = [
        *_realism_and_preference(run),
        *_realism(run),
        *_preference(run),
        *_success(run),
        *_ablation(run, names),
    ]
    return [table for table in tables if table.columns]


@dataclass(frozen=True)
class _Run:
    """A run's numbers, and the choice of its metrics for realism, success and votes."""

    data: ReportData

    @property
    def protocols(self) -> list[str]:
        # The votes pooled over all protocols stand under a protocol's name, but have no images.
        return [protocol for protocol in self.data.protocols() if protocol != EVERYWHERE]

    def by_protocol(self, names: tuple[str, ...]) -> dict[str, str]:
        """Protocol -> the first of these metrics that it has, without those that have none."""
        firsts = {protocol: self.data.first(protocol, names) for protocol in self.protocols}
        return {protocol: metric for protocol, metric in firsts.items() if metric}

    @property
    def simulated(self) -> str:
        """Prefix of vote metrics: results of simulated raters have names of their own."""
        return SIMULATED if self.data.frame["metric"].str.startswith(SIMULATED).any() else ""

    @property
    def raters(self) -> str:
        return "SIMULATED RATERS'" if self.simulated else "human"

    def with_votes(self, metric: str) -> list[str]:
        """Protocols that have values of a vote metric, the pooled ones last."""
        voted = set(self.data.frame.loc[self.data.frame["metric"] == metric, "protocol"])
        return [protocol for protocol in (*self.protocols, EVERYWHERE) if protocol in voted]


def _realism_and_preference(run: _Run) -> Iterator[Table]:
    """Table 1: realism and preference side by side, per protocol."""
    frechet, preference = run.by_protocol(FRECHET), f"{run.simulated}preference"
    voted = run.with_votes(preference)
    # Without realism it would repeat Table 3.
    if not frechet:
        return
    picks = []
    for protocol in run.protocols:
        if protocol in frechet:
            metric = frechet[protocol]
            picks.append(Pick(heading(metric), metric, ALL, protocol, protocol))
        if protocol in voted:
            picks.append(Pick(heading(preference), preference, ALL, protocol, protocol))
    votes = f" and {run.raters} preference" if voted else ""
    title = f"Realism{votes} by data set and method"
    yield tabulate(run.data, "paper-1-realism-preference", title, picks)


def _realism(run: _Run) -> Iterator[Table]:
    """Table 2: realism alone."""
    frechet = run.by_protocol(FRECHET)
    if frechet:
        picks = [
            Pick(protocol, metric, ALL, protocol, heading(metric)) for protocol, metric in frechet.items()
        ]
        yield tabulate(run.data, "paper-2-realism", "Realism by data set", picks)


def _preference(run: _Run) -> Iterator[Table]:
    """Table 3: shares of all votes, of the methods that were voted on."""
    votes = f"{run.simulated}preference_votes"
    protocols = run.with_votes(votes)
    if protocols:
        frame = run.data.frame
        voted = set(frame.loc[frame["metric"] == votes, "method"])
        # A study may show some methods only. A row without votes would read as a method that nobody chose.
        methods = [method for method in _methods(run.data) if method in voted]
        picks = [Pick(protocol, votes, ALL, protocol, heading(votes)) for protocol in protocols]
        title = f"{run.raters if run.simulated else 'User'} preference: share of all votes"
        yield tabulate(run.data, "paper-3-preference", title, picks, methods)


def _success(run: _Run) -> Iterator[Table]:
    """Table 4: success by edit category."""
    success = run.by_protocol(SUCCESS)
    if success:
        picks = [
            Pick(category.replace("_", "-"), metric, category, protocol, f"{protocol}: {heading(metric)}")
            for protocol, metric in success.items()
            for category in (*CATEGORIES, ALL)
        ]
        yield tabulate(run.data, "paper-4-success", "Success by edit category", picks)


def _ablation(run: _Run, names: Mapping[str, str]) -> Iterator[Table]:
    """Table 5: the method and its variants without one part each."""
    variants = [
        title for title, name in names.items() if name == ABLATION or name.startswith(f"{ABLATION}_no_")
    ]
    # A variant alone has nothing to be compared with.
    if len(variants) < 2:
        return
    frechet, success, region = (run.by_protocol(family) for family in (FRECHET, SUCCESS, REGION))
    picks = []
    for protocol in run.protocols:
        # A family without a metric in this protocol is the empty string, and gets no column. Leakage is raw: that
        # of composited edits is 0 whatever part a variant lacks.
        metrics = {
            "success": success.get(protocol, ""),
            "leak LPIPS": "leak_lpips",
            "CLIP region": region.get(protocol, ""),
            heading(frechet.get(protocol, "")): frechet.get(protocol, ""),
        }
        picks += [Pick(head, metric, ALL, protocol, protocol) for head, metric in metrics.items() if metric]
    yield tabulate(run.data, "paper-5-ablation", f"Ablation of {ABLATION}", picks, variants)


def _methods(data: ReportData) -> Sequence[str]:
    """Titles, controls last."""
    # The sort is stable: within both groups the order of the suite remains.
    return sorted(dict.fromkeys(data.frame["method"]), key=lambda method: method in data.controls)
