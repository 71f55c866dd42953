"""A run folder with all that a case may hold, and ways to tamper with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image, ImageFilter, ImageOps

from bench.edit import Claim, EditCase, EditRecord, Region, ScoreRecord
from bench.store import RunStore
from reports.share.verification.result import Verification
from reports.share.verification.run import verify
from tests.reports import fake

N = len(fake.cases())
VALUES = {
    "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
    "leak_lpips": {spec.name: [0.01 * k for k in range(N)] for spec in fake.METHODS},
}


# The fake run's set scores are over all cases, and one edit of instruct_pix2pix fails.
SETS = {
    name: (10.0 + i, 9.0 + i, 11.0 + i) for i, name in enumerate(("sd_inpainting", "copy_input", "oracle"))
}


def cases() -> list[EditCase]:
    """The fake protocol's cases, with all that a case may hold."""
    return [
        replace(
            case,
            truth=ImageOps.invert(case.request.source),
            claims=(Claim("color", "red", "blue"),),
            tags={"from": "here"},
            request=replace(
                case.request,
                edit_words=("edited",),
                regions=(Region(case.request.mask, "a part", ("part",)),),
                seed=7,
            ),
        )
        for case in fake.cases()
    ]


def check(folder: Path) -> Verification:
    return verify(RunStore.open(folder))


def an_edit(folder: Path) -> Path:
    return sorted(folder.glob("edits/mini-coco/sd_inpainting-*/*.png"))[0]


def rescoring(
    change: Callable[[ScoreRecord], ScoreRecord | None], requested: list[EditRecord]
) -> Callable[[RunStore, Sequence[EditRecord]], Iterable[ScoreRecord]]:
    """A scoring function that gives the stored values of the fake run, changed. It collects the edits it is given."""
    # The stored value of a case is at its position in VALUES.
    order = {case.id: k for k, case in enumerate(fake.cases())}
    names = {spec.digest: spec.name for spec in fake.METHODS}

    def rescore(store: RunStore, records: Sequence[EditRecord]) -> Iterable[ScoreRecord]:
        requested.extend(records)
        for record in records:
            for metric, by_method in VALUES.items():
                value = by_method[names[record.key.method]][order[record.key.case]]
                changed = change(ScoreRecord(record.key, metric, "1", value))
                if changed is not None:
                    yield changed

    return rescore


def change_manifest(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "run.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut_log(folder: Path) -> None:
    log = folder / "edits.jsonl"
    log.write_bytes(log.read_bytes()[:-10])


def other_pixels(folder: Path) -> None:
    Image.new("RGB", (64, 64), "#123456").save(an_edit(folder))


def other_options(manifest: dict[str, object]) -> None:
    methods = manifest["methods"]
    assert isinstance(methods, dict)
    next(iter(methods.values()))["options"] = {"steps": 3}


def other_protocol(folder: Path) -> None:
    path = folder / "cases/mini-coco/protocol.json"
    path.write_text(path.read_text().replace("d" * 12, "e" * 12))


def dilate_masks(folder: Path) -> None:
    for path in (folder / "cases/mini-coco/masks").glob("*.png"):
        Image.open(path).filter(ImageFilter.MaxFilter(5)).save(path)


def invert(folder: Path, pattern: str) -> None:
    path = sorted(folder.glob(pattern))[0]
    ImageOps.invert(Image.open(path)).save(path)


def change_row(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Changes the first case."""
    path = folder / "cases/mini-coco/cases.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[0])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_claim(row: dict[str, object]) -> None:
    row["claims"] = [{"attribute": "color", "before": "red", "after": "green", "region": 0}]


def add_case(folder: Path) -> None:
    path = folder / "cases/mini-coco/cases.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps({**row, "id": "one-more"}) + "\n")


def drop_case(folder: Path) -> None:
    path = folder / "cases/mini-coco/cases.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


def change_set(folder: Path, name: str = "value") -> None:
    path = folder / "scores/set.json"
    rows = json.loads(path.read_text())
    rows[1][name] -= 1.0
    path.write_text(json.dumps(rows, indent=1) + "\n")


def add_set(folder: Path) -> None:
    path = folder / "scores/set.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {**rows[0], "value": 1.0}]))


def change_score(folder: Path) -> None:
    path = sorted(folder.glob("scores/part-*.parquet"))[0]
    frame = pd.read_parquet(path)
    frame.loc[(frame["metric"] == "success_truth") & (frame["case"] == "attribute-0"), "value"] = 1.0
    frame.to_parquet(path, index=False, compression="zstd")


def change_text(folder: Path, name: str, before: str, after: str) -> None:
    path = folder / "report" / name
    text = path.read_text()
    assert before in text, name
    path.write_text(text.replace(before, after, 1))


def other_figure(folder: Path) -> None:
    path = folder / "report/figures/grid-random-mini-coco.png"
    ImageOps.mirror(Image.open(path)).save(path)


def forge_digests(folder: Path) -> None:
    """Makes every digest fit what is there, as whoever changes files can."""
    # The same line for every file that has a digest.
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [
        json.dumps({"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()})
        for name in names
        if name.startswith(("cases/", "scores/", "report/", "run.json"))
    ]
    (folder / "digests.jsonl").write_text("\n".join(['{"complete": true}', *lines]) + "\n")


def double_record(folder: Path) -> None:
    log = folder / "edits.jsonl"
    row = json.loads(log.read_text().splitlines()[0])
    log.write_text(log.read_text() + json.dumps({**row, "case": "nowhere"}) + "\n")


def unlike_set(folder: Path) -> None:
    row = {
        "protocol": "mini-coco",
        "protocol_version": "1",
        "method": fake.METHODS[0].digest,
        "category": "all",
        "metric": "fid",
        "metric_version": "1",
        "value": 1.0,
        "low": None,
        "high": None,
        "n": N,
        "reason": None,
        "inputs": "0" * 12,
    }
    (folder / "scores/set.json").write_text(json.dumps([row]))
