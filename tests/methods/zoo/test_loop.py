"""The training loop: it learns, it resumes exactly, its schedule and averages are what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from methods.zoo.loop import Budget, Ema, Machine, train

BUDGET = Budget(samples=640, batch=16, rate=1e-2, warmup=64, decay=0.5, ema=0.9)
CPU = Machine(bf16=False)


def task(seed: int = 0):  # type: ignore[no-untyped-def]
    """Fit a fixed linear map: a model, its loss, its batches."""
    torch.manual_seed(seed)
    model = nn.Linear(8, 4)
    goal = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))

    def batch(step: int) -> Tensor:
        return torch.randn(16, 8, generator=torch.Generator().manual_seed(step))

    def loss(x: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        target = x @ goal.T + 0.01 * torch.randn(16, 4, generator=noise)
        return ((model(x) - target) ** 2).mean(), {}

    return model, loss, batch


def test_the_loss_falls(tmp_path: Path) -> None:
    model, loss, batch = task()
    before = float(loss(batch(1000), torch.Generator().manual_seed(0))[0].detach())
    train(tmp_path, {"m": model}, loss, batch, replace(BUDGET, samples=8000), CPU)
    after = float(loss(batch(1000), torch.Generator().manual_seed(0))[0].detach())
    assert after < 0.05 * before


def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    model, loss, batch = task()
    whole = train(tmp_path / "whole", {"m": model}, loss, batch, BUDGET, CPU)

    class Stop(Exception):
        pass

    def stopping(step: int) -> Tensor:
        if step == 23:
            raise Stop
        return batch(step)

    model, loss, batch = task()
    every_step = replace(CPU, save_every=0.0)
    with pytest.raises(Stop):
        train(tmp_path / "cut", {"m": model}, loss, stopping, BUDGET, every_step)
    model, loss, batch = task(seed=99)  # whatever it starts from must not matter
    resumed = train(tmp_path / "cut", {"m": model}, loss, batch, BUDGET, every_step)
    assert resumed.samples == whole.samples == 640
    for name, value in whole.weights["m"].items():
        assert torch.equal(value, resumed.weights["m"][name])


def test_a_finished_training_returns_at_once(tmp_path: Path) -> None:
    model, loss, batch = task()
    first = train(tmp_path, {"m": model}, loss, batch, BUDGET, CPU)

    def untouchable(step: int) -> Tensor:
        assert step == 40, "the batch after the last may be prepared, but none is learnt"
        return batch(step)

    again = train(tmp_path, {"m": model}, loss, untouchable, BUDGET, CPU)
    assert all(torch.equal(v, again.weights["m"][k]) for k, v in first.weights["m"].items())


def test_the_schedule_warms_up_holds_and_decays() -> None:
    budget = Budget(samples=1000, batch=10, rate=1.0, warmup=100, decay=0.4)
    rates = [budget.learning_rate(seen) for seen in range(0, 1000, 10)]
    assert rates[0] < 0.2
    assert rates[:10] == sorted(rates[:10])
    assert set(rates[10:61]) == {1.0}
    assert rates[61:] == sorted(rates[61:], reverse=True)
    assert budget.learning_rate(800) == pytest.approx(0.01 + 0.99 * 0.5)
    assert budget.learning_rate(1000) == pytest.approx(0.01)


def test_the_average_is_the_geometric_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = Ema({"m": model}, decay=0.5)
    expected = 0.0
    for step in range(20, 24):
        with torch.no_grad():
            model.weight.fill_(float(step))
        ema.update({"m": model}, step)
        expected = 0.5 * expected + 0.5 * step
    assert float(ema.state("m", model)["weight"]) == pytest.approx(expected)


def test_a_step_without_finite_gradients_changes_nothing(tmp_path: Path) -> None:
    model, _, batch = task()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def broken(x: Tensor, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return model(x).sum() * float("nan"), {}

    train(tmp_path, {"m": model}, broken, batch, replace(BUDGET, samples=32), CPU)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
