"""Benchmarks that are tables with the images inside, as the ``datasets`` library stores them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from PIL import Image

from bench.files import sha256_bytes
from protocols.published.common import OptionsT, Publication, PublishedProtocol, PublishedTable

ColumnTypes: TypeAlias = Mapping[str, type | tuple[type, ...]]
"""Column -> type of its values, or several types."""


@dataclass(frozen=True)
class SplitRow:
    """The annotations of one case: its place in the table and its columns without the images."""

    index: int
    values: Mapping[str, Any]
    where: str
    """Its name in errors."""


def split_files(root: Path, split: str) -> list[Path]:
    """The table files of a split below a folder, sorted. Empty where there are none.

    They may be as ``save_to_disk`` of the ``datasets`` library writes a data set of several splits
    (``test/data-00000-of-00002.arrow``), as it writes a single split (``data-00000-of-00002.arrow``), or parquet
    files as they are published (``data/test-00000-of-00002.parquet``).
    """
    patterns = (
        f"{split}/*.arrow",
        "*.arrow",
        f"data/{split}-*.parquet",
        f"{split}-*.parquet",
        f"{split}/*.parquet",
    )
    for pattern in patterns:
        if files := sorted(root.glob(pattern)):
            return files
    return []


def image_id(image: Image.Image) -> str:
    """16 hex digits over an image's pixels. Cases of one source share it, however their cells were encoded."""
    # With the size: the bytes alone are equal for 2x8 and 4x4.
    return sha256_bytes(f"{image.size} ".encode() + image.tobytes())[:16]


class SplitProtocol(PublishedProtocol[OptionsT, SplitRow]):
    """A benchmark that is a split of a table."""

    columns: ClassVar[ColumnTypes]
    """Columns without images that every row must have, and the types of their values."""
    untyped_columns: ClassVar[tuple[str, ...]] = ()
    """Further columns without images. Their values are not checked."""
    image_columns: ClassVar[tuple[str, ...]]
    """Columns of images. The value is None where a row has no image."""

    @classmethod
    @abstractmethod
    def split(cls, options: OptionsT) -> str:
        """The name of the split, as its files have it."""

    @classmethod
    def files(cls, options: OptionsT) -> Sequence[tuple[Path, str]]:
        return [(Path(options.root), f"the folder with the tables of the split {cls.split(options)!r}")]

    @classmethod
    def problems(cls, options: OptionsT) -> list[str]:
        split = cls.split(options)
        if (problems := super().problems(options)) or split_files(Path(options.root), split):
            return problems
        return [
            f"{options.root}: has no tables of the split {split!r}. Expected {split}/*.arrow or "
            f"data/{split}-*.parquet. {cls.publication(options).remedy}"
        ]

    @cached_property
    def table(self) -> PublishedTable:
        """The split. Raises ProtocolError for a file that lacks a column."""
        files = split_files(Path(self.options.root), self.split(self.options))
        return PublishedTable(files, [*self._names, *self.image_columns], self._publication)

    def rows(self) -> list[SplitRow]:
        """Every row of the split, checked. Raises ProtocolError."""
        rows = []
        for index, values in enumerate(self.table.texts(self._names)):
            where = f"{self.options.root}: row {index} of {self.split(self.options)}"
            rows.append(SplitRow(index, self.item(values, self.columns, where), where))
        return rows

    def read_entries(self) -> list[SplitRow]:
        rows = self.rows()
        first: dict[str, SplitRow] = {}
        for row in rows:
            name = self.name_of(row)
            if (other := first.setdefault(name, row)) is not row:
                raise self.error(f"{row.where}: is the case {name}, as row {other.index} is.")
        return rows

    @abstractmethod
    def name_of(self, row: SplitRow) -> str:
        """The id of a row's case. Raises ProtocolError where it cannot become a file name."""

    @property
    def _names(self) -> list[str]:
        return [*self.columns, *self.untyped_columns]

    @property
    def _publication(self) -> Publication:
        return self.publication(self.options)
