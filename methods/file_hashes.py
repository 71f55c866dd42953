"""SHA-256 of large files that is computed once, and where torch's hub keeps its files.

Gigabytes of weights are part of a method's identity, so their hashes are remembered between runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from bench.files import cache_folder, parse_json, sha256_file, user_cache, write_atomic


def torch_hub_file(name: str) -> Path:
    """Where torch's hub keeps the downloaded file ``name``, without importing torch."""
    home = Path(os.environ.get("TORCH_HOME") or user_cache() / "torch").expanduser()
    return home / "hub" / "checkpoints" / name


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's SHA-256, from the cache if the file has not changed."""
    return sha256_of_each({"": path})[""]


def sha256_of_each(files: Mapping[str, Path]) -> dict[str, str]:
    """Name -> SHA-256 of the file with that name. Raises OSError for a file that cannot be read.

    If the cache cannot be read or written, the hashes are only computed again.
    """
    cache = cache_folder() / "weights-sha256.json"
    try:
        remembered = parse_json(cache.read_text(encoding="utf-8"))
        remembered = remembered if isinstance(remembered, dict) else {}
    except (OSError, ValueError):
        remembered = {}

    hashes, changed = {}, False
    for name, path in files.items():
        real = path.resolve()
        status = real.stat()
        # The time of the last change of the file's entry counts too: a copy may keep the time of the original.
        key = f"{real}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
        if key not in remembered:
            remembered[key], changed = sha256_file(real), True
        hashes[name] = remembered[key]

    if changed:
        with contextlib.suppress(OSError):
            write_atomic(cache, json.dumps(remembered, indent=1, sort_keys=True).encode())
    return hashes


def combined_sha256(lines: Mapping[str, str]) -> str:
    """One SHA-256 (64 hex digits) over names and their hashes. Paths do not enter, so a copy has the same."""
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()
