"""TrainingTuples: made once, resumed where they stopped, the same outside M to the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditCase, EditMethod, EditRequest, Region
from bench.images import mask_array
from methods.prompt_edit_diff.training_tuples import TrainingTuples, TrainingTuplesError, make_training_tuples
from tests.methods.conftest import box_mask, request

MAKER = {"name": "paint", "options": {"steps": 3}}


class Paint(EditMethod):
    """Answers with a flat colour per seed, everywhere."""

    needs = frozenset({"source"})

    def __init__(self, native_size: int | None = None, stop_after: int = 10**9) -> None:
        self.native_size = native_size
        self.seeds: list[int] = []
        self.stop_after = stop_after

    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        if len(self.seeds) + len(requests) > self.stop_after:
            raise KeyboardInterrupt
        self.seeds += [r.seed for r in requests]
        sizes = {r.source.size for r in requests} | {r.mask.size for r in requests}
        assert self.native_size is None or sizes == {(self.native_size, self.native_size)}
        return [Image.new("RGB", r.source.size, (40 * r.seed, 200, 10)) for r in requests]


def cases(count: int = 5) -> list[EditCase]:
    examples = [EditCase(f"../{i}", "attribute", request(i), f"s{i}") for i in range(count)]
    masks = [box_mask(2, 2, 20, 20), box_mask(30, 30, 60, 60)]
    # The first case has two regions.
    several = replace(
        examples[0].request,
        mask=box_mask(2, 2, 60, 60),
        regions=(Region(masks[0], "a hat", ("hat",)), Region(masks[1], "a scarf", ("scarf",))),
    )
    return [replace(examples[0], request=several), *examples[1:]]


def test_a_quad_comes_back_as_it_was_asked(tmp_path: Path) -> None:
    tuples = make_training_tuples(cases(), Paint(), MAKER, tmp_path, batch=2)
    assert len(tuples) == 5
    # All texts, masks and pixels come back.
    by_id = {case.id: case for case in tuples}
    for case in cases():
        stored = by_id[case.id]
        for name in ("source_prompt", "target_prompt", "region_prompt", "instruction", "edit_words", "seed"):
            assert getattr(stored.request, name) == getattr(case.request, name)
        assert stored.request.source.tobytes() == case.request.source.tobytes()
        assert stored.request.mask.tobytes() == case.request.mask.tobytes()
        assert [(r.prompt, r.words, r.mask.tobytes()) for r in stored.request.regions] == [
            (r.prompt, r.words, r.mask.tobytes()) for r in case.request.regions
        ]
        # Outside M the result is the source, inside it is the method's.
        mask = mask_array(case.request.mask)
        assert stored.truth is not None
        assert np.array_equal(np.asarray(stored.truth)[~mask], np.asarray(case.request.source)[~mask])
        assert (np.asarray(stored.truth)[mask] == (40 * case.request.seed, 200, 10)).all()
    assert not list(tmp_path.parent.glob("0*"))  # ids are no paths


def test_what_is_made_is_not_made_again(tmp_path: Path) -> None:
    stopped = Paint(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        make_training_tuples(cases(), stopped, MAKER, tmp_path, batch=2)
    # A half-written tuple of the interrupted call.
    (tmp_path / f".{'0' * 24}.half").mkdir()
    rest = Paint()
    calls: list[int] = []
    tuples = make_training_tuples(cases(), rest, MAKER, tmp_path, batch=2, progress=calls.append)
    assert stopped.seeds == [0, 1]
    assert rest.seeds == [2, 3, 4]
    assert calls == [2, 4, 5]
    assert len(tuples) == 5
    assert not (tmp_path / f".{'0' * 24}.half").exists()


def test_another_maker_is_refused(tmp_path: Path) -> None:
    make_training_tuples(cases(1), Paint(), MAKER, tmp_path)
    with pytest.raises(TrainingTuplesError, match="choose another folder"):
        make_training_tuples(cases(2), Paint(), {**MAKER, "options": {"steps": 4}}, tmp_path)


def test_sizes_are_the_methods_on_the_way_and_the_examplesin_the_end(tmp_path: Path) -> None:
    [case] = make_training_tuples(cases(1), Paint(native_size=32), MAKER, tmp_path)
    assert case.truth is not None
    assert case.truth.size == case.request.source.size == (64, 64)


def test_an_empty_or_broken_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingTuplesError, match="make_training_tuples"):
        TrainingTuples(tmp_path)
    make_training_tuples(cases(1), Paint(), MAKER, tmp_path)
    # A broken record.
    [line] = tmp_path.glob("*/case.json")
    line.write_text("{")
    with pytest.raises(TrainingTuplesError, match=r"case\.json"):
        TrainingTuples(tmp_path)


def test_slices_are_cases(tmp_path: Path) -> None:
    tuples = make_training_tuples(cases(3), Paint(), MAKER, tmp_path)
    assert [c.id for c in tuples[1:]] == [tuples[1].id, tuples[2].id]
