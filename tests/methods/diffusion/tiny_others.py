"""Tiny random pipelines of single models: Z-Image, GLM-Image, LongCat, OmniGen, Kandinsky, DreamLite, FIBO."""

from __future__ import annotations

from typing import Any

import torch

from tests.methods.conftest import tiny_tokenizer
from tests.methods.diffusion import tiny
from tests.methods.diffusion.tiny import WIDTH, listed, stub_text, stubbed, wake


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
    wake([control.control_layers[0].before_proj, control.control_layers[0].after_proj])
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
