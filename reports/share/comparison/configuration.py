"""Settings of two runs: which methods correspond, and which settings differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from bench.edit import MethodSpec
from bench.store import RunStore
from reports.share.comparison.result import ConfigurationChange

# Keys of a method in the manifest whose values change its pixels by rounding alone.
CONDITIONS = ("batch_sizes", "threads")

# (digest in A, digest in B) of each method that both runs have.
MethodPairs = Sequence[tuple[str, str]]


def matching_methods(a: Mapping[str, MethodSpec], b: Mapping[str, MethodSpec]) -> MethodPairs:
    """Pairs of digests, in the order of A. Methods match by digest, else by title or name where each run has one."""
    pairs = [(digest, digest) for digest in a if digest in b]
    # The title first: a suite may hold one method with several options under several labels.
    for key in (attrgetter("title"), attrgetter("name")):
        in_pairs = {digest for pair in pairs for digest in pair}
        left = {digest: key(spec) for digest, spec in a.items() if digest not in in_pairs}
        right = {digest: key(spec) for digest, spec in b.items() if digest not in in_pairs}
        # Two methods of one name are ambiguous, so they stay apart.
        unique = [text for text in right.values() if [*right.values()].count(text) == 1]
        by_text = {text: digest for digest, text in right.items() if text in unique}
        pairs += [
            (digest, by_text[text])
            for digest, text in left.items()
            if text in by_text and [*left.values()].count(text) == 1
        ]
    # Tables list the methods in the order of A.
    order = list(a)
    return sorted(pairs, key=lambda pair: order.index(pair[0]))


def conditions(store: RunStore, method: str) -> dict[str, Any]:
    """Batch sizes and threads that a method ran with. Empty for runs of an earlier version, which do not say."""
    entry = store.manifest["methods"][method]
    return {name: entry[name] for name in CONDITIONS if name in entry}


def configuration_changes(a: RunStore, b: RunStore, methods: MethodPairs) -> Iterator[ConfigurationChange]:
    """Every setting that differs: seed, suite, protocols, versions, metrics, methods."""
    left, right = _flat(_configuration(a)), _flat(_configuration(b))
    # Methods of both runs, under the title in A: so another label or digest changes no other key.
    for digest_a, digest_b in methods:
        prefix = f"methods.{a.methods[digest_a].title}"
        left |= _flat(_method_settings(a, digest_a), prefix)
        right |= _flat(_method_settings(b, digest_b), prefix)
    # Methods of one run alone.
    in_both = {digest for pair in methods for digest in pair}
    for settings, store in ((left, a), (right, b)):
        settings |= {
            f"methods.{spec.title}": digest for digest, spec in store.methods.items() if digest not in in_both
        }
    for what in dict.fromkeys([*left, *right]):
        # A setting that one run lacks is None, which no text equals.
        if left.get(what) != right.get(what):
            yield ConfigurationChange(what, left.get(what), right.get(what))


def _configuration(store: RunStore) -> dict[str, Any]:
    manifest = store.manifest
    # Protocols and methods are compared as they ran. The seed is the run's.
    suite = {
        key: value
        for key, value in (manifest.get("suite") or {}).items()
        if key not in ("protocols", "methods", "seed", "seeds")
    }
    return {
        "seed": manifest.get("seed"),
        **({"seeds": manifest["seeds"]} if "seeds" in manifest else {}),
        "suite": suite,
        "protocols": manifest["protocols"],
        "versions": manifest.get("versions", {}),
        "metrics": metric_versions(store),
    }


def metric_versions(store: RunStore) -> dict[str, str]:
    """Metric -> version of its newest scores, of single edits and of sets."""
    versions: dict[str, str] = {}
    for frame in (store.scores(), store.set_scores()):
        # Rows are in the order in which they were written.
        newest = frame[["metric", "metric_version"]].drop_duplicates("metric", keep="last")
        versions |= dict(zip(newest["metric"].tolist(), newest["metric_version"].tolist(), strict=True))
    return {metric: str(version) for metric, version in versions.items()}


def _method_settings(store: RunStore, digest: str) -> dict[str, Any]:
    spec, entry = store.methods[digest], store.manifest["methods"][digest]
    return {
        "method": spec.name,
        "label": spec.title,
        "digest": spec.digest,
        "dtype": entry.get("dtype"),
        "devices": entry.get("devices"),
        **conditions(store, digest),
        "options": spec.options,
    }


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as one mapping with dotted names. Every other value becomes text."""
    # An empty mapping has no settings, so it is like an absent one.
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for name, item in value.items():
            flat |= _flat(item, f"{prefix}.{name}" if prefix else str(name))
        return flat
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return {prefix: str(value)}
