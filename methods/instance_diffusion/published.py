"""The authors' weights: where they are, and the map from their names to those of ``InstanceAdapter``.

The file holds the whole UNet of Stable Diffusion 1.5 in the layout of the latent-diffusion code, with the additions.
Their training freezes the UNet, so only the additions are read, and the base comes from its own checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.downloads import HubFiles, MissingFiles, command
from methods import weights as wt
from methods.file_hashes import sha256_of
from methods.published import pinned_revision
from methods.weights import WeightsError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from methods.instance_diffusion.model import InstanceAdapter

PART = "instance"
HUB = "xudongw/InstanceDiffusion"
FILE = "instancediffusion_sd15.pth"
SUFFIXES = (".pth", ".safetensors")
LICENCE = "none stated; made from Stable Diffusion 1.5 (CreativeML OpenRAIL-M)"
_BYTES = 13_600_000_000
# torch refuses a pickle of anything but tensors, and this file also holds the configuration's objects.
_CONVERT = (
    "Convert it once, which runs what the pickle holds, so only with the authors' own file: python -c \"import torch; "
    "from safetensors.torch import save_file; "
    f"s = torch.load('{FILE}', map_location='cpu', weights_only=False)['ema']; "
    f"save_file({{k: v.half().contiguous() for k, v in s.items()}}, '{FILE.replace('.pth', '.safetensors')}')\""
)

# Options of the published additions (``InstanceAdapter``).
CONFIG: dict[str, Any] = {
    "forms": ("box", "point", "scribble", "polygon"),
    "slots": 30,
    "hidden": 3072,
    "frequencies": 16,
    "polygon_points": 256,
    "scribble_points": 20,
    "segment_side": 512,
    "segment_depths": (3, 3, 9, 3),
    "segment_widths": (96, 192, 384, 768),
    "segment_tokens": 64,
    # The authors' programs sample without.
    "masked": False,
}
# Their MLPs by number, in the order of the forms.
_PROJECTIONS = ("box", "point", "scribble", "polygon", "segments")
_NULLS = {
    "position": "box",
    "point": "point",
    "scribble": "scribble",
    "polygon": "polygon",
    "seg": "segments",
}

# Pattern of a published name -> what builds ours from its groups.
_RULES: tuple[tuple[str, Any], ...] = (
    (r"position_net\.null_positive_feature", lambda: "fusion.null_text"),
    (r"position_net\.null_(\w+)_feature", lambda form: f"fusion.nulls.{_NULLS[form]}"),
    (
        r"position_net\.linears_list\.(\d)\.(.+)",
        lambda n, rest: f"fusion.projections.{_PROJECTIONS[int(n)]}.{rest}",
    ),
    (r"position_net\.in_conv\.(.+)", lambda rest: f"fusion.merge.{rest}"),
    (r"position_net\.pos_embedding", lambda: "fusion.segment_positions"),
    (
        r"position_net\.convnext_tiny_backbone\.downsample_layers\.0\.0\.(.+)",
        lambda rest: f"fusion.backbone.embeddings.patch_embeddings.{rest}",
    ),
    (
        r"position_net\.convnext_tiny_backbone\.downsample_layers\.0\.1\.(.+)",
        lambda rest: f"fusion.backbone.embeddings.layernorm.{rest}",
    ),
    (
        r"position_net\.convnext_tiny_backbone\.downsample_layers\.([1-3])\.(.+)",
        lambda n, rest: f"fusion.backbone.encoder.stages.{n}.downsampling_layer.{rest}",
    ),
    (
        r"position_net\.convnext_tiny_backbone\.stages\.(\d)\.(\d)\.gamma",
        lambda n, k: f"fusion.backbone.encoder.stages.{n}.layers.{k}.layer_scale_parameter",
    ),
    (
        r"position_net\.convnext_tiny_backbone\.stages\.(\d)\.(\d)\.norm\.(.+)",
        lambda n, k, rest: f"fusion.backbone.encoder.stages.{n}.layers.{k}.layernorm.{rest}",
    ),
    (
        r"position_net\.convnext_tiny_backbone\.stages\.(\d)\.(\d)\.((?:dwconv|pwconv1|pwconv2)\..+)",
        lambda n, k, rest: f"fusion.backbone.encoder.stages.{n}.layers.{k}.{rest}",
    ),
    (r"scaleu_b_(\d+)", lambda n: f"scales.{_decoder(int(n))}.backbone"),
    (r"scaleu_s_(\d+)", lambda n: f"scales.{_decoder(int(n))}.skip"),
    (
        r"(\w+_blocks?)\.(?:(\d+)\.)?1\.transformer_blocks\.0\.fuser\.(.+)",
        lambda part, n, rest: f"fusers.{_block(part, n)}.{rest}",
    ),
)


def _decoder(number: int) -> str:
    # Three residual blocks per level.
    return f"up_blocks_{number // 3}_resnets_{number % 3}"


def _block(part: str, number: str | None) -> str:
    """The transformer block of a published block: 1, 2, 4, 5, 7 and 8 of the encoder, 3 to 11 of the decoder."""
    if part == "middle_block":
        place = "mid_block_attentions_0"
    elif part == "input_blocks":
        # Block 0 is the first convolution. Then each level has two blocks and a convolution.
        level, block = divmod(int(number or 0) - 1, 3)
        place = f"down_blocks_{level}_attentions_{block}"
    else:
        level, block = divmod(int(number or 0), 3)
        place = f"up_blocks_{level}_attentions_{block}"
    return f"{place}_transformer_blocks_0"


def renamed(name: str) -> str | None:
    """Our name of a published tensor. None for one of the base UNet."""
    for pattern, build in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return str(build(*match.groups()))
    return None


def adapter_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The additions in the published state dict, under our names."""
    return {ours: value for name, value in published.items() if (ours := renamed(name)) is not None}


def load(path: Path, base: UNet2DConditionModel) -> InstanceAdapter:
    """The published additions to ``base``, float32. Raises WeightsError for a file that does not fit."""
    from methods.instance_diffusion.model import InstanceAdapter

    state = adapter_state(_read(path))
    adapter: InstanceAdapter = InstanceAdapter.from_base(base, **CONFIG)
    try:
        adapter.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the published weights of InstanceDiffusion: {error}") from None
    return adapter


def _read(path: Path) -> Mapping[str, Tensor]:
    import pickle

    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise WeightsError(f"{path}: torch does not read it as plain tensors ({first}). {_CONVERT}") from None
    # The averaged weights, where the file holds a whole training.
    state: Mapping[str, Tensor] = saved.get("ema", saved.get("model", saved))
    return state


# --- finding -----------------------------------------------------------------------------------------


def find(weights: str) -> Path | wt.Weights:
    """A published file, or a checkpoint of this project. Raises WeightsError with the remedy for missing ones."""
    if weights.endswith(SUFFIXES):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"instance_weights {weights!r}: no such file. Correct the path, or write {HUB} and get the authors' "
                f"file with: {command('instance_diffusion')}"
            )
        return path
    if weights != HUB:
        return wt.find(weights, parts=(PART,))
    snapshot = wt.hub_snapshot(HUB)
    if snapshot is not None and (snapshot / FILE).is_file():
        return snapshot / FILE
    files = HubFiles(HUB, pinned_revision(HUB), (FILE,), LICENCE, _BYTES)
    raise WeightsError(MissingFiles(f"instance_weights {weights!r} are not on this machine", [files]))


def problems(weights: str) -> list[str]:
    """Reasons why the additions cannot be used, each with its remedy."""
    return wt.problems_of(lambda: find(weights))


def identity(weights: str) -> dict[str, str]:
    """Facts that fix the tensors. For missing ones the option's own value."""
    try:
        additions = find(weights)
    except WeightsError:
        return {"weights": weights}
    if isinstance(additions, Path):
        return {"sha256": sha256_of(additions)}
    return wt.identity(weights, parts=(PART,))
