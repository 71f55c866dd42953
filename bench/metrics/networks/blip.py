"""ImageReward's network (Xu et al. 2023): BLIP's image and text encoders with a head, in transformers' classes.

The code is ``ImageReward/ImageReward.py`` of THUDM/ImageReward. The text encoder attends to all tokens of the image.
The head reads its first token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.metrics.networks.head import LinearHead
from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import BERT_VOCABULARY, IMAGE_REWARD
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

# Side in pixels of its input, and number of tokens that it reads.
SIDE, TOKENS = 224, 35
# The published code subtracts the mean of the rewards of its training data and divides by their deviation.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
# Normalisation of CLIP, which BLIP uses too.
_PIXEL_MEAN, _PIXEL_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# BLIP's large vision transformer, and its text encoder of the size of BERT's base.
_VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "image_size": SIDE,
    "layer_norm_eps": 1e-6,
}
_TEXT: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30524,
}

# Start of a name in the published file -> in transformers' vision model.
_VISION_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
}
_BLOCK_NAMES = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.": "mlp.",
}


def problems() -> list[str]:
    """Lists what is missing, each with its remedy. Empty where the network can be loaded."""
    return [problem for file in (IMAGE_REWARD, BERT_VOCABULARY) if (problem := file.problem()) is not None]


def identity() -> str:
    """Names and hashes of both files. Raises :class:`MetricError` where one is missing."""
    return f"{IMAGE_REWARD.identity()}-{BERT_VOCABULARY.identity()}"


class BertTokenizer:
    """BERT's tokenizer, for lower case."""

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import BertWordPieceTokenizer
        from tokenizers.models import WordPiece

        return BertWordPieceTokenizer(WordPiece.read_file(str(BERT_VOCABULARY.path())), lowercase=True)

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Per prompt, True where it has more tokens than the network reads."""
        return [len(encoding.ids) > TOKENS for encoding in self._tokenizer.encode_batch(list(prompts))]

    def __call__(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """``(N, 35)`` int64 each: ids, padded with 0, and 1 at each token of the prompt."""
        import torch

        ids = torch.zeros(len(prompts), TOKENS, dtype=torch.long)
        attended = torch.zeros_like(ids)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(prompts))):
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
            attended[row, : len(encoding.ids)] = 1
        return ids, attended


class ImageRewardNet:
    """The loaded network. Raises :class:`MetricError` where its file is missing or another one."""

    def __init__(self, device: str = "cpu") -> None:
        import torch
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.device = device
        self.tokenizer = BertTokenizer()
        path = IMAGE_REWARD.path()
        state = torch.load(path, map_location="cpu", weights_only=True)
        vision = BlipVisionModel(BlipVisionConfig(**_VISION))
        # A decoder's layers have the attention to the image.
        text_config = BlipTextConfig(**_TEXT, encoder_hidden_size=_VISION["hidden_size"], is_decoder=True)
        text = BlipTextModel(text_config, add_pooling_layer=False)
        try:
            vision.load_state_dict(_vision_state(state), strict=True)
            text.load_state_dict(_text_state(state), strict=True)
            self._head = LinearHead.of_state(state, "mlp.")
        except (RuntimeError, KeyError) as error:
            raise MetricError(
                f"{path} does not hold ImageReward ({str(error).splitlines()[0]:.120}). Delete it and fetch "
                f"{IMAGE_REWARD.url}."
            ) from error
        self._vision: Any = vision.requires_grad_(False).eval().to(device)
        self._text: Any = text.requires_grad_(False).eval().to(device)

    def rewards(self, prepared: Sequence[torch.Tensor], prompts: Sequence[str]) -> NDArray[np.float64]:
        """``(N,)``: reward of each prepared image for its prompt."""
        import torch

        ids, attended = self.tokenizer(prompts)
        with exact(self.device):
            image = self._vision(torch.stack(list(prepared)).to(self.device)).last_hidden_state
            text = self._text(
                input_ids=ids.to(self.device),
                attention_mask=attended.to(self.device),
                encoder_hidden_states=image,
            ).last_hidden_state
        return (self._head(text[:, 0].float().cpu().numpy()) - MEAN) / DEVIATION


def prepare(image: Image) -> torch.Tensor:
    """``(3, 224, 224)`` float32, normalised: the shorter side resized (bicubic), the middle cropped."""
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(image, [SIDE], interpolation=transforms.InterpolationMode.BICUBIC)
    pixels = transforms.pil_to_tensor(transforms.center_crop(resized, [SIDE, SIDE])).float() / 255
    normalised: torch.Tensor = transforms.normalize(pixels, list(_PIXEL_MEAN), list(_PIXEL_DEVIATION))
    return normalised


def _vision_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image encoder's weights under transformers' names."""
    prefix = "blip.visual_encoder."
    renamed = {}
    for name, values in state.items():
        if not name.startswith(prefix):
            continue
        rest, start, names = name.removeprefix(prefix), "", _VISION_NAMES
        if block := re.match(r"blocks\.(\d+)\.", rest):
            rest, start, names = rest[block.end() :], f"encoder.layers.{block[1]}.", _BLOCK_NAMES
        old = next((old for old in names if rest.startswith(old)), "")
        renamed[start + names.get(old, "") + rest.removeprefix(old)] = values
    return renamed


def _text_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text encoder's weights. Their names are transformers' own."""
    prefix = "blip.text_encoder."
    return {
        name.removeprefix(prefix): values
        for name, values in state.items()
        # A constant that older versions stored.
        if name.startswith(prefix) and not name.endswith("position_ids")
    }
