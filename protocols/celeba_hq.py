"""CelebA-HQ: edits of portraits, from CelebAMask-HQ's part masks and CelebA's attributes.

Layout of ``root`` (Lee et al., MaskGAN, CVPR 2020):

* ``CelebA-HQ-img/{i}.jpg``, 1024 px
* ``CelebAMask-HQ-mask-anno/{i // 2000}/{i:05d}_{part}.png``, 512 px. A missing file is a part that is not visible.
* ``CelebAMask-HQ-attribute-anno.txt``: the count, the names, then ``{i}.jpg`` and 1 or -1 for each name
* ``CelebA-HQ-to-CelebA-mapping.txt``: a header, then ``idx orig_idx orig_file``
* ``list_eval_partition.txt`` (CelebA's own): ``orig_file 0|1|2`` for train, val and test

CelebA-HQ has no partitions of its own. No person is in two partitions of CelebA (Liu et al., ICCV 2015), so the
reference of FID shows nobody whom a case shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.edit import EditCase
from bench.images import ImageError, mask_array, read_mask, read_rgb, resize, resize_mask
from protocols.faces import (
    PARTS,
    EditableFace,
    FaceOptions,
    FaceRecord,
    face_kinds,
    kind_names,
)
from protocols.masks import Mask
from protocols.prompts import BACKGROUNDS, check_backgrounds
from protocols.selection import AnnotatedProtocol, CommonOptions, ProtocolError

IMAGES = "CelebA-HQ-img"
MASKS = "CelebAMask-HQ-mask-anno"
ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION = "list_eval_partition.txt"

# The numbers of ``list_eval_partition.txt``.
_PARTITIONS = {"train": 0, "val": 1, "test": 2}
_HINT = (
    "Get CelebAMask-HQ from its official project (CelebAMask-HQ, by Lee et al., MaskGAN) "
    "and name its folder in the option root."
)
_PARTITION_HINT = (
    f"Get {PARTITION} from the official project of CelebA (Large-scale CelebFaces Attributes, by Liu et al.) "
    "and put it beside the folders of CelebAMask-HQ."
)
# (name, content, where to get it). Checked by name alone: reading 30,000 images would delay every ``list``.
_EXPECTED = (
    (IMAGES, "the folder of images, 0.jpg and so on", _HINT),
    (MASKS, "the folder of part masks", _HINT),
    (ATTRIBUTES, "the file of 40 attributes for each image", _HINT),
    (MAPPING, "the table from CelebA-HQ's numbers to CelebA's files", _HINT),
    (PARTITION, "CelebA's own table of train, val and test", _PARTITION_HINT),
)
# The attributes that prompts and edits depend on. A file that lacks one would silently give other cases.
_NEEDED = (
    "Male", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald", "Eyeglasses", "Wearing_Hat",
    "Wearing_Earrings", "Wearing_Lipstick", "Heavy_Makeup", "Smiling", "Mouth_Slightly_Open", "No_Beard",
)  # fmt: skip


class CelebAHQ(AnnotatedProtocol["CelebAHQ.Options", EditableFace]):
    """Edits of CelebA-HQ's portraits: by default of the test partition, with the train partition for FID."""

    name = "celeba_hq"
    version = "1"
    summary = "CelebA-HQ portraits: hair, mouth, make-up, things to wear, backgrounds"

    @dataclass(frozen=True)
    class Options(CommonOptions):
        root: str = "data/CelebAMask-HQ"
        # The images that the cases are made of.
        partition: Literal["train", "val", "test"] = "test"
        # The images that realism is measured against.
        reference_partition: Literal["train", "val", "test"] = "train"
        backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_backgrounds(self.backgrounds)

    @classmethod
    def problems(cls, options: CelebAHQ.Options) -> list[str]:
        root = Path(options.root)
        if not root.exists():
            names = ", ".join(name for name, _, _ in _EXPECTED)
            return [f"{root}: missing. Expected a folder with {names}. {_HINT}"]
        return [
            f"{root / name}: missing. Expected {content}. {hint}"
            for name, content, hint in _EXPECTED
            if not (root / name).exists()
        ]

    # ------------------------------------------------------------ annotations

    @cached_property
    def _root(self) -> Path:
        return Path(self.options.root)

    @cached_property
    def _edits(self) -> FaceOptions:
        return FaceOptions(backgrounds=self.options.backgrounds)

    @cached_property
    def _attributes(self) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
        return read_attributes(self._root / ATTRIBUTES)

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        """Partition -> ids of its images, in the order of the attribute file."""
        # id -> CelebA's file name -> partition: CelebA-HQ numbers its images anew.
        files = read_mapping(self._root / MAPPING)
        numbers = read_partition(self._root / PARTITION)
        names = {number: name for name, number in _PARTITIONS.items()}
        members: dict[str, list[str]] = {name: [] for name in _PARTITIONS}
        for source in self._attributes[1]:
            if source not in files:
                raise ProtocolError(
                    f"{self._root / MAPPING}: no row for image {int(source)}, "
                    f"which {ATTRIBUTES} lists. {_HINT}"
                )
            if files[source] not in numbers:
                raise ProtocolError(
                    f"{self._root / PARTITION}: no row for {files[source]}, which is image {int(source)}. "
                    f"{_PARTITION_HINT}"
                )
            members[names[numbers[files[source]]]].append(source)
        return members

    def attributes_of(self, source: str) -> dict[str, bool]:
        """The annotated attributes of one image."""
        # By name, because the order of the columns is the file's own.
        names, rows = self._attributes
        return dict(zip(names, map(bool, rows[source]), strict=True))

    def sources(self) -> Sequence[str]:
        return self._members[self.options.partition]

    def names(self, category: str) -> Sequence[str]:
        return kind_names(category, self._edits)

    def kinds(self, source: str, category: str) -> Sequence[str]:
        return face_kinds(self.attributes_of(source), category, self._edits)

    # ------------------------------------------------------------ pixels

    def record(self, source: str) -> FaceRecord:
        """One image with its masks and attributes at the canvas's size. Raises ProtocolError."""
        image = self._image(self._file(source))
        return FaceRecord(source, image, self._parts(source), self.attributes_of(source))

    def _file(self, source: str) -> Path:
        # Ids have five digits, as the mask files do. Image files have no leading zeros.
        return self._root / IMAGES / f"{int(source)}.jpg"

    def _image(self, path: Path) -> Image.Image:
        try:
            image = read_rgb(path)
        except ImageError as error:
            raise ProtocolError(f"{error} {_HINT}") from error
        # The annotations belong to the aligned square crops. Another shape is another data set.
        if image.width != image.height:
            raise ProtocolError(
                f"{path}: the image is {image.width}x{image.height}. Expected a square one. {_HINT}"
            )
        # No crop: the faces are aligned, and every case has the same framing.
        return resize(image, self.options.canvas)

    def _parts(self, source: str) -> Mapping[str, Mask]:
        # 15 folders of 2,000 images each.
        folder = self._root / MASKS / str(int(source) // 2000)
        parts: dict[str, Mask] = {}
        size: tuple[int, int] | None = None
        for part in PARTS:
            path = folder / f"{source}_{part}.png"
            if not path.exists():
                continue
            # All masks of one image have the size of the first.
            try:
                mask = read_mask(path, size)
            except ImageError as error:
                raise ProtocolError(f"{error} Expected a part mask of 0 and 255. {_HINT}") from error
            if mask.width != mask.height:
                raise ProtocolError(
                    f"{path}: the mask is {mask.width}x{mask.height}. Expected a square one, 512x512. {_HINT}"
                )
            size = mask.size
            parts[part] = mask_array(resize_mask(mask, self.options.canvas))
        # A folder that was not unpacked looks like a face without parts.
        if not parts:
            raise ProtocolError(f"{folder}: no part masks {source}_*.png of image {int(source)}. {_HINT}")
        return parts

    def decode(self, source: str) -> EditableFace:
        return EditableFace(self.record(source), self._edits)

    def offer(self, source: EditableFace, category: str, kind: str) -> Iterator[EditCase]:
        return source.cases(category, kind)

    def reference_files(self) -> list[Path]:
        members = self._members[self.options.reference_partition]
        # ``used`` builds every case, so it is left out where the partitions differ anyway.
        shared = self.options.reference_partition == self.options.partition
        sources = self.first_by_hash(members, without=self.used if shared else frozenset())
        return [self._file(source) for source in sources]

    def reference(self) -> Iterator[Image.Image]:
        return map(self._image, self.reference_files())


# ------------------------------------------------------------ annotation files


def _lines(path: Path, hint: str) -> list[str]:
    try:
        # Editors of Windows put a byte order mark before the first line.
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ProtocolError(f"{path}: missing. {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: cannot be read as text ({error}). {hint}") from error


def read_attributes(path: Path) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
    """(names, {5-digit id: bool (len(names),)}) of ``CelebAMask-HQ-attribute-anno.txt``.

    Raises ProtocolError for a header whose count is not the number of rows (a truncated file), for a row that does not
    fit the header, for an image or an attribute that occurs twice, and where an attribute that edits need is missing.
    """
    lines = _lines(path, _HINT)
    try:
        count = int(lines[0])
        names = lines[1].split()
    except (IndexError, ValueError):
        raise ProtocolError(
            f"{path}: expected the number of images on line 1 and the attributes' names on line 2. {_HINT}"
        ) from None
    duplicates = [name for name, times in Counter(names).items() if times > 1]
    if duplicates:
        raise ProtocolError(f"{path}: line 2 names {', '.join(duplicates)} twice. {_HINT}")
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise ProtocolError(f"{path}: line 2 does not name {', '.join(missing)}. {_HINT}")
    rows = _attribute_rows(lines[2:], len(names), path)
    # A file that was cut at the end of a line has no other sign of it.
    if len(rows) != count:
        raise ProtocolError(
            f"{path}: line 1 says {count} images, but {len(rows)} follow: "
            f"the file is truncated or altered. {_HINT}"
        )
    return names, rows


def _attribute_rows(lines: Sequence[str], width: int, path: Path) -> dict[str, NDArray[np.bool_]]:
    """{5-digit id: bool (width,)} of the lines from the third one on."""
    rows: dict[str, NDArray[np.bool_]] = {}
    for number, line in enumerate(lines, start=3):
        # Columns are separated by one or two spaces.
        fields = line.split()
        if not fields:
            continue
        stem, values = fields[0].removesuffix(".jpg"), fields[1:]
        if not stem.isdecimal() or len(values) != width or not set(values) <= {"1", "-1"}:
            raise ProtocolError(
                f"{path}: line {number} is not a file name like 12.jpg and {width} values of 1 or -1. {_HINT}"
            )
        # "12" and "012" are one image.
        source = f"{int(stem):05d}"
        if source in rows:
            raise ProtocolError(
                f"{path}: line {number} is a second row of image {int(stem)}. Keep one. {_HINT}"
            )
        rows[source] = np.array([value == "1" for value in values])
    return rows


def read_mapping(path: Path) -> dict[str, str]:
    """{5-digit id: CelebA's file name} of ``CelebA-HQ-to-CelebA-mapping.txt``.

    Raises ProtocolError for another header, for a row that does not fit it, and for an image that occurs twice.
    """
    lines = _lines(path, _HINT)
    if not lines or lines[0].split() != ["idx", "orig_idx", "orig_file"]:
        raise ProtocolError(f"{path}: expected the header 'idx orig_idx orig_file' on line 1. {_HINT}")
    rows: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not fields[0].isdecimal():
            raise ProtocolError(f"{path}: line {number} is not 'idx orig_idx orig_file'. {_HINT}")
        source = f"{int(fields[0]):05d}"
        if source in rows:
            raise ProtocolError(
                f"{path}: line {number} is a second row of image {int(source)}. Keep one. {_HINT}"
            )
        rows[source] = fields[2]
    return rows


def read_partition(path: Path) -> dict[str, int]:
    """{CelebA's file name: 0, 1 or 2} of ``list_eval_partition.txt``.

    Raises ProtocolError for a row that is no file name and number, and for a file that occurs twice.
    """
    rows: dict[str, int] = {}
    for number, line in enumerate(_lines(path, _PARTITION_HINT), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise ProtocolError(f"{path}: line {number} is not a file name and 0, 1 or 2. {_PARTITION_HINT}")
        if fields[0] in rows:
            raise ProtocolError(
                f"{path}: line {number} is a second row of {fields[0]}. Keep one. {_PARTITION_HINT}"
            )
        rows[fields[0]] = int(fields[1])
    return rows
