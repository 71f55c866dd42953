"""A rater's whole session in headless Chromium against the served app, and what the browser was told on the way.

One session serves all tests: from the invitation to the completion code, with a pause, a reload in the middle
of a trial, a second tab that answers first, small windows, an answer taken back, the keyboard, the pointer.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.study import security
from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.images import BUCKET
from bench.study.store import StudyStore
from bench.study.types import GROUND_TRUTH, NOISE, SOURCE
from tests.bench.study.served import ODD, TITLES, odd_run
from tests.bench.study.test_images import chunks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("streamlit") is None, reason="streamlit is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)"),
]
ROOT = Path(__file__).resolve().parents[4]
PATIENCE = 90_000
"""Milliseconds that anything may take on a machine that has other things to do."""
READY = '.trial[data-ready="true"]'
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
"""Keeps, per trial, the last moment at which its pictures could not be seen yet: the browser's own clock."""


@dataclass
class Told:
    """Everything that came from the server."""

    urls: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Of the bodies, the pictures of trials, by URL."""
    asked: dict[str, float] = field(default_factory=dict)
    """When the browser first asked for a picture of each trial, by the part of the URL that they share."""
    frames: list[bytes] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Errors of the page's scripts."""

    def listen(self, context: BrowserContext) -> None:
        def response(got: Any) -> None:
            self.urls.append(got.url)
            self.headers.append(repr(got.headers))
            if got.status == 200 and got.request.method == "GET" and not got.url.startswith("blob:"):
                self.pending.append(got)

        def request(sent: Any) -> None:
            if "/pictures/" in sent.url:
                self.asked.setdefault(sent.url.split("/")[-2], time.monotonic())

        def page(made: Any) -> None:
            made.on("pageerror", lambda error: self.problems.append(str(error)))
            made.on("websocket", lambda opened: opened.on("framereceived", self.frame))

        self.pending: list[Any] = []
        context.on("request", request)
        context.on("response", response)
        context.on("page", page)

    def frame(self, data: bytes | str) -> None:
        self.frames.append(data.encode() if isinstance(data, str) else data)

    def fetch(self) -> None:
        """Reads the bodies; not from within the driver's callbacks. One that the browser has let go of is asked
        for again.
        """
        from playwright.sync_api import Error

        for got in self.pending:
            try:
                body = got.body()
            except Error:
                body = b""
            body = body or urllib.request.urlopen(got.url, timeout=20).read()
            self.bodies.append(body)
            if "/pictures/" in got.url:
                self.pictures[got.url] = body
        self.pending.clear()


@dataclass
class Session:
    """What a rater did and what came of it."""

    address: str
    store: StudyStore
    design: Design
    run: Path
    told: Told
    rater: str = ""
    code: str = ""
    kinds: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    timed: tuple[str, float] = ("", 0.0)
    """A trial, and the most milliseconds that its pictures can have been seen."""
    reloaded: tuple[str, str] = ("", "")
    """The trial before and after a reload."""
    tabs: tuple[str, str, str] = ("", "", "")
    """The trial in the first and the second tab, and what the first said after the second had answered."""
    phone: dict[str, Any] = field(default_factory=dict)
    small: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """The same of low windows, by their size."""
    order: list[tuple[str, float]] = field(default_factory=list)
    """Each trial, and when its answer was given."""
    kept: tuple[int, int, int] = (-1, -1, -1)
    """Votes before and after keys that scroll, and after an answer was taken back."""
    focus: str = ""
    """What has the focus after an answer by the pointer."""
    names: list[str] = field(default_factory=list)
    """The accessible names of the progress bar and of the buttons that enlarge."""
    dark: list[str] = field(default_factory=list)
    """The grounds of the first page in a browser that is set to dark."""
    consent: list[Any] = field(default_factory=list)
    withdrawn: tuple[str, int] = ("", -1)
    """The page after a rater withdrew while an answer was held back for the undo, and the rater's votes."""
    hacked: object = None
    again: str = ""
    """The page that the used invitation leads to in the same browser."""
    html: str = ""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        made = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield made
        made.close()


@pytest.fixture(scope="module")
def session(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("served")
    run = odd_run(folder / "run")
    design = build(
        [run], DesignOptions(kinds=("pair", "best"), raters=3, trials=8, repeats=1, attention=1, practice=1)
    )
    target = folder / "studies.db"
    store = StudyStore.open(target)
    store.create("taste", design)
    invitation = store.invite("taste")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "from bench.study.cli import study_app; study_app()"
    server = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "taste", "--store", str(target), "--port", str(port),
         "--address", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server)
        made = Session(address, store, design, run, Told())
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(PATIENCE)
        context.add_init_script(WATCH)
        made.told.listen(context)
        walk(made, context, f"{address}/?invitation={invitation}")
        made.told.fetch()
        context.close()
        context = browser.new_context(color_scheme="dark", viewport={"width": 960, "height": 500})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        token = store.invite("taste")[0]
        page.goto(f"{address}/?invitation={token}")
        page.get_by_role("button", name="I do not want").wait_for()
        made.dark = page.evaluate(
            "[...document.querySelectorAll('.stApp, .peb .card')].map((n) => getComputedStyle(n).backgroundColor)"
        )
        made.consent = page.evaluate(CONSENT)
        withdraw_while_held(made, page)
        context.close()
        yield made
    finally:
        server.terminate()
        server.wait(30)
        store.close()


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


CONSENT = """() => [...document.querySelectorAll('.peb .sentences li, .stButton button')].map((node) => {
  const style = getComputedStyle(node);
  return [style.color, style.backgroundColor, node.scrollWidth <= node.clientWidth];
})"""
"""Of the list of what is stored and of both buttons: ink, ground, and whether all of the text can be seen."""

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
    press(page, "ArrowLeft")
    page.locator(".feedback").wait_for()
    press(page, "Enter")
    page.get_by_role("button", name="Begin").click()
    pairs = 0
    while True:
        page.locator(f"{READY}, .code").first.wait_for()
        if page.locator(".code").count():
            break
        session.told.fetch()
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
    session.code = page.locator(".code").inner_text()
    session.hacked = page.evaluate("window.hacked")
    session.html = page.content()
    session.told.fetch()
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
    paused_at = time.monotonic()
    # Nothing can be answered, and nothing seen, in a pause.
    page.keyboard.press("ArrowLeft")
    assert page.locator("figure img:visible").count() == 0
    page.wait_for_timeout(1500)
    paused = time.monotonic() - paused_at
    page.keyboard.press("Escape")
    press(page, "ArrowLeft")
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
    before = session.store.status("taste").votes
    for key in (" ", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"):
        page.keyboard.press(key)
    page.wait_for_timeout(2500)
    scrolled = session.store.status("taste").votes
    page.set_viewport_size({"width": 1440, "height": 900})
    page.keyboard.press("ArrowLeft")
    page.locator(".trial.held").wait_for()
    page.keyboard.press("z")
    page.wait_for_timeout(2500)
    session.kept = (before, scrolled, session.store.status("taste").votes)
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
    """The second tab, of a phone's size, says left; then the first says right."""
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
    page.bring_to_front()
    press(page, "ArrowRight")
    notice = page.locator(".notice", has_text="answered")
    notice.wait_for()
    session.tabs = (trial, second, notice.inner_text())
    session.told.fetch()
    other.close()


def tied(session: Session, page: Page, trial: str) -> None:
    press(page, "n")


# --- what came of it --------------------------------------------------------------------------------------


def test_from_the_invitation_to_the_code(session: Session) -> None:
    votes = session.store.votes("taste")
    assert list(votes["rater"].unique()) == [session.rater]
    assert len(votes) == 1 + 8
    assert votes["trial"].is_unique
    assert session.store.progress(session.rater).state == "finished"
    assert session.code == session.store.completion(session.rater).code
    assert session.kinds == {"pair", "best"}
    assert session.told.problems == []
    # The link that was used leads the same browser back to where it was, and takes up nothing more.
    assert session.again == session.code
    assert session.store.status("taste").raters == 1


def answer_to(session: Session, trial: str) -> Any:
    name = session.store.unblinded(session.rater, trial).trial.id
    votes = session.store.votes("taste")
    return votes[votes["trial"] == name].iloc[0]


def shared(session: Session, trial: str) -> str:
    """What the addresses of a trial's pictures have in common."""
    secret = session.store.unblinded(session.rater, trial).secret
    return security.opaque(secret, "pictures", session.rater, trial)


def test_the_keyboard_and_the_pointer_say_what_they_show(session: Session) -> None:
    left = answer_to(session, session.timed[0])
    assert left["answer"] == left["candidates"][0]
    right = answer_to(session, session.reloaded[0])
    assert right["answer"] == right["candidates"][1]
    votes = session.store.votes("taste")
    counted = votes[votes["role"] != "practice"]
    best = counted[counted["kind"] == "best"]
    assert [row["answer"] for row in best.to_dict("records")] == [c[1] for c in best["candidates"]]
    assert (counted["answer"] == "tie").sum() == (counted["kind"] == "pair").sum() - 3


def test_the_time_is_that_of_looking(session: Session) -> None:
    trial, most = session.timed
    assert 800 <= answer_to(session, trial)["reaction_ms"] <= most


def test_a_reload_goes_on_with_the_same_trial(session: Session) -> None:
    before, after = session.reloaded
    assert before == after != ""


def test_of_two_tabs_the_first_answer_counts(session: Session) -> None:
    first, second, notice = session.tabs
    assert first == second != ""
    row = answer_to(session, first)
    assert row["answer"] == row["candidates"][0]
    assert "Your first answer counts" in notice


def test_a_phone_shows_all_of_a_pair(session: Session) -> None:
    phone = session.phone
    assert len(phone["sides"]) == 3
    assert len({tuple(side) for side in phone["sides"]}) == 1
    assert phone["sides"][0][0] >= 150
    assert phone["right"] <= 390
    assert phone["overflow"] <= 390
    assert phone["bottom"] <= 844


def test_in_low_windows_a_pair_stands_in_one_row_above_the_fold(session: Session) -> None:
    assert len(session.small) == 3
    for (width, height), small in session.small.items():
        assert len(small["tops"]) == 2
        assert len(set(small["tops"])) == 1
        assert min(min(side) for side in small["sides"]) >= 100
        assert small["bottom"] <= height
        assert max(small["right"], small["overflow"]) <= width


def test_keys_that_scroll_are_no_answers_and_an_answer_can_be_taken_back(session: Session) -> None:
    before, scrolled, undone = session.kept
    assert before == scrolled == undone > 0
    shown = session.store.unblinded(session.rater, session.reloaded[0]).trial
    assert answer_to(session, session.reloaded[0])["answer"] == shown.candidates[1]


def test_the_next_pictures_are_fetched_before_the_answer(session: Session) -> None:
    assert len(session.order) == 8
    for (_, answered), (following, _) in pairwise(session.order):
        assert session.told.asked[shared(session, following)] < answered


def test_a_screen_reader_goes_on_from_the_question_and_hears_names(session: Session) -> None:
    assert session.focus == "question"
    assert session.names == ["Progress", "Enlarge the original", "Enlarge edit A", "Enlarge edit B"]


def test_a_dark_browser_gets_dark_pages(session: Session) -> None:
    assert len(session.dark) == 2
    for ground in session.dark:
        assert max(levels(ground)) < 64
    # The list of what is stored, and the button that declines, light on dark and whole in a low window.
    *stored, _, decline = session.consent
    assert len(stored) == 5
    assert max(levels(decline[1])) < 64
    for ink, _, whole in (*stored, decline):
        assert min(levels(ink)) > 200
        assert whole


def levels(color: str) -> list[int]:
    return [int(value) for value in re.findall(r"\d+", color)[:3]]


def test_an_answer_that_is_held_back_is_not_taken_from_who_withdraws(session: Session) -> None:
    said, votes = session.withdrawn
    assert "You do not take part" in said
    assert "You have withdrawn" in said
    assert votes == 0


def test_odd_texts_are_shown_letter_by_letter(session: Session) -> None:
    assert session.said <= set(ODD)
    assert len(session.said) >= 4
    assert session.hacked is None


# --- what the browser was told ----------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(session: Session) -> None:
    assert {url.split("/")[2] for url in session.told.urls if url.startswith("http")} == {
        session.address.split("/")[2]
    }


def test_nothing_that_the_browser_receives_names_a_method(session: Session) -> None:
    told, design = session.told, session.design
    hidden = [
        *TITLES,
        *design.method_digests.values(),
        design.digest,
        str(session.run),
        GROUND_TRUTH,
        SOURCE,
        NOISE,
    ]
    for _, ref in design.images():
        hidden += [ref.sha256, ref.file]
    hidden = [name for name in hidden if name]
    assert len(hidden) > 50
    assert len(told.bodies) > 5
    assert len(told.frames) > 20
    texts = [*(url.encode() for url in told.urls), *(head.encode() for head in told.headers)]
    texts += [*told.bodies, *told.frames, session.html.encode()]
    whole = b"\n".join(texts)
    # What the search would find is there to be found: the texts that are meant for the rater.
    assert b"Which edit is better overall?" in whole
    # Nor where the server's files lie.
    assert str(ROOT).encode() not in whole
    for name in hidden:
        for form in (name, base64.b64encode(name.encode()).decode().rstrip("=")[:-1]):
            assert form.encode() not in whole, form


def test_pictures_of_a_trial_are_of_one_length_and_apart_from_what_is_said(session: Session) -> None:
    design = session.design
    stored = {ref.sha256 for _, ref in design.images()}
    groups: dict[str, list[bytes]] = {}
    for url, body in session.told.pictures.items():
        groups.setdefault(url.split("/")[-2], []).append(body)
    assert {shared(session, trial) for trial, _ in session.order} <= set(groups)
    for group in groups.values():
        assert len(group) in (4, 5)  # source, outline; two or three candidates
        assert len({len(picture) for picture in group}) == 1
        assert len(group[0]) % BUCKET == 0
        for picture in group:
            kinds = [kind for kind, _ in chunks(picture)]
            assert set(kinds) == {b"IHDR", b"IDAT", b"nsEd", b"IEND"}
            assert hashlib.sha256(picture).hexdigest() not in stored
    # None came in any other way; an answer is acknowledged by a short message.
    images = [body for body in session.told.bodies if body.startswith(b"\x89PNG")]
    others = [body for body in images if body not in session.told.pictures.values()]
    assert all(len(body) < 4096 for body in others)
    assert not [frame for frame in session.told.frames if b"iVBORw0KGgo" in frame or b"\x89PNG" in frame]


def test_the_run_folder_is_not_served(session: Session) -> None:
    ref = next(ref for _, ref in session.design.images() if ref.file.endswith(".png"))
    content = session.design.path(ref).read_bytes()
    for path in (
        ref.file,
        f"app/static/{ref.file}",
        f"media/{ref.sha256}.png",
        "../run/run.json",
        "studies.db",
    ):
        try:
            body = urllib.request.urlopen(f"{session.address}/{path}", timeout=20).read()
        except urllib.error.HTTPError as error:
            body = error.read()
        assert content not in body
        assert not [title for title in TITLES if title.encode() in body]
