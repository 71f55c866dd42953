"""The page in a real browser: one edit, safety, and many edits."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from bench.store import RunStore
from reports.page import write_page
from tests.reports import fake
from tests.reports.page.browsing import (
    EVIL,
    VALUES,
    count,
    gallery,
    needs_browser,
    opened,
    pixel,
    texts,
    until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = needs_browser


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
        value = pixel(page, ".frame", x, y)
        assert max(value) - min(value) <= 2


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


def test_cards_show_small_copies_and_the_viewer_whole_images(browser: Browser, tmp_path: Path) -> None:
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
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    def rows() -> list[str]:
        return [url for url in requests if "/data/rows-" in url]

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
