"""LaMa's weights are located and checked. An error names the remedy.

A ``weights`` option is one of

* a TorchScript file with LaMa's call (image and mask in, filled image out): big-lama.pt or one like it. Such a file
  holds code that runs when it is loaded, so only a file of a known SHA-256 is opened: the published one, or the one
  that the option ``sha256`` names.
* a folder that :func:`methods.lama.network.save` wrote
* ``zoo:NAME``: an embedded checkpoint

Nothing is downloaded from here: ``run_bench.py fetch`` does it. This module does not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.downloads import MissingFiles, WebFile, command
from methods import weights as wt
from methods.file_hashes import sha256_of, torch_hub_file

PUBLIC_NAME = "big-lama.pt"
PUBLIC_URL = "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt"
PUBLIC_BYTES = 205_669_692
# SHA-256 of the file. Its MD5, which other programs check, is e3aa4aaa15225a33ec84f9f4bc47e500.
PUBLIC_SHA256 = "344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9"
PUBLIC_LICENCE = "Apache-2.0"

_PARTS = ("config.json", "model.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LamaFiles:
    """Complete weights of a known content."""

    kind: Literal["torchscript", "folder", "zoo"]
    path: Path
    # SHA-256 of the file, or over the files of a folder.
    sha256: str


def public_path() -> Path:
    """The place of the published file in torch's hub, which programs that use LaMa share."""
    return torch_hub_file(PUBLIC_NAME)


def locate(weights: str) -> Path:
    """The file or folder that ``weights`` means. The bare name big-lama.pt, if not right here, is in torch's hub."""
    path = Path(weights).expanduser()
    # A file in the working folder goes first: the user has put it there.
    return public_path() if weights == PUBLIC_NAME and not path.exists() else path


def find(weights: str, sha256: str | None = None) -> LamaFiles:
    """Finds and checks weights. Raises WeightsError that names the file, the fault and the remedy.

    ``sha256``: 64 hex digits that a TorchScript file must have. None is the published file's. The hash may come from a
    cache, so the code that loads the file checks the bytes that it has read.
    """
    if weights.startswith("zoo:"):
        return LamaFiles("zoo", _complete(wt.zoo_folder(weights)), wt.zoo_identity(weights)["sha256"])
    path = locate(weights)
    # A folder holds safetensors and JSON, which run no code, so any content may be opened.
    if path.is_dir():
        return LamaFiles("folder", _complete(path), wt.content_hash({"generator": path}))
    # Some programs print the digits in capitals.
    expected = (sha256 or PUBLIC_SHA256).lower()
    if not _SHA256.fullmatch(expected):
        raise wt.WeightsError(
            f"sha256 {sha256!r}: expected 64 hexadecimal digits, as `sha256sum FILE` prints"
        )
    if not path.is_file():
        raise wt.WeightsError(missing_file(weights, path, expected))
    # Before anything is opened. `method._load` hashes the bytes again that it then runs.
    actual = sha256_of(path)
    if actual != expected:
        whose = "that of the published big-lama.pt" if expected == PUBLIC_SHA256 else "what the option says"
        raise wt.WeightsError(
            f"weights {weights!r}: {path} ({path.stat().st_size:,} bytes) has SHA-256 {actual}, not {expected}, "
            f"{whose}. A TorchScript file holds code, so an unknown one is not opened: {remedy(path)} "
            f"If you trust this file, say so with the option sha256: {actual}"
        )
    return LamaFiles("torchscript", path, actual)


def missing_file(weights: str, path: Path, expected: str) -> str:
    """The problem of a file that is not there. ``expected`` is the SHA-256 that it should have, 64 hex digits."""
    cause = f"weights {weights!r}: there is no file {path}"
    if expected != PUBLIC_SHA256:
        return f"{cause}. Put the file there whose SHA-256 the option sha256 names, or correct the path."
    return MissingFiles(cause, [WebFile(PUBLIC_URL, path, PUBLIC_LICENCE, PUBLIC_BYTES, PUBLIC_SHA256)])


def remedy(path: Path) -> str:
    """The remedy for a file of another content than the published one."""
    return (
        f"Delete {path}, then get {PUBLIC_NAME} ({PUBLIC_BYTES:,} bytes, licence: {PUBLIC_LICENCE}) with: "
        f"{command('lama')}."
    )


def _complete(folder: Path) -> Path:
    missing = [name for name in _PARTS if not (folder / name).is_file()]
    if missing:
        raise wt.WeightsError(
            f"{folder} lacks {' and '.join(missing)}: not a folder of a LaMa generator "
            f"({' and '.join(_PARTS)}, as `run_bench.py train lama` writes them)"
        )
    return folder
