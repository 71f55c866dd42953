"""Published weight files: where each may lie on this machine, its SHA-256, and how to get it.

A file counts only when its SHA-256 is the published one, as far as its publisher states one. Nothing is downloaded from
here: ``run_bench.py fetch`` does it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.downloads import MissingFiles, WebFile
from bench.files import sha256_file, write_atomic
from bench.metrics.types import MetricError


@dataclass(frozen=True)
class WeightFile:
    """One published file."""

    name: str
    sha256: str
    """Leading hex digits of its SHA-256, as many of the 64 as its publisher states. Empty where none is stated: any
    file of this name then counts, and metrics name its SHA-256 in their version."""
    url: str
    folders: tuple[str, ...]
    """Folders where its own package keeps it. They are searched after :func:`weights_folder`."""
    licence: str = ""
    """Empty where nobody states one."""
    size: int | None = None
    """Bytes, rounded. None where unknown."""

    def candidates(self) -> list[Path]:
        """Paths where the file may lie, the preferred one first."""
        return [
            weights_folder() / self.name,
            *(Path(place).expanduser() / self.name for place in self.folders),
        ]

    def find(self) -> Path | None:
        """The first copy with the right SHA-256. None where there is none."""
        for path in self.candidates():
            if path.is_file() and cached_sha256(path).startswith(self.sha256):
                return path
        return None

    def path(self) -> Path:
        """As :meth:`find`. Raises :class:`MetricError` with the remedy where there is none."""
        path = self.find()
        if path is None:
            raise MetricError(self.problem())
        return path

    def identity(self) -> str:
        """Name and 12 hex digits of the SHA-256 of the copy on this machine. Raises :class:`MetricError`."""
        return f"{self.name}-{cached_sha256(self.path())[:12]}"

    def problem(self) -> str | None:
        """The problem of a file that is missing or not the published one, with the remedy. None where it is here."""
        if self.find() is not None:
            return None
        # A file of the right name and wrong content: it is named, so that the user can delete it.
        for path in self.candidates():
            if path.is_file():
                return (
                    f"{path} is not the published file (SHA-256 {cached_sha256(path)[:12]}…, expected "
                    f"{self.sha256}). Delete it, then repeat the command: it says how to get the published one."
                )
        file = WebFile(self.url, weights_folder() / self.name, self.licence, self.size, self.sha256)
        return MissingFiles(f"{self.name} is not on this machine", [file])

    def own(self) -> Path:
        """The file in :func:`weights_folder`, copied there from another folder where needed.

        Files that run code when they are loaded need this: other users cannot exchange the file between its check and
        its loading, as they can in a shared folder. Raises :class:`MetricError` where the file is missing or cannot
        be copied.
        """
        path = self.path()
        target = weights_folder() / self.name
        if path != target:
            try:
                write_atomic(target, path.read_bytes())
            except OSError as error:
                raise MetricError(
                    f"{path} cannot be copied to {target} ({error.strerror}). Make that folder writable, or name "
                    "another one with the environment variable PROMPTEDITBENCH_WEIGHTS."
                ) from error
            # The copy is what is loaded, so the copy is what is checked.
            if not cached_sha256(target).startswith(self.sha256):
                target.unlink()
                raise MetricError(f"{path} changed while it was copied. Repeat the command.")
        return target


INCEPTION = WeightFile(
    name="inception-2015-12-05.pt",
    # FID's Inception as StyleGAN's authors traced it; the file that clean-fid uses.
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    folders=("." if os.name == "nt" else "/tmp",),
    licence="Apache-2.0",
    size=95_600_000,
)

# Where torch.hub and torchvision keep the files that they fetch.
_TORCH_HUB = ("~/.cache/torch/hub/checkpoints",)

# torchvision states the first eight digits in the file's name.
SQUEEZENET = WeightFile(
    name="squeezenet1_1-b8a52dc0.pth",
    sha256="b8a52dc0",
    url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    folders=_TORCH_HUB,
    licence="BSD-3-Clause",
    size=5_000_000,
)
# DINO's authors state no SHA-256.
DINO_VITB8 = WeightFile(
    name="dino_vitbase8_pretrain.pth",
    sha256="",
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
    folders=_TORCH_HUB,
    licence="Apache-2.0",
    size=343_000_000,
)
DINO_VITS16 = WeightFile(
    name="dino_deitsmall16_pretrain.pth",
    sha256="",
    url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    folders=_TORCH_HUB,
    licence="Apache-2.0",
    size=86_700_000,
)
DINO_VITB16 = WeightFile(
    name="dino_vitbase16_pretrain.pth",
    sha256="",
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    folders=_TORCH_HUB,
    licence="Apache-2.0",
    size=343_000_000,
)
# DreamSim's changes of that network. Its authors state no SHA-256.
DREAMSIM = WeightFile(
    name="dreamsim_dino_vitb16_checkpoint.zip",
    sha256="",
    url=(
        "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/"
        "dreamsim_dino_vitb16_checkpoint.zip"
    ),
    folders=(),
    licence="MIT",
)
# LAION's linear head on CLIP ViT-L/14. The digits are those of the file in LAION's repository.
AESTHETIC_HEAD = WeightFile(
    name="sa_0_4_vit_l_14_linear.pth",
    sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    url="https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
    folders=(),
    licence="MIT",
    size=3_700,
)

# LAION's second head, a chain of linear layers. The digits are those that its users record.
LAION_HEAD = WeightFile(
    name="sac+logos+ava1-l14-linearMSE.pth",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    folders=(),
    licence="Apache-2.0",
    size=3_700_000,
)
# The publishers of the next three state no SHA-256.
HPS_V21 = WeightFile(
    name="HPS_v2.1_compressed.pt",
    sha256="",
    url="https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt",
    folders=("~/.cache/hpsv2",),
    licence="Apache-2.0",
    size=1_970_000_000,
)
PICK_SCORE = WeightFile(
    name="PickScore_v1.safetensors",
    sha256="",
    url="https://huggingface.co/yuvalkirstain/PickScore_v1/resolve/main/model.safetensors",
    folders=(),
    size=3_940_000_000,
)
IMAGE_REWARD = WeightFile(
    name="ImageReward.pt",
    sha256="",
    url="https://huggingface.co/THUDM/ImageReward/resolve/main/ImageReward.pt",
    folders=("~/.cache/ImageReward",),
    licence="Apache-2.0",
    size=1_790_000_000,
)
# The tokenizer of ImageReward's text encoder.
BERT_VOCABULARY = WeightFile(
    name="bert-base-uncased-vocab.txt",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    url="https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
    folders=(),
    licence="Apache-2.0",
    size=232_000,
)


def weights_folder() -> Path:
    """``$PROMPTEDITBENCH_WEIGHTS``, else ``prompteditbench/weights`` in the user's cache folder."""
    folder = os.environ.get("PROMPTEDITBENCH_WEIGHTS")
    if folder:
        return Path(folder).expanduser()
    # The freedesktop convention for caches.
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "prompteditbench" / "weights"


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once per process while its size and times stay the same. Raises OSError."""
    # Size, modification and change time: a replaced file is hashed again.
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, _size: int, _modified: int, _changed: int) -> str:
    return sha256_file(path)
