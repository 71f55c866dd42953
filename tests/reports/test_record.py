"""A report is built anew from its record by ``verify``."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reports import record
from tests.command_line import SUITE, run


def verified(capsys: pytest.CaptureFixture[str], folder: str, *more: str) -> dict[str, Any]:
    """Runs ``verify --json`` and returns its result. The exit code must agree."""
    capsys.readouterr()
    code = run("verify", folder, "--device", "cpu", "--json", "--plugin", "cli_plugin", *more)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if result["ok"] else 1)
    return result


def test_a_run_is_verified_by_making_all_of_it_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "dots.yaml").write_text((SUITE % "").replace("leak_changed", "leak_changed, vgg16_frechet"))
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin") == 0
    # Nothing is left unchecked.
    whole = verified(capsys, "runs/dots")
    assert whole["problems"] == []
    assert {check["what"]: check["checked"] == check["total"] for check in whole["checks"]} == dict.fromkeys(
        (
            *(
                "methods in run.json",
                "files",
                "cases of dots",
                "records of edits",
                "edits",
                "records of scores",
            ),
            *("edits scored again", "set scores", "files of the report"),
        ),
        True,
    )
    assert whole["verdict"] == "runs/dots: is what it claims."
    # A renamed folder is the same run.
    shutil.move("runs/dots", "runs/moved")
    assert verified(capsys, "runs/moved")["ok"]
    # A report with options of its own is built anew with them.
    assert run("report", "runs/moved", "--intervals", "plus-minus", "--paper", "--plugin", "cli_plugin") == 0
    assert verified(capsys, "runs/moved")["ok"]
    # An edit replaced with its record, a value of a set, a number of a table: all by someone who mends digests.
    edit = sorted(Path("runs/moved/edits").rglob("*.png"))[0]
    Image.new("RGB", (32, 32), "white").save(edit)
    forged = hashlib.sha256(edit.read_bytes()).hexdigest()
    log = Path("runs/moved/edits.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        if row["file"] == edit.relative_to("runs/moved").as_posix():
            row["sha256"] = forged
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = Path("runs/moved/scores/set.json")
    values = json.loads(sets.read_text())
    values[0]["value"] += 1
    sets.write_text(json.dumps(values))
    table = Path("runs/moved/report/tables/main-dots.tex")
    table.write_text(table.read_text().replace("toprule", "midrule"))
    Path("runs/moved/digests.jsonl").unlink()
    # Each forgery is named.
    problems = "\n".join(verified(capsys, "runs/moved")["problems"])
    assert f"leak_mse of {edit.stem}" in problems
    assert "scores/set.json" in problems
    assert "report/tables/main-dots.tex: differs" in problems


def test_a_report_writes_down_no_address_of_a_database() -> None:
    assert record.without_address("postgresql://ann:secret@host/votes") == record.NOT_RECORDED
    assert record.without_address("votes.db") == "votes.db"
    assert record.without_address(None) is None


@pytest.mark.usefixtures("finished_run")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ".."}, "'..' is no folder's name"),
        ({"name": "a/b"}, "'a/b' is no folder's name"),
        ({"options": {"study": "taste", "store": "postgresql://host/votes"}}, "database whose address"),
    ],
)
def test_the_record_of_a_report_is_data(
    place: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    """It names no place outside the folder to build in, and no server to talk to."""
    path = Path("runs/dots") / record.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = verified(capsys, "runs/dots", "--sample", "0", "--sets", "0")
    how = {check["what"]: check["how"] for check in result["checks"]}
    assert says in how["files of the report"]


@pytest.mark.usefixtures("finished_run")
def test_what_cannot_be_made_again_here_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A later version of the protocol.
    plugin = place / "cli_plugin.py"
    plugin.write_text(plugin.read_text().replace('stable_digest("dots")', 'stable_digest("later")'))
    sys.modules.pop("cli_plugin", None)
    result = verified(capsys, "runs/dots", "--sample", "0", "--sets", "0")
    how = {check["what"]: check["how"] for check in result["checks"]}
    assert result["ok"]
    assert "digests alone" in how["cases of dots"]
    assert "the installed protocol dots 1 has the digest" in how["cases of dots"]
