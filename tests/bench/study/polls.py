"""Votes of raters with known strengths, as the table that the analysis takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def poll(
    strengths: Sequence[float] = (1.0, 0.5, 0.0, -0.5, -1.0),
    *,
    raters: int = 20,
    cases: int = 40,
    per_rater: int = 60,
    tie: float = 0.6,
    rater_sd: float = 0.0,
    case_sd: float = 0.0,
    kind: str = "pair",
    shown: int = 3,
    categories: int = 2,
    seed: int = 0,
    **columns: Any,
) -> pd.DataFrame:
    """Choices by Davidson's model (pairs) or Luce's (best), with rater and case effects on every method.

    Gumbel noise on the log strengths gives exactly those models; ``tie`` is Davidson's nu.
    """
    generator = np.random.default_rng(seed)
    titles = [f"M{i}" for i in range(len(strengths))]
    theta = np.asarray(strengths, dtype=float)
    by_rater = generator.normal(0, rater_sd, (raters, len(theta)))
    by_case = generator.normal(0, case_sd, (cases, len(theta)))
    n = raters * per_rater
    rater, case = np.repeat(np.arange(raters), per_rater), generator.integers(cases, size=n)
    order = np.argsort(generator.random((n, len(theta))), axis=1)[:, : 2 if kind == "pair" else shown]
    utility = theta[order] + by_rater[rater[:, None], order] + by_case[case[:, None], order]
    if kind == "pair" and tie > 0:
        utility = np.concatenate([utility, np.log(tie) + utility.mean(axis=1, keepdims=True)], axis=1)
    pick = (utility + generator.gumbel(size=utility.shape)).argmax(axis=1)
    candidates = [tuple(titles[i] for i in row) for row in order]
    answers = [
        one[chosen] if chosen < len(one) else "tie" for one, chosen in zip(candidates, pick, strict=True)
    ]
    return frame(
        rater=[f"r{i}" for i in rater],
        case=[f"c{i}" for i in case],
        category=[f"cat{i % categories}" for i in case],
        kind=[kind] * n,
        candidates=candidates,
        answer=answers,
        reaction_ms=generator.lognormal(8, 0.3, n).astype(int),
        **columns,
    )


def frame(**columns: Any) -> pd.DataFrame:
    """A table of votes from some columns; the others are filled in. ``source`` follows ``case``."""
    n = len(columns["answer"])
    plain: dict[str, Any] = {
        "study": ["taste"] * n,
        "rater": [f"r{i}" for i in range(n)],
        "trial": [f"t{i}" for i in range(n)],
        "question": ["overall"] * n,
        "protocol": ["mini-coco"] * n,
        "case": [f"c{i}" for i in range(n)],
        "category": ["attribute"] * n,
        "kind": ["pair"] * n,
        "candidates": [("A", "B")] * n,
        "role": ["trial"] * n,
        "repeat_of": [None] * n,
        "expected": [None] * n,
        "reaction_ms": [3000] * n,
        "server_time": pd.Timestamp("2025-03-01T10:00:00.123456Z") + pd.to_timedelta(range(n), unit="s"),
    } | columns
    plain.setdefault("source", [f"img-{case}" for case in plain["case"]])
    order = [
        *("study", "rater", "trial", "question", "protocol", "case", "source", "category", "kind"),
        *("candidates", "answer", "role", "repeat_of", "expected", "reaction_ms", "server_time"),
        *(
            name
            for name in ("rater_kind", "exclusion", "first_answer", "scale", "over_time", "both_orders")
            if name in plain
        ),
    ]
    objects = ("candidates", "repeat_of", "expected", "over_time", "both_orders")
    return pd.DataFrame(
        {name: pd.Series(plain[name], dtype=object) if name in objects else plain[name] for name in order}
    )


def small() -> pd.DataFrame:
    """Two raters, three cases; A against B, and once A against C."""
    return frame(
        rater=["x", "x", "x", "y", "y", "y"],
        case=["c0", "c1", "c2", "c0", "c1", "c2"],
        category=["attribute", "attribute", "background"] * 2,
        protocol=["mini-coco", "mini-coco", "mini-celeba-hq"] * 2,
        candidates=[("A", "B"), ("B", "A"), ("A", "C"), ("A", "B"), ("B", "A"), ("C", "A")],
        answer=["A", "tie", "A", "B", "A", "C"],
    )


def mixed_votes() -> pd.DataFrame:
    """Pairs and choices of the best, two questions, repeats and attention checks; one rater fails them."""
    pairs = poll(raters=10, per_rater=40, seed=1)
    best = poll(raters=10, per_rater=10, seed=2, kind="best")
    best["trial"] = "b" + best["trial"]
    real = poll((0.2, 0.1, 0.0, -0.1, -0.2), raters=10, per_rater=10, seed=3)
    real["trial"], real["question"] = "q" + real["trial"], "real"
    repeated = pairs.iloc[::10].copy()
    repeated["repeat_of"], repeated["trial"], repeated["role"] = (
        repeated["trial"],
        "z" + repeated["trial"],
        "repeat",
    )
    check = pairs.iloc[::13].copy()
    check["trial"], check["role"] = "a" + check["trial"], "attention"
    check["expected"] = [c[0] for c in check["candidates"]]
    check["answer"] = [c[r == "r3"] for c, r in zip(check["candidates"], check["rater"], strict=True)]
    return pd.concat([pairs, best, real, repeated, check], ignore_index=True)


def metric_values(noise: float = 1.0) -> pd.DataFrame:
    """``good`` follows the strengths, ``bad`` is its negative with the direction said, ``dice`` is nothing."""
    generator = np.random.default_rng(9)
    scores = []
    for case in range(40):
        for method in range(5):
            value = 1.0 - 0.5 * method + noise * generator.normal()
            for metric, x, up in (
                ("good", value, True),
                ("bad", -value, False),
                ("dice", generator.normal(), True),
            ):
                scores.append(("mini-coco", f"M{method}", f"c{case}", metric, x, up))
    return pd.DataFrame(scores, columns=["protocol", "method", "case", "metric", "value", "higher_is_better"])


def rows(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    """The rows of a result with all raters, over everything that ``where`` does not name."""
    where = {"raters": "all", "question": "all", "protocol": "all", "category": "all", **where}
    in_scope = np.logical_and.reduce([table[column] == value for column, value in where.items()])
    return table[in_scope].reset_index(drop=True)
