"""Prepares the pages and pictures of a study as soon as its server starts, so that the first raters do not wait."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.study import StudyError
from bench.study.app.service import LOG, get_service, study_target


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Starts the preparation in the background, and lets the server run."""
    threading.Thread(target=_prepare, name="study-warm", daemon=True).start()
    yield


def _prepare() -> None:
    try:
        service = get_service(*study_target(sys.argv[1:]))
        design = service.study.design
    except StudyError as error:
        # The pages look again, and tell their visitors.
        LOG.warning("%s", error)
        return
    # The modules of a page take seconds to import. Streamlit imports pandas for its first component.
    import pandas as pd  # noqa: F401

    import bench.study.app.rater  # noqa: F401

    # What is in memory now stays there until the server ends: the garbage collector need not look through it.
    gc.freeze()
    service.images.warm(design)
