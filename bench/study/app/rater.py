"""What a rater sees: consent, instructions, practice, trials, the end. Every page but a trial is plain text.

The browser gets texts, opaque ids and the addresses of pictures in one message per trial, so that an answer is
acknowledged before any picture comes. It fetches the pictures of this trial, then those of the next. It keeps a
signed session: in the address, which is the rater's personal link, and in a cookie that remembers which link was
opened here. A link is used up only when its holder agrees to take part, so a mail program that looks at links
spoils none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from bench.study import StudyError
from bench.study.app import text as app_text
from bench.study.app.server import PICTURES
from bench.study.app.service import LOG, AllPicturesAway, Service
from bench.study.database import DatabaseError
from bench.study.images import ImageChanged
from bench.study.interface import (
    RECRUITERS,
    SESSION_DAYS,
    Answer,
    NotFinished,
    OpenTrial,
    RaterProgress,
    RaterSession,
    StudyClosed,
    StudyFull,
    UnknownRater,
    VoteRefused,
    Withdrawn,
)
from bench.study.security import TokenError, TokenExpired, TokenUsed

DETAILS: Mapping[str, type | tuple[type, ...]] = {
    "by": str,
    "zoomed": (int, float),
    "flickered": int,
    "enlarged": int,
    "paused": int,
    "undone": int,
    "reloads": int,
    "width": int,
    "height": int,
    "side": int,
    "ratio": (int, float),
    "touch": bool,
}
"""Details of an answer that the browser may send; others are dropped. ``app_text.stored`` tells raters of each."""


def show(service: Service) -> None:
    """The page that the rater is at, or a page that says in its place why there is none."""
    import streamlit as st

    place = st.empty()
    retry = False
    try:
        with place.container():
            _show(service)
        return
    except (StudyClosed, StudyFull) as error:
        title, text = "Thank you", error.public
    except TokenUsed as error:
        title, text = "This link has been used", error.public
    except TokenExpired as error:
        title, text = "This link has expired", error.public
    except Withdrawn as error:
        title, text = "You do not take part", error.public
    except (TokenError, UnknownRater) as error:
        title, text = "This link does not work", error.public
    except DatabaseError as error:
        service.incidents.record("database", service.name, str(error))
        title, text, retry = "One moment", "Your answers so far are stored. Try again in a minute.", True
    except AllPicturesAway as error:
        title, text, retry = "One moment", error.public, True
    with place.container():
        message(title, text, service, retry=retry)


def message(title: str, text: str, service: Service, *, retry: bool = False) -> None:
    """A page that says one thing."""
    import streamlit as st

    with st.container(key="sheet_message"):
        contact = app_text.contact(service.study.settings.contact)
        st.html(app_text.page(app_text.heading(title), app_text.plain(text), contact))
        if retry:
            st.button("Try again", type="primary")


def _show(service: Service) -> None:
    import streamlit as st

    if st.session_state.get("declined"):
        message(
            "You do not take part",
            "Nothing about you is stored. You can close this page. If a recruiting service sent you, return the "
            "study there.",
            service,
        )
        return
    entry = _entry(service)
    if entry is None:
        return
    _remember(entry)
    rater = entry.rater
    progress = service.store.progress(rater)
    state = st.session_state
    begun = progress.done + progress.practice_done > 0
    if progress.state == "consent":
        _landing(service, entry)
    elif progress.state == "finished":
        _finish(service, rater)
    elif not state.setdefault("instructed", begun):
        _instructions(service, begun)
    else:
        _trial(service, entry, progress)


# --- coming in --------------------------------------------------------------------------------------------


def _entry(service: Service) -> RaterSession | None:
    """Who is here; None where a page was shown instead."""
    import streamlit as st

    state = st.session_state
    if "entry" in state:
        known: RaterSession = state["entry"]
        return known
    query = st.query_params
    if "session" in query:
        return _come_in(service.resume(query["session"]), "")
    invitation = query.get("invitation", "")
    external, recruited = recruited_by(query)
    # Someone else's invitation, opened in the same browser, has a cookie of its own.
    place = invitation or service.name
    cookie = None if external and not invitation else st.context.cookies.get(cookie_name(place))
    if cookie:
        try:
            return _come_in(service.resume(cookie), place)
        except StudyError:
            pass  # Of a study that is no more: as if there were none.
    if not invitation and not service.study.settings.open_registration:
        message(
            service.study.settings.title,
            "Taking part needs an invitation. Open the link that you were sent, and copy all of it.",
            service,
        )
        return None
    if service.store.status(service.name).closed:
        raise StudyClosed(f"study {service.name} is closed.")
    if invitation:
        # Nobody is asked to agree to a study that their link does not open.
        service.check_invitation(invitation, external, recruited)
    _landing(service, None, invitation, external, recruited)
    return None


def recruited_by(query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The recruiting service's id of the rater, and all ids that its link holds, by parameter."""
    for name, others in RECRUITERS.items():
        if query.get(name):
            return query[name], {key: query[key] for key in (name, *others) if query.get(key)}
    return "", {}


def _come_in(entry: RaterSession, place: str) -> RaterSession:
    """``place``: what the cookie is for; none where the address had the session already."""
    import streamlit as st

    st.session_state["entry"] = entry
    st.session_state["place"] = place
    if st.query_params.to_dict() != {"session": entry.session}:
        st.query_params.from_dict({"session": entry.session})
    return entry


def cookie_name(place: str) -> str:
    return f"peb_{hashlib.sha256(place.encode()).hexdigest()[:20]}"


@cache
def _keeper() -> Any:
    import streamlit as st

    script = """
    export default function ({ data }) {
      if (!data) return;
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie = `${data.name}=${data.value}; Path=/; Max-Age=${data.age}; SameSite=Lax${secure}`;
    }
    """
    return st.components.v2.component("peb_keeper", js=script)


def _remember(entry: RaterSession) -> None:
    import streamlit as st

    place = st.session_state["place"]
    name = cookie_name(place)
    if not place or st.context.cookies.get(name) == entry.session:
        return
    with st.container(key="quiet"):
        _keeper()(key="keeper", data={"name": name, "value": entry.session, "age": SESSION_DAYS * 86400})


def _landing(
    service: Service,
    entry: RaterSession | None,
    invitation: str = "",
    external: str = "",
    recruited: Mapping[str, str] | None = None,
) -> None:
    import streamlit as st

    study = service.study
    settings = study.settings
    with st.container(key="sheet"):
        st.html(
            app_text.page(
                app_text.heading(settings.title),
                app_text.facts(app_text.about(study.design)),
                app_text.card(app_text.plain(settings.consent), app_text.stored(settings.contact)),
                app_text.contact(settings.contact),
            )
        )
        agreed = st.button("I agree and want to begin", type="primary", key="agree")
        declined = st.button("I do not want to take part", key="decline")
        if agreed:
            if entry is None:
                if invitation:
                    taken = service.redeem(invitation, external, recruited)
                else:
                    taken = service.store.enter(service.name, external, recruited)
                entry = _come_in(taken, invitation or service.name)
            service.store.consent(entry.rater)
        elif declined:
            if entry is not None:
                service.store.withdraw(entry.rater)
            st.session_state["declined"] = True
        else:
            return
    st.rerun()


def _instructions(service: Service, begun: bool) -> None:
    import streamlit as st

    study = service.study
    with st.container(key="sheet"):
        st.html(
            app_text.page(
                app_text.heading("How it works"),
                app_text.plain(study.settings.instructions),
                app_text.keys(study.design.options),
                "<h2>Three examples</h2>",
                app_text.examples(),
            )
        )
        practice = study.design.options.practice and not begun
        label = "Go on" if begun else "Start with practice" if practice else "Start"
        if not st.button(label, type="primary", key="start"):
            return
    st.session_state["instructed"] = True
    st.rerun()


def _ready(service: Service, total: int) -> None:
    import streamlit as st

    with st.container(key="sheet"):
        st.html(
            app_text.page(
                app_text.heading("That was the practice"),
                app_text.plain(
                    f"Now the {total} questions that count. There is no right answer to them that we know of: "
                    "we want yours. You can take an answer back for two seconds; then it counts."
                ),
            )
        )
        if not st.button("Begin", type="primary", key="ready_button"):
            return
    st.session_state["ready"] = True
    st.rerun()


def _finish(service: Service, rater: str) -> None:
    _end(service, rater, "You are done", service.study.settings.thanks)


def _end(service: Service, rater: str, title: str, text: str) -> None:
    """The last page, with the completion code. Raises ``NotFinished`` for a rater who has not earned one."""
    import streamlit as st

    completion = service.store.completion(rater)
    parts = [app_text.heading(title), app_text.plain(text), app_text.code(completion)]
    parts.append(app_text.contact(service.study.settings.contact))
    with st.container(key="sheet"):
        st.html(app_text.page(*parts))


def _closed_midway(service: Service, rater: str) -> None:
    """The study was closed before the rater finished. Raises ``StudyClosed`` for one who never began."""
    try:
        _end(
            service,
            rater,
            "This study has ended",
            "It was closed before you came to the end. The answers that you gave are stored: thank you! The code "
            "shows that you took part.",
        )
    except NotFinished:
        raise StudyClosed(f"study {service.name} is closed.") from None


# --- a trial ----------------------------------------------------------------------------------------------


@cache
def _component() -> Any:
    import streamlit as st

    return st.components.v2.component(
        "peb_trial", css=app_text.static("trial.css"), js=app_text.static("trial.js")
    )


def _trial(service: Service, entry: RaterSession, progress: RaterProgress) -> None:
    import streamlit as st

    state = st.session_state
    rater = entry.rater
    while True:
        feedback: dict[str, Any] | None = state.get("feedback")
        try:
            trial: OpenTrial | None = (
                feedback["trial"] if feedback else service.store.next_trial(rater, service.void)
            )
        except StudyClosed:
            _closed_midway(service, rater)
            return
        if trial is None:
            _finish(service, rater)
            return
        try:
            data = payload(service, rater, trial)
            break
        except ImageChanged as error:
            # Void from now on, so that the next round draws another.
            service.set_void(rater, trial.id, error)
            state.pop("feedback", None)
    practised = progress.practice_done and not trial.practice and not progress.done
    if practised and not state.get("ready"):
        _ready(service, progress.total)
        return
    state["open"] = trial
    data["feedback"] = feedback["shown"] if feedback else None
    data["notice"] = state.get("notice")
    data["round"] = state.get("round", 0)

    def on_answer() -> None:
        _guarded(service, lambda: _take(service, rater))

    def on_next() -> None:
        state.pop("feedback", None)
        state["round"] = state.get("round", 0) + 1

    def on_lost() -> None:
        state["round"] = state.get("round", 0) + 1

    def on_instructions() -> None:
        state["instructed"] = False

    _component()(
        key="trial",
        data=data,
        on_answer_change=on_answer,
        on_next_change=on_next,
        on_instructions_change=on_instructions,
        # The script runs anew, and looks at the files.
        on_lost_change=on_lost,
    )


def payload(service: Service, rater: str, trial: OpenTrial) -> dict[str, Any]:
    """All that the browser gets of a trial: texts, and the addresses of its pictures and of the next one's."""
    prepared = service.pictures.prepare(rater, trial.id)
    return {
        "title": service.study.settings.title,
        "trial": {
            "id": trial.id,
            "kind": trial.kind,
            "practice": trial.practice,
            "question": trial.question,
            "hint": trial.hint,
            "brief": app_text.brief(trial),
            "labels": app_text.labels(trial),
            "tie": trial.tie,
            "number": trial.number,
            "total": trial.total,
        },
        "size": list(prepared.size),
        "pictures": [f"{PICTURES}/{address}" for address in prepared.addresses],
        "next": [f"{PICTURES}/{address}" for address in service.next_addresses(rater)],
    }


def _guarded(service: Service, work: Any) -> None:
    """Whatever happens in ``work``, the rater reads a sentence and can go on."""
    import streamlit as st

    state = st.session_state
    state["round"] = state.get("round", 0) + 1
    try:
        work()
    except DatabaseError as error:
        service.incidents.record("database", service.name, str(error))
        state["notice"] = "Your answer could not be stored. Please give it again in a moment."
    except StudyError as error:
        LOG.warning("%s", error)
        state["notice"] = error.public
    except Exception as error:  # a traceback is for the log, not for a rater
        LOG.exception("an answer could not be taken")
        service.incidents.record("error", service.name, f"{type(error).__name__}: {error}")
        state["notice"] = StudyError.public


def _take(service: Service, rater: str) -> None:
    import streamlit as st

    state = st.session_state
    given = state["trial"].get("answer")
    trial, answer, ms, details = read_answer(given)
    sent: set[str] = state.setdefault("sent", set())
    if trial not in sent:
        # Not for an answer that is sent again: what was said of it is to be read.
        state.pop("notice", None)
    stored = service.store.vote(rater, trial, answer, ms, details=details)
    if stored.correct is not None:
        _explain(service, rater, trial, stored.answer, stored.correct)
    elif not stored.new and trial not in sent:
        state["notice"] = (
            "You had answered the last question already, in another tab. Your first answer counts."
        )
    sent.add(trial)


def _explain(service: Service, rater: str, trial: str, answer: Answer, correct: bool) -> None:
    """Keeps a practice trial on the screen, with what was right."""
    import streamlit as st

    shown = service.store.unblinded(rater, trial).trial
    best = shown.candidates.index(str(shown.expected))
    state = st.session_state
    previous: dict[str, Any] | None = state.get("feedback")
    opened = previous["trial"] if previous else state.get("open")
    if opened is None or opened.id != trial:
        return  # Answered from another tab: on to the next.
    label = app_text.labels(opened)[best]
    state["feedback"] = {
        "trial": opened,
        "shown": {
            "answer": answer,
            "correct": correct,
            "best": best,
            "text": app_text.feedback(label, correct),
        },
    }


def read_answer(given: object) -> tuple[str, Answer, int | None, dict[str, Any]]:
    """What the browser says: trial, answer, reaction time in milliseconds, details. Raises ``VoteRefused``."""
    if not isinstance(given, Mapping):
        raise VoteRefused(f"an answer of type {type(given).__name__}.")
    trial, answer, ms = given.get("trial"), given.get("answer"), given.get("ms")
    if not isinstance(trial, str) or not re.fullmatch(r"[0-9a-f]{1,64}", trial):
        raise VoteRefused(f"trial {str(trial)[:40]!r}.")
    if answer != "tie" and (not isinstance(answer, int) or isinstance(answer, bool)):
        raise VoteRefused(f"answer {str(answer)[:40]!r}.")
    if not isinstance(ms, int) or isinstance(ms, bool) or ms < 0:
        ms = None
    said = given.get("details")
    details = {
        name: value
        for name, value in (said.items() if isinstance(said, Mapping) else ())
        if name in DETAILS
        and isinstance(value, DETAILS[name])
        and len(str(value)) <= 20
        and value == value
        and abs(value if isinstance(value, (int, float)) else 0) < 1e9
    }
    return trial, answer, ms, details
