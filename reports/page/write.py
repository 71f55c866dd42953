"""Writes the page: ``index.html`` and a folder ``page/`` beside it. Opens from disk; asks no network.

The pictures stay where the run keeps them and are linked relatively, or are copied in (``portable``).
Data are scripts that hand one JSON value each to the page, since a browser reads no JSON from disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import is_relative, write_atomic
from reports.page.data import PageData, collect
from reports.page.thumbs import thumbnails
from reports.tables import latex
from reports.tables.table import MetricFacts, ReportError, Table

if TYPE_CHECKING:
    from bench.store import RunStore
    from reports.build import Picture
    from reports.tables.style import Style

HERE = Path(__file__).parent
FOLDER = "page"
"""Beside ``index.html``: styles, scripts, data and, in a portable page, the pictures."""
ASSETS = (
    "style.css", "core.js", "tables.js", "overview.js", "figures.js", "gallery.js", "viewer.js", "run.js", "main.js",
)  # fmt: skip


def write_page(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    out: Path | None = None,
    *,
    heatmaps: bool = True,
    portable: bool = False,
    tables: Sequence[Table] | None = None,
    style: Style | None = None,
    pictures: Sequence[Picture] = (),
    files: Sequence[Path] = (),
) -> Path:
    """Writes the page of a run into ``out`` (default: its report folder); returns ``index.html``.

    ``portable`` copies the pictures in, so that the folder can be moved alone; else they are linked where
    the run keeps them. ``heatmaps`` offers the leak heat map, which the browser draws from source, edit and
    mask when it is looked at. ``tables`` saves making them again; a run without scores has none. ``style``:
    of the tables that are copied as LaTeX. ``pictures`` and ``files``: the figures and the files of the run's
    report, to be shown and linked. Raises :class:`ReportError` for a run without edits, ``StoreError`` for one
    that cannot be read, OSError.
    """
    folder = store.report_dir if out is None else Path(out)
    if tables is None:
        tables = _made(store, facts)
    root = f"{FOLDER}/images" if portable else _way(folder, store.path)
    report = f"{FOLDER}/report" if portable else _way(folder, store.report_dir)
    data = collect(
        store,
        facts,
        tables,
        root=root,
        heatmaps=heatmaps,
        style=style,
        figures=[_figure(picture, report) for picture in pictures],
        downloads=[f"{report}/{path.relative_to(store.report_dir).as_posix()}" for path in files],
    )
    if not data.edits:
        raise ReportError(f"{store.path}: holds no edit, so there is nothing to show. Run a suite into it.")
    place = folder / FOLDER
    # Copies, where the page is to stand alone; else none of an earlier page.
    for name in ("images", "report"):
        shutil.rmtree(place / name, ignore_errors=True)
    if portable:
        _copy_images(store, data, place / "images")
        drawn = [store.report_dir / f"figures/{p.name}.{kind}" for p in pictures for kind in ("png", "pdf")]
        for path in (*files, *drawn):
            target = place / "report" / path.relative_to(store.report_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    with _writer(store, folder, out is None) as write:
        written = set(_write_thumbnails(store, data, place / "thumbs", write))
        for name, value in data.chunks():
            file = f"data/{name.replace('/', '-')}.js"
            write(f"{FOLDER}/{file}", script(name, value).encode())
            written.add(file)
        # Chunks and small pictures of a report that was here before.
        for stale in (*(place / "data").glob("*.js"), *(place / "thumbs").glob("*.webp")):
            if stale.relative_to(place).as_posix() not in written:
                stale.unlink()
                if out is None:
                    store.write_digest(stale.relative_to(store.path).as_posix(), None)
        for name in ASSETS:
            write(f"{FOLDER}/{name}", (HERE / name).read_bytes())
        # Last: what it names is there.
        write("index.html", (HERE / "index.html").read_bytes())
    return folder / "index.html"


@contextmanager
def _writer(store: RunStore, folder: Path, in_run: bool) -> Iterator[Callable[[str, bytes], object]]:
    """A function that writes one file of the page, whole or not at all, readable to whom the umask lets.

    What a process killed in between leaves lies in one folder, which the next page sweeps: the run's own, or
    one below ``folder`` where that is elsewhere.
    """
    if in_run:
        yield lambda name, data: store.write_file(f"report/{name}", data)
        return
    temporary = folder / FOLDER / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield lambda name, data: write_atomic(folder / name, data, temp_dir=temporary)
    temporary.rmdir()


def _write_thumbnails(
    store: RunStore, data: PageData, folder: Path, write: Callable[[str, bytes], object]
) -> Iterator[str]:
    """Writes the small copies that are not there yet and names them in ``data``; yields every name in use."""
    sources = [store.path / f"cases/{row['protocol']}/{row['source']}" for row in data.cases]
    # A failed edit has no file: its folder stands for it, which is no picture.
    edits = [store.path / (record.file or "") for record in data.edits]
    names = []
    for name, small in thumbnails([*sources, *edits], folder):
        names.append(name)
        if small is not None:
            write(f"{FOLDER}/thumbs/{name}", small)
        if name:
            yield f"thumbs/{name}"
    if any(names):
        data.case_thumbs[:] = names[: len(sources)]
        data.edit_thumbs[:] = names[len(sources) :]


def _figure(picture: Picture, report: str) -> dict[str, str]:
    base = f"{report}/figures/{picture.name}"
    tex = latex.figure(picture.name, picture.caption, wide=picture.wide)
    return {
        "name": picture.name,
        "caption": picture.caption,
        "png": f"{base}.png",
        "pdf": f"{base}.pdf",
        "tex": latex.HEAD_OF_FIGURES + tex,
    }


def script(name: str, value: Any) -> str:
    """The script that hands ``value`` to the page. No text of it can end a script element or a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        # Such a character occurs in strings alone, where this spelling is the same.
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f"PEB.put({json.dumps(name)},{text});\n"


def _made(store: RunStore, facts: Mapping[str, MetricFacts]) -> Sequence[Table]:
    from reports.tables.table import build, control_titles, summary

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
