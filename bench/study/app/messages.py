"""Messages between the server and the trial's component in the browser: a trial to it, an answer from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from bench.study.app import text as app_text
from bench.study.app.service import IMAGES, Service
from bench.study.interface import Answer, OpenTrial, VoteRefused
from bench.study.scales import MOST_SCALES
from bench.study.types import NO_PREFERENCE

# Details of an answer that are stored. Others that a browser sends are dropped. `app_text.storage_notice` tells raters
# of each.
DETAILS: Mapping[str, type | tuple[type, ...]] = {
    "by": str,
    "zoomed": (int, float),
    "flickered": int,
    "enlarged": int,
    "paused": int,
    "undone": int,
    "over": bool,
    "reloads": int,
    "width": int,
    "height": int,
    "side": int,
    "ratio": (int, float),
    "touch": bool,
}


def trial_message(service: Service, rater: str, trial: OpenTrial) -> dict[str, Any]:
    """The message of a trial to the browser: texts, and the addresses of its images and of the next trial's."""
    prepared = service.images.prepare(rater, trial.id)
    # A rater can read the whole message in the browser's developer tools. So it names no method, no case and no
    # file: ids and addresses are opaque.
    study = service.study
    words = study.words
    return {
        "title": study.text("title"),
        "words": words.part("trial"),
        "direction": words.direction,
        "language": words.language,
        "trial": {
            "id": trial.id,
            "kind": trial.kind,
            "practice": trial.practice,
            # HTML, as are the texts of the scales: the study's own words, escaped or made of Markdown.
            "question": app_text.asked(study, trial.question),
            "hint": app_text.asked(study, trial.hint, blocks=True),
            "brief": app_text.brief(words, trial),
            "labels": app_text.labels(words, trial),
            "tie": trial.tie,
            "bothBad": trial.both_bad,
            "scales": [
                {
                    "question": app_text.asked(study, scale.question),
                    "levels": [
                        [app_text.asked(study, level.label), app_text.asked(study, level.means)]
                        for level in scale.levels
                    ],
                }
                for scale in trial.scales
            ],
            # Seconds to look at the pictures, None without a limit.
            "seconds": study.settings.trial_seconds,
            "number": trial.number,
            "total": trial.total,
        },
        # The size lets the page lay itself out before an image arrives.
        "size": list(prepared.size),
        "pictures": [f"{IMAGES}/{address}" for address in prepared.addresses],
        # The same with all pixels, for zooming. Empty where the images have them already.
        "full": [f"{IMAGES}/{address}" for address in prepared.full],
        "next": [f"{IMAGES}/{address}" for address in service.next_addresses(rater)],
    }


class SentAnswer(NamedTuple):
    """The answer to one trial, as a browser sent it."""

    trial: str
    answer: Answer
    # Milliseconds. None where the browser sent no possible time.
    reaction_ms: int | None
    details: dict[str, Any]
    # True where the answer replaces the last one of the rater.
    change: bool


def read_answer(value: object) -> SentAnswer:
    """The answer that a browser sent.

    An impossible time is None, and impossible details are dropped. Raises ``VoteRefused`` for anything else.
    """
    if not isinstance(value, Mapping):
        raise VoteRefused(f"an answer of type {type(value).__name__}.")
    trial, answer, reaction_ms = value.get("trial"), value.get("answer"), value.get("ms")
    # Public ids of trials are hexadecimal (`security.opaque`).
    if not isinstance(trial, str) or not re.fullmatch(r"[0-9a-f]{1,64}", trial):
        raise VoteRefused(f"trial {str(trial)[:40]!r}.")
    if isinstance(answer, list) and len(answer) <= MOST_SCALES and all(map(_is_whole, answer)):
        answer = tuple(answer)
    elif not _is_whole(answer) and not (isinstance(answer, str) and answer in NO_PREFERENCE):
        raise VoteRefused(f"answer {str(answer)[:40]!r}.")
    if not isinstance(reaction_ms, int) or isinstance(reaction_ms, bool) or reaction_ms < 0:
        reaction_ms = None
    # Details are optional: an answer is not refused for one of them.
    details = value.get("details")
    if not isinstance(details, Mapping):
        details = {}
    possible = cast("Answer", answer)
    kept = {name: d for name, d in details.items() if _is_detail(name, d)}
    return SentAnswer(trial, possible, reaction_ms, kept, value.get("change") is True)


def _is_whole(value: object) -> bool:
    # True is an int in Python.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_detail(name: object, value: object) -> bool:
    """True for a detail with a name of ``DETAILS`` and a possible value."""
    if not isinstance(name, str) or name not in DETAILS or not isinstance(value, DETAILS[name]):
        return False
    # Python's JSON reader accepts NaN and infinity, which the database's JSON cannot store.
    if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) < 1e9):
        return False
    return len(str(value)) <= 20
