"""GLIDE's weights are located, checked for completeness, and loaded.

A ``weights`` option is one of

* ``openai:glide-filtered``: OpenAI's published files in the user's cache folder. Nothing is downloaded from here:
  ``run_bench.py fetch`` does it.
* a folder with files of the published names
* a folder in this project's layout: ``base/`` and ``upsampler/``, each with ``config.json`` and ``model.safetensors``,
  and ``tokenizer/``, for which ``shared.json`` may name a sibling
* ``zoo:NAME``: an embedded checkpoint of that layout, checked byte for byte

The check imports no model library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.downloads import MissingFiles, WebFile
from bench.files import cache_folder as user_folder
from methods import weights as stores
from methods.file_hashes import combined_sha256, sha256_of_each
from methods.glide.config import BASE, UPSAMPLER, Part, UNetConfig, read_config
from methods.weights import WeightsError
from methods.zoo import manifest as zoo

if TYPE_CHECKING:
    from torch import Tensor

    from methods.glide.tokenizer import Tokenizer
    from methods.glide.unet import GlideUNet

PUBLISHED = "openai:glide-filtered"
LICENCE = "MIT (OpenAI's model card: for research)"

PARTS: tuple[Part, ...] = ("base", "upsampler")


@dataclass(frozen=True)
class PublishedFile:
    """One of OpenAI's files. ``stem`` is its name without the ending. The URL has the first of ``endings``."""

    stem: str
    endings: tuple[str, ...]
    url: str
    size: int
    """Bytes, rounded."""

    def find(self, folder: Path) -> Path | None:
        for ending in self.endings:
            if (folder / f"{self.stem}{ending}").is_file():
                return folder / f"{self.stem}{ending}"
        return None


_BLOBS = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021"
_CODE = "https://raw.githubusercontent.com/openai/glide-text2im/main/glide_text2im/tokenizer"
# Role -> its file. The sizes of the state dicts are those of their parameters in float32.
FILES: dict[str, PublishedFile] = {
    "base": PublishedFile(
        "base_inpaint", (".pt", ".safetensors"), f"{_BLOBS}/base_inpaint.pt", 1_540_000_000
    ),
    "upsampler": PublishedFile(
        "upsample_inpaint", (".pt", ".safetensors"), f"{_BLOBS}/upsample_inpaint.pt", 1_590_000_000
    ),
    "encoder": PublishedFile("encoder.json", (".gz", ""), f"{_CODE}/encoder.json.gz", 400_000),
    "merges": PublishedFile("vocab.bpe", (".gz", ""), f"{_CODE}/vocab.bpe.gz", 200_000),
}


@dataclass(frozen=True)
class GlideFiles:
    """Complete weights: configuration and tensor file of each network, and the files of the tokenizer."""

    name: str
    configs: dict[Part, UNetConfig]
    tensors: dict[Part, Path]
    # ``encoder`` and ``merges``, or ``folder``.
    tokenizer: dict[str, Path]

    @property
    def native_size(self) -> int:
        return self.configs["upsampler"].image_size

    def files(self) -> dict[str, Path]:
        """Role -> every file that results depend on, except the configurations."""
        files: dict[str, Path] = {part: self.tensors[part] for part in PARTS}
        for role, path in self.tokenizer.items():
            if role == "folder":
                files |= {f"tokenizer/{file.name}": file for file in sorted(path.glob("tokenizer*.json"))}
            else:
                files[role] = path
        return files


def find(weights: str) -> GlideFiles:
    """Raises WeightsError with the remedy where something is missing or unfit."""
    if weights == PUBLISHED:
        return _published(weights, cache_folder())
    if weights.startswith("zoo:"):
        return _layout(weights, stores.zoo_folder(weights))
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f'weights {weights!r}: no such folder. Expected "{PUBLISHED}", a folder with OpenAI\'s files '
            '(or base/, upsampler/ and tokenizer/), or "zoo:glide"'
        )
    if (folder / "base").is_dir():
        return _layout(weights, folder)
    return _published(weights, folder)


def problems(weights: str) -> list[str]:
    """Reasons why ``weights`` cannot be used, each with its remedy."""
    return stores.problems_of(lambda: find(weights))


def identity(weights: str) -> dict[str, str]:
    """Facts that fix the tensors behind ``weights``. For absent ones the option's own value."""
    try:
        files = find(weights)
    except WeightsError:
        return {"weights": weights}
    if weights.startswith("zoo:"):
        return stores.zoo_identity(weights)
    lines = sha256_of_each(files.files())
    lines |= {part: f"{lines[part]} {config}" for part, config in files.configs.items()}
    return {"sha256": combined_sha256(lines)}


def cache_folder() -> Path:
    """``glide`` in ``$PROMPTEDITBENCH_CACHE``, else in ``prompteditbench`` of the user's cache folder."""
    return user_folder() / "glide"


def missing_files(weights: str, folder: Path, missing: list[str]) -> MissingFiles:
    """The problem of a folder that lacks the published files of these roles."""
    files = [
        WebFile(file.url, folder / file.url.rsplit("/", 1)[1], LICENCE, file.size)
        for file in (FILES[role] for role in missing)
    ]
    names = ", ".join(file.title for file in files)
    return MissingFiles(f"weights {weights!r}: {folder} lacks {names}", files)


def _published(weights: str, folder: Path) -> GlideFiles:
    candidates = {role: file.find(folder) for role, file in FILES.items()}
    missing = [role for role, path in candidates.items() if path is None]
    if missing:
        raise WeightsError(missing_files(weights, folder, missing))
    paths = {role: path for role, path in candidates.items() if path is not None}
    return GlideFiles(
        weights,
        {"base": BASE, "upsampler": UPSAMPLER},
        {part: paths[part] for part in PARTS},
        {role: paths[role] for role in ("encoder", "merges")},
    )


def _layout(weights: str, folder: Path) -> GlideFiles:
    # Both networks.
    configs: dict[Part, UNetConfig] = {}
    tensors: dict[Part, Path] = {}
    for part in PARTS:
        tensors[part] = folder / part / "model.safetensors"
        for path in (tensors[part], folder / part / "config.json"):
            if not path.is_file():
                raise WeightsError(f"weights {weights!r}: {path} is missing")
        config = configs[part] = read_config(folder / part / "config.json")
        if config.kind != part:
            raise WeightsError(f"{folder / part / 'config.json'}: kind is {config.kind!r}, expected {part!r}")
    if configs["upsampler"].image_size % configs["base"].image_size:
        raise WeightsError(
            f"weights {weights!r}: the upsampler's {configs['upsampler'].image_size} pixels are no multiple of "
            f"the base's {configs['base'].image_size}"
        )

    # The tokenizer, which another checkpoint may hold.
    try:
        tokenizer = stores.locate_part(folder, "tokenizer")
    except zoo.ZooError as error:
        raise WeightsError(f"weights {weights!r}: {error}") from error
    if tokenizer is None or not (tokenizer / "tokenizer.json").is_file():
        raise WeightsError(f"weights {weights!r}: {folder} lacks tokenizer/tokenizer.json")
    return GlideFiles(weights, configs, tensors, {"folder": tokenizer})


# --- loading ---------------------------------------------------------------------------------------


def load_tokenizer(files: GlideFiles) -> Tokenizer:
    """The tokenizer of both networks. Raises WeightsError where it does not have their vocabulary."""
    from methods.glide import tokenizer as tk

    vocabularies = {config.vocabulary for config in files.configs.values()}
    if "folder" not in files.tokenizer:
        encoder, merges = files.tokenizer["encoder"], files.tokenizer["merges"]
        return tk.byte_pairs(encoder, merges, vocabularies.pop())
    from transformers import CLIPTokenizer

    folder = files.tokenizer["folder"]
    tokenizer = tk.words(CLIPTokenizer.from_pretrained(str(folder), local_files_only=True))
    if vocabularies != {tokenizer.vocabulary}:
        raise WeightsError(f"{folder}: {tokenizer.vocabulary} tokens, the networks know {vocabularies}")
    return tokenizer


def load_network(files: GlideFiles, part: Part, device: str = "cpu") -> GlideUNet:
    """One network in float32, frozen, in evaluation mode. Raises WeightsError for tensors that do not fit it."""
    import torch

    from methods.glide.unet import GlideUNet

    path, config = files.tensors[part], files.configs[part]
    state = read_state(path)
    # Without memory of its own: the tensors of the file become the parameters.
    with torch.device("meta"):
        network = GlideUNet(config)
    check_state(state, network.state_dict(), path)
    network.load_state_dict({name: value.float() for name, value in state.items()}, strict=True, assign=True)
    # Channels last is a third faster on the CPU, and what half precision wants on a GPU.
    return network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a pickle that may hold tensors and nothing else."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a pickle could run code otherwise.
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file makes the unpickler raise whatever its bytes provoke: KeyError, EOFError, RuntimeError...
        first = str(error).strip().splitlines()[:1]
        raise WeightsError(
            f"{path}: cannot be read as weights ({' '.join(first)}). Fetch it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: expected a state dict, names to tensors and nothing else")
    return state


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Raises WeightsError that names the file and the differences of its tensors from the ``expected`` ones."""
    # The first layer tells the published files apart.
    first = "input_blocks.0.0.weight"
    if first in state and state[first].shape != expected[first].shape:
        has, needs = state[first].shape[1], expected[first].shape[1]
        if has != needs:
            raise WeightsError(
                f"{path}: a network of {has} input channels, expected {needs}: the published ones have 3 (base), "
                "6 (upsample), 7 (base_inpaint) and 10 (upsample_inpaint)"
            )

    # Anything else that differs.
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shapes = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    faults = [
        f"{len(names)} {what}, as {names[0]}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise WeightsError(f"{path}: tensors do not fit: {'; '.join(faults)}")
