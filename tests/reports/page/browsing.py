"""The run that the browser tests look at, and how they look."""

from __future__ import annotations

import importlib.util
import io
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.reports import fake

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]

CASES = fake.cases()
N = len(CASES)
LEAK = {
    "sd_inpainting": [0.01 * k for k in range(N)],
    "instruct_pix2pix": [None if k == 3 else 0.5 - 0.01 * k for k in range(N)],
    "copy_input": [0.0] * N,
    "oracle": [0.001] * N,
}
VALUES: dict[str, dict[str, list[float | None]]] = {
    "success_truth": {
        "sd_inpainting": [float(k % 2) for k in range(N)],
        "instruct_pix2pix": [1.0] * N,
        "copy_input": [0.0] * N,
        "oracle": [1.0] * N,
    },
    "leak_lpips": {name: list(values) for name, values in LEAK.items()},
    "clip_target": {name: [0.5 + 0.01 * k] * N for k, name in enumerate(LEAK)},
}
EVIL = '<img src=x onerror="window.hacked=1"></script><b>bold</b> & more'


class Complaints(list[str]):
    """Errors and warnings of the browser's console and its pages, and requests to the network."""

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("request", lambda r: self.append(r.url) if not r.url.startswith(("file:", "data:")) else None)


def opened(browser: Browser, index: Path, fragment: str = "", **options: Any) -> tuple[Page, Complaints]:
    page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **options})
    complaints = Complaints()
    complaints.watch(page)
    page.goto(index.as_uri() + fragment)
    page.wait_for_selector("html[data-ready=true]")
    return page, complaints


def until(page: Page, condition: str, seconds: float = 10) -> None:
    """Waits until a JavaScript expression holds.

    Playwright's own waiting evaluates text in the page, which the page's policy forbids to anyone.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never came true: {condition}"
        page.wait_for_timeout(20)


def texts(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def cards(page: Page) -> list[str]:
    return [str(card.get_attribute("aria-label")) for card in page.locator("a.card").all()]


def pixel(page: Page, selector: str, x: float, y: float) -> tuple[int, int, int]:
    """The colour at a place of an element, as shares of its sides."""
    picture = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    value = picture.getpixel((int(x * picture.width), int(y * picture.height)))
    assert isinstance(value, tuple)
    return value  # type: ignore[return-value]


def gallery(page: Page) -> None:
    page.click("#tab-gallery")
    page.wait_for_selector("a.card")


def count(page: Page) -> str:
    return page.inner_text("#count strong")
