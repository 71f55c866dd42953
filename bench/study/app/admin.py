"""The administrator's page: progress, preferences with intervals, raters, invitations, files, export.

It needs a password, and the store counts wrong ones. Before the password, a browser gets none of its content.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from bench.study import StudyError
from bench.study.app import figures
from bench.study.app import text as app_text
from bench.study.app.service import Service
from bench.study.models import HUMAN, SIMULATED
from bench.study.outcomes import hourly_pay, to_csv
from bench.study.results import exclusion_rule, rater_outcomes
from bench.study.words import words_of

if TYPE_CHECKING:
    import pandas as pd

    from bench.study.votes.analysis import Analysis
    from bench.study.votes.exclusion import Exclusion
    from bench.study.votes.quality import RaterQuality

# Bootstrap resamples of the live intervals. `study analyse` takes more.
RESAMPLES = 400
# Seconds between two updates of the figures.
REFRESH = 20

# Columns of the raters' table.
RATER_HEADINGS = (
    "",
    "Rater",
    "Answers",
    "Checks passed",
    "Repeats alike",
    "Chose left",
    "Ties",
    "Median time",
    "Under 1 s",
    "Last seen (UTC)",
    "By the rule",
)


def _page(*parts: str) -> str:
    """The parts of a page. The administrator's pages are English, whatever the raters' language is."""
    return app_text.page(words_of("en", {}), *parts)


def show(service: Service) -> None:
    """The page, or the form for its password."""
    st.html(f"<style>{app_text.static('admin.css')}</style>")
    if st.session_state.get("admin") != service.name:
        _sign_in(service)
        return
    with st.container(key="admin"):
        # Figures.
        kind = _head(service)
        _live(service, kind)
        # Actions, in two columns.
        left, right = st.columns([1, 1], gap="small")
        with left:
            _invite(service)
            _close(service)
        with right:
            _export(service, kind)
            _payment(service)
            _files(service)


def _sign_in(service: Service) -> None:
    with st.container(key="sheet"):
        st.html(
            _page(app_text.heading("Administration"), app_text.plain(f"Study: {service.name}", soft=True))
        )
        with st.form("password", border=False):
            password = st.text_input(
                "Password", type="password", max_chars=1000, autocomplete="current-password"
            )
            sent = st.form_submit_button("Sign in", type="primary")
        if not sent:
            return
        try:
            # Behind a proxy, all clients have its address and share the count of wrong guesses.
            service.store.check_admin(service.name, password, client=str(st.context.ip_address or "local"))
        except StudyError as error:
            st.error(error.public)
            return
    st.session_state["admin"] = service.name
    st.rerun()


def _head(service: Service) -> str:
    """The title, and the choice between people and simulated raters. Returns the kind of rater."""
    # The title and one line about the design.
    study = service.study
    left, right = st.columns([4, 1], vertical_alignment="center")
    options = study.design.options
    summary = (
        f"{service.name} · {len(study.design.methods)} methods · {len(study.design.cases)} cases · "
        f"{options.raters} raters of {options.trials} answers · made {study.created_at:%d %b %Y} · "
        f"design {study.design.digest[:12]}"
    )
    left.html(_page(app_text.heading(study.text("title")), app_text.plain(summary, soft=True)))
    # The choice appears only once simulated raters have voted.
    if not service.store.status(service.name).simulated_votes:
        return HUMAN
    with right, st.container(key="whose"):
        choice = st.segmented_control("Votes of", ["People", "Simulated"], default="People", key="kind")
    return SIMULATED if choice == "Simulated" else HUMAN


# --- figures that change while people vote ----------------------------------------------------------------


def _live(service: Service, kind: str) -> None:
    # Streamlit runs a fragment alone, so that a refresh does not empty the forms below.
    @st.fragment(run_every=REFRESH)
    def live() -> None:
        try:
            _figures(service, kind)
        except StudyError as error:
            st.warning(str(error))

    live()


def _figures(service: Service, kind: str) -> None:
    if kind == SIMULATED:
        st.html('<p class="simulated">Simulated raters: none of these figures is of people.</p>')
    st.html(figures.tiles(service.store.status(service.name, kind), kind))
    # Preferences, once there is a vote.
    votes = service.store.votes(service.name, kind)
    # The rule that the study stated before any vote.
    rule = exclusion_rule(service.study.settings.exclusion)
    if (votes["role"] == "trial").any():
        analysis = _analysis(service.name, service.store.name, kind, _fingerprint(votes), votes, rule)
        with st.container(key="figures"):
            left, right = st.columns([1.2, 1], gap="small")
        with left:
            st.html(figures.preference(analysis) if len(analysis.shares) else figures.ratings(analysis))
        with right:
            st.html(figures.wins(analysis) if len(analysis.shares) else "")
        if len(analysis.shares) and len(analysis.ratings):
            st.html(figures.ratings(analysis))
    else:
        st.html(figures.panel("Preference", "<p class='none'>No votes yet.</p>"))
    st.html(raters(service, kind, votes, rule))


def _fingerprint(votes: pd.DataFrame) -> str:
    """A digest that is equal for equal votes. Votes are only added, or deleted when a rater withdraws."""
    return hashlib.sha256("\n".join(votes["rater"] + " " + votes["trial"]).encode()).hexdigest()


def _analysis(
    study: str, store: str, kind: str, fingerprint: str, votes: pd.DataFrame, rule: Exclusion
) -> Analysis:
    # Streamlit does not hash arguments that begin with an underscore. The fingerprint stands for them.
    @st.cache_resource(show_spinner=False, max_entries=8)
    def cached(study: str, store: str, kind: str, fingerprint: str, _votes: Any, _rule: Any) -> Any:
        from bench.study.votes.analysis import analyse

        return analyse(_votes, exclusion=_rule, resamples=RESAMPLES, simulated=kind == SIMULATED)

    return cached(study, store, kind, fingerprint, votes, rule)  # type: ignore[no-any-return]


# --- raters -----------------------------------------------------------------------------------------------


def raters(service: Service, kind: str, votes: pd.DataFrame, rule: Exclusion) -> str:
    """One line per rater, with the verdict of the exclusion rule."""
    entries = service.store.quality(service.name, kind)
    if not entries:
        return figures.panel("Raters", "<p class='none'>Nobody yet.</p>")
    # Rater -> reason of the exclusion.
    reasons: dict[str, str] = {}
    if len(votes):
        from bench.study.votes.exclusion import rater_quality
        from bench.study.votes.frame import check_votes

        verdicts = rater_quality(check_votes(votes), rule).to_dict("records")
        reasons = {str(row["rater"]): str(row["why"]) for row in verdicts if row["excluded"]}
    # One line per rater, in order of arrival.
    total = service.study.design.options.trials
    lines = "".join(_rater_line(entry, total, reasons.get(entry.rater)) for entry in entries)
    table = (
        f"<table class='raters'><thead><tr>{''.join(f'<th>{name}</th>' for name in RATER_HEADINGS)}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )
    note = f"{rule} As of {datetime.now(UTC):%H:%M:%S} UTC; looked at again every {REFRESH} seconds."
    return figures.panel("Raters", f"<div class='scroll tall'>{table}</div>", note)


def _rater_line(entry: RaterQuality, total: int, reason: str | None) -> str:
    """One line. ``total``: answers per rater. ``reason``: why the rule excludes the rater, None if it does not."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f}%"

    state = "finished" if entry.finished else f"{entry.votes} of {total}"
    seconds = "–" if entry.median_ms is None else f"{entry.median_ms / 1000:.1f} s"
    last = "–" if entry.last_vote is None else f"{entry.last_vote:%d %b %H:%M}"
    mark = "<span class='fine'>kept</span>"
    if reason:
        mark = f"<span class='flag' title='{escape(reason, quote=True)}'>excluded: {escape(reason)}</span>"
    # The recruiting service's id, by which its raters are paid.
    external = f" <code>{escape(entry.external)}</code>" if entry.external else ""
    return (
        f"<tr><td>{entry.number + 1}</td><td><code>{escape(entry.rater[:8])}</code>{external}</td><td>{state}</td>"
        f"<td>{entry.attention - entry.attention_failed} of {entry.attention}</td>"
        f"<td>{entry.repeats_same} of {entry.repeats}</td><td>{share(entry.first_share)}</td>"
        f"<td>{share(entry.tie_share)}</td><td>{seconds}</td><td>{share(entry.fast_share)}</td>"
        f"<td>{last}</td><td>{mark}</td></tr>"
    )


# --- actions ----------------------------------------------------------------------------------------------


def _invite(service: Service) -> None:
    with st.container(key="box_invite"):
        st.html(_page("<h2>Invite</h2>"))
        with st.form("invite", border=False):
            one, two = st.columns(2)
            count = one.number_input("Links", 1, 1000, 5)
            days = two.number_input("Days they are valid", 1, 365, 30)
            sent = st.form_submit_button("Make links")
        if sent:
            # The raters' page is at the root of the address of this page.
            base = (st.context.url or "").split("?")[0].rstrip("/").removesuffix("/admin")
            tokens = service.store.invite(service.name, int(count), days=float(days))
            st.session_state["links"] = [f"{base}/?invitation={token}" for token in tokens]
        # Kept for this session only: the database stores a nonce, and no link can be made from it again.
        links = st.session_state.get("links")
        if links:
            st.caption("Each link is valid for one rater. The links are shown only once.")
            st.code("\n".join(links), language=None, height=160)


def _export(service: Service, kind: str) -> None:
    with st.container(key="box_export"):
        st.html(_page("<h2>Export</h2>"))
        # Anonymous unless the administrator says otherwise.
        anonymous = st.toggle("Anonymous: raters become numbers that cannot be traced back", value=True)
        stem = f"{service.name}-{'votes' if kind == HUMAN else 'simulated'}"
        columns = st.columns(2)
        for column, label, ending, mime in (
            (columns[0], "CSV", ".csv", "text/csv"),
            (columns[1], "Parquet", ".parquet", "application/vnd.apache.parquet"),
        ):
            column.download_button(
                label,
                # Called on the click, so that no file is made before.
                partial(exported, service, kind, ending, anonymous=anonymous),
                f"{stem}{ending}",
                mime,
                on_click="ignore",
                width="stretch",
            )


def exported(service: Service, kind: str, ending: str, *, anonymous: bool) -> bytes:
    """The bytes of a file of votes. ``ending``: ``.csv`` or ``.parquet``."""
    from bench.study import exchange

    votes = service.store.votes(service.name, kind)
    if anonymous:
        # The key is not stored, so that nobody can test names against the file.
        votes = exchange.anonymise(votes, secrets.token_hex(32))
    # The exporter writes files whole or not at all, so it needs a path.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"votes{ending}"
        exchange.export_votes(votes, path)
        return path.read_bytes()


def _payment(service: Service) -> None:
    with st.container(key="box_payment"):
        st.html(_page("<h2>Payment</h2>"))
        entries = rater_outcomes(service.store, service.name)
        counts = Counter(entry.outcome for entry in entries)
        st.caption(", ".join(f"{count} {name}" for name, count in counts.items()) or "No raters yet.")
        if (pay := hourly_pay(entries)) is not None:
            st.caption(
                f"Median of those to approve: {pay[0]:.1f} minutes, {pay[1]:.2f} "
                f"{service.study.settings.currency} per hour."
            )
        st.download_button(
            "Outcomes by recruiting id (CSV)",
            # Called on the click, so that no file with people's ids is made before.
            lambda: to_csv(rater_outcomes(service.store, service.name)).encode(),
            f"{service.name}-outcomes.csv",
            "text/csv",
            on_click="ignore",
        )


def _files(service: Service) -> None:
    with st.container(key="box_files"):
        st.html(_page("<h2>Files and incidents</h2>"))
        if st.button("Check the study's files"):
            problems = service.study.design.changed_files()
            if problems:
                st.error(f"{len(problems)} files are not what the study was made of.")
                st.code("\n".join(problems[:50]), language=None)
            else:
                st.success("Every file is what the study was made of.")
        # The latest incidents.
        incidents = service.incidents.read(service.name)
        if not incidents:
            st.caption("No incidents.")
            return
        st.caption(f"{len(incidents)} incidents; the latest:")
        st.dataframe([asdict(entry) for entry in incidents[:50]], hide_index=True, width="stretch")


def _close(service: Service) -> None:
    with st.container(key="box_close"):
        st.html(_page("<h2>Close</h2>"))
        if service.store.status(service.name).closed:
            st.caption("The study is closed: no new raters and no new questions.")
            return
        # Two steps, since closing cannot be undone.
        sure = st.checkbox("No new raters and no new questions from now on. This cannot be undone.")
        if st.button("Close the study", disabled=not sure):
            service.store.close_study(service.name)
            st.rerun()
