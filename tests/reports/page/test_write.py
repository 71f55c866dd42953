"""Files that are written for the page: chunks, links, copies, and that no text of the data can become code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditKey, EditRecord, ScoreRecord
from bench.store import RunStore
from bench.tables.table import Table
from reports.data.report_data import ReportData, ReportError
from reports.data.scores import load
from reports.data.summary import summary
from reports.page import write as writing
from reports.page import write_page
from reports.page.collect import collect
from reports.tables.standard import standard_tables
from tests.reports import fake

N = len(fake.cases())
VALUES = {
    "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
    "leak_lpips": {spec.name: [None if k == 5 else 0.01 * k for k in range(N)] for spec in fake.METHODS},
    "leak_lpips_pasted": {"sd_inpainting": [0.0] * N},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return fake.run(
        tmp_path_factory.mktemp("run") / "a run",
        VALUES,
        failed=[("instruct_pix2pix", "background-1")],
        sets={"sd_inpainting": (40.0, 38.0, 42.0)},
    )


def chunk(index: Path, name: str) -> Any:
    """The value of a data script, read as the browser would."""
    text = (index.parent / "page/data" / f"{name.replace('/', '-')}.js").read_text()
    match = re.fullmatch(r"PEB\.put\((\"[^\"]+\"),(.*)\);\n", text)
    assert match is not None
    assert json.loads(match[1]) == name
    return json.loads(match[2])


def test_the_page_lies_in_the_report_folder_and_links_the_pictures(store: RunStore) -> None:
    index = write_page(store, fake.METRICS)
    assert index == store.report_dir / "index.html"
    run = chunk(index, "run")
    assert run["root"] == ".."
    record = next(r for r in store.edits() if r.file)
    assert record.file is not None
    assert (index.parent / run["root"] / record.file).is_file()


def test_another_folder_links_back(store: RunStore, tmp_path: Path) -> None:
    index = write_page(store, fake.METRICS, tmp_path / "elsewhere", tables=())
    root = chunk(index, "run")["root"]
    assert not Path(root).is_absolute()
    assert (index.parent / root).resolve() == store.path.resolve()


def test_chunks_hold_every_edit_and_score_once(store: RunStore, tmp_path: Path) -> None:
    index = write_page(store, fake.METRICS, tmp_path, tables=())
    run, edits, cases = (chunk(index, name) for name in ("run", "edits/0", "cases/0"))
    rows = chunk(index, "rows/0")
    assert run["counts"] == {
        "edits": 4 * N,
        "cases": N,
        "scores": (4 * N - 1) * 2 + N,
        "failed": 1,
        "refused": 0,
    }
    titles = [method["title"] for method in run["methods"]]
    # Controls last, as in the tables.
    assert titles == ["sd_inpainting", "instruct_pix2pix", "copy_input", "oracle"]
    assert [method["control"] for method in run["methods"]] == [False, False, True, True]
    metrics = [metric["name"] for metric in run["metrics"]]
    assert metrics == ["success_truth", "leak_lpips", "leak_lpips_pasted"]
    ids = [case.id for case in fake.cases()]
    pairs = set()
    for i in range(4 * N):
        title, case = titles[edits["method"][i]], cases["id"][edits["case"][i]]
        pairs.add((title, case))
        k = ids.index(case)
        failed = (title, case) == ("instruct_pix2pix", "background-1")
        assert (i in edits["failed"]) == failed
        if failed:
            assert rows["values"][i] == [None, None, None]
            assert rows["error"][str(i)] == "RuntimeError: no"
            continue
        composited = 0 if title == "sd_inpainting" else None
        leak = None if k == 5 else pytest.approx(0.01 * k)
        assert rows["values"][i] == [k % 2, leak, composited]
        assert (rows["reasons"].get(str(i)) == {"1": "none"}) == (k == 5)
    assert len(pairs) == 4 * N
    # Columns are the same values the other way round; a composited metric has none.
    assert chunk(index, "column/1/0") == [row[1] for row in rows["values"]]
    assert not (index.parent / "page/data/column-2-0.js").exists()
    hashes = {(r.key.case, r.key.method): r.sha256 for r in store.edits()}
    for i, digest in enumerate(rows["sha256"]):
        place = (cases["id"][edits["case"][i]], run["methods"][edits["method"][i]]["digest"])
        assert hashes[place] == digest


def test_many_edits_are_several_chunks(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("EDITS", 30), ("CASES", 5), ("ROWS", 7)):
        monkeypatch.setattr(f"reports.page.data.{name}", size)
    index = write_page(store, fake.METRICS, tmp_path, tables=())
    names = {path.name for path in (tmp_path / "page/data").glob("*")}
    assert names == (
        {"run.js", "texts.js"}
        | {f"edits-{k}.js" for k in range(3)}
        | {f"column-{m}-{k}.js" for m in range(2) for k in range(3)}
        | {f"cases-{k}.js" for k in range(4)}
        | {f"rows-{k}.js" for k in range(10)}
    )
    assert len(chunk(index, "edits/2")["case"]) == 4
    assert chunk(index, "run")["parts"] == {"edits": 30, "cases": 5, "rows": 7}
    # Written again as a whole: what the smaller page does not have is gone.
    monkeypatch.undo()
    write_page(store, fake.METRICS, tmp_path, tables=())
    left = {path.name for path in (tmp_path / "page/data").glob("*")}
    assert left == {
        "run.js", "texts.js", "edits-0.js", "cases-0.js", "column-0-0.js", "column-1-0.js", "rows-0.js",
    }  # fmt: skip


def test_a_portable_page_has_its_pictures(store: RunStore, tmp_path: Path) -> None:
    index = write_page(store, fake.METRICS, tmp_path, portable=True, tables=())
    root = index.parent / chunk(index, "run")["root"]
    assert root == tmp_path / "page/images"
    for record in store.edits():
        if record.file is not None:
            assert (root / record.file).read_bytes() == store.image_path(record).read_bytes()
    for row in store.cases("mini-coco").rows:
        assert (root / "cases/mini-coco" / row["source"]).is_file()
        assert (root / "cases/mini-coco" / row["mask"]).is_file()
    # And not any more where it links them.
    write_page(store, fake.METRICS, tmp_path, tables=())
    assert not root.exists()


def test_a_picture_outside_the_run_is_not_copied(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", VALUES)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    path = store.path / "cases/mini-coco/cases.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(first), "source": "../../../secret.png"}) + "\n" + rest)
    with pytest.raises(ReportError, match="not inside the run"):
        write_page(RunStore.open(store.path), fake.METRICS, tmp_path / "out", portable=True, tables=())
    assert not list((tmp_path / "out").rglob("secret*"))


def test_a_file_of_another_name_is_linked_by_it(store: RunStore) -> None:
    data = collect(store, fake.METRICS, (), root="..")
    old = data.edits[3]
    data.edits[3] = EditRecord(old.key, "edits/mini-coco/odd.png", old.sha256, None)
    assert dict(data.chunks())["edits/0"]["files"] == {"3": "edits/mini-coco/odd.png"}
    data.edits[3] = old
    assert dict(data.chunks())["edits/0"]["files"] == {}


def standard_tables_of(store: RunStore) -> list[Table]:
    scores = load(store)
    return standard_tables(
        ReportData(summary(scores, fake.METRICS, resamples=50), fake.METRICS, scores.controls)
    )


def test_tables_are_shown_as_they_were_made(store: RunStore, tmp_path: Path) -> None:
    tables = standard_tables_of(store)
    run = chunk(write_page(store, fake.METRICS, tmp_path, tables=tables), "run")
    assert [table["name"] for table in run["tables"]] == [table.name for table in tables]
    column = [c["metric"] for c in run["tables"][0]["columns"]].index("leak_lpips")
    assert [c["n"] for c in run["tables"][0]["columns"]] == [
        tables[0].column_n(i) for i in range(len(tables[0].columns))
    ]
    on_page, cell = run["tables"][0]["rows"][0]["cells"][column], tables[0].rows[0].cells[column]
    assert on_page["own_n"] == tables[0].cell_n(tables[0].rows[0], column)
    assert (on_page["value"], on_page["low"], on_page["best"]) == (cell.value, cell.low, cell.best)
    assert on_page["text"]
    assert on_page["interval"]


def test_a_run_without_scores_still_has_a_gallery(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {})
    index = write_page(store, fake.METRICS)
    assert chunk(index, "run")["tables"] == []
    assert len(chunk(index, "edits/0")["case"]) == 4 * N


def test_a_run_without_edits_is_refused(tmp_path: Path) -> None:
    store = RunStore.open(tmp_path / "r", create=True)
    with pytest.raises(ReportError, match="holds no edit"):
        write_page(store, fake.METRICS)


def test_scores_of_edits_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", VALUES)
    with store:
        stray = EditKey("mini-coco", "1", fake.METHODS[0].digest, "nowhere", 0)
        store.append_scores([ScoreRecord(stray, "leak_lpips", "1", 77.0)])
    data = collect(store, fake.METRICS, (), root="..")
    assert not (data.values == 77.0).any()


def test_text_of_the_data_cannot_end_a_script() -> None:
    nasty = "</script><script>alert(1)</script><!-- \u2028\u2029 &amp; \\ \" '"
    text = writing.script("run", {nasty: [nasty]})
    assert text.count("\n") == 1
    assert not set("<>&\u2028\u2029") & set(text)
    inside = re.fullmatch(r'PEB\.put\("run",(.*)\);\n', text)
    assert inside is not None
    assert json.loads(inside[1]) == {nasty: [nasty]}


def test_the_page_names_no_address_outside_itself() -> None:
    for name in (*writing.ASSETS, "index.html"):
        text = (writing.HERE / name).read_text()
        # The name of the SVG language is no address.
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.", text, re.IGNORECASE), name
        assert not re.search(r"@import|\bfetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|eval\(", text), (
            name
        )


def test_every_asset_is_shipped() -> None:
    shipped = {path.name for path in writing.HERE.iterdir() if path.suffix in (".js", ".css", ".html")}
    assert shipped == {*writing.ASSETS, "index.html"}


WRITE = """
import os, sys
from pathlib import Path
from bench.store import RunStore
from bench.tables.table import Table
from reports.page import write_page
from tests.reports import fake

os.umask(int(sys.argv[3], 8))
out = None if sys.argv[2] == "-" else Path(sys.argv[2])
if sys.argv[4] == "killed":
    move = Path.replace
    def replace(self, target):
        if Path(target).name == "index.html":
            os._exit(9)
        return move(self, target)
    Path.replace = replace
import bench.files
bench.files._UMASK = bench.files._umask()
with RunStore.open(sys.argv[1]) as store:
    write_page(store, fake.METRICS, out)
"""


def written(run: Path, out: str, umask: str = "022", how: str = "whole") -> int:
    command = [sys.executable, "-c", WRITE, str(run), out, umask, how]
    return subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode


@pytest.mark.parametrize("place", ["in the run", "elsewhere"])
def test_the_page_is_as_private_as_the_umask_says(tmp_path: Path, place: str) -> None:
    fake.run(tmp_path / "r", VALUES)
    out = "-" if place == "in the run" else str(tmp_path / "out")
    folder = tmp_path / "r" / "report" if out == "-" else Path(out)
    assert written(tmp_path / "r", out, "077") == 0
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}
    assert written(tmp_path / "r", out, "022") == 0
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}


@pytest.mark.parametrize("place", ["in the run", "elsewhere"])
def test_what_a_kill_leaves_is_swept_by_the_next_page(tmp_path: Path, place: str) -> None:
    fake.run(tmp_path / "r", VALUES)
    out = "-" if place == "in the run" else str(tmp_path / "out")
    assert written(tmp_path / "r", out, how="killed") == 9
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert written(tmp_path / "r", out) == 0
    assert list(tmp_path.rglob("*.tmp")) == []


def test_large_pictures_have_small_copies_of_their_present_content(tmp_path: Path) -> None:
    picked = fake.cases(per_category=1, side=300)
    store = fake.run(tmp_path / "r", {}, picked=picked, failed=[("oracle", picked[0].id)])
    index = write_page(store, fake.METRICS)
    edits, cases = chunk(index, "edits/0"), chunk(index, "cases/0")
    folder = index.parent / "page/thumbs"
    assert [bool(name) for name in edits["thumbs"]] == [i not in edits["failed"] for i in range(16)]
    assert all(cases["thumb"])
    records = collect(store, fake.METRICS, (), root="..").edits
    with Image.open(folder / edits["thumbs"][0]) as small, store.image(records[0]) as whole:
        assert small.size == (256, 256)
        color = np.asarray(small.convert("RGB")).reshape(-1, 3).mean(axis=0)
        assert color == pytest.approx(np.asarray(whole).reshape(-1, 3).mean(axis=0), abs=3)
    # The same picture again keeps its copy; another picture in its place gets another one.
    before = (folder / edits["thumbs"][0]).stat().st_mtime_ns
    Image.new("RGB", (300, 300), "red").save(store.image_path(records[1]))
    write_page(store, fake.METRICS)
    after = chunk(index, "edits/0")["thumbs"]
    assert (folder / after[0]).stat().st_mtime_ns == before
    assert after[1] != edits["thumbs"][1]
    assert {path.name for path in folder.iterdir()} == {name for name in (*after, *cases["thumb"]) if name}
    store.close()


def test_small_pictures_need_no_copies(store: RunStore, tmp_path: Path) -> None:
    index = write_page(store, fake.METRICS, tmp_path, tables=())
    assert chunk(index, "edits/0")["thumbs"] == []
    assert not (tmp_path / "page/thumbs").exists()


def test_a_page_has_the_colours_of_its_charts(store: RunStore, tmp_path: Path) -> None:
    from reports.figures.style import looks

    run = chunk(write_page(store, fake.METRICS, tmp_path, tables=()), "run")
    look = looks(["sd_inpainting", "instruct_pix2pix"])
    assert [method["look"] and method["look"]["color"] for method in run["methods"]] == [
        look["sd_inpainting"].color,
        look["instruct_pix2pix"].color,
        None,
        None,
    ]
