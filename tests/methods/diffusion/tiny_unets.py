"""Tiny random pipelines on a UNet: Stable Diffusion, SDXL, Paint by Example, Kandinsky 2.2, DeepFloyd IF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.methods.conftest import tiny_components, tiny_tokenizer
from tests.methods.diffusion import tiny

# --- Stable Diffusion -------------------------------------------------------------------------------


def stable_diffusion(name: str, channels: int, **more: Any) -> Any:
    import diffusers

    parts = tiny_components(channels) | {"safety_checker": None, "feature_extractor": None} | more
    return getattr(diffusers, name)(**parts, requires_safety_checker=False)


def control_inpaint() -> Any:
    from tests.methods.diffusion.test_controlnet_inpaint import tiny_control

    return stable_diffusion("StableDiffusionControlNetInpaintPipeline", 4, controlnet=tiny_control())


def diffedit() -> Any:
    from diffusers import DDIMInverseScheduler

    inverse = DDIMInverseScheduler.from_config(tiny.ddim().config)
    return stable_diffusion("StableDiffusionDiffEditPipeline", 4, inverse_scheduler=inverse)


def ledits() -> Any:
    return stable_diffusion("LEditsPPPipelineStableDiffusion", 4, scheduler=tiny.sde())


# --- SDXL -------------------------------------------------------------------------------------------

_XL: Mapping[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 1),
    "cross_attention_dim": 64,
    "projection_class_embeddings_input_dim": 80,
}


def sdxl_parts(channels: int) -> dict[str, Any]:
    from diffusers import UNet2DConditionModel

    unet = tiny.seeded(
        lambda: UNet2DConditionModel(
            **_XL,
            sample_size=16,
            in_channels=channels,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
    )
    return {
        "unet": unet,
        "vae": tiny.vae(4, 2),
        "scheduler": tiny.ddim(),
        "text_encoder": tiny.clip(),
        "text_encoder_2": tiny.clip(projected=True),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
    }


def sdxl_inpaint() -> Any:
    from diffusers import StableDiffusionXLInpaintPipeline

    return StableDiffusionXLInpaintPipeline(**sdxl_parts(9))


def sdxl_instruct() -> Any:
    from diffusers import StableDiffusionXLInstructPix2PixPipeline

    return StableDiffusionXLInstructPix2PixPipeline(**sdxl_parts(8))


def sdxl_ledits() -> Any:
    from diffusers import LEditsPPPipelineStableDiffusionXL

    return LEditsPPPipelineStableDiffusionXL(**sdxl_parts(4) | {"scheduler": tiny.sde()})


def sdxl_control() -> Any:
    from diffusers import ControlNetModel, StableDiffusionXLControlNetInpaintPipeline

    control = tiny.seeded(
        lambda: ControlNetModel(
            **_XL,
            in_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            conditioning_embedding_out_channels=(16, 32),
        )
    )
    return StableDiffusionXLControlNetInpaintPipeline(**sdxl_parts(4), controlnet=control)


def paint_by_example() -> Any:
    import diffusers
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPImageProcessor, CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=32,
        image_size=32,
        projection_dim=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        patch_size=16,
    )
    parts = tiny_components(9)
    return diffusers.PaintByExamplePipeline(
        vae=parts["vae"],
        unet=parts["unet"],
        scheduler=parts["scheduler"],
        image_encoder=tiny.seeded(lambda: PaintByExampleImageEncoder(config, proj_size=32)),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        safety_checker=None,
        requires_safety_checker=False,
    )


# --- cascades ---------------------------------------------------------------------------------------

# A UNet whose attention adds the text's or the image's embedding to the keys, and which predicts a variance too.
_CASCADE: Mapping[str, Any] = {
    "sample_size": 32,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "encoder_hid_dim": 32,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
}


def kandinsky22() -> Any:
    import diffusers
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    # The prior: from the text to an image embedding.
    tokenizer = tiny_tokenizer()
    prior = tiny.seeded(
        lambda: diffusers.PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=12,
            embedding_dim=32,
            num_layers=1,
            num_embeddings=tokenizer.model_max_length,
        )
    )
    # Untrained, it would scale every embedding to zero.
    prior.clip_std.data.fill_(1.0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        image_size=32,
        projection_dim=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        patch_size=16,
    )

    # The decoder: from the image embedding to latents, and to pixels.
    unet = tiny.seeded(
        lambda: diffusers.UNet2DConditionModel(
            **_CASCADE,
            in_channels=9,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim_type="image_proj",
        )
    )
    movq = tiny.seeded(
        lambda: diffusers.VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        )
    )
    return diffusers.KandinskyV22InpaintCombinedPipeline(
        unet=unet,
        movq=movq,
        scheduler=diffusers.DDPMScheduler(variance_type="learned_range"),
        prior_prior=prior,
        prior_text_encoder=tiny.clip(projected=True),
        prior_tokenizer=tokenizer,
        prior_image_encoder=tiny.seeded(lambda: CLIPVisionModelWithProjection(vision)),
        prior_image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
    )


def deepfloyd() -> Any:
    import diffusers

    unet = tiny.seeded(
        lambda: diffusers.UNet2DConditionModel(
            **_CASCADE,
            in_channels=3,
            out_channels=6,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            act_fn="gelu",
        )
    )
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    return diffusers.IFInpaintingPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
