"""``run.json``, the record of what was run: it is read and checked here, and methods and protocols are added."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.edit import MethodSpec
from bench.files import UnsafeName, parse_json, safe_part
from bench.store.errors import TEXT, StoreError, wrong_types

FORMAT = 1
"""Version of the folder's layout. A folder of another format is refused."""

CONDITIONS = ("batch_sizes", "threads")
"""Keys of a method's entry with the conditions of its edits. Both change the order of floating-point sums."""

_PROTOCOL_KEYS: Mapping[str, tuple[type, ...]] = {"version": TEXT, "digest": TEXT}
_METHOD_KEYS: Mapping[str, tuple[type, ...]] = {
    "name": TEXT,
    "label": TEXT,
    "options": (dict,),
    "dtype": TEXT,
    "devices": (list,),
}
# Types of the optional keys of the manifest and of its entries for protocols and methods.
_OPTIONAL_KEYS: Mapping[str, tuple[type, ...]] = {
    "display": TEXT,
    "cite": TEXT,
    "group": TEXT,
    "best_of": TEXT,
    "remark": TEXT,
    "is_control": (bool,),
    "name": TEXT,
    "seed": (int,),
    "seeds": (list,),
    "suite": (dict, type(None)),
    "versions": (dict,),
    "registered": TEXT,
    "options": (dict,),
    "limit": (int, type(None)),
    "canvas": (int, list, type(None)),
    "categories": (list,),
    "batch_sizes": (list,),
    "threads": (list,),
}

# Names of the controls of runs that were stored before a method's entry had ``is_control``.
_CONTROLS_BEFORE = (
    "oracle",
    "copy_input",
    "jpeg",
    "resize_round_trip",
    "autoencoder_round_trip",
    "noise_fill",
    "flat_color_fill",
)


def was_control(entry: Mapping[str, Any]) -> bool:
    """True where a stored method (its entry in a manifest or in a leaderboard file) is a control."""
    # The stored declaration counts where there is one, because a plug-in may have any name.
    return bool(entry.get("is_control", entry["name"] in _CONTROLS_BEFORE))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file. Raises :class:`StoreError` for a broken one or one of another format."""
    # Check its structure.
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
        problem = _problem(manifest)
        if problem:
            raise ValueError(problem)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: cannot be read ({error}). Restore it, or run into another folder."
        ) from error
    # Check its format last, so that the message can name the version.
    if manifest["format"] != FORMAT:
        raise StoreError(
            f"{path.parent}: a run folder of format {manifest['format']}; this version reads format {FORMAT}. "
            "Use the version that wrote it, or another folder."
        )
    return dict(manifest)


def _problem(manifest: Any) -> str:
    """Reason why a JSON value is no manifest of a run. Empty where it is one."""
    if not isinstance(manifest, dict) or "format" not in manifest:
        return "it is no manifest of a run"
    if manifest["format"] != FORMAT:
        # Another version wrote it, with keys that this one cannot check.
        return ""
    # Its own keys.
    names = wrong_types(manifest, _optional_types(manifest))
    if names:
        return f"{', '.join(sorted(names))}: of a wrong type"
    # The keys of each protocol and method.
    for part, types in (("protocols", _PROTOCOL_KEYS), ("methods", _METHOD_KEYS)):
        entries = manifest.get(part)
        if not isinstance(entries, dict):
            return f"its {part} are missing"
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                return f"{part}: {name}: of a wrong type"
            names = wrong_types(entry, {**_optional_types(entry), **types})
            if names:
                return f"{part}: {name}: {', '.join(sorted(names))}: missing or of a wrong type"
    return ""


def _optional_types(entry: Mapping[str, Any]) -> dict[str, tuple[type, ...]]:
    return {key: types for key, types in _OPTIONAL_KEYS.items() if key in entry}


def method_specs(manifest: Mapping[str, Any]) -> dict[str, MethodSpec]:
    """The methods of a run by digest, in the order in which they were added."""
    return {
        digest: MethodSpec(
            entry["name"],
            entry["options"],
            entry["label"],
            # Runs made before these existed do not have them.
            display=entry.get("display", ""),
            cite=entry.get("cite", ""),
            group=entry.get("group", ""),
            is_control=was_control(entry),
            best_of=entry.get("best_of", ""),
            remark=entry.get("remark", ""),
        )
        for digest, entry in manifest["methods"].items()
    }


def join_protocols(
    folder: Path, stored: Mapping[str, Any], protocols: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Adds protocols to the entries of a manifest. Raises :class:`StoreError` where the digest of one has changed."""
    for name, info in protocols.items():
        check_name(name, "protocol name")
        # Another digest means other cases: the stored edits would not belong to the protocol's cases.
        before = stored.get(name)
        if before is not None and before["digest"] != info["digest"]:
            raise StoreError(
                f"{folder}: its edits are of protocol {name} {before['version']} (digest "
                f"{before['digest']}), the suite has {name} {info['version']} "
                f"(digest {info['digest']}). "
                "The protocol, its options or its data changed: give this suite another folder."
            )
    return {**stored, **{name: dict(info) for name, info in protocols.items()}}


def join_methods(
    folder: Path,
    stored: Mapping[str, Any],
    methods: Sequence[MethodSpec],
    *,
    dtype: str,
    device: str,
    idle: Collection[str],
    has_edits: Callable[[str], bool],
) -> dict[str, Any]:
    """Adds methods to the entries of a manifest. Raises :class:`StoreError` where the dtype of one has changed.

    ``idle`` are the digests of methods that will edit nothing. ``has_edits`` is True for a digest with stored edits.
    """
    joined = dict(stored)
    for spec in methods:
        check_name(spec.name, "method name")
        entry = joined.get(spec.digest, {})
        # A method that edits nothing this time did not run on this device in this dtype.
        keeps_device = bool(entry) and spec.digest in idle
        # Without edits a method may still change its dtype.
        if entry and not keeps_device and entry["dtype"] != dtype and has_edits(spec.digest):
            raise StoreError(
                f"{folder}: {spec.title} edited with {entry['dtype']} so far, now with {dtype}, "
                f"which changes pixels. Use --dtype {entry['dtype']}, or give another folder."
            )
        # Names and headings are those of the last suite. Devices and conditions are collected.
        joined[spec.digest] = {
            "name": spec.name,
            "label": spec.label,
            "display": spec.display,
            "cite": spec.cite,
            "group": spec.group,
            "is_control": spec.is_control,
            # Absent where there is none, so that the manifests of earlier runs stay as they are.
            **({"best_of": spec.best_of} if spec.best_of else {}),
            **({"remark": spec.remark} if spec.remark else {}),
            "options": dict(spec.options),
            "dtype": entry["dtype"] if keeps_device else dtype,
            "devices": entry["devices"] if keeps_device else sorted({*entry.get("devices", []), device}),
            **{name: entry[name] for name in CONDITIONS if name in entry},
        }
    return joined


def check_name(name: str, what: str) -> str:
    """``name`` itself. Raises :class:`StoreError` where it cannot be part of a path."""
    try:
        return safe_part(name, what)
    except UnsafeName as error:
        raise StoreError(str(error)) from None
