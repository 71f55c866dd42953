"""Mechanical Turk: what it puts into the link of an ExternalQuestion, and how a task is handed in.

Mechanical Turk shows the study in a frame of its own page, with ``assignmentId``, ``hitId``, ``workerId`` and
``turkSubmitTo`` in the link. Before a worker has accepted the task, ``assignmentId`` is ``PREVIEW`` and there is no
``workerId``. The task ends when the worker's browser sends a form with the ``assignmentId`` to the address
``/mturk/externalSubmit`` of ``turkSubmitTo``.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from bench.study.interface import Submission

# `assignmentId` while a worker looks at a task without having accepted it.
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
DOMAIN = "mturk.com"


def is_preview(query: Mapping[str, str]) -> bool:
    """True for the parameters of a link that shows a task to a worker who has not accepted it."""
    return query.get("assignmentId") == PREVIEW


def submission(recruited: Mapping[str, str], code: str) -> Submission | None:
    """The form that hands a task in, with the completion code. None for raters whom nobody at Mechanical Turk sent.

    ``recruited``: parameters of the rater's link. Anyone can write a link, so its ``turkSubmitTo`` counts only where it
    is an address (https) of Mechanical Turk or of its sandbox.
    """
    assignment = recruited.get("assignmentId")
    if not assignment or is_preview(recruited):
        return None
    try:
        parts = urlsplit(recruited.get("turkSubmitTo", ""))
    except ValueError:
        return None
    host = parts.hostname or ""
    if parts.scheme != "https" or not (host == DOMAIN or host.endswith(f".{DOMAIN}")):
        return None
    return Submission(f"https://{host}/mturk/externalSubmit", {"assignmentId": assignment, "code": code})
