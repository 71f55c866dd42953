from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.edit import CATEGORIES
from protocols.faces import FaceRecord
from protocols.random_faces import random_face_case
from protocols.selection import check_case
from tests.protocols.conftest import face_cases

MakeFace = Callable[..., FaceRecord]


def test_random_cases_are_among_all_cases_and_repeat_with_the_seed(face: MakeFace) -> None:
    record = face()
    all_cases = {case.id: case for case in face_cases(record)}
    drawn = [random_face_case(record, np.random.default_rng(seed)) for seed in range(300)]
    again = [random_face_case(record, np.random.default_rng(seed)) for seed in range(300)]
    ids = [case.id for case in drawn if case is not None]
    assert ids == [case.id for case in again if case is not None]
    assert len(ids) == 300
    for case in drawn:
        assert case is not None
        if case.category == "multi_object":  # of those, a benchmark has one target for each set of kinds
            check_case(case)
        else:
            assert case.request.mask.tobytes() == all_cases[case.id].request.mask.tobytes()
            assert case.request.target_prompt == all_cases[case.id].request.target_prompt
    share = {name: sum(case.category == name for case in drawn if case) / 300 for name in CATEGORIES}
    assert all(0.15 < part < 0.35 for part in share.values())


def test_a_category_can_be_asked_for(face: MakeFace) -> None:
    rng = np.random.default_rng(1)
    for category in CATEGORIES:
        case = random_face_case(face(), rng, category=category)
        assert case is not None
        assert case.category == category
    bare = face(without=["hair", "l_eye", "r_eye", "l_ear", "r_ear", "mouth"])
    assert random_face_case(bare, rng, category="attribute") is None
    case = random_face_case(bare, rng)
    assert case is not None
    assert case.category == "background"
