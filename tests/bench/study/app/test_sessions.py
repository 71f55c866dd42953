"""Whole sessions in headless Chromium, from the invitation to the code: pairs, ratings, and the best of all.

On a laptop by the keyboard alone and on a phone by touch, from left to right and from right to left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.study.build import build
from bench.study.design import DesignOptions
from bench.study.scales import read_scales
from bench.study.settings import ScreenerQuestion, StudySettings
from bench.study.store import StudyStore
from tests.bench.study.app.browser import PATIENCE, READY, press, trial_of, wait_for
from tests.bench.study.app.test_browser import ROOT, browser, pytestmark
from tests.bench.study.served import odd_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser", "pytestmark"]

LAPTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2,
}  # fmt: skip
EVERY_KIND = DesignOptions(
    kinds=("rate", "pair", "best"), raters=2, trials=9, repeats=0, attention=1, practice=3, both_bad=True,
    scales=read_scales(["sc", "overall"]),
)  # fmt: skip
SCREENER = (ScreenerQuestion("How old are you?", ("under 18", "18 or more"), ("18 or more",)),)

# The element with the focus, inside the trial's component too: its text and its value.
FOCUSED = """() => {
  let node = document.activeElement;
  while (node && node.shadowRoot && node.shadowRoot.activeElement) node = node.shadowRoot.activeElement;
  return node && node.matches('button, input') ? `${node.innerText || ''} ${node.value || ''}` : '';
}"""
LAYOUT = """() => {
  const host = [...document.querySelectorAll('*')].find((node) => node.shadowRoot?.querySelector('.trial'));
  const root = host.shadowRoot;
  const box = (what) => [...root.querySelectorAll(what)].map((node) => node.getBoundingClientRect());
  return {
    direction: getComputedStyle(root.querySelector('.trial')).direction,
    language: root.querySelector('.trial').lang,
    lefts: box('.candidate .frame').map((one) => Math.round(one.left)),
    sides: box('.frame').map((one) => Math.round(one.width)),
    right: Math.max(...box('.frame, .answer, .tool, .option').map((one) => one.right)),
    left: Math.min(...box('.frame, .answer, .tool, .option').map((one) => one.left)),
    overflow: document.documentElement.scrollWidth,
  };
}"""


@dataclass
class Visit:
    """What a session showed, and what was stored."""

    store: StudyStore
    rater: str = ""
    code: str = ""
    # Kind of trial -> its layout.
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Kind of practice trial -> direction of its explanation.
    explained: dict[str, str] = field(default_factory=dict)
    # The trial whose answer was changed, and the notice above it.
    changed: str = ""
    notice: str = ""
    problems: list[str] = field(default_factory=list)


def tab_to(page: Page, text: str) -> None:
    """Presses Tab until the focus is on an element with this text."""
    for _ in range(80):
        if text in page.evaluate(FOCUSED):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not reach {text!r}")


def push(page: Page, text: str, keyboard: bool) -> None:
    """Presses a button of a page of text."""
    page.get_by_role("button", name=text).wait_for()
    if keyboard:
        tab_to(page, text)
        page.keyboard.press("Enter")
    else:
        page.get_by_role("button", name=text).tap()


def screen(page: Page, visit: Visit, keyboard: bool) -> None:
    words = visit.store.study("taste").words
    page.get_by_text(words("screener.heading")).wait_for()
    if keyboard:
        # A group of radio buttons is one stop of the Tab key. Arrows choose within it.
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.type") == "radio":
                break
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
    else:
        page.get_by_text("18 or more").tap()
    push(page, words("go_on"), keyboard)


def answer(page: Page, visit: Visit, trial: str, kind: str, keyboard: bool) -> None:
    """Answers one trial. The second pair that counts changes the answer before it."""
    visit.layouts.setdefault(kind, page.evaluate(LAYOUT))
    # Only a pair with four answers has two rows of them on a phone. The class must not stay for the next trial.
    if kind != "pair" and page.locator(".trial.four").count():
        visit.problems.append(f"{kind}: the answers stand as those of a pair")
    if not keyboard:
        page.wait_for_timeout(300)
        if kind == "rate":
            for group in page.locator(".rating").all():
                group.locator(".option").last.tap()
            page.locator(".answer.next").tap()
        else:
            page.locator(".answer:not(.next)").first.tap()
            # It is sent when the time to take it back is over: the next trial comes by itself.
        return
    if kind == "rate":
        press(page, "3")
        # Taken back before it is sent, then answered anew.
        page.keyboard.press("Backspace")
        for key in ("2", "5"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    elif kind == "best":
        # The second: marked by the arrows, in the order on the screen, and chosen.
        for key in ("ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        press(page, "Enter")
        page.keyboard.press("Enter")
    else:
        press(page, "ArrowLeft")
        page.keyboard.press("Enter")


def change(page: Page, visit: Visit, trial: str) -> None:
    """Goes back to the last answer by Z and calls both edits bad."""
    page.keyboard.press("z")
    page.locator(f'{READY}:not([data-trial="{trial}"])').wait_for()
    if page.locator(READY).get_attribute("data-kind") != "pair":
        page.keyboard.press("Escape")
        page.locator(f'{READY}[data-trial="{trial}"]').wait_for()
        return
    visit.changed = trial_of(page)
    visit.notice = page.locator(".notice").inner_text()
    press(page, "x")
    page.keyboard.press("Enter")
    page.locator(f'{READY}[data-trial="{trial}"]').wait_for()


def session(page: Page, visit: Visit, link: str, *, keyboard: bool) -> None:
    """A whole session."""
    words = visit.store.study("taste").words
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.goto(link)
    push(page, words("agree"), keyboard)
    screen(page, visit, keyboard)
    push(page, words("start_practice"), keyboard)
    previous, previous_kind = "", ""
    while True:
        page.locator(
            f"{READY}:not([data-trial='{previous}']), .feedback, .code, .st-key-ready_button"
        ).first.wait_for()
        if page.locator(".code").count():
            break
        if page.locator(".st-key-ready_button").count():
            push(page, words("practice_done.begin"), keyboard)
            page.locator(READY).wait_for()
        if page.locator(".feedback").count():
            shown = str(page.locator(".trial").get_attribute("data-kind"))
            visit.explained[shown] = page.locator(".feedback").evaluate(
                "node => getComputedStyle(node).direction"
            )
            if keyboard:
                page.keyboard.press("Enter")
            else:
                page.locator(".answer.next").tap()
            page.locator(".feedback").wait_for(state="detached")
            continue
        trial = trial_of(page)
        kind = str(page.locator(READY).get_attribute("data-kind"))
        practice = page.locator(READY).get_attribute("data-practice") == "true"
        if keyboard and not visit.changed and previous_kind == "pair" and not practice:
            change(page, visit, trial)
        answer(page, visit, trial, kind, keyboard)
        previous, previous_kind = trial, "" if practice else kind
    visit.code = page.locator(".code").inner_text()


@contextmanager
def served(
    folder: Path,
    settings: StudySettings,
    options: DesignOptions = EVERY_KIND,
    *,
    run: Path | None = None,
    password: str | None = None,
) -> Iterator[tuple[str, StudyStore]]:
    """Serves a study, as `study serve` does. Yields its address and its store. Without ``run``, it is of odd texts."""
    design = build([run or odd_run(folder / "run")], options)
    target = folder / "studies.db"
    with StudyStore.open(target) as store, socket.socket() as free:
        store.create("taste", design, settings, admin_password=password)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
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
            yield address, store
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module", params=["en", "ar"])
def visits(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The language, and a session on a laptop by the keyboard alone and one on a phone by touch."""
    language = str(request.param)
    done: dict[str, Visit] = {}
    settings = StudySettings(language=language, screener=SCREENER)
    with served(tmp_path_factory.mktemp(language), settings) as (address, store):
        for name, device in (("laptop", LAPTOP), ("phone", PHONE)):
            visit = done[name] = Visit(store)
            context = browser.new_context(**device)
            context.set_default_timeout(PATIENCE)
            link = f"{address}/?invitation={store.invite('taste')[0]}"
            session(context.new_page(), visit, link, keyboard=name == "laptop")
            context.close()
            visit.rater = store.raters("taste")[-1].rater
        yield language, done


@pytest.mark.parametrize("device", ["laptop", "phone"])
def test_a_session_leads_from_the_invitation_to_the_code(visits: Any, device: str) -> None:
    _, done = visits
    visit = done[device]
    assert visit.problems == []
    assert visit.code == visit.store.completion(visit.rater).code
    assert visit.store.progress(visit.rater).state == "finished"
    votes = visit.store.votes("taste")
    own = votes[(votes["rater"] == visit.rater) & (votes["role"] != "practice")]
    assert own["trial"].nunique() == 9
    # Every kind comes, for practice at least.
    assert set(votes[votes["rater"] == visit.rater]["kind"]) == {"pair", "rate", "best"}


def test_the_keyboard_alone_rates_and_changes_the_last_answer(visits: Any) -> None:
    _, done = visits
    visit = done["laptop"]
    votes = visit.store.votes("taste")
    own = votes[(votes["rater"] == visit.rater) & (votes["role"] != "practice")]
    rated = own[own["kind"] == "rate"]
    assert set(zip(rated["question"], rated["answer"], strict=True)) == {("sc", "0.5"), ("overall", "5")}
    assert visit.notice == visit.store.study("taste").words("trial.changing")
    name = visit.store.unblinded(visit.rater, visit.changed).trial.id
    (changed,) = own[own["trial"] == name].to_dict("records")
    assert (changed["answer"], changed["first_answer"]) == ("both bad", changed["candidates"][0])
    # The left arrow chose the left edit, in every language.
    pairs = own[(own["kind"] == "pair") & own["first_answer"].isna()]
    assert all(row.answer == row.candidates[0] for row in pairs.itertuples())
    best = votes[(votes["rater"] == visit.rater) & (votes["kind"] == "best")]
    assert len(best)
    assert all(row.answer == row.candidates[1] for row in best.itertuples())


@pytest.mark.parametrize("device", ["laptop", "phone"])
def test_pages_fit_and_run_in_the_direction_of_the_language(visits: Any, device: str) -> None:
    language, done = visits
    width = 1440 if device == "laptop" else 390
    layouts = done[device].layouts
    assert set(layouts) == {"pair", "rate", "best"}
    for layout in layouts.values():
        assert layout["direction"] == ("rtl" if language == "ar" else "ltr")
        assert layout["language"] == language
        assert layout["left"] >= 0
        assert max(layout["right"], layout["overflow"]) <= width
        assert len(set(layout["sides"])) == 1
        assert layout["sides"][0] >= 150
    # The first edit of a pair stands on the left.
    first, second = layouts["pair"]["lefts"]
    assert first < second
    # Sentences among the answers run in the language's direction.
    assert set(done[device].explained.values()) == {layouts["pair"]["direction"]}
