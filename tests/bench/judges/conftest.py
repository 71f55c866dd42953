from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.endpoints import client
from tests.bench.endpoints.fake_server import KEY, FakeApi, fake_api
from tests.bench.judges.chats import by_pixels


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PROMPTEDITBENCH_KEYS", "")
    # Replies are shared by the runs of a test alone.
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "shared-cache"))
    with fake_api() as server:
        server.default = by_pixels
        monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_KEY", KEY)
        yield server
