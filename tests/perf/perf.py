"""``make perf``: how fast the suite is, as ratios measured side by side. Nothing here is asserted.

Every ratio compares two ways to do the same work with the same weights in one process, taking turns, so that
what else the machine does strikes both. Printed are n, the median time of either, and the median, lowest and
highest ratio of the rounds.

    python tests/perf/perf.py --rounds 5
    python tests/perf/perf.py --only edit scoring --cases 8

With the embedded checkpoints the work is real; without them a random pipeline of that shape is timed, and
the table says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.edit import EditCase, Runtime  # noqa: E402
from bench.registry import Registry  # noqa: E402


@dataclass(frozen=True)
class Ratio:
    """``ours`` and ``theirs``: seconds, one of each per round. The ratio is ours / theirs."""

    what: str
    against: str
    n: str
    ours: Sequence[float]
    theirs: Sequence[float]
    aim: str = ""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        return [mine / other for mine, other in zip(self.ours, self.theirs, strict=True)]


# Seconds of the wall clock, or of the processor where the machine has other work (--processor-time).
clock: Callable[[], float] = time.perf_counter


def rounds(count: int, *work: Callable[[], object]) -> list[list[float]]:
    """Seconds of each piece of work in each round, after one round to warm up; the order turns round."""
    times: list[list[float]] = [[] for _ in work]
    for number in range(count + 1):
        order = list(range(len(work)))
        for index in order if number % 2 else order[::-1]:
            start = clock()
            work[index]()
            if number:
                times[index].append(clock() - start)
    return times


# --- the same work for all ------------------------------------------------------------------------------


def cases(per_category: int) -> tuple[Any, list[EditCase]]:
    """The rendered scenes' protocol and its first cases per category."""
    from protocols.world import MiniCoco

    protocol = MiniCoco(MiniCoco.Options())
    found: list[EditCase] = []
    for category in protocol.categories:
        found += [case for case in protocol.cases() if case.category == category][:per_category]
    return protocol, found


def weights(folder: Path) -> tuple[str, str]:
    """The embedded inpainting checkpoint, or a random one of the tests' shape; and what it is called."""
    from methods.zoo import ZooError, entry

    try:
        entry("sd_inpainting")
    except ZooError:
        from tests.methods.conftest import tiny_pipeline

        path = folder / "tiny"
        if not path.exists():
            tiny_pipeline(9).save_pretrained(path)
        return str(path), "random weights"
    return "zoo:sd_inpainting", "embedded weights"


class Few:
    """A protocol that has been cut to some of its cases."""

    def __init__(self, protocol: Any, picked: Sequence[EditCase]) -> None:
        self._protocol = protocol
        self._picked = picked

    def __getattr__(self, name: str) -> Any:
        # Everything but its cases is the protocol's.
        return getattr(self._protocol, name)

    def cases(self) -> Sequence[EditCase]:
        return self._picked


def plan_of(few: Few, method: Any) -> Any:
    """The plan of one method on these cases."""
    from bench.edit import NoOptions
    from bench.plan import make_plan
    from bench.suite import ConfiguredProtocol

    # The protocol was read before: its own time belongs to neither side.
    return make_plan([ConfiguredProtocol(few.name, lambda _: few, NoOptions())], [method])


# --- editing --------------------------------------------------------------------------------------------


def edit(options: argparse.Namespace, folder: Path) -> list[Ratio]:
    from bench.executors import LocalExecutor
    from bench.runner import image_seed, run
    from bench.store import RunStore
    from bench.suite import configure_method
    from methods import METHODS

    protocol, picked = cases(options.cases)
    where, name = weights(folder)
    method = configure_method(
        "sd_inpainting", Registry("method", METHODS), options={"weights": where, "steps": options.steps}
    )
    made: Any = method.create(Runtime())
    pipeline, few, batch = made.pipeline, Few(protocol, picked), options.batch_size

    def suite() -> None:
        place = folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        with RunStore.open(place, create=True) as store:
            # The model is loaded once for both sides.
            executor = LocalExecutor(batch_size=batch, factory=lambda *_: made)
            done = run(plan_of(few, method), store, executor)
            assert done.failed == 0, done.failures[0].error

    def bare(size: int) -> Callable[[], None]:
        import torch

        def loop() -> None:
            for start in range(0, len(picked), size):
                part = [case.request for case in picked[start : start + size]]
                ids = [case.id for case in picked[start : start + size]]
                pipeline(
                    prompt=[request.target_prompt for request in part],
                    image=[request.source for request in part],
                    mask_image=[request.mask for request in part],
                    width=protocol.canvas,
                    height=protocol.canvas,
                    num_inference_steps=options.steps,
                    guidance_scale=made.options.guidance,
                    generator=[torch.Generator().manual_seed(image_seed(0, name)) for name in ids],
                )

        return loop

    ours, batched, single = rounds(options.rounds, suite, bare(batch), bare(1))
    n = f"{len(picked)} edits, {options.steps} steps"
    note = f"{name}; the suite also checks, encodes, writes and records"
    return [
        Ratio("runner", f"bare pipeline, batch {batch}", n, ours, batched, "at most 1.05", note),
        Ratio("runner", "bare pipeline, batch 1", n, ours, single, "below 1", note),
    ]


def repeated(options: argparse.Namespace, folder: Path) -> list[Ratio]:
    """A finished run, again: everything is found done."""
    from bench.executors import LocalExecutor
    from bench.runner import run
    from bench.store import RunStore
    from bench.suite import configure_method
    from methods import METHODS

    protocol, picked = cases(options.cases)
    few = Few(protocol, picked)
    where, name = weights(folder)
    method = configure_method(
        "sd_inpainting", Registry("method", METHODS), options={"weights": where, "steps": options.steps}
    )

    def go(place: Path) -> None:
        with RunStore.open(place, create=True) as store:
            run(plan_of(few, method), store, LocalExecutor(batch_size=options.batch_size))

    def first() -> None:
        shutil.rmtree(folder / "first", ignore_errors=True)
        go(folder / "first")

    go(folder / "done")
    again, fresh = rounds(options.rounds, lambda: go(folder / "done"), first)
    return [Ratio("finished run, repeated", "the run itself", f"{len(picked)} edits", again, fresh, "", name)]


# --- scoring --------------------------------------------------------------------------------------------


def scoring(options: argparse.Namespace, folder: Path) -> list[Ratio]:
    """All per-image metrics, against one edit and one metric at a time with nothing remembered.

    The plain loop goes as PIE-Bench's script does: source by source, each image decoded once, then metric by
    metric one call, which makes its own passes over the source, the edit and the texts at batch 1. The
    networks, their layout in memory and the arithmetic around them are the suite's own, so that it is not
    slower than it need be, and its values are compared with the suite's.
    """
    from bench.executors import LocalExecutor
    from bench.metrics import METRICS, Pair, RgbImage
    from bench.metrics.choice import choose_metrics, load_metrics
    from bench.metrics.features import Features
    from bench.runner import run
    from bench.scoring import score_run
    from bench.store import RunStore
    from bench.suite import configure_method
    from methods import METHODS
    from methods.zoo import ZooError, entry

    protocol, picked = cases(options.cases)
    few, registry = Few(protocol, picked), Registry("metric", METRICS)
    try:
        clip: Path | None = entry("clip")
    except ZooError:
        clip = None

    def features() -> Any:
        return Features(mini_clip=clip)

    chosen = choose_metrics(features(), rendered=True, registry=registry).names
    names = [name for name in chosen if registry.load(name).kind == "edit"]

    def stored(count: int) -> Path:
        place = folder / f"edits-{count}"
        with RunStore.open(place, create=True) as store:
            for quality in range(60, 60 + count):
                method = configure_method("jpeg", Registry("method", METHODS), options={"quality": quality})
                run(plan_of(few, method), store, LocalExecutor(batch_size=16))
        return place

    def suite(place: Path, shared: Any) -> Callable[[], None]:
        def work() -> None:
            shutil.rmtree(place / "scores", ignore_errors=True)
            _forget(shared)
            with RunStore.open(place) as store:
                score_run(store, load_metrics(names, shared, registry), features=shared)

        return work

    def plain(place: Path, shared: Any, values: dict[tuple[str, str, str], Any]) -> Callable[[], None]:
        loaded: list[Any] = load_metrics(names, shared, registry)

        def work() -> None:
            values.clear()
            store = RunStore.open(place)
            file = store.cases(few.name)
            edits: dict[str, list[Any]] = {}
            for record in store.edits():
                edits.setdefault(record.key.case, []).append(record)
            for name, records in edits.items():
                case = file.get(name)
                for record in records:
                    pair = Pair.of_case(case, RgbImage.of(store.image(record)))
                    for metric in loaded:
                        for composited, metric_name in metric.stored_names:
                            _forget(shared)
                            (value,) = metric.score([pair.composite() if composited else pair])
                            values[record.key.method, name, metric_name] = value

        return work

    def differ(place: Path, values: dict[tuple[str, str, str], Any]) -> float:
        """The greatest difference between the two sides' values; they must lack the same ones."""
        rows = RunStore.open(place).scores().to_dict("records")
        assert len(rows) == len(values), f"{len(rows)} values here, {len(values)} there"
        most = 0.0
        for row in rows:
            other = values[row["method"], row["case"], row["metric"]]
            assert isinstance(other, float) == (row["value"] == row["value"]), row
            if isinstance(other, float):
                most = max(most, abs(other - row["value"]))
        return most

    found = []
    for count in (1, 4):
        place = stored(count)
        values: dict[tuple[str, str, str], Any] = {}
        ours, theirs = rounds(options.rounds, suite(place, features()), plain(place, features(), values))
        n = f"{count * len(picked)} edits, {len(names)} metrics"
        against = f"plain loop, {count} method{'s' * (count > 1)} per source"
        note = f"values differ by {differ(place, values):.0e} at most" + (
            "" if clip else "; without CLIP: its checkpoint is not here"
        )
        found.append(
            Ratio("scoring", against, n, ours, theirs, "at most 0.2" if count == 1 else "less", note)
        )
    return found


def _forget(features: Any) -> None:
    """Everything that was computed is forgotten; networks stay loaded."""
    features.take()


def frechet(options: argparse.Namespace, folder: Path) -> list[Ratio]:
    """Files in, distance out: clean-fid's own functions against the suite's, on the same weights.

    Each side builds the network itself: clean-fid gets it as the package ``lpips`` makes it. Reading and the
    network are timed apart from the statistics and the distance. The network's forward pass bounds the first:
    both sides must make it, image by image, and only the layout in memory and the size of the batches differ.
    What is left to win lies in the second, which the last line times at FID's own size. The suite also computes an
    interval for each distance, which clean-fid has not: its time stands apart, as a part of clean-fid's whole time.
    """
    from contextlib import redirect_stdout
    from io import StringIO
    from itertools import islice

    import numpy as np
    import torch
    from cleanfid import fid
    from cleanfid.resize import make_resizer

    from bench.images import read_rgb, write_png
    from bench.metrics import RgbImage
    from bench.metrics.distances import Gaussian
    from bench.metrics.distances import frechet as distance
    from bench.metrics.features import Features
    from bench.metrics.networks.lpips_weights import load_lpips
    from bench.metrics.realism import Vgg16Frechet
    from bench.metrics.streams import ImageStream, batches

    protocol, _ = cases(1)
    count = options.images
    folders = []
    for name, shift in (("real", 0), ("edited", 24)):
        folders.append(folder / name)
        for i, image in enumerate(islice(protocol.reference(), count)):
            write_png(folders[-1] / f"{i:05d}.png", image.point(lambda value, s=shift: min(255, value + s)))
    side = protocol.canvas
    features = Features(workers=2)
    plain: Any = load_lpips("vgg")
    resize = make_resizer("PIL", False, "bicubic", (side, side))
    values: dict[str, float] = {}
    ours = Split()
    theirs = Split()

    def network(pixels: torch.Tensor) -> Any:
        return plain.net(plain.scaling_layer(pixels / 127.5 - 1))[-1].mean(dim=(2, 3))

    def clean_fid() -> None:
        with redirect_stdout(StringIO()), torch.inference_mode():
            with theirs.features:
                rows = [
                    fid.get_folder_features(
                        str(place),
                        model=network,
                        num_workers=0,
                        batch_size=32,
                        device=torch.device("cpu"),
                        mode="clean",
                        custom_fn_resize=resize,
                        verbose=False,
                    )
                    for place in folders
                ]
            with theirs.distance:
                values["clean-fid"] = float(fid.fid_from_feats(*rows))

    def suite() -> None:
        _forget(features)
        metric = Vgg16Frechet(features)
        with ours.features:
            real, edited = (_stream(place, ImageStream, RgbImage, read_rgb) for place in folders)
            for stream in (real, edited):
                for batch in batches(stream, 128):
                    metric.see(batch)
        with ours.distance:
            x, y = (
                features.streamed(
                    metric.space((side, side)), metric.rows, images, [i.key for i in images.fingerprints]
                )
                for images in (edited, real)
            )
            values["ours"] = metric.distance(x, y)
        with ours.interval:
            metric.interval(values["ours"], x, y, [str(i) for i in range(len(x))])

    _, other = rounds(options.rounds, suite, clean_fid)
    mine = [a + b for a, b in zip(*_last(options, ours.features, ours.distance), strict=True)]
    rows = [np.random.default_rng(seed).normal(size=(2048, 2048)) for seed in (0, 1)]

    def suite_alone() -> None:
        values["ours, 2048"] = distance(Gaussian.of_rows(rows[0]), Gaussian.of_rows(rows[1]))

    def clean_fid_alone() -> None:
        with redirect_stdout(StringIO()):
            values["clean-fid, 2048"] = float(fid.fid_from_feats(*rows))

    alone, other_alone = rounds(min(2, options.rounds), suite_alone, clean_fid_alone)
    gap = abs(values["ours"] - values["clean-fid"]) / max(abs(values["clean-fid"]), 1e-12)
    gap_alone = abs(values["ours, 2048"] - values["clean-fid, 2048"]) / abs(values["clean-fid, 2048"])
    n = f"2 x {count} images"
    return [
        Ratio(
            "Fréchet distance", "clean-fid", n, mine, other, "at most 0.5",
            f"VGG16 features; values differ by {gap:.1e} of the value",
        ),
        Ratio("  reading and features", "clean-fid", n, *_last(options, ours.features, theirs.features)),
        Ratio("  statistics and distance", "clean-fid", n, *_last(options, ours.distance, theirs.distance)),
        Ratio(
            "  interval of the distance", "clean-fid, which has none: its whole time", n,
            _last(options, ours.interval, ours.interval)[0], other,
        ),
        Ratio(
            "Fréchet distance, from features", "clean-fid", "2 x 2048 rows of 2048", alone, other_alone, "",
            f"values differ by {gap_alone:.1e} of the value",
        ),
    ]  # fmt: skip


class Watch:
    """Seconds of each ``with``."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __enter__(self) -> None:
        self._start = clock()

    def __exit__(self, *_: object) -> None:
        self.times.append(clock() - self._start)


class Split:
    """The two parts of a Fréchet distance."""

    def __init__(self) -> None:
        self.features, self.distance, self.interval = Watch(), Watch(), Watch()


def _last(options: argparse.Namespace, ours: Watch, theirs: Watch) -> tuple[list[float], list[float]]:
    """Without the round that warmed up."""
    return ours.times[-options.rounds :], theirs.times[-options.rounds :]


def _stream(place: Path, stream: Any, picture: Any, read: Callable[[Path], Any]) -> Any:
    return stream(lambda: (picture.of(read(path)) for path in sorted(place.iterdir())))


# --- starting up ----------------------------------------------------------------------------------------


def start(options: argparse.Namespace, folder: Path) -> list[Ratio]:
    def command(*arguments: str) -> Callable[[], None]:
        def work() -> None:
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

        return work

    script = str(ROOT / "run_bench.py")
    lines = {
        "--help": command(script, "--help"),
        "run --help": command(script, "run", "--help"),
        "list methods": command(script, "list", "methods"),
        "list metrics": command(script, "list", "metrics"),
    }
    times = rounds(max(5, options.rounds), *lines.values(), command("-c", "import torch"))
    return [
        Ratio(name, 'python -c "import torch"', f"{len(mine)} starts", mine, times[-1], "below 0.5 s")
        for name, mine in zip(lines, times, strict=False)
    ]


PARTS = {"edit": edit, "repeated": repeated, "scoring": scoring, "frechet": frechet, "start": start}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=8, help="per category")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=500, help="on either side of the Fréchet distance")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads of this process, on a machine with other work",
    )
    options = parser.parse_args()
    if options.processor_time:
        global clock
        clock = time.process_time

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading, right in (
        ("what", False), ("against", False), ("n", False), ("rounds", True), ("ours, s", True),
        ("theirs, s", True), ("ratio", True), ("lowest–highest", True), ("aim", False),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left")
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for part in options.only:
            console.print(f"measuring {part} ...", style="dim")
            for ratio in PARTS[part](options, Path(name)):
                found = ratio.ratios
                table.add_row(
                    ratio.what,
                    ratio.against,
                    ratio.n,
                    str(len(found)),
                    f"{statistics.median(ratio.ours):.3f}",
                    f"{statistics.median(ratio.theirs):.3f}",
                    f"{statistics.median(found):.3f}",
                    f"{min(found):.3f}–{max(found):.3f}",
                    ratio.aim,
                )
                if ratio.note:
                    notes.append(f"{ratio.what}: {ratio.note}")
    console.print(table)
    for note in dict.fromkeys(notes):
        console.print(note, style="dim")
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    console.print(
        f"python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"threads: {threads}"
    )


if __name__ == "__main__":
    main()
