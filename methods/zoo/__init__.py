"""The embedded checkpoints: small, trained on the mini world, in diffusers' and open_clip's own layouts.

``entry(name)`` is the one way in: it checks every file of the checkpoint against the manifest and gives
its folder. What trained them, and what they are worth, is in each folder's card.
"""

from __future__ import annotations

from methods.zoo.manifest import ZooError, digest, entry, names, verify, write_manifest

__all__ = ["ZooError", "digest", "entry", "names", "verify", "write_manifest"]
