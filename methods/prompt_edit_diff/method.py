"""The adapters: PromptEditDiff, and its three ablations as methods of their own.

They differ in how their checkpoint was made and in nothing else; the checkpoint's configuration says which it is,
and a checkpoint of another variant is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench import images
from bench.edit import EditMethod
from methods import pipelines, weights
from methods.prompt_edit_diff import ablation
from methods.prompt_edit_diff.tags import Tagged, tag, tag_request

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

CHANNELS = (4, 8)
"""Input channels of the UNet: the noisy latents, and with ``source_latents="concat"`` the source's."""


class PromptEditDiff(EditMethod):
    summary = (
        "PromptEditDiff: mask encoder, routed prompt tokens, gated injection (mini weights, or your own)"
    )
    variant: ClassVar[str] = "prompt_edit_diff"

    @dataclass(frozen=True)
    class Options:
        weights: str = "zoo:prompt_edit_diff"
        """A folder in diffusers' layout, ``owner/name`` of the hub, or ``zoo:NAME``. The authors have published
        none, so the default is the embedded mini checkpoint; ``trainer`` makes one of Stable Diffusion's size."""
        revision: str | None = None
        """Commit, tag or branch, for weights of the hub."""
        steps: int = 20
        guidance: float = 3.0
        """Scale of classifier-free guidance; 1 switches it off."""
        scheduler: Literal["ddim", "ddpm"] | None = "ddim"
        """None is the checkpoint's own."""
        eta: float = 0.0
        """Of DDIM: 0 is deterministic, 1 draws as much noise as DDPM."""
        negative_prompt: str = ""
        strength: float = 1.0
        """How far up the noise schedule the source is carried before it is edited; 1 starts from pure noise."""
        tagging: Literal["request", "automatic", "off"] = "request"
        """Which words belong to which region: as the request says (with the automatic way where it says nothing);
        by comparing the prompts, whatever the request says; or none."""
        paste: bool = True
        """Compose the result with the source outside the mask, as the paper does. Off: the raw output."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:prompt_edit_diff", "steps": 10, "guidance": 3.0, "scheduler": "ddim"},
        "sd15": {"weights": "./prompt_edit_diff-sd15", "steps": 50, "guidance": 7.5, "scheduler": "ddim"},
    }

    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    """Edit words, regions and the source prompt are used where a request has them."""
    native_size: int | None = 512

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return weights.identity(options.weights, options.revision)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        if options.steps < 1:
            found.append(f"steps {options.steps}: expected at least 1")
        if not 0 < options.strength <= 1:
            found.append(f"strength {options.strength}: expected more than 0 and at most 1")
        elif options.steps >= 1 and int(options.steps * options.strength) < 1:
            found.append(
                f"steps {options.steps} at strength {options.strength} leave no step to run: "
                f"raise steps to at least {-int(-1 / options.strength // 1)}"
            )
        if options.guidance < 1:
            found.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if options.negative_prompt and options.guidance == 1:
            found.append("negative_prompt has no effect at guidance 1")
        if not 0 <= options.eta <= 1:
            found.append(f"eta {options.eta}: expected a number from 0 to 1")
        elif options.eta and options.scheduler == "ddpm":
            found.append("eta is an option of DDIM and has no effect with scheduler ddpm")
        return found + cls._weights_problems(options)

    @classmethod
    def _weights_problems(cls, options: Options) -> list[str]:
        found = weights.problems(options.weights, options.revision, channels=CHANNELS)
        if found:
            local = options.weights.startswith((".", "~", "/"))
            return [f"{found[0]} {_TRAIN}", *found[1:]] if local else found
        config = weights.find(options.weights, options.revision).config("unet")
        wanted = ablation(cls.variant)
        if set(wanted) - set(config):
            return [
                f"weights {options.weights!r}: the UNet is a {config.get('_class_name')}, no PromptEditDiffUNet. "
                f"{_TRAIN}"
            ]
        wrong = [f"{name}={config[name]}" for name, value in wanted.items() if config[name] != value]
        if wrong:
            return [
                f"weights {options.weights!r} were trained with {', '.join(wrong)}, so they are not those of "
                f"{cls.variant}: use the method of that variant, or its weights"
            ]
        return []

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError(f"{self.variant}: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        if options.tagging == "automatic":
            self.needs = self.needs | {"source_prompt"}
        self.pipeline = load_pipeline(where, runtime, options.scheduler)

    def tags(self, request: EditRequest) -> Tagged:
        """The target prompt with the words of each region; ``tags.render`` shows it to people."""
        if self.options.tagging == "off":
            return tag(request.target_prompt, regions=())
        if self.options.tagging == "automatic":
            spoken = [(region.prompt, ()) for region in request.regions]
            return tag(request.target_prompt, request.source_prompt, spoken or [("", ())])
        return tag_request(request)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources, masks and regions of one size, sides multiples of the autoencoder's factor."""
        if not requests:
            return []
        options = self.options
        pipelines.one_size(requests, self.factor)
        if not all(images.mask_array(request.mask).any() for request in requests):
            raise ValueError("the mask is empty: there is nothing to edit")
        return pipelines.call(
            self.pipeline,
            prompt=pipelines.prompts(requests, "target_prompt"),
            image=[request.source for request in requests],
            mask_image=[request.mask for request in requests],
            tags=[self.tags(request) for request in requests],
            regions=[[region.mask for region in request.regions] for request in requests],
            negative_prompt=options.negative_prompt,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            eta=options.eta,
            generator=pipelines.generators(requests),
            paste=options.paste,
        )


_TRAIN = (
    "Nobody has published weights of PromptEditDiff; train your own with methods.prompt_edit_diff.trainer, or use "
    'the preset "mini".'
)


def load_pipeline(found: weights.Weights, runtime: Runtime, scheduler: str | None = None) -> Any:
    """The pipeline of ``found``, in evaluation mode, on the device and in the precision of ``runtime``."""
    import diffusers

    from methods import low_rank
    from methods.prompt_edit_diff.model import PromptEditDiffUNet
    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline

    index = weights.read_json(found.root / "model_index.json")
    parts = {
        part: pipelines.load_part(part, found, runtime, index.get(part))
        for part in found.parts
        if part != "unet"
    }
    with pipelines.quiet():
        unet = low_rank.load(
            PromptEditDiffUNet,
            found.parts["unet"],
            pipelines.torch_dtype(runtime),
            prefix="unet.",
            variant=found.variant,
            local_files_only=True,
        )
    if scheduler is not None:
        cls = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[scheduler]
        parts["scheduler"] = cls.from_config(parts["scheduler"].config)
    pipeline = PromptEditDiffPipeline(unet=unet, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(runtime.device)


class PromptEditDiffNoPromptTokens(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without dynamic prompt tokens"
    variant = "prompt_edit_diff_no_prompt_tokens"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_prompt_tokens"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{variant}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{variant}-sd15"},
    }


class PromptEditDiffNoCrossAttention(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without masked cross-attention"
    variant = "prompt_edit_diff_no_cross_attention"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_cross_attention"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{variant}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{variant}-sd15"},
    }


class PromptEditDiffNoMaskEncoder(PromptEditDiff):
    summary = "ablation of PromptEditDiff: without the mask encoder and its gated injection"
    variant = "prompt_edit_diff_no_mask_encoder"

    @dataclass(frozen=True)
    class Options(PromptEditDiff.Options):
        weights: str = "zoo:prompt_edit_diff_no_mask_encoder"

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {**PromptEditDiff.PRESETS["mini"], "weights": f"zoo:{variant}"},
        "sd15": {**PromptEditDiff.PRESETS["sd15"], "weights": f"./{variant}-sd15"},
    }
