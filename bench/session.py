"""The operations of the program: edit a suite, score a run, open a run for its report.

The command line, the public API and tests call it. Nothing here prints: progress goes to a
:class:`~bench.progress.Progress`, remarks to a function that the caller passes in.

The engine imports no method, protocol or report. ``run_bench.py`` imports them and passes them in as a
:class:`Program`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.downloads import check_ready

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image
    from rich.console import RenderableType

    from bench.edit import EditProtocol
    from bench.judges.options import JudgeOptions
    from bench.metrics import MetricInfo
    from bench.metrics.choice import MetricChoice
    from bench.metrics.features import Features
    from bench.plan import Plan
    from bench.progress import Progress
    from bench.runner import RunSummary
    from bench.store import RunStore
    from bench.stored_pairs import ScoringSummary
    from bench.suite import ConfiguredMethod, ConfiguredProtocol, Suite
    from bench.thresholds import ThresholdCheck
    from bench.workers import Workers

RUNS = Path("runs")
"""Folder of the run folders, below the working directory."""

Note = Callable[[str], object]
"""Takes one remark for the user, as a line of text."""


def ignore(line: str) -> None:
    """A :data:`Note` that drops every remark."""


class Report(Protocol):
    """The interface of a written report. ``reports`` implements it."""

    @property
    def folder(self) -> Path: ...

    @property
    def page(self) -> Path:
        """Path of ``index.html``."""
        ...

    @property
    def summary(self) -> pd.DataFrame:
        """Tidy: protocol, category, method, metric, value, low, high, n, failed."""
        ...

    @property
    def warnings(self) -> Sequence[str]: ...

    def terminal(
        self, width: int, *, everything: bool, first: Sequence[str] = ()
    ) -> Iterator[RenderableType]:
        """Yields the main tables for a terminal: five columns each, or all columns with ``everything``.

        ``first``: metrics that are preferred to the usual columns, because the user named them.
        """
        ...


@dataclass(frozen=True)
class GpuTime:
    """Estimated time of model steps on GPUs, with its assumptions."""

    teraflop_per_step: float
    utilisation: float
    """Assumed share of the GPU's peak speed."""
    hours: Mapping[str, float]
    """GPU name -> hours."""


@dataclass(frozen=True, eq=False)
class Program:
    """The parts that the engine does not import. ``run_bench.py`` builds it. Each part is imported on use."""

    methods: Mapping[str, str]
    """Method name -> ``"module:Class"``."""
    protocols: Mapping[str, str]
    """Protocol name -> ``"module:Class"``."""
    make_features: Callable[[str, Path | None], Features]
    """(device, cache folder or None) -> the networks of the metrics, the embedded ones among them."""
    write_report: Callable[[Session, RunStore], Report]
    """Writes a run's report with default options."""
    make_tables: Callable[[Session, RunStore], Mapping[str, pd.DataFrame]]
    """Table name -> its unrounded values. Writes nothing."""
    make_world: Callable[[Sequence[int]], Any]
    """Levels of difficulty -> the rendered world on which the embedded checkpoints are trained and measured."""
    run_thresholds: Callable[[Path], Sequence[ThresholdCheck]]
    """Run folder -> the thresholds of embedded checkpoints that are checked on this run."""
    recipes: Callable[[], Mapping[str, str]]
    """Training recipe -> ``"module:function"``."""
    checkpoint_problems: Callable[[], Mapping[str, Sequence[str]]]
    """Embedded checkpoint -> what is wrong with it, each problem with its remedy."""
    cache_folder: Callable[[], Path]
    """Folder for images that are rendered once."""
    gpu_time: Callable[[int], GpuTime]
    """Number of model steps -> their time at full size."""

    def session(self, plugins: Sequence[str] | None = None) -> Session:
        return Session(self, plugins or ())


@dataclass(frozen=True)
class SuiteJob:
    """A suite that is configured for a run folder."""

    suite: Suite
    folder: Path
    protocols: list[ConfiguredProtocol]
    methods: list[ConfiguredMethod]
    source: str = ""
    """The name or the file of the suite. Empty for a mapping."""
    judges: Sequence[JudgeOptions] = ()


class Session:
    """The program with its registries. Plug-ins add to the registries."""

    def __init__(self, program: Program, plugins: Sequence[str] = ()) -> None:
        """Imports the modules ``plugins``. Raises ``PluginError`` for one that cannot be used."""
        from bench.metrics import METRICS
        from bench.registry import Registry, load_plugin

        # A registry maps names to classes that are imported on use.
        self.program = program
        self.methods = Registry("method", program.methods)
        self.protocols = Registry("protocol", program.protocols)
        self.metrics = Registry("metric", METRICS)
        # A plug-in in the working directory is importable, as with `python -m`.
        if plugins and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        for plugin in plugins:
            load_plugin(plugin, [self.methods, self.protocols, self.metrics])

    # --- suites and protocols ----------------------------------------------------------------------------

    def configure(
        self, suite: str | Path | Mapping[str, Any], *, out: Path | None = None, limit: int | None = None
    ) -> SuiteJob:
        """Loads a suite by its name or file, or takes it as a mapping, and configures its protocols and methods.

        ``limit`` overrides the suite's cases per category. The run then goes to a folder of its own, so that a quick
        look never mixes with the whole run. ``out`` names the folder in either case.
        """
        from bench.suite import configure_suite, load_suite, suite_of_mapping

        # The suite.
        loaded = suite_of_mapping(suite) if isinstance(suite, Mapping) else load_suite(suite)
        folder = RUNS / loaded.name
        # With another limit, a folder of its own.
        if limit is not None and limit != loaded.limit:
            loaded = loaded.model_copy(update={"limit": limit})
            folder = Path(f"{folder}-limit-{limit}")
        # Options are checked here; no model and no data are loaded.
        protocols, methods = configure_suite(loaded, self.methods, self.protocols, self.metrics)
        source = "" if isinstance(suite, Mapping) else str(suite)
        judges = self._configured_judges(loaded)
        return SuiteJob(loaded, out or folder, protocols, methods, source, judges)

    def _configured_judges(self, suite: Suite) -> list[JudgeOptions]:
        """The judges of a suite. Raises OptionError or JudgeError that says where in the suite."""
        if not suite.judges:
            return []
        from bench.judges.options import check_judges, parse_judge

        judges = [
            parse_judge(values, f"suite {suite.name}: judges[{index}]")
            for index, values in enumerate(suite.judges)
        ]
        check_judges(judges)
        return judges

    def protocol(self, name: str, options: Mapping[str, Any] | None = None) -> EditProtocol:
        """Creates a protocol. Raises :class:`BenchError` where its data are missing."""
        from bench.suite import configure_protocol

        # Missing data are reported before anything is read.
        configured = configure_protocol(name, self.protocols, options=options)
        check_ready([(name, configured.problems)])
        return configured.create()

    def protocol_of_run(self, store: RunStore, name: str) -> ConfiguredProtocol:
        """Configures a run's protocol with the options that the run had."""
        from bench.suite import configure_protocol

        # The registry may have another name for the protocol than the run.
        info = store.manifest["protocols"][name]
        return configure_protocol(
            info.get("registered", name), self.protocols, options=info.get("options", {})
        )

    # --- edit ----------------------------------------------------------------------------------------------

    def plan(self, job: SuiteJob) -> tuple[Plan, RunStore | None]:
        """Plans the edits that are missing. Also returns the run folder where it exists already. Writes nothing."""
        from bench.plan import make_plan
        from bench.store import RunStore

        # Stored edits are left out of the plan. A dry run creates no folder.
        store = RunStore.open(job.folder) if (job.folder / "run.json").exists() else None
        plan = make_plan(
            job.protocols, job.methods, seeds=job.suite.all_seeds, limit=job.suite.limit, store=store
        )
        return plan, store

    def edit(
        self,
        job: SuiteJob,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = 8,
        progress: Progress | None = None,
        workers: Workers | None = None,
    ) -> tuple[RunStore, RunSummary]:
        """Makes the missing edits of a suite. Returns the opened run folder, which the caller closes, and a summary.

        ``batch_size`` None edits one case at a time on one thread, for exact repeats. ``workers`` make the edits, where
        they are given, on their own devices in place of ``device``. Raises :class:`BenchError` that lists all missing
        data and weights, before any model is loaded.
        """
        from bench.devices import resolve_device, resolve_dtype
        from bench.edit import Runtime
        from bench.executors import make_executor
        from bench.judging import judge_remarks
        from bench.runner import run
        from bench.store import RunStore

        # Refuse what cannot run: first what options show, then what the cases of the protocols show.
        rendered = any(entry.cls.rendered for entry in job.protocols)
        check_ready(
            [(f"protocol {entry.name}", entry.problems) for entry in job.protocols]
            + [(f"method {entry.spec.title}", entry.problems) for entry in job.methods]
            + [("", judge_remarks(self, job.judges, rendered=rendered))],
            job.source,
        )
        plan, store = self.plan(job)
        check_ready([("", plan.problems)])

        # Choose where models run.
        place = workers.device if workers is not None else resolve_device(device if plan.todo else "cpu")
        runtime = Runtime(place, resolve_dtype(dtype, place))
        if store is not None and not plan.todo:
            # With nothing to edit, the dtype of the stored edits counts.
            stored_dtypes = {entry["dtype"] for entry in store.manifest["methods"].values()}
            runtime = Runtime("cpu", stored_dtypes.pop() if len(stored_dtypes) == 1 else runtime.dtype)
        # Sums of several threads differ in their last bits from run to run.
        if batch_size is None and plan.todo and workers is None:
            import torch

            torch.set_num_threads(1)

        # Edit. A new folder is created only now, after everything that can be refused was checked.
        store = store or RunStore.open(job.folder, create=True)
        try:
            executor = make_executor(runtime, batch_size or 1, workers)
            return store, run(plan, store, executor, progress=progress, suite=job.suite)
        except BaseException:
            # After Ctrl-C too: the lock is released for the next process.
            store.close()
            raise

    # --- score ---------------------------------------------------------------------------------------------

    def score(
        self,
        store: RunStore,
        *,
        device: str = "auto",
        only: Sequence[str] | None = None,
        progress: Progress | None = None,
        note: Note = ignore,
        workers: Workers | None = None,
    ) -> ScoringSummary:
        """Scores a run's stored edits by the metrics whose weights are installed. Stored scores are not repeated.

        ``only`` names metrics to compute instead of the suite's. ``note`` gets a line per column that is left out or
        replaced, before scoring begins. ``workers`` compute, where they are given, on their own devices. Raises
        ``MetricError`` where a metric of ``only`` can be computed on no protocol.
        """
        from bench.devices import resolve_device
        from bench.metrics.choice import choice_remarks, load_metrics, refusal
        from bench.scoring import score_run
        from bench.scoring_workers import scoring_workers
        from bench.stored_pairs import ScoringSummary

        # Choose the metrics of each protocol.
        for name in only or ():
            self.metrics.check(name)
        protocols = store.manifest["protocols"]
        # Cached beside the run folders, so that runs of one suite share them. Workers compute nearly all of them.
        here = resolve_device(device if workers is None else "cpu")
        features = self.program.make_features(here, store.path.parent / ".features")
        names = list(only or ()) or (store.manifest.get("suite") or {}).get("metrics")
        choices = self.metric_choices(features, protocols, names)
        # A metric of ``only`` that can be computed on no protocol is an error, not a missing column.
        impossible = {
            name: next(iter(choices.values())).left_out[name]
            for name in only or ()
            if choices and all(name in choice.left_out for choice in choices.values())
        }
        if impossible:
            raise refusal(impossible)
        for protocol_names, choice in choices.items():
            for line in choice_remarks(protocol_names, choice):
                note(line)

        # Score the protocols of the rendered world, then the others: their metrics differ.
        references = self.references(store, protocols)
        total = ScoringSummary()
        for protocol_names, choice in choices.items():
            metrics = load_metrics(choice.names, features, self.metrics)
            part = score_run(
                store,
                metrics,
                features=features,
                references=references,
                protocols=protocol_names,
                progress=progress,
                workers=scoring_workers(workers, metrics, features, self.program.make_features),
            )
            # One summary over both kinds of protocols.
            total.scored += part.scored
            total.skipped += part.skipped
            total.warnings += part.warnings
            for reason, count in part.missing.items():
                total.missing[reason] = total.missing.get(reason, 0) + count
        return total

    def rendered(self, registered_names: Mapping[str, str]) -> frozenset[str]:
        """Returns those protocols of a run that show the rendered world, as their classes declare.

        ``registered_names`` maps the run's names to those of the registry. A protocol that is not registered (its
        plug-in was not named) counts as one of photographs.
        """
        return frozenset(
            name
            for name, registered in registered_names.items()
            if registered in self.protocols and self.protocols.load(registered).rendered
        )

    def rendered_of(self, protocols: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        """:meth:`rendered`, of the protocols as a run's manifest has them."""
        return self.rendered({name: info.get("registered", name) for name, info in protocols.items()})

    def metric_choices(
        self, features: Features, protocols: Mapping[str, Mapping[str, Any]], names: Sequence[str] | None
    ) -> dict[tuple[str, ...], MetricChoice]:
        """Chooses the metrics to compute: once for the rendered protocols, once for all others.

        ``protocols`` is as a run's manifest has it. ``names`` None takes every metric.
        """
        from bench.metrics.choice import choose_metrics

        rendered = self.rendered_of(protocols)
        # Embedded networks score rendered images alone, published networks the others.
        groups = {
            is_rendered: tuple(name for name in protocols if (name in rendered) == is_rendered)
            for is_rendered in (True, False)
        }
        return {
            group: choose_metrics(features, rendered=is_rendered, requested=names, registry=self.metrics)
            for is_rendered, group in groups.items()
            if group
        }

    def references(
        self, store: RunStore, protocols: Iterable[str]
    ) -> dict[str, Callable[[], Iterable[Image]]]:
        """Protocol -> a function that reads its real images. Protocols without their data are left out."""
        # FID and similar metrics then have None with a reason.
        configured = {name: self.protocol_of_run(store, name) for name in protocols}
        return {name: _reference(entry) for name, entry in configured.items() if not entry.problems}

    # --- report --------------------------------------------------------------------------------------------

    def open_run(self, folder: Path, note: Note = ignore) -> RunStore:
        """Opens a run to report on. ``note`` gets a line per protocol with hidden scores."""
        from bench.store import RunStore

        # Reading takes no lock, so a report can be made while the run goes on.
        store = RunStore.open(folder)
        self.hide_foreign_scores(store, note)
        return store

    def hide_foreign_scores(self, store: RunStore, note: Note = ignore) -> None:
        """Hides scores of photographs by embedded networks, which were trained on rendered images. They stay stored."""
        from bench.metrics import COMPOSITED_SUFFIX

        # Names of all scores of embedded networks, of raw and of composited edits.
        embedded = [name for name in self.metrics.names() if self.metrics.load(name).embedded]
        protocols = store.manifest["protocols"]
        rendered = self.rendered_of(protocols)
        hidden = [*embedded, *(name + COMPOSITED_SUFFIX for name in embedded)]
        # Earlier versions computed these scores on every protocol.
        store.leave_out(dict.fromkeys(set(protocols) - rendered, hidden))
        for protocol, names in store.left_out().items():
            note(
                f"{protocol}: not shown: {', '.join(names)}: their networks were trained on the rendered world only "
                "(the stored values stay)"
            )

    def metric_info(self) -> dict[str, MetricInfo]:
        """Metric name -> its unit, direction and summary."""
        from bench.metrics import info_of

        return {name: info_of(self.metrics.load(name)) for name in self.metrics.names()}


def _reference(configured: ConfiguredProtocol) -> Callable[[], Iterable[Image]]:
    from bench.registry import plugin_code

    def images() -> Iterator[Image]:
        # A generator: the protocol is created when a metric of sets asks for the first image.
        with plugin_code(configured.cls, f"protocol {configured.name!r}: reference()"):
            yield from configured.create().reference()

    return images
