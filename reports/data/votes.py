"""A study's analysis as a report takes it: the results on one question, of the raters kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.data.preference import StudyResults, VoteError

if TYPE_CHECKING:
    import pandas as pd

    from bench.store import RunStore
    from bench.study.votes.analysis import Analysis


def study_results(
    run: RunStore, study: str, store: str | None, question: str, *, simulated: bool
) -> StudyResults:
    """Analyses a study as ``study analyse`` does, for the report of a run.

    ``store`` is the study's database. None takes the one that the study commands use. Raises :class:`VoteError` where
    nobody voted on the question, and StudyError as the analysis does.
    """
    from bench.study.results import analyse_studies, run_scores
    from bench.study.serving import STORE

    analysis, votes = analyse_studies([study], store or STORE, scores=run_scores(run), simulated=simulated)
    return question_results(analysis, votes, question)


def file_results(run: RunStore, file: str, question: str, *, simulated: bool) -> StudyResults:
    """As :func:`study_results`, of a file of votes that were exported or imported. Votes of models are refused."""
    from pathlib import Path

    from bench.study.exchange import import_votes
    from bench.study.results import run_scores
    from bench.study.votes.analysis import analyse

    votes = import_votes(Path(file))
    return question_results(analyse(votes, scores=run_scores(run), simulated=simulated), votes, question)


def question_results(analysis: Analysis, votes: pd.DataFrame, question: str) -> StudyResults:
    """Selects the part of an analysis of ``votes`` that answers one question."""
    from bench.study.types import BOTH_BAD, TIE
    from bench.study.votes.exclusion import kept_raters

    # Votes on the question, without repeats, attention checks and excluded raters.
    votes = votes[(votes["role"] == "trial") & (votes["kind"] != "rate")]
    # The study may have asked several questions.
    questions = sorted(set(votes["question"]))
    if question not in questions:
        raise VoteError(
            f"study {', '.join(analysis.studies)}: no votes on {question!r}. "
            f"Questions with votes: {', '.join(questions)}. Name one with --question."
        )
    # A report knows one answer without a preference.
    votes = votes[votes["question"] == question].replace({"answer": {BOTH_BAD: TIE}})
    if analysis.rater_set == "kept":
        votes = votes[kept_raters(votes, analysis.raters)]
    # In a study of one question, the rows over all questions are that question's.
    scope = question if len(questions) > 1 else "all"

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        # Without scores there is no correlation, and no column.
        if frame.empty:
            return frame
        return frame[(frame["raters"] == analysis.rater_set) & (frame["question"] == scope)]

    # How many votes and raters, and the rule that excludes raters.
    statement = analysis.statement_of(
        len(votes),
        votes["rater"].nunique(),
        votes["source"].nunique(),
        question if len(questions) > 1 else "",
    )
    return StudyResults(
        rows(analysis.shares), rows(analysis.correlation), votes, statement, analysis.simulated
    )
