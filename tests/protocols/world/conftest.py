from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the rendered data sets, which take half a minute to draw: one for all tests of a process."""
    return tmp_path_factory.mktemp("mini")
