"""Base classes of the methods that run a diffusion model.

:class:`CheckpointMethod` checks the options, loads the pipeline, checks a batch and composites its results. A method
states its options, its kind of checkpoint and how one batch is edited:

* ``methods.diffusion.adapter.Diffusers``: by one call of any pipeline of diffusers.
* :class:`StableDiffusionMethod`: on the parts of a Stable Diffusion checkpoint, in a loop of its own.
* :class:`BlendingMethod`: by such a loop in latents, which blends the source back in at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench.edit import EditMethod
from methods import batches, latents, pipelines, weights
from methods.mask_grid import MaskCells
from methods.runtime import refuse, runtime_problems

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime
    from methods.weights import Weights

PromptField = Literal["target_prompt", "region_prompt"]


@dataclass(frozen=True)
class StableDiffusionOptions:
    weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
    revision: str | None = None
    """Commit, tag or branch on the hub. None is the pinned commit of the known checkpoints."""
    steps: int = 50
    """Steps of the sampler's whole grid."""
    guidance: float = 7.5
    """Scale of classifier-free guidance. 1 switches it off."""
    negative_prompt: str = ""
    """Text that guidance leads away from."""


@dataclass(frozen=True)
class BlendingOptions(StableDiffusionOptions):
    prompt_field: PromptField = "target_prompt"
    """Text of the request that is the prompt. The target prompt describes the whole result, as the captions in
    training did. The region's prompt names the region's content alone ("a stone")."""
    mask_cells: MaskCells = "rescue"
    """``rescue`` takes the middle pixel of each cell of the latent grid, and adds the cells of parts that this would
    miss. ``cover`` makes every cell editable that the mask touches."""


# For a method that takes no mask, and composites where its option says so.
PASTE_HINT = "the mask is for its option paste alone: set paste: false"


class CheckpointMethod(EditMethod):
    """A method on one checkpoint, loaded as a pipeline of diffusers."""

    # The name in the registry, with which error messages begin.
    name: ClassVar[str]
    pipeline: Any

    @classmethod
    def problems(cls, options: Any) -> list[str]:
        return cls.option_problems(options) + cls.weights_problems(options)

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        """Values out of range, and options that would have no effect. Needs no weights."""
        raise NotImplementedError

    @classmethod
    def weights_problems(cls, options: Any) -> list[str]:
        """Reasons why the weights cannot be used: missing, incomplete, or of another kind."""
        raise NotImplementedError

    def __init__(self, options: Any, runtime: Runtime) -> None:
        """Raises ValueError, with every problem, before anything heavy is loaded."""
        refuse(self.name, self.problems(options) + runtime_problems(runtime))
        self.options: Any = options
        self.needs = self.needs_of(options)
        self.prepare(runtime)

    def prepare(self, runtime: Runtime) -> None:
        """Loads ``self.pipeline``, on the device and in the precision of ``runtime``."""
        raise NotImplementedError

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits sources (and masks) of one size."""
        if not requests:
            return []
        # Before the networks run.
        if self.composited() and any(request.mask is None for request in requests):
            raise ValueError("paste composites along the mask, and the case has none: set paste: false")
        edited = self.edit_batch(requests, batches.sources(requests))
        return batches.composite(requests, edited) if self.composited() else edited

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        """The raw results of a batch that is not empty. ``sources`` are the requests', in mode RGB."""
        raise NotImplementedError

    def composited(self) -> bool:
        """True if results are composited with their sources outside the mask."""
        return bool(self.options.paste)


class StableDiffusionMethod(CheckpointMethod):
    """A method on one Stable Diffusion checkpoint, 1.x or 2.x."""

    # The class of diffusers whose components are loaded.
    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    # Input channels that the UNet may have, which tell the kinds of checkpoints apart.
    channels: ClassVar[tuple[int, ...]] = (4,)
    native_size: int | None = 512

    @classmethod
    def remark(cls, options: Any) -> str:
        return weights.training_remark(options.weights)

    @classmethod
    def identity(cls, options: Any) -> dict[str, str]:
        return weights.identity(options.weights, options.revision)

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        return sampling_problems(options)

    @classmethod
    def weights_problems(cls, options: Any) -> list[str]:
        return weights.problems(options.weights, options.revision, channels=cls.channels)

    def prepare(self, runtime: Runtime) -> None:
        checkpoint = weights.find(self.options.weights, self.options.revision)
        self.factor = checkpoint.vae_factor
        self.native_size = checkpoint.native_size
        self.pipeline = self.load(checkpoint, runtime)

    def load(self, checkpoint: Weights, runtime: Runtime) -> Any:
        """The pipeline, on the device and in the precision of ``runtime``."""
        return pipelines.load_pipeline(self.pipeline_class, checkpoint, runtime)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits sources (and masks) of one size, whose sides are multiples of the autoencoder's factor."""
        if requests:
            batches.one_size(requests, self.factor)
        return super().edit(requests)


class BlendingMethod(StableDiffusionMethod):
    """A method that samples in latents and, at every step, puts the source's latents back outside the mask."""

    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    schedule: latents.NoiseSchedule

    @classmethod
    def weights_problems(cls, options: Any) -> list[str]:
        return latents.problems(options.weights, options.revision, options.steps)

    @classmethod
    def needs_of(cls, options: Any) -> frozenset[str]:
        return frozenset({"source", "mask", options.prompt_field})

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        import torch

        with torch.no_grad():
            z = self.sample(requests, sources)
            return batches.to_images(latents.decode(self.pipeline.vae, z))

    def sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        """The latents of the results, float32 (B, 4, h, w)."""
        options, device = self.options, self.pipeline.device
        texts = batches.prompts(requests, options.prompt_field)
        # Checked before the prompts are encoded and the networks run.
        mask = latents.masks(requests, self.factor, options.mask_cells, device)  # (B, 1, h, w), 1 = edit
        z_source = latents.encode(self.pipeline.vae, batches.to_tensor(sources, device))
        predict = latents.GuidedUNet(self.pipeline, texts, options.negative_prompt, options.guidance)
        generators = batches.generators(requests)

        def fresh_noise() -> Tensor:
            return batches.noise(z_source, generators)

        return self.blend(predict, z_source, mask, fresh_noise)

    def blend(
        self, predict: latents.GuidedUNet, z_source: Tensor, mask: Tensor, fresh_noise: latents.NoiseSource
    ) -> Tensor:
        """The loop: from the source's latents (B, 4, h, w) to those of the results.

        ``mask`` is float32 (B, 1, h, w), 1 = edit. Each call of ``fresh_noise`` draws new noise, float32
        (B, 4, h, w).
        """
        raise NotImplementedError


def sampling_problems(options: Any) -> list[str]:
    """Problems of ``steps``, ``guidance`` and ``negative_prompt`` under classifier-free guidance."""
    problems = [] if options.steps >= 1 else [f"steps {options.steps}: expected at least 1"]
    if options.guidance < 1:
        problems.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
    if options.negative_prompt and options.guidance == 1:
        problems.append("negative_prompt has no effect at guidance 1")
    return problems


def strength_problems(steps: int, strength: float) -> list[str]:
    """Problems of a ``strength`` that noises the source only partly. It must leave a step to run."""
    if not 0 < strength <= 1:
        return [f"strength {strength}: expected more than 0 and at most 1"]
    if steps >= 1 and int(steps * strength) < 1:
        # Some samplers crash on no step at all, and PNDM would run one that nobody asked for.
        return [
            f"steps {steps} at strength {strength} leave no step to run: "
            # -(-1 / strength // 1) is 1 / strength, rounded up.
            f"raise steps to at least {-int(-1 / strength // 1)}"
        ]
    return []
