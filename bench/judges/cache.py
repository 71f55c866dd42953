"""Replies that all runs share: the same judge is asked the same question about the same images once.

A run's own log (``replies``) comes first. A question that is not in it is looked up here, by everything that the reply
depends on: server, model, rubric and wording, options, the SHA-256 of each image, and the pass. A reply is stored here
before it is logged, so a process that is killed between the two pays for no reply twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.endpoints.client import AnswerCache, request_key
from bench.files import parse_json, sha256_file
from bench.judges.chat import Reply
from bench.judges.options import Judge
from bench.judges.replies import ReplyKey, reply_fields, reply_of
from bench.judges.rubrics import CaseText, Question, RubricError
from bench.registry import options_dict
from bench.store.errors import writing

if TYPE_CHECKING:
    from bench.casefile import CaseFile
    from bench.store import RunStore


class ReplyCache:
    """The shared replies of one judge, for the edits of one run. The attribute classifier's are not shared."""

    def __init__(self, store: RunStore, judge: Judge) -> None:
        options = judge.options
        self._wording = judge.wording
        self._answers = None if options.is_world else AnswerCache(options.cache_folder)
        self._cases: Mapping[str, CaseFile] = {name: store.cases(name) for name in store.protocols()}
        # The folder of the prompts is not in it: the wording's digest is.
        self._judge = {
            **options_dict(options),
            "prompts": "",
            "url": judge.url,
            "rubric": judge.wording.digest,
        }
        self._sha256: dict[Path, str] = {}

    def find(self, key: ReplyKey, question: Question) -> Reply | None:
        """The reply of an earlier run. None where there is none, or its file cannot be read."""
        path = None if self._answers is None else self._answers.find(self._request(key, question))
        if path is None:
            return None
        try:
            return reply_of(parse_json(path.read_text(encoding="utf-8")), shared=True)
        except (OSError, ValueError, KeyError, TypeError):
            # A damaged file is written anew with the next reply.
            return None

    def lacks(self, key: ReplyKey, question: Question) -> bool:
        """True where a call has to be made. A question without a wording is not asked."""
        try:
            return self.find(key, question) is None
        except RubricError:
            return False

    def add(self, key: ReplyKey, question: Question, reply: Reply) -> None:
        """Stores a reply for other runs. One that is asked again is not stored. Raises StoreError."""
        if self._answers is not None and reply.is_final:
            with writing(self._answers.folder, "store a judge's reply for other runs"):
                self._answers.store(self._request(key, question), json.dumps(reply_fields(reply)).encode())

    def _request(self, key: ReplyKey, question: Question) -> str:
        """The identity of a question. Raises RubricError where the rubric has no wording for it."""
        cases = self._cases[key.protocol]
        row = cases.row(key.case)
        edits = iter(key.edit.split())
        images = [
            self._digest(cases.file(row[name])) if name in ("source", "mask") else next(edits)
            for name in question.images
        ]
        text = self._wording.prompt(question, CaseText.of_row(row))
        return request_key({"judge": self._judge, "text": text, "images": images, "pass": key.number})

    def _digest(self, path: Path) -> str:
        if path not in self._sha256:
            self._sha256[path] = sha256_file(path)
        return self._sha256[path]
