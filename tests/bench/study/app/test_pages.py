"""The raters' pages as Streamlit's own test runner sees them: no browser, the same script."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bench.study.app import admin as app_admin
from bench.study.app import rater as app_rater
from bench.study.app import service as app_service
from bench.study.app import text as app_text
from bench.study.app.messages import DETAILS
from bench.study.database import Clock, DatabaseError
from bench.study.settings import ScreenerQuestion
from bench.study.store import StudyStore
from bench.study.votes.exclusion import Exclusion
from bench.study.words import words_of
from tests.bench.study.app.visits import Site, begin, needs_streamlit, text, trial_data
from tests.bench.study.runs import answer_all
from tests.bench.study.served import ODD, TITLES

pytestmark = needs_streamlit


# --- links ------------------------------------------------------------------------------------------------


def test_an_invitation_is_used_up_by_agreeing_and_not_by_looking(make_site) -> None:
    site = make_site(title="<b>Taste</b>", consent="I <script>agree</script>", contact="a@b.example")
    token = site.store.invite("taste")[0]
    page = site.visit(invitation=token)
    assert site.store.status("taste").taken_up == 0
    assert "&lt;b&gt;Taste&lt;/b&gt;" in text(page)
    assert "I &lt;script&gt;agree&lt;/script&gt;" in text(page)
    assert "a@b.example" in text(page)
    # Agreeing uses the invitation, and practice begins.
    page = begin(page)
    assert site.store.status("taste").taken_up == 1
    data = trial_data(page)
    assert data is not None
    assert data["trial"]["practice"]
    assert data["trial"]["total"] == 1
    # The address is the rater's own link from now on: the same trial in another tab.
    link = page.query_params
    assert list(link) == ["session"]
    other = site.visit(session=link["session"])
    other = other.button(key="start").click().run()
    assert trial_data(other)["trial"]["id"] == data["trial"]["id"]
    # The invitation is good for nobody else, who is not even asked to agree.
    again = site.visit(invitation=token)
    assert "This link has been used" in text(again)
    assert not again.button
    assert site.store.status("taste").raters == 1


class Yesterday(Clock):
    def now(self) -> datetime:
        return super().now() - timedelta(days=2)


def test_a_link_that_is_not_good_gets_a_page_that_says_why(make_site) -> None:
    site = make_site()
    token = site.store.invite("taste")[0]
    # Expired, altered, cut short, malformed, and far too long.
    with StudyStore.open(site.target, clock=Yesterday()) as before:
        old = before.invite("taste", days=1)[0]
    body, mac = token.split(".")
    for bad, title in (
        (old, "This link has ended"),
        (f"{body}.{mac[:-2]}AA", "This link is not valid"),
        (f"{body}", "This link is not valid"),
        ("<script>.x", "This link is not valid"),
        ("x" * 5000, "This link is not valid"),
    ):
        page = site.visit(invitation=bad)
        assert ">This does not work</h1>" in text(page)
        assert title in text(page)
        assert not page.button
        assert "Traceback" not in text(page)
    # The same for sessions.
    for session in (token, f"{body}.{mac}", "a.b", "😀.😀"):
        assert "This link is not valid" in text(site.visit(session=session))
    assert site.store.status("taste").raters == 0
    assert "needs an invitation" in text(site.visit())


def test_open_registration_knows_whom_a_recruiting_service_sent(make_site) -> None:
    site = make_site(
        open_registration=True, completion_code="C0FFEE", return_url="https://x.example/?cc={code}&id={rater}"
    )
    one = begin(site.visit(PROLIFIC_PID="p-1"))
    rater = site.store.resume(one.query_params["session"]).rater
    # The same id is the same rater. Without an id, everybody is a new one.
    two = site.visit(PROLIFIC_PID="p-1").button(key="agree").click().run()
    assert site.store.resume(two.query_params["session"]).rater == rater
    begin(site.visit())
    assert site.store.status("taste").raters == 2
    answer_all(site.store, rater)
    # The last page leads back to the service, with its own id of the rater.
    done = text(site.visit(session=one.query_params["session"]))
    assert 'href="https://x.example/?cc=C0FFEE&amp;id=p-1"' in done
    assert 'rel="noreferrer"' in done
    assert '<span class="code" dir="ltr">C0FFEE</span>' in done


def test_what_a_recruiting_service_says_is_kept_also_with_an_invitation(make_site) -> None:
    site = make_site()
    recruited = {"PROLIFIC_PID": "p-1", "STUDY_ID": "s-1", "SESSION_ID": "n-1"}
    token = site.store.invite("taste")[0]
    page = begin(site.visit(invitation=token, other="x", **recruited))
    (record,) = site.store.raters("taste")
    assert (record.external, record.recruited) == ("p-1", recruited)
    # The rater's own link does not tell it to whoever sees it.
    assert list(page.query_params) == ["session"]
    # Without the cookie, by the link and the service's name.
    again = site.visit(invitation=token, **recruited).button(key="agree").click().run()
    assert site.store.resume(again.query_params["session"]).rater == record.rater
    assert "p-1" in app_admin.raters(site.service, "human", site.store.votes("taste"), Exclusion())


@pytest.mark.parametrize(
    ("query", "external", "recruited"),
    [
        ({}, "", {}),
        ({"STUDY_ID": "s"}, "", {}),
        ({"PROLIFIC_PID": "p", "STUDY_ID": "s", "x": "y"}, "p", {"PROLIFIC_PID": "p", "STUDY_ID": "s"}),
        ({"workerId": "w", "hitId": "h", "assignmentId": "a", "turkSubmitTo": "t"}, "w",
         {"workerId": "w", "hitId": "h", "assignmentId": "a", "turkSubmitTo": "t"}),
        ({"participant": "q", "PROLIFIC_PID": ""}, "q", {"participant": "q"}),
    ],
)  # fmt: skip
def test_links_of_recruiting_services_are_read(query, external, recruited) -> None:
    assert app_rater.recruited_by(query) == (external, recruited)


def test_the_first_page_says_what_is_stored_and_takes_a_no(make_site) -> None:
    site = make_site(contact="a@b.example", consent="Only this.")
    token = site.store.invite("taste")[0]
    page = site.visit(invitation=token, PROLIFIC_PID="p-1")
    assert "What is stored" in text(page)
    assert "recruiting service" in text(page)
    assert "withdraw at any time" in text(page)
    page = page.button(key="decline").click().run()
    assert "You do not take part" in text(page)
    assert not page.button
    # A visitor who declines leaves no trace.
    status = site.store.status("taste")
    assert (status.raters, status.taken_up) == (0, 0)
    # Who came in before and never agreed is withdrawn.
    entry = site.store.register("taste", external="p-2")
    page = site.visit(session=entry.session).button(key="decline").click().run()
    assert "You do not take part" in text(page)
    (record,) = site.store.raters("taste")
    assert (record.state, record.external) == ("withdrawn", None)
    assert "You have withdrawn" in text(site.visit(session=entry.session))


def test_the_first_page_names_all_that_the_browser_tells() -> None:
    """A detail that is new here must be added to the page, too."""
    said = app_text.storage_notice(words_of("en", {}), "", screener=True)
    words = {
        "by": "keyboard, a mouse or touch", "touch": "touch", "zoomed": "zoomed", "enlarged": "enlarged",
        "flickered": "compared", "undone": "took an answer back", "paused": "paused", "reloads": "reloaded",
        "width": "sizes of your window", "height": "sizes of your window", "ratio": "pixel ratio",
        "side": "of the pictures", "over": "time for the pictures",
    }  # fmt: skip
    assert set(words) == set(DETAILS)
    assert all(word in said for word in words.values())


def test_a_rater_midway_gets_a_code_when_the_study_closes(make_site) -> None:
    site = make_site(open_registration=True, return_url="https://x.example/?cc={code}&id={rater}")
    page = begin(site.visit(PROLIFIC_PID="p-1"))
    link = page.query_params
    late = begin(site.visit())
    rater = site.store.resume(link["session"]).rater
    site.store.vote(rater, trial_data(page)["trial"]["id"], 0, 1000)
    site.store.vote(rater, site.store.next_trial(rater).id, 0, 1000)
    # The study closes after two answers of one rater and none of the other.
    site.store.close_study("taste")
    page = site.visit(session=link["session"])
    code = site.store.completion(rater).code
    assert "This study has ended" in text(page)
    assert f'<span class="code" dir="ltr">{code}</span>' in text(page)
    assert f'href="https://x.example/?cc={code}&amp;id=p-1"' in text(page)
    # Who has an open trial may answer it still.
    assert trial_data(late.run()) is not None


def test_a_closed_and_a_full_study_say_so(make_site) -> None:
    site = make_site(open_registration=True)
    for _ in range(3):
        site.store.register("taste")
    page = site.visit().button(key="agree").click().run()
    assert "All places in this study are taken" in text(page)
    site.store.close_study("taste")
    assert "This study has ended" in text(site.visit())


# --- the platform -----------------------------------------------------------------------------------------


def test_a_rater_is_screened_by_the_questions_before_the_study(make_site) -> None:
    site = make_site(
        open_registration=True,
        screener=SCREENER,
        screen_out_code="NOT4U",
        return_url="https://x.example/?cc={code}",
    )
    page = site.visit(PROLIFIC_PID="p-1").button(key="agree").click().run()
    assert "A few questions first" in text(page)
    page = page.button[0].click().run()
    assert page.warning[0].value == "Please answer every question."
    # One answer that is not accepted is enough.
    page.radio(key="screener_0").set_value("under 18")
    page.radio(key="screener_1").set_value("no")
    page = page.button[0].click().run()
    assert "looks for other people" in text(page)
    assert 'href="https://x.example/?cc=NOT4U"' in text(page)
    assert trial_data(page) is None
    # Coming back changes nothing.
    again = site.visit(PROLIFIC_PID="p-1").button(key="agree").click().run()
    assert "looks for other people" in text(again)
    # Another rater gets the study, and the sheet of the first.
    other = site.visit(PROLIFIC_PID="p-2").button(key="agree").click().run()
    other.radio(key="screener_0").set_value("18 or more")
    other.radio(key="screener_1").set_value("yes")
    other = other.button[0].click().run()
    assert "How it works" in text(other)
    status = site.store.status("taste")
    assert (status.raters, status.ended_early, status.finished) == (2, 1, 0)


SCREENER = (
    ScreenerQuestion("How old are you?", ("under 18", "18 or more"), ("18 or more",)),
    ScreenerQuestion("Do you edit pictures?", ("yes", "no")),
)


@pytest.mark.parametrize("language", ["ar", "de", "es", "zh"])
def test_every_page_is_in_the_language_of_the_study(make_site, language: str) -> None:
    site = make_site(open_registration=True, language=language, screener=SCREENER)
    words = site.service.study.words
    page = site.visit()
    assert words("stored.heading") in text(page)
    assert f'dir="{words.direction}" lang="{language}"' in text(page)
    assert [button.label for button in page.button] == [words("agree"), words("decline")]
    page = page.button(key="agree").click().run()
    assert words("screener.heading") in text(page)
    page.radio(key="screener_0").set_value("18 or more")
    page.radio(key="screener_1").set_value("yes")
    page = page.button[0].click().run()
    assert words("instructions")[:20] in text(page)
    page = page.button(key="start").click().run()
    data = trial_data(page)
    assert data["trial"]["question"] == words("question.overall.pair")
    assert (data["direction"], data["language"]) == (words.direction, language)
    assert data["words"]["tie"] == words("trial.tie")
    # The last page.
    rater = site.store.resume(page.query_params["session"]).rater
    answer_all(site.store, rater)
    done = text(page.run())
    assert words("done") in done
    assert words("code") in done


def test_a_study_has_its_own_texts_as_markdown(make_site) -> None:
    site = make_site(
        open_registration=True,
        consent="We pay **9 GBP**.",
        markdown=("consent",),
        instructions="Not *Markdown*.",
        questions={"overall": {"pair": "Which would you print?"}},
    )
    page = site.visit()
    assert "<strong>9 GBP</strong>" in text(page)
    page = page.button(key="agree").click().run()
    assert "Not *Markdown*." in text(page)
    assert trial_data(page.button(key="start").click().run())["trial"]["question"] == "Which would you print?"


# --- trials -----------------------------------------------------------------------------------------------


def test_every_odd_text_reaches_the_browser_as_it_is(make_site) -> None:
    site = make_site()
    entry = site.store.register("taste")
    site.store.consent(entry.rater)
    page = site.visit(session=entry.session)
    page = page.button(key="start").click().run()
    # Every trial in turn, and the page after practice.
    said = set()
    while (data := trial_data(page)) is not None or any(b.key == "ready_button" for b in page.button):
        if data is None:
            page = page.button(key="ready_button").click().run()
            continue
        assert len(data["trial"]["brief"]) == 2
        said |= {entry[1] for entry in data["trial"]["brief"]}
        site.store.vote(entry.rater, data["trial"]["id"], 0, 1000)
        page = page.run()
    assert said <= set(ODD)
    assert len(said) >= 4
    # The last page has the code.
    code = site.store.completion(entry.rater).code
    assert f'<span class="code" dir="ltr">{code}</span>' in text(page)


def spoil(site: Site, rater: str, trial: str) -> tuple[Path, bytes]:
    """Changes the source image of a trial. Returns its path and its original bytes."""
    design = site.service.study.design
    path = design.path(design.case_by_key[site.store.unblinded(rater, trial).trial.case].source)
    original = path.read_bytes()
    path.write_bytes(original + b"x")
    return path, original


def test_a_changed_file_voids_its_trials_and_the_rater_goes_on(make_site, monkeypatch) -> None:
    site = make_site()
    entry = site.store.register("taste")
    site.store.consent(entry.rater)
    practice = site.store.next_trial(entry.rater)
    assert practice is not None
    site.store.vote(entry.rater, practice.id, 0, 1000)
    trial = site.store.next_trial(entry.rater)
    assert trial is not None
    # The open trial is spoilt: the page shows another one, and names no file.
    path, original = spoil(site, entry.rater, trial.id)
    page = site.visit(session=entry.session).button(key="ready_button").click().run()
    data = trial_data(page)
    assert data is not None
    assert data["trial"]["id"] != trial.id
    assert not [name for name in (*TITLES, str(path.name), "sha", "SHA") if name in text(page)]
    # The administrator reads which file it was.
    incidents = site.service.incidents.read("taste")
    assert {(one.kind, one.rater) for one in incidents} == {("picture", entry.rater)}
    assert trial.id in {one.trial for one in incidents}
    assert str(path) in incidents[0].message
    # All that can be shown is answered, and there is a code.
    answered = []
    while (data := trial_data(page)) is not None:
        answered.append(data["trial"]["id"])
        site.store.vote(entry.rater, data["trial"]["id"], 0, 1000)
        page = page.run()
    assert trial.id not in answered
    assert site.store.completion(entry.rater).code in text(page)
    # Once the file is back and has been looked at again, the trial is another rater's.
    path.write_bytes(original)
    monkeypatch.setattr(app_service, "VOID_SECONDS", 0)
    other_sessions = [answer_all(site.store, site.store.register("taste").rater) for _ in range(2)]
    assert trial.id in {one.id for some in other_sessions for one in some}


def test_a_changed_practice_picture_stops_nobody(make_site) -> None:
    site = make_site()
    first = site.store.register("taste")
    practice = site.store.next_trial(first.rater)
    assert practice is not None
    # It is the only practice trial of all raters.
    spoil(site, first.rater, practice.id)
    for entry in (first, site.store.register("taste")):
        site.store.consent(entry.rater)
        page = site.visit(session=entry.session).button(key="start").click().run()
        data = trial_data(page)
        assert data is not None
        # The only practice trial is void: the first question that counts.
        assert not data["trial"]["practice"]
        assert data["trial"]["number"] == 1
        site.store.vote(entry.rater, data["trial"]["id"], 0, 1000)
    assert site.store.status("taste").votes == 2
    assert {one.trial for one in site.service.incidents.read("taste")} >= {practice.id}


def test_without_its_run_folder_a_study_waits(make_site) -> None:
    site = make_site()
    entry = site.store.register("taste")
    site.store.consent(entry.rater)
    away = site.run.rename(site.run.with_name("away"))
    page = site.visit(session=entry.session).button(key="start").click().run()
    assert "We cannot show pictures at the moment" in text(page)
    assert site.store.progress(entry.rater).state == "practice"
    away.rename(site.run)
    assert trial_data(page.run())["trial"]["practice"]


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (DatabaseError("postgresql://secret-host: gone"), "One moment"),
        (ZeroDivisionError("Zebrafish Diffusion at /secret/path"), "This does not work"),
    ],
    ids=["database", "bug"],
)
def test_no_failure_shows_more_than_a_sentence(make_site, monkeypatch, error: Exception, title: str) -> None:
    site = make_site()
    entry = site.store.register("taste")

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(StudyStore, "progress", fails)
    monkeypatch.setattr(StudyStore, "resume", lambda *_: entry)
    page = site.visit(session=entry.session)
    assert title in text(page)
    assert "secret" not in text(page) + "".join(str(node) for node in page.main)
