"""One page for one visitor. Streamlit runs this script anew for every visit and every click.

``/`` is the raters' page, ``/admin`` the administrator's. Which study it serves: see ``service.study_target``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import streamlit as st

from bench.study import StudyError
from bench.study.app import text as app_text
from bench.study.app.service import LOG, Service, get_service, study_target
from bench.study.words import words_of


def main() -> None:
    """One run of the script: one page for one visitor."""
    # Wide: the images of a trial take all the width that the window has.
    st.set_page_config(page_title="Study", page_icon=app_text.icon(), layout="wide")

    def rater_page() -> None:
        from bench.study.app import rater

        _page(rater.show)

    def admin_page() -> None:
        from bench.study.app import admin

        _page(admin.show)

    # Modules of a page are imported by its own visitors only: raters do not load the analysis.
    pages = [
        st.Page(rater_page, title="Study", url_path="study", default=True),
        st.Page(admin_page, title="Administration", url_path="admin"),
    ]
    # Hidden: a menu would lead raters to the administrator's page.
    st.navigation(pages, position="hidden").run()


def _page(show: Callable[[Service], None]) -> None:
    """Shows a page. A traceback goes to the log and never to a visitor."""
    st.html(f"<style>{app_text.static('page.css')}</style>")
    place = st.empty()
    # Until the study and its language are known.
    words = words_of("en", {})
    try:
        service = get_service(*study_target(sys.argv[1:]))
        words = service.study.words
        with place.container():
            show(service)
        return
    except StudyError as error:
        # The message may name files and methods. A visitor reads the text of its class.
        LOG.error("%s", error)
        text = words.error(error)
    except Exception:
        LOG.exception("a page could not be shown")
        text = words("error.StudyError")
    # Replaces the part of the page that was drawn before the error.
    with place.container(), st.container(key="sheet_sorry"):
        st.html(app_text.page(words, app_text.heading(words("not_working")), app_text.plain(text)))
        st.button(words("again"), key="again")


if __name__ == "__main__":
    main()
