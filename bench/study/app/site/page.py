"""One page for one visitor: the script that Streamlit runs anew for every visit and every click.

``/`` is the raters' (``app_rater``), ``/admin`` the administrator's (``app_admin``). Which study: see
``app_service.asked``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from bench.study import StudyError
from bench.study.app import text as app_text
from bench.study.app.service import Service, asked, service

if TYPE_CHECKING:
    from PIL.Image import Image

LOG = logging.getLogger("bench.study.app")


def main() -> None:
    """One run of the script: one page for one visitor."""
    st.set_page_config(page_title="Study", page_icon=_icon(), layout="wide")

    def rater() -> None:
        from bench.study.app import rater as app_rater

        _page(app_rater.show)

    def admin() -> None:
        from bench.study.app import admin as app_admin

        _page(app_admin.show)

    pages = [
        st.Page(rater, title="Study", url_path="study", default=True),
        st.Page(admin, title="Administration", url_path="admin"),
    ]
    st.navigation(pages, position="hidden").run()


def _page(show: Callable[[Service], None]) -> None:
    """No visitor ever sees a traceback: it goes to the log."""
    st.html(f"<style>{app_text.static('page.css')}</style>")
    place = st.empty()
    try:
        given = asked(sys.argv[1:])
        with place.container():
            show(service(given.store, given.study))
        return
    except StudyError as error:
        LOG.error("%s", error)
        text = error.public
    except Exception:
        LOG.exception("a page could not be shown")
        text = StudyError.public
    # In place of what was drawn of the page.
    with place.container(), st.container(key="sheet_sorry"):
        st.html(app_text.page(app_text.heading("This does not work"), app_text.plain(text)))
        st.button("Try again", key="again")


@st.cache_resource(show_spinner=False)
def _icon() -> Image:
    """Two pictures, one of them chosen; drawn, so that no font or picture is fetched from elsewhere."""
    import PIL.Image
    from PIL import ImageDraw

    icon = PIL.Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(icon)
    draw.rounded_rectangle((4, 12, 29, 52), 6, fill=(176, 178, 174))
    draw.rounded_rectangle((35, 12, 60, 52), 6, fill=(31, 79, 216))
    return icon


if __name__ == "__main__":
    main()
