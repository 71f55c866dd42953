"""One browser and one page for all browser tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.edit import EditCase, EditRequest
from reports.page import write_page
from tests.reports import fake

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

from tests.reports.page.browsing import CASES, CHROMIUM, EVIL, VALUES, opened


# Not for the session: Playwright runs once per process, and other modules start it too.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # The sandbox of Chromium does not start for root, as in a container.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picked = list(CASES)
    request = picked[0].request
    evil = EditRequest(request.source, request.mask, EVIL, EVIL, EVIL, EVIL, edit_words=("bold",))
    picked[0] = EditCase(
        picked[0].id, picked[0].category, evil, source_id=picked[0].source_id, truth=request.source
    )
    store = fake.run(
        tmp_path_factory.mktemp("page") / "a #1 run?",
        VALUES,
        failed=[("instruct_pix2pix", "background-1")],
        picked=picked,
    )
    return write_page(store, fake.METRICS)


@pytest.fixture
def page(browser: Browser, index: Path) -> Iterator[Page]:
    page, complaints = opened(browser, index)
    yield page
    page.close()
    assert complaints == []
