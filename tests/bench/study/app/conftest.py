"""Studies that tests of the pages visit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.study.app import service as app_service
from bench.study.settings import StudySettings
from tests.bench.study.app.visits import Site
from tests.bench.study.served import odd_run


@pytest.fixture
def _main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the main module back after a test: a page that runs replaces it by its own script."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_run(tmp_path_factory.mktemp("odd") / "run")


@pytest.fixture
def make_site(
    _main_module: None, memory: Path, odd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """Makes a study with the given settings. The visits of its pages end with the test."""
    monkeypatch.setattr("bench.study.security.COST", 2**10)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        # A copy, since some tests spoil files of the run.
        run = Path(shutil.copytree(odd_folder, memory / f"run-{len(sites)}"))
        site = Site(memory / f"s{len(sites)}.db", run, StudySettings(**settings))
        monkeypatch.setenv("PEB_STUDY_STORE", str(site.target))
        monkeypatch.setenv("PEB_STUDY_NAME", "taste")
        sites.append(site)
        return site

    yield make
    for site in sites:
        app_service._SERVICES.pop((str(site.target), "taste")).store.close()
