"""Entries that are alike are merged. Others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store import RunStore
from reports.data.scores import load
from reports.data.summary import summary
from reports.share.entries.export import export_entry
from reports.share.entries.format import EntryError
from reports.share.entries.merge import merge_entries
from tests.reports import fake
from tests.reports.share.entries.samples import rewrite, values


def test_merged_tables_have_both_and_one_best(store: RunStore, other_run: RunStore, tmp_path: Path) -> None:
    path = export_entry(other_run, tmp_path / "e.json")
    merged = merge_entries([path], store, fake.METRICS)
    main = next(table for table in merged.tables if table.name == "main-mini-coco")
    names = [row.label for row in main.rows]
    # Controls are the own run's, once; they stand last.
    assert names == ["sd_inpainting", "instruct_pix2pix", "lama [other]", "copy_input", "oracle"]
    leak = [column.metric for column in main.columns].index("leak_lpips")
    cells = {row.label: row.cells[leak] for row in main.rows}
    assert cells["lama [other]"].value == pytest.approx(0.5 + 0.01 * 7.5)
    assert [name for name, cell in cells.items() if cell.best] == ["sd_inpainting"]
    assert main.notes[-1].startswith("Methods with a name in brackets")
    # The own rows are what they are without the entry.
    own = summary(load(store), fake.METRICS)
    own_rows = merged.frame[~merged.frame["method"].str.contains("other")].reset_index(drop=True)
    pd.testing.assert_frame_equal(own_rows, own)


def test_two_entries_of_one_name_stay_two(store: RunStore, other_run: RunStore, tmp_path: Path) -> None:
    path = export_entry(other_run, tmp_path / "e.json")
    merged = merge_entries([path, path], store, fake.METRICS)
    assert {"lama [other]", "lama [other 2]"} <= set(merged.frame["method"])


def other_digest(folder: Path) -> None:
    for name in ("run.json", "cases/mini-coco/protocol.json"):
        path = folder / name
        path.write_text(path.read_text().replace("d" * 12, "e" * 12))


def test_another_protocol_digest_is_refused(store: RunStore, tmp_path: Path) -> None:
    other = fake.run(tmp_path / "other", values())
    other_digest(other.path)
    path = export_entry(RunStore.open(other.path), tmp_path / "e.json")
    with pytest.raises(EntryError, match="has the digest eeeeeeeeeeee, in this run 1 has dddddddddddd"):
        merge_entries([path], store, fake.METRICS)


def test_other_cases_are_refused(store: RunStore, tmp_path: Path) -> None:
    # Half of the cases of each category.
    few = fake.cases(2)
    other = fake.run(tmp_path / "other", {"leak_lpips": {"sd_inpainting": [0.1] * 8}}, picked=few)
    path = export_entry(other, tmp_path / "e.json")
    with pytest.raises(EntryError, match="8 of this run's cases are not in it"):
        merge_entries([path], store, fake.METRICS)


def test_no_protocol_in_common_is_refused(store: RunStore, tmp_path: Path) -> None:
    other = fake.run(tmp_path / "other", values(), protocol="elsewhere")
    path = export_entry(other, tmp_path / "e.json")
    with pytest.raises(EntryError, match="no protocol in common"):
        merge_entries([path], store, fake.METRICS)


def test_another_metric_version_is_refused(store: RunStore, tmp_path: Path) -> None:
    def newer(content: dict[str, Any]) -> None:
        content["metrics"]["leak_lpips"]["version"] = "2"

    path = rewrite(export_entry(store, tmp_path / "e.json"), newer)
    with pytest.raises(EntryError, match="leak_lpips is of version 2, in this run of version 1"):
        merge_entries([path], store, fake.METRICS)


def test_an_entry_that_does_not_hold_is_not_merged(store: RunStore, tmp_path: Path) -> None:
    path = rewrite(export_entry(store, tmp_path / "e.json"), lambda c: c["summary"].pop())
    with pytest.raises(EntryError, match="does not hold"):
        merge_entries([path], store, fake.METRICS)
