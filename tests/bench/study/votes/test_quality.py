from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.study.build import build
from bench.study.design import DesignOptions
from bench.study.votes.quality import random_pass

OPTIONS = DesignOptions(raters=4, trials=16, repeats=1, practice=0)


@pytest.mark.parametrize(
    ("attention", "failures", "two_way", "three_way"),
    [
        (3, 1, 4 / 8, 7 / 27),
        (2, 1, 3 / 4, 5 / 9),
        (6, 1, 7 / 64, 13 / 729),
        (6, 0, 1 / 64, 1 / 729),
        (6, None, 1.0, 1.0),
        (2, 2, 1.0, 1.0),
        (0, 0, 1.0, 1.0),
    ],
)
def test_random_raters_pass_as_often_as_the_binomial_distribution_says(
    run_folder: Path, attention: int, failures: int | None, two_way: float, three_way: float
) -> None:
    design = build([run_folder], replace(OPTIONS, attention=attention))
    assert random_pass(design, failures) == pytest.approx(two_way)
    assert random_pass(design, failures, ties=True) == pytest.approx(three_way)
    # Where the study allows no tie, nobody chooses one.
    without = build([run_folder], replace(OPTIONS, attention=attention, ties=False))
    assert random_pass(without, failures, ties=True) == pytest.approx(two_way)


def test_the_best_of_four_is_guessed_once_in_four(run_folder: Path) -> None:
    best = build([run_folder], replace(OPTIONS, attention=2, kinds=("best",), trials=9))
    assert random_pass(best, 0) == pytest.approx(1 / 16)
    # Checks of both kinds in turn: one of each per rater.
    both = build([run_folder], replace(OPTIONS, attention=2, kinds=("pair", "best")))
    assert random_pass(both, 0) == pytest.approx(1 / 2 * 1 / 4)
