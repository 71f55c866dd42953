"""The page in a real browser, from disk: what is shown, what moves, what stays small."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from bench.edit import EditCase, EditRequest
from bench.store import RunStore
from reports.page import write as writing
from reports.page import write_page
from tests.reports import fake

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # The sandbox of Chromium does not start for root, as in a container.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield made
        made.close()


@pytest.fixture(scope="module")
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


class Complaints(list[str]):
    """What the browser's console and its pages complained of."""

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


@pytest.fixture
def page(browser: Browser, index: Path) -> Iterator[Page]:
    page, complaints = opened(browser, index)
    yield page
    page.close()
    assert complaints == []


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
    found = picture.getpixel((int(x * picture.width), int(y * picture.height)))
    assert isinstance(found, tuple)
    return found  # type: ignore[return-value]


# --- tables --------------------------------------------------------------------------------------------


def test_the_page_opens_from_disk_with_its_tables(page: Page) -> None:
    assert page.title() == "a #1 run? · PromptEditBench"
    assert "64 edits" in page.inner_text("#run-facts")
    rows = texts(page, "#table-main-mini-coco tbody tr th")
    assert rows == ["sd inpainting", "instruct pix2pix", "copy input", "oracle"]


def test_sorting_keeps_the_controls_apart(page: Page) -> None:
    def order() -> list[str]:
        return texts(page, "#table-main-mini-coco tbody tr th")

    head = page.locator("#table-main-mini-coco th", has_text="leak LPIPS")
    head.locator("button").click()
    # Lower is better, so the first click shows the lowest first.
    assert head.get_attribute("aria-sort") == "ascending"
    assert order() == ["sd inpainting", "instruct pix2pix", "copy input", "oracle"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert order() == ["instruct pix2pix", "sd inpainting", "oracle", "copy input"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert order() == ["sd inpainting", "instruct pix2pix", "copy input", "oracle"]


def head(page: Page) -> list[str]:
    """The headings of the columns that are shown, without n and failed."""
    cells = page.locator("#table-main-mini-coco thead tr:last-child th").all()
    return [" ".join(cell.inner_text().split()) for cell in cells if cell.is_visible()][1:-2]


MAIN = ["success (truth) % ↑", "leak LPIPS ↓", "CLIP target ↑"]


def test_the_first_screen_has_verdict_plot_and_main_columns(page: Page) -> None:
    assert page.locator("#panel-overview").is_visible()
    first = texts(page, ".verdict li")[0]
    assert first.startswith("Success (truth): instruct pix2pix has the highest, 100.0 % (")

    # As many marks as methods with both values, each as the table beside it shows it.
    def paths(rows: str, mark: str) -> list[list[str]]:
        found: list[list[str]] = page.evaluate(
            "([rows, mark]) => [...document.querySelectorAll(rows)]"
            ".map((e) => [e.dataset.method, e.querySelector(mark).getAttribute('d')])",
            [rows, mark],
        )
        return found

    marks = paths(".plot g[data-method]", "path")
    swatches = paths("#table-main-mini-coco tbody:first-of-type tr", ".swatch path")
    assert marks == swatches
    assert [name for name, _ in marks] == ["sd_inpainting", "instruct_pix2pix"]
    # What the signs mean stands with the table.
    key = page.locator("#panel-overview .key").inner_text()
    assert "bold: best method" in key
    assert page.locator("#panel-overview .notes").count() == 1


def test_columns_are_chosen_and_the_link_keeps_them(browser: Browser, page: Page, index: Path) -> None:
    assert head(page) == MAIN
    page.click(".chooser summary")
    page.locator(".choices input").nth(1).uncheck()
    page.keyboard.press("Escape")
    assert not page.locator(".choices").is_visible()
    assert head(page) == [MAIN[0], *MAIN[2:]]
    assert page.inner_text(".chooser .count") == f"{len(MAIN) - 1} of {len(MAIN)}"
    link = copied(page, "Link")
    assert link.startswith(index.as_uri())
    assert link.endswith("#overview?table=main-mini-coco&columns=success_truth%2Cclip_target")
    other, complaints = opened(browser, index, "#" + link.split("#")[1])
    assert head(other) == [MAIN[0], *MAIN[2:]]
    other.close()
    assert complaints == []


def copied(page: Page, what: str, place: str = "#panel-overview .table-figure") -> str:
    """What a button copies. A page without a window has no clipboard: the page's own is replaced."""
    page.evaluate(
        "() => { window.copied = null; Object.defineProperty(navigator, 'clipboard',"
        " { configurable: true, value: { writeText: async (text) => { window.copied = text; } } }); }"
    )
    page.click(f"{place} >> text=Copy {what}")
    until(page, "window.copied !== null")
    return str(page.evaluate("window.copied"))


def test_tables_are_copied_as_the_files_are_written(page: Page, index: Path) -> None:
    from bench.tables import latex
    from bench.tables.markup import csv_text
    from reports.data.report_data import ReportData
    from reports.data.scores import load
    from reports.data.summary import summary
    from reports.tables.standard import standard_tables

    scores = load(RunStore.open(index.parents[1]))
    data = ReportData(summary(scores, fake.METRICS), fake.METRICS, scores.controls)
    table = standard_tables(data)[0]
    assert copied(page, "LaTeX") == latex.HEAD + latex.table(table)
    assert copied(page, "CSV") == csv_text(table)


def test_an_address_opens_a_folded_table(browser: Browser, index: Path) -> None:
    page, complaints = opened(
        browser, index, "#tables?table=success-truth-mini-coco&columns=success_truth/background"
    )
    table = page.locator("#table-success-truth-mini-coco")
    assert table.is_visible()
    shown = [" ".join(th.inner_text().split()) for th in table.locator("thead th").all() if th.is_visible()]
    assert shown == ["Method", "background % ↑", "n", "failed"]
    assert "table=success-truth-mini-coco" in page.url
    page.close()
    assert complaints == []


def test_figures_and_files_are_on_the_page(browser: Browser, tmp_path: Path) -> None:
    from reports.write import write_report

    store = fake.run(tmp_path / "r", VALUES)
    done = write_report(store, fake.METRICS, resamples=50)
    index = write_page(store, fake.METRICS, tables=done.tables, figures=done.figures, files=done.files)
    store.close()
    page, complaints = opened(browser, index, "#figures")
    names = [figure.name for figure in done.figures]
    assert page.evaluate("[...document.querySelectorAll('.pictures figure')].map((f) => f.id)") == [
        f"figure-{n}" for n in names
    ]
    page.locator(".pictures img").first.scroll_into_view_if_needed()
    until(page, "document.querySelector('.pictures img').naturalWidth > 100")
    links = page.evaluate(
        "[...document.querySelectorAll('#panel-figures a')].map((a) => decodeURIComponent(new URL(a.href).pathname))"
    )
    assert all(Path(link).is_file() for link in links)
    assert {str(path) for path in done.files} <= set(links)
    page.close()
    assert complaints == []


def test_text_stands_out_from_its_ground() -> None:
    """WCAG 2.2, 1.4.3: 4.5 : 1 for every colour of text on every ground that it stands on, light and dark."""
    css = (Path(writing.HERE) / "style.css").read_text()
    pairs = dict(re.findall(r"--([a-z-]+): light-dark\((#\w{6}, #\w{6})\)", css))

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in (0, 1):
        value = {name: luminance(both.split(", ")[scheme]) for name, both in pairs.items()}
        for text in ("ink", "muted", "faint", "accent", "bad", "good"):
            for ground in ("paper", "surface", "raised"):
                low, high = sorted((value[text], value[ground]))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, text, ground)
    assert re.search(r"\.interval \{[^}]*color: var\(--faint\)", css)


# --- gallery -------------------------------------------------------------------------------------------


def gallery(page: Page) -> None:
    page.click("#tab-gallery")
    page.wait_for_selector("a.card")


def count(page: Page) -> str:
    return page.inner_text("#count strong")


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
    shown = [float(text) for text in texts(page, ".card-leak") if text != "–"]
    # Worst first.
    assert shown[0] == 0.5
    assert shown == sorted(shown, reverse=True)
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
    seen = [page.inner_text("#v-title")]
    for _ in range(4):
        page.keyboard.press("ArrowDown")
        seen.append(page.inner_text("#v-title"))
    # The mark of success stands before the name.
    assert [title.lstrip("✓✗").strip() for title in seen] == [
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


# --- one edit ------------------------------------------------------------------------------------------

SOURCE = (90, 40, 60)  # of the case attribute-1
EDIT = (45, 20, 30)


def an_edit(page: Page, method: str = "sd inpainting") -> None:
    gallery(page)
    page.click(f"#f-method >> text={method}")
    page.click("a.card >> nth=1")
    until(page, "[...document.querySelectorAll('.frame img')].every((i) => i.complete)")
    page.uncheck("#v-outline")


def test_the_slider_shows_before_on_its_left_and_after_on_its_right(page: Page) -> None:
    an_edit(page)
    assert pixel(page, ".frame", 0.25, 0.9) == SOURCE
    assert pixel(page, ".frame", 0.75, 0.9) == EDIT
    page.focus(".frame input")
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    # By 60 steps of half a per cent: from the middle to a fifth; the edit did not change.
    assert page.inner_text("#v-position") == "2 of 16"
    assert float(page.input_value(".frame input")) == 20
    assert pixel(page, ".frame", 0.25, 0.9) == EDIT
    assert pixel(page, ".frame", 0.1, 0.9) == SOURCE


def test_side_by_side_and_flipping(page: Page) -> None:
    an_edit(page)
    page.keyboard.press("d")
    assert pixel(page, ".frame >> nth=0", 0.5, 0.9) == SOURCE
    assert pixel(page, ".frame >> nth=1", 0.5, 0.9) == EDIT
    page.keyboard.press("s")
    page.keyboard.down("b")
    assert pixel(page, ".frame", 0.75, 0.9) == SOURCE
    page.keyboard.up("b")
    assert pixel(page, ".frame", 0.75, 0.9) == EDIT


def inferno(level: float) -> tuple[float, ...]:
    """The map's colour at a level in [0, 1], from its nine points."""
    ramp = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "fcffa4"]
    k = min(7, int(level * 8))
    part = level * 8 - k
    ends = [[int(ramp[j][i : i + 2], 16) for i in (0, 2, 4)] for j in (k, k + 1)]
    return tuple(a + part * (b - a) for a, b in zip(*ends, strict=True))


def test_the_heat_map_is_the_difference_outside_the_mask(page: Page) -> None:
    an_edit(page)
    page.keyboard.press("h")
    until(page, "[...document.querySelectorAll('.frame img')].every((i) => i.complete)")
    # The largest channel differs by 45 of 255; at a gain of four that is 180.
    assert pixel(page, ".frame", 0.1, 0.9) == pytest.approx(inferno(180 / 255), abs=4)
    # The mask of this case is an ellipse around (28, 28) of 64.
    inside = pixel(page, ".frame", 28 / 64, 28 / 64)
    assert max(inside) - min(inside) <= 2
    page.uncheck("#v-outside")
    assert pixel(page, ".frame", 28 / 64, 28 / 64) == pytest.approx(inferno(180 / 255), abs=4)
    page.select_option("#v-gain", "1")
    # Below an eighth of the scale the map lets the picture through; this is above.
    assert pixel(page, ".frame", 0.1, 0.9) != pytest.approx(inferno(180 / 255), abs=30)
    assert "≥ 255" in page.inner_text("#v-caption")


def test_an_edit_that_changed_nothing_has_no_heat(page: Page) -> None:
    an_edit(page, "copy input")
    page.keyboard.press("h")
    page.select_option("#v-gain", "16")
    for x, y in ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1)):
        found = pixel(page, ".frame", x, y)
        assert max(found) - min(found) <= 2


def test_the_outline_of_the_mask_is_drawn(page: Page) -> None:
    an_edit(page, "copy input")
    page.check("#v-outline")
    frame = Image.open(io.BytesIO(page.locator(".frame").first.screenshot())).convert("RGB")
    pink = [(x, y) for x in range(frame.width) for y in range(frame.height) if _pink(frame.getpixel((x, y)))]
    box = [min(x for x, _ in pink), min(y for _, y in pink), max(x for x, _ in pink), max(y for _, y in pink)]
    # The ellipse of fake.cases for case 1.
    expected = [12 / 64, 12 / 64, 45 / 64, 45 / 64]
    assert [v / frame.width for v in box] == pytest.approx(expected, abs=0.01)


def _pink(value: object) -> bool:
    assert isinstance(value, tuple)
    return value[0] > 230 and value[1] < 80 and 100 < value[2] < 170


def test_scores_and_their_reasons_are_shown(page: Page) -> None:
    gallery(page)
    page.click("#f-method >> text=instruct pix2pix")
    page.click("a.card >> nth=3")
    page.wait_for_selector("#v-scores td")
    scores = dict(
        zip(
            texts(page, "#v-scores tr:not(.group) th"),
            texts(page, "#v-scores tr:not(.group) td"),
            strict=True,
        )
    )
    assert scores == {"success (truth) ↑": "✓ yes", "leak LPIPS ↓": "none", "CLIP target ↑": "0.51"}
    assert len(page.inner_text("#v-facts code.long")) == 64


def test_an_address_opens_its_edit_and_back_closes_it(browser: Browser, index: Path) -> None:
    digest = fake.METHODS[0].digest
    fragment = f"#gallery?edit=mini-coco%2F{digest}%2Freplacement-2"
    page, complaints = opened(browser, index, fragment)
    assert page.locator("#viewer").is_visible()
    assert "replacement-2" in page.inner_text("#v-place")
    page.keyboard.press("Escape")
    until(page, "!location.hash.includes('edit=')")
    assert not page.locator("#viewer").is_visible()
    page.close()
    assert complaints == []


def test_the_address_of_an_edit_keeps_how_it_is_looked_at(browser: Browser, page: Page, index: Path) -> None:
    an_edit(page)
    page.keyboard.press("h")
    page.select_option("#v-gain", "16")
    page.uncheck("#v-outside")
    address = page.evaluate("location.hash")
    assert all(part in address for part in ("view=heat", "gain=16", "inside=1", "outline=0"))
    other, complaints = opened(browser, index, address)
    assert other.locator("#v-stage").get_attribute("class") == "stage heat"
    assert other.input_value("#v-gain") == "16"
    assert not other.is_checked("#v-outside")
    assert not other.is_checked("#v-outline")
    other.click("#v-mode >> text=Side by side")
    assert "view=pair" in other.evaluate("location.hash")
    other.close()
    assert complaints == []


# --- safety, size, places ------------------------------------------------------------------------------


def test_text_of_the_data_is_only_ever_text(page: Page) -> None:
    gallery(page)
    page.click("#layout >> text=By case")
    assert EVIL in page.inner_text(".case-head >> nth=0")
    page.click("a.card >> nth=0")
    page.wait_for_selector("#v-scores td")
    assert page.inner_text("#v-prompts dd >> nth=1") == EVIL
    assert page.evaluate("window.hacked") is None
    assert page.locator("#v-prompts b, #v-prompts img, .case-head b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, index: Path, scheme: str) -> None:
    page, complaints = opened(
        browser, index, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    for name in ("overview", "tables", "figures", "gallery", "run"):
        page.click(f"#tab-{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.click("#tab-gallery")
    page.click("a.card >> nth=0")
    page.wait_for_selector("#v-scores td")
    # What is below the picture is below it, not under it.
    bottom = page.evaluate("document.querySelector('.v-left').getBoundingClientRect().bottom")
    assert page.evaluate("document.querySelector('.v-right').getBoundingClientRect().top") >= bottom
    assert page.evaluate("document.querySelector('.v-body').scrollWidth") <= 390
    page.close()
    assert complaints == []


def test_colours_follow_the_system_and_the_switch(browser: Browser, index: Path) -> None:
    page, _ = opened(browser, index, color_scheme="dark")

    def brightness() -> int:
        return sum(pixel(page, "body", 0.5, 0.99))

    assert brightness() < 150
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.scheme") == "light"
    assert brightness() > 600
    page.click("#theme")
    assert brightness() < 150
    page.close()


def big_run(path: Path, per_category: int, methods: int) -> RunStore:
    """A run of many edits, all of one picture: made by hand, since thousands of PNGs take their time."""
    store = fake.run(path, {}, methods=fake.METHODS[:methods])
    row = dict(store.cases("mini-coco").rows[0])
    categories = store.manifest["protocols"]["mini-coco"]["categories"]
    rows = [
        {**row, "id": f"{c}-{k:05d}", "category": c, "target_prompt": f"{c} number {k}", "source_id": f"s{k}"}
        for c in categories
        for k in range(per_category)
    ]
    (path / "cases/mini-coco/cases.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    picture = store.image_path(store.edits()[0])
    lines, scores = [], []
    for m, spec in enumerate(fake.METHODS[:methods]):
        folder = path / f"edits/mini-coco/{spec.name}-{spec.digest}"
        for k, of in enumerate(rows):
            file = folder / f"{of['id']}.png"
            os.link(picture, file)
            base = {"protocol": "mini-coco", "protocol_version": "1", "method": spec.digest, "case": of["id"]}
            base["seed"] = 0
            name = file.relative_to(path).as_posix()
            lines.append({**base, "file": name, "sha256": "0" * 64, "seconds": 0.1, "error": None})
            for metric, value in (("success_truth", float((k + m) % 2)), ("leak_lpips", (k % 1000) / 1000)):
                scores.append(
                    {**base, "metric": metric, "metric_version": "1", "value": value, "reason": None}
                )
    (path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import pandas as pd

    with RunStore.open(path) as again:
        again.append_scores(pd.DataFrame(scores))
        return again


def test_cards_show_small_copies_and_the_viewer_whole_pictures(browser: Browser, tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", VALUES, picked=fake.cases(side=300))
    page, complaints = opened(browser, write_page(store, fake.METRICS, tables=()), "#gallery")
    store.close()
    until(page, "[...document.querySelectorAll('a.card img')].some((i) => i.complete && i.naturalWidth)")
    sides = page.evaluate(
        "[...document.querySelectorAll('a.card img')].map((i) => i.naturalWidth).filter(Boolean)"
    )
    assert set(sides) == {256}
    page.click("a.card >> nth=0")
    until(page, "[...document.querySelectorAll('.frame img')].every((i) => i.complete)")
    assert page.evaluate("document.querySelector('.frame img').naturalWidth") == 300
    page.close()
    assert complaints == []


def test_twenty_thousand_edits_stay_a_small_page(browser: Browser, tmp_path: Path) -> None:
    store = big_run(tmp_path / "big", 1_250, 4)
    index = write_page(store, fake.METRICS, tables=())
    page, complaints = opened(browser, index)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def rows() -> list[str]:
        return [url for url in asked if "/data/rows-" in url]

    def nodes() -> int:
        return int(page.evaluate("document.querySelectorAll('*').length"))

    def images() -> int:
        return page.locator("#cards img").count()

    gallery(page)
    assert count(page) == "20,000 edits"
    assert nodes() < 2_000
    assert images() < 120
    page.keyboard.press("Tab")
    page.focus("a.card >> nth=0")
    page.keyboard.press("End")
    page.wait_for_selector("a.card[data-position='19999']")
    assert page.evaluate("document.activeElement.dataset.position") == "19999"
    assert nodes() < 2_000
    assert images() < 120
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    until(page, "Math.abs(document.querySelector('a.card').dataset.position - 10000) < 1000")
    assert nodes() < 2_000
    page.click("#layout >> text=By case")
    assert nodes() < 2_000
    page.fill("#f-text", "number 777")
    until(page, "document.querySelector('#count strong').textContent === '16 of 20,000 edits'")
    assert rows() == []
    page.click("a.card >> nth=0")
    page.wait_for_selector("#v-scores td")
    # Scores of single edits came when one was opened, and only its own chunk of fifty.
    assert len(rows()) == 1
    page.close()
    assert complaints == []
