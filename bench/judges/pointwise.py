"""Judges the stored edits of a run one by one: asks what is not answered yet, then turns replies into scores.

Two methods that made the same image of a case share one reply. The scores of an edit exist only where every pass of
every question has been read: a mean over the passes that happened to succeed would be another quantity.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import EditKey, ScoreRecord
from bench.endpoints.client import CeilingReached, EndpointError
from bench.judges.asking import Asker, Call, read_reply
from bench.judges.cache import ReplyCache
from bench.judges.chat import Reply, image_url
from bench.judges.options import Judge, JudgeError, JudgeOptions, column_name
from bench.judges.prices import CallEstimate, estimate
from bench.judges.reading import Unread
from bench.judges.replies import ReplyKey, ReplyLog, StoredJudge, stored_judges
from bench.judges.rubrics import Question, Rubric, RubricError, load_rubric, unmet
from bench.metrics.types import NoValue, Pair, ReasonCode
from bench.progress import Progress, Silent
from bench.stored_pairs import ScoringOptions, StoredPair, pairs_in_chunks
from bench.suite import limited

if TYPE_CHECKING:
    from bench.edit import EditRecord
    from bench.plan import Plan
    from bench.store import RunStore


@dataclass
class JudgingSummary:
    """Counts of one run of a judge."""

    calls: int = 0
    """Replies that came in this run."""
    stored: int = 0
    """Replies that were there already."""
    shared: int = 0
    """Replies from the cache: of other runs, or of one that was killed."""
    bill: str = ""
    """Tokens and cost of the replies of this run, in words. Empty where nothing is known of them."""
    failures: Counter[str] = field(default_factory=Counter)
    """Kind of a failure -> number of replies of all runs that have no scores for it."""
    served: Counter[str] = field(default_factory=Counter)
    """Model that the server says answered -> number of replies."""
    retest: dict[str, float] = field(default_factory=dict)
    """Column -> standard deviation between the passes of one edit, where there are several."""
    stopped: str = ""
    """Why it stopped before its end. Empty where it did not."""

    def remarks(self) -> Iterator[str]:
        """Yields what a user must know of the replies."""
        if len(self.served) > 1:
            models = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in self.served.items())
            yield f"the server answered with several models, whose scores have versions of their own: {models}"
        if self.failures:
            listed = ", ".join(f"{count} {kind}" for kind, count in self.failures.most_common())
            yield f"replies without scores: {listed}. They are no numbers, and enter no mean"
        if self.stopped:
            yield f"stopped: {self.stopped}"


def planned_calls(
    judge: Judge,
    edits: int,
    missing: int = 0,
    *,
    largest: tuple[int, int] | None = None,
    store: RunStore | None = None,
) -> CallEstimate:
    """Calls for a number of edits that are not made yet, and ``missing`` calls for stored ones.

    ``largest``: the largest (width, height) of an image, None where it is not known. ``store``: the run, whose replies
    tell how many tokens a call takes.
    """
    options, questions = judge.options, judge.wording.rubric.questions
    return estimate(
        options,
        edits * len(questions) * options.passes + missing,
        # Questions differ in their texts and numbers of images: the largest of each.
        text=max((judge.wording.longest(question) for question in questions), key=len),
        images=max(len(question.images) for question in questions),
        largest=largest,
        replies=ReplyLog(store, judge.digest).answered().values() if store else (),
    )


def judged_edits(
    store: RunStore, options: JudgeOptions, protocols: Collection[str] | None = None
) -> list[EditRecord]:
    """The run's edits that the judge is asked about: all of them, or those of its ``limit`` and of ``protocols``."""
    cases = {
        (protocol, case)
        for protocol in store.protocols()
        if protocols is None or protocol in protocols
        for case in limited({row["id"]: row["category"] for row in store.cases(protocol).rows}, options.limit)
    }
    return [record for record in store.edits() if (record.key.protocol, record.key.case) in cases]


def new_edits(plan: Plan, options: JudgeOptions) -> int:
    """Number of planned edits that the judge will be asked about: with a ``limit``, at most."""
    counts = [count for row in plan.rows for count in row.by_category.values()]
    return sum(counts if options.limit is None else (min(n, options.limit * len(plan.seeds)) for n in counts))


def missing_calls(store: RunStore, judge: Judge, protocols: Collection[str] | None = None) -> int:
    """Number of questions about the stored edits that have no reply, in this run or another. Decodes no image."""
    log, cache = ReplyLog(store, judge.digest), ReplyCache(store, judge)
    needs = judge.wording.rubric.needs
    # Cases that the judge can be asked about.
    cases = {
        (protocol, row["id"])
        for protocol in store.protocols()
        for row in store.cases(protocol).rows
        if all(row.get(need) for need in needs)
    }
    keys = {
        _key(record, question, number): question
        for record in judged_edits(store, judge.options, protocols)
        if record.file is not None and (record.key.protocol, record.key.case) in cases
        for question in judge.wording.rubric.questions
        for number in range(judge.options.passes)
    }
    return sum(log.find(key) is None and cache.lacks(key, question) for key, question in keys.items())


def replaced_scores(store: RunStore, judge: Judge) -> list[str]:
    """A sentence for each judge whose scores count now, and will not once this judge has written its own."""
    columns = {judge.column(name) for name in judge.wording.rubric.columns}
    frame = store.scores()
    counting = set(frame["metric_version"][frame["metric"].isin(columns)])
    return [
        f"the run has scores of the same columns by {other.options.model} (judge/{other.digest}.json), which these "
        "replace. To keep both, give one of the judges a label, such as -o label=second"
        for other in stored_judges(store)
        if other.digest != judge.digest
        and columns & {column_name(other.options, name) for name in load_rubric(other.options.rubric).columns}
        and counting & set(other.versions)
    ]


def judge_run(
    store: RunStore,
    judge: Judge,
    *,
    protocols: Collection[str] | None = None,
    progress: Progress | None = None,
) -> JudgingSummary:
    """Asks every question about the run's edits that has no reply yet, and stores replies and scores.

    ``protocols``: only the edits of these. The same call goes on where it was stopped, also after a kill. Raises
    :class:`JudgeError` where the server refuses every request, and StoreError for a folder that cannot be written.
    Replies that came before are stored.
    """
    if not judge.wording.rubric.columns:
        raise JudgeError(f"rubric {judge.wording.rubric.name} compares two edits: use judge pairs.")
    progress = progress or Silent()
    summary = JudgingSummary()
    # Small chunks: their images are in memory while they are sent.
    options = ScoringOptions(chunk=32)
    asker = Asker(store, judge)
    log = asker.log
    records = judged_edits(store, judge.options, protocols)
    stored = _stored_scores(store, judge)
    spreads: dict[str, list[float]] = {}
    store.lock()
    log.describe(judge)
    progress.start(len(records), f"judging by {judge.wording.rubric.name}")
    try:
        for chunk in pairs_in_chunks(store, records, options):
            refused: EndpointError | None = None
            try:
                asker.ask(_calls(judge, asker, chunk))
            except EndpointError as error:
                refused = error
            # What was answered is scored, also where the judge had to stop.
            scores = [score for record, pair in chunk for score in _scores(judge, log, record, pair, spreads)]
            store.append_scores([score for score in scores if _identity(score) not in stored])
            progress.advance(len(chunk))
            if isinstance(refused, CeilingReached):
                summary.stopped = str(refused)
                break
            if refused is not None:
                raise JudgeError(f"judge {judge.wording.rubric.name}: {refused}") from refused
    finally:
        progress.stop()
        log.close()
    summary.calls, summary.shared = asker.calls, asker.shared
    summary.bill = asker.bill.line(asker.calls)
    _count(judge, log, records, summary)
    log.describe(judge, summary.served)
    summary.retest = {name: statistics.fmean(values) ** 0.5 for name, values in spreads.items()}
    return summary


# -- asking -------------------------------------------------------------------------------------


def _calls(judge: Judge, asker: Asker, chunk: Sequence[StoredPair]) -> Iterator[Call]:
    """Yields the questions about the edits of a chunk that have no reply. Images are encoded here."""
    asked: set[ReplyKey] = set()
    urls: dict[tuple[str, str], str] = {}
    for record, pair in chunk:
        if isinstance(pair, NoValue) or unmet(judge.wording.rubric.needs, pair) is not None:
            continue
        for question in judge.wording.rubric.questions:
            for number in range(judge.options.passes):
                key = _key(record, question, number)
                try:
                    if key in asked or not asker.needs_call(key, question):
                        continue
                    text = judge.wording.prompt(question, pair)
                except RubricError:
                    # The score has the reason.
                    continue
                asked.add(key)
                images = []
                for name in question.images:
                    place = (
                        name,
                        {"source": pair.source.key, "edited": pair.edited.key}.get(name, pair.mask_key),
                    )
                    if place not in urls:
                        urls[place] = image_url(_pixels(pair, name), judge.options)
                    images.append(urls[place])
                sizes = [judge.options.sent_size(pair.edited.size)] * len(images)
                yield Call(key, question, text, images, sizes)


def _pixels(pair: Pair, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image of a question as uint8 (H, W, 3). The mask is white where the edit was asked for."""
    if name == "mask":
        return np.repeat(pair.needed_mask[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
    return pair.source.pixels if name == "source" else pair.edited.pixels


def _key(record: EditRecord, question: Question, number: int) -> ReplyKey:
    key = record.key
    return ReplyKey(key.protocol, key.protocol_version, key.case, record.sha256 or "", question.name, number)


# -- scores -------------------------------------------------------------------------------------


def _scores(
    judge: Judge, log: ReplyLog, record: EditRecord, pair: Pair | NoValue, spreads: dict[str, list[float]]
) -> list[ScoreRecord]:
    """The scores of an edit, one for each column. Empty while a question is not answered."""
    rubric = judge.wording.rubric

    def score(column: str, version: str, value: float | None, reason: str | None) -> ScoreRecord:
        name, edit = judge.column(column), record.sha256 or ""
        return ScoreRecord(record.key, name, version, value, reason, edit=edit)

    # Edits that are not judged at all.
    reason = (
        pair.reason
        if isinstance(pair, NoValue)
        else unmet(rubric.needs, pair) or _wording_problem(judge, pair)
    )
    if reason is not None:
        return [score(column, judge.version(""), None, reason) for column in rubric.columns]

    # The replies, pass by pass. Nothing is scored before all of them came.
    replies = [
        {question.name: log.last(_key(record, question, number)) for question in rubric.questions}
        for number in range(judge.options.passes)
    ]
    flat = [reply for of_pass in replies for reply in of_pass.values() if reply is not None]
    if len(flat) < len(rubric.questions) * judge.options.passes:
        return []
    version = judge.version(" + ".join(sorted({reply.model for reply in flat})))
    outcomes = {column: _column(rubric, column, replies) for column in rubric.columns}
    for column, outcome in outcomes.items():
        if len(outcome.passes) > 1:
            spreads.setdefault(judge.column(column), []).append(statistics.variance(outcome.passes))
    return [score(column, version, outcome.value, outcome.reason) for column, outcome in outcomes.items()]


@dataclass(frozen=True)
class _Outcome:
    """A column of one edit: its value in each pass, or the reason why there is none."""

    passes: Sequence[float] = ()
    reason: str | None = None

    @property
    def value(self) -> float | None:
        return statistics.fmean(self.passes) if self.passes else None


def _column(rubric: Rubric, column: str, replies: Sequence[Mapping[str, Reply | None]]) -> _Outcome:
    """A column of an edit from its replies, by question, in each pass."""
    values = []
    for of_pass in replies:
        scores: dict[str, float] = {}
        for question in rubric.questions_of(column):
            reply = of_pass[question.name]
            assert reply is not None
            result = read_reply(reply, question, rubric.scale)
            if isinstance(result, Unread):
                # A failed transport is asked again, and so are requests of a wrong form.
                code = ReasonCode.JUDGE if reply.is_final else ReasonCode.ERROR
                return _Outcome(reason=code.text(result.reason))
            scores |= zip(question.scores, result, strict=True)
        values.append(rubric.value(column, scores))
    return _Outcome(values)


def values_of_replies(
    store: RunStore, judge: StoredJudge, records: Sequence[EditRecord]
) -> dict[tuple[str, str], float]:
    """(digest of the edit's key, name of the score) -> its value, computed again from the stored replies.

    Scores without a value are left out. Asks nothing and needs no wording.
    """
    passes = passes_of_replies(store, judge, records)
    return {place: statistics.fmean(values) for place, values in passes.items()}


def passes_of_replies(
    store: RunStore, judge: StoredJudge, records: Sequence[EditRecord]
) -> dict[tuple[str, str], Sequence[float]]:
    """As :func:`values_of_replies`, with the value in each pass."""
    rubric, options = load_rubric(judge.options.rubric), judge.options
    log = ReplyLog(store, judge.digest)
    values: dict[tuple[str, str], Sequence[float]] = {}
    for record in records:
        replies = [
            {question.name: log.last(_key(record, question, number)) for question in rubric.questions}
            for number in range(options.passes)
        ]
        if any(reply is None for of_pass in replies for reply in of_pass.values()):
            continue
        for column in rubric.columns:
            passes = _column(rubric, column, replies).passes
            if passes:
                values[record.key.digest, column_name(options, column)] = passes
    return values


def _wording_problem(judge: Judge, pair: Pair) -> str | None:
    try:
        for question in judge.wording.rubric.questions:
            judge.wording.prompt(question, pair)
    except RubricError as error:
        return str(error)
    return None


def _identity(score: ScoreRecord) -> tuple[Any, ...]:
    return (score.key.digest, score.metric, score.metric_version, score.edit, score.value, score.reason or "")


def _stored_scores(store: RunStore, judge: Judge) -> set[tuple[Any, ...]]:
    """The identities of the judge's scores that are stored and count."""
    frame = store.scores()
    frame = frame[frame["metric"].isin([judge.column(name) for name in judge.wording.rubric.columns])]
    identities = set()
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        key = EditKey(row["protocol"], row["protocol_version"], row["method"], row["case"], int(row["seed"]))
        identities.add(
            (key.digest, row["metric"], row["metric_version"], row["edit"], row["value"], row["reason"] or "")
        )
    return identities


def _count(judge: Judge, log: ReplyLog, records: Sequence[EditRecord], summary: JudgingSummary) -> None:
    """Counts the failures and the answering models over the replies of all runs."""
    scale = judge.wording.rubric.scale
    seen: set[ReplyKey] = set()
    for record in records:
        for question in judge.wording.rubric.questions:
            for number in range(judge.options.passes):
                key = _key(record, question, number)
                reply = log.last(key)
                if reply is None or key in seen:
                    continue
                seen.add(key)
                result = read_reply(reply, question, scale)
                if isinstance(result, Unread):
                    summary.failures[result.kind] += 1
                if reply.text is not None:
                    summary.served[reply.model] += 1
    summary.stored = len(seen) - summary.calls - summary.shared
