"""Parts of tiny random pipelines: the same weights at every call, no download.

CLIP and T5 are real networks of a few thousand weights. A vision-language model is replaced by :func:`stub_text`: it
would take seconds a call, and the adapter hands it nothing but a text and a picture.
"""

from __future__ import annotations

import functools
import inspect
import zlib
from typing import Any

import numpy as np
import torch

from tests.methods.conftest import tiny_tokenizer


def seeded(build: Any) -> Any:
    """Calls ``build`` after seeding, so that its random weights are the same every time. Evaluation mode."""
    torch.manual_seed(0)
    part = build()
    # Not every parameter is initialised by its class (Z-Image's padding tokens).
    with torch.no_grad():
        for parameter in part.parameters():
            if not torch.isfinite(parameter).all() or parameter.abs().max() > 1e3:
                parameter.normal_(std=0.02)
    return part.eval()


# --- text -------------------------------------------------------------------------------------------


def clip(projected: bool = False, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=width,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    return seeded(lambda: cls(config))


def t5_tokenizer() -> Any:
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(32, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
    return T5TokenizerFast(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(t5_tokenizer()), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return seeded(lambda: T5EncoderModel(config))


class Text(torch.nn.Module):
    """Stands for a text encoder in a pipeline: it has a dtype and a device, and is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.dtype = torch.float32
        self.device = torch.device("cpu")


WIDTH = 16
"""Width of the embeddings of a stubbed text encoder."""


def stub_text(width: int, words: str, picture: Any = None, length: int = 6) -> torch.Tensor:
    """Embeddings (length, width) that depend on the text and on the picture, and on nothing else."""
    seen = b"" if picture is None else np.asarray(picture, dtype=np.uint8).tobytes()
    generator = torch.Generator().manual_seed(zlib.crc32(words.encode() + seen))
    return torch.randn((length, width), generator=generator)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# --- pictures ---------------------------------------------------------------------------------------


def vae(channels: int = 4, levels: int = 1, **more: Any) -> Any:
    """An autoencoder that reduces images by 2 ** (levels - 1)."""
    from diffusers import AutoencoderKL

    settings: dict[str, Any] = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "latent_channels": channels,
        "norm_num_groups": 1,
        "sample_size": 32,
    }
    return seeded(lambda: AutoencoderKL(**settings | more))


def flow_vae(channels: int, levels: int = 1, **more: Any) -> Any:
    flow = {
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": 0.06,
        "scaling_factor": 1.5,
    }
    return vae(channels, levels, **flow | more)


def flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


@functools.cache
def ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def sde() -> Any:
    """The sampler that LEDITS++ inverts."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(ddim().config, algorithm_type="sde-dpmsolver++")


# --- whole pipelines --------------------------------------------------------------------------------


def stubbed(cls: Any, name: str, **parts: Any) -> Any:
    """A pipeline whose text encoder is a stub. Its class keeps the name of the original."""
    cls.__name__ = name
    names = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    missing = {part: None for part in names if part not in parts and part != "text_encoder"}
    parameters = inspect.signature(cls.__init__).parameters
    missing = {part: None for part in missing if parameters[part].default is inspect.Parameter.empty}
    text = {"text_encoder": Text()} if "text_encoder" in names else {}
    return cls(**missing | text | parts)


def wake(modules: Any) -> None:
    """Random weights in place of the zeros with which a ControlNet's last layers begin."""
    torch.manual_seed(1)
    for module in modules:
        torch.nn.init.normal_(module.weight, std=0.2)
