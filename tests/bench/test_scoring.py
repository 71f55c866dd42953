"""Stored edits become stored scores: each once, none lost, none invented."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench import scoring
from bench.edit import EditCase, EditRecord, ScoredAreas
from bench.images import composite, from_array, mask_array, mask_image, to_array
from bench.metrics import METRICS, NoValue, Pair
from bench.metrics.features import Features
from bench.metrics.leakage import EditArea, LeakMse
from bench.metrics.types import MetricError, RgbImage
from bench.registry import Registry
from bench.store import RunStore
from tests.bench.fakes import make_case, noise
from tests.bench.scored import COUNT, OTHER, SPEC, Mean, add_edits, by_case, key, replace_edit, scored_run


@pytest.fixture
def cases() -> list[EditCase]:
    return [make_case(index) for index in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path, cases: list[EditCase]) -> Iterator[RunStore]:
    with scored_run(tmp_path / "run", cases) as opened:
        yield opened


class TestSingles:
    def test_values_raw_and_pasted(self, store: RunStore, cases: list[EditCase]) -> None:
        summary = scoring.score_run(store, [Mean()])
        raw, pasted = by_case(store, "mean"), by_case(store, "mean_pasted")
        for case in cases:
            edited = noise(f"{SPEC.digest}{case.id}", 32)
            back = composite(case.request.source, edited, case.request.mask)
            assert raw[case.id] == pytest.approx(to_array(edited).mean() / 255, rel=1e-12)
            assert pasted[case.id] == pytest.approx(to_array(back).mean() / 255, rel=1e-12)
        assert (summary.scored, summary.skipped, summary.missing) == (2 * COUNT, 0, {})

    def test_without_a_mask_whole_images_are_scored_and_the_rest_has_the_reason(self, tmp_path: Path) -> None:
        cases = [make_case(0), make_case(1, mask=None, regions=())]
        with scored_run(tmp_path / "bare", cases) as store:
            scoring.score_run(store, [Mean(), LeakMse(Features()), EditArea(Features())])
            assert isinstance(by_case(store, "mean")["case-001"], float)
            for name in ("mean_pasted", "leak_mse", "edit_area"):
                values = by_case(store, name)
                assert isinstance(values["case-000"], float)
                assert values["case-001"] == "the case has no mask"

    def test_a_scored_mask_is_scored_though_the_method_got_none(self, tmp_path: Path) -> None:
        whole = make_case(0)
        hidden = replace(make_case(0, mask=None, regions=()), scored=ScoredAreas(whole.request.needed_mask))
        edited = RgbImage.of(noise("edit", 32))
        pairs = [Pair.of_case(case, edited) for case in (whole, hidden)]
        one, other = (LeakMse(Features()).score([pair])[0] for pair in pairs)
        assert one == other
        assert pairs[0].composite().key == pairs[1].composite().key

    def test_what_is_scored_is_skipped(self, store: RunStore, cases: list[EditCase]) -> None:
        scoring.score_run(store, [Mean()])
        again = Mean()
        summary = scoring.score_run(store, [again])
        assert (again.total, summary.scored, summary.skipped) == (0, 0, 2 * COUNT)
        add_edits(store, cases, OTHER)
        more = Mean()
        summary = scoring.score_run(store, [more])
        assert (more.total, summary.scored, summary.skipped) == (2 * COUNT, 2 * COUNT, 2 * COUNT)

    def test_edits_that_are_gone_are_counted_though_their_scores_are_there(self, store: RunStore) -> None:
        scoring.score_run(store, [Mean()])
        for record in list(store.edits())[:2]:
            (store.path / str(record.file)).unlink()
        summary = scoring.score_run(store, [Mean()])
        assert [text[:32] for text in summary.warnings] == ["2 edits have no file any more (s"]

    def test_cut_prompts_are_counted(self, store: RunStore) -> None:
        features = Features()
        prompts = ["short", "long " * 80, "longer " * 90]

        class Reads(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                cut = features.clip_cuts("clip", [prompts[int(pair.case[-1]) % 3] for pair in pairs])
                return [NoValue("cut") if is_cut else 1.0 for is_cut in cut]

        summary = scoring.score_run(store, [Reads()], features=features)
        assert summary.missing == {"cut": 2 * 5}  # cases 1, 2, 4, 5 and 7, raw and pasted
        (warning,) = summary.warnings
        assert warning.startswith("clip: 2 of 3 prompts are longer than the 77 tokens that it reads")
        assert scoring.score_run(store, [Reads()], features=Features()).warnings == []

    def test_a_new_version_is_scored_again(self, store: RunStore) -> None:
        scoring.score_run(store, [Mean()])
        newer = Mean()
        newer.version = "2"
        scoring.score_run(store, [newer])
        assert newer.total == 2 * COUNT
        assert set(store.scores()["metric_version"]) == {"2"}

    def test_an_interrupted_run_resumes(self, store: RunStore) -> None:
        class Dying(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                if len(self.batches) == 4:
                    raise KeyboardInterrupt
                return super().score(pairs)

        options = scoring.ScoringOptions(chunk=2, save_every=2)
        with pytest.raises(KeyboardInterrupt):
            scoring.score_run(store, [Dying()], options=options)
        before = len(store.scores())
        assert 0 < before < 2 * COUNT
        rest = Mean()
        scoring.score_run(store, [rest], options=options)
        assert rest.total == 2 * COUNT - before
        whole = by_case(store, "mean")
        assert len(whole) == COUNT

    def test_chunks_do_not_matter(self, store: RunStore, tmp_path: Path) -> None:
        scoring.score_run(store, [Mean()], options=scoring.ScoringOptions(chunk=1, save_every=3))
        small = by_case(store, "mean")
        newer = Mean()
        newer.version = "2"
        scoring.score_run(store, [newer], options=scoring.ScoringOptions(chunk=1000, workers=1))
        assert by_case(store, "mean") == small
        assert [len(batch) for batch in newer.batches] == [COUNT, COUNT]

    def test_edits_of_one_source_come_together(self, store: RunStore, cases: list[EditCase]) -> None:
        add_edits(store, cases, OTHER)
        metric = Mean()
        scoring.score_run(store, [metric], options=scoring.ScoringOptions(chunk=4))
        sources = {case.id: case.source_id for case in cases}
        for batch in metric.batches:
            assert len({sources[case] for case in batch}) == 1

    def test_progress(self, store: RunStore) -> None:
        calls: list[Any] = []

        class Watch:
            def start(self, total: int, label: str) -> None:
                calls.append(total)

            def advance(self, steps: int = 1) -> None:
                calls.append(steps)

            def note(self, message: str) -> None: ...

            def stop(self) -> None:
                calls.append("stop")

        scoring.score_run(store, [Mean()], options=scoring.ScoringOptions(chunk=3), progress=Watch())
        assert calls[0] == COUNT == sum(calls[1:-1])
        assert calls[-1] == "stop"


def without_hashes(store: RunStore) -> None:
    """The scores as earlier versions stored them: without the SHA-256 of the edit."""
    import pandas as pd

    for part in (store.path / "scores").glob("part-*.parquet"):
        pd.read_parquet(part).drop(columns="edit").to_parquet(part)


class TestEditsMadeAgain:
    def test_the_scores_of_a_replaced_edit_count_no_more(self, store: RunStore) -> None:
        scoring.score_run(store, [Mean()])
        before = by_case(store, "mean")
        replace_edit(store, "case-002", 51)
        assert by_case(store, "mean") == {case: v for case, v in before.items() if case != "case-002"}
        again = Mean()
        summary = scoring.score_run(store, [again])
        assert again.batches == [["case-002"], ["case-002"]]
        assert (summary.scored, summary.skipped) == (2, 2 * COUNT - 2)
        assert by_case(store, "mean") == {**before, "case-002": pytest.approx(0.2)}
        rows = store.scores().query("case == 'case-002'")
        assert set(rows["edit"]) == {next(r.sha256 for r in store.edits() if r.key.case == "case-002")}

    def test_an_edit_that_failed_the_second_time_has_no_score(self, store: RunStore) -> None:
        scoring.score_run(store, [Mean()])
        store.append_edits([EditRecord(key("case-002"), None, None, None, "out of luck")])
        assert "case-002" not in by_case(store, "mean")
        scoring.score_run(store, [Mean()])
        assert by_case(store, "mean")["case-002"] == "no edit: out of luck"
        idle = Mean()
        scoring.score_run(store, [idle])
        assert idle.batches == []

    def test_the_same_picture_again_keeps_its_scores(self, store: RunStore, cases: list[EditCase]) -> None:
        scoring.score_run(store, [Mean()])
        before = by_case(store, "mean")
        replace_edit(store, "case-002", 51)
        scoring.score_run(store, [Mean()])
        add_edits(store, [cases[2]])
        assert by_case(store, "mean") == before

    def test_merged_score_files_know_their_edits(
        self, store: RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.store.scores._MANY_FILES", 1)
        scoring.score_run(store, [Mean()])
        without_hashes(store)
        replace_edit(store, "case-002", 51)
        scoring.score_run(store, [Mean()])
        assert len(list((store.path / "scores").iterdir())) == 1
        values = by_case(store, "mean")
        assert values["case-002"] == pytest.approx(0.2)
        assert len(values) == COUNT

    def test_scores_without_a_hash_judge_the_only_edit_of_the_log(
        self, store: RunStore, cases: list[EditCase]
    ) -> None:
        store.append_edits([EditRecord(key("case-001"), None, None, None, "out of luck")])
        add_edits(store, [cases[1]])
        scoring.score_run(store, [Mean()])
        before = by_case(store, "mean")
        without_hashes(store)
        assert by_case(store, "mean") == before
        idle = Mean()
        scoring.score_run(store, [idle])
        assert idle.batches == []
        # Two pictures in the log: nobody knows which one the old scores judge.
        replace_edit(store, "case-002", 51)
        assert set(before) - set(by_case(store, "mean")) == {"case-002"}
        add_edits(store, [cases[2]])
        assert "case-002" not in by_case(store, "mean")


class TestNoValue:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (float("nan"), "not a finite number (nan)"),
            (float("-inf"), "not a finite number (-inf)"),
            (None, "the metric gave no value"),
            (NoValue("why not"), "why not"),
            ("high", "error: not a number ('high')"),
            (10**400, "error: a number too large to be stored"),
            ([1.0], "error: not a number (a list)"),
            (NoValue(5), "error: NoValue without a text that says why"),  # type: ignore[arg-type]
            (NoValue(""), "error: NoValue without a text that says why"),
            (np.float32(0.5), 0.5),
            (True, 1.0),
        ],
    )
    def test_what_a_metric_may_say(self, store: RunStore, value: Any, reason: Any) -> None:
        class Says(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return [value for _ in pairs]

        summary = scoring.score_run(store, [Says()])
        assert set(by_case(store, "mean").values()) == {reason}
        frame = store.scores()
        assert (frame["value"].isna() == frame["reason"].notna()).all()
        assert sum(summary.missing.values()) == (2 * COUNT if isinstance(reason, str) else 0)

    def test_one_bad_edit_costs_one_value(self, store: RunStore) -> None:
        class Picky(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                if any(pair.case == "case-003" for pair in pairs):
                    raise ZeroDivisionError("no such chair")
                return super().score(pairs)

        scoring.score_run(store, [Picky()])
        values = by_case(store, "mean")
        assert values.pop("case-003") == "error: ZeroDivisionError: no such chair"
        assert all(isinstance(value, float) for value in values.values())
        assert len(values) == COUNT - 1

    def test_a_metric_cannot_end_the_program(self, store: RunStore) -> None:
        class Exits(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                sys.exit(0)

        scoring.score_run(store, [Exits()])
        assert set(by_case(store, "mean").values()) == {"error: SystemExit: 0"}

    def test_errors_are_tried_again_and_reasons_are_not(self, store: RunStore) -> None:
        class Broken(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                raise OSError("the network is down")

        class Silent(Mean):
            name = "silent"

            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                self.batches.append([])
                return [NoValue("there is nothing to see")] * len(pairs)

        scoring.score_run(store, [Broken(), Silent()])
        mended, silent = Mean(), Silent()
        scoring.score_run(store, [mended, silent])
        assert mended.total == 2 * COUNT
        assert silent.batches == []
        assert all(isinstance(value, float) for value in by_case(store, "mean").values())

    def test_a_wrong_number_of_values(self, store: RunStore) -> None:
        class Short(Mean):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return []

        scoring.score_run(store, [Short()])
        assert set(by_case(store, "mean").values()) == {"error: ValueError: 0 values for 1 edits"}

    def test_failed_edits_have_a_reason_until_they_are_there(
        self, store: RunStore, cases: list[EditCase]
    ) -> None:
        store.append_edits([EditRecord(key("case-002"), None, None, None, "out of luck")])
        scoring.score_run(store, [Mean()])
        assert by_case(store, "mean")["case-002"] == "no edit: out of luck"
        idle = Mean()
        scoring.score_run(store, [idle])
        assert idle.total == 0
        add_edits(store, [cases[2]])
        scoring.score_run(store, [idle])
        assert idle.batches == [["case-002"], ["case-002"]]
        assert isinstance(by_case(store, "mean")["case-002"], float)

    def test_a_file_that_is_gone_or_altered(self, store: RunStore, cases: list[EditCase]) -> None:
        records = {record.key.case: record for record in store.edits()}
        store.image_path(records["case-001"]).unlink()
        store.image_path(records["case-004"]).write_bytes(b"other")
        scoring.score_run(store, [Mean()])
        values = by_case(store, "mean")
        assert values["case-001"].startswith("no edit: ")
        assert "not the file that was recorded" in values["case-004"]
        add_edits(store, [cases[1], cases[4]])
        scoring.score_run(store, [Mean()])
        assert all(isinstance(value, float) for value in by_case(store, "mean").values())

    def test_a_case_that_lacks_what_the_metric_needs(self, store: RunStore) -> None:
        class Needy(Mean):
            needs = frozenset({"instruction", "regions"})

        metric = Needy()
        scoring.score_run(store, [metric])
        values = by_case(store, "mean")
        assert values["case-000"] == "the case has no regions"
        assert isinstance(values["case-003"], float)
        assert {case for batch in metric.batches for case in batch} == {"case-003", "case-007"}

    def test_an_edit_of_another_size(self, store: RunStore, cases: list[EditCase]) -> None:
        file = store.edit_file("fakes", SPEC, "case-000")
        store.append_edits([EditRecord(key("case-000"), file, store.write_edit(file, noise("x", 16)), 0.1)])
        scoring.score_run(store, [Mean()])
        assert "sizes differ" in by_case(store, "mean")["case-000"]


class TestOutcomes:
    def test_a_declared_outcome_is_yes_or_no(self) -> None:
        """``unit = "0/1"`` is a promise: what breaks it is no value, with the reason."""

        class Half(Mean):
            unit = "0/1"

            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return [0.0, 1, 0.5, True][: len(pairs)]

        case = make_case(0)
        pairs = [Pair.of_case(case, RgbImage.of(case.request.source))] * 4
        values = scoring.compute(Half(), pairs)
        assert [value for value, _ in values] == [0.0, 1.0, None, 1.0]
        assert values[2][1] is not None
        assert "0.5" in values[2][1]
        assert "0/1" in values[2][1]

    def test_how_much_changed_has_no_direction(self) -> None:
        """The method that changes most is not the best one: Blended Diffusion's noise would lead."""
        from bench.metrics import METRICS, info_of
        from bench.registry import Registry

        assert info_of(Registry("metric", METRICS).load("edit_change")).higher_is_better is None


class TestPair:
    names: ClassVar[list[str]] = ["leak_mse", "leak_psnr", "edit_change"]

    def test_known_values(self) -> None:
        source = np.full((64, 64, 3), 100, np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[20:40, 20:40] = True
        edited = np.where(mask[..., None], source + np.uint8(51), source)
        images = from_array(source), from_array(edited), mask_image(mask)
        values = scoring.score_pair(*images, features=Features(), names=self.names)
        assert list(values) == self.names
        assert values["leak_mse"].value == 0
        assert values["edit_change"].value == pytest.approx(0.2)
        assert values["leak_psnr"].unit == "dB"
        assert values["leak_psnr"].higher_is_better

    def test_by_default_all_that_can_be_computed(self) -> None:
        case = make_case(0, 64)
        request = case.request
        images = request.source, noise("edited", 64), request.mask
        values = scoring.score_pair(*images, features=Features(), registry=Registry("metric", METRICS, ""))
        assert {"leak_lpips", "leak_lpips_vgg", "leak_ssim", "edit_change"} <= set(values)
        assert all(score.value is not None for score in values.values())
        assert not any("frechet" in name or "clip" in name for name in values)

    def test_a_full_mask_has_reasons(self) -> None:
        image = noise("x", 64)
        full = mask_image(np.ones((64, 64), bool))
        values = scoring.score_pair(image, noise("y", 64), full, features=Features(), names=["leak_mse"])
        assert values["leak_mse"].value is None
        assert "outside" in str(values["leak_mse"].reason)
        assert mask_array(full).all()

    def test_what_it_refuses(self) -> None:
        image, mask = noise("x", 64), make_case(0, 64).request.mask
        with pytest.raises(MetricError, match="sizes differ"):
            scoring.score_pair(image, noise("y", 32), mask, features=Features(), names=["leak_mse"])
        with pytest.raises(MetricError, match="no value for one pair"):
            scoring.score_pair(image, image, mask, features=Features(), names=["vgg16_frechet"])
