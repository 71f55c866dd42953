"""Locations of a method's weights, checks of completeness, and remedies for missing ones.

A ``weights`` option is one of

* ``owner/name``: a model on the hub, looked up in the local hub cache only, at a pinned revision. Nothing is
  downloaded from here: ``run_bench.py fetch`` does it.
* a folder in diffusers' own layout (``model_index.json``, ``unet/``, ``vae/``, ...)
* ``zoo:NAME``: an embedded checkpoint, checked byte for byte.

All three give the same value, :class:`Weights`, with a folder per part. No model library is imported, so the check is
cheap and comes before any model loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError
from bench.files import parse_json
from methods.file_hashes import combined_sha256, sha256_of_each
from methods.published import missing_weights, pinned_revision
from methods.zoo import manifest as zoo

# The parts of a Stable Diffusion 1.x or 2.x pipeline. The safety checker is not among them.
PIPELINE_PARTS: tuple[str, ...] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

# The parts that hold tensors.
MODEL_PARTS: tuple[str, ...] = ("unet", "vae", "text_encoder", "controlnet", "instance")

# Part -> the files of which one is its configuration, where that is not ``config.json``.
_CONFIGS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "scheduler": ("scheduler_config.json",),
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FOLDER_REMEDY = (
    "Expected diffusers' own layout, as save_pretrained writes it: model_index.json and a folder per part, "
    "each with its configuration and its tensors as safetensors."
)

Kind = Literal["hub", "folder", "zoo"]


class WeightsError(BenchError):
    """Weights are missing or unfit. The message says which, and what to do."""


@dataclass(frozen=True)
class Weights:
    """Complete weights: one folder per part, each with its configuration and its tensors."""

    kind: Kind
    name: str
    root: Path
    parts: Mapping[str, Path]
    # The commit, for weights of the hub.
    revision: str | None = None

    @property
    def variant(self) -> str | None:
        """The stored precision that is read: None for the plain files if they are complete, else ``"fp16"``."""
        # Decided by the files alone, never by device or precision of the run, so that it is the same everywhere.
        # Pickles are the last resort.
        models = [stored(folder) for part, folder in self.parts.items() if part in MODEL_PARTS]
        if any("safetensors" not in forms and "fp16.safetensors" in forms for forms in models):
            return "fp16"
        return None

    def config(self, part: str) -> dict[str, Any]:
        """The JSON configuration of a part. Raises WeightsError that names the file if it is broken."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.parts[part] / name)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent sample along a side: 2 ** (levels - 1), as in diffusers' pipelines."""
        levels = self.config("vae").get("block_out_channels", [0])
        if not isinstance(levels, list) or not levels:
            raise WeightsError(
                f"{self.parts['vae'] / 'config.json'}: block_out_channels is {levels!r}, expected a list of numbers"
            )
        return int(2 ** (len(levels) - 1))

    @property
    def native_size(self) -> int:
        """Side length in pixels at which the UNet was trained."""
        size = self.config("unet").get("sample_size")
        # True is an int to Python.
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= 1024:
            raise WeightsError(
                f"{self.parts['unet'] / 'config.json'}: sample_size is {size!r}, expected a number"
            )
        return size * self.vae_factor


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError that names the file."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected a JSON object")
    return value


# --- finding and identifying -----------------------------------------------------------------------


def kind_of(weights: str) -> Kind:
    """The form of ``weights``, one of the three. Raises WeightsError for any other text."""
    if weights.startswith("zoo:"):
        return "zoo"
    path = Path(weights).expanduser()
    # An existing folder goes first, since "a/b" may be a folder or a model of the hub.
    if path.is_dir() or path.is_absolute() or weights.startswith((".", "~")):
        return "folder"
    if _HUB_ID.fullmatch(weights):
        return "hub"
    raise WeightsError(
        f"weights {weights!r}: expected owner/name of a model on the hub, an existing folder in diffusers' "
        'layout, or "zoo:NAME" of an embedded checkpoint'
    )


def find(weights: str, revision: str | None = None, parts: Sequence[str] = PIPELINE_PARTS) -> Weights:
    """Finds ``parts`` of ``weights``. Raises WeightsError with the remedy where something is missing.

    ``revision`` (a commit, a tag or a branch) is for weights of the hub. None is the pinned commit of the published
    checkpoints and ``main`` of any other.
    """
    kind = kind_of(weights)
    if kind == "hub":
        snapshot = hub_snapshot(weights, revision)
        folders, missing = _parts(snapshot, parts) if snapshot else ({}, [])
        if snapshot is None or missing:
            # Without any part, a list of every missing file would only hide the rest.
            raise WeightsError(missing_weights(weights, revision, parts, missing if folders else ()))
        # The hub's cache names the folder of a snapshot by its commit.
        return Weights(kind, weights, snapshot, folders, snapshot.name)
    if revision is not None:
        raise WeightsError(f"revision {revision!r} is for weights of the hub, and {weights!r} is a {kind}")

    root = zoo_folder(weights) if kind == "zoo" else Path(weights).expanduser()
    if not root.is_dir():
        raise WeightsError(f"weights {weights!r}: no such folder. {FOLDER_REMEDY}")
    try:
        folders, missing = _parts(root, parts)
    except zoo.ZooError as error:
        raise WeightsError(f"weights {weights!r}: {error}") from error
    if missing:
        names = ", ".join(missing)
        state = f"{root} lacks {names}" if kind == "zoo" else f"the folder lacks {names}. {FOLDER_REMEDY}"
        raise WeightsError(f"weights {weights!r}: {state}")
    return Weights(kind, weights.removeprefix("zoo:"), root, folders)


def problems_of(find: Callable[[], object]) -> list[str]:
    """The problem of the WeightsError that ``find`` raises, with its remedy. Empty where it raises none."""
    try:
        find()
    except WeightsError as error:
        return [error.problem]
    return []


def problems(
    weights: str,
    revision: str | None = None,
    parts: Sequence[str] = PIPELINE_PARTS,
    *,
    channels: Sequence[int] = (),
) -> list[str]:
    """Reasons why ``weights`` cannot be used, each with its remedy.

    ``channels``: input channels that the UNet may have, which tell the kinds of checkpoints apart.
    """
    try:
        checkpoint = find(weights, revision, parts)
        # Both raise where the configuration is unfit.
        if "vae" in parts:
            checkpoint.vae_factor  # noqa: B018
        if "unet" not in parts:
            return []
        checkpoint.native_size  # noqa: B018
        has = checkpoint.config("unet").get("in_channels")
    except WeightsError as error:
        return [error.problem]
    # SDXL has a second text encoder, and a UNet of as many input channels as Stable Diffusion's.
    if (checkpoint.root / "text_encoder_2").is_dir():
        return [f"weights {weights!r}: an SDXL checkpoint; this method takes Stable Diffusion 1.x and 2.x"]
    if channels and has not in channels:
        expected = " or ".join(str(count) for count in channels)
        return [f"weights {weights!r}: the UNet has {has} input channels, this method needs {expected}"]
    return []


def identity(
    weights: str, revision: str | None = None, parts: Sequence[str] = PIPELINE_PARTS
) -> dict[str, str]:
    """Facts that fix the tensors behind ``weights``: a commit, or a SHA-256 over the files.

    For missing weights it has only the option's own value, because there is no content to hash.
    """
    try:
        checkpoint = find(weights, revision, parts)
    except WeightsError:
        facts = {"weights": weights}
        if kind_of(weights) == "hub":
            facts["revision"] = revision or pinned_revision(weights)
        return facts
    return identity_of(checkpoint)


def identity_of(checkpoint: Weights) -> dict[str, str]:
    """Facts that fix the tensors of weights that are on this machine."""
    if checkpoint.kind == "hub":
        facts = {"hub": checkpoint.name, "revision": checkpoint.revision or ""}
        return facts | ({"variant": checkpoint.variant} if checkpoint.variant else {})
    if checkpoint.kind == "zoo":
        return zoo_identity(checkpoint.name)
    return {"sha256": content_hash(checkpoint.parts)}


# --- embedded checkpoints and the hub's cache --------------------------------------------------------


def zoo_folder(weights: str) -> Path:
    """The folder of the embedded checkpoint ``zoo:NAME``, checked byte for byte. Raises WeightsError."""
    try:
        return zoo.entry(weights.removeprefix("zoo:"))
    except zoo.ZooError as error:
        raise WeightsError(f"weights {weights!r}: {error}") from error


def zoo_identity(weights: str) -> dict[str, str]:
    """Name and SHA-256 of the embedded checkpoint ``zoo:NAME``."""
    name = weights.removeprefix("zoo:")
    return {"zoo": name, "sha256": zoo.digest(name)}


def training_remark(weights: str) -> str:
    """``under-trained`` for an embedded checkpoint that saw fewer samples than its recipe states, else empty."""
    if not weights.startswith("zoo:"):
        return ""
    return "under-trained" if zoo.training_gap(weights.removeprefix("zoo:")) else ""


def hub_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The folder of a model in the hub's local cache, which may be incomplete. None where there is none.

    Its name is the commit. ``revision`` None is the pinned one. Raises WeightsError for a name that the hub cannot
    have.
    """
    commit_or_branch = revision or pinned_revision(hub_id)
    # The revision becomes part of a path in the cache.
    if ".." in Path(commit_or_branch).parts:
        raise WeightsError(f"revision {commit_or_branch!r} is not a commit, a tag or a branch")

    # Imported here: embedded checkpoints and folders need nothing of it.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            hub_id, revision=commit_or_branch, cache_dir=constants.HF_HUB_CACHE, local_files_only=True
        )
    except IncompleteSnapshotError as error:
        # Files that no part needs may be missing by intent: ``find`` names those that are needed.
        folder = error.snapshot_path
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise WeightsError(f"weights {hub_id!r}: {error}") from error
    return Path(str(folder))


# --- folders -----------------------------------------------------------------------------------------


def _parts(root: Path, parts: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """(part -> its folder, relative names of the missing files)."""
    folders: dict[str, Path] = {}
    missing: list[str] = []
    for part in parts:
        folder = locate_part(root, part)
        if folder is None and len(parts) == 1 and (root / "config.json").is_file():
            folder = root  # a folder that is itself the one part, e.g. a bare autoencoder
        if folder is None:
            missing.append(f"{part}/")
            continue
        missing_files = _missing_files(folder, part)
        missing += missing_files
        if not missing_files:
            folders[part] = folder
    if len(parts) > 1 and not (root / "model_index.json").is_file():
        missing.insert(0, "model_index.json")
    return folders, missing


def locate_part(root: Path, part: str) -> Path | None:
    """The folder of a part: ``root/part``, or the one that ``shared.json`` of ``root`` names. None for neither.

    ``{"vae": "autoencoder"}`` means ``../autoencoder/vae`` or, if that folder is itself the part, ``../autoencoder``.
    A folder that shares the part in turn is followed. Raises ZooError for a broken ``shared.json``.
    """
    visited: set[Path] = set()
    while root not in visited:
        visited.add(root)
        if (root / part).is_dir():
            return root / part
        sibling = zoo.read_shared(root).get(part)
        if sibling is None:
            # The end of the chain. Only a folder that another one named can be the part itself.
            is_part = len(visited) > 1 and any((root / name).is_file() for name in _config_names(part))
            return root if is_part else None
        root = root.parent / sibling
    return None


def stored(folder: Path) -> set[str]:
    """The forms of a part's tensors that exist: "safetensors", "fp16.safetensors", "bin", "fp16.bin"."""
    forms: set[str] = set()
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for form in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
            # One file, or the index of several: model.safetensors.index.fp16.json.
            suffix = form.removeprefix("fp16.")
            half = ".fp16" if form.startswith("fp16.") else ""
            index = f"{stem}.{suffix}.index{half}.json"
            if (folder / f"{stem}.{form}").exists() or (folder / index).exists():
                forms.add(form)
    return forms


def content_hash(parts: Mapping[str, Path]) -> str:
    """SHA-256 (64 hex digits) over names and contents of every file of every part. Paths do not enter."""
    return combined_sha256(
        sha256_of_each(
            {
                f"{part}/{path.name}": path
                for part, folder in parts.items()
                for path in sorted(folder.iterdir())
                if path.is_file() and path.suffix in {".json", ".txt", ".safetensors", ".bin", ".model"}
            }
        )
    )


def _config_names(part: str) -> tuple[str, ...]:
    return _CONFIGS.get(part, ("config.json",))


def _missing_files(folder: Path, part: str) -> list[str]:
    names = _config_names(part)
    if not any((folder / name).is_file() for name in names):
        return [f"{part}/{' or '.join(names)}"]
    if part in MODEL_PARTS and not stored(folder) & {"safetensors", "fp16.safetensors", "bin"}:
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        return [f"{part}/{stem}.safetensors"]
    return []
