"""The study's server: ``streamlit run app.py``, as ``run_bench.py study serve`` calls it.

Streamlit puts this folder first in ``sys.path``, so it holds only this file, ``page.py`` (the script that runs for
every visitor) and Streamlit's settings in ``.streamlit/config.toml``.
"""

from __future__ import annotations

import streamlit as st

from bench.study.app import service, startup

# The routes serve images beside Streamlit's own pages. The middleware hides the path of this folder.
app = st.App("page.py", lifespan=startup.lifespan, routes=service.routes(), middleware=service.middleware())
