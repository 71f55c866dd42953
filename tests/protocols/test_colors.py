from __future__ import annotations

import colorsys

import numpy as np
import pytest

from protocols.colors import _oklab, dominant_color
from protocols.prompts import COLORS, MINI_COLORS

PURE = {
    "red": (255, 0, 0),
    "orange": (255, 140, 0),
    "yellow": (255, 230, 0),
    "green": (0, 150, 0),
    "blue": (0, 0, 255),
    "purple": (128, 0, 160),
    "pink": (255, 105, 180),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "brown": (120, 70, 30),
}


def test_oklab_of_the_published_examples() -> None:
    # Ottosson's table: white is (1, 0, 0); pure red by the reference implementation.
    lab = _oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]], np.uint8))
    np.testing.assert_allclose(lab[0], [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(lab[1], [0.62796, 0.22486, 0.12585], atol=1e-4)
    np.testing.assert_allclose(lab[2], [0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "rgb"), PURE.items())
def test_pure_colours_have_their_names(name: str, rgb: tuple[int, int, int]) -> None:
    assert dominant_color(np.tile(np.array(rgb, np.uint8), (50, 1))) == name


@pytest.mark.parametrize("name", MINI_COLORS)
def test_shading_highlights_and_noise_do_not_change_the_name(name: str) -> None:
    rng = np.random.default_rng(3)
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in PURE[name]))
    pixels = np.array([colorsys.hsv_to_rgb(h, s * f, v * f) for f in rng.uniform(0.75, 1, 600)]) * 255
    pixels += rng.normal(0, 6, pixels.shape)
    spots = np.tile([[250.0, 250, 250]], (100, 1))
    mixed = np.clip(np.concatenate([pixels, spots]), 0, 255).astype(np.uint8)
    assert dominant_color(mixed) == name


def test_without_a_clear_leader_there_is_no_name() -> None:
    half = np.array([PURE["red"]] * 50 + [PURE["blue"]] * 50, np.uint8)
    assert dominant_color(half) is None
    assert dominant_color(np.zeros((0, 3), np.uint8)) is None


def test_a_palette_without_gray_does_not_hear_windows_and_tyres() -> None:
    car = np.array([PURE["black"]] * 40 + [PURE["gray"]] * 30 + [PURE["blue"]] * 30, np.uint8)
    assert dominant_color(car, MINI_COLORS) == "blue"
    assert dominant_color(car[:70], MINI_COLORS) is None
    assert dominant_color(car, COLORS) == "black"  # 40 %, and 1.33 times as many as the next


def test_the_order_of_pixels_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (900, 3)).astype(np.uint8) + np.array([120, 0, 0], np.uint8)
    assert dominant_color(pixels) == dominant_color(pixels[rng.permutation(900)])
