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
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.study import security
from bench.study.build import build
from bench.study.design import DesignOptions
from bench.study.images import BUCKET
from bench.study.store import StudyStore
from bench.study.types import GROUND_TRUTH, NOISE, SOURCE
from tests.bench.study.app.browser import (
    CONSENT,
    PATIENCE,
    WATCH,
    Session,
    Traffic,
    wait_for,
    walk,
    withdraw_while_held,
)
from tests.bench.study.served import ODD, TITLES, odd_run
from tests.bench.study.test_images import chunks

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("streamlit") is None, reason="streamlit is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)"),
]
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


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
    # The server, as `study serve` starts it, on a free port.
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
        visit = Session(address, store, design, run, Traffic())
        # A whole session, from the invitation to the code.
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(PATIENCE)
        context.add_init_script(WATCH)
        visit.traffic.listen(context)
        walk(visit, context, f"{address}/?invitation={invitation}")
        visit.traffic.fetch()
        context.close()
        # A second visitor, with a dark browser and a low window, who withdraws.
        context = browser.new_context(color_scheme="dark", viewport={"width": 960, "height": 500})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        token = store.invite("taste")[0]
        page.goto(f"{address}/?invitation={token}")
        page.get_by_role("button", name="I do not want").wait_for()
        visit.dark = page.evaluate(
            "[...document.querySelectorAll('.stApp, .peb .card')].map((n) => getComputedStyle(n).backgroundColor)"
        )
        visit.consent = page.evaluate(CONSENT)
        withdraw_while_held(visit, page)
        context.close()
        yield visit
    finally:
        server.terminate()
        server.wait(30)
        store.close()


# --- outcomes ---------------------------------------------------------------------------------------------


def test_from_the_invitation_to_the_code(session: Session) -> None:
    votes = session.store.votes("taste")
    assert list(votes["rater"].unique()) == [session.rater]
    assert len(votes) == 1 + 8
    assert votes["trial"].is_unique
    assert session.store.progress(session.rater).state == "finished"
    assert session.code == session.store.completion(session.rater).code
    assert session.kinds == {"pair", "best"}
    assert session.traffic.problems == []
    # The used link leads the same browser back to where it was, and takes up nothing more.
    assert session.again == session.code
    assert session.store.status("taste").raters == 1


def answer_to(session: Session, trial: str) -> Any:
    name = session.store.unblinded(session.rater, trial).trial.id
    votes = session.store.votes("taste")
    return votes[votes["trial"] == name].iloc[0]


def shared(session: Session, trial: str) -> str:
    """The part that the addresses of a trial's images share."""
    secret = session.store.unblinded(session.rater, trial).secret
    return security.opaque(secret, "pictures", session.rater, trial)


def test_the_keyboard_and_the_pointer_say_what_they_show(session: Session) -> None:
    # The left arrow, the click on the right edit, the marked second edit, and the tie.
    left = answer_to(session, session.timed[0])
    assert left["answer"] == left["candidates"][0]
    right = answer_to(session, session.reloaded[0])
    assert right["answer"] == right["candidates"][1]
    votes = session.store.votes("taste")
    judged = votes[votes["role"] != "practice"]
    best = judged[judged["kind"] == "best"]
    assert [row["answer"] for row in best.to_dict("records")] == [c[1] for c in best["candidates"]]
    assert (judged["answer"] == "tie").sum() == (judged["kind"] == "pair").sum() - 3


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
    before, scrolled, undone = session.vote_counts
    assert before == scrolled == undone > 0
    content = session.store.unblinded(session.rater, session.reloaded[0]).trial
    assert answer_to(session, session.reloaded[0])["answer"] == content.candidates[1]


def test_the_next_pictures_are_fetched_before_the_answer(session: Session) -> None:
    assert len(session.order) == 8
    for (_, answered), (following, _) in pairwise(session.order):
        assert session.traffic.requested[shared(session, following)] < answered


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


# --- traffic --------------------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(session: Session) -> None:
    assert {url.split("/")[2] for url in session.traffic.urls if url.startswith("http")} == {
        session.address.split("/")[2]
    }


def test_nothing_that_the_browser_receives_names_a_method(session: Session) -> None:
    traffic, design = session.traffic, session.design
    # Names of methods, digests, paths and controls.
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
    assert len(traffic.bodies) > 5
    assert len(traffic.frames) > 20
    texts = [*(url.encode() for url in traffic.urls), *(head.encode() for head in traffic.headers)]
    texts += [*traffic.bodies, *traffic.frames, session.html.encode()]
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
    # The images of each trial, by the shared part of their address.
    groups: dict[str, list[bytes]] = {}
    for url, body in session.traffic.pictures.items():
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
    images = [body for body in session.traffic.bodies if body.startswith(b"\x89PNG")]
    other_images = [body for body in images if body not in session.traffic.pictures.values()]
    assert all(len(body) < 4096 for body in other_images)
    assert not [frame for frame in session.traffic.frames if b"iVBORw0KGgo" in frame or b"\x89PNG" in frame]


def test_the_run_folder_is_not_served(session: Session) -> None:
    ref = next(ref for _, ref in session.design.images() if ref.file.endswith(".png"))
    content = session.design.path(ref).read_bytes()
    # Addresses at which a careless server would find the file.
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
