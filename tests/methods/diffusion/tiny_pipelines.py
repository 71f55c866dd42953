"""A tiny random pipeline for every row of the table, and the settings with which it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.methods.conftest import tiny_components, tiny_tokenizer
from tests.methods.diffusion import tiny
from tests.methods.diffusion.tiny import listed, stub_text

WIDTH = 16
"""Width of the embeddings of a stubbed text encoder."""


@dataclass(frozen=True)
class Sample:
    """How the contract is tested on one row."""

    build: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the adapter beyond two steps."""
    small: str = ""
    """Module whose ``calculate_dimensions`` aims at a megapixel. The test makes it aim at 64 x 64."""
    size: tuple[int, int] = (64, 32)
    """(width, height) of the sources."""
    keeps: bool = False
    """Whether the pipeline puts the source's latents back outside the mask."""


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
    _wake(control.controlnet_blocks)
    _wake([control.pos_embed_input.proj])
    return StableDiffusion3ControlNetInpaintingPipeline(**sd3_parts(8), controlnet=control)


def _wake(modules: Any) -> None:
    """Random weights in place of the zeros with which a ControlNet's last layers begin."""
    torch.manual_seed(1)
    for module in modules:
        torch.nn.init.normal_(module.weight, std=0.2)


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
    _wake([control.controlnet_x_embedder, *control.controlnet_blocks, *control.controlnet_single_blocks])
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
    _wake([control.controlnet_x_embedder, *control.controlnet_blocks])
    return qwen("QwenImageControlNetInpaintPipeline", controlnet=control)


# --- others -----------------------------------------------------------------------------------------


def stubbed(cls: Any, name: str, **parts: Any) -> Any:
    """A pipeline whose text encoder is a stub. Its class keeps the name of the original."""
    import inspect

    cls.__name__ = name
    names = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    missing = {part: None for part in names if part not in parts and part != "text_encoder"}
    parameters = inspect.signature(cls.__init__).parameters
    missing = {part: None for part in missing if parameters[part].default is inspect.Parameter.empty}
    text = {"text_encoder": tiny.Text()} if "text_encoder" in names else {}
    return cls(**missing | text | parts)


def z_image(name: str, **more: Any) -> Any:
    import diffusers

    siglip = {"siglip_feat_dim": 8} if name == "ZImageOmniPipeline" else {}
    transformer = tiny.seeded(
        lambda: diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 64, 64],
            **siglip,
        )
    )

    class Stubbed(getattr(diffusers, name)):  # type: ignore[misc]
        def encode_prompt(
            self,
            prompt: Any,
            negative_prompt: Any = None,
            do_classifier_free_guidance: bool = True,
            num_condition_images: int = 0,
            **rest: Any,
        ) -> Any:
            def encode(texts: list[str]) -> list[Any]:
                whole = [stub_text(WIDTH, text) for text in texts]
                # Omni splits each prompt around its pictures.
                count = num_condition_images + 2
                return [[part] * count for part in whole] if num_condition_images else whole

            texts = listed(prompt)
            negative = listed(negative_prompt) if negative_prompt is not None else [""] * len(texts)
            return encode(texts), encode(negative) if do_classifier_free_guidance else []

        def prepare_siglip_embeds(self, images: Any, batch_size: int, **rest: Any) -> Any:
            return [[torch.ones(2, 2, 8) for _ in images] for _ in range(batch_size)]

    parts = {"transformer": transformer, "vae": tiny.flow_vae(4, 2), "scheduler": tiny.flow()}
    pipeline = stubbed(Stubbed, name, **parts | more)
    # Omni encodes its pictures in bfloat16, whatever the precision of its networks.
    return pipeline.to(torch.bfloat16) if name == "ZImageOmniPipeline" else pipeline


def z_control() -> Any:
    from diffusers import ZImageControlNetModel

    # Latents of the control, the mask, and latents of the rest of the source.
    control = tiny.seeded(
        lambda: ZImageControlNetModel(
            control_layers_places=[0],
            control_refiner_layers_places=[0],
            control_in_dim=9,
            dim=32,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
        )
    )
    _wake([control.control_layers[0].before_proj, control.control_layers[0].after_proj])
    return z_image("ZImageControlNetInpaintPipeline", controlnet=control)


def glm() -> Any:
    import diffusers

    transformer = tiny.seeded(
        lambda: diffusers.GlmImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            condition_dim=8,
            prior_vq_quantizer_codebook_size=16,
        )
    )
    vae = tiny.vae(4, 4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)

    class Stubbed(diffusers.GlmImagePipeline):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, guided: bool = True, **rest: Any) -> Any:
            texts = listed(prompt)
            empty = torch.stack([stub_text(WIDTH, "")] * len(texts))
            return torch.stack([stub_text(WIDTH, text) for text in texts]), empty if guided else None

        def generate_prior_tokens(
            self, prompt: Any, height: int, width: int, image: Any, generator: Any, **rest: Any
        ) -> Any:
            # One token for each 16 pixels, of the picture and of the result.
            def tokens(w: int, h: int) -> Any:
                return torch.randint(0, 16, (w // 16 * (h // 16),), generator=generator)

            sources = [[picture.size for picture in pictures] for pictures in image]
            grids = [torch.tensor([[1, h // 16, w // 16] for w, h in sizes]) for sizes in sources]
            seen = [torch.cat([tokens(w, h) for w, h in sizes]) for sizes in sources]
            return torch.stack([tokens(width, height) for _ in sources]), seen, grids

    return stubbed(Stubbed, "GlmImagePipeline", transformer=transformer, vae=vae, scheduler=tiny.flow())


class Processor:
    """Stands for a processor of pictures, which a stubbed pipeline never calls."""

    image_processor = None


def longcat() -> Any:
    import diffusers
    from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import prepare_pos_ids

    transformer = tiny.seeded(
        lambda: diffusers.LongCatImageTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=[4, 4, 8],
        )
    )

    class Stubbed(diffusers.LongCatImageEditPipeline):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, image: Any = None, **rest: Any) -> Any:
            embeddings = torch.stack([stub_text(WIDTH, text, image) for text in listed(prompt)])
            return embeddings, prepare_pos_ids(
                modality_id=0, type="text", start=(0, 0), num_token=embeddings.shape[1]
            )

    return stubbed(
        Stubbed,
        "LongCatImageEditPipeline",
        transformer=transformer,
        vae=tiny.flow_vae(16, 4),
        scheduler=tiny.flow(),
        # The constructor reads it.
        text_processor=Processor(),
    )


def omnigen() -> Any:
    import diffusers
    from transformers import PreTrainedTokenizerFast

    transformer = tiny.seeded(
        lambda: diffusers.OmniGenTransformer2DModel(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=32,
            num_layers=1,
            in_channels=4,
            time_step_dim=4,
            rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
        )
    )
    letters = tiny_tokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters.backend_tokenizer, pad_token="<|endoftext|>")
    return diffusers.OmniGenPipeline(
        transformer=transformer,
        vae=tiny.vae(4, 4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        tokenizer=tokenizer,
    )


def kandinsky() -> Any:
    import diffusers

    transformer = tiny.seeded(
        lambda: diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=WIDTH,
            in_text_dim2=WIDTH,
            time_dim=16,
            out_visual_dim=4,
            patch_size=(1, 2, 2),
            model_dim=16,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(1, 1, 2),
            visual_cond=True,
            attention_type="regular",
        )
    )

    class Stubbed(diffusers.Kandinsky5I2IPipeline):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, image: Any = None, **rest: Any) -> Any:
            embeddings = torch.stack([stub_text(WIDTH, text, image) for text in listed(prompt)])
            lengths = torch.tensor([0, *[embeddings.shape[1]] * len(embeddings)], dtype=torch.int32)
            return embeddings, embeddings[:, 0], lengths.cumsum(0)

    pipeline = stubbed(
        Stubbed,
        "Kandinsky5I2IPipeline",
        transformer=transformer,
        vae=tiny.flow_vae(4, 4),
        scheduler=tiny.flow(),
    )
    pipeline.resolutions = [(64, 64), (96, 64), (64, 96)]
    return pipeline


def dreamlite() -> Any:
    import diffusers

    unet = tiny.seeded(
        lambda: diffusers.DreamLiteUNetModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=(
                "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
                "DreamLiteCrossAttnDownBlock2D",
            ),
            up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
            block_out_channels=(32, 64),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
            layers_per_block=1,
            norm_num_groups=8,
            transformer_layers_per_block=1,
        )
    )
    vae = tiny.seeded(
        lambda: diffusers.AutoencoderTiny(
            encoder_block_out_channels=(32, 32),
            decoder_block_out_channels=(32, 32),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
        )
    )

    class Stubbed(diffusers.DreamLitePipeline):  # type: ignore[misc]
        def encode_prompt(self, mode: str, prompts: Any, image: Any = None, **rest: Any) -> Any:
            embeddings = torch.stack([stub_text(WIDTH, text, image) for text in prompts])
            return embeddings, torch.ones(embeddings.shape[:2], dtype=torch.long)

    return stubbed(Stubbed, "DreamLitePipeline", unet=unet, vae=vae, scheduler=tiny.flow())


def fibo() -> Any:
    import diffusers

    transformer = tiny.seeded(
        lambda: diffusers.BriaFiboTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            text_encoder_dim=WIDTH,
            pooled_projection_dim=None,
            axes_dims_rope=[0, 4, 4],
        )
    )
    vae = tiny.seeded(
        lambda: diffusers.AutoencoderKLWan(
            base_dim=8,
            decoder_base_dim=8,
            dim_mult=[1, 1, 1, 1],
            in_channels=12,
            out_channels=12,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            is_residual=True,
            num_res_blocks=1,
            patch_size=2,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
            temperal_downsample=[False, True, True],
            z_dim=4,
        )
    )

    class Stubbed(diffusers.BriaFiboEditPipeline):  # type: ignore[misc]
        def get_prompt_embeds(self, prompt: Any, **rest: Any) -> Any:
            layers = torch.stack([stub_text(WIDTH, text) for text in listed(prompt)])
            return torch.cat([layers, layers], dim=-1), [layers] * 2, torch.ones(layers.shape[:2])

    return stubbed(Stubbed, "BriaFiboEditPipeline", transformer=transformer, vae=vae, scheduler=tiny.flow())


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


_QWEN_EDIT = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit"

# Class of diffusers -> its tiny pipeline.
SAMPLES: Mapping[str, Sample] = {
    "StableDiffusionInpaintPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionInpaintPipeline", 4), keeps=True
    ),
    "StableDiffusionControlNetInpaintPipeline": Sample(control_inpaint, keeps=True),
    "StableDiffusionImg2ImgPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionImg2ImgPipeline", 4), {"strength": 0.9}
    ),
    "StableDiffusionInstructPix2PixPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionInstructPix2PixPipeline", 8), {"image_guidance": 1.2}
    ),
    "StableDiffusionDiffEditPipeline": Sample(diffedit, {"call": {"num_maps_per_mask": 2}}),
    "LEditsPPPipelineStableDiffusion": Sample(
        ledits, {"steps": 3, "call": {"skip": 0.25, "use_intersect_mask": False}}
    ),
    "StableDiffusionXLInpaintPipeline": Sample(sdxl_inpaint),
    "StableDiffusionXLControlNetInpaintPipeline": Sample(sdxl_control, keeps=True),
    "StableDiffusionXLInstructPix2PixPipeline": Sample(sdxl_instruct),
    "LEditsPPPipelineStableDiffusionXL": Sample(sdxl_ledits, {"steps": 3, "call": {"skip": 0.25}}),
    "StableDiffusion3InpaintPipeline": Sample(sd3_inpaint, keeps=True),
    "StableDiffusion3ControlNetInpaintingPipeline": Sample(sd3_control),
    "FluxFillPipeline": Sample(lambda: flux("FluxFillPipeline", 20, 8)),
    "FluxInpaintPipeline": Sample(
        lambda: flux("FluxInpaintPipeline", 8),
        {"negative_prompt": "a blur", "call": {"true_cfg_scale": 2.0}},
        keeps=True,
    ),
    "FluxControlNetInpaintPipeline": Sample(flux_control, keeps=True),
    "FluxKontextPipeline": Sample(lambda: flux("FluxKontextPipeline", 8)),
    "FluxKontextInpaintPipeline": Sample(lambda: flux("FluxKontextInpaintPipeline", 8), keeps=True),
    "Flux2Pipeline": Sample(lambda: flux2("Flux2Pipeline"), size=(96, 64)),
    "Flux2KleinPipeline": Sample(lambda: flux2("Flux2KleinPipeline"), size=(96, 64)),
    "Flux2KleinInpaintPipeline": Sample(lambda: flux2("Flux2KleinInpaintPipeline"), keeps=True),
    "QwenImageEditPipeline": Sample(lambda: qwen("QwenImageEditPipeline"), small=_QWEN_EDIT),
    "QwenImageEditPlusPipeline": Sample(
        lambda: qwen("QwenImageEditPlusPipeline"), small=f"{_QWEN_EDIT}_plus"
    ),
    "QwenImageEditInpaintPipeline": Sample(
        lambda: qwen("QwenImageEditInpaintPipeline"),
        {"guidance": 30.0},
        small=f"{_QWEN_EDIT}_inpaint",
        size=(64, 64),
        keeps=True,
    ),
    "QwenImageInpaintPipeline": Sample(lambda: qwen("QwenImageInpaintPipeline"), keeps=True),
    "QwenImageControlNetInpaintPipeline": Sample(qwen_control),
    "ChromaInpaintPipeline": Sample(chroma, keeps=True),
    "ZImageInpaintPipeline": Sample(lambda: z_image("ZImageInpaintPipeline"), keeps=True),
    "ZImageControlNetInpaintPipeline": Sample(z_control),
    "ZImageOmniPipeline": Sample(lambda: z_image("ZImageOmniPipeline"), size=(96, 64)),
    "GlmImagePipeline": Sample(glm),
    "LongCatImageEditPipeline": Sample(
        longcat, size=(64, 64), small="diffusers.pipelines.longcat_image.pipeline_longcat_image_edit"
    ),
    "OmniGenPipeline": Sample(omnigen, {"image_guidance": 1.3}),
    "Kandinsky5I2IPipeline": Sample(kandinsky, {"size": "native"}, size=(96, 64)),
    "DreamLitePipeline": Sample(dreamlite, {"image_guidance": 1.2}),
    "BriaFiboEditPipeline": Sample(fibo),
    "PaintByExamplePipeline": Sample(paint_by_example),
}
