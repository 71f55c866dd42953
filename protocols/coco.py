"""COCO 2017: edits of everyday scenes, from instance masks and captions.

Layout of ``root`` (Lin et al., Microsoft COCO, ECCV 2014): ``val2017/{id:012d}.jpg``,
``annotations/instances_val2017.json``, ``annotations/captions_val2017.json``.
"""

from __future__ import annotations

from collections import Counter
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
    """The entries of one image in the annotation files."""

    file_name: str
    width: int
    height: int
    # As the file has them, with ``iscrowd`` always set.
    annotations: list[dict[str, Any]] = field(default_factory=list)
    # (annotation id, caption).
    captions: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Annotations:
    """Both annotation files, checked and joined."""

    # Category id -> (name, supercategory), in the file's order. COCO's 80 ids have gaps between 1 and 90.
    categories: dict[int, tuple[str, str]]
    # 12-digit image id -> its entries, in the order of the ids.
    images: dict[str, _ImageAnnotations]


class Coco(AnnotatedProtocol["Coco.Options", EditableScene]):
    """Edits of COCO's scenes. Realism is measured against the images that no case is made of."""

    name = "coco"
    version = "2"
    summary = "COCO scenes: colours and materials, classes, backgrounds, several objects at once"

    @dataclass(frozen=True)
    class Options(CommonOptions):
        root: str = "data/coco"
        # Name of the image folder and of the annotation files that the cases are made of.
        split: str = "val2017"
        # Folder of reference images. None: the images of ``split`` that no case is made of.
        reference_split: str | None = None
        colors: tuple[str, ...] = COLORS
        # Empty: no material edits.
        materials: tuple[str, ...] = tuple(MATERIALS)
        backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
        # Bounds of an edited instance's share of the square crop.
        min_area: float = 0.02
        max_area: float = 0.40

        def __post_init__(self) -> None:
            super().__post_init__()
            check_backgrounds(self.backgrounds)
            for option, names, choices in (
                ("colors", self.colors, COLORS),
                ("materials", self.materials, tuple(MATERIALS)),
            ):
                if not set(names) <= set(choices):
                    raise ValueError(f"{option} are {list(names)}; choose from {', '.join(choices)}")
            # An object's colour by its caption and by its pixels may differ, and neither is a target of an edit.
            if len(self.colors) < 3:
                raise ValueError(f"colors are {list(self.colors)}; name at least three")
            if not 0 < self.min_area < self.max_area < 1:
                raise ValueError(
                    f"min_area is {self.min_area} and max_area {self.max_area}; they must be shares, in order"
                )
            # A suite may come from a stranger: a split must not lead out of root.
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
        missing = [
            f"{path}: missing. Expected {content}. {_HINT}" for path, content in expected if not path.exists()
        ]
        if missing or options.reference_split is None:
            return missing
        folder = root / options.reference_split
        try:
            if image_files(folder):
                return []
        except ImageError as error:
            return [str(error)]
        return [
            f"{folder}: holds no images ({', '.join(SUFFIXES)}). Put the reference images into it, not "
            "into folders below it, or leave reference_split out"
        ]

    # ------------------------------------------------------------ annotations

    @cached_property
    def _annotations(self) -> _Annotations:
        return read_annotations(_instances(self.options), _captions(self.options))

    @cached_property
    def _edits(self) -> SceneOptions:
        return SceneOptions(
            canvas=self.options.canvas,
            colors=self.options.colors,
            materials=self.options.materials,
            backgrounds=self.options.backgrounds,
            categories=tuple(self._annotations.categories.values()),
            min_area=self.options.min_area,
            max_area=self.options.max_area,
        )

    def sources(self) -> Sequence[str]:
        # About 50 images of val2017 have no annotation. They still serve as reference images.
        images = self._annotations.images.items()
        return [source for source, image in images if image.annotations and image.captions]

    def names(self, category: str) -> Sequence[str]:
        return scene_kinds(category, self._edits)

    def kinds(self, source: str, category: str) -> Sequence[str]:
        names = self.names(category)
        image = self._annotations.images[source]
        if category == "background":
            return names if not any(a["iscrowd"] for a in image.annotations) else ()
        # Parsing captions is slow, and each source is asked for three categories.
        if source not in self._editable_counts:
            self._editable_counts[source] = self._editable_count(image)
        count = self._editable_counts[source]
        if category == "multi_object":
            return [size for size in names if count >= int(size)]
        return names if count else ()

    @cached_property
    def _editable_counts(self) -> dict[str, int]:
        return {}

    def _editable_count(self, image: _ImageAnnotations) -> int:
        """The largest number of objects that one caption names and that may be editable.

        It reads the annotations alone and is an upper bound: decoding every image only to select would take hours.
        """
        square = min(image.width, image.height) ** 2
        counts = Counter(annotation["category_id"] for annotation in image.annotations)
        candidates = [
            self._annotations.categories[a["category_id"]][0]
            for a in image.annotations
            if counts[a["category_id"]] == 1
            and not a["iscrowd"]
            # Looser than the test on pixels: ``area`` may differ a little from the decoded mask, and up to
            # 1 - MIN_VISIBLE of it may lie outside the crop.
            and a["area"] >= 0.9 * self.options.min_area * square
            and a["area"] * MIN_VISIBLE <= 1.1 * self.options.max_area * square
        ]
        if not candidates:
            return 0
        captions = [Caption(text) for _, text in image.captions]
        return max(sum(c.noun_phrase(name) is not None for name in candidates) for c in captions)

    # ------------------------------------------------------------ pixels

    def record(self, source: str) -> SceneRecord:
        """One image at its own size with its instances and captions. Raises ProtocolError."""
        entries = self._annotations.images[source]
        path = Path(self.options.root) / self.options.split / entries.file_name
        image = _image(path)
        # Masks of another size would be decoded into the wrong places without any other sign.
        if image.size != (entries.width, entries.height):
            raise ProtocolError(
                f"{path}: the image is {image.width}x{image.height}. Expected {entries.width}x{entries.height}, "
                f"as {_instances(self.options)} says. {_HINT}"
            )
        instances = [
            Instance(
                str(a["id"]),
                *self._annotations.categories[a["category_id"]],
                mask=_mask(a, (entries.height, entries.width), _instances(self.options)),
                crowd=bool(a["iscrowd"]),
            )
            for a in entries.annotations
        ]
        # Captions keep their order by id: the first one that names an object gives its prompts.
        return SceneRecord(source, image, instances, [text for _, text in entries.captions])

    def decode(self, source: str) -> EditableScene:
        return EditableScene(self.record(source), self._edits)

    def offer(self, source: EditableScene, category: str, kind: str) -> Iterator[EditCase]:
        return source.cases(category, kind)

    def reference_files(self) -> list[Path]:
        split = self.options.reference_split or self.options.split
        folder = Path(self.options.root) / split
        if split == self.options.split:
            images = self._annotations.images
            return [
                folder / images[source].file_name
                for source in self.first_by_hash(list(images), without=self.used)
            ]
        # Another split needs no annotation file: its images are ranked by their names.
        files = sorted(image_files(folder), key=lambda path: rank(self.name, "reference", path.stem))
        return files[: self.options.reference_count]

    def reference(self) -> Iterator[Image.Image]:
        """Centre crops, RGB at the canvas's size. No source of a case is among them."""
        # Sources are cropped around their objects. Images of another split may have no annotations to crop by.
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


# ------------------------------------------------------------ masks


def _mask(annotation: dict[str, Any], size: tuple[int, int], path: Path) -> Mask:
    """Bool (H, W) of a segmentation: polygons, or run lengths (RLE), compressed or not. ``size``: (H, W).

    Everything is checked before it is decoded: pycocotools reads beyond its memory where sizes or counts are wrong.
    """
    segmentation = annotation["segmentation"]
    try:
        if isinstance(segmentation, dict):
            return _mask_of_runs(segmentation, size)
        return _mask_of_polygons(segmentation, size)
    except ModuleNotFoundError:
        raise ProtocolError("pycocotools is needed to read COCO's masks: pip install pycocotools") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(
            f"{path}: the segmentation of annotation {annotation['id']} cannot be decoded: {error}. {_HINT}"
        ) from error


def _is_polygon(points: object) -> bool:
    """True for a list of three points and more. Fewer enclose nothing, and pycocotools reads two as a box."""
    return isinstance(points, list) and len(points) >= 6


def _mask_of_polygons(segmentation: list[Any], size: tuple[int, int]) -> Mask:
    """Bool (H, W) of the union of polygons, each a list of x, y, x, y, ... in pixels.

    Raises ValueError for odd counts and for points more than a side away from the image.
    """
    if not all(isinstance(points, list) for points in segmentation):
        raise ValueError("expected a list of polygons, each a list of x, y, x, y, ...")
    polygons = [points for points in segmentation if _is_polygon(points)]
    if not polygons:
        return np.zeros(size, bool)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or points.size % 2:
            raise ValueError("a polygon is a list of x, y, x, y, ...")
        for values, side in ((points[0::2], size[1]), (points[1::2], size[0])):
            if not ((values >= -side) & (values <= 2 * side)).all():
                raise ValueError(f"a polygon leaves the image of {size[1]}x{size[0]} by more than its side")
    # Imported on use: the package is needed for polygons alone.
    from pycocotools import mask as coder

    # An object that is split by another in front of it has several polygons: the mask is their union.
    codes = coder.frPyObjects(polygons, *size)
    return np.ascontiguousarray(coder.decode(coder.merge(codes)).astype(bool))


def _mask_of_runs(segmentation: dict[str, Any], size: tuple[int, int]) -> Mask:
    """Bool (H, W) of run lengths. Raises ValueError unless they fill the image."""
    height, width = size
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"its size is {segmentation.get('size')}. Expected [{height}, {width}], those of its image"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError("its counts are neither a list of run lengths nor a text that encodes one")
    # The outline of another image, or a file that was cut, would shift every later column.
    if sum(counts) != height * width:
        raise ValueError(f"its counts sum to {sum(counts)}. Expected {height} * {width} = {height * width}")
    # Runs alternate and the first is of zeros, so a mask that begins with a one begins with a run of length 0.
    # COCO counts column by column (Fortran order).
    ones = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(ones, counts).reshape(size, order="F"))


def _run_lengths(text: str) -> list[int]:
    """The run lengths of a compressed RLE (``rleFrString`` of COCO's ``maskApi.c``).

    Each character holds six bits: five of the number, lowest first, and one that is set where the number goes on. From
    the fourth number on, it is the difference to the number two places before. Raises ValueError for a character out
    of range and for an early end.
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
        # The number is a two's complement: the highest bit of its last five is its sign.
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its counts end within a number")
    return counts


# ------------------------------------------------------------ annotation files

# List of the file -> key of its items -> type. Keys that are not used are not checked.
_ItemTypes = dict[str, dict[str, type | tuple[type, ...]]]
_INSTANCE_TYPES: _ItemTypes = {
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
_CAPTION_TYPES: _ItemTypes = {"annotations": {"id": int, "image_id": int, "caption": str}}


def read_annotations(instances: Path, captions: Path) -> _Annotations:
    """Reads and joins both files of a split.

    Raises ProtocolError for broken JSON, a missing or wrong key, ids and names that occur twice, and ids that
    point nowhere.
    """
    data = _read(instances, _INSTANCE_TYPES)
    _refuse_duplicates(instances, "categories", "name", data["categories"])
    _refuse_duplicates(instances, "images", "file_name", data["images"])
    categories = {c["id"]: (c["name"], c["supercategory"]) for c in data["categories"]}
    images = {image["id"]: _image_annotations(image, instances) for image in data["images"]}

    # Instances. Images and categories that they do not name exist: only the other direction is an error.
    for annotation in data["annotations"]:
        if annotation["image_id"] not in images or annotation["category_id"] not in categories:
            raise ProtocolError(
                f"{instances}: annotation {annotation['id']} belongs to image {annotation['image_id']} and "
                f"category {annotation['category_id']}, which the file does not list both. {_HINT}"
            )
        annotation["iscrowd"] = _is_crowd(annotation, instances)
        images[annotation["image_id"]].annotations.append(annotation)

    # Captions.
    for caption in _read(captions, _CAPTION_TYPES)["annotations"]:
        if caption["image_id"] not in images:
            raise ProtocolError(
                f"{captions}: caption {caption['id']} belongs to image {caption['image_id']}, which "
                f"{instances.name} does not list. {_HINT}"
            )
        images[caption["image_id"]].captions.append((caption["id"], caption["caption"]))

    # Order by id, so that a file whose lists are shuffled gives the same cases.
    for image in images.values():
        image.annotations.sort(key=lambda annotation: int(annotation["id"]))
        image.captions.sort()
    return _Annotations(categories, {f"{number:012d}": images[number] for number in sorted(images)})


def _image_annotations(image: dict[str, Any], path: Path) -> _ImageAnnotations:
    name = image["file_name"]
    # A name with folders could lead out of the split's folder.
    if Path(name).name != name:
        raise ProtocolError(
            f"{path}: image {image['id']} has the file name {name!r}. Take the folders out of it: images lie "
            f"in the folder of their split. {_HINT}"
        )
    return _ImageAnnotations(name, image["width"], image["height"])


def _is_crowd(annotation: dict[str, Any], path: Path) -> bool:
    # COCO-ReM and LVIS leave ``iscrowd`` out. As their maintainers say, each annotation is then of a single object.
    crowd = annotation.get("iscrowd", 0)
    if not isinstance(crowd, int):
        raise ProtocolError(f"{path}: annotation {annotation['id']} has no proper 'iscrowd'. {_HINT}")
    # An object without any outline is somewhere in the image. As a crowd it is not edited, nor is the background.
    segmentation = annotation["segmentation"]
    return bool(crowd) or (isinstance(segmentation, list) and not any(map(_is_polygon, segmentation)))


def _read(path: Path, types: _ItemTypes) -> dict[str, list[dict[str, Any]]]:
    """The lists of a JSON file, each item checked for its keys and their types."""
    try:
        data = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ProtocolError(f"{path}: missing. {_HINT}") from None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error}). {_HINT}") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{path}: is not whole JSON ({error}). {_HINT}") from error
    for name, keys in types.items():
        items = data.get(name) if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise ProtocolError(f"{path}: has no list {name!r}. {_HINT}")
        for number, item in enumerate(items):
            _check_item(item, keys, f"{name}[{number}]", path)
        _refuse_duplicates(path, name, "id", items)
    return data  # type: ignore[no-any-return]


def _check_item(item: Any, keys: dict[str, type | tuple[type, ...]], place: str, path: Path) -> None:
    for key, kind in keys.items():
        if not isinstance(item, dict) or not isinstance(item.get(key), kind):
            raise ProtocolError(f"{path}: {place} has no proper {key!r}. {_HINT}")
        # JSON can escape half a character (a lone surrogate), which no file of a run could store.
        if isinstance(item[key], str):
            try:
                whole_text(item[key], f"{path}: {key!r} of {place}, id {item['id']},")
            except BrokenText as error:
                raise ProtocolError(str(error)) from None


def _refuse_duplicates(path: Path, name: str, key: str, items: list[dict[str, Any]]) -> None:
    """Raises ProtocolError where two items have the same value of a key: the later one would replace the other."""
    first: dict[Any, int] = {}
    for number, item in enumerate(items):
        if first.setdefault(item[key], number) != number:
            raise ProtocolError(
                f"{path}: {name}[{first[item[key]]}] and {name}[{number}] both have the {key} {item[key]!r}. Give "
                f"each its own (files that are merged must be numbered anew), or keep one. {_HINT}"
            )
