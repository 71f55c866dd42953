"""Full-size training: a Stable Diffusion 1.x checkpoint and training tuples => a PromptEditDiff checkpoint.

One process per GPU under ``torchrun`` or ``accelerate launch``, or a single process without them. The loop is
``methods.training``. Each batch and its noise follow from the number of the forward pass, so the same call continues
an interrupted run exactly.

Files in ``out``: ``config.json``, ``checkpoint-<step>/`` (the last few stay), ``log.csv``, ``samples-<step>.png``,
``tensorboard/`` if requested, and at the end ``pipeline/``, which the method's ``weights`` option takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.edit import EditCase, Runtime
from bench.files import write_atomic
from bench.images import resize, resize_mask, write_png
from methods import pipelines, weights
from methods.prompt_edit_diff import ablation
from methods.prompt_edit_diff.config import FREE, Config
from methods.prompt_edit_diff.examples import Examples, LoadedBatches
from methods.prompt_edit_diff.losses import objective
from methods.prompt_edit_diff.model import PromptEditDiffUNet, mean_gate
from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
from methods.prompt_edit_diff.tags import tag_request
from methods.training import Machine, Precision, Recording, TrainingError, Weights
from methods.training import train as run_training

# Called with the step, the number of steps and the current figures.
StepReport = Callable[[int, int, Mapping[str, float]], None]

_PRECISIONS: Mapping[str, Precision] = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}


def train(
    cases: Sequence[EditCase],
    config: Config,
    *,
    samples: Sequence[EditCase] = (),
    report: StepReport | None = None,
) -> Path:
    """Train until ``config.steps``, from the last checkpoint in ``config.out`` if there is one.

    ``cases`` have their results as ``truth``. ``samples`` are drawn in the sample grids. Returns the pipeline's folder.
    Raises TrainingError where the options have problems or differ from those of the run in the folder.
    """
    # Check everything before any model is loaded.
    problems = config.problems()
    if problems:
        raise TrainingError("training: " + "; ".join(problems))
    process, processes, device = _processes()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _check_config(out, config, write=process == 0)

    # Build the network around the base; its frozen parts run in the precision of the forward pass.
    torch.manual_seed(config.seed)
    machine = Machine(
        device, _PRECISIONS[config.mixed_precision], config.accumulate, "cpu" if config.ema_on_cpu else None
    )
    found_base = weights.find(config.base, config.revision)
    parts = {part: pipelines.load_part(part, found_base, Runtime()) for part in found_base.parts}
    model: PromptEditDiffUNet = PromptEditDiffUNet.from_base(
        parts.pop("unet"), factor=found_base.vae_factor, **ablation(config.variant), **config.model
    )
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    groups = parameter_groups(model, config)
    for part in ("vae", "text_encoder"):
        parts[part].requires_grad_(False).eval().to(device, machine.dtype)
    distributed = nn.parallel.DistributedDataParallel(model.to(device)) if processes > 1 else None

    def sample(averages: Weights, path: Path) -> None:
        with _holding(model, averages["unet"]):
            sample_grid(build_pipeline(model, parts, machine.dtype), samples, path, config.size)
        model.train()

    # Learn, then save the averaged weights as a pipeline.
    budget = config.budget(processes)
    result = run_training(
        out,
        {"unet": model},
        EditObjective(distributed or model, model, parts, config),
        LoadedBatches(Examples(cases, parts["tokenizer"], config), process, processes, device.startswith("cuda")),
        budget,
        machine,
        lambda done, total, figures: report(done // budget.batch, config.steps, figures) if report else None,
        sample if samples else None,
        Recording(
            save_steps=config.save_every, keep=config.keep, log_seconds=0, smoothing=0,
            sample_every=config.sample_every * budget.batch, tensorboard=config.log == "tensorboard",
        ),
        groups=groups,
        noise_seed=lambda number: hash_seed(config.seed, number, process),
        distributed=distributed,
    )  # fmt: skip
    # Only the first process writes the pipeline; the others wait for it.
    if process == 0:
        model.load_state_dict(result.weights["unet"])
        pipelines.save_pipeline(out / "pipeline", build_pipeline(model, parts, torch.float32))
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return out / "pipeline"


class EditObjective:
    """Batch => loss and its terms. Latents are encoded here, since the masks differ every time."""

    def __init__(
        self, network: nn.Module, model: PromptEditDiffUNet, parts: Mapping[str, Any], config: Config
    ) -> None:
        """``network`` is ``model``, or its wrapper where several processes train together."""
        self.network, self.model, self.parts, self.config = network, model, parts, config
        self.prediction = parts["scheduler"].config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise TrainingError(
                f"the base predicts {self.prediction!r}; this training takes epsilon and v_prediction"
            )
        # Products of (1 - beta), (T,).
        self.alpha_bars = parts["scheduler"].alphas_cumprod.double().float()

    def __call__(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """``batch`` of ``Examples``, with a first axis for the batch."""
        regions = batch["regions"].float()
        mask = regions.amax(1, keepdim=True)  # (B, 1, H, W)
        with torch.no_grad():
            source, target = self._encode(batch["source"]), self._encode(batch["target"])  # (B, 4, h, w)
            masked_source = self._encode(batch["source"], mask) if self.model.hides == "pixels" else None
            text = self.parts["text_encoder"](batch["tokens"])[0].float()  # (B, L, W)

        # The network around its conditions, which are the same for all noise levels.
        def predict(x: Tensor, t: Tensor) -> Tensor:
            prediction: Tensor = self.network(
                x,
                t,
                text,
                mask=mask,
                source=source,
                regions=regions,
                member=batch["member"],
                words=batch["words"],
                masked_source=masked_source,
            )
            return prediction

        loss = objective(
            predict, source, target, self.model.cells(mask), self.alpha_bars, self.prediction, generator,
            outside=self.config.outside, area_power=self.config.area_power, weighting=self.config.weighting,
        )  # fmt: skip
        return loss.value, {**loss.figures(), "phi": mean_gate(self.model)}

    def _encode(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """uint8 (B, 3, H, W) => scaled latents float32 (B, 4, h, w), the posterior's mode.

        Pixels where ``hidden`` (B, 1, H, W) is 1 are gray.
        """
        vae = self.parts["vae"]
        x = pixels.to(vae.dtype) / 127.5 - 1
        if hidden is not None:
            x = x * (1 - hidden).to(x.dtype)
        z: Tensor = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        return z.float()


def parameter_groups(model: PromptEditDiffUNet, config: Config) -> list[dict[str, Any]]:
    """Optimizer groups of the base's and the added parameters. Freezes those that do not learn."""
    # The first convolution is partly new, so it learns at the added rate.
    own: list[nn.Parameter] = []
    added: list[nn.Parameter] = []
    added_names = model.added()
    for name, parameter in model.named_parameters():
        new = name in added_names or name.startswith("unet.conv_in.")
        if config.trainable == "attention" and not new and ".attn1." not in name and ".attn2." not in name:
            parameter.requires_grad_(False)
            continue
        (added if new else own).append(parameter)
    return [
        {"params": own, "scale": 1.0},
        {"params": added, "scale": config.added_learning_rate / config.learning_rate},
    ]


def hash_seed(*numbers: int) -> int:
    """A seed of 63 bits that differs between different tuples of small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _processes() -> tuple[int, int, str]:
    """(index of this process, number of processes, device), from the variables that a launcher sets."""
    # torchrun and accelerate launch set the same variables.
    index, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    else:
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    # Gradients are exchanged by NCCL between GPUs, and by Gloo between CPUs.
    if count > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return index, count, device


def _check_config(out: Path, config: Config, write: bool) -> None:
    """Store the options in a new folder, or raise TrainingError where the folder's run has others."""
    path = out / "config.json"
    # Through JSON, so that tuples compare equal to the lists of the file.
    options = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in FREE}))
    options["model"].setdefault("source_latents", "pixels")
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        # A run from before these options existed must not go on with another network or loss.
        before.setdefault("weighting", "terms")
        before.setdefault("model", {}).setdefault("source_latents", "cells")
        differ = sorted(k for k in options.keys() | before.keys() if options.get(k) != before.get(k))
        if differ:
            raise TrainingError(
                f"{out} holds a training with other options ({', '.join(differ)}): resume it with its own, which "
                f"{path} lists, or choose another folder"
            )
    elif write:
        write_atomic(path, (json.dumps(options, indent=1, sort_keys=True) + "\n").encode())


# --- sample grids -----------------------------------------------------------------------------------


@contextmanager
def _holding(model: nn.Module, averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block, the parameters of ``model`` are ``averages``."""
    # Exchanging the tensors needs no further copy of the parameters.
    current = {name: parameter.data for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.data = averages[name].to(parameter.device)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = current[name]


def build_pipeline(
    model: PromptEditDiffUNet, parts: Mapping[str, Any], dtype: torch.dtype
) -> PromptEditDiffPipeline:
    """The pipeline with the parameters as they are now. ``dtype`` is that of the frozen parts."""
    pipeline = PromptEditDiffPipeline(
        vae=parts["vae"].to(dtype),
        text_encoder=parts["text_encoder"].to(dtype),
        tokenizer=parts["tokenizer"],
        unet=model.eval(),
        scheduler=parts["scheduler"],
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_grid(pipeline: PromptEditDiffPipeline, cases: Sequence[EditCase], path: Path, side: int) -> None:
    """Write a PNG with a column per case: source, mask, raw edit and ground truth, each (side, side) pixels."""
    from PIL import Image

    size = (side, side)
    # A cell per image, with one row for each kind.
    sheet = Image.new("RGB", (side * len(cases), side * 4))
    for column, case in enumerate(cases):
        request = case.request
        source, mask = resize(request.source.convert("RGB"), size), resize_mask(request.needed_mask, size)
        # The raw output, with all of the image through the autoencoder.
        output: Any = pipeline(
            prompt=[request.target_prompt],
            image=[source],
            mask_image=[mask],
            tags=[tag_request(request)],
            regions=[[resize_mask(region.mask, size) for region in request.regions]],
            num_inference_steps=20,
            generator=[torch.Generator().manual_seed(column)],
            paste=False,
        )
        [edited] = output.images
        ground_truth = resize(case.truth.convert("RGB"), size) if case.truth is not None else source
        for row, image in enumerate((source, mask.convert("RGB"), edited, ground_truth)):
            sheet.paste(image, (column * side, row * side))
    write_png(path, sheet)
