"""Drives a rater's session in headless Chromium, and records what the server sends."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.study.design import Design
from bench.study.store import StudyStore

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

# Milliseconds that anything may take on a machine that has other things to do.
PATIENCE = 90_000
READY = '.trial[data-ready="true"]'
# Keeps, per trial, the last time (of the browser's clock) at which its images were not visible yet.
WATCH = """
window.unseen = {};
const seen = new Set();
let last = performance.now();
setInterval(() => {
  for (const node of document.querySelectorAll('*')) {
    const shown = node.shadowRoot?.querySelector('.trial')?.dataset;
    if (!shown || seen.has(shown.trial)) continue;
    if (shown.ready === 'true') seen.add(shown.trial);
    window.unseen[shown.trial] = shown.ready === 'true' ? last : performance.now();
  }
  last = performance.now();
}, 20);
"""


@dataclass
class Traffic:
    """Everything that came from the server."""

    urls: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    # Bodies of trials' images, by URL.
    pictures: dict[str, bytes] = field(default_factory=dict)
    # Time of the first request for an image of each trial, by the part of the URL that its images share.
    requested: dict[str, float] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)
    # Errors of the page's scripts.
    problems: list[str] = field(default_factory=list)

    def listen(self, context: BrowserContext) -> None:
        # The body is read later: the driver does not allow it in a callback.
        def response(got: Any) -> None:
            self.urls.append(got.url)
            self.headers.append(repr(got.headers))
            if got.status == 200 and got.request.method == "GET" and not got.url.startswith("blob:"):
                self.pending.append(got)

        def request(sent: Any) -> None:
            if "/pictures/" in sent.url:
                self.requested.setdefault(sent.url.split("/")[-2], time.monotonic())

        def page(opened: Any) -> None:
            opened.on("pageerror", lambda error: self.problems.append(str(error)))
            opened.on("websocket", lambda socket: socket.on("framereceived", self.frame))

        self.pending: list[Any] = []
        context.on("request", request)
        context.on("response", response)
        context.on("page", page)

    def frame(self, data: bytes | str) -> None:
        self.frames.append(data.encode() if isinstance(data, str) else data)

    def fetch(self) -> None:
        """Reads the bodies. It must not run within the driver's callbacks."""
        from playwright.sync_api import Error

        for got in self.pending:
            try:
                body = got.body()
            except Error:
                body = b""
            # The browser may have dropped the body.
            body = body or urllib.request.urlopen(got.url, timeout=20).read()
            self.bodies.append(body)
            if "/pictures/" in got.url:
                self.pictures[got.url] = body
        self.pending.clear()


@dataclass
class Session:
    """Actions of a rater, and their outcomes."""

    address: str
    store: StudyStore
    design: Design
    run: Path
    traffic: Traffic
    rater: str = ""
    code: str = ""
    kinds: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    # A trial, and the most milliseconds that its pictures can have been seen.
    timed: tuple[str, float] = ("", 0.0)
    # The trial before and after a reload.
    reloaded: tuple[str, str] = ("", "")
    # The trial in the first and the second tab, and what the first said after the second had answered.
    tabs: tuple[str, str, str] = ("", "", "")
    phone: dict[str, Any] = field(default_factory=dict)
    # `phone`, but of low windows, by their size.
    small: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    # Each trial, and the time of its answer.
    order: list[tuple[str, float]] = field(default_factory=list)
    # Votes before and after keys that scroll, and after an answer was taken back.
    vote_counts: tuple[int, int, int] = (-1, -1, -1)
    # Class of the element with the focus after an answer by the pointer.
    focus: str = ""
    # The accessible names of the progress bar and of the buttons that enlarge.
    names: list[str] = field(default_factory=list)
    # The grounds of the first page in a browser that is set to dark.
    dark: list[str] = field(default_factory=list)
    consent: list[Any] = field(default_factory=list)
    # The page after a rater withdrew while an answer was held back for the undo, and the rater's votes.
    withdrawn: tuple[str, int] = ("", -1)
    hacked: object = None
    # The page that the used invitation leads to in the same browser.
    again: str = ""
    html: str = ""


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).read()
            return
        except OSError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)


def trial_of(page: Page) -> str:
    return str(page.locator(READY).get_attribute("data-trial"))


def press(page: Page, key: str) -> None:
    """A key, once the page no longer takes it for one that was meant for the trial before."""
    page.wait_for_timeout(300)
    page.keyboard.press(key)


# Colour, background and whether all text is visible, of the list of what is stored and of both buttons.
CONSENT = """() => [...document.querySelectorAll('.peb .sentences li, .stButton button')].map((node) => {
  const style = getComputedStyle(node);
  return [style.color, style.backgroundColor, node.scrollWidth <= node.clientWidth];
})"""

BOXES = """() => {
  const host = [...document.querySelectorAll('*')].find((node) => node.shadowRoot?.querySelector('.trial'));
  const root = host.shadowRoot;
  const boxes = (what) => [...root.querySelectorAll(what)].map((node) => node.getBoundingClientRect());
  return {
    sides: boxes('.frame').map((box) => [Math.round(box.width), Math.round(box.height)]),
    tops: boxes('.candidate .frame').map((box) => Math.round(box.top)),
    right: Math.max(...boxes('.frame, .answer, .tool, .said').map((box) => box.right)),
    bottom: Math.max(...boxes('.answer, .candidate .frame').map((box) => box.bottom)),
    overflow: document.documentElement.scrollWidth,
  };
}"""


def walk(session: Session, context: BrowserContext, link: str) -> None:
    page = context.new_page()
    page.goto(link)
    page.get_by_role("button", name="I agree").click()
    page.get_by_role("button", name="Start with practice").click()
    page.locator(READY).wait_for()
    session.rater = session.store.quality("taste")[0].rater
    # Practice, with its explanation.
    press(page, "ArrowLeft")
    page.locator(".feedback").wait_for()
    press(page, "Enter")
    page.get_by_role("button", name="Begin").click()
    # Trials. The first four pairs each go another way.
    pairs = 0
    while True:
        page.locator(f"{READY}, .code").first.wait_for()
        if page.locator(".code").count():
            break
        session.traffic.fetch()
        trial = trial_of(page)
        kind = str(page.locator(READY).get_attribute("data-kind"))
        session.kinds.add(kind)
        session.said |= set(page.locator(".said").all_text_contents())
        session.order.append((trial, time.monotonic()))
        if kind == "best":
            # The marked one of the candidates: the second.
            for key in ("ArrowRight", "ArrowRight"):
                page.keyboard.press(key)
            press(page, "Enter")
        else:
            pairs += 1
            (timed, reloaded, tabbed, tied)[min(pairs, 4) - 1](session, page, trial)
        page.wait_for_function(
            """old => document.querySelector('.code') || [...document.querySelectorAll('*')].some((node) => {
              const trial = node.shadowRoot?.querySelector('.trial');
              return trial && trial.dataset.trial !== old;
            })""",
            arg=trial,
        )
    # The last page.
    session.code = page.locator(".code").inner_text()
    session.hacked = page.evaluate("window.hacked")
    session.html = page.content()
    session.traffic.fetch()
    # The used link, in the same browser.
    page.goto(link)
    page.locator(".code").wait_for()
    session.again = page.locator(".code").inner_text()


def withdraw_while_held(session: Session, page: Page) -> None:
    page.get_by_role("button", name="I agree").click()
    page.get_by_role("button", name="Start with practice").click()
    page.locator(READY).wait_for()
    rater = session.store.raters("taste")[-1].rater
    press(page, "ArrowLeft")
    page.locator(".trial.held").wait_for()
    # The browser holds the answer back for the undo. Meanwhile the rater withdraws.
    session.store.withdraw(rater)
    page.locator(".st-key-sheet_message").wait_for()
    votes = session.store.votes("taste")
    session.withdrawn = (
        page.locator(".st-key-sheet_message").inner_text(),
        int((votes["rater"] == rater).sum()),
    )


def timed(session: Session, page: Page, trial: str) -> None:
    """A look of 0.8 s, a pause of 1.5 s, an answer by the keyboard."""
    page.wait_for_timeout(800)
    page.keyboard.press("p")
    page.get_by_role("dialog").wait_for()
    # The pause does not count as reaction time.
    paused_at = time.monotonic()
    # Nothing can be answered, and nothing seen, in a pause.
    page.keyboard.press("ArrowLeft")
    assert page.locator("figure img:visible").count() == 0
    page.wait_for_timeout(1500)
    paused = time.monotonic() - paused_at
    page.keyboard.press("Escape")
    press(page, "ArrowLeft")
    # An upper bound of the time for which the images were visible.
    since = page.evaluate("trial => performance.now() - window.unseen[trial]", trial)
    session.timed = (trial, since - 1000 * paused)


def reloaded(session: Session, page: Page, trial: str) -> None:
    page.reload()
    page.locator(READY).wait_for()
    session.reloaded = (trial, trial_of(page))
    for size in ((960, 500), (720, 450), (844, 390)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(300)
        session.small[size] = page.evaluate(BOXES)
    # Keys that scroll the page answer nothing.
    before = session.store.status("taste").votes
    for key in (" ", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"):
        page.keyboard.press(key)
    page.wait_for_timeout(2500)
    scrolled = session.store.status("taste").votes
    # An answer is taken back within its two seconds.
    page.set_viewport_size({"width": 1440, "height": 900})
    page.keyboard.press("ArrowLeft")
    page.locator(".trial.held").wait_for()
    page.keyboard.press("z")
    page.wait_for_timeout(2500)
    session.vote_counts = (before, scrolled, session.store.status("taste").votes)
    # Names for a screen reader.
    names = ".track[role=progressbar], .expand"
    session.names = page.locator(names).evaluate_all(
        "nodes => nodes.map((n) => n.getAttribute('aria-label'))"
    )
    page.locator('.answer[data-answer="1"]').click()
    # The other edit in its place, while there is time; Enter does not wait until it has passed.
    page.locator('.answer[data-answer="0"]').click()
    page.locator('.answer[data-answer="1"]').click()
    page.keyboard.press("Enter")
    page.locator(f'.trial[data-ready="true"]:not([data-trial="{trial}"]), .code').first.wait_for()
    session.focus = page.evaluate(
        """[...document.querySelectorAll('*')].find((node) => node.shadowRoot?.activeElement)
           ?.shadowRoot.activeElement.className"""
    )


def tabbed(session: Session, page: Page, trial: str) -> None:
    """The second tab, of a phone's size, answers left. Then the first answers right."""
    # The second tab shows the same trial.
    other = page.context.new_page()
    other.set_viewport_size({"width": 390, "height": 844})
    other.goto(page.url)
    other.locator(READY).wait_for()
    session.phone = other.evaluate(BOXES)
    second = trial_of(other)
    press(other, "ArrowLeft")
    other.wait_for_function(
        """old => [...document.querySelectorAll('*')].some((node) => {
          const trial = node.shadowRoot?.querySelector('.trial');
          return (trial && trial.dataset.trial !== old) || document.querySelector('.code');
        })""",
        arg=second,
    )
    # The first tab still shows it, and answers too late.
    page.bring_to_front()
    press(page, "ArrowRight")
    notice = page.locator(".notice", has_text="answered")
    notice.wait_for()
    session.tabs = (trial, second, notice.inner_text())
    session.traffic.fetch()
    other.close()


def tied(session: Session, page: Page, trial: str) -> None:
    press(page, "n")
