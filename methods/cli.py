"""Commands of the methods: ``train``, ``train-sd15``, ``tags``, and those of ``zoo``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import TrainingBar, progress_bar
from bench.cli.data import limited_cases
from bench.cli.options import (
    Device,
    DryRun,
    Dtype,
    Plugin,
    ProtocolOption,
    examples,
    key_values,
    open_session,
    program,
)
from bench.downloads import check_ready
from bench.errors import BenchError
from bench.session import GpuTime
from bench.terminal import console
from methods.zoo.commands import ALL_LEVELS, Levels, level_numbers, zoo_app

if TYPE_CHECKING:
    from bench.edit import EditMethod
    from methods.prompt_edit_diff.training_tuples import TrainingTuples

methods_app = typer.Typer()
methods_app.add_typer(zoo_app, name="zoo")


# --- options of train-sd15 --------------------------------------------------------------------------------

Variant = Annotated[str, typer.Argument(help="The method or one of its ablations.")]
CocoRoot = Annotated[Path | None, typer.Option(help="COCO, with train2017 and its annotations.")]
CelebaRoot = Annotated[Path | None, typer.Option(help="CelebAMask-HQ; its train partition is used.")]
TrainingOut = Annotated[
    Path | None, typer.Option(help="Checkpoints, log, and the pipeline. [default: ./VARIANT-sd15]")
]
TuplesFolder = Annotated[
    Path,
    typer.Option(
        "--training-tuples", "--quads", help="Folder of the edits to learn from. They are made once."
    ),
]
TupleCount = Annotated[int, typer.Option(min=1, help="Edits to learn from, per data set.")]
BaseModel = Annotated[str, typer.Option(help="The text-to-image checkpoint to start from.")]
InpaintingWeights = Annotated[
    str | None, typer.Option(help="Weights of sd_inpainting, which makes the results of the training tuples.")
]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps, of 32 examples each.")]
GpuMemory = Annotated[
    float, typer.Option(min=1, help="Memory of the GPU in GiB. Below 40, a smaller configuration is used.")
]

# --- training --------------------------------------------------------------------------------------------


@methods_app.command(
    epilog=examples(
        "train sd_inpainting",
        "train reader --device cuda --samples 400000",
        "train prompt_edit_diff_token_content --warm --seed 1",
        "train reader --levels 1,3 --warm --samples 64000",
        "list recipes",
    )
)
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name that `list recipes` prints.")],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Where checkpoints and sample grids go. [default: .work/zoo/RECIPE; with --levels 1,3 "
            ".work/zoo-levels-1-3/RECIPE]"
        ),
    ] = None,
    device: Device = "auto",
    warm: Annotated[
        bool, typer.Option("--warm", help="Start from the zoo's checkpoint, not from random weights.")
    ] = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training examples to see. [default: the recipe's budget]")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seed of a recipe of PromptEditDiff. N above 0 is saved as RECIPE_seedN.",
        ),
    ] = 0,
    levels: Levels = ALL_LEVELS,
) -> None:
    """Train one of the embedded checkpoints from scratch. The same command continues a stopped training.

    With --warm, a variant of PromptEditDiff starts from the checkpoint of its method. Networks learn from the levels of
    --levels in equal shares, and the card has the held-out figures of each level.
    """
    from bench.devices import resolve_device
    from bench.registry import Registry
    from methods.zoo.experiments import EXPERIMENTS
    from methods.zoo.recipes import RECIPES

    # A misspelt recipe is told before torch is imported.
    Registry("recipe", RECIPES, entry_point_group="").check(recipe)
    if seed and recipe not in EXPERIMENTS:
        raise BenchError(f"--seed {seed}: recipe {recipe} has one seed. Leave --seed out.")
    numbers = level_numbers(levels)
    # Recipe and budget.
    from importlib import import_module

    from methods.training import Machine
    from methods.zoo.job import Job

    module, _, function = RECIPES[recipe].partition(":")
    # Not by the registry's ``load``, which accepts classes of methods, protocols and metrics alone.
    publish = getattr(import_module(module), function)
    budget = None
    if samples is not None:
        from dataclasses import replace

        from methods.zoo.publish import BUDGETS

        # A recipe of another module has its budget beside it.
        usual = BUDGETS.get(recipe) or import_module(module).BUDGET
        budget = replace(usual, samples=samples)

    # Train.
    # Recipes share the corpus beside their folders, so every mixture of levels has folders of its own.
    mixture = "zoo" if numbers == level_numbers(ALL_LEVELS) else f"zoo-levels-{'-'.join(map(str, numbers))}"
    folder = work or Path(".work") / mixture / (f"{recipe}_seed{seed}" if seed else recipe)
    machine = Machine(device=resolve_device(device))
    with progress_bar() as progress:
        checkpoint = publish(
            Job(
                program(context).make_world(numbers),
                folder,
                budget=budget,
                machine=machine,
                report=TrainingBar(progress, recipe),
                warm=warm,
                seed=seed,
            )
        )
    console().print(f"checkpoint: {checkpoint}\nlog and sample grids: {folder}")


@methods_app.command(
    "train-sd15",
    epilog=examples(
        "train-sd15 --coco data/coco --celeba data/CelebAMask-HQ",
        "train-sd15 --coco data/coco --gpu-memory 24 --dry-run",
    ),
)
def train_sd15(
    context: typer.Context,
    variant: Variant = "prompt_edit_diff",
    coco: CocoRoot = None,
    celeba: CelebaRoot = None,
    out: TrainingOut = None,
    training_tuples: TuplesFolder = Path("data/quads"),
    count: TupleCount = 20_000,
    base: BaseModel = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    inpainting: InpaintingWeights = None,
    steps: Steps = 40_000,
    gpu_memory: GpuMemory = 80.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train PromptEditDiff at Stable Diffusion 1.5's size: make the training tuples, then train.

    Masks and captions are the data sets' own. Results are made by sd_inpainting. All of it is stored on disk, and
    the same command continues a stopped training.
    """
    from methods.prompt_edit_diff import VARIANTS
    from methods.prompt_edit_diff.config import Config
    from methods.prompt_edit_diff.trainer import train as train_variant

    # Configuration.
    if variant not in VARIANTS:
        raise BenchError(f"variant {variant!r}: expected one of {', '.join(VARIANTS)}.")
    folder = out or Path(f"{variant}-sd15")
    config = Config.for_memory(gpu_memory, out=str(folder), variant=variant, base=base, steps=steps)
    # Each protocol selects per category, and there are four.
    datasets: dict[str, dict[str, Any]] = {}
    if coco is not None:
        datasets["coco"] = {"root": str(coco), "split": "train2017"}
    if celeba is not None:
        datasets["celeba_hq"] = {"root": str(celeba), "partition": "train"}
    for options in datasets.values():
        options["cases_per_category"] = -(-count // 4)
    if dry_run:
        _print_cost(config, datasets)
    if not datasets:
        raise BenchError("nothing to learn from: name --coco, --celeba or both.")

    # Data and weights that are missing.
    from bench.suite import configure_method, configure_protocol

    session = open_session(context)
    sources = {
        name: configure_protocol(name, session.protocols, options=options)
        for name, options in datasets.items()
    }
    inpainter = configure_method(
        "sd_inpainting", session.methods, options={"weights": inpainting} if inpainting else {}
    )
    if dry_run:
        return
    check_ready(
        [
            *((f"protocol {name}", source.problems) for name, source in sources.items()),
            ("sd_inpainting", inpainter.problems),
            (variant, config.problems()),
        ]
    )

    # Edits to learn from, then training.
    parts = _training_tuples(sources, inpainter, training_tuples, device, dtype)
    from itertools import chain

    with progress_bar() as progress:
        checkpoint = train_variant(
            list(chain(*parts)) if len(parts) > 1 else parts[0],
            config,
            samples=[part[i] for part in parts for i in range(min(4, len(part)))],
            report=TrainingBar(progress, variant),
        )
    console().print(f"checkpoint: {checkpoint}\nlog and sample grids: {folder}")


def _training_tuples(
    sources: Mapping[str, Any], inpainter: Any, folder: Path, device: str, dtype: str
) -> list[TrainingTuples]:
    """Makes the missing training tuples of each data set, with one model in memory."""
    from bench.devices import resolve_device, resolve_dtype
    from bench.edit import Runtime
    from methods.prompt_edit_diff.training_tuples import make_training_tuples

    # One model for all data sets.
    actual_device = resolve_device(device)
    method: EditMethod | None = None
    parts = []
    for name, source in sources.items():
        cases = source.create().cases()
        # After the data: a broken data set is told before the model loads.
        if method is None:
            method = inpainter.create(Runtime(actual_device, resolve_dtype(dtype, actual_device)))
        maker = {"method": inpainter.spec.name, "options": dict(inpainter.spec.options)}
        with progress_bar() as progress:
            show = partial(progress.show, f"edits of {name}", total=len(cases))
            parts.append(make_training_tuples(cases, method, maker, folder / name, progress=show))
    return parts


def _print_cost(config: Any, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the plan of a full-size training. Its cost is counted on the meta device."""
    from methods.prompt_edit_diff import cost

    # Data, then the cost of one step.
    screen = console()
    for name, options in datasets.items():
        screen.print(f"learns from {name}: {dict(options)}")
    example = cost.example_cost(config)
    screen.print(
        f"{config.steps} steps of {config.batch} x {config.accumulate} examples; {example.trainable / 1e6:.0f} of "
        f"{example.parameters / 1e6:.0f} million parameters learn; an example is {example.flops / 1e12:.1f} TFLOP, "
        f"counted, at {config.size} px",
        highlight=False,
    )
    seconds = cost.measured_seconds(Path(config.out))
    if seconds is not None:
        hours = seconds * config.steps / 3600
        screen.print(f"measured in {config.out}: {seconds:.1f} s per step, {hours:.0f} h for all steps")


def gpu_time(steps: int) -> GpuTime:
    """Time of model steps, each taken for a guided step of Stable Diffusion 1.5 at 512 px.

    A guided step is two passes of the U-Net. Operations are counted on the meta device.
    """
    from methods.prompt_edit_diff import cost

    # hours = steps x operations / (peak speed x assumed utilisation) / 3600
    flops = 2 * cost.forward_flops()
    return GpuTime(
        teraflop_per_step=flops / 1e12,
        utilisation=cost.UTILISATION,
        hours={gpu.name: steps * flops / (gpu.peak * cost.UTILISATION) / 3600 for gpu in cost.GPUS},
    )


# --- tags ------------------------------------------------------------------------------------------------


@methods_app.command(
    epilog=examples(
        "tags 'a blue car on a beach' --source-prompt 'a red car on a beach'", "tags --protocol mini-coco"
    )
)
def tags(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="A target prompt.")] = None,
    source_prompt: Annotated[str, typer.Option(help="Prompt of the source.")] = "",
    word: Annotated[
        list[str] | None, typer.Option(help="A word that belongs to the edit. May be repeated.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Show the tags of this protocol's cases.")] = None,
    option: ProtocolOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Cases per category.")] = 2,
    plugin: Plugin = None,
) -> None:
    """Show which words of a prompt PromptEditDiff ties to the edited region, and by which rule."""
    from methods.prompt_edit_diff.tags import render, tag, tag_request

    # One prompt, or the cases of a protocol.
    screen = console()
    if prompt is not None and protocol is None:
        screen.print(render(tag(prompt, source_prompt, [("", tuple(word or ()))])))
        return
    if prompt is not None or protocol is None:
        raise BenchError("name a prompt or --protocol, one of them.")
    from rich.text import Text

    created = open_session(context, plugin).protocol(protocol, key_values(option))
    for case in limited_cases(created.cases(), limit):
        screen.print(Text.assemble((case.id, "bold"), "  ", (case.request.instruction, "dim")))
        screen.print(render(tag_request(case.request)) + "\n")
