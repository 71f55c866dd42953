"""A tiny GLIDE with random weights in our own layout, 16 then 32 pixels, and requests for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bench.edit import EditRequest
from tests.methods import conftest as shared
from tests.methods.glide import seeded

SIDE = 32
WORDS = ("a", "face", "with", "hat", "dog", *map(str, range(10)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_glide(tmp_path_factory.mktemp("glide"))


def tiny_glide(folder: Path) -> Path:
    """Writes base, upsampler and tokenizer with random weights."""
    from methods.glide.unet import GlideUNet
    from methods.zoo.glide import save
    from methods.zoo.text import build_tokenizer

    tokenizer = build_tokenizer(WORDS)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for part, config in seeded.CONFIGS.items():
        network = GlideUNet(replace(config, vocabulary=len(tokenizer)))
        state = seeded.weights(network.state_dict(), 7)
        # A last layer of full size: the text must show in the picture.
        state["out.2.weight"] /= seeded.LAST
        network.load_state_dict(state)
        save(folder / part, network)
    return folder


MASKS = ((4, 8, 20, 24), (0, 0, 10, 32), (17, 3, 26, 29), (3, 3, 31, 14))
"""Boxes; most of their edges cut cells of the base's grid, of 2 x 2 pixels."""


def request(seed: int, mask: Image.Image | None = None) -> EditRequest:
    return EditRequest(
        source=shared.picture(seed, (SIDE, SIDE)),
        mask=mask or shared.box_mask(*MASKS[seed % 4], size=(SIDE, SIDE)),
        source_prompt="a face",
        target_prompt=f"a face with a hat {seed}",
        region_prompt=f"a hat {seed}",
        instruction=f"add a hat {seed}",
        seed=seed,
    )


def requests(count: int) -> Sequence[EditRequest]:
    return [request(seed) for seed in range(count)]
