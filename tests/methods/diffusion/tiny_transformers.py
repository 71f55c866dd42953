"""Tiny random pipelines on a transformer: Stable Diffusion 3, FLUX, Qwen-Image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tests.methods.conftest import tiny_tokenizer
from tests.methods.diffusion import tiny
from tests.methods.diffusion.tiny import WIDTH, listed, stub_text, stubbed, wake

# --- Stable Diffusion 3 -----------------------------------------------------------------------------

_SD3: Mapping[str, Any] = {
    "sample_size": 32,
    "patch_size": 2,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
}


def sd3_parts(channels: int) -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    transformer = tiny.seeded(
        # A ControlNet reaches all layers but the last.
        lambda: SD3Transformer2DModel(**_SD3 | {"num_layers": 2}, in_channels=channels, out_channels=channels)
    )
    return {
        "transformer": transformer,
        "vae": tiny.flow_vae(channels),
        "scheduler": tiny.flow(),
        "text_encoder": tiny.clip(projected=True),
        "text_encoder_2": tiny.clip(projected=True),
        "text_encoder_3": tiny.t5(),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "tokenizer_3": tiny.t5_tokenizer(),
    }


def sd3_inpaint() -> Any:
    from diffusers import StableDiffusion3InpaintPipeline

    return StableDiffusion3InpaintPipeline(**sd3_parts(16))


def sd3_control() -> Any:
    from diffusers import SD3ControlNetModel, StableDiffusion3ControlNetInpaintingPipeline

    control = tiny.seeded(
        lambda: SD3ControlNetModel(**_SD3, in_channels=8, out_channels=8, extra_conditioning_channels=1)
    )
    wake(control.controlnet_blocks)
    wake([control.pos_embed_input.proj])
    return StableDiffusion3ControlNetInpaintingPipeline(**sd3_parts(8), controlnet=control)


# --- FLUX -------------------------------------------------------------------------------------------

_FLUX: Mapping[str, Any] = {
    "patch_size": 1,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": [4, 4, 8],
}


def flux(name: str, in_channels: int, out_channels: int | None = None, **more: Any) -> Any:
    import diffusers

    transformer = tiny.seeded(
        lambda: diffusers.FluxTransformer2DModel(
            **_FLUX, in_channels=in_channels, out_channels=out_channels, guidance_embeds=True
        )
    )
    return getattr(diffusers, name)(
        transformer=transformer,
        vae=tiny.flow_vae(2),
        scheduler=tiny.flow(),
        text_encoder=tiny.clip(),
        text_encoder_2=tiny.t5(),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny.t5_tokenizer(),
        **more,
    )


def flux_control() -> Any:
    from diffusers import FluxControlNetModel

    control = tiny.seeded(lambda: FluxControlNetModel(**_FLUX, in_channels=8, guidance_embeds=True))
    wake([control.controlnet_x_embedder, *control.controlnet_blocks, *control.controlnet_single_blocks])
    return flux("FluxControlNetInpaintPipeline", 8, controlnet=control)


def chroma() -> Any:
    from diffusers import ChromaInpaintPipeline, ChromaTransformer2DModel

    settings = {name: value for name, value in _FLUX.items() if name != "pooled_projection_dim"}
    transformer = tiny.seeded(
        lambda: ChromaTransformer2DModel(
            **settings,
            in_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        )
    )
    # The pipeline reads this entry, which only the published configurations have.
    transformer.register_to_config(guidance_embeds=False)
    return ChromaInpaintPipeline(
        transformer=transformer,
        vae=tiny.flow_vae(2),
        scheduler=tiny.flow(),
        text_encoder=tiny.t5(),
        tokenizer=tiny.t5_tokenizer(),
    )


def flux2(name: str) -> Any:
    import diffusers

    transformer = tiny.seeded(
        lambda: diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            timestep_guidance_channels=32,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=name == "Flux2Pipeline",
        )
    )
    vae = tiny.seeded(
        lambda: diffusers.AutoencoderKLFlux2(
            sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=2,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )

    class Stubbed(getattr(diffusers, name)):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, **rest: Any) -> Any:
            embeddings = torch.stack([stub_text(WIDTH, text) for text in listed(prompt)])
            return embeddings, self._prepare_text_ids(embeddings)

    return stubbed(Stubbed, name, transformer=transformer, vae=vae, scheduler=tiny.flow())


# --- Qwen-Image -------------------------------------------------------------------------------------

_QWEN: Mapping[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (8, 4, 4),
}


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return tiny.seeded(
        lambda: AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )


def qwen(name: str, **more: Any) -> Any:
    import diffusers

    transformer = tiny.seeded(lambda: diffusers.QwenImageTransformer2DModel(**_QWEN))

    class Stubbed(getattr(diffusers, name)):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, image: Any = None, **rest: Any) -> Any:
            pictures = listed(image)[0] if isinstance(image, list) else image
            embeddings = torch.stack([stub_text(WIDTH, text, pictures) for text in listed(prompt)])
            return embeddings, torch.ones(embeddings.shape[:2], dtype=torch.long)

    return stubbed(Stubbed, name, transformer=transformer, vae=qwen_vae(), scheduler=tiny.flow(), **more)


def qwen_control() -> Any:
    from diffusers import QwenImageControlNetModel

    # Four further channels carry the mask, one for each pixel of a patch.
    control = tiny.seeded(lambda: QwenImageControlNetModel(**_QWEN, extra_condition_channels=4))
    wake([control.controlnet_x_embedder, *control.controlnet_blocks])
    return qwen("QwenImageControlNetInpaintPipeline", controlnet=control)
