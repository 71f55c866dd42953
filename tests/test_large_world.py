"""A whole run on a wide canvas of the rendered world: suite, edits, scores, tables and the page's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bench


def test_a_wide_canvas_from_suite_to_report(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    suite = {
        "name": "wide",
        "protocols": [
            {
                "name": "world-512-scenes",
                "options": {"canvas": "192x128", "cases_per_category": 1, "reference_count": 2},
            }
        ],
        # sd_inpainting has a native square of 64 px, lama edits at any size.
        "methods": [
            "copy_input",
            "oracle",
            {"method": "lama", "preset": "mini"},
            {"method": "sd_inpainting", "preset": "mini", "options": {"steps": 2, "paste": True}},
        ],
        "metrics": ["success_truth", "leak_mse", "truth_rmse"],
    }
    run = bench.run(suite, out=tmp_path / "run", device="cpu")
    assert run.failed == 0
    scores = run.scores.pivot_table(index="method", columns="metric", values="value")
    # The ground truth succeeds, copying the input does not, and neither leaks.
    assert scores.loc["oracle", "truth_rmse"] == 0
    assert scores.loc["oracle", "success_truth"] == 1
    assert scores.loc["copy_input", "success_truth"] == 0
    assert scores.loc["copy_input", "truth_rmse"] > 0
    # Resizing to a native size and back leaks. The others paste or copy at the image's own size.
    assert (scores["leak_mse"].drop("sd_inpainting") == 0).all()
    assert {
        run.image("world-512-scenes", "sd_inpainting", case).size for case in set(run.scores["case"])
    } == {(192, 128)}
    assert not run.table("main").empty
    assert run.report()
    manifest = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert manifest["protocols"]["world-512-scenes"]["canvas"] == [192, 128]
    # The same call goes on with the stored run: its canvas is read back as it was written.
    assert bench.run(suite, out=tmp_path / "run", device="cpu").scores.equals(run.scores)
