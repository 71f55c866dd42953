"""KontextBench: categories, sources, broken lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from bench.images import read_rgb
from protocols.published.kontext_bench import KontextBench
from protocols.selection import ProtocolError
from tests.protocols.published import instruction_layouts as data


def protocol(root: Path) -> KontextBench:
    return KontextBench(KontextBench.Options(root=str(root)))


def test_cases_are_those_of_the_lines(tmp_path: Path) -> None:
    root = data.kontext_bench(tmp_path)
    with pytest.warns(match="the published benchmark has 1026"):
        cases = protocol(root).cases()
    assert [(case.id, case.category, case.source_id) for case in cases] == [
        ("0", "local", "image-0"),
        ("1", "global", "image-0"),
        ("2", "character_reference", "image-1"),
    ]
    for case, row in zip(cases, data.KONTEXT, strict=True):
        check_case(case)
        assert case.request.mask is None
        assert case.request.instruction == row["instruction"]
        assert np.array_equal(case.request.source, read_rgb(root / "test" / row["file_name"]))
        # Its authors publish no scorer.
        assert not KontextBench.output_files(case_row(case))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"Character Reference"', '"Characters"', r"metadata.jsonl:3: the category 'Characters' is none of"),
        ("images/0001.jpg", "../../secret.jpg", r"'../../secret.jpg' leaves its folder"),
        ('"key": 1', '"key": null', r"metadata.jsonl:2: has no proper 'key'"),
        ('{"file_name": "images/0001', '"file_name": "images/0001', r"metadata.jsonl:2: is not JSON"),
        ("images/0002.jpg", "images/0009.jpg", r"0009.jpg: no such file.*1026 cases"),
    ],
)
def test_broken_data_are_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = data.kontext_bench(tmp_path) / "test" / "metadata.jsonl"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(ProtocolError, match=message):
        _ = protocol(tmp_path).digest


def test_a_missing_file_is_named_with_its_origin(tmp_path: Path) -> None:
    (data.kontext_bench(tmp_path) / "test" / "metadata.jsonl").unlink()
    (problem,) = KontextBench.problems(KontextBench.Options(root=str(tmp_path)))
    for fact in ("metadata.jsonl: missing", "1026 cases", "MIT", "black-forest-labs/kontext-bench"):
        assert fact in problem
