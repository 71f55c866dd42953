"""A campaign against the command line: hostile inputs that it must refuse, and kills that it must survive.

    python tests/perf/campaign.py                          # 100 inputs and 30 kills, about 15 minutes on two cores
    python tests/perf/campaign.py --inputs 20 --kills 5 --seed 7

Every command runs as users run it, as a process of its own. A hostile input counts as refused where the process ends
with a nonzero exit code, one readable error and no traceback, within a minute. A kill hits ``run`` at a random moment;
the same command then goes on. Its edits and scores must be those of a run that nobody disturbed. The last lines are the
counts, and the exit code is 1 where one of them is not as it must be.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
"""Seconds after which a command counts as hanging."""

SUITE = """name: tiny
limit: 2
protocols: [{name: mini-coco, options: {reference_count: 4}}]
methods: [copy_input, oracle, jpeg, noise_fill]
metrics: [leak_lpips, leak_psnr, edit_change, success_truth]
"""


@dataclass(frozen=True)
class Attack:
    """One hostile input: the arguments of the command that meets it. Its files are written already."""

    kind: str
    arguments: Sequence[str]
    environment: dict[str, str] | None = None


Maker = Callable[[Path, Path, random.Random], Attack]
"""(empty folder, a finished run, random numbers) => an attack whose files are in the folder."""


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, str(ROOT / "run_bench.py"), *arguments]


# Suites.


def _suite(folder: Path, text: str | bytes, kind: str) -> Attack:
    path = folder / "suite.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Attack(kind, ["run", str(path), "--out", str(folder / "run")])


def alias_bomb(folder: Path, run: Path, rng: random.Random) -> Attack:
    width = rng.randint(8, 12)
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, rng.randint(9, 12))]
    return _suite(folder, "\n".join(lines) + f"\nname: *a{len(lines) - 1}\n", "suite: alias bomb")


def cyclic_anchor(folder: Path, run: Path, rng: random.Random) -> Attack:
    return _suite(folder, "name: tiny\nmethods: &m [*m]\nprotocols: [mini-coco]\n", "suite: cyclic anchor")


def deep_nesting(folder: Path, run: Path, rng: random.Random) -> Attack:
    depth = rng.choice([500, 5_000, 50_000])
    return _suite(folder, "name: " + "[" * depth + "]" * depth, "suite: deep nesting")


def huge_number(folder: Path, run: Path, rng: random.Random) -> Attack:
    number = rng.choice(["9" * 5_000, str(2**64), "1e999", ".nan"])
    return _suite(folder, SUITE + f"seed: {number}\n", "suite: number out of range")


def wrong_type(folder: Path, run: Path, rng: random.Random) -> Attack:
    key, value = rng.choice(
        [
            ("limit", "[1]"),
            ("limit", "0"),
            ("canvas", "100000"),
            ("metrics", "[]"),
            ("methods", "{copy_input: 1}"),
            ("protocols", "7"),
            ("? [a, b]", "1"),
            ("unheard_of", "1"),
        ]
    )
    lines = [line for line in SUITE.splitlines() if not line.startswith(f"{key}:")]
    return _suite(folder, "\n".join([*lines, f"{key}: {value}"]) + "\n", "suite: wrong type or unknown key")


def yaml_tag(folder: Path, run: Path, rng: random.Random) -> Attack:
    return _suite(folder, "name: !!python/object/apply:os.system ['true']\n", "suite: Python tag")


def binary_suite(folder: Path, run: Path, rng: random.Random) -> Attack:
    return _suite(folder, rng.randbytes(rng.randint(1, 400)) + b"\x00", "suite: binary")


def secret(folder: Path, run: Path, rng: random.Random) -> Attack:
    option = rng.choice(["base_url: 'http://127.0.0.1:9'", "key_variable: HOME"])
    text = SUITE.replace("copy_input", "{method: openai_images, options: {" + option + "}}")
    return _suite(folder, text, "suite: names a host or a key")


# Run folders.


def _damaged(folder: Path, run: Path) -> Path:
    copy = folder / "run"
    shutil.copytree(run, copy)
    return copy


def bad_manifest(folder: Path, run: Path, rng: random.Random) -> Attack:
    copy = _damaged(folder, run)
    text = rng.choice(["[]", "null", "{}", "{", "[" * 20_000, '{"suite": 3}', ""])
    (copy / "run.json").write_text(text)
    return Attack("run folder: run.json", [rng.choice(["report", "score", "verify", "export"]), str(copy)])


def bad_records(folder: Path, run: Path, rng: random.Random) -> Attack:
    copy = _damaged(folder, run)
    path = copy / "edits.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    key = rng.choice(["protocol", "case", "file", "seconds", "method"])
    row[key] = rng.choice([[], {}, 3 if key != "seconds" else "3", True])
    place = rng.randrange(len(lines))
    lines[place] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    return Attack("run folder: edits.jsonl", [rng.choice(["report", "score"]), str(copy)])


def outside_path(folder: Path, run: Path, rng: random.Random) -> Attack:
    copy = _damaged(folder, run)
    path = copy / "edits.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    row["file"] = rng.choice(["../../../etc/hostname", "/etc/hostname"])
    path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    return Attack("run folder: path that leaves it", ["verify", str(copy)])


def no_run(folder: Path, run: Path, rng: random.Random) -> Attack:
    (folder / "empty").mkdir()
    target = rng.choice([folder / "empty", folder / "missing", Path("/dev/null"), folder / ("x" * 300)])
    return Attack(
        "run folder: none", [rng.choice(["report", "score", "verify", "export", "compare"]), str(target)]
    )


# Places to write to.


def bad_target(folder: Path, run: Path, rng: random.Random) -> Attack:
    (folder / "file").write_text("")
    target = rng.choice([folder / "file" / "below", folder / ("x" * 300), Path("/proc/nowhere")])
    arguments = rng.choice(
        [
            ["cases", "mini-coco", "--limit", "1", "--out", str(target)],
            ["export", str(run), "--out", str(target / "entry.zip")],
            ["compare", str(run), str(run), "--out", str(target / "differences.csv")],
        ]
    )
    return Attack("target that cannot be written", arguments)


def full_disk(folder: Path, run: Path, rng: random.Random) -> Attack:
    return Attack("full disk", ["export", str(run), "--out", "/dev/full"])


# Pictures.


def bad_pair(folder: Path, run: Path, rng: random.Random) -> Attack:
    size = (32, 32)
    Image.new("RGB", size, (10, 20, 30)).save(folder / "source.png")
    Image.new("RGB", size, (200, 20, 30)).save(folder / "edited.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    kind = rng.choice(["photo as mask", "empty mask", "size", "truncated", "text", "folder"])
    if kind == "photo as mask":
        noise = np.random.default_rng(rng.randrange(99)).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(folder / "mask.png")
    elif kind == "empty mask":
        Image.new("L", size).save(folder / "mask.png")
    elif kind == "size":
        Image.new("RGB", (48, 32)).save(folder / "edited.png")
    elif kind == "truncated":
        data = (folder / "edited.png").read_bytes()
        (folder / "edited.png").write_bytes(data[: len(data) // 2])
    elif kind == "text":
        (folder / "source.png").write_text("no picture")
    else:
        (folder / "mask.png").unlink()
        (folder / "mask.png").mkdir()
    names = [str(folder / f"{name}.png") for name in ("source", "edited", "mask")]
    return Attack(f"measure: {kind}", ["measure", names[0], names[1], "--mask", names[2]])


def bad_outputs(folder: Path, run: Path, rng: random.Random) -> Attack:
    pictures = folder / "pictures"
    pictures.mkdir()
    if rng.random() < 0.5:
        Image.new("RGB", (64, 64)).save(pictures / "of-no-case.png")
    text = SUITE.replace("copy_input", f"{{method: outputs, options: {{path: {json.dumps(str(pictures))}}}}}")
    return _suite(folder, text, "outputs: no picture of any case")


# Plug-ins.

PLUGINS = {
    "syntax": "def",
    "exit": "import sys\nsys.exit(0)",
    "missing import": "import no_such_package_anywhere",
    "wrong table": "METHODS = 3",
    "no class": "METHODS = {'odd': 'hostile_plugin:Nothing'}",
    "exit in constructor": (
        "from dataclasses import dataclass\nimport sys\n"
        "from bench.edit import EditMethod\nclass Odd(EditMethod):\n    summary = 'odd'\n"
        "    needs = frozenset({'source'})\n    @dataclass(frozen=True)\n"
        "    class Options:\n        pass\n    def __init__(self, options, runtime):\n        sys.exit(0)\n"
        "    def edit(self, requests):\n        return []\nMETHODS = {'odd': 'hostile_plugin:Odd'}"
    ),
}


def bad_plugin(folder: Path, run: Path, rng: random.Random) -> Attack:
    kind = rng.choice(list(PLUGINS))
    (folder / "hostile_plugin.py").write_text(PLUGINS[kind] + "\n")
    suite = folder / "suite.yaml"
    suite.write_text(SUITE.replace("copy_input", "odd"))
    return Attack(
        f"plug-in: {kind}",
        ["run", str(suite), "--out", str(folder / "run"), "--plugin", "hostile_plugin"],
        {"PYTHONPATH": str(folder)},
    )


# Data sets, votes, entries.


def bad_coco(folder: Path, run: Path, rng: random.Random) -> Attack:
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "val2017" / "1.jpg")
    image = {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": 400.0,
        "bbox": [1, 1, 20, 20],
        "segmentation": [[1, 1, 21, 1, 21, 21, 1, 21]],
    }
    images, annotations = [image], [annotation]
    kind = rng.choice(["repeated image", "repeated annotation", "short counts", "huge size", "not JSON"])
    if kind == "repeated image":
        images.append({**image, "file_name": "2.jpg"})
    elif kind == "repeated annotation":
        annotations.append(annotation)
    elif kind == "short counts":
        annotation.update(segmentation={"size": [48, 64], "counts": [10, 5]}, iscrowd=1)
    elif kind == "huge size":
        annotation.update(segmentation={"size": [10**9, 10**9], "counts": "abc"}, iscrowd=1)
    instances = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup", "supercategory": "kitchen"}],
    }
    captions = {"images": images[:1], "annotations": [{"id": 1, "image_id": 1, "caption": "A red cup."}]}
    text = "[" * 30_000 if kind == "not JSON" else json.dumps(instances)
    (folder / "annotations" / "instances_val2017.json").write_text(text)
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(captions))
    return Attack(f"COCO: {kind}", ["cases", "coco", "--out", str(folder / "cases"), "-o", f"root={folder}"])


def bad_entry(folder: Path, run: Path, rng: random.Random) -> Attack:
    path = folder / "entry.zip"
    kind = rng.choice(["no zip", "no entry", "damaged"])
    if kind == "no zip":
        path.write_bytes(rng.randbytes(200))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../entry.json", "{}" * 2_000)
        if kind == "damaged":
            data = bytearray(path.read_bytes())
            data[50:70] = rng.randbytes(20)
            path.write_bytes(bytes(data))
    copy = _damaged(folder, run)
    return Attack(f"entry: {kind}", ["report", str(copy), "--merge", str(path)])


def bad_votes(folder: Path, run: Path, rng: random.Random) -> Attack:
    path = folder / "votes.csv"
    path.write_bytes(
        rng.choice([b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"rater,question\n" + b"x" * 10, b'"unclosed'])
    )
    return Attack("votes", ["study", "analyse", str(path)])


def bad_option(folder: Path, run: Path, rng: random.Random) -> Attack:
    arguments = rng.choice(
        [
            ["run", "dmeo"],
            ["run", "demo", "--device", "cuda:99"],
            ["run", "demo", "--dtype", "float7"],
            ["report", str(run), "--intervals", "blue"],
            ["cases", "mini-coco", "--out", str(folder / "c"), "-o", "unheard=1"],
            ["score", str(run), "--metric", "psnrr"],
            ["list", "nothing"],
            ["train", "nobody"],
        ]
    )
    return Attack("option", arguments)


ATTACKS: tuple[Maker, ...] = (
    alias_bomb,
    cyclic_anchor,
    deep_nesting,
    huge_number,
    wrong_type,
    yaml_tag,
    binary_suite,
    secret,
    bad_manifest,
    bad_records,
    outside_path,
    no_run,
    bad_target,
    full_disk,
    bad_pair,
    bad_outputs,
    bad_plugin,
    bad_coco,
    bad_entry,
    bad_votes,
    bad_option,
)


def attack(run: Path, work: Path, count: int, rng: random.Random) -> Counter[str]:
    """Meet the command line with ``count`` hostile inputs, each kind in turn; outcome -> how often."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        folder = work / f"attack-{number}"
        folder.mkdir()
        hostile = ATTACKS[number % len(ATTACKS)](folder, run, rng)
        outcome, said = meet(hostile)
        outcomes[outcome] += 1
        if outcome != "refused":
            print(f"{outcome}: {hostile.kind}: {' '.join(hostile.arguments)}\n{said[-1500:]}", flush=True)
        else:
            shutil.rmtree(folder)
    return outcomes


def meet(hostile: Attack) -> tuple[str, str]:
    """(outcome, standard output and error) of one hostile input."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(hostile.environment or {})}
    try:
        done = subprocess.run(
            command(hostile.arguments), capture_output=True, timeout=TIMEOUT, env=environment, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        return "hangs", (error.stderr or b"").decode(errors="replace")
    said = (done.stdout + done.stderr).decode(errors="replace")
    if "Traceback (most recent call last)" in said:
        return "traceback", said
    if done.returncode < 0:
        return "crash", f"signal {-done.returncode}\n{said}"
    if done.returncode == 0:
        return "accepted", said
    return ("refused" if said.strip() else "without a word"), said


def scores(run: Path) -> dict[tuple[str, ...], str]:
    """The digest of each edit, and each row of the report's table of all scores but those of time."""
    values: dict[tuple[str, ...], str] = {}
    for line in (run / "edits.jsonl").read_text().splitlines():
        row = json.loads(line)
        values["edit", row["protocol"], row["method"], row["case"]] = row["sha256"]
    with (run / "report" / "data" / "summary.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in ("protocol", "category", "method", "metric"))
            if row["metric"] != "seconds_per_edit":
                values[key] = json.dumps(row, sort_keys=True)
    return values


def kill(
    reference: Path, suite: Path, work: Path, count: int, seconds: float, rng: random.Random
) -> Counter[str]:
    """Kill ``run`` at random moments within ``seconds``, go on, compare with the undisturbed run."""
    expected = scores(reference)
    outcomes: Counter[str] = Counter()
    for number in range(count):
        folder = work / f"killed-{number}"
        arguments = command(["run", str(suite), "--out", str(folder), "--batch-size", "1"])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT
        )
        try:
            process.wait(rng.uniform(0.1, seconds))
            outcomes["ended before the kill"] += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = (folder / "edits.jsonl").read_text().count("\n") if (folder / "edits.jsonl").exists() else 0
        again = subprocess.run(arguments, capture_output=True, env=environment, cwd=ROOT)
        said = (again.stdout + again.stderr).decode(errors="replace")
        if again.returncode or "Traceback (most recent call last)" in said:
            outcomes["does not go on"] += 1
            print(f"does not go on: kill {number}\n{said[-1500:]}", flush=True)
            continue
        after = scores(folder)
        lost = sum(key not in after for key in expected)
        wrong = sum(key in after and after[key] != value for key, value in expected.items())
        rows = (folder / "edits.jsonl").read_text().count("\n")
        edits = sum(key[0] == "edit" for key in expected)
        outcomes["lost"] += bool(lost) or rows < before
        outcomes["wrong"] += bool(wrong)
        outcomes["edited twice"] += rows > edits
        outcomes["as undisturbed"] += not lost and not wrong
        left = [path for path in folder.rglob("*") if ".tmp" in path.name or path.parent.name == "tmp"]
        outcomes["temporary files left"] += bool(left)
        shutil.rmtree(folder)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        suite = work / "tiny.yaml"
        suite.write_text(SUITE)
        reference = work / "reference"
        start = time.monotonic()
        subprocess.run(
            command(["run", str(suite), "--out", str(reference), "--batch-size", "1"]),
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        seconds = time.monotonic() - start
        inputs = attack(reference, work, arguments.inputs, rng)
        kills = kill(reference, suite, work, arguments.kills, seconds, rng)
    print(f"{arguments.inputs} hostile inputs: {dict(inputs)}")
    print(f"{arguments.kills} kills within {seconds:.0f} s: {dict(kills)}")
    faults = (
        arguments.inputs
        - inputs["refused"]
        + sum(kills[name] for name in ("lost", "wrong", "does not go on"))
    )
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
