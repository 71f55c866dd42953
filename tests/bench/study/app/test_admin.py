"""The administrator's page, in Streamlit's own test runner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.study.simulate import Taste, run_raters
from tests.bench.study.app.visits import PASSWORD, Site, needs_streamlit, text
from tests.bench.study.runs import answer_all
from tests.bench.study.served import TITLES

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

pytestmark = needs_streamlit


def admin_script(target: str) -> None:
    from bench.study.app import admin as app_admin
    from bench.study.app import service as app_service

    app_admin.show(app_service.get_service(target, "taste"))


def administer(site: Site) -> AppTest:
    from streamlit.testing.v1 import AppTest

    return AppTest.from_function(admin_script, args=(str(site.target),), default_timeout=60).run()


def sign_in(page: AppTest, password: str) -> AppTest:
    page.text_input[0].set_value(password)
    return page.button[0].click().run()


def test_the_admin_page_shows_nothing_before_the_password_and_stops_guessing(make_site, monkeypatch) -> None:
    from streamlit.runtime.context import ContextProxy

    monkeypatch.setattr(ContextProxy, "ip_address", property(lambda _: "192.0.2.7"))
    site = make_site()
    page = administer(site)
    assert not [title for title in TITLES if title in text(page)]
    for _ in range(5):
        page = sign_in(page, "wrong password")
        assert page.error[0].value == "Wrong password."
    # The right one is not even looked at now, from here or from another window.
    for window in (page, administer(site)):
        assert "Too many wrong passwords" in sign_in(window, PASSWORD).error[0].value
    assert not [title for title in TITLES if title in text(page)]


def test_the_admin_page_shows_votes_of_people_and_of_simulations_apart(make_site) -> None:
    site = make_site()
    page = sign_in(administer(site), PASSWORD)
    assert not page.exception
    assert "No votes yet." in text(page)
    # One person and two simulated raters.
    rater = site.store.register("taste").rater
    answer_all(site.store, rater)
    run_raters(site.store, "taste", 2, Taste({}), seed=1)
    page = page.run()
    people = text(page)
    assert "Simulated raters" not in people
    assert "<b>4 <small>of 12</small></b>" in people
    assert rater[:8] in people
    for title in TITLES:
        assert title in people
    # The figures of simulated raters are apart.
    page.segmented_control(key="kind").set_value("Simulated").run()
    made_up = text(page)
    assert "none of these figures is of people" in made_up
    assert "<b>8 <small>of 12</small></b>" in made_up
    assert rater[:8] not in made_up


def test_exports_are_what_the_exchange_reads(make_site, tmp_path: Path) -> None:
    from bench.study.app.admin import exported
    from bench.study.exchange import import_votes

    site = make_site()
    rater = site.store.register("taste").rater
    answer_all(site.store, rater)
    for ending in (".csv", ".parquet"):
        path = tmp_path / f"votes{ending}"
        path.write_bytes(exported(site.service, "human", ending, anonymous=False))
        assert set(import_votes(path)["rater"]) == {rater}
        path.write_bytes(exported(site.service, "human", ending, anonymous=True))
        # All votes are there, and the rater is not.
        hidden = import_votes(path)
        assert len(hidden) == 7
        assert rater not in set(hidden["rater"])
    assert rater.encode() not in exported(site.service, "human", ".csv", anonymous=True)
