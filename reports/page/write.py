"""Writes the page of a run: ``index.html`` and a folder ``page/`` beside it.

The page opens from disk and needs no network. Images are linked relatively in the run folder, or are copied
(``portable``). The data are scripts that pass one JSON value each to the page, since a browser reads no JSON from disk.
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
from bench.tables import latex
from bench.tables.table import Table
from reports.data.report_data import ReportData, ReportError
from reports.page.collect import collect
from reports.page.data import PageData
from reports.page.thumbs import thumbnails

if TYPE_CHECKING:
    from bench.metrics.types import MetricInfo
    from bench.store import RunStore
    from bench.tables.style import Style
    from reports.figures.write import ReportFigure

HERE = Path(__file__).parent
# Folder beside ``index.html``: styles, scripts, data and, in a portable page, the images.
FOLDER = "page"
# In the order in which index.html loads them: later scripts use what earlier ones define.
ASSETS = (
    "style.css", "core.js", "tables.js", "overview.js", "figures.js", "edits.js", "gallery.js", "viewer.js", "run.js",
    "main.js",
)  # fmt: skip


def write_page(
    store: RunStore,
    metrics: Mapping[str, MetricInfo],
    out: Path | None = None,
    *,
    portable: bool = False,
    tables: Sequence[Table] | None = None,
    style: Style | None = None,
    figures: Sequence[ReportFigure] = (),
    files: Sequence[Path] = (),
) -> Path:
    """Writes the page into ``out`` (default: the run's report folder). Returns the path of ``index.html``.

    ``portable``: copies the images in, so that the folder can be moved alone. ``tables``: those of the report (None
    computes them).
    ``style``: of the tables that are copied as LaTeX. ``figures`` and ``files``: those of the report, which are shown
    and linked.

    Raises :class:`ReportError` for a run without edits, ``StoreError`` for one that cannot be read, OSError.
    """
    folder = store.report_dir if out is None else Path(out)
    # Addresses are relative, so that the run and its page can be moved together, or served from any place.
    root = f"{FOLDER}/images" if portable else _path_between(folder, store.path)
    report = f"{FOLDER}/report" if portable else _path_between(folder, store.report_dir)
    data = collect(
        store,
        metrics,
        _tables(store, metrics) if tables is None else tables,
        root=root,
        style=style,
        figures=[_figure(figure, report) for figure in figures],
        downloads=[f"{report}/{path.relative_to(store.report_dir).as_posix()}" for path in files],
    )
    # Checked before the old page is changed.
    if not data.edits:
        raise ReportError(f"{store.path}: holds no edit, so there is nothing to show. Run a suite into it.")

    # Remove the copies of an earlier page. A portable page gets new ones.
    place = folder / FOLDER
    for name in ("images", "report"):
        shutil.rmtree(place / name, ignore_errors=True)
    if portable:
        _copy_images(store, data, place / "images")
        _copy_report(store, figures, files, place / "report")

    with _writer(store, folder, out is None) as write:
        current = set(_write_thumbnails(store, data, place / "thumbs", write))
        for name, value in data.chunks():
            file = f"data/{name.replace('/', '-')}.js"
            write(f"{FOLDER}/{file}", script(name, value).encode())
            current.add(file)
        # Remove chunks and small copies of an earlier page.
        # Otherwise chunks that no page loads would stay, and `verify` would report them.
        for path in (*(place / "data").glob("*.js"), *(place / "thumbs").glob("*.webp")):
            if path.relative_to(place).as_posix() not in current:
                path.unlink()
                if out is None:
                    store.write_digest(path.relative_to(store.path).as_posix(), None)
        for name in ASSETS:
            write(f"{FOLDER}/{name}", (HERE / name).read_bytes())
        # The page itself comes last, when everything that it loads exists.
        write("index.html", (HERE / "index.html").read_bytes())
    return folder / "index.html"


@contextmanager
def _writer(store: RunStore, folder: Path, in_run: bool) -> Iterator[Callable[[str, bytes], object]]:
    """A function that writes one file of the page, whole or not at all.

    A process that is killed leaves its unfinished file in one folder, which the next page empties: the run's own, or
    one below ``folder`` where the page lies elsewhere.
    """
    # The store writes whole files and records their SHA-256, which `verify` compares.
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
    """Writes small copies that do not exist yet and names them in ``data``. Yields every name in use."""
    # One call for sources and edits, so that both use the same pool of threads. The names are separated below.
    sources = [store.path / f"cases/{row['protocol']}/{row['source']}" for row in data.cases]
    # A failed edit has no file. The run folder stands for it, which is no image and gets no copy.
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


def _figure(figure: ReportFigure, report: str) -> dict[str, str]:
    base = f"{report}/figures/{figure.name}"
    tex = latex.figure(figure.name, figure.caption, wide=figure.wide)
    return {
        "name": figure.name,
        "caption": figure.caption,
        "png": f"{base}.png",
        "pdf": f"{base}.pdf",
        "tex": latex.HEAD_OF_FIGURES + tex,
    }


def script(name: str, value: Any) -> str:
    """The script that passes ``value`` to the page. No text in it can end a script element or a line."""
    # U+2028 and U+2029 end a line in JavaScript before ES2019, but not in JSON.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        # Such a character occurs in JSON strings alone, where this escape means the same.
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f"PEB.put({json.dumps(name)},{text});\n"


def _tables(store: RunStore, metrics: Mapping[str, MetricInfo]) -> Sequence[Table]:
    """The standard tables. A run without scores has none."""
    from reports.data.scores import load
    from reports.data.summary import summary
    from reports.tables.standard import standard_tables

    scores = load(store)
    frame = summary(scores, metrics)
    data = ReportData(frame, metrics, scores.controls, ceilings=scores.ceilings)
    return standard_tables(data) if len(frame) else ()


def _path_between(folder: Path, root: Path) -> str:
    """Relative path from ``folder`` to ``root``, with forward slashes."""
    try:
        return Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix()
    except ValueError as error:
        raise ReportError(
            f"{folder}: on another drive than the run, so its images cannot be linked. "
            "Write a portable page, or choose a folder on the run's drive."
        ) from error


def _copy_images(store: RunStore, data: PageData, images: Path) -> None:
    names = [record.file for record in data.edits if record.file is not None]
    for row in data.cases:
        names += [f"cases/{row['protocol']}/{row[kind]}" for kind in ("source", "mask", "truth") if row[kind]]
    # Cases of one source share its file, which is copied once.
    for name in dict.fromkeys(names):
        # Names come from the run's files: none may lead out of the run.
        if not is_relative(name):
            raise ReportError(f"{store.path}: the image {name!r} is not inside the run. Correct its record.")
        source, target = store.path / name, images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.is_file():
            # The page shows it as missing, and `verify` names it.
            target.unlink(missing_ok=True)
            continue
        shutil.copyfile(source, target)


def _copy_report(
    store: RunStore, figures: Sequence[ReportFigure], files: Sequence[Path], folder: Path
) -> None:
    images = [store.report_dir / f"figures/{f.name}.{kind}" for f in figures for kind in ("png", "pdf")]
    for path in (*files, *images):
        target = folder / path.relative_to(store.report_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
