"""Finds the pixel-space diffusion model of RePaint, and reads its shape, before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.downloads import HubFiles, MissingFiles
from methods import weights as wt
from methods.blended_diffusion import files
from methods.blended_diffusion.files import AdmFiles
from methods.file_hashes import sha256_of
from methods.published import pinned_revision
from methods.weights import Weights, WeightsError

GUIDED_DIFFUSION = "omriav/blended-diffusion"
"""The repository on the hub that holds a copy of guided-diffusion's ``256x256_diffusion_uncond.pt``."""

PORTRAITS = "google/ddpm-ema-celebahq-256"
"""A model of CelebA-HQ portraits with fixed variances."""

_PARTS = ("unet", "scheduler")


@dataclass(frozen=True)
class Shape:
    """Sizes of the images that the network takes."""

    # Side in pixels that the model was trained at.
    native_size: int
    # Number that sides must be a multiple of.
    factor: int
    # Whether the network predicts the variance of a step too.
    learnt_variance: bool


def find(weights: str, revision: str | None) -> AdmFiles:
    """The files of the model. Raises WeightsError with the remedy where they are missing."""
    if weights.endswith(".pt") or weights == GUIDED_DIFFUSION or weights.startswith("zoo:"):
        return files.find_adm(weights, revision)
    # The older pipelines of the hub have network and scheduler in the repository's root.
    kind = wt.kind_of(weights)
    root = wt.hub_snapshot(weights, revision) if kind == "hub" else Path(weights).expanduser()
    if root is None:
        raise WeightsError(_missing(weights, revision or pinned_revision(weights)))
    if _is_flat(root):
        parts = dict.fromkeys(_PARTS, root)
        return AdmFiles(checkpoint=Weights(kind, weights, root, parts, root.name if kind == "hub" else None))
    return AdmFiles(checkpoint=wt.find(weights, revision, _PARTS))


def _missing(weights: str, revision: str) -> MissingFiles:
    cause = f"weights {weights!r} at revision {revision} are not on this machine"
    flat = ("model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model*")
    if weights == PORTRAITS:
        return MissingFiles(cause, [HubFiles(weights, revision, flat, "Apache-2.0", 455_000_000)])
    return MissingFiles(cause, [HubFiles(weights, revision, (*flat, "unet/*", "scheduler/*"))])


def _is_flat(root: Path) -> bool:
    names = ("config.json", "scheduler_config.json")
    return all((root / name).is_file() for name in names) and bool(wt.stored(root))


def shape(weights: str, revision: str | None) -> Shape:
    """Raises WeightsError for missing weights and for a network that is no pixel-space diffusion model."""
    model = find(weights, revision)
    if model.checkpoint is None:
        return Shape(256, 32, True)
    # From the configuration alone, so that a run is planned without loading the network.
    config = model.checkpoint.config("unet")
    names = ("sample_size", "in_channels", "out_channels", "block_out_channels")
    size, inputs, outputs, levels = (config.get(name) for name in names)
    # Squares of p x p pixels may be channels.
    patch = next((p for p in range(1, 9) if inputs == 3 * p**2), None)
    if patch is None or outputs not in (3 * patch**2, 6 * patch**2):
        raise WeightsError(
            f"weights {weights!r}: the UNet has {inputs} input and {outputs} output channels; a pixel-space model "
            "has 3 and 3, or 3 and 6 with a learnt variance, each times p² for patches of p x p pixels"
        )
    if not isinstance(size, int) or not isinstance(levels, list):
        raise WeightsError(f"weights {weights!r}: the UNet's sample_size is {size!r}, expected a number")
    return Shape(size * patch, patch * 2 ** (len(levels) - 1), outputs == 6 * patch**2)


def schedule_problems(weights: str, checkpoint: Weights, learnt_variance: bool) -> list[str]:
    """Problems of a checkpoint's noise schedule."""
    config: dict[str, Any] = checkpoint.config("scheduler")
    prediction = config.get("prediction_type", "epsilon")
    problems = []
    if prediction not in ("epsilon", "v_prediction"):
        problems.append(
            f"weights {weights!r}: prediction_type {prediction!r}, expected epsilon or v_prediction"
        )
    if config.get("beta_schedule") not in ("linear", "squaredcos_cap_v2"):
        problems.append(
            f"weights {weights!r}: beta_schedule {config.get('beta_schedule')!r}, expected linear or squaredcos_cap_v2"
        )
    variance = config.get("variance_type", "fixed_small")
    expected = ("learned_range",) if learnt_variance else ("fixed_small", "fixed_small_log", "fixed_large")
    if variance not in expected:
        problems.append(f"weights {weights!r}: variance_type {variance!r}, expected {' or '.join(expected)}")
    return problems


def identity(weights: str, revision: str | None) -> dict[str, str]:
    """Facts that fix the tensors. For missing ones the option's own value."""
    try:
        model = find(weights, revision)
        if model.file is not None:
            return {"sha256": sha256_of(model.file)}
        checkpoint = model.checkpoint
        assert checkpoint is not None
        if checkpoint.kind == "zoo":
            return wt.zoo_identity(weights)
        if checkpoint.kind == "hub":
            return {"hub": checkpoint.name, "revision": checkpoint.revision or ""}
        return {"sha256": wt.content_hash(checkpoint.parts)}
    except WeightsError:
        return {"weights": weights} | ({"revision": revision} if revision is not None else {})
