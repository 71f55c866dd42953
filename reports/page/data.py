"""The data of the page: plain values in chunks, which a browser loads when it needs them.

============== ====================================================== ==========================
name           content                                                loaded
============== ====================================================== ==========================
``run``        names, manifest, tables, counts, how many chunks       with the page
``edits/K``    protocol, method and case of each edit                 with the page
``cases/K``    prompts and files of the cases                         with the page
``column/M/K`` one metric of all edits                                when filtered or sorted by
``rows/K``     everything else of :data:`ROWS` edits                  when one of them is opened
``texts``      every table as LaTeX and CSV                           when one of them is copied
============== ====================================================== ==========================

Numbers that do not exist are null. Every null of a score has its reason in ``rows``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.edit import EditRecord

# Edits in one chunk of ``edits`` and of ``column``.
# A compromise between the number of requests and the time of each: a chunk has some hundred kilobytes.
EDITS = 20_000
# Cases in one chunk of ``cases``.
CASES = 2_000
# Edits in one chunk of ``rows``.
ROWS = 400

_CASE_FIELDS = ("source_prompt", "target_prompt", "region_prompt", "instruction")


def parts() -> dict[str, int]:
    """Sizes of the chunks. The page finds an edit's chunk by them."""
    return {"edits": EDITS, "cases": CASES, "rows": ROWS}


@dataclass(frozen=True, eq=False)
class PageData:
    """The data of a run for its page."""

    run: dict[str, Any]
    # Rows of ``cases.jsonl`` with ``protocol``, in order.
    cases: list[dict[str, Any]]
    # Case by case. Within a case, methods in the tables' order.
    edits: list[EditRecord]
    # Position in ``cases`` of each edit's case.
    case_of: list[int]
    # ``(edits, metrics)``, NaN where there is no value.
    values: NDArray[np.float64]
    # Edit -> metric -> reason of a missing value.
    reasons: Mapping[int, Mapping[int, str]]
    # Table -> ``tex`` and ``csv``.
    texts: Mapping[str, Mapping[str, str]]
    # File name of each edit's small copy, or the empty string. As long as ``edits``, or empty.
    edit_thumbs: list[str] = field(default_factory=list)
    # The same for the sources of ``cases``.
    case_thumbs: list[str] = field(default_factory=list)

    def chunks(self) -> Iterator[tuple[str, Any]]:
        """``(name, value)`` of every chunk, ``run`` first."""
        yield "run", self.run
        yield "texts", self.texts
        for k, start in enumerate(range(0, len(self.cases), CASES)):
            thumbs = self.case_thumbs[start : start + CASES]
            yield f"cases/{k}", self._cases(self.cases[start : start + CASES], thumbs)
        for k, start in enumerate(range(0, len(self.edits), EDITS)):
            yield f"edits/{k}", self._edits(start, min(start + EDITS, len(self.edits)))
            for m, metric in enumerate(self.run["metrics"]):
                if metric["column"]:
                    yield f"column/{m}/{k}", numbers(self.values[start : start + EDITS, m])
        for k, start in enumerate(range(0, len(self.edits), ROWS)):
            yield f"rows/{k}", self._rows(start, min(start + ROWS, len(self.edits)))

    def _cases(self, rows: Sequence[Mapping[str, Any]], thumbs: Sequence[str]) -> dict[str, Any]:
        # Names that repeat in every row are written as positions.
        protocols = {entry["name"]: i for i, entry in enumerate(self.run["protocols"])}
        return {
            "id": [row["id"] for row in rows],
            "protocol": [protocols[row["protocol"]] for row in rows],
            "category": [self.run["categories"].index(row["category"]) for row in rows],
            "source_id": [row["source_id"] for row in rows],
            "source": [row["source"] for row in rows],
            "mask": [row["mask"] for row in rows],
            "truth": [row["truth"] for row in rows],
            # Absent from the rows of cases without further input images.
            "references": [row.get("references", []) for row in rows],
            "words": [row["edit_words"] for row in rows],
            "thumb": thumbs,
            **{name: [row[name] for row in rows] for name in _CASE_FIELDS},
        }

    def _edits(self, start: int, stop: int) -> dict[str, Any]:
        methods = {entry["digest"]: i for i, entry in enumerate(self.run["methods"])}
        part = self.edits[start:stop]
        seeds = self.run.get("seeds")
        # Most files have the name that follows from protocol, method and case. The page builds it itself.
        # JSON has no integer keys, so positions become text.
        unusual = {}
        for i, record in enumerate(part):
            name = self.run["methods"][methods[record.key.method]]["name"]
            usual = f"edits/{record.key.protocol}/{name}-{record.key.method}/{record.key.case}.png"
            if record.file is not None and record.file != usual:
                unusual[str(i)] = record.file
        return {
            "method": [methods[record.key.method] for record in part],
            "case": self.case_of[start:stop],
            "failed": [i for i, record in enumerate(part) if record.file is None],
            "refused": [i for i, record in enumerate(part) if record.is_refused],
            # Positions in the run's seeds, where it has several.
            **({"seed": [seeds.index(record.key.seed) for record in part]} if seeds else {}),
            "files": unusual,
            "thumbs": self.edit_thumbs[start:stop],
        }

    def _rows(self, start: int, stop: int) -> dict[str, Any]:
        part = self.edits[start:stop]
        return {
            "sha256": [record.sha256 for record in part],
            "seconds": [short(record.seconds) for record in part],
            "memory": [record.peak_memory for record in part],
            "seed": [record.key.seed for record in part],
            "error": {str(i): record.error for i, record in enumerate(part) if record.error is not None},
            "values": [numbers(row) for row in self.values[start:stop]],
            "reasons": {
                str(i - start): {str(m): why for m, why in self.reasons[i].items()}
                for i in range(start, stop)
                if i in self.reasons
            },
        }


def numbers(values: NDArray[np.float64]) -> list[float | int | None]:
    return [short(value) for value in values.tolist()]


def short(value: float | None) -> float | int | None:
    """The value with six digits, which halves the bytes. None for NaN. The CSV files have all digits."""
    if value is None or not math.isfinite(value):
        return None
    # An integer is written without ".0". Beyond 1e15 not every integer is a float64, and the exponent is shorter.
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
