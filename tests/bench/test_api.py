"""``bench.measure`` and ``bench.run``, as a notebook calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench
from bench.errors import BenchError

# 64 x 64 px; the edit fills a square, and everything right of column 60 gets brighter by a fifth of the range.
SOURCE = np.full((64, 64, 3), 100, np.uint8)
EDITED = SOURCE.copy()
EDITED[16:32, 16:32] = 250
EDITED[:, 60:] += 51
MASK = np.zeros((64, 64), np.uint8)
MASK[16:32, 16:32] = 255


def expected_leak() -> float:
    """Mean squared error over the pixels more than a pixel outside the mask."""
    from scipy.ndimage import distance_transform_edt

    outside = distance_transform_edt(MASK == 0) > 64 / 64
    return float((0.2**2 * (np.arange(64) >= 60) * outside).sum() / outside.sum())


@pytest.mark.parametrize("kind", ["uint8", "float", "01 mask", "bool mask", "pil", "paths"])
def test_every_form_of_input_has_the_value_that_follows_by_hand(kind: str, tmp_path: Path) -> None:
    arguments: tuple[object, ...] = {
        "uint8": (SOURCE, EDITED, MASK),
        "float": (SOURCE / 255, (EDITED / 255).astype(np.float32), MASK / 255),
        "01 mask": (SOURCE, EDITED, MASK // 255),
        "bool mask": (SOURCE, EDITED, MASK > 0),
        "pil": tuple(map(Image.fromarray, (SOURCE, EDITED, MASK))),
        "paths": tuple(tmp_path / f"{i}.png" for i in range(3)),
    }[kind]
    # Lossless files.
    if kind == "paths":
        for path, array in zip(arguments, (SOURCE, EDITED, MASK), strict=True):
            Image.fromarray(array).save(path)  # type: ignore[arg-type]
    scores = bench.measure(*arguments, metrics=["leak_mse", "edit_change"], device="cpu")  # type: ignore[arg-type]
    assert scores["leak_mse"] == pytest.approx(expected_leak(), rel=1e-6)
    assert scores["edit_change"] == pytest.approx(150 / 255, rel=1e-6)
    assert scores.frame().loc["leak_mse", "reason"] is None
    assert "leak_mse" in repr(scores)


def test_a_reason_is_printed_once_below_the_table() -> None:
    scores = bench.measure(SOURCE, EDITED, device="cpu")
    table, note = str(scores).rsplit("\n", 1)
    assert note == f"{', '.join(scores)}: the case has no mask"
    assert "the case has no mask" not in table
    assert "NaN" not in table


def test_without_a_mask_leakage_has_a_reason_in_place_of_a_value() -> None:
    scores = bench.measure(SOURCE, EDITED, device="cpu")
    assert scores["leak_mse"] is None
    assert {details.reason for name, details in scores.details.items() if "leak" in name} == {
        "the case has no mask"
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"edited": EDITED[:32]}, "edited: it is 64x32 pixels, the source 64x64"),
        ({"edited": EDITED.astype(float)}, "edited: its float values"),
        ({"mask": MASK * 0}, "mask is empty"),
        ({"mask": MASK[:32]}, "mask: its shape"),
        ({"metrics": ["leak_mes"]}, "Did you mean 'leak_mse'"),
        ({"metrics": ["fid"]}, "fid compares sets of images"),
        ({"metrics": ["success_truth"]}, "pass rendered=True"),
        ({"metrics": "leak_mse"}, r"Write metrics=\['leak_mse'\]"),
        ({"target_prompt": ["a car"]}, "target_prompt: a list where a text is expected"),
        ({"device": "gpu"}, "one of auto, cpu, cuda"),
        ({"target_prompt": "a car \udcff"}, "target_prompt holds half a character"),
    ],
)
def test_what_cannot_be_measured_is_one_error(changes: dict[str, object], says: str) -> None:
    arguments = {"source": SOURCE, "edited": EDITED, "mask": MASK, "device": "cpu", "metrics": ["leak_mse"]}
    with pytest.raises(BenchError, match=says):
        bench.measure(**{**arguments, **changes})  # type: ignore[arg-type]


def test_run_is_the_run_of_the_command_line(place: Path, finished_run: Path) -> None:
    run = bench.run("dots.yaml", device="cpu", out="again", plugins=["cli_plugin"])
    assert run.folder == Path("again")
    assert run.failed == 0

    # Tidy scores: 6 cases x 2 methods x 2 metrics.
    scores = run.scores
    assert len(scores) == 24
    assert set(scores["category"]) == {"attribute", "background"}
    values = scores.groupby(["method", "metric"])["value"].mean()
    assert values["copy_input", "leak_mse"] == 0
    assert values["moody", "leak_changed"] == 1

    # The tables are those of the report that the command line wrote.
    import pandas as pd

    main = run.table("main-dots")
    pd.testing.assert_frame_equal(main, pd.read_csv(next(finished_run.rglob("main-dots.csv"))))
    joined = run.table("main")
    assert set(joined["protocol"]) == {"dots"}
    pd.testing.assert_frame_equal(joined.drop(columns="protocol"), main)
    with pytest.raises(BenchError, match="no table 'mian'"):
        run.table("mian")
    assert run.image("dots", "copy_input", "dot-0").size == (32, 32)
    with pytest.raises(BenchError, match="has no edit of dot-9"):
        run.image("dots", "copy_input", "dot-9")


def test_a_suite_is_also_a_mapping_and_a_limit_has_a_folder_of_its_own(place: Path) -> None:
    suite = {"name": "few", "protocols": ["dots"], "methods": ["copy_input"], "metrics": ["leak_mse"]}
    run = bench.run(suite, device="cpu", limit=1, plugins=["cli_plugin"])
    assert run.folder == Path("runs/few-limit-1")
    assert len(run.scores) == 2
    with pytest.raises(BenchError, match="Did you mean 'methods'"):
        bench.run({**suite, "methds": []})


def test_failed_edits_are_counted(place: Path) -> None:
    method = {"method": "moody", "options": {"fail": "dot 3"}}
    suite = {"name": "bad", "protocols": ["dots"], "methods": [method], "metrics": ["leak_mse"]}
    run = bench.run(suite, device="cpu", batch_size=1, plugins=["cli_plugin"])
    assert run.failed == 1
    failed = run.scores[run.scores["value"].isna()]
    assert failed["case"].tolist() == ["dot-3"]
    assert failed["reason"].tolist() == ["no edit: RuntimeError: no mood"]


def test_import_bench_imports_nothing_heavy() -> None:
    code = "import bench, sys; print(sorted({'numpy', 'PIL', 'pandas', 'torch', 'typer', 'yaml'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
