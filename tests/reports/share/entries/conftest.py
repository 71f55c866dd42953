"""The own run and the run of somebody else."""

from __future__ import annotations

import pytest

from bench.edit import MethodSpec
from bench.store import RunStore
from tests.reports import fake
from tests.reports.share.entries.samples import SETS, values


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return fake.run(
        tmp_path_factory.mktemp("mine") / "mine",
        values(),
        failed=[("instruct_pix2pix", "background-1")],
        sets=SETS,
    )


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    methods = (MethodSpec("lama", {"a": 1}), MethodSpec("copy_input", {}, is_control=True))
    scores = {name: {"lama": of["sd_inpainting"]} for name, of in values(0.5).items()}
    return fake.run(tmp_path_factory.mktemp("other") / "other", scores, methods=methods)
