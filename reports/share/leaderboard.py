"""Sharing results: export a run as an entry, check someone's entry, put entries into one's own tables.

An entry carries every score of every case, so whoever gets it need not believe its tables:
:func:`verify_entry` makes them again. What it cannot show is that the pictures have these scores; for that,
an entry with pictures can be scored, or the run be made again from its digests and seed.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.edit import EditKey, EditRecord, MethodSpec, one_line
from bench.files import sha256_bytes, write_atomic
from bench.store import SCORE_COLUMNS, SET_COLUMNS, RunStore, was_control
from reports.share.entry import (
    FORMAT,
    MEMBER,
    VERSION,
    Entry,
    EntryError,
    LoadedEntry,
    content_digest,
    image_name,
    load_entry,
    parse_entry,
)
from reports.tables import table as tables
from reports.tables.table import SUMMARY_COLUMNS, MetricFacts, Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EntryCheck",
    "EntryError",
    "LoadedEntry",
    "Merged",
    "export_entry",
    "load_entry",
    "merge_entries",
    "verify_entry",
]

RESAMPLES = 2_000


def export_entry(
    store: RunStore,
    path: Path,
    *,
    images: bool = False,
    facts: Mapping[str, MetricFacts] | None = None,
) -> Path:
    """Writes a run as an entry and returns its path: a JSON file, or a zip where ``path`` ends in ``.zip``.

    ``images`` puts the edits in too, which takes a zip. ``facts`` describe the metrics to readers who do not
    have them. Raises :class:`EntryError` for a run without scores, or with an edit that is not the recorded
    one; StoreError for one that cannot be read; OSError.
    """
    path = Path(path)
    zipped = path.suffix == ".zip"
    if images and not zipped:
        raise EntryError(f"{path}: pictures need a zip. Give a name that ends in .zip.")
    content = _content(store, facts or {})
    content["digest"] = content_digest(content)
    data = (json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n").encode()
    # What is written is what will be read: an entry that this refuses is not handed out.
    parse_entry(data, str(path))
    if not zipped:
        write_atomic(path, data)
        return path
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        _add(file, MEMBER, data)
        if images:
            seen = set()
            for record in store.edits():
                if record.sha256 is not None and record.sha256 not in seen:
                    seen.add(record.sha256)
                    _add(file, image_name(record.sha256), _picture(store, record))
    write_atomic(path, buffer.getvalue())
    return path


def _add(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed time: the same run is the same file.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    file.writestr(info, data)


def _picture(store: RunStore, record: EditRecord) -> bytes:
    path = store.image_path(record)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EntryError(f"{path}: cannot be read ({error.strerror}). Run the suite again.") from error
    if sha256_bytes(data) != record.sha256:
        raise EntryError(f"{path}: not the file that was recorded. Delete it and run the suite again.")
    return data


def _content(store: RunStore, facts: Mapping[str, MetricFacts]) -> dict[str, Any]:
    manifest = store.manifest
    frame = tables.summary(store, facts, resamples=RESAMPLES)
    if frame.empty:
        raise EntryError(f"{store.path}: has no scores yet. Score it first: run_bench.py score RUN")
    protocols: dict[str, Any] = {}
    place: dict[str, dict[str, int]] = {}
    for name in store.protocols():
        info, rows = manifest["protocols"][name], store.cases(name).rows
        place[name] = {row["id"]: i for i, row in enumerate(rows)}
        protocols[name] = {
            **{key: info.get(key) for key in ("version", "digest", "canvas", "limit")},
            "options": info.get("options", {}),
            "cases": [row["id"] for row in rows],
            "category": [row["category"] for row in rows],
            "source": [row["source_id"] for row in rows],
            "target_prompt": [row["target_prompt"] for row in rows],
        }
    scores, sets = store.scores(), store.set_scores()
    versions = {
        **dict(zip(sets["metric"].tolist(), sets["metric_version"].tolist(), strict=True)),
        **dict(zip(scores["metric"].tolist(), scores["metric_version"].tolist(), strict=True)),
    }
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "name": str(manifest.get("name", store.path.name)),
        "seed": manifest["seed"],
        "versions": {name: str(version) for name, version in manifest.get("versions", {}).items()},
        "suite": _plain(manifest.get("suite")),
        "protocols": _plain(protocols),
        "methods": {
            digest: {
                "name": entry["name"],
                "label": one_line(entry["label"]),
                "options": entry["options"],
                "dtype": entry.get("dtype"),
                "devices": list(entry.get("devices", [])),
                # Only where the name does not tell, so that the files of all other runs stay as they were.
                **(
                    {"is_control": True}
                    if was_control(entry) and not was_control({"name": entry["name"]})
                    else {}
                ),
            }
            for digest, entry in manifest["methods"].items()
        },
        "metrics": {name: _metric(name, str(version), facts) for name, version in versions.items()},
        "edits": _edits(store, place),
        "scores": _scores(scores, place, frozenset(manifest["methods"])),
        "sets": [
            {
                **{
                    key: str(row[key])
                    for key in ("protocol", "method", "category", "metric", "metric_version")
                },
                **{key: _number(row[key]) for key in ("value", "low", "high")},
                "n": int(row["n"]),
                "reason": row["reason"] if isinstance(row["reason"], str) else None,
            }
            for row in sets.to_dict(orient="records")
            if row["protocol"] in protocols and row["method"] in manifest["methods"]
        ],
        "resamples": RESAMPLES,
        "summary": [_row(row) for row in frame.to_dict(orient="records")],
    }


def _metric(name: str, version: str, facts: Mapping[str, MetricFacts]) -> dict[str, Any]:
    known = facts.get(name) or facts.get(name.removesuffix("_pasted"))
    if known is None:
        return {"version": version, "unit": "", "higher_is_better": None, "summary": ""}
    return {
        "version": version,
        "unit": one_line(known.unit),
        "higher_is_better": known.higher_is_better,
        "summary": one_line(known.summary),
    }


def _edits(store: RunStore, place: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in store.edits():
        key = record.key
        if key.case not in place.get(key.protocol, {}) or key.method not in store.manifest["methods"]:
            continue
        n = len(place[key.protocol])
        part = found.setdefault(
            (key.protocol, key.method),
            {
                "protocol": key.protocol,
                "method": key.method,
                "sha256": [None] * n,
                "seconds": [None] * n,
                "memory": [None] * n,
                "errors": {},
            },
        )
        i = place[key.protocol][key.case]
        part["sha256"][i], part["memory"][i] = record.sha256, record.peak_memory
        part["seconds"][i] = _number(record.seconds)
        if record.error is not None:
            part["errors"][key.case] = record.error[:20_000]
    return list(found.values())


def _scores(
    scores: pd.DataFrame, place: Mapping[str, Mapping[str, int]], methods: frozenset[str]
) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    columns = ("protocol", "method", "metric", "case", "value", "reason")
    missing = scores["reason"].isna().tolist()
    for (protocol, method, metric, case, value, reason), none in zip(
        zip(*(scores[column].tolist() for column in columns), strict=True), missing, strict=True
    ):
        i = place.get(protocol, {}).get(case)
        if i is None or method not in methods:
            continue
        part = found.get((protocol, method, metric))
        if part is None:
            part = {"protocol": protocol, "method": method, "metric": metric}
            part |= {"values": [None] * len(place[protocol]), "reasons": {}}
            found[protocol, method, metric] = part
        part["values"][i] = _number(value)
        if not none:
            part["reasons"][case] = reason[:20_000]
    return list(found.values())


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        **{key: str(row[key]) for key in ("protocol", "category", "method", "metric")},
        **{key: _number(row[key]) for key in ("value", "low", "high")},
        **{key: int(row[key]) for key in ("n", "failed")},
    }


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that the digest of what is written is the digest of what is read."""
    return json.loads(json.dumps(value))


# --- checking ------------------------------------------------------------------------------------------


@dataclass
class EntryCheck:
    """What :func:`verify_entry` found."""

    name: str
    problems: list[str] = field(default_factory=list)
    """One line each."""
    rows: int = 0
    """Of the summary, made again from the scores and compared."""
    images: int = 0
    """Whose hash was compared."""
    absent: int = 0
    """Edits of which the entry has no picture."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.ok:
            count = len(self.problems)
            return f"{self.name}: does not hold: {count} discrepanc{'y' if count == 1 else 'ies'}."
        pictures = f", {self.images} pictures are the recorded ones" if self.images else ", no pictures"
        return f"{self.name}: its {self.rows} summary rows follow from its scores{pictures}."


def verify_entry(loaded: LoadedEntry) -> EntryCheck:
    """Makes the summary again from the scores that the entry carries, and hashes its pictures, if any.

    Values must agree to nine digits; intervals to six, since they are sums in another order elsewhere.
    """
    entry = loaded.entry
    check = EntryCheck(entry.name)
    mine = {
        tuple(row[key] for key in ("protocol", "category", "method", "metric")): row
        for row in map(_row, _summary(entry).to_dict(orient="records"))
    }
    theirs = {(row.protocol, row.category, row.method, row.metric): row.model_dump() for row in entry.summary}
    for place in dict.fromkeys([*mine, *theirs]):
        where = f"summary: {' / '.join(map(str, place))}"
        one, other = mine.get(place), theirs.get(cast(Any, place))
        if one is None or other is None:
            check.problems.append(f"{where}: {'not in the scores' if one is None else 'left out'}")
            continue
        check.rows += 1
        for key in ("value", "low", "high", "n", "failed"):
            digits = 1e-9 if key == "value" else 1e-6
            if not _close(one[key], other[key], digits):
                check.problems.append(
                    f"{where}: {key} is said to be {other[key]}, the scores make {one[key]}"
                )
    if len(theirs) != len(entry.summary):
        check.problems.append("summary: a row is there twice")
    for part in entry.edits:
        cases = entry.protocols[part.protocol].cases
        for case, digest in zip(cases, part.sha256, strict=True):
            if digest is not None and case in part.errors:
                check.problems.append(f"edits: {case} of {part.method}: both a picture and an error")
            if digest is None or not loaded.images:
                continue
            data = loaded.image(digest)
            if data is None:
                check.absent += 1
                continue
            check.images += 1
            if sha256_bytes(data) != digest:
                check.problems.append(f"images: {image_name(digest)}: its SHA-256 is another")
    if check.absent:
        check.problems.append(f"images: {check.absent} edits have a hash and no picture")
    check.problems += _scored_without_edit(entry)
    return check


def _close(a: float | None, b: float | None, digits: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=digits, abs_tol=digits)


def _scored_without_edit(entry: Entry) -> list[str]:
    made = {
        (part.protocol, part.method): [digest is not None for digest in part.sha256] for part in entry.edits
    }
    found = []
    for part in entry.scores:
        there = made.get((part.protocol, part.method), [False] * len(part.values))
        count = sum(v is not None and not t for v, t in zip(part.values, there, strict=True))
        if count:
            found.append(f"scores: {part.metric} of {part.method}: {count} values of edits that do not exist")
    return found


class _CaseRows:
    """What the summary asks of the cases."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = tuple(rows)


class _EntryRun:
    """An entry in the shape of a run, as far as :func:`reports.tables.table.summary` reads one."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.path = Path(entry.name)

    @property
    def methods(self) -> dict[str, MethodSpec]:
        return {
            digest: MethodSpec(
                method.name,
                method.options,
                method.label,
                is_control=was_control(method.model_dump(exclude_none=True)),
            )
            for digest, method in self.entry.methods.items()
        }

    def protocols(self) -> list[str]:
        return list(self.entry.protocols)

    def cases(self, protocol: str) -> _CaseRows:
        of = self.entry.protocols[protocol]
        return _CaseRows(
            [
                {"id": case, "category": category, "source_id": source, "target_prompt": prompt}
                for case, category, source, prompt in zip(
                    of.cases, of.category, of.source, of.target_prompt, strict=True
                )
            ]
        )

    def edits(self) -> list[EditRecord]:
        found = []
        for part in self.entry.edits:
            protocol = self.entry.protocols[part.protocol]
            for i, case in enumerate(protocol.cases):
                digest, error = part.sha256[i], part.errors.get(case)
                if digest is None and error is None:
                    continue
                key = EditKey(part.protocol, protocol.version, part.method, case, self.entry.seed)
                name = None if digest is None else image_name(digest)
                found.append(EditRecord(key, name, digest, part.seconds[i], error, part.memory[i]))
        return found

    def scores(self) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, list[Any]] = {name: [] for name in SCORE_COLUMNS}
        edits = {(part.protocol, part.method): part.sha256 for part in self.entry.edits}
        for part in self.entry.scores:
            protocol = self.entry.protocols[part.protocol]
            kept = [
                i
                for i, case in enumerate(protocol.cases)
                if part.values[i] is not None or case in part.reasons
            ]
            n = len(kept)
            columns["protocol"] += [part.protocol] * n
            columns["protocol_version"] += [protocol.version] * n
            columns["method"] += [part.method] * n
            columns["case"] += [protocol.cases[i] for i in kept]
            columns["seed"] += [self.entry.seed] * n
            pictures = edits.get((part.protocol, part.method))
            columns["edit"] += [(pictures[i] if pictures else None) or "" for i in kept]
            columns["metric"] += [part.metric] * n
            columns["metric_version"] += [self.entry.metrics[part.metric].version] * n
            columns["value"] += [math.nan if part.values[i] is None else part.values[i] for i in kept]
            columns["reason"] += [part.reasons.get(protocol.cases[i]) for i in kept]
        frame = pd.DataFrame(columns).astype({"seed": "int64", "value": "float64"})
        texts = [name for name in SCORE_COLUMNS if name not in ("seed", "value")]
        return frame.astype(dict.fromkeys(texts, "string"))

    def set_scores(self) -> pd.DataFrame:
        import pandas as pd

        rows = [
            {
                **row.model_dump(),
                "protocol_version": self.entry.protocols[row.protocol].version,
            }
            for row in self.entry.sets
        ]
        frame = pd.DataFrame(rows, columns=list(SET_COLUMNS))
        return frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "int64"})


def _summary(entry: Entry) -> pd.DataFrame:
    # Read through the same code as a run: what the two say of the same scores cannot differ.
    return tables.summary(cast(RunStore, _EntryRun(entry)), entry.metrics, resamples=entry.resamples)


# --- merging -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Merged:
    """The own run's tables with other people's methods in them."""

    frame: pd.DataFrame
    """The tidy summary; a method of an entry is called ``title [entry]``."""
    tables: list[Table]
    notes: tuple[str, ...]
    """What was left out, and why."""


def merge_entries(
    entries: Iterable[LoadedEntry | Path],
    store: RunStore,
    facts: Mapping[str, MetricFacts],
) -> Merged:
    """Own run and entries in one set of tables: of every protocol that both have, with the same cases.

    Controls are taken from the own run alone. Raises :class:`EntryError`, saying why, for an entry that does
    not hold (:func:`verify_entry`), has no protocol in common, or has one with another digest, other cases or
    another version of a metric: such numbers do not belong in one table.
    """
    import pandas as pd

    own = tables.summary(store, facts, resamples=RESAMPLES)
    if own.empty:
        raise EntryError(f"{store.path}: has no scores yet. Score it first: run_bench.py score RUN")
    versions = _own_versions(store)
    frames, notes = [own], []
    used: set[str] = set()
    for given in entries:
        loaded = given if isinstance(given, LoadedEntry) else load_entry(Path(given))
        label = _label(loaded.entry.name, used)
        notes += _refuse_unlike(loaded, store, versions)
        frames.append(_theirs(loaded.entry, label, own))
    frame = pd.concat([f for f in frames if len(f)], ignore_index=True)
    made = tables.build(frame, facts, tables.control_titles(store))
    note = "Methods with a name in brackets are of someone else's entry, as scored there."
    made = [replace(table, notes=(*table.notes, note)) for table in made]
    return Merged(frame, made, tuple(dict.fromkeys(notes)))


def _label(name: str, used: set[str]) -> str:
    """The entry's name with nothing in it that could be taken for something else; each once."""
    clean = re.sub(r"[^\w .+=@-]", "", name).strip()[:40] or "entry"
    label, k = clean, 1
    while label in used:
        k += 1
        label = f"{clean} {k}"
    used.add(label)
    return label


def _own_versions(store: RunStore) -> dict[str, str]:
    found: dict[str, str] = {}
    for frame in (store.set_scores(), store.scores()):
        found |= dict(zip(frame["metric"].tolist(), frame["metric_version"].tolist(), strict=True))
    return found


def _refuse_unlike(loaded: LoadedEntry, store: RunStore, versions: Mapping[str, str]) -> list[str]:
    """Raises where the entry's numbers would not mean what the run's mean; notes what is left out."""
    entry, path = loaded.entry, loaded.path
    check = verify_entry(loaded)
    if not check.ok:
        more = f" (and {len(check.problems) - 1} more)" if len(check.problems) > 1 else ""
        raise EntryError(
            f"{path}: does not hold: {check.problems[0]}{more}. Ask for it to be exported again."
        )
    mine = set(store.protocols())
    common = [name for name in entry.protocols if name in mine]
    if not common:
        raise EntryError(
            f"{path}: is about {', '.join(entry.protocols)}; this run about {', '.join(sorted(mine))}. "
            "There is no protocol in common: merge it with a run of the same protocol."
        )
    for name in common:
        theirs, info = entry.protocols[name], store.manifest["protocols"][name]
        if theirs.digest != info["digest"]:
            raise EntryError(
                f"{path}: protocol {name} {theirs.version} has the digest {theirs.digest}, in this run "
                f"{info['version']} has {info['digest']}: its options or its data are others, so the numbers "
                "do not belong in one table. Run the suite with that protocol's options."
            )
        ids = {row["id"] for row in store.cases(name).rows}
        if set(theirs.cases) != ids:
            missing, extra = len(ids - set(theirs.cases)), len(set(theirs.cases) - ids)
            raise EntryError(
                f"{path}: protocol {name}: {missing} of this run's cases are not in it and {extra} of its "
                "cases not in this run. Run both with the same limit."
            )
    used = {row.metric for row in entry.summary if row.protocol in common}
    for metric in sorted(used & versions.keys()):
        if entry.metrics[metric].version != versions[metric]:
            raise EntryError(
                f"{path}: {metric} is of version {entry.metrics[metric].version}, in this run of version "
                f"{versions[metric]}. Score the older one again."
            )
    notes = []
    if len(common) < len(entry.protocols):
        rest = [name for name in entry.protocols if name not in mine]
        notes.append(f"{entry.name}: left out, since this run does not have it: protocol {', '.join(rest)}")
    if not used <= versions.keys():
        notes.append(f"{entry.name}: this run was not scored by {', '.join(sorted(used - versions.keys()))}")
    return notes


def _theirs(entry: Entry, label: str, own: pd.DataFrame) -> pd.DataFrame:
    """The entry's rows of common protocols, of methods that are no controls, under their merged titles."""
    frame = _summary(entry)
    controls = tables.control_titles(cast(RunStore, _EntryRun(entry)))
    kept = frame[frame["protocol"].isin(set(own["protocol"])) & ~frame["method"].isin(controls)]
    return kept.assign(method=kept["method"] + f" [{label}]")[list(SUMMARY_COLUMNS)]
