"""Export of a run's edits in a benchmark's own layout of outputs, so that its official scorer can read them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.casefile import CaseFile
from bench.edit import EditRecord
from bench.errors import BenchError
from bench.files import atomic_file, safe_relative
from bench.session import Session
from bench.store import RunStore


@dataclass
class OutputCount:
    """Counts of one method's cases."""

    written: int = 0
    missing: int = 0
    """Cases without an edit: it failed, was refused, or is not made yet."""


def write_outputs(session: Session, store: RunStore, protocol: str, out: Path) -> dict[str, OutputCount]:
    """Writes each method's edits of a protocol into a folder of its own below ``out``.

    Returns folder -> counts. The folders are named as in the run. The files are copies of the run's PNGs, also where
    the layout's names end in ``.jpg``: readers go by the content, and JPEG would change the scores. Raises
    :class:`BenchError` for a protocol without a layout, and StoreError for a run that cannot be read.
    """
    cases = store.cases(protocol)
    cls = session.protocol_of_run(store, protocol).cls
    layout = {row["id"]: cls.output_files(row) for row in cases.rows}
    if not any(layout.values()):
        raise BenchError(
            f"{protocol}: the benchmark has no layout of outputs of its own. Use the PNGs in "
            f"{store.path / 'edits' / protocol}."
        )

    counts: dict[str, OutputCount] = {}
    for folder, edits in _by_folder(store, protocol).items():
        counts[folder] = OutputCount()
        for case, files in layout.items():
            if case not in edits:
                counts[folder].missing += 1
                continue
            # Reading the edit checks that it is the recorded file.
            store.image(edits[case])
            _copy(files, store.image_path(edits[case]), _source(cases, case), out / folder)
            counts[folder].written += 1
    return counts


def _by_folder(store: RunStore, protocol: str) -> dict[str, dict[str, EditRecord]]:
    """Folder of a method's edits, below that of the protocol -> case id -> edit."""
    folders: dict[str, dict[str, EditRecord]] = {}
    for record in store.edits():
        if record.key.protocol != protocol or record.file is None or record.error is not None:
            continue
        folder = PurePosixPath(record.file).parent.relative_to(f"edits/{protocol}").as_posix()
        folders.setdefault(folder, {})[record.key.case] = record
    return folders


def _source(cases: CaseFile, case: str) -> Path:
    return cases.directory.joinpath(*safe_relative(cases.row(case)["source"]))


def _copy(files: Mapping[str, str], edit: Path, source: Path, folder: Path) -> None:
    for name, kind in files.items():
        target = folder.joinpath(*safe_relative(name.replace("{method}", folder.name), "name of an output"))
        with atomic_file(target) as temporary:
            shutil.copyfile({"edit": edit, "source": source}[kind], temporary)
