"""The page in a real browser: gallery and keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.reports.page.browsing import (
    CASES,
    LEAK,
    cards,
    count,
    gallery,
    needs_browser,
    opened,
    texts,
    until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = needs_browser


def test_filters_narrow_the_gallery_and_the_address_says_so(page: Page) -> None:
    gallery(page)
    assert count(page) == "64 edits"
    page.click("#f-method >> text=sd inpainting")
    assert count(page) == "16 of 64 edits"
    page.click("#f-category >> text=replacement")
    assert count(page) == "4 of 64 edits"
    page.click("#f-success >> text=yes")
    assert count(page) == "2 of 64 edits"
    assert all("succeeded" in label and "replacement" in label for label in cards(page))
    address = page.evaluate("location.hash")
    assert "category=replacement" in address
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    assert count(page) == "2 of 64 edits"
    page.click("#f-clear")
    assert count(page) == "64 edits"


def test_the_share_of_success_leaves_controls_out(page: Page) -> None:
    gallery(page)
    # 8 of 16 and all of the 15 that did not fail; the oracle and the untouched input do not count.
    assert page.inner_text("#count").endswith(" · 74.2 % of 31 judged edits succeed, controls left out")
    page.click("#f-method >> text=oracle")
    assert page.inner_text("#count").endswith(" · 100.0 % of 16 judged edits succeed, all of controls")


def test_the_address_of_the_gallery_shows_its_filters(browser: Browser, index: Path) -> None:
    page, complaints = opened(browser, index, "#gallery")
    page.wait_for_timeout(100)
    assert page.evaluate("scrollY") == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    # A browser scrolls to what an address names.
    assert not {"overview", "tables", "figures", "gallery", "run"} & set(ids)
    page.close()
    assert complaints == []


def test_an_edit_that_failed_is_found_and_said(page: Page) -> None:
    gallery(page)
    page.click("#f-success >> text=failed edit")
    assert count(page) == "1 of 64 edits"
    page.click("a.card")
    assert "failed" in page.inner_text("#v-caption")
    page.wait_for_selector("#v-facts >> text=RuntimeError: no")


def test_prompts_are_searched_word_by_word(page: Page) -> None:
    gallery(page)
    page.fill("#f-text", "CASE attribute-2")
    until(page, "document.querySelector('#count strong').textContent === '4 of 64 edits'")
    page.fill("#f-text", "no such words")
    until(page, "!document.querySelector('#empty').hidden")
    assert page.locator("a.card").count() == 0


def test_the_range_of_leak_filters(page: Page) -> None:
    gallery(page)
    page.locator("#f-leak-low").evaluate(
        "(e) => { e.value = 500; e.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    expected = sum(
        v is not None and v >= 0.25 and (name, CASES[k].id) != ("instruct_pix2pix", "background-1")
        for name, values in LEAK.items()
        for k, v in enumerate(values)
    )
    assert count(page) == f"{expected} of 64 edits"
    assert page.locator("#f-leak-low").get_attribute("aria-valuetext") == "0.25"


def test_the_order_follows_a_metric(page: Page) -> None:
    gallery(page)
    page.select_option("#sort", "leak_lpips")
    until(page, "location.hash.includes('sort=leak_lpips')")
    leaks = [float(text) for text in texts(page, ".card-leak") if text != "–"]
    # Worst first.
    assert leaks[0] == 0.5
    assert leaks == sorted(leaks, reverse=True)
    page.click("#sort-way")
    assert texts(page, ".card-leak")[0] == "0"


def test_by_case_every_method_stands_beside_its_source(page: Page) -> None:
    gallery(page)
    page.click("#layout >> text=By case")
    first = page.locator(".case-row").first
    assert first.locator("a.card").count() == 4
    assert first.locator(".card.still .outline").count() == 1
    page.click("#f-method >> text=copy input")
    assert page.locator(".case-row").first.locator("a.card").count() == 1


def test_arrows_move_and_enter_opens(page: Page) -> None:
    page.keyboard.press("4")
    page.wait_for_selector("a.card")
    page.keyboard.press("ArrowDown")

    def position() -> int:
        return int(page.evaluate("document.activeElement.dataset.position"))

    assert position() == 0
    per = page.evaluate("document.querySelector('.row').children.length")
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + per),
        ("ArrowLeft", per),
        ("End", 63),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert position() == place, key
    page.keyboard.press("ArrowRight")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert page.inner_text("#v-position") == "2 of 64"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#v-position") == "3 of 64"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The focus is where the viewer was left.
    until(page, "document.activeElement.dataset.position === '2'")


def test_up_and_down_go_through_the_methods_of_a_case(page: Page) -> None:
    gallery(page)
    page.click("a.card >> nth=0")
    titles = [page.inner_text("#v-title")]
    for _ in range(4):
        page.keyboard.press("ArrowDown")
        titles.append(page.inner_text("#v-title"))
    # The mark of success stands before the name.
    assert [title.lstrip("✓✗").strip() for title in titles] == [
        "sd inpainting",
        "instruct pix2pix",
        "copy input",
        "oracle",
        "sd inpainting",
    ]


def test_the_help_opens_and_closes_by_its_key(page: Page) -> None:
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_everything_that_can_be_pressed_has_a_name(page: Page) -> None:
    gallery(page)
    page.click("a.card >> nth=0")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a[href], input, select, [role=tab], [role=radio]')]
            .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
