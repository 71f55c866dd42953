"""Where a table's numbers come from: data, weights, seed, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.edit import CATEGORIES, stable_digest
from reports.data.comparisons import too_few
from reports.data.scores import ALL
from reports.tables.table import SMALL_SET, Row, Table

if TYPE_CHECKING:
    from bench.store import RunStore
    from reports.data.scores import RunScores

PACKAGES = ("prompteditbench", "torch", "diffusers", "transformers")
"""Versions that are named, as far as the run wrote them down."""


def run_digest(store: RunStore) -> str:
    """12 hex digits of what was asked: seed, protocols' digests, methods' digests and dtypes."""
    manifest = store.manifest
    return stable_digest(
        {
            "seed": manifest.get("seed"),
            "protocols": {name: info["digest"] for name, info in manifest["protocols"].items()},
            "methods": {digest: entry.get("dtype") for digest, entry in manifest["methods"].items()},
        }
    )


def weights(store: RunStore) -> dict[str, str]:
    """Title -> the weights that a method's options name, with revision or the first digits of their SHA-256."""
    from reports.data.scores import method_titles

    titles = method_titles(store)
    found = {}
    for digest, spec in store.methods.items():
        named = spec.options.get("weights") or spec.options.get("checkpoint")
        if isinstance(named, str) and named:
            found[titles[digest]] = named + _version(spec.options)
    return found


def _version(options: Mapping[str, Any]) -> str:
    identity = options.get("_identity")
    if isinstance(identity, Mapping) and isinstance(identity.get("sha256"), str):
        return f" ({identity['sha256'][:8]})"
    return f" ({options['revision']})" if options.get("revision") else ""


STEPS = ("steps", "base_steps", "upsampler_steps")
"""Options that say how many steps a sampler takes."""


def steps(store: RunStore) -> dict[str, str]:
    """Title -> the steps of its sampler, as its options have them; a spacing by sections is summed up."""
    from reports.data.scores import method_titles

    titles = method_titles(store)
    found = {}
    for digest, spec in store.methods.items():
        told = [_steps(spec.options[name]) for name in STEPS if spec.options.get(name)]
        if told:
            found[titles[digest]] = " and ".join(told)
    return found


def _steps(option: object) -> str:
    sections = str(option).split(",")
    return str(sum(map(int, sections))) if all(part.strip().isdigit() for part in sections) else str(option)


def sentences(store: RunStore, protocols: Iterable[str], methods: Iterable[str]) -> list[str]:
    """Data, weights, seed with versions and digest: one short sentence each."""
    manifest = store.manifest
    shown = []
    for name in dict.fromkeys(protocols):
        info = manifest["protocols"].get(name)
        if info is not None:
            shown.append(f"{name} v{info['version']} ({info['digest']})")
    of_methods = weights(store)
    named = {title: of_methods[title] for title in methods if title in of_methods}
    versions = manifest.get("versions") or {}
    packages = [f"{name} {versions[name]}" for name in PACKAGES if name in versions]
    return [
        *([f"Data: {', '.join(shown)}."] if shown else []),
        *([f"Weights: {'; '.join(f'{title}: {of}' for title, of in named.items())}."] if named else []),
        f"Seed {manifest.get('seed', 'unknown')}; run {run_digest(store)}"
        + (f"; {', '.join(packages)}" if packages else "")
        + ".",
    ]


Detectable = Mapping[tuple[str, str], float | None]
"""(protocol, metric of success) -> the least difference that this run can show; None where there is none."""


def with_provenance(table: Table, store: RunStore, scores: RunScores, detectable: Detectable) -> Table:
    """The table with where its numbers come from, its samplers' steps, and a warning where n is too small.

    ``detectable``: from ``reports.data.power.detectable_differences``.
    """
    warnings = small_n(table, scores, detectable)
    of_samplers = steps(store)
    taken = [f"{row.method} {of_samplers[row.method]}" for row in table.rows if row.method in of_samplers]
    told = [f"Steps: {', '.join(taken)}."] if taken else []
    protocols = [column.protocol for column in table.columns]
    return replace(
        table,
        notes=(*table.notes, *told, *warnings),
        provenance=tuple(sentences(store, protocols, [row.method for row in table.rows])),
    )


def small_n(table: Table, scores: RunScores, detectable: Detectable) -> list[str]:
    """Warnings: too few source images for any test, and how large a difference of success must be to show."""
    lines = []
    contenders = [row for row in table.rows if not row.control]
    for protocol in dict.fromkeys(column.protocol for column in table.columns):
        of_protocol = scores.protocols.get(protocol)
        if of_protocol is None or len(contenders) < 2:
            continue
        for category in dict.fromkeys(c.category for c in table.columns if c.protocol == protocol):
            units = of_protocol.units(category) if category in (ALL, *CATEGORIES) else ()
            clusters = len(set(of_protocol.cluster[units].tolist())) if len(units) else 0
            remark = too_few(clusters, len(contenders) - 1)
            if remark:
                where = f"{protocol}, {category.replace('_', '-')}" if category != ALL else protocol
                lines.append(f"Too small for the claim ({where}): {remark}.")
    lines += _undetectable(table, contenders, detectable)
    lines += _warned_sets(table, scores)
    return list(dict.fromkeys(lines))


def _undetectable(table: Table, contenders: Sequence[Row], detectable: Detectable) -> list[str]:
    """How large a difference of success over all categories must be for this n to show it.

    Said where something is not separable from the best.
    """
    lines = []
    for index, column in enumerate(table.columns):
        place = (column.protocol, column.metric)
        cells = [row.cells[index] for row in contenders]
        if place not in detectable or column.reported or column.category != ALL:
            continue
        if not any(cell.dagger for cell in cells):
            continue
        least = detectable[place]
        judge = column.metric.removeprefix("success_").replace("_", " ")
        which = f"success ({judge}, {column.protocol})"
        often = "would be missed more often than once in five (simulated with the same test)."
        n = max(cell.n for cell in cells)
        if least is None:
            lines.append(f"n = {n}: any difference of {which} {often}")
        else:
            lines.append(f"n = {n}: differences of {which} below about {100 * least:.0f} points {often}")
    return lines


def _warned_sets(table: Table, scores: RunScores) -> list[str]:
    """What scoring itself warned of, for the Fréchet distances and their kin that the table shows."""
    if "warning" not in scores.sets.columns:
        return []
    asked = {(column.protocol, column.metric, column.category) for column in table.columns}
    found = []
    for row in scores.sets.to_dict(orient="records"):
        place = (row["protocol"], row["metric"], row["category"])
        if place in asked and isinstance(row["warning"], str) and int(row["n"]) < SMALL_SET:
            found.append(f"{row['metric']}: {row['warning']}.")
    return sorted(set(found))[:2]
