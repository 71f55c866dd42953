"""Results of the votes: shares, wins, strengths, agreement, bias, exclusion, and the metrics against the votes.

:func:`analyse` is a pure function of the table of votes (:mod:`bench.study.votes.frame`), the exclusion rule and the
seed. It computes every result twice: with all raters, and with the raters that the rule keeps. Intervals resample
raters and sources (:mod:`bench.study.votes.crossed`). Wilson's intervals, which take votes for independent, stand
beside them.

Votes are the rows whose role is ``"trial"``. Practice, attention checks and repeats never count as votes. Ratings of
single edits have tables of their own (:mod:`bench.study.votes.ratings`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from bench.study.votes.correlation import Values, read_scores
from bench.study.votes.exclusion import Exclusion, kept_raters, rater_quality, stated_rule
from bench.study.votes.frame import RATER_KINDS, SCOPE, VotesError, check_votes
from bench.study.votes.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

# Kind of raters -> what precedes every text about their results, and what they are called.
WARNINGS = {
    "human": "",
    "simulated": "SIMULATED RATERS, not people: ",
    "model": "VOTES OF MODELS, not people: ",
}
RATER_NAMES = {"human": "people", "simulated": "simulated", "model": "models"}


class OtherRaters(VotesError):
    """Votes of another kind of raters than was asked for, or two kinds in one table."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """Results of the votes as tidy tables.

    The column ``raters`` names the set of raters of a row: ``"all"`` or ``"kept"`` (by the exclusion rule). Missing
    values are NaN in the tables and None in :meth:`to_dict`. Shares lie in 0..1, strengths are log odds. ``low`` and
    ``high`` are the ends of intervals that resample raters and sources.
    """

    studies: tuple[str, ...]
    # Whose votes they are: `human`, `simulated` or `model`. Every output says so.
    rater_kind: str
    exclusion: Exclusion
    resamples: int
    seed: int
    # Level of all intervals, such as 0.95.
    level: float
    # Remarks that a reader needs beside the figures.
    notes: tuple[str, ...]
    # raters, n_raters, n_votes, n_pairs, n_ties (no difference), n_both_bad, n_corrected (votes that replace an earlier
    # answer of the rater), n_over_time (trials answered after their time limit, None without one), n_best, n_ratings
    # (trials in which an edit was rated), n_cases, n_sources.
    counts: pd.DataFrame
    # raters, scope, kind, method, n (votes that showed it), wins, ties (without a preference), losses, share (of those
    # votes, a tie is half a win), wilson_low, wilson_high, low, high. Then of_all (the same wins as a share of all
    # n_votes votes, which add up to 1 over the methods), of_all_low, of_all_high, both_bad (votes that call the method
    # and its rival bad, which are ties too), both_bad_share, both_bad_low, both_bad_high, n_raters, n_sources.
    shares: pd.DataFrame
    # raters, scope, kind, method, against, wins, ties, losses, n, share, wilson_low, wilson_high, low, high.
    # For choices of the best, a method wins when it is chosen while the other was shown.
    wins: pd.DataFrame
    # raters, scope, method, strength, low, high, elo (the same on the arenas' scale), elo_low, elo_high,
    # rank (equal strengths share one), behind (distance to the strongest), behind_low, behind_high, separable (whether
    # that interval leaves out 0). Where the votes do not bound a strength on one side (an undefeated method), that end
    # alone is empty.
    strengths: pd.DataFrame
    # raters, scope, n, tie (Davidson's nu), tie_low, tie_high, regularised, draws_regularised, note.
    fits: pd.DataFrame
    # raters, kind, level, alpha, low, high, agreement, units, n, n_sources.
    agreement: pd.DataFrame
    # raters, kind, measure (same, reversed), n, share, wilson_low, wilson_high, low, high.
    consistency: pd.DataFrame
    # raters, and the columns of bench.study.votes.agreement.positions.
    positions: pd.DataFrame
    # raters, n, failed, share, wilson_low, wilson_high, low, high.
    attention: pd.DataFrame
    # One row per rater: study, rater, votes, attention, failures, repeats, consistency, median_ms, excluded, why.
    raters: pd.DataFrame
    # Shares with all raters and with those kept, side by side.
    effect: pd.DataFrame
    # raters, and the columns of bench.study.votes.correlation.correlate. Empty without scores and without ratings of
    # the edits, which are compared with pairs as metrics are.
    correlation: pd.DataFrame
    # raters, and the columns of bench.study.votes.ratings.MEAN_COLUMNS. Empty without ratings, as is the next.
    ratings: pd.DataFrame
    # raters, and bench.study.votes.ratings.ALPHA_COLUMNS.
    rating_agreement: pd.DataFrame

    @property
    def simulated(self) -> bool:
        """True for votes of simulated raters."""
        return self.rater_kind == "simulated"

    @property
    def warning(self) -> str:
        """Words before every text about votes that are not people's. Empty for people's."""
        return WARNINGS[self.rater_kind]

    @property
    def rater_set(self) -> str:
        """The set of raters whose results are shown: ``"kept"``, or ``"all"`` where the rule keeps nobody."""
        return "kept" if (self.counts["raters"] == "kept").any() else "all"

    @property
    def statement(self) -> str:
        """The number of votes and raters behind those results, the rule, and how the intervals are computed."""
        counts = self.counts[self.counts["raters"] == self.rater_set].iloc[0]
        n_votes, n_ratings = int(counts["n_votes"]), int(counts["n_ratings"])
        what = f"{n_votes} votes" if n_votes or not n_ratings else ""
        if n_ratings:
            what = " and ".join(filter(None, [what, f"ratings in {n_ratings} trials"]))
        return self._statement(what, int(counts["n_raters"]), int(counts["n_sources"]))

    def statement_of(self, votes: int, raters: int, sources: int, question: str = "") -> str:
        """The same statement for a part of the votes, such as those on one ``question``, from their numbers."""
        about = f" on the question {question!r}" if question else ""
        return self._statement(f"{votes} votes{about}", raters, sources)

    def _statement(self, what: str, raters: int, sources: int) -> str:
        which = "raters kept" if self.rater_set == "kept" else "all raters"
        return (
            f"{self.warning}{what} of {raters} raters ({which}) on {sources} "
            f"source images. {self.exclusion} "
            f"{int(self.raters['excluded'].sum())} of {len(self.raters)} are excluded. "
            f"{100 * self.level:g} % intervals resample raters and sources ({self.resamples} draws, "
            f"seed {self.seed})."
        )

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        tables = (
            "counts shares wins strengths fits agreement consistency positions attention raters effect "
            "correlation ratings rating_agreement"
        )
        return {name: getattr(self, name) for name in tables.split()}

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values. Tables are lists of rows."""
        frames = self.frames()
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in frames}
        plain["exclusion"] = asdict(self.exclusion)
        plain["studies"], plain["notes"] = list(self.studies), list(self.notes)
        # Files had this key before there were votes of models.
        plain["simulated"] = self.simulated
        return {**plain, **{name: _records(frame) for name, frame in frames.items()}}


def analyse(
    votes: pd.DataFrame,
    *,
    exclusion: Exclusion | None = None,
    scores: pd.DataFrame | None = None,
    resamples: int = 2_000,
    seed: int = 0,
    level: float = 0.95,
    simulated: bool = False,
    rater_kind: str = "human",
) -> Analysis:
    """Computes all results of the votes.

    ``exclusion``: the rule. None takes the rule that the votes say their study stated. Where they state none, it takes
    the default of :class:`Exclusion` and adds a note. ``scores``: a run's scores per edit, with columns protocol,
    method (its title), case, metric, value and optionally higher_is_better. ``rater_kind``: ``human``, ``simulated`` or
    ``model``. Votes of another kind are refused, and kinds are never mixed. ``simulated``: True is short for
    ``simulated``.

    Raises :class:`bench.study.votes.frame.VotesError` for votes that cannot be counted and where there are none, its
    subclass :class:`OtherRaters` for another kind of raters, and ValueError for a ``level`` outside (0, 1).
    """
    import pandas as pd

    # Check everything before any computation.
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}.")
    checked = check_votes(votes)
    rater_kind = "simulated" if simulated else rater_kind
    # First, since votes of people and of models are never joined, whatever rules they state.
    _check_rater_kind(checked, rater_kind)
    rule, notes = _rule(checked, exclusion)
    if not (checked["role"] == "trial").any():
        raise VotesError(
            "there are no votes yet: practice, attention checks and repeats do not count as votes."
        )
    values = read_scores(scores) if scores is not None else None

    # All raters, then those that the rule keeps.
    raters = rater_quality(checked, rule)
    excluded = ~kept_raters(checked, raters)
    selections = {"all": Selection(checked, values, resamples, seed, level)}
    if not excluded.any():
        selections["kept"] = selections["all"]
        notes.append("The rule excludes nobody: the results of all raters and of those kept are the same.")
    elif not (checked["role"][~excluded] == "trial").any():
        notes.append("The rule excludes everybody who voted: there are no results of raters kept.")
    else:
        rest = checked[~excluded].reset_index(drop=True)
        selections["kept"] = Selection(rest, values, resamples, seed, level)

    # One table of each name, the sets of raters below one another.
    parts: dict[str, list[pd.DataFrame]] = {}
    for name, selection in selections.items():
        for table, frame in selection.tables.items():
            parts.setdefault(table, []).append(_labelled(frame, name))
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    return Analysis(
        studies=tuple(sorted(set(checked["study"]))),
        rater_kind=rater_kind,
        exclusion=rule,
        resamples=resamples,
        seed=seed,
        level=level,
        notes=(*notes, *_notes(checked[checked["kind"] != "rate"], values, tables)),
        raters=raters,
        effect=_effect(tables["shares"]),
        **tables,
    )


def _rule(votes: pd.DataFrame, exclusion: Exclusion | None) -> tuple[Exclusion, list[str]]:
    """The rule to apply, with a note where it is the default."""
    rule = exclusion or stated_rule(votes)
    if rule is not None:
        return rule, []
    return Exclusion(), [
        "The votes do not say which exclusion rule their study stated: the default rule is applied."
    ]


def _notes(votes: pd.DataFrame, scores: Values | None, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Remarks on how to read the tables."""
    notes: list[str] = []
    trials = votes[votes["role"] == "trial"]
    if trials.empty:
        return notes
    if not tables["agreement"]["units"].any():
        notes.append(
            "No comparison was judged by two raters, so there is no Krippendorff's alpha: a study created with "
            "--overlap 2 or more asks several raters about each comparison."
        )
    questions = sorted(set(trials["question"]))
    if len(questions) > 1:
        notes.append(f"Rows of question “all” pool {len(questions)} questions: {', '.join(questions)}.")
    if set(trials["kind"]) == {"pair", "best"}:
        notes.append(
            "Strengths are of pairs and choices of the best together; shares are of each kind apart."
        )
    if trials["probability"].notna().any():
        notes.append(
            "Pairs were chosen by the votes so far (adaptive pairing): pairs of close methods were shown more often. "
            "Shares depend on which pairs were shown, so compare methods by their strengths."
        )
    if scores is not None and not scores.directed:
        notes.append(
            "The scores do not say which direction is better: of a metric whose lower values are better, "
            "correlations with the votes should be negative and agreement below one half."
        )
    return notes


def _check_rater_kind(votes: pd.DataFrame, rater_kind: str) -> None:
    """Raises OtherRaters where the votes are not those of the one kind of raters that was asked for."""
    if rater_kind not in RATER_KINDS:
        raise OtherRaters(f"--rater-kind {rater_kind!r}: expected one of {', '.join(RATER_KINDS)}.")
    kinds = sorted(set(votes["rater_kind"]))
    if len(kinds) > 1:
        raise OtherRaters(
            f"the votes hold answers of raters of the kinds {' and '.join(kinds)}: select one rater_kind. They are "
            "never counted together."
        )
    if kinds and kinds[0] != rater_kind:
        if kinds[0] == "human":
            raise OtherRaters(
                f"votes of raters of the kind {rater_kind} were asked for, but these are of people."
            )
        option = "--simulated" if kinds[0] == "simulated" else f"--rater-kind {kinds[0]}"
        raise OtherRaters(
            f"these votes are of raters of the kind {kinds[0]}: ask for them with {option} (in Python "
            f"rater_kind={kinds[0]!r}); they are marked as such."
        )


def _labelled(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A copy of a table with the set of raters in the first column."""
    labelled = frame.copy()
    labelled.insert(0, "raters", [name] * len(labelled))
    return labelled


def _effect(shares: pd.DataFrame) -> pd.DataFrame:
    """Each share with all raters beside the share with the raters that the rule keeps."""
    keys = [*SCOPE, "kind", "method"]
    values = ["n", "share", "low", "high"]
    sides = [
        shares[shares["raters"] == name][[*keys, *values]].rename(
            columns={value: f"{value}_{name}" for value in values}
        )
        for name in ("all", "kept")
    ]
    effect = sides[0].merge(sides[1], on=keys, how="left")
    effect["change"] = effect["share_kept"] - effect["share_all"]
    return effect


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of plain Python values. NaN becomes None."""

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return None if value is None or value != value else value

    return [{key: plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
