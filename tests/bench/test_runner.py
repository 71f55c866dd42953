from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import bench.recorder
from bench.case_rows import CaseError
from bench.edit import NearestSize, PixelArea, Region, Runtime
from bench.editor import Editor
from bench.executors import LocalExecutor
from bench.images import mask_array, mask_image, resize, to_array
from bench.plan import make_plan
from bench.registry import PluginError
from bench.runner import image_seed, run
from bench.store import RunStore, StoreError
from bench.store.errors import writing
from bench.suite import ConfiguredMethod, parse_suite
from tests.bench.executed import execute, facts
from tests.bench.fakes import LOG, Fake, Fakes, make_case, method, noise, protocol

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    LOG.clear()


def test_every_edit_is_stored_with_its_record(tmp_path: Path) -> None:
    methods = [method(), method(strength=0.5, label="Half"), method("oracle")]
    summary = execute(tmp_path / "run", *methods, protocols=("fakes", "others"), count=8)
    assert (summary.done, summary.skipped, summary.failed, summary.ok) == (48, 0, 0, True)
    store = RunStore.open(tmp_path / "run")
    records = store.edits()
    assert [record.key.method for record in records] == [m.spec.digest for m in methods for _ in range(16)]
    for record in records[:8]:
        assert record.file == f"edits/fakes/fake-{methods[0].spec.digest}/{record.key.case}.png"
        assert record.seconds is not None
        assert record.seconds >= 0
        case = store.cases("fakes").get(record.key.case)
        edited, source = to_array(store.image(record)), to_array(case.request.source)
        inside = to_array(case.request.mask) > 0
        rng = np.random.default_rng(image_seed(0, case.id))
        assert (edited[~inside] == source[~inside]).all()
        assert (edited[inside] == rng.integers(0, 256, source.shape, dtype=np.uint8)[inside]).all()
    assert store.image(records[-1]).tobytes() == noise("truth-7", 32).tobytes()


def test_one_model_at_a_time_serves_all_protocols(tmp_path: Path) -> None:
    alive: set[int] = set()
    most = []

    class Counted(Fake):
        def __init__(self, options: Fake.Options, runtime: Runtime) -> None:
            super().__init__(options, runtime)
            alive.add(id(self))
            most.append(len(alive))

        def __del__(self) -> None:
            alive.discard(id(self))

    executor = LocalExecutor(factory=lambda m, runtime: Counted(m.options, runtime))
    methods = [method(), method(strength=0.5)]
    execute(tmp_path / "run", *methods, protocols=("fakes", "others"), executor=executor)
    assert most == [1, 1]


def test_the_same_command_again_does_nothing_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tmp_path / "run", method())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != "lock"}
    LOG.clear()

    def unwanted(self: Fakes) -> None:
        raise AssertionError("the stored cases suffice")

    monkeypatch.setattr(Fakes, "cases", unwanted)
    summary = execute(tmp_path / "run", method())
    assert (summary.done, summary.skipped, summary.failed) == (0, 8, 0)
    assert LOG.loaded == []
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != "lock"}
    assert after == before


def test_another_method_joins_and_the_first_is_left_alone(tmp_path: Path) -> None:
    execute(tmp_path / "run", method())
    summary = execute(tmp_path / "run", method(), method(strength=0.5))
    assert (summary.done, summary.skipped) == (8, 8)
    assert LOG.loaded == ["1.0", "0.5"]


def test_several_seeds_make_an_edit_each_and_more_seeds_join(tmp_path: Path) -> None:
    execute(tmp_path / "one", method(), count=4)
    summary = execute(tmp_path / "run", method(), count=4)
    assert (summary.done, summary.skipped) == (4, 0)
    assert "seeds" not in RunStore.open(tmp_path / "run").manifest
    summary = execute(tmp_path / "run", method(), count=4, seeds=(0, 3))
    assert (summary.done, summary.skipped) == (4, 4)
    store = RunStore.open(tmp_path / "run")
    assert (store.manifest["seed"], store.seeds) == (0, (0, 3))
    # The first seed's edits are those of a run of one seed.
    assert facts(tmp_path / "run")[:4] == facts(tmp_path / "one")
    records = store.edits()
    assert [record.key.seed for record in records] == [0] * 4 + [3] * 4
    assert [record.key.case for record in records[4:]] == [record.key.case for record in records[:4]]
    folder = f"edits/fakes/fake-{method().spec.digest}"
    for record in records[4:]:
        assert record.file == f"{folder}-seed3/{record.key.case}.png"
        case = store.cases("fakes").get(record.key.case)
        rng = np.random.default_rng(image_seed(3, case.id))
        noise_of_seed = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        inside = mask_array(case.request.needed_mask)
        assert (to_array(store.image(record))[inside] == noise_of_seed[inside]).all()
    # A suite of one seed leaves the others as they are.
    assert execute(tmp_path / "run", method(), count=4).done == 0
    assert RunStore.open(tmp_path / "run").seeds == (0, 3)


def test_a_changed_protocol_seed_or_dtype_is_refused_before_any_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tmp_path / "run", method(), limit=1)
    LOG.clear()
    with pytest.raises(StoreError, match="has the seed 0, the suite 1"):
        execute(tmp_path / "run", method(), limit=1, seeds=(1,))
    with pytest.raises(StoreError, match="float32 so far, now with float16"):
        execute(tmp_path / "run", method(), executor=LocalExecutor(Runtime(dtype="float16")))
    half = execute(
        tmp_path / "run",
        method(),
        method("oracle"),
        limit=1,
        executor=LocalExecutor(Runtime(dtype="float16")),
    )
    assert (half.done, half.skipped) == (4, 4), "who has nothing to edit may have been another dtype"
    manifest = RunStore.open(tmp_path / "run").manifest
    assert [entry["dtype"] for entry in manifest["methods"].values()] == ["float32", "float16"]
    monkeypatch.setattr(Fakes, "version", "2")
    with pytest.raises(StoreError, match="the suite has fakes 2"):
        execute(tmp_path / "run", method())
    assert LOG.loaded == []
    assert len(facts(tmp_path / "run")) == 8


def test_a_missing_file_is_made_again_the_same(tmp_path: Path) -> None:
    execute(tmp_path / "run", method())
    before = facts(tmp_path / "run")
    (tmp_path / "run" / before[3][1]).unlink()
    summary = execute(tmp_path / "run", method())
    assert (summary.done, summary.skipped) == (1, 7)
    assert facts(tmp_path / "run") == before


def test_results_do_not_depend_on_batch_size_writers_or_readers(tmp_path: Path) -> None:
    expected = None
    for index, (batch_size, writers, readers) in enumerate([(1, 1, 1), (3, 2, 2), (5, 4, 3), (100, 1, 1)]):
        path = tmp_path / str(index)
        executor = LocalExecutor(batch_size=batch_size, readers=readers)
        execute(path, method(native=24), count=13, executor=executor, writers=writers)
        expected = expected or facts(path)
        assert facts(path) == expected
    assert expected is not None
    assert [fact[0].case for fact in expected] == [f"case-{i:03d}" for i in range(13)], "in the plan's order"


def test_a_source_that_is_not_square_reaches_a_square_method_undistorted() -> None:
    case = make_case(0, 32)
    wide = case.request.source.resize((48, 32))
    mask = mask_image(np.pad(np.ones((8, 8), bool), ((4, 20), (30, 10))))
    request = replace(case.request, source=wide, mask=mask, regions=(Region(mask, "a", ("b",)),))
    editor = Editor(Fake(Fake.Options(native=24), Runtime()), batch_size=1, device="cpu", note=print)
    prepared = editor.prepare(replace(case, request=request), seed=1)
    assert prepared.size == (48, 32)
    seen = prepared.case.request
    assert seen.source.size == seen.mask.size == seen.regions[0].mask.size == (24, 24)
    # Half the size: 8 x 8 pixels are 4 x 4, and the padding of 8 rows is 4.
    rows, columns = np.nonzero(mask_array(seen.mask))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 9, 15, 18)


@pytest.mark.parametrize(
    ("native", "size"),
    [
        ((48, 24), (48, 24)),
        (PixelArea(2048), (56, 40)),
        (PixelArea(2048, multiple=16), (48, 32)),
        (NearestSize(((40, 40), (24, 48), (48, 32))), (48, 32)),
    ],
)
def test_a_native_size_may_be_width_and_height_or_an_area(
    native: tuple[int, int] | PixelArea | NearestSize, size: tuple[int, int]
) -> None:
    maker = Fake(Fake.Options(), Runtime())
    maker.native_size = native
    case = make_case(0)
    request = replace(case.request, source=noise("wide", 96).crop((0, 0, 90, 60)), mask=None)
    editor = Editor(maker, batch_size=1, device="cpu", note=print)
    prepared = editor.prepare(replace(case, request=request), seed=1)
    assert prepared.case.request.source.size == size
    assert prepared.size == (90, 60)


def test_sources_of_their_own_sizes_reach_the_method_in_batches_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = [32, 32, 40, 40, 40, 32]
    monkeypatch.setattr(Fakes, "cases", lambda self: [make_case(i, side) for i, side in enumerate(sides)])
    unsized = protocol()
    with RunStore.open(tmp_path / "run", create=True) as store:
        monkeypatch.setattr(Fakes, "__init__", lambda self, options: None)
        monkeypatch.setattr(Fakes, "canvas", None, raising=False)
        monkeypatch.setattr(Fakes, "digest", "0" * 12)
        plan = make_plan([unsized], [method(), method("oracle")], store=store)
        assert plan.protocols[0].info["canvas"] is None
        summary = run(plan, store, LocalExecutor(batch_size=4))
        assert (summary.done, summary.failed) == (12, 0)
        assert LOG.batches == [2, 2, 1, 1]
        for record in store.edits():
            assert store.image(record).size == store.cases("fakes").get(record.key.case).request.source.size
    assert RunStore.open(tmp_path / "run").manifest["protocols"]["fakes"]["canvas"] is None


def test_native_size_round_trip(tmp_path: Path) -> None:
    execute(tmp_path / "run", method(echo=True, native=16))
    store = RunStore.open(tmp_path / "run")
    for record in store.edits():
        source = store.cases("fakes").get(record.key.case).request.source
        expected = source.resize((16, 16), Image.Resampling.LANCZOS).resize(
            (32, 32), Image.Resampling.LANCZOS
        )
        assert store.image(record).tobytes() == expected.tobytes()
    execute(tmp_path / "same", method(echo=True, native=32))
    store = RunStore.open(tmp_path / "same")
    for record in store.edits():
        source = store.cases("fakes").get(record.key.case).request.source
        assert store.image(record).tobytes() == source.tobytes()
        assert resize(source, 32) is source


def test_a_failing_case_is_recorded_the_run_goes_on_and_the_next_run_tries_again(tmp_path: Path) -> None:
    class Flaky(Fake):
        broken = True

        def edit(self, requests):  # type: ignore[no-untyped-def]
            if self.broken and any(request.target_prompt.endswith("number 4") for request in requests):
                raise ZeroDivisionError("no such chair")
            return super().edit(requests)

    executor = LocalExecutor(batch_size=3, factory=lambda m, runtime: Flaky(m.options, runtime))
    summary = execute(tmp_path / "run", method(), executor=executor)
    assert (summary.done, summary.failed, summary.ok) == (7, 1, False)
    (failure,) = summary.failures
    assert (failure.key.case, failure.file, failure.sha256) == ("case-004", None, None)
    assert failure.error == "ZeroDivisionError: no such chair"
    assert RunStore.open(tmp_path / "run").edits()[4] == failure
    Flaky.broken = False
    summary = execute(tmp_path / "run", method(), executor=executor)
    assert (summary.done, summary.skipped, summary.failed) == (1, 7, 0)
    execute(tmp_path / "clean", method())
    assert facts(tmp_path / "run") == facts(tmp_path / "clean")


def test_a_method_that_cannot_be_loaded_fails_its_cases_and_no_others(tmp_path: Path) -> None:
    def factory(configured: ConfiguredMethod, runtime: Runtime) -> Fake:
        if configured.spec.title == "Broken":
            raise OSError("weights are damaged")
        return Fake(configured.options, runtime)

    methods = [method(label="Broken"), method(strength=0.5)]
    summary = execute(tmp_path / "run", *methods, executor=LocalExecutor(factory=factory))
    assert (summary.done, summary.failed) == (8, 8)
    assert {record.error for record in summary.failures} == {
        "could not be loaded: OSError: weights are damaged"
    }


def test_the_manifest_says_with_which_batch_sizes_and_threads_a_method_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conditions() -> list[object]:
        (entry,) = json.loads((tmp_path / "run" / "run.json").read_text())["methods"].values()
        return [entry["batch_sizes"], entry.get("threads")]

    monkeypatch.setattr("bench.executors.torch_threads", lambda: None)
    execute(tmp_path / "run", method(), limit=1, batch_size=3)
    assert conditions() == [[3], None], "a method without torch does not depend on its threads"
    monkeypatch.setattr("bench.executors.torch_threads", lambda: 2)
    execute(tmp_path / "run", method(), batch_size=1)
    assert conditions() == [[1, 3], [2]]
    execute(tmp_path / "run", method(), batch_size=8)
    assert conditions() == [[1, 3], [2]], "nothing was edited"


def test_a_method_cannot_end_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Fake.one

    def ends(self: Fake, *_: object) -> None:
        sys.exit(0)

    def ends_on_the_second(self: Fake, request: Any) -> Image.Image:
        if request.target_prompt.endswith("number 2"):
            sys.exit(0)
        return one(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(Fake, "__init__", ends)
        summary = execute(tmp_path / "run", method())
    assert {record.error for record in summary.failures} == {
        "could not be loaded: PluginError: it calls sys.exit(0). Raise an error there."
    }
    assert (summary.done, summary.failed) == (0, 8)
    monkeypatch.setattr(Fake, "one", ends_on_the_second)
    summary = execute(tmp_path / "run", method())
    assert (summary.done, [record.error for record in summary.failures]) == (7, ["SystemExit: 0"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "canvas",
            property(lambda self: "32", lambda self, value: None),
            "canvas: missing or of a wrong type",
        ),
        ("digest", None, "digest: missing or of a wrong type"),
        ("cases", lambda self: None, r"cases\(\): TypeError: 'NoneType' object is not iterable"),
        ("cases", lambda self: sys.exit(0), r"it calls sys\.exit\(0\)"),
        ("__init__", lambda self, options: sys.exit(0), r"it calls sys\.exit\(0\)"),
        ("__init__", lambda self, options: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_malformed_protocol_is_one_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, message: str
) -> None:
    monkeypatch.setattr(Fakes, name, value, raising=False)
    with pytest.raises(PluginError, match=f"protocol 'fakes': .*{message}"):
        make_plan([protocol()], [method()])


def test_a_mask_of_a_wrong_type_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fakes, "cases", lambda self: [make_case(0, mask="mask.png")])
    with pytest.raises(CaseError, match="case case-000: mask: None or of a wrong type"):
        make_plan([protocol()], [method()])


class TestCasesThatLackAField:
    """Cases 1 and 2 have no mask, case 2 no target prompt. The fake needs both, the oracle neither."""

    REASONS: ClassVar = {
        "case-001": "refused: the case has no mask, which the method needs",
        "case-002": "refused: the case has no mask, no target prompt, which the method needs",
    }

    @pytest.fixture(autouse=True)
    def _cases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cases = [make_case(0), make_case(1, mask=None), make_case(2, mask=None, target_prompt="")]
        monkeypatch.setattr(Fakes, "cases", lambda self: cases)

    def test_each_is_refused_with_its_reason_and_the_others_are_edited(self, tmp_path: Path) -> None:
        notes = Bars()
        summary = execute(tmp_path / "run", method(), method("oracle"), progress=notes)
        assert (summary.done, summary.skipped, summary.failed, summary.refused) == (4, 0, 0, 2)
        assert summary.ok
        store = RunStore.open(tmp_path / "run")
        assert {r.key.case: r.error for r in store.edits() if r.is_refused} == self.REASONS
        assert len([r for r in store.edits() if r.file]) == 4
        assert [note for note in notes.notes if "refused" in note] == [
            f"fake on fakes: 1 cases {reason}" for reason in self.REASONS.values()
        ]
        assert store.cases("fakes").get("case-001").request.mask is None

    def test_a_second_run_records_them_no_second_time(self, tmp_path: Path) -> None:
        execute(tmp_path / "run", method())
        before = (tmp_path / "run" / "edits.jsonl").read_bytes()
        summary = execute(tmp_path / "run", method())
        assert (summary.done, summary.skipped, summary.refused) == (0, 1, 2)
        assert (tmp_path / "run" / "edits.jsonl").read_bytes() == before

    def test_the_plan_counts_them_apart(self) -> None:
        (row,) = make_plan([protocol()], [method()]).rows
        assert (row.total, row.todo, row.refused) == (1, 1, 2)

    def test_where_no_case_has_the_field_the_plan_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Fakes, "cases", lambda self: [make_case(i, mask=None) for i in range(3)])
        plan = make_plan([protocol()], [method(), method("oracle")])
        assert plan.problems == (
            "method fake needs mask, which protocol fakes does not provide: leave one of the two out",
        )

    def test_a_method_that_needs_the_mask_for_paste_alone_says_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Pasting(Fake):
            @dataclass(frozen=True)
            class Options(Fake.Options):
                paste: bool = False

            @classmethod
            def needs_of(cls, options: Options) -> frozenset[str]:
                return frozenset({"source", "instruction"} | ({"mask"} if options.paste else set()))

            @classmethod
            def optional_needs(cls, options: Options) -> dict[str, str]:
                return {"mask": "set paste: false"} if options.paste else {}

        raw, pasted, inpainting = (
            replace(method(), cls=Pasting, options=Pasting.Options(paste=False)),
            replace(method(), cls=Pasting, options=Pasting.Options(paste=True)),
            method(),
        )
        hint = " (set paste: false)"
        (some,) = make_plan([protocol()], [pasted]).protocols
        assert some.refused(raw) == {}
        assert set(some.refused(pasted).values()) == {
            "refused: the case has no mask, which the method needs" + hint
        }
        assert not any(hint in reason for reason in some.refused(inpainting).values())
        monkeypatch.setattr(Fakes, "cases", lambda self: [make_case(i, mask=None) for i in range(3)])
        (problem,) = make_plan([protocol()], [pasted]).problems
        assert "needs mask" in problem
        assert problem.endswith(hint)
        assert make_plan([protocol()], [raw]).problems == ()

    def test_a_case_without_a_mask_is_edited_at_the_native_size(self, tmp_path: Path) -> None:
        class MaskFree(Fake):
            needs = frozenset({"source", "instruction"})

            def edit(self, requests):  # type: ignore[no-untyped-def]
                assert [request.mask for request in requests] == [None] * len(requests)
                return [request.source for request in requests]

        maker = Editor(
            MaskFree(Fake.Options(native=16), Runtime()), batch_size=2, device="cpu", note=lambda _: None
        )
        (outcome,) = maker.edit([maker.prepare(make_case(1, mask=None, regions=()), 0)])
        assert outcome.error is None
        assert outcome.image is not None
        assert outcome.image.size == (16, 16)


def test_out_of_memory_halves_and_changes_no_result(tmp_path: Path) -> None:
    notes = Bars()
    execute(tmp_path / "small", method(oom_above=2), count=16, batch_size=8, progress=notes)
    execute(tmp_path / "large", method(), count=16, batch_size=8)
    small, large = facts(tmp_path / "small"), facts(tmp_path / "large")
    assert [fact[2] for fact in small] == [fact[2] for fact in large]
    assert notes.notes == [
        "fake: out of memory with a batch of 8: going on with 4",
        "fake: out of memory with a batch of 4: going on with 2",
    ]


class Bars:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.bars: list[list[Any]] = []
        self.notes: list[str] = []
        self.stopped = 0

    def start(self, total: int, label: str) -> None:
        self.bars.append([label, total, 0])

    def advance(self, steps: int = 1) -> None:
        self.bars[-1][2] += steps

    def note(self, message: str) -> None:
        self.notes.append(message)

    def stop(self) -> None:
        self.stopped += 1


def test_progress_is_told(tmp_path: Path) -> None:
    bars = Bars()
    prompt = make_case(4).request.target_prompt
    execute(
        tmp_path / "run", method(fail_on=prompt, label="A"), method(strength=0.5, label="B"), progress=bars
    )
    assert [bar[:2] for bar in bars.bars] == [["A", 8], ["B", 8]]
    assert sum(bar[2] for bar in bars.bars) == 16
    assert bars.notes == ["A: case case-004 failed: ZeroDivisionError: no such chair"]
    assert bars.stopped == 1


def test_the_manifest_says_what_ran(tmp_path: Path) -> None:
    suite = parse_suite("{name: small, protocols: [fakes], methods: [fake]}")
    execute(
        tmp_path / "run", method(label="F"), suite=suite, executor=LocalExecutor(Runtime("cpu", "bfloat16"))
    )
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["suite"]["methods"][0]["method"] == "fake"
    assert manifest["protocols"]["fakes"]["options"] == {"count": 8, "canvas": 32, "truth": True}
    assert manifest["protocols"]["fakes"]["digest"] == protocol().create().digest
    (entry,) = manifest["methods"].values()
    assert (entry["label"], entry["dtype"], entry["devices"]) == ("F", "bfloat16", ["cpu"])
    assert entry["options"]["strength"] == 1.0
    assert manifest["versions"]["python"].startswith("3.")


def test_image_seeds_are_stable_distinct_and_63_bits_wide() -> None:
    assert image_seed(0, "case-000") == GOLDEN_SEED
    assert int(hashlib.sha256(b"0/case-000").hexdigest()[:16], 16) >> 1 == GOLDEN_SEED
    seeds = {image_seed(seed, f"case-{i}") for seed in range(3) for i in range(1000)}
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


GOLDEN_SEED = 3576958277422346147


def test_editing_never_waits_for_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write = RunStore.write_edit

    def slow(self: RunStore, file: str, image: Image.Image) -> str:
        assert gate.wait(30)
        return write(self, file, image)

    monkeypatch.setattr(RunStore, "write_edit", slow)

    class Opens(Fake):
        def edit(self, requests):  # type: ignore[no-untyped-def]
            edited = super().edit(requests)
            if len(LOG.cases) == 8:
                # Every edit is made, and no PNG has been written yet.
                assert not list(tmp_path.rglob("edits/**/*.png"))
                gate.set()
            return edited

    summary = execute(
        tmp_path / "run",
        method(),
        executor=LocalExecutor(batch_size=1, factory=lambda m, runtime: Opens(m.options, runtime)),
    )
    assert (summary.done, summary.failed) == (8, 0)


def test_reading_runs_ahead_of_editing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    class Watches(Fake):
        def edit(self, requests):  # type: ignore[no-untyped-def]
            names.append(threading.current_thread().name)
            return super().edit(requests)

    from bench.casefile import CaseFile

    readers = []
    get = CaseFile.get

    def watched(self: CaseFile, case_id: str) -> Any:
        readers.append(threading.current_thread().name)
        return get(self, case_id)

    monkeypatch.setattr(CaseFile, "get", watched)
    execute(tmp_path / "run", method(), executor=LocalExecutor(factory=lambda m, r: Watches(m.options, r)))
    assert len(readers) == 8
    assert all(name.startswith("read") for name in readers)
    assert set(names) == {threading.current_thread().name}


# What goes wrong on the disk, and who is killed


def test_a_disk_that_fills_up_stops_the_run_keeps_what_is_recorded_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunStore.write_edit

    def fills(self: RunStore, file: str, image: Image.Image) -> str:
        if file.endswith("case-005.png"):
            with writing(self.path, "write an edit"):
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, file, image)

    monkeypatch.setattr(RunStore, "write_edit", fills)
    with pytest.raises(StoreError, match=r"disk is full.*repeat the command"):
        execute(tmp_path / "run", method(), batch_size=3, count=32)
    recorded = facts(tmp_path / "run")
    assert [fact[0].case for fact in recorded] == [f"case-{i:03d}" for i in range(5)]
    assert all(fact[3] is None for fact in recorded), "a full disk is no failed edit"
    monkeypatch.undo()
    summary = execute(tmp_path / "run", method(), count=32)
    assert (summary.done, summary.skipped) == (27, 5)
    execute(tmp_path / "clean", method(), count=32)
    assert facts(tmp_path / "run") == facts(tmp_path / "clean")


def test_an_interrupt_keeps_what_has_been_edited(tmp_path: Path) -> None:
    class Interrupted(Fake):
        def edit(self, requests):  # type: ignore[no-untyped-def]
            if len(LOG.cases) >= 6:
                raise KeyboardInterrupt
            return super().edit(requests)

    executor = LocalExecutor(batch_size=3, factory=lambda m, runtime: Interrupted(m.options, runtime))
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path / "run", method(), executor=executor)
    assert len(facts(tmp_path / "run")) == 6


def test_a_second_process_on_one_folder_is_refused(tmp_path: Path) -> None:
    execute(tmp_path / "run", method())
    with RunStore.open(tmp_path / "run") as store:
        store.lock()
        other = RunStore.open(tmp_path / "run")
        plan = make_plan([protocol(count=8)], [method()], store=other)
        with pytest.raises(StoreError, match="another process is writing this run"):
            run(plan, other, LocalExecutor())


SCRIPT = """
import sys
from pathlib import Path
from bench.executors import LocalExecutor
from bench.plan import make_plan
from bench.runner import run
from bench.store import RunStore
from tests.bench.fakes import method, protocol

folder, log = Path(sys.argv[1]), sys.argv[2]
with RunStore.open(folder, create=True) as store:
    methods = [method(delay=0.008, native=24, log_to=log), method("oracle")]
    plan = make_plan([protocol(count=60), protocol("others", count=20)], methods, seeds=(3,), store=store)
    print("planned", flush=True)
    summary = run(plan, store, LocalExecutor(batch_size=4))
    print(summary.done, summary.skipped, summary.failed, flush=True)
"""


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(folder: Path, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(log)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_killed_at_random_moments_and_repeated_it_gives_the_identical_records(tmp_path: Path) -> None:
    # One path for both, since the log's is an option of the method and so part of its digest.
    run_folder, log, clean = tmp_path / "run", tmp_path / "log", tmp_path / "clean"
    whole = start(run_folder, log)
    output, _ = whole.communicate(timeout=120)
    assert output.splitlines()[-1] == "160 0 0"
    assert len(log.read_text().splitlines()) == 80
    run_folder.rename(clean)
    log.unlink()

    # Once while the cases are stored or the first edits made, then after so many more records, and a moment.
    moments = random.Random(20240607)
    recorded = [0]
    for more in (0, moments.randint(1, 30), moments.randint(1, 30), moments.randint(1, 30)):
        process = start(run_folder, log)
        assert process.stdout is not None
        assert process.stdout.readline() == "planned\n"
        while more and count_lines(run_folder / "edits.jsonl") < recorded[-1] + more:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        recorded.append(len(RunStore.open(run_folder).edits()))
    assert recorded == sorted(recorded), "nothing recorded is ever lost"
    assert 3 <= recorded[-1] < 160

    final = start(run_folder, log)
    output, _ = final.communicate(timeout=120)
    done, skipped, failed = map(int, output.splitlines()[-1].split())
    assert (done + skipped, failed) == (160, 0)
    assert skipped == recorded[-1], "only what is missing is made"
    assert facts(run_folder) == facts(clean)
    assert list((run_folder / "tmp").iterdir()) == []
    # A kill may cost what was under way: two batches and those waiting to be written, not what was recorded.
    assert len(log.read_text().splitlines()) <= 80 + 4 * 4 * (bench.recorder.BATCHES_IN_FLIGHT + 2)
    files = {
        path.relative_to(folder)
        for folder in (run_folder, clean)
        for path in folder.rglob("*")
        if path.is_file()
    }
    # Threads write the cases, so the order of their digests may differ.
    assert RunStore.open(run_folder).digests() == RunStore.open(clean).digests()
    for file in files - {Path("lock"), Path("edits.jsonl"), Path("digests.jsonl")}:
        assert (run_folder / file).read_bytes() == (clean / file).read_bytes(), file


def test_a_run_killed_while_it_stores_its_cases_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tmp_path / "clean", method(), count=12)
    import bench.casefile as casefile

    replace_file = os.replace
    written = []

    class Killed(BaseException): ...

    def write(path: Path, data: bytes, **where: Any) -> None:
        if len(written) == 9:
            raise Killed
        written.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(data)
        replace_file(temporary, path)

    monkeypatch.setattr(casefile, "write_atomic", write)
    with pytest.raises(Killed):
        execute(tmp_path / "run", method(), count=12)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "cases" / "fakes" / "cases.jsonl").exists()
    execute(tmp_path / "run", method(), count=12)
    assert facts(tmp_path / "run") == facts(tmp_path / "clean")
    shutil.rmtree(tmp_path / "clean")
