"""Is a run folder what it claims? Hashes, records, cases, scores and strays, each discrepancy one line.

What is checked without any model: the manifest's digests; every record against the manifest and the cases;
the SHA-256 of every edit; the files of every case; that scores are of edits that exist; the digests of what
the set scores compared; files that nothing names; torn lines. Scores are checked by computing a sample of
them again, through a function that is passed in: reports know no metric.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import EditRecord, MethodSpec, ScoreRecord, stable_digest
from bench.store import RunStore, StoreError
from reports.disk import is_relative, sha256_file

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

Rescore = Callable[[RunStore, Sequence[EditRecord]], Iterable[ScoreRecord]]
"""Scores these edits afresh, by whatever metrics it has; stores nothing."""

TOLERANCE = 1e-3
"""By how much, relative to the larger of 1 and the stored value, a score computed again may differ: what
another batch, another number of threads or another device does to float32."""

_SHOWN = 20
"""Lines of one kind that are written out; the rest is counted."""


@dataclass
class Verification:
    """What was found. ``problems`` contradict the folder's claims; ``notes`` only qualify them."""

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What was checked: edits hashed, cases, scores, scores computed again, ..."""
    largest_difference: float | None = None
    """Of a score computed again, relative to the larger of 1 and the stored value."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.ok:
            return f"{self.path}: is what it claims."
        count = len(self.problems)
        return f"{self.path}: is not what it claims: {count} discrepanc{'y' if count == 1 else 'ies'}."

    def lines(self) -> list[str]:
        """Everything, a line each, the verdict last. Of more than 20 lines of one kind, the rest counted."""
        return [
            *_bounded(self.problems, "problem"),
            *_bounded(self.notes, "note"),
            self.summary,
            self.verdict,
        ]

    @property
    def summary(self) -> str:
        """What was checked, on one line."""
        parts = [f"{count:,} {what}" for what, count in self.counts.items()]
        if self.largest_difference is not None:
            parts.append(f"largest difference {self.largest_difference:.2g}")
        return "checked: " + (", ".join(parts) or "nothing")

    def terminal(self) -> Iterator[RenderableType]:
        """Rich renderables of :meth:`lines`."""
        from rich.text import Text

        for line in self.lines()[:-1]:
            style = "red" if line.startswith("problem") else "yellow" if line.startswith("note") else "dim"
            yield Text(line, style=style)
        yield Text(self.verdict, style="bold green" if self.ok else "bold red")


def _bounded(lines: Sequence[str], label: str) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(line.partition(":")[0].partition("/")[0], []).append(line)
    for same in kinds.values():
        yield from (f"{label}: {line}" for line in same[:_SHOWN])
        if len(same) > _SHOWN:
            yield f"{label}: ... and {len(same) - _SHOWN} more such lines"


def verify(
    store: RunStore,
    rescore: Rescore | None = None,
    sample: int = 50,
    seed: int = 0,
    *,
    tolerance: float = TOLERANCE,
    digests: Mapping[str, str] | None = None,
) -> Verification:
    """Checks a run folder; reads alone, takes no lock, never raises for what it finds.

    ``sample`` edits, chosen by hash with ``seed``, are scored again by ``rescore`` and compared with the
    stored values of the same metric version. ``digests`` (protocol name -> digest of the protocol as it is
    installed here) are compared with the run's, where given. Raises ValueError for a negative ``sample``.
    """
    if sample < 0:
        raise ValueError(f"a sample of {sample} edits; it must not be negative.")
    found = Verification(store.path)
    try:
        manifest = store.manifest
        protocols, methods = manifest["protocols"], manifest["methods"]
        titles = {digest: entry["label"] or entry["name"] for digest, entry in methods.items()}
    except (StoreError, KeyError, TypeError, AttributeError) as error:
        found.problems.append(f"run.json: no manifest that can be read ({error})")
        return found
    _check_manifest(found, manifest, digests or {})
    named: set[str] = set()
    cases = {name: _check_cases(found, store, name, info, named) for name, info in protocols.items()}
    records = _check_records(found, store, titles, cases, named)
    _check_hashes(found, store, records)
    scores = _check_scores(found, store, records, named)
    _check_sets(found, store, records, cases)
    _check_strays(found, store, named)
    if rescore is not None and scores is not None and sample:
        _check_sample(found, store, records, scores, rescore, sample, seed, tolerance)
    return found


def _check_manifest(found: Verification, manifest: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    for digest, entry in manifest["methods"].items():
        try:
            right = MethodSpec(entry["name"], entry["options"]).digest
        except (KeyError, TypeError, ValueError) as error:
            found.problems.append(f"run.json: method {digest}: no name or no options ({error})")
            continue
        if right != digest:
            found.problems.append(
                f"run.json: method {entry['name']}: its digest is {digest}, its name and options make {right}"
            )
    suite = manifest.get("suite")
    if isinstance(suite, Mapping) and suite.get("seed", manifest.get("seed")) != manifest.get("seed"):
        found.problems.append(
            f"run.json: the suite's seed is {suite['seed']}, the run's {manifest.get('seed')}"
        )
    for name, digest in digests.items():
        stored = manifest["protocols"].get(name, {}).get("digest")
        if stored is not None and stored != digest:
            found.problems.append(
                f"run.json: protocol {name}: its digest is {stored}, the installed protocol's {digest}"
            )
    found.counts["methods"] = len(manifest["methods"])


def _check_cases(
    found: Verification, store: RunStore, name: str, info: Mapping[str, Any], named: set[str]
) -> dict[str, Mapping[str, Any]]:
    """The rows of a protocol by case id; adds the files that they name to ``named``."""
    folder = f"cases/{name}"
    named |= {f"{folder}/protocol.json", f"{folder}/cases.jsonl"}
    try:
        file = store.cases(name)
    except (StoreError, ValueError) as error:
        found.problems.append(f"{folder}: {error}")
        return {}
    for key in ("name", "version", "digest"):
        if file.info.get(key) != info.get(key):
            found.problems.append(
                f"{folder}/protocol.json: {key} is {file.info.get(key)!r}, run.json says {info.get(key)!r}"
            )
    rows: dict[str, Mapping[str, Any]] = {}
    for row in file.rows:
        rows[row["id"]] = row
        files = [row["source"], row["mask"], *([row["truth"]] if row["truth"] else [])]
        files += [region["mask"] for region in row["regions"]]
        for part in files:
            if not is_relative(part):
                found.problems.append(f"{folder}/cases.jsonl: case {row['id']}: {part!r} leaves its folder")
                continue
            path = f"{folder}/{part}"
            if path not in named and not (store.path / path).is_file():
                found.problems.append(f"{path}: missing; case {row['id']} names it")
            named.add(path)
    found.counts["cases"] = found.counts.get("cases", 0) + len(rows)
    return rows


def _check_records(
    found: Verification,
    store: RunStore,
    titles: Mapping[str, str],
    cases: Mapping[str, Mapping[str, Mapping[str, Any]]],
    named: set[str],
) -> list[EditRecord]:
    """The records that fit the manifest and the cases; adds their files to ``named``."""
    log = store.path / "edits.jsonl"
    named.add("edits.jsonl")
    if log.is_file() and log.stat().st_size:
        with log.open("rb") as lines:
            lines.seek(-1, 2)
            if lines.read(1) != b"\n":
                found.problems.append("edits.jsonl: its last line is torn; the edit of it does not count")
    try:
        records = store.edits()
    except (StoreError, ValueError) as error:
        found.problems.append(f"edits.jsonl: {error}")
        return []
    good, seed = [], store.manifest.get("seed")
    specs = store.methods
    made: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for record in records:
        key = record.key
        where = f"edits.jsonl: {key.case} by {titles.get(key.method, key.method)} in {key.protocol}"
        info = store.manifest["protocols"].get(key.protocol)
        wrong = (
            f"protocol {key.protocol} is not in run.json"
            if info is None
            else f"method {key.method} is not in run.json"
            if key.method not in titles
            else f"protocol version {key.protocol_version}, run.json says {info.get('version')}"
            if key.protocol_version != info.get("version")
            else f"seed {key.seed}, run.json says {seed}"
            if key.seed != seed
            else "there is no such case"
            if key.case not in cases[key.protocol]
            else "neither a file nor an error, or both"
            if (record.file is None) == (record.error is None)
            else ""
        )
        if record.file is not None:
            named.add(record.file)
        if not wrong and record.file is not None:
            usual = store.edit_file(key.protocol, specs[key.method], key.case)
            if record.file != usual:
                wrong = f"its file is {record.file}, not {usual}"
        if wrong:
            found.problems.append(f"{where}: {wrong}")
            continue
        good.append(record)
        made[key.protocol, key.method] += 1
        failed[key.protocol, key.method] += record.error is not None
    for protocol, rows in cases.items():
        for digest, title in titles.items():
            place = (protocol, digest)
            if made[place] < len(rows):
                found.notes.append(
                    f"unfinished: {len(rows) - made[place]} of {len(rows)} edits of {title} "
                    f"in {protocol} were never made"
                )
            if failed[place]:
                found.notes.append(f"failed: {failed[place]} edits of {title} in {protocol}, as recorded")
    found.counts["records"] = len(records)
    return good


def _check_hashes(found: Verification, store: RunStore, records: Sequence[EditRecord]) -> None:
    made = [record for record in records if record.file is not None]

    def check(record: EditRecord) -> str | None:
        assert record.file is not None
        try:
            digest = sha256_file(store.path / record.file)
        except FileNotFoundError:
            return f"{record.file}: missing"
        except OSError as error:
            return f"{record.file}: cannot be read ({error.strerror})"
        if digest != record.sha256:
            return f"{record.file}: its SHA-256 is {digest[:12]}…, recorded is {str(record.sha256)[:12]}…"
        return None

    # Reading overlaps; hashing lets go of the interpreter.
    with ThreadPoolExecutor(4) as pool:
        found.problems += [line for line in pool.map(check, made) if line is not None]
    found.counts["edits hashed"] = len(made)


def _check_scores(
    found: Verification, store: RunStore, records: Sequence[EditRecord], named: set[str]
) -> pd.DataFrame | None:
    folder = store.path / "scores"
    if folder.is_dir():
        named |= {f"scores/{path.name}" for path in folder.glob("part-*.parquet")}
        named.add("scores/set.json")
    try:
        scores = store.scores()
    except (StoreError, ValueError) as error:
        found.problems.append(f"scores: {error}")
        return None
    made = {_place(record) for record in records if record.file is not None}
    known = {_place(record) for record in records}
    columns = ["protocol", "protocol_version", "method", "case", "seed"]
    values = scores["value"].notna().to_numpy()
    without: Counter[str] = Counter()
    for place, has_value in zip(
        zip(*(scores[column].tolist() for column in columns), strict=True), values, strict=True
    ):
        if place not in known:
            without["of edits that are not recorded"] += 1
        elif has_value and place not in made:
            without["with a value, of edits that failed"] += 1
    unexplained = int((scores["value"].isna() & scores["reason"].isna()).sum())
    if unexplained:
        without["without a value and without a reason"] = unexplained
    found.problems += [f"scores: {count} {what}" for what, count in without.items()]
    versions = scores[["metric", "metric_version"]].drop_duplicates()
    for metric, count in Counter(versions["metric"].tolist()).items():
        if count > 1:
            several = sorted(versions.loc[versions["metric"] == metric, "metric_version"].tolist())
            found.problems.append(f"scores: {metric} is there in versions {', '.join(several)}: score again")
    found.counts["scores"] = len(scores)
    return scores


def _place(record: EditRecord) -> tuple[str, str, str, str, int]:
    key = record.key
    return (key.protocol, key.protocol_version, key.method, key.case, key.seed)


def _check_sets(
    found: Verification,
    store: RunStore,
    records: Sequence[EditRecord],
    cases: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    try:
        rows = store.set_scores().to_dict(orient="records")
    except (StoreError, ValueError) as error:
        found.problems.append(f"scores/set.json: {error}")
        return
    hashes: dict[tuple[str, str, str], list[str]] = {}
    present: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        row = cases[record.key.protocol][record.key.case]
        for category in ("all", row["category"]):
            place = (record.key.protocol, record.key.method, category)
            hashes.setdefault(place, []).append(record.sha256 or "")
            present[place] += record.file is not None
    inputs = {
        place: stable_digest([store.manifest["protocols"][place[0]]["digest"], sorted(of)])
        for place, of in hashes.items()
    }
    for row in rows:
        place = (row["protocol"], row["method"], row["category"])
        where = f"scores/set.json: {row['metric']} of {row['method']} in {row['protocol']}/{row['category']}"
        if row["n"] > present[place]:
            found.problems.append(f"{where}: over {row['n']} edits, there are {present[place]}")
        elif isinstance(row.get("inputs"), str) and row["inputs"] != inputs.get(place, ""):
            found.problems.append(f"{where}: of other edits than those that are here. Score again")
    found.counts["set scores"] = len(rows)


def _check_strays(found: Verification, store: RunStore, named: set[str]) -> None:
    """Files that nothing names. The report, temporary files and the lock are nobody's claim."""
    expected = named | {"run.json", "lock"}
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        top = name.partition("/")[0]
        if top == "report" or (path.is_dir() and not path.is_symlink()):
            continue
        if top == "tmp":
            found.notes.append(f"{name}: left behind by a process that was stopped, or in the making")
        elif name not in expected:
            found.problems.append(f"{name}: nothing in the run names this file")


def _check_sample(
    found: Verification,
    store: RunStore,
    records: Sequence[EditRecord],
    scores: pd.DataFrame,
    rescore: Rescore,
    sample: int,
    seed: int,
    tolerance: float,
) -> None:
    made = [record for record in records if record.file is not None]

    def rank(record: EditRecord) -> bytes:
        return hashlib.sha256(f"{seed}:{record.key.digest}".encode()).digest()

    chosen = sorted(made, key=rank)[:sample]
    wanted = {_place(record) for record in chosen}
    columns = ["protocol", "protocol_version", "method", "case", "seed"]
    part = scores[scores["case"].isin([record.key.case for record in chosen])]
    stored = {
        (*place, metric): (version, value)
        for *place, metric, version, value in zip(
            *(part[column].tolist() for column in (*columns, "metric", "metric_version", "value")),
            strict=True,
        )
        if tuple(place) in wanted
    }
    try:
        fresh = list(rescore(store, chosen))
    except Exception as error:  # whatever a metric raises is a finding, not the end of the check
        found.problems.append(f"scores: the sample cannot be scored again ({type(error).__name__}: {error})")
        return
    worst, compared = 0.0, 0
    old: set[str] = set()
    for score in fresh:
        key = score.key
        place = (key.protocol, key.protocol_version, key.method, key.case, key.seed, score.metric)
        if place not in stored:
            continue
        version, before = stored[place]
        if version != score.metric_version:
            old.add(f"{score.metric} (stored {version}, here {score.metric_version})")
            continue
        compared += 1
        after = math.nan if score.value is None else score.value
        where = f"scores: {score.metric} of {key.case} by {key.method} in {key.protocol}"
        if math.isnan(before) or math.isnan(after):
            if math.isnan(before) != math.isnan(after):
                found.problems.append(f"{where}: stored {_number(before)}, computed again {_number(after)}")
            continue
        difference = abs(after - before) / max(1.0, abs(before))
        worst = max(worst, difference)
        if difference > tolerance:
            found.problems.append(f"{where}: stored {before:.6g}, computed again {after:.6g}")
    if old:
        found.notes.append(
            f"another version: not compared, since scored by another version: {', '.join(sorted(old))}"
        )
    again = {score.metric for score in fresh}
    absent = sorted({str(place[-1]) for place in stored} - again)
    if absent:
        found.notes.append(f"not scored again: {', '.join(absent)}")
    found.counts["edits scored again"] = len(chosen)
    found.counts["scores compared"] = compared
    found.largest_difference = worst if compared else None


def _number(value: float) -> str:
    return "no value" if math.isnan(value) else f"{value:.6g}"


def to_json(found: Verification) -> str:
    """For programs: ``ok``, ``problems``, ``notes``, ``counts``, ``largest_difference``."""
    return json.dumps(
        {
            "ok": found.ok,
            "problems": found.problems,
            "notes": found.notes,
            "counts": found.counts,
            "largest_difference": found.largest_difference,
        },
        indent=2,
        ensure_ascii=False,
    )
