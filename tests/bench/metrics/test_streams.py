"""Sets of images may be larger than memory: counted are the pictures that are alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import scoring
from bench.casefile import protocol_info
from bench.edit import EditKey, EditRecord, MethodSpec
from bench.metrics.features import Features
from bench.metrics.options import MetricOptions, RealismOptions
from bench.metrics.realism import MiniClipCmmd, Vgg16Frechet
from bench.metrics.streams import ImageStream, fingerprints_of
from bench.metrics.types import MetricError, RgbImage, SetMetric, SetValue
from bench.store import RunStore
from tests.bench.fakes import Fakes, make_case, noise
from tests.bench.metrics.pictures import natural

CHUNK = 4
OPTIONS = scoring.ScoringOptions(chunk=CHUNK)
OF_AN_EDIT = 3
"""Pictures: its source, itself, its ideal."""


class Live:
    """Counts the pictures in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = self.made = 0
        self._lock = threading.Lock()
        original = RgbImage.of

        def counting(image: Any) -> RgbImage:
            picture = original(image)
            with self._lock:
                self.now += 1
                self.made += 1
                self.most = max(self.most, self.now)
            weakref.finalize(picture, self._gone)
            return picture

        monkeypatch.setattr(RgbImage, "of", counting)

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


@contextmanager
def run_folder(path: Path, count: int) -> Iterator[RunStore]:
    """A run of one method with ``count`` edits."""
    spec = MethodSpec("fake")
    cases = [make_case(index) for index in range(count)]
    with RunStore.open(path, create=True) as store:
        info = protocol_info(Fakes(Fakes.Options(count=count)))
        store.configure(protocols={"fakes": info}, methods=[spec])
        store.write_cases(cases, info)
        records = []
        for case in cases:
            file = store.edit_file("fakes", spec, case.id)
            sha256 = store.write_edit(file, noise(f"edit-{case.id}", 32))
            records.append(EditRecord(EditKey("fakes", "1", spec.digest, case.id, 0), file, sha256, 0.1))
        store.append_edits(records)
        yield store


class TestMemory:
    @pytest.mark.parametrize("count", [40, 160])
    def test_real_images_pass_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_folder: Path, count: int
    ) -> None:
        passes: list[int] = []

        def images() -> Iterator[Any]:
            passes.append(count)
            return (noise(f"real{i}", 32) for i in range(count))

        with run_folder(tmp_path / "run", 8) as store:
            live = Live(monkeypatch)
            features = Features(mini_clip=clip_folder)
            metrics = [MiniClipCmmd(features), Vgg16Frechet(features)]
            scoring.score_run(
                store, metrics, features=features, references={"fakes": images}, options=OPTIONS
            )
            frame = store.set_scores()
        assert set(frame["n_reference"]) == {count}
        assert frame["value"].notna().all()
        assert len(passes) == 1, "features, not pixels, serve the second metric and every category"
        # One chunk is in use, two are decoded ahead, whatever the number of images.
        assert live.most <= 3 * OF_AN_EDIT * CHUNK < count
        assert live.now == 0

    def test_edits_pass_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_folder: Path
    ) -> None:
        count = 60
        with run_folder(tmp_path / "run", count) as store:
            live = Live(monkeypatch)
            features = Features(mini_clip=clip_folder)
            scoring.score_run(
                store,
                [MiniClipCmmd(features)],
                features=features,
                references={"fakes": lambda: iter([noise("real", 32)] * 2)},
                options=OPTIONS,
            )
            assert set(store.set_scores().query("category == 'all'")["n"]) == {count}
        assert live.made >= OF_AN_EDIT * count
        assert live.most <= 4 * OF_AN_EDIT * CHUNK < count
        assert live.now == 0

    def test_a_metric_that_reads_pixels_gets_them_in_order(self, tmp_path: Path) -> None:
        class First(SetMetric):
            name = "first"
            version = "1"
            unit = ""
            higher_is_better = True
            summary = "sum of the first pixels, weighted by place"
            composited = True

            def score_set(self, edited: Any, reference: Any, clusters: Any = None) -> SetValue:
                weighted = sum(i * int(p.pixels[0, 0, 0]) for i, p in enumerate(edited))
                return SetValue(float(weighted), len(edited), len(reference))

        with run_folder(tmp_path / "run", 8) as store:
            references = {"fakes": lambda: iter([noise("real", 32)] * 2)}
            scoring.score_run(store, [First()], references=references, options=OPTIONS)
            values = store.set_scores().query("category == 'all'").set_index("metric")["value"]
        # The masks of these cases leave the corner to the source.
        edits = [RgbImage.of(noise(f"edit-case-{i:03d}", 32)).pixels[0, 0, 0] for i in range(8)]
        sources = [RgbImage.of(make_case(i).request.source).pixels[0, 0, 0] for i in range(8)]
        assert values["first"] == sum(i * int(v) for i, v in enumerate(edits))
        assert values["first_pasted"] == sum(i * int(v) for i, v in enumerate(sources))


class TestStream:
    def test_gives_what_a_list_gives(self, clip_folder: Path) -> None:
        edited = [RgbImage(natural(i)) for i in range(5)]
        reference = [RgbImage(natural(i + 50)) for i in range(6)]
        for options in (MetricOptions(), MetricOptions(realism=RealismOptions(n=4))):
            listed = MiniClipCmmd(Features(options, mini_clip=clip_folder)).score_set(edited, reference)
            streams = ImageStream(lambda: iter(edited)), ImageStream(lambda: iter(reference))
            metric = MiniClipCmmd(Features(options, mini_clip=clip_folder))
            assert metric.score_set(*streams) == listed
            assert listed.value is not None

    def test_is_a_collection(self) -> None:
        passes: list[int] = []
        pictures = [RgbImage(natural(i)) for i in range(3)]

        def make() -> Iterator[RgbImage]:
            passes.append(1)
            return iter(pictures)

        stream = ImageStream(make)
        assert (
            [p.key for p in stream] == [one.key for one in stream.fingerprints] == [p.key for p in pictures]
        )
        assert len(stream) == 3
        assert (pictures[1] in stream, RgbImage(natural(9)) in stream) == (True, False)
        assert len(passes) == 1, "a whole pass leaves the fingerprints behind"
        assert fingerprints_of(stream) == fingerprints_of(pictures)

    def test_a_pass_that_was_broken_off_leaves_no_marks(self) -> None:
        stream = ImageStream(lambda: (RgbImage(natural(i)) for i in range(3)))
        next(iter(stream))
        assert len(stream) == 3

    def test_pictures_that_change_between_passes_are_an_error(self, clip_folder: Path) -> None:
        turn = iter(range(100))
        changing = ImageStream(lambda: (RgbImage(natural(next(turn))) for _ in range(3)))
        metric = MiniClipCmmd(Features(mini_clip=clip_folder))
        with pytest.raises(MetricError, match="changed while they were scored"):
            metric.score_set(changing, [RgbImage(natural(98)), RgbImage(natural(99))])
