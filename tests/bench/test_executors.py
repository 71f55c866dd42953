from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditCase, Region, Runtime, ScoredAreas
from bench.editor import EditOutcome, at_native_size, is_out_of_memory
from bench.executors import EditSession, Executor, ExecutorError, LocalExecutor, Task, WorkersExecutor
from bench.images import ImageError
from bench.registry import describe
from bench.suite import ConfiguredMethod
from bench.workers import Workers, open_workers
from tests.bench.fakes import LOG, Fake, make_case, method, square
from tests.bench.workers.work import cannot_load


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    LOG.clear()


def tasks(count: int, side: int = 32) -> Iterator[Task]:
    return (Task(f"case-{i:03d}", 1000 + i, lambda i=i: make_case(i, side)) for i in range(count))


def edit(
    configured: ConfiguredMethod, count: int = 7, batch_size: int = 3, side: int = 32
) -> tuple[list[EditOutcome], list[str]]:
    notes: list[str] = []
    session = LocalExecutor(batch_size=batch_size).open(configured, notes.append)
    try:
        return [outcome for batch in session.edits(tasks(count, side)) for outcome in batch], notes
    finally:
        session.close()


def pixels(outcomes: list[EditOutcome]) -> list[bytes]:
    return [outcome.image.tobytes() for outcome in outcomes if outcome.image is not None]


@pytest.mark.parametrize("native", [None, 16])
def test_outcomes_do_not_depend_on_the_batch_size_and_keep_the_order(native: int | None) -> None:
    alone, _ = edit(method(native=native), batch_size=1)
    for batch_size in (2, 3, 7, 50):
        together, _ = edit(method(native=native), batch_size=batch_size)
        assert [outcome.case_id for outcome in together] == [f"case-{i:03d}" for i in range(7)]
        assert pixels(together) == pixels(alone)
    assert len(set(pixels(alone))) == 7
    assert set(LOG.batches) == {1, 2, 3, 7}


def test_seeds_reach_the_method() -> None:
    (outcome, *_), _ = edit(method())
    expected = np.random.default_rng(1000).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.asarray(make_case(0).request.mask) > 0
    assert outcome.image is not None
    assert (np.asarray(outcome.image)[mask] == expected[mask]).all()


def test_a_method_sees_its_native_size_and_masks_stay_binary() -> None:
    outcomes, _ = edit(method(native=24))
    assert LOG.sizes == {(24, 24)}
    assert LOG.masks == {bytes({0, 255})}
    assert {outcome.size for outcome in outcomes} == {(32, 32)}
    assert {outcome.image.size for outcome in outcomes if outcome.image} == {(24, 24)}


def test_a_mask_that_vanishes_at_the_native_size_fails_its_case_alone() -> None:
    thin = Image.new("L", (32, 32))
    thin.putpixel((1, 1), 255)
    cases = [make_case(0), make_case(1, mask=thin), make_case(2)]
    session = LocalExecutor(batch_size=3).open(method(native=4), print)
    outcomes = [
        outcome
        for batch in session.edits(Task(case.id, 0, lambda case=case: case) for case in cases)
        for outcome in batch
    ]
    session.close()
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].error == (
        "ImageError: the mask is too thin: nothing of it is left at the method's native 4x4."
    )


def test_a_method_that_needs_no_mask_gets_none_where_it_vanishes() -> None:
    thin = Image.new("L", (32, 32))
    thin.putpixel((1, 1), 255)
    native = at_native_size(make_case(3, mask=thin).request, 4, {"source", "instruction"})
    assert native.source.size == (4, 4)
    assert native.mask is None
    assert not native.regions


def test_regions_of_which_one_vanishes_are_left_out_unless_the_method_needs_them() -> None:
    thin = Image.new("L", (32, 32))
    thin.putpixel((1, 1), 255)
    large = Region(square(32, (8, 8, 24, 24)), "a red ball")
    request = make_case(3, mask=square(32, (1, 1, 24, 24)), regions=(large, Region(thin, "a cube"))).request
    native = at_native_size(request, 8, {"source", "mask"})
    assert native.mask is not None
    assert native.mask.getextrema() == (0, 255)
    assert native.regions == ()
    with pytest.raises(ImageError, match="the mask of region 1 is too thin"):
        at_native_size(request, 8, {"source", "mask", "regions"})
    kept = at_native_size(replace(request, regions=(large,)), 8, {"source"}).regions
    assert [region.mask.size for region in kept] == [(8, 8)]


@pytest.mark.parametrize("oom", ["torch", "python", "cpu"])
def test_out_of_memory_halves_the_batch_goes_on_and_remembers(oom: str) -> None:
    outcomes, notes = edit(method(oom_above=2, oom=oom), count=21, batch_size=8)
    assert pixels(outcomes) == pixels(edit(method(), count=21)[0])
    assert notes == [
        "out of memory with a batch of 8: going on with 4",
        "out of memory with a batch of 4: going on with 2",
    ]
    LOG.clear()
    executor = LocalExecutor(batch_size=8)
    for _ in range(2):
        session = executor.open(method(oom_above=2), notes.append)
        assert sum(len(batch) for batch in session.edits(tasks(8))) == 8
        session.close()
    assert LOG.batches == [8, 4, *[2] * 8], "the second session begins where the first ended"
    session = executor.open(method(), notes.append)
    LOG.clear()
    assert sum(len(batch) for batch in session.edits(tasks(8))) == 8
    assert LOG.batches == [8], "another method's memory is its own"
    session.close()


def test_out_of_memory_with_one_image_is_an_error_of_that_case() -> None:
    class Greedy(Fake):
        def edit(self, requests):  # type: ignore[no-untyped-def]
            if any(request.target_prompt.endswith("number 2") for request in requests):
                raise RuntimeError("CUDA out of memory")
            return super().edit(requests)

    executor = LocalExecutor(batch_size=4, factory=lambda m, runtime: Greedy(m.options, runtime))
    session = executor.open(method(), lambda text: None)
    outcomes = [outcome for batch in session.edits(tasks(6)) for outcome in batch]
    session.close()
    assert [outcome.error for outcome in outcomes] == [
        None,
        None,
        "RuntimeError: CUDA out of memory",
        *[None] * 3,
    ]


def test_a_failing_case_spoils_no_other() -> None:
    good, _ = edit(method())
    prompt = make_case(4).request.target_prompt
    for batch_size in (1, 3, 7):
        outcomes, _ = edit(method(fail_on=prompt), batch_size=batch_size)
        assert outcomes[4].error == "ZeroDivisionError: no such chair"
        assert outcomes[4].image is None
        assert pixels(outcomes) == pixels(good[:4] + good[5:])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("count", "it returned 2 images for 1 requests"),
        ("size", r"it returned an image of (5, 5) where (32, 32) is expected"),
        ("mode", "it returned an image of mode L where RGB is expected"),
        ("type", "it returned str where an image is expected"),
    ],
)
def test_wrong_outputs_are_errors(wrong: str, message: str) -> None:
    outcomes, _ = edit(method(wrong=wrong))
    assert [outcome.error for outcome in outcomes] == [message] * 7
    assert not pixels(outcomes)


def test_a_case_that_cannot_be_read_fails_alone() -> None:
    def broken() -> None:
        raise ValueError("x.png: truncated")

    mixed = list(tasks(3))
    mixed[1] = Task("case-001", 0, broken)  # type: ignore[arg-type]
    session = LocalExecutor(batch_size=2).open(method(), print)
    outcomes = [outcome for batch in session.edits(mixed) for outcome in batch]
    session.close()
    assert [outcome.error for outcome in outcomes] == [None, "ValueError: x.png: truncated", None]
    assert [outcome.case_id for outcome in outcomes] == ["case-000", "case-001", "case-002"]


def test_the_oracle_is_shown_its_cases() -> None:
    outcomes, _ = edit(method("oracle"))
    for index, outcome in enumerate(outcomes):
        truth = make_case(index).truth
        assert truth is not None
        assert outcome.image is not None
        assert outcome.image.tobytes() == truth.tobytes()


def test_a_method_that_wants_cases_is_shown_them_without_the_answers() -> None:
    shown_cases: list[EditCase] = []

    class Reader(Fake):
        wants_cases = True

        def edit_cases(self, cases: Sequence[EditCase]) -> list[Image.Image]:
            shown_cases.extend(cases)
            return [case.request.source for case in cases]

    session = LocalExecutor(factory=lambda m, runtime: Reader(m.options, runtime)).open(method(), print)
    scored = ScoredAreas(square(32, (4, 4, 9, 9)))
    cases = (
        Task(f"case-{i:03d}", 1000 + i, lambda i=i: replace(make_case(i), scored=scored)) for i in range(3)
    )
    outcomes = [outcome for batch in session.edits(cases) for outcome in batch]
    session.close()
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [case.id for case in shown_cases] == [f"case-{i:03d}" for i in range(3)]
    assert [case.request.seed for case in shown_cases] == [1000, 1001, 1002]
    for index, case in enumerate(shown_cases):
        whole = make_case(index)
        assert whole.truth is not None
        assert whole.claims
        assert whole.tags
        assert (case.truth, case.claims, dict(case.tags), case.scored) == (None, (), {}, None)
        assert (case.category, case.source_id) == (whole.category, whole.source_id)


def test_an_interrupt_is_no_failed_edit() -> None:
    class Interrupted(Fake):
        def edit(self, requests):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    session = LocalExecutor(factory=lambda m, runtime: Interrupted(m.options, runtime)).open(method(), print)
    with pytest.raises(KeyboardInterrupt):
        next(session.edits(tasks(2)))
    session.close()


def test_tasks_are_taken_only_as_needed() -> None:
    task_ids: list[str] = []

    def watched() -> Iterator[Task]:
        for task in tasks(100):
            task_ids.append(task.case_id)
            yield task

    session = LocalExecutor(batch_size=4).open(method(), print)
    batches = session.edits(watched())
    next(batches)
    assert len(task_ids) <= 12
    session.close()


def test_closing_frees_the_method() -> None:
    references: list[weakref.ref[Fake]] = []

    def factory(configured: ConfiguredMethod, runtime: Runtime) -> Fake:
        instance = Fake(configured.options, runtime)
        references.append(weakref.ref(instance))
        return instance

    session = LocalExecutor(factory=factory).open(method(), print)
    assert sum(len(batch) for batch in session.edits(tasks(5))) == 5
    gc.disable()
    try:
        session.close()
        assert references[0]() is None
    finally:
        gc.enable()


def test_peak_memory_is_measured_where_torch_and_a_gpu_are(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}),
            is_available=lambda: True,
            is_initialized=lambda: True,
            empty_cache=lambda: calls.append("empty"),
            reset_peak_memory_stats=lambda device: calls.append(f"reset {device}"),
            max_memory_allocated=lambda device: 4242,
        ),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False)),
    )
    monkeypatch.setitem(sys.modules, "torch", fake)  # type: ignore[arg-type]
    session = LocalExecutor(Runtime("cuda:1"), batch_size=2).open(method(oom_above=1), print)
    outcomes = [outcome for batch in session.edits(tasks(2)) for outcome in batch]
    assert [outcome.peak_memory for outcome in outcomes] == [4242, 4242]
    assert calls == ["reset cuda:1", "empty", "reset cuda:1", "reset cuda:1"]
    session.close()
    assert calls[-1] == "empty"
    on_cpu = LocalExecutor(Runtime("cpu")).open(method(), print)
    assert {o.peak_memory for batch in on_cpu.edits(tasks(2)) for o in batch} == {None}
    on_cpu.close()


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("the prompt is out of memory lane"))
    assert describe(ValueError()) == "ValueError"
    assert len(describe(ValueError("x" * 9999))) == 500


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ExecutorError, match="at least 1"):
        LocalExecutor(batch_size=0)


# Workers. tests/bench/workers has the tests of processes that are lost.


def unreadable() -> EditCase:
    raise ValueError("x.png: truncated")


def test_workers_give_the_outcomes_of_one_process() -> None:
    def mixed() -> Iterator[Task]:
        yield from tasks(7)
        yield Task("broken", 0, unreadable)
        # Too small a mask for the native size.
        yield Task("case-009", 0, lambda: make_case(9, mask=square(32, (1, 1, 2, 2))))
        yield from islice(tasks(9), 7, 9)

    configured = method(native=4, oom_above=2, fail_on=make_case(4).request.target_prompt)
    notes: list[str] = []
    local_notes: list[str] = []
    local = LocalExecutor(batch_size=3).open(configured, local_notes.append)
    expected = [outcome for batch in local.edits(mixed()) for outcome in batch]
    local.close()
    workers = open_workers(devices=["cpu", "cpu"])
    assert workers is not None
    with workers:
        executor: Executor = WorkersExecutor(workers, batch_size=3)
        session: EditSession = executor.open(configured, notes.append)
        outcomes = [outcome for batch in session.edits(mixed()) for outcome in batch]
        session.close()
        assert session.torch_threads is None
        # The same workers serve the next method.
        session = executor.open(method(), notes.append)
        assert pixels([o for batch in session.edits(tasks(7)) for o in batch]) == pixels(edit(method())[0])
    assert executor.runtime == Runtime("cpu", "float32")
    assert [(o.case_id, o.size, o.error) for o in outcomes] == [
        (o.case_id, o.size, o.error) for o in expected
    ]
    assert [o.error for o in outcomes if o.error] == [
        "ZeroDivisionError: no such chair",
        "ValueError: x.png: truncated",
        "ImageError: the mask is too thin: nothing of it is left at the method's native 4x4.",
    ]
    assert pixels(outcomes) == pixels(expected)
    assert len(pixels(outcomes)) == 8
    assert set(notes) == set(local_notes) == {"out of memory with a batch of 3: going on with 1"}


def test_a_method_that_no_worker_can_load_has_the_error_of_one_process() -> None:
    workers = open_workers(devices=["cpu"])
    assert workers is not None
    with workers, pytest.raises(TypeError) as here:
        WorkersExecutor(workers, factory=cannot_load).open(method(), print)
    with pytest.raises(TypeError) as local:
        LocalExecutor(factory=cannot_load).open(method(), print)
    assert describe(here.value) == describe(local.value)


def test_a_method_that_stays_in_the_driver_needs_no_worker() -> None:
    class Local(Fake):
        in_driver = True

    def start(number: int) -> NoReturn:
        raise AssertionError("a worker was started")

    configured = replace(method(), cls=Local)
    with Workers(start, 2, device="cuda") as workers:
        session = WorkersExecutor(workers, batch_size=3).open(configured, print)
        outcomes = [outcome for batch in session.edits(tasks(7)) for outcome in batch]
        session.close()
    assert pixels(outcomes) == pixels(edit(method())[0])
