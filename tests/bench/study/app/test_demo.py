from __future__ import annotations

from pathlib import Path

import pytest

from bench.study import StudyError, demo
from bench.study.security import PasswordError
from bench.study.store import StudyStore


def test_the_demo_makes_its_study_once_and_tells_the_password_once(
    run_folder: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.study.security.COST", 2**10)
    monkeypatch.setattr(demo, "RATERS", 2)
    monkeypatch.setattr(demo, "TRIALS", 13)
    target = str(memory / "studies.db")
    first, password = demo.prepare(run_folder, target, "http://localhost:8601")
    second, silent = demo.prepare(run_folder, target, "http://localhost:8601")
    assert password is not None
    assert silent is None
    with StudyStore.open(target) as store:
        study = store.study("demo")
        # Four methods that are no controls, and the control at the upper end.
        assert set(study.design.methods) == {"A", "B", "C", "D", "oracle"}
        assert store.address("demo") == "http://localhost:8601"
        store.check_admin("demo", password)
        with pytest.raises(PasswordError):
            store.check_admin("demo", password[:-1])
        raters = {store.redeem(token).rater for token in (first, second)}
        assert len(raters) == 2


def test_without_a_run_the_demo_says_what_to_do(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = memory / "none"
    with pytest.raises(StudyError, match=r"run_bench\.py demo"):
        demo.prepare(run, str(memory / "studies.db"), "http://localhost:8501")
    assert demo.main(["--run", str(run), "--store", str(memory / "studies.db")]) == 1
    assert "run_bench.py demo" in capsys.readouterr().err
