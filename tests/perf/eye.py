"""How far ``success_truth`` agrees with labels given by eye: sheets to label, and the agreement with the labels.

    python tests/perf/eye.py agreement                         # the rule as it is now, against the stored labels
    python tests/perf/eye.py agreement --labels FOLDER         # against those of an earlier commit's tests/eye
    python tests/perf/eye.py sheets runs/demo --out sheets     # 200 edits, drawn by a seed, the methods hidden
    python tests/perf/eye.py store runs/demo --labels reference.csv first.csv second.csv

The labels in ``tests/eye/`` are the project's own, and not of human volunteers: a vision-language model gave them, as
two raters that did not see each other's. They saw sheets with the source, the outline of the mask, the edit and the
instruction, but neither the method nor any verdict. For each edit they answered two questions: does the region show
all that the instruction asks for (``shows``), and is the rest still the same picture (``kept``). Where they differed, a
third look decided, again without the verdicts; and where every pixel outside is the source's own, the rest is kept,
whatever the raters saw. That is the reference. Success is both. ``edits.png`` holds the edits themselves: the agreement
needs neither a run nor the methods.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from bench.edit import EditCase, EditRecord  # noqa: E402
from bench.images import mask_array  # noqa: E402
from bench.metrics.features import Features  # noqa: E402
from bench.metrics.types import Pair, RgbImage  # noqa: E402
from bench.registry import parse_options  # noqa: E402
from bench.store import RunStore  # noqa: E402
from protocols.world import MiniCelebAHQ, MiniCoco  # noqa: E402
from protocols.world.levels import WorldLevel2  # noqa: E402

FOLDER = ROOT / "tests" / "eye"
SEED, COUNT = 17, 200
"""``earlier.csv`` lists the edits of the three samples before this one (seeds 14 to 16) by protocol, case and title of
the method. Their labels were used while the classifier and the rule were developed, so this sample repeats none of
them. A method's digest would not identify them, because it changes when its weights do."""
ROUND_TRIPS = ("oracle", "copy_input", "jpeg", "autoencoder_round_trip")
PER_CONTROL = 5
COLUMNS, ROWS, ZOOM = 4, 5, 3
TILES = 20
"""Edits in a row of ``edits.png``."""


def choose(store: RunStore, seed: int = SEED) -> list[tuple[str, EditRecord]]:
    """(method's title, edit): five of each control and equally many of each method, in random order."""
    with (FOLDER / "earlier.csv").open(newline="") as file:
        earlier = {(row["protocol"], row["case"], row["method"]) for row in csv.DictReader(file)}
    by_method: dict[str, list[EditRecord]] = defaultdict(list)
    for record in store.edits():
        title = store.methods[record.key.method].title
        if record.file is not None and (record.key.protocol, record.key.case, title) not in earlier:
            by_method[title].append(record)
    controls = [title for title in by_method if title in ROUND_TRIPS]
    of_controls = {spec.title for spec in store.methods.values() if spec.is_control}
    rivals = [title for title in by_method if title not in of_controls]
    each = (COUNT - PER_CONTROL * len(controls)) // len(rivals)
    rng = np.random.default_rng(seed)
    chosen = []
    for title in sorted([*controls, *rivals]):
        ordered = sorted(by_method[title], key=lambda record: (record.key.protocol, record.key.case))
        size = PER_CONTROL if title in controls else each
        chosen += [(title, ordered[i]) for i in rng.choice(len(ordered), size, replace=False)]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def sheets(run: Path, out: Path) -> None:
    """Write ``sheet-00.png`` and so on: twenty edits each, numbered, source on the left, edit on the right."""
    out.mkdir(parents=True, exist_ok=True)
    with RunStore.open(run) as store:
        chosen = choose(store)
        cases = {name: {case.id: case for case in store.cases(name)} for name in store.protocols()}
        per_sheet = COLUMNS * ROWS
        for first in range(0, len(chosen), per_sheet):
            cells = [
                _cell(number, cases[record.key.protocol][record.key.case], store.image(record))
                for number, (_, record) in enumerate(chosen[first : first + per_sheet], first)
            ]
            width, height = cells[0].size
            sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "white")
            for place, cell in enumerate(cells):
                sheet.paste(cell, (place % COLUMNS * width, place // COLUMNS * height))
            sheet.save(out / f"sheet-{first // per_sheet:02d}.png")


def _cell(number: int, case: EditCase, edited: Image.Image) -> Image.Image:
    side = case.request.source.width * ZOOM
    cell = Image.new("RGB", (2 * side + 12, side + 34), "white")
    source = case.request.source.resize((side, side), Image.Resampling.NEAREST)
    mask = mask_array(case.request.mask).repeat(ZOOM, 0).repeat(ZOOM, 1)
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis)
    pixels = np.asarray(source).copy()
    pixels[mask & ~inner] = (255, 0, 255)
    cell.paste(Image.fromarray(pixels), (0, 30))
    cell.paste(edited.resize((side, side), Image.Resampling.NEAREST), (side + 4, 30))
    draw = ImageDraw.Draw(cell)
    text = f"{number}: {case.request.instruction}"
    draw.text((2, 1), text[:64], fill="black")
    draw.text((2, 14), text[64:128] or f"region: {case.request.region_prompt}"[:64], fill="black")
    return cell


def store_labels(run: Path, labels: Sequence[Path]) -> None:
    """Keep the labelled edits as one picture and one row each; labels: the reference and both raters'."""
    answers = []
    for path in labels:
        with path.open(newline="") as file:
            answers.append({int(row["number"]): row for row in csv.DictReader(file)})
    with RunStore.open(run) as store:
        chosen = choose(store)
        for path, rater in zip(labels, answers, strict=True):
            missing = sorted(set(range(len(chosen))) - set(rater))
            if missing:
                raise SystemExit(f"{path}: no label for the edits {missing}")
        FOLDER.mkdir(exist_ok=True)
        tiles = [np.asarray(store.image(record)) for _, record in chosen]
        rows = [np.concatenate(tiles[i : i + TILES], axis=1) for i in range(0, len(tiles), TILES)]
        Image.fromarray(np.concatenate(rows)).save(FOLDER / "edits.png", optimize=True)
        with (FOLDER / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            columns = [name + rater for rater in ("", "_1", "_2") for name in ("shows", "kept")]
            writer.writerow(["number", "protocol", "case", "method", *columns])
            for number, (title, record) in enumerate(chosen):
                cells = [rater[number][name] for rater in answers for name in ("shows", "kept")]
                writer.writerow([number, record.key.protocol, record.key.case, title, *cells])


@dataclass(frozen=True)
class Labelled:
    """One labelled edit."""

    number: int
    method: str
    pair: Pair
    shows: bool
    """By the reference, as ``keeps``: the region shows all that the instruction asks for."""
    keeps: bool
    """The rest is still the same picture."""
    raters: tuple[tuple[bool, bool], tuple[bool, bool]]
    """(shows, keeps) by each of the two raters."""

    @property
    def succeeds(self) -> bool:
        return self.shows and self.keeps

    @property
    def is_raw(self) -> bool:
        """True where a pixel outside the mask changed."""
        outside = ~self.pair.needed_mask
        return bool((self.pair.source.pixels != self.pair.edited.pixels)[outside].any())


def labelled(folder: Path = FOLDER) -> list[Labelled]:
    """The stored edits with their cases and labels. Renders the miniatures where they are not there yet."""
    protocols = {cls.name: cls(parse_options(cls, {})) for cls in (MiniCelebAHQ, MiniCoco, WorldLevel2)}
    cases = {name: {case.id: case for case in protocol.cases()} for name, protocol in protocols.items()}
    sheet = np.asarray(Image.open(folder / "edits.png").convert("RGB"))
    edits = []
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            number = int(row["number"])
            case = cases[row["protocol"]][row["case"]]
            side = case.request.source.width
            top, left = number // TILES * side, number % TILES * side
            picture = RgbImage(np.ascontiguousarray(sheet[top : top + side, left : left + side]))
            reference, first, second = (
                (row["shows" + rater] == "1", row["kept" + rater] == "1") for rater in ("", "_1", "_2")
            )
            pair = Pair.of_case(case, picture)
            edits.append(Labelled(number, row["method"], pair, *reference, (first, second)))
    return edits


def verdicts(edits: Sequence[Labelled]) -> list[bool]:
    """``success_truth`` of each edit, by the embedded reader and the rule as it is now."""
    from bench.metrics.success import SuccessTruth

    return [value == 1.0 for value in SuccessTruth(_features()).score([edit.pair for edit in edits])]


def conditions(edits: Sequence[Labelled]) -> tuple[list[bool], list[bool]]:
    """The rule's first and third condition for each edit: its judge says yes, and it stayed inside."""
    from bench.metrics.leakage import LeakArea, LeakPsnr
    from bench.metrics.success import JudgeTruth

    features, pairs = _features(), [edit.pair for edit in edits]
    judged = [value == 1.0 for value in JudgeTruth(features).score(pairs)]
    values = zip(LeakArea(features).score(pairs), LeakPsnr(features).score(pairs), strict=True)
    outside = [[value if isinstance(value, float) else None for value in of_edit] for of_edit in values]
    return judged, [features.options.success.holds(True, 1.0, area, ratio) for area, ratio in outside]


def _features() -> Features:
    from methods.zoo.features import EmbeddedClassifier

    return Features(classifier=EmbeddedClassifier("cpu"))


def agreement(folder: Path = FOLDER) -> None:
    """Print the agreement of the rule with the labels, per method, and each edit on which they differ."""
    edits = labelled(folder)
    scored = verdicts(edits)
    total = len(edits)
    raters = sum(all(first) == all(second) for first, second in (edit.raters for edit in edits))
    agreed = sum(edit.succeeds == verdict for edit, verdict in zip(edits, scored, strict=True))
    print(f"{total} edits, {sum(edit.succeeds for edit in edits)} of which succeed by the reference")
    print(f"the two raters agree on {raters} ({raters / total:.1%})")
    print(f"success_truth agrees with the reference on {agreed} ({agreed / total:.1%})")
    print_parts(edits)
    print(f"\n{'method':26} {'n':>3} {'agree':>5} {'false yes':>9} {'false no':>8}")
    for method in sorted({edit.method for edit in edits}):
        of_method = [(e.succeeds, v) for e, v in zip(edits, scored, strict=True) if e.method == method]
        agree, false_yes = sum(p == v for p, v in of_method), sum(v and not p for p, v in of_method)
        print(
            f"{method:26} {len(of_method):3} {agree:5} {false_yes:9} {len(of_method) - agree - false_yes:8}"
        )
    print()
    for edit, verdict in zip(edits, scored, strict=True):
        if edit.succeeds != verdict:
            kind = "false yes" if verdict else "false no"
            print(f"{edit.number:3} {kind:9} {edit.method:26} {edit.pair.instruction}")


def print_parts(edits: Sequence[Labelled]) -> None:
    """Print which part of the rule costs how many agreements."""
    judged, inside = conditions(edits)
    parts = list(zip(edits, judged, inside, strict=True))
    print(f"  with the label for condition 1: {sum((e.shows and i) == e.succeeds for e, _, i in parts)}")
    print(f"  with the label for condition 3: {sum((j and e.keeps) == e.succeeds for e, j, _ in parts)}")
    print(f'the judge agrees with "the region shows it" on {sum(j == e.shows for e, j, _ in parts)}')
    raw = [(edit, i) for edit, _, i in parts if edit.is_raw]
    raters = sum(first[1] == second[1] for first, second in (edit.raters for edit, _ in raw))
    print(f"{len(raw)} edits changed a pixel outside. On these,")
    print(f'  condition 3 agrees with "the rest is the same" on {sum(i == e.keeps for e, i in raw)},')
    print(f"  and the two raters with each other on {raters}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("sheets")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("--out", type=Path, required=True)
    storing = commands.add_parser("store")
    storing.add_argument("run", type=Path)
    storing.add_argument("--labels", type=Path, nargs=3, required=True)
    comparing = commands.add_parser("agreement")
    comparing.add_argument("--labels", type=Path, default=FOLDER, help="folder of edits.png and labels.csv")
    arguments = parser.parse_args()
    if arguments.command == "sheets":
        sheets(arguments.run, arguments.out)
    elif arguments.command == "store":
        store_labels(arguments.run, arguments.labels)
    else:
        agreement(arguments.labels)
