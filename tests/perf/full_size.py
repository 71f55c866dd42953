"""The path of a user with a GPU, at full size and without a download: edit, score and report on photographs' layouts.

    make full-size                                  # on the CPU
    python tests/perf/full_size.py --steps 20 --device cuda

It writes checkpoints of Stable Diffusion 1.5's size with random weights (inpainting, InstructPix2Pix, PromptEditDiff),
in half precision as the published ones are stored, 2 GB each. It writes drawn faces in CelebAMask-HQ's layout (1024 px,
masks of 512 px) and drawn scenes in COCO's (640 x 480). Then ``run_bench.py run`` edits two cases of each with every
method. The edits are noise: only time, memory and the path itself mean something.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.edit import EditCase  # noqa: E402
from bench.files import atomic_folder  # noqa: E402
from protocols.celeba_hq import CelebAHQ  # noqa: E402
from protocols.coco import Coco  # noqa: E402

CASES = 2

SUITE = """name: full-size
protocols:
  - {{name: two_faces, options: {{root: "{folder}/celeba", cases_per_category: 1}}}}
  - {{name: two_scenes, options: {{root: "{folder}/coco", cases_per_category: 1}}}}
methods:
  - copy_input
  - method: sd_inpainting
    options: {{weights: "{folder}/sd_inpainting", steps: {steps}, guidance: {guidance}}}
  - method: instruct_pix2pix
    options: {{weights: "{folder}/instruct_pix2pix", steps: {steps}, guidance: {guidance}, image_guidance: {image}}}
  - method: prompt_edit_diff
    options: {{weights: "{folder}/prompt_edit_diff", steps: {steps}, guidance: {guidance}, scheduler: ddim}}
"""


class TwoFaces(CelebAHQ):
    """The first two cases of the CelebA-HQ protocol."""

    name = "two_faces"

    def cases(self) -> Sequence[EditCase]:
        return super().cases()[:CASES]


class TwoScenes(Coco):
    """The first two cases of the COCO protocol."""

    name = "two_scenes"

    def cases(self) -> Sequence[EditCase]:
        return super().cases()[:CASES]


PROTOCOLS = {"two_faces": f"{__name__}:TwoFaces", "two_scenes": f"{__name__}:TwoScenes"}


def write_checkpoints(folder: Path) -> None:
    """Writes the three checkpoints, unless they are there: the UNets differ in their inputs, the rest is the same."""
    import torch
    from diffusers import StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline

    from methods.pipelines import save_pipeline
    from methods.prompt_edit_diff.model import PromptEditDiffUNet
    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
    from tests.perf.large_world import random_parts, with_random_weights

    kinds: dict[str, tuple[int, Any]] = {
        "sd_inpainting": (9, StableDiffusionInpaintPipeline),
        "instruct_pix2pix": (8, StableDiffusionInstructPix2PixPipeline),
        "prompt_edit_diff": (4, PromptEditDiffPipeline),
    }
    for name, (in_channels, cls) in kinds.items():
        if (folder / name / "model_index.json").exists():
            continue
        parts = random_parts(in_channels)
        extra: dict[str, Any] = {}
        if cls is PromptEditDiffPipeline:
            # Around the same UNet, with twice the input channels for the source.
            base = {key: value for key, value in parts.pop("unet").config.items() if key[0] != "_"}
            with torch.device("meta"):
                unet = PromptEditDiffUNet(base=base, factor=8)
            parts["unet"] = with_random_weights(unet)
        else:
            extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        save_pipeline(folder / name, cls(**parts, **extra))


def write_data(folder: Path) -> None:
    """Writes the two data sets, a few images each, unless they are there."""
    from tests.protocols.conftest import write_celeba, write_coco

    # Whole or not at all: a stopped call is repeated.
    if not (folder / "celeba").exists():
        with atomic_folder(folder / "celeba") as faces:
            write_celeba(faces, test=range(8), train=range(8, 12), image=1024, mask=512)
    if not (folder / "coco").exists():
        with atomic_folder(folder / "coco") as scenes:
            write_coco(scenes, range(100, 112), size=(640, 480))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=1.0, help="1 switches guidance off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/full-size"), help="checkpoints, data and run go there"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    # Checkpoints and data, in a process of their own as the stages, whose memory is measured.
    program = (
        "import sys, pathlib; from tests.perf import full_size; folder = pathlib.Path(sys.argv[1]); "
        "full_size.write_checkpoints(folder); full_size.write_data(folder)"
    )
    code = _measured("checkpoints and data", [sys.executable, "-c", program, str(folder)])
    if code:
        return code
    print(f"{_gigabytes(folder):.1f} GB in {folder}")

    # The run, as a user starts it.
    suite = folder / "suite.yaml"
    suite.write_text(
        SUITE.format(
            folder=folder.as_posix(),
            steps=options.steps,
            guidance=options.guidance,
            # Guidance by the source is off or on together with that by the text.
            image=1.5 if options.guidance > 1 else 1.0,
        )
    )
    run, plugin = str(folder / "run"), ["--plugin", "tests.perf.full_size"]
    device = ["--device", options.device]
    for stage, arguments in (
        ("edit", [str(suite), "--out", run, "--batch-size", "1", *device]),
        ("score", [run, *device]),
        ("report", [run]),
    ):
        code = _measured(stage, [sys.executable, "run_bench.py", stage, *arguments, *plugin])
        if code:
            return code
    _print_seconds_per_edit(folder / "run")
    return 0


def _measured(stage: str, command: list[str]) -> int:
    """Runs a command, prints what it took, and returns its exit code."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    seconds, processor = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    # Linux counts memory in KiB.
    peak = usage.ru_maxrss * 1024 / 1e9
    print(
        f"{stage}: {seconds:.0f} s, {processor:.0f} s of processor time, peak memory {peak:.1f} GB",
        flush=True,
    )
    return os.waitstatus_to_exitcode(status)


def _print_seconds_per_edit(run: Path) -> None:
    from bench.store import RunStore

    seconds: dict[tuple[str, str], list[float]] = {}
    with RunStore.open(run) as store:
        titles = {digest: entry["name"] for digest, entry in store.manifest["methods"].items()}
        for record in store.edits():
            if record.seconds is not None:
                key = (record.key.protocol, titles.get(record.key.method, record.key.method))
                seconds.setdefault(key, []).append(record.seconds)
    for (protocol, method), values in seconds.items():
        print(f"{protocol}, {method}: {sum(values) / len(values):.1f} s per edit, n = {len(values)}")


def _gigabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


if __name__ == "__main__":
    sys.exit(main())
