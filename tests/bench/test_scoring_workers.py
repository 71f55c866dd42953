"""Scores of workers equal those of one process, and the driver alone stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.metrics.feature_cache import FeatureCache
from bench.metrics.types import Metric, SetMetric
from bench.scoring import score_run
from bench.scoring_workers import ScoringWorkers
from bench.store import RunStore
from bench.stored_pairs import ScoringOptions
from bench.workers import Workers, open_workers
from tests.bench.fakes import make_case
from tests.bench.scored import SPEC, Mean, real, scored_run
from tests.bench.workers import scored_colours

OPTIONS = ScoringOptions(chunk=3)
CASES = [make_case(index) for index in range(10)]
SCORE = ["protocol", "method", "case", "seed", "metric", "value", "reason"]


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    workers = open_workers(devices=["cpu", "cpu"])
    assert workers is not None
    with workers:
        yield workers


def score(
    folder: Path, workers: Workers | None, *classes: Callable[..., Metric | SetMetric]
) -> tuple[RunStore, dict[str, int]]:
    with scored_run(folder / "run", CASES) as store:
        features = scored_colours.make_features("cpu", folder / "features")
        metrics = [cls(features) if cls is not Mean else cls() for cls in classes]
        in_workers = workers and ScoringWorkers(workers, metrics, features, scored_colours.make_features)
        summary = score_run(
            store, metrics, features=features, references={"fakes": real}, options=OPTIONS, workers=in_workers
        )
    return store, dict(summary.missing)


def test_scores_sets_and_features_equal_those_of_one_process(two: Workers, tmp_path: Path) -> None:
    classes = (scored_colours.Redness, Mean, scored_colours.ColourDistance)
    here, _ = score(tmp_path / "here", None, *classes)
    scored_colours.COMPUTED.clear()
    there, missing = score(tmp_path / "there", two, *classes)
    assert scored_colours.COMPUTED == [], "the driver computes nothing"
    assert missing == {}
    assert len(there.scores()) == 40
    assert there.scores()[SCORE].equals(here.scores()[SCORE])
    assert there.set_scores().equals(here.set_scores())
    assert there.set_scores()["value"].notna().all()
    # The driver has written the features of all images.
    keys: list[str] = []
    rows = []
    for folder in ("here", "there"):
        cache = FeatureCache(tmp_path / folder / "features")
        keys = keys or sorted(cache._space("colours"))
        rows.append(cache.remembered("colours", keys))
    assert len(keys) > 20
    assert np.array_equal(*rows)
    assert len(list((tmp_path / "there" / "features").rglob("*.npz"))) >= 1


def test_an_edit_that_ends_its_worker_loses_its_own_score_alone(two: Workers, tmp_path: Path) -> None:
    expected, _ = score(tmp_path / "here", None, scored_colours.Redness)
    store, missing = score(tmp_path / "there", two, scored_colours.Deadly)
    values = store.scores().set_index(["case", "metric"])["value"]
    redness = expected.scores().set_index(["case", "metric"])["value"]
    for case in CASES:
        for suffix in ("", "_pasted"):
            value = values[case.id, f"deadly{suffix}"]
            assert np.isnan(value) if case.id == "case-004" else value == redness[case.id, f"redness{suffix}"]
    (reason,) = missing
    assert reason.startswith("error: the worker process on cpu ended (SIGKILL), 3 times, while it worked on")
    assert SPEC.digest in set(store.scores()["method"])


def test_features_that_are_here_stay() -> None:
    cache, other = FeatureCache(None), FeatureCache(None)
    ones, twos = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    cache.get("s", ["a", "b"], [0, 0], lambda missing: ones)
    other.get("s", ["b", "c"], [0, 0], lambda missing: twos)
    cache.add(other.take())
    assert cache.remembered("s", ["a", "b", "c"])[:, 0].tolist() == [1, 1, 2]
    assert other.missing("s", ["b", "c"]) == {"b", "c"}
