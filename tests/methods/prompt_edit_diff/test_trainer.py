"""Full-size training, at the smallest size: it learns, it resumes to the bit, it leaves the method's weights."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.edit import EditCase, Runtime
from bench.images import composite, mask_array
from methods.prompt_edit_diff import trainer
from methods.prompt_edit_diff.augment import MaskDropout
from methods.prompt_edit_diff.method import PromptEditDiff
from methods.prompt_edit_diff.trainer import Config, Examples, positions, train
from tests.methods.conftest import box_mask, request, tiny_tokenizer

Folder = Callable[[int], str]


def cases(count: int = 4) -> list[EditCase]:
    """Red boxes on gradients."""
    out = []
    for i in range(count):
        mask = box_mask(8 + 4 * i, 16, 40 + 4 * i, 48)
        asked = replace(request(i, mask), edit_words=("hat",))
        truth = composite(asked.source, Image.new("RGB", (64, 64), (200, 30, 40)), mask)
        out.append(EditCase(f"case-{i}", "replacement", asked, f"source-{i}", truth=truth))
    return out


def config(base: str, out: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "base": base, "out": str(out), "size": 64, "steps": 6, "batch": 2, "accumulate": 2, "rate": 1e-3,
        "added_rate": 1e-3, "warmup": 2, "ema": 0.9, "mixed_precision": "no", "gradient_checkpointing": False,
        "workers": 0, "save_every": 2, "keep": 2, "sample_every": 1000,
        "model": {"mask_width": 16, "count": 2},
    }  # fmt: skip
    return Config(**{**settings, **changes})


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_training_resumes_to_the_bit(tiny_folder: Folder, tmp_path: Path) -> None:
    whole = train(cases(), config(tiny_folder(4), tmp_path / "whole"))

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, figures: Any) -> None:
        if step == 5:
            raise Killed

    cut = config(tiny_folder(4), tmp_path / "cut")
    with pytest.raises(Killed):
        train(cases(), cut, report=kill)
    assert [p.name for p in sorted((tmp_path / "cut").glob("checkpoint-*"))] == [
        "checkpoint-0000002", "checkpoint-0000004",
    ]  # fmt: skip
    resumed = train(cases(), cut)
    first, second = weights_in(whole), weights_in(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [line["step"] for line in b] == [str(i) for i in range(1, 7)]
    assert [line["loss"] for line in a] == [line["loss"] for line in b]
    # Rotation: the last two, the final one among them.
    assert [p.name for p in sorted((tmp_path / "cut").glob("checkpoint-*"))] == [
        "checkpoint-0000004", "checkpoint-0000006",
    ]  # fmt: skip
    # Finished is finished: the same call trains no further.
    again = train(cases(), cut, report=lambda *_: pytest.fail("a step was made"))
    assert all(torch.equal(v, second[k]) for k, v in weights_in(again).items())
    with pytest.raises(ValueError, match="other options"):
        train(cases(), replace(cut, rate=1e-4))


def test_it_learns_and_the_method_runs_what_it_leaves(tiny_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = config(
        tiny_folder(4), out, steps=30, batch=4, accumulate=1, rate=2e-3, added_rate=2e-3, warmup=1, save_every=30,
        sample_every=30, no_text=0.0, way_back=0.0, mask_dropout=MaskDropout(0.0), gradient_checkpointing=True,
    )  # fmt: skip
    folder = train(cases(), settings, samples=cases(2))
    losses = [float(line["inside"]) for line in lines(out)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert float(lines(out)[-1]["phi"]) > 0
    with Image.open(out / "samples-0000030.png") as sheet:
        assert sheet.size == (128, 256)
    options = PromptEditDiff.Options(weights=str(folder), steps=2)
    assert PromptEditDiff.problems(options) == []
    method = PromptEditDiff(options, Runtime())
    [case] = cases(1)
    [edited] = method.edit([case.request])
    keep = ~mask_array(case.request.mask)
    assert np.array_equal(np.asarray(edited)[keep], np.asarray(case.request.source)[keep])


def test_what_is_frozen_stays(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = train(
        cases(), config(tiny_folder(4), tmp_path, trainable="attention", steps=2, ema_on_cpu=True, ema=0.0)
    )
    from safetensors.torch import load_file

    base = load_file(Path(tiny_folder(4)) / "unet" / "diffusion_pytorch_model.safetensors")
    found = weights_in(folder)
    moved = {
        name
        for name, value in base.items()
        if not name.startswith("conv_in.") and not torch.equal(value.half(), found[f"unet.{name}"])
    }
    assert moved
    assert all(".attn1." in name or ".attn2." in name for name in moved)


def test_examples_follow_from_their_position_and_say_what_they_show(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    settings = config(tiny_folder(4), tmp_path)
    data = Examples(cases(), tiny_tokenizer(), settings)
    assert all(torch.equal(v, data[5][k]) for k, v in data[5].items())
    assert sorted(data.row(i) for i in range(4)) == [0, 1, 2, 3]  # an epoch shows each once
    assert [data.row(i) for i in range(4)] != [data.row(i) for i in range(4, 8)] or data.row(8) != data.row(0)
    shown = [data[i] for i in range(200)]
    back = [bool((e["source"] == e["target"]).all()) for e in shown]
    assert np.mean(back) == pytest.approx(0.3, abs=0.1)
    empty = [not bool(e["words"].any()) for e in shown]
    assert np.mean(empty) == pytest.approx(0.1, abs=0.06)
    assert not any(bool(e["member"].any()) for e, nothing in zip(shown, empty, strict=True) if nothing)
    tagged = [bool(e["member"].any()) for e, b, n in zip(shown, back, empty, strict=True) if not b and not n]
    assert all(tagged)
    bare = replace(cases(1)[0], truth=None)
    with pytest.raises(ValueError, match="make_training_tuples"):
        Examples([bare], tiny_tokenizer(), settings)[0]


def test_processes_share_the_positions_between_them() -> None:
    settings = Config(out="", batch=2, accumulate=3, steps=5)
    whole = [positions(settings, 0, p, 2) for p in range(2)]
    assert sorted(whole[0] + whole[1]) == list(range(2 * 3 * 5 * 2))
    assert positions(settings, 2, 1, 2) == whole[1][2 * 3 * 2 :]


def test_rates_warm_up_and_decay() -> None:
    settings = Config(out="", steps=100, warmup=10, decay=0.2)
    assert settings.rate_at(0) == pytest.approx(0.1)
    assert settings.rate_at(9) == settings.rate_at(50) == settings.rate_at(80) == 1
    assert settings.rate_at(90) == pytest.approx(0.5)
    assert settings.rate_at(100) == 0


def test_seeds_differ() -> None:
    seeds = {trainer.hash_seed(a, b, c) for a in range(3) for b in range(30) for c in range(4)}
    assert len(seeds) == 360
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "no/such"}, "no/such"),
        ({"variant": "prompt_edit_dif"}, "variant"),
        ({"steps": 0}, "steps"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tiny_folder: Folder, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(cases(), replace(config(tiny_folder(4), tmp_path), **change))


def test_an_inpainting_checkpoint_is_no_base(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 input channels"):
        train(cases(), config(tiny_folder(9), tmp_path))
