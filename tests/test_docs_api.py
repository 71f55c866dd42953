"""The examples of ``docs/api.md`` and the notebook run as they are printed."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def test_every_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("before", "after"):
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(f"{name}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(mask).save("mask.png")
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    # Later blocks use the names of earlier ones.
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)


def test_the_notebook_runs_and_shows_what_is_stored_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "docs" / "quickstart.ipynb"
    assert path.stat().st_size < 200_000
    stored = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    fresh = NotebookClient(
        copy.deepcopy(stored), timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    def texts(notebook: nbformat.NotebookNode) -> list[str]:
        """Printed text and the names of the columns of tables. Scores may differ between machines."""
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        # Warnings of libraries differ between machines too.
        outputs = [output for output in outputs if output.get("name") != "stderr"]
        return [output.get("text") or output["data"]["text/plain"].split("\n")[0] for output in outputs]

    assert texts(fresh) == texts(stored)
