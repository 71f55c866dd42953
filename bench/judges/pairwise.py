"""Asks a judge which of two edits is better, in both orders, and writes its answers as votes.

A judge prefers a position: many name the first image more often, whatever it shows. So every pair is asked about twice,
and a verdict that changes with the order is a tie. The share of such flips is reported, and so is the share of the
verdicts that name the first image. Votes of models have the rater kind ``model``: they are never counted with people's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bench.endpoints.client import CeilingReached, EndpointError
from bench.judges.asking import Asker, Call, read_reply
from bench.judges.cache import ReplyCache
from bench.judges.chat import image_url
from bench.judges.options import Judge, JudgeError
from bench.judges.pointwise import judged_edits
from bench.judges.prices import CallEstimate, estimate
from bench.judges.reading import Unread
from bench.judges.replies import ReplyKey, ReplyLog, StoredJudge, stored_judges
from bench.judges.rubrics import load_rubric
from bench.metrics.types import NoValue, Pair
from bench.progress import Progress, Silent
from bench.stored_pairs import ScoringOptions, StoredPair, pairs_in_chunks

if TYPE_CHECKING:
    import pandas as pd

    from bench.edit import EditRecord
    from bench.store import RunStore


@dataclass
class PairwiseSummary:
    """Counts of the pairs of a run."""

    calls: int = 0
    """Replies that came in this run."""
    stored: int = 0
    """Replies that were there already."""
    shared: int = 0
    """Replies from the cache: of other runs, or of one that was killed."""
    bill: str = ""
    """Tokens and cost of the replies of this run, in words. Empty where nothing is known of them."""
    pairs: int = 0
    """Pairs with a verdict."""
    flips: int = 0
    """Pairs whose two verdicts name the same position: each order has another winner."""
    identical: int = 0
    """Pairs of equal images, which are ties without a call."""
    first: int = 0
    """Verdicts that name the image that was shown first."""
    decided: int = 0
    """Verdicts that name an image."""
    failures: Counter[str] = field(default_factory=Counter)
    """Kind of a failure -> number of replies without a verdict."""
    stopped: str = ""
    """Why it stopped before its end. Empty where it did not."""

    def lines(self) -> Iterator[str]:
        """Yields the counts in words."""
        asked = self.pairs - self.identical
        shared = f", {self.shared} from the cache" if self.shared else ""
        bill = f"; {self.bill}" if self.bill else ""
        yield f"{self.calls} replies, {self.stored} there already{shared}{bill}"
        yield f"{self.pairs} pairs with a verdict, {self.identical} of them of equal images (ties without a call)"
        if asked:
            yield f"flip rate {100 * self.flips / asked:.1f} %: these verdicts change with the order, and count as ties"
        if self.decided:
            yield f"the image that was shown first won {100 * self.first / self.decided:.1f} % of the decided verdicts"
        if self.failures:
            listed = ", ".join(f"{count} {kind}" for kind, count in self.failures.most_common())
            yield f"replies without a verdict: {listed}. Their pairs are no votes"


@dataclass(frozen=True, eq=False)
class EditPair:
    """Two edits of one case."""

    first: EditRecord
    second: EditRecord
    first_pair: Pair
    second_pair: Pair

    def key(self, question: str, *, swapped: bool) -> ReplyKey:
        """The identity of the question in one order."""
        record = self.first.key
        order = [self.second, self.first] if swapped else [self.first, self.second]
        edits = " ".join(edit.sha256 or "" for edit in order)
        return ReplyKey(record.protocol, record.protocol_version, record.case, edits, question, 0)

    @property
    def is_identical(self) -> bool:
        return self.first.sha256 == self.second.sha256


def planned_pairs(
    store: RunStore,
    judge: Judge,
    protocols: Collection[str] | None = None,
    *,
    largest: tuple[int, int] | None = None,
) -> CallEstimate:
    """Calls for all pairs of the run's stored edits that are not answered. Decodes no image.

    ``largest``: the largest (width, height) of an image, None where it is not known.
    """
    log, cache = ReplyLog(store, judge.digest), ReplyCache(store, judge)
    (question,) = judge.wording.rubric.questions
    edits: dict[tuple[str, str], list[EditRecord]] = {}
    for record in _first_seed(store, judge, protocols):
        edits.setdefault((record.key.protocol, record.key.case), []).append(record)
    missing = {
        ReplyKey(
            a.key.protocol, a.key.protocol_version, a.key.case, f"{a.sha256} {b.sha256}", question.name, 0
        )
        for of_case in edits.values()
        for one, other in combinations(of_case, 2)
        for a, b in ((one, other), (other, one))
        if a.sha256 != b.sha256
    }
    return estimate(
        judge.options,
        sum(log.find(key) is None and cache.lacks(key, question) for key in missing),
        text=judge.wording.longest(question),
        images=len(question.images),
        largest=largest,
        replies=log.answered().values(),
    )


def judge_pairs(
    store: RunStore,
    judge: Judge,
    titles: Mapping[str, str],
    *,
    protocols: Collection[str] | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, PairwiseSummary]:
    """Asks about every pair of methods on every case that has no reply yet. Returns the votes, and counts.

    ``protocols``: only the edits of these. ``titles``: method digest -> title, as a study names the methods. The votes
    have the columns of ``bench.study.votes.frame``. Raises :class:`JudgeError` where the server refuses every request.
    Replies that came before are stored.
    """
    import pandas as pd

    progress = progress or Silent()
    summary = PairwiseSummary()
    asker = Asker(store, judge)
    log = asker.log
    records = _first_seed(store, judge, protocols)
    categories = {
        (protocol, row["id"]): (row["category"], row["source_id"])
        for protocol in store.protocols()
        for row in store.cases(protocol).rows
    }
    votes: list[dict[str, Any]] = []
    answered: set[ReplyKey] = set()
    store.lock()
    log.describe(judge)
    progress.start(len(records), "judging pairs")
    try:
        # A chunk has whole cases: the edits of one case come together.
        for chunk in pairs_in_chunks(store, records, ScoringOptions(chunk=16)):
            refused: EndpointError | None = None
            pairs = list(_pairs(chunk))
            try:
                asker.ask(_calls(judge, asker, pairs))
            except EndpointError as error:
                refused = error
            answered |= {key for key in _questions(judge, pairs) if log.last(key) is not None}
            for pair in pairs:
                vote = _vote(judge, log, pair, titles, summary)
                if vote is not None:
                    category, source = categories[pair.first.key.protocol, pair.first.key.case]
                    votes.append({**vote, "category": category, "source": source})
            progress.advance(len(chunk))
            if isinstance(refused, CeilingReached):
                summary.stopped = str(refused)
                break
            if refused is not None:
                raise JudgeError(f"judge {judge.wording.rubric.name}: {refused}") from refused
    finally:
        progress.stop()
        log.close()
    log.describe(judge)
    summary.calls, summary.shared = asker.calls, asker.shared
    summary.stored = len(answered) - asker.calls - asker.shared
    summary.bill = asker.bill.line(asker.calls)
    return pd.DataFrame(votes), summary


def study_of_votes(judge: Judge) -> str:
    """The study that a judge's votes name: they have no study of people."""
    return f"judge-{judge.digest}"


def positions_of_replies(store: RunStore, judge: StoredJudge) -> list[tuple[str, str, float, float]]:
    """(protocol, case, winner's position in one order, in the other) of each pair with both verdicts, from the replies.

    0: the image shown first won, 1: the second, 0.5: a tie.
    """
    rubric = load_rubric(judge.options.rubric)
    (question,) = rubric.questions
    log = ReplyLog(store, judge.digest)
    positions: dict[tuple[str, str, frozenset[str]], list[float]] = {}
    for key, reply in log.answered().items():
        result = read_reply(reply, question, rubric.scale)
        if not isinstance(result, Unread):
            edits = frozenset(key.edit.split())
            positions.setdefault((key.protocol, key.case, edits), []).extend(result)
    return [
        (protocol, case, verdicts[0], verdicts[1])
        for (protocol, case, _), verdicts in positions.items()
        if len(verdicts) == 2
    ]


def pair_judges(store: RunStore) -> dict[str, StoredJudge]:
    """Name of its metric -> each judge that has compared pairs of a run's edits."""
    judges = {}
    for judge in stored_judges(store):
        rubric = load_rubric(judge.options.rubric)
        if [question.reply for question in rubric.questions] == ["winner"]:
            name = f"pairs by {judge.options.model}"
            # Two judges of one model differ in their options.
            judges[name if name not in judges else f"{name} ({judge.digest})"] = judge
    return judges


def verdicts_of_replies(
    store: RunStore, judge: StoredJudge, titles: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str, float]]:
    """Yields (protocol, case, method, other method, verdict) of each pair with both replies.

    The verdict is 1 where the first method's edit won in both orders, -1 where the other's did, and 0 for a tie.
    ``titles``: method digest -> title.
    """
    rubric = load_rubric(judge.options.rubric)
    (question,) = rubric.questions
    # (protocol, case, SHA-256 of one edit, of the other) -> whether the one that was shown first won: 1, 0 or -1.
    won: dict[tuple[str, str, str, str], float] = {}
    for key, reply in ReplyLog(store, judge.digest).answered().items():
        result = read_reply(reply, question, rubric.scale)
        if not isinstance(result, Unread):
            first, second = key.edit.split()
            won[key.protocol, key.case, first, second] = 1 - 2 * result[0]
    # Methods that made the same image share its verdicts.
    makers: dict[tuple[str, str, str], list[str]] = {}
    for record in store.edits():
        if record.file is not None and record.key.seed == store.seeds[0]:
            place = (record.key.protocol, record.key.case, record.sha256 or "")
            makers.setdefault(place, []).append(titles[record.key.method])
    for (protocol, case, first, second), value in won.items():
        swapped = won.get((protocol, case, second, first))
        if swapped is None or first > second:
            continue
        verdict = value if value == -swapped else 0.0
        for method in makers.get((protocol, case, first), ()):
            for other in makers.get((protocol, case, second), ()):
                yield protocol, case, method, other, verdict


def _first_seed(store: RunStore, judge: Judge, protocols: Collection[str] | None) -> list[EditRecord]:
    """The edits of the run's first seed that the judge is asked about: further seeds are repeats of a case."""
    return [
        record
        for record in judged_edits(store, judge.options, protocols)
        if record.file is not None and record.key.seed == store.seeds[0]
    ]


def _pairs(chunk: Sequence[StoredPair]) -> Iterator[EditPair]:
    """Yields all pairs of edits of each case."""
    by_case: dict[tuple[str, str], list[tuple[EditRecord, Pair]]] = {}
    for record, pair in chunk:
        if not isinstance(pair, NoValue):
            by_case.setdefault((record.key.protocol, record.key.case), []).append((record, pair))
    for edits in by_case.values():
        for (first, first_pair), (second, second_pair) in combinations(edits, 2):
            yield EditPair(first, second, first_pair, second_pair)


def _questions(judge: Judge, pairs: Sequence[EditPair]) -> Iterator[ReplyKey]:
    """Yields both orders of each pair whose images differ."""
    (question,) = judge.wording.rubric.questions
    for pair in pairs:
        if not pair.is_identical:
            yield from (pair.key(question.name, swapped=swapped) for swapped in (False, True))


def _calls(judge: Judge, asker: Asker, pairs: Sequence[EditPair]) -> Iterator[Call]:
    """Yields the questions about both orders of each pair that have no reply. Images are encoded here."""
    (question,) = judge.wording.rubric.questions
    urls: dict[str, str] = {}
    asked: set[ReplyKey] = set()
    for pair in pairs:
        for swapped in (False, True):
            key = pair.key(question.name, swapped=swapped)
            if pair.is_identical or key in asked or not asker.needs_call(key, question):
                continue
            asked.add(key)
            edits = [pair.first_pair.edited, pair.second_pair.edited]
            images = [pair.first_pair.source, *(edits[::-1] if swapped else edits)]
            for image in images:
                if image.key not in urls:
                    urls[image.key] = image_url(image.pixels, judge.options)
            yield Call(
                key,
                question,
                judge.wording.prompt(question, pair.first_pair),
                [urls[image.key] for image in images],
                [judge.options.sent_size(image.size) for image in images],
            )


def _vote(
    judge: Judge, log: ReplyLog, pair: EditPair, titles: Mapping[str, str], summary: PairwiseSummary
) -> dict[str, Any] | None:
    """The vote of a pair, None where one of its two questions has no verdict."""
    first, second = titles[pair.first.key.method], titles[pair.second.key.method]
    served = judge.options.model
    both_orders = None
    if pair.is_identical:
        summary.identical += 1
        answer = "tie"
    else:
        (question,) = judge.wording.rubric.questions
        positions = []
        for swapped in (False, True):
            reply = log.last(pair.key(question.name, swapped=swapped))
            if reply is None:
                return None
            result = read_reply(reply, question, judge.wording.rubric.scale)
            if isinstance(result, Unread):
                summary.failures[result.kind] += 1
            else:
                positions += result
                served = reply.model or served
        if len(positions) < 2:
            return None
        # 0: the image shown first won, 1: the second, 0.5: a tie.
        decided = [position for position in positions if position != 0.5]
        summary.decided += len(decided)
        summary.first += decided.count(0.0)
        summary.flips += len(decided) == 2 and positions[0] == positions[1]
        # The same edit wins in both orders where it stands first once and second once.
        answers = [
            {0.0: order[0], 1.0: order[1]}.get(position, "tie")
            for position, order in zip(positions, ((first, second), (second, first)), strict=True)
        ]
        answer = answers[0] if answers[0] == answers[1] else "tie"
        both_orders = answers
    summary.pairs += 1
    key = pair.first.key
    trial = hashlib.sha256(
        f"{key.protocol} {key.case} {key.method} {pair.second.key.method}".encode()
    ).hexdigest()
    # Either order, as both were shown: chosen by the hash, so that no position of the votes has an advantage.
    order = (first, second) if int(trial, 16) % 2 else (second, first)
    return {
        "study": study_of_votes(judge),
        "rater": served,
        "trial": trial[:20],
        "question": "better",
        "protocol": key.protocol,
        "case": key.case,
        "kind": "pair",
        "candidates": order,
        "answer": answer,
        # The first answer is that to the order of the candidates.
        "both_orders": None
        if both_orders is None
        else json.dumps(both_orders[:: 1 if order[0] == first else -1]),
        "role": "trial",
        "repeat_of": None,
        "expected": None,
        # A model has no reaction time. The rule below checks none.
        "reaction_ms": 0.0,
        "server_time": datetime.now(UTC),
        "rater_kind": "model",
        "exclusion": _NO_RULE,
    }


# No bound: a program is neither inattentive nor too quick.
_NO_RULE = '{"max_attention_failures": null, "min_median_reaction_ms": null, "min_self_consistency": null}'
