"""The adapters: PromptEditDiff, and its three ablations as methods of their own.

They differ only in their checkpoints. The configuration of a checkpoint names its variant, and a method refuses the
checkpoints of other variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods import batches, pipelines, weights
from methods.diffusion.base import StableDiffusionMethod, StableDiffusionOptions, strength_problems
from methods.prompt_edit_diff import ablation
from methods.prompt_edit_diff.tags import Tagged, tag, tag_request
from methods.runtime import torch_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime


class PromptEditDiff(StableDiffusionMethod):
    summary = (
        "PromptEditDiff: mask encoder, routed prompt tokens, gated injection (mini weights, or your own)"
    )
    name: ClassVar[str] = "prompt_edit_diff"
    # Input channels of the UNet: the noisy latents, and with ``source_latents="concat"`` the source's.
    channels = (4, 8)

    @dataclass(frozen=True)
    class Options(StableDiffusionOptions):
        weights: str = "zoo:prompt_edit_diff"
        """A folder in diffusers' layout, ``owner/name`` of the hub, or ``zoo:NAME``. None are published, so
        the default is the embedded mini checkpoint. ``train-sd15`` makes one of Stable Diffusion's size."""
        steps: int = 20
        guidance: float = 3.0
        scheduler: Literal["ddim", "ddpm"] | None = "ddim"
        """None uses the checkpoint's own scheduler."""
        eta: float = 0.0
        """Noise of DDIM: 0 is deterministic, 1 is as much as DDPM's."""
        strength: float = 1.0
        """Share of the noise schedule that the source is carried up before it is edited. 1 starts from pure noise where
        the schedule ends in it (zero terminal SNR), as that of the mini checkpoints does. Below 1 the source's content
        under the mask guides the edit."""
        tagging: Literal["request", "automatic", "off"] = "request"
        """Source of the words of each region. "request": the request, or a comparison of the prompts where it names
        none. "automatic": always the comparison. "off": no tags."""
        paste: bool = True
        """Composite the result into the source along the mask, as the paper does. False gives the raw output."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:prompt_edit_diff", "steps": 10, "guidance": 3.0, "scheduler": "ddim"},
        "sd15": {"weights": "./prompt_edit_diff-sd15", "steps": 50, "guidance": 7.5, "scheduler": "ddim"},
    }

    # Edit words, regions and the source prompt are used where a request has them.
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options) + strength_problems(options.steps, options.strength)
        if not 0 <= options.eta <= 1:
            problems.append(f"eta {options.eta}: expected a number from 0 to 1")
        elif options.eta and options.scheduler == "ddpm":
            problems.append("eta is an option of DDIM and has no effect with scheduler ddpm")
        return problems

    @classmethod
    def weights_problems(cls, options: Options) -> list[str]:
        problems = super().weights_problems(options)
        if problems:
            local = options.weights.startswith((".", "~", "/"))
            return [f"{problems[0]} {_TRAIN}", *problems[1:]] if local else problems
        # The checkpoint's own switches must be those of this variant.
        config = weights.find(options.weights, options.revision).config("unet")
        switches = ablation(cls.name)
        # A UNet without the switches belongs to another method.
        if set(switches) - set(config):
            return [
                f"weights {options.weights!r}: the UNet is a {config.get('_class_name')}, no PromptEditDiffUNet. "
                f"{_TRAIN}"
            ]
        wrong = [f"{name}={config[name]}" for name, value in switches.items() if config[name] != value]
        if wrong:
            return [
                f"weights {options.weights!r} were trained with {', '.join(wrong)}, so they are not those of "
                f"{cls.name}: use the method of that variant, or its weights"
            ]
        return []

    @classmethod
    def needs_of(cls, options: Options) -> frozenset[str]:
        return cls.needs | ({"source_prompt"} if options.tagging == "automatic" else set())

    def load(self, checkpoint: weights.Weights, runtime: Runtime) -> Any:
        return load_pipeline(checkpoint, runtime, self.options.scheduler)

    def tags(self, request: EditRequest) -> Tagged:
        """The target prompt with the words of each region. ``tags.render`` shows it to people."""
        if self.options.tagging == "off":
            return tag(request.target_prompt, regions=())
        if self.options.tagging == "automatic":
            regions = [(region.prompt, ()) for region in request.regions]
            return tag(request.target_prompt, request.source_prompt, regions or [("", ())])
        return tag_request(request)

    def composited(self) -> bool:
        return False  # the pipeline composites by itself

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        options = self.options
        batches.edit_masks(requests)
        return pipelines.call(
            self.pipeline,
            prompt=batches.prompts(requests, "target_prompt"),
            image=list(sources),
            mask_image=[request.needed_mask for request in requests],
            tags=[self.tags(request) for request in requests],
            regions=[[region.mask for region in request.regions] for request in requests],
            negative_prompt=options.negative_prompt,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            eta=options.eta,
            generator=batches.generators(requests),
            paste=options.paste,
        )


_TRAIN = (
    "Nobody has published weights of PromptEditDiff; train your own with methods.prompt_edit_diff.trainer, or use "
    'the preset "mini".'
)


def load_pipeline(checkpoint: weights.Weights, runtime: Runtime, scheduler: str | None = None) -> Any:
    """The pipeline of ``checkpoint``, in evaluation mode, on the device and in the precision of ``runtime``."""
    import diffusers

    from methods import low_rank
    from methods.prompt_edit_diff.model import PromptEditDiffUNet
    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline

    # All parts but the UNet are loaded as for any pipeline.
    index = weights.read_json(checkpoint.root / "model_index.json")
    parts = {
        part: pipelines.load_part(part, checkpoint, runtime, index.get(part))
        for part in checkpoint.parts
        if part != "unet"
    }
    with pipelines.quiet():
        # The embedded checkpoints store differences of low rank from their base.
        unet = low_rank.load(
            PromptEditDiffUNet,
            checkpoint.parts["unet"],
            torch_dtype(runtime),
            prefix="unet.",
            variant=checkpoint.variant,
            local_files_only=True,
        )
    # Another sampler keeps the checkpoint's noise schedule.
    if scheduler is not None:
        cls = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[scheduler]
        parts["scheduler"] = cls.from_config(parts["scheduler"].config)
    pipeline = PromptEditDiffPipeline(unet=unet, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(runtime.device)


class PromptEditDiffNoPromptTokens(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without dynamic prompt tokens"
    name = "prompt_edit_diff_no_prompt_tokens"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_prompt_tokens"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{name}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{name}-sd15"},
    }


class PromptEditDiffNoCrossAttention(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without masked cross-attention"
    name = "prompt_edit_diff_no_cross_attention"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_cross_attention"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{name}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{name}-sd15"},
    }


class PromptEditDiffNoMaskEncoder(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without the mask encoder and its gated injection"
    name = "prompt_edit_diff_no_mask_encoder"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_mask_encoder"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{name}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{name}-sd15"},
    }
