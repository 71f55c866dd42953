"""The operations on judges: estimate their calls, judge the edits of a run, or pairs of them.

As the operations of :mod:`bench.session`, whose registries and networks they use. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.downloads import check_ready

if TYPE_CHECKING:
    import pandas as pd

    from bench.judges.options import Judge, JudgeOptions
    from bench.judges.pairwise import PairwiseSummary
    from bench.judges.pointwise import JudgingSummary
    from bench.judges.prices import CallEstimate
    from bench.metrics.features import RegionClassifier
    from bench.plan import Plan
    from bench.progress import Progress
    from bench.session import Session
    from bench.store import RunStore


def judge_edits(
    session: Session, store: RunStore, options: JudgeOptions, *, progress: Progress | None = None
) -> tuple[Judge, JudgingSummary]:
    """Asks a judge about every edit of a run that it has not answered yet, and stores replies and scores.

    Raises ``JudgeError`` where the judge cannot be asked. Replies that came before are stored.
    """
    from bench.judges.pointwise import judge_run
    from bench.judges.world import answered

    judge, protocols = ready_judge(session, store, options)
    with answered(judge, _classifier(session, options)) as answering:
        return judge, judge_run(store, answering, protocols=protocols, progress=progress)


def judge_pairs_of_edits(
    session: Session, store: RunStore, options: JudgeOptions, *, progress: Progress | None = None
) -> tuple[pd.DataFrame, PairwiseSummary]:
    """Asks a judge which of two edits is better, for all pairs of methods. Returns votes, and counts.

    Raises ``JudgeError`` where the judge cannot be asked. Replies that came before are stored.
    """
    from bench.judges.pairwise import judge_pairs
    from bench.judges.world import answered
    from bench.study.build import method_titles

    judge, protocols = ready_judge(session, store, options)
    with answered(judge, _classifier(session, options)) as answering:
        return judge_pairs(store, answering, method_titles([store]), protocols=protocols, progress=progress)


def ready_judge(session: Session, store: RunStore, options: JudgeOptions) -> tuple[Judge, Collection[str]]:
    """The judge, and the protocols of the run that it is asked about. Raises BenchError that lists what is missing."""
    from bench.judges.options import make_judge

    protocols = _protocols(session, store, options)
    check_ready([("", judge_remarks(session, [options], rendered=bool(protocols)))])
    return make_judge(options, _classifier(session, options)), protocols


def judge_remarks(session: Session, judges: Sequence[JudgeOptions], *, rendered: bool) -> list[str]:
    """Lists what is missing to ask the judges, each with its remedy.

    ``rendered``: whether a protocol shows the rendered world, which the server ``world`` needs.
    """
    from bench.judges.options import judge_problems

    return [
        f"judge {options.rubric}: {problem}"
        for options in judges
        for problem in judge_problems(options, _classifier(session, options), rendered=rendered)
    ]


def judge_warnings(session: Session, judges: Sequence[JudgeOptions], store: RunStore | None) -> Iterator[str]:
    """Yields what a user must know before a judge is asked: prompt files that are not the official ones, and scores
    that it replaces.

    A judge that cannot be asked yet is passed over: :func:`judge_remarks` has what it lacks.
    """
    from bench.judges.options import judge_problems, make_judge
    from bench.judges.pointwise import replaced_scores

    for options in judges:
        classifier = _classifier(session, options)
        if not judge_problems(options, classifier):
            judge = make_judge(options, classifier)
            warnings = [*judge.wording.remarks, *(replaced_scores(store, judge) if store else ())]
            yield from (f"judge {options.rubric}: {warning}" for warning in warnings)


def planned_estimates(
    session: Session, judges: Sequence[JudgeOptions], store: RunStore | None, plan: Plan
) -> Iterator[str]:
    """Yields calls, least time and cost of each judge of a suite: for the edits that are stored or planned."""
    from bench.judges.options import judge_problems, make_judge
    from bench.judges.pointwise import missing_calls, new_edits, planned_calls

    largest = _largest_canvas([protocol.info for protocol in plan.protocols])
    for options in judges:
        classifier = _classifier(session, options)
        # What is missing, such as a key, is listed elsewhere.
        if not judge_problems(options, classifier):
            judge = make_judge(options, classifier)
            missing = missing_calls(store, judge, _protocols(session, store, options)) if store else 0
            calls = planned_calls(judge, new_edits(plan, options), missing, largest=largest, store=store)
            yield f"judge {options.rubric} by {options.model}: {calls}"


def estimate_calls(session: Session, store: RunStore, options: JudgeOptions) -> CallEstimate:
    """Calls, least time and cost of the questions about stored edits that have no reply. Raises BenchError."""
    from bench.judges.pairwise import planned_pairs
    from bench.judges.pointwise import missing_calls, planned_calls

    judge, protocols = ready_judge(session, store, options)
    largest = _largest_canvas(list(store.manifest["protocols"].values()))
    if not judge.wording.rubric.columns:
        return planned_pairs(store, judge, protocols, largest=largest)
    missing = missing_calls(store, judge, protocols)
    return planned_calls(judge, 0, missing, largest=largest, store=store)


def _classifier(session: Session, options: JudgeOptions) -> RegionClassifier | None:
    """The classifier that answers for the judge. None where another server does, or its checkpoint is missing."""
    return session.program.make_features("cpu", None).classifier if options.is_world else None


def _protocols(session: Session, store: RunStore, options: JudgeOptions) -> Collection[str]:
    """The protocols of a run that the judge is asked about."""
    protocols = store.manifest["protocols"]
    return session.rendered_of(protocols) if options.is_world else frozenset(protocols)


def _largest_canvas(protocols: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """The largest (width, height) of the images of some protocols. None where one takes the sizes of its sources."""
    from bench.plan import width_height

    sizes = [width_height(info.get("canvas")) for info in protocols]
    known = [size for size in sizes if size is not None]
    return None if len(known) < len(sizes) else max(known, key=lambda size: size[0] * size[1], default=None)
