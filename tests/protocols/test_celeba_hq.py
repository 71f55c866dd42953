from __future__ import annotations

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
from protocols.celeba_hq import CelebAHQ, read_attributes
from protocols.selection import ProtocolError, check_case

MakeData = Callable[..., Path]
ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION = "list_eval_partition.txt"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_celeba: MakeData) -> Path:
    # Two folders of masks: 2000 images go into each.
    test = [*range(1980, 2000), *range(2000, 2020)]
    return make_celeba(tmp_path_factory.mktemp("celeba"), test=test, train=range(10))


@pytest.fixture(scope="module")
def cases(root: Path) -> list[EditCase]:
    return list(protocol(root).cases())


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "copy")


def protocol(root: Path, **options: Any) -> CelebAHQ:
    values = {"root": str(root), "canvas": 64, "cases_per_category": 12, **options}
    return CelebAHQ(parse_options(CelebAHQ, values))


def test_cases_of_the_test_partition_in_all_categories(cases: list[EditCase]) -> None:
    assert Counter(case.category for case in cases) == dict.fromkeys(CATEGORIES, 12)
    assert [case.category for case in cases] == [name for name in CATEGORIES for _ in range(12)]
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        check_case(case)
        assert 1980 <= int(case.source_id) < 2020
        assert len(case.source_id) == 5
        assert case.request.source.size == case.request.mask.size == (64, 64)


def test_kinds_are_balanced_and_sources_are_fresh_within_a_category(cases: list[EditCase]) -> None:
    for category, share in (("attribute", 4), ("replacement", 4), ("background", 2)):
        kinds = Counter(
            case.tags["target" if category == "background" else "kind"]
            for case in cases
            if case.category == category
        )
        assert set(kinds.values()) == {share}, (category, kinds)
    sizes = Counter(len(case.request.regions) for case in cases if case.category == "multi_object")
    assert sizes == {2: 6, 3: 6}
    for category in CATEGORIES:
        sources = Counter(case.source_id for case in cases if case.category == category)
        assert max(sources.values()) == 1, category


def test_image_and_masks_go_to_one_canvas(root: Path) -> None:
    record = protocol(root).record("01980")
    assert record.image.size == (64, 64)
    file = Image.open(root / "CelebAMask-HQ-mask-anno" / "0" / "01980_hair.png")
    assert np.array_equal(record.parts["hair"], np.asarray(file) == 255)
    assert protocol(root).record("02000").parts.keys() == record.parts.keys()
    grown = protocol(root, canvas=256).record("01980")
    assert grown.image.size == (256, 256)
    assert np.array_equal(grown.parts["hair"], np.kron(record.parts["hair"], np.ones((4, 4), bool)))
    assert "hat" not in record.parts


def test_attributes_are_read_by_name(root: Path) -> None:
    facts = protocol(root).attributes_of("01983")
    assert facts["Male"] is False
    assert facts["No_Beard"] is True
    assert len(facts) == 40
    names, rows = read_attributes(root / ATTRIBUTES)
    assert rows["01983"][names.index("Male")] == np.False_
    assert len(rows) == 50


def test_cases_can_be_sliced_and_built_again(root: Path, cases: list[EditCase]) -> None:
    again = protocol(root).cases()
    assert [case.id for case in again[3:9]] == [cases[i].id for i in range(3, 9)]
    assert cases[-1].request.mask.tobytes() == again[len(again) - 1].request.mask.tobytes()
    assert cases[5].request.source.tobytes() == again[5].request.source.tobytes()


def test_nobody_gets_what_they_have(root: Path) -> None:
    of = protocol(root, cases_per_category=40)
    cases = list(of.cases())
    names = {"eyeglasses": "Eyeglasses", "earrings": "Wearing_Earrings", "lipstick": "Wearing_Lipstick"}
    for case in cases:
        facts = of.attributes_of(case.source_id)
        for kind in case.tags["kind"].split("+"):
            assert not facts.get(names.get(kind, ""), False)
            assert not (kind == "lipstick" and facts["Male"])


def test_adding_images_does_not_reshuffle(
    cases: list[EditCase], tmp_path: Path, make_celeba: MakeData
) -> None:
    old = {case.id: case for case in cases}
    more = make_celeba(tmp_path / "more", test=range(1980, 2032))
    new = {case.id: case for case in protocol(more).cases()}
    stayed = {id for id, case in new.items() if int(case.source_id) < 2020}
    assert stayed <= set(old)
    assert len(stayed) > 24
    order = [id for id in old if id in stayed]
    assert [id for id in new if id in stayed] == order


def test_the_reference_is_the_train_partition(root: Path) -> None:
    of = protocol(root)
    images = list(of.reference())
    assert len(images) == 10
    assert all(image.size == (64, 64) and image.mode == "RGB" for image in images)
    fewer = list(protocol(root, reference_count=4).reference())
    assert [image.tobytes() for image in fewer] == [image.tobytes() for image in images[:4]]
    assert [image.tobytes() for image in of.reference()] == [image.tobytes() for image in images]


def test_a_reference_of_the_same_partition_leaves_the_sources_out(root: Path) -> None:
    of = protocol(root, reference_partition="test", cases_per_category=3)
    sources = {case.source_id for case in of.cases()}
    assert len(list(of.reference())) == 40 - len(sources)


def test_digest_and_version_are_pinned(tmp_path: Path, make_celeba: MakeData) -> None:
    root = make_celeba(tmp_path / "pinned", test=range(24), image=64, mask=64, lossless=True)
    of = protocol(root, cases_per_category=6)
    assert (of.name, of.version, of.canvas) == ("celeba_hq", "1", 64)
    assert of.digest == "c267d0742015"
    assert protocol(root, cases_per_category=6).digest == of.digest
    assert protocol(root, cases_per_category=5).digest != of.digest
    moved = shutil.move(root, tmp_path / "elsewhere")
    assert protocol(Path(moved), cases_per_category=6).digest == of.digest


def test_the_digest_sees_pixels(tmp_path: Path, make_celeba: MakeData) -> None:
    root = make_celeba(tmp_path / "pixels", test=range(8), image=64, mask=64, lossless=True)
    options = {"cases_per_category": 2}
    before = protocol(root, **options).digest
    source = protocol(root, **options).cases()[0].source_id
    path = root / "CelebA-HQ-img" / f"{int(source)}.jpg"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path, "PNG")
    assert protocol(root, **options).digest != before


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["CelebA-HQ-img", "CelebAMask-HQ-mask-anno", ATTRIBUTES, MAPPING, PARTITION])
def test_a_missing_file_is_named_with_its_origin(copy: Path, name: str) -> None:
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = CelebAHQ.Options(root=str(copy))
    assert len(CelebAHQ.problems(options)) == 1
    with pytest.raises(ProtocolError, match=r"missing\. Expected .* Get .*CelebA") as caught:
        CelebAHQ(options)
    assert str(path) in str(caught.value)
    assert str(caught.value) == CelebAHQ.problems(options)[0]


def test_problems_of_a_folder_that_is_not_there(tmp_path: Path, root: Path) -> None:
    (problem,) = CelebAHQ.problems(CelebAHQ.Options(root=str(tmp_path / "nowhere")))
    assert f"{tmp_path / 'nowhere'}: missing. Expected a folder with CelebA-HQ-img, " in problem
    (tmp_path / "empty").mkdir()
    assert len(CelebAHQ.problems(CelebAHQ.Options(root=str(tmp_path / "empty")))) == 5
    assert CelebAHQ.problems(CelebAHQ.Options(root=str(root))) == []


def edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ATTRIBUTES, lambda lines: lines[:-3], "says 50 images, but 47 follow"),
        (ATTRIBUTES, lambda lines: ["49", *lines[1:]], "says 49 images, but 50 follow"),
        (ATTRIBUTES, lambda lines: lines[1:], "expected the number of images on line 1"),
        (ATTRIBUTES, lambda lines: [], "expected the number of images on line 1"),
        (ATTRIBUTES, lambda lines: [*lines[:9], lines[9][:40], *lines[10:]], "line 10 is not"),
        (ATTRIBUTES, lambda lines: [*lines[:9], lines[9].replace("-1", "0"), *lines[10:]], "line 10 is not"),
        (
            ATTRIBUTES,
            lambda lines: [lines[0], lines[1].replace("Male", "M"), *lines[2:]],
            "does not name Male",
        ),
        # The last of two would silently win.
        (
            ATTRIBUTES,
            lambda lines: ["51", *lines[1:], f"00{lines[9]}"],
            "line 53 is a second row of image 7. Keep one",
        ),
        (
            ATTRIBUTES,
            lambda lines: [lines[0], lines[1].replace("Young", "Male"), *lines[2:]],
            "line 2 names Male twice",
        ),
        (MAPPING, lambda lines: [*lines, lines[4]], "line 52 is a second row of image 3. Keep one"),
        (
            PARTITION,
            lambda lines: [*lines, lines[3].replace(" 0", " 2")],
            "line 51 is a second row of 001004.jpg",
        ),
        (MAPPING, lambda lines: lines[1:], "expected the header"),
        (MAPPING, lambda lines: lines[:-1], "no row for image 2019"),
        (MAPPING, lambda lines: [*lines, "what is this"], "line 52 is not"),
        (PARTITION, lambda lines: lines[:-1], "no row for 003020.jpg, which is image 2019"),
        (PARTITION, lambda lines: [lines[0].replace(" 0", " 7"), *lines[1:]], "line 1 is not"),
    ],
)
def test_broken_annotations_are_one_clear_error(
    copy: Path, name: str, change: Callable[[list[str]], list[str]], message: str
) -> None:
    edit_lines(copy / name, change)
    with pytest.raises(ProtocolError, match=message) as caught:
        protocol(copy).cases()
    assert str(copy / name) in str(caught.value)
    assert "Get " in str(caught.value)


@pytest.mark.parametrize("name", [ATTRIBUTES, MAPPING, PARTITION])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(copy: Path, name: str) -> None:
    before = [case.id for case in protocol(copy).cases()]
    text = (copy / name).read_text()
    (copy / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert [case.id for case in protocol(copy).cases()] == before


def test_missing_reference_images_are_told_with_the_plan(copy: Path) -> None:
    assert protocol(copy).digest  # no warning
    of = protocol(copy)
    for path in of.reference_files()[:2]:
        path.unlink()
    with pytest.warns(UserWarning, match=r"2 of \d+ reference images cannot be read, such as .*\.jpg"):
        assert of.digest


def test_annotations_that_are_no_text(copy: Path) -> None:
    (copy / ATTRIBUTES).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ProtocolError, match="cannot be read as text"):
        protocol(copy).cases()


def spoil(path: Path, size: tuple[int, int] | None) -> None:
    if size is None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        Image.new("L" if path.suffix == ".png" else "RGB", size, 255).save(path)


@pytest.mark.parametrize(
    ("file", "size", "message"),
    [
        ("CelebAMask-HQ-mask-anno/0/01980_hair.png", (48, 48), "hair.png: the mask is 48x48"),
        ("CelebAMask-HQ-mask-anno/0/01980_skin.png", (64, 48), "skin.png: the mask is 64x48"),
        ("CelebAMask-HQ-mask-anno/0/01980_nose.png", None, "nose.png"),
        ("CelebA-HQ-img/1980.jpg", None, "1980.jpg"),
        ("CelebA-HQ-img/1980.jpg", (128, 100), "128x100. Expected a square"),
    ],
)
def test_broken_images_are_one_clear_error(
    copy: Path, file: str, size: tuple[int, int] | None, message: str
) -> None:
    spoil(copy / file, size)
    with pytest.raises(ProtocolError, match=message) as caught:
        protocol(copy).record("01980")
    assert "CelebAMask-HQ" in str(caught.value)


def test_missing_images_and_masks_are_one_clear_error(copy: Path) -> None:
    for path in (copy / "CelebAMask-HQ-mask-anno" / "0").glob("01980_*"):
        path.unlink()
    with pytest.raises(ProtocolError, match="no part masks 01980"):
        protocol(copy).record("01980")
    (copy / "CelebA-HQ-img" / "1981.jpg").unlink()
    with pytest.raises(ProtocolError, match=r"1981\.jpg: no such file"):
        protocol(copy).record("01981")


def test_a_data_set_without_any_edit_is_an_error(tmp_path: Path, make_celeba: MakeData) -> None:
    root = make_celeba(tmp_path / "none", test=[], train=[1, 2])
    with (
        pytest.warns(UserWarning, match="0 of 12"),
        pytest.raises(ProtocolError, match="no edit can be made"),
    ):
        protocol(root).cases()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"canvas": 8}, "canvas is 8"),
        ({"canvas": 100_000}, "canvas is 100000 px; it must be at least 32 and at most 4096"),
        ({"cases_per_category": 0}, "cases_per_category is 0"),
        ({"reference_count": 0}, "reference_count is 0"),
        ({"partition": "tset"}, "partition"),
        ({"partitoin": "test"}, "Did you mean 'partition'"),
        ({"backgrounds": ["moon"]}, "moon"),
        ({"canvas": "64"}, "canvas"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options(CelebAHQ, options)
