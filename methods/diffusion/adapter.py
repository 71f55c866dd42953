"""The adapter: any editing pipeline of diffusers is one method, by its row of ``table``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench import images
from methods import batches, pipelines
from methods.diffusion import checkpoints, loading
from methods.diffusion.base import PASTE_HINT, CheckpointMethod
from methods.diffusion.control import control_images
from methods.diffusion.framing import Frame, working_size
from methods.diffusion.inference import row_of
from methods.diffusion.inversion import INVERSIONS, Inversion
from methods.diffusion.options import DiffusersOptions, option_problems, row_problems
from methods.diffusion.presets import PRESETS
from methods.mask_grid import on_grid
from methods.runtime import refuse
from methods.weights import WeightsError, training_remark

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime


class Diffusers(CheckpointMethod):
    """One call of a pipeline for each batch, or for each image where the class takes no batch."""

    name: ClassVar[str] = "diffusers"
    summary = "any editing pipeline of diffusers: FLUX, Qwen-Image, SDXL, Z-Image and others, as presets"
    # ``needs_of`` has the rest, which depends on the class of the pipeline.
    needs: frozenset[str] = frozenset({"source"})
    Options: type[Any] = DiffusersOptions
    PRESETS: Mapping[str, Mapping[str, Any]] = PRESETS

    @classmethod
    def settings(cls, options: Any) -> DiffusersOptions:
        """The options as the adapter's. Methods with options of their own translate them here."""
        settings: DiffusersOptions = options
        return settings

    @classmethod
    def needs_of(cls, options: Any) -> frozenset[str]:
        return cls._fields_of(options) | ({"mask"} if cls.settings(options).paste else set())

    @classmethod
    def optional_needs(cls, options: Any) -> Mapping[str, str]:
        fields, hints = cls._fields_of(options), {}
        if "instruction" in fields:
            hints = batches.caption_hint("instruction")
        if cls.settings(options).paste and "mask" not in fields:
            hints["mask"] = PASTE_HINT
        return hints

    @classmethod
    def _fields_of(cls, options: Any) -> frozenset[str]:
        """The fields that the pipeline itself takes."""
        settings = cls.settings(options)
        row = checkpoints.known_row(settings)
        if row is None:
            # The class is unknown until the weights are there.
            return frozenset({"source", settings.prompt_field} - {""})
        fields = {"source", settings.prompt_field or row.prompt_field, *row.also_needs} - {""}
        fields |= ({"mask"} if row.mask else set()) | ({"references"} if row.needs_reference else set())
        return frozenset(fields)

    @classmethod
    def remark(cls, options: Any) -> str:
        settings = cls.settings(options)
        row = checkpoints.known_row(settings)
        trained_on = "" if row is None else row.prompt_field
        caption = (
            batches.caption_remark(settings.prompt_field or trained_on) if trained_on == "instruction" else ""
        )
        trained = training_remark(settings.weights) or training_remark(settings.controlnet)
        return ", ".join(filter(None, (trained, caption)))

    @classmethod
    def identity(cls, options: Any) -> dict[str, Any]:
        return checkpoints.identity(cls.settings(options))

    @classmethod
    def notes(cls, options: Any) -> list[str]:
        return checkpoints.notes(cls.settings(options))

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        settings = cls.settings(options)
        problems = option_problems(settings)
        try:
            if name := checkpoints.class_of(settings):
                problems += row_problems(settings, name, row_of(name))
        except WeightsError as error:
            problems.append(str(error))
        return problems

    @classmethod
    def weights_problems(cls, options: Any) -> list[str]:
        settings = cls.settings(options)
        return checkpoints.problems(settings) if settings.weights else []

    def prepare(self, runtime: Runtime) -> None:
        settings = self.call_options = self.settings(self.options)
        checkpoint = checkpoints.find(settings)
        refuse(self.name, loading.device_problems(checkpoint, settings, runtime))
        self.row, self.pixels = checkpoint.row, checkpoint.pixels
        self.pipeline = loading.load(checkpoint, settings, runtime)
        # Pixels per latent sample along a side.
        self.factor = 1 if checkpoint.row.pixel_space else int(getattr(self.pipeline, "vae_scale_factor", 8))
        if checkpoint.row.channels:
            self.factor = checkpoint.weights.vae_factor

    # --- one batch ------------------------------------------------------------------------------------

    def frame(self, size: tuple[int, int]) -> Frame:
        """The way of sources of ``size`` (width, height) to the size at which the model works, and back."""
        settings, row = self.call_options, self.row
        sizes = self._sizes() if row.sizes and settings.size == "native" else ()
        target = working_size(settings.size, size, row.multiple, self.pixels, sizes)
        return Frame(size, target, settings.resize)

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        # Everything is checked before the networks run.
        frame = self.frame(batches.one_size(requests))
        field = self.call_options.prompt_field or self.row.prompt_field
        texts = batches.prompts(requests, field) if field else [""] * len(requests)
        masks = (
            [frame.mask(images.mask_image(mask)) for mask in batches.edit_masks(requests)]
            if self.row.mask
            else []
        )
        framed = [frame.image(source) for source in sources]

        # One call for all of them, or one for each.
        together = self._takes_batches(requests)
        groups = [range(len(requests))] if together else [range(i, i + 1) for i in range(len(requests))]
        edited: list[Image] = []
        for group in groups:
            edited += self._call(
                [requests[i] for i in group],
                [framed[i] for i in group],
                [masks[i] for i in group] if masks else [],
                [self._prompt(texts[i], requests[i]) for i in group],
                together,
            )
        return [frame.back(image, source) for image, source in zip(edited, sources, strict=True)]

    def _prompt(self, text: str, request: EditRequest) -> str:
        return text if self.row.wrap is None else self.row.wrap(text, 1 + len(request.references))

    def _takes_batches(self, requests: Sequence[EditRequest]) -> bool:
        # Cropping around the mask takes one image a call, outside of a list. Some requests may lack a reference.
        has_reference = bool(self.row.reference) and any(request.references for request in requests)
        crops = self.call_options.call.get("padding_mask_crop") is not None
        return self.row.batchable and not crops and not has_reference

    def _call(
        self,
        requests: Sequence[EditRequest],
        sources: list[Image],
        masks: Sequence[Image],
        texts: Sequence[str],
        together: bool,
    ) -> list[Image]:
        """One call of the pipeline, with sources and masks at the size at which the model works."""
        options, row = self.call_options, self.row
        generators = batches.generators(requests)
        if row.first:
            work = Inversion(self.pipeline, options, requests[0], sources[0], texts[0], generators[0])
            return self._images(requests[0].seed, output_type="pil", **INVERSIONS[row.first](work))

        def listed(values: Sequence[Any]) -> Any:
            """A list for a batch, the value itself for a single call."""
            return list(values) if together else values[0]

        # What every call has.
        arguments: dict[str, Any] = {"output_type": "pil", "generator": listed(generators)}
        arguments |= {**row.fixed, **options.call}
        arguments |= {name: value for name, value in self._scales().items() if name and value is not None}
        if row.text:
            arguments[row.text] = listed(texts)
        negative = row.default_negative if options.negative_prompt is None else options.negative_prompt
        if row.negative and negative is not None:
            # One per image: a single string would be encoded once, and fail on any batch.
            arguments[row.negative] = listed([negative] * len(requests))

        # Size, source, references and mask.
        width, height = sources[0].size
        if row.size == "arguments":
            arguments |= {"width": width, "height": height}
        if row.area:
            arguments[row.area] = width * height
        arguments |= self._pictures(requests, sources, masks, listed)
        return self._images(requests[0].seed, **arguments)

    def _images(self, seed: int, **arguments: Any) -> list[Image]:
        """The images of one call. ``seed`` is for the classes that draw random numbers of their own."""
        if not self.row.draws:
            return pipelines.call(self.pipeline, self.row.output, **arguments)
        import torch

        # The state of the global generators is put back afterwards.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return pipelines.call(self.pipeline, self.row.output, **arguments)

    def _scales(self) -> dict[str, Any]:
        """Arguments that are numbers. None stands for the pipeline's default."""
        options, row = self.call_options, self.row
        return {
            row.steps: options.steps,
            row.guidance: options.guidance,
            row.image_guidance: options.image_guidance,
            row.strength: options.strength,
        }

    def _pictures(
        self, requests: Sequence[EditRequest], sources: list[Image], masks: Sequence[Image], listed: Any
    ) -> dict[str, Any]:
        """The arguments that hold images."""
        row, options = self.row, self.call_options
        pictures: dict[str, Any] = {}
        if row.images in ("references", "nested"):
            sets = [[source, *request.references] for source, request in zip(sources, requests, strict=True)]
            pictures[row.image] = listed(sets)
        else:
            pictures[row.image] = listed(sources)
        if row.reference and requests[0].references:
            pictures[row.reference] = requests[0].references[0]
        if not row.mask:
            return pictures

        # Masks on the latent grid: PIL images of mode L, 255 = edit. Never arrays: the pipelines do not rescale
        # uint8 arrays.
        exact = [images.mask_array(mask) for mask in masks]
        on_cells = [on_grid(mask, self.factor, options.mask_cells) for mask in exact]
        pictures[row.mask] = listed([images.mask_image(mask) for mask in on_cells])
        if row.control:
            # It always has the exact mask.
            pictures[row.control] = control_images(sources, exact, row.hole)
        elif options.mask_cells == "cover" and "padding_mask_crop" not in options.call and self._hides_mask():
            # The pipeline would hide the whole cells. The UNet was trained to see all that is not in the mask.
            pictures["masked_image_latents"] = pipelines.masked_latents(self.pipeline, sources, exact)
        return pictures

    def _hides_mask(self) -> bool:
        """True for a Stable Diffusion UNet that sees the source with the mask cut out."""
        return bool(self.row.channels) and self.pipeline.unet.config.in_channels == 9

    def _sizes(self) -> Sequence[tuple[int, int]]:
        """The sizes at which the model was trained, (width, height)."""
        import importlib

        where, _, attribute = self.row.sizes.partition(":")
        holder = self.pipeline if where == "pipeline" else importlib.import_module(where)
        return [(int(width), int(height)) for width, height in getattr(holder, attribute)]
