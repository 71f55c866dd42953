"""Fixtures of the whole tree: a working directory with a small benchmark, and a finished run of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import PLUGIN, SUITE, run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the plug-in ``cli_plugin`` and the suite ``dots.yaml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEB_DEBUG", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cli_plugin.py").write_text(PLUGIN)
    (tmp_path / "dots.yaml").write_text(SUITE % "")
    yield tmp_path
    sys.modules.pop("cli_plugin", None)


@pytest.fixture(scope="session")
def _finished_dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ``dots.yaml``, made once per worker."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "cli_plugin.py").write_text(PLUGIN)
    (folder / "dots.yaml").write_text(SUITE % "")
    # In this process: a new one would import torch again.
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--quiet") == 0
    finally:
        os.chdir(before)
        # Tests import the plug-in of their own folder.
        while str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.modules.pop("cli_plugin", None)
    return folder / "runs" / "dots"


@pytest.fixture
def finished_run(place: Path, _finished_dots: Path) -> Path:
    """A copy of a finished run of ``dots.yaml``, in ``runs/dots``."""
    # A copy, since tests change it.
    return Path(shutil.copytree(_finished_dots, place / "runs" / "dots"))
