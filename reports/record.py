"""A report with the options that it was made with, so that ``verify`` can build it again and compare."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.files import sha256_bytes, sha256_file
from bench.tables.style import Style
from reports.tables.style import style_of_record

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from bench.session import Session
    from bench.store import RunStore
    from bench.tables.table import Table
    from reports.data.preference import StudyResults
    from reports.share.verification.recompute import RebuiltReport
    from reports.tables.paper import Paper
    from reports.write import ReportFiles

# Relative to the run's folder.
RECORD = "report/report.json"
NOT_RECORDED = "(an address that is not written down)"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ReportOptions:
    """The options of ``report`` on which its content depends."""

    style: Style = field(default_factory=Style)
    baseline: str | None = None
    paper: bool = False
    paper_file: str | None = None
    paper_baseline: Sequence[str] = ()
    study: str | None = None
    store: str | None = None
    votes: str | None = None
    question: str = "overall"
    simulated: bool = False
    case: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class WrittenReport:
    """A report that was written. It implements ``bench.session.Report``."""

    paths: ReportFiles
    page: Path

    @property
    def folder(self) -> Path:
        return self.paths.directory

    @property
    def summary(self) -> pd.DataFrame:
        return self.paths.summary

    @property
    def warnings(self) -> Sequence[str]:
        return self.paths.warnings

    def headline(self) -> list[Table]:
        """The main tables, then success by the ground truth, or by another rule where there is none, then judges.

        Leakage, composited edits, other rules of success and the paper's shapes are in the folder alone.
        """
        # Names of tables begin with what they show.
        tables = self.paths.tables
        main = [table for table in tables if table.name.startswith("main-")]
        judged = [
            table for table in tables if table.name.startswith("success-") and "-pasted-" not in table.name
        ]
        by_truth = [table for table in judged if table.name.startswith("success-truth-")]
        return main + (by_truth or judged) + [table for table in tables if table.name.startswith("judges-")]

    def terminal(
        self, width: int, *, everything: bool, first: Sequence[str] = ()
    ) -> Iterator[RenderableType]:
        """Yields the main tables for a terminal: five columns each, or with ``everything`` all of them.

        ``first``: metrics that are preferred to the usual columns. Notes that :attr:`warnings` repeats are left out:
        the command prints the warnings after the tables.
        """
        tables = [
            replace(table, notes=tuple(note for note in table.notes if note not in self.warnings))
            for table in self.headline()
        ]
        yield from terminal_tables(tables, width, everything=everything, first=first)


def terminal_tables(
    tables: Sequence[Table], width: int, *, everything: bool, first: Sequence[str] = ()
) -> Iterator[RenderableType]:
    """Yields tables with their five main columns at 80 characters, or whole, spread over ``width``.

    ``first``: metrics whose columns, or those of their stand-ins, are preferred to the main ones.
    """
    from bench.metrics import STAND_INS
    from bench.tables.terminal import narrowed, terminal
    from reports.data.metrics import TERMINAL_METRICS

    # All columns, in parts where the terminal is too narrow.
    if everything:
        yield from terminal(tables, width)
        return
    # 80 characters: what a plain terminal, a log and a mail show without a line break.
    families = [*((name, STAND_INS.get(name, name)) for name in first), *TERMINAL_METRICS]
    narrow = [narrowed(table, min(width, 80), families) for table in tables]
    yield from terminal(narrow, min(width, 80))
    left_out = sum(len(table.columns) for table in tables) - sum(len(table.columns) for table in narrow)
    if left_out:
        yield f"{left_out} more columns: --all, or the files below."


def table_frames(session: Session, store: RunStore) -> dict[str, pd.DataFrame]:
    """Table name -> its unrounded values: per column the value, its interval and n. Writes nothing."""
    import pandas as pd

    from bench.tables.markup import csv_text
    from reports.build import compute

    # Through the CSV text: then the frames have exactly the columns and digits that the files have.
    tables = compute(store, session.metric_info()).tables
    return {table.name: pd.read_csv(io.StringIO(csv_text(table))) for table in tables}


# --- writing ---------------------------------------------------------------------------------------------


def write_report(session: Session, store: RunStore, options: ReportOptions | None = None) -> WrittenReport:
    """Writes tables, figures, the page, and ``report.json`` with the options and the digests of all inputs."""
    from reports import write
    from reports.page import write_page

    # `run` takes the defaults.
    options = options or ReportOptions()
    # Inputs besides the run: reported figures, a study's votes.
    paper, study, inputs = _inputs(store, options)

    # Tables, figures, page.
    facts = session.metric_info()
    paths = write.write_report(
        store,
        facts,
        style=options.style,
        paper=paper,
        study=study,
        baseline=options.baseline,
        cases=options.case,
    )
    page = write_page(
        store, facts, tables=paths.tables, style=options.style, figures=paths.figures, files=paths.files
    )

    # Store what is needed to build the report again.
    # The name too: the folder may be renamed, but the title of the stored report does not change.
    record = {
        "name": store.path.name,
        "options": {
            **asdict(options),
            "study": without_address(options.study),
            "store": without_address(options.store),
        },
        "inputs": inputs,
        "program": _program(),
    }
    store.write_file(RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return WrittenReport(paths, page)


def _inputs(
    store: RunStore, options: ReportOptions
) -> tuple[Paper | None, StudyResults | None, dict[str, str]]:
    """Reported figures, a study's results, and the digests of both."""
    from reports.data.votes import file_results, study_results
    from reports.tables import paper as papers

    # A digest for each input, so that `verify` sees when one has changed.
    paper, study, digests = None, None, {}
    if options.paper:
        file = None if options.paper_file is None else Path(options.paper_file)
        paper = papers.with_baselines(papers.load(file), options.paper_baseline)
        # The suite's own file is part of the program, whose digest is recorded anyway.
        digests["paper_file"] = "" if file is None else sha256_file(file)
    if options.study is not None and options.votes is not None:
        raise BenchError("--study and --votes both name votes: give one of them.")
    if options.study is not None or options.votes is not None:
        study = (
            study_results(store, options.study, options.store, options.question, simulated=options.simulated)
            if options.votes is None and options.study is not None
            else file_results(store, options.votes or "", options.question, simulated=options.simulated)
        )
        # The rule is not hashed: reports made before votes carried it have the same digest.
        votes = study.votes.drop(columns="exclusion", errors="ignore")
        digests["votes"] = sha256_bytes(votes.to_csv(index=False).encode())
    return paper, study, digests


def without_address(place: str | None) -> str | None:
    """A study's name or file as ``report.json`` has it. A URL is left out, since it may hold a password."""
    return NOT_RECORDED if place is not None and "://" in place else place


def _program() -> dict[str, str]:
    """Digest of this program's code and versions of the libraries that draw: a report's bytes depend on them."""
    import hashlib
    from importlib.metadata import version

    # Methods and protocols are left out: a report is made from stored edits.
    # Sorted paths: the order of a folder's entries differs between file systems.
    code = hashlib.sha256()
    for part in ("bench", "reports", "run_bench.py"):
        for path in sorted({ROOT / part, *(ROOT / part).rglob("*")}):
            if path.suffix in (".py", ".js", ".css", ".html", ".json"):
                code.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    libraries = ("numpy", "pandas", "matplotlib", "pillow")
    return {"code": code.hexdigest()[:12], **{name: version(name) for name in libraries}}


# --- building anew ---------------------------------------------------------------------------------------


def rebuild_report(session: Session, store: RunStore, empty: Path) -> RebuiltReport:
    """Builds the report of a run again below the folder ``empty``, with the options that it was built with.

    Raises BenchError where an input has changed since, and what ``report`` raises.
    """
    from bench.rescoring import link_run
    from reports.share.verification.recompute import RebuiltReport

    record = _read_record(store)
    options = record["options"]
    # The report's title is the name that the folder had.
    # Below an empty folder: the stored report stays as it is.
    # Links, not copies: a run may have many gigabytes of images.
    parts = ("run.json", "cases", "edits", "edits.jsonl", "scores", "judge")
    linked = link_run(store, empty / record["name"], parts)
    with session.open_run(linked) as copy:
        write_report(session, copy, options)
    fresh = json.loads((linked / RECORD).read_text(encoding="utf-8"))
    # If reported figures or votes have changed since, other tables are correct.
    changed = [name for name, digest in record["inputs"].items() if fresh["inputs"].get(name) != digest]
    if changed:
        raise BenchError(f"its inputs have changed since it was made: {', '.join(changed)}")
    # The stored report has no record either, so the comparison must not see one.
    if not record["recorded"]:
        (linked / RECORD).unlink()
    return RebuiltReport(linked / "report", record["recorded"], record["program"] == fresh["program"])


def _read_record(store: RunStore) -> Mapping[str, Any]:
    """Reads and checks ``report.json``. A report without one was made with the default options.

    The record may come from somebody else. It must name neither a folder outside the temporary one, nor a server.
    """
    path = store.path / RECORD
    try:
        record = {"recorded": True, **json.loads(path.read_text(encoding="utf-8"))}
        stored, name = record["options"], record["name"]
        options = ReportOptions(**{**stored, "style": style_of_record(stored.get("style", ""))})
        record["options"] = options
        # Both must be mappings. Anything else raises AttributeError here, and not in the middle of the comparison.
        record["inputs"].items()
        record["program"].items()
    except FileNotFoundError:
        return {
            "recorded": False,
            "name": store.path.name,
            "options": ReportOptions(),
            "inputs": {},
            "program": {},
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{path}: no record of a report ({error})") from error
    # The name becomes a folder below `empty`, and must not lead out of it.
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise BenchError(f"{path}: {name!r} is no folder's name")
    # A record from somebody else must not make `verify` connect to a server of its choice. An address that was left
    # out cannot be opened either.
    for place in (options.study, options.store):
        if place is not None and (place == NOT_RECORDED or "://" in place):
            raise BenchError("its votes are in a database whose address is not stored with the report")
    return record
