"""Sessions in headless Chromium under terms of the study: a time limit per trial, a frame of Mechanical Turk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from bench.study.design import DesignOptions
from bench.study.mturk import PREVIEW
from bench.study.settings import StudySettings
from tests.bench.study.app.browser import PATIENCE, READY, press, trial_of
from tests.bench.study.app.test_browser import browser, pytestmark
from tests.bench.study.app.test_sessions import LAPTOP, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page, Route

__all__ = ["browser", "pytestmark"]

PAIRS = DesignOptions(raters=2, trials=3, repeats=0, attention=0, practice=0)
# Seconds per trial: long for an answer by a key on a machine that has other things to do.
LIMIT = 10
VISIBLE = """() => {
  const host = [...document.querySelectorAll('*')].find((node) => node.shadowRoot?.querySelector('.trial'));
  const images = [...host.shadowRoot.querySelectorAll('.frame img')];
  return images.filter((image) => getComputedStyle(image).visibility === 'visible').length;
}"""


def answer_in_time(page: Page) -> None:
    page.locator(READY).wait_for()
    trial = trial_of(page)
    press(page, "ArrowLeft")
    page.keyboard.press("Enter")
    page.locator(f"{READY}:not([data-trial='{trial}']), .code").first.wait_for()


def test_pictures_are_covered_at_the_limit_and_the_answer_says_so(browser: Browser, tmp_path: Path) -> None:
    asked = {"overall": {"pair": "Which is *better*?", "hint": "Look at\n\n- the **outline**\n- <i>all</i>"}}
    settings = StudySettings(trial_seconds=LIMIT, questions=asked, markdown=("questions",))
    with served(tmp_path, settings, PAIRS) as (address, store):
        context = browser.new_context(**LAPTOP)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{address}/?invitation={store.invite('taste')[0]}")
        page.get_by_role("button", name="I agree").click()
        page.get_by_role("button", name="Start").click()
        page.locator(READY).wait_for()
        # Markdown of the study's question, and its HTML as text.
        assert page.locator(".question em").inner_text() == "better"
        assert page.locator(".hint li").all_inner_texts() == ["the outline", "<i>all</i>"]
        # Too late: the pictures are covered, and neither a key nor a click shows them.
        assert page.evaluate(VISIBLE) == 3
        page.locator(".trial.over").wait_for()
        assert page.locator(".time").inner_text() == "0 s left"
        page.keyboard.press("f")
        page.locator(".candidate .frame").first.click()
        assert page.get_by_role("dialog").count() == 0
        assert page.evaluate(VISIBLE) == 0
        answer_in_time(page)
        # A pause stops the time: longer than the limit, and the pictures come back.
        page.keyboard.press("p")
        page.get_by_role("dialog").wait_for()
        page.wait_for_timeout(1000 * LIMIT + 1000)
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        assert page.evaluate(VISIBLE) == 3
        answer_in_time(page)
        answer_in_time(page)
        page.locator(".code").wait_for()
        context.close()
        votes = store.votes("taste")
        assert votes["over_time"].tolist() == [True, False, False]
        assert votes["reaction_ms"].iloc[0] >= 1000 * LIMIT


def test_a_worker_of_mechanical_turk_previews_works_and_hands_in(browser: Browser, tmp_path: Path) -> None:
    """The study in a frame of another site's page, as Mechanical Turk shows it."""
    sent: list[dict[str, Any]] = []

    def turk(route: Route) -> None:
        request = route.request
        sent.append({"url": request.url, "method": request.method, **parse_qs(request.post_data or "")})
        route.fulfill(body="<p>handed in</p>", content_type="text/html")

    with served(tmp_path, StudySettings(open_registration=True), PAIRS) as (address, store):
        context = browser.new_context(**LAPTOP)
        context.set_default_timeout(PATIENCE)
        context.route("https://workersandbox.mturk.com/**", turk)

        def open_task(**query: str) -> tuple[Page, FrameLocator]:
            # A new page: from one that was loaded, a browser opens no address of this machine.
            page = context.new_page()
            page.set_content(
                f'<iframe src="{address}/?{urlencode(query)}" width="1400" height="850"></iframe>'
            )
            return page, page.frame_locator("iframe")

        _, frame = open_task(assignmentId=PREVIEW, hitId="H1")
        frame.get_by_text("Accept the task first").wait_for()
        assert store.status("taste").raters == 0
        page, frame = open_task(
            assignmentId="A1", workerId="W1", hitId="H1", turkSubmitTo="https://workersandbox.mturk.com"
        )
        frame.get_by_role("button", name="I agree").click()
        frame.get_by_role("button", name="Start").click()
        for _ in range(3):
            trial = str(frame.locator(READY).get_attribute("data-trial"))
            page.wait_for_timeout(300)
            frame.locator(".answer").first.click()
            frame.locator(f"{READY}:not([data-trial='{trial}']), .code").first.wait_for()
        code = frame.locator(".code").inner_text()
        frame.get_by_role("button", name="Submit the task").click()
        frame.get_by_text("handed in").wait_for()
        context.close()
        url = "https://workersandbox.mturk.com/mturk/externalSubmit"
        assert sent == [{"url": url, "method": "POST", "assignmentId": ["A1"], "code": [code]}]
        (record,) = store.raters("taste")
        assert (record.external, record.recruited["assignmentId"], record.code) == ("W1", "A1", code)
