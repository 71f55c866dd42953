"""Links of Mechanical Turk, and the form that hands a task in."""

from __future__ import annotations

import pytest

from bench.study.mturk import PREVIEW, is_preview, submission

TASK = {"workerId": "W1", "hitId": "H1", "assignmentId": "A1", "turkSubmitTo": "https://www.mturk.com"}


def test_a_task_is_handed_in_with_its_assignment_and_the_code() -> None:
    form = submission(TASK, "CODE")
    assert form is not None
    assert form.url == "https://www.mturk.com/mturk/externalSubmit"
    assert form.fields == {"assignmentId": "A1", "code": "CODE"}
    sandbox = submission({**TASK, "turkSubmitTo": "https://workersandbox.mturk.com/"}, "CODE")
    assert sandbox is not None
    assert sandbox.url == "https://workersandbox.mturk.com/mturk/externalSubmit"


@pytest.mark.parametrize(
    "address",
    [
        "http://www.mturk.com",
        "https://mturk.com.example",
        "https://notmturk.com",
        "https://www.mturk.com@evil.example",
        "javascript:alert(1)//www.mturk.com",
        "https://[",
        "",
    ],
)
def test_a_link_that_anyone_wrote_leads_nowhere_else(address: str) -> None:
    assert submission({**TASK, "turkSubmitTo": address}, "CODE") is None


def test_without_an_accepted_task_nothing_is_handed_in() -> None:
    assert submission({}, "CODE") is None
    assert submission({"PROLIFIC_PID": "p"}, "CODE") is None
    preview = {**TASK, "assignmentId": PREVIEW}
    assert submission(preview, "CODE") is None
    assert is_preview(preview)
    # Mechanical Turk names no worker in a preview.
    assert is_preview({"assignmentId": PREVIEW, "hitId": "H1"})
    assert not is_preview(TASK)
