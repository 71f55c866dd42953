"""The sampler (paper, section 2.E): starts from the noised source and restores the outside of the mask every step."""

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
from methods.prompt_edit_diff.model import Conditions, PromptEditDiffUNet
from methods.prompt_edit_diff.tags import Tagged, tag, to_tokens

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
    from PIL.Image import Image
    from transformers import CLIPTextModel, CLIPTokenizer

# Called after each step with the pipeline, the step's number, the time step whose noise level the latents now have
# (-1: no noise), and ``{"latents": ..., "known": ...}``. Its result is ignored.
StepEnd = Callable[[Any, int, int, dict[str, Tensor]], Any]


class PromptEditDiffOutput(BaseOutput):  # type: ignore[misc]
    """Edited images (or latents), and the tags that were used."""

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
        """Edit one batch: lists of equal length. Images are RGB, masks L (255 = edit), all of one size.

        ``tags`` says which words belong to which of ``regions`` (masks, per image). Without it, a comparison with
        ``source_prompt`` finds the words for the whole mask. One generator per image makes each result independent of
        its batch. ``paste`` composites the decoded image into the source along the mask. ``output_type`` is "pil", or
        "latent" for latents (4, h, w).

        ``strength`` is the share of the noise schedule that the source is carried up. At 1 sampling starts at the
        schedule's last step, which is pure noise where its alpha-bar is 0 (zero terminal SNR). Below 1 it starts from
        the noised source, whose content under the mask then guides the edit.

        Raises ValueError for inputs that do not fit together.
        """
        tags = self._tags(prompt, source_prompt, tags, regions)
        self._check(prompt, image, mask_image, regions, tags, strength, num_inference_steps, output_type)
        generators = list(generator) if isinstance(generator, Sequence) else generator
        guided = guidance_scale > 1

        source = self._encode(image)  # (B, 4, h, w)
        mask = _masks([[m] for m in mask_image], 1).to(self._execution_device)  # (B, 1, H, W)
        per_image = [
            list(r) if r else [m] for r, m in zip(regions or [()] * len(mask_image), mask_image, strict=True)
        ]
        masked_source = self._encode(image, mask) if self.unet.hides == "pixels" else None
        conditions = self._conditions(tags, mask, per_image, source, masked_source, negative_prompt, guided)

        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        steps = min(int(num_inference_steps * strength), num_inference_steps)
        latents = self._denoise(
            source, self.unet.cells(mask), conditions, self.scheduler.timesteps[num_inference_steps - steps :],
            guidance_scale, eta, generators, callback_on_step_end,
        )  # fmt: skip

        images = list(latents) if output_type == "latent" else self._decode(latents)
        if paste and output_type != "latent":
            images = [
                composite(s.convert("RGB"), e, m) for s, e, m in zip(image, images, mask_image, strict=True)
            ]
        self.maybe_free_model_hooks()
        return PromptEditDiffOutput(images=images, tags=list(tags)) if return_dict else (images,)

    # ---- named steps

    def _conditions(
        self,
        tags: Sequence[Tagged],
        mask: Tensor,
        regions: Sequence[Sequence[Image]],
        source: Tensor,
        masked_source: Tensor | None,
        negative_prompt: str,
        guided: bool,
    ) -> Conditions:
        """Text, mask and source as the network takes them. B is doubled with classifier-free guidance."""
        device, dtype = mask.device, self.unet.dtype
        most = max(len(masks) for masks in regions)
        areas = (_masks(regions, most).to(device) * mask).to(dtype)  # (B, R, H, W)
        tokens = to_tokens(self.tokenizer, tags, regions=most)
        text = self._text(tokens.ids)  # (B, L, W)
        member = torch.from_numpy(tokens.member).to(device)  # (B, R, L)
        words = torch.from_numpy(tokens.words).to(device)  # (B, L)
        if guided:
            # The unconditional half receives the mask and the surroundings, but no text and no tags.
            empty_tokens = to_tokens(self.tokenizer, [tag(negative_prompt)])
            empty = self._text(empty_tokens.ids).expand(len(text), -1, -1)
            empty_words = torch.from_numpy(empty_tokens.words).to(device).expand(len(text), -1)
            text, words = torch.cat([empty, text]), torch.cat([empty_words, words])
            member = torch.cat([torch.zeros_like(member), member])
            mask, areas, source = (torch.cat([x] * 2) for x in (mask, areas, source))
            masked_source = None if masked_source is None else torch.cat([masked_source] * 2)
        prepared: Conditions = self.unet.conditions(
            text.to(dtype), mask.to(dtype), areas, member, words, source, masked_source
        )
        return prepared

    def _denoise(
        self,
        source: Tensor,
        cells: Tensor,
        conditions: Conditions,
        timesteps: Tensor,
        guidance_scale: float,
        eta: float,
        generators: Any,
        callback: StepEnd | None,
    ) -> Tensor:
        """Latents (B, 4, h, w) of the edit. Outside ``cells`` they are those of the source."""
        # One noise per image for the whole sampling.
        noise = randn_tensor(source.shape, generator=generators, device=source.device, dtype=source.dtype)
        latents = self._at(source, noise, timesteps[0])
        extra = self._scheduler_arguments(eta, generators)
        for i, t in enumerate(self.progress_bar(timesteps)):
            # Predict, with classifier-free guidance (Ho and Salimans 2022) where it is on.
            x = torch.cat([latents] * 2) if guidance_scale > 1 else latents
            x = self.scheduler.scale_model_input(x, t)
            predicted = self.unet.predict(x, t, conditions)
            if guidance_scale > 1:
                without_text, with_text = predicted.chunk(2)
                predicted = without_text + guidance_scale * (with_text - without_text)
            latents = self.scheduler.step(predicted, t, latents, **extra, return_dict=False)[0]

            # Outside M diffusion is halted (paper, 2.C): q_sample(source, t) at the level of the new latents.
            last = i + 1 == len(timesteps)
            outside = source if last else self._at(source, noise, timesteps[i + 1])
            latents = composed(latents, outside, cells)
            if callback is not None:
                level = -1 if last else int(timesteps[i + 1])
                callback(self, i, level, {"latents": latents, "known": outside})
        return latents

    def _encode(self, images: Sequence[Image], hidden: Tensor | None = None) -> Tensor:
        """Images => scaled latents (B, 4, h, w). The posterior's mode makes them the same every time.

        Pixels where ``hidden`` (B, 1, H, W) is 1 are gray, as in Stable Diffusion inpainting.
        """
        pixels = torch.from_numpy(np.stack([np.asarray(i.convert("RGB"), np.uint8) for i in images]))
        x = pixels.permute(0, 3, 1, 2).to(self._execution_device, self.unet.dtype) / 127.5 - 1  # in [-1, 1]
        if hidden is not None:
            x = x * (1 - hidden).to(x.dtype)
        z: Tensor = self.vae.encode(x.to(self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = (z * self.vae.config.scaling_factor).to(self.unet.dtype)
        return scaled

    def _decode(self, latents: Tensor) -> list[Image]:
        from PIL import Image as PillowImage

        x = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        pixels = x.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [PillowImage.fromarray(p) for p in pixels]

    def _text(self, ids: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """Token ids (B, L) => features (B, L, W)."""
        features: Tensor = self.text_encoder(torch.from_numpy(ids).to(self._execution_device))[0]
        return features

    def _at(self, source: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q_sample(source, t), with the image's own noise."""
        noisy: Tensor = self.scheduler.add_noise(source, noise, t.reshape(1).expand(len(source)))
        return noisy

    def _scheduler_arguments(self, eta: float, generators: Any) -> dict[str, Any]:
        """The arguments of ``scheduler.step`` that this scheduler has. DDPM has no ``eta``."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {k: v for k, v in {"generator": generators, "eta": eta}.items() if k in accepted}

    # ---- inputs

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
        # Lengths and sizes.
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
        # Tags belong to their prompts and regions.
        for n, entry in enumerate(tags):
            if entry.prompt != prompt[n]:
                raise ValueError(f"tags {n} are of another prompt: {entry.prompt!r}, not {prompt[n]!r}")
            areas = max(1, len(regions[n])) if regions is not None else 1
            if len(entry.regions) > areas:
                raise ValueError(f"tags {n} have {len(entry.regions)} regions, the image has {areas}")
        # Options.
        if not 0 < strength <= 1 or int(steps * strength) < 1:
            raise ValueError(f"strength {strength} of {steps} steps leaves no step to run")
        if output_type not in ("pil", "latent"):
            raise ValueError(f"output_type {output_type!r}: expected 'pil' or 'latent'")


def _masks(masks: Sequence[Sequence[Image]], count: int) -> Tensor:
    """float32 (B, count, H, W), 1 = edit. Images with fewer masks get empty ones."""
    width, height = masks[0][0].size
    out = torch.zeros(len(masks), count, height, width)
    for b, row in enumerate(masks):
        for r, mask in enumerate(row):
            out[b, r] = torch.from_numpy(mask_array(mask))
    return out
