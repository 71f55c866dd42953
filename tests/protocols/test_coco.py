from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import CATEGORIES, EditCase
from bench.registry import parse_options
from protocols.coco import Coco
from protocols.selection import ProtocolError, check_case

MakeData = Callable[..., Path]
INSTANCES = "annotations/instances_val2017.json"
CAPTIONS = "annotations/captions_val2017.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_coco: MakeData) -> Path:
    return make_coco(tmp_path_factory.mktemp("coco"), range(100, 140))


@pytest.fixture(scope="module")
def cases(root: Path) -> list[EditCase]:
    return list(protocol(root).cases())


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "copy")


def protocol(root: Path, **options: Any) -> Coco:
    values = {"root": str(root), "canvas": 64, "cases_per_category": 12, **options}
    return Coco(parse_options(Coco, values))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_cases_in_all_categories(cases: list[EditCase]) -> None:
    assert Counter(case.category for case in cases) == dict.fromkeys(CATEGORIES, 12)
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        check_case(case)
        assert len(case.source_id) == 12
        assert case.request.source.size == case.request.mask.size == (64, 64)
    kinds = Counter(case.tags["kind"] for case in cases if case.category == "attribute")
    assert kinds == {"color": 6, "material": 6}
    targets = Counter(case.tags["target"] for case in cases if case.category == "background")
    assert set(targets.values()) == {2}
    for category in ("attribute", "replacement", "background", "multi_object"):
        sources = Counter(case.source_id for case in cases if case.category == category)
        assert max(sources.values()) == 1, category


def test_cases_of_one_source_share_its_pixels(cases: list[EditCase]) -> None:
    pixels: dict[str, bytes] = {}
    for case in cases:
        data = case.request.source.tobytes()
        assert pixels.setdefault(case.source_id, data) == data
    assert len(pixels) < len(cases)


def test_polygons_and_run_lengths_are_decoded(root: Path) -> None:
    record = protocol(root).record("000000000104")
    data = json.loads((root / INSTANCES).read_text())
    for instance in record.instances:
        x, y, w, h = next(a["bbox"] for a in data["annotations"] if str(a["id"]) == instance.id)
        expected = np.zeros((80, 96), bool)
        expected[y : y + h, x : x + w] = True
        assert np.array_equal(instance.mask, expected)
    assert [(i.category, i.supercategory) for i in record.instances] == [
        ("car", "vehicle"),
        ("cup", "kitchen"),
    ]
    assert record.captions[0] == "A car next to a cup."


def test_compressed_run_lengths_are_decoded(copy: Path) -> None:
    from pycocotools import mask as coder

    expected = np.zeros((80, 96), np.uint8)
    expected[10:40, 20:70] = 1
    code = coder.encode(np.asfortranarray(expected))
    code["counts"] = code["counts"].decode()
    change_json(copy / INSTANCES, lambda data: data["annotations"][0].update(segmentation=code))
    record = protocol(copy).record("000000000100")
    assert np.array_equal(record.instances[0].mask, expected.astype(bool))


def test_replacements_are_of_the_annotation_files_own_supercategory(
    root: Path, cases: list[EditCase]
) -> None:
    groups = {c["name"]: c["supercategory"] for c in json.loads((root / INSTANCES).read_text())["categories"]}
    for case in cases:
        if case.category == "replacement":
            claim = case.claims[0]
            assert groups[claim.before] == groups[claim.after]
            assert claim.before != claim.after


@pytest.mark.filterwarnings("ignore:coco")
def test_an_edited_instance_has_its_share_of_the_crop(root: Path) -> None:
    wide = protocol(root, min_area=0.2, max_area=0.3)  # the boxes hold 528 of the crop's 6400 pixels
    with (
        pytest.warns(UserWarning, match="0 of 12 cases of the category attribute"),
        pytest.raises(ProtocolError),
    ):
        wide.cases()


def test_crowds_are_left_alone(copy: Path) -> None:
    def crowd(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] != 139)

    change_json(copy / INSTANCES, crowd)
    with pytest.warns(UserWarning, match="the data in .* has no more"):
        cases = protocol(copy).cases()
    assert {case.source_id for case in cases} == {"000000000139"}


def test_adding_images_does_not_reshuffle(cases: list[EditCase], tmp_path: Path, make_coco: MakeData) -> None:
    old = {case.id: case for case in cases}
    new = {case.id: case for case in protocol(make_coco(tmp_path / "more", range(100, 156))).cases()}
    stayed = {id for id, case in new.items() if int(case.source_id) < 140}
    assert stayed <= set(old)
    assert len(stayed) > 24
    assert [id for id in new if id in stayed] == [id for id in old if id in stayed]


def test_images_are_decoded_only_as_needed(root: Path) -> None:
    of = protocol(root, cases_per_category=2)
    decoded = []
    decode = of.decode
    of.decode = lambda source: decoded.append(source) or decode(source)  # type: ignore[method-assign, func-returns-value]
    of.cases()
    assert len(set(decoded)) <= 8


def test_the_reference_is_what_no_case_is_made_of(root: Path) -> None:
    of = protocol(root, cases_per_category=3)
    sources = {case.source_id for case in of.cases()}
    images = list(of.reference())
    assert len(images) == 40 - len(sources)
    assert all(image.size == (64, 64) and image.mode == "RGB" for image in images)
    assert [image.tobytes() for image in of.reference()] == [image.tobytes() for image in images]
    first = next(protocol(root, cases_per_category=3, reference_count=1).reference())
    assert first.tobytes() == images[0].tobytes()


def test_a_reference_of_its_own(copy: Path, make_coco: MakeData, tmp_path: Path) -> None:
    other = make_coco(tmp_path / "other", range(5), split="train2017", lossless=True)
    shutil.copytree(other / "train2017", copy / "train2017")
    images = list(protocol(copy, reference_split="train2017").reference())
    assert len(images) == 5
    expected = [
        Image.open(path).crop((8, 0, 88, 80)).resize((64, 64), Image.Resampling.LANCZOS).tobytes()
        for path in (other / "train2017").iterdir()
    ]
    assert sorted(image.tobytes() for image in images) == sorted(expected)


def test_a_reference_folder_is_used_whole_whatever_its_suffixes(copy: Path) -> None:
    folder = copy / "real"
    folder.mkdir()
    names = [
        "0.jpg",
        "1.JPG",
        "2.jpeg",
        "3.JPEG",
        "4.png",
        "5.PNG",
        "6.webp",
        "7.tif",
        "8.TIFF",
        "9.bmp",
        "0.JPG",
    ]
    for number, name in enumerate(names):
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(name[2:].lower(), name[2:].lower())
        Image.new("RGB", (90, 80), (20 * number, 90, 120)).save(folder / name, kind)
    (folder / "._0.jpg").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / "list.txt").write_text("0.jpg")
    of = protocol(copy, reference_split="real")
    assert len({image.getpixel((9, 9)) for image in of.reference()}) == len(names)
    assert len(list(protocol(copy, reference_split="real", reference_count=4).reference())) == 4
    assert Coco.problems(of.options) == []


def test_a_reference_folder_without_images_is_told_before_any_edit(copy: Path) -> None:
    folder = copy / "real"
    folder.mkdir()
    (folder / "._0.jpg").write_bytes(b"Mac OS X")
    (folder / "deeper").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "deeper" / "0.jpg")
    (problem,) = Coco.problems(Coco.Options(root=str(copy), reference_split="real"))
    assert re.search(r"real: holds no images .*\.jpg.* Put the reference images into it", problem)
    folder.joinpath("deeper/0.jpg").rename(copy / "file")
    (problem,) = Coco.problems(Coco.Options(root=str(copy), reference_split="file"))
    assert "file: cannot be listed (Not a directory)" in problem


def test_reference_images_that_cannot_be_read_are_told_with_the_plan(copy: Path) -> None:
    folder = copy / "real"
    folder.mkdir()
    for number in range(4):
        Image.effect_noise((80, 70), 50).convert("RGB").save(folder / f"{number}.jpg")
    assert protocol(copy, reference_split="real").digest  # no warning
    for number, end in ((1, 100), (2, -600)):  # within the header, and within the pixels
        (folder / f"{number}.jpg").write_bytes((folder / f"{number}.jpg").read_bytes()[:end])
    of = protocol(copy, reference_split="real")
    with pytest.warns(UserWarning, match=r"2 of 4 reference images cannot be read, such as .*[12]\.jpg"):
        assert of.digest


def test_digest_and_version_are_pinned(tmp_path: Path, make_coco: MakeData) -> None:
    root = make_coco(tmp_path / "pinned", range(24), lossless=True, size=(80, 80))
    of = protocol(root, canvas=80, cases_per_category=6)
    assert (of.name, of.version, of.canvas) == ("coco", "2", 80)
    assert of.digest == "b572d5a953e4"
    assert protocol(root, canvas=80, cases_per_category=6, materials=[]).digest != of.digest


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["val2017", INSTANCES, CAPTIONS])
def test_a_missing_file_is_named_with_its_origin(copy: Path, name: str) -> None:
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = Coco.Options(root=str(copy))
    with pytest.raises(ProtocolError, match=r"missing\. Expected .* Get .*COCO 2017") as caught:
        Coco(options)
    assert str(path) in str(caught.value)
    assert Coco.problems(options) == [str(caught.value)]


def test_a_missing_reference_folder_is_named(root: Path) -> None:
    options = Coco.Options(root=str(root), reference_split="train2017")
    assert len(Coco.problems(options)) == 1
    assert "train2017: missing" in Coco.problems(options)[0]


@pytest.mark.parametrize("name", [INSTANCES, CAPTIONS])
def test_truncated_json(copy: Path, name: str) -> None:
    path = copy / name
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ProtocolError, match="is not whole JSON") as caught:
        protocol(copy).cases()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (INSTANCES, lambda d: d.pop("categories"), "has no list 'categories'"),
        (
            INSTANCES,
            lambda d: d["annotations"][3].update(iscrowd="no"),
            r"annotation 1011 has no proper 'iscrowd'",
        ),
        (
            INSTANCES,
            lambda d: d["annotations"][3].update(area="big"),
            r"annotations\[3\] has no proper 'area'",
        ),
        (INSTANCES, lambda d: d["images"][0].pop("file_name"), r"images\[0\] has no proper 'file_name'"),
        (INSTANCES, lambda d: d["images"][0].update(file_name="../1.jpg"), "file name '../1.jpg'"),
        (INSTANCES, lambda d: d["categories"][0].pop("supercategory"), r"categories\[0\] has no proper"),
        (INSTANCES, lambda d: d["annotations"][0].update(image_id=1), "belongs to image 1 and"),
        (INSTANCES, lambda d: d["annotations"][0].update(category_id=999), "category 999"),
        (CAPTIONS, lambda d: d["annotations"][0].pop("caption"), r"annotations\[0\] has no proper 'caption'"),
        (CAPTIONS, lambda d: d["annotations"][0].update(image_id=1), "belongs to image 1, which"),
        (CAPTIONS, lambda d: d.pop("annotations"), "has no list 'annotations'"),
        # The last of two would silently win.
        (
            INSTANCES,
            lambda d: d["images"].append({**d["images"][0], "file_name": "other.jpg"}),
            r"images\[0\] and images\[40\] both have the id 100\.",
        ),
        (
            INSTANCES,
            lambda d: d["images"].append({**d["images"][0], "id": 7}),
            r"images\[0\] and images\[40\] both have the file_name '000000000100.jpg'",
        ),
        (
            INSTANCES,
            lambda d: d["annotations"].append({**d["annotations"][1], "image_id": 102}),
            r"annotations\[1\] and annotations\[80\] both have the id 1001\.",
        ),
        (
            INSTANCES,
            lambda d: d["categories"].append({**d["categories"][0], "name": "lorry"}),
            r"categories\[0\] and categories\[12\] both have the id 1\.",
        ),
        (
            INSTANCES,
            lambda d: d["categories"].append({**d["categories"][1], "id": 99}),
            r"categories\[1\] and categories\[12\] both have the name 'car'",
        ),
        (
            CAPTIONS,
            lambda d: d["annotations"].append(d["annotations"][0]),
            r"annotations\[0\] and annotations\[80\] both have the id 10000\.",
        ),
    ],
)
def test_broken_annotations_are_one_clear_error(
    copy: Path, name: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_json(copy / name, change)
    with pytest.raises(ProtocolError, match=message) as caught:
        protocol(copy).cases()
    assert str(copy / name) in str(caught.value)
    assert "COCO 2017" in str(caught.value)


SIZE = [80, 96]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": SIZE}, "its counts are neither"),
        ({"counts": [7680]}, r"its size is None\. Expected \[80, 96\]"),
        ({"size": [96, 80], "counts": [7680]}, r"its size is \[96, 80\]"),
        ({"size": [10**9, 10**9], "counts": [100]}, r"its size is \[1000000000"),
        # What pycocotools would fill from memory that nobody wrote.
        ({"size": SIZE, "counts": [100, 5]}, r"its counts sum to 105\. Expected 80 \* 96 = 7680"),
        ({"size": SIZE, "counts": [7680, 5]}, "its counts sum to 7685"),
        ({"size": SIZE, "counts": [-5, 7685]}, "its counts are neither"),
        ({"size": SIZE, "counts": ["7680"]}, "its counts are neither"),
        ({"size": SIZE, "counts": []}, "its counts sum to 0"),
        ({"size": SIZE, "counts": ""}, "its counts sum to 0"),
        ({"size": SIZE, "counts": "PP"}, "its counts end within a number"),
        ({"size": SIZE, "counts": "\u00e9"}, "its counts hold"),
        ({"size": SIZE, "counts": "5"}, "its counts sum to 5"),
        ([1.0, 2.0, 30.0, 2.0, 30.0, 40.0], "expected a list of polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon is a list of x, y"),
        ([[1, 2, 3, 4, 5, None]], "x, y|NoneType|leaves"),
        ([[1, 2, 3, 4, 5, float("nan")]], "leaves the image of 96x80"),
        ([[1, 2, 3, 4, 5, 1e12]], "leaves the image of 96x80"),
        ([[1, 2, 3, 4, 5, 10**400]], "too large"),
    ],
)
def test_segmentations_are_checked_before_they_are_decoded(
    copy: Path, segmentation: object, message: str
) -> None:
    change_json(copy / INSTANCES, lambda data: data["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(ProtocolError, match=f"annotation 1000 cannot be decoded: .*{message}"):
        protocol(copy).record("000000000100")


def test_run_lengths_of_any_mask_are_those_of_pycocotools(copy: Path) -> None:
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    codes, masks = [], []
    for share in (0.0, 0.001, 0.02, 0.5, 0.98, 1.0):
        masks.append(rng.random((80, 96)) < share)
        code = coder.encode(np.asfortranarray(masks[-1].astype(np.uint8)))
        codes.append({"size": code["size"], "counts": code["counts"].decode()})

    def change(data: dict[str, Any]) -> None:
        for annotation, code in zip(data["annotations"], codes, strict=False):
            annotation.update(segmentation=code, image_id=100)

    change_json(copy / INSTANCES, change)
    instances = protocol(copy).record("000000000100").instances
    assert len(instances) == len(masks)
    for instance, mask in zip(instances, masks, strict=True):
        assert np.array_equal(instance.mask, mask)


def test_without_iscrowd_an_annotation_is_of_one_object(copy: Path, cases: list[EditCase]) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            del annotation["iscrowd"]

    change_json(copy / INSTANCES, change)
    assert [case.id for case in protocol(copy).cases()] == [case.id for case in cases]


@pytest.mark.parametrize("outline", [[], [[3.0, 4.0]], [[3.0, 4.0, 20.0, 30.0]]])
def test_an_object_without_an_outline_is_left_alone(copy: Path, outline: list[list[float]]) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            if annotation["image_id"] != 139 and annotation["id"] % 10 == 0:
                annotation["segmentation"] = outline

    change_json(copy / INSTANCES, change)
    of = protocol(copy)
    first, second = of.record("000000000100").instances
    assert not first.mask.any()
    assert first.crowd
    assert second.mask.any()
    with pytest.warns(UserWarning, match="has no more"):
        cases = of.cases()
    sources = {case.source_id for case in cases if case.category in ("background", "multi_object")}
    assert sources == {"000000000139"}
    assert not any("car" in case.id.split("-") for case in cases if case.source_id == "000000000100")


def test_a_speck_beside_a_polygon_encloses_nothing(copy: Path) -> None:
    before = protocol(copy).record("000000000100").instances[0]
    change_json(copy / INSTANCES, lambda data: data["annotations"][0]["segmentation"].append([3.0, 4.0]))
    after = protocol(copy).record("000000000100").instances[0]
    assert not after.crowd
    assert np.array_equal(after.mask, before.mask)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            CAPTIONS,
            lambda d: d["annotations"][3].update(caption="A car \ud83d"),
            r"'caption' of annotations\[3\], id 10101, holds half a character .*at character 7",
        ),
        (INSTANCES, lambda d: d["categories"][0].update(name="\udc00"), r"'name' of categories\[0\], id 1,"),
    ],
)
def test_half_an_emoji_is_refused_by_its_place(
    copy: Path, name: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_json(copy / name, change)
    with pytest.raises(ProtocolError, match=message) as caught:
        protocol(copy).cases()
    assert str(caught.value).isascii()


def test_deeply_nested_json_is_one_clear_error(copy: Path) -> None:
    (copy / CAPTIONS).write_text("[" * 100_000)
    with pytest.raises(ProtocolError, match="is not whole JSON"):
        protocol(copy).cases()


def test_broken_images_are_one_clear_error(copy: Path) -> None:
    path = copy / "val2017" / "000000000100.jpg"
    Image.new("RGB", (50, 40)).save(path)
    with pytest.raises(ProtocolError, match=r"000000000100\.jpg: the image is 50x40\. Expected 96x80"):
        protocol(copy).record("000000000100")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ProtocolError, match=r"000000000100\.jpg"):
        protocol(copy).record("000000000100")
    path.unlink()
    with pytest.raises(ProtocolError, match="no such file"):
        protocol(copy).record("000000000100")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colors": ["red", "mauve", "blue"]}, "mauve"),
        ({"colors": ["red"]}, "at least three"),
        ({"materials": ["cheese"]}, "cheese"),
        ({"min_area": 0.5}, "min_area is 0.5"),
        ({"split": "../secret"}, "split is"),
        ({"split": ".."}, "split is"),
        ({"split": "."}, "split is"),
        ({"reference_split": ".."}, "split is"),
        ({"spilt": "val2017"}, "Did you mean 'split'"),
        ({"backgrounds": []}, "choose from"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options(Coco, options)
