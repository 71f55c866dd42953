"""The embedded checkpoints: small, trained on the mini world, in diffusers' and open_clip's own layouts.

``entry(name)`` checks every file of a checkpoint against the manifest and gives its folder. Each folder's card states
its training and its figures.
"""

from __future__ import annotations

from methods.zoo.manifest import ZooError, digest, entry, names, verify, write_manifest

__all__ = ["ZooError", "digest", "entry", "names", "verify", "write_manifest"]
