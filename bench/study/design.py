"""The design of a study: its cases and trials, and its JSON with a digest.

The digest covers the options, every image's SHA-256 and every trial. A design that was changed does not load, and
``images`` refuses a file that was changed. ``build`` makes designs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from bench.files import parse_json, sha256_file
from bench.registry import did_you_mean
from bench.study import StudyError
from bench.study.arrange import Counts, schedule
from bench.study.scales import Scale
from bench.study.types import CONTROL, KINDS, QUESTIONS, ImageRef, Kind, Role, StudyCase, Trial

# Version of the JSON.
FORMAT = 1
# For estimates of the duration. A careful comparison takes 10 to 15 seconds.
SECONDS_PER_TRIAL = 14


class DesignError(StudyError):
    """Runs or options that give no design, or a design that does not match its digest."""


@dataclass(frozen=True)
class DesignOptions:
    """All options that decide which trials a study has. Texts, deadlines and codes are in ``StudySettings``."""

    # Titles or registered names of the methods to compare. Empty: all methods of the runs but the controls.
    methods: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("pair",)
    questions: tuple[str, ...] = ("overall",)
    raters: int = 20
    # Votes per rater, practice not counted.
    trials: int = 40
    # Repeated trials among `trials`. They measure self-consistency and position bias.
    repeats: int = 4
    # Attention checks among `trials`.
    attention: int = 6
    # Trials that come first and do not count.
    practice: int = 2
    # Most cases per protocol and category, chosen by hash of the id. None: all.
    cases_per_category: int | None = None
    # Whether `pair` trials may be answered with a tie.
    ties: bool = True
    seed: int = 0
    # Raters per comparison. Agreement between raters needs two or more.
    overlap: int = 1
    # Whether `pair` trials may be answered with "both are bad", apart from a tie.
    both_bad: bool = False
    # Whether the next pair is chosen by the votes so far (`adaptive`). The trials are then a pool to choose from.
    adaptive: bool = False
    # The scales of `rate` trials.
    scales: tuple[Scale, ...] = ()

    @property
    def votes(self) -> int:
        """Votes that the study asks for, without repeats and attention checks."""
        return self.raters * self.counts.per_sheet

    @property
    def counts(self) -> Counts:
        return Counts(self.raters, self.trials, self.repeats, self.attention, self.practice, self.overlap)

    @property
    def minutes(self) -> float:
        """Estimated duration for one rater."""
        return (self.trials + self.practice) * SECONDS_PER_TRIAL / 60

    def check(self) -> None:
        """Raises :class:`DesignError` that names the option."""
        # Numbers.
        minimum = {"raters": 1, "trials": 1, "repeats": 0, "attention": 0, "practice": 0, "overlap": 1}
        for option, low in minimum.items():
            value = getattr(self, option)
            if value < low:
                raise DesignError(f"--{option} {value}: expected {low} or more.")
        if self.overlap > self.raters:
            raise DesignError(
                f"--overlap {self.overlap}: there are only {self.raters} raters. Ask for more raters, or for less "
                "overlap."
            )
        if self.cases_per_category is not None and self.cases_per_category < 1:
            raise DesignError(f"--cases {self.cases_per_category}: expected 1 or more.")
        # The parts of a session have to fit into it.
        if self.counts.per_sheet < 1:
            raise DesignError(
                f"--trials {self.trials}: {self.repeats} repeats and {self.attention} attention checks leave "
                "no trial. Ask for more trials, or for fewer of these."
            )
        if self.repeats > self.counts.per_sheet:
            raise DesignError(
                f"--repeats {self.repeats}: a rater has only {self.counts.per_sheet} trials to repeat. "
                "Ask for fewer repeats, or for more trials."
            )
        # Names.
        _check_names("--kind", self.kinds, list(KINDS))
        _check_names("--question", self.questions, list(QUESTIONS))
        if self.adaptive and (self.kinds != ("pair",) or self.overlap != 1):
            raise DesignError("--adaptive: chooses pairs. Leave --kind and --overlap at their defaults.")
        if ("rate" in self.kinds) != bool(self.scales):
            raise DesignError("--scale: scales belong to --kind rate. Name both or neither.")


def _check_names(option: str, names: tuple[str, ...], available: list[str]) -> None:
    """Raises :class:`DesignError` for no name, a repeated name or an unknown one."""
    listed = ", ".join(available)
    if not names or len(set(names)) != len(names):
        raise DesignError(f"{option}: name each of {listed} at most once, and at least one.")
    for name in names:
        if name not in available:
            raise DesignError(f"{option} {name!r}: unknown.{did_you_mean(name, available)} Known: {listed}.")


@dataclass(frozen=True)
class Design:
    """A study's cases and trials. ``build.build`` makes it, :meth:`from_json` reads it."""

    options: DesignOptions
    # Titles, in the order of the runs.
    methods: tuple[str, ...]
    # Title -> the method's digest.
    method_digests: Mapping[str, str]
    cases: tuple[StudyCase, ...]
    trials: tuple[Trial, ...]
    # Absolute paths of the run folders. They are not part of the digest.
    runs: tuple[str, ...] = ()
    # Reason -> number of cases that are not compared for it.
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256, 64 hex digits, over everything but the paths of the run folders."""
        # The form of this text is part of every stored digest: it must never change.
        body = self._body()
        del body["runs"]
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def case_by_key(self) -> Mapping[str, StudyCase]:
        return {case.key: case for case in self.cases}

    @cached_property
    def trial_by_id(self) -> Mapping[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    def schedule(self, rater: int) -> tuple[Role, ...]:
        """Roles of the trials, in order, of the rater with this number (from 0)."""
        return schedule(self.options.counts, self.options.seed, rater)

    # Images

    def image_of(self, case: StudyCase, candidate: str) -> ImageRef:
        """The image of a candidate, which is a method's title or a control."""
        if candidate in case.edits:
            return case.edits[candidate]
        control = candidate.removeprefix(CONTROL)
        if control == "truth" and case.truth is not None:
            return case.truth
        if control == "source":
            return case.source
        # noise, noise-2, noise-3, ...
        if control.partition("-")[0] == "noise" and candidate.startswith(CONTROL):
            return ImageRef(f"noise:{self.options.seed}/{case.key}/{control}")
        raise DesignError(f"case {case.key} has no candidate {candidate!r}. Build the study again.")

    def images(self) -> Iterator[tuple[str, ImageRef]]:
        """Every file of the study once, with a description."""
        for case in self.cases:
            yield f"{case.key}: source", case.source
            if case.mask is not None:
                yield f"{case.key}: mask", case.mask
            if case.truth is not None:
                yield f"{case.key}: truth", case.truth
            for title, ref in case.edits.items():
                yield f"{case.key}: edit of {title}", ref

    def path(self, ref: ImageRef) -> Path:
        """Absolute path of an image's file."""
        return Path(self.runs[ref.run]) / ref.file

    def changed_files(self) -> list[str]:
        """One line per file that is missing, or whose SHA-256 is not the design's."""
        # All problems at once, so that they can be fixed together.
        lines = []
        for description, ref in self.images():
            path = self.path(ref)
            try:
                if sha256_file(path) != ref.sha256:
                    lines.append(f"{path}: not the file that the study was made of; it is {description}")
            except OSError as error:
                lines.append(f"{path}: cannot be read ({error.strerror}); it is {description}")
        return lines

    # Figures

    def pair_votes(self) -> dict[tuple[str, frozenset[str]], int]:
        """(question, two methods) -> number of votes of the design. 0 for a pair that is never shown.

        Empty for a study without pairs.
        """
        if "pair" not in self.options.kinds:
            return {}
        votes = {
            (question, frozenset(pair)): 0
            for question in self.options.questions
            for pair in combinations(self.methods, 2)
        }
        # Repeats do not count as votes.
        for trial in self.trials:
            if trial.role == "trial" and trial.kind == "pair":
                votes[trial.question, frozenset(trial.candidates)] += 1
        return votes

    def describe(self) -> dict[str, Any]:
        """Figures to print: the numbers of raters, trials and votes, and their smallest and largest counts."""
        trials = [trial for trial in self.trials if trial.role == "trial"]
        votes_per_unit = Counter(trial.unit for trial in trials).values()
        # A single edit that is rated has no order.
        compared = [trial for trial in trials if trial.kind != "rate"]
        first = Counter(trial.candidates[0] for trial in compared)
        appearances = Counter(title for trial in compared for title in trial.candidates)
        pair_votes = self.pair_votes().values()
        figures: dict[str, Any] = {
            "methods": list(self.methods),
            "cases": len(self.cases),
            "categories": dict(Counter(case.category for case in self.cases)),
            "raters": self.options.raters,
            "trials per rater": self.options.trials,
            "votes wanted": self.options.votes,
            "different comparisons": len(votes_per_unit),
            "votes per comparison": [min(votes_per_unit), max(votes_per_unit)],
        }
        if pair_votes and not self.options.adaptive:
            figures["votes per question and pair"] = [min(pair_votes), max(pair_votes)]
        if compared:
            # Share of a method's appearances in which it comes first.
            figures["shown first"] = {
                title: first[title] / appearances[title] for title in self.methods if appearances[title]
            }
        return {**figures, "left out": dict(self.left_out), "digest": self.digest}

    # JSON

    def _body(self) -> dict[str, Any]:
        options = asdict(self.options)
        # Designs from before an option existed keep their digest.
        for name, default in (("overlap", 1), ("both_bad", False), ("adaptive", False), ("scales", ())):
            if options[name] == default:
                del options[name]
        return {
            "format": FORMAT,
            "options": options,
            "methods": list(self.methods),
            "method_digests": dict(self.method_digests),
            "cases": [asdict(case) for case in self.cases],
            "trials": [asdict(trial) for trial in self.trials],
            "left_out": dict(self.left_out),
            "runs": list(self.runs),
        }

    def to_json(self) -> str:
        return json.dumps({**self._body(), "digest": self.digest}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Design:
        """Raises :class:`DesignError` for a text that is no design, or a design that does not match its digest."""
        try:
            body = parse_json(text)
            if body["format"] != FORMAT:
                raise DesignError(
                    f"a design of format {body['format']}; this version reads {FORMAT}. "
                    "Use the version that made the study."
                )
            # JSON has no tuples.
            options: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in body["options"].items()
            }
            if "scales" in options:
                options["scales"] = tuple(Scale.from_json(row) for row in options["scales"])
            design = cls(
                options=DesignOptions(**options),
                methods=tuple(body["methods"]),
                method_digests=body["method_digests"],
                cases=tuple(_case_from_json(row) for row in body["cases"]),
                trials=tuple(
                    Trial(**{**row, "candidates": tuple(row["candidates"])}) for row in body["trials"]
                ),
                runs=tuple(body["runs"]),
                left_out=body["left_out"],
            )
            stored_digest = body["digest"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DesignError):
                raise
            raise DesignError(f"not a study's design ({error}). Create the study again.") from error
        # The digest is computed again from the values just read.
        if design.digest != stored_digest:
            raise DesignError(
                f"the design's content has the digest {design.digest[:12]}, not {stored_digest[:12]}: it was changed "
                "after the study was made. Restore the database from a copy."
            )
        return design


def _case_from_json(row: Mapping[str, Any]) -> StudyCase:
    # JSON has plain objects where the case has image references.
    return StudyCase(
        **{
            **row,
            "source": ImageRef(**row["source"]),
            "mask": None if row["mask"] is None else ImageRef(**row["mask"]),
            "truth": None if row["truth"] is None else ImageRef(**row["truth"]),
            "edits": {title: ImageRef(**value) for title, value in row["edits"].items()},
        }
    )
