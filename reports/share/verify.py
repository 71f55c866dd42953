"""Is a run folder what it claims? Everything that can be computed again is, and each discrepancy is one line.

========================  ========================================================================================
run.json                  digests of the methods, seed
cases                     every picture, mask, prompt and claim, against the protocol, which makes them anew
edits                     the SHA-256 of every file, against its record
scores of single edits    a sample, computed again; all of them: that they are of edits that exist
set scores                computed again from the edits and the protocol's real images
report                    built anew from the scores, and compared file by file
files                     every other file, against the SHA-256 written down as it was made
========================  ========================================================================================

The last is the weakest: whoever changes a file can change the digest too. It counts where the stronger check cannot
be made (the protocol's data or a network's weights are not here, another version of the program wrote the report),
and the table says so. Reports know no metric and no protocol: what computes again is passed in.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import EditCase, EditRecord, MethodSpec, ScoreRecord
from bench.files import is_relative, sha256_file
from bench.store import DIGESTS, RunStore, SetScore, StoreError, set_inputs
from bench.suite import limited
from reports.share import same

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image
    from rich.console import RenderableType

Rescore = Callable[[RunStore, Sequence[EditRecord]], Iterable[ScoreRecord]]
Sets = Sequence[tuple[str, str]]
"""(protocol, method digest): all edits of a method in a protocol."""


@dataclass(frozen=True)
class Rebuilt:
    """A report that was built anew."""

    folder: Path
    recorded: bool
    """Whether the stored report says which options it was made with; else the usual ones were taken."""
    same_program: bool
    """Whether the program that wrote the stored report is this one: else they may differ rightly."""


@dataclass(frozen=True)
class Recompute:
    """What computes parts of a run again; nothing of it is stored. None: that part is not computed again.

    Each raises ValueError where it cannot, with the reason.
    """

    cases: Callable[[str], Iterable[EditCase]] | None = None
    """The cases of a protocol of the run, without a limit."""
    scores: Rescore | None = None
    """Scores of these edits by the run's metrics, as far as the weights are here."""
    sets: Callable[[RunStore, Sets], Iterable[SetScore]] | None = None
    """Set scores of these sets by the run's metrics, as far as weights and real images are here."""
    report: Callable[[RunStore, Path], Rebuilt] | None = None
    """Builds the report of the run below an empty folder."""


TOLERANCE = 1e-3
"""By how much a value computed again may differ, relative to the larger of the stored value and 1 (of a set score:
0.1): what another batch, another number of threads or another device does to float32."""

_SHOWN = 20
"""Lines of one kind that are written out; the rest is counted."""


@dataclass(frozen=True)
class Check:
    """One line of the table: what was checked, how much of it, how, and with which result."""

    what: str
    checked: int
    total: int
    how: str
    problems: int = 0

    @property
    def result(self) -> str:
        if self.problems:
            return f"{self.problems} wrong"
        return "holds" if self.checked or not self.total else "not checked"

    @property
    def extent(self) -> str:
        if self.checked == self.total:
            return f"all {self.total:,}"
        return f"{self.checked:,} of {self.total:,}"


@dataclass
class Verification:
    """What checking a run gave. ``problems`` contradict the folder's claims; ``notes`` only qualify them."""

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    largest_difference: float | None = None
    """Of a score of a single edit computed again, relative to the larger of 1 and the stored value."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def check(self, what: str) -> Check:
        """The line of the table that is called so. Raises KeyError."""
        return {check.what: check for check in self.checks}[what]

    @property
    def verdict(self) -> str:
        """One sentence; it names what was checked in part, and what was not."""
        if not self.ok:
            count = len(self.problems)
            return f"{self.path}: is not what it claims: {count} discrepanc{'y' if count == 1 else 'ies'}."
        open_ = [f"{check.what} ({check.extent})" for check in self.checks if check.checked < check.total]
        if not open_:
            return f"{self.path}: is what it claims."
        return f"{self.path}: is what it claims as far as it was checked; not wholly: {', '.join(open_)}."

    def lines(self) -> list[str]:
        """Everything, a line each, the verdict last. Of more than 20 lines of one kind, the rest counted."""
        return [
            *_bounded(self.problems, "problem"),
            *_bounded(self.notes, "note"),
            *(f"{check.what}: {check.extent}: {check.result}; {check.how}" for check in self.checks),
            self.verdict,
        ]

    def terminal(self) -> Iterator[RenderableType]:
        """Rich renderables of :meth:`lines`, the checks as a table."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        for line in _bounded(self.problems, "problem"):
            yield Text(line, style="red")
        for line in _bounded(self.notes, "note"):
            yield Text(line, style="yellow")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("what", "checked", "result", "how"):
            table.add_column(heading, justify="right" if heading == "checked" else "left")
        styles = {"holds": "green", "not checked": "yellow"}
        for check in self.checks:
            result = Text(check.result, style=styles.get(check.result, "red"))
            table.add_row(Text(check.what), check.extent, result, Text(check.how))
        yield table
        yield Text(self.verdict, style="bold green" if self.ok else "bold red")


def _bounded(lines: Sequence[str], label: str) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(line.partition(":")[0].partition("/")[0], []).append(line)
    for same_kind in kinds.values():
        yield from (f"{label}: {line}" for line in same_kind[:_SHOWN])
        if len(same_kind) > _SHOWN:
            yield f"{label}: ... and {len(same_kind) - _SHOWN} more such lines"


def verify(
    store: RunStore,
    recompute: Recompute | None = None,
    sample: int = 50,
    seed: int = 0,
    *,
    sets: int | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Checks a run folder; reads alone, takes no lock, never raises for what it finds.

    ``sample`` edits, and ``sets`` sets of edits (all of them if None), are chosen by hash with ``seed``; their
    scores are computed again and compared with the stored values of the same metric version. Raises ValueError
    for a negative ``sample`` or ``sets``.
    """
    if sample < 0 or (sets is not None and sets < 0):
        raise ValueError(f"a sample of {sample} edits and {sets} sets; neither must be negative.")
    recompute = recompute or Recompute()
    result = Verification(store.path)
    # What the run says of itself.
    try:
        manifest = store.manifest
    except StoreError as error:
        result.problems.append(f"run.json: no manifest that can be read ({error})")
        return result
    protocols = manifest["protocols"]
    titles = {digest: spec.title for digest, spec in store.methods.items()}
    _check_manifest(result, manifest)
    unchanged = _check_digests(result, store)
    # Cases.
    named: set[str] = set()
    cases = {name: _check_cases(result, store, name, info, named) for name, info in protocols.items()}
    for name, rows in cases.items():
        _check_against_protocol(result, store, name, rows, recompute.cases, unchanged)
    # Edits and their scores.
    records = _check_records(result, store, titles, cases, named)
    whole = _check_hashes(result, store, records)
    scores = _check_scores(result, store, records, named)
    if scores is not None:
        _check_sample(result, store, whole, scores, recompute.scores, sample, seed, tolerance)
    # Scores of sets; a set with a broken edit cannot be scored again.
    rows_of_sets = _check_sets(result, store, records, cases)
    readable = {record.key.digest for record in whole}
    broken = {_set_of(r) for r in records if r.file is not None and r.key.digest not in readable}
    _check_set_values(result, store, rows_of_sets, broken, recompute.sets, sets, seed, tolerance)
    # The report, and what belongs to nothing.
    _check_report(result, store, recompute.report, unchanged)
    _check_strays(result, store, named)
    return result


def _check_manifest(result: Verification, manifest: Mapping[str, Any]) -> None:
    before = len(result.problems)
    for digest, entry in manifest["methods"].items():
        try:
            right = MethodSpec(entry["name"], entry["options"]).digest
        except (KeyError, TypeError, ValueError) as error:
            result.problems.append(f"run.json: method {digest}: no name or no options ({error})")
            continue
        if right != digest:
            result.problems.append(
                f"run.json: method {entry['name']}: its digest is {digest}, its name and options make {right}"
            )
    suite = manifest.get("suite")
    if isinstance(suite, Mapping) and suite.get("seed", manifest.get("seed")) != manifest.get("seed"):
        result.problems.append(
            f"run.json: the suite's seed is {suite['seed']}, the run's {manifest.get('seed')}"
        )
    count = len(manifest["methods"])
    how = "each digest against the method's name and options; the seed against the suite's"
    result.checks.append(Check("methods in run.json", count, count, how, len(result.problems) - before))


def _check_digests(result: Verification, store: RunStore) -> set[str] | None:
    """Every file against the digest written down as it was made; the names of those that are the same.

    None where the folder has no digests: it was made before they were written.
    """
    before = len(result.problems)
    try:
        digests, complete = store.digests()
    except StoreError as error:
        result.problems.append(f"{DIGESTS}: {error}")
        return None
    here = {name for name in same.files(store.path) if _wants_digest(name)}
    what = "files"
    if not digests:
        how = "not checked: the folder was made before digests were written"
        result.checks.append(Check(what, 0, len(here), how))
        return None
    with ThreadPoolExecutor(4) as pool:
        names = sorted(here & set(digests))
        now = dict(zip(names, pool.map(lambda name: sha256_file(store.path / name), names), strict=True))
    unchanged = {name for name, digest in now.items() if digest == digests[name]}
    result.problems += [f"{name}: not the file that was written" for name in names if name not in unchanged]
    for name in sorted(set(digests) - here):
        # A file that a case names is missed by name.
        if not name.startswith("cases/"):
            result.problems.append(f"{name}: missing; it was written")
    for name in sorted(here - set(digests)):
        if complete and name.partition("/")[0] in ("cases", "scores"):
            result.problems.append(f"{name}: this program did not write it")
    how = "against the SHA-256 written down with it, which whoever changes a file can change too"
    problems = len(result.problems) - before
    result.checks.append(Check(what, len(names), len(here), how, problems))
    return unchanged


def _wants_digest(name: str) -> bool:
    """Edits have their digest in their record; logs and what is in the making have none."""
    return name == "run.json" or name.partition("/")[0] in ("cases", "scores", "report")


def _check_cases(
    result: Verification, store: RunStore, name: str, info: Mapping[str, Any], named: set[str]
) -> dict[str, Mapping[str, Any]]:
    """The rows of a protocol by case id; adds the files that they name to ``named``."""
    folder = f"cases/{name}"
    named |= {f"{folder}/protocol.json", f"{folder}/cases.jsonl"}
    try:
        file = store.cases(name)
    except (StoreError, ValueError) as error:
        result.problems.append(f"{folder}: {error}")
        return {}
    for key in ("name", "version", "digest"):
        if file.info.get(key) != info.get(key):
            result.problems.append(
                f"{folder}/protocol.json: {key} is {file.info.get(key)!r}, run.json says {info.get(key)!r}"
            )
    rows: dict[str, Mapping[str, Any]] = {}
    for row in file.rows:
        rows[row["id"]] = row
        for part in _files_of(row):
            if not is_relative(part):
                result.problems.append(f"{folder}/cases.jsonl: case {row['id']}: {part!r} leaves its folder")
                continue
            path = f"{folder}/{part}"
            if path not in named and not (store.path / path).is_file():
                result.problems.append(f"{path}: missing; case {row['id']} names it")
            named.add(path)
    return rows


def _check_against_protocol(
    result: Verification,
    store: RunStore,
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    protocol_cases: Callable[[str], Iterable[EditCase]] | None,
    unchanged: set[str] | None,
) -> None:
    """Every stored case against the one that the protocol makes; against the digests where it cannot."""
    before, what, folder = len(result.problems), f"cases of {name}", f"cases/{name}"
    # The stronger check: from the protocol.
    reason = "it was not asked for"
    if protocol_cases is not None and rows:
        try:
            count = _compare_cases(result, store, name, rows, protocol_cases(name))
            how = "made anew by the protocol: every picture, mask, prompt and claim"
            result.checks.append(Check(what, count, len(rows), how, len(result.problems) - before))
            return
        except Exception as error:  # whatever a protocol raises ends this check alone
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    # The weaker one: from the digests.
    count = 0
    if unchanged is not None and f"{folder}/cases.jsonl" in unchanged:
        count = sum(all(f"{folder}/{part}" in unchanged for part in _files_of(row)) for row in rows.values())
    how = (
        f"digests alone, since the protocol cannot make them anew ({reason})"
        if unchanged is not None
        else f"not checked: the protocol cannot make them anew ({reason}), and there are no digests"
    )
    result.checks.append(Check(what, count, len(rows), how))


def _files_of(row: Mapping[str, Any]) -> list[str]:
    files = [row["source"], row["mask"], *([row["truth"]] if row["truth"] else [])]
    return [*files, *(region["mask"] for region in row["regions"])]


def _compare_cases(
    result: Verification,
    store: RunStore,
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    fresh: Iterable[EditCase],
) -> int:
    """Adds a problem for each case that is not the protocol's; returns how many were compared."""
    file, where, compared = store.cases(name), f"cases/{name}", 0
    categories: dict[str, str] = {}
    for case in fresh:
        categories[case.id] = case.category
        if case.id not in rows:
            continue
        compared += 1
        try:
            wrong = _case_differences(file.get(case.id), case)
        except ValueError as error:
            result.problems.append(f"{where}: case {case.id}: cannot be read ({error})")
            continue
        if wrong:
            result.problems.append(f"{where}: case {case.id}: not the protocol's: {', '.join(wrong)}")
    for case_id in rows:
        if case_id not in categories:
            result.problems.append(f"{where}: case {case_id}: the protocol has no such case")
    for case_id in sorted(limited(categories, file.info.get("limit")) - set(rows)):
        result.problems.append(f"{where}: case {case_id}: missing; the protocol has it")
    return compared


def _case_differences(stored: EditCase, fresh: EditCase) -> list[str]:
    """Which parts of a case differ, by the names they have in ``cases.jsonl``."""
    one, two = stored.request, fresh.request
    wrong = [
        name for name in ("category", "source_id", "claims") if getattr(stored, name) != getattr(fresh, name)
    ]
    wrong += [
        name
        for name in (
            *("source_prompt", "target_prompt", "region_prompt", "instruction", "edit_words", "seed"),
        )
        if getattr(one, name) != getattr(two, name)
    ]
    if dict(stored.tags) != dict(fresh.tags):
        wrong.append("tags")
    pictures = [("source", one.source, two.source), ("mask", one.mask, two.mask)]
    if len(one.regions) != len(two.regions):
        wrong.append("regions")
    else:
        for i, (mine, other) in enumerate(zip(one.regions, two.regions, strict=True)):
            pictures.append((f"mask of region {i}", mine.mask, other.mask))
            if (mine.prompt, tuple(mine.words)) != (other.prompt, tuple(other.words)):
                wrong.append(f"prompt of region {i}")
    if (stored.truth is None) != (fresh.truth is None):
        wrong.append("truth")
    elif stored.truth is not None and fresh.truth is not None:
        pictures.append(("truth", stored.truth, fresh.truth))
    return wrong + [name for name, mine, other in pictures if not _same_picture(mine, other)]


def _same_picture(one: Image, two: Image) -> bool:
    return one.size == two.size and one.mode == two.mode and one.tobytes() == two.tobytes()


def _check_records(
    result: Verification,
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
                result.problems.append("edits.jsonl: its last line is torn; the edit of it does not count")
    try:
        records = store.edits()
    except (StoreError, ValueError) as error:
        result.problems.append(f"edits.jsonl: {error}")
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
            result.problems.append(f"{where}: {wrong}")
            continue
        good.append(record)
        made[key.protocol, key.method] += 1
        failed[key.protocol, key.method] += record.error is not None
    for protocol, rows in cases.items():
        for digest, title in titles.items():
            place = (protocol, digest)
            if made[place] < len(rows):
                result.notes.append(
                    f"unfinished: {len(rows) - made[place]} of {len(rows)} edits of {title} "
                    f"in {protocol} were never made"
                )
            if failed[place]:
                result.notes.append(f"failed: {failed[place]} edits of {title} in {protocol}, as recorded")
    how = "protocol, version, method, case, seed and file name against run.json and the cases"
    problems = len(records) - len(good)
    result.checks.append(Check("records of edits", len(records), len(records), how, problems))
    return good


def _check_hashes(result: Verification, store: RunStore, records: Sequence[EditRecord]) -> list[EditRecord]:
    """The records whose file is the recorded one."""
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
        lines = list(pool.map(check, made))
    wrong = [line for line in lines if line is not None]
    result.problems += wrong
    how = "SHA-256 of each file against its record; no edit was made again"
    result.checks.append(Check("edits", len(made), len(made), how, len(wrong)))
    return [record for record, line in zip(made, lines, strict=True) if line is None]


def _check_scores(
    result: Verification, store: RunStore, records: Sequence[EditRecord], named: set[str]
) -> pd.DataFrame | None:
    before = len(result.problems)
    folder = store.path / "scores"
    if folder.is_dir():
        named |= {f"scores/{path.name}" for path in folder.glob("part-*.parquet")}
        named.add("scores/set.json")
    try:
        scores = store.scores()
    except (StoreError, ValueError) as error:
        result.problems.append(f"scores: {error}")
        return None
    # Scores that judge a picture which was replaced, where the present one has none.
    current = {
        (row.protocol, row.method, row.case, row.seed, row.metric) for row in scores.itertuples(index=False)
    }
    result.problems += [
        f"scores: {row.metric} of {row.case} by {row.method} in {row.protocol}: of another edit than the one that is "
        "here. Score again"
        for row in store.scores(stale=True).itertuples(index=False)
        if (row.protocol, row.method, row.case, row.seed, row.metric) not in current
    ]
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
    result.problems += [f"scores: {count} {what}" for what, count in without.items()]
    versions = scores[["metric", "metric_version"]].drop_duplicates()
    for metric, count in Counter(versions["metric"].tolist()).items():
        if count > 1:
            several = sorted(versions.loc[versions["metric"] == metric, "metric_version"].tolist())
            result.problems.append(f"scores: {metric} is there in versions {', '.join(several)}: score again")
    how = "of edits that exist, one version of a metric, a reason where there is no value"
    problems = len(result.problems) - before
    result.checks.append(Check("records of scores", len(scores), len(scores), how, problems))
    return scores


def _set_of(record: EditRecord) -> tuple[str, str]:
    return (record.key.protocol, record.key.method)


def _place(record: EditRecord) -> tuple[str, str, str, str, int]:
    key = record.key
    return (key.protocol, key.protocol_version, key.method, key.case, key.seed)


def _check_sets(
    result: Verification,
    store: RunStore,
    records: Sequence[EditRecord],
    cases: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[dict[Any, Any]]:
    """The stored set scores; whether each is of the edits that are here."""
    try:
        rows: list[dict[Any, Any]] = store.set_scores(stale=True).to_dict(orient="records")
    except (StoreError, ValueError) as error:
        result.problems.append(f"scores/set.json: {error}")
        return []
    hashes: dict[tuple[str, str, str], list[str]] = {}
    present: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        row = cases[record.key.protocol][record.key.case]
        for category in ("all", row["category"]):
            place = (record.key.protocol, record.key.method, category)
            hashes.setdefault(place, []).append(record.sha256 or "")
            present[place] += record.file is not None
    inputs = {
        place: set_inputs(store.manifest["protocols"][place[0]]["digest"], of) for place, of in hashes.items()
    }
    times = Counter(_set_key(row) for row in rows)
    for key in (key for key, count in times.items() if count > 1):
        result.problems.append(f"scores/set.json: {key[4]} of {key[2]} in {key[0]}/{key[3]}: there twice")
    for row in rows:
        place = (row["protocol"], row["method"], row["category"])
        where = f"scores/set.json: {row['metric']} of {row['method']} in {row['protocol']}/{row['category']}"
        if row["n"] > present[place]:
            result.problems.append(f"{where}: over {row['n']} edits, there are {present[place]}")
        elif isinstance(row.get("inputs"), str) and row["inputs"] != inputs.get(place, ""):
            result.problems.append(f"{where}: of other edits than those that are here. Score again")
    return rows


def _check_set_values(
    result: Verification,
    store: RunStore,
    rows: Sequence[Mapping[Any, Any]],
    broken: set[tuple[str, str]],
    rescore: Callable[[RunStore, Sets], Iterable[SetScore]] | None,
    count: int | None,
    seed: int,
    tolerance: float,
) -> None:
    """Set scores, computed again from the edits of some sets; sets with broken edits are left out."""
    if not rows:
        return
    before, what = len(result.problems), "set scores"
    # Which sets.
    every = {(row["protocol"], row["method"]) for row in rows}
    ranked = sorted(every - broken, key=lambda place: _rank(seed, "/".join(place)))
    chosen = ranked if count is None else ranked[:count]
    if rescore is None or not chosen:
        result.checks.append(Check(what, 0, len(rows), "not checked: not computed again"))
        return
    # Their scores, computed again.
    try:
        fresh = {_set_key(asdict(score)): score for score in rescore(store, chosen)}
    except Exception as error:  # whatever a metric raises is a finding, not the end of the check
        result.checks.append(Check(what, 0, len(rows), f"not checked: {type(error).__name__}: {error}"))
        return
    # Against what is stored.
    compared, not_again = 0, Counter[str]()
    for row in rows:
        if (row["protocol"], row["method"]) not in chosen:
            continue
        score = fresh.get(_set_key(row))
        if score is None or score.metric_version != row["metric_version"]:
            not_again[row["metric"]] += 1
            continue
        compared += 1
        where = f"scores/set.json: {row['metric']} of {row['method']} in {row['protocol']}/{row['category']}"
        for name, after in (("value", score.value), ("low", score.low), ("high", score.high), ("n", score.n)):
            stored, again = float(row[name]), math.nan if after is None else float(after)
            if _differs(stored, again, tolerance, 0.1):
                result.problems.append(
                    f"{where}: {name} is {_number(stored)}, computed again {_number(again)}"
                )
    # What could not be compared.
    if not_again:
        result.notes.append(
            f"not computed again: {', '.join(sorted(not_again))} ({sum(not_again.values())} set scores): the "
            "weights or the real images are not here, or another version of the metric scored them"
        )
    how = f"computed again from the edits: {len(chosen)} of {len(every)} sets" + (
        f" (seed {seed})" if len(chosen) < len(every) else ""
    )
    result.checks.append(Check(what, compared, len(rows), how, len(result.problems) - before))


def _set_key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("protocol", "protocol_version", "method", "category", "metric"))


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _differs(before: float, after: float, tolerance: float, least: float) -> bool:
    """Whether a value computed again is another one; NaN is no value."""
    if math.isnan(before) or math.isnan(after):
        return math.isnan(before) != math.isnan(after)
    return abs(after - before) > tolerance * max(least, abs(before))


def _check_report(
    result: Verification,
    store: RunStore,
    rebuild: Callable[[RunStore, Path], Rebuilt] | None,
    unchanged: set[str] | None,
) -> None:
    """Every file of the report against one built anew; against its digest where that says nothing."""
    before, what = len(result.problems), "files of the report"
    stored = same.files(store.report_dir)
    if not stored:
        result.checks.append(Check(what, 0, 0, "there is no report"))
        return
    digested = set() if unchanged is None else {n for n in stored if f"report/{n}" in unchanged}
    # The stronger check: build it anew.
    compared: set[str] = set()
    reason = "it was not built anew"
    if rebuild is not None:
        with tempfile.TemporaryDirectory(prefix="prompteditbench-") as empty:
            try:
                rebuilt = rebuild(store, Path(empty))
                wrong = same.differences(store.report_dir, rebuilt.folder)
                compared = same.files(rebuilt.folder) & stored - set(wrong)
                reason = ""
            except Exception as error:  # a run that cannot be reported is a finding, not the end of the check
                wrong, reason = {}, f"it cannot be built anew ({error})"
        if not reason and wrong:
            if rebuilt.recorded and rebuilt.same_program:
                result.problems += [f"report/{name}: {how}" for name, how in wrong.items()]
                compared |= set(wrong) & stored
            else:
                by = "another version of the program" if rebuilt.recorded else "options that it does not name"
                reason = f"{len(wrong)} files differ, which were made with {by}"
                result.notes.append(f"report: differ when built anew: {_some(wrong)}; made with {by}")
    # The weaker one: the digests of what is left.
    by_digest = (stored - compared) & digested
    how = f"built anew from the scores and compared: {len(compared)}"
    how += f"; by its digest alone: {len(by_digest)}" if by_digest else ""
    rest = stored - compared - by_digest
    how += f"; not checked: {len(rest)}" if rest else ""
    if reason:
        how += f"; {reason}"
    checked = len(compared) + len(by_digest)
    result.checks.append(Check(what, checked, len(stored), how, len(result.problems) - before))
    if not reason and rest:
        result.notes.append(f"not of this report: {_some(rest)}: `report` does not write them")


def _some(names: Iterable[str]) -> str:
    """The first five names."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def _check_strays(result: Verification, store: RunStore, named: set[str]) -> None:
    """Files that nothing names. The report, temporary files and the lock are nobody's claim."""
    expected = named | {"run.json", "lock", DIGESTS}
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        top = name.partition("/")[0]
        if top == "report" or (path.is_dir() and not path.is_symlink()):
            continue
        if top == "tmp":
            result.notes.append(f"{name}: left behind by a process that was stopped, or in the making")
        elif name not in expected:
            result.problems.append(f"{name}: nothing in the run names this file")


def _check_sample(
    result: Verification,
    store: RunStore,
    records: Sequence[EditRecord],
    scores: pd.DataFrame,
    rescore: Rescore | None,
    sample: int,
    seed: int,
    tolerance: float,
) -> None:
    """Scores of some edits, computed again. ``records``: those whose file is the recorded one."""
    before, what = len(result.problems), "edits scored again"
    if rescore is None or not sample:
        result.checks.append(Check(what, 0, len(records), "not checked: not computed again"))
        return
    # Which edits, and what is stored of them.
    chosen = sorted(records, key=lambda record: _rank(seed, record.key.digest))[:sample]
    sampled = {_place(record) for record in chosen}
    columns = ["protocol", "protocol_version", "method", "case", "seed"]
    part = scores[scores["case"].isin([record.key.case for record in chosen])]
    stored = {
        (*place, metric): (version, value)
        for *place, metric, version, value in zip(
            *(part[column].tolist() for column in (*columns, "metric", "metric_version", "value")),
            strict=True,
        )
        if tuple(place) in sampled
    }
    # Their scores, computed again.
    try:
        fresh = list(rescore(store, chosen))
    except Exception as error:  # whatever a metric raises ends this check alone
        why = f"not checked: the sample cannot be scored again ({type(error).__name__}: {error})"
        result.checks.append(Check(what, 0, len(records), why))
        return
    # Against what is stored.
    worst, compared = 0.0, 0
    old: set[str] = set()
    checked: set[tuple[object, ...]] = set()
    for score in fresh:
        key = score.key
        place = (key.protocol, key.protocol_version, key.method, key.case, key.seed, score.metric)
        if place not in stored:
            continue
        version, old_value = stored[place]
        if version != score.metric_version:
            old.add(f"{score.metric} (stored {version}, here {score.metric_version})")
            continue
        compared += 1
        checked.add(place[:-1])
        after = math.nan if score.value is None else score.value
        if not math.isnan(old_value) and not math.isnan(after):
            worst = max(worst, abs(after - old_value) / max(1.0, abs(old_value)))
        if _differs(old_value, after, tolerance, 1.0):
            where = f"scores: {score.metric} of {key.case} by {key.method} in {key.protocol}"
            line = f"{where}: stored {_number(old_value)}, computed again {_number(after)}"
            result.problems.append(line)
    # What could not be compared.
    if old:
        result.notes.append(
            f"another version: not compared, since scored by another version: {', '.join(sorted(old))}"
        )
    again = {score.metric for score in fresh}
    absent = sorted({str(place[-1]) for place in stored} - again)
    if absent:
        result.notes.append(f"not scored again: {', '.join(absent)}")
    result.largest_difference = worst if compared else None
    how = f"computed again by the metrics, {compared:,} of {len(stored):,} values; sampled with seed {seed}"
    how += f"; largest difference {worst:.2g}" if compared else ""
    if not checked:
        how = "not checked: none of the stored values could be computed again"
    result.checks.append(Check(what, len(checked), len(records), how, len(result.problems) - before))


def _number(value: float) -> str:
    return "no value" if math.isnan(value) else f"{value:.6g}"


def to_json(result: Verification) -> str:
    """For programs: ``ok``, ``verdict``, ``problems``, ``notes``, ``checks``, ``largest_difference``."""
    return json.dumps(
        {
            "ok": result.ok,
            "verdict": result.verdict,
            "problems": result.problems,
            "notes": result.notes,
            "checks": [{**asdict(check), "result": check.result} for check in result.checks],
            "largest_difference": result.largest_difference,
        },
        indent=2,
        ensure_ascii=False,
    )
