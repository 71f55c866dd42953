"""The front door: help, mistakes, exit codes, and a process whose output goes nowhere."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import ROOT, SCRIPT, SUITE, process, run

COMMANDS = [
    ["list"],
    ["doctor"],
    ["cases"],
    ["run"],
    ["edit"],
    ["score"],
    ["report"],
    ["demo"],
    ["train"],
    ["train-sd15"],
    ["tags"],
    ["zoo"],
    ["zoo", "check"],
    ["zoo", "sheet"],
    ["compare"],
    ["verify"],
    ["export"],
    ["study"],
    ["study", "create"],
    ["study", "analyse"],
    ["measure"],
    [],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "top")
def test_every_help_shows_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert f"python run_bench.py {' '.join(command)}".strip() in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu", "demo"], "Did you mean 'run'?"),
        (["run", "demo", "--devise", "cpu"], "--device"),
        (["run", "dmeo"], "Did you mean 'demo'?"),
        (["run", "nowhere/suite.yaml"], "nowhere/suite.yaml: no such suite file"),
        (["list", "method"], "Did you mean 'methods'?"),
        (["run", "demo", "--device", "tpu"], "--device 'tpu': one of auto, cpu, cuda"),
        (["cases", "mini-cocoa", "--out", "x"], "Did you mean 'mini-coco'?"),
        (["cases", "mini-coco", "--out", "x", "-o", "seed"], "write KEY=VALUE"),
        (["cases", "coco", "--out", "x", "-o", "root=nowhere"], "nowhere"),
        (["score", "runs/none"], "no such run folder"),
        (["report", "runs/none"], "no such run folder"),
        (["report"], "name a run folder"),
        (["verify", "runs/none"], "no such run folder"),
        (["compare", "runs/none", "runs/none"], "no such run folder"),
        (["export", "runs/none", "--out", "x.json"], "no such run folder"),
        (["run", "demo", "--plugin", "no_such_plugin"], "no_such_plugin"),
        (["measure", "a.png", "b.png", "--mask", "m.png"], "a.png"),
        (["train", "nothing"], "unknown recipe 'nothing'"),
        (["train-sd15"], "name --coco, --celeba or both"),
        (["train-sd15", "--coco", "nowhere"], "nowhere: missing. Expected a folder with train2017"),
        (["train-sd15", "promt_edit_diff", "--dry-run"], "expected one of prompt_edit_diff"),
        (["zoo", "check", "--readme", "none.md"], "--readme none.md: no such file"),
        (["train-sd15", "promt_edit_diff", "--coco", "nowhere"], "expected one of prompt_edit_diff"),
        (["tags"], "name a prompt or --protocol"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_red_line_and_exit_code_2(
    arguments: list[str], says: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if arguments[:1] == ["run"] and "--device" in arguments:
        arguments = ["run", "dots.yaml", "--plugin", "cli_plugin", *arguments[2:]]
    assert run(*arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err


def test_a_misspelt_method_in_a_suite_is_named_with_a_suggestion(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "dots.yaml").write_text("name: x\nprotocols: [dots]\nmethods: [moodie]\n")
    assert run("run", "dots.yaml", "--plugin", "cli_plugin") == 2
    assert "Did you mean 'moody'?" in capfd.readouterr().err


def test_an_unknown_key_in_a_suite_is_refused_with_its_line(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "dots.yaml").write_text("name: x\nprotocols: [dots]\nmethods: [copy_input]\nsede: 3\n")
    assert run("run", "dots.yaml", "--plugin", "cli_plugin") == 2
    err = capfd.readouterr().err
    assert "dots.yaml:4" in err
    assert "Did you mean 'seed'?" in err


def test_debug_shows_the_traceback(place: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder"):
        run("--debug", "report", "runs/none")


def test_a_defect_is_never_dressed_up_as_a_user_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.store import RunStore

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(RunStore, "open", broken)
    with pytest.raises(KeyError):
        run("report", "runs/none")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert run("--version") == 0
    assert capsys.readouterr().out == f"prompteditbench {declared}\n"


LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report"], "error: name a run folder, such as runs/demo.\n"),
        (["study", "analyse"], "error: study analyse: name either a study or a file of votes (--votes).\n"),
        (["cases", "mini-coco", "--out", "x", "-o", "seed"], "error: --option 'seed': write KEY=VALUE"),
        (["run", LONG], "File name too long. Give a shorter name."),
        (["export", "runs/dots", "--out", "dots.yaml/x.json"], "dots.yaml: Not a directory. Check the path."),
        (["compare", "runs/dots", "runs/dots", "--out", "/dev/full"], "/dev/full: is no regular file."),
        (["report", "runs/dots", "--readme", "none.md"], "error: --readme none.md: no such file."),
        (["study", "import", "none.csv", "--out", "o.csv"], "none.csv: No such file or directory."),
        (
            ["cases", "fussy", "--out", "x", "-o", "canvas=0", "--plugin", "cli_plugin"],
            "error: fussy: canvas 0: expected 1 or more.\n",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_users_fault_is_one_line_without_a_traceback(arguments: list[str], says: str, place: Path) -> None:
    # As a process, since streams and exit codes are those of the operating system.
    done = process(*arguments)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("group", [[], ["study"], ["zoo"]])
def test_without_a_command_there_is_help(group: list[str]) -> None:
    done = process(*group)
    assert "Usage: run_bench.py" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_is_one_line_and_those_of_libraries_are_left_out(place: Path) -> None:
    done = process("cases", "fussy", "--out", "x", "--plugin", "cli_plugin")
    lines = [line for line in done.stderr.splitlines() if "dots are few" in line or "concern" in line]
    assert lines == ["warning: the dots are few."]
    assert ".py" not in done.stderr


def test_a_run_goes_on_when_nobody_reads_it(place: Path) -> None:
    done = process("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", shell="| head -1")
    assert done.returncode == 0
    assert done.stdout.startswith("edits: 12 made")
    assert "note: standard output was closed early; the command ran to its end." in done.stderr
    assert (place / "runs" / "dots" / "report" / "index.html").exists()


def test_a_full_disk_under_standard_output_is_told_at_the_end(place: Path) -> None:
    done = process("list", "suites", shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: No space left on device. Free some space")
    assert done.stderr.count("\n") == 1


def test_a_closed_standard_output_stops_nothing(place: Path) -> None:
    done = process("cases", "dots", "--out", "x", "--plugin", "cli_plugin", shell=">&- 2>&-")
    assert done.returncode == 0
    rows = [json.loads(line) for line in (place / "x" / "cases.jsonl").read_text().splitlines()]
    assert len(rows) == 6


@pytest.mark.usefixtures("finished_run")
def test_a_full_disk_is_told_with_the_file_and_the_remedy(place: Path) -> None:
    # No file may grow beyond a block.
    export = [*SCRIPT, "export", "runs/dots", "--out", "e.json", "--plugin", "cli_plugin"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *export],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: e.json: File too large. Free some space and repeat the command. What is stored is kept.\n"
    )
    assert not [path for path in place.iterdir() if path.suffix in (".json", ".tmp")]


@pytest.mark.usefixtures("finished_run")
def test_a_terminal_of_any_encoding_gets_the_tables(place: Path) -> None:
    # Symbols that an encoding lacks have a replacement of the same width.
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = subprocess.run(
            [*SCRIPT, "report", "runs/dots", "--plugin", "cli_plugin"],
            capture_output=True, check=False, timeout=300, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "copy_input" in text
        assert ("↓" in text) == (encoding == "utf-8")
        assert "?" not in text


def test_json_loses_no_letter_on_a_terminal_that_lacks_it(place: Path) -> None:
    suite = SUITE.replace("- copy_input", "- {method: copy_input, label: nichts é 中}")
    (place / "dots.yaml").write_text(suite % "", encoding="utf-8")
    command = ("run", "dots.yaml", "--plugin", "cli_plugin", "--dry-run", "--json")
    done = process(*command, environment={"PYTHONIOENCODING": "ascii"})
    assert "nichts é 中" in {row["method"] for row in json.loads(done.stdout)["rows"]}


def test_ctrl_c_says_what_is_kept(place: Path) -> None:
    (place / "dots.yaml").write_text((SUITE % "").replace('fail: ""', "seconds: 0.5"))
    command = [*SCRIPT, "edit", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--batch-size", "1"]
    # Stopped once an edit of the slow method is stored.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        log = place / "runs" / "dots" / "edits.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and "moody" in log.read_text()):
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "error: stopped. What is stored is kept; the same command goes on from there." in err
    assert "Traceback" not in err
    # The same command makes the rest.
    done = process("edit", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--batch-size", "1")
    new, stored = (int(n) for n in re.findall(r"edits: (\d+) made, (\d+) there already", done.stdout)[0])
    assert new + stored == 12
    assert stored >= 7


def test_the_script_and_a_closed_pipe() -> None:
    done = subprocess.run(
        f"{sys.executable} {ROOT / 'run_bench.py'} list metrics | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("name")
    assert "Traceback" not in done.stderr
