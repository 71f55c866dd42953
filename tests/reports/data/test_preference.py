"""A report's shares of votes are those of the study's analysis, for every method and category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.edit import CATEGORIES
from bench.store import RunStore
from bench.study.votes.analysis import Analysis, analyse
from reports import build
from reports.data import preference, scores
from reports.data.metrics import HEADINGS
from reports.data.preference import EVERYWHERE, StudyResults, VoteError
from reports.data.votes import question_results
from tests.bench.study import polls
from tests.reports import fake

CASES = fake.cases()
METHODS = ("sd_inpainting", "instruct_pix2pix", "oracle")


def simulated_study(
    kinds: Sequence[str] = ("pair",), questions: Sequence[str] = ("overall",)
) -> pd.DataFrame:
    """Votes of twelve simulated raters; the two of the wrong taste fail their attention checks."""
    generator = np.random.default_rng(3)
    columns: dict[str, list[Any]] = {name: [] for name in (
        "rater", "trial", "question", "case", "source", "category", "kind", "candidates", "answer", "role", "expected",
    )}  # fmt: skip

    def add(**values: Any) -> None:
        for name, value in values.items():
            columns[name].append(value)

    for r in range(12):
        careless = r < 2
        for t in range(40):
            case = CASES[generator.integers(len(CASES))]
            kind = kinds[t % len(kinds)]
            candidates = tuple(generator.permutation(METHODS)[: 2 if kind == "pair" else 3])
            taste = [METHODS.index(m) + generator.gumbel() * 1.5 for m in candidates]
            answer = candidates[int(np.argmin(taste) if careless else np.argmax(taste))]
            # Every seventh comparison is a tie.
            tie = kind == "pair" and t % 7 == 0
            add(
                rater=f"r{r}", trial=f"{r}-{t}", question=questions[t % len(questions)], case=case.id,
                source=case.source_id, category=case.category, kind=kind, candidates=candidates,
                answer="tie" if tie else answer, role="trial", expected=None,
            )  # fmt: skip
        for t in range(3):
            add(
                rater=f"r{r}", trial=f"{r}-check-{t}", question=questions[0], case=CASES[0].id,
                source=CASES[0].source_id, category=CASES[0].category, kind="pair",
                candidates=("oracle", "sd_inpainting"), answer="sd_inpainting" if careless else "oracle",
                role="attention", expected="oracle",
            )  # fmt: skip
    return polls.frame(**columns, rater_kind=["simulated"] * len(columns["rater"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    values = [float(k % 3) for k in range(len(CASES))]
    leak = {name: [v + i for v in values] for i, name in enumerate(METHODS)}
    return fake.run(tmp_path_factory.mktemp("run") / "r", {"leak_lpips": leak})


def metric_values(run: RunStore) -> pd.DataFrame:
    frame = run.scores()
    titles = {digest: spec.title for digest, spec in run.methods.items()}
    return frame.assign(method=frame["method"].map(titles), higher_is_better=False)


def both(
    run: RunStore, kinds: Sequence[str] = ("pair",), questions: Sequence[str] = ("overall",)
) -> tuple[Analysis, StudyResults]:
    votes = simulated_study(kinds, questions)
    analysis = analyse(votes, simulated=True, scores=metric_values(run), resamples=300)
    return analysis, question_results(analysis, votes, "overall")


@pytest.mark.parametrize("questions", [("overall",), ("overall", "prompt")])
def test_report_and_analysis_give_the_same_numbers(run: RunStore, questions: Sequence[str]) -> None:
    analysis, results = both(run, questions=questions)
    assert analysis.raters["excluded"].sum() == 2
    summary = build.compute(run, fake.METRICS, study=results, resamples=100).data.frame.set_index(
        ["protocol", "category", "method", "metric"]
    )
    shares = analysis.shares[
        (analysis.shares["raters"] == "kept")
        & (analysis.shares["question"] == ("all" if len(questions) == 1 else "overall"))
    ]
    compared = set()
    for row in shares.to_dict("records"):
        protocol = EVERYWHERE if row["protocol"] == "all" else row["protocol"]
        place = (protocol, row["category"], row["method"])
        won, votes = (
            summary.loc[(*place, name)] for name in ("simulated_preference", "simulated_preference_votes")
        )
        assert [won[c] for c in ("value", "low", "high", "n")] == [
            row[c] for c in ("share", "low", "high", "n")
        ]
        assert [votes[c] for c in ("value", "low", "high", "n")] == [
            row[c] for c in ("of_all", "of_all_low", "of_all_high", "n_votes")
        ]
        compared.add(place)
    assert compared == {
        (p, c, m) for p in ("mini-coco", EVERYWHERE) for c in ("all", *CATEGORIES) for m in METHODS
    }
    # The careless raters' votes are in none of them.
    # Shares over all raters are different numbers.
    everyone = analysis.shares[(analysis.shares["raters"] == "all") & (analysis.shares["category"] == "all")]
    assert not set(everyone["share"]) & set(shares["share"])


def test_correlations_of_a_report_are_the_analysis_s(run: RunStore) -> None:
    analysis, results = both(run)
    validity = build.compute(run, fake.METRICS, study=results, extras=True, resamples=100).validity
    assert validity is not None
    columns = ["category", "metric", "measure", "value", "low", "high", "n"]
    expected_rows = analysis.correlation[
        (analysis.correlation["raters"] == "kept") & (analysis.correlation["protocol"] == "mini-coco")
    ]
    rows = validity[validity["against"] == "simulated_votes"]
    pd.testing.assert_frame_equal(
        rows[columns].reset_index(drop=True), expected_rows[columns].reset_index(drop=True), check_dtype=False
    )
    assert set(rows["category"]) == {"all", *CATEGORIES}


def test_disputed_cases_are_chosen_by_the_votes_of_those_kept(run: RunStore) -> None:
    _, results = both(run)
    assert set(results.votes["rater"]) == {f"r{r}" for r in range(2, 12)}


def test_simulated_raters_are_named_wherever_their_votes_stand(run: RunStore) -> None:
    _, results = both(run)
    report = build.compute(run, fake.METRICS, study=results, extras=True, resamples=100)
    candidates = [
        t for t in report.tables if "vote" in t.name or any("preference" in c.metric for c in t.columns)
    ]
    assert {"paper-3-preference", "validity-simulated-votes-agreement-mini-coco"} <= {
        t.name for t in candidates
    }
    assert all(
        "SIMULATED RATERS" in t.title and "SIMULATED RATERS, not people" in t.caption for t in candidates
    )
    assert not any(metric.startswith("preference") for metric in report.data.frame["metric"])
    assert "SIMULATED" in HEADINGS["simulated_preference"]


def test_the_caption_says_how_many_voted_and_the_notes_who_is_excluded_and_why(run: RunStore) -> None:
    _, results = both(run)
    report = {t.name: t for t in build.compute(run, fake.METRICS, study=results, resamples=100).tables}
    table = report["paper-3-preference"]
    assert "400 votes of 10 raters" in table.caption
    notes = " ".join(table.notes)
    assert "2 of 12 are excluded" in notes
    assert "more than 1 failed attention check" in notes


def test_shares_of_all_votes_add_up_to_one(run: RunStore) -> None:
    for kinds in (("pair",), ("best",), ("pair", "best")):
        frame = preference.preference_summary(both(run, kinds)[1])
        of_all = frame[(frame["metric"] == "simulated_preference_votes") & (frame["protocol"] == "mini-coco")]
        assert of_all.groupby("category")["value"].sum().to_numpy() == pytest.approx(1)
        # Choices of the best are no comparisons of two.
        assert (frame["metric"] == "simulated_preference").any() == ("pair" in kinds)


def test_a_question_that_nobody_was_asked_is_refused(run: RunStore) -> None:
    votes = simulated_study()
    analysis = analyse(votes, simulated=True, resamples=100)
    with pytest.raises(VoteError, match="Questions with votes: overall"):
        question_results(analysis, votes, "prompt")


def test_votes_on_another_run_are_refused(run: RunStore, tmp_path: Path) -> None:
    _, results = both(run)
    for column, value, says in (
        ("candidates", ("nobody", "oracle"), "nobody"),
        ("case", "elsewhere", "elsewhere"),
    ):
        votes = results.votes.head(1).assign(**{column: [value]})
        strange = StudyResults(results.shares, results.correlation, votes, results.statement)
        with pytest.raises(VoteError, match=says):
            preference.checked(strange, scores.load(run))
