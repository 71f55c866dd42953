"""Full-size training: a Stable Diffusion 1.x checkpoint and edits with their results => a PromptEditDiff checkpoint.

One process per GPU under ``accelerate launch``, or a single one without. Every batch follows from its step alone, and
so does the noise, so that a run that was killed and started again by the same call is the run that was not.

Files in ``out``: ``checkpoint-<step>/`` (all that a resumption needs; the last few are kept), ``log.csv``,
``samples-<step>.png``, ``tensorboard/`` where asked for, and in the end ``pipeline/``, which the method's ``weights``
option takes.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.edit import EditCase, Runtime
from bench.errors import BenchError
from bench.images import mask_array, resize, resize_mask
from methods import pipelines, weights
from methods.prompt_edit_diff import VARIANTS, ablation
from methods.prompt_edit_diff.augment import MaskDropout
from methods.prompt_edit_diff.losses import composed, edit_loss, noised
from methods.prompt_edit_diff.model import PromptEditDiffUNet
from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
from methods.prompt_edit_diff.tags import Tagged, back, tag, tag_request, to_tokens

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with the step, the number of steps and the figures so far."""


class TrainingError(BenchError):
    """A training that cannot begin or go on. The message says the remedy."""


@dataclass(frozen=True)
class Config:
    """What a training is. Nothing here but ``workers``, ``keep``, ``log`` and the intervals may change on resuming."""

    out: str
    variant: str = VARIANTS[0]
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A text-to-image checkpoint: ``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
    revision: str | None = None
    size: int = 512
    """Side of the pictures in pixels; sources and masks are resized to it."""
    steps: int = 40_000
    batch: int = 4
    """Examples per process and forward pass."""
    accumulate: int = 8
    """Forward passes per step: a step learns from ``batch`` times ``accumulate`` times the processes examples."""
    rate: float = 1e-5
    """Learning rate of the base's own parameters."""
    added_rate: float = 1e-4
    """Learning rate of what is added (and of the first convolution, part of which is new)."""
    warmup: int = 500
    decay: float = 0.2
    """Last share of the steps, in which the rates fall linearly to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.9999
    trainable: Literal["all", "attention"] = "all"
    """"attention": of the base, the attention layers and the first convolution alone. Less than half of the memory
    for gradients and optimizer, for GPUs of 24 GB."""
    ema_on_cpu: bool = False
    """Keep the averages in main memory: one copy of the parameters less on the GPU, a little slower."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    gradient_checkpointing: bool = True
    outside: float = 0.1
    """Weight of the reconstruction term (lambda)."""
    area_power: float = 0.5
    no_text: float = 0.1
    """Share of the examples whose text and tags are left out, for classifier-free guidance."""
    way_back: float = 0.3
    """Share of the examples that learn the source, told by its own prompt, rather than the edit."""
    mask_dropout: MaskDropout = field(default_factory=MaskDropout)
    model: Mapping[str, Any] = field(default_factory=dict)
    """More of ``PromptEditDiffUNet``'s options, say ``{"count": 8}``."""
    seed: int = 0
    workers: int = 4
    save_every: int = 1_000
    keep: int = 3
    """How many checkpoints stay."""
    sample_every: int = 1_000
    log: Literal["csv", "tensorboard"] = "csv"
    """CSV is always written; TensorBoard beside it where asked for."""

    def problems(self) -> list[str]:
        """What keeps this training from starting, each with its remedy."""
        found = []
        if self.variant not in VARIANTS:
            found.append(f"variant {self.variant!r}: expected one of {', '.join(VARIANTS)}")
        for name in ("steps", "batch", "accumulate", "save_every", "keep", "size"):
            if getattr(self, name) < 1:
                found.append(f"{name} {getattr(self, name)}: expected at least 1")
        if self.mixed_precision == "fp16" and not torch.cuda.is_available():
            found.append("mixed_precision fp16 needs a GPU: use bf16 or no")
        return found + weights.problems(self.base, self.revision, channels=(4,))

    def rate_at(self, step: int) -> float:
        """The factor to both learning rates at a step: warm-up, plateau, decay."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        start = self.steps * (1 - self.decay)
        return 1.0 if step <= start else max(0.0, (self.steps - step) / max(self.steps - start, 1))


# --- data -------------------------------------------------------------------------------------------


class Examples(Dataset[dict[str, Tensor]]):
    """Position in the training => one example. The position alone decides on case, direction and mask.

    ``source``, ``target`` uint8 (3, H, W); ``regions`` bool (R, H, W); ``tokens`` int64 (L,), ``member`` bool
    (R, L), ``words`` bool (L,). R is ``regions`` for all, so that examples stack.
    """

    def __init__(self, cases: Sequence[EditCase], tokenizer: Any, config: Config, regions: int = 3) -> None:
        if not len(cases):
            raise TrainingError("there are no cases to learn from")
        self.cases, self.tokenizer, self.config, self.regions = cases, tokenizer, config, regions

    def __len__(self) -> int:
        return len(self.cases)

    def row(self, position: int) -> int:
        """Epochs without repetition: each is a permutation of its own."""
        epoch, place = divmod(position, len(self.cases))
        order = np.random.Generator(np.random.PCG64([self.config.seed, epoch, 1])).permutation(
            len(self.cases)
        )
        return int(order[place])

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        config = self.config
        rng = np.random.Generator(np.random.PCG64([config.seed, position, 2]))
        case = self.cases[self.row(position)]
        if case.truth is None:
            raise TrainingError(
                f"case {case.id} has no result to learn from: make its quad first (make_training_tuples)"
            )
        request = case.request
        masks = [region.mask for region in request.regions] or [request.mask]
        if len(masks) > self.regions:
            raise TrainingError(
                f"case {case.id} has {len(masks)} regions: this training takes {self.regions}"
            )
        areas = np.zeros((1, self.regions, config.size, config.size), np.bool_)
        for r, mask in enumerate(masks):
            areas[0, r] = mask_array(mask if mask.size == self._size else resize_mask(mask, self._size))
        areas = config.mask_dropout(areas, rng)
        chance = rng.random(2)
        there = tag_request(request)
        tagged: Tagged = there
        goes_back = chance[0] < config.way_back and bool(request.source_prompt.strip())
        if goes_back:
            tagged = back(there, request.source_prompt)
        if chance[1] < config.no_text:
            tagged = tag("", regions=())
        coded = to_tokens(self.tokenizer, [tagged], regions=self.regions)
        source = self._pixels(request.source)
        return {
            "source": source,
            "target": source if goes_back else self._pixels(case.truth),
            "regions": torch.from_numpy(areas[0]),
            "tokens": torch.from_numpy(coded.ids[0]),
            "member": torch.from_numpy(coded.member[0]),
            "words": torch.from_numpy(coded.words[0]),
        }

    @property
    def _size(self) -> tuple[int, int]:
        return self.config.size, self.config.size

    def _pixels(self, image: Any) -> Tensor:
        image = image.convert("RGB")
        if image.size != self._size:
            image = resize(image, self._size)
        return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()


def positions(config: Config, first_step: int, process: int, processes: int) -> list[int]:
    """The positions that one process looks at from a step on, in order."""
    per_pass = config.batch * processes
    found: list[int] = []
    for forward in range(first_step * config.accumulate, config.steps * config.accumulate):
        start = forward * per_pass + process * config.batch
        found += range(start, start + config.batch)
    return found


# --- training ---------------------------------------------------------------------------------------


def train(
    cases: Sequence[EditCase],
    config: Config,
    *,
    samples: Sequence[EditCase] = (),
    report: Report | None = None,
) -> Path:
    """Trains until ``config.steps``, from the last checkpoint in ``config.out`` if there is one.

    ``cases`` have their results as ``truth``; ``samples`` are shown in the grids. Returns the pipeline's folder.
    """
    found = config.problems()
    if found:
        raise TrainingError("training: " + "; ".join(found))
    out = Path(config.out)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    )
    out.mkdir(parents=True, exist_ok=True)
    _check_config(out, config, accelerator.is_main_process)
    set_seed(config.seed)
    where = weights.find(config.base, config.revision)
    parts = {part: pipelines.load_part(part, where, Runtime()) for part in where.parts}
    model: PromptEditDiffUNet = PromptEditDiffUNet.from_base(
        parts["unet"], factor=where.vae_factor, **ablation(config.variant), **config.model
    )
    del parts["unet"]
    model.train()
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        _groups(model, config), betas=(0.9, 0.99), weight_decay=config.weight_decay, lr=config.rate
    )
    # Frozen parts in half precision, where the model runs in it too.
    half = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
    for part in ("vae", "text_encoder"):
        parts[part].requires_grad_(False).eval().to(accelerator.device, half)
    learning = [p for p in model.parameters() if p.requires_grad]
    ema = EMAModel(learning, decay=config.ema, use_ema_warmup=False)
    ema.to("cpu" if config.ema_on_cpu else accelerator.device)
    network, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(ema)
    step = _resume(accelerator, out)
    if config.ema_on_cpu:
        ema.to("cpu")

    examples = Examples(cases, parts["tokenizer"], config)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        examples,
        batch_size=config.batch,
        sampler=positions(config, step, accelerator.process_index, accelerator.num_processes),
        num_workers=config.workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=False,
    )
    objective = Objective(network, model, parts, config)
    log = _Log(out, config, accelerator.is_main_process, step)
    batches: Iterator[dict[str, Tensor]] = iter(loader)
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * config.rate_at(step)
        figures: dict[str, float] = {}
        for forward in range(config.accumulate):
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in next(batches).items()}
            noise = torch.Generator(accelerator.device).manual_seed(
                hash_seed(config.seed, step * config.accumulate + forward, accelerator.process_index)
            )
            with accelerator.accumulate(network):
                loss, terms = objective(batch, noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    figures["norm"] = float(accelerator.clip_grad_norm_(learning, config.clip))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            for name, value in terms.items():
                figures[name] = figures.get(name, 0.0) + float(value) / config.accumulate
        ema.step(learning)
        step += 1
        figures["phi"] = mean_gate(model)
        log(step, figures, optimizer.param_groups[0]["lr"])
        if report is not None and accelerator.is_main_process:
            report(step, config.steps, figures)
        if step % config.save_every == 0 or step == config.steps:
            _save(accelerator, out, step, config.keep)
        if samples and step % config.sample_every == 0 and accelerator.is_main_process:
            with _averaged(ema, learning):
                sample_grid(
                    pipeline(model, parts, where, half), samples, out / f"samples-{step:07d}.png", config
                )
            model.train()
    log.close()
    folder = out / "pipeline"
    if accelerator.is_main_process:
        with _averaged(ema, learning):
            pipelines.save_pipeline(folder, pipeline(model, parts, where, torch.float32))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


class Objective:
    """A batch => the loss and its terms. Latents are made here, so that masks may change every time."""

    def __init__(
        self, network: nn.Module, model: PromptEditDiffUNet, parts: Mapping[str, Any], config: Config
    ) -> None:
        self.network, self.model, self.parts, self.config = network, model, parts, config
        self.prediction = parts["scheduler"].config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise TrainingError(
                f"the base predicts {self.prediction!r}; this training takes epsilon and v_prediction"
            )
        self.alphas = parts["scheduler"].alphas_cumprod.double().float()

    def __call__(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        regions = batch["regions"].float()
        mask = regions.amax(1, keepdim=True)
        cells = self.model.cells(mask)
        with torch.no_grad():
            source, target = self._encode(batch["source"]), self._encode(batch["target"])
            text = self.parts["text_encoder"](batch["tokens"])[0].float()
        x0 = composed(target, source, cells)
        device = x0.device
        t = torch.randint(0, len(self.alphas), (len(x0),), generator=generator, device=device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        alpha_bar = self.alphas.to(device)[t]
        predicted = self.network(
            noised(x0, noise, alpha_bar), t, text, mask=mask, source=source, regions=regions,
            member=batch["member"], words=batch["words"],
        )  # fmt: skip
        loss, inside, outside = edit_loss(
            predicted, x0, noise, alpha_bar, cells, self.prediction,
            outside=self.config.outside, area_power=self.config.area_power,
        )  # fmt: skip
        return loss, {"loss": loss.detach(), "inside": inside.detach(), "outside": outside.detach()}

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self.parts["vae"]
        z: Tensor = (
            vae.encode(pixels.to(vae.dtype) / 127.5 - 1).latent_dist.mode() * vae.config.scaling_factor
        )
        return z.float()


def _groups(model: PromptEditDiffUNet, config: Config) -> list[dict[str, Any]]:
    """Freezes what is not to learn; the rest in two groups, each with its peak rate."""
    known: list[nn.Parameter] = []
    added: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        new = not name.startswith("unet.") or name.startswith("unet.conv_in.")
        if config.trainable == "attention" and not new and ".attn1." not in name and ".attn2." not in name:
            p.requires_grad_(False)
            continue
        (added if new else known).append(p)
    return [
        {"params": known, "peak": config.rate},
        {"params": added, "peak": config.added_rate},
    ]


def mean_gate(model: PromptEditDiffUNet) -> float:
    """Mean of |phi| over the layers: how much of the mask's features gets in. 0 without a mask encoder."""
    gates = [p.detach().abs() for name, p in model.named_parameters() if name.endswith(".phi")]
    return float(torch.stack(gates).mean()) if gates else 0.0


def hash_seed(*numbers: int) -> int:
    """A seed of 63 bits that differs for different tuples of small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _averaged:
    """Within, the parameters are their averages."""

    def __init__(self, ema: Any, parameters: list[nn.Parameter]) -> None:
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *error: object) -> None:
        self.ema.restore(self.parameters)


# --- files ------------------------------------------------------------------------------------------

_FREE = (
    "out",
    "workers",
    "keep",
    "log",
    "save_every",
    "sample_every",
    "ema_on_cpu",
    "gradient_checkpointing",
)
"""Options that may change when a training is resumed."""


def _check_config(out: Path, config: Config, main: bool) -> None:
    path = out / "config.json"
    mine = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in _FREE}))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = sorted(k for k in mine.keys() | before.keys() if mine.get(k) != before.get(k))
        if differ:
            raise TrainingError(
                f"{out} holds a training with other options ({', '.join(differ)}): resume it with its own, which "
                f"{path} lists, or choose another folder"
            )
    elif main:
        path.write_text(json.dumps(mine, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _steps(out: Path) -> list[tuple[int, Path]]:
    found = []
    for path in out.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found)


def _resume(accelerator: Accelerator, out: Path) -> int:
    """The step to go on from; the last checkpoint is loaded. A half-written one never has its final name."""
    found = _steps(out)
    if not found:
        return 0
    step, path = found[-1]
    accelerator.load_state(str(path))
    return step


def _save(accelerator: Accelerator, out: Path, step: int, keep: int) -> None:
    accelerator.wait_for_everyone()
    part = out / f".part-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        final = out / f"checkpoint-{step:07d}"
        shutil.rmtree(final, ignore_errors=True)
        part.replace(final)
        for _, old in _steps(out)[:-keep]:
            shutil.rmtree(old)


class _Log:
    """``log.csv``, a line a step, cut back to the step that is resumed from; TensorBoard beside it if asked."""

    def __init__(self, out: Path, config: Config, main: bool, step: int) -> None:
        self.main, self.path = main, out / "log.csv"
        self.started, self.board = time.monotonic(), None
        if main and self.path.exists():
            self._cut(step)
        if main and config.log == "tensorboard":
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError(
                    "log tensorboard needs the package tensorboard: pip install tensorboard, or use log csv"
                ) from error
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def __call__(self, step: int, figures: Mapping[str, float], rate: float) -> None:
        if not self.main:
            return
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 1), "rate": rate, **figures}
        fresh = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(line))
            if fresh:
                writer.writeheader()
            writer.writerow(line)
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def _cut(self, step: int) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            head, *lines = list(csv.reader(file)) or [[]]
        kept = [
            line for line in lines if len(line) == len(head) and line[0].isdigit() and int(line[0]) <= step
        ]
        if not kept:
            self.path.unlink()
            return
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *kept])
        part.replace(self.path)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


# --- looking ----------------------------------------------------------------------------------------


def pipeline(
    model: PromptEditDiffUNet, parts: Mapping[str, Any], where: weights.Weights, dtype: torch.dtype
) -> PromptEditDiffPipeline:
    """The pipeline of the parameters as they are now; ``dtype`` is that of the frozen parts."""
    made = PromptEditDiffPipeline(
        vae=parts["vae"].to(dtype),
        text_encoder=parts["text_encoder"].to(dtype),
        tokenizer=parts["tokenizer"],
        unet=model.eval(),
        scheduler=parts["scheduler"],
    )
    made.set_progress_bar_config(disable=True)
    return made


def sample_grid(
    made: PromptEditDiffPipeline, cases: Sequence[EditCase], path: Path, config: Config, steps: int = 20
) -> None:
    """A PNG: each case as source, mask, edit (raw) and result, below one another."""
    from PIL import Image

    size = (config.size, config.size)
    rows: list[list[Image.Image]] = [[], [], [], []]
    for number, case in enumerate(cases):
        request = case.request
        source, mask = resize(request.source.convert("RGB"), size), resize_mask(request.mask, size)
        made_here: Any = made(
            prompt=[request.target_prompt],
            image=[source],
            mask_image=[mask],
            tags=[tag_request(request)],
            regions=[[resize_mask(region.mask, size) for region in request.regions]],
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(number)],
            paste=False,
        )
        [edited] = made_here.images
        truth = resize(case.truth.convert("RGB"), size) if case.truth is not None else source
        for row, image in zip(rows, (source, mask.convert("RGB"), edited, truth), strict=True):
            row.append(image)
    sheet = Image.new("RGB", (size[0] * len(cases), size[1] * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * size[0], y * size[1]))
    part = path.with_suffix(".part.png")
    sheet.save(part)
    part.replace(path)
