"""The canvas: any size shows the same world, and anti-aliasing has its analytic error."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.masks import Mask
from protocols.world.canvas import WHITE, Canvas, f32, frame, grid, texture
from protocols.world.faces import render_face, sample_face
from protocols.world.materials import MATERIALS, relief
from protocols.world.scenes import render_scene, sample_scene

# 40 faces and 40 scenes at 64 px are pinned by test_world.py, where trained checkpoints depend on them.
DIGESTS = {
    (512, 512): "bdec9270e75dbd52",
    (768, 512): "46ac4bb4f75548a7",
    (512, 768): "8cb27ff1a65d3c9c",
}

# Of faces and scenes with textures and marks. A change of the details changes it and the digests of protocols.
DETAILS = "677c764106ffbbc9"

# The largest error of `Canvas.cover` at a straight edge, as a share of a pixel. An edge at 45 degrees covers
# (sqrt(1/2) - d)^2 of a pixel at distance d (0 <= d <= sqrt(1/2)), and `cover` says 1/2 - d. The difference
# d^2 - (sqrt(2) - 1) d is largest at d = (sqrt(2) - 1) / 2. Edges at other angles have smaller errors.
COVER_ERROR = (math.sqrt(2) - 1) ** 2 / 4


def averaged(pixels: NDArray[np.generic], factor: int) -> NDArray[np.float64]:
    """(H, W, C) => the mean over squares of ``factor`` pixels."""
    height, width, channels = pixels.shape
    shape = height // factor, factor, width // factor, factor, channels
    return pixels.reshape(shape).mean(axis=(1, 3), dtype=np.float64)


@pytest.mark.parametrize("size", DIGESTS)
def test_pixels_and_masks_are_pinned_at_other_sizes(size: tuple[int, int]) -> None:
    digest = hashlib.sha256()
    for seed in range(3):
        pixels, parts = render_face(sample_face(seed), size)
        digest.update(pixels.tobytes())
        for name, mask in sorted(parts.items()):
            digest.update(name.encode() + mask.tobytes())
        pixels, masks = render_scene(sample_scene(seed, size), size)
        digest.update(pixels.tobytes() + b"".join(mask.tobytes() for mask in masks))
    assert digest.hexdigest()[:16] == DIGESTS[size]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (64, (0, 0, 64, 64)),
        ((1024, 1024), (0, 0, 64, 64)),
        ((768, 512), (-16, 0, 80, 64)),
        ((512, 768), (0, -16, 64, 80)),
        ((128, 64), (-32, 0, 96, 64)),
    ],
)
def test_the_shorter_side_shows_64_units_and_the_longer_one_more(
    size: int | tuple[int, int], shown: tuple[float, ...]
) -> None:
    assert frame(size) == shown


def test_a_wide_canvas_has_the_squares_coordinates_in_its_middle() -> None:
    for wide, square in zip(grid((768, 512)), grid((512, 512)), strict=True):
        assert np.array_equal(wide[:, 128:-128], square)
    for tall, square in zip(grid((512, 768)), grid((512, 512)), strict=True):
        assert np.array_equal(tall[128:-128], square)


def test_textures_of_a_wide_canvas_are_the_squares_without_a_seam() -> None:
    wide, square = texture((1024, 512), True, 3), texture((512, 512), True, 3)
    assert np.array_equal(wide[:, 256:-256], square)
    # The steps at the two seams are no larger than elsewhere.
    steps = np.abs(np.diff(wide, axis=1))
    assert steps[:, [255, 767]].max() <= steps.max()
    assert steps[:, [255, 767]].max() == 0


@pytest.mark.parametrize("angle", [0.0, 0.2, math.pi / 8, math.pi / 4, 1.0])
def test_coverage_of_a_straight_edge_is_within_the_analytic_bound(angle: float) -> None:
    across, down = math.cos(angle), math.sin(angle)

    def coverage(size: int, offset: float) -> NDArray[np.float64]:
        c = Canvas(size)
        edge = c.x * f32(across) + c.y * f32(down) - f32(offset)
        return np.asarray(c.cover(edge)[..., None], np.float64)

    # Averaged from 16 x 16 times as many pixels, whose own error is 16 times smaller along the edge.
    errors = [
        np.abs(coverage(64, offset) - averaged(coverage(1024, offset), 16)).max()
        for offset in np.linspace(30, 31, 21)
    ]
    assert max(errors) <= COVER_ERROR + 0.004
    if angle == math.pi / 4:
        assert max(errors) > 0.9 * COVER_ERROR


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["face", "scene"])
def test_a_large_image_averaged_down_is_the_small_one(kind: str, seed: int) -> None:
    def pixels(size: int) -> NDArray[np.uint8]:
        if kind == "face":
            return render_face(sample_face(seed), size)[0]
        return render_scene(sample_scene(seed, size), size)[0]

    error = np.abs(averaged(pixels(1024), 16) - pixels(64))
    assert error.mean() < 1
    # Beyond the bound of a straight edge (of full contrast) lie corners and lines thinner than a pixel only.
    assert (error.max(axis=2) > 255 * COVER_ERROR + 0.5).mean() < 0.02


@pytest.mark.parametrize("size", [(512, 512), (768, 512), (512, 768)])
def test_masks_are_those_of_the_small_image_enlarged(size: tuple[int, int]) -> None:
    def to_64(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        top, left = (size[1] - 512) // 2, (size[0] - 512) // 2
        return averaged(mask[top : top + 512, left : left + 512, None], 8)[..., 0]

    for seed in range(3):
        face = sample_face(seed)
        large, small = render_face(face, size)[1], render_face(face, 64)[1]
        assert set(large) == set(small)
        for name, mask in small.items():
            # A pixel may change sides only where the edge crosses it: it is neither empty nor full.
            share = to_64(large[name])
            assert not (mask & (share == 0)).any(), name
            assert not (~mask & (share == 1)).any(), name


def test_scenes_spread_over_a_wide_canvas() -> None:
    size = (1024, 512)
    left, _, right, _ = frame(size)
    middles = []
    for seed in range(60):
        scene = sample_scene(seed, size)
        _, masks = render_scene(scene, (128, 64))
        assert all(mask.any() for mask in masks)
        for thing in scene.objects:
            assert thing.box[0] >= left + 2 - 1e-9
            assert thing.box[2] <= right - 2 + 1e-9
            middles.append(thing.x)
    # About half of the world lies outside the square.
    assert 0.25 < np.mean([not 0 <= x <= 64 for x in middles]) < 0.75


def test_a_part_paints_what_the_whole_canvas_would() -> None:
    whole, split = Canvas((96, 64), 1.4, (30.0, 28.0)), Canvas((96, 64), 1.4, (30.0, 28.0))
    owned = whole.paint(whole.circle(20, 22, 5), WHITE, 1 + whole.fine(2), label=3)
    part = split.part(15, 17, 25, 27)
    assert part.image.shape[0] < 24
    part = part.part(15, 17, 25, 27)
    part.paint(part.circle(20, 22, 5), WHITE, 1 + part.fine(2), label=3)
    assert np.array_equal(whole.image, split.image)
    assert np.array_equal(whole.labels, split.labels)
    assert owned is not None
    assert np.array_equal(owned, split.labels == 3)


def test_a_part_beyond_the_image_paints_nothing() -> None:
    canvas = Canvas(64)
    part = canvas.part(70, 10, 80, 20)
    assert part.paint(part.circle(75, 15, 4), WHITE) is None
    assert not canvas.image.any()


def drawings(
    seed: int, size: int | tuple[int, int], detail: bool
) -> Iterator[tuple[NDArray[np.uint8], list[Mask]]]:
    """The face and the scene of a seed: pixels, and the masks of parts or objects."""
    pixels, parts = render_face(sample_face(seed), size, detail)
    yield pixels, list(parts.values())
    yield render_scene(sample_scene(seed, size), size, detail)


@pytest.mark.parametrize("seed", range(6))
def test_detail_changes_nothing_at_64_px(seed: int) -> None:
    for size in (64, (96, 64)):
        for (fine, _), (plain, _) in zip(
            drawings(seed, size, True), drawings(seed, size, False), strict=True
        ):
            assert np.array_equal(fine, plain)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(128, 128), (384, 256)])
def test_detail_changes_colours_but_no_mask(seed: int, size: tuple[int, int]) -> None:
    for (fine, masks), (plain, same) in zip(
        drawings(seed, size, True), drawings(seed, size, False), strict=True
    ):
        assert (fine != plain).any(axis=2).mean() > 0.3
        for one, other in zip(masks, same, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_detail_averages_out_at_64_px(seed: int) -> None:
    for (fine, _), (plain, _) in zip(drawings(seed, 512, True), drawings(seed, 512, False), strict=True):
        difference = averaged(fine, 8) - averaged(plain, 8)
        # Levels of 0 to 255. Textures have a mean of about 1, and marks are thin.
        assert abs(difference.mean()) < 4
        assert np.abs(difference).mean() < 9


@pytest.mark.parametrize("material", MATERIALS)
def test_a_texture_is_no_noise_per_pixel(material: str) -> None:
    values = relief(Canvas(512, detail=True), material)
    assert values.std() > 0.01
    assert abs(values.mean()) < 0.03
    # Neighbours of white noise have a correlation of 0.
    for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.4


def test_textures_are_one_pattern_at_every_size() -> None:
    # Twice the pixels, the same world: the mean of 2 x 2 pixels is nearly the pixel.
    large, small = (relief(Canvas(size, detail=True), "plaster") for size in (1024, 512))
    error = averaged(large[..., None], 2)[..., 0] - small
    assert error.std() < 0.15 * small.std()


def test_details_are_pinned() -> None:
    digest = hashlib.sha256()
    for size in ((512, 512), (768, 512)):
        for seed in range(6):
            for pixels, _ in drawings(seed, size, True):
                digest.update(pixels.tobytes())
    assert digest.hexdigest()[:16] == DETAILS
