"""Results of one selection of raters: counts, shares, wins, strengths, agreement, consistency and attention.

Votes that are alike in everything but rater and case form one class. Shares, wins and strengths are functions of the
number of votes per class. A resample of raters and sources only changes these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.stats import wilson
from bench.study.types import BOTH_BAD, NO_PREFERENCE, TIE
from bench.study.votes import agreement
from bench.study.votes.correlation import Strengths, Values, correlate, read_scores
from bench.study.votes.crossed import Crossed, interval
from bench.study.votes.frame import ALL, SCOPE, scopes
from bench.study.votes.ratings import agreement as rating_agreement
from bench.study.votes.ratings import as_scores, means, with_overall
from bench.study.votes.strengths import fit_strengths

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Columns of the tables of votes by which their readers select rows, where there are no votes.
EMPTY = {
    "shares": (*SCOPE, "kind", "method", "n", "share", "low", "high", "both_bad", "both_bad_share"),
    "wins": (*SCOPE, "kind", "method", "against"),
    "strengths": (*SCOPE, "method", "strength", "rank"),
    "fits": (*SCOPE, "n", "note"),
    "agreement": ("kind", "level", "alpha", "low", "high", "agreement", "units", "n", "n_sources"),
    "correlation": (),
}


def _count_over_time(answers: pd.DataFrame) -> int | None:
    """Number of trials answered after their time limit. None where no trial has one."""
    if answers["over_time"].isna().all():
        return None
    # A trial of ratings has a row per scale.
    late = answers[answers["over_time"].eq(True)]
    return len(late[["study", "rater", "trial"]].drop_duplicates())


class Selection:
    """Results of the answers of some raters. K classes of votes, M methods, B resamples, N votes."""

    def __init__(
        self, answers: pd.DataFrame, scores: Values | None, draws: int, seed: int, level: float
    ) -> None:
        self.answers = answers
        rated = (answers["role"] == "trial") & (answers["kind"] == "rate")
        self.ratings = with_overall(answers[rated].reset_index(drop=True))
        self.votes = answers[(answers["role"] == "trial") & ~rated].reset_index(drop=True)
        self.scores = scores
        self.seed, self.level, self.n_draws = seed, level, draws
        # Ids of raters and sources are unique within a study and a protocol only.
        raters = self.votes["study"] + "\0" + self.votes["rater"]
        sources = self.votes["protocol"] + "\0" + self.votes["source"]
        self.crossed = Crossed.of(list(raters), list(sources), draws=draws, seed=seed)
        # Strengths of each scope, for the correlations.
        self._strengths: Strengths = {}
        if len(self.votes):
            self._tally()

    def _tally(self) -> None:
        """Counts the votes of each class."""
        import pandas as pd

        # The candidates of a vote, in alphabetical order: their order on the screen is no part of a class.
        votes = self.votes
        codes, sets = pd.factorize(pd.Series([tuple(sorted(c)) for c in votes["candidates"]], dtype=object))
        table = votes[["kind", *SCOPE, "answer"]].copy()
        table["candidates"] = codes

        # One row per class: kind, question, protocol, category, answer, candidates.
        columns = list(table.columns)
        self.classes = table.groupby(columns, sort=False).ngroup().to_numpy()  # (N,) in 0..K-1
        self.table = table.drop_duplicates().reset_index(drop=True)
        self.table["candidates"] = [sets[i] for i in self.table["candidates"]]
        self.totals = np.bincount(self.classes).astype(np.float64)  # (K,)
        self.draws = self.crossed.counts(self.classes, len(self.table))  # (B, K)

        # (K, M) of 0 and 1: the class shows the method, the method is chosen, no method is preferred, both are bad.
        self.methods = tuple(sorted({title for members in sets for title in members}))
        number = {title: i for i, title in enumerate(self.methods)}
        self.present, self.won, self.tied, self.bad = np.zeros((4, len(self.table), len(self.methods)))
        for k, (members, answer) in enumerate(
            zip(self.table["candidates"], self.table["answer"], strict=True)
        ):
            columns_of_members = [number[title] for title in members]
            self.present[k, columns_of_members] = 1
            if answer in NO_PREFERENCE:
                self.tied[k, columns_of_members] = 1
                self.bad[k, columns_of_members] = answer == BOTH_BAD
            else:
                self.won[k, number[answer]] = 1

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of :class:`bench.study.votes.analysis.Analysis` by name, without the column ``raters``."""
        import pandas as pd

        if self.votes.empty:
            return self._without_votes()
        strengths, fits = self._fits()
        tables = {
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
            **self._ratings(),
        }
        # Ratings of the edits are compared with the votes as metrics are. The correlations over methods take the
        # strengths that were fitted above.
        for values in (self.scores, None if self.ratings.empty else read_scores(as_scores(self.ratings))):
            if values is not None:
                found = correlate(self.votes, self.crossed, values, self._strengths, level=self.level)
                tables["correlation"] = pd.concat([tables["correlation"], found], ignore_index=True)
        return tables

    def _ratings(self) -> dict[str, pd.DataFrame]:
        draws, seed, level = self.n_draws, self.seed, self.level
        return {
            "ratings": means(self.ratings, draws=draws, seed=seed, level=level),
            "rating_agreement": rating_agreement(self.ratings, draws=draws, seed=seed, level=level),
        }

    def _without_votes(self) -> dict[str, pd.DataFrame]:
        """The tables of a selection that holds ratings alone: those of votes have columns, and no rows."""
        import pandas as pd

        tables = {name: pd.DataFrame(columns=list(columns)) for name, columns in EMPTY.items()}
        return {
            **tables,
            "counts": self._counts(),
            "consistency": pd.DataFrame(self._consistency()),
            "positions": agreement.positions(self.votes),
            "attention": pd.DataFrame(self._attention()),
            **self._ratings(),
        }

    def _unique(self, *, kinds: bool) -> Iterator[tuple[list[dict[str, str]], Mask]]:
        """Iterates over (labels, mask of classes (K,)), each distinct set of votes once with all its labels.

        A label holds the columns of a scope and, with ``kinds``, the kind of vote. In a study of one protocol, for
        example, the scope of that protocol holds the same votes as the scope of all protocols.
        """
        # The bytes of a mask are its key: resampling the same votes for each label would take most of the time.
        groups: dict[bytes, tuple[list[dict[str, str]], Mask]] = {}
        for values, in_scope in scopes(self.table):
            scope = dict(zip(SCOPE, values, strict=True))
            for kind in ("pair", "best") if kinds else (None,):
                inside = in_scope if kind is None else in_scope & (self.table["kind"] == kind).to_numpy()
                if inside.any():
                    label = scope if kind is None else {**scope, "kind": kind}
                    groups.setdefault(inside.tobytes(), ([], inside))[0].append(label)
        yield from groups.values()

    def _counts(self) -> pd.DataFrame:
        import pandas as pd

        votes = self.votes
        pair = votes["kind"] == "pair"
        answered = self.answers[self.answers["role"] == "trial"]
        return pd.DataFrame(
            [
                {
                    "n_raters": len(answered[["study", "rater"]].drop_duplicates()),
                    "n_votes": len(votes),
                    "n_pairs": int(pair.sum()),
                    "n_ties": int((votes["answer"] == TIE).sum()),
                    "n_both_bad": int((votes["answer"] == BOTH_BAD).sum()),
                    "n_corrected": int(votes["first_answer"].notna().sum()),
                    "n_over_time": _count_over_time(answered),
                    "n_best": int((~pair).sum()),
                    "n_ratings": len(
                        answered[answered["kind"] == "rate"][["study", "rater", "trial"]].drop_duplicates()
                    ),
                    "n_cases": len(answered[["protocol", "case"]].drop_duplicates()),
                    "n_sources": len(answered[["protocol", "source"]].drop_duplicates()),
                }
            ]
        )

    def _ratio(self, over: Floats, under: Floats, inside: Mask) -> tuple[Floats, Floats, Floats]:
        """(value, low, high), (S,) each, of the votes' sum of ``over`` divided by their sum of ``under``.

        ``over`` and ``under`` hold S terms for each class inside, (classes inside, S).
        """
        # The ratio of sums for the votes, (S,), and for each resample, (B, S).
        totals, draws = self.totals[inside], self.draws[:, inside]
        denominator = totals @ under
        with np.errstate(invalid="ignore", divide="ignore"):
            value: Floats = (totals @ over) / denominator
            resampled = (draws @ over) / (draws @ under)
            # Influence of one vote on a ratio a / b: (da - a / b * db) / b.
            per_class = np.nan_to_num((over - value * under) / denominator)
        # Rounding must not give a vote an influence that it does not have.
        per_class[np.abs(per_class) < 1e-14 / max(1.0, totals.sum())] = 0
        low, high = interval(value, resampled, self._factor(inside, per_class), level=self.level)
        return value, low, high

    def _factor(self, inside: Mask, influences: Floats) -> Floats:
        """Width factor of S statistics, (S,), from the influences of the classes inside, (classes inside, S).

        See :meth:`bench.study.votes.crossed.Crossed.factor`.
        """
        # Influence of every class, (K, S), 0 outside. Clusters are those of the votes inside alone: raters who did not
        # vote on this scope add no degree of freedom.
        per_class = np.zeros((len(inside), influences.shape[1]))
        per_class[inside] = influences
        votes = inside[self.classes]
        part = Crossed(
            self.crossed.rater[votes],
            self.crossed.source[votes],
            self.crossed.rater_weights,
            self.crossed.source_weights,
        )
        return part.factor(per_class[self.classes[votes]], level=self.level)

    def _shares(self) -> Iterator[dict[str, Any]]:
        for labels, inside in self._unique(kinds=True):
            # Share of the votes that showed the method, and of all votes. No preference is half a win.
            compared = np.flatnonzero(self.present[inside].any(axis=0))
            present, won, tied, bad = (
                m[np.ix_(inside, compared)] for m in (self.present, self.won, self.tied, self.bad)
            )
            n, wins, ties = (self.totals[inside] @ m for m in (present, won, tied))
            bad_share, bad_low, bad_high = self._ratio(bad, present, inside)
            share, low, high = self._ratio(won + tied / 2, present, inside)
            of_all, all_low, all_high = self._ratio(won + tied / 2, np.ones_like(present), inside)

            # Clusters that the votes come from.
            votes = inside[self.classes]
            n_raters, n_sources = (
                len(np.unique(codes[votes])) for codes in (self.crossed.rater, self.crossed.source)
            )
            for label in labels:
                for j, method in enumerate(compared):
                    yield {
                        **label,
                        "method": self.methods[method],
                        "n": int(n[j]),
                        **_outcomes(n[j], wins[j], ties[j]),
                        "share": share[j],
                        **self._wilson(n[j], wins[j], ties[j]),
                        "low": low[j],
                        "high": high[j],
                        "n_votes": int(self.totals[inside].sum()),
                        "of_all": of_all[j],
                        "of_all_low": all_low[j],
                        "of_all_high": all_high[j],
                        "both_bad": int(self.totals[inside] @ bad[:, j]),
                        "both_bad_share": bad_share[j],
                        "both_bad_low": bad_low[j],
                        "both_bad_high": bad_high[j],
                        "n_raters": n_raters,
                        "n_sources": n_sources,
                    }

    def _wins(self) -> Iterator[dict[str, Any]]:
        for labels, inside in self._unique(kinds=True):
            # All ordered pairs of two different methods.
            compared = np.flatnonzero(self.present[inside].any(axis=0))
            present, won, tied = (m[np.ix_(inside, compared)] for m in (self.present, self.won, self.tied))
            first, second = (index.ravel() for index in np.indices((len(compared), len(compared))))
            apart = first != second
            first, second = first[apart], second[apart]

            # A choice of the best is a win over each of the candidates that were not chosen.
            # (classes inside, pairs): the first is chosen while the second is present, and the reverse.
            win, loss = won[:, first] * present[:, second], won[:, second] * present[:, first]
            tie = tied[:, first] * tied[:, second]
            n, wins, ties = (self.totals[inside] @ m for m in (win + loss + tie, win, tie))
            share, low, high = self._ratio(win + tie / 2, win + loss + tie, inside)
            for label in labels:
                for j in np.flatnonzero(n):
                    yield {
                        **label,
                        "method": self.methods[compared[first[j]]],
                        "against": self.methods[compared[second[j]]],
                        **_outcomes(n[j], wins[j], ties[j]),
                        "n": int(n[j]),
                        "share": share[j],
                        **self._wilson(n[j], wins[j], ties[j]),
                        "low": low[j],
                        "high": high[j],
                    }

    def _wilson(self, n: float, wins: float, ties: float) -> dict[str, float]:
        """Ends of Wilson's interval, which takes votes for independent. A tie is half a win."""
        independent = wilson(wins + ties / 2, int(n), level=self.level)
        assert independent.low is not None
        assert independent.high is not None
        return {"wilson_low": independent.low, "wilson_high": independent.high}

    def _fits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of the tables ``strengths`` and ``fits``. Stores the strengths for the correlations."""
        strengths: list[dict[str, Any]] = []
        fits: list[dict[str, Any]] = []
        for labels, inside in self._unique(kinds=False):
            # Strengths know one answer without a preference.
            fitted = fit_strengths(
                self.table[inside].replace({"answer": {BOTH_BAD: TIE}}),
                self.totals[inside],
                self.draws[:, inside],
                partial(self._factor, inside),
                level=self.level,
            )
            for label in labels:
                strengths += [{**label, **row} for row in fitted.rows]
                fits.append({**label, **fitted.summary})
                if fitted.draws is not None:
                    scope = (label["question"], label["protocol"], label["category"])
                    self._strengths[scope] = (fitted.methods, fitted.strengths, fitted.draws)
        return strengths, fits

    def _agreement(self) -> Iterator[dict[str, Any]]:
        # Win, tie and loss are in order, so pairs have both levels. The best of several is a name.
        for kind, level in (("pair", "nominal"), ("pair", "ordinal"), ("best", "nominal")):
            if (self.votes["kind"] == kind).any():
                result = agreement.alpha_of_votes(
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
                    "alpha": result.alpha.value,
                    "low": result.alpha.low,
                    "high": result.alpha.high,
                    "agreement": result.agreement,
                    "units": result.units,
                    "n": result.alpha.n,
                    "n_sources": result.alpha.clusters,
                }

    def _consistency(self) -> Iterator[dict[str, Any]]:
        repeats = agreement.repeats(self.answers)
        for kind in (ALL, "pair", "best", "rate"):
            of_kind = repeats if kind == ALL else repeats[repeats["kind"] == kind]
            # The pooled rows are there without repeats too, with n = 0.
            if len(of_kind) or kind == ALL:
                for measure in ("same", "reversed"):
                    yield {"kind": kind, "measure": measure, **self._share(of_kind[measure], of_kind)}

    def _attention(self) -> Iterator[dict[str, Any]]:
        checks = agreement.attention(self.answers)
        yield {"failed": int(checks["failed"].sum()), **self._share(checks["failed"], checks)}

    def _share(self, hits: pd.Series, answers: pd.DataFrame) -> dict[str, Any]:
        """Columns of a share of answers, with both intervals. NaN where there are no answers."""
        raters = answers["study"] + "\0" + answers["rater"]
        share = agreement.share_of(hits.to_numpy(bool), raters)
        independent, clustered = share.wilson, share.clustered
        return {
            "n": share.n,
            "share": independent.value if independent else math.nan,
            "wilson_low": independent.low if independent else math.nan,
            "wilson_high": independent.high if independent else math.nan,
            "low": clustered.low if clustered else math.nan,
            "high": clustered.high if clustered else math.nan,
        }


def _outcomes(n: float, wins: float, ties: float) -> dict[str, int]:
    """Columns that count the outcomes of ``n`` votes."""
    return {"wins": int(wins), "ties": int(ties), "losses": int(n - wins - ties)}


def _by_scope(rows: Any) -> pd.DataFrame:
    """Rows as a table: the columns of the scope first, pooled scopes before their parts."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    front = [column for column in (*SCOPE, "kind") if column in table.columns]
    # Number of columns of the scope that are not "all": 0 for the pooled rows.
    depth = sum((table[column] != ALL).astype(int) for column in SCOPE)
    keys = [table[column] for column in reversed(SCOPE)]
    order = np.lexsort([*(k.astype(str).to_numpy() for k in keys), np.asarray(depth)])
    table = table.iloc[order].reset_index(drop=True)
    return table[[*front, *(column for column in table.columns if column not in front)]]
