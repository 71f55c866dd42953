"""``report``, ``compare``, ``export``: what they print and leave in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.command_line import run


@pytest.mark.usefixtures("finished_run")
def test_stored_scores_of_a_stand_in_on_photographs_stay_and_are_not_shown(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.edit import ScoreRecord
    from bench.store import RunStore, SetScore

    plugin = ("--plugin", "cli_plugin")
    with RunStore.open(place / "runs" / "dots") as store:
        # As an earlier version left them.
        keys = [record.key for record in store.edits()]
        store.append_scores([ScoreRecord(key, "mini_clip_target", "1", 70.0) for key in keys])
        store.append_set_scores(
            [SetScore("dots", "1", keys[0].method, "all", "mini_clip_cmmd_pasted", "2", 0.5, 6)]
        )
    capsys.readouterr()
    assert run("report", "runs/dots", *plugin) == 0
    assert "dots: not shown: mini_clip_cmmd_pasted, mini_clip_target" in " ".join(
        capsys.readouterr().out.split()
    )
    report = place / "runs" / "dots" / "report"
    assert "mini_clip" not in (report / "data/summary.csv").read_text()
    tables = (report / "tables/tables.md").read_text()
    assert "Left out of dots: mini_clip_cmmd_pasted, mini_clip_target." in tables
    assert "70.0" not in tables
    assert run("export", "runs/dots", "--out", "entry.json", *plugin) == 0
    assert "mini_clip" not in (place / "entry.json").read_text()
    with RunStore.open(place / "runs" / "dots") as store:
        assert (store.scores()["metric"] == "mini_clip_target").sum() == len(keys)
        assert len(store.set_scores()) == 1


@pytest.mark.usefixtures("finished_run")
def test_a_grid_of_named_cases_is_drawn_and_can_be_rebuilt(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    folder = place / "runs" / "dots"
    case = json.loads((folder / "cases/dots/cases.jsonl").read_text().splitlines()[1])["id"]
    assert run("report", "runs/dots", "--case", case, *plugin) == 0
    assert (folder / "report/figures/grid-chosen-dots.pdf").is_file()
    assert json.loads((folder / "report/report.json").read_text())["options"]["case"] == [case]
    assert run("report", "runs/dots", "--case", f"{case}x", *plugin) != 0
    assert f"Did you mean '{case}'?" in capsys.readouterr().err


def test_report_before_scoring_says_what_to_do(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("edit", "dots.yaml", "--device", "cpu", *plugin) == 0
    assert run("report", "runs/dots", *plugin) == 2
    assert "Score it first" in capfd.readouterr().err


@pytest.mark.usefixtures("finished_run")
def test_report_fills_a_readme_between_its_markers_again_and_again(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    readme = place / "README.md"
    readme.write_text("before\n<!-- dots-table:start -->\nold\n<!-- dots-table:end -->\nafter\n")
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 0
    # Text outside the markers stays.
    first = readme.read_text()
    assert first.startswith("before\n")
    assert first.endswith("after\n")
    assert "old" not in first
    assert "| copy\\_input |" in first
    assert "](docs/dots-grid.png)" in first
    assert (place / "docs" / "dots-grid.png").read_bytes() == (
        place / "runs" / "dots" / "report" / "figures" / "grid.png"
    ).read_bytes()
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 0
    assert readme.read_text() == first


def test_a_run_is_compared_verified_exported_and_merged(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    for folder in ("one", "two"):
        assert run("run", "dots.yaml", "--out", folder, "--device", "cpu", *plugin) == 0
    assert run("compare", "one", "two", "--out", "difference.md", *plugin) == 0
    assert (place / "difference.md").read_text()
    assert run("verify", "one", "--sample", "2", "--device", "cpu", *plugin) == 0
    assert run("export", "two", "--out", "entry.json", *plugin) == 0
    assert run("report", "one", "--merge", "entry.json", *plugin) == 0
    merged = {
        path.name: path.read_text(encoding="utf-8") for path in (place / "one/report").rglob("merged.*")
    }
    assert set(merged) == {"merged.md", "merged.tex", "merged.csv"}
    assert "[two]" in merged["merged.csv"]
    assert r"{[}two{]} &" in merged["merged.tex"]
    assert (place / "one" / "report" / "index.html").exists()
    # A refused entry leaves the report as it is.
    before = {path: path.stat().st_mtime_ns for path in (place / "one" / "report").rglob("*")}
    (place / "entry.json").write_text("{}")
    assert run("report", "one", "--merge", "entry.json", "--decimals", "1", *plugin) == 2
    assert {path: path.stat().st_mtime_ns for path in (place / "one" / "report").rglob("*")} == before
    # An edit that was tampered with.
    changed = next((place / "one" / "edits").rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"x")
    capsys.readouterr()
    assert run("verify", "one", "--sample", "0", *plugin) == 1
    assert changed.name in capsys.readouterr().out


@pytest.mark.usefixtures("finished_run")
def test_report_and_analysis_of_a_study_print_the_same_numbers(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    settings = place / "study.yaml"
    settings.write_text("exclusion: {max_attention_failures: 0, min_median_reaction_ms: null}\n")
    assert (
        run(
            *("study", "create", "runs/dots", "--name", "taste", "--settings", "study.yaml"),
            *("--method", "copy_input", "--method", "moody", "--raters", "8", "--trials", "10"),
            *("--attention", "3", "--repeats", "1", "--practice", "0"),
        )
        == 0
    )
    assert (
        run("study", "simulate", "taste", "--raters", "8", "--strength", "moody=1.5", "--inattentive", "0.4")
        == 0
    )
    # A stand-in's scores of photographs, as an earlier version left them, are compared with no vote.
    from bench.edit import ScoreRecord
    from bench.store import RunStore

    with RunStore.open(place / "runs" / "dots") as store:
        keys = [record.key for record in store.edits()]
        store.append_scores([ScoreRecord(key, "mini_clip_target", "1", 70.0) for key in keys])
    analyse = ("study", "analyse", "taste", "--simulated", "--scores", "runs/dots", "--out", "analysis")
    assert run(*analyse, *plugin) == 0
    assert "mini_clip_target" not in set(pd.read_csv("analysis/correlation.csv")["metric"])
    assert "leak_mse" in set(pd.read_csv("analysis/correlation.csv")["metric"])
    assert run("report", "runs/dots", "--study", "taste", *plugin) == 2  # people have not voted
    assert run("report", "runs/dots", "--study", "taste", "--simulated", *plugin) == 0
    # The rule excludes somebody, so that "kept" and "all" differ.
    raters = pd.read_csv("analysis/raters.csv")
    assert raters["excluded"].any()
    shares = pd.read_csv("analysis/shares.csv")
    shares = shares[(shares["raters"] == "kept") & (shares["question"] == "all")]
    summary = pd.read_csv("runs/dots/report/data/summary.csv").set_index(
        ["metric", "protocol", "category", "method"]
    )
    # Every share of the analysis stands in the report's summary, digit for digit.
    for row in shares.to_dict("records"):
        protocol = "all protocols" if row["protocol"] == "all" else row["protocol"]
        for metric, columns in (
            ("simulated_preference", ("share", "low", "high")),
            ("simulated_preference_votes", ("of_all", "of_all_low", "of_all_high")),
        ):
            printed = summary.loc[(metric, protocol, row["category"], row["method"])]
            np.testing.assert_array_equal(
                printed[["value", "low", "high"]].to_numpy(float), [row[column] for column in columns]
            )
    assert "SIMULATED RATERS" in Path("runs/dots/report/tables/tables.md").read_text()
    # The votes are part of what is verified, as long as they are here.
    assert run("verify", "runs/dots", "--sample", "0", *plugin) == 0


def test_where_the_paper_contradicts_itself_and_leaves_gaps_is_told_without_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("report", "--check-paper") == 0
    out = capsys.readouterr().out
    assert "FID of PromptEditDiff on COCO: 7.9 in Table 1, but 7.1 in Table 2" in out.splitlines()
    assert "no interval or test is given for abstract, Table 1" in out


@pytest.mark.usefixtures("finished_run")
def test_an_unnamed_baseline_needs_a_method_of_the_run(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    capfd.readouterr()
    assert run("report", "runs/dots", "--paper-baseline", "GAN-Inpainting=lama", *plugin) == 2
    assert "has no method lama. It has: copy_input, moody." in " ".join(capfd.readouterr().err.split())


@pytest.mark.usefixtures("finished_run")
def test_a_study_without_votes_adds_nothing_to_a_report(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("report", "runs/dots", "--study", "taste", *plugin) == 2
    assert "studies.db" in capfd.readouterr().err


@pytest.mark.usefixtures("finished_run")
def test_a_readme_without_markers_is_left_alone(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "cli_plugin")
    (place / "README.md").write_text("nothing here\n")
    report = place / "runs" / "dots" / "report" / "tables" / "tables.md"
    before = report.stat().st_mtime_ns
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 2
    assert "dots-table:start" in capfd.readouterr().err
    assert (place / "README.md").read_text() == "nothing here\n"
    assert report.stat().st_mtime_ns == before, "refused before the report is made"


@pytest.mark.parametrize("name", ["entry.tar", "entry", "entry.JSON.gz"])
def test_an_entry_has_a_name_that_says_its_kind(
    name: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "runs/dots", "--out", name) == 2
    assert f"--out {name}: the name of an entry ends in .json or .zip" in capfd.readouterr().err
    assert not (place / name).exists()
