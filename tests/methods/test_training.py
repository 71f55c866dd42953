"""The training loop: it learns, it resumes exactly, and its schedule and averages follow their formulas."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from methods.training import Budget, Ema, Machine, Recording, budget_fields, train

BUDGET = Budget(samples=640, batch=16, learning_rate=1e-2, warmup=64, decay=0.5, ema=0.9)
CPU = Machine(precision="float32")


def task(seed: int = 0):  # type: ignore[no-untyped-def]
    """Fit a fixed linear map: a model, its loss, its batches."""
    torch.manual_seed(seed)
    model = nn.Linear(8, 4)
    goal = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))

    def batch(number: int) -> Tensor:
        return torch.randn(16, 8, generator=torch.Generator().manual_seed(number))

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        target = x @ goal.T + 0.01 * torch.randn(len(x), 4, generator=noise)
        return ((model(x) - target) ** 2).mean(), {}

    return model, loss, batch


def test_the_loss_falls(tmp_path: Path) -> None:
    model, loss, batch = task()
    before = float(loss(batch(1000), torch.Generator().manual_seed(0))[0].detach())
    train(tmp_path, {"m": model}, loss, batch, replace(BUDGET, samples=8000), CPU)
    after = float(loss(batch(1000), torch.Generator().manual_seed(0))[0].detach())
    assert after < 0.05 * before


class Stop(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize(
    "recording", [Recording(save_seconds=0.0), Recording(save_steps=10, keep=1, log_seconds=0)]
)
def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path, recording: Recording) -> None:
    model, loss, batch = task()
    # The reference: a run without interruption.
    whole = train(tmp_path / "whole", {"m": model}, loss, batch, BUDGET, CPU)

    def stopping(number: int) -> Tensor:
        if number == 23:
            raise Stop
        return batch(number)

    model, loss, batch = task()
    # Stopped before step 23, then continued from the last checkpoint.
    with pytest.raises(Stop):
        train(tmp_path / "cut", {"m": model}, loss, stopping, BUDGET, CPU, recording=recording)
    model, loss, batch = task(seed=99)  # the weights that it starts from must not matter
    resumed = train(tmp_path / "cut", {"m": model}, loss, batch, BUDGET, CPU, recording=recording)
    assert resumed.samples == whole.samples == 640
    for name, value in whole.weights["m"].items():
        assert torch.equal(value, resumed.weights["m"][name])
    # Runs that save by steps rotate their folders and log every step once.
    if recording.save_steps:
        assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-0000040"]
        with (tmp_path / "cut" / "log.csv").open(newline="") as file:
            assert [row["step"] for row in csv.DictReader(file)] == [str(i) for i in range(1, 41)]


def test_a_finished_training_returns_at_once(tmp_path: Path) -> None:
    model, loss, batch = task()
    # The second call gets no batch.
    first = train(tmp_path, {"m": model}, loss, batch, BUDGET, CPU)
    again = train(tmp_path, {"m": model}, loss, lambda number: pytest.fail("a batch was made"), BUDGET, CPU)
    assert all(torch.equal(value, again.weights["m"][name]) for name, value in first.weights["m"].items())


def test_a_log_of_an_earlier_version_keeps_its_columns(tmp_path: Path) -> None:
    model, loss, batch = task()
    train(tmp_path, {"m": model}, loss, batch, replace(BUDGET, samples=320), CPU)
    # The columns of earlier versions.
    (tmp_path / "log.csv").write_text("samples,seconds,rate,loss\n320,1.0,1e-2,0.5\n")
    train(tmp_path, {"m": model}, loss, batch, BUDGET, CPU)
    header, old, new = (tmp_path / "log.csv").read_text().splitlines()
    assert (header, old) == ("samples,seconds,rate,loss", "320,1.0,1e-2,0.5")
    assert new.split(",")[0] == "640"


def test_accumulated_passes_are_one_large_batch(tmp_path: Path) -> None:
    """Without noise, two passes of 16 samples give the step of 32 samples."""
    torch.manual_seed(0)
    start = nn.Linear(8, 1).state_dict()
    # The same batches, in one pass or in two.
    weights = []
    for accumulate in (1, 2):
        model = nn.Linear(8, 1)
        model.load_state_dict(start)
        samples = torch.randn(32, 8, generator=torch.Generator().manual_seed(7))

        def loss(x: Tensor, _: torch.Generator, model: nn.Module = model) -> tuple[Tensor, dict[str, float]]:
            return ((model(x) - 1) ** 2).mean(), {}

        def batch(number: int, parts: tuple[Tensor, ...] = samples.chunk(accumulate)) -> Tensor:
            return parts[number % len(parts)]

        budget = Budget(samples=320, batch=32, learning_rate=1e-2, warmup=0)
        machine = replace(CPU, accumulate=accumulate)
        result = train(tmp_path / str(accumulate), {"m": model}, loss, batch, budget, machine)
        weights.append(result.weights["m"]["weight"])
    assert torch.allclose(*weights, atol=1e-6)


def _one_of_two(index: int, folder: Path) -> None:
    """One of two processes, each with half of every batch."""
    torch.set_num_threads(1)
    # The processes meet at a file: a port could be taken by another test.
    meeting = (folder / "meeting").as_uri()
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=index, world_size=2)
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    network = nn.parallel.DistributedDataParallel(model)

    def loss(x: Tensor, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return ((network(x) - 1) ** 2).mean(), {}

    def batch(number: int) -> Tensor:
        whole = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
        return whole.chunk(2)[index]

    budget = Budget(samples=64, batch=16, learning_rate=1e-2, warmup=0)
    train(folder / "two", {"m": model}, loss, batch, budget, CPU, distributed=network)
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    # Fresh interpreters that run this file. A spawned copy of the test process would run its main script again,
    # whatever an earlier test has put there.
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(index), str(tmp_path)],
            env={
                **os.environ,
                "RANK": str(index),
                "WORLD_SIZE": "2",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        for index in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    torch.manual_seed(0)
    model = nn.Linear(8, 1)

    def loss(x: Tensor, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return ((model(x) - 1) ** 2).mean(), {}

    def batch(number: int) -> Tensor:
        return torch.randn(16, 8, generator=torch.Generator().manual_seed(number))

    budget = Budget(samples=64, batch=16, learning_rate=1e-2, warmup=0)
    train(tmp_path / "one", {"m": model}, loss, batch, budget, CPU)
    # Only the first process wrote the state.
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert torch.allclose(one["modules"]["m"]["weight"], two["modules"]["m"]["weight"], atol=1e-6)


def test_the_schedule_warms_up_holds_and_decays() -> None:
    budget = Budget(samples=1000, batch=10, learning_rate=1.0, warmup=100, decay=0.4)
    rates = [budget.learning_rate_at(samples) for samples in range(0, 1000, 10)]
    # Warm-up, plateau, decay.
    assert rates[0] < 0.2
    assert rates[:10] == sorted(rates[:10])
    assert set(rates[10:61]) == {1.0}
    assert rates[61:] == sorted(rates[61:], reverse=True)
    assert budget.learning_rate_at(800) == pytest.approx(0.01 + 0.99 * 0.5)
    assert budget.learning_rate_at(1000) == pytest.approx(0.01)


def test_cards_keep_the_names_of_a_budgets_fields() -> None:
    assert list(budget_fields(BUDGET)) == [
        "samples", "batch", "rate", "warmup", "decay", "weight_decay", "ema", "clip",
    ]  # fmt: skip


def test_the_average_is_the_geometric_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = Ema({"m": model}, decay=0.5)
    # With a decay of 0.5 the newest value counts half.
    expected = 0.0
    for step in range(20, 24):
        with torch.no_grad():
            model.weight.fill_(float(step))
        ema.update({"m": model}, step)
        expected = 0.5 * expected + 0.5 * step
    assert float(ema.state("m", model)["weight"]) == pytest.approx(expected)


def test_a_step_without_finite_gradients_changes_nothing(tmp_path: Path) -> None:
    model, _, batch = task()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def broken(x: Tensor, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return model(x).sum() * float("nan"), {}

    train(tmp_path, {"m": model}, broken, batch, replace(BUDGET, samples=32), CPU)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


if __name__ == "__main__":
    _one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
