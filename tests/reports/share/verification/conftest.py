"""A whole run, what computing it again gives, and a copy of it to tamper with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.store import RunStore, SetScore
from reports.page import write_page
from reports.share.verification.recompute import RebuiltReport, Recompute
from reports.write import write_report
from tests.reports import fake
from tests.reports.share.verification.tampering import SETS, VALUES, cases, rescoring


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "r"
    failed = [("instruct_pix2pix", "background-1")]
    with fake.run(path, VALUES, failed=failed, sets=SETS, picked=cases()) as store:
        report = write_report(store, fake.METRICS, resamples=100)
        write_page(store, fake.METRICS, tables=report.tables)
    return path


@pytest.fixture(scope="session")
def everything(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Recompute:
    """Functions that give the cases, scores and report of the run as they were before any tampering."""
    # The report as it was written, whatever a test does to the run.
    report = Path(shutil.copytree(original / "report", tmp_path_factory.mktemp("again") / "report"))
    store = RunStore.open(original)
    names = list(SetScore.__dataclass_fields__)
    sets = [SetScore(**row) for row in store.set_scores()[names].assign(reason=None).to_dict("records")]
    return Recompute(
        cases=lambda name: cases(),
        scores=rescoring(lambda score: score, []),
        sets=lambda store, chosen: [s for s in sets if (s.protocol, s.method) in chosen],
        report=lambda store, empty: RebuiltReport(report, recorded=True, same_program=True),
    )


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "r"))
