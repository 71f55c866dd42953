"""From votes to results: shares, wins, strengths, agreement, bias, exclusion, and the metrics against the votes.

``analyse(votes)`` is a pure function of the table of votes (:mod:`bench.study.votes.frame`), the exclusion rule and
the seed. Every result is there twice: with all raters, and with those kept by the rule. Intervals resample
raters and sources (:mod:`bench.study.votes.crossed`); Wilson's, which take votes for independent, stand beside.

Votes are the rows whose role is ``"trial"``: practice, attention checks and repeats never count as votes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.stats import wilson
from bench.study.votes import agreement
from bench.study.votes.bradley_terry import Choices, Unlinked, fit_counts, fit_draws, influence
from bench.study.votes.correlation import Values, correlate, read_scores
from bench.study.votes.crossed import Crossed, interval
from bench.study.votes.frame import ALL, SCOPE, TIE, VotesError, check_votes, scopes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

SAME_STRENGTH = 1e-6
"""Log odds; strengths nearer to each other are equal: the fit is exact to about a thousandth of it."""

SIMULATED = "SIMULATED RATERS, not people: "
"""Begins whatever is said of results of simulated raters."""


class SimulatedVotes(VotesError):
    """Votes of simulated raters where those of people were asked for, or both in one table."""


@dataclass(frozen=True)
class Exclusion:
    """Which raters are left out: a rule to be written down before the first vote. None: not looked at."""

    max_attention_failures: int | None = 1
    """Failed attention checks that a rater may have."""
    min_self_consistency: float | None = None
    """Least share of repeated trials answered the same. Raters without repeats are kept. Off by default: with
    a handful of repeats, a careful rater of close pairs falls below any useful bound by chance."""
    min_median_reaction_ms: float | None = 1_000.0
    """Least median time of a rater's answers."""

    def __post_init__(self) -> None:
        """Raises ValueError for bounds that no rater can have."""
        if self.max_attention_failures is not None and self.max_attention_failures < 0:
            raise ValueError(f"max_attention_failures must be 0 or more, not {self.max_attention_failures}.")
        if self.min_self_consistency is not None and not 0 <= self.min_self_consistency <= 1:
            raise ValueError(f"min_self_consistency is a share, 0 to 1, not {self.min_self_consistency}.")
        if self.min_median_reaction_ms is not None and not self.min_median_reaction_ms >= 0:
            raise ValueError(f"min_median_reaction_ms must be 0 or more, not {self.min_median_reaction_ms}.")

    def to_json(self) -> str:
        """All bounds, as the column ``exclusion`` of the votes has them."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Exclusion:
        """Raises VotesError for what is no rule."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise VotesError(
                f"column exclusion: {text[:200]!r} is no exclusion rule ({error}). Export the votes again."
            ) from error

    def __str__(self) -> str:
        """The rule in a sentence."""
        parts = []
        if self.max_attention_failures is not None:
            checks = "check" if self.max_attention_failures == 1 else "checks"
            parts.append(f"more than {self.max_attention_failures} failed attention {checks}")
        if self.min_self_consistency is not None:
            parts.append(f"self-consistency below {self.min_self_consistency:g}")
        if self.min_median_reaction_ms is not None:
            parts.append(f"a median reaction time below {self.min_median_reaction_ms:g} ms")
        return f"Raters are excluded for {', '.join(parts)}." if parts else "No rater is excluded."


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the votes say. Tables are tidy; ``raters`` says of whose votes a row is: ``"all"`` or ``"kept"``.

    Absent values are NaN in the tables and None in :meth:`to_dict`. Shares lie in 0..1, strengths are log odds.
    """

    studies: tuple[str, ...]
    simulated: bool
    """Votes are of simulated raters, not of people. Whatever prints the results says so."""
    exclusion: Exclusion
    resamples: int
    seed: int
    level: float
    notes: tuple[str, ...]
    """What a reader must know beside the figures."""
    counts: pd.DataFrame
    """raters, n_raters, n_votes, n_pairs, n_ties, n_best, n_cases, n_sources."""
    shares: pd.DataFrame
    """raters, scope, kind, method, n (votes that showed it), wins, ties, losses; ``share`` of those, a tie
    being half a win, with wilson_low, wilson_high and low, high; ``of_all``: the same wins as a share of all
    n_votes votes, which add up to 1 over the methods, with of_all_low, of_all_high; n_raters, n_sources."""
    wins: pd.DataFrame
    """raters, scope, kind, method, against, wins, ties, losses, n, share, wilson_low, wilson_high, low, high.
    For choices of the best: a win is being chosen while the other was shown."""
    strengths: pd.DataFrame
    """raters, scope, method, strength, low, high, rank (equal strengths share one); ``behind`` the strongest, with
    behind_low, behind_high; ``separable``: whether that interval leaves out 0. Where the votes do not bound a
    strength on one side (an undefeated method), that end alone is empty."""
    fits: pd.DataFrame
    """raters, scope, n, tie (Davidson's nu), tie_low, tie_high, regularised, draws_regularised, note."""
    agreement: pd.DataFrame
    """raters, kind, level, alpha, low, high, agreement, units, n, n_sources."""
    consistency: pd.DataFrame
    """raters, kind, measure (same, reversed), n, share, wilson_low, wilson_high, low, high."""
    positions: pd.DataFrame
    """raters, and the columns of :func:`bench.study.votes.agreement.positions`."""
    attention: pd.DataFrame
    """raters, n, failed, share, wilson_low, wilson_high, low, high."""
    raters: pd.DataFrame
    """One row per rater: study, rater, votes, attention, failures, repeats, consistency, median_ms,
    excluded, why."""
    effect: pd.DataFrame
    """Shares with all raters and with those kept, side by side."""
    correlation: pd.DataFrame
    """raters, and the columns of :func:`bench.study.votes.correlation.correlate`; empty without scores."""

    @property
    def counted(self) -> str:
        """Whose votes the results to be shown are made of: ``"kept"``, or ``"all"`` where the rule keeps nobody."""
        return "kept" if (self.counts["raters"] == "kept").any() else "all"

    @property
    def statement(self) -> str:
        """How many votes and raters those results are made of, the rule, and how the intervals are made."""
        counts = self.counts[self.counts["raters"] == self.counted].iloc[0]
        return self.statement_of(int(counts["n_votes"]), int(counts["n_raters"]), int(counts["n_sources"]))

    def statement_of(self, votes: int, raters: int, sources: int, question: str = "") -> str:
        """The same for a part of the votes, such as those on one ``question``, given how many there are."""
        which = "raters kept" if self.counted == "kept" else "all raters"
        about = f" on the question {question!r}" if question else ""
        return (
            f"{SIMULATED if self.simulated else ''}{votes} votes{about} of {raters} raters ({which}) on {sources} "
            f"source images. {self.exclusion} "
            f"{int(self.raters['excluded'].sum())} of {len(self.raters)} are excluded. "
            f"{100 * self.level:g} % intervals resample raters and sources ({self.resamples} draws, "
            f"seed {self.seed})."
        )

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        tables = (
            "counts shares wins strengths fits agreement consistency positions attention raters effect "
            "correlation"
        )
        return {name: getattr(self, name) for name in tables.split()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; tables as lists of rows."""
        frames = self.frames()
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in frames}
        plain["exclusion"] = asdict(self.exclusion)
        plain["studies"], plain["notes"] = list(self.studies), list(self.notes)
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
) -> Analysis:
    """All results of the votes.

    ``exclusion``: the rule; without one, the rule that the votes say their study stated, or, where they say
    none, the default of :class:`Exclusion`, with a note. ``scores``: a run's scores per edit, with columns
    protocol, method (its title), case, metric, value and optionally higher_is_better. ``simulated``: say True
    to analyse simulated raters; their votes are refused otherwise, and never mixed with people's.

    Raises :class:`bench.study.votes.frame.VotesError` (its kind :class:`SimulatedVotes`) for votes that cannot be
    counted, and for none.
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}.")
    checked = check_votes(votes)
    notes: list[str] = []
    if exclusion is None:
        exclusion = stated_rule(checked)
    if exclusion is None:
        exclusion = Exclusion()
        notes.append(
            "The votes do not say which exclusion rule their study stated: the default rule is applied."
        )
    rule = exclusion
    _one_kind(checked, simulated)
    if not (checked["role"] == "trial").any():
        raise VotesError(
            "there are no votes yet: practice, attention checks and repeats do not count as votes."
        )
    values = read_scores(scores) if scores is not None else None
    raters = rater_quality(checked, rule)
    excluded = ~kept_raters(checked, raters)
    parts = {"all": _Part(checked, values, resamples, seed, level)}
    if not excluded.any():
        parts["kept"] = parts["all"]
        notes.append("The rule excludes nobody: the results of all raters and of those kept are the same.")
    elif not (checked["role"][~excluded] == "trial").any():
        notes.append("The rule excludes everybody who voted: there are no results of raters kept.")
    else:
        parts["kept"] = _Part(checked[~excluded].reset_index(drop=True), values, resamples, seed, level)
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, part in parts.items():
        for table, frame in part.tables.items():
            tables.setdefault(table, []).append(_labelled(frame, name))
    found = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    if not found["agreement"]["units"].any():
        notes.append(
            "No comparison was judged by two raters, so there is no Krippendorff's alpha: a study created with "
            "--overlap 2 or more asks several raters about each comparison."
        )
    questions = sorted(set(checked["question"][checked["role"] == "trial"]))
    if len(questions) > 1:
        notes.append(f"Rows of question “all” pool {len(questions)} questions: {', '.join(questions)}.")
    if set(checked["kind"][checked["role"] == "trial"]) == {"pair", "best"}:
        notes.append(
            "Strengths are of pairs and choices of the best together; shares are of each kind apart."
        )
    if values is not None and not values.directed:
        notes.append(
            "The scores do not say which direction is better: of a metric whose lower values are better, "
            "correlations with the votes should be negative and agreement below one half."
        )
    return Analysis(
        studies=tuple(sorted(set(checked["study"]))),
        simulated=simulated,
        exclusion=rule,
        resamples=resamples,
        seed=seed,
        level=level,
        notes=tuple(notes),
        raters=raters,
        effect=_effect(found["shares"]),
        **found,
    )


def stated_rule(votes: pd.DataFrame) -> Exclusion | None:
    """The exclusion rule that the votes' studies stated; None where none of them says one.

    Raises VotesError where studies stated different rules: one table has one rule.
    """
    stated: dict[str, Exclusion | None] = dict.fromkeys(sorted(set(votes["study"])))
    for study, text in votes[["study", "exclusion"]].drop_duplicates().itertuples(index=False):
        if text is None:
            continue
        rule = Exclusion.from_json(text)
        if stated[study] not in (None, rule):
            raise VotesError(
                f"the votes hold two exclusion rules of study {study}: {stated[study]} {rule} "
                "Leave out the file that was changed."
            )
        stated[study] = rule
    if not any(stated.values()):
        return None
    # A study that says none was exported without its rule, which may have been any.
    first, *others = stated
    for study in others:
        if stated[study] != stated[first]:
            said = [f"{name}: {stated[name] or 'no rule is stated.'}" for name in (first, study)]
            raise VotesError(
                f"the studies stated different exclusion rules. {' '.join(said)} Analyse them one by one."
            )
    return stated[first]


def kept_raters(votes: pd.DataFrame, raters: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of ``votes`` are of raters whom the rule keeps. ``raters``: as :func:`rater_quality` gives."""
    out = raters[raters["excluded"]]
    excluded = set(zip(out["study"], out["rater"], strict=True))
    pairs = zip(votes["study"], votes["rater"], strict=True)
    return np.array([pair not in excluded for pair in pairs], dtype=bool)


def rater_quality(votes: pd.DataFrame, rule: Exclusion) -> pd.DataFrame:
    """One row per rater with what the rule looks at, and what it says. ``votes``: as ``check_votes`` gives."""
    import pandas as pd

    keys = ["study", "rater"]
    trials = votes[votes["role"] == "trial"].groupby(keys)
    checks, again = (f(votes).groupby(keys) for f in (agreement.attention, agreement.repeats))
    index = pd.MultiIndex.from_frame(votes[keys].drop_duplicates().sort_values(keys))

    def column(values: pd.Series, missing: float) -> pd.Series:
        return values.reindex(index).fillna(missing)

    found = pd.DataFrame(
        {
            "votes": column(trials.size(), 0).astype(int),
            "attention": column(checks.size(), 0).astype(int),
            "failures": column(checks["failed"].sum(), 0).astype(int),
            "repeats": column(again.size(), 0).astype(int),
            "consistency": column(again["same"].mean(), math.nan).astype(float),
            "median_ms": column(trials["reaction_ms"].median(), math.nan).astype(float),
        },
        index=index,
    ).reset_index()
    why: list[str] = []
    for row in found.itertuples():
        reasons = []
        if rule.max_attention_failures is not None and row.failures > rule.max_attention_failures:
            reasons.append(f"{row.failures} of {row.attention} attention checks failed")
        if rule.min_self_consistency is not None and row.consistency < rule.min_self_consistency:
            reasons.append(f"self-consistency {row.consistency:.2f}")
        if rule.min_median_reaction_ms is not None and row.median_ms < rule.min_median_reaction_ms:
            reasons.append(f"median reaction {row.median_ms:.0f} ms")
        why.append("; ".join(reasons))
    found["excluded"] = [bool(reason) for reason in why]
    found["why"] = why
    return found


def _one_kind(votes: pd.DataFrame, simulated: bool) -> None:
    kinds = set(votes["rater_kind"])
    if len(kinds) > 1:
        raise SimulatedVotes(
            "the votes hold people's and simulated raters' answers: select one rater_kind. "
            "They are never counted together."
        )
    if kinds == {"simulated"} and not simulated:
        raise SimulatedVotes(
            "these votes are of simulated raters: ask for them with --simulated (in Python simulated=True); they are "
            "marked as such."
        )
    if kinds == {"human"} and simulated:
        raise SimulatedVotes("simulated raters were asked for, but these votes are of people.")


# --- the results of one selection of raters ----------------------------------------------------------


class _Part:
    """Results of some raters' answers."""

    def __init__(
        self, answers: pd.DataFrame, scores: Values | None, draws: int, seed: int, level: float
    ) -> None:
        self.answers = answers
        self.votes = answers[answers["role"] == "trial"].reset_index(drop=True)
        self.scores = scores
        self.seed, self.level, self.n_draws = seed, level, draws
        raters = self.votes["study"] + "\0" + self.votes["rater"]
        sources = self.votes["protocol"] + "\0" + self.votes["source"]
        self.crossed = Crossed.of(list(raters), list(sources), draws=draws, seed=seed)
        self._strengths: dict[tuple[str, str, str], tuple[tuple[str, ...], Floats, Floats]] = {}
        self._tally()

    def _tally(self) -> None:
        """Votes alike in everything but rater and case are one class; results are functions of its counts."""
        import pandas as pd

        votes = self.votes
        shown, sets = pd.factorize(pd.Series([tuple(sorted(c)) for c in votes["candidates"]], dtype=object))
        table = votes[["kind", *SCOPE, "answer"]].copy()
        table["shown"] = shown
        columns = list(table.columns)
        self.classes = table.groupby(columns, sort=False).ngroup().to_numpy()
        self.table = table.drop_duplicates().reset_index(drop=True)
        self.table["shown"] = [sets[i] for i in self.table["shown"]]
        self.totals = np.bincount(self.classes).astype(np.float64)
        self.draws = self.crossed.counts(self.classes, len(self.table))
        self.methods = tuple(sorted({title for one in sets for title in one}))
        number = {title: i for i, title in enumerate(self.methods)}
        # Per class and method: shown; chosen; shown and tied.
        self.shown, self.won, self.tied = np.zeros((3, len(self.table), len(self.methods)))
        for k, (members, answer) in enumerate(zip(self.table["shown"], self.table["answer"], strict=True)):
            where = [number[title] for title in members]
            self.shown[k, where] = 1
            if answer == TIE:
                self.tied[k, where] = 1
            else:
                self.won[k, number[answer]] = 1

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        import pandas as pd

        strengths, fits = self._fits()
        found = {
            "counts": self._counts(),
            "shares": _by_scope(self._shares()),
            "wins": _by_scope(self._wins()),
            "strengths": _by_scope(strengths),
            "fits": _by_scope(fits),
            "agreement": pd.DataFrame(self._agreement()),
            "consistency": pd.DataFrame(self._consistency()),
            "positions": agreement.positions(self.votes),
            "attention": pd.DataFrame(self._attention()),
            "correlation": pd.DataFrame(),
        }
        if self.scores is not None:
            found["correlation"] = correlate(
                self.votes, self.crossed, self.scores, self._strengths, level=self.level
            )
        return found

    def _scopes(self) -> Iterator[tuple[dict[str, str], NDArray[np.bool_]]]:
        """Each scope, by column, and which classes are inside."""
        for scope, inside in scopes(self.table):
            yield dict(zip(SCOPE, scope, strict=True)), inside

    def _unique(self, *, kinds: bool) -> Iterator[tuple[list[dict[str, str]], NDArray[np.bool_]]]:
        """The same, those of the same votes together (a study of one protocol is its own protocol's scope)."""
        seen: dict[bytes, tuple[list[dict[str, str]], NDArray[np.bool_]]] = {}
        for scope, inside in self._scopes():
            for kind in ("pair", "best") if kinds else (None,):
                some = inside if kind is None else inside & (self.table["kind"] == kind).to_numpy()
                if some.any():
                    label = scope if kind is None else {**scope, "kind": kind}
                    seen.setdefault(some.tobytes(), ([], some))[0].append(label)
        yield from seen.values()

    def _counts(self) -> pd.DataFrame:
        import pandas as pd

        votes = self.votes
        pair = votes["kind"] == "pair"
        return pd.DataFrame(
            [
                {
                    "n_raters": len(self.crossed.rater_weights),
                    "n_votes": len(votes),
                    "n_pairs": int(pair.sum()),
                    "n_ties": int((votes["answer"] == TIE).sum()),
                    "n_best": int((~pair).sum()),
                    "n_cases": len(votes[["protocol", "case"]].drop_duplicates()),
                    "n_sources": len(self.crossed.source_weights),
                }
            ]
        )

    def _ratio(self, over: Floats, under: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """(value, low, high) of sums over classes inside, (classes inside, S) each, one over the other."""
        totals, draws = self.totals[inside], self.draws[:, inside]
        below = totals @ under
        with np.errstate(invalid="ignore", divide="ignore"):
            value: Floats = (totals @ over) / below
            drawn = (draws @ over) / (draws @ under)
            each = (over - value * under) / below
        table = np.zeros((len(inside), each.shape[1]))
        table[inside] = np.nan_to_num(each)
        # Rounding must not make a vote out of what has no influence.
        table[np.abs(table) < 1e-14 / max(1.0, totals.sum())] = 0
        chosen = inside[self.classes]
        part = Crossed(
            self.crossed.rater[chosen],
            self.crossed.source[chosen],
            self.crossed.rater_weights,
            self.crossed.source_weights,
        )
        factor = part.factor(table[self.classes[chosen]], level=self.level)
        low, high = interval(value, drawn, factor, level=self.level)
        return value, low, high

    def _shares(self) -> Iterator[dict[str, Any]]:
        for labels, inside in self._unique(kinds=True):
            here = np.flatnonzero(self.shown[inside].any(axis=0))
            shown, won, tied = (m[np.ix_(inside, here)] for m in (self.shown, self.won, self.tied))
            n, wins, ties = (self.totals[inside] @ m for m in (shown, won, tied))
            share, low, high = self._ratio(won + tied / 2, shown, inside)
            of_all, all_low, all_high = self._ratio(won + tied / 2, np.ones_like(shown), inside)
            members = inside[self.classes]
            n_raters, n_sources = (
                len(np.unique(codes[members])) for codes in (self.crossed.rater, self.crossed.source)
            )
            for label in labels:
                for j, method in enumerate(here):
                    plain = wilson(wins[j] + ties[j] / 2, int(n[j]), level=self.level)
                    yield {
                        **label,
                        "method": self.methods[method],
                        "n": int(n[j]),
                        "wins": int(wins[j]),
                        "ties": int(ties[j]),
                        "losses": int(n[j] - wins[j] - ties[j]),
                        "share": share[j],
                        "wilson_low": plain.low,
                        "wilson_high": plain.high,
                        "low": low[j],
                        "high": high[j],
                        "n_votes": int(self.totals[inside].sum()),
                        "of_all": of_all[j],
                        "of_all_low": all_low[j],
                        "of_all_high": all_high[j],
                        "n_raters": n_raters,
                        "n_sources": n_sources,
                    }

    def _wins(self) -> Iterator[dict[str, Any]]:
        for labels, inside in self._unique(kinds=True):
            here = np.flatnonzero(self.shown[inside].any(axis=0))
            shown, won, tied = (m[np.ix_(inside, here)] for m in (self.shown, self.won, self.tied))
            first, second = (index.ravel() for index in np.indices((len(here), len(here))))
            apart = first != second
            first, second = first[apart], second[apart]
            win, loss = won[:, first] * shown[:, second], won[:, second] * shown[:, first]
            tie = tied[:, first] * tied[:, second]
            n, wins, ties = (self.totals[inside] @ m for m in (win + loss + tie, win, tie))
            share, low, high = self._ratio(win + tie / 2, win + loss + tie, inside)
            for label in labels:
                for j in np.flatnonzero(n):
                    plain = wilson(wins[j] + ties[j] / 2, int(n[j]), level=self.level)
                    yield {
                        **label,
                        "method": self.methods[here[first[j]]],
                        "against": self.methods[here[second[j]]],
                        "wins": int(wins[j]),
                        "ties": int(ties[j]),
                        "losses": int(n[j] - wins[j] - ties[j]),
                        "n": int(n[j]),
                        "share": share[j],
                        "wilson_low": plain.low,
                        "wilson_high": plain.high,
                        "low": low[j],
                        "high": high[j],
                    }

    def _fits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        strengths: list[dict[str, Any]] = []
        fits: list[dict[str, Any]] = []
        for labels, inside in self._unique(kinds=False):
            rows, summary, kept = self._fit(inside)
            for label in labels:
                strengths += [{**label, **row} for row in rows]
                fits.append({**label, **summary})
                if kept is not None:
                    self._strengths[label["question"], label["protocol"], label["category"]] = kept
        return strengths, fits

    def _fit(
        self, inside: NDArray[np.bool_]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], tuple[tuple[str, ...], Floats, Floats] | None]:
        some = self.table[inside]
        outcomes = list(zip(some["kind"], some["shown"], some["answer"], strict=True))
        choices = Choices.of(outcomes)
        columns = np.array([choices.column[kind, frozenset(s), answer] for kind, s, answer in outcomes])
        to_column = np.zeros((len(columns), len(choices.features)))
        to_column[np.arange(len(columns)), columns] = 1
        counts = self.totals[inside] @ to_column
        summary: dict[str, Any] = {
            "n": int(counts.sum()),
            "tie": math.nan,
            "tie_low": math.nan,
            "tie_high": math.nan,
            "regularised": False,
            "draws_regularised": 0,
            "note": "",
        }
        try:
            fitted, beta = fit_counts(choices, counts)
        except Unlinked as error:
            summary["note"] = str(error)
            gone = dict.fromkeys(
                ("strength", "low", "high", "rank", "behind", "behind_low", "behind_high"), math.nan
            )
            return [{"method": t, **gone, "separable": False} for t in choices.methods], summary, None
        drawn, needed = fit_draws(
            choices, self.draws[:, inside] @ to_column, beta, regularised=fitted.regularised
        )
        m = len(choices.methods)
        # Strengths that differ by rounding alone are equal.
        beta[:m] = _equalised(beta[:m])
        best = int(np.argmax(beta[:m]))
        per_column = influence(choices, counts, beta, regularised=fitted.regularised)
        per_column = np.concatenate([per_column, per_column[:, [best]] - per_column[:, :m]], axis=1)
        per_class = np.zeros((len(inside), per_column.shape[1]))
        per_class[inside] = per_column[columns]
        value = np.concatenate([beta, beta[best] - beta[:m]])
        drawn = np.concatenate([drawn, drawn[:, [best]] - drawn[:, :m]], axis=1)
        chosen = inside[self.classes]
        part = Crossed(
            self.crossed.rater[chosen],
            self.crossed.source[chosen],
            self.crossed.rater_weights,
            self.crossed.source_weights,
        )
        factor = part.factor(per_class[self.classes[chosen]], level=self.level)
        low, high = interval(value, drawn, factor, level=self.level)
        behind = slice(len(beta), None)
        # What the votes do not bound has an open side: an end of the interval would be the prior's.
        high[:m][fitted.above] = np.nan
        low[:m][fitted.below] = np.nan
        high[behind][~fitted.reach[:, best]] = np.nan
        low[behind][~fitted.reach[best]] = np.nan
        rows = [
            {
                "method": title,
                "strength": value[i],
                "low": low[i],
                "high": high[i],
                "rank": 1 + int((beta[:m] > beta[i]).sum()),
                "behind": value[behind][i],
                "behind_low": low[behind][i],
                "behind_high": high[behind][i],
                "separable": bool(low[behind][i] > 0),
            }
            for i, title in enumerate(choices.methods)
        ]
        note = fitted.note
        if needed and not fitted.regularised:
            note = (
                f"{needed} of {len(drawn)} resamples had no finite maximum and were fitted under the prior: "
                "outer ends of intervals depend on it."
            )
        summary |= {"regularised": fitted.regularised, "draws_regularised": needed, "note": note}
        if choices.ties:
            ends = np.exp([beta[m], low[m], high[m]])
            summary |= {"tie": ends[0], "tie_low": ends[1], "tie_high": ends[2]}
        shrunk = beta[:m] + np.nan_to_num(factor[:m], nan=1.0) * (drawn[:, :m] - beta[:m])
        return rows, summary, (choices.methods, beta[:m], shrunk)

    def _agreement(self) -> Iterator[dict[str, Any]]:
        for kind, level in (("pair", "nominal"), ("pair", "ordinal"), ("best", "nominal")):
            if (self.votes["kind"] == kind).any():
                found = agreement.alpha_of_votes(
                    self.votes,
                    kind,
                    level,  # type: ignore[arg-type]  # a tuple of literals is inferred as str
                    draws=self.n_draws,
                    seed=self.seed,
                    conf=self.level,
                )
                yield {
                    "kind": kind,
                    "level": level,
                    "alpha": found.alpha.value,
                    "low": found.alpha.low,
                    "high": found.alpha.high,
                    "agreement": found.agreement,
                    "units": found.units,
                    "n": found.alpha.n,
                    "n_sources": found.alpha.clusters,
                }

    def _consistency(self) -> Iterator[dict[str, Any]]:
        again = agreement.repeats(self.answers)
        for kind in (ALL, "pair", "best"):
            some = again if kind == ALL else again[again["kind"] == kind]
            if len(some) or kind == ALL:
                for measure in ("same", "reversed"):
                    yield {"kind": kind, "measure": measure, **self._share(some[measure], some)}

    def _attention(self) -> Iterator[dict[str, Any]]:
        checks = agreement.attention(self.answers)
        yield {"failed": int(checks["failed"].sum()), **self._share(checks["failed"], checks)}

    def _share(self, hits: pd.Series, of: pd.DataFrame) -> dict[str, Any]:
        raters = of["study"] + "\0" + of["rater"]
        share = agreement.share_of(hits.to_numpy(bool), raters)
        plain, clustered = share.wilson, share.clustered
        return {
            "n": share.n,
            "share": plain.value if plain else math.nan,
            "wilson_low": plain.low if plain else math.nan,
            "wilson_high": plain.high if plain else math.nan,
            "low": clustered.low if clustered else math.nan,
            "high": clustered.high if clustered else math.nan,
        }


def _equalised(values: Floats) -> Floats:
    """``values``, (N,), where those that differ by less than the fit's tolerance are all the largest of them."""
    order = np.argsort(-values, kind="stable")
    equal = values.copy()
    for before, after in pairwise(order):
        if values[before] - values[after] < SAME_STRENGTH:
            equal[after] = equal[before]
    return equal


def _by_scope(rows: Any) -> pd.DataFrame:
    """Rows with the scope's columns first; pooled scopes before their parts."""
    import pandas as pd

    found = pd.DataFrame(list(rows))
    front = [column for column in (*SCOPE, "kind") if column in found.columns]
    parts = sum((found[column] != ALL).astype(int) for column in SCOPE)
    keys = [found[column] for column in reversed(SCOPE)]
    order = np.lexsort([*(k.astype(str).to_numpy() for k in keys), np.asarray(parts)])
    found = found.iloc[order].reset_index(drop=True)
    return found[[*front, *(column for column in found.columns if column not in front)]]


def _labelled(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    found = frame.copy()
    found.insert(0, "raters", [name] * len(found))
    return found


def _effect(shares: pd.DataFrame) -> pd.DataFrame:
    """Each share with all raters and with those kept."""
    keys = [*SCOPE, "kind", "method"]
    values = ["n", "share", "low", "high"]
    sides = [
        shares[shares["raters"] == name][[*keys, *values]].rename(
            columns={value: f"{value}_{name}" for value in values}
        )
        for name in ("all", "kept")
    ]
    found = sides[0].merge(sides[1], on=keys, how="left")
    found["change"] = found["share_kept"] - found["share_all"]
    return found


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of plain Python values; NaN becomes None."""

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return None if value is None or value != value else value

    return [{key: plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
