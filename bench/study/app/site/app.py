"""The study's server: ``streamlit run app.py``, as ``run_bench.py study serve`` calls it.

Streamlit puts this folder first in ``sys.path``: nothing lies here but this file and ``page.py``, the script
that runs for every visitor. How Streamlit is set up lies beside them, in ``.streamlit/config.toml``.
"""

from __future__ import annotations

import streamlit as st

from bench.study.app import server as app_server

app = st.App("page.py", routes=app_server.routes(), middleware=app_server.middleware())
