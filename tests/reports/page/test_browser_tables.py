"""The page in a real browser: overview, tables, figures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bench.store import RunStore
from reports.page import write as writing
from reports.page import write_page
from tests.reports import fake
from tests.reports.page.browsing import VALUES, needs_browser, opened, texts, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = needs_browser


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
        value: list[list[str]] = page.evaluate(
            "([rows, mark]) => [...document.querySelectorAll(rows)]"
            ".map((e) => [e.dataset.method, e.querySelector(mark).getAttribute('d')])",
            [rows, mark],
        )
        return value

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
    """The text that a button copies. A page without a window has no clipboard: the page's own is replaced."""
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
    headings = [
        " ".join(th.inner_text().split()) for th in table.locator("thead th").all() if th.is_visible()
    ]
    assert headings == ["Method", "background % ↑", "n", "failed"]
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


def test_a_folded_table_has_its_title_without_the_protocol(
    browser: Browser, index: Path, tmp_path: Path
) -> None:
    report = shutil.copytree(index.parent, tmp_path / "report")
    data = report / "page" / "data" / "run.js"
    text = data.read_text()
    # A table of the protocol gets the title of one across protocols, then that of one of a metric.
    title = re.findall(r'"title":"(mini-coco: [^"]+)"', text)[-1]
    for changed, expected in (
        ("User preference: share of all votes", "User preference: share of all votes"),
        ("mini-coco: judge_follow, and what failed", "judge_follow, and what failed"),
    ):
        data.write_text(text.replace(f'"title":"{title}"', f'"title":"{changed}"'))
        page, complaints = opened(browser, report / index.name, "#tables")
        folded = page.locator("#panel-tables details.fold > summary")
        titles = [one.evaluate("(e) => e.firstChild.textContent") for one in folded.all()]
        assert expected in titles
        page.close()
        assert complaints == []
