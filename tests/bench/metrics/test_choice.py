"""Which metrics are computed on which data, and what is said of the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench import scoring
from bench.edit import EditCase
from bench.metrics import METRICS, Pair, choice
from bench.metrics.features import Features
from bench.metrics.types import Metric, MetricError
from bench.registry import PluginError, Registry
from bench.store import RunStore
from tests.bench.fakes import make_case
from tests.bench.scored import COUNT, Mean, scored_run


@pytest.fixture
def cases() -> list[EditCase]:
    return [make_case(index) for index in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path, cases: list[EditCase]) -> Iterator[RunStore]:
    with scored_run(tmp_path / "run", cases) as opened:
        yield opened


class Named(Mean):
    name, on_request = "named", True


class TestChoice:
    def test_embedded_metrics_stand_in_under_their_own_names(self) -> None:
        """Nothing published is on this machine but LPIPS; no embedded CLIP and no reader are given."""
        features = Features()
        chosen = choice.choose_metrics(features, registry=Registry("metric", METRICS, ""))
        assert "vgg16_frechet" in chosen.names or "fid" in chosen.names
        assert not {"fid", "vgg16_frechet"} <= set(chosen.names)
        assert "leak_lpips" in chosen.names
        assert "success_truth" in chosen.left_out
        assert all(lines for lines in chosen.left_out.values())

    EMBEDDED = frozenset({"success_truth", "judge_truth", *(name for name in METRICS if "mini_clip" in name)})

    def test_what_has_seen_only_the_rendered_world_declares_it(self) -> None:
        """The mini CLIP and the attribute reader; VGG16 has ImageNet weights and may score anything."""
        assert {name for name in METRICS if choice.metric_registry().load(name).embedded} == self.EMBEDDED

    def test_embedded_networks_score_the_rendered_world_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On photographs without CLIP's and Inception's weights: no mini CLIP, but VGG16 in place of Inception."""
        from bench.metrics import STAND_INS

        monkeypatch.setattr(
            choice,
            "metric_problems",
            lambda names, f, k=None: {n: ["gone"] for n in names if n in STAND_INS},
        )
        photographs = choice.choose_metrics(Features())
        assert not self.EMBEDDED & set(photographs.names)
        assert photographs.stand_ins == {"fid": ("vgg16_frechet", ["gone"]), "kid": ("vgg16_kid", ["gone"])}
        clip = {name for name in STAND_INS if "clip" in name or name == "cmmd"}
        assert set(photographs.left_out) == {*clip, "success_truth", "judge_truth"}
        assert all(photographs.left_out[name] == ["gone"] for name in clip)
        rendered = choice.choose_metrics(Features(), rendered=True)
        assert set(rendered.names) >= self.EMBEDDED
        assert rendered.left_out == rendered.stand_ins == {}

    def test_metrics_of_published_benchmarks_are_computed_on_request_alone(self) -> None:
        registry = choice.metric_registry()
        published = {name for name in METRICS if registry.load(name).published}
        assert {"pie_mse", "brushbench_psnr", "magicbrush_l1"} <= published
        assert all(
            name.startswith(("pie_", "brushbench_", "magicbrush_", "vie_", "imgedit_")) for name in published
        )
        by_default = choice.choose_metrics(Features())
        assert not published & {*by_default.names, *by_default.left_out}
        named = choice.choose_metrics(Features(), requested=["pie_mse", "pie_lpips", "leak_mse"])
        assert named.names == ["pie_mse", "leak_mse"]
        assert "squeezenet1_1-b8a52dc0.pth" in named.left_out["pie_lpips"][0]

    def test_an_embedded_metric_asked_for_by_its_name_is_refused_on_photographs(self) -> None:
        chosen = choice.choose_metrics(
            Features(), requested=["mini_clip_target", "success_truth", "leak_mse"]
        )
        assert chosen.names == ["leak_mse"]
        assert "Ask for clip_target." in chosen.left_out["mini_clip_target"][0]
        assert "rendered world" in chosen.left_out["success_truth"][0]

    def test_one_of_each_pair_is_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bench.metrics import STAND_INS

        missing: set[str] = set()
        monkeypatch.setattr(
            choice, "metric_problems", lambda names, f, k=None: {n: ["gone"] for n in names if n in missing}
        )
        registry = Registry("metric", METRICS, "")
        chosen = choice.choose_metrics(Features(), registry=registry)
        assert not set(STAND_INS.values()) & set(chosen.names)
        assert set(chosen.left_out) == {"success_truth", "judge_truth"}
        chosen = choice.choose_metrics(Features(), rendered=True, registry=registry)
        assert not set(STAND_INS) & set(chosen.names)
        missing.update(STAND_INS)
        names = ["fid", "clip_target", "leak_mse"]
        chosen = choice.choose_metrics(Features(), rendered=True, requested=names, registry=registry)
        assert chosen.names == ["vgg16_frechet", "mini_clip_target", "leak_mse"]
        chosen = choice.choose_metrics(Features(), requested=names, registry=registry)
        assert chosen.names == ["vgg16_frechet", "leak_mse"]
        missing.update(STAND_INS.values())
        chosen = choice.choose_metrics(Features(), requested=["fid", "leak_mse"], registry=registry)
        assert chosen.names == ["leak_mse"]
        assert chosen.left_out == {"fid": ["gone"]}

    def test_a_metric_on_request_is_computed_only_where_it_is_named(self) -> None:
        table = {"mean": f"{__name__}:Mean", "named": f"{__name__}:Named"}
        registry = Registry("metric", table, "")
        assert choice.choose_metrics(Features(), registry=registry).names == ["mean"]
        assert choice.choose_metrics(Features(), requested=["named"], registry=registry).names == ["named"]

    def test_loading_says_all_that_is_missing(self) -> None:
        features = Features()
        with pytest.raises(MetricError, match=r"mini_clip_target, mini_clip_region: .*folder") as caught:
            choice.load_metrics(
                ["mini_clip_target", "leak_mse", "mini_clip_region", "success_truth"], features
            )
        assert "success_truth: judge_truth needs an attribute classifier" in str(caught.value)
        assert "leak_mse" not in str(caught.value)

    def test_every_metric_describes_itself(self, tmp_path: Path) -> None:
        from bench.metrics import info_of

        registry = Registry("metric", METRICS, "")
        for name in METRICS:
            info = info_of(registry.load(name))
            assert info.name == name
            assert info.summary
            assert info.unit
            assert info.heading

    def test_a_third_partys_metric(self, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("third_party_metrics")
        module.Mean = Mean  # type: ignore[attr-defined]

        class Nameless(Metric):
            def score(self, pairs: Sequence[Pair]) -> list[Any]:
                return []

        module.Nameless = Nameless  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "third_party_metrics", module)
        registry = Registry("metric", METRICS, "")
        registry.add("mean", "third_party_metrics:Mean")
        registry.add("nameless", "third_party_metrics:Nameless")
        features = Features()
        metrics = choice.load_metrics(["mean", "leak_mse"], features, registry)
        scoring.score_run(store, metrics, features=features)
        assert set(store.scores()["metric"]) == {"mean", "mean_pasted", "leak_mse"}
        with pytest.raises(PluginError, match=r"'nameless' .*: name is missing or no text; version"):
            choice.load_metrics(["nameless"], features, registry)
