"""The page in a real browser: cases without a mask, further input images, several seeds, and a wide table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from bench.edit import MethodSpec
from reports.page import write_page
from tests.reports import fake
from tests.reports.page.browsing import cards, gallery, needs_browser, opened, texts, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = needs_browser


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with two seeds. Its first case has an instruction alone, and two further input images."""
    first, second, *_ = fake.cases()
    references = (Image.new("RGB", (30, 20), "red"), Image.new("RGB", (20, 30), "blue"))
    request = replace(first.request, mask=None, target_prompt="", source_prompt="", references=references)
    picked = [replace(first, request=request, category="style"), second]
    values = {"leak_lpips": {"oracle": [None, 0.0]}}
    store = fake.run(tmp_path_factory.mktemp("page"), values, picked=picked, seeds=(0, 7))
    return write_page(store, fake.METRICS)


@pytest.fixture
def page(browser: Browser, instructed: Path) -> Iterator[Page]:
    page, complaints = opened(browser, instructed, "#gallery?layout=case")
    yield page
    page.close()
    assert complaints == []


def test_cards_name_the_seed_and_stand_beside_the_references(page: Page) -> None:
    row = page.locator(".case-row").first
    assert row.locator(".still").all_inner_texts() == ["source", "reference", "reference"]
    assert row.locator(".outline").count() == 0
    assert [label.split(",")[1] for label in cards(page)] == [" seed 0", " seed 7"] * 8
    assert [foot.split(" · ")[0] for foot in texts(page, "a.card .card-leak")] == ["seed 0", "seed 7"] * 8
    until(page, "[...document.querySelectorAll('.still img')].every((i) => i.complete && i.naturalWidth)")
    # The case's own category, and the paper's that occurs.
    assert texts(page, "#f-category .chip") == ["attribute", "style"]


def test_a_refused_edit_is_no_failure(page: Page) -> None:
    assert texts(page, ".case-row:first-child .no-image") == ["refused"] * 2
    assert "2 refused" in page.inner_text("#run-facts")
    assert "0 failed" in page.inner_text("#run-facts")
    page.click("#f-success >> text=refused")
    assert page.inner_text("#count strong") == "2 of 16 edits"


def test_an_edit_without_a_mask_has_no_outline_and_no_empty_prompt(page: Page) -> None:
    page.click("a.card[aria-label^='oracle, seed 7, style']")
    assert page.inner_text("#v-title").strip().endswith("oracle, seed 7")
    assert texts(page, "#v-prompts dt") == ["in the region", "instruction"]
    assert not page.is_visible("#v-outline")
    assert texts(page, "#v-strip .strip-cell")[:3] == ["source", "reference", "reference"]
    # The address leads to the same seed.
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    assert page.inner_text("#v-title").strip().endswith("oracle, seed 7")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#v-outline")


def test_the_overview_at_1300_pixels_shows_all_of_its_columns(browser: Browser, tmp_path: Path) -> None:
    names = ("prompt_edit_diff", "blended_latent_diffusion", "sdedit")
    methods = [MethodSpec(name, {}) for name in names]
    metrics = {
        "success_truth": fake.info("0/1", True),
        "leak_lpips": fake.info("LPIPS", False),
        "leak_psnr": fake.info("dB", True),
        "clip_target": fake.info("cosine", True),
        "clip_directional": fake.info("cosine", True),
        "fid": fake.info("", False),
    }
    count = len(fake.cases())
    values: dict[str, dict[str, list[float | None]]] = {
        metric: {name: [(k * 7 + m) % 5 / 4 for k in range(count)] for m, name in enumerate(names)}
        for metric in metrics
        if metric != "fid"
    }
    sets = {name: (153.8 + m, 123.4, 187.6) for m, name in enumerate(names)}
    store = fake.run(tmp_path / "r", values, methods=methods, sets=sets)
    page, complaints = opened(browser, write_page(store, metrics), viewport={"width": 1300, "height": 900})
    inner, outer = page.evaluate(
        "(() => { const e = document.querySelector('.beside .scroll'); return [e.scrollWidth, e.clientWidth]; })()"
    )
    assert inner > 700, "the table has all columns"
    assert inner == outer
    assert page.locator(".beside .plot").bounding_box()["width"] >= 300  # type: ignore[index]
    page.close()
    assert complaints == []


def test_a_methods_remark_stands_wherever_its_name_does(browser: Browser, tmp_path: Path) -> None:
    methods = [MethodSpec("glide", {}, remark="under-trained"), MethodSpec("sdedit", {})]
    count = len(fake.cases())
    values: dict[str, dict[str, list[float | None]]] = {
        "leak_lpips": {"glide": [0.1] * count, "sdedit": [0.2] * count}
    }
    store = fake.run(tmp_path / "r", values, methods=methods)
    page, complaints = opened(browser, write_page(store, fake.METRICS))
    # The filter, the viewer and the page of the run.
    gallery(page)
    assert texts(page, "#f-method .chip") == ["glide, under-trained", "sdedit"]
    page.click("a.card >> nth=0")
    assert "glide, under-trained" in page.inner_text("#v-title")
    page.keyboard.press("Escape")
    page.click("#tab-run")
    assert "glide, under-trained" in texts(page, "article h3")
    page.close()
    assert complaints == []
