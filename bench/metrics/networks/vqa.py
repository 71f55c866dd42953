"""VQAScore (Lin et al. 2024) by InstructBLIP-FlanT5-XL, which transformers has.

The score is the probability of an answer to a question about the image, as in ``instructblip_model.py`` of
linzhiqiu/t2v_metrics, version 3.0. It asks InstructBLIP: Question: Does this figure show "TEXT"? Please answer yes or
no. The answer is "yes" and the end token, and the score their geometric mean: exp(-mean cross-entropy). The paper's
main model, CLIP-FlanT5, has an architecture of its own and gives other values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.downloads import HubFiles, MissingFiles
from bench.edit import stable_digest
from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import cached_sha256, weights_folder
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

REPOSITORY = "Salesforce/instructblip-flan-t5-xl"
FILES = HubFiles(
    REPOSITORY, "main", ("*.json", "*.safetensors", "spiece.model", "qformer_tokenizer/*"), licence="MIT"
)
QUESTION = 'Question: Does this figure show "{}"? Please answer yes or no.'
ANSWER = "yes"
TOKENS = 128
"""Tokens of a question that the network reads."""


def folder() -> Path | None:
    """The folder with all files: ``instructblip-flan-t5-xl`` among our weights, else the hub's cache."""
    own = weights_folder() / REPOSITORY.rpartition("/")[2]
    return next(
        (place for place in (own, _hub_snapshot()) if place is not None and tensor_files(place)), None
    )


def problems() -> list[str]:
    """Lists what is missing, each with its remedy. Empty where the network can be loaded."""
    return [] if folder() is not None else [MissingFiles(f"{REPOSITORY} is not on this machine", [FILES])]


def identity() -> str:
    """Name and digest over configuration, tokenizers and tensors. Raises :class:`MetricError`."""
    place = _folder()
    names = [*sorted(place.glob("*.json")), *sorted(place.glob("qformer_tokenizer/*")), *tensor_files(place)]
    digest = stable_digest([[str(path.relative_to(place)), _sha256(path)] for path in names])
    return f"instructblip-flan-t5-xl-{digest[:12]}"


def tensor_files(place: Path) -> list[Path]:
    """The tensor files of a folder. Empty where it is not complete."""
    needed = [
        place / "config.json",
        place / "tokenizer.json",
        place / "qformer_tokenizer" / "tokenizer_config.json",
    ]
    try:
        index = json.loads((place / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = index["weight_map"].values()
    except FileNotFoundError:
        shards = []
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    tensors = [place / str(name) for name in sorted(set(shards))] or [place / "model.safetensors"]
    return tensors if all(path.is_file() for path in (*needed, *tensors)) else []


class VqaNet:
    """The loaded network. Raises :class:`MetricError` where its files are missing or others."""

    def __init__(self, device: str = "cpu") -> None:
        import torch
        from transformers import AutoTokenizer, InstructBlipForConditionalGeneration

        place = _folder()
        try:
            # The authors' code reads the end of a question that is too long. The metric has no value for it.
            self._tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
            self._query_tokenizer: Any = AutoTokenizer.from_pretrained(
                place / "qformer_tokenizer", local_files_only=True
            )
            model = InstructBlipForConditionalGeneration.from_pretrained(
                place, local_files_only=True, dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:
            # Whatever transformers raises for other files: missing keys, shapes, an unknown class.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MetricError(
                f"{place} does not hold {REPOSITORY} ({first:.120}). Delete it and get it again."
            ) from error
        self.device = device
        self._model: Any = model.requires_grad_(False).eval().to(device)

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Per prompt, True where its question has more tokens than the network reads."""
        questions = [QUESTION.format(prompt) for prompt in prompts]
        both = (self._tokenizer(questions)["input_ids"], self._query_tokenizer(questions)["input_ids"])
        return [max(map(len, ids)) > TOKENS for ids in zip(*both, strict=True)]

    def probabilities(self, prepared: Sequence[torch.Tensor], prompts: Sequence[str]) -> NDArray[np.float64]:
        """``(N,)``: probability of the answer for images of ``blip.prepare``, float32 (3, 224, 224)."""
        import torch

        questions = [QUESTION.format(prompt) for prompt in prompts]
        text = self._tokenizer(questions, padding=True, return_tensors="pt").to(self.device)
        query = self._query_tokenizer(questions, padding=True, return_tensors="pt").to(self.device)
        answer = self._tokenizer([ANSWER] * len(prompts), return_tensors="pt")["input_ids"].to(self.device)
        with exact(self.device):
            # The image's tokens as they depend on the question, then the question itself.
            image = self._model.get_image_features(
                torch.stack(list(prepared)).to(self.device),
                qformer_input_ids=query["input_ids"],
                qformer_attention_mask=query["attention_mask"],
                return_dict=True,
            ).pooler_output
            words = self._model.get_input_embeddings()(text["input_ids"])
            logits = self._model.language_model(
                inputs_embeds=torch.cat([image, words], dim=1),
                attention_mask=torch.cat(
                    [torch.ones_like(image[..., 0], dtype=torch.long), text["attention_mask"]], dim=1
                ),
                labels=answer,
            ).logits
        # (N, tokens of the answer)
        logs = torch.log_softmax(logits.double(), dim=-1).gather(-1, answer[..., None])[..., 0]
        return logs.mean(dim=1).exp().cpu().numpy()


def _folder() -> Path:
    place = folder()
    if place is None:
        raise MetricError(problems()[0])
    return place


def _hub_snapshot() -> Path | None:
    """The folder of the newest revision in the hub's cache. None where it has none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(REPOSITORY, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _sha256(path: Path) -> str:
    # The hub's cache names the file of a large blob by its SHA-256. Hashing 16 GB takes a minute.
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else cached_sha256(path)
