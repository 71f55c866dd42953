"""A rater's way through the study: coming in, the page that follows, the trials and their answers.

A trial is one message to the browser: texts, opaque ids and the addresses of images. An answer is therefore
acknowledged before any image arrives. The browser fetches the images of this trial, then those of the next one.

The browser keeps a signed session. It is in the address, which is the rater's personal link, and in a cookie that
belongs to the link that was opened. A link is used only when its holder agrees to take part, so a mail program that
opens links uses none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import streamlit as st

from bench.study import StudyError, mturk
from bench.study.app import pages
from bench.study.app import text as app_text
from bench.study.app.messages import read_answer, trial_message
from bench.study.app.service import LOG, RunFolderMissing, Service
from bench.study.database import DatabaseError
from bench.study.images import ImageChanged
from bench.study.interface import (
    RECRUITERS,
    SESSION_DAYS,
    Answer,
    AnsweredTrial,
    OpenTrial,
    RaterProgress,
    RaterSession,
    StudyClosed,
    StudyFull,
    TookPart,
    UnknownRater,
    Withdrawn,
)
from bench.study.scales import LOW
from bench.study.security import TokenError

# Writes the cookie, since Streamlit's server cannot set one. `SameSite=Lax`: requests of other sites do not carry it.
# `Secure` is added under https alone: a browser would drop the cookie of a plain http page.
COOKIE_SCRIPT = """
    export default function ({ data }) {
      if (!data) return;
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie = `${data.name}=${data.value}; Path=/; Max-Age=${data.age}; SameSite=Lax${secure}`;
    }
    """


def show(service: Service) -> None:
    """Shows the rater's current page, or a page with the reason why there is none."""
    place = st.empty()
    retry = False
    words = service.study.words
    if words.direction == "rtl":
        # Streamlit's own elements follow the direction of the page.
        st.html("<style>.stApp { direction: rtl; }</style>")
    try:
        with place.container():
            _show(service)
        return
    except (StudyClosed, StudyFull, TookPart) as error:
        title, text = "thank_you", words.error(error)
    except Withdrawn as error:
        title, text = "declined.heading", words.error(error)
    except (TokenError, UnknownRater) as error:
        title, text = "not_working", words.error(error)
    except DatabaseError as error:
        service.incidents.record("database", service.name, str(error))
        title, text, retry = "one_moment", words("stored_so_far"), True
    except RunFolderMissing as error:
        title, text, retry = "one_moment", words.error(error), True
    # Replaces the part of the page that was drawn before the error.
    with place.container():
        pages.message(words(title), text, service, retry=retry)


def _show(service: Service) -> None:
    if st.session_state.get("declined"):
        words = service.study.words
        pages.message(words("declined.heading"), words("declined.text"), service)
        return
    session = _session(service)
    # Another page was shown already.
    if session is None:
        return
    _set_cookie(session)
    # The page follows from the database, so that a reload or another device goes on at the same place.
    progress = service.store.progress(session.rater)
    begun = progress.done + progress.practice_done > 0
    if progress.state == "consent":
        pages.consent(service, session, lambda: session)
    elif progress.state == "screener":
        pages.screener(service, session.rater)
    elif progress.state == "finished" or progress.state in pages.ENDINGS:
        pages.last(service, session.rater)
    elif not st.session_state.setdefault("instructed", begun):
        pages.instructions(service, begun)
    else:
        _trial_page(service, session.rater, progress)


# --- coming in --------------------------------------------------------------------------------------------


def _session(service: Service) -> RaterSession | None:
    """The visitor's session. None where a page was shown instead."""
    # From an earlier run of the script, from the personal link, or from the cookie.
    if "entry" in st.session_state:
        session: RaterSession = st.session_state["entry"]
        return session
    query = st.query_params
    if "session" in query:
        # No cookie: there is no invitation that it could belong to, and the address has the session already.
        return _come_in(service.resume(query["session"]), "")
    if mturk.is_preview(query.to_dict()):
        pages.message(service.study.text("title"), service.study.words("preview"), service)
        return None
    invitation = query.get("invitation", "")
    external, recruited = recruited_by(query)
    # A cookie belongs to one invitation: another person's, opened in the same browser, has a cookie of its own.
    place = invitation or service.name
    cookie = None if external and not invitation else st.context.cookies.get(cookie_name(place))
    if cookie:
        try:
            return _come_in(service.resume(cookie), place)
        except StudyError:
            pass  # The cookie of a study that no longer exists is ignored.

    # A new visitor.
    if not invitation and not service.study.settings.open_registration:
        pages.message(service.study.text("title"), service.study.words("no_invitation"), service)
        return None
    if service.store.is_closed(service.name):
        raise StudyClosed(f"study {service.name} is closed.")
    if invitation:
        # Checked before the consent page, so that nobody agrees to a study that their link does not open.
        service.check_invitation(invitation, external, recruited)

    def enter() -> RaterSession:
        # Only now is the invitation used.
        if invitation:
            session = service.redeem(invitation, external, recruited)
        else:
            session = service.store.enter(service.name, external, recruited)
        return _come_in(session, invitation or service.name)

    pages.consent(service, None, enter)
    return None


def recruited_by(query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The recruiting service's id of the rater, and all of its parameters in the link."""
    for name, further in RECRUITERS.items():
        if query.get(name):
            return query[name], {key: query[key] for key in (name, *further) if query.get(key)}
    return "", {}


def _come_in(session: RaterSession, place: str) -> RaterSession:
    """Stores the session and puts it into the address. ``place``: see :func:`cookie_name`, empty for no cookie."""
    st.session_state["entry"] = session
    st.session_state["place"] = place
    # Setting equal parameters would make Streamlit run the script again.
    if st.query_params.to_dict() != {"session": session.session}:
        st.query_params.from_dict({"session": session.session})
    return session


def cookie_name(place: str) -> str:
    """Name of the cookie for ``place``, which is an invitation, or the study where it is open to all."""
    # Hashed: short letters and digits, however long an invitation is and whatever a study is called.
    return f"peb_{hashlib.sha256(place.encode()).hexdigest()[:20]}"


@cache
def _cookie_component() -> Any:
    return st.components.v2.component("peb_keeper", js=COOKIE_SCRIPT)


def _set_cookie(session: RaterSession) -> None:
    place = st.session_state["place"]
    name = cookie_name(place)
    if not place or st.context.cookies.get(name) == session.session:
        return
    with st.container(key="quiet"):
        cookie = {"name": name, "value": session.session, "age": SESSION_DAYS * 86400}
        _cookie_component()(key="keeper", data=cookie)


# --- a trial ----------------------------------------------------------------------------------------------


@cache
def _trial_component() -> Any:
    return st.components.v2.component(
        "peb_trial",
        css=app_text.trial_files(app_text.TRIAL_STYLE),
        js=app_text.trial_files(app_text.TRIAL_SCRIPT),
    )


def _trial_page(service: Service, rater: str, progress: RaterProgress) -> None:
    """Shows the open trial, or an answered practice trial with its explanation."""
    state = st.session_state
    # The component ends the change of the last answer, as does an answer in another tab.
    answered = service.store.last_answered(rater) if state.get("changing") else None
    try:
        trial, data = _next_trial(service, rater, answered)
    except StudyClosed:
        pages.closed(service, rater)
        return
    if trial is None:
        pages.last(service, rater)
        return
    if progress.practice_done and not trial.practice and not progress.done and not state.get("ready"):
        pages.practice_done(service, progress.total)
        return
    # The message to the component.
    data["changing"] = answered.answer if answered else None
    data["back"] = progress.done > 0
    feedback: dict[str, Any] | None = state.get("feedback")
    if not answered:
        state["open"] = trial
    data["feedback"] = feedback["shown"] if feedback else None
    data["notice"] = state.get("notice")
    # Tells the component that the server has run, even if nothing else changed.
    data["round"] = state.get("round", 0)

    # Events of the component. Streamlit runs the script again after each.
    def next_round() -> None:
        state["round"] = state.get("round", 0) + 1

    def on_answer() -> None:
        _guarded(service, lambda: _store_answer(service, rater))

    def on_next() -> None:
        state.pop("feedback", None)
        next_round()

    def on_back() -> None:
        state["changing"] = True
        next_round()

    def on_keep() -> None:
        state["changing"] = False
        next_round()

    def on_instructions() -> None:
        state["instructed"] = False

    _trial_component()(
        key="trial",
        data=data,
        on_answer_change=on_answer,
        on_next_change=on_next,
        on_back_change=on_back,
        on_keep_change=on_keep,
        on_instructions_change=on_instructions,
        # An image could not be fetched. The script runs again and checks the files.
        on_lost_change=next_round,
    )


def _next_trial(
    service: Service, rater: str, answered: AnsweredTrial | None
) -> tuple[OpenTrial | None, dict[str, Any]]:
    """The trial to show and its message to the browser. (None, {}) when the rater has finished.

    ``answered``: the trial whose answer the rater wants to change.
    """
    state = st.session_state
    while True:
        feedback: dict[str, Any] | None = state.get("feedback")
        trial: OpenTrial | None
        if feedback:
            trial = feedback["trial"]
        else:
            trial = answered.trial if answered else service.store.next_trial(rater, service.void)
        if trial is None:
            return None, {}
        try:
            return trial, trial_message(service, rater, trial)
        except ImageChanged as error:
            # The trial becomes void, so that the next round draws another one.
            service.set_void(rater, trial.id, error)
            state.pop("feedback", None)
            answered = None
            state["changing"] = False


# --- an answer --------------------------------------------------------------------------------------------


def _guarded(service: Service, work: Callable[[], None]) -> None:
    """Runs ``work``. After any error, the rater reads a sentence and can go on."""
    state, words = st.session_state, service.study.words
    # The component waits for a new round, even if the answer cannot be stored.
    state["round"] = state.get("round", 0) + 1
    try:
        work()
    except DatabaseError as error:
        service.incidents.record("database", service.name, str(error))
        state["notice"] = words("error.DatabaseError")
    except StudyError as error:
        LOG.warning("%s", error)
        state["notice"] = words.error(error)
    except Exception as error:  # the traceback is for the log, not for a rater
        LOG.exception("an answer could not be taken")
        service.incidents.record("error", service.name, f"{type(error).__name__}: {error}")
        state["notice"] = words("error.StudyError")


def _store_answer(service: Service, rater: str) -> None:
    """Stores the answer that the trial's component has sent."""
    state = st.session_state
    sent_answer = read_answer(state["trial"].get("answer"))
    trial, answer, reaction_ms, details = sent_answer[:4]
    sent: set[str] = state.setdefault("sent", set())
    if trial not in sent:
        # A browser may send an answer twice. The notice about it stays then, so that it can be read.
        state.pop("notice", None)
    if sent_answer.change:
        service.store.correct(rater, trial, answer, reaction_ms, details=details)
        state["changing"] = False
        return
    stored = service.store.vote(rater, trial, answer, reaction_ms, details=details)
    if stored.correct is not None:
        _explain(service, rater, trial, stored.answer, stored.correct)
    elif not stored.new and trial not in sent:
        state["notice"] = service.study.words("error.another_tab")
    sent.add(trial)


def _explain(service: Service, rater: str, trial: str, answer: Answer, correct: bool) -> None:
    """Keeps a practice trial on the screen, with the right answer."""
    state = st.session_state
    previous: dict[str, Any] | None = state.get("feedback")
    opened = previous["trial"] if previous else state.get("open")
    if opened is None or opened.id != trial:
        return  # Answered in another tab. The next trial is shown.
    # The server looks the right answer up. The browser gets its position only now.
    unblinded = service.store.unblinded(rater, trial).trial
    best = None if opened.kind == "rate" else unblinded.candidates.index(str(unblinded.expected))
    words = service.study.words
    if best is None:
        text = words("feedback.low" if unblinded.expected == LOW else "feedback.high")
    else:
        label = app_text.labels(words, opened)[best]
        text = words("feedback.right" if correct else "feedback.wrong", label=label)
    state["feedback"] = {
        "trial": opened,
        "shown": {"answer": answer, "correct": correct, "best": best, "text": text},
    }
