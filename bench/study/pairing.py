"""Hands out trials of an adaptive study: see :mod:`bench.study.adaptive` for the rule.

Strengths are fitted from the votes in the database, and kept for a few seconds: a draw does not count all votes again.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from bench.study import queries, security
from bench.study.database import Database
from bench.study.interface import LoadedStudy
from bench.study.studies import Row, StudyCatalog
from bench.study.types import NO_PREFERENCE

if TYPE_CHECKING:
    from bench.study.adaptive import Posterior

# Seconds for which fitted strengths are used.
FRESH = 5.0


@dataclass(frozen=True)
class Drawn:
    """A trial for a rater, with the probability of its choice in an adaptive study."""

    row: Row
    probability: float | None = None
    # The rater's votes by role before it.
    votes: Counter[str] | None = None


class Pairing(StudyCatalog):
    """The part of the store that chooses pairs by the votes so far."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        # (study, kind of raters, question) -> time.monotonic() of the fit, and the fit.
        self._posteriors: dict[tuple[int, str, str], tuple[float, Posterior]] = {}

    def _draw_pair(
        self, connection: Connection, loaded: LoadedStudy, me: Row, values: dict[str, object], answered: int
    ) -> Drawn | None:
        """A trial drawn by the rule among those that are open to the rater. None where there is none.

        ``answered``: number of the rater's trials so far. It decides which of several questions comes next.
        """
        import numpy as np

        from bench.study import adaptive

        design = loaded.study.design
        question = design.options.questions[answered % len(design.options.questions)]
        # Open trials by their pair of methods.
        number = {title: index for index, title in enumerate(design.methods)}
        pair_index = {pair: index for index, pair in enumerate(adaptive.pairs(len(design.methods)))}
        open_trials: defaultdict[int, list[int]] = defaultdict(list)
        for row in connection.execute(queries.OPEN_POOL, {**values, "question": question}):
            first, second = sorted(number[title] for title in design.trial_by_id[row.name].candidates)
            open_trials[pair_index[first, second]].append(row.id)
        if not open_trials:
            return None

        # The same draw for the same place in the same session, so that images can be prepared ahead.
        seed = security.opaque(loaded.secret, "pairing", str(me.id), str(answered))
        generator = random.Random(seed)
        available = np.isin(np.arange(len(pair_index)), list(open_trials))
        chances = adaptive.chances(self._posterior(connection, loaded, me.kind, question), available)
        (pair,) = generator.choices(range(len(chances)), weights=chances.tolist())
        trial = generator.choice(open_trials[pair])
        row = connection.execute(queries.TRIAL_BY_ID, {"trial": trial}).one()
        return Drawn(row, float(chances[pair]) / len(open_trials[pair]))

    def _posterior(self, connection: Connection, loaded: LoadedStudy, kind: str, question: str) -> Posterior:
        """The strengths by the votes on a question, at most ``FRESH`` seconds old."""
        import numpy as np

        from bench.study import adaptive

        key = (loaded.id, kind, question)
        fitted = self._posteriors.get(key)
        if fitted is not None and time.monotonic() - fitted[0] < FRESH:
            return fitted[1]
        design = loaded.study.design
        number = {title: index for index, title in enumerate(design.methods)}
        wins, draws = np.zeros((2, len(number), len(number)))
        values = {"study": loaded.id, "kind": kind, "question": question}
        for row in connection.execute(queries.ANSWERS_TO_PAIRS, values):
            first, second = (number[title] for title in design.trial_by_id[row.name].candidates)
            if row.answer in NO_PREFERENCE:
                draws[first, second] += 1
                draws[second, first] += 1
            else:
                chosen = number[row.answer]
                wins[chosen, second if chosen == first else first] += 1
        posterior = adaptive.fit(wins, draws)
        self._posteriors[key] = (time.monotonic(), posterior)
        return posterior
