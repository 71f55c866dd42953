"""The parts of ``make full-size`` that are quick: its data sets at their real sizes, and its random networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.perf import full_size
from tests.perf.large_world import with_random_weights
from tests.protocols.conftest import write_celeba, write_coco


def test_two_cases_of_each_data_set_at_its_real_size(tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba", test=range(3), train=(9,), image=1024, mask=512)
    write_coco(tmp_path / "coco", range(100, 106), size=(640, 480))
    for cls, name in ((full_size.TwoFaces, "celeba"), (full_size.TwoScenes, "coco")):
        options = cls.Options(root=str(tmp_path / name), cases_per_category=1)
        assert cls.problems(options) == []
        cases = cls(options).cases()
        assert len(cases) == 2
        for case in cases:
            assert case.request.source.size == (512, 512)
            mask = np.asarray(case.request.mask)
            assert 0 < mask.mean() < 255
            assert case.request.source_prompt != case.request.target_prompt


def test_random_weights_give_finite_noise_and_are_repeatable() -> None:
    torch = pytest.importorskip("torch")

    def network() -> object:
        with torch.device("meta"):
            layers = [torch.nn.Conv2d(4, 64, 3), torch.nn.GroupNorm(8, 64), torch.nn.Conv2d(64, 64, 3)]
            return torch.nn.Sequential(*layers)

    first, second = (with_random_weights(network()).float() for _ in range(2))
    pixels = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        out = first(pixels)
        assert torch.equal(out, second(pixels))
    # Neither vanishing nor growing through the layers.
    assert 0.3 < float(out.std()) < 3
