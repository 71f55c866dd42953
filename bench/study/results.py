"""The votes of a study and what is computed from them: reading, joining, excluding raters, analysing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.study import StudyError
from bench.study.serving import open_store

if TYPE_CHECKING:
    import pandas as pd

    from bench.store import RunStore
    from bench.study.outcomes import Outcome
    from bench.study.store import StudyStore
    from bench.study.votes.analysis import Analysis
    from bench.study.votes.exclusion import Exclusion


def stored_votes(store: StudyStore, study: str, *, simulated: bool) -> pd.DataFrame:
    """The votes of people, or of simulated raters.

    Raises :class:`StudyError` where the study has votes of the other kind alone.
    """
    votes = store.votes(study, "simulated" if simulated else "human")
    if not votes.empty:
        return votes
    # Without any vote the analysis has an error of its own. Votes of the other kind only lack an option.
    other_votes = store.votes(study, "human" if simulated else "simulated")
    if not other_votes.empty:
        remedy = "leave out --simulated" if simulated else "add --simulated to read them"
        kind, other_kind = ("simulated raters", "people") if simulated else ("people", "simulated raters")
        raise StudyError(f"{study}: no votes of {kind}, but {len(other_votes)} of {other_kind}: {remedy}.")
    return votes


def exclusion_rule(bounds: Mapping[str, Any]) -> Exclusion:
    """The rule of a study's setting ``exclusion``. Raises :class:`StudyError` for an unknown or impossible bound."""
    from dataclasses import fields

    from bench.registry import did_you_mean
    from bench.study.votes.exclusion import Exclusion

    names = [entry.name for entry in fields(Exclusion)]
    for name in bounds:
        if name not in names:
            raise StudyError(
                f"setting exclusion: {name!r} is unknown.{did_you_mean(name, names)} Known: {', '.join(names)}."
            )
    # A text in place of a number raises TypeError at the first comparison.
    try:
        return Exclusion(**bounds)
    except (TypeError, ValueError) as error:
        raise StudyError(f"setting exclusion: {error} Give numbers, or null for no bound.") from error


def analyse_studies(
    studies: Sequence[str],
    store: str,
    *,
    scores: pd.DataFrame | None = None,
    simulated: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Analysis, pd.DataFrame]:
    """The analysis of the stored votes of one study, or of its waves together, and those votes.

    The exclusion rule is that of the studies, which have to state the same one. ``scores`` has the columns of
    :func:`run_scores`. ``study analyse`` and ``report --study`` both print what this returns. Raises
    :class:`StudyError`.
    """
    import pandas as pd

    from bench.study.votes.analysis import analyse

    with open_store(store) as opened:
        parts = [stored_votes(opened, study, simulated=simulated) for study in dict.fromkeys(studies)]
        rules = [exclusion_rule(opened.study(study).settings.exclusion) for study in studies]
    votes = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    analysis = analyse(
        votes,
        # Several studies state their rules in the votes, where different ones are refused.
        exclusion=rules[0] if len(parts) == 1 else None,
        scores=scores,
        resamples=resamples,
        seed=seed,
        simulated=simulated,
    )
    return analysis, votes


def read_votes(files: Sequence[Path]) -> pd.DataFrame:
    """The votes of one or more exported files. Raises :class:`StudyError` as the readers and :func:`join_votes` do."""
    from bench.study.exchange import import_votes

    return join_votes([(str(file), import_votes(file)) for file in files])


def join_votes(parts: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The votes of ``(name of the file, its votes)``. A vote that two files hold is taken once.

    Raises :class:`StudyError` where two files hold different answers of one rater to one trial.
    """
    import pandas as pd

    from bench.study.votes.frame import KEY

    votes = pd.concat([part.assign(file=name) for name, part in parts], ignore_index=True)
    kinds = sorted(set(votes.get("rater_kind", pd.Series(dtype=object)).dropna()))
    if len(kinds) > 1:
        raise StudyError(
            f"the files hold votes of raters of the kinds {' and '.join(kinds)}, which are never counted together. "
            "Join those of one kind."
        )
    key = KEY
    for _, copies in votes[votes.duplicated(key, keep=False)].groupby(key):
        if copies["answer"].nunique() > 1:
            vote = copies.iloc[0]
            raise StudyError(
                f"{' and '.join(dict.fromkeys(copies['file']))} hold different answers of rater {vote['rater']} "
                f"to trial {vote['trial']} of {vote['study']}. Leave out the file that was changed."
            )
    return votes.drop_duplicates(key).drop(columns="file").reset_index(drop=True)


def run_scores(run: Path | RunStore) -> pd.DataFrame:
    """A run's scores as the analysis takes them: protocol, method (title), case, metric, value, higher_is_better.

    Verdicts of judges that compare pairs are among them, with the other method's title in ``against``. Scores that an
    opened run leaves out (``RunStore.leave_out``) are not.
    """
    import pandas as pd

    from bench.judges.pairwise import pair_judges, verdicts_of_replies
    from bench.metrics import METRICS, info_of
    from bench.registry import Registry
    from bench.store import RunStore
    from bench.study.build import method_titles

    store = run if isinstance(run, RunStore) else RunStore.open(run)
    scores = store.scores()
    # Votes name methods by these titles: two methods of one label have different ones.
    titles = method_titles([store])
    # Metrics without a direction are left out: votes can neither agree nor disagree with them.
    registry = Registry("metric", METRICS)
    directions = {name: info_of(registry.load(name)).higher_is_better for name in registry.names()}
    directed = {name: higher for name, higher in directions.items() if higher is not None}
    # A score of the composited edit has the direction of its metric.
    metrics = scores["metric"].str.removesuffix("_pasted")
    rows = metrics.isin(directed)
    scores = scores[rows].assign(
        method=scores["method"].map(titles), higher_is_better=metrics[rows].map(directed)
    )
    columns = ["protocol", "method", "case", "metric", "value", "higher_is_better", "against"]
    verdicts = [
        (protocol, method, case, name, verdict, True, other)
        for name, judge in pair_judges(store).items()
        for protocol, case, method, other, verdict in verdicts_of_replies(store, judge, titles)
    ]
    scores = scores.assign(against=None)[columns]
    return pd.concat([scores, pd.DataFrame(verdicts, columns=columns)]) if verdicts else scores


def rater_outcomes(store: StudyStore, study: str) -> list[Outcome]:
    """The outcome of each rater of a study, for the recruiting platform. See :mod:`bench.study.outcomes`."""
    from bench.study.outcomes import outcomes
    from bench.study.votes.exclusion import rater_quality
    from bench.study.votes.frame import check_votes

    loaded = store.study(study)
    rule = exclusion_rule(loaded.settings.exclusion)
    votes = store.votes(study)
    reasons: dict[str, str] = {}
    if len(votes):
        verdicts = rater_quality(check_votes(votes), rule).to_dict("records")
        reasons = {str(row["rater"]): str(row["why"]) for row in verdicts if row["excluded"]}
    return outcomes(
        store.raters(study),
        store.quality(study),
        reasons,
        loaded.settings,
        planned_minutes=loaded.design.options.minutes,
    )
