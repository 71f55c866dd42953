"""Writes the page: ``index.html`` and a folder ``page/`` beside it. Opens from disk; asks no network.

The pictures stay where the run keeps them and are linked relatively, or are copied in (``portable``).
Data are scripts that hand one JSON value each to the page, since a browser reads no JSON from disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.disk import is_relative, write_whole
from reports.page.data import PageData, collect
from reports.tables import MetricFacts, ReportError, Table

if TYPE_CHECKING:
    from bench.store import RunStore

HERE = Path(__file__).parent
FOLDER = "page"
"""Beside ``index.html``: styles, scripts, data and, in a portable page, the pictures."""
ASSETS = ("style.css", "core.js", "tables.js", "gallery.js", "viewer.js", "run.js", "main.js")


def write_page(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    out: Path | None = None,
    *,
    heatmaps: bool = True,
    portable: bool = False,
    tables: Sequence[Table] | None = None,
) -> Path:
    """Writes the page of a run into ``out`` (default: its report folder); returns ``index.html``.

    ``portable`` copies the pictures in, so that the folder can be moved alone; else they are linked where
    the run keeps them. ``heatmaps`` offers the leak heat map, which the browser draws from source, edit and
    mask when it is looked at. ``tables`` saves making them again; a run without scores has none. Raises
    :class:`ReportError` for a run without edits, ``StoreError`` for one that cannot be read, OSError.
    """
    folder = store.report_dir if out is None else Path(out)
    if tables is None:
        tables = _made(store, facts)
    root = f"{FOLDER}/images" if portable else _way(folder, store.path)
    data = collect(store, facts, tables, root=root, heatmaps=heatmaps)
    if not data.edits:
        raise ReportError(f"{store.path}: holds no edit, so there is nothing to show. Run a suite into it.")
    place = folder / FOLDER
    if portable:
        _copy_images(store, data, place / "images")
    else:
        shutil.rmtree(place / "images", ignore_errors=True)
    written = set()
    for name, value in data.chunks():
        file = place / "data" / (name.replace("/", "-") + ".js")
        write_whole(file, script(name, value).encode())
        written.add(file.name)
    # Chunks of a larger report that was here before.
    for stale in (place / "data").glob("*.js"):
        if stale.name not in written:
            stale.unlink()
    for name in ASSETS:
        write_whole(place / name, (HERE / name).read_bytes())
    index = folder / "index.html"
    # Last: what it names is there.
    write_whole(index, (HERE / "index.html").read_bytes())
    return index


def script(name: str, value: Any) -> str:
    """The script that hands ``value`` to the page. No text of it can end a script element or a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        # Such a character occurs in strings alone, where this spelling is the same.
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f"PEB.put({json.dumps(name)},{text});\n"


def _made(store: RunStore, facts: Mapping[str, MetricFacts]) -> Sequence[Table]:
    from reports.tables import build, control_titles, summary

    frame = summary(store, facts)
    return build(frame, facts, control_titles(store)) if len(frame) else ()


def _way(folder: Path, root: Path) -> str:
    """From ``folder`` to ``root``, with forward slashes."""
    try:
        return Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix()
    except ValueError as error:
        raise ReportError(
            f"{folder}: on another drive than the run, so its pictures cannot be linked. "
            "Write a portable page, or choose a folder on the run's drive."
        ) from error


def _copy_images(store: RunStore, data: PageData, images: Path) -> None:
    names = [record.file for record in data.edits if record.file is not None]
    for row in data.cases:
        names += [f"cases/{row['protocol']}/{row[kind]}" for kind in ("source", "mask", "truth") if row[kind]]
    for name in dict.fromkeys(names):
        if not is_relative(name):
            raise ReportError(f"{store.path}: the picture {name!r} is not inside the run. Mend its record.")
        source, target = store.path / name, images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.is_file():
            # Shown as missing; `verify` names it.
            target.unlink(missing_ok=True)
            continue
        shutil.copyfile(source, target)
