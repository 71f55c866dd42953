"""The README and the pages of ``docs/``: their size, their links, and the README's own method, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.store import RunStore
from tests.command_line import run

ROOT = Path(__file__).resolve().parent.parent
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


def test_the_method_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files and its command, copied from the page; one case per category."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"```\w+\n# (my_\w+\.py|my-\w+\.yaml)\n(.*?)```", page, re.DOTALL))
    assert set(files) == {"my_methods.py", "my-suite.yaml"}
    for name, body in files.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    command = re.search(r"python run_bench\.py (run my-suite\.yaml[^\n]*)\n", page)
    assert command is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # `run` would also measure realism against hundreds of images, which is tested elsewhere.
    words = [*command.group(1).split()[1:], "--limit", "1", "--device", "cpu", "--quiet"]
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
