"""A served study without a server or a browser: visitors to it, in Streamlit's own test runner."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.study.app import service as app_service
from bench.study.build import build
from bench.study.design import DesignOptions
from bench.study.serving import APP
from bench.study.settings import StudySettings
from bench.study.store import StudyStore

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

needs_streamlit = pytest.mark.skipif(
    importlib.util.find_spec("streamlit") is None, reason="streamlit is not installed (the study's extra)"
)
PAGE = APP.with_name("page.py")
PASSWORD = "correct horse battery"


class Site:
    """A study as it is served, and visitors to it."""

    def __init__(self, target: Path, run: Path, settings: StudySettings) -> None:
        self.target, self.run = target, run
        options = DesignOptions(raters=3, trials=6, repeats=1, attention=1, practice=1)
        with StudyStore.open(target) as store:
            store.create("taste", build([run], options), settings, admin_password=PASSWORD)
        self.service = app_service.get_service(str(target), "taste")
        self.store = self.service.store

    def visit(self, **query: str) -> AppTest:
        from streamlit.testing.v1 import AppTest

        page = AppTest.from_file(str(PAGE), default_timeout=60)
        page.query_params.update(query)
        return page.run()


def text(page: AppTest) -> str:
    """The page's text as HTML. A traceback or an error box fails the test."""
    assert not page.exception
    return "\n".join(node.proto.body for node in page.get("html") if "<style>" not in node.proto.body)


def trial_data(page: AppTest) -> dict[str, Any] | None:
    """The message to the trial's component. None where the page has none."""
    payloads = [json.loads(node.proto.json) for node in page.get("bidi_component")]
    trials = [data for data in payloads if "trial" in data]
    return trials[0] if trials else None


def begin(page: AppTest) -> AppTest:
    page.button(key="agree").click().run()
    return page.button(key="start").click().run()
