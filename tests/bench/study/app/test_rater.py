"""A rater's pages under terms of the study: Markdown in questions, a time limit per trial, Mechanical Turk."""

from __future__ import annotations

from typing import Any

import pytest

from bench.study.mturk import PREVIEW
from tests.bench.study.app.visits import begin, needs_streamlit, text, trial_data
from tests.bench.study.runs import answer_all

pytestmark = needs_streamlit

ASKED = {
    "overall": {"pair": "Which is *better*? <b>x</b>", "hint": "Look at\n\n- the **outline**\n- <i>all</i>"}
}


def first_trial(site: Any) -> dict[str, Any]:
    data = trial_data(begin(site.visit()))
    assert data is not None
    trial: dict[str, Any] = data["trial"]
    return trial


def test_questions_are_plain_text_unless_the_study_says_markdown(make_site) -> None:
    trial = first_trial(make_site(open_registration=True, questions=ASKED))
    assert trial["question"] == "Which is *better*? &lt;b&gt;x&lt;/b&gt;"
    assert trial["hint"] == "Look at\n\n- the **outline**\n- &lt;i&gt;all&lt;/i&gt;"


def test_markdown_of_questions_becomes_html_and_html_stays_text(make_site) -> None:
    trial = first_trial(make_site(open_registration=True, questions=ASKED, markdown=("questions",)))
    assert trial["question"] == "Which is <em>better</em>? &lt;b&gt;x&lt;/b&gt;"
    assert "<li>the <strong>outline</strong></li>" in trial["hint"]
    assert "<li>&lt;i&gt;all&lt;/i&gt;</li>" in trial["hint"]


@pytest.mark.parametrize(
    "mark", ["![x](https://x.example/p.png)", "[x](javascript:alert(1))", "<img src=x onerror=alert(1)>"]
)
def test_markdown_of_questions_loads_and_runs_nothing(make_site, mark: str) -> None:
    asked = {"overall": {"pair": mark, "hint": mark}}
    trial = first_trial(make_site(open_registration=True, questions=asked, markdown=("questions",)))
    for html in (trial["question"], trial["hint"]):
        assert "<img" not in html
        assert 'href="javascript' not in html


def test_a_time_limit_is_stated_before_the_first_trial(make_site) -> None:
    site = make_site(open_registration=True, trial_seconds=7)
    page = site.visit()
    assert "7 s to look at each question" in text(page)
    page = page.button(key="agree").click().run()
    assert "for 7 seconds. Then they are covered" in text(page)
    data = trial_data(page.button(key="start").click().run())
    assert data is not None
    assert data["trial"]["seconds"] == 7


def test_without_a_time_limit_no_page_names_one(make_site) -> None:
    site = make_site(open_registration=True)
    page = site.visit()
    assert "to look at each question" not in text(page)
    page = page.button(key="agree").click().run()
    assert "covered" not in text(page)
    data = trial_data(page.button(key="start").click().run())
    assert data is not None
    assert data["trial"]["seconds"] is None


# --- Mechanical Turk --------------------------------------------------------------------------------------


def test_a_preview_names_no_worker_and_makes_no_rater(make_site) -> None:
    site = make_site(open_registration=True)
    page = site.visit(assignmentId=PREVIEW, hitId="H1")
    assert "Accept the task first" in text(page)
    assert not page.button
    assert site.store.status("taste").raters == 0


def test_the_last_page_of_a_worker_has_the_form_of_the_present_task(make_site) -> None:
    site = make_site(open_registration=True, return_url="https://x.example/?cc={code}")
    task = {"workerId": "W1", "hitId": "H1", "turkSubmitTo": "https://workersandbox.mturk.com"}
    page = begin(site.visit(assignmentId="A1", **task))
    rater = site.store.resume(page.query_params["session"]).rater
    answer_all(site.store, rater)
    # The worker has returned the task and accepted it once more.
    page = site.visit(assignmentId="A2", **task).button(key="agree").click().run()
    code = site.store.completion(rater).code
    (form,) = [node.proto.json for node in page.get("bidi_component") if "externalSubmit" in node.proto.json]
    assert '"https://workersandbox.mturk.com/mturk/externalSubmit"' in form
    assert '"assignmentId": "A2"' in form.replace('":"', '": "')
    assert code is not None
    assert code in form
    # The return address of another service is not offered beside it.
    assert "x.example" not in text(page)


def test_without_a_task_the_last_page_has_the_return_address(make_site) -> None:
    site = make_site(open_registration=True, return_url="https://x.example/?cc={code}")
    page = begin(site.visit(PROLIFIC_PID="p"))
    answer_all(site.store, site.store.resume(page.query_params["session"]).rater)
    page = page.run()
    assert "https://x.example/?cc=" in text(page)
    assert not [node for node in page.get("bidi_component") if "externalSubmit" in node.proto.json]
