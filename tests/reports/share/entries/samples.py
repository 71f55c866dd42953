"""Scores of a small run, and a change of an exported entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reports.share.entries.format import content_digest
from tests.reports import fake

N = len(fake.cases())


def values(shift: float = 0.0) -> dict[str, dict[str, list[float | None]]]:
    return {
        "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
        "leak_lpips": {
            "sd_inpainting": [shift + 0.01 * k for k in range(N)],
            "instruct_pix2pix": [None if k == 3 else 0.3 for k in range(N)],
            "copy_input": [0.0] * N,
        },
    }


SETS: dict[str, tuple[float, float | None, float | None]] = {
    "sd_inpainting": (40.0, 38.0, 42.0),
    "copy_input": (1.0, None, None),
}


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> Path:
    """Changes an entry; ``sealed`` makes its digest right again, as a forger would."""
    content = json.loads(path.read_text())
    # With a right digest, only the content can give the change away.
    change(content)
    if sealed:
        content["digest"] = content_digest(content)
    path.write_text(json.dumps(content))
    return path
