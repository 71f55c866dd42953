"""The public API: ``bench.measure`` scores one pair of images, ``bench.run`` carries out a whole suite.

The command line calls the same functions of :mod:`bench.session`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.inputs import ImageInput, check_names, check_prompt, image_input, input_name, mask_input, same_size

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from bench.edit import EditCase
    from bench.metrics.features import Features
    from bench.scoring import PairScore
    from bench.session import Program, Report, Session
    from bench.store import RunStore


# --- one pair --------------------------------------------------------------------------------------------


class Scores(Mapping[str, "float | None"]):
    """Metric -> value, or None where it could not be computed. :attr:`details` says why.

    ``scores["leak_mse"]`` is a float, ``scores.frame()`` a table with units, directions and reasons.
    """

    def __init__(self, details: Mapping[str, PairScore]) -> None:
        self.details = dict(details)

    def __getitem__(self, metric: str) -> float | None:
        return self.details[metric].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.details)

    def __len__(self) -> int:
        return len(self.details)

    def frame(self) -> pd.DataFrame:
        """One row per metric: value, unit, higher_is_better, reason, summary."""
        import pandas as pd

        # The fields of PairScore, the most read first.
        columns = ("value", "unit", "higher_is_better", "reason", "summary")
        rows = {name: [getattr(score, column) for column in columns] for name, score in self.details.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns)).rename_axis("metric")

    def __repr__(self) -> str:
        from bench.downloads import needed_by
        from bench.metrics.choice import by_problem

        # A reason of several lines, shared by many metrics, would stretch every row of the table.
        reasons = {name: [score.reason] for name, score in self.details.items() if score.reason is not None}
        notes = [
            f"{', '.join(names)}: {needed_by(names[0], reason)}"
            for reason, names in by_problem(reasons).items()
        ]
        return "\n".join([self.frame()[["value", "unit"]].to_string(na_rep="-"), *notes])

    def _repr_html_(self) -> str:
        # Notebooks call this method to show the object.
        return str(self.frame()[["value", "unit", "reason", "summary"]].to_html())


def measure(
    source: ImageInput,
    edited: ImageInput,
    mask: ImageInput | None = None,
    *,
    target_prompt: str = "",
    source_prompt: str = "",
    region_prompt: str = "",
    metrics: Sequence[str] | None = None,
    rendered: bool = False,
    device: str = "auto",
) -> Scores:
    """Scores one edit.

    ``source`` and ``edited`` are paths, PIL images, or arrays (H, W, 3) of uint8 in 0..255 or float in [0, 1].
    ``mask`` marks where the edit was requested: bool or 0/1 or 0/255 (H, W), a PIL image or a path. It is None where
    the case has none. All have one size.

    ``metrics`` None computes every metric of single edits whose prompts are given. ``rendered`` says that the images
    show the rendered world, which the embedded networks were trained on. ``device`` is auto, cpu, cuda, cuda:N or mps.

    Raises :class:`~bench.errors.BenchError` that names the argument and the remedy, for inputs that cannot be used and
    for metrics in ``metrics`` that cannot be computed here.
    """
    return Scores(
        measure_pair(
            _program().session(),
            source,
            edited,
            mask,
            target_prompt=target_prompt,
            source_prompt=source_prompt,
            region_prompt=region_prompt,
            metrics=metrics,
            rendered=rendered,
            device=device,
        )
    )


def measure_pair(
    session: Session,
    source: ImageInput,
    edited: ImageInput,
    mask: ImageInput | None,
    *,
    target_prompt: str = "",
    source_prompt: str = "",
    region_prompt: str = "",
    metrics: Sequence[str] | None = None,
    rendered: bool = False,
    device: str = "auto",
) -> dict[str, PairScore]:
    """Scores one edit with the metrics of a session. The command ``measure`` and :func:`measure` call it."""
    from bench.devices import resolve_device
    from bench.metrics.types import NO_MASK
    from bench.scoring import PairScore, score_pair

    # Inputs.
    for prompt, name in (
        (target_prompt, "target_prompt"),
        (source_prompt, "source_prompt"),
        (region_prompt, "region_prompt"),
    ):
        check_prompt(prompt, name)
    check_names(metrics, "metrics")
    for metric in metrics or ():
        session.metrics.check(metric)
    before = image_input(source, "source")
    after = image_input(edited, "edited")
    same_size(before, after, input_name(edited, "edited"))
    region = None if mask is None else mask_input(mask, before.size, "mask")

    # Scores.
    scores = score_pair(
        before,
        after,
        region,
        features=_features(session.program, resolve_device(device)),
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        region_prompt=region_prompt,
        names=metrics,
        rendered=rendered,
        registry=session.metrics,
    )
    # Metrics that need a mask and no more are listed with the reason, so that leakage is not missed silently.
    if region is None and metrics is None:
        for name, info in session.metric_info().items():
            if info.needs == {"mask"} and info.kind == "edit" and not info.on_request:
                scores[name] = PairScore(None, NO_MASK, info.unit, info.higher_is_better, info.summary)
    return scores


@lru_cache(maxsize=1)
def _features(program: Program, device: str) -> Features:
    """The networks of the last device. They stay loaded, so that pairs can be measured in a loop."""
    return program.make_features(device, None)


# --- a suite ---------------------------------------------------------------------------------------------


class Run:
    """A finished run. Its numbers are computed on use, from what is stored in :attr:`folder`."""

    def __init__(self, session: Session, store: RunStore, failed: int = 0) -> None:
        self.folder: Path = store.path
        self.failed = failed
        """Number of edits that failed. :func:`bench.run` tries them again."""
        self._session = session
        self._store = store
        self._tables: Mapping[str, pd.DataFrame] | None = None

    @property
    def scores(self) -> pd.DataFrame:
        """Tidy scores of single edits: protocol, category, method, case, seed, metric, value, reason.

        ``value`` is NaN where ``reason`` says why.
        """
        # A store names methods by their digests, tables by their titles.
        titles = {digest: spec.title for digest, spec in self._store.methods.items()}
        frame = self._store.scores()
        # Categories stand with the cases.
        categories = {
            (protocol, row["id"]): row["category"]
            for protocol in self._store.protocols()
            for row in self._store.cases(protocol).rows
        }
        keys = zip(frame["protocol"], frame["case"], strict=True)
        frame = frame.assign(
            method=frame["method"].map(titles), category=[categories.get(key, "") for key in keys]
        )
        columns = ["protocol", "category", "method", "case", "seed", "metric", "value", "reason"]
        return frame[columns].reset_index(drop=True)

    def image(self, protocol: str, method: str, case: str, seed: int | None = None) -> Image:
        """The edit of a case, by the method's title. Raises :class:`BenchError` where there is none.

        ``seed`` None: the run's first one.
        """
        seed = self._store.seeds[0] if seed is None else seed
        # Titles are unique within a run.
        for record in self._store.edits():
            title = self._store.methods[record.key.method].title
            key = record.key
            if (key.protocol, title, key.case, key.seed) == (protocol, method, case, seed) and record.file:
                return self._store.image(record)
        raise BenchError(
            f"{self.folder}: has no edit of {case} in {protocol} by {method}. Run.scores lists the edits."
        )

    def case(self, protocol: str, case: str) -> EditCase:
        """A stored case: its ``request`` has the source, the mask and the prompts, ``truth`` the ground truth if any.

        Raises :class:`BenchError` where there is none.
        """
        return self._store.cases(protocol).get(case)

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Table name -> its unrounded values: for each metric the mean, the ends of its interval, and n."""
        # Computed once: the bootstraps of the intervals take seconds.
        if self._tables is None:
            self._tables = self._session.program.make_tables(self._session, self._store)
        return self._tables

    def table(self, name: str) -> pd.DataFrame:
        """One table of :attr:`tables`, or all tables whose names begin with ``name-``, concatenated.

        ``table("main")`` joins ``main-mini-coco`` and ``main-mini-celeba-hq``, with the protocol in the first column.
        Raises :class:`BenchError` for an unknown name.
        """
        import pandas as pd

        from bench.registry import did_you_mean

        # The name of one table, or else the prefix of several.
        if name in self.tables:
            return self.tables[name]
        parts = {
            key.removeprefix(f"{name}-"): frame
            for key, frame in self.tables.items()
            if key.startswith(f"{name}-")
        }
        if not parts:
            raise BenchError(
                f"no table {name!r}.{did_you_mean(name, self.tables)} Tables: {', '.join(self.tables)}."
            )
        # The rest of the name is the protocol.
        frames = [frame.assign(protocol=protocol) for protocol, frame in parts.items()]
        joined = pd.concat(frames, ignore_index=True)
        return joined[["protocol", *joined.columns.drop("protocol")]]

    def report(self) -> Report:
        """Writes tables, figures and the page into ``report/`` of the folder."""
        with self._store:
            return self._session.program.write_report(self._session, self._store)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, methods={[s.title for s in self._store.methods.values()]})"


def run(
    suite: str | Path | Mapping[str, Any],
    *,
    device: str = "auto",
    devices: Sequence[str] = (),
    ray: str | None = None,
    workers: int | None = None,
    dtype: str = "auto",
    batch_size: int = 8,
    out: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    progress: bool = False,
) -> Run:
    """Edits and scores a suite, as ``run_bench.py run`` does, and returns the run.

    ``suite`` is a shipped suite's name, a YAML file, or the suite itself as a mapping. ``out`` is the run folder
    (default: ``runs/SUITE``), ``limit`` the number of cases per category, ``plugins`` the modules that add methods,
    protocols or metrics. ``progress`` shows bars on standard error.

    ``devices`` (such as ``["cuda:0", "cuda:1"]``) in place of ``device`` runs a process on each. ``ray`` is the address
    of a Ray cluster, or ``local``, and ``workers`` the number of workers on it.

    The same call resumes a stopped run. Raises :class:`~bench.errors.BenchError` for a suite that cannot run.
    Edits that fail are counted in ``Run.failed``.
    """
    from bench.judging import judge_edits
    from bench.metrics.choice import check_metrics
    from bench.workers import open_workers

    # The session imports the plug-ins, so that the suite may name what they add.
    session = _program().session(plugins)
    # Edit, then score; the run folder is locked until both are done.
    job = session.configure(suite, out=None if out is None else Path(out), limit=limit)
    check_metrics(session, job)
    opened = open_workers(device=device, devices=devices, ray=ray, count=workers) or nullcontext()
    with _progress_bar(progress) as bar, opened as pool:
        store, edits = session.edit(
            job, device=device, dtype=dtype, batch_size=batch_size, progress=bar, workers=pool
        )
        with store:
            for options in job.judges:
                judge_edits(session, store, options, progress=bar)
            session.score(store, device=device, progress=bar, workers=pool)
    # As in a report: embedded networks were trained on rendered images, so their scores of photographs are hidden.
    session.hide_foreign_scores(store)
    return Run(session, store, edits.failed)


def _progress_bar(visible: bool) -> Any:
    from bench.cli.console import progress_bar

    return progress_bar() if visible else nullcontext()


def _program() -> Program:
    # Only run_bench.py knows all parts. The engine imports none of them, so it finds run_bench by its name, on use.
    program: Program = importlib.import_module("run_bench").PROGRAM
    return program
