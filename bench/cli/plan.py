"""The plan of a run, for ``--dry-run``: how many edits, how much disk, how much time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.cli.console import warn
from bench.tables.terminal import plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from bench.plan import Plan
    from bench.session import GpuTime, Session, SuiteJob
    from bench.suite import ConfiguredProtocol

FULL_SIZE = 256
"""Pixels of a canvas's side from which its models count as full-size. The embedded ones take a fraction of the time."""

Row = dict[str, Any]
"""One method on one protocol: protocol, method, cases, done, to_do, model_steps, seconds."""


@dataclass(frozen=True)
class PlanDescription:
    """The plan of a run in numbers. None stands for a number that cannot be known without the protocol's data."""

    folder: str
    rows: list[Row]
    edits: int | None
    gigabytes: float | None
    """Bytes of the edits' pixels in GB. PNG files take at most as much."""
    untimed_steps: int
    """Model steps at full size that no stored edit has timed."""
    gpu_time: GpuTime | None
    not_ready: tuple[str, ...]
    fetch: str
    """The command that downloads what is missing. Empty where nothing can be downloaded."""
    estimates: tuple[str, ...]
    """Costs that methods estimate themselves, such as the price of an endpoint."""
    remarks: tuple[tuple[str, tuple[str, ...]], ...]
    """Refused cases, the number of metrics per protocol and what is left out, then warnings about judges."""

    def as_json(self) -> dict[str, Any]:
        # The keys are left out where nothing has to be estimated.
        gpu: dict[str, Any] = {}
        if self.gpu_time is not None:
            gpu = {
                "untimed_model_steps": self.untimed_steps,
                "teraflop_per_step": self.gpu_time.teraflop_per_step,
                "gpu_hours": dict(self.gpu_time.hours),
            }
        return {
            "folder": self.folder,
            "rows": self.rows,
            "edits": self.edits,
            "gigabytes_at_most": self.gigabytes,
            **gpu,
            "not_ready": list(self.not_ready),
            "fetch": self.fetch,
        }


def describe_plan(session: Session, job: SuiteJob) -> PlanDescription:
    """Describes what a run would do. Missing data and weights are listed, not refused."""
    from bench.downloads import with_one_command
    from bench.judging import judge_remarks, judge_warnings, planned_estimates
    from bench.plan import width_height

    plan, store = session.plan(job)
    not_ready, fetch = with_one_command(job.source, plan.problems)
    rows = _rows(plan, job)
    # (width, height) of the canvas per protocol. None where each source has its own size, or where a protocol lacks
    # its data and cannot say.
    canvas: dict[str, tuple[int, int] | None] = {
        entry.name: width_height(entry.info["canvas"]) for entry in plan.protocols
    }
    for entry in job.protocols:
        if entry.problems:
            expected = entry.cls.expected(entry.options)
            canvas[entry.name] = width_height(expected.canvas) if expected else None

    # Time on a GPU, for the model steps that nothing has timed yet.
    untimed_steps = sum(
        row["model_steps"] or 0
        for row in rows
        if row["seconds"] is None and min(canvas[row["protocol"]] or (0,)) >= FULL_SIZE
    )
    # Costs that methods estimate themselves.
    edits_of_method = {
        method.spec.digest: sum(row.todo for row in plan.rows if row.digest == method.spec.digest)
        for method in plan.methods
    }
    estimates = tuple(
        f"{method.spec.title}: {estimate}"
        for method in plan.methods
        if (count := edits_of_method[method.spec.digest])
        and (estimate := method.cls.estimate(method.options, count)) is not None
    )
    # Calls of judges, also for the edits that are still to be made.
    estimates += tuple(planned_estimates(session, job.judges, store, plan))
    rendered = any(entry.cls.rendered for entry in job.protocols)
    return PlanDescription(
        folder=str(job.folder),
        rows=rows,
        edits=_total(row["to_do"] for row in rows),
        gigabytes=_gigabytes(rows, canvas),
        untimed_steps=untimed_steps,
        gpu_time=session.program.gpu_time(untimed_steps) if untimed_steps else None,
        not_ready=(*not_ready, *judge_remarks(session, job.judges, rendered=rendered)),
        fetch=fetch,
        estimates=estimates,
        remarks=(
            *method_notes(job),
            *_refusals(plan),
            *_metric_remarks(session, job),
            *((warning, ()) for warning in judge_warnings(session, job.judges, store)),
        ),
    )


def _rows(plan: Plan, job: SuiteJob) -> list[Row]:
    # Controls and endpoints have no steps.
    steps = {entry.spec.digest: int(entry.spec.options.get("steps") or 0) for entry in job.methods}
    rows: list[Row] = [
        {
            "protocol": row.protocol,
            "method": row.method,
            "cases": row.total,
            "done": row.done,
            "to_do": row.todo,
            "model_steps": row.todo * steps[row.digest],
            "seconds": row.seconds if row.todo else 0.0,
        }
        for row in plan.rows
    ]
    # A protocol whose data are missing counts the cases that it would select.
    for entry in job.protocols:
        if not entry.problems:
            continue
        count = _expected_cases(entry, job.suite.limit)
        rows += [
            {
                "protocol": entry.name,
                "method": method.spec.title,
                "cases": count,
                "done": 0,
                "to_do": count,
                "model_steps": None if count is None else count * steps[method.spec.digest],
                "seconds": None,
            }
            for method in job.methods
        ]
    return rows


def method_notes(job: SuiteJob) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yields, per method, the facts about it that stop no run."""
    for entry in job.methods:
        if entry.notes:
            yield f"{entry.spec.title}:", entry.notes


def _refusals(plan: Plan) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yields, per method and protocol, the number of cases that lack what the method needs."""
    for row in plan.rows:
        if row.refused:
            yield (
                f"{row.method} on {row.protocol}: {row.refused} cases lack what it needs and are refused",
                (),
            )


def _metric_remarks(session: Session, job: SuiteJob) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yields, per kind of protocol, the number of its metrics and the columns that lack their weights."""
    from bench.metrics.choice import choice_remarks

    # No network is loaded: this only checks which files exist.
    features = session.program.make_features("cpu", None)
    protocols: dict[str, dict[str, Any]] = {entry.name: {} for entry in job.suite.protocols}
    for names, choice in session.metric_choices(features, protocols, job.suite.metrics).items():
        yield f"metrics of {', '.join(names)}: {len(choice.names)}", tuple(choice_remarks(names, choice))


def _expected_cases(entry: ConfiguredProtocol, limit: int | None) -> int | None:
    """Number of cases that a protocol selects where its data suffice. None where its options do not say."""
    # The smaller of what the protocol selects and what the suite takes.
    expected = entry.cls.expected(entry.options)
    limits = [expected.per_category if expected else None, limit]
    per_category = [count for count in limits if count is not None]
    return len(entry.cls.categories) * min(per_category) if per_category else None


def _total(parts: Iterable[float | None]) -> Any:
    """Sum of the parts. None where a part is unknown."""
    # One unknown part makes the sum unknown: a smaller number would mislead.
    values = list(parts)
    return None if None in values else sum(value for value in values if value is not None)


def _gigabytes(rows: Sequence[Row], canvas: Mapping[str, tuple[int, int] | None]) -> float | None:
    # 3 channels of one byte per pixel.
    sizes = [canvas[row["protocol"]] for row in rows]
    gigabytes: float | None = _total(
        None if size is None or row["to_do"] is None else row["to_do"] * 3 * size[0] * size[1] / 1e9
        for row, size in zip(rows, sizes, strict=True)
    )
    return gigabytes


# --- printing --------------------------------------------------------------------------------------------


def print_plan(plan: PlanDescription, screen: Console) -> None:
    """Prints the plan as a table with its sums, then time and disk, then what is missing."""
    screen.print(f"run folder: {plan.folder}")
    _print_rows(plan.rows, screen)

    # Disk: an upper bound, since PNG compresses.
    disk = ""
    if plan.gigabytes is not None:
        amount = "0.01" if plan.gigabytes < 0.01 else f"{plan.gigabytes:.2g}"
        disk = f"; their PNG files take at most {amount} GB"
    screen.print(f"{_count(plan.edits)} edits to make{disk}")
    # Time on a GPU, with every assumption in the same sentence.
    if plan.gpu_time is not None:
        hours = ", ".join(f"{hours:.1f} h on {gpu}" for gpu, hours in plan.gpu_time.hours.items())
        screen.print(
            f"about {hours}, if each of {plan.untimed_steps} model steps costs what a guided step of "
            f"Stable Diffusion 1.5 costs at 512 px ({plan.gpu_time.teraflop_per_step:.2f} TFLOP, counted; "
            f"{plan.gpu_time.utilisation:.0%} of the GPU's peak, assumed). A step of a larger model costs more",
            soft_wrap=True,
        )
    if any(row["to_do"] and row["seconds"] is None for row in plan.rows):
        screen.print(
            "Times are estimated from edits of the same method in this folder. Some methods have none yet.",
            style="dim",
        )

    # Costs that methods estimate, missing data and weights, and the columns that the tables will lack.
    for estimate in plan.estimates:
        screen.print(estimate)
    for problem in plan.not_ready:
        warn(screen, f"not ready: {problem}")
    if plan.fetch:
        warn(screen, f"get what can be downloaded with: {plan.fetch}")
    for heading, lines in plan.remarks:
        screen.print(heading)
        for line in lines:
            warn(screen, line)


def _print_rows(rows: Sequence[Row], screen: Console) -> None:
    # The footer has the sums over all rows.
    table = plain_table(show_footer=True)
    table.add_column("protocol", "all")
    table.add_column("method")
    for key in ("cases", "done", "to_do", "model_steps"):
        total = _count(_total(row[key] for row in rows))
        table.add_column(key.replace("_", " "), total, justify="right")
    table.add_column("estimate", _duration([row["seconds"] for row in rows]), justify="right")
    # A method without model steps has an empty cell, not 0.
    for row in rows:
        table.add_row(
            row["protocol"],
            row["method"],
            *(_count(row[key]) for key in ("cases", "done", "to_do")),
            _count(row["model_steps"]) if row["model_steps"] != 0 else "",
            _duration([row["seconds"]]),
        )
    screen.print(table)


def _count(number: float | None) -> str:
    return "?" if number is None else f"{number}"


def _duration(parts: Sequence[float | None]) -> str:
    """Sum of seconds as hours and minutes: ``> 1 h 5 min`` where some are unknown, ``?`` where all are."""
    # Seconds of the parts that have a time.
    seconds_of_parts = [part for part in parts if part is not None]
    complete = len(seconds_of_parts) == len(parts)
    if not complete and not sum(seconds_of_parts):
        return "?"
    seconds = round(sum(seconds_of_parts))
    minutes, hours = seconds // 60, seconds // 3600
    # Two units are enough for an estimate.
    if hours:
        text = f"{hours} h {minutes % 60} min"
    else:
        text = f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
    return text if complete else f"> {text}"
