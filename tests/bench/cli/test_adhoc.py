"""``run --protocol ... --method ...`` against the same run from a suite file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.suite import load_suite
from bench.suite_yaml import read_yaml, write_yaml
from tests.command_line import run

PLUGIN = ("--plugin", "cli_plugin", "--device", "cpu")
# 'dot 9' is the prompt of no case.
MOODY = (
    "run", "--protocol", "dots", "--method", "moody", "-m", "fail='dot 9'", "--metric", "leak_mse", "--limit", "2",
    *PLUGIN,
)  # fmt: skip


def printed_suite(out: str) -> str:
    """The YAML at the start of what a run prints."""
    text, _, _ = out.partition("\n\n")
    return text


def only_run(place: Path) -> Path:
    (folder,) = (place / "runs").iterdir()
    return folder


def test_the_printed_suite_reproduces_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*MOODY) == 0
    (place / "saved.yaml").write_text(printed_suite(capsys.readouterr().out))
    suite = load_suite(place / "saved.yaml")
    assert suite.limit == 2
    assert suite.methods[0].options == {"fail": "dot 9"}
    folder = only_run(place)
    assert folder.name == suite.name
    # The file and the options both go on where the run ended.
    for arguments in (MOODY, ("run", "saved.yaml", *PLUGIN)):
        assert run(*arguments) == 0
        assert "edits: 0 made, 4 there already" in capsys.readouterr().out
    assert only_run(place) == folder


def test_the_numbers_are_those_of_a_suite_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ("--metric", "leak_mse", "--metric", "leak_changed")
    assert (
        run("run", "--protocol", "dots", "--method", "copy_input", "--method", "moody", *metrics, *PLUGIN)
        == 0
    )
    frame = pd.read_csv(only_run(place) / "report/data/summary.csv").set_index(
        ["category", "method", "metric"]
    )
    assert frame.loc[("all", "copy_input", "leak_mse"), "value"] == 0
    assert frame.loc[("all", "moody", "leak_changed"), "value"] == 1
    assert run("run", "dots.yaml", *PLUGIN) == 0
    by_file = pd.read_csv(place / "runs/dots/report/data/summary.csv").set_index(
        ["category", "method", "metric"]
    )
    untimed = [name for name in by_file.index if name[2] in ("leak_mse", "leak_changed")]
    pd.testing.assert_frame_equal(frame.loc[untimed], by_file.loc[untimed])


def test_other_options_are_another_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("-m", "seconds=0.001"), ("--limit", "1")):
        assert run("run", "--protocol", "dots", "--method", "moody", *options, "--dry-run", *PLUGIN) == 0
    folders = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run folder:")]
    assert len(set(folders)) == 3
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a suite, or give both --protocol and --method."),
        (("--protocol", "dots"), "name a suite, or give both --protocol and --method."),
        (("--method", "moody"), "name a suite, or give both --protocol and --method."),
        (
            ("dots.yaml", "--protocol", "dots", "-m", "fail=x"),
            "suite 'dots.yaml' and --protocol, --method-option: give a suite, or --protocol and --method",
        ),
        (
            ("--protocol", "dots", "--method", "moody", "--method", "copy_input", "-m", "fail=x"),
            "need a single --method",
        ),
        (
            ("--protocol", "dots", "--method", "moody", "-m", "fail"),
            "--method-option 'fail': write KEY=VALUE",
        ),
        (("--protocol", "dot", "--method", "moody"), "unknown protocol 'dot'. Did you mean 'dots'?"),
        (("--protocol", "dots", "--method", "mody"), "unknown method 'mody'. Did you mean 'moody'?"),
        (
            ("--protocol", "dots", "--method", "moody", "-m", "fial=x"),
            "unknown option 'fial'. Did you mean 'fail'?",
        ),
        (("--protocol", "dots", "--method", "moody", "--preset", "sad"), "sad"),
        (("--protocol", "dots", "--method", "moody", "--metric", "leak_mes"), "Did you mean 'leak_mse'?"),
        (("--protocol", "dots", "--method", "moody", "--seeds", "0,x"), "--seeds '0,x': give whole numbers"),
        (("--protocol", "dots", "--method", "moody", "--seeds", "1,1"), "a seed is given twice"),
        (("dots.yaml", "--seeds", "0,1"), "suite 'dots.yaml' and --seeds"),
        (("--protocol", "dots", "-o", "side=3", "--method", "moody"), "unknown option 'side'"),
    ],
)
def test_what_cannot_run_is_one_error_before_anything_runs(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("run", *arguments, *PLUGIN) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert message in error
    assert not (place / "runs").exists()


def test_each_seed_edits_every_case(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "run",
        "--protocol",
        "dots",
        "--method",
        "moody",
        "--seeds",
        "0,1",
        "--metric",
        "leak_mse",
        *PLUGIN,
    )
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert read_yaml(printed_suite(out))["seeds"] == [0, 1]
    assert "edits: 12 made" in out


def test_json_has_standard_output_to_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert run("run", "--protocol", "dots", "--method", "moody", "--dry-run", "--json", *PLUGIN) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["edits"] == 6
    assert read_yaml(printed_suite(captured.err))["protocols"] == [{"name": "dots"}]


@pytest.mark.parametrize(
    "value", ["5e-1", "yes", "3", "", "a: b", "ü", "#x", 0.5, 5e-7, 10**20, True, None, [1, "1"]]
)
def test_written_yaml_is_read_back_as_it_was(value: object) -> None:
    assert read_yaml(write_yaml({"value": value})) == {"value": value}
    assert type(read_yaml(write_yaml({"value": value}))["value"]) is type(value)
