from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from bench.study import StudyError
from bench.study.cli import study_app
from bench.study.serving import APP
from bench.study.store import StudyStore
from tests.bench.study.runs import answer_all

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(memory: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in a folder of its own; its output. What it raises comes through."""
    monkeypatch.chdir(memory)
    monkeypatch.delenv("PEB_STUDY_STORE", raising=False)
    monkeypatch.delenv("PEB_STUDY_PASSWORD", raising=False)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(study_app, list(arguments), standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


CREATE = (
    "--name",
    "taste",
    "--raters",
    "3",
    "--trials",
    "10",
    "--repeats",
    "1",
    "--attention",
    "1",
    "--practice",
    "1",
)


def test_from_a_run_to_votes(run, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.study.security.COST", 2**10)
    output = run("create", str(run_folder), *CREATE)
    assert "different comparisons: 24" in output
    assert "votes per question and pair: 4, 4" in output
    assert "power: 4 votes per question and pair resolve" in output
    assert "attention: 100.0% of raters who choose a candidate at random pass the 1 checks" in output
    assert "Ask for more with --attention" in output
    assert "each comparison gets one vote, so Krippendorff's alpha cannot be computed" in output
    monkeypatch.setenv("PEB_STUDY_PASSWORD", "a long password")
    assert "is set" in run("password", "taste")
    links = run("invite", "taste", "--count", "3", "--url", "https://study.example/").splitlines()
    assert len(set(links)) == 3
    assert all(link.startswith("https://study.example/?invitation=") for link in links)
    with StudyStore.open("runs/studies.db", create=False) as store:
        store.check_admin("taste", "a long password")
        answer_all(store, store.redeem(links[0].partition("=")[2]).rater)
    assert "33 simulated votes" in run("simulate", "taste", "--raters", "3", "--strength", "A=1.5")
    status = json.loads(run("status", "taste", "--json"))
    assert status["studies"]["taste"]["votes"] == 11
    # Programs read these names.
    assert {"wanted", "answered", "held", "raters"} <= set(status["studies"]["taste"])
    assert status["studies"]["taste"]["simulated_votes"] == 33
    assert [entry["votes"] for entry in status["raters"]] == [10]
    assert "taste" in run("status")
    run("close", "taste")
    assert json.loads(run("status", "--json"))["studies"]["taste"]["closed"] is True


def test_invitations_lead_to_where_the_study_was_served(
    run, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", str(run_folder), *CREATE)
    note, link = run("invite", "taste").splitlines()
    assert "has not been served yet" in note
    assert link.startswith("http://localhost:8501/?invitation=")
    served = []
    monkeypatch.setattr("os.execve", lambda *arguments: served.append(arguments))
    for options, address in (
        (("--port", "8600"), "http://localhost:8600"),
        (("--port", "80", "--address", "0.0.0.0"), f"http://{socket.gethostname()}"),
        (("--address", "::1"), "http://[::1]:8501"),
        (("--port", "9000", "--url", "https://study.example.org/"), "https://study.example.org"),
    ):
        run("serve", "taste", *options)
        (link,) = run("invite", "taste").splitlines()
        assert link.startswith(f"{address}/?invitation=")
    assert len(served) == 4
    assert run("invite", "taste", "--url", "http://x").startswith("http://x/?invitation=")


def test_a_rater_is_looked_up_and_withdrawn(run, run_folder: Path) -> None:
    Path("s.yaml").write_text("completion_code: SHARED\n")
    run("create", str(run_folder), *CREATE, "--open", "--settings", "s.yaml")
    recruited = {"PROLIFIC_PID": "5f3c", "STUDY_ID": "60aa", "SESSION_ID": "71bb"}
    with StudyStore.open("runs/studies.db", create=False) as store:
        rater = store.enter("taste", "5f3c", recruited).rater
        answer_all(store, rater)
        answer_all(store, store.enter("taste").rater)
    assert "5f3c" in run("status", "taste")
    (record,) = json.loads(run("rater", "taste", "71bb", "--json"))
    assert (record["rater"], record["recruited"], record["state"]) == (rater, recruited, "finished")
    assert (record["answers"], record["code"]) == (10, "SHARED")
    assert "recruited: PROLIFIC_PID 5f3c, STUDY_ID 60aa, SESSION_ID 71bb" in run("rater", "taste", "5f3c")
    with pytest.raises(StudyError, match="completion code of several raters"):
        run("rater", "taste", "SHARED")
    with pytest.raises(StudyError, match="is no rater of taste"):
        run("withdraw", "taste", "nobody")
    with pytest.raises(typer.Abort):
        run("withdraw", "taste", "5f3c")  # the question gets no answer
    assert "11 votes" in run("withdraw", "taste", "5f3c", "--yes")
    status = json.loads(run("status", "taste", "--json"))
    assert (status["studies"]["taste"]["votes"], status["studies"]["taste"]["withdrawn"]) == (11, 1)
    (record,) = json.loads(run("rater", "taste", rater, "--json"))
    assert (record["state"], record["external"], record["answers"]) == ("withdrawn", None, 0)


def test_a_dry_run_makes_nothing(run, run_folder: Path) -> None:
    assert "votes wanted: 24" in run("create", str(run_folder), *CREATE, "--dry-run")
    assert not Path("runs").exists()


def test_create_says_what_its_checks_and_its_overlap_are_worth(run, run_folder: Path) -> None:
    more = ("--name", "taste", "--raters", "4", "--trials", "18", "--repeats", "1", "--overlap", "2")
    output = run("create", str(run_folder), *more, "--dry-run")
    assert (
        "attention: 10.9% of raters who choose a candidate at random pass the 6 checks (at most 1 failed); "
        "1.8% of those who choose ties at random too\n"
    ) in output
    assert "votes per comparison: 2, 2" in output
    assert "power: 6 (the fewest of 6 to 8) votes per question and pair resolve" in output
    assert "Krippendorff" not in output
    Path("s.yaml").write_text("exclusion: {max_attention_failures: null}\n")
    output = run("create", str(run_folder), *more, "--dry-run", "--settings", "s.yaml")
    assert "the exclusion rule does not look at them" in output
    with pytest.raises(ValueError, match="would never be compared"):
        run("create", str(run_folder), "--name", "x", "--raters", "1", "--trials", "11", "--repeats", "1")


def test_settings_come_from_yaml_and_their_rule_is_kept(run, run_folder: Path) -> None:
    Path("s.yaml").write_text("title: Which?\nexclusion: {max_attention_failures: 2}\ncompletion_code: C1\n")
    run("create", str(run_folder), *CREATE, "--settings", "s.yaml", "--open")
    with StudyStore.open("runs/studies.db", create=False) as store:
        settings = store.study("taste").settings
    assert (settings.title, settings.completion_code, settings.open_registration) == ("Which?", "C1", True)
    assert settings.exclusion == {"max_attention_failures": 2}
    for text, named in (
        ("exclusion: {max_attention: 2}", "max_attention_failures"),
        ("exclusion: {max_attention_failures: -1}", "setting exclusion: max_attention_failures must be"),
        ("exclusion: {min_self_consistency: x}", "setting exclusion: "),
        ("tilte: x", "title"),
        ("- x", "mapping"),
        ("a: [", "--settings s.yaml:1: not valid YAML"),
    ):
        Path("s.yaml").write_text(text)
        with pytest.raises(ValueError, match=named):
            run("create", str(run_folder), *CREATE, "--settings", "s.yaml")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("status", "taste"), "Create a study first"),
        (("invite", "taste"), "Create a study first"),
        (("create", "nowhere", "--name", "x"), "nowhere"),
        (("simulate", "x", "--strength", "A"), "METHOD=NUMBER"),
        (("analyse",), "either a study or a file"),
        (("analyse", "x", "--votes", "y.csv"), "either a study or a file"),
    ],
)
def test_what_cannot_be_done_is_said(run, arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        run(*arguments)


def test_serve_goes_on_without_changed_files_and_stops_without_any(
    run, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda _, command, environment: started.append((command, environment)))
    copy = Path(shutil.copytree(run_folder, tmp_path / "copy"))
    run("create", str(copy), *CREATE)
    run("serve", "taste", "--port", "8777")
    command, environment = started.pop()
    assert command[1:5] == ["-m", "streamlit", "run", str(APP)]
    assert command[5:] == ["--server.port", "8777", "--server.address", "localhost"]
    assert environment["PEB_STUDY_STORE"] == str(Path("runs/studies.db").absolute())
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    next((copy / "edits" / "fakes").rglob("*.png")).write_bytes(b"x")
    output = run("serve", "taste")
    assert "not the file" in output
    assert "served without the trials" in output
    assert len(started) == 1
    shutil.rmtree(copy)
    with pytest.raises(StudyError, match="Bring the run folder back"):
        run("serve", "taste")


def test_votes_come_back_from_files_and_are_analysed(run, run_folder: Path) -> None:
    pytest.importorskip("bench.study.exchange")
    run("create", str(run_folder), *CREATE)
    run("simulate", "taste", "--raters", "3", "--strength", "A=2", "--strength", "D=-2")
    run("export", "taste", "v.csv", "--simulated")
    run("export", "taste", "v.parquet", "--simulated", "--anonymous")
    assert "33 votes" in run("import", "v.csv", "--out", "all.parquet")
    for arguments in (("taste",), ("--votes", "all.parquet")):
        output = run("analyse", *arguments, "--simulated", "--resamples", "100", "--out", "report")
        assert "SIMULATED" in output
        shares = pd.read_csv("report/shares.csv")
        whole = shares[(shares["category"] == "all") & (shares["raters"] == "all")]
        ranked = whole.groupby("method")["share"].mean()
        assert ranked["A"] > ranked["D"]
    for command in (("analyse", "taste", "--out", "report"), ("export", "taste", "people.csv")):
        with pytest.raises(
            StudyError, match="no votes of people, but 33 of simulated raters: add --simulated"
        ):
            run(*command)
    assert not Path("people.csv").exists()


def test_the_studys_own_rule_is_applied_to_its_exported_votes(run, run_folder: Path) -> None:
    # Attentive raters take 4 seconds: this rule excludes most of them, the default rule nobody.
    Path("s.yaml").write_text("exclusion: {max_attention_failures: 0, min_median_reaction_ms: 3900}\n")
    run("create", str(run_folder), *CREATE, "--settings", "s.yaml")
    run("simulate", "taste", "--raters", "3")
    run("export", "taste", "v.csv", "--simulated")
    run("export", "taste", "v.parquet", "--simulated", "--anonymous")
    run("import", "v.csv", "--out", "joined.parquet")
    outcomes = []
    for source in (("taste",), ("--votes", "v.csv"), ("--votes", "v.parquet"), ("--votes", "joined.parquet")):
        run("analyse", *source, "--simulated", "--resamples", "100", "--out", "out")
        analysis = json.loads(Path("out/analysis.json").read_text())
        outcomes.append((analysis["exclusion"], sorted(bool(row["excluded"]) for row in analysis["raters"])))
    assert outcomes[0][0]["min_median_reaction_ms"] == 3900
    assert any(outcomes[0][1])
    assert outcomes == outcomes[:1] * 4


def test_help_is_instant_and_every_command_shows_examples() -> None:
    probe = (
        "from bench.study.cli import study_app; import sys; "
        "heavy = {'sqlalchemy', 'alembic', 'pandas', 'numpy', 'scipy', 'streamlit', 'torch'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    for command in study_app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        output = CliRunner().invoke(study_app, [name, "--help"], env={"COLUMNS": "200"}).output
        assert f"python run_bench.py study {name}" in output.replace("\n", " "), name
