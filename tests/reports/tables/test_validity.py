"""Tables of validity name their rows and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reports.data import scores, validity
from reports.tables.validity import validity_tables
from tests.reports import fake

N = len(fake.cases())


@pytest.fixture
def run(tmp_path: Path) -> scores.RunScores:
    generator = np.random.default_rng(2)
    truth = {
        m: (generator.random(N) < 0.5).astype(float).tolist() for m in ("sd_inpainting", "instruct_pix2pix")
    }
    values = {
        "judge_truth": {**truth, "oracle": [1.0] * N, "copy_input": [0.0] * N},
        "judge_clip": truth,
        # Lower is better, and exactly the truth turned round.
        "leak_lpips": {m: [1 - v for v in row] for m, row in truth.items()} | {"oracle": [0.9] * N},
        "noise": {m: generator.random(N).tolist() for m in truth},
    }
    return scores.load(fake.run(tmp_path / "r", values))


HIGHER = {"judge_truth": True, "judge_clip": True, "leak_lpips": False, "noise": True}


def test_tables_name_their_rows_and_intervals(run: scores.RunScores) -> None:
    tables = validity_tables(validity.validity(run, HIGHER))
    names = [table.name for table in tables]
    assert names == ["validity-judge-truth-spearman-mini-coco", "validity-agreement-mini-coco"]
    assert tables[0].rows_are == "metric"
    assert [column.metric for column in tables[1].columns] == list(validity.AGREEMENT)
    assert tables[1].rows[0].cells[0].value == 1
