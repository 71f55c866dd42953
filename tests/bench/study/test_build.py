from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.edit import EditRecord
from bench.store import RunStore
from bench.study.build import build
from bench.study.design import Design, DesignError, DesignOptions
from bench.study.settings import SettingsError, StudySettings
from bench.study.types import GROUND_TRUTH, SOURCE
from tests.bench.study.runs import make_run

SMALL = DesignOptions(raters=2, trials=6, repeats=1, attention=1, practice=1)


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


def test_the_design_hangs_on_edits_and_options_and_not_on_the_place(run_folder: Path, copy: Path) -> None:
    original, copied = build([run_folder], SMALL), build([copy], SMALL)
    assert original.digest == copied.digest
    assert original.trials == copied.trials
    assert original.runs != copied.runs
    assert build([run_folder], replace(SMALL, seed=1)).digest != original.digest


def test_another_edit_is_another_digest(run_folder: Path, copy: Path) -> None:
    with RunStore.open(copy) as store:
        record = next(r for r in store.edits() if store.methods[r.key.method].title == "B")
        assert record.file is not None
        image = store.image(record).rotate(90)
        store.append_edits([replace(record, sha256=store.write_edit(record.file, image))])
    assert build([copy], SMALL).digest != build([run_folder], SMALL).digest


def test_controls_are_compared_only_where_they_are_named(run_folder: Path) -> None:
    assert build([run_folder], SMALL).methods == ("A", "B", "C", "D")
    selected = build([run_folder], replace(SMALL, methods=("oracle", "C")))
    assert selected.methods == ("C", "oracle")
    # A registered name stands for all methods of that name.
    assert build([run_folder], replace(SMALL, methods=("fake",))).methods == ("A", "B", "C", "D")


def test_votes_are_counted_by_question_and_pair(run_folder: Path) -> None:
    design = build([run_folder], replace(SMALL, methods=("A", "B", "C"), questions=("overall", "real")))
    votes = design.pair_votes()
    assert len(votes) == 6
    assert sum(votes.values()) == 8
    assert design.describe()["votes per question and pair"] == [1, 2]
    best = build([run_folder], replace(SMALL, kinds=("best",)))
    assert best.pair_votes() == {}


def test_a_design_made_before_there_was_overlap_keeps_its_digest(run_folder: Path) -> None:
    design = build([run_folder], SMALL)
    body = json.loads(design.to_json())
    # The default is left out of the JSON, as before the option existed.
    assert "overlap" not in body["options"]
    assert Design.from_json(json.dumps(body)).options.overlap == 1
    twice = build([run_folder], replace(SMALL, raters=4, overlap=2))
    assert Design.from_json(twice.to_json()) == twice
    assert twice.describe()["votes per comparison"] == [2, 2]
    assert twice.digest != build([run_folder], replace(SMALL, raters=4)).digest


def test_the_json_is_the_design(design: Design) -> None:
    again = Design.from_json(design.to_json())
    assert again == design
    assert again.digest == design.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["trials"][0]["candidates"].reverse(),
        lambda d: d["cases"][0]["edits"]["A"].update(sha256="0" * 64),
        lambda d: d["cases"][0].update(target_prompt="something else"),
        lambda d: d["options"].update(ties=False),
        lambda d: d.update(digest="0" * 64),
    ],
)
def test_a_design_that_was_tampered_with_does_not_load(design: Design, change) -> None:
    body = json.loads(design.to_json())
    change(body)
    with pytest.raises(DesignError, match="changed"):
        Design.from_json(json.dumps(body))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "options": 3}'])
def test_what_is_no_design_is_said_to_be_none(text: str) -> None:
    with pytest.raises(DesignError):
        Design.from_json(text)


def test_a_case_without_every_edit_is_left_out_and_counted(copy: Path) -> None:
    with RunStore.open(copy) as store:
        record = next(r for r in store.edits() if store.methods[r.key.method].title == "C")
        store.append_edits([EditRecord(record.key, None, None, 0.1, error="ZeroDivisionError: x")])
    design = build([copy], SMALL)
    assert len(design.cases) == 11
    assert f"fakes/{record.key.case}" not in design.case_by_key
    assert design.left_out == {"no edit of C": 1}


def test_an_edit_file_that_changed_since_its_record_is_refused(copy: Path) -> None:
    file = next((copy / "edits").rglob("*.png"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DesignError, match=file.name):
        build([copy], SMALL)


def test_files_that_change_later_are_found(copy: Path) -> None:
    design = build([copy], SMALL)
    assert design.changed_files() == []
    # One file changes and one goes.
    edit = design.path(design.cases[0].edits["A"])
    edit.write_bytes(b"x")
    design.path(design.cases[1].source).unlink()
    lines = design.changed_files()
    assert str(edit) in "".join(lines)
    assert any("cannot be read" in line for line in lines)


def test_two_runs_are_one_study(tmp_path: Path) -> None:
    # Two runs of the same cases, with one label in common.
    first = make_run(tmp_path / "one", cases=8, strengths=(1.0,))
    second = make_run(tmp_path / "two", cases=8, strengths=(0.5, 0.25), oracle=False)
    # Labels begin at A in both: two methods of one label are told apart by their digests.
    design = build([first, second], SMALL)
    assert len(design.methods) == 3
    assert design.methods[2] == "B"
    assert all(title.startswith("A (") for title in design.methods[:2])
    runs = {ref.run for case in design.cases for ref in case.edits.values()}
    assert runs == {0, 1}
    assert design.changed_files() == []


def test_runs_of_other_cases_are_refused(tmp_path: Path, run_folder: Path) -> None:
    other = make_run(tmp_path / "other", cases=5, strengths=(0.1,))
    with pytest.raises(DesignError, match="different cases of fakes"):
        build([run_folder, other], SMALL)


def test_cases_per_category_takes_the_same_ones_from_a_longer_list(run_folder: Path) -> None:
    two = build([run_folder], replace(SMALL, cases_per_category=2))
    one = build([run_folder], replace(SMALL, cases_per_category=1))
    assert len(two.cases) == 8
    assert {c.key for c in one.cases} < {c.key for c in two.cases}
    assert two.left_out == {"more than were asked for": 4}


def test_controls_without_a_truth_are_the_source(tmp_path: Path, run_folder: Path) -> None:
    design = build([run_folder], SMALL)
    assert {trial.expected for trial in design.trials if trial.role == "attention"} == {GROUND_TRUTH}
    plain = replace(
        design, cases=tuple(replace(case, truth=None) for case in design.cases), trials=design.trials
    )
    case = plain.cases[0]
    assert plain.image_of(case, SOURCE) == case.source
    with pytest.raises(DesignError, match="no candidate"):
        plain.image_of(case, GROUND_TRUTH)
    with pytest.raises(DesignError, match="no candidate"):
        plain.image_of(case, "E")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raters": 0}, "--raters"),
        ({"trials": 2}, "--trials"),
        ({"repeats": 3, "trials": 5}, "--repeats"),
        ({"questions": ("overal",)}, "Did you mean 'overall'"),
        ({"questions": ()}, "--question"),
        ({"kinds": ("pair", "pair")}, "--kind"),
        ({"methods": ("A",)}, "at least two"),
        ({"methods": ("A", "oracel")}, "Did you mean 'oracle'"),
        ({"cases_per_category": 0}, "--cases"),
        ({"trials": 500}, "too many"),
        ({"overlap": 0}, "--overlap"),
        ({"overlap": 3}, "only 2 raters"),
        # 2 x 4 trials are 4 different comparisons of 6 pairs.
        ({"overlap": 2}, "2 of 6 pairs of methods would never be compared on the question 'overall'"),
        ({"questions": ("overall", "real")}, "gets 4 trials of pairs"),
    ],
)
def test_options_that_cannot_be_are_named(run_folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([run_folder], replace(SMALL, **changes))


def test_settings_are_checked() -> None:
    settings = StudySettings.from_mapping(
        {
            "title": "שלום <b>👩‍🎨</b>",
            "return_url": "https://x.example/?cc={code}&pid={rater}",
            "open_registration": True,
        }
    )
    assert StudySettings.from_json(settings.to_json()) == settings
    # One wrong setting each.
    for values, message in (
        ({"titel": "x"}, "Did you mean 'title'"),
        ({"title": " "}, "title"),
        ({"consent": 3}, "consent"),
        ({"lease_seconds": 1}, "lease_seconds"),
        ({"lease_seconds": "5"}, "lease_seconds"),
        ({"return_url": "javascript:alert(1)"}, "https"),
        ({"return_url": "https://x/{secret}"}, "return_url"),
        ({"open_registration": "yes"}, "open_registration"),
        ({"completion_code": 7}, "completion_code"),
    ):
        with pytest.raises(SettingsError, match=message):
            StudySettings.from_mapping(values)
