"""Where the numbers of a report come from: data, weights, sampler steps, seed, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.edit import stable_digest
from bench.tables.markup import escape_markdown
from bench.tables.table import Table
from reports.data.scores import method_titles
from reports.tables.small_n import Detectable, small_n, too_few_sources
from reports.tables.tabulate import with_note

if TYPE_CHECKING:
    from bench.edit import MethodSpec
    from bench.store import RunStore
    from reports.data.scores import RunScores

# Packages whose versions stand above each table, as far as the run recorded them.
PACKAGES = ("prompteditbench", "torch", "diffusers", "transformers")

# Options that state how many steps a sampler takes.
STEPS = ("steps", "base_steps", "upsampler_steps")


def with_provenance(table: Table, store: RunStore, scores: RunScores, detectable: Detectable) -> Table:
    """The table with the origin of its numbers, and with warnings where n is too small for a conclusion.

    ``detectable``: from ``reports.data.power.detectable_differences``.
    """
    protocols = [column.protocol for column in table.columns]
    # A table names only its own protocols and methods, not all of the run's.
    origin = sentences(store, protocols, [row.label for row in table.rows])
    return replace(
        with_note(table, *small_n(table, scores, detectable)),
        too_small=tuple(too_few_sources(table, scores)),
        provenance=tuple(origin),
    )


def sentences(store: RunStore, protocols: Iterable[str], methods: Iterable[str]) -> list[str]:
    """Data, weights, sampler steps, and seed with versions and digest: one short sentence each."""
    manifest = store.manifest
    # Rows of tables that are no methods, such as metrics, have no specification.
    specs = {title: store.methods[digest] for digest, title in method_titles(store).items()}
    rows = [(title, specs[title]) for title in methods if title in specs]
    data = [
        f"{name} v{info['version']} ({info['digest']})"
        for name in dict.fromkeys(protocols)
        if (info := manifest["protocols"].get(name)) is not None
    ]
    weights = [f"{title}: {weight}" for title, spec in rows if (weight := _weights(spec))]
    steps = [f"{title} {count}" for title, spec in rows if (count := _steps(spec))]
    # Seed, digest of the run, versions: one sentence.
    versions = manifest.get("versions") or {}
    packages = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    run = f"{_seeds(store)}; run {run_digest(store)}"
    return [
        *([f"Data: {', '.join(data)}."] if data else []),
        *([f"Weights: {'; '.join(weights)}."] if weights else []),
        *([f"Steps: {', '.join(steps)}."] if steps else []),
        f"{run}; {packages}." if packages else f"{run}.",
    ]


def _seeds(store: RunStore) -> str:
    if len(store.seeds) > 1:
        return f"Seeds {', '.join(map(str, store.seeds))}"
    return f"Seed {store.manifest.get('seed', 'unknown')}"


def run_digest(store: RunStore) -> str:
    """12 hexadecimal digits of what defines a run: seed, protocols' digests, methods' digests and dtypes."""
    manifest = store.manifest
    # Paths, times and machines are no part of it, so two machines that ran one suite print the same digest.
    return stable_digest(
        {
            "seed": manifest.get("seed"),
            # Absent for one seed, so that the digests of earlier runs stay.
            **({"seeds": manifest["seeds"]} if "seeds" in manifest else {}),
            "protocols": {name: info["digest"] for name, info in manifest["protocols"].items()},
            "methods": {digest: entry.get("dtype") for digest, entry in manifest["methods"].items()},
        }
    )


def _weights(spec: MethodSpec) -> str:
    """Weights that the options name, with their revision or the first digits of their SHA-256."""
    # Methods use either name. One with neither, such as a control, has no weights.
    weights = spec.options.get("weights") or spec.options.get("checkpoint")
    return weights + _version(spec.options) if isinstance(weights, str) and weights else ""


def _version(options: Mapping[str, Any]) -> str:
    # `EditMethod.identity` adds the hash of local files. Weights of a hub are pinned by their revision.
    identity = options.get("_identity")
    if isinstance(identity, Mapping) and isinstance(identity.get("sha256"), str):
        # Eight digits tell two files of a run apart. provenance.md is for reading, the manifest has all 64.
        return f" ({identity['sha256'][:8]})"
    return f" ({options['revision']})" if options.get("revision") else ""


def _steps(spec: MethodSpec) -> str:
    """Steps of the method's samplers, such as ``25 and 10``."""
    return " and ".join(_step_count(spec.options[name]) for name in STEPS if spec.options.get(name))


def _step_count(option: object) -> str:
    # A spacing by sections, such as "4,3,1", takes their sum.
    sections = str(option).split(",")
    return str(sum(map(int, sections))) if all(part.strip().isdigit() for part in sections) else str(option)


def provenance_page(store: RunStore) -> str:
    """``report/provenance.md``: protocols, methods and package versions of a run as Markdown tables."""
    # Rows of the three sections.
    manifest = store.manifest
    titles = method_titles(store)
    protocols = [
        (name, info["version"], info["digest"], len(store.cases(name).rows))
        for name, info in manifest["protocols"].items()
    ]
    methods = [
        (
            titles[digest],
            spec.name,
            _weights(spec),
            _steps(spec),
            manifest["methods"][digest].get("dtype"),
            digest,
        )
        for digest, spec in store.methods.items()
    ]
    # All packages that the run recorded. The tables name those that change pixels most.
    versions = sorted((manifest.get("versions") or {}).items())
    return "\n".join(
        [
            f"# Provenance of {store.path.name}",
            "",
            # The same digest as below the tables, so that a printed table leads back to this page.
            f"{_seeds(store)}. Run {run_digest(store)} (digest of seed, protocols and methods).",
            "",
            *_section("Data", ("protocol", "version", "digest", "cases"), protocols),
            *_section("Methods", ("title", "method", "weights", "steps", "dtype", "digest"), methods),
            *_section("Versions", ("package", "version"), versions),
        ]
    )


def _section(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    texts = [
        [escape_markdown(str(value)) if value not in (None, "") else "–" for value in row] for row in rows
    ]
    lines = [headings, [":--"] * len(headings), *texts]
    return [f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""] if texts else []
