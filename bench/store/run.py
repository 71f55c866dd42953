"""The store of one run: manifest, cases, edits and scores of a run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.casefile import CASES, PROTOCOL, CaseFile, write_cases
from bench.edit import EditCase, EditKey, EditRecord, MethodSpec, ScoreRecord
from bench.files import safe_relative, sha256_bytes, sha256_file
from bench.images import png_bytes, read_rgb
from bench.store.errors import NUMBER_OR_NONE, TEXT, TEXT_OR_NONE, StoreError, writing, wrong_types
from bench.store.folder import RunFolder
from bench.store.journal import Journal
from bench.store.manifest import (
    CONDITIONS,
    FORMAT,
    check_name,
    join_methods,
    join_protocols,
    method_specs,
    read_manifest,
)
from bench.store.scores import ScoreFiles, of_present_edits, score_frame
from bench.store.set_scores import SET_COLUMNS, SetScore, merge_rows, read_rows, set_inputs

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

# Types of a line of ``edits.jsonl``.
_RECORD_TYPES: Mapping[str, tuple[type, ...]] = {
    "protocol": TEXT,
    "protocol_version": TEXT,
    "method": TEXT,
    "case": TEXT,
    "seed": (int,),
    "file": TEXT_OR_NONE,
    "sha256": TEXT_OR_NONE,
    "seconds": NUMBER_OR_NONE,
    "error": TEXT_OR_NONE,
}

_SET_FILE = "scores/set.json"


class RunStore(RunFolder):
    """One run folder, opened by :meth:`open`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._edit_journal = Journal(
            path / "edits.jsonl",
            "an edit record",
            "Delete that line; the edit is made again by the next run.",
        )
        self._score_files = ScoreFiles(self)
        # Read on first use, and again after the lock was taken.
        self._manifest: dict[str, Any] | None = None
        self._left_out: Mapping[str, Collection[str]] = {}
        # What was read, with the state of its files: a report asks for the same cases and edits many times.
        self._read_cases: dict[str, tuple[Any, CaseFile]] = {}
        self._read_edits: tuple[Any, list[EditRecord]] | None = None

    # Opening and closing

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False) -> RunStore:
        """Opens the run folder at ``path``. With ``create`` a missing one is created.

        Raises :class:`StoreError` for a folder that is no run folder, is of another format, or cannot be created.
        """
        # An existing run folder.
        store = cls(Path(path))
        if store._manifest_path.exists():
            store.manifest  # noqa: B018 (raises where it cannot be used)
            return store

        # A new one, in a folder without other files. If creating it was killed before, the folder has a lock file.
        exists = store.path.exists()
        if not create:
            what = "not a run folder (it has no run.json)" if exists else "no such run folder"
            raise StoreError(f"{path}: {what}. Run a suite into it first, or correct the path.")
        if exists and not store.path.is_dir():
            raise StoreError(f"{path}: is a file. Give a folder.")
        if exists and any(store.path.iterdir()) and not (store.path / "lock").exists():
            raise StoreError(f"{path}: holds other files, and no run. Give a new or an empty folder.")
        with writing(store.path, "make the folder"):
            store.path.mkdir(parents=True, exist_ok=True)
        # The first line of the log: from here on every file has a digest.
        store._append_digest({"complete": True})
        store._change_manifest({"name": store.path.name, "protocols": {}, "methods": {}})
        return store

    def close(self) -> None:
        self._edit_journal.close()
        super().close()

    def lock(self) -> bool:
        newly_locked = super().lock()
        if newly_locked:
            # Another process may have changed it before it released the lock.
            self._manifest = None
        return newly_locked

    # The manifest

    @property
    def _manifest_path(self) -> Path:
        return self.path / "run.json"

    @property
    def manifest(self) -> Mapping[str, Any]:
        """``run.json``: ``format``, ``name``, ``seed``, ``suite``, ``versions``, ``protocols`` and ``methods``.

        ``seed`` is the first of ``seeds``, which a run of one seed does not have.

        ``protocols`` maps a name to ``casefile.protocol_info``. ``methods`` maps a digest to ``name``, ``label``,
        ``options``, ``is_control``, ``dtype``, ``devices``, and the ``batch_sizes`` and ``threads`` of the edits
        (absent in runs of earlier versions).
        """
        if self._manifest is None:
            self._manifest = read_manifest(self._manifest_path)
        return self._manifest

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the run's edits. The first one is that of images and tables that show one edit per case."""
        return tuple(self.manifest.get("seeds", [self.manifest.get("seed", 0)]))

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """The methods by digest, in the order in which they were added to the run."""
        return method_specs(self.manifest)

    def _change_manifest(self, changes: Mapping[str, Any]) -> None:
        self.lock()
        before = dict(self.manifest) if self._manifest_path.exists() else {"format": FORMAT}
        after = {**before, **changes}
        # An unchanged manifest is not written: it would only add a line to the log of digests.
        if after != before:
            text = json.dumps(after, indent=2, ensure_ascii=False) + "\n"
            self.write_file("run.json", text.encode(), "the manifest")
            self._manifest = after

    def configure(
        self,
        *,
        seeds: Sequence[int] = (0,),
        protocols: Mapping[str, Mapping[str, Any]],
        methods: Sequence[MethodSpec],
        dtype: str = "float32",
        device: str = "cpu",
        idle: Collection[str] = (),
        suite: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Records what is about to run. Protocols (``casefile.protocol_info`` by name), methods and seeds may be added.

        ``idle`` are the digests of methods that will edit nothing: their dtype and devices stay as they are. Raises
        :class:`StoreError`, and changes nothing, where new results would not be comparable with the stored ones:
        another first seed, another digest of a protocol, another dtype of a method.
        """
        # The seeds.
        self.lock()
        stored = self.manifest
        # A new run has no seed yet. The files of the first seed have the shorter names, so it stays the first.
        if stored.get("seed", seeds[0]) != seeds[0]:
            raise StoreError(
                f"{self.path}: this run has the seed {stored['seed']}, the suite {seeds[0]}. "
                "Use that seed (or begin seeds with it), or another folder."
            )
        all_seeds = list(dict.fromkeys([*stored.get("seeds", []), *seeds]))

        # Protocols and methods. Both checks come before the one write, so that an error changes nothing.
        self._change_manifest(
            {
                "seed": seeds[0],
                # Absent for one seed, so that the manifests of earlier runs stay as they are.
                **({"seeds": all_seeds} if len(all_seeds) > 1 else {}),
                "protocols": join_protocols(self.path, stored["protocols"], protocols),
                "methods": join_methods(
                    self.path,
                    stored["methods"],
                    methods,
                    dtype=dtype,
                    device=device,
                    idle=idle,
                    has_edits=self._has_edits,
                ),
                # None keeps the stored value: a method may be added without a suite file.
                **({} if suite is None else {"suite": dict(suite)}),
                **({} if versions is None else {"versions": dict(versions)}),
            }
        )

    def note_conditions(self, method: str, batch_size: int, threads: int | None) -> None:
        """Adds a batch size and a number of threads to the stored conditions of a method, given by its digest.

        Both change the order of floating-point sums, so a pixel may differ by one level. ``threads`` is None where
        the method does not use torch.
        """
        methods = {digest: dict(entry) for digest, entry in self.manifest["methods"].items()}
        entry = methods[method]
        for name, value in zip(CONDITIONS, (batch_size, threads), strict=True):
            if value is not None:
                entry[name] = sorted({*entry.get(name, []), value})
        self._change_manifest({"methods": methods})

    def _has_edits(self, method: str) -> bool:
        return any(record.key.method == method and record.file is not None for record in self.edits())

    # Cases

    def write_cases(self, cases: Iterable[EditCase], info: Mapping[str, Any]) -> CaseFile:
        """Stores those cases of a protocol that are not stored yet. Raises StoreError, CaseError."""
        self.lock()
        name = check_name(info["name"], "protocol name")
        with writing(self.path, f"write the cases of {name}"):
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
        """The stored cases of a protocol. Images are decoded on use, and its ``rows`` need no decoding."""
        directory = self.path / "cases" / check_name(protocol, "protocol name")
        if not (directory / CASES).exists():
            available = ", ".join(self.protocols()) or "none"
            raise StoreError(f"{self.path}: holds no cases of {protocol!r}. It has: {available}.")
        state = _state(directory / CASES), _state(directory / PROTOCOL)
        entry = self._read_cases.get(protocol)
        if entry is None or entry[0] != state:
            entry = self._read_cases[protocol] = state, CaseFile(directory)
        return entry[1]

    # Edits

    def edit_file(self, protocol: str, method: MethodSpec, case: str, seed: int | None = None) -> str:
        """Path of an edit's PNG, relative to the run folder. ``seed`` None: the run's first one.

        The edits of a method with one seed are a folder of their own. Raises StoreError for an unsafe id.
        """
        check_name(protocol, "protocol name")
        check_name(method.name, "method name")
        check_name(case, "case id")
        suffix = "" if seed is None or seed == self.seeds[0] else f"-seed{seed}"
        return f"edits/{protocol}/{method.name}-{method.digest}{suffix}/{case}.png"

    def write_edit(self, file: str, image: Image) -> str:
        """Writes one edit's PNG and returns the SHA-256 of its bytes. Raises :class:`StoreError`.

        Safe to call from several threads once the store is locked.
        """
        data = png_bytes(image)
        # The edit's record has its digest.
        self.write_without_digest(file, data, "an edit")
        return sha256_bytes(data)

    def append_edits(self, records: Sequence[EditRecord]) -> None:
        """Appends records in order and waits until they are on disk. After a StoreError none of them is stored.

        The PNG that a record names must exist already.
        """
        self.lock()
        if records:
            with writing(self.path, "record edits"):
                self._edit_journal.append([_record_row(record) for record in records], sync=True)

    def edits(self) -> list[EditRecord]:
        """The records, the last one per key, in the order of their keys' first appearance.

        An incomplete last line is ignored. Raises :class:`StoreError` for any other line that is no record.
        """
        # A dict keeps the position of a key's first record and the value of its last.
        return list({record.key: record for record in self._attempts()}.values())

    def _attempts(self) -> list[EditRecord]:
        """Every record, in order: one key may have several. The list must not be changed."""
        state = _state(self._edit_journal.path)
        if self._read_edits is not None and self._read_edits[0] == state:
            return self._read_edits[1]
        records: list[EditRecord] = []
        for number, row in self._edit_journal.rows():
            try:
                records.append(_record(row))
            except ValueError as error:
                raise self._edit_journal.broken(number, str(error)) from error
        self._read_edits = state, records
        return records

    def done(self) -> set[str]:
        """Digests of the keys whose edit is recorded, has no error, and whose file exists."""
        names_by_folder: dict[str, set[str]] = {}
        finished = set()
        for record in self.edits():
            if record.error is not None or record.file is None:
                continue
            folder, _, name = record.file.rpartition("/")
            if folder not in names_by_folder:
                # One listing per folder is far faster than one system call per file.
                try:
                    names_by_folder[folder] = set(os.listdir(self.path / folder))  # noqa: PTH208
                except OSError:
                    names_by_folder[folder] = set()
            if name in names_by_folder[folder]:
                finished.add(record.key.digest)
        return finished

    def image_path(self, record: EditRecord) -> Path:
        """Path of a record's PNG. Raises :class:`StoreError` for a failed edit."""
        if record.file is None:
            raise StoreError(
                f"{self.path}: case {record.key.case} was not edited: {record.error}. Run the suite again."
            )
        return self.path / record.file

    def image(self, record: EditRecord) -> Image:
        """The edit, ``RGB``. Raises StoreError for a failed edit, or a file that is not the recorded one."""
        # Checked on every read: an image that was changed by hand must not be scored as the method's edit.
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
        """Stores per-image scores in one new file. A data frame needs the columns of ``SCORE_COLUMNS``.

        Scores without the column ``edit`` count for the only image that ``edits.jsonl`` has for their key. NaN
        without a reason gets one, so that every missing value is explained. After a :class:`StoreError` none of them
        is stored.
        """
        self._score_files.append(score_frame(scores) if isinstance(scores, Sequence) else scores)

    def scores(self, *, stale: bool = False) -> pd.DataFrame:
        """The per-image scores of the edits that are in the run now. Tidy, with the columns of ``SCORE_COLUMNS``.

        For each key and metric it is the last value that was computed from the present image. Scores of an image that
        was replaced are left out, until the same image is there again. ``stale`` includes them where the present image
        has no score.
        """
        frame = self._score_files.read()
        if len(frame):
            frame = of_present_edits(frame, self._attempts(), stale=stale)
        return self._without_left_out(frame)

    def append_set_scores(self, scores: Sequence[SetScore]) -> None:
        """Stores set scores. The last value per protocol, method, category and metric counts."""
        if scores:
            self.lock()
            rows = read_rows(self.path / _SET_FILE)
            self.write_file(_SET_FILE, merge_rows(rows, scores), "set scores")

    def set_scores(self, *, stale: bool = False) -> pd.DataFrame:
        """The set scores of the edits that are in the run now. ``stale`` includes those of other edits.

        NaN where ``value``, ``low`` or ``high`` is None. The columns are ``SET_COLUMNS``, then the fields of
        subclasses of :class:`SetScore` that were stored.
        """
        import pandas as pd

        # Leave out the values of other sets of edits. Values of earlier versions do not name their inputs, and stay.
        rows = read_rows(self.path / _SET_FILE)
        if not stale and any(row.get("inputs") for row in rows):
            present = self._set_inputs()
            rows = [
                row
                for row in rows
                if not row.get("inputs")
                or present.get((row["protocol"], row["method"], row["category"]), row["inputs"])
                == row["inputs"]
            ]

        # Subclasses of SetScore add columns.
        more = [
            name for name in dict.fromkeys(name for row in rows for name in row) if name not in SET_COLUMNS
        ]
        frame = pd.DataFrame(rows, columns=[*SET_COLUMNS, *more])
        frame = frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "int64"})
        return self._without_left_out(frame)

    def _set_inputs(self) -> dict[tuple[str, str, str], str]:
        """``inputs`` of a set score over the present edits, by protocol, method and category."""
        categories = {
            protocol: {row["id"]: row["category"] for row in self.cases(protocol).rows}
            for protocol in self.protocols()
        }
        # Every edit is in two sets: that of all edits, and that of its category.
        images: dict[tuple[str, str, str], list[str | None]] = {}
        for record in self.edits():
            protocol, method, case = record.key.protocol, record.key.method, record.key.case
            if protocol in categories:
                for category in ("all", categories[protocol].get(case, "")):
                    images.setdefault((protocol, method, category), []).append(record.sha256)
        return {
            (protocol, method, category): set_inputs(
                self.manifest["protocols"][protocol].get("digest", ""), of_set
            )
            for (protocol, method, category), of_set in images.items()
        }

    def leave_out(self, metrics: Mapping[str, Collection[str]]) -> None:
        """Makes :meth:`scores` and :meth:`set_scores` leave out these metrics, given by protocol.

        It is for values that must not appear in a table. Stored values stay, and writing is not affected.
        """
        self._left_out = metrics

    def left_out(self) -> dict[str, list[str]]:
        """The metrics that are stored and left out by :meth:`leave_out`, sorted, by protocol."""
        if not self._left_out:
            return {}
        # (protocol, metric) of all stored values.
        stored = {(row["protocol"], row["metric"]) for row in read_rows(self.path / _SET_FILE)}
        stored |= self._score_files.metrics()
        hidden = {
            protocol: sorted(name for of, name in stored if of == protocol and name in metrics)
            for protocol, metrics in self._left_out.items()
        }
        return {protocol: names for protocol, names in hidden.items() if names}

    def _without_left_out(self, frame: pd.DataFrame) -> pd.DataFrame:
        for protocol, metrics in self._left_out.items():
            frame = frame[~((frame["protocol"] == protocol) & frame["metric"].isin(list(metrics)))]
        return frame.reset_index(drop=True)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Changes with the content of a file: every write gives it another size, time or inode. None without a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _record_row(record: EditRecord) -> dict[str, Any]:
    # One flat object per line, with the fields of the key and those of the record.
    fields = asdict(record)
    # Absent in most lines, so that they stay as earlier versions wrote them.
    if not record.is_refused:
        del fields["is_refused"]
    return {**fields.pop("key"), **fields}


def _record(row: Any) -> EditRecord:
    """The record of a line of ``edits.jsonl``. Raises ValueError for a line of another shape."""
    names = wrong_types(row, _RECORD_TYPES) if isinstance(row, dict) else list(_RECORD_TYPES)
    if names:
        raise ValueError(f"{', '.join(names)}: missing or of a wrong type")
    # Not in the lines of earlier versions.
    peak_memory = row.get("peak_memory")
    if isinstance(peak_memory, bool) or not isinstance(peak_memory, (int, type(None))):
        raise ValueError("peak_memory: of a wrong type")
    is_refused = row.get("is_refused", False)
    if not isinstance(is_refused, bool):
        raise ValueError("is_refused: of a wrong type")
    key = EditKey(row["protocol"], row["protocol_version"], row["method"], row["case"], row["seed"])
    if row["file"] is not None:
        # Somebody else may have written the folder: a file name must not lead out of it.
        safe_relative(row["file"], "an edit's file")
    return EditRecord(key, row["file"], row["sha256"], row["seconds"], row["error"], peak_memory, is_refused)
