from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.edit import CATEGORIES
from protocols.random_scenes import random_scene_case
from protocols.scenes import MINI_SCENES, SceneRecord
from protocols.selection import check_case
from tests.protocols.conftest import scene_cases

MakeScene = Callable[..., SceneRecord]
CAR = ("red", "car", (4, 30, 30, 50))
CUP = ("blue", "cup", (40, 34, 56, 52))
UMBRELLA = ("orange", "umbrella", (32, 4, 52, 20))
CAPTION = "A red car, a blue cup and an orange umbrella on a beach."


def test_random_cases_are_sound_and_repeat_with_the_seed(scene: MakeScene) -> None:
    record = scene([CAR, CUP, UMBRELLA], [CAPTION])
    cases = []
    for seed in range(200):
        case = random_scene_case(record, np.random.default_rng(seed), MINI_SCENES)
        again = random_scene_case(record, np.random.default_rng(seed), MINI_SCENES)
        assert case is not None
        assert again is not None
        check_case(case)
        assert case.id == again.id
        cases.append(case)
    share = {name: sum(case.category == name for case in cases) / len(cases) for name in CATEGORIES}
    assert all(0.15 < part < 0.35 for part in share.values())
    by_id = {case.id: case for case in scene_cases(record, MINI_SCENES)}
    for case in cases:
        if case.category != "multi_object":
            assert case.request.mask.tobytes() == by_id[case.id].request.mask.tobytes()


def test_a_category_without_an_edit_gives_none(scene: MakeScene) -> None:
    record = scene([CAR], ["many cars"])
    rng = np.random.default_rng(0)
    assert random_scene_case(record, rng, MINI_SCENES, "attribute") is None
    case = random_scene_case(record, rng, MINI_SCENES)
    assert case is not None
    assert case.category == "background"
