"""Stored edits become stored scores: each once, none lost, none invented."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from bench import scoring
from bench.casefile import protocol_info
from bench.edit import EditCase, EditKey, EditRecord, MethodSpec
from bench.images import from_array, mask_array, mask_image, paste_back, to_array
from bench.metrics import METRICS, NoValue, Pair
from bench.metrics.features import Features
from bench.metrics.realism import Vgg16Frechet, Vgg16Kid
from bench.metrics.types import Metric, MetricError, RgbImage, SetMetric, SetValue
from bench.registry import PluginError, Registry
from bench.store import RunStore
from tests.bench.fakes import Fakes, make_case, noise

COUNT = 8
SPEC = MethodSpec("fake")
OTHER = MethodSpec("fake", {"strength": 0.5})


class Mean(Metric):
    """A third-party metric, as the documentation shows it, that writes down what it is asked."""

    name = "mean"
    version = "1"
    unit = "0..1"
    higher_is_better = True
    needs: frozenset[str] = frozenset()
    summary = "mean of the edited image"
    composited = True

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def score(self, pairs: Sequence[Pair]) -> list[Any]:
        self.asked.append([pair.case for pair in pairs])
        return [float(pair.edited.pixels.mean()) / 255 for pair in pairs]

    @property
    def total(self) -> int:
        return sum(map(len, self.asked))


def key(case: str, method: MethodSpec = SPEC) -> EditKey:
    return EditKey("fakes", "1", method.digest, case, 0)


def add_edits(store: RunStore, cases: Sequence[EditCase], method: MethodSpec = SPEC) -> None:
    records = []
    for case in cases:
        file = store.edit_file("fakes", method, case.id)
        sha256 = store.write_edit(file, noise(f"{method.digest}{case.id}", 32))
        records.append(EditRecord(key(case.id, method), file, sha256, 0.1))
    store.append_edits(records)


@pytest.fixture
def cases() -> list[EditCase]:
    return [make_case(index) for index in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path, cases: list[EditCase]) -> Iterator[RunStore]:
    with RunStore.open(tmp_path / "run", create=True) as opened:
        protocol = Fakes(Fakes.Options(count=COUNT))
        info = protocol_info(protocol)
        opened.configure(seed=0, protocols={"fakes": info}, methods=[SPEC, OTHER])
        opened.write_cases(cases, info)
        add_edits(opened, cases)
        yield opened


def by_case(store: RunStore, metric: str, method: MethodSpec = SPEC) -> dict[str, Any]:
    frame = store.scores()
    frame = frame[(frame["metric"] == metric) & (frame["method"] == method.digest)]
    return {
        row["case"]: row["value"] if row["value"] == row["value"] else row["reason"]
        for row in frame.to_dict("records")
    }


class TestSingles:
    def test_values_raw_and_pasted(self, store: RunStore, cases: list[EditCase]) -> None:
        summary = scoring.score_run(store, [Mean()])
        raw, pasted = by_case(store, "mean"), by_case(store, "mean_pasted")
        for case in cases:
            edited = noise(f"{SPEC.digest}{case.id}", 32)
            back = paste_back(case.request.source, edited, case.request.mask)
            assert raw[case.id] == pytest.approx(to_array(edited).mean() / 255, rel=1e-12)
            assert pasted[case.id] == pytest.approx(to_array(back).mean() / 255, rel=1e-12)
        assert (summary.scored, summary.skipped, summary.missing) == (2 * COUNT, 0, {})

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
        assert [text[:32] for text in summary.warnings] == ["2 edits are no longer there (edi"]

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
                if len(self.asked) == 4:
                    raise KeyboardInterrupt
                return super().score(pairs)

        options = scoring.ScoringOptions(chunk=2, save_every=2)
        with pytest.raises(KeyboardInterrupt):
            scoring.score_run(store, [Dying()], options=options)
        kept = len(store.scores())
        assert 0 < kept < 2 * COUNT
        rest = Mean()
        scoring.score_run(store, [rest], options=options)
        assert rest.total == 2 * COUNT - kept
        whole = by_case(store, "mean")
        assert len(whole) == COUNT

    def test_chunks_do_not_matter(self, store: RunStore, tmp_path: Path) -> None:
        scoring.score_run(store, [Mean()], options=scoring.ScoringOptions(chunk=1, save_every=3))
        small = by_case(store, "mean")
        newer = Mean()
        newer.version = "2"
        scoring.score_run(store, [newer], options=scoring.ScoringOptions(chunk=1000, workers=1))
        assert by_case(store, "mean") == small
        assert [len(batch) for batch in newer.asked] == [COUNT, COUNT]

    def test_edits_of_one_source_come_together(self, store: RunStore, cases: list[EditCase]) -> None:
        add_edits(store, cases, OTHER)
        metric = Mean()
        scoring.score_run(store, [metric], options=scoring.ScoringOptions(chunk=4))
        sources = {case.id: case.source_id for case in cases}
        for batch in metric.asked:
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


def replace_edit(store: RunStore, case: str, level: int) -> None:
    """The edit made again, with another picture: one gray level."""
    file = store.edit_file("fakes", SPEC, case)
    sha256 = store.write_edit(file, from_array(np.full((32, 32, 3), level, np.uint8)))
    store.append_edits([EditRecord(key(case), file, sha256, 0.1)])


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
        assert again.asked == [["case-002"], ["case-002"]]
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
        assert idle.asked == []

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
        found = by_case(store, "mean")
        assert found["case-002"] == pytest.approx(0.2)
        assert len(found) == COUNT

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
        assert idle.asked == []
        # Two pictures in the log: nobody knows which one the old scores judge.
        replace_edit(store, "case-002", 51)
        assert set(before) - set(by_case(store, "mean")) == {"case-002"}
        add_edits(store, [cases[2]])
        assert "case-002" not in by_case(store, "mean")

    def test_set_scores_of_other_edits_count_no_more(self, store: RunStore) -> None:
        scoring.score_run(store, [Distance()], references={"fakes": real})
        replace_edit(store, "case-002", 51)
        assert set(store.set_scores()["category"]) == {"attribute", "replacement", "multi_object"}
        assert len(store.set_scores(stale=True)) == 10
        scoring.score_run(store, [Distance()], references={"fakes": real})
        assert len(store.set_scores()) == 10


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
        found = by_case(store, "mean")
        assert found.pop("case-003") == "error: ZeroDivisionError: no such chair"
        assert all(isinstance(value, float) for value in found.values())
        assert len(found) == COUNT - 1

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
                self.asked.append([])
                return [NoValue("there is nothing to see")] * len(pairs)

        scoring.score_run(store, [Broken(), Silent()])
        mended, silent = Mean(), Silent()
        scoring.score_run(store, [mended, silent])
        assert mended.total == 2 * COUNT
        assert silent.asked == []
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
        assert idle.asked == [["case-002"], ["case-002"]]
        assert isinstance(by_case(store, "mean")["case-002"], float)

    def test_a_file_that_is_gone_or_altered(self, store: RunStore, cases: list[EditCase]) -> None:
        records = {record.key.case: record for record in store.edits()}
        store.image_path(records["case-001"]).unlink()
        store.image_path(records["case-004"]).write_bytes(b"other")
        scoring.score_run(store, [Mean()])
        found = by_case(store, "mean")
        assert found["case-001"].startswith("no edit: ")
        assert "not the file that was recorded" in found["case-004"]
        add_edits(store, [cases[1], cases[4]])
        scoring.score_run(store, [Mean()])
        assert all(isinstance(value, float) for value in by_case(store, "mean").values())

    def test_a_case_that_lacks_what_the_metric_needs(self, store: RunStore) -> None:
        class Needy(Mean):
            needs = frozenset({"instruction", "regions"})

        metric = Needy()
        scoring.score_run(store, [metric])
        found = by_case(store, "mean")
        assert found["case-000"] == "the case has no regions"
        assert isinstance(found["case-003"], float)
        assert {case for batch in metric.asked for case in batch} == {"case-003", "case-007"}

    def test_an_edit_of_another_size(self, store: RunStore, cases: list[EditCase]) -> None:
        file = store.edit_file("fakes", SPEC, "case-000")
        store.append_edits([EditRecord(key("case-000"), file, store.write_edit(file, noise("x", 16)), 0.1)])
        scoring.score_run(store, [Mean()])
        assert "sizes differ" in by_case(store, "mean")["case-000"]


class Distance(SetMetric):
    """A metric of sets: the difference of the means."""

    name = "distance"
    version = "1"
    unit = "0..255"
    higher_is_better = False
    summary = "difference of the means"
    composited = True

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.clusters: list[list[str]] = []

    def score_set(self, edited: Any, reference: Any, clusters: Any = None) -> SetValue:
        self.sizes.append((len(edited), len(reference)))
        self.clusters.append(list(clusters))
        means = [np.mean([p.pixels.mean() for p in side]) if side else 0.0 for side in (edited, reference)]
        return SetValue(float(means[0] - means[1]), len(edited), len(reference), warning="few")


def real() -> Iterator[Any]:
    return iter([noise(f"real{i}", 32) for i in range(5)])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (3.5, "error: TypeError: it gave a float, where a SetValue is due"),
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


class TestOutcomes:
    def test_a_declared_outcome_is_yes_or_no(self) -> None:
        """``unit = "0/1"`` is a promise: what breaks it is no value, with the reason."""

        class Half(Mean):
            unit = "0/1"

            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return [0.0, 1, 0.5, True][: len(pairs)]

        case = make_case(0)
        pairs = [Pair.of_case(case, RgbImage.of(case.request.source))] * 4
        found = scoring.compute(Half(), pairs)
        assert [value for value, _ in found] == [0.0, 1.0, None, 1.0]
        assert found[2][1] is not None
        assert "0.5" in found[2][1]
        assert "0/1" in found[2][1]

    def test_how_much_changed_has_no_direction(self) -> None:
        """The method that changes most is not the best one: Blended Diffusion's noise would lead."""
        from bench.metrics import METRICS, info_of
        from bench.registry import Registry

        assert info_of(Registry("metric", METRICS).load("edit_change")).higher_is_better is None


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
                paste_back(case.request.source, noise(f"{SPEC.digest}{case.id}", 32), case.request.mask)
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
            run.configure(seed=0, protocols={"fakes": info}, methods=[SPEC])
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


class TestChoice:
    def test_embedded_metrics_stand_in_under_their_own_names(self) -> None:
        """Nothing published is on this machine but LPIPS; no embedded CLIP and no reader are given."""
        features = Features()
        choice = scoring.choose_metrics(features, known=Registry("metric", METRICS, ""))
        assert "vgg16_frechet" in choice.names or "fid" in choice.names
        assert not {"fid", "vgg16_frechet"} <= set(choice.names)
        assert "leak_lpips" in choice.names
        assert "success_truth" in choice.left_out
        assert all(lines for lines in choice.left_out.values())

    EMBEDDED = frozenset({"success_truth", "judge_truth", *(name for name in METRICS if "mini_clip" in name)})

    def test_what_has_seen_only_the_rendered_world_declares_it(self) -> None:
        """The mini CLIP and the attribute reader; VGG16 has ImageNet weights and may score anything."""
        assert {name for name in METRICS if scoring.is_embedded(name)} == self.EMBEDDED

    def test_embedded_networks_score_the_rendered_world_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On photographs without CLIP's and Inception's weights: no mini CLIP, but VGG16 in place of Inception."""
        from bench.metrics import STAND_INS

        monkeypatch.setattr(
            scoring,
            "metric_problems",
            lambda names, f, k=None: {n: ["gone"] for n in names if n in STAND_INS},
        )
        photographs = scoring.choose_metrics(Features())
        assert not self.EMBEDDED & set(photographs.names)
        assert photographs.stand_ins == {"fid": ("vgg16_frechet", ["gone"]), "kid": ("vgg16_kid", ["gone"])}
        clip = {name for name in STAND_INS if "clip" in name or name == "cmmd"}
        assert set(photographs.left_out) == {*clip, "success_truth", "judge_truth"}
        assert all(photographs.left_out[name] == ["gone"] for name in clip)
        rendered = scoring.choose_metrics(Features(), rendered=True)
        assert set(rendered.names) >= self.EMBEDDED
        assert rendered.left_out == rendered.stand_ins == {}

    def test_an_embedded_metric_asked_for_by_its_name_is_refused_on_photographs(self) -> None:
        choice = scoring.choose_metrics(Features(), wanted=["mini_clip_target", "success_truth", "leak_mse"])
        assert choice.names == ["leak_mse"]
        assert "Ask for clip_target." in choice.left_out["mini_clip_target"][0]
        assert "rendered world" in choice.left_out["success_truth"][0]

    def test_one_of_each_pair_is_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bench.metrics import STAND_INS

        missing: set[str] = set()
        monkeypatch.setattr(
            scoring, "metric_problems", lambda names, f, k=None: {n: ["gone"] for n in names if n in missing}
        )
        known = Registry("metric", METRICS, "")
        choice = scoring.choose_metrics(Features(), known=known)
        assert not set(STAND_INS.values()) & set(choice.names)
        assert set(choice.left_out) == {"success_truth", "judge_truth"}
        choice = scoring.choose_metrics(Features(), rendered=True, known=known)
        assert not set(STAND_INS) & set(choice.names)
        missing.update(STAND_INS)
        wanted = ["fid", "clip_target", "leak_mse"]
        choice = scoring.choose_metrics(Features(), rendered=True, wanted=wanted, known=known)
        assert choice.names == ["vgg16_frechet", "mini_clip_target", "leak_mse"]
        choice = scoring.choose_metrics(Features(), wanted=wanted, known=known)
        assert choice.names == ["vgg16_frechet", "leak_mse"]
        missing.update(STAND_INS.values())
        choice = scoring.choose_metrics(Features(), wanted=["fid", "leak_mse"], known=known)
        assert choice.names == ["leak_mse"]
        assert choice.left_out == {"fid": ["gone"]}

    def test_loading_says_all_that_is_missing(self) -> None:
        features = Features()
        with pytest.raises(MetricError, match=r"mini_clip_target, mini_clip_region: .*folder") as caught:
            scoring.load_metrics(
                ["mini_clip_target", "leak_mse", "mini_clip_region", "success_truth"], features
            )
        assert "success_truth: the truth judge needs a reader" in str(caught.value)
        assert "leak_mse" not in str(caught.value)

    def test_every_metric_describes_itself(self, tmp_path: Path) -> None:
        from bench.metrics import info_of

        known = Registry("metric", METRICS, "")
        for name in METRICS:
            info = info_of(known.load(name))
            assert info.name == name
            assert info.summary
            assert info.unit
            assert info.kind == ("set" if hasattr(known.load(name), "score_set") else "edit")

    def test_a_third_partys_metric(self, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("third_party_metrics")
        module.Mean = Mean  # type: ignore[attr-defined]

        class Nameless(Metric):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return []

        module.Nameless = Nameless  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "third_party_metrics", module)
        known = Registry("metric", METRICS, "")
        known.add("mean", "third_party_metrics:Mean")
        known.add("nameless", "third_party_metrics:Nameless")
        features = Features()
        metrics = scoring.load_metrics(["mean", "leak_mse"], features, known)
        scoring.score_run(store, metrics, features=features)
        assert set(store.scores()["metric"]) == {"mean", "mean_pasted", "leak_mse"}
        with pytest.raises(PluginError, match=r"'nameless' .*: name is missing or no text; version"):
            scoring.load_metrics(["nameless"], features, known)


class TestPair:
    names: ClassVar[list[str]] = ["leak_mse", "leak_psnr", "edit_change"]

    def test_known_values(self) -> None:
        source = np.full((64, 64, 3), 100, np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[20:40, 20:40] = True
        edited = np.where(mask[..., None], source + np.uint8(51), source)
        images = from_array(source), from_array(edited), mask_image(mask)
        found = scoring.score_pair(*images, features=Features(), names=self.names)
        assert list(found) == self.names
        assert found["leak_mse"].value == 0
        assert found["edit_change"].value == pytest.approx(0.2)
        assert found["leak_psnr"].unit == "dB"
        assert found["leak_psnr"].higher_is_better

    def test_by_default_all_that_can_be_computed(self) -> None:
        case = make_case(0, 64)
        request = case.request
        images = request.source, noise("edited", 64), request.mask
        found = scoring.score_pair(*images, features=Features(), known=Registry("metric", METRICS, ""))
        assert {"leak_lpips", "leak_lpips_vgg", "leak_ssim", "edit_change"} <= set(found)
        assert all(score.value is not None for score in found.values())
        assert not any("frechet" in name or "clip" in name for name in found)

    def test_a_full_mask_has_reasons(self) -> None:
        image = noise("x", 64)
        full = mask_image(np.ones((64, 64), bool))
        found = scoring.score_pair(image, noise("y", 64), full, features=Features(), names=["leak_mse"])
        assert found["leak_mse"].value is None
        assert "outside" in str(found["leak_mse"].reason)
        assert mask_array(full).all()

    def test_what_it_refuses(self) -> None:
        image, mask = noise("x", 64), make_case(0, 64).request.mask
        with pytest.raises(MetricError, match="sizes differ"):
            scoring.score_pair(image, noise("y", 32), mask, features=Features(), names=["leak_mse"])
        with pytest.raises(MetricError, match="no value for one pair"):
            scoring.score_pair(image, image, mask, features=Features(), names=["vgg16_frechet"])
