"""The replies of one judge in a run folder: ``judge/DIGEST.jsonl``, a line for each, and ``judge/DIGEST.json``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from bench.files import parse_json
from bench.judges.chat import Reply
from bench.judges.options import Judge, JudgeOptions
from bench.judges.prices import spent
from bench.judges.reading import Scores, Unread, UnreadKind
from bench.store import RunStore
from bench.store.errors import writing
from bench.store.journal import Journal


@dataclass(frozen=True)
class ReplyKey:
    """The identity of one question about one edit."""

    protocol: str
    protocol_version: str
    case: str
    edit: str
    """SHA-256 of the PNG."""
    question: str
    number: int
    """The pass, from 0."""


class ReplyLog:
    """Stores each reply as it comes. A line counts once it is on disk, so a kill loses no reply and repeats none."""

    def __init__(self, store: RunStore, digest: str) -> None:
        """Reads the stored replies of the judge with this digest. Raises StoreError for a broken line."""
        self._store = store
        self._name = f"judge/{digest}"
        self._journal = Journal(
            store.path / f"{self._name}.jsonl",
            "a reply of a judge",
            "Delete that line; the question is asked again by the next run.",
        )
        self._mutex = threading.Lock()
        self._replies: dict[ReplyKey, Reply] = {}
        for number, row in self._journal.rows():
            try:
                key, reply = _read(row)
            except (KeyError, TypeError, ValueError) as error:
                raise self._journal.broken(number, f"{type(error).__name__}: {error}") from None
            # A question that failed was asked again: the last line counts.
            self._replies[key] = reply

    def find(self, key: ReplyKey) -> Reply | None:
        """The stored reply, None where the question has to be asked, also once more."""
        reply = self._replies.get(key)
        return reply if reply is not None and reply.is_final else None

    def last(self, key: ReplyKey) -> Reply | None:
        """The stored reply, also one that is no more than a failed transport."""
        return self._replies.get(key)

    def answered(self) -> Mapping[ReplyKey, Reply]:
        """The last reply to each question, in the order in which they were first asked."""
        return self._replies

    def describe(self, judge: Judge, served: Iterable[str] = ()) -> None:
        """Writes the judge's description beside its replies. ``served``: the models that answered."""
        description = {
            **judge.as_json(),
            "versions": {judge.version(model): model for model in served},
            "spent": spent(judge.options.prices, self._replies.values()),
        }
        text = json.dumps(description, indent=1, sort_keys=True) + "\n"
        self._store.write_file(f"{self._name}.json", text.encode(), "a judge's description")

    def add(self, key: ReplyKey, reply: Reply, result: Scores | Unread) -> None:
        """Stores one reply and waits until it is on disk. Safe to call from several threads.

        ``result`` is what was read in it, for people who read the file. Scoring reads the text again.
        """
        row = _row(key, reply)
        row |= {"reason": result.reason} if isinstance(result, Unread) else {"scores": result}
        with self._mutex, writing(self._store.path, "store a judge's reply"):
            self._journal.append([row], sync=True)
            self._replies[key] = reply

    def close(self) -> None:
        self._journal.close()


@dataclass(frozen=True)
class StoredJudge:
    """A judge of a run as its description has it."""

    digest: str
    options: JudgeOptions
    versions: Mapping[str, str]
    """Version of its scores -> the model that answered."""

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Yields each version with a sentence about the judge."""
        options = self.options
        passes = f"{options.passes} passes" if options.passes > 1 else "one pass"
        noun = "case" if options.limit == 1 else "cases"
        cases = f", {options.limit} {noun} of each category" if options.limit else ""
        side = f"at most {options.longest_side} px" if options.longest_side else "at their own size"
        for version, model in self.versions.items():
            yield (
                version,
                f"Judge: {model or options.model} by the rubric {options.rubric}, {passes}, images as "
                f"{options.codec.upper()} {side}{cases}; version {version}.",
            )


def stored_judges(store: RunStore) -> list[StoredJudge]:
    """The judges that a run has. Descriptions that cannot be read are left out."""
    judges = []
    for path in sorted((store.path / "judge").glob("*.json")):
        try:
            value = parse_json(path.read_text(encoding="utf-8"))
            judges.append(StoredJudge(path.stem, JudgeOptions(**value["options"]), dict(value["versions"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return judges


_KEY_FIELDS = ("protocol", "protocol_version", "case", "edit", "question")
_REPLY_FIELDS = ("status", "model", "text", "finish", "refusal", "usage", "is_final")


def reply_fields(reply: Reply) -> dict[str, Any]:
    """A reply as JSON values, without those that it lacks."""
    fields = {name: getattr(reply, name) for name in _REPLY_FIELDS}
    if reply.problem is not None:
        fields["problem"] = {"kind": reply.problem.kind, "detail": reply.problem.detail}
    return {name: value for name, value in fields.items() if value is not None}


def _row(key: ReplyKey, reply: Reply) -> dict[str, Any]:
    row = {**{name: getattr(key, name) for name in _KEY_FIELDS}, "pass": key.number, **reply_fields(reply)}
    return {**row, "shared": True} if reply.shared else row


def _read(row: Any) -> tuple[ReplyKey, Reply]:
    """The reply of a line. Raises KeyError, TypeError or ValueError for a line of another shape."""
    if not isinstance(row, dict) or not all(isinstance(row[name], str) for name in _KEY_FIELDS):
        raise ValueError("no object with the fields of a question")
    key = ReplyKey(**{name: row[name] for name in _KEY_FIELDS}, number=int(row["pass"]))
    return key, reply_of(row, shared=bool(row.get("shared", False)))


def reply_of(row: Any, *, shared: bool) -> Reply:
    """The reply of :func:`reply_fields`. Raises KeyError, TypeError or ValueError for another shape."""
    if not isinstance(row, dict) or ("text" in row) == ("problem" in row):
        raise ValueError("it needs exactly one of text and problem")
    return Reply(
        row.get("text"),
        row.get("status"),
        str(row.get("model", "")),
        row.get("finish"),
        row.get("refusal"),
        row.get("usage"),
        _problem(row["problem"]) if "problem" in row else None,
        bool(row.get("is_final", True)),
        shared,
    )


def _problem(value: Any) -> Unread:
    """The problem of a stored reply. Raises KeyError, TypeError or ValueError for another shape."""
    if isinstance(value, str):
        # Logs of earlier versions have "kind: detail".
        kind, _, detail = value.partition(": ")
    else:
        kind, detail = value["kind"], value["detail"]
    if kind not in get_args(UnreadKind) or not isinstance(detail, str):
        raise ValueError(f"unknown problem {value!r:.80}")
    return Unread(cast("UnreadKind", kind), detail)
