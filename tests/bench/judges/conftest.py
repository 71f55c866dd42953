from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.endpoints import client
from tests.bench.endpoints.fake_server import KEY, FakeApi, fake_api
from tests.bench.judges.chats import by_pixels


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("PROMPTEDITBENCH_KEYS", "")
    with fake_api() as server:
        server.default = by_pixels
        monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_KEY", KEY)
        yield server
