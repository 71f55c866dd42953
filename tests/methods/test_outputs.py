from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.edit import Claim, EditCase, Runtime, image_seed
from bench.executors import LocalExecutor, Task
from bench.registry import Registry
from bench.suite import ConfiguredMethod, configure_method
from methods.outputs import Outputs
from tests.methods.conftest import SIZE, picture, request


def case(name: str, seed: int = 0) -> EditCase:
    return EditCase(
        name, "attribute", request(seed), "source", (Claim("a", "b", "c"),), picture(99), {"t": "x"}
    )


def make(path: Path, **options: object) -> Outputs:
    return Outputs(Outputs.Options(path=str(path), **options), Runtime())  # type: ignore[arg-type]


def complaints(path: Path | str) -> list[str]:
    return Outputs.problems(Outputs.Options(path=str(path)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "edits"
    path.mkdir()
    for seed in range(3):
        picture(seed).save(path / f"case-{seed}.png")
    return path


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_folder_is_read_by_case(folder: Path) -> None:
    (folder / "notes.txt").write_text("not an image, and not asked for")
    method = make(folder)
    edited = method.edit_cases([case("case-2"), case("case-0")])
    assert [image.tobytes() for image in edited] == [picture(2).tobytes(), picture(0).tobytes()]
    assert {image.mode for image in edited} == {"RGB"}


def seeded(name: str, seed: int) -> EditCase:
    """A case as a run asks for it with one of the suite's seeds."""
    of_name = case(name)
    return replace(of_name, request=replace(of_name.request, seed=image_seed(seed, name)))


def test_each_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for seed in (0, -3, 12):
        (tmp_path / f"seed {seed}").mkdir()
        picture(seed + 5).save(tmp_path / f"seed {seed}" / "case-1.png")
    # Neither is a seed as a suite writes it.
    for name in ("seed 01", "seed x"):
        (tmp_path / name).mkdir()
    method = make(tmp_path / "seed {seed}")
    edited = method.edit_cases([seeded("case-1", seed) for seed in (12, 0, -3)])
    assert [image.tobytes() for image in edited] == [picture(k).tobytes() for k in (17, 5, 2)]
    with pytest.raises(ValueError, match="none for the seed of case 'case-1'"):
        method.edit_cases([seeded("case-1", 4)])
    assert Outputs.seed_problems(method.options, (0, 12)) == []
    (problem,) = Outputs.seed_problems(method.options, (0, 4))
    assert "none for seed 4" in problem
    before = Outputs.identity(method.options)
    picture(1).save(tmp_path / "seed 12" / "case-1.png")
    assert Outputs.identity(method.options) != before


def test_one_folder_is_refused_for_several_seeds(folder: Path) -> None:
    options = Outputs.Options(path=str(folder))
    assert Outputs.seed_problems(options, (7,)) == []
    (problem,) = Outputs.seed_problems(options, (0, 7))
    assert "edits/seed-{seed}" in problem


@pytest.mark.parametrize("path", ["{seed}/edits", "edits/{seed}-{seed}", "edits/{seed}"])
def test_a_path_of_seeds_that_leads_nowhere_is_a_problem(tmp_path: Path, path: str) -> None:
    (problem,) = complaints(tmp_path / path)
    assert "{seed}" in problem


def test_ids_with_dots_and_other_formats(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.b+c.PNG", format="PNG")
    picture(1).convert("RGBA").save(tmp_path / "d.webp", lossless=True)
    first, second = make(tmp_path).edit_cases([case("a.b+c"), case("d")])
    assert first.tobytes() == picture(0).tobytes()
    assert (second.mode, second.tobytes()) == ("RGB", picture(1).tobytes())


def test_a_jsonl_is_read_by_case(folder: Path) -> None:
    file = jsonl(
        folder.parent / "edits.jsonl",
        {"case": "x", "file": "edits/case-1.png", "model": "theirs"},
        "",
        {"case": "y", "file": "edits/case-0.png"},
    )
    edited = make(file).edit_cases([case("x"), case("y")])
    assert [image.tobytes() for image in edited] == [picture(1).tobytes(), picture(0).tobytes()]


def test_a_missing_case_names_the_file_that_is_expected(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no image for case 'case-7': expected .*case-7\.png"):
        make(folder).edit_cases([case("case-7")])
    file = jsonl(folder.parent / "edits.jsonl", {"case": "x", "file": "edits/case-1.png"})
    with pytest.raises(ValueError, match=re.escape('expected a line {"case": "case-7"')):
        make(file).edit_cases([case("case-7")])


def test_another_size_is_an_error_or_is_resized(tmp_path: Path) -> None:
    picture(0, (128, 128)).save(tmp_path / "big.png")
    with pytest.raises(ValueError, match=r"big\.png: 128x128 pixels, the source of case 'big' has 64x64"):
        make(tmp_path).edit_cases([case("big")])
    (resized,) = make(tmp_path, resize=True).edit_cases([case("big")])
    expected = picture(0, (128, 128)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    assert resized.tobytes() == expected.tobytes()


def test_another_size_is_told_before_anything_runs(folder: Path) -> None:
    picture(9, (96, 128)).save(folder / "case-1.png")
    options = Outputs.Options(path=str(folder))
    ids = ["case-0", "case-1", "case-2"]
    (problem,) = Outputs.case_problems(options, ids, (SIZE, SIZE))
    assert problem == (
        f"images of another size than the sources, 64x64: {folder / 'case-1.png'} (96x128). "
        "Export them at that size, or set resize: true"
    )
    # Images of no planned case do not matter, nor do sizes that are changed, nor a photo that lies on its side.
    assert Outputs.case_problems(options, ["case-0"], (SIZE, SIZE)) == []
    assert Outputs.case_problems(Outputs.Options(path=str(folder), resize=True), ids, (SIZE, SIZE)) == []
    assert Outputs.case_problems(options, ["case-1"], (128, 96)) == []


def test_a_truncated_image_is_named(folder: Path) -> None:
    data = (folder / "case-1.png").read_bytes()
    (folder / "case-1.png").write_bytes(data[: len(data) // 2])  # the header is whole: found when decoded
    assert complaints(folder) == []
    with pytest.raises(ValueError, match=r"case-1\.png"):
        make(folder).edit_cases([case("case-1")])


def test_unfit_places_are_told_before_anything_runs(tmp_path: Path, folder: Path) -> None:
    assert "option path is missing" in complaints("")[0]
    assert "neither a folder nor a .jsonl file" in complaints(tmp_path / "nowhere")[0]
    assert "cannot be read" in complaints(tmp_path / "nowhere.jsonl")[0]
    (tmp_path / "empty").mkdir()
    assert "holds no images" in complaints(tmp_path / "empty")[0]
    picture(0).save(folder / "case-0.jpg")
    assert "case-0.jpg and case-0.png would both be the edit of case 'case-0'" in complaints(folder)[0]
    with pytest.raises(ValueError, match=r"outputs: .*Keep one"):
        make(folder)


def test_a_transparent_outside_is_refused_not_laid_on_white(folder: Path) -> None:
    inside = Image.new("L", (SIZE, SIZE))
    inside.paste(255, (0, 0, SIZE // 2, SIZE))
    for seed in range(3):
        edit = picture(seed).convert("RGBA")
        edit.putalpha(255)
        edit.save(folder / f"case-{seed}.png")
    assert complaints(folder) == []
    assert make(folder).edit_cases([case("case-1")])[0].tobytes() == picture(1).tobytes()
    edit.putalpha(inside)
    edit.save(folder / "case-1.png")
    (problem,) = complaints(folder)
    assert re.search(
        r"case-1\.png: 50\.0% of its pixels are transparent.*Composite it onto its source image", problem
    )


def test_beyond_the_first_transparent_images_the_edit_itself_is_refused(tmp_path: Path) -> None:
    for number in range(17):
        edit = picture(number).convert("RGBA")
        edit.putalpha(255 if number < 16 else 0)
        edit.save(tmp_path / f"case-{number:02}.png")
    method = make(tmp_path)
    with pytest.raises(ValueError, match=r"case-16\.png: 100\.0% of its pixels are transparent"):
        method.edit_cases([case("case-16")])


def test_images_of_no_case_are_told_before_anything_runs(folder: Path) -> None:
    options = Outputs.Options(path=str(folder))
    assert Outputs.case_problems(options, ["case-9", "case-2"], (SIZE, SIZE)) == []
    (problem,) = Outputs.case_problems(options, ["a", "b"], (SIZE, SIZE))
    assert "none of its images (case-0, case-1, case-2) is named by one of the 2 cases (a, b)" in problem


def test_a_decompression_bomb_is_told_before_anything_runs(folder: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (folder / "case-1.png").write_bytes(bomb)
    (problem,) = complaints(folder)
    assert re.search(r"not images: .*case-1\.png", problem)


def test_a_jsonl_of_windows_and_of_odd_line_ends_is_read(folder: Path) -> None:
    odd = folder / "a\u2028b.png"
    picture(5).save(odd)
    rows = [{"case": "x", "file": f"edits/{odd.name}"}, {"case": "y", "file": "edits/case-0.png"}]
    file = folder.parent / "edits.jsonl"
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    edited = make(file).edit_cases([case("x"), case("y")])
    assert [image.tobytes() for image in edited] == [picture(5).tobytes(), picture(0).tobytes()]


def test_hidden_files_are_no_edits(folder: Path) -> None:
    (folder / "._case-0.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    assert complaints(folder) == []
    assert len(make(folder).files[None]) == 3


def test_what_only_looks_like_an_image_is_told_before_anything_runs(folder: Path) -> None:
    for number in range(5):
        (folder / f"bad-{number}.png").write_text("<html>404</html>")
    (problem,) = complaints(folder)
    assert "not images" in problem
    assert "bad-0.png" in problem
    assert "and 2 more" in problem


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"case": '], r"edits\.jsonl:1: not valid JSON"),
        ([{"case": "x", "file": "edits/case-0.png"}, {"case": "x"}], r"edits\.jsonl:2: expected"),
        ([["x", "y"]], r":1: expected"),
        ([{"case": "x", "file": 7}], r":1: expected"),
        (['{"case": "x \\ud83d", "file": "edits/case-0.png"}'], r":1: the case holds half a character"),
        (["[" * 100_000], r":1: not valid JSON"),
        ([{"case": "x", "file": "edits/case-0.png"}] * 2, r":2: case 'x' was named before"),
        ([{"case": "x", "file": "edits/case-9.png"}], r"not there: .*case-9\.png \(case 'x'\)"),
        ([], "names no images"),
        ([{"case": "x", "file": "../secret.png"}], "leaves the folder"),
        ([{"case": "x", "file": "edits/../../secret.png"}], "leaves the folder"),
        ([{"case": "x", "file": "..\\secret.png"}], "leaves the folder"),
        ([{"case": "x", "file": "/etc/secret.png"}], "leaves the folder"),
        ([{"case": "x", "file": "C:\\secret.png"}], "leaves the folder"),
    ],
)
def test_an_unfit_jsonl_names_its_line(folder: Path, rows: list[object], message: str) -> None:
    file = jsonl(folder.parent / "edits.jsonl", *rows)
    (problem,) = complaints(file)
    assert re.search(message, problem), problem


def test_the_images_are_its_identity(folder: Path, tmp_path: Path) -> None:
    def identity(path: Path) -> str:
        return Outputs.identity(Outputs.Options(path=str(path)))["sha256"]

    first = identity(folder)
    file = jsonl(
        tmp_path / "edits.jsonl", *({"case": f"case-{i}", "file": f"edits/case-{i}.png"} for i in (2, 0, 1))
    )
    assert identity(file) == first  # the same images for the same cases
    picture(7).save(folder / "case-1.png")
    assert identity(folder) != first


# --- inside the engine ---------------------------------------------------------------------------------

NAMES = Registry("method", {"outputs": "methods.outputs:Outputs"}, "")


def run(
    configured: ConfiguredMethod, cases: list[EditCase]
) -> list[tuple[str, Image.Image | None, str | None]]:
    session = LocalExecutor(batch_size=3).open(configured, print)
    tasks = [Task(one.id, 0, lambda one=one: one) for one in cases]  # type: ignore[misc]
    try:
        return [(o.case_id, o.image, o.error) for batch in session.edits(tasks) for o in batch]
    finally:
        session.close()


def test_a_missing_case_spoils_no_other(folder: Path) -> None:
    configured = configure_method("outputs", NAMES, options={"path": str(folder)})
    assert configured.problems == ()
    outcomes = run(configured, [case("case-0"), case("case-7"), case("case-2")])
    assert [name for name, image, _ in outcomes if image is not None] == ["case-0", "case-2"]
    assert outcomes[1][2] is not None
    assert "case-7.png" in outcomes[1][2]
    image = outcomes[2][1]
    assert image is not None
    assert np.array_equal(np.asarray(image), np.asarray(picture(2)))


def test_other_images_are_another_method(folder: Path) -> None:
    before = configure_method("outputs", NAMES, options={"path": str(folder)}).spec.digest
    assert configure_method("outputs", NAMES, options={"path": str(folder)}).spec.digest == before
    picture(9).save(folder / "case-0.png")
    assert configure_method("outputs", NAMES, options={"path": str(folder)}).spec.digest != before


def test_it_is_shown_the_case_without_the_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[EditCase] = []
    read = Outputs.edit_cases

    def spy(self: Outputs, cases: list[EditCase]) -> list[Image.Image]:
        inputs.extend(cases)
        return read(self, cases)

    monkeypatch.setattr(Outputs, "edit_cases", spy)
    edit_request = case("case-0")
    run(configure_method("outputs", NAMES, options={"path": str(folder)}), [edit_request])
    (visible_cases,) = inputs
    assert (visible_cases.id, visible_cases.category, visible_cases.source_id) == (
        edit_request.id,
        edit_request.category,
        edit_request.source_id,
    )
    assert (visible_cases.truth, visible_cases.claims, dict(visible_cases.tags)) == (None, (), {})
    assert visible_cases.request.target_prompt == edit_request.request.target_prompt
