from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.case_rows import CaseError, check_case
from bench.casefile import CaseFile, protocol_info, provided_fields, write_cases
from bench.edit import REQUEST_FIELDS, Claim, EditCase, Region, ScoredAreas
from bench.images import from_array, to_array
from tests.bench.fakes import Fakes, make_case, noise, square

INFO = protocol_info(Fakes(Fakes.Options()))


def list_cases(folder: Path) -> list[EditCase]:
    return list(CaseFile(folder))


def with_request(case: EditCase, **changes: Any) -> EditCase:
    return replace(case, request=replace(case.request, **changes))


def same_image(a: Image.Image | None, b: Image.Image | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.mode == b.mode and a.size == b.size and bool((to_array(a) == to_array(b)).all())


def assert_same(a: EditCase, b: EditCase) -> None:
    for name in ("id", "category", "source_id", "claims", "tags"):
        assert getattr(a, name) == getattr(b, name), name
    assert same_image(a.truth, b.truth)
    for name in REQUEST_FIELDS - {"source", "mask", "regions"} | {"seed"}:
        assert getattr(a.request, name) == getattr(b.request, name), name
    assert same_image(a.request.source, b.request.source)
    assert same_image(a.request.mask, b.request.mask)
    assert len(a.request.regions) == len(b.request.regions)
    for one, other in zip(a.request.regions, b.request.regions, strict=True):
        assert same_image(one.mask, other.mask)
        assert (one.prompt, one.words) == (other.prompt, other.words)


def test_cases_come_back_as_they_were_written(tmp_path: Path) -> None:
    cases = [make_case(i, truth=i != 5) for i in range(8)]
    # The characters that a careless reader would take for the end of a line.
    cases[2] = with_request(
        cases[2], target_prompt='a "quoted"\u2028\u0085 prompt, ünïcode\n', seed=2**63 - 1
    )
    written = write_cases(tmp_path / "cases", cases, INFO)
    assert written.info == INFO
    for case, stored in zip(cases, list_cases(tmp_path / "cases"), strict=True):
        assert_same(case, stored)
    assert_same(written.get("case-003"), cases[3])
    assert_same(written[-1], cases[-1])
    assert [case.id for case in written[2:4]] == ["case-002", "case-003"]
    assert written.row("case-003")["source_id"] == "source-1"
    with pytest.raises(CaseError, match="no case 'x'"):
        written.get("x")


def test_a_source_is_stored_once_and_another_crop_of_it_beside_it(tmp_path: Path) -> None:
    # Two cases a source, and a fifth with other pixels under the same source id.
    cases = [make_case(i) for i in range(4)]
    other_crop = with_request(replace(make_case(4), source_id="source-0"), source=noise("crop", 32))
    write_cases(tmp_path, [*cases, other_crop], INFO)
    names = sorted(path.name for path in (tmp_path / "sources").iterdir())
    assert names[:1] + names[2:] == ["source-0.png", "source-1.png"]
    assert names[1].startswith("source-0~")
    assert same_image(CaseFile(tmp_path).get("case-004").request.source, noise("crop", 32))
    assert same_image(CaseFile(tmp_path).get("case-000").request.source, noise("source-0", 32))


def test_writing_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cases(tmp_path / name, [make_case(i) for i in range(8)], INFO)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    # protocol.json and cases.jsonl, sources, masks, regions, ground truths.
    assert len(files) == 2 + 4 + 8 + 4 + 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_more_cases_of_the_same_digest_join_in_the_protocols_order(tmp_path: Path) -> None:
    write_cases(tmp_path, [make_case(3), make_case(1)], INFO)
    # What is stored is not written again, and cases that are not named stay.
    before = (tmp_path / "masks" / "case-001.png").stat().st_mtime_ns
    write_cases(tmp_path, [make_case(i) for i in range(1, 6)], INFO)
    assert CaseFile(tmp_path).ids == [f"case-{i:03d}" for i in (1, 2, 3, 4, 5)]
    assert (tmp_path / "masks" / "case-001.png").stat().st_mtime_ns == before
    write_cases(tmp_path, [make_case(2)], INFO)
    assert len(CaseFile(tmp_path)) == 5


def test_another_digest_is_refused(tmp_path: Path) -> None:
    write_cases(tmp_path, [make_case(0)], INFO)
    with pytest.raises(CaseError, match=r"holds the cases of fakes 1 .*not of fakes 2.*another folder"):
        write_cases(tmp_path, [make_case(0)], {**INFO, "version": "2", "digest": "0" * 12})


@pytest.mark.parametrize("bad", ["../evil", "a/b", "", "..", "x" * 300, "a\0b", "/abs"])
def test_an_id_that_escapes_is_refused_before_anything_is_written(tmp_path: Path, bad: str) -> None:
    for case in (replace(make_case(0), id=bad), replace(make_case(0), source_id=bad)):
        with pytest.raises(CaseError, match="cannot become a file name"):
            write_cases(tmp_path / "in" / "cases", [case], INFO)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_ids_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="Ids must be unique"):
        write_cases(tmp_path, [replace(make_case(0), id="A"), replace(make_case(1), id="a")], INFO)


L = square(32, (0, 0, 4, 4))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (with_request(make_case(0), mask=Image.new("L", (32, 32))), "the mask is empty"),
        (with_request(make_case(0), mask=Image.new("L", (32, 32), 255)), "the mask is full"),
        (
            with_request(make_case(0), mask=square(16, (0, 0, 4, 4))),
            r"the mask is \(16, 16\), the source \(32",
        ),
        (with_request(make_case(0), mask=from_array(to_array(L) // 2)), "empty"),
        (
            with_request(make_case(0), mask=from_array(np.minimum(to_array(L), np.uint8(252)))),
            "values other than 0 and 255",
        ),
        (with_request(make_case(0), source=noise("x", 32).convert("L")), "the source is of mode L"),
        (
            with_request(make_case(0), target_prompt=" ", instruction=""),
            "neither a target prompt nor an instruction",
        ),
        (with_request(make_case(3), mask=None), "it has regions and no mask"),
        (
            replace(with_request(make_case(0), mask=None), claims=(Claim("color", "red", "blue"),)),
            "names region 0, but the case has 0 regions and no mask",
        ),
        (replace(make_case(0), truth=noise("x", 16)), r"the ground truth is RGB \(16, 16\)"),
        (replace(make_case(0), category=""), "no category"),
        (
            replace(make_case(3), claims=(Claim("color", "red", "blue", region=2),)),
            "names region 2, but the case has 2",
        ),
        (
            replace(make_case(0), claims=(Claim("color", "red", "blue", region=1),)),
            "names region 1, but the case has 0",
        ),
    ],
)
def test_each_fault_of_a_case_is_named(case: EditCase, message: str) -> None:
    with pytest.raises(CaseError, match=f"case {case.id}: .*{message}"):
        check_case(case)


def test_a_category_that_the_protocol_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="category 'style' is none of the protocol's: attribute"):
        write_cases(tmp_path, [replace(make_case(0), category="style")], INFO)


def test_a_case_without_a_mask_or_a_target_prompt_comes_back_as_it_was_written(tmp_path: Path) -> None:
    bare = replace(with_request(make_case(0), mask=None, target_prompt=""), claims=())
    # The benchmark gives methods no mask, but has one for metrics.
    hidden = replace(
        with_request(make_case(1), mask=None), claims=(Claim("color", "red", "blue"),), scored=ScoredAreas(L)
    )
    stored = write_cases(tmp_path, [bare, hidden], INFO)
    assert [row["mask"] for row in stored.rows] == [None, None]
    assert not (tmp_path / "masks").exists()
    first, second = stored
    assert (first.request.mask, first.request.target_prompt, first.areas) == (None, "", ())
    assert second.request.mask is None
    (area,) = second.areas
    assert area.tobytes() == L.tobytes()
    assert provided_fields(stored.rows) == REQUEST_FIELDS - {
        "mask",
        "target_prompt",
        "regions",
        "references",
    }


def test_further_input_images_come_back_and_are_named_only_where_there_are_some(tmp_path: Path) -> None:
    images = (noise("style", 20), noise("object", 48))
    stored = write_cases(tmp_path, [make_case(0), make_case(1, references=images)], INFO)
    assert "references" not in (tmp_path / "cases.jsonl").read_text().split("\n")[0]
    plain, with_images = stored
    assert plain.request.references == ()
    assert [image.size for image in with_images.request.references] == [(20, 20), (48, 48)]
    assert all(map(same_image, with_images.request.references, images))
    with pytest.raises(CaseError, match="case-000: reference 0 is of mode L"):
        check_case(make_case(0, references=(noise("x", 8).convert("L"),)))


def test_provided_fields(tmp_path: Path) -> None:
    rows = write_cases(tmp_path / "a", [make_case(i) for i in range(4)], INFO).rows
    assert provided_fields(rows) == REQUEST_FIELDS - {"references"}, "one multi-object case provides regions"
    assert provided_fields(rows[:3]) == REQUEST_FIELDS - {"regions", "references"}
    # One of two cases lacks a field: the protocol does not provide it.
    bare = [make_case(0), make_case(1, instruction="", edit_words=())]
    assert provided_fields(write_cases(tmp_path / "b", bare, INFO).rows) == REQUEST_FIELDS - {
        "regions",
        "references",
        "instruction",
        "edit_words",
    }
    assert provided_fields([]) == frozenset()


def test_a_folder_from_elsewhere_cannot_read_outside_itself(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases", [make_case(0)], INFO)
    # A file that somebody else wrote, which names one outside.
    noise("secret", 32).save(tmp_path / "secret.png")
    path = tmp_path / "cases" / "cases.jsonl"
    row = json.loads(path.read_text())
    for name in ("../secret.png", str(tmp_path / "secret.png"), "sources/../../secret.png"):
        path.write_text(json.dumps({**row, "source": name}) + "\n")
        with pytest.raises(CaseError, match="leaves its folder"):
            list_cases(tmp_path / "cases")
    path.write_text(json.dumps({**row, "id": "../x"}) + "\n")
    with pytest.raises(CaseError, match=r"cases\.jsonl:1: not a case"):
        list_cases(tmp_path / "cases")


def test_broken_folders_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"protocol\.json: no such file"):
        list_cases(tmp_path)
    write_cases(tmp_path, [make_case(0), make_case(1)], INFO)
    path = tmp_path / "cases.jsonl"
    # A torn line, a line without required keys, and a line twice.
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:40] + "\n")
    with pytest.raises(CaseError, match=r"cases\.jsonl:2: not a case"):
        list_cases(tmp_path)
    path.write_text(lines[0] + "\n" + json.dumps({"id": "x", "source_id": "x"}) + "\n")
    with pytest.raises(CaseError, match=r"cases\.jsonl:2: .*lacks category, mask, source, target_prompt"):
        list_cases(tmp_path)
    path.write_text(lines[0] + "\n" + lines[0] + "\n")
    with pytest.raises(CaseError, match=r"cases\.jsonl: the case case-000 occurs twice"):
        list_cases(tmp_path)


def test_a_windows_editor_changes_nothing(tmp_path: Path) -> None:
    write_cases(tmp_path, [make_case(0), make_case(1)], INFO)
    before = CaseFile(tmp_path)
    # A byte order mark, and line ends of Windows.
    for name in ("cases.jsonl", "protocol.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    after = CaseFile(tmp_path)
    assert (after.rows, after.info) == (before.rows, before.info)


def test_half_an_emoji_is_refused_by_its_place(tmp_path: Path) -> None:
    # A lone surrogate in texts of a request, in a tag, and in a file.
    for change in ({"source_prompt": "a car \ud83d"}, {"edit_words": ("car", "\ud83d")}):
        with pytest.raises(CaseError, match=r"case case-000: .*half a character \('\\ud83d' at character \d"):
            check_case(with_request(make_case(0), **change))
    with pytest.raises(CaseError, match="case case-000: kind holds half"):
        check_case(replace(make_case(0), tags={"kind": "\udc00"}))
    write_cases(tmp_path, [make_case(0)], INFO)
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), "instruction": "make it red \ud83d"}))
    with pytest.raises(CaseError, match=r"cases\.jsonl:1: not a case: instruction holds half a character"):
        list_cases(tmp_path)
    path.write_text('{"id": "x", "tags": ' + "[" * 100_000)
    with pytest.raises(CaseError, match=r"cases\.jsonl:1: not a case"):
        list_cases(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "source",
        "source_prompt",
        "target_prompt",
        "region_prompt",
        "instruction",
        "edit_words",
        "regions",
    ],
)
def test_none_in_a_request_is_named(name: str) -> None:
    case = make_case(0)
    with pytest.raises(CaseError, match=f"case case-000: {name}: None or of a wrong type"):
        check_case(replace(case, request=replace(case.request, **{name: None})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("category", None),
        ("request", None),
        ("claims", (("color", "red"),)),
        ("truth", "x.png"),
        ("tags", None),
    ],
)
def test_what_is_none_or_of_another_type_in_a_case_is_named(name: str, value: Any) -> None:
    with pytest.raises(CaseError, match=f"case case-000: {name}: None or of a wrong type"):
        check_case(replace(make_case(0), **{name: value}))
    with pytest.raises(CaseError, match="a case is a dict, not an EditCase"):
        check_case({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_prompt", 5),
        ("source_prompt", None),
        ("category", ["attribute"]),
        ("source", {}),
        ("edit_words", "chair"),
        ("edit_words", [1]),
        ("regions", "none"),
        ("regions", [{"mask": "masks/x.png"}]),
        ("claims", [{"attribute": "color"}]),
        ("claims", {}),
        ("tags", ["a"]),
        ("tags", {"a": 1}),
        ("seed", "0"),
        ("truth", 1),
    ],
)
def test_a_value_of_a_wrong_type_names_line_and_key(tmp_path: Path, key: str, value: object) -> None:
    write_cases(tmp_path, [make_case(0)], INFO)
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}) + "\n")
    with pytest.raises(CaseError, match=rf"cases\.jsonl:1: not a case: {key} is of a wrong type"):
        list_cases(tmp_path)


def test_the_cases_of_a_run_are_not_exported_again(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    folder = tmp_path / "cases" / "fakes"
    for text in (None, "{", "[]"):
        folder.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (folder / "protocol.json").write_text(text)
        with pytest.raises(CaseError, match="or run the suite into another folder") as caught:
            list_cases(folder)
        assert "Export" not in str(caught.value)


def test_a_hand_written_file_needs_only_the_required_keys(tmp_path: Path) -> None:
    write_cases(tmp_path, [make_case(0)], INFO)
    path = tmp_path / "cases.jsonl"
    row = json.loads(path.read_text())
    required = {
        name: row[name] for name in ("id", "source_id", "category", "source", "mask", "target_prompt")
    }
    path.write_text(json.dumps(required) + "\n\n")
    (case,) = list_cases(tmp_path)
    assert case.truth is None
    assert case.request.regions == ()
    assert case.request.target_prompt == make_case(0).request.target_prompt


def test_scored_areas_come_back_and_their_files_have_names_of_their_own(tmp_path: Path) -> None:
    scored = ScoredAreas(
        square(32, (4, 4, 9, 9)), (Region(square(32, (4, 4, 6, 9)), "a red ball", ("red", "ball")),)
    )
    plain, exact = make_case(0), replace(make_case(1), scored=scored)
    stored = list(write_cases(tmp_path / "cases", [plain, exact], INFO))
    assert stored[0].scored is None
    assert stored[1].scored is not None
    assert same_image(stored[1].scored.mask, scored.mask)
    assert same_image(stored[1].areas[0], scored.regions[0].mask)
    assert same_image(stored[1].request.mask, exact.request.mask)
    # A line without them is as it always was, so that stored runs keep their bytes.
    lines = (tmp_path / "cases" / "cases.jsonl").read_text().splitlines()
    assert ["scored" in json.loads(line) for line in lines] == [False, True]


def test_a_claim_counts_the_scored_regions() -> None:
    scored = ScoredAreas(square(32, (4, 4, 9, 9)))
    claim = Claim("color", "red", "blue", region=1)
    with pytest.raises(CaseError, match="names region 1, but the case has 0"):
        check_case(replace(make_case(0), claims=(claim,), scored=scored))
    two = replace(scored, regions=(Region(scored.mask, "a", ()), Region(scored.mask, "b", ())))
    check_case(replace(make_case(0), claims=(claim,), scored=two))


def test_a_scored_mask_of_another_size_is_refused() -> None:
    with pytest.raises(CaseError, match="the scored mask is"):
        check_case(replace(make_case(0), scored=ScoredAreas(square(16, (4, 4, 9, 9)))))


def test_ceilings_that_are_no_shares_are_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases", [make_case(0)], {**INFO, "ceilings": {"swap2": 0.5}})
    path = tmp_path / "cases" / "protocol.json"
    assert CaseFile(path.parent).info["ceilings"] == {"swap2": 0.5}
    for broken in (["swap2"], {"swap2": "half"}):
        path.write_text(json.dumps({**INFO, "ceilings": broken}))
        with pytest.raises(CaseError, match=r"ceilings is .*shares by category"):
            CaseFile(path.parent)
