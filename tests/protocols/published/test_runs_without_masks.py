"""Whole runs of the benchmarks without masks: cases, edits, scores, and the export for the official scorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import bench
import run_bench
from bench.images import read_rgb
from bench.output_layout import write_outputs
from bench.store import RunStore
from tests.protocols.published import instruction_layouts as data

BENCHMARKS: list[tuple[str, Callable[[Path], Path], dict[str, Any]]] = [
    ("gedit", data.gedit, {}),
    ("imgedit", data.imgedit, {}),
    ("kontext_bench", data.kontext_bench, {}),
    ("emu_edit", data.emu_edit, {"split": "test", "equal_captions": "keep"}),
    ("compbench", data.compbench, {}),
]
# Files of the first case in the layout of its benchmark, below the method's folder.
LAYOUTS = {
    "gedit": ["fullset/color_alter/en/a1.png", "fullset/color_alter/en/a1_SRCIMG.png"],
    "imgedit": ["1082.png"],
    "emu_edit": ["11.png"],
    "compbench": ["{method}_local/add/001ca3cb/0/00003.png"],
}


@pytest.mark.filterwarnings("ignore:.*(published benchmark has|equal captions)")
@pytest.mark.parametrize(("name", "write", "options"), BENCHMARKS, ids=[name for name, *_ in BENCHMARKS])
def test_a_run_is_edited_scored_and_exported(
    tmp_path: Path, name: str, write: Callable[[Path], Path], options: dict[str, Any]
) -> None:
    protocol = {"name": name, "options": {"root": str(write(tmp_path / "data")), **options}}
    session = run_bench.PROGRAM.session()
    cases = list(session.protocol(name, protocol["options"]).cases())

    # Edits of a closed system: the negatives of the sources.
    edits = tmp_path / "negatives"
    edits.mkdir()
    for case in cases:
        ImageOps.invert(case.request.source).save(edits / f"{case.id}.png")
    suite = {
        "name": "published",
        "protocols": [protocol],
        "methods": [
            "copy_input",
            {"method": "outputs", "label": "negatives", "options": {"path": str(edits)}},
        ],
        "metrics": ["leak_mse"],
    }
    run = bench.run(suite, out=tmp_path / "run", device="cpu")
    assert run.failed == 0

    # Scores: no mask, no leakage, with the reason.
    scores = run.scores
    assert len(scores) == 2 * len(cases)
    for score in scores.itertuples():
        mask = run.case(name, score.case).request.mask
        if mask is None:
            assert np.isnan(score.value)
            assert score.reason == "the case has no mask"
        else:
            assert (score.value == 0) == (score.method == "copy_input")

    # The export has the very pixels.
    with RunStore.open(tmp_path / "run") as store:
        if name not in LAYOUTS:
            with pytest.raises(bench.BenchError, match="has no layout of outputs of its own"):
                write_outputs(session, store, name, tmp_path / "out")
            return
        folders = write_outputs(session, store, name, tmp_path / "out")
    assert {count.written for count in folders.values()} == {len(cases)}
    for folder in folders:
        files = [tmp_path / "out" / folder / path.format(method=folder) for path in LAYOUTS[name]]
        source = np.asarray(cases[0].request.source)
        expected = source if folder.startswith("copy_input") else 255 - source
        for file, pixels in zip(files, (expected, source), strict=False):
            assert np.array_equal(read_rgb(file), pixels)


def test_an_instruction_method_edits_cases_without_masks(tmp_path: Path) -> None:
    protocol = {"name": "gedit", "options": {"root": str(data.gedit(tmp_path / "data"))}}
    suite = {
        "name": "instructions",
        "protocols": [protocol],
        "methods": [{"method": "instruct_pix2pix", "preset": "mini", "options": {"steps": 2}}],
        "metrics": ["leak_mse"],
    }
    with pytest.warns(match="the published benchmark has 606"):
        run = bench.run(suite, out=tmp_path / "run", device="cpu")
    assert run.failed == 0
    for case in ("a1-en", "b2-en", "c3-en"):
        edit = run.image("gedit", "instruct_pix2pix", case)
        assert isinstance(edit, Image.Image)
        assert edit.size == run.case("gedit", case).request.source.size == (48, 32)
