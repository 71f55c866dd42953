"""Sets of stored edits become stored set scores, by category, raw and composited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import scoring
from bench.casefile import protocol_info
from bench.edit import EditCase, EditRecord
from bench.images import composite, to_array
from bench.metrics.features import Features
from bench.metrics.realism import Vgg16Frechet, Vgg16Kid
from bench.metrics.types import SetValue
from bench.store import RunStore
from tests.bench.fakes import Fakes, make_case, noise
from tests.bench.scored import (
    COUNT,
    OTHER,
    SPEC,
    Distance,
    Mean,
    add_edits,
    key,
    real,
    replace_edit,
    scored_run,
)


@pytest.fixture
def cases() -> list[EditCase]:
    return [make_case(index) for index in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path, cases: list[EditCase]) -> Iterator[RunStore]:
    with scored_run(tmp_path / "run", cases) as opened:
        yield opened


class TestSets:
    def test_by_category_raw_and_pasted(self, store: RunStore, cases: list[EditCase]) -> None:
        metric = Distance()
        summary = scoring.score_run(store, [metric], references={"fakes": real})
        frame = store.set_scores().set_index(["metric", "category"])
        assert len(frame) == 2 * 5
        everything = frame.loc[("distance", "all")]
        edited = [to_array(noise(f"{SPEC.digest}{case.id}", 32)).mean() for case in cases]
        reference = np.mean([to_array(image).mean() for image in real()])
        assert everything["value"] == pytest.approx(np.mean(edited) - reference)
        assert everything["n"] == COUNT
        of_two = [edited[i] for i, case in enumerate(cases) if case.category == "background"]
        assert frame.loc[("distance", "background")]["value"] == pytest.approx(np.mean(of_two) - reference)
        pasted = [
            to_array(
                composite(case.request.source, noise(f"{SPEC.digest}{case.id}", 32), case.request.mask)
            ).mean()
            for case in cases
        ]
        assert frame.loc[("distance_pasted", "all")]["value"] == pytest.approx(np.mean(pasted) - reference)
        assert summary.warnings == ["few"]
        assert metric.clusters[0] == [case.source_id for case in cases]

    def test_what_is_scored_is_skipped_until_edits_change(
        self, store: RunStore, cases: list[EditCase]
    ) -> None:
        store.append_edits([EditRecord(key("case-001"), None, None, None, "failed")])
        scoring.score_run(store, [Distance()], references={"fakes": real})
        assert store.set_scores().query("metric == 'distance' and category == 'all'")["n"].item() == COUNT - 1
        idle = Distance()
        assert scoring.score_run(store, [idle], references={"fakes": real}).skipped == 10
        assert idle.sizes == []
        add_edits(store, [cases[1]])
        again = Distance()
        scoring.score_run(store, [again], references={"fakes": real})
        assert (COUNT, 5) in again.sizes
        assert len(again.sizes) == 4, "of the categories, only that of the new edit is computed again"

    def test_a_set_with_a_case_without_a_mask_has_no_composited_value(self, tmp_path: Path) -> None:
        cases = [make_case(0), make_case(1), make_case(2, mask=None)]
        with scored_run(tmp_path / "bare", cases) as store:
            error = "the case has no mask"
            refused = EditRecord(key("case-002", OTHER), None, None, None, error, is_refused=True)
            add_edits(store, cases[:2], OTHER)
            store.append_edits([refused])
            scoring.score_run(store, [Distance()], references={"fakes": real})
            frame = store.set_scores().set_index(["method", "metric", "category"])
            row = frame.loc[(SPEC.digest, "distance_pasted", "all")]
            assert (row["reason"], row["n"], row["failed"]) == ("the case has no mask", 0, 0)
            assert frame.loc[(SPEC.digest, "distance", "all")]["n"] == 3
            # A category whose cases all have masks keeps its value, and a refusal is no failure.
            assert frame.loc[(SPEC.digest, "distance_pasted", cases[1].category)]["n"] == 1
            assert frame.loc[(OTHER.digest, "distance", "all")][["n", "failed"]].tolist() == [2, 0]

    def test_without_real_images_there_is_no_value(self, store: RunStore) -> None:
        scoring.score_run(store, [Distance()])
        frame = store.set_scores()
        assert frame["value"].isna().all()
        assert set(frame["reason"]) == {"no real images were given for this protocol"}
        scoring.score_run(store, [Distance()], references={"fakes": real})
        assert store.set_scores()["value"].notna().all()

    def test_a_real_one_end_to_end(self, store: RunStore) -> None:
        features = Features()
        scoring.score_run(store, [Vgg16Frechet(features)], features=features, references={"fakes": real})
        frame = store.set_scores()
        assert set(frame["metric"]) == {"vgg16_frechet", "vgg16_frechet_pasted"}
        everything = frame[frame["category"] == "all"]
        assert (everything["value"] > 0).all()

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 12])
    def test_few_edits_have_a_value_or_a_reason(self, tmp_path: Path, count: int) -> None:
        """As runs of a small ``limit`` have: n edits of n / 2 sources, and less in each category."""
        features = Features()
        few = [make_case(index) for index in range(count)]
        with RunStore.open(tmp_path / "few", create=True) as run:
            info = protocol_info(Fakes(Fakes.Options(count=count)))
            run.configure(protocols={"fakes": info}, methods=[SPEC])
            run.write_cases(few, info)
            add_edits(run, few)
            metrics = [Vgg16Frechet(features), Vgg16Kid(features)]
            scoring.score_run(run, metrics, features=features, references={"fakes": real})
            rows = run.set_scores().to_dict("records")
        assert {row["metric"] for row in rows} >= {"vgg16_frechet", "vgg16_kid", "vgg16_kid_pasted"}
        for row in rows:
            sources = {case.source_id for case in few if row["category"] in ("all", case.category)}
            assert (row["value"] == row["value"]) == (row["n"] >= 2)
            assert (row["low"] == row["low"]) == (len(sources) >= 4)
            if row["n"] < 2:
                assert row["reason"].startswith("too few images: 1 edited")
            elif len(sources) < 4:
                assert f"no interval: {len(sources)} source" in row["warning"]

    def test_an_error_is_a_reason(self, store: RunStore) -> None:
        class Broken(Distance):
            def score_set(self, edited: Any, reference: Any, clusters: Any = None) -> SetValue:
                raise ZeroDivisionError("none")

        scoring.score_run(store, [Broken()], references={"fakes": real})
        assert set(store.set_scores()["reason"]) == {"error: ZeroDivisionError: none"}

    def test_real_images_that_cannot_be_read_are_a_reason_and_tried_again(self, store: RunStore) -> None:
        def broken() -> Iterator[Any]:
            yield from real()
            raise ValueError("3.jpg: truncated")

        scoring.score_run(store, [Mean(), Distance()], references={"fakes": broken})
        frame = store.set_scores()
        assert set(frame["reason"]) == {"error: the real images cannot be read: 3.jpg: truncated"}
        assert frame["value"].isna().all()
        assert store.scores()["value"].notna().any()
        scoring.score_run(store, [Distance()], references={"fakes": real})
        assert store.set_scores()["value"].notna().all()

    def test_set_scores_of_other_edits_count_no_more(self, store: RunStore) -> None:
        scoring.score_run(store, [Distance()], references={"fakes": real})
        replace_edit(store, "case-002", 51)
        assert set(store.set_scores()["category"]) == {"attribute", "replacement", "multi_object"}
        assert len(store.set_scores(stale=True)) == 10
        scoring.score_run(store, [Distance()], references={"fakes": real})
        assert len(store.set_scores()) == 10


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (3.5, "error: TypeError: it gave a float, where a SetValue is expected"),
        (SetValue("high", 8, 5), "error: TypeError: value, low or high is no float"),  # type: ignore[arg-type]
        (SetValue(10**400, 8, 5), "error: TypeError: value, low or high is too large to be stored"),
        (SetValue(1.0, None, 5), "error: TypeError: n or n_reference is no whole number"),  # type: ignore[arg-type]
        (SetValue(None, 8, 5, reason=5), "error: TypeError: reason or warning is no text"),  # type: ignore[arg-type]
    ],
)
def test_a_set_metric_that_answers_otherwise_has_the_reason(
    store: RunStore, answer: Any, reason: str
) -> None:
    class Odd(Distance):
        def score_set(self, edited: Any, reference: Any, clusters: Any = None) -> Any:
            return answer

    scoring.score_run(store, [Odd()], references={"fakes": real})
    assert set(store.set_scores()["reason"]) == {reason}
