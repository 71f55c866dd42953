"""From run folders' stored edits to a study's design: which trials there are, bound to the edits' hashes.

``build`` reads run folders and nothing else; with the same edits and options it gives the same design, digit
for digit, wherever the folders lie. The digest covers the options, every picture's SHA-256 and every trial:
a design that was tampered with does not load, and ``pictures`` refuses a file that changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import EditRecord
from bench.files import parse_json
from bench.registry import did_you_mean
from bench.study import StudyError
from bench.study.arrange import Counts, arrange, rank, schedule
from bench.study.types import (
    CONTROL,
    KINDS,
    QUESTIONS,
    TIE,
    Kind,
    PictureRef,
    Role,
    StudyCase,
    Trial,
)

if TYPE_CHECKING:
    from bench.casefile import CaseFile
    from bench.store import RunStore

FORMAT = 1
"""Of a design's JSON."""


class DesignError(StudyError):
    """Runs or options that no design can be built from, or a design that is not what its digest says."""


@dataclass(frozen=True)
class DesignOptions:
    """All that decides which trials there are. Texts, deadlines and codes are ``settings.StudySettings``."""

    methods: tuple[str, ...] = ()
    """Titles or registered names of the methods to compare; none: all of the runs but the controls."""
    kinds: tuple[Kind, ...] = ("pair",)
    questions: tuple[str, ...] = ("overall",)
    raters: int = 20
    trials: int = 40
    """Votes per rater, practice not counted."""
    repeats: int = 4
    """Of these, repeated trials (self-consistency, position bias)."""
    attention: int = 6
    """Of these, trials whose answer is known."""
    practice: int = 2
    """Trials that come first and do not count."""
    cases_per_category: int | None = None
    """At most so many cases per protocol and category, chosen by hash of the id; None: all."""
    ties: bool = True
    """Whether ``pair`` trials may be answered with a tie."""
    seed: int = 0
    overlap: int = 1
    """Raters who are asked about each comparison. Agreement between raters needs two or more."""

    @property
    def counts(self) -> Counts:
        return Counts(self.raters, self.trials, self.repeats, self.attention, self.practice, self.overlap)

    def check(self) -> None:
        """Raises :class:`DesignError` that names the option."""
        least = {"raters": 1, "trials": 1, "repeats": 0, "attention": 0, "practice": 0, "overlap": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                raise DesignError(f"--{name} {value}: expected {low} or more.")
        if self.overlap > self.raters:
            raise DesignError(
                f"--overlap {self.overlap}: there are only {self.raters} raters. Ask for more raters, or for less "
                "overlap."
            )
        if self.cases_per_category is not None and self.cases_per_category < 1:
            raise DesignError(f"--cases {self.cases_per_category}: expected 1 or more.")
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
        for option, asked, known in (
            ("--kind", self.kinds, list(KINDS)),
            ("--question", self.questions, list(QUESTIONS)),
        ):
            if not asked or len(set(asked)) != len(asked):
                raise DesignError(
                    f"{option}: name each of {', '.join(known)} at most once, and at least one."
                )
            for name in asked:
                if name not in known:
                    raise DesignError(
                        f"{option} {name!r}: unknown.{did_you_mean(name, known)} Known: {', '.join(known)}."
                    )


@dataclass(frozen=True)
class Design:
    """A study's cases and trials. Build it with :func:`build`, read it with :meth:`from_json`."""

    options: DesignOptions
    methods: tuple[str, ...]
    """Titles, in the order of the runs."""
    method_digests: Mapping[str, str]
    """Title -> the method's digest."""
    cases: tuple[StudyCase, ...]
    trials: tuple[Trial, ...]
    runs: tuple[str, ...] = ()
    """Absolute paths of the run folders; outside the digest."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> cases that are not compared for it."""

    @cached_property
    def digest(self) -> str:
        """64 hex digits of SHA-256 over all but where the run folders lie."""
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
        """The roles of the trials of the rater of that number (from 0), in order."""
        return schedule(self.options.counts, self.options.seed, rater)

    def picture(self, case: StudyCase, candidate: str) -> PictureRef:
        """The picture of a candidate: a method's title or a control."""
        if candidate in case.edits:
            return case.edits[candidate]
        name = candidate.removeprefix(CONTROL)
        if name == "truth" and case.truth is not None:
            return case.truth
        if name == "source":
            return case.source
        if name.partition("-")[0] == "noise" and candidate.startswith(CONTROL):
            return PictureRef(f"noise:{self.options.seed}/{case.key}/{name}")
        raise DesignError(f"case {case.key} has no candidate {candidate!r}. Build the study again.")

    def pictures(self) -> Iterator[tuple[str, PictureRef]]:
        """Every file that the study shows, with what it is, each once."""
        for case in self.cases:
            yield f"{case.key}: source", case.source
            yield f"{case.key}: mask", case.mask
            if case.truth is not None:
                yield f"{case.key}: truth", case.truth
            for title, ref in case.edits.items():
                yield f"{case.key}: edit of {title}", ref

    def path(self, ref: PictureRef) -> Path:
        """Where a picture's file lies."""
        return Path(self.runs[ref.run]) / ref.file

    def pair_votes(self) -> dict[tuple[str, frozenset[str]], int]:
        """(question, two methods) -> how many votes the design asks for; 0 for a pair that it never shows.

        Empty for a study without pairs.
        """
        if "pair" not in self.options.kinds:
            return {}
        votes = {
            (question, frozenset(pair)): 0
            for question in self.options.questions
            for pair in combinations(self.methods, 2)
        }
        for trial in self.trials:
            if trial.role == "trial" and trial.kind == "pair":
                votes[trial.question, frozenset(trial.candidates)] += 1
        return votes

    def describe(self) -> dict[str, Any]:
        """Figures for a screen: how much there is, and how evenly."""
        wanted = [trial for trial in self.trials if trial.role == "trial"]
        units = Counter(trial.unit for trial in wanted)
        lefts = Counter(trial.candidates[0] for trial in wanted)
        shown = Counter(title for trial in wanted for title in trial.candidates)
        pairs = self.pair_votes()
        return {
            "methods": list(self.methods),
            "cases": len(self.cases),
            "categories": dict(Counter(case.category for case in self.cases)),
            "raters": self.options.raters,
            "trials per rater": self.options.trials,
            "votes wanted": len(wanted),
            "different comparisons": len(units),
            "votes per comparison": [min(units.values()), max(units.values())],
            **({"votes per question and pair": [min(pairs.values()), max(pairs.values())]} if pairs else {}),
            "shown first": {title: lefts[title] / shown[title] for title in self.methods if shown[title]},
            "left out": dict(self.left_out),
            "digest": self.digest,
        }

    # JSON

    def _body(self) -> dict[str, Any]:
        options = asdict(self.options)
        if self.options.overlap == 1:
            # Designs made before there was overlap keep their digest.
            del options["overlap"]
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
        """Raises :class:`DesignError` for what is no design, or not the one that its digest names."""
        try:
            body = parse_json(text)
            if body["format"] != FORMAT:
                raise DesignError(
                    f"a design of format {body['format']}; this version reads {FORMAT}. "
                    "Use the version that made the study."
                )
            options = {name: _tuples(value) for name, value in body["options"].items()}
            design = cls(
                options=DesignOptions(**options),
                methods=tuple(body["methods"]),
                method_digests=body["method_digests"],
                cases=tuple(_case(row) for row in body["cases"]),
                trials=tuple(
                    Trial(**{**row, "candidates": tuple(row["candidates"])}) for row in body["trials"]
                ),
                runs=tuple(body["runs"]),
                left_out=body["left_out"],
            )
            claimed = body["digest"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DesignError):
                raise
            raise DesignError(f"not a study's design ({error}). Create the study again.") from error
        if design.digest != claimed:
            raise DesignError(
                f"the design's content has the digest {design.digest[:12]}, not {claimed[:12]}: it was changed "
                "after the study was made. Restore the database from a copy."
            )
        return design


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _case(row: Mapping[str, Any]) -> StudyCase:
    def ref(value: Mapping[str, Any]) -> PictureRef:
        return PictureRef(**value)

    row = dict(row)
    return StudyCase(
        **{
            **row,
            "source": ref(row["source"]),
            "mask": ref(row["mask"]),
            "truth": None if row["truth"] is None else ref(row["truth"]),
            "edits": {title: ref(value) for title, value in row["edits"].items()},
        }
    )


# --- from run folders -------------------------------------------------------------------------------------


def build(runs: Sequence[str | Path | RunStore], options: DesignOptions = DesignOptions()) -> Design:
    """The design of a study of the edits of one or more run folders.

    Only cases that every compared method has edited are used, so that no comparison is lopsided; the rest
    is counted in ``Design.left_out``. Every edit's file is checked against its record. Raises
    :class:`DesignError` (options, methods, a changed file), ``arrange.ArrangeError`` (too many trials for
    too few cases) and ``bench.store.StoreError``.
    """
    from bench.store import RunStore

    options.check()
    if not runs:
        raise DesignError("a study needs at least one run folder. Name one, such as runs/demo.")
    stores = [run if isinstance(run, RunStore) else RunStore.open(run) for run in runs]
    _same_protocols(stores)
    titles = method_titles(stores)
    chosen = _choose(titles, options.methods, stores)
    edits = _edits(stores, titles)
    rows, left_out = _complete(stores, edits, chosen, options)
    if not rows:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DesignError(
            f"no case has an edit of each of {', '.join(chosen)} ({reasons or 'no edits at all'}). "
            "Run the missing edits, or name other methods."
        )
    cases = tuple(_study_case(stores, run, case_file, row, edits, chosen) for run, case_file, row in rows)
    digests = {title: digest for digest, title in titles.items() if title in chosen}
    trials = arrange(
        cases,
        chosen,
        kinds=options.kinds,
        questions=options.questions,
        counts=options.counts,
        seed=options.seed,
    )
    paths = tuple(str(store.path.resolve()) for store in stores)
    design = Design(options, chosen, digests, cases, trials, paths, left_out)
    _check_pairs(design)
    _check_files(design)
    return design


def _check_pairs(design: Design) -> None:
    """Raises DesignError where two methods would never be compared, so that nothing could be said of them."""
    votes = design.pair_votes()
    never = [key for key, count in votes.items() if count == 0]
    if never:
        question = never[0][0]
        missing = [pair for of, pair in never if of == question]
        pairs = len(votes) // len(design.options.questions)
        asked = sum(count for (of, _), count in votes.items() if of == question)
        first, second = sorted(missing[0])
        raise DesignError(
            f"{len(missing)} of {pairs} pairs of methods would never be compared on the question {question!r}, "
            f"such as {first} with {second}: the question gets {asked} trials of pairs. Raise --raters or --trials, "
            "lower --overlap, or compare fewer methods or questions."
        )


def _same_protocols(stores: Sequence[RunStore]) -> None:
    """Raises DesignError where two runs asked different cases under one name."""
    seen: dict[str, tuple[str, Path]] = {}
    for store in stores:
        for name in store.protocols():
            digest = store.manifest["protocols"][name]["digest"]
            before = seen.setdefault(name, (digest, store.path))
            if before[0] != digest:
                raise DesignError(
                    f"{before[1]} and {store.path} answer different cases of {name} (digests {before[0]} and "
                    f"{digest}): their edits cannot be compared. Run both on one protocol."
                )


def method_titles(stores: Sequence[RunStore]) -> dict[str, str]:
    """Method digest -> a title that no other method has."""
    specs = {digest: spec for store in stores for digest, spec in store.methods.items()}
    times = Counter(spec.title for spec in specs.values())
    titles = {
        digest: spec.title if times[spec.title] == 1 else f"{spec.title} ({digest[:6]})"
        for digest, spec in specs.items()
    }
    for title in titles.values():
        if title == TIE or title.startswith(CONTROL) or "|" in title:
            raise DesignError(
                f"the method's label {title!r} means something else in a study. Give it another label: "
                f"not {TIE!r}, not beginning with {CONTROL!r}, without '|'."
            )
    return titles


def _choose(titles: Mapping[str, str], asked: Sequence[str], stores: Sequence[RunStore]) -> tuple[str, ...]:
    """Titles of the methods to compare, in the order of the runs."""
    specs = {titles[digest]: spec for store in stores for digest, spec in store.methods.items()}
    names = {title: spec.name for title, spec in specs.items()}
    if not asked:
        chosen = [title for title, spec in specs.items() if not spec.is_control]
    else:
        wanted = set()
        for entry in asked:
            found = [title for title, name in names.items() if entry in (title, name)]
            if not found:
                raise DesignError(
                    f"--method {entry!r}: the runs have no such method.{did_you_mean(entry, names)} "
                    f"They have: {', '.join(names)}."
                )
            wanted.update(found)
        chosen = [title for title in names if title in wanted]
    if len(chosen) < 2:
        raise DesignError(
            f"a study compares at least two methods; found: {', '.join(chosen) or 'none'}. The runs have: "
            f"{', '.join(names)}. Controls are compared only where --method names them."
        )
    return tuple(chosen)


Edits = dict[tuple[str, str, str], tuple[int, EditRecord]]
"""(protocol, case, title) -> the run that has it, and its record."""


def _edits(stores: Sequence[RunStore], titles: Mapping[str, str]) -> Edits:
    found: Edits = {}
    for index, store in enumerate(stores):
        for record in store.edits():
            if record.error is not None or record.file is None or record.sha256 is None:
                continue
            key = (record.key.protocol, record.key.case, titles[record.key.method])
            before = found.setdefault(key, (index, record))
            if before[1].sha256 != record.sha256:
                raise DesignError(
                    f"{stores[before[0]].path} and {store.path} hold different edits of case {key[1]} by "
                    f"{key[2]}. Leave one of the runs out."
                )
    return found


def _complete(
    stores: Sequence[RunStore], edits: Edits, chosen: Sequence[str], options: DesignOptions
) -> tuple[list[tuple[int, CaseFile, dict[str, Any]]], dict[str, int]]:
    """The rows of the cases to compare, and why others are none of them."""
    rows: list[tuple[int, CaseFile, dict[str, Any]]] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    taken: Counter[tuple[str, str]] = Counter()
    for index, store in enumerate(stores):
        for protocol in store.protocols():
            file = store.cases(protocol)
            # By hash: more cases in the run do not change which of these are taken first.
            for row in sorted(file.rows, key=lambda row: rank(0, row["id"])):
                if (protocol, row["id"]) in seen:
                    continue
                seen.add((protocol, row["id"]))
                missing = [title for title in chosen if (protocol, row["id"], title) not in edits]
                group = (protocol, row["category"])
                if missing:
                    left_out[f"no edit of {', '.join(missing)}"] += 1
                elif options.cases_per_category is not None and taken[group] >= options.cases_per_category:
                    left_out["more than were asked for"] += 1
                else:
                    taken[group] += 1
                    rows.append((index, file, row))
    rows.sort(key=lambda entry: (entry[1].info["name"], entry[2]["id"]))
    return rows, dict(left_out)


def _study_case(
    stores: Sequence[RunStore],
    run: int,
    file: CaseFile,
    row: Mapping[str, Any],
    edits: Edits,
    chosen: Sequence[str],
) -> StudyCase:
    from bench.files import sha256_file

    protocol = file.info["name"]

    def of_case(name: str) -> PictureRef:
        path = f"cases/{protocol}/{name}"
        try:
            return PictureRef(path, sha256_file(stores[run].path / path), run)
        except OSError as error:
            raise DesignError(
                f"{stores[run].path / path}: cannot be read ({error.strerror}). Run the suite again."
            ) from error

    def of_edit(title: str) -> PictureRef:
        where, record = edits[protocol, row["id"], title]
        assert record.file is not None
        assert record.sha256 is not None
        return PictureRef(record.file, record.sha256, where)

    return StudyCase(
        protocol=protocol,
        case=row["id"],
        source_id=row["source_id"],
        category=row["category"],
        source_prompt=row["source_prompt"],
        target_prompt=row["target_prompt"],
        region_prompt=row["region_prompt"],
        instruction=row["instruction"],
        source=of_case(row["source"]),
        mask=of_case(row["mask"]),
        edits={title: of_edit(title) for title in chosen},
        truth=None if row["truth"] is None else of_case(row["truth"]),
    )


def changed_files(design: Design) -> list[str]:
    """One line per file of the design that is missing or is not the one that the design was built from."""
    from bench.files import sha256_file

    found = []
    for what, ref in design.pictures():
        try:
            same = sha256_file(design.path(ref)) == ref.sha256
        except OSError as error:
            found.append(f"{design.path(ref)}: cannot be read ({error.strerror}); it is {what}")
            continue
        if not same:
            found.append(f"{design.path(ref)}: not the file that the study was made of; it is {what}")
    return found


def _check_files(design: Design) -> None:
    if problems := changed_files(design):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DesignError(f"{problems[0]}{more}. Delete it and run the suite again.")


def option_names() -> tuple[str, ...]:
    """The fields of :class:`DesignOptions`, for a command line."""
    return tuple(entry.name for entry in fields(DesignOptions))
