from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.open(tmp_path / "run", create=True) as opened:
        yield opened
