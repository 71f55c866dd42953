"""Chooses the metrics that can be computed on some data, and constructs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.downloads import needed_by
from bench.metrics import METRICS, STAND_INS
from bench.metrics.types import Metric, MetricError, SetMetric
from bench.registry import Registry, plugin_code, problems_of

if TYPE_CHECKING:
    from bench.metrics.features import Features
    from bench.session import Session, SuiteJob


def metric_registry() -> Registry:
    """The suite's metrics and those of installed plug-ins."""
    return Registry("metric", METRICS)


@dataclass(frozen=True)
class MetricChoice:
    """The metrics to compute on data of one kind, and the reasons for those left out."""

    names: list[str] = field(default_factory=list)
    """Metrics to compute, in order."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Metric -> the reasons why it is not computed, each with its remedy."""
    stand_ins: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """Published metric whose weights are missing -> the metric in ``names`` that replaces it under its own name, and
    what is missing, with the remedy."""


def choose_metrics(
    features: Features,
    *,
    rendered: bool = False,
    requested: Sequence[str] | None = None,
    registry: Registry | None = None,
) -> MetricChoice:
    """Chooses the metrics to compute on data of one kind. Loads no network.

    ``rendered`` says that the images show the rendered world. For these, the stand-in of a published metric is chosen,
    because published networks were not trained on that world. On other data the published metric is chosen where its
    weights are installed, or else its stand-in. A metric with an embedded network is then left out, even where it was
    requested.

    ``requested`` restricts the choice to these metrics and their stand-ins. By default it is every registered metric
    but those ``on_request``.
    """
    registry = registry or metric_registry()
    pool = (
        list(requested)
        if requested is not None
        else [name for name in registry.names() if not registry.load(name).on_request]
    )

    # Candidates for the place of each metric, the preferred one first.
    # Stand-in -> the published metric that it replaces.
    published = {stand_in: name for name, stand_in in STAND_INS.items()}
    candidates: dict[str, list[str]] = {}
    for name in pool:
        if published.get(name) in pool:
            continue  # chosen together with the published metric
        stand_in = STAND_INS.get(name)
        both = [name] if stand_in is None or stand_in not in registry else [name, stand_in]
        candidates[name] = both[::-1] if rendered else both

    # The first candidate that can be computed here.
    problems = metric_problems({name for both in candidates.values() for name in both}, features, registry)
    choice = MetricChoice()
    for name, both in candidates.items():
        # An embedded network must not score photographs.
        admissible = [one for one in both if rendered or not registry.load(one).embedded]
        usable = next((one for one in admissible if one not in problems), None)
        if usable is None:
            choice.left_out[name] = problems[admissible[0]] if admissible else [embedded_reason(name)]
            continue
        if usable not in choice.names:
            choice.names.append(usable)
        # On photographs a stand-in is reported: its values must not be read as the published metric's.
        if not rendered and usable != name:
            choice.stand_ins[name] = usable, problems[name]
    return choice


def metric_problems(
    names: Iterable[str], features: Features, registry: Registry | None = None
) -> dict[str, list[str]]:
    """Lists, for each metric that cannot be computed here, what is missing, with remedies. Loads no network."""
    registry = registry or metric_registry()
    problems = {name: problems_of(registry.load(name), features, f"metric {name!r}") for name in names}
    return {name: list(lines) for name, lines in problems.items() if lines}


def load_metrics(
    names: Iterable[str], features: Features, registry: Registry | None = None
) -> list[Metric | SetMetric]:
    """Constructs the metrics. Raises :class:`MetricError` that lists all that is missing, with remedies."""
    registry = registry or metric_registry()
    # Everything that is missing at once, before any network is loaded.
    names = list(dict.fromkeys(names))
    problems = metric_problems(names, features, registry)
    if problems:
        raise refusal(problems)
    metrics = []
    for name in names:
        metric = construct(registry.load(name), features, name)
        if metric.name != name:
            raise MetricError(
                f"the metric registered as {name!r} calls itself {metric.name!r}; use one name."
            )
        metrics.append(metric)
    return metrics


def construct(cls: Any, features: Features, name: str) -> Metric | SetMetric:
    """Constructs one metric. Networks are loaded on first use, not here. ``name`` stands in messages."""
    with plugin_code(cls, f"metric {name!r}"):
        metric: Metric | SetMetric = cls(features) if cls.uses_features else cls()
    return metric


def embedded_reason(name: str) -> str:
    """The reason why a metric with an embedded network has no value on data that are not rendered."""
    # The published metric that can score photographs, if there is one.
    instead = next((main for main, stand_in in STAND_INS.items() if stand_in == name), None)
    remedy = f" Ask for {instead}." if instead else ""
    return f"an embedded network, trained on the rendered world only, cannot score these images.{remedy}"


def refusal(problems: Mapping[str, Sequence[str]]) -> MetricError:
    """One error that lists every problem once, with the metrics that have it."""
    lines = "\n".join(
        f"  {', '.join(names)}: {needed_by(names[0], line)}" for line, names in by_problem(problems).items()
    )
    return MetricError(f"these metrics cannot be computed here:\n{lines}")


def check_metrics(session: Session, job: SuiteJob) -> None:
    """Raises :class:`MetricError` where none of a suite's metrics can be computed: a report would have no table.

    Loads no network. A run that has scores already, such as those of another machine, is not refused.
    """
    if job.judges or any(job.folder.glob("*scores*")):
        return
    features = session.program.make_features("cpu", None)
    protocols: dict[str, dict[str, Any]] = {entry.name: {} for entry in job.protocols}
    choices = session.metric_choices(features, protocols, job.suite.metrics).values()
    left_out = {name: lines for choice in choices for name, lines in choice.left_out.items()}
    if left_out and not any(choice.names for choice in choices):
        raise refusal(left_out)


def by_problem(problems: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Problem -> the metrics that have it."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, lines in problems.items():
        for line in lines:
            grouped[line].append(name)
    return dict(grouped)


def choice_remarks(protocols: Collection[str], choice: MetricChoice) -> Iterator[str]:
    """Yields one line for each reason why metrics are left out, and one for each metric that replaces another."""
    # Metrics that lack the same weights share one line.
    where = ", ".join(protocols)
    for reason, names in by_problem(choice.left_out).items():
        yield f"{where}: left out: {', '.join(names)}: {needed_by(names[0], reason)}"
    for name, (stand_in, reasons) in choice.stand_ins.items():
        remedies = " ".join(needed_by(name, reason) for reason in reasons)
        yield f"{where}: {stand_in} replaces {name}, under its own name: {remedies}"
