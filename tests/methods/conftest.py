"""Tiny pipelines with random weights, in diffusers' own layout: 64 pixels, 2 pixels per latent sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditRequest

SIZE = 64
FACTOR = 2


def tiny_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    # The byte alphabet of GPT-2: printable bytes stand for themselves, the others for 256, 257, ...
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    remaining = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(remaining))]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def tiny_components(in_channels: int) -> dict[str, Any]:
    """UNet, autoencoder, text encoder, tokenizer and scheduler: the same weights at every call."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=SIZE,
    )
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=SIZE // FACTOR,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    return {name: part.eval() for name, part in parts.items()} | {
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }


def tiny_pipeline(in_channels: int) -> Any:
    import diffusers

    name = "StableDiffusionInstructPix2PixPipeline" if in_channels == 8 else "StableDiffusionInpaintPipeline"
    return getattr(diffusers, name)(
        **tiny_components(in_channels),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Input channels of the UNet -> folder of a saved pipeline (9 and 4: inpainting; 8: InstructPix2Pix)."""
    saved: dict[int, str] = {}

    def folder(in_channels: int) -> str:
        if in_channels not in saved:
            path = tmp_path_factory.mktemp(f"tiny{in_channels}")
            tiny_pipeline(in_channels).save_pretrained(path)
            saved[in_channels] = str(path)
        return saved[in_channels]

    return folder


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches."""
    from huggingface_hub import constants

    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A smooth colour gradient with a little noise, different for every seed."""
    random = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    bases = random.uniform(0, 150, 3)
    pixels = np.stack(
        [base + 60 * x + 40 * y + random.uniform(-8, 8, (height, width)) for base in bases], axis=2
    )
    return Image.fromarray(pixels.astype(np.uint8))


def box_mask(
    left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (SIZE, SIZE)
) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (left, top, right, bottom))
    return mask


def request(seed: int = 0, mask: Image.Image | None = None, source: Image.Image | None = None) -> EditRequest:
    return EditRequest(
        source=source or picture(seed),
        mask=mask or box_mask(8, 16, 40, 48),
        source_prompt="a face",
        target_prompt=f"a face with a hat {seed}",
        region_prompt=f"a hat {seed}",
        instruction=f"add a hat {seed}",
        seed=seed,
    )
