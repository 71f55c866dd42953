"""Finds the weights of the diffusion model and of the CLIP before anything heavy is imported."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.downloads import HubFiles, MissingFiles, WebFile, command
from methods import weights as wt
from methods.file_hashes import combined_sha256, sha256_of, sha256_of_each, torch_hub_file
from methods.published import pinned_revision
from methods.weights import Weights, WeightsError
from methods.zoo import manifest as zoo

# The authors' copy on the hub, and guided-diffusion's file in it.
_AUTHORS_COPY = "omriav/blended-diffusion"
HUB_FILE = "checkpoints/256x256_diffusion_uncond.pt"
# Parameters in float32.
_BYTES_256 = 552_814_086 * 4
_ADM_REMEDY = f"Get OpenAI's guided-diffusion (2.21 GB, licence: MIT) with: {command('blended_diffusion')}"

# "quickgelu": OpenAI's weights need the activation x sigmoid(1.702 x). With GELU they load, but the features are
# wrong.
CLIP_MODEL = "ViT-B-16-quickgelu"
CLIP_NAME = f"{CLIP_MODEL}/openai"
# SHA-256 of OpenAI's ViT-B-16.pt, as in the address that OpenAI publishes it at.
CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
_CLIP_HUB = "timm/vit_base_patch16_clip_224.openai"
_CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-16.pt"
_CLIP_BYTES = 351_000_000


@dataclass(frozen=True)
class AdmFiles:
    """The diffusion model: either guided-diffusion's own file, or a UNet2DModel in diffusers' layout."""

    file: Path | None = None
    checkpoint: Weights | None = None


@dataclass(frozen=True)
class ClipFiles:
    """The CLIP: either a folder in open_clip's layout, or a weight file of ``model``."""

    folder: Path | None = None
    file: Path | None = None
    model: str = CLIP_MODEL

    @property
    def is_archive(self) -> bool:
        """True if the file is TorchScript, as OpenAI publishes it, and not plain tensors."""
        if self.file is None or not zipfile.is_zipfile(self.file):
            return False
        try:
            with zipfile.ZipFile(self.file) as archive:
                # A torch.save file is a zip as well. Only TorchScript has this member.
                return any(name.endswith("constants.pkl") for name in archive.namelist())
        except (OSError, zipfile.BadZipFile):
            return False


def find_adm(weights: str, revision: str | None) -> AdmFiles:
    """Raises WeightsError with the remedy where the weights are missing."""
    if weights.endswith(".pt"):
        if revision is not None:
            raise WeightsError(f"revision {revision!r} is for weights of the hub, and {weights!r} is a file")
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(f"weights {weights!r}: no such file. {_ADM_REMEDY}")
        # Half precision would be half of it. A smaller file is a broken download or another model.
        if path.stat().st_size < _BYTES_256 // 2:
            raise WeightsError(
                f"weights {weights!r}: {path.stat().st_size:,} bytes are too few for the 256 px model. {_ADM_REMEDY}"
            )
        return AdmFiles(file=path)
    if wt.kind_of(weights) == "hub":
        snapshot = wt.hub_snapshot(weights, revision)
        if snapshot is None:
            raise WeightsError(_missing_adm(weights, revision))
        if (snapshot / HUB_FILE).is_file():
            return AdmFiles(file=snapshot / HUB_FILE)
    return AdmFiles(checkpoint=wt.find(weights, revision, ("unet", "scheduler")))


def _missing_adm(weights: str, revision: str | None) -> MissingFiles:
    revision = revision or pinned_revision(weights)
    if weights == _AUTHORS_COPY:
        files = HubFiles(weights, revision, (HUB_FILE,), "MIT", _BYTES_256)
    else:
        files = HubFiles(weights, revision, (HUB_FILE, "model_index.json", "unet/*", "scheduler/*"))
    return MissingFiles(f"weights {weights!r} at revision {revision} are not on this machine", [files])


def find_clip(clip: str) -> ClipFiles:
    """Raises WeightsError with the remedy where the weights are missing."""
    if clip.startswith("zoo:"):
        try:
            return ClipFiles(folder=zoo.entry(clip.removeprefix("zoo:")))
        except zoo.ZooError as error:
            raise WeightsError(f"clip {clip!r}: {error}") from error
    if clip == CLIP_NAME:
        for candidate in _clip_places():
            if candidate.is_file():
                return _checked(ClipFiles(file=candidate), clip)
        file = WebFile(_CLIP_URL, _openai_clip(), "MIT", _CLIP_BYTES, CLIP_SHA256)
        raise WeightsError(MissingFiles(f"clip {clip!r}: ViT-B-16.pt is not on this machine", [file]))
    # A path of the user's own.
    path = Path(clip).expanduser()
    if path.is_dir():
        if not (path / "open_clip_config.json").is_file():
            raise WeightsError(f"clip {clip!r}: the folder has no open_clip_config.json. {_CLIP_FORMS}")
        return ClipFiles(folder=path)
    if path.is_file():
        return _checked(ClipFiles(file=path), clip)
    raise WeightsError(f"clip {clip!r}: no such file or folder. {_CLIP_FORMS}")


_CLIP_FORMS = (
    f'Expected "{CLIP_NAME}" (looked up in the local caches), a weight file of that model, a folder in open_clip\'s '
    'layout, or "zoo:NAME".'
)


def _checked(files: ClipFiles, clip: str) -> ClipFiles:
    """The files themselves. Raises WeightsError for a TorchScript archive that is not OpenAI's."""
    # Such an archive holds code, which runs when it is loaded.
    if files.is_archive and files.file is not None and sha256_of(files.file) != CLIP_SHA256:
        raise WeightsError(
            f"clip {clip!r}: {files.file} is a TorchScript archive and not OpenAI's ViT-B-16.pt, of SHA-256 "
            f"{CLIP_SHA256[:12]}. Give plain tensors (safetensors), or delete it and get ViT-B-16.pt with: "
            f"{command('blended_diffusion')}"
        )
    return files


def _clip_places() -> list[Path]:
    """Where open_clip and OpenAI's package store it: the hub's cache, then ``~/.cache/clip``."""
    snapshot = wt.hub_snapshot(_CLIP_HUB)
    hub = [snapshot / "open_clip_model.safetensors"] if snapshot else []
    return [*hub, _openai_clip()]


def _openai_clip() -> Path:
    return Path("~/.cache/clip/ViT-B-16.pt").expanduser()


def vgg_problem() -> str | None:
    """The reason why LPIPS cannot be computed: its VGG-16 is missing, which torchvision would fetch by itself."""
    path = torch_hub_file("vgg16-397923af.pth")
    if path.is_file():
        return None
    # torchvision states the first eight digits of the SHA-256 in the file's name.
    file = WebFile(
        f"https://download.pytorch.org/models/{path.name}", path, "BSD-3-Clause", 553_000_000, "397923af"
    )
    return MissingFiles(
        f"background_loss needs VGG-16 for LPIPS, unless lpips_lambda is 0, and {path} is missing", [file]
    )


def native_size(weights: str, revision: str | None) -> tuple[int, int]:
    """(side in pixels that the model was trained at, number that sides must be a multiple of).

    Raises WeightsError for missing weights and for a UNet of another kind.
    """
    files = find_adm(weights, revision)
    if files.checkpoint is None:
        return 256, 32
    # From the configuration alone, so that a run is planned without loading the network.
    config = files.checkpoint.config("unet")
    size, into, levels = (
        config.get("sample_size"),
        config.get("in_channels"),
        config.get("block_out_channels"),
    )
    patch = next((p for p in range(1, 9) if into == 3 * p**2), None)
    if patch is None or config.get("out_channels") != 6 * patch**2:
        raise WeightsError(
            f"weights {weights!r}: the UNet has {into} input and {config.get('out_channels')} output channels; a "
            "pixel-space model with learnt sigma has 3 and 6, or 3 p² and 6 p² for patches of p x p pixels"
        )
    if not isinstance(size, int) or not isinstance(levels, list):
        raise WeightsError(f"weights {weights!r}: the UNet's sample_size is {size!r}, expected a number")
    return size * patch, patch * 2 ** (len(levels) - 1)


def identity(weights: str, revision: str | None, clip: str) -> dict[str, str]:
    """Facts that fix the tensors of both. For missing ones the option's own value."""
    facts: dict[str, str]
    try:
        files = find_adm(weights, revision)
        if files.file is not None:
            facts = {"sha256": sha256_of(files.file)}
        else:
            facts = wt.identity(weights, revision, ("unet", "scheduler"))
    except WeightsError:
        facts = {"weights": weights}
        if revision is not None:
            facts["revision"] = revision
    return facts | {f"clip_{name}": value for name, value in _clip_identity(clip).items()}


def _clip_identity(clip: str) -> Mapping[str, str]:
    try:
        files = find_clip(clip)
    except WeightsError:
        return {"weights": clip}
    if clip.startswith("zoo:"):
        return wt.zoo_identity(clip)
    if files.file is not None:
        return {"sha256": sha256_of(files.file)}
    assert files.folder is not None
    # Configuration, vocabulary and tensors. A README in the folder changes no result.
    suffixes = (".json", ".txt", ".model", ".safetensors", ".bin", ".pt", ".pth")
    contents = {
        path.name: path
        for path in sorted(files.folder.iterdir())
        if path.is_file() and path.suffix in suffixes and path.name not in zoo.CARDS
    }
    return {"sha256": combined_sha256(sha256_of_each(contents))}
