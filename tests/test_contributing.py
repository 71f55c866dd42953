"""The examples of CONTRIBUTING.md, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every code block of the page that names its file, in which the page's command was run."""
    folder = tmp_path_factory.mktemp("contributing")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"```\w+\n# file: (\S+)\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(body, encoding="utf-8")
    commands = re.findall(r"```bash\npython (run_bench\.py [^\n]+)\n```", page)
    assert len(commands) == 1
    process = subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), *commands[0].split()[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return folder


def test_the_examples_give_the_expected_values(folder: Path) -> None:
    frame = pd.read_csv(folder / "runs" / "discs" / "report" / "data" / "summary.csv")
    means = frame[frame["category"] == "all"].set_index(["metric", "method"])["value"]
    assert means["truth_error", "oracle"] == 0
    # copy_input: mean distance over all pairs of colours and all channels.
    colors = [(200, 40, 40), (40, 160, 60), (50, 70, 200)]
    pairs = [(a, b) for a in colors for b in colors if a != b]
    distance = sum(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)) / (3 * len(pairs) * 255)
    assert means["truth_error", "copy_input"] == pytest.approx(distance)
    # mean_fill: distance of every colour to the gray ground, 128.
    gray = sum(abs(128 - y) for _, b in pairs for y in b) / (3 * len(pairs) * 255)
    assert means["truth_error", "mean_fill"] == pytest.approx(gray, abs=1 / 255)
    assert (means["leak_mse"] == 0).all()


def test_a_preset_is_another_method_with_its_label(folder: Path) -> None:
    frame = pd.read_csv(folder / "runs" / "discs" / "report" / "data" / "summary.csv")
    assert set(frame["method"]) == {"mean_fill", "mean_fill, noisy", "copy_input", "oracle"}
    assert set(frame.loc[frame["category"] == "all", "n"]) == {6}
    assert set(frame["failed"]) == {0}
