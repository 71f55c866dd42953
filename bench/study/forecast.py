"""Forecasts for a study without votes: the differences that it resolves, and how well its attention checks work."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.study.design import Design
    from bench.study.votes.exclusion import Exclusion
    from bench.study.votes.power import Assumptions, Layout

# Share of raters who answer at random and pass the attention checks, above which more checks are advised.
MANY_PASS = 0.2
# From this share on, a difference rounds to 1.000: even a unanimous vote would not be separable.
NOTHING_RESOLVED = 0.9995


def power_lines(design: Design, share: float) -> list[str]:
    """Lines on the smallest preference that a design resolves, and on the raters that it takes to resolve ``share``.

    ``share`` is the part of the votes without ties that prefers one of two methods, in 0..1. The assumptions stand
    in the same lines.
    """
    from bench.study.votes.power import Assumptions, raters_needed, resolvable

    votes = design.pair_votes().values()
    if design.options.adaptive:
        return [
            f"power: {design.options.votes} votes, on pairs that are chosen while people vote; `study pairing` "
            "simulates how many a fixed design would take"
        ]
    if not votes:
        return ["power: computed for pairs only"]

    # What the design resolves.
    assumptions = Assumptions() if design.options.ties else Assumptions(ties=0.0)
    layout = _weakest_layout(design, votes)
    resolved_share = resolvable(layout, assumptions)
    result = (
        f"a share of {resolved_share:.3f} or more"
        if resolved_share < NOTHING_RESOLVED
        else "no difference: there are too few votes"
    )

    # What `share` takes. More raters do not help where the cases are too few.
    raters = raters_needed(
        share,
        trials=layout.trials,
        methods=layout.methods,
        cases=layout.cases,
        overlap=layout.overlap,
        assumptions=assumptions,
    )
    price = f"{raters} such raters" if raters is not None else "more cases: no number of raters is enough"
    return [
        f"power: {_vote_count(votes)} votes per question and pair resolve {result} "
        f"({_assumption_text(assumptions, layout)})",
        f"power: a share of {share:g} takes {price}",
    ]


def _weakest_layout(design: Design, votes: Collection[int]) -> Layout:
    """The layout of the votes about the pair of methods that gets the fewest. It decides what the study resolves."""
    from bench.study.votes.power import Layout

    methods, raters = len(design.methods), design.options.raters
    pairs = methods * (methods - 1) // 2
    trials_per_rater = min(votes) * pairs / raters
    return Layout(raters, trials_per_rater, methods, len(design.cases), design.options.overlap)


def _vote_count(votes: Collection[int]) -> str:
    fewest, most = min(votes), max(votes)
    return f"{fewest}" if fewest == most else f"{fewest} (the fewest of {fewest} to {most})"


def _assumption_text(assumptions: Assumptions, layout: Layout) -> str:
    # The level is divided by the number of pairs (Bonferroni), since all pairs are tested.
    return (
        f"{assumptions.power:.0%} power, level {assumptions.alpha:g} divided by {layout.pairs} pairs; assumed: "
        f"{assumptions.ties:.0%} ties, correlation {assumptions.icc_rater:g} within raters and "
        f"{assumptions.icc_case:g} within cases"
    )


def quality_lines(design: Design, rule: Exclusion) -> list[str]:
    """Lines on how well the attention checks work, and on whether agreement between raters can be measured."""
    lines = [_attention_line(design, rule)]
    # Krippendorff's alpha compares answers of several raters to one comparison.
    if design.describe()["votes per comparison"][1] == 1:
        lines.append(
            "agreement: each comparison gets one vote, so Krippendorff's alpha cannot be computed; --overlap 2 "
            "asks two raters about each"
        )
    return lines


def _attention_line(design: Design, rule: Exclusion) -> str:
    from bench.study.votes.quality import random_pass

    # Nothing stops a rater who answers at random.
    checks, allowed = design.options.attention, rule.max_attention_failures
    if not checks or allowed is None:
        cause = "there are no attention checks" if not checks else "the exclusion rule does not look at them"
        return f"attention: {cause}, so no rater who answers at random is excluded for failing them"

    # A tie fails a check, so raters who choose ties at random too pass less often.
    passed = random_pass(design, allowed)
    line = (
        f"attention: {passed:.1%} of raters who choose a candidate at random pass the {checks} checks "
        f"(at most {allowed} failed)"
    )
    if design.options.ties and "pair" in design.options.kinds:
        line += f"; {random_pass(design, allowed, ties=True):.1%} of those who choose ties at random too"
    return line + (". Ask for more with --attention" if passed > MANY_PASS else "")
