"""Every method that follows an instruction edits a case of 640 x 480 pixels without a mask: edit, score, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import bench
from bench.endpoints import servers
from bench.registry import Registry, options_dict
from methods import METHODS
from methods.diffusion import checkpoints
from methods.diffusion.adapter import Diffusers
from methods.diffusion.table import PIPELINES
from tests.bench.endpoints.fake_server import KEY, FakeApi, fake_api
from tests.methods.diffusion.test_table import tiny_checkpoints
from tests.methods.diffusion.tiny_pipelines import SAMPLES
from tests.protocols.published.instruction_layouts import cell, parquet_folder, picture

pytestmark = pytest.mark.usefixtures("tiny_checkpoints")

__all__ = ["tiny_checkpoints"]

SIZE = (640, 480)
INSTRUCTION = "make the sky red"
ROW = {
    "task": "view",
    "image_path": "00000.png",
    "instruction": INSTRUCTION,
    "caption": None,
    "input_image": cell(picture(0, SIZE)),
    "edited_image": cell(picture(1, SIZE)),
    "mask": None,
}
"""A row of CompBench in a task without masks."""
OTHERS: dict[str, list[dict[str, Any]]] = {
    "instruct_pix2pix": [{"preset": "mini", "options": {"steps": 2}}],
    # OpenAI's own form, and that of servers of open models.
    "openai_edit": [
        {"label": "openai", "options": {"model": "gpt-image-1"}},
        {"label": "compatible", "options": {"server": "images", "model": "m", "steps": 4}},
    ],
    "gemini_edit": [{}],
}
"""Method -> how it is called, for all methods that follow an instruction but the adapter of diffusers."""


def needs_of_row(name: str) -> frozenset[str]:
    return Diffusers.needs_of(Diffusers.Options(weights="tiny/tiny", pipeline=name))


def follows_instruction(needs: frozenset[str]) -> bool:
    return "instruction" in needs and needs.isdisjoint({"mask", "references"})


ROWS = [name for name in PIPELINES if follows_instruction(needs_of_row(name))]
"""Classes of diffusers' pipelines that follow an instruction without a mask."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "answers"))
    monkeypatch.setenv("PROMPTEDITBENCH_KEYS", "")
    with fake_api() as server:
        monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_URL", server.url)
        monkeypatch.setenv("PROMPTEDITBENCH_IMAGES_KEY", KEY)
        # Built-in addresses: the stand-in answers in their place.
        for name in (servers.OPENAI, servers.GEMINI):
            monkeypatch.setitem(servers._URLS, name, server.url)
        servers.bind_key(f"{urlsplit(server.url).netloc}=PROMPTEDITBENCH_IMAGES_KEY")
        yield server


def others() -> list[dict[str, Any]]:
    """The entries of :data:`OTHERS`, as a suite has them. Calls of a server do not wait for each other."""
    limits = {"openai_edit": {"requests_per_minute": 1e9}, "gemini_edit": {"requests_per_minute": 1e9}}
    return [
        {"method": name, **call, "options": call.get("options", {}) | limits.get(name, {})}
        for name, calls in OTHERS.items()
        for call in calls
    ]


def row_method(name: str) -> dict[str, Any]:
    # About 96 x 64 pixels.
    options = {"weights": "tiny/tiny", "pipeline": name, "steps": 2, "size": "6144"}
    return {"method": "diffusers", "label": name, "options": options | dict(SAMPLES[name].options)}


def test_the_methods_that_follow_an_instruction_are_all_here() -> None:
    registry = Registry("method", METHODS)
    classes = {name: registry.load(name) for name in METHODS}
    declared = {name for name, cls in classes.items() if follows_instruction(cls.needs_of(cls.Options()))}
    assert declared == set(OTHERS)
    assert len(ROWS) > 12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_case_without_a_mask_is_edited_scored_and_reported(
    dtype: str, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "identity", lambda options: {"weights": "tiny"})
    root = parquet_folder(tmp_path / "data", "train", [ROW, ROW | {"image_path": "00001.png"}])
    # In bfloat16, only the classes that work in nothing else.
    rows = [name for name in ROWS if (PIPELINES[name].dtypes == ("bfloat16",)) == (dtype == "bfloat16")]
    methods = [*(others() if dtype == "float32" else []), *map(row_method, rows)]
    suite = {
        "name": "instructions",
        "limit": 1,
        "protocols": [{"name": "compbench", "options": {"root": str(root)}}],
        "methods": ["copy_input", *methods],
        "metrics": ["magicbrush_l1", "leak_mse"],
    }
    with pytest.warns(match="the published benchmark has"):
        run = bench.run(suite, out=tmp_path / "run", device="cpu", dtype=dtype)

    # Edit: the source's size, and something that the method made.
    assert run.failed == 0
    (case_id,) = set(run.scores.case)
    case = run.case("compbench", case_id)
    assert (case.request.source.size, case.request.mask) == (SIZE, None)
    source, truth = np.asarray(case.request.source, int), np.asarray(case.truth, int)
    titles = sorted(set(run.scores.method) - {"copy_input"})
    assert len(titles) == len(methods)
    edits = {title: run.image("compbench", title, case_id) for title in titles}
    assert {edit.size for edit in edits.values()} == {SIZE}
    assert all(np.abs(np.asarray(edit, int) - source).mean() > 1 for edit in edits.values())
    # The servers got the instruction, and no mask.
    assert len(api.forms) == (3 if dtype == "float32" else 0)
    for form in api.forms:
        assert "mask" not in form.files
        prompt = form.fields["prompt"] if form.json is None else form.json["contents"][0]["parts"][0]["text"]
        assert prompt == INSTRUCTION

    # Score: the mean difference from the ground truth, and no leakage.
    scores = run.scores.set_index(["metric", "method"])
    assert set(scores.loc["leak_mse"].reason) == {"the case has no mask"}
    expected = {title: np.abs(np.asarray(edit, int) - truth).mean() / 255 for title, edit in edits.items()}
    assert scores.loc["magicbrush_l1"].value.drop("copy_input").to_dict() == pytest.approx(expected, rel=1e-6)

    # Report: every method, with its value.
    report = run.report()
    rows_of_report = report.summary.query("metric == 'magicbrush_l1' and category == 'all'").set_index(
        "method"
    )
    assert rows_of_report.value.drop("copy_input").to_dict() == pytest.approx(expected, rel=1e-6)
    tables = (report.folder / "tables" / "tables.md").read_text(encoding="utf-8").replace("\\_", "_")
    assert [title for title in titles if f"| {title} |" not in tables] == []


@pytest.mark.parametrize("name", [*OTHERS, "diffusers"])
def test_a_caption_may_stand_for_the_instruction_and_tables_say_so(name: str) -> None:
    """The default is no part of the digest of InstructPix2Pix, whose runs are older than the option."""
    cls = Registry("method", METHODS).load(name)
    chosen = {"pipeline": "FluxKontextPipeline"} if name == "diffusers" else {}
    plain = cls.Options(**chosen)
    assert cls.needs_of(plain) == {"source", "instruction"}
    assert "prompt_field: target_prompt" in cls.optional_needs(plain)["instruction"]
    assert "as instruction" not in cls.remark(plain)

    caption = cls.Options(**chosen, prompt_field="target_prompt")
    assert cls.needs_of(caption) == {"source", "target_prompt"}
    assert not cls.optional_needs(caption)
    assert "target prompt as instruction" in cls.remark(caption)
    if name == "instruct_pix2pix":
        assert "prompt_field" not in options_dict(plain)
        assert options_dict(caption)["prompt_field"] == "target_prompt"
