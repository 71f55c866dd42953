"""The stored labels of 200 edits: whole, of the cases that they name, and near the rule as it is now."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.perf import eye


@pytest.fixture(scope="module")
def edits() -> list[eye.Labelled]:
    return eye.labelled()


def test_there_are_as_many_edits_of_each_method(edits: list[eye.Labelled]) -> None:
    counts = Counter(edit.method for edit in edits)
    assert len(edits) == eye.COUNT
    assert all(counts[control] == eye.PER_CONTROL for control in eye.ROUND_TRIPS)
    assert len({n for method, n in counts.items() if method not in eye.ROUND_TRIPS}) == 1


def test_the_pictures_belong_to_their_cases(edits: list[eye.Labelled]) -> None:
    for edit in edits:
        if edit.method == "copy_input":
            assert edit.pair.edited.key == edit.pair.source.key
        if edit.method == "oracle":
            assert edit.pair.truth is not None
            assert edit.pair.edited.key == edit.pair.truth.key
            assert edit.succeeds


def test_the_rule_agrees_with_the_labels_better_than_chance(edits: list[eye.Labelled]) -> None:
    """Kappa, which is 0 for a rule that knows nothing of the labels; the two raters reach .89 with each other."""
    verdicts, labels = np.array(eye.verdicts(edits)), np.array([edit.succeeds for edit in edits])
    agree = (verdicts == labels).mean()
    chance = verdicts.mean() * labels.mean() + (1 - verdicts.mean()) * (1 - labels.mean())
    assert (agree - chance) / (1 - chance) > 0.65
