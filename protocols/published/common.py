"""Common parts of the published benchmarks: the list of cases, the messages for missing files, and tables of images.

A benchmark's class reads its annotations into entries, one for each case, and builds a case from an entry. Images are
decoded only when a case is built.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from PIL import Image

from bench.edit import EditCase, EditProtocol, stable_digest
from bench.errors import BenchWarning
from bench.files import BrokenText, UnsafeName, is_relative, parse_json, safe_part, sha256_bytes, whole_text
from bench.images import ImageError, decode, read_rgb, resize_mask, to_rgb
from protocols.selection import CaseList, ProtocolError, fingerprint

EntryT = TypeVar("EntryT")


@dataclass(frozen=True)
class FolderOptions:
    """Options of a benchmark that is a folder. Its name is not part of the digest."""

    root: str = ""


OptionsT = TypeVar("OptionsT", bound=FolderOptions)


@dataclass(frozen=True)
class Publication:
    """Facts about a benchmark for messages."""

    title: str
    source: str
    """The place to get it, as a phrase: "the form that its README links (cure-lab/PnPInversion)"."""
    licence: str
    cases: int
    """Number of cases as published."""

    @property
    def remedy(self) -> str:
        """The end of every message about its files."""
        return f"{self.title} ({self.cases} cases, licence: {self.licence}): get it from {self.source}."

    def error(self, problem: str) -> ProtocolError:
        """An error about one of its files, with the remedy."""
        # Errors of libraries end without a full stop.
        stop = "" if problem.endswith((".", ":")) else "."
        return ProtocolError(f"{problem}{stop} {self.remedy}")


class PublishedProtocol(EditProtocol, ABC, Generic[OptionsT, EntryT]):
    """A benchmark as its authors published it.

    ``EntryT``: the annotations of one case, without its images.
    """

    options: OptionsT

    def __init__(self, options: OptionsT) -> None:
        problems = self.problems(options)
        if problems:
            raise ProtocolError(problems[0])
        super().__init__(options)

    @classmethod
    @abstractmethod
    def publication(cls, options: OptionsT) -> Publication:
        """Facts for messages. They depend on the options where a benchmark has several sets."""

    @classmethod
    @abstractmethod
    def files(cls, options: OptionsT) -> Sequence[tuple[Path, str]]:
        """(path, content) of each file and folder that must exist."""

    @abstractmethod
    def read_entries(self) -> Sequence[EntryT]:
        """The annotations of all cases, in the published order. Raises ProtocolError."""

    @abstractmethod
    def build(self, entry: EntryT) -> EditCase:
        """The case of an entry. Raises ProtocolError."""

    @classmethod
    def problems(cls, options: OptionsT) -> list[str]:
        """One message for a missing folder, or for each missing file in it.

        A message has the expected content, where to get it, the licence and the number of cases.
        """
        remedy = cls.publication(options).remedy
        expected = cls.files(options)
        root = Path(options.root)
        if not options.root or (len(expected) > 1 and not root.exists()):
            # One message, not one for each file: the whole benchmark is missing.
            names = ", ".join(path.relative_to(root).as_posix() for path, _ in expected if path != root)
            place = f"{root}: missing" if options.root else f"{cls.name}: option root is missing"
            return [f"{place}. Expected a folder{f' with {names}' if names else ''}. {remedy}"]
        return [
            f"{path}: missing. Expected {content}. {remedy}"
            for path, content in expected
            if not path.exists()
        ]

    @cached_property
    def _entries(self) -> Sequence[EntryT]:
        """The entries. Warns where there are not as many as published: a part is another benchmark."""
        entries = self.read_entries()
        publication = self.publication(self.options)
        if not entries:
            raise publication.error(f"{self.options.root}: has no case with these options.")
        if len(entries) != publication.cases:
            warnings.warn(
                f"{self.name}: {len(entries)} cases in {self.options.root}, the published benchmark has "
                f"{publication.cases}. Do not compare with published tables.",
                BenchWarning,
                stacklevel=2,
            )
        return entries

    def cases(self) -> CaseList[EntryT]:
        """All cases in the published order, each built when it is read."""
        return CaseList(self._entries, self.build)

    @cached_property
    def digest(self) -> str:
        """12 hex digits over options and cases, pixels included. Builds every case once."""
        # With the ground truth, which metrics of these benchmarks compare with. ``fingerprint`` leaves it out.
        cases = [
            [fingerprint(case), None if case.truth is None else sha256_bytes(case.truth.tobytes())]
            for case in self.cases()
        ]
        options = {name: value for name, value in asdict(self.options).items() if name != "root"}
        return stable_digest({"name": self.name, "version": self.version, "options": options, "cases": cases})

    def reference(self) -> Iterator[Image.Image]:
        """Yields nothing: none of these benchmarks has real images to measure realism against."""
        return iter(())

    # ------------------------------------------------------------ reading

    def error(self, problem: str) -> ProtocolError:
        """An error about one of the files, with the remedy."""
        return self.publication(self.options).error(problem)

    def rgb(self, path: Path) -> Image.Image:
        """An image file as RGB. Raises ProtocolError."""
        try:
            return read_rgb(path)
        except ImageError as error:
            raise self.error(str(error)) from error

    def image(self, path: Path) -> Image.Image:
        """An image file in the mode that it was stored in. Raises ProtocolError."""
        try:
            return decode(path.read_bytes(), path)
        except ImageError as error:
            raise self.error(str(error)) from error
        except OSError as error:
            raise self.error(f"{path}: cannot be read ({error.strerror})") from error

    def rgb_of(self, cell: Any, name: str) -> Image.Image:
        """An image in a table's cell as RGB. ``name``: its name in errors. Raises ProtocolError."""
        try:
            return to_rgb(self.image_of(cell, name), name)
        except ImageError as error:
            raise self.error(str(error)) from error

    def image_of(self, cell: Any, name: str) -> Image.Image:
        """An image in a table's cell, in the mode that it was stored in. Raises ProtocolError.

        ``cell``: ``{"bytes": ..., "path": ...}``, as the ``datasets`` library stores an image.
        """
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if not isinstance(data, bytes):
            raise self.error(f"{name}: has no bytes of an image.")
        try:
            return decode(data, name)
        except ImageError as error:
            raise self.error(str(error)) from error

    def mask_at(self, mask: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
        """``mask`` at the ``size`` (width, height) of its picture. ``name``: its name in errors.

        Raises ProtocolError where its aspect ratio is another one: a stretched mask would mark other places.
        """
        if not _same_shape(mask.size, size):
            raise self.error(
                f"{name}: is {mask.width}x{mask.height}, another aspect ratio than its picture of "
                f"{size[0]}x{size[1]}. It may belong to another picture."
            )
        return resize_mask(mask, size)

    def json(self, path: Path) -> Any:
        """The content of a JSON file. Raises ProtocolError."""
        try:
            return parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise self.error(f"{path}: cannot be read ({error}).") from error

    def json_lines(self, path: Path) -> list[tuple[int, Any]]:
        """(number, value) of each line of a JSONL file, numbered from 1, without empty lines. Raises ProtocolError."""
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError) as error:
            raise self.error(f"{path}: cannot be read ({error}).") from error
        values = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values.append((number, parse_json(line)))
            except ValueError as error:
                raise self.error(f"{path}:{number}: is not JSON ({error}).") from error
        return values

    def item(self, row: Any, types: Mapping[str, type | tuple[type, ...]], where: str) -> dict[str, Any]:
        """``row`` itself, an object with these keys. ``where``: its name in errors.

        Raises ProtocolError for a missing key, a value of another type, and half a character in a text.
        """
        for key, kind in types.items():
            value = row.get(key) if isinstance(row, dict) else None
            # Python counts True as int.
            if not isinstance(value, kind) or isinstance(value, bool):
                raise self.error(f"{where}: has no proper {key!r}.")
            if isinstance(value, str):
                try:
                    whole_text(value, f"{where}: {key!r}")
                except BrokenText as error:
                    raise self.error(str(error)) from None
        return dict(row)

    def case_id(self, text: str, where: str) -> str:
        """``text`` itself. Raises ProtocolError where it cannot become a file name."""
        try:
            return safe_part(text, where)
        except UnsafeName as error:
            raise self.error(str(error)) from None

    def checked_category(self, text: str, where: str) -> str:
        """``text`` itself. Raises ProtocolError where it is none of the protocol's categories."""
        if text not in self.categories:
            raise self.error(f"{where}: {text!r} is none of the categories {', '.join(self.categories)}.")
        return text

    def path_below(self, folder: Path, name: str, where: str) -> Path:
        """The file ``name`` below a folder. Raises ProtocolError where the name leads out of it."""
        if not is_relative(name):
            raise self.error(f"{where}: {name!r} leaves its folder.")
        return folder.joinpath(*name.split("/"))


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """True where two (width, height) are equal but for a scale, to within a pixel of the smaller one."""
    small, large = sorted((one, other))
    scales = (small[0] / large[0], small[1] / large[1])
    return any(
        all(abs(s - scale * side) <= 1 for s, side in zip(small, large, strict=True)) for scale in scales
    )


# ---------------------------------------------------------------- tables of images


def shards(root: Path, pattern: str) -> list[Path]:
    """The files of a split, in order."""
    return sorted(root.glob(pattern))


class PublishedTable:
    """The rows of parquet or Arrow files, as the ``datasets`` library writes them, in the order of the files.

    Texts are read at once. A row with images is read on use. Safe to call from several threads.
    """

    def __init__(self, files: Sequence[Path], columns: Collection[str], publication: Publication) -> None:
        """``columns``: the columns that must exist. Raises ProtocolError for a file without them."""
        self._files = files
        self._publication = publication
        self._lock = Lock()
        # The last block of rows that was read, by its position.
        self._block: tuple[tuple[int, int], Any] | None = None
        # (first row, file, block) of each block, in order. A block is a row group or a record batch.
        self._blocks: list[tuple[int, int, int]] = []
        self._count = 0
        self.names: tuple[str, ...] = ()
        for number, file in enumerate(files):
            sizes, names = self._layout(file)
            missing = sorted(set(columns) - set(names))
            if missing:
                raise publication.error(f"{file}: has no column {', '.join(missing)}.")
            self.names = names
            for block, size in enumerate(sizes):
                self._blocks.append((self._count, number, block))
                self._count += size

    def __len__(self) -> int:
        return self._count

    def texts(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """These columns of all rows. They must not be images, which would fill the memory."""
        rows: list[dict[str, Any]] = []
        for file in self._files:
            with _readable(file, self._publication):
                rows += _read_columns(file, columns).to_pylist()
        return rows

    def row(self, index: int) -> dict[str, Any]:
        """All columns of one row."""
        with self._lock:
            first, number, block = next(b for b in reversed(self._blocks) if b[0] <= index)
            if self._block is None or self._block[0] != (number, block):
                with _readable(self._files[number], self._publication):
                    self._block = (number, block), _read_block(self._files[number], block)
            values: dict[str, Any] = self._block[1].slice(index - first, 1).to_pylist()[0]
            return values

    def _layout(self, file: Path) -> tuple[list[int], tuple[str, ...]]:
        """(rows of each block, names of the columns)."""
        with _readable(file, self._publication):
            if file.suffix == ".parquet":
                from pyarrow import parquet

                with parquet.ParquetFile(file) as parquet_file:
                    meta = parquet_file.metadata
                    sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
                    return sizes, tuple(parquet_file.schema_arrow.names)
            table = _arrow_table(file)
            return [batch.num_rows for batch in table.to_batches()], tuple(table.schema.names)


@contextmanager
def _readable(file: Path, publication: Publication) -> Iterator[None]:
    """Turns the errors of pyarrow for a broken file into a ProtocolError."""
    try:
        yield
    # pyarrow's own errors derive from ValueError, OSError, KeyError and others.
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise publication.error(f"{file}: cannot be read ({line}).") from error


def _arrow_table(file: Path) -> Any:
    """An Arrow file, mapped into memory: nothing is read before its values are used."""
    import pyarrow as pa

    mapped = pa.memory_map(str(file))
    # ``save_to_disk`` writes the stream format, other tools the file format.
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def _read_columns(file: Path, columns: Sequence[str]) -> Any:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file, columns=list(columns), partitioning=None)
    return _arrow_table(file).select(list(columns))


def _read_block(file: Path, block: int) -> Any:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(file) as parquet_file:
            return parquet_file.read_row_group(block)
    return _arrow_table(file).to_batches()[block]
