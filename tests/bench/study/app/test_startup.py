from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bench.study.app import service as app_service
from bench.study.app import startup
from bench.study.design import Design
from bench.study.images import ImageServer
from bench.study.store import StudyStore


def test_the_server_prepares_the_pictures_when_it_starts(
    memory: Path, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = memory / "studies.db"
    with StudyStore.open(target) as store:
        store.create("taste", design)
    monkeypatch.setattr("sys.argv", ["app.py", "--store", str(target), "--study", "taste"])
    monkeypatch.setattr(startup.gc, "freeze", lambda: None)
    ready = threading.Event()
    monkeypatch.setattr(ImageServer, "warm", lambda _, given: given.digest == design.digest and ready.set())

    async def run() -> bool:
        async with startup.lifespan(None):
            return await asyncio.to_thread(ready.wait, 60)

    assert asyncio.run(run())
    app_service._SERVICES.pop((str(target), "taste")).store.close()


def test_a_study_that_is_not_there_does_not_stop_the_server(
    memory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["app.py", "--store", str(memory / "none.db"), "--study", "taste"])
    startup._prepare()
    assert "there is no study database" in caplog.text
