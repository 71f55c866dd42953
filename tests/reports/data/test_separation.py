"""Separations are the max-T test over all pairs of methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.edit import MethodSpec
from bench.stats import max_t
from reports.data import scores, separation
from tests.reports import fake

N = len(fake.cases())


def test_separation_is_max_t_over_all_pairs(tmp_path: Path) -> None:
    methods = (*(MethodSpec(name) for name in "abc"), MethodSpec("copy_input", is_control=True))
    generator = np.random.default_rng(0)
    # b is far worse than a. c is worse by next to nothing. The control would be best.
    base = generator.random(N)
    shifted = base + np.where(np.arange(N) % 4 < 2, 0.05, -0.05) - 0.001
    values = {
        "success_truth": {
            "a": (base + 0.01).tolist(),
            "b": (base - 0.5).tolist(),
            "c": shifted.tolist(),
            "copy_input": [9.0] * N,
        }
    }
    run = scores.load(fake.run(tmp_path / "r", values, methods=methods))
    by_column = separation.separations(run, {"success_truth": True})
    tests = by_column["mini-coco", "success_truth", "all"]
    _, cluster = np.unique([case.source_id for case in fake.cases()], return_inverse=True)
    # The same test by hand: all pairs of the three contenders.
    gaps = [
        np.array(values["success_truth"][one]) - values["success_truth"][other]
        for one, other in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    p = max_t([np.stack([np.bincount(cluster, gap) for gap in gaps], axis=1)])[0]
    assert tests == pytest.approx({"b": p[0], "c": p[1]})
    assert tests["b"] < 0.05 < tests["c"]
    assert ("mini-coco", "success_truth", "background") in by_column
    low = separation.separations(run, {"success_truth": False})
    assert set(low["mini-coco", "success_truth", "all"]) == {"a", "c"}
