"""Gates of the methods that edit with the zoo's text-to-image base, without weights of their own.

Each edits held-out cases through its own adapter with its preset ``mini``, and the reader says how many show
what was asked for (``thresholds.STEERED``). The untouched source shows none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import Runtime
from methods.zoo.manifest import entry
from methods.zoo.thresholds import STEERED, ThresholdCheck, judged

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditCase
    from methods.zoo.data import World

BATCH = 16


def check_blended_latent_diffusion(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.blended_latent_diffusion import BlendedLatentDiffusion

    return _gate("blended_latent_diffusion", BlendedLatentDiffusion, world, root, cases)


def check_sdedit(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.sdedit import SdEdit

    return _gate("sdedit", SdEdit, world, root, cases)


def check_latent_blending(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    from methods.latent_blending import LatentBlending

    return _gate("latent_blending", LatentBlending, world, root, cases)


def _gate(name: str, cls: Any, world: World, root: Path, cases: int) -> list[ThresholdCheck]:
    """``cls`` is a method whose preset ``mini`` runs on the zoo's text-to-image base."""
    from methods.zoo.classifier import load

    options = replace(cls.Options(**cls.PRESETS["mini"]), weights=str(entry("text_to_image", root)))
    asked = [world.case(-1 - i) for i in range(cases)]
    edited = _edits(cls(options, Runtime()), asked)
    return judged(
        name, load(entry("reader", root)), edited, asked, STEERED, root, checkpoint="text_to_image",
        remark=f"; {options.steps} steps of text_to_image",
    )  # fmt: skip


def _edits(method: Any, asked: Sequence[EditCase]) -> list[Image]:
    """The edits, each case with the seed of its position."""
    requests = [replace(case.request, seed=position) for position, case in enumerate(asked)]
    edited: list[Image] = []
    for start in range(0, len(requests), BATCH):
        edited += method.edit(requests[start : start + BATCH])
    return edited
