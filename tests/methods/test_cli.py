"""Commands of the methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.thresholds import ThresholdCheck
from tests.command_line import run


@pytest.mark.parametrize(("gap", "code"), [("", 1), ("68 of 160 samples of its recipe", 0)])
def test_zoo_check_fails_for_a_missed_threshold_unless_the_network_is_under_trained(
    gap: str, code: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.zoo import thresholds
    from reports.data import zoo

    missed = ThresholdCheck("blended_diffusion", 0.53, 0.65, False, "target shown", gap)
    monkeypatch.setattr(
        thresholds, "check", lambda world: [ThresholdCheck("lama", 0.0, 0.0, True, "leak"), missed]
    )
    monkeypatch.setattr(zoo, "run_thresholds", lambda folder: [])
    (place / "README.md").write_text("<!-- zoo-gates:start -->\n<!-- zoo-gates:end -->\n")
    assert run("zoo", "check", "--readme", "README.md") == code
    row = f"under-trained | target shown; under-trained: {gap} |" if gap else "**no** | target shown |"
    assert row in (place / "README.md").read_text()
    assert ("under-trained" if gap else "missed") in capsys.readouterr().out
