"""The plan of a run: every method on every protocol, minus the stored edits. Planning writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.case_rows import case_row, check_case
from bench.casefile import protocol_info, provided_fields
from bench.edit import EditCase, EditKey
from bench.errors import BenchError
from bench.registry import PluginError, options_dict, plugin_code
from bench.store import RunStore
from bench.suite import ConfiguredMethod, ConfiguredProtocol, limited


class PlanError(BenchError):
    """A plan that cannot run. The message lists every problem with its remedy, before any model is loaded."""


@dataclass(frozen=True, eq=False)
class PlannedProtocol:
    """A protocol's part in a plan."""

    name: str
    info: Mapping[str, Any]
    """``casefile.protocol_info``, with ``options`` and ``limit``."""
    rows: tuple[Mapping[str, Any], ...]
    """The selected cases as ``cases.jsonl`` has them."""
    cases: Sequence[EditCase] | None
    """The protocol's cases, or None where the run folder has all that are needed."""

    def edit_key(self, method: ConfiguredMethod, case_id: str, seed: int) -> EditKey:
        """Key of the edit of one case. ``seed`` is one of the suite's."""
        return EditKey(self.name, str(self.info["version"]), method.spec.digest, case_id, seed)

    def refused(self, method: ConfiguredMethod) -> dict[str, str]:
        """Case id -> the reason, for each case that lacks a field of the request which the method needs."""
        # A case of a single object needs no regions.
        needs = sorted(method.needs - {"regions"})
        lacking = {row["id"]: [name for name in needs if not row.get(name)] for row in self.rows}
        return {
            case_id: f"refused: the case has no {', no '.join(names).replace('_', ' ')}, which the method needs"
            + method.how_to_do_without(names)
            for case_id, names in lacking.items()
            if names
        }

    def case_ids_to_edit(self, method: ConfiguredMethod, seed: int, done: set[str]) -> list[str]:
        """Ids of the cases whose edit is not among ``done`` (digests of edit keys). Refused cases are left out."""
        refused = self.refused(method)
        ids = [row["id"] for row in self.rows if row["id"] not in refused]
        return [case_id for case_id in ids if self.edit_key(method, case_id, seed).digest not in done]


@dataclass(frozen=True)
class PlanRow:
    """One method on one protocol."""

    protocol: str
    method: str
    """Title of the method."""
    digest: str
    """Digest of the method."""
    total: int
    """Edits: the cases that the method can edit, once with each seed."""
    done: int
    by_category: Mapping[str, int]
    """Edits to make, per category."""
    seconds: float | None
    """Estimated time for these edits, from those recorded so far. None where there are none."""
    refused: int = 0
    """Edits of cases that lack what the method needs, beside ``total``."""

    @property
    def todo(self) -> int:
        return self.total - self.done


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a run will do."""

    protocols: tuple[PlannedProtocol, ...]
    methods: tuple[ConfiguredMethod, ...]
    seeds: tuple[int, ...]
    """Every edit is made once with each."""
    rows: tuple[PlanRow, ...]
    problems: tuple[str, ...]
    """Reasons why it cannot run, each with its remedy."""

    @property
    def todo(self) -> int:
        """Edits to make."""
        return sum(row.todo for row in self.rows)


def make_plan(
    protocols: Sequence[ConfiguredProtocol],
    methods: Sequence[ConfiguredMethod],
    *,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    store: RunStore | None = None,
) -> Plan:
    """Plans every method on every protocol, minus the edits that ``store`` has.

    ``limit`` is the number of cases per category and protocol. They are chosen by the hash of their ids, so that a
    larger limit adds cases and replaces none. ``problems`` of the plan lists what cannot run. The rest is planned.
    Raises what a protocol raises for missing or broken data.
    """
    # Problems of single protocols and methods, then those of their combination.
    problems = [problem for protocol in protocols for problem in protocol.problems]
    problems += [problem for method in methods for problem in method.problems]
    # A protocol with problems has no readable cases.
    planned = [_plan_protocol(entry, limit, store) for entry in protocols if not entry.problems]
    names = Counter(entry.name for entry in planned)
    problems += [
        f"two protocols have the name {name!r}: put them into separate suites"
        for name, count in names.items()
        if count > 1
    ]
    problems += [
        problem for entry in planned for method in methods for problem in _unmet_needs(entry, method)
    ]
    problems += [
        f"method {method.spec.title}: {problem}"
        for method in methods
        if not method.problems
        for problem in method.cls.seed_problems(method.options, seeds)
    ]

    # Edits to make, and their estimated time. ``done`` has the digests of the keys of stored edits.
    done = store.done() if store is not None else set()
    pace = _seconds_per_edit(store)
    rows = []
    for protocol in planned:
        categories = {row["id"]: row["category"] for row in protocol.rows}
        for method in methods:
            todo = [case_id for seed in seeds for case_id in protocol.case_ids_to_edit(method, seed, done)]
            refused = len(protocol.refused(method)) * len(seeds)
            total = len(protocol.rows) * len(seeds) - refused
            seconds = pace.get((protocol.name, method.spec.digest))
            rows.append(
                PlanRow(
                    protocol=protocol.name,
                    method=method.spec.title,
                    digest=method.spec.digest,
                    total=total,
                    done=total - len(todo),
                    by_category=Counter(categories[case_id] for case_id in todo),
                    seconds=None if seconds is None else seconds * len(todo),
                    refused=refused,
                )
            )
    return Plan(tuple(planned), tuple(methods), tuple(seeds), tuple(rows), tuple(dict.fromkeys(problems)))


def _plan_protocol(entry: ConfiguredProtocol, limit: int | None, store: RunStore | None) -> PlannedProtocol:
    """Reads the selected cases, from the run folder where they are stored, else from the protocol."""
    protocol = entry.create()
    who = f"protocol {entry.name!r}"
    with plugin_code(entry.cls, who):
        info = _checked_info(protocol_info(protocol), who)
    info = {**info, "registered": entry.name, "options": options_dict(entry.options), "limit": limit}
    name = protocol.name
    if store is not None and name in store.protocols():
        # Cases of the same digest need not be made again, which can take minutes.
        stored = store.cases(name)
        if stored.info.get("digest") == info["digest"] and _covers(stored.info.get("limit"), limit):
            return PlannedProtocol(name, info, tuple(_select(stored.rows, limit)), None)
    rows = []
    with plugin_code(entry.cls, f"{who}: cases()"):
        cases = protocol.cases()
        for case in cases:
            # A broken case is refused now, before the run starts.
            check_case(case)
            rows.append(case_row(case))
    return PlannedProtocol(name, info, tuple(_select(rows, limit)), cases)


def _checked_info(info: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    """``info`` itself. Raises PluginError for a value of a wrong type."""
    # A plug-in may declare anything, and these values become file names and entries of the manifest.
    is_valid = {
        **{name: isinstance(info[name], str) and bool(info[name]) for name in ("name", "version", "digest")},
        "canvas": _is_canvas(info["canvas"]),
        "categories": all(isinstance(name, str) for name in info["categories"]),
    }
    wrong = [name for name, valid in is_valid.items() if not valid]
    if wrong:
        raise PluginError(f"{who}: {', '.join(wrong)}: missing or of a wrong type. Fix the class.")
    return info


def _is_canvas(canvas: Any) -> bool:
    """True where it is the side of a square or [width, height], in pixels, or None."""
    if canvas is None:
        return True
    sides = canvas if isinstance(canvas, list) and len(canvas) == 2 else [canvas]
    return all(isinstance(side, int) and side > 0 for side in sides)


def width_height(canvas: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(width, height) in pixels of a protocol's canvas: the side of a square, both sides, or None."""
    if canvas is None:
        return None
    return (canvas, canvas) if isinstance(canvas, int) else (canvas[0], canvas[1])


def _covers(stored_limit: int | None, limit: int | None) -> bool:
    """True where cases stored under one limit include those under another."""
    return stored_limit is None or (limit is not None and limit <= stored_limit)


def _select(rows: Iterable[Mapping[str, Any]], limit: int | None) -> list[Mapping[str, Any]]:
    """The rows within the limit, in their order."""
    rows = list(rows)
    # Chosen by hash of the id within each category, not by position.
    chosen = limited({row["id"]: row["category"] for row in rows}, limit)
    return [row for row in rows if row["id"] in chosen]


def _unmet_needs(protocol: PlannedProtocol, method: ConfiguredMethod) -> list[str]:
    """Reasons why a method cannot edit any of a protocol's cases."""
    if not protocol.rows:
        return [f"protocol {protocol.name} has no cases: check its options and its data"]
    problems = []
    # A method that can edit some of the cases edits these, and the run records why it refuses the others.
    missing = method.needs - provided_fields(protocol.rows)
    if "regions" in missing or len(protocol.refused(method)) == len(protocol.rows):
        # A field that some cases have is not what all of them lack.
        nowhere = {name for name in missing if not any(row.get(name) for row in protocol.rows)}
        lacking = sorted(nowhere or missing)
        problems.append(
            f"method {method.spec.title} needs {', '.join(lacking)}, "
            f"which protocol {protocol.name} does not provide: leave one of the two out"
            + method.how_to_do_without(lacking)
        )
    if method.wants_truth and not any(row["truth"] for row in protocol.rows):
        problems.append(
            f"method {method.spec.title} needs the ground truth, "
            f"which protocol {protocol.name} does not have: leave one of the two out"
        )
    # A method whose files are missing may be unable to check the ids.
    if not method.problems:
        ids = [row["id"] for row in protocol.rows]
        size = width_height(protocol.info["canvas"])
        problems += [
            f"method {method.spec.title} on protocol {protocol.name}: {problem}"
            for problem in method.cls.case_problems(method.options, ids, size)
        ]
    return problems


def _seconds_per_edit(store: RunStore | None) -> dict[tuple[str, str], float]:
    """Mean time per edit so far, by protocol and method digest."""
    seconds: dict[tuple[str, str], list[float]] = {}
    # Failed edits are left out: they may have failed at once.
    for record in store.edits() if store is not None else ():
        if record.seconds is not None and record.error is None:
            seconds.setdefault((record.key.protocol, record.key.method), []).append(record.seconds)
    return {key: sum(values) / len(values) for key, values in seconds.items()}
