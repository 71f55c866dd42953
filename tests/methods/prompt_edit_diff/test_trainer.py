"""Full-size training at the smallest size: it learns, it resumes to the bit, and the method runs its weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
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
from methods.prompt_edit_diff.config import Config
from methods.prompt_edit_diff.examples import Examples, LoadedBatches, positions
from methods.prompt_edit_diff.method import PromptEditDiff
from methods.prompt_edit_diff.trainer import train
from tests.methods.conftest import box_mask, request, tiny_tokenizer

Folder = Callable[[int], str]


def cases(count: int = 4) -> list[EditCase]:
    # Red boxes on gradients.
    out = []
    for i in range(count):
        mask = box_mask(8 + 4 * i, 16, 40 + 4 * i, 48)
        edit = replace(request(i, mask), edit_words=("hat",))
        truth = composite(edit.source, Image.new("RGB", (64, 64), (200, 30, 40)), mask)
        out.append(EditCase(f"case-{i}", "replacement", edit, f"source-{i}", truth=truth))
    return out


def config(base: str, out: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "base": base, "out": str(out), "size": 64, "steps": 6, "batch": 2, "accumulate": 2, "learning_rate": 1e-3,
        "added_learning_rate": 1e-3, "warmup": 2, "ema": 0.9, "mixed_precision": "no",
        "gradient_checkpointing": False, "workers": 0, "save_every": 2, "keep": 2, "sample_every": 1000,
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
    # The reference: a run without interruption.
    whole = train(cases(), config(tiny_folder(4), tmp_path / "whole"))

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, figures: Mapping[str, float]) -> None:
        if step == 5:
            raise Killed

    # The training stops in step 5, after the checkpoints of steps 2 and 4.
    cut = config(tiny_folder(4), tmp_path / "cut")
    with pytest.raises(Killed):
        train(cases(), cut, report=kill)
    assert [p.name for p in sorted((tmp_path / "cut").glob("checkpoint-*"))] == [
        "checkpoint-0000002", "checkpoint-0000004",
    ]  # fmt: skip
    # The resumed run has the same weights and the same log.
    resumed = train(cases(), cut)
    first, second = weights_in(whole), weights_in(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [line["step"] for line in b] == [str(i) for i in range(1, 7)]
    assert [line["loss"] for line in a] == [line["loss"] for line in b]
    # The last two checkpoints stay, the final one among them.
    assert [p.name for p in sorted((tmp_path / "cut").glob("checkpoint-*"))] == [
        "checkpoint-0000004", "checkpoint-0000006",
    ]  # fmt: skip
    # The same call trains a finished run no further, and other options are refused.
    again = train(cases(), cut, report=lambda *_: pytest.fail("a step was made"))
    assert all(torch.equal(v, second[k]) for k, v in weights_in(again).items())
    with pytest.raises(ValueError, match="other options"):
        train(cases(), replace(cut, learning_rate=1e-4))


def test_it_learns_and_the_method_runs_its_weights(tiny_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = config(
        tiny_folder(4), out, steps=30, batch=4, accumulate=1, learning_rate=2e-3, added_learning_rate=2e-3, warmup=1,
        save_every=30, sample_every=30, no_text=0.0, way_back=0.0, mask_dropout=MaskDropout(0.0),
        gradient_checkpointing=True,
    )  # fmt: skip
    folder = train(cases(), settings, samples=cases(2))
    # The loss falls, and the gates open.
    losses = [float(line["inside"]) for line in lines(out)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert float(lines(out)[-1]["phi"]) > 0
    # Two columns of four images of 64 pixels.
    with Image.open(out / "samples-0000030.png") as sheet:
        assert sheet.size == (128, 256)
    # The method runs the saved pipeline and keeps the outside.
    options = PromptEditDiff.Options(weights=str(folder), steps=2)
    assert PromptEditDiff.problems(options) == []
    method = PromptEditDiff(options, Runtime())
    [case] = cases(1)
    [edited] = method.edit([case.request])
    keep = ~mask_array(case.request.mask)
    assert np.array_equal(np.asarray(edited)[keep], np.asarray(case.request.source)[keep])


def test_frozen_parameters_stay(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = train(
        cases(), config(tiny_folder(4), tmp_path, trainable="attention", steps=2, ema_on_cpu=True, ema=0.0)
    )
    from safetensors.torch import load_file

    # Attention layers move, all others equal the base.
    base = load_file(Path(tiny_folder(4)) / "unet" / "diffusion_pytorch_model.safetensors")
    trained = weights_in(folder)
    moved = {
        name
        for name, value in base.items()
        if not name.startswith("conv_in.") and not torch.equal(value.half(), trained[f"unet.{name}"])
    }
    assert moved
    assert all(".attn1." in name or ".attn2." in name for name in moved)


def test_examples_follow_from_their_position_and_state_what_they_show(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    settings = config(tiny_folder(4), tmp_path)
    data = Examples(cases(), tiny_tokenizer(), settings)
    assert all(torch.equal(v, data[5][k]) for k, v in data[5].items())
    assert sorted(data.row(i) for i in range(4)) == [0, 1, 2, 3]  # an epoch shows each once
    assert [data.row(i) for i in range(4)] != [data.row(i) for i in range(4, 8)] or data.row(8) != data.row(0)
    examples = [data[i] for i in range(200)]
    # Shares of the way back and of examples without text.
    back = [bool((e["source"] == e["target"]).all()) for e in examples]
    assert np.mean(back) == pytest.approx(0.3, abs=0.1)
    empty = [not bool(e["words"].any()) for e in examples]
    assert np.mean(empty) == pytest.approx(0.1, abs=0.06)
    assert not any(bool(e["member"].any()) for e, no_text in zip(examples, empty, strict=True) if no_text)
    tagged = [
        bool(e["member"].any()) for e, b, n in zip(examples, back, empty, strict=True) if not b and not n
    ]
    assert all(tagged)
    # A case without a result is refused by its remedy.
    bare = replace(cases(1)[0], truth=None)
    with pytest.raises(ValueError, match="make_training_tuples"):
        Examples([bare], tiny_tokenizer(), settings)[0]


def test_processes_share_the_positions_between_them() -> None:
    settings = Config(out="", batch=2, accumulate=3, steps=5)
    whole = [positions(settings, 0, p, 2) for p in range(2)]
    assert sorted(whole[0] + whole[1]) == list(range(2 * 3 * 5 * 2))
    assert positions(settings, 2, 1, 2) == whole[1][2 * 3 * 2 :]


def test_batches_stack_the_examples_from_the_step_of_the_first_call(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    data = Examples(cases(), tiny_tokenizer(), config(tiny_folder(4), tmp_path))
    batches = LoadedBatches(data, 0, 1, pin_memory=False)
    # Step 2 begins with forward pass 4, which has the positions 8 and 9; pass 5 follows.
    for number, rows in ((4, (8, 9)), (5, (10, 11))):
        batch = batches(number)
        for i, position in enumerate(rows):
            assert all(torch.equal(batch[name][i], value) for name, value in data[position].items())


def test_learning_rates_warm_up_and_decay() -> None:
    settings = Config(out="", steps=100, warmup=10, decay=0.2)
    budget = settings.budget(processes=2)
    shares = [budget.learning_rate_at(step * budget.batch) / settings.learning_rate for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[8] == pytest.approx(0.9)
    assert shares[9] == shares[50] == shares[80] == 1
    assert shares[90] == pytest.approx(0.5)
    assert shares[100] == 0


def test_a_run_from_before_an_option_goes_on_as_it_began_or_not_at_all(tmp_path: Path) -> None:
    # Its stored options name neither the weights of the loss nor the hidden part of the source: both had one value.
    settings = Config(out=str(tmp_path))
    trainer._check_config(tmp_path, settings, write=True)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["weighting"], stored["model"]["source_latents"]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"other options \(model\)"):
        trainer._check_config(tmp_path, settings, write=False)
    trainer._check_config(tmp_path, replace(settings, model={"source_latents": "cells"}), write=False)
    with pytest.raises(ValueError, match="weighting"):
        trainer._check_config(
            tmp_path, replace(settings, model={"source_latents": "cells"}, weighting="equal"), write=False
        )


def test_seeds_differ() -> None:
    seeds = {trainer.hash_seed(a, b, c) for a in range(3) for b in range(30) for c in range(4)}
    assert len(seeds) == 360
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"base": "no/such"}, "no/such"), ({"variant": "prompt_edit_dif"}, "variant"), ({"steps": 0}, "steps")],
)
def test_impossible_options_are_refused(
    tiny_folder: Folder, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(cases(), replace(config(tiny_folder(4), tmp_path), **change))


def test_an_inpainting_checkpoint_is_no_base(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 input channels"):
        train(cases(), config(tiny_folder(9), tmp_path))
