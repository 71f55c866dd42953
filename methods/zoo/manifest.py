"""Which bytes the embedded checkpoints consist of, and whether they are still those bytes.

``checkpoints/<name>/`` holds one checkpoint; ``manifest.json`` beside ``checkpoints/`` maps each file,
relative to ``checkpoints/``, to its SHA-256 and its size. A checkpoint whose folder has a
``shared.json``, say ``{"vae": "autoencoder", "tokenizer": "text"}``, takes those parts from other
checkpoints, so that the same weights are stored once.

After training or changing a checkpoint, ``python -m methods.zoo`` writes the manifest anew.
Every function takes the folder of the checkpoints as ``root`` (default: this package's).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import parse_json

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
SHARED = "shared.json"
CARDS = frozenset({"card.json", "README.md"})
"""Files that describe a checkpoint and do not change what it computes: outside its digest."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ZooError(BenchError):
    """An embedded checkpoint is absent, incomplete or not the one that the manifest describes."""


def manifest_path(root: Path | None = None) -> Path:
    return (root or CHECKPOINTS).parent / "manifest.json"


def names(root: Path | None = None) -> list[str]:
    """The checkpoints on disk, sorted; empty where none are."""
    root = root or CHECKPOINTS
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_shared(folder: Path) -> dict[str, str]:
    """Part -> name of the sibling folder that holds it, from ``shared.json``; empty without one.

    Raises ZooError where the file is not such a mapping or a name could leave the folder's parent.
    """
    path = folder / SHARED
    if not path.is_file():
        return {}
    try:
        shared = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ZooError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(shared, dict):
        raise ZooError(f"{path}: expected an object that maps a part to a folder's name")
    for part, name in shared.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not _NAME.fullmatch(part):
            raise ZooError(f"{path}: {part!r}: {name!r} is not the plain name of a folder beside this one")
    return shared


def closure(name: str, root: Path | None = None) -> list[str]:
    """The checkpoint and all that it takes parts from, sorted. Raises ZooError where one is absent."""
    root = root or CHECKPOINTS
    found: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        if not _NAME.fullmatch(current):
            raise ZooError(f"{current!r} is not the name of an embedded checkpoint")
        if not (root / current).is_dir():
            have = ", ".join(names(root)) or "none"
            needed = "" if current == name else f", which {name!r} takes a part from,"
            raise ZooError(
                f"the embedded checkpoint {current!r}{needed} is not in {root} (there: {have}). "
                "Restore it with `git checkout -- methods/zoo` or train it with "
                f"`python run_bench.py train {current}`."
            )
        found.add(current)
        todo.extend(read_shared(root / current).values())
    return sorted(found)


def read_manifest(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """File -> ``{"sha256": 64 hex digits, "bytes": int}``; names relative to ``root``, forward slashes."""
    path = manifest_path(root)
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ZooError(
            f"{path} is missing, so the embedded checkpoints cannot be checked. Restore it with "
            "`git checkout -- methods/zoo`, or write it after a training of your own with "
            "`python -m methods.zoo`."
        ) from None
    except ValueError as error:
        raise ZooError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise ZooError(f"{path}: expected an object that maps a file to its sha256 and bytes")
    return manifest


def verify(name: str, root: Path | None = None) -> list[Path]:
    """Checks every file of the checkpoint, shared parts included, against the manifest.

    Returns the files. Raises ZooError that names the first file which is missing, changed or unknown.
    """
    root = root or CHECKPOINTS
    members = closure(name, root)
    manifest = read_manifest(root)
    checked: list[Path] = []
    for member in members:
        on_disk = _files(root, member)
        listed = {file for file in manifest if file.startswith(f"{member}/")}
        if not listed:
            raise ZooError(
                f"{member!r} is in {root} but not in {manifest_path(root)}: if you trained it, run "
                "`python -m methods.zoo`."
            )
        for file in sorted(listed - set(on_disk)):
            raise ZooError(f"{root / file} is missing. {_remedy(member)}")
        for file, path in on_disk.items():
            if file not in listed:
                raise ZooError(
                    f"{path} does not belong to the checkpoint: {manifest_path(root)} does not list it. Delete "
                    f"the file; if you trained {member!r} yourself, run `python -m methods.zoo`."
                )
            expected = manifest[file]
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise ZooError(f"{path}: {size} bytes, expected {expected['bytes']}. {_remedy(member)}")
            actual = sha256_file(path)
            if actual != expected["sha256"]:
                raise ZooError(
                    f"{path}: SHA-256 {actual[:12]}, expected {expected['sha256'][:12]}. {_remedy(member)}"
                )
            checked.append(path)
    return checked


def entry(name: str, root: Path | None = None) -> Path:
    """The folder of the checkpoint, after ``verify``."""
    root = root or CHECKPOINTS
    verify(name, root)
    return root / name


def digest(name: str, root: Path | None = None) -> str:
    """SHA-256 (64 hex digits) over the files of the checkpoint and its shared parts, cards left out."""
    root = root or CHECKPOINTS
    members = closure(name, root)
    lines = {
        file: line["sha256"]
        for file, line in read_manifest(root).items()
        if file.split("/", 1)[0] in members and file.rsplit("/", 1)[-1] not in CARDS
    }
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


def size(name: str, root: Path | None = None) -> int:
    """Bytes of the checkpoint and its shared parts by the manifest."""
    members = closure(name, root)
    return sum(
        line["bytes"] for file, line in read_manifest(root).items() if file.split("/", 1)[0] in members
    )


def write_manifest(root: Path | None = None) -> Mapping[str, Mapping[str, Any]]:
    """Hashes every file under ``root`` and writes the manifest as a whole or not at all."""
    root = root or CHECKPOINTS
    manifest: dict[str, dict[str, Any]] = {}
    for name in names(root):
        for file, path in _files(root, name).items():
            manifest[file] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    path = manifest_path(root)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(
        json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n"
    )
    temporary.replace(path)
    return manifest


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(root: Path, name: str) -> dict[str, Path]:
    """Relative name -> path of each file of one checkpoint; names that start with a dot are the system's."""
    found: dict[str, Path] = {}
    for path in sorted((root / name).rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix()] = path
    return found


def _remedy(name: str) -> str:
    return (
        "Restore it with `git checkout -- methods/zoo`; if you trained it yourself, "
        f"run `python -m methods.zoo` (checkpoint {name!r})."
    )
