from __future__ import annotations

import re
import socket

import pytest

from bench.study.serving import APP, served_at


@pytest.mark.parametrize(
    ("address", "port", "url"),
    [
        ("localhost", 8501, "http://localhost:8501"),
        ("localhost", 80, "http://localhost"),
        ("::1", 8501, "http://[::1]:8501"),
        ("0.0.0.0", 80, f"http://{socket.gethostname()}"),
        ("::", 8501, f"http://{socket.gethostname()}:8501"),
    ],
)
def test_raters_reach_an_address_by_its_url(address: str, port: int, url: str) -> None:
    assert served_at(address, port) == url


def test_the_app_has_a_folder_of_its_own_and_leaves_the_path_alone() -> None:
    # Streamlit puts the folder first in sys.path: what else lay there would pass for a module of that name.
    assert {path.name for path in APP.parent.iterdir()} - {"__pycache__"} == {
        "app.py",
        "page.py",
        ".streamlit",
    }
    for path in APP.parent.glob("*.py"):
        assert "sys.path" not in re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL), path.name
