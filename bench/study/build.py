"""Makes a study's design from the edits of run folders.

The same edits and options give the same design, byte for byte, wherever the folders are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bench.edit import EditRecord
from bench.files import sha256_file
from bench.registry import did_you_mean
from bench.study.arrange import Counts, arrange, rank
from bench.study.design import Design, DesignError, DesignOptions
from bench.study.types import CONTROL, NO_PREFERENCE, ImageRef, StudyCase

if TYPE_CHECKING:
    from bench.store import RunStore

# (protocol, case, title of the method) -> index of the run that holds the edit, and the edit's record.
Edits: TypeAlias = dict[tuple[str, str, str], tuple[int, EditRecord]]


class _CaseRow(NamedTuple):
    """A case of a run, as its case file has it."""

    run: int
    protocol: str
    values: Mapping[str, Any]


def build(runs: Sequence[str | Path | RunStore], options: DesignOptions) -> Design:
    """The design of a study of the edits of one or more run folders.

    A case is used only if every compared method has edited it, so that all methods are compared on the same cases. The
    others are counted in ``Design.left_out``. Raises :class:`DesignError` (for options, methods or a changed file),
    ``arrange.ArrangeError`` (too many trials for the cases) and ``bench.store.StoreError``.
    """
    from bench.store import RunStore

    options.check()
    if not runs:
        raise DesignError("a study needs at least one run folder. Name one, such as runs/demo.")
    stores = [run if isinstance(run, RunStore) else RunStore.open(run) for run in runs]
    _check_same_cases(stores)

    # Which methods and cases are compared.
    titles = method_titles(stores)
    methods = _choose_methods(titles, options.methods, stores)
    edits = _collect_edits(stores, titles)
    rows, left_out = _choose_cases(stores, edits, methods, options)
    if not rows:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DesignError(
            f"no case has an edit of each of {', '.join(methods)} ({reasons or 'no edits at all'}). "
            "Run the missing edits, or name other methods."
        )
    cases = tuple(_study_case(stores, row, edits, methods) for row in rows)

    # Which rater is asked what.
    trials = arrange(
        cases,
        methods,
        kinds=options.kinds,
        questions=options.questions,
        counts=_pool(options, len(cases), len(methods)) if options.adaptive else options.counts,
        seed=options.seed,
    )
    digests = {title: digest for digest, title in titles.items() if title in methods}
    paths = tuple(str(store.path.resolve()) for store in stores)
    design = Design(options, methods, digests, cases, trials, paths, left_out)
    _check_pairs(design)
    _check_files(design)
    return design


def _pool(options: DesignOptions, cases: int, methods: int) -> Counts:
    """The counts of a pool that holds every comparison about once, for an adaptive study to choose from."""
    units = len(options.questions) * cases * methods * (methods - 1) // 2
    counts = options.counts
    return replace(counts, raters=max(counts.raters, units // counts.per_sheet))


def method_titles(stores: Sequence[RunStore]) -> dict[str, str]:
    """Method digest -> a title that no other method has. Raises :class:`DesignError` for a reserved title."""
    # Two methods of one title get the beginning of their digests.
    specs = {digest: spec for store in stores for digest, spec in store.methods.items()}
    times = Counter(spec.title for spec in specs.values())
    titles = {
        digest: spec.title if times[spec.title] == 1 else f"{spec.title} ({digest[:6]})"
        for digest, spec in specs.items()
    }
    # Titles are stored in the same fields as answers, controls and units, so they must not look like one of them.
    for title in titles.values():
        if title in NO_PREFERENCE or title.startswith(CONTROL) or "|" in title:
            raise DesignError(
                f"the method's label {title!r} means something else in a study. Give it another label: "
                f"not {' or '.join(map(repr, NO_PREFERENCE))}, not beginning with {CONTROL!r}, without '|'."
            )
    return titles


def _check_same_cases(stores: Sequence[RunStore]) -> None:
    """Raises DesignError where two runs have different cases under one protocol's name."""
    # Protocol -> digest of its cases, and the first run that has it.
    first: dict[str, tuple[str, Path]] = {}
    for store in stores:
        for name in store.protocols():
            digest = store.manifest["protocols"][name]["digest"]
            first_digest, first_path = first.setdefault(name, (digest, store.path))
            if first_digest != digest:
                raise DesignError(
                    f"{first_path} and {store.path} have different cases of {name} (digests {first_digest} and "
                    f"{digest}): their edits cannot be compared. Run both on one protocol."
                )


def _choose_methods(
    titles: Mapping[str, str], names: Sequence[str], stores: Sequence[RunStore]
) -> tuple[str, ...]:
    """Titles of the methods to compare, in the order of the runs. ``names``: titles or registered names."""
    specs = {titles[digest]: spec for store in stores for digest, spec in store.methods.items()}
    # Without names: all but the controls.
    if not names:
        methods = [title for title, spec in specs.items() if not spec.is_control]
    else:
        # A registered name stands for all methods of that name.
        selected = set()
        for name in names:
            matching = [title for title, spec in specs.items() if name in (title, spec.name)]
            if not matching:
                raise DesignError(
                    f"--method {name!r}: the runs have no such method.{did_you_mean(name, specs)} "
                    f"They have: {', '.join(specs)}."
                )
            selected.update(matching)
        methods = [title for title in specs if title in selected]
    if len(methods) < 2:
        raise DesignError(
            f"a study compares at least two methods; found: {', '.join(methods) or 'none'}. The runs have: "
            f"{', '.join(specs)}. Controls are compared only where --method names them."
        )
    return tuple(methods)


def _collect_edits(stores: Sequence[RunStore], titles: Mapping[str, str]) -> Edits:
    """All successful edits. Raises DesignError where two runs hold different edits of one case by one method."""
    edits: Edits = {}
    for index, store in enumerate(stores):
        for record in store.edits():
            if record.error is not None or record.file is None or record.sha256 is None:
                continue
            # Raters compare one edit of a case by each method: that of the first seed.
            if len(store.seeds) > 1 and record.key.seed != store.seeds[0]:
                continue
            key = (record.key.protocol, record.key.case, titles[record.key.method])
            # Equal bytes in two runs are one edit.
            first_run, first_record = edits.setdefault(key, (index, record))
            if first_record.sha256 != record.sha256:
                raise DesignError(
                    f"{stores[first_run].path} and {store.path} hold different edits of case {key[1]} by "
                    f"{key[2]}. Leave one of the runs out."
                )
    return edits


def _choose_cases(
    stores: Sequence[RunStore], edits: Edits, methods: Sequence[str], options: DesignOptions
) -> tuple[list[_CaseRow], dict[str, int]]:
    """The cases to compare, and the number of other cases by reason."""
    rows: list[_CaseRow] = []
    left_out: Counter[str] = Counter()
    visited: set[tuple[str, str]] = set()
    per_category: Counter[tuple[str, str]] = Counter()
    for run, store in enumerate(stores):
        for protocol in store.protocols():
            # Ordered by hash: with more cases in a run, the first ones are still chosen first.
            for values in sorted(store.cases(protocol).rows, key=lambda row: rank(0, row["id"])):
                # Two runs may hold the same case.
                key = (protocol, values["id"])
                if key in visited:
                    continue
                visited.add(key)
                missing = [title for title in methods if (*key, title) not in edits]
                category = (protocol, values["category"])
                limit = options.cases_per_category
                if missing:
                    left_out[f"no edit of {', '.join(missing)}"] += 1
                elif limit is not None and per_category[category] >= limit:
                    left_out["more than were asked for"] += 1
                else:
                    per_category[category] += 1
                    rows.append(_CaseRow(run, protocol, values))
    # The design's order does not depend on the order of the runs.
    rows.sort(key=lambda row: (row.protocol, row.values["id"]))
    return rows, dict(left_out)


def _study_case(stores: Sequence[RunStore], row: _CaseRow, edits: Edits, methods: Sequence[str]) -> StudyCase:
    values = row.values

    def case_file(name: str) -> ImageRef:
        path = f"cases/{row.protocol}/{name}"
        absolute = stores[row.run].path / path
        try:
            return ImageRef(path, sha256_file(absolute), row.run)
        except OSError as error:
            raise DesignError(
                f"{absolute}: cannot be read ({error.strerror}). Run the suite again."
            ) from error

    def edit_file(title: str) -> ImageRef:
        run, record = edits[row.protocol, values["id"], title]
        # `_collect_edits` leaves out records without a file.
        assert record.file is not None
        assert record.sha256 is not None
        return ImageRef(record.file, record.sha256, run)

    return StudyCase(
        protocol=row.protocol,
        case=values["id"],
        source_id=values["source_id"],
        category=values["category"],
        source_prompt=values["source_prompt"],
        target_prompt=values["target_prompt"],
        region_prompt=values["region_prompt"],
        instruction=values["instruction"],
        source=case_file(values["source"]),
        mask=None if values["mask"] is None else case_file(values["mask"]),
        edits={title: edit_file(title) for title in methods},
        truth=None if values["truth"] is None else case_file(values["truth"]),
    )


def _check_pairs(design: Design) -> None:
    """Raises DesignError where two methods would never be compared, so that the study could not rank them."""
    votes = design.pair_votes()
    never = [key for key, count in votes.items() if count == 0]
    if not never:
        return
    # Report the first question that misses a pair.
    question = never[0][0]
    missing = [pair for pair_question, pair in never if pair_question == question]
    pairs = len(votes) // len(design.options.questions)
    trials = sum(count for (pair_question, _), count in votes.items() if pair_question == question)
    first, second = sorted(missing[0])
    raise DesignError(
        f"{len(missing)} of {pairs} pairs of methods would never be compared on the question {question!r}, "
        f"such as {first} with {second}: the question gets {trials} trials of pairs. Raise --raters or --trials, "
        "lower --overlap, or compare fewer methods or questions."
    )


def _check_files(design: Design) -> None:
    if problems := design.changed_files():
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DesignError(f"{problems[0]}{more}. Delete it and run the suite again.")
