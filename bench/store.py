"""The run folder: what was asked, every edit, every score. One process writes it at a time; any may read.

::

    run.json                              the manifest: suite, seed, protocols, methods, versions
    cases/<protocol>/                     the cases as ``bench.casefile`` writes them
    edits/<protocol>/<method>-<digest>/   one lossless PNG per case
    edits.jsonl                           one line per attempt; the last one per key counts
    scores/*.parquet                      one file per append; the last value of the present edit counts
    scores/set.json                       values of whole sets of edits (FID and its kin)
    report/                               tables and figures
    digests.jsonl                         the SHA-256 of every other file as it was written; the last line counts
    tmp/, lock                            files in the making; who is writing

Files appear whole or not at all, and a line counts once its newline is there: a process killed at any
moment loses at most the edits that had not been recorded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.casefile import CASES, CaseFile, write_cases
from bench.edit import EditCase, EditKey, EditRecord, MethodSpec, ScoreRecord, stable_digest
from bench.errors import BenchError
from bench.files import (
    UnsafeName,
    parse_json,
    safe_part,
    safe_relative,
    sha256_bytes,
    sha256_file,
    write_all,
    write_atomic,
)
from bench.images import png_bytes, read_rgb

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

FORMAT = 1
"""Of the run folder; a folder of another format is refused."""

SCORE_COLUMNS: tuple[str, ...] = (
    "protocol",
    "protocol_version",
    "method",
    "case",
    "seed",
    "edit",
    "metric",
    "metric_version",
    "value",
    "reason",
)
"""Columns of :meth:`RunStore.scores`. ``method`` is a digest; ``edit`` is the SHA-256 of the PNG that was scored,
empty where there was none; ``value`` is float64, NaN where ``reason`` says why."""

SET_COLUMNS: tuple[str, ...] = (
    "protocol",
    "protocol_version",
    "method",
    "category",
    "metric",
    "metric_version",
    "value",
    "low",
    "high",
    "n",
    "reason",
)
"""Of :meth:`RunStore.set_scores`."""

DIGESTS = "digests.jsonl"

_EDIT_KEY = ["protocol", "protocol_version", "method", "case", "seed"]
_SCORE_KEY = [*_EDIT_KEY, "metric"]
_CONDITIONS = ("batch_sizes", "threads")
_MANY_PARTS = 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class StoreError(BenchError):
    """A run folder that cannot be used or written. The message names it and the remedy."""


@dataclass(frozen=True)
class SetScore:
    """One value of one set metric for all edits of a method in one category (``"all"``: in all of them)."""

    protocol: str
    protocol_version: str
    method: str
    """The method's digest."""
    category: str
    metric: str
    metric_version: str
    value: float | None
    n: int
    """Edits in the set."""
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class RunStore:
    """One run folder. Reading takes no lock; the first write does, and holds it until :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Use :meth:`open`."""
        self.path = path
        self._lock: int | None = None
        self._log: int | None = None
        self._digests: int | None = None
        self._digest_lock = threading.Lock()
        self._manifest: dict[str, Any] | None = None
        self._left_out: Mapping[str, Collection[str]] = {}

    # Opening and closing

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False) -> RunStore:
        """The run folder at ``path``; made where it is missing and ``create`` is set.

        Raises :class:`StoreError` for a folder that is none, is of another format, or cannot be made.
        """
        store = cls(Path(path))
        if store._manifest_path.exists():
            store.manifest  # noqa: B018 (raises where it cannot be used)
            return store
        if not create:
            what = "not a run folder (it has no run.json)" if store.path.exists() else "no such run folder"
            raise StoreError(f"{path}: {what}. Run a suite into it first, or mend the path.")
        if store.path.exists() and not store.path.is_dir():
            raise StoreError(f"{path}: is a file. Give a folder.")
        if store.path.exists() and any(store.path.iterdir()) and not (store.path / "lock").exists():
            raise StoreError(f"{path}: holds other files, and no run. Give a new or an empty folder.")
        with store._writing("make the folder"):
            store.path.mkdir(parents=True, exist_ok=True)
        store._append_digest({"complete": True})
        store._change_manifest({"name": store.path.name, "protocols": {}, "methods": {}})
        return store

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock back. The store can go on being read, and locks again when it is written."""
        for descriptor in (self._log, self._digests, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._log = self._digests = self._lock = None

    def lock(self) -> None:
        """Makes this process the one that writes. Raises :class:`StoreError` where another one is.

        The system gives a lock back when its process ends, however it ends: no lock is ever stale.
        """
        if self._lock is not None:
            return
        import fcntl

        with self._writing("lock the run"):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreError(
                    f"{self.path}: another process is writing this run ({holder or 'unknown'}). "
                    "Wait until it ends, or give this run another folder."
                ) from None
            raise StoreError(
                f"{self.path}: its file system cannot lock files ({error.strerror}). Use a local folder."
            ) from error
        self._lock = descriptor
        with self._writing("lock the run"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            self.temp_dir.mkdir(exist_ok=True)
            for leftover in self.temp_dir.iterdir():
                leftover.unlink()
        # What another process wrote before it gave the lock back.
        self._manifest = None

    @property
    def temp_dir(self) -> Path:
        """Where files are made before they are moved to their place; swept when the lock is taken."""
        return self.path / "tmp"

    @property
    def report_dir(self) -> Path:
        """Where reports go; may not exist yet."""
        return self.path / "report"

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: OSError) -> StoreError:
        kept = "What is stored is kept."
        if error.errno in _FULL:
            return StoreError(
                f"{self.path}: cannot {what}: the disk is full ({error.strerror}). {kept} "
                "Free some space and give the same command again."
            )
        if error.errno in _FORBIDDEN:
            return StoreError(
                f"{self.path}: cannot {what}: the run folder is read-only ({error.strerror}). {kept} "
                "Make it writable, or give another folder."
            )
        return StoreError(
            f"{self.path}: cannot {what}: {error.strerror or error}. {kept} Mend that and retry."
        )

    def write_file(self, name: str, data: bytes, what: str | None = None) -> Path:
        """Writes one file of the run folder, whole or not at all, and its digest. Raises :class:`StoreError`."""
        # First: what a process killed in between leaves out, the same command writes again.
        self.write_digest(name, data)
        return self._write(name, data, what or name)

    def _write(self, name: str, data: bytes, what: str) -> Path:
        self.lock()
        with self._writing(f"write {what}"):
            write_atomic(self.path / name, data, temp_dir=self.temp_dir)
        return self.path / name

    # Digests

    def write_digest(self, name: str, data: bytes | None) -> None:
        """Writes down what a file of the run folder holds; None: that it was taken away.

        Safe to call from several threads once the store is locked.
        """
        self._append_digest({"file": name, "sha256": None if data is None else sha256_bytes(data)})

    def _append_digest(self, line: Mapping[str, Any]) -> None:
        self.lock()
        with self._digest_lock, self._writing("write a digest"):
            if self._digests is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._digests = os.open(self.path / DIGESTS, flags, 0o666)
                _cut_torn_tail(self._digests)
            try:
                write_all(self._digests, (json.dumps(line) + "\n").encode())
            except OSError:
                # A part of a line may be there; opening again cuts it.
                descriptor, self._digests = self._digests, None
                os.close(descriptor)
                raise

    def digests(self) -> tuple[dict[str, str], bool]:
        """File -> SHA-256 as it was last written, and whether that has been so since the folder was made.

        Files that were taken away are left out. A folder from before digests were written has none. Edits
        have theirs in ``edits.jsonl``. Raises :class:`StoreError` for a line that is no digest.
        """
        try:
            lines = (self.path / DIGESTS).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}, False
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / DIGESTS}: cannot be read ({error}).") from error
        written: dict[str, str | None] = {}
        complete = False
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
            except ValueError as error:
                if number == len(lines):
                    break
                raise StoreError(f"{self.path / DIGESTS}:{number}: not a digest ({error}).") from error
            if isinstance(row, dict) and isinstance(row.get("complete"), bool):
                complete = row["complete"]
            elif isinstance(row, dict) and _fits(row, _DIGEST):
                written[row["file"]] = row["sha256"]
            else:
                raise StoreError(f"{self.path / DIGESTS}:{number}: not a digest ({line[:80]}).")
        return {name: digest for name, digest in written.items() if digest is not None}, complete

    # The manifest

    @property
    def _manifest_path(self) -> Path:
        return self.path / "run.json"

    @property
    def manifest(self) -> Mapping[str, Any]:
        """``run.json``: ``format``, ``name``, ``seed``, ``suite``, ``versions``; ``protocols`` by name, each
        with what ``casefile.protocol_info`` says; ``methods`` by digest, each with ``name``, ``label``,
        ``options``, ``dtype``, ``devices``, and ``batch_sizes`` and ``threads`` that it edited with (not in runs of
        earlier versions).
        """
        if self._manifest is None:
            path = self._manifest_path
            try:
                manifest = parse_json(path.read_text(encoding="utf-8"))
                wrong = _wrong_manifest(manifest)
                if wrong:
                    raise ValueError(wrong)
            except (OSError, ValueError) as error:
                raise StoreError(
                    f"{path}: cannot be read ({error}). Restore it, or run into another folder."
                ) from error
            if manifest["format"] != FORMAT:
                raise StoreError(
                    f"{self.path}: a run folder of format {manifest['format']}; this version reads format {FORMAT}. "
                    "Use the version that wrote it, or another folder."
                )
            self._manifest = manifest
        assert self._manifest is not None
        return self._manifest

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """The run's methods by digest, in the order in which they joined it."""
        return {
            digest: MethodSpec(
                entry["name"],
                entry["options"],
                entry["label"],
                # Runs made before these existed do not have them.
                display=entry.get("display", ""),
                cite=entry.get("cite", ""),
                group=entry.get("group", ""),
                is_control=was_control(entry),
            )
            for digest, entry in self.manifest["methods"].items()
        }

    def _change_manifest(self, changes: Mapping[str, Any]) -> None:
        self.lock()
        before = dict(self.manifest) if self._manifest_path.exists() else {"format": FORMAT}
        after = {**before, **changes}
        if after != before:
            text = json.dumps(after, indent=2, ensure_ascii=False) + "\n"
            self.write_file("run.json", text.encode(), "the manifest")
            self._manifest = after

    def configure(
        self,
        *,
        seed: int,
        protocols: Mapping[str, Mapping[str, Any]],
        methods: Sequence[MethodSpec],
        dtype: str = "float32",
        device: str = "cpu",
        idle: Collection[str] = (),
        suite: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Writes down what is about to run. Protocols (``casefile.protocol_info`` by name), methods may join.

        Raises :class:`StoreError`, and changes nothing, where the results could not stand beside those
        that are stored: another seed, another digest of a protocol, another dtype of a method. ``idle``
        names the digests of methods that will edit nothing: theirs stay as they are.
        """
        self.lock()
        known = self.manifest
        if known.get("seed", seed) != seed:
            raise StoreError(
                f"{self.path}: this run has the seed {known['seed']}, the suite {seed}. "
                "Use that seed, or another folder."
            )
        for name, info in protocols.items():
            _check_name(name, "protocol name")
            before = known["protocols"].get(name)
            if before is not None and before["digest"] != info["digest"]:
                raise StoreError(
                    f"{self.path}: its edits answer protocol {name} {before['version']} (digest "
                    f"{before['digest']}), the suite asks {name} {info['version']} "
                    f"(digest {info['digest']}). "
                    "The protocol, its options or its data changed: give this suite another folder."
                )
        joined: dict[str, Any] = dict(known["methods"])
        for spec in methods:
            _check_name(spec.name, "method name")
            entry = joined.get(spec.digest, {})
            resting = bool(entry) and spec.digest in idle
            if entry and not resting and entry["dtype"] != dtype and self._has_edits(spec.digest):
                raise StoreError(
                    f"{self.path}: {spec.title} edited with {entry['dtype']} so far, now with {dtype}, "
                    f"which changes pixels. Go on with {entry['dtype']}, or give another folder."
                )
            joined[spec.digest] = {
                "name": spec.name,
                "label": spec.label,
                "display": spec.display,
                "cite": spec.cite,
                "group": spec.group,
                "is_control": spec.is_control,
                "options": dict(spec.options),
                "dtype": entry["dtype"] if resting else dtype,
                "devices": entry["devices"] if resting else sorted({*entry.get("devices", []), device}),
                **{name: entry[name] for name in _CONDITIONS if name in entry},
            }
        self._change_manifest(
            {
                "seed": seed,
                "protocols": {**known["protocols"], **{name: dict(info) for name, info in protocols.items()}},
                "methods": joined,
                **({} if suite is None else {"suite": dict(suite)}),
                **({} if versions is None else {"versions": dict(versions)}),
            }
        )

    def note_conditions(self, method: str, batch_size: int, threads: int | None) -> None:
        """Writes down with which batch size and how many threads a method edits, beside those it edited with so far.

        Both change the order of floating-point sums, so a sample may differ by a level. ``threads`` is None where the
        method does not use torch.
        """
        methods = {digest: dict(entry) for digest, entry in self.manifest["methods"].items()}
        entry = methods[method]
        for name, value in zip(_CONDITIONS, (batch_size, threads), strict=True):
            if value is not None:
                entry[name] = sorted({*entry.get(name, []), value})
        self._change_manifest({"methods": methods})

    def _has_edits(self, method: str) -> bool:
        return any(record.key.method == method and record.file is not None for record in self.edits())

    # Cases

    def write_cases(self, cases: Iterable[EditCase], info: Mapping[str, Any]) -> CaseFile:
        """Stores those cases of a protocol that are not stored yet. Raises StoreError, CaseError."""
        self.lock()
        name = _check_name(info["name"], "protocol name")
        with self._writing(f"write the cases of {name}"):
            return write_cases(
                self.path / "cases" / name,
                cases,
                info,
                temp_dir=self.temp_dir,
                writing=lambda file, data: self.write_digest(f"cases/{name}/{file}", data),
            )

    def protocols(self) -> list[str]:
        """The protocols whose cases are stored."""
        return [name for name in self.manifest["protocols"] if (self.path / "cases" / name / CASES).exists()]

    def cases(self, protocol: str) -> CaseFile:
        """The stored cases of a protocol: decoded on use; its ``rows`` need no decoding."""
        directory = self.path / "cases" / _check_name(protocol, "protocol name")
        if not (directory / CASES).exists():
            known = ", ".join(self.protocols()) or "none"
            raise StoreError(f"{self.path}: holds no cases of {protocol!r}. It has: {known}.")
        return CaseFile(directory)

    # Edits

    def edit_file(self, protocol: str, method: MethodSpec, case: str) -> str:
        """Where an edit's PNG lies, relative to the run folder. Raises StoreError for an unsafe id."""
        _check_name(protocol, "protocol name")
        _check_name(method.name, "method name")
        _check_name(case, "case id")
        return f"edits/{protocol}/{method.name}-{method.digest}/{case}.png"

    def write_edit(self, file: str, image: Image) -> str:
        """Writes one edit's PNG and returns the SHA-256 of its bytes. Raises :class:`StoreError`.

        Safe to call from several threads once the store is locked.
        """
        data = png_bytes(image)
        # Its digest goes into its record.
        self._write(file, data, "an edit")
        return sha256_bytes(data)

    @property
    def _log_path(self) -> Path:
        return self.path / "edits.jsonl"

    def append_edits(self, records: Sequence[EditRecord]) -> None:
        """Appends records in order, on disk when this returns. Raises StoreError; then none of them is there.

        The PNG that a record names must be there already.
        """
        self.lock()
        if not records:
            return
        data = "".join(json.dumps(_record_row(record), ensure_ascii=True) + "\n" for record in records)
        with self._writing("record edits"):
            if self._log is None:
                self._log = os.open(self._log_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                _cut_torn_tail(self._log)
            end = os.lseek(self._log, 0, os.SEEK_END)
            try:
                write_all(self._log, data.encode())
                os.fsync(self._log)
            except OSError:
                # A part of a line may be there. Cutting needs no space; if it fails too, the part is a
                # torn tail to every reader, and the next append starts by cutting it.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._log, end)
                descriptor, self._log = self._log, None
                os.close(descriptor)
                raise

    def edits(self) -> list[EditRecord]:
        """The records, the last one per key, in the order of their keys' first appearance.

        A torn last line is passed over. Raises :class:`StoreError` for any other line that is no record.
        """
        return list({record.key.digest: record for record in self._attempts()}.values())

    def _attempts(self) -> list[EditRecord]:
        """Every record, in order."""
        try:
            data = self._log_path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._log_path}: cannot be read ({error.strerror}).") from error
        whole, _, _ = data.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        records: list[EditRecord] = []
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
            except ValueError as error:
                # Torn, and cut by the next append.
                if number == len(lines):
                    break
                raise self._no_record(number, error) from error
            try:
                records.append(_row_record(row))
            except ValueError as error:
                raise self._no_record(number, error) from error
        return records

    def _no_record(self, number: int, error: ValueError) -> StoreError:
        return StoreError(
            f"{self._log_path}:{number}: not an edit record ({error}). "
            "Delete that line; the edit is made again by the next run."
        )

    def done(self) -> set[str]:
        """Digests of the keys whose edit is recorded, has no error, and whose file is there."""
        folders: dict[str, set[str]] = {}
        finished = set()
        for record in self.edits():
            if record.error is not None or record.file is None:
                continue
            folder, _, name = record.file.rpartition("/")
            if folder not in folders:
                # One listing per folder, not one question per file.
                try:
                    folders[folder] = set(os.listdir(self.path / folder))  # noqa: PTH208
                except OSError:
                    folders[folder] = set()
            if name in folders[folder]:
                finished.add(record.key.digest)
        return finished

    def image_path(self, record: EditRecord) -> Path:
        """The PNG of a record. Raises :class:`StoreError` for a failed edit."""
        if record.file is None:
            raise StoreError(f"{self.path}: case {record.key.case} was not edited: {record.error}.")
        return self.path / record.file

    def image(self, record: EditRecord) -> Image:
        """The edit, ``RGB``. Raises StoreError for a failed edit, or a file that is not the recorded one."""
        path = self.image_path(record)
        try:
            same = sha256_file(path) == record.sha256
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror}). Run the suite again.") from error
        if not same:
            raise StoreError(f"{path}: not the file that was recorded. Delete it and run the suite again.")
        return read_rgb(path)

    # Scores

    def append_scores(self, scores: Sequence[ScoreRecord] | pd.DataFrame) -> None:
        """Stores per-image scores in one new file. A data frame has the columns of ``SCORE_COLUMNS``; where it has
        no ``edit``, the scores are taken to judge the only picture that the log names for their key.

        NaN without a reason gets one: a value that could not be computed is never left unexplained.
        Raises :class:`StoreError`; then nothing of it is stored.
        """
        import pandas as pd

        if isinstance(scores, pd.DataFrame):
            frame = scores
        else:
            frame = pd.DataFrame.from_records(
                [
                    {
                        "protocol": score.key.protocol,
                        "protocol_version": score.key.protocol_version,
                        "method": score.key.method,
                        "case": score.key.case,
                        "seed": score.key.seed,
                        "edit": score.edit,
                        "metric": score.metric,
                        "metric_version": score.metric_version,
                        "value": score.value,
                        "reason": score.reason,
                    }
                    for score in scores
                ],
                columns=list(SCORE_COLUMNS),
            )
        missing = [column for column in SCORE_COLUMNS if column not in frame.columns and column != "edit"]
        if missing:
            raise StoreError(f"{self.path}: scores without {', '.join(missing)}. Give every column.")
        if len(frame) == 0:
            return
        self.lock()
        frame = _score_types(frame)
        parts = self._score_parts()
        if len(parts) >= _MANY_PARTS:
            # Merged into one that wins over all before, and only then are those deleted.
            frame = pd.concat([*(_read_part(part) for part in parts), frame], ignore_index=True)
            frame = frame.drop_duplicates([*_SCORE_KEY, "edit"], keep="last")
        self._write_part(frame, parts)
        if len(parts) >= _MANY_PARTS:
            with self._writing("merge score files"):
                for part in parts:
                    part.unlink()
                    self.write_digest(f"scores/{part.name}", None)

    def _write_part(self, frame: pd.DataFrame, parts: Sequence[Path]) -> None:
        import io

        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, compression="zstd")
        number = 1 + max((_part_number(part) for part in parts), default=0)
        self.write_file(f"scores/part-{number:06d}.parquet", buffer.getvalue(), "scores")

    def _score_parts(self) -> list[Path]:
        return sorted((self.path / "scores").glob("part-*.parquet"), key=_part_number)

    def scores(self, *, stale: bool = False) -> pd.DataFrame:
        """The per-image scores of the edits that are here now; columns ``SCORE_COLUMNS``, tidy.

        Of each (key, metric) the last value that judges the picture of the key's last record. Scores of a picture
        that was replaced are passed over; they count again where the same picture comes back. With ``stale`` they are
        given where the present picture has none.
        """
        import pandas as pd

        parts = [_read_part(part) for part in self._score_parts()]
        if not parts:
            return _score_types(pd.DataFrame(columns=list(SCORE_COLUMNS)))
        frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
        frame = self._of_present_edits(frame, stale)
        frame = frame.drop_duplicates(_SCORE_KEY, keep="last").reset_index(drop=True)
        return self._without_left_out(frame)

    def _of_present_edits(self, frame: pd.DataFrame, stale: bool) -> pd.DataFrame:
        """The scores whose ``edit`` is that of the key's last record, and those of keys without a record.

        With ``stale`` the others come before them.
        Scores of earlier versions do not say which picture they judge: it is the only one that the log names for
        their key. Where the log names several, nobody knows, and the scores are passed over.
        """
        import pandas as pd

        present: dict[tuple[str, str, str, str, int], str] = {}
        sole: dict[tuple[str, str, str, str, int], str] = {}
        for record in self._attempts():
            key = record.key
            place = key.protocol, key.protocol_version, key.method, key.case, key.seed
            picture = present[place] = record.sha256 or ""
            before = sole.setdefault(place, picture)
            if picture and before != picture:
                sole[place] = picture if not before else "several"
        rows = [(*place, picture, sole[place]) for place, picture in present.items()]
        log = pd.DataFrame(rows, columns=[*_EDIT_KEY, "present", "sole"]).astype({"seed": "int64"})
        texts = [name for name in log.columns if name != "seed"]
        joined = frame[[*_EDIT_KEY, "edit"]].merge(
            log.astype(dict.fromkeys(texts, "string")), "left", _EDIT_KEY
        )
        edit = joined["edit"].fillna(joined["sole"])
        current = joined["present"].isna() | (edit == joined["present"]).fillna(False)
        here = current.to_numpy(dtype=bool)
        frame = frame.assign(edit=edit.to_numpy()).astype({"edit": "string"})
        return pd.concat([frame[~here], frame[here]]) if stale else frame[here]

    def leave_out(self, metrics: Mapping[str, Collection[str]]) -> None:
        """Protocol -> names of metrics that :meth:`scores` and :meth:`set_scores` pass over from now on.

        For values that do not belong in a table. What is stored stays, and writing is not affected.
        """
        self._left_out = metrics

    def left_out(self) -> dict[str, list[str]]:
        """Protocol -> the metrics that are stored and passed over by :meth:`leave_out`, sorted."""
        import pandas as pd

        if not self._left_out:
            return {}
        columns = ["protocol", "metric"]
        stored = {(row["protocol"], row["metric"]) for row in self._set_rows()}
        for part in self._score_parts():
            pairs = pd.read_parquet(part, columns=columns).drop_duplicates()
            stored |= set(pairs.itertuples(index=False, name=None))
        hidden = {
            protocol: sorted(name for of, name in stored if of == protocol and name in metrics)
            for protocol, metrics in self._left_out.items()
        }
        return {protocol: names for protocol, names in hidden.items() if names}

    def _without_left_out(self, frame: pd.DataFrame) -> pd.DataFrame:
        for protocol, metrics in self._left_out.items():
            frame = frame[~((frame["protocol"] == protocol) & frame["metric"].isin(list(metrics)))]
        return frame.reset_index(drop=True)

    @property
    def _set_path(self) -> Path:
        return self.path / "scores" / "set.json"

    def append_set_scores(self, scores: Sequence[SetScore]) -> None:
        """Stores set scores; the last value per protocol, method, category and metric counts."""
        if not scores:
            return
        self.lock()
        merged = {_set_key(row): row for row in self._set_rows()}
        for score in scores:
            row = asdict(score)
            if row["value"] is not None and not math.isfinite(row["value"]):
                row.update(value=None, reason=row["reason"] or f"the metric gave {score.value}")
            merged[_set_key(row)] = row
        text = json.dumps(list(merged.values()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.write_file("scores/set.json", text.encode(), "set scores")

    def _set_rows(self) -> list[dict[str, Any]]:
        try:
            rows = parse_json(self._set_path.read_text(encoding="utf-8"))
            if not isinstance(rows, list):
                raise ValueError("it is no list of set scores")
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict) or not _fits(row, _SET_ROW):
                    raise ValueError(f"row {number} is no set score")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self._set_path}: cannot be read ({error}). Delete it, and score again."
            ) from error
        return rows

    def set_scores(self, *, stale: bool = False) -> pd.DataFrame:
        """The set scores of the edits that are here now, with ``stale`` those of other edits too.

        NaN where ``value``, ``low`` or ``high`` is none. Columns ``SET_COLUMNS``, then the fields of subclasses of
        :class:`SetScore` that were stored.
        """
        import pandas as pd

        rows = self._set_rows()
        if not stale and any(row.get("inputs") for row in rows):
            now = self._set_inputs()
            rows = [
                row
                for row in rows
                if not row.get("inputs")
                or now.get((row["protocol"], row["method"], row["category"]), row["inputs"]) == row["inputs"]
            ]
        more = [
            name for name in dict.fromkeys(name for row in rows for name in row) if name not in SET_COLUMNS
        ]
        frame = pd.DataFrame(rows, columns=[*SET_COLUMNS, *more])
        frame = frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "int64"})
        return self._without_left_out(frame)

    def _set_inputs(self) -> dict[tuple[str, str, str], str]:
        """Protocol, method and category -> what ``inputs`` of a set score says of the edits that are here."""
        categories = {
            protocol: {row["id"]: row["category"] for row in self.cases(protocol).rows}
            for protocol in self.protocols()
        }
        pictures: dict[tuple[str, str, str], list[str | None]] = {}
        for record in self.edits():
            protocol, method, case = record.key.protocol, record.key.method, record.key.case
            if protocol in categories:
                for category in ("all", categories[protocol].get(case, "")):
                    pictures.setdefault((protocol, method, category), []).append(record.sha256)
        return {
            place: set_inputs(self.manifest["protocols"][place[0]].get("digest", ""), of)
            for place, of in pictures.items()
        }


_CONTROLS_BEFORE = (
    "oracle",
    "copy_input",
    "jpeg",
    "resize_round_trip",
    "autoencoder_round_trip",
    "noise_fill",
    "flat_color_fill",
)
"""Names of the controls of runs that were stored before a method's entry had ``is_control``."""


def was_control(entry: Mapping[str, Any]) -> bool:
    """Whether a stored method (its entry in a manifest or in a leaderboard file) is a control."""
    return bool(entry.get("is_control", entry["name"] in _CONTROLS_BEFORE))


def set_inputs(protocol_digest: str, pictures: Iterable[str | None]) -> str:
    """Digest of which edits (SHA-256, None for a failed one) and which protocol's real images were compared."""
    return stable_digest([protocol_digest, sorted(picture or "" for picture in pictures)])


def _check_name(name: str, what: str) -> str:
    try:
        return safe_part(name, what)
    except UnsafeName as error:
        raise StoreError(str(error)) from None


def _record_row(record: EditRecord) -> dict[str, Any]:
    fields = asdict(record)
    return {**fields.pop("key"), **fields}


_TEXT, _TEXT_OR_NONE = (str,), (str, type(None))
_NUMBER_OR_NONE = (int, float, type(None))
_LOG_ROW: Mapping[str, tuple[type, ...]] = {
    "protocol": _TEXT,
    "protocol_version": _TEXT,
    "method": _TEXT,
    "case": _TEXT,
    "seed": (int,),
    "file": _TEXT_OR_NONE,
    "sha256": _TEXT_OR_NONE,
    "seconds": _NUMBER_OR_NONE,
    "error": _TEXT_OR_NONE,
}
_SET_ROW: Mapping[str, tuple[type, ...]] = {
    "protocol": _TEXT,
    "protocol_version": _TEXT,
    "method": _TEXT,
    "category": _TEXT,
    "metric": _TEXT,
    "metric_version": _TEXT,
    "value": _NUMBER_OR_NONE,
    "low": _NUMBER_OR_NONE,
    "high": _NUMBER_OR_NONE,
    "n": (int,),
    "reason": _TEXT_OR_NONE,
}
_DIGEST: Mapping[str, tuple[type, ...]] = {"file": _TEXT, "sha256": _TEXT_OR_NONE}
_PROTOCOL: Mapping[str, tuple[type, ...]] = {"version": _TEXT, "digest": _TEXT}
_METHOD: Mapping[str, tuple[type, ...]] = {
    "name": _TEXT,
    "label": _TEXT,
    "options": (dict,),
    "dtype": _TEXT,
    "devices": (list,),
}
_WHERE_GIVEN: Mapping[str, tuple[type, ...]] = {
    "display": _TEXT,
    "cite": _TEXT,
    "group": _TEXT,
    "is_control": (bool,),
    "name": _TEXT,
    "seed": (int,),
    "suite": (dict, type(None)),
    "versions": (dict,),
    "registered": _TEXT,
    "options": (dict,),
    "limit": (int, type(None)),
    "canvas": (int,),
    "categories": (list,),
    "batch_sizes": (list,),
    "threads": (list,),
}
"""Types of the optional keys of a manifest and of its entries for protocols and methods."""


def _fits(row: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> bool:
    return not _unfit(row, types)


def _unfit(row: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> list[str]:
    """The keys that are absent or of another type. A truth value is no number."""
    return [
        name
        for name, allowed in types.items()
        if name not in row
        or not isinstance(row[name], allowed)
        or (isinstance(row[name], bool) and bool not in allowed)
    ]


def _wrong_manifest(manifest: Any) -> str:
    """Reason why a JSON value is no manifest of a run; empty where it is one."""
    if not isinstance(manifest, dict) or "format" not in manifest:
        return "it is no manifest of a run"
    if manifest["format"] != FORMAT:
        # Another version's; nobody knows what is in it.
        return ""
    if wrong := _unfit(
        manifest, {name: _WHERE_GIVEN[name] for name in _WHERE_GIVEN.keys() & manifest.keys()}
    ):
        return f"{', '.join(sorted(wrong))}: of a wrong type"
    for part, types in (("protocols", _PROTOCOL), ("methods", _METHOD)):
        entries = manifest.get(part)
        if not isinstance(entries, dict):
            return f"its {part} are missing"
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                return f"{part}: {name}: of a wrong type"
            given = {key: _WHERE_GIVEN[key] for key in _WHERE_GIVEN.keys() & entry.keys()}
            if wrong := _unfit(entry, {**given, **types}):
                return f"{part}: {name}: {', '.join(sorted(wrong))}: missing or of a wrong type"
    return ""


def _row_record(row: Any) -> EditRecord:
    wrong = _unfit(row, _LOG_ROW) if isinstance(row, dict) else list(_LOG_ROW)
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: missing or of a wrong type")
    peak = row.get("peak_memory")
    if isinstance(peak, bool) or not isinstance(peak, (int, type(None))):
        raise ValueError("peak_memory: of a wrong type")
    key = EditKey(row["protocol"], row["protocol_version"], row["method"], row["case"], row["seed"])
    file = row["file"]
    if file is not None:
        # The folder may come from somewhere else.
        safe_relative(file, "an edit's file")
    return EditRecord(key, file, row["sha256"], row["seconds"], row["error"], peak)


def _cut_torn_tail(descriptor: int) -> None:
    """Ends the file after its last newline, or before its last line where that is no JSON."""
    size = os.fstat(descriptor).st_size
    tail = b""
    start = size
    # Backwards in pieces: the log of a long run need not be read whole for its last line.
    while start > 0 and tail.count(b"\n") < 2:
        step = min(1 << 16, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    whole = tail.rfind(b"\n") + 1
    line_start = tail.rfind(b"\n", 0, max(whole - 1, 0)) + 1
    try:
        parse_json(tail[line_start:whole])
    except ValueError:
        whole = line_start
    if start + whole < size:
        os.ftruncate(descriptor, start + whole)


def _part_number(path: Path) -> int:
    match = re.fullmatch(r"part-(\d+)\.parquet", path.name)
    return int(match[1]) if match else 0


def _read_part(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return _score_types(pd.read_parquet(path))
    except Exception as error:
        raise StoreError(f"{path}: cannot be read ({error}). Delete it, and score again.") from error


def _score_types(frame: pd.DataFrame) -> pd.DataFrame:
    if "edit" not in frame.columns:
        frame = frame.assign(edit=None)
    frame = frame[list(SCORE_COLUMNS)].astype({"seed": "int64", "value": "float64"})
    unexplained = frame["value"].isna() & frame["reason"].isna()
    # Text, also where every reason is None: else the column's type would depend on its values.
    frame["reason"] = frame["reason"].astype("string").mask(unexplained, "the metric gave NaN")
    for column in ("protocol", "protocol_version", "method", "case", "edit", "metric", "metric_version"):
        frame[column] = frame[column].astype("string")
    return frame


def _set_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("protocol", "protocol_version", "method", "category", "metric"))
