"""The CLIP that guides: frozen, differentiable with respect to its images, with features of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.blended_diffusion.files import ClipFiles


class Clip:
    """A loaded open_clip model in float32 on ``device``, with the normalisation that it was trained with."""

    def __init__(self, files: ClipFiles, device: str = "cpu") -> None:
        self.model, self.tokenizer = _load(files, device)
        # The gradient flows to the images alone. Gradients of weights would double the memory.
        self.model.eval().requires_grad_(False)
        self.device = torch.device(device)
        config: dict[str, Any] = self.model.visual.preprocess_cfg
        self.mean = torch.tensor(config["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=device).view(1, 3, 1, 1)

    @property
    def size(self) -> int:
        """Side length in pixels of the image tower's input."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    def images(self, views: Tensor) -> Tensor:
        """float32 (N, 3, size, size) in [-1, 1] => features (N, D), with gradient."""
        # CLIP normalises pixels in [0, 1].
        return self.encode(((views + 1) / 2 - self.mean) / self.std)

    def encode(self, pixels: Tensor) -> Tensor:
        """The tower's input as it is, (N, 3, size, size), without normalisation => features (N, D), with gradient."""
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Prompts => features (N, D). A prompt longer than the context is cut off."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)


def _load(files: ClipFiles, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder in open_clip's layout, or of a weight file of a published model."""
    if files.folder is not None:
        from methods.zoo.clip import EmbeddedClip

        loaded = EmbeddedClip(files.folder, device)
        return loaded.model, loaded.tokenizer
    import logging

    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    # The normalisation that the published model was trained with.
    assert files.file is not None
    published: dict[str, Any] = open_clip.pretrained.get_pretrained_cfg(files.model, "openai")
    preprocess = merge_preprocess_dict(PreprocessCfg(), published)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # open_clip reports each step on the root logger
    try:
        if files.is_archive:
            # OpenAI's own file is a TorchScript archive, which weights_only refuses. Its SHA-256 was checked.
            model = open_clip.load_openai_model(str(files.file), precision="fp32", device=device)
            model.visual.preprocess_cfg = {**preprocess, "size": model.visual.image_size}
        else:
            preprocess.pop("size")
            model = open_clip.create_model(
                files.model,
                pretrained=str(files.file),
                precision="fp32",
                device=device,
                force_preprocess_cfg=preprocess,
            )
    finally:
        logger.setLevel(level)
    return model, open_clip.get_tokenizer(files.model)
