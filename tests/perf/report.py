"""How long a whole report over many scores takes, and how much memory: ``make perf`` prints it.

    python tests/perf/report.py --records 1000000

The run is made up (random scores, a few real pictures under many names), and its shape is a large one: two
protocols, ten methods, 2,000 cases each, 25 metrics. The report is written by a process of its own, whose
peak memory is then its own too. Its time includes starting Python and importing everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from bench.edit import CATEGORIES, EditCase, EditKey, EditRecord, EditRequest, MethodSpec  # noqa: E402
from bench.metrics import COMPOSITED_SUFFIX, METRICS  # noqa: E402
from bench.registry import Registry  # noqa: E402
from bench.store import SCORE_COLUMNS, RunStore, SetScore  # noqa: E402

PROTOCOLS = ("celeba_hq", "coco")
METHODS = (
    *(MethodSpec(name, {}) for name in ("sd_inpainting", "instruct_pix2pix", "glide", "blended_diffusion")),
    *(
        MethodSpec("prompt_edit_diff" + variant, {})
        for variant in ("", "_no_prompt_tokens", "_no_mask_encoder")
    ),
    *(MethodSpec(name, {}, is_control=True) for name in ("oracle", "copy_input", "jpeg")),
)
METRICS_EACH = 25
# Records of one append: as many files as a real run would have.
PART = 200_000


@dataclass(frozen=True)
class Measured:
    records: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return (
            f"report over {self.records:,} score records: {self.seconds:.1f} s ({self.cpu_seconds:.1f} s of "
            f"processor time), {self.peak_bytes / 1e9:.2f} GB at most; aims: 15 s of processor time, 1 GB"
        )


def metric_names() -> list[str]:
    """The suite's metrics of single edits, pasted ones after them, ``METRICS_EACH`` in all."""
    registry = Registry("metric", METRICS)
    classes = {name: registry.load(name) for name in METRICS}
    names = [name for name, cls in classes.items() if cls.kind == "edit" and not cls.on_request]
    composited = [name + COMPOSITED_SUFFIX for name in names if registry.load(name).composited]
    return [*names, *composited][:METRICS_EACH]


def synthetic(folder: Path, records: int = 1_000_000, seed: int = 0) -> RunStore:
    """A run of ``records`` scores. Cases and sources: two cases per source image."""
    import pandas as pd

    generator = np.random.default_rng(seed)
    names = metric_names()
    count = records // (len(PROTOCOLS) * len(METHODS) * len(names))
    store = RunStore.open(folder, create=True)
    for protocol in PROTOCOLS:
        info = {
            "name": protocol, "version": "1", "digest": "0" * 12, "canvas": 16, "categories": list(CATEGORIES),
        }  # fmt: skip
        store.configure(protocols={protocol: info}, methods=METHODS)
        store.write_cases(_cases(count), info)
    edits: list[EditRecord] = []
    shas: dict[tuple[str, str], str] = {}
    for protocol in PROTOCOLS:
        for spec in METHODS:
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            file = store.edit_file(protocol, spec, "shared")
            sha = store.write_edit(file, Image.fromarray(pixels))
            shas[protocol, spec.digest] = sha
            edits += [
                EditRecord(
                    EditKey(protocol, "1", spec.digest, f"case-{i:05d}", 0), file, sha, 0.1 + 0.01 * (i % 7)
                )
                for i in range(count)
            ]
    store.append_edits(edits)
    cases = np.array([f"case-{i:05d}" for i in range(count)])
    frames = []
    for protocol in PROTOCOLS:
        skill = generator.uniform(0.2, 0.8, len(METHODS))
        for spec, level in zip(METHODS, skill, strict=True):
            for name in names:
                values = _values(name, level, count, generator)
                frames.append(
                    pd.DataFrame(
                        {
                            "protocol": protocol, "protocol_version": "1", "method": spec.digest, "case": cases,
                            "seed": 0, "metric": name, "metric_version": "1", "value": values, "reason": None,
                            "edit": shas[protocol, spec.digest],
                        }
                    )[list(SCORE_COLUMNS)]
                )  # fmt: skip
    whole = pd.concat(frames, ignore_index=True)
    for start in range(0, len(whole), PART):
        store.append_scores(whole.iloc[start : start + PART])
    store.append_set_scores(
        [
            SetScore(protocol, "1", spec.digest, "all", "fid", "1", float(generator.uniform(5, 50)), count)
            for protocol in PROTOCOLS
            for spec in METHODS
        ]
    )
    store.close()
    return store


def _cases(count: int) -> list[EditCase]:
    source = Image.new("RGB", (16, 16), (90, 120, 60))
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    return [
        EditCase(
            f"case-{i:05d}",
            CATEGORIES[i % len(CATEGORIES)],
            EditRequest(source, mask, "a thing", f"another thing, number {i}", "a thing", "change it"),
            source_id=f"source-{i // 2:05d}",
        )
        for i in range(count)
    ]


def _values(name: str, level: float, count: int, generator: np.random.Generator) -> np.ndarray:
    if name.startswith(("success", "judge")):
        return (generator.random(count) < level).astype(float)
    return generator.beta(2, 2 / level, count)


WORK = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench.metrics import METRICS, info_of
from bench.registry import Registry
from bench.store import RunStore
from reports.write import write_report
known = Registry("metric", METRICS)
with RunStore.open(Path(sys.argv[2])) as store:
    write_report(store, {name: info_of(known.load(name)) for name in METRICS})
"""


def measure(folder: Path, records: int = 1_000_000) -> Measured:
    """Writes a report over a made-up run in ``folder`` and says what it took."""
    store = synthetic(folder, records)
    records_read = len(store.scores())
    start = time.perf_counter()
    work = subprocess.Popen([sys.executable, "-c", WORK, str(ROOT), str(store.path)])
    _, status, used = os.wait4(work.pid, 0)
    seconds = time.perf_counter() - start
    work.returncode = os.waitstatus_to_exitcode(status)
    if work.returncode:
        raise RuntimeError(f"the report ended with {work.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(records_read, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="make the run here and keep it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        result = measure(folder / "run", options.records)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(vars(result)) if options.json else result)


if __name__ == "__main__":
    main()
