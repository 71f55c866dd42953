"""The raters' pages of text: consent, the screener, instructions, the end of practice, the last page, and messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import streamlit as st

from bench.study.app import text as app_text
from bench.study.app.service import Service
from bench.study.interface import (
    FAILED_CHECKS,
    SCREENED_OUT,
    TIMED_OUT,
    NotFinished,
    RaterSession,
    StudyClosed,
    Submission,
)

# How a rater's part ended early -> key of the words of the last page.
ENDINGS: Mapping[str, str] = {
    SCREENED_OUT: "screened_out",
    FAILED_CHECKS: "failed_checks",
    TIMED_OUT: "timed_out",
}


def message(title: str, text: str, service: Service, *, retry: bool = False) -> None:
    """A page with one message. ``title``: a key of the words, or the text itself of a study's title."""
    words = service.study.words
    with st.container(key="sheet_message"):
        contact = app_text.contact(words, service.study.settings.contact)
        st.html(app_text.page(words, app_text.heading(title), app_text.plain(text), contact))
        if retry:
            st.button(words("again"), type="primary")


def consent(
    service: Service,
    session: RaterSession | None,
    enter: Callable[[], RaterSession],
) -> None:
    """Asks for consent.

    ``session`` is None for a visitor who is not a rater yet. ``enter`` makes a rater of the visitor, once they agree.
    """
    study = service.study
    settings, words = study.settings, study.words
    with st.container(key="sheet"):
        # What the study is, what is stored, and whom to ask.
        st.html(
            app_text.page(
                words,
                app_text.heading(study.text("title")),
                app_text.facts(app_text.about(words, study)),
                app_text.card(
                    app_text.own(study, "consent"),
                    app_text.storage_notice(words, settings.contact, screener=bool(settings.screener)),
                ),
                app_text.contact(words, settings.contact),
            )
        )
        # The decision. A rerun shows the page that follows from it.
        agreed = st.button(words("agree"), type="primary", key="agree")
        declined = st.button(words("decline"), key="decline")
        if agreed:
            if session is None:
                session = enter()
            service.store.consent(session.rater)
        elif declined:
            # A rater who came back to this page may have answers.
            if session is not None:
                service.store.withdraw(session.rater)
            st.session_state["declined"] = True
        else:
            return
    st.rerun()


def screener(service: Service, rater: str) -> None:
    """Asks the questions before the study."""
    study = service.study
    words = study.words
    with st.container(key="sheet"):
        st.html(app_text.page(words, app_text.heading(words("screener.heading"))))
        with st.form("screener", border=False):
            choices = [
                st.radio(entry.question, entry.options, index=None, key=f"screener_{number}")
                for number, entry in enumerate(study.settings.screener)
            ]
            sent = st.form_submit_button(words("go_on"), type="primary")
        if not sent:
            return
        if None in choices:
            st.warning(words("screener.missing"))
            return
        # Positions: two options may differ by a space only.
        pairs = zip(study.settings.screener, choices, strict=True)
        service.store.screen(rater, [entry.options.index(str(choice)) for entry, choice in pairs])
    st.rerun()


def instructions(service: Service, begun: bool) -> None:
    """Shows the instructions. ``begun``: the rater has answered a trial and looks at them again."""
    study = service.study
    words, options = study.words, study.design.options
    seconds = study.settings.trial_seconds
    compares = options.kinds != ("rate",)
    with st.container(key="sheet"):
        st.html(
            app_text.page(
                words,
                app_text.heading(words("how")),
                app_text.own(study, "instructions"),
                app_text.keys(words, options),
                app_text.plain(words("covering", n=seconds)) if seconds is not None else "",
                app_text.examples(words) if compares else "",
            )
        )
        # The instructions can be opened again at any time. They then lead back to the open trial.
        label = "go_on" if begun else "start_practice" if options.practice else "start"
        if not st.button(words(label), type="primary", key="start"):
            return
    st.session_state["instructed"] = True
    st.rerun()


def practice_done(service: Service, total: int) -> None:
    words = service.study.words
    with st.container(key="sheet"):
        st.html(
            app_text.page(
                words,
                app_text.heading(words("practice_done.heading")),
                app_text.plain(words("practice_done.text", n=total)),
            )
        )
        if not st.button(words("practice_done.begin"), type="primary", key="ready_button"):
            return
    # Kept for this session only. After a reload, the page may come once more.
    st.session_state["ready"] = True
    st.rerun()


def last(service: Service, rater: str, closed: bool = False) -> None:
    """The page with the completion code. Raises ``NotFinished`` for a rater who does not get one yet.

    ``closed``: the study was closed before the rater's last trial.
    """
    # Read before anything is drawn, so that an error leaves no half-drawn page.
    completion = service.store.completion(rater)
    study = service.study
    words = study.words
    if completion.ended is not None:
        key = ENDINGS[completion.ended]
        title, text = words(f"{key}.heading"), app_text.plain(words(f"{key}.text"))
    elif closed:
        title, text = words("ended.heading"), app_text.plain(words("ended.text"))
    else:
        title, text = words("done"), app_text.own(study, "thanks")
    with st.container(key="sheet"):
        st.html(
            app_text.page(
                words,
                app_text.heading(title),
                text,
                app_text.code(words, completion),
                app_text.contact(words, study.settings.contact),
            )
        )
        if completion.submission is not None:
            _submit(service, completion.submission)


@cache
def _submit_component() -> Any:
    return st.components.v2.component(
        "peb_submit", css=app_text.static("submit.css"), js=app_text.static("submit.js")
    )


def _submit(service: Service, form: Submission) -> None:
    """The button that hands a task in. A form of the page itself: the worker's browser has to send it."""
    data = {"url": form.url, "fields": dict(form.fields), "label": service.study.words("submit")}
    _submit_component()(key="submit", data=data)


def closed(service: Service, rater: str) -> None:
    """The page of a study that was closed before the rater finished. Raises ``StudyClosed`` for one who never began."""
    try:
        # A rater with at least one answer gets the code, and with it the payment.
        last(service, rater, closed=True)
    except NotFinished:
        raise StudyClosed(f"study {service.name} is closed.") from None
