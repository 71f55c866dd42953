"""Loads any open_clip model, from its published weights or from a local folder in open_clip's own layout.

Weights are never downloaded while scoring. :meth:`ClipSpec.problems` says what is missing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.downloads import HubFiles, MissingFiles
from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import WeightFile, cached_sha256
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

_CONFIG = "open_clip_config.json"
# Sizes of OpenAI's files, rounded.
_OPENAI_BYTES = {
    "ViT-B-32.pt": 354_000_000,
    "ViT-L-14.pt": 933_000_000,
    "ViT-L-14-336px.pt": 934_000_000,
}
_WEIGHTS = (".safetensors", ".bin", ".pth")


@dataclass(frozen=True)
class ClipSpec:
    """Names a CLIP: an open_clip ``model`` with ``pretrained`` (a tag or file) or ``file``, or a ``folder``."""

    model: str = "ViT-L-14"
    pretrained: str = "openai"
    folder: str | None = None
    """A folder with ``open_clip_config.json``, one weight file and, for a tokenizer of its own, its files."""
    file: WeightFile | None = None
    """Published weights of ``model`` under no tag, with the names of open_clip's or of transformers' layers."""
    resize: Literal["shortest", "longest"] = "shortest"
    """Side of an image that becomes the model's, for a ``file``. The rest is cropped or padded with black."""

    @property
    def label(self) -> str:
        """Name in messages."""
        if self.file is not None:
            return self.file.name
        return f"{self.model}/{self.pretrained}" if self.folder is None else Path(self.folder).name

    def problems(self) -> list[str]:
        """Lists what is missing, each with its remedy. Empty where the model can be loaded."""
        try:
            self.weights()
        except MetricError as error:
            return [error.problem]
        return []

    def weights(self) -> Path:
        """The weight file, of the published SHA-256 where there is one. Raises :class:`MetricError`."""
        # A folder or a file that the user named.
        if self.folder is not None:
            return _folder_weights(Path(self.folder))
        if self.file is not None:
            return self.file.path()
        if Path(self.pretrained).is_file():
            return Path(self.pretrained)
        # Published weights, in our folder, their own package's, or the hub's cache.
        config = self._config()
        published = _published(config)
        path = None if published is None else published.find()
        path = path or _hub_cache(config)
        if path is not None:
            return path
        if published is not None:
            raise MetricError(published.problem())
        repository, names = _hub_names(config)
        if not repository:
            raise MetricError(
                f"CLIP {self.label}: its weights are not on this machine. Put the file of {config.get('url')} into "
                "a folder, and name the file instead of the tag."
            )
        missing = f"CLIP {self.label}: its weights are not on this machine"
        # The hub may have both forms of the file, and one is enough.
        patterns = tuple(names) if len(names) == 1 else tuple(f"{Path(name).stem}.*" for name in names)
        raise MetricError(MissingFiles(missing, [HubFiles(repository, "main", patterns)]))

    @cached_property
    def identity(self) -> str:
        """Name and 12 hex digits over weights, configuration and tokenizer, on which the features depend."""
        from bench.edit import stable_digest

        weights = self.weights()
        if self.file is not None:
            return f"clip-{self.model}-{stable_digest([self.model, self.resize, cached_sha256(weights)])}"
        if self.folder is None:
            return f"clip-{self.model}-{stable_digest([self.model, self.pretrained, cached_sha256(weights)])}"
        # A folder may bring a tokenizer of its own: its files change the features too.
        files = sorted(
            path
            for path in Path(self.folder).iterdir()
            if path == weights or path.suffix in (".json", ".txt", ".model")
        )
        digest = stable_digest([[path.name, cached_sha256(path)] for path in files])
        return f"clip-folder-{digest}"

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer of this model. ``context_length`` is the number of tokens that the model reads."""
        import open_clip

        with _quiet():
            return open_clip.get_tokenizer(self.model if self.folder is None else f"local-dir:{self.folder}")

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Per prompt, True where it has more tokens than the model reads. open_clip drops the rest silently."""
        # Tokenized to one more token, a prompt that fits has the same tokens, followed by one of padding.
        length = self.tokenizer.context_length
        # The padding token, read off the end of an empty prompt.
        padding = self.tokenizer([""], context_length=length + 1)[0, -1]
        cut: list[bool] = []
        for start in range(0, len(prompts), 128):
            batch = list(prompts[start : start + 128])
            longer = self.tokenizer(batch, context_length=length + 1)
            same = longer[:, :length] == self.tokenizer(batch, context_length=length)
            cut += (~(same.all(dim=1) & (longer[:, length] == padding))).tolist()
        return cut

    def _config(self) -> dict[str, Any]:
        """open_clip's entry for model and tag. Raises :class:`MetricError` for an unknown one."""
        try:
            from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
        except ImportError as error:
            raise MetricError(
                "the package open_clip is missing. Install it: pip install open_clip_torch==3.3.0"
            ) from error
        config: dict[str, Any] = get_pretrained_cfg(self.model.replace("/", "-"), self.pretrained)
        if not config:
            tags = list_pretrained_tags_by_model(self.model)
            raise MetricError(
                f"open_clip has no weights {self.pretrained!r} for the model {self.model!r}. "
                + (f"Choose one of {', '.join(tags)}." if tags else "See open_clip.list_pretrained().")
            )
        return config


class ClipNet:
    """A loaded model: ``float32`` features of length 1."""

    def __init__(self, spec: ClipSpec, device: str = "cpu") -> None:
        """Raises :class:`MetricError` where weights are missing."""
        self.spec = spec
        self.device = device
        self._model, self._transform = _load(spec, device)

    @property
    def side(self) -> int:
        """Side in pixels of the image tower's input."""
        size = self._model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    def prepare(self, image: Image) -> torch.Tensor:
        """open_clip's own transform: PIL RGB -> ``(3, side, side)`` float32, normalised."""
        prepared: torch.Tensor = self._transform(image)
        return prepared

    def encode_images(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Prepared images -> ``(N, D)`` float32, each row of length 1."""
        import torch

        with exact(self.device):
            images = torch.stack(list(prepared)).to(self.device, memory_format=torch.channels_last)
            features = self._model.encode_image(images, normalize=True)
        return features.float().cpu().numpy()  # type: ignore[no-any-return]

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """``(N, D)`` float32, each row of length 1. Prompts are used as they are: no template, no brackets removed."""
        with exact(self.device):
            tokens = self.spec.tokenizer(list(prompts)).to(self.device)
            features = self._model.encode_text(tokens, normalize=True)
        return features.float().cpu().numpy()  # type: ignore[no-any-return]


def _folder_weights(folder: Path) -> Path:
    """The weight file of a folder in open_clip's layout, chosen as open_clip chooses it."""
    if not (folder / _CONFIG).is_file():
        raise MetricError(
            f"{folder} holds no {_CONFIG}: it is not a model folder in open_clip's layout. Name a folder that has it."
        )
    from contextlib import suppress

    with suppress(ImportError):
        from open_clip.factory import _find_checkpoint_in_dir

        if path := _find_checkpoint_in_dir(folder):
            return Path(path)
    raise MetricError(
        f"{folder} holds no weights ({', '.join(_WEIGHTS)}). Put the model's weight file into it."
    )


def _published(config: dict[str, Any]) -> WeightFile | None:
    """The published file of open_clip's entry. None for weights without a published SHA-256."""
    # OpenAI's addresses carry the file's whole SHA-256.
    url = config.get("url", "")
    match = re.search(r"/([0-9a-f]{64})/([^/]+)$", url)
    if match is None:
        return None
    size = _OPENAI_BYTES.get(match[2])
    return WeightFile(match[2], match[1], url, folders=("~/.cache/clip",), licence="MIT", size=size)


def _hub_cache(config: dict[str, Any]) -> Path | None:
    """The file in the hub's local cache. None where it is not there. Raises :class:`MetricError` for a damaged one."""
    repository, names = _hub_names(config)
    if not repository:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            # A large file is a link to a blob that is named by its SHA-256.
            blob = Path(path).resolve()
            if re.fullmatch(r"[0-9a-f]{64}", blob.name) and cached_sha256(blob) != blob.name:
                raise MetricError(
                    f"{blob} is damaged: its SHA-256 is not its name. Delete it and fetch it again."
                )
            return Path(path)
    return None


def _hub_names(config: dict[str, Any]) -> tuple[str, list[str]]:
    """The repository of open_clip's entry, empty for none, and the names that its weight file may have."""
    repository, _, filename = config.get("hf_hub", "").rpartition("/")
    return repository, [filename] if filename else [
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the root logger, on which open_clip reports each step."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(spec: ClipSpec, device: str) -> tuple[Any, Any]:
    """Model in evaluation mode, and its transform."""
    # The weights are checked before the slow imports.
    weights = spec.weights()
    import open_clip
    import torch

    with _quiet():
        if spec.folder is not None:
            model = open_clip.create_model(f"local-dir:{spec.folder}", precision="fp32", device=device)
        else:
            model = _load_published(spec, weights, device)
    # The transform of these weights: size, mean and deviation may differ from the model's defaults.
    config = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    # Channels last: the layout that convolutions work in.
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return model, transform


def _load_published(spec: ClipSpec, weights: Path, device: str) -> Any:
    """The model of a tag or of a weight file, with the preprocessing that belongs to it."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    # Activation and normalisation are those of the tag: where the model's differ, open_clip only warns.
    untagged = spec.file is not None or Path(spec.pretrained).is_file()
    config = {} if untagged else spec._config()
    preprocess = merge_preprocess_dict(PreprocessCfg(), config)
    if _published(config) is not None and weights.suffix == ".pt":
        # OpenAI's files are TorchScript archives, which weights_only refuses; their SHA-256 was checked.
        model = open_clip.load_openai_model(str(weights), precision="fp32", device=device)
        size = model.visual.image_size
        model.visual.preprocess_cfg = {**preprocess, "size": size}
        return model
    # The model's own configuration has the size.
    preprocess.pop("size")
    if spec.file is not None:
        preprocess["resize_mode"] = spec.resize
    # Names of layers that are not open_clip's are translated.
    state = transformers_state(weights) if weights.suffix == ".safetensors" else None
    model = open_clip.create_model(
        spec.model,
        pretrained=str(weights) if state is None else None,
        precision="fp32",
        device=device,
        force_quick_gelu=bool(config.get("quick_gelu", False)),
        force_preprocess_cfg=preprocess,
    )
    if state is not None:
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise MetricError(
                f"{weights} does not hold a {spec.model} ({str(error).splitlines()[0]:.120}). "
                "Delete it and fetch it again."
            ) from error
    return model


# transformers' name of a layer of a block -> open_clip's.
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OTHERS = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}


def transformers_state(path: Path) -> dict[str, torch.Tensor] | None:
    """The weights of transformers' ``CLIPModel`` under open_clip's names. None for a file with other names."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(path)
    if "text_model.final_layer_norm.weight" not in weights:
        return None
    state = {}
    for name, values in weights.items():
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block:
            tower, number, layer, kind = block.groups()
            prefix = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"
            if layer in _BLOCK:
                state[f"{prefix}.{_BLOCK[layer]}.{kind}"] = values
            elif layer == "self_attn.q_proj":
                # open_clip has queries, keys and values in one matrix.
                parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                state[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif name in ("text_projection.weight", "visual_projection.weight"):
            # open_clip multiplies from the right.
            state["text_projection" if name.startswith("text") else "visual.proj"] = values.T.contiguous()
        elif name in _OTHERS:
            state[_OTHERS[name]] = values
    return state
