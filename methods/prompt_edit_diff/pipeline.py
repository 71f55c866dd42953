"""The sampler: from the noised source, in one forward pass, the outside put back at every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from bench.images import composite, mask_array
from methods.prompt_edit_diff.losses import composed
from methods.prompt_edit_diff.model import PromptEditDiffUNet
from methods.prompt_edit_diff.tags import Tagged, tag, to_tokens

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
    from PIL.Image import Image
    from transformers import CLIPTextModel, CLIPTokenizer

StepEnd = Callable[[Any, int, int, dict[str, Tensor]], Any]
"""Called after each step with the pipeline, the step's number, the level of noise that the latents now have (-1:
none), and ``{"latents": ..., "known": ...}``; what it returns is ignored."""


class PromptEditDiffOutput(BaseOutput):  # type: ignore[misc]
    images: list[Any]
    tags: list[Tagged]


class PromptEditDiffPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Text encoder, tokenizer, autoencoder, ``PromptEditDiffUNet`` and a DDIM or DDPM scheduler."""

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: PromptEditDiffUNet,
        scheduler: DDIMScheduler | DDPMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str],
        image: Sequence[Image],
        mask_image: Sequence[Image],
        source_prompt: Sequence[str] | None = None,
        tags: Sequence[Tagged] | None = None,
        regions: Sequence[Sequence[Image]] | None = None,
        negative_prompt: str = "",
        strength: float = 1.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        eta: float = 0.0,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        paste: bool = True,
        output_type: str = "pil",
        callback_on_step_end: StepEnd | None = None,
        return_dict: bool = True,
    ) -> PromptEditDiffOutput | tuple[list[Any]]:
        """Edits of one batch: lists of one length; images RGB and masks L (255 = edit), all of one size.

        ``tags`` says which words belong to which of ``regions`` (masks, per image); without it the words are found
        by comparison with ``source_prompt``, for the whole mask. ``strength``: the share of the noise schedule that
        the source is carried up; 1 starts from pure noise. One generator per image makes each result independent of
        its batch. ``paste`` composes the decoded picture with the source outside the mask; without it the whole
        picture has passed the autoencoder. ``output_type``: "pil", or "latent" for (B, 4, h, w) latents.
        """
        tags = self._tags(prompt, source_prompt, tags, regions)
        self._check(prompt, image, mask_image, regions, tags, strength, num_inference_steps, output_type)
        device, dtype = self._execution_device, self.unet.dtype
        count = len(prompt)
        generators = list(generator) if isinstance(generator, Sequence) else generator

        pixels = torch.from_numpy(np.stack([np.asarray(i.convert("RGB"), np.uint8) for i in image]))
        pixels = pixels.permute(0, 3, 1, 2).to(device, dtype) / 127.5 - 1
        source = self._encode(pixels)
        mask = _masks([[m] for m in mask_image], 1).to(device)
        cells = self.unet.cells(mask)
        per_image = [list(r) if r else [m] for r, m in zip(regions or [[]] * count, mask_image, strict=True)]
        most = max(len(r) for r in per_image)
        areas = (_masks(per_image, most).to(device) * mask).to(dtype)

        coded = to_tokens(self.tokenizer, tags, regions=most)
        text = self._text(torch.from_numpy(coded.ids).to(device))
        member = torch.from_numpy(coded.member).to(device)
        words = torch.from_numpy(coded.words).to(device)
        guided = guidance_scale > 1
        if guided:
            # The unconditional half knows the mask and the surroundings, and no text and no tags.
            nothing = to_tokens(self.tokenizer, [tag(negative_prompt)])
            empty = self._text(torch.from_numpy(nothing.ids).to(device)).expand(count, -1, -1)
            text = torch.cat([empty, text])
            member = torch.cat([torch.zeros_like(member), member])
            words = torch.cat([torch.from_numpy(nothing.words).to(device).expand(count, -1), words])
            mask, areas = torch.cat([mask] * 2), torch.cat([areas] * 2)
        twice = torch.cat([source] * 2) if guided else source
        text, guide = self.unet.guide(text.to(dtype), mask.to(dtype), areas, member, words)
        known = self.unet.known(mask, twice)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        steps = min(int(num_inference_steps * strength), num_inference_steps)
        timesteps = self.scheduler.timesteps[num_inference_steps - steps :]
        noise = randn_tensor(source.shape, generator=generators, device=device, dtype=dtype)
        latents = outside = self._at(source, noise, timesteps[0])
        extra = self._extra(eta, generators)
        for i, t in enumerate(self.progress_bar(timesteps)):
            x = torch.cat([latents] * 2) if guided else latents
            x = self.scheduler.scale_model_input(x, t)
            predicted = self.unet.predict(x, t, text, guide, known)
            if guided:
                without, with_text = predicted.chunk(2)
                predicted = without + guidance_scale * (with_text - without)
            latents = self.scheduler.step(predicted, t, latents, **extra, return_dict=False)[0]
            # Outside the mask diffusion is halted: the known content at the level that the latents now have.
            last = i + 1 == len(timesteps)
            outside = source if last else self._at(source, noise, timesteps[i + 1])
            latents = composed(latents, outside, cells)
            if callback_on_step_end is not None:
                level = -1 if last else int(timesteps[i + 1])
                callback_on_step_end(self, i, level, {"latents": latents, "known": outside})

        images: list[Any]
        if output_type == "latent":
            images = list(latents)
        else:
            images = self._decode(latents)
            if paste:
                images = [
                    composite(s.convert("RGB"), e, m)
                    for s, e, m in zip(image, images, mask_image, strict=True)
                ]
        self.maybe_free_model_hooks()
        return PromptEditDiffOutput(images=images, tags=list(tags)) if return_dict else (images,)

    # ---- parts

    def _encode(self, pixels: Tensor) -> Tensor:
        """The mean of the latents, scaled: the same source has the same latents every time."""
        z: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = (z * self.vae.config.scaling_factor).to(self.unet.dtype)
        return scaled

    def _decode(self, latents: Tensor) -> list[Image]:
        from PIL import Image as PillowImage

        x = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        pixels = x.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [PillowImage.fromarray(p) for p in pixels]

    def _text(self, ids: Tensor) -> Tensor:
        found: Tensor = self.text_encoder(ids)[0]
        return found

    def _at(self, source: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q_sample(source, t), with the image's own noise."""
        noisy: Tensor = self.scheduler.add_noise(source, noise, t.reshape(1).expand(len(source)))
        return noisy

    def _extra(self, eta: float, generators: Any) -> dict[str, Any]:
        takes = inspect.signature(self.scheduler.step).parameters
        extra: dict[str, Any] = {"generator": generators} if "generator" in takes else {}
        if "eta" in takes:
            extra["eta"] = eta
        return extra

    def _tags(
        self,
        prompt: Sequence[str],
        source_prompt: Sequence[str] | None,
        tags: Sequence[Tagged] | None,
        regions: Sequence[Sequence[Image]] | None,
    ) -> Sequence[Tagged]:
        if isinstance(prompt, str):
            raise TypeError("prompt: expected a list of prompts, one for each image")
        if tags is not None:
            return tags
        if regions is not None and any(len(r) > 1 for r in regions):
            raise ValueError(
                "several regions need tags: nothing else says which words belong to which of them"
            )
        before = list(source_prompt) if source_prompt is not None else [""] * len(prompt)
        return [tag(text, old) for text, old in zip(prompt, before, strict=True)]

    def _check(
        self,
        prompt: Sequence[str],
        image: Sequence[Image],
        masks: Sequence[Image],
        regions: Sequence[Sequence[Image]] | None,
        tags: Sequence[Tagged],
        strength: float,
        steps: int,
        output_type: str,
    ) -> None:
        lengths = {
            "prompt": len(prompt),
            "image": len(image),
            "mask_image": len(masks),
            "tags": len(tags),
            "regions": len(prompt) if regions is None else len(regions),
        }
        if len(set(lengths.values())) != 1 or not prompt:
            raise ValueError(f"one of each for every image, and at least one image: got {lengths}")
        sizes = {i.size for i in [*image, *masks, *(m for r in regions or [] for m in r)]}
        factor = int(self.unet.config.factor)
        if len(sizes) != 1 or any(side % factor for side in next(iter(sizes))):
            raise ValueError(
                f"images, masks and regions of one size, sides multiples of {factor}; got {sorted(sizes)}"
            )
        for n, entry in enumerate(tags):
            if entry.prompt != prompt[n]:
                raise ValueError(f"tags {n} are of another prompt: {entry.prompt!r}, not {prompt[n]!r}")
            areas = max(1, len(regions[n])) if regions is not None else 1
            if len(entry.regions) > areas:
                raise ValueError(
                    f"tags {n} speak of {len(entry.regions)} regions, of which there are {areas}"
                )
        if not 0 < strength <= 1 or int(steps * strength) < 1:
            raise ValueError(f"strength {strength} of {steps} steps leaves no step to run")
        if output_type not in ("pil", "latent"):
            raise ValueError(f"output_type {output_type!r}: expected 'pil' or 'latent'")


def _masks(masks: Sequence[Sequence[Image]], count: int) -> Tensor:
    """float32 (B, count, H, W), 1 = edit; images with fewer masks get empty ones."""
    width, height = masks[0][0].size
    out = torch.zeros(len(masks), count, height, width)
    for b, row in enumerate(masks):
        for r, mask in enumerate(row):
            out[b, r] = torch.from_numpy(mask_array(mask))
    return out
