"""Makes the screenshots of docs/study: a study of embedded methods' edits, served and driven in headless Chromium.

With ``--all`` it takes every page of every kind of trial in all languages, on a laptop and on a phone, for a look
before a release. It needs Chromium, and a few minutes for the edits of the first call, which ``--run`` keeps.

    python tests/perf/study_screens.py
    python tests/perf/study_screens.py --all /tmp/screens --language ar --language zh
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.study.design import DesignOptions  # noqa: E402
from bench.study.scales import read_scales  # noqa: E402
from bench.study.settings import ScreenerQuestion, StudySettings  # noqa: E402
from bench.study.simulate import Taste, run_raters  # noqa: E402
from bench.study.store import StudyStore  # noqa: E402
from bench.study.words import LANGUAGES  # noqa: E402
from tests.bench.study.app.browser import PATIENCE, READY, press, trial_of  # noqa: E402
from tests.bench.study.app.test_browser import CHROMIUM  # noqa: E402
from tests.bench.study.app.test_sessions import LAPTOP, PHONE, served  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DEVICES = {"laptop": LAPTOP, "phone": PHONE}
PASSWORD = "correct horse battery"
SUITE = """name: screens
limit: 1
protocols: [mini-celeba-hq]
methods:
  - {method: prompt_edit_diff, preset: mini}
  - {method: sd_inpainting, preset: mini}
  - {method: lama, preset: mini}
  - oracle
"""
# The images of the guide: language, device and page -> file.
GUIDE = {
    ("en", "laptop", "pair"): "trial.png",
    ("en", "phone", "pair"): "phone.png",
    ("en", "laptop", "rate"): "rate.png",
    ("en", "phone", "rate"): "rate-phone.png",
    ("ar", "laptop", "pair"): "arabic.png",
}
OPTIONS = DesignOptions(
    kinds=("pair", "best", "rate"), raters=8, trials=10, repeats=0, attention=1, practice=1, both_bad=True,
    scales=read_scales(["sc", "pq"]),
)  # fmt: skip


def make_run(folder: Path) -> Path:
    """A run of three embedded methods and the oracle. It is finished where it was begun before."""
    suite = folder / "suite.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    command = [sys.executable, str(ROOT / "run_bench.py"), "edit", str(suite), "--out", str(folder / "run")]
    subprocess.run([*command, "--quiet"], check=True, cwd=ROOT)
    return folder / "run"


def visit(page: Page, store: StudyStore, link: str, shoot: Callable[[str], None], *, dialogs: bool) -> None:
    """A rater's session. Calls ``shoot`` with the name of each page, and with ``dialogs`` of those of a pair."""
    words = store.study("taste").words

    def click(text: str) -> None:
        page.get_by_role("button", name=text).click()

    # The pages before the trials.
    page.goto(link)
    page.get_by_role("button", name=words("agree")).wait_for()
    shoot("consent")
    click(words("agree"))
    if store.study("taste").settings.screener:
        page.get_by_text(words("screener.heading")).wait_for()
        shoot("screener")
        page.get_by_text("yes", exact=True).click()
        click(words("go_on"))
    page.get_by_role("button", name=words("start_practice")).wait_for()
    shoot("instructions")
    click(words("start_practice"))

    # Practice, its explanation, and the trials: the first two of each kind.
    previous = ""
    while True:
        page.locator(
            f"{READY}:not([data-trial='{previous}']), .feedback, .code, .st-key-ready_button"
        ).first.wait_for()
        if page.locator(".code").count():
            shoot("end")
            return
        if page.locator(".st-key-ready_button").count():
            shoot("practice-done")
            click(words("practice_done.begin"))
            page.locator(READY).wait_for()
        if page.locator(".feedback").count():
            shoot("feedback")
            page.keyboard.press("Enter")
            page.locator(".feedback").wait_for(state="detached")
            continue
        previous = trial_of(page)
        kind = str(page.locator(READY).get_attribute("data-kind"))
        practice = page.locator(READY).get_attribute("data-practice") == "true"
        answer(page, kind, (lambda _: None) if practice else shoot, dialogs=dialogs and not practice)


def answer(page: Page, kind: str, shoot: Callable[[str], None], *, dialogs: bool) -> None:
    """Answers a trial by the keyboard."""
    if kind == "rate":
        press(page, "3")
        shoot("rate")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        return
    shoot(kind)
    if kind == "pair":
        for key, name in (("?", "help"), ("p", "pause")) if dialogs else ():
            page.keyboard.press(key)
            page.get_by_role("dialog").wait_for()
            shoot(name)
            page.keyboard.press("Escape")
            # Keys of the page count again once the dialog has gone.
            page.get_by_role("dialog").wait_for(state="detached")
        press(page, "ArrowLeft")
        shoot("held")
    else:
        press(page, "1")
    page.keyboard.press("Enter")


def administer(page: Page, address: str, store: StudyStore, shoot: Callable[[str], None]) -> None:
    """The administrator's page with simulated raters."""
    strengths = {"prompt_edit_diff": 1.2, "sd_inpainting": 0.6, "lama": -1.0}
    run_raters(store, "taste", 6, Taste(strengths), seed=1)
    page.goto(f"{address}/admin")
    page.locator("input[type=password]").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Simulated", exact=True).click()
    page.get_by_text("none of these figures is of people").wait_for()
    page.get_by_text("Head to head").wait_for()
    shoot("admin")


def picture(page: Page, file: Path, *, whole: bool) -> None:
    """Writes a screenshot in 256 colours, which takes a third of the bytes of all colours."""
    from PIL import Image

    # Fonts and transitions.
    page.wait_for_timeout(400)
    size = page.viewport_size
    if whole and size is not None:
        # The page scrolls within an element, which a screenshot of the whole page would cut.
        height = page.evaluate(
            "Math.max(...[...document.querySelectorAll('*')].map((node) => node.scrollHeight))"
        )
        page.set_viewport_size({"width": size["width"], "height": max(size["height"], int(height))})
        page.wait_for_timeout(400)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    file.parent.mkdir(parents=True, exist_ok=True)
    shot.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    if size is not None:
        page.set_viewport_size(size)


def shoot_language(
    browser: Browser, language: str, run: Path, devices: Sequence[str], out: Path, *, every: bool
) -> None:
    """The screenshots of one language: those of the guide, or with ``every`` all pages into folders of ``out``."""
    screener = (ScreenerQuestion("Can you tell red from green?", ("no", "yes"), ("yes",)),) if every else ()
    settings = StudySettings(language=language, screener=screener, contact="study@example.org", reward=2.5)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), settings, OPTIONS, run=run, password=PASSWORD) as (address, store),
    ):
        for device in devices:
            context = browser.new_context(**DEVICES[device])
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            counts: dict[str, int] = {}

            def shoot(
                name: str, page: Page = page, device: str = device, counts: dict[str, int] = counts
            ) -> None:
                counts[name] = counts.get(name, 0) + 1
                # A second pair or rating shows "change last answer", so it takes the place of the first.
                if every and counts[name] == 1:
                    picture(page, out / language / f"{device}-{name}.png", whole=True)
                elif not every and counts[name] <= 2 and (language, device, name) in GUIDE:
                    picture(page, out / GUIDE[language, device, name], whole=False)

            visit(page, store, f"{address}/?invitation={store.invite('taste')[0]}", shoot, dialogs=every)
            context.close()
        if language == "en":
            context = browser.new_context(**LAPTOP)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            administer(page, address, store, lambda name: picture(page, out / f"{name}.png", whole=False))
            context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page, into this folder")
    parser.add_argument("--language", action="append", choices=LANGUAGES, help="with --all; may be repeated")
    parser.add_argument("--run", type=Path, help="a folder that keeps the edits")
    options = parser.parse_args()
    every = options.all is not None
    languages = options.language or (LANGUAGES if every else ("en", "ar"))
    with ExitStack() as stack:
        folder = options.run or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        run = make_run(folder)
        driver = stack.enter_context(sync_playwright())
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        stack.callback(browser.close)
        for language in languages:
            devices = [name for name in DEVICES if every or any(key[:2] == (language, name) for key in GUIDE)]
            out = options.all if every else ROOT / "docs" / "study"
            shoot_language(browser, language, run, devices, out, every=every)


if __name__ == "__main__":
    main()
