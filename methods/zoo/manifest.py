"""The manifest of the embedded checkpoints: SHA-256 and size of every file.

``checkpoints/<name>/`` holds one checkpoint. ``manifest.json`` beside ``checkpoints/`` maps each file, relative to
``checkpoints/``, to its SHA-256 and size. A checkpoint with a ``shared.json``, for example
``{"vae": "autoencoder", "tokenizer": "text"}``, takes those parts from other checkpoints, so the same weights are
stored once.

After a training, ``python -m methods.zoo`` writes the manifest again. Every function takes the folder of the
checkpoints as ``root`` (default: this package's).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import parse_json, sha256_file, write_atomic

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
SHARED = "shared.json"
# Files that describe a checkpoint. They do not change its results and are no part of its digest.
CARDS = frozenset({"card.json", "README.md"})

# No dot at the beginning: neither a hidden folder nor "..".
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ZooError(BenchError):
    """An embedded checkpoint is absent or incomplete, or differs from the manifest."""


def manifest_path(root: Path | None = None) -> Path:
    return (root or CHECKPOINTS).parent / "manifest.json"


def names(root: Path | None = None) -> list[str]:
    """The checkpoints on disk, sorted. Empty where there are none."""
    root = root or CHECKPOINTS
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_shared(folder: Path) -> dict[str, str]:
    """Part -> name of the sibling folder that holds it, from ``shared.json``. Empty without that file.

    Raises ZooError where the file is no such mapping or a name could leave the folder's parent.
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
    """The checkpoint and all checkpoints that it takes parts from, sorted. Raises ZooError where one is absent."""
    root = root or CHECKPOINTS
    members: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in members:
            continue
        # Names come from files and must not leave the folder.
        if not _NAME.fullmatch(current):
            raise ZooError(f"{current!r} is not the name of an embedded checkpoint")
        if not (root / current).is_dir():
            raise ZooError(_absence(current, name, root))
        members.add(current)
        # Shared parts may themselves share.
        todo.extend(read_shared(root / current).values())
    return sorted(members)


def read_manifest(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """File -> ``{"sha256": 64 hex digits, "bytes": int}``. Names are relative to ``root``, with forward slashes.

    Raises ZooError where the manifest is missing or no JSON object.
    """
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
    """Check every file of the checkpoint and of its shared parts against the manifest.

    Returns the files. Raises ZooError that names the first missing, changed or unknown file.
    """
    root = root or CHECKPOINTS
    members = closure(name, root)
    manifest = read_manifest(root)
    checked: list[Path] = []
    for member in members:
        # Both directions: files on disk, and files of the manifest.
        on_disk = _files(root, member)
        listed = {file for file in manifest if file.startswith(f"{member}/")}
        if not listed:
            raise ZooError(
                f"{member!r} is in {root} but not in {manifest_path(root)}: if you trained it, run "
                "`python -m methods.zoo`."
            )
        # Missing files.
        # The first one is enough for a message.
        for file in sorted(listed - set(on_disk)):
            raise ZooError(f"{root / file} is missing. {_remedy(member)}")
        # Unknown and changed files. The size is compared first, since a hash reads the whole file.
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
    """SHA-256 (64 hex digits) over the files of the checkpoint and its shared parts, without the cards."""
    root = root or CHECKPOINTS
    members = closure(name, root)
    # The manifest's hashes stand for the files, which ``verify`` compares.
    lines = {
        file: line["sha256"]
        for file, line in read_manifest(root).items()
        if file.split("/", 1)[0] in members and file.rsplit("/", 1)[-1] not in CARDS
    }
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


def training_gap(name: str, root: Path | None = None) -> str:
    """``"N of M samples of its recipe"`` where a checkpoint saw fewer samples than its recipe states, else empty.

    N is the sum over the stages of its card. Of several networks in a checkpoint, the one that lacks most counts.
    Empty, too, without a card.
    """
    card = (root or CHECKPOINTS) / name / "card.json"
    if not card.is_file():
        return ""
    content = json.loads(card.read_text(encoding="utf-8"))
    # Stages of the same network add up.
    samples: Counter[str] = Counter()
    for stage in content["stages"]:
        samples[stage["recipe"]] += stage["samples"]
    required: dict[str, int] = content.get("recipe_samples", {})
    if not required:
        return ""
    # The network that lacks most, in proportion.
    part = min(required, key=lambda name: samples[name] / required[name])
    if samples[part] >= required[part]:
        return ""
    which = f" ({part})" if len(required) > 1 else ""
    return f"{samples[part]:,} of {required[part]:,} samples of its recipe{which}"


def write_manifest(root: Path | None = None) -> Mapping[str, Mapping[str, Any]]:
    """Hash every file under ``root`` and write the manifest, whole or not at all."""
    root = root or CHECKPOINTS
    manifest: dict[str, dict[str, Any]] = {}
    for name in names(root):
        for file, path in _files(root, name).items():
            manifest[file] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_atomic(manifest_path(root), (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return manifest


def _files(root: Path, name: str) -> dict[str, Path]:
    """Relative name -> path of each file of one checkpoint. Names that start with a dot belong to the system."""
    files: dict[str, Path] = {}
    for path in sorted((root / name).rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            files[relative.as_posix()] = path
    return files


def _remedy(name: str) -> str:
    return (
        "Restore it with `git checkout -- methods/zoo`; if you trained it yourself, "
        f"run `python -m methods.zoo` (checkpoint {name!r})."
    )


def _absence(absent: str, name: str, root: Path) -> str:
    """The message about a checkpoint without a folder, which ``name`` is or takes a part from."""
    have = ", ".join(names(root)) or "none"
    needed = "" if absent == name else f", which {name!r} takes a part from,"
    train = f"rain it with `python run_bench.py train {absent}`."
    try:
        listed = any(file.startswith(f"{absent}/") for file in read_manifest(root))
    except ZooError:
        listed = True  # nothing says what the folder should hold
    if listed:
        remedy = f"Restore it with `git checkout -- methods/zoo` or t{train}"
    else:
        remedy = f"It is not shipped yet. T{train}"
    return f"the embedded checkpoint {absent!r}{needed} is not in {root} (there: {have}). {remedy}"
