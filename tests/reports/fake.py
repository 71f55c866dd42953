"""A run folder that no model has made: known edits, known scores, for the tests of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bench.edit import CATEGORIES, EditCase, EditKey, EditRecord, EditRequest, MethodSpec, ScoreRecord
from bench.metrics.types import MetricInfo
from bench.store import RunStore, SetScore

METHODS = (
    MethodSpec("sd_inpainting", {"steps": 2}),
    MethodSpec("instruct_pix2pix", {}),
    MethodSpec("copy_input", {}, is_control=True),
    MethodSpec("oracle", {}, is_control=True),
)


def info(unit: str, higher_is_better: bool | None) -> MetricInfo:
    return MetricInfo("", "1", unit, higher_is_better, "a line")


METRICS: Mapping[str, MetricInfo] = {
    "success_truth": info("0/1", True),
    "leak_lpips": info("LPIPS", False),
    "leak_lpips_edge": info("LPIPS", False),
    "clip_target": info("cosine", True),
    "fid": info("", False),
}


def cases(per_category: int = 4, side: int = 64) -> list[EditCase]:
    """Two cases per source, so that clusters are not cases."""
    made = []
    for c, category in enumerate(CATEGORIES):
        for i in range(per_category):
            source = Image.new("RGB", (side, side), (90, 40 + 40 * c, 30 * (i % 8 + 1)))
            mask = Image.new("L", (side, side))
            ImageDraw.Draw(mask).ellipse([8 + 4 * (i % 4), 12, 40 + 4 * (i % 4), 44], fill=255)
            request = EditRequest(
                source,
                mask,
                f"a {category} case",
                f"a {category} case & 100 % <edited>_{i}",
                "an edit",
                "edit it",
            )
            made.append(EditCase(f"{category}-{i}", category, request, source_id=f"s{c}-{i // 2}"))
    return made


def run(
    path: Path,
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
    *,
    methods: Sequence[MethodSpec] = METHODS,
    failed: Sequence[tuple[str, str]] = (),
    sets: Mapping[str, tuple[float, float | None, float | None]] | None = None,
    picked: Sequence[EditCase] | None = None,
    protocol: str = "mini-coco",
    ceilings: Mapping[str, float] | None = None,
    seeds: Sequence[int] = (0,),
) -> RunStore:
    """``values``: metric -> method name -> one value per case; ``failed``: (method name, case id).

    Methods that need a mask, here ``sd_inpainting``, refuse a case without one.
    """
    picked = cases() if picked is None else picked
    info = {
        "name": protocol,
        "version": "1",
        "digest": "d" * 12,
        "canvas": 64,
        "categories": list(dict.fromkeys([*CATEGORIES, *(case.category for case in picked)])),
        **({"ceilings": dict(ceilings)} if ceilings else {}),
    }
    store = RunStore.open(path, create=True)
    store.configure(protocols={protocol: info}, methods=methods, seeds=seeds)
    store.write_cases(picked, info)
    records, scores = [], []
    for spec, seed in product(methods, seeds):
        for k, case in enumerate(picked):
            key = EditKey(protocol, "1", spec.digest, case.id, seed)
            if spec.name == "sd_inpainting" and case.request.mask is None:
                records.append(EditRecord(key, None, None, None, "the case has no mask", is_refused=True))
                continue
            if (spec.name, case.id) in failed:
                records.append(EditRecord(key, None, None, None, error="RuntimeError: no"))
                continue
            file = store.edit_file(protocol, spec, case.id, seed)
            pixels = (
                np.asarray(case.request.source) // 2 if spec.name != "copy_input" else case.request.source
            )
            sha = store.write_edit(file, Image.fromarray(np.asarray(pixels)))
            records.append(EditRecord(key, file, sha, 0.1))
            for metric, by_method in values.items():
                if spec.name in by_method:
                    value = by_method[spec.name][k]
                    scores.append(ScoreRecord(key, metric, "1", value, None if value is not None else "none"))
    store.append_edits(records)
    store.append_scores(scores)
    store.append_set_scores(
        [
            SetScore(protocol, "1", spec.digest, "all", "fid", "1", value, len(picked), low, high)
            for spec in methods
            for value, low, high in [(sets or {}).get(spec.name, (None, None, None))]
            if value is not None
        ]
    )
    store.close()
    return store
