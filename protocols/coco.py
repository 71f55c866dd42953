"""COCO 2017: edits of everyday scenes, from instance masks and captions.

Layout of ``root`` (Lin et al., ECCV 2014): ``val2017/{id:012d}.jpg``,
``annotations/instances_val2017.json``, ``annotations/captions_val2017.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.edit import EditCase
from bench.files import BrokenText, parse_json, whole_text
from bench.images import SUFFIXES, ImageError, crop_square, image_files, read_rgb, resize
from protocols.captions import Caption
from protocols.masks import Mask
from protocols.prompts import BACKGROUNDS, COLORS, MATERIALS, check_backgrounds
from protocols.scenes import (
    MIN_VISIBLE,
    EditableScene,
    Instance,
    SceneOptions,
    SceneRecord,
    scene_kinds,
)
from protocols.selection import AnnotatedProtocol, CommonOptions, ProtocolError, rank

_HINT = (
    "Get the images and the annotations of COCO 2017 from its official project (COCO, Common Objects in "
    "Context) and name their folder in the option root."
)


@dataclass
class _ImageAnnotations:
    """What the annotation files say of one image."""

    file_name: str
    width: int
    height: int
    annotations: list[dict[str, Any]] = field(default_factory=list)
    captions: list[tuple[int, str]] = field(default_factory=list)
    """(annotation id, caption)."""


class Coco(AnnotatedProtocol["Coco.Options", EditableScene]):
    """Edits of COCO's scenes; realism is measured against the images that no case is made of."""

    name = "coco"
    version = "2"
    summary = "COCO scenes: colours and materials, classes, backgrounds, several objects at once"

    @dataclass(frozen=True)
    class Options(CommonOptions):
        root: str = "data/coco"
        split: str = "val2017"
        """Name of the image folder and of the annotation files that the cases are made of."""
        reference_split: str | None = None
        """Folder of reference images; None for what is left of ``split``."""
        colors: tuple[str, ...] = COLORS
        materials: tuple[str, ...] = tuple(MATERIALS)
        """Empty: no material edits."""
        backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
        min_area: float = 0.02
        max_area: float = 0.40
        """Bounds of an edited instance's share of the square crop."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_backgrounds(self.backgrounds)
            for what, names, known in (
                ("colors", self.colors, COLORS),
                ("materials", self.materials, tuple(MATERIALS)),
            ):
                unknown = [name for name in names if name not in known]
                if unknown:
                    raise ValueError(f"{what} are {list(names)}; choose from {', '.join(known)}")
            if len(self.colors) < 3:
                raise ValueError(f"colors are {list(self.colors)}; name at least three")
            if not 0 < self.min_area < self.max_area < 1:
                raise ValueError(
                    f"min_area is {self.min_area} and max_area {self.max_area}; they must be shares, in order"
                )
            for split in (self.split, self.reference_split):
                if split is not None and (not split or split == ".." or Path(split).name != split):
                    raise ValueError(f"split is {split!r}; it must be the name of a folder in root")

    @classmethod
    def problems(cls, options: Coco.Options) -> list[str]:
        root = Path(options.root)
        expected = [
            (root / options.split, "the folder of images, 000000000139.jpg and so on"),
            (_instances(options), "the masks and classes of the objects"),
            (_captions(options), "five captions for each image"),
        ]
        if options.reference_split is not None:
            expected.append((root / options.reference_split, "the folder of reference images"))
        if not root.exists():
            names = ", ".join(path.relative_to(root).as_posix() for path, _ in expected)
            return [f"{root}: missing. Expected a folder with {names}. {_HINT}"]
        found = [f"{path}: missing. Expected {what}. {_HINT}" for path, what in expected if not path.exists()]
        if not found and options.reference_split is not None:
            folder = root / options.reference_split
            try:
                if not image_files(folder):
                    found.append(
                        f"{folder}: holds no images ({', '.join(SUFFIXES)}). Put the reference images into it, not "
                        "into folders below it, or leave reference_split out"
                    )
            except ImageError as error:
                found.append(str(error))
        return found

    # ------------------------------------------------------------ annotations

    @cached_property
    def _categories(self) -> dict[int, tuple[str, str]]:
        """Category id -> (name, supercategory), in the file's order."""
        return self._index[0]

    @property
    def _entries(self) -> dict[str, _ImageAnnotations]:
        return self._index[1]

    @cached_property
    def _index(self) -> tuple[dict[int, tuple[str, str]], dict[str, _ImageAnnotations]]:
        return read_annotations(_instances(self.options), _captions(self.options))

    @cached_property
    def _edits(self) -> SceneOptions:
        return SceneOptions(
            canvas=self.options.canvas,
            colors=self.options.colors,
            materials=self.options.materials,
            backgrounds=self.options.backgrounds,
            categories=tuple(self._categories.values()),
            min_area=self.options.min_area,
            max_area=self.options.max_area,
        )

    def sources(self) -> Sequence[str]:
        return [source for source, entry in self._entries.items() if entry.annotations and entry.captions]

    def names(self, category: str) -> Sequence[str]:
        return scene_kinds(category, self._edits)

    @cached_property
    def _named(self) -> dict[str, int]:
        return {}

    def kinds(self, source: str, category: str) -> Sequence[str]:
        names = self.names(category)
        if category == "background":
            return names if not any(a["iscrowd"] for a in self._entries[source].annotations) else ()
        if source not in self._named:
            self._named[source] = self._most_named(self._entries[source])
        most = self._named[source]
        if category == "multi_object":
            return [size for size in names if most >= int(size)]
        return names if most else ()

    def _most_named(self, entry: _ImageAnnotations) -> int:
        """How many objects that may be editable one caption names, at most: from the annotations alone."""
        square = min(entry.width, entry.height) ** 2
        counts: dict[int, int] = {}
        for annotation in entry.annotations:
            counts[annotation["category_id"]] = counts.get(annotation["category_id"], 0) + 1
        candidates = [
            self._categories[a["category_id"]][0]
            for a in entry.annotations
            if counts[a["category_id"]] == 1
            and not a["iscrowd"]
            # Looser than the test on pixels: part of the area may lie outside the crop.
            and a["area"] >= 0.9 * self.options.min_area * square
            and a["area"] * MIN_VISIBLE <= 1.1 * self.options.max_area * square
        ]
        if not candidates:
            return 0
        captions = [Caption(text) for _, text in entry.captions]
        return max(sum(c.noun_phrase(name) is not None for name in candidates) for c in captions)

    # ------------------------------------------------------------ pixels

    def record(self, source: str) -> SceneRecord:
        """One image at its own size with its instances and captions."""
        entry = self._entries[source]
        path = Path(self.options.root) / self.options.split / entry.file_name
        image = _image(path)
        if image.size != (entry.width, entry.height):
            raise ProtocolError(
                f"{path}: the image is {image.width}x{image.height}. Expected {entry.width}x{entry.height}, "
                f"as {_instances(self.options)} says. {_HINT}"
            )
        instances = [
            Instance(
                str(a["id"]),
                *self._categories[a["category_id"]],
                mask=_mask(a, entry, _instances(self.options)),
                crowd=bool(a["iscrowd"]),
            )
            for a in entry.annotations
        ]
        return SceneRecord(source, image, instances, [text for _, text in entry.captions])

    def decode(self, source: str) -> EditableScene:
        return EditableScene(self.record(source), self._edits)

    def offer(self, source: EditableScene, category: str, kind: str) -> Iterator[EditCase]:
        return source.cases(category, kind)

    def reference_files(self) -> list[Path]:
        split = self.options.reference_split or self.options.split
        folder = Path(self.options.root) / split
        if split == self.options.split:
            chosen = self.first_by_hash(list(self._entries), without=self.used)
            return [folder / self._entries[source].file_name for source in chosen]
        files = sorted(image_files(folder), key=lambda path: rank(self.name, "reference", path.stem))
        return files[: self.options.reference_count]

    def reference(self) -> Iterator[Image.Image]:
        """Centre crops, RGB at the canvas's size; no source of a case is among them."""
        for path in self.reference_files():
            image = _image(path)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            yield resize(crop_square(image, (left, top, left + side, top + side)), self.options.canvas)


def _instances(options: Coco.Options) -> Path:
    return Path(options.root) / "annotations" / f"instances_{options.split}.json"


def _captions(options: Coco.Options) -> Path:
    return Path(options.root) / "annotations" / f"captions_{options.split}.json"


def _image(path: Path) -> Image.Image:
    try:
        return read_rgb(path)
    except ImageError as error:
        raise ProtocolError(f"{error} {_HINT}") from error


def _mask(annotation: dict[str, Any], entry: _ImageAnnotations, path: Path) -> Mask:
    """Bool (H, W) of polygons, of uncompressed or of compressed RLE.

    Everything is checked before it is decoded: pycocotools reads beyond its memory where sizes or counts are wrong.
    """
    shape, size = annotation["segmentation"], (entry.height, entry.width)
    try:
        if isinstance(shape, dict):
            return _of_runs(shape, size)
        return _of_polygons(_areas(shape), size)
    except ModuleNotFoundError:
        raise ProtocolError("pycocotools is needed to read COCO's masks: pip install pycocotools") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(
            f"{path}: the segmentation of annotation {annotation['id']} cannot be decoded: {error}. {_HINT}"
        ) from error


def _areas(polygons: list[Any]) -> list[Any]:
    """The polygons of three points and more; fewer enclose nothing. Raises ValueError for what is no list of lists."""
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("expected a list of polygons, each a list of x, y, x, y, ...")
    return [polygon for polygon in polygons if len(polygon) >= 6]


def _of_polygons(polygons: list[Any], size: tuple[int, int]) -> Mask:
    """Bool (H, W); raises ValueError for odd counts and for points more than a side away from the image."""
    if not polygons:
        return np.zeros(size, bool)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or points.size % 2:
            raise ValueError("a polygon is a list of x, y, x, y, ...")
        for values, side in ((points[0::2], size[1]), (points[1::2], size[0])):
            if not ((values >= -side) & (values <= 2 * side)).all():
                raise ValueError(f"a polygon leaves the image of {size[1]}x{size[0]} by more than its side")
    from pycocotools import mask as coder

    codes = coder.frPyObjects(polygons, *size)
    return np.ascontiguousarray(coder.decode(coder.merge(codes)).astype(bool))


def _of_runs(code: dict[str, Any], size: tuple[int, int]) -> Mask:
    """Bool (H, W) of run lengths, column by column, the first of zeros. Raises ValueError unless they fill it."""
    height, width = size
    if code.get("size") != [height, width]:
        raise ValueError(f"its size is {code.get('size')}. Expected [{height}, {width}], those of its image")
    counts = code.get("counts")
    if isinstance(counts, str):
        counts = _counts(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError("its counts are neither a list of run lengths nor a text that encodes one")
    if sum(counts) != height * width:
        raise ValueError(f"its counts sum to {sum(counts)}. Expected {height} * {width} = {height * width}")
    ones = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(ones, counts).reshape(size, order="F"))


def _counts(text: str) -> list[int]:
    """The run lengths that a compressed RLE holds (``rleFrString`` of COCO's ``maskApi.c``).

    A character holds five bits, the lowest first, and whether more follow. From the fourth on, a number is the
    difference to the one two places before. Raises ValueError for another character and for an early end.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its counts hold {character!a}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its counts end within a number")
    return counts


_SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "categories": {"id": int, "name": str, "supercategory": str},
    "annotations": {
        "id": int,
        "image_id": int,
        "category_id": int,
        "segmentation": (list, dict),
        "area": (int, float),
    },
}
_CAPTION_SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "annotations": {"id": int, "image_id": int, "caption": str}
}


def read_annotations(
    instances: Path, captions: Path
) -> tuple[dict[int, tuple[str, str]], dict[str, _ImageAnnotations]]:
    """({category id: (name, supercategory)}, {12-digit image id: what is known of it}).

    As the maintainers of COCO-ReM and LVIS say, an annotation without ``iscrowd`` is of a single object. One without
    an outline (no polygon of three points) counts as a crowd: it is never edited, nor is the background around it.
    Raises ProtocolError for broken JSON, a missing or wrong key, ids and names that are there twice, and ids that
    point nowhere.
    """
    data = _read(instances, _SHAPES)
    _refuse_twins(instances, "categories", "name", data["categories"])
    _refuse_twins(instances, "images", "file_name", data["images"])
    categories = {c["id"]: (c["name"], c["supercategory"]) for c in data["categories"]}
    entries: dict[int, _ImageAnnotations] = {}
    for image in data["images"]:
        name = image["file_name"]
        if Path(name).name != name:
            raise ProtocolError(
                f"{instances}: image {image['id']} has the file name {name!r}. Take the folders out of it: images lie "
                f"in the folder of their split. {_HINT}"
            )
        entries[image["id"]] = _ImageAnnotations(name, image["width"], image["height"])
    for annotation in data["annotations"]:
        if annotation["image_id"] not in entries or annotation["category_id"] not in categories:
            raise ProtocolError(
                f"{instances}: annotation {annotation['id']} belongs to image {annotation['image_id']} and "
                f"category {annotation['category_id']}, which the file does not list both. {_HINT}"
            )
        crowd = annotation.get("iscrowd", 0)
        if not isinstance(crowd, int):
            raise ProtocolError(
                f"{instances}: annotation {annotation['id']} has no proper 'iscrowd'. {_HINT}"
            )
        outline = annotation["segmentation"]
        bare = isinstance(outline, list) and not any(isinstance(p, list) and len(p) >= 6 for p in outline)
        annotation["iscrowd"] = crowd or int(bare)
        entries[annotation["image_id"]].annotations.append(annotation)
    for caption in _read(captions, _CAPTION_SHAPES)["annotations"]:
        if caption["image_id"] not in entries:
            raise ProtocolError(
                f"{captions}: caption {caption['id']} belongs to image {caption['image_id']}, which "
                f"{instances.name} does not list. {_HINT}"
            )
        entries[caption["image_id"]].captions.append((caption["id"], caption["caption"]))
    for entry in entries.values():
        entry.annotations.sort(key=lambda annotation: int(annotation["id"]))
        entry.captions.sort()
    return categories, {f"{number:012d}": entries[number] for number in sorted(entries)}


def _read(
    path: Path, shapes: dict[str, dict[str, type | tuple[type, ...]]]
) -> dict[str, list[dict[str, Any]]]:
    """The lists of a JSON file, each item checked for its keys and their types."""
    try:
        data = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ProtocolError(f"{path}: missing. {_HINT}") from None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error}). {_HINT}") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{path}: is not whole JSON ({error}). {_HINT}") from error
    for name, keys in shapes.items():
        items = data.get(name) if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise ProtocolError(f"{path}: has no list {name!r}. {_HINT}")
        for number, item in enumerate(items):
            for key, kind in keys.items():
                if not isinstance(item, dict) or not isinstance(item.get(key), kind):
                    raise ProtocolError(f"{path}: {name}[{number}] has no proper {key!r}. {_HINT}")
                if isinstance(item[key], str):
                    try:
                        whole_text(item[key], f"{path}: {key!r} of {name}[{number}], id {item['id']},")
                    except BrokenText as error:
                        raise ProtocolError(str(error)) from None
        _refuse_twins(path, name, "id", items)
    return data  # type: ignore[no-any-return]


def _refuse_twins(path: Path, name: str, key: str, items: list[dict[str, Any]]) -> None:
    """Raises ProtocolError where two items have the same value of a key: the last one would silently win."""
    first: dict[Any, int] = {}
    for number, item in enumerate(items):
        if first.setdefault(item[key], number) != number:
            raise ProtocolError(
                f"{path}: {name}[{first[item[key]]}] and {name}[{number}] both have the {key} {item[key]!r}. Give "
                f"each its own (files that are merged must be numbered anew), or keep one. {_HINT}"
            )
