"""The README and the pages of ``docs/``: their size, their links, and the README's own method, run as it stands."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.store import RunStore
from tests.command_line import run
from tests.protocols import conftest as protocol_fixtures

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
make_coco = protocol_fixtures.make_coco
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, in GitHub's spelling."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_the_link_check_sees_a_missing_heading() -> None:
    assert "try-it" in anchors(ROOT / "README.md")
    assert "no-such-heading" not in anchors(ROOT / "README.md")


def write_examples(folder: Path, *names: str) -> None:
    """Writes these example files of the README into ``folder``."""
    files = dict(re.findall(r"```\w+\n# (my[\w-]+\.(?:py|yaml))\n(.*?)```", README, re.DOTALL))
    assert set(files) == {"my_measure.py", "my_edits.py", "my-outputs.yaml", "my_methods.py", "my-suite.yaml"}
    for name in names:
        (folder / name).write_text(files[name], encoding="utf-8")


def command(start: str) -> list[str]:
    """The words of the README's command that begins so, after ``run_bench.py``."""
    lines = re.findall(r"^python run_bench\.py (.+)$", README, re.MULTILINE)
    (line,) = [line for line in lines if line.startswith(start)]
    return str(line).split()


def test_the_measurement_of_the_readme_gives_known_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the image is the mask, all of it is repainted, and outside each value is 51 of 255 higher."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    after = np.where(mask > 0, 220, 151).astype(np.uint8)
    Image.new("RGB", (64, 64), (100, 100, 100)).save(tmp_path / "before.png")
    Image.fromarray(after).convert("RGB").save(tmp_path / "after.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    write_examples(tmp_path, "my_measure.py")
    monkeypatch.chdir(tmp_path)
    scores = runpy.run_path("my_measure.py")["scores"]
    assert scores["edit_area"] == 1
    assert scores["leak_psnr"] == pytest.approx(-20 * np.log10(51 / 255), abs=1e-4)
    assert scores["leak_lpips"] > 0
    assert str(scores["leak_lpips"]) in capsys.readouterr().out


def test_the_outputs_of_the_readme_are_scored_on_coco(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_coco: Callable[..., Path]
) -> None:
    """Its edits are copies of the sources, so that they leak as little as ``copy_input``."""
    make_coco(tmp_path / "data" / "coco", range(100, 140))
    write_examples(tmp_path, "my_edits.py", "my-outputs.yaml")
    monkeypatch.chdir(tmp_path)
    # Two small cases per category are faster than the default 250 of 512 px.
    suite = Path("my-outputs.yaml").read_text(encoding="utf-8")
    small = suite.replace("{root: data/coco}", "{root: data/coco, canvas: 64, cases_per_category: 2}")
    assert small != suite
    Path("my-outputs.yaml").write_text(small, encoding="utf-8")
    assert run(*command("cases coco"), "-o", "canvas=64", "-o", "cases_per_category=2") == 0
    runpy.run_path("my_edits.py")
    assert run("edit", *command("run my-outputs.yaml")[1:], "--device", "cpu", "--quiet") == 0
    assert run("score", "runs/my-outputs", "--metric", "leak_mse", "--quiet") == 0
    with RunStore.open(tmp_path / "runs" / "my-outputs") as store:
        labels = {digest: spec.label or spec.name for digest, spec in store.methods.items()}
        scores = store.scores()
    values = scores.groupby(scores["method"].map(labels))["value"].agg(["max", "count"])
    assert set(values.index) == {"copy_input", "Our model"}
    assert (values["max"] == 0).all()
    assert (values["count"] == 8).all()


def test_the_method_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files and its command, copied from the page; one case per category."""
    write_examples(tmp_path, "my_methods.py", "my-suite.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # `run` would also measure realism against hundreds of images, which is tested elsewhere.
    words = [*command("run my-suite.yaml")[1:], "--limit", "1", "--device", "cpu", "--quiet"]
    assert run("edit", *words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert run("score", str(folder), "--metric", "success_truth", *words[1:3], "--quiet") == 0
    with RunStore.open(folder) as store:
        names = {digest: spec.name for digest, spec in store.methods.items()}
        scores = store.scores()
    success = scores.groupby(scores["method"].map(names))["value"].max()
    assert set(success.index) == {"copy_input", "mean_fill", "oracle"}
    assert success["copy_input"] == 0
    assert success["oracle"] == 1
