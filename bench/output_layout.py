"""Export of a run's edits in a benchmark's own layout of outputs, so that its official scorer can read them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.casefile import CaseFile
from bench.edit import EditProtocol, EditRecord
from bench.errors import BenchError
from bench.files import atomic_file, safe_relative
from bench.registry import did_you_mean
from bench.session import Session
from bench.store import RunStore


@dataclass
class OutputCount:
    """Counts of one method's cases."""

    written: int = 0
    missing: int = 0
    """Cases without an edit: it failed, was refused, or is not made yet."""


def write_outputs(
    session: Session, store: RunStore, protocol: str, out: Path, layout: str | None = None
) -> dict[str, OutputCount]:
    """Writes each method's edits of a protocol into a folder of its own below ``out``.

    ``layout`` names the published benchmark whose layout is taken, None is the protocol's own. Returns folder ->
    counts. The folders are named as in the run. The files are copies of the run's PNGs, also where the layout's names
    end in ``.jpg``: readers go by the content, and JPEG would change the scores. Raises :class:`BenchError` for a
    layout that does not exist or does not fit the cases, and StoreError for a run that cannot be read.
    """
    cases = store.cases(protocol)
    files_of_cases = _files_of_cases(session, store, protocol, cases, layout)
    counts: dict[str, OutputCount] = {}
    for folder, edits in _by_folder(store, protocol).items():
        counts[folder] = OutputCount()
        for case, files in files_of_cases.items():
            if case not in edits:
                counts[folder].missing += 1
                continue
            # Reading the edit checks that it is the recorded file.
            store.image(edits[case])
            _copy(files, store.image_path(edits[case]), _source(cases, case), out / folder)
            counts[folder].written += 1
    return counts


def protocol_to_export(session: Session, store: RunStore, layout: str | None) -> str:
    """The protocol of the run whose edits are exported where the user names none: the layout's own, or the only one.

    Raises :class:`BenchError` for a run of several protocols where neither decides.
    """
    protocols = list(store.manifest["protocols"])
    named = [name for name in protocols if layout is not None and _registered(store, name) == layout]
    for candidates in (named, protocols):
        if len(candidates) == 1:
            return str(candidates[0])
    raise BenchError(
        f"{store.path}: has the protocols {', '.join(protocols)}. Name the one to export: cases PROTOCOL ..."
    )


def _registered(store: RunStore, protocol: str) -> str:
    """The name under which the run's protocol is registered. A suite may give it another."""
    return str(store.manifest["protocols"][protocol].get("registered", protocol))


def _files_of_cases(
    session: Session, store: RunStore, protocol: str, cases: CaseFile, layout: str | None
) -> dict[str, Mapping[str, str]]:
    """Case id -> its files in a layout, as :meth:`bench.edit.EditProtocol.output_files` names them."""
    if layout is None or layout == _registered(store, protocol):
        cls = session.protocol_of_run(store, protocol).cls
    else:
        cls = _foreign_layout(session, protocol, cases, layout)
    try:
        files = {row["id"]: cls.output_files(row) for row in cases.rows}
    except KeyError as error:
        raise BenchError(
            f"--layout {layout}: it names files by the tag {error}, which the cases of {protocol} do not have. "
            "Leave --layout out for the layout of the run's own benchmark."
        ) from None
    if not any(files.values()):
        raise BenchError(
            f"{layout or protocol}: the benchmark has no layout of outputs of its own. Use the PNGs in "
            f"{store.path / 'edits' / protocol}."
        )
    return files


def _foreign_layout(session: Session, protocol: str, cases: CaseFile, layout: str) -> type[EditProtocol]:
    """The class of another benchmark than the run's own. Raises :class:`BenchError` where it does not fit."""
    classes = {name: session.protocols.load(name) for name in session.protocols.names()}
    own = EditProtocol.output_files.__func__  # type: ignore[attr-defined]
    names = [name for name, cls in classes.items() if cls.output_files.__func__ is not own]
    if layout not in classes:
        raise BenchError(
            f"--layout {layout!r}: no such layout.{did_you_mean(layout, names)} There are: {', '.join(names)}."
        )
    # An official scorer looks for the cases of its own benchmark, by category and name.
    foreign = sorted({row["category"] for row in cases.rows} - set(classes[layout].categories))
    if layout in names and foreign:
        raise BenchError(
            f"--layout {layout}: does not fit {protocol}, whose categories {', '.join(foreign)} are not among its own. "
            "Leave --layout out for the layout of the run's own benchmark."
        )
    cls: type[EditProtocol] = classes[layout]
    return cls


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
