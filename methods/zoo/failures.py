"""Failed edits, made on purpose, for which the attribute classifier must answer ``other``.

A classifier that was trained on good images alone accepts anything as some class. For example, it called a flat patch
of the prompted colour "a red bus". The functions here take one ideal edit and spoil it inside the edited region, in
the ways in which methods fail: nothing recognisable (flat colour, noise, inversion, blur, blobs, shuffled or foreign
pixels), half of an edit, a ghost between the source and the edit, or a colour that the world does not have. No method's
output is used, so the classifier favours none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.edit import Claim, EditCase
from bench.images import mask_array

# float32 (H, W, 3) in [0, 1].
Image: TypeAlias = NDArray[np.float32]
# bool (H, W), True inside.
Region: TypeAlias = NDArray[np.bool_]

# The classifier's answer for a region that shows none of the attribute's values.
OTHER = "other"

# Brown, cyan, gray, white, black, olive: colours that no object of the world has.
_FOREIGN_COLORS = np.array(
    [
        (0.47, 0.28, 0.16),
        (0.24, 0.78, 0.82),
        (0.5, 0.5, 0.5),
        (0.95, 0.95, 0.95),
        (0.1, 0.1, 0.1),
        (0.5, 0.5, 0.12),
    ],
    np.float32,
)
_FOREIGN_HAIR = np.array(
    [(0.2, 0.7, 0.25), (0.2, 0.35, 0.9), (0.95, 0.4, 0.7), (0.6, 0.25, 0.8), (0.85, 0.1, 0.1)], np.float32
)
# Attributes of a few pixels. Whether half of such an edit shows it is a matter of taste, so it is not taught.
_ONE_PART = frozenset({"mouth", "Wearing_Lipstick", "trim"})
# A trim has one colour and no inner structure, so a flat colour, patches and a negative show one too. Noise does not.
_FLAT_PART = frozenset({"trim"})
# Attributes of two parts. Half of such an edit is one part, and a ghost of it is again a matter of taste.
_TWO_PARTS = frozenset({"Wearing_Earrings"})


@dataclass(frozen=True)
class Example:
    """An image, a region of it, and the region's labels. Attributes without a label are not taught."""

    pixels: NDArray[np.uint8]
    region: Region
    labels: Mapping[str, str]


def ideal(case: EditCase, index: int) -> Example:
    """The ground truth of the case in region ``index``, with its expected values. Raises ValueError without one."""
    _, truth, region = _images(case, index)
    return Example(_to_uint8(truth), region, {c.attribute: c.after for c in _claims(case, index)})


def spoiled(case: EditCase, index: int, rng: np.random.Generator) -> Example:
    """The case with region ``index`` spoiled in a random way. Raises ValueError for a case without ground truth."""
    source, truth, region = _images(case, index)
    attributes = {claim.attribute for claim in _claims(case, index)}
    labels = dict.fromkeys(attributes, OTHER)
    chance = rng.random()
    # A tenth: a colour that the world does not have. The shape stays, so the category is not taught.
    if chance < 0.10 and attributes & {"color", "category", "hair_color"}:
        palette = _FOREIGN_HAIR if "hair_color" in attributes else _FOREIGN_COLORS
        # 0.05 of [0, 1]: 13 of 255 levels.
        changed = np.abs(source - truth).max(axis=2) > 0.05
        where = region & changed if changed[region].any() else region
        filled = _recolored(truth, palette[rng.integers(len(palette))])
        labels = {name: OTHER for name in attributes if name != "category"}
        if not labels:
            labels = {"color": OTHER}
        return Example(_to_uint8(_inside(truth, filled, where)), region, labels)
    # Up to a quarter: half of the edit, or a ghost of it. Only changed attributes have an answer.
    if chance < 0.25 and not attributes & _ONE_PART:
        by_half = rng.random() < 0.6 or bool(attributes & _TWO_PARTS)
        mixed = _half_done(source, truth, region, rng) if by_half else _ghost(source, truth, rng)
        if mixed is not None:
            changes = {c.attribute: OTHER for c in _claims(case, index) if c.before != c.after}
            return Example(_to_uint8(_inside(source, mixed, region)), region, changes)
    # The rest: nothing recognisable, in a third of the cases with a soft edge.
    fill = _unrecognisable(source, truth, region, attributes, rng)
    return Example(_to_uint8(_inside(source, fill, region, soft=rng.random() < 0.3)), region, labels)


def regions(case: EditCase) -> int:
    """Number of regions of the case. Without a list of regions, the whole mask is one."""
    return len(case.areas)


# --- ways to fail -----------------------------------------------------------------------------------


def _unrecognisable(
    source: Image, truth: Image, region: Region, attributes: set[str], rng: np.random.Generator
) -> Image:
    """An image in which no part of the region shows anything."""
    if attributes & _FLAT_PART:
        return _noise(source, truth, region, rng)
    ways = [_flat, _noise, _inverted, _blobs, _shuffled, _flat, _noise, _blob_in_place]
    if "background" not in attributes:
        # A blurred beach is still a beach, but a blurred cup is a blot.
        ways += [_blurred, _erased]
    way = ways[int(rng.integers(len(ways)))]
    return way(source, truth, region, rng)


def _flat(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """One colour, usually that of the edit, with or without a gradient and grain."""
    color = _some_color(source, truth, region, rng)
    fill = np.broadcast_to(color, source.shape).astype(np.float32)
    if rng.random() < 0.4:
        side = source.shape[0]
        slope = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(rng.uniform(-0.25, 0.25))
        fill = fill + (slope[:, None, None] if rng.random() < 0.5 else slope[None, :, None])
    if rng.random() < 0.4:
        fill = fill + rng.normal(0, rng.uniform(0.01, 0.06), source.shape).astype(np.float32)
    return fill


def _noise(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """Uniform or normal noise per pixel or block, alone, around the edit's colour, or over the edit."""
    height, width = source.shape[:2]
    # Usually per pixel.
    block = int(rng.choice([1, 1, 1, 2, 3, 4]))
    shape = (-(-height // block), -(-width // block), 3)
    if rng.random() < 0.5:
        grain = rng.random(shape, dtype=np.float32)
    else:
        center = _some_color(source, truth, region, rng) if rng.random() < 0.7 else np.float32(0.5)
        grain = (center + rng.normal(0, rng.uniform(0.15, 0.45), shape)).astype(np.float32)
    grain = grain.repeat(block, 0).repeat(block, 1)[:height, :width]
    # Partly transparent over the edit.
    if rng.random() < 0.35:
        weight = np.float32(rng.uniform(0.45, 0.8))
        grain = grain * weight + truth * (1 - weight)
    return grain


def _inverted(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """The negative of the source or of the edit."""
    return 1 - (source if rng.random() < 0.6 else truth)


def _blobs(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """Smooth patches of a few colours, like an early step of a diffusion model."""
    # Random colours on a coarse grid, interpolated.
    cells = int(rng.integers(3, 10))
    palette = np.stack([_some_color(source, truth, region, rng) for _ in range(cells * cells)])
    fill = _resize(palette.reshape(cells, cells, 3), source.shape[0])
    return fill + rng.normal(0, rng.uniform(0, 0.08), source.shape).astype(np.float32)


def _blob_in_place(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """Ellipses of the edit's colour without inner structure, on the surroundings of the region."""
    # The background: the colour around the region, or the blurred source.
    rows, columns = np.nonzero(region)
    y, x = np.mgrid[: source.shape[0], : source.shape[1]].astype(np.float32)
    fill = np.broadcast_to(_ring_color(source, region), source.shape).astype(np.float32)
    if rng.random() < 0.5:
        fill = _blur(source, 4)
    # One to four soft ellipses around pixels of the region.
    color = _some_color(source, truth, region, rng)
    for _ in range(int(rng.integers(1, 5))):
        center = rng.integers(len(rows))
        radius = 2 + rng.random(2) * 0.5 * np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])
        distance = ((y - rows[center]) / radius[0]) ** 2 + ((x - columns[center]) / radius[1]) ** 2
        cover = np.clip((1.2 - distance) * rng.uniform(1, 5), 0, 1)[..., None].astype(np.float32)
        tone = np.clip(color + rng.normal(0, 0.12, 3), 0, 1).astype(np.float32)
        fill = fill * (1 - cover) + tone * cover
    return fill + rng.normal(0, rng.uniform(0, 0.1), source.shape).astype(np.float32)


def _shuffled(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """Blocks of the edit (or of the source) in random order."""
    block = int(rng.choice([2, 3, 4]))
    image = truth if rng.random() < 0.7 else source
    side = image.shape[0] // block * block
    # The region's bounding box, in blocks.
    rows, columns = np.nonzero(region)
    top, left = rows.min() // block, columns.min() // block
    bottom, right = (
        min(rows.max() // block + 1, side // block),
        min(columns.max() // block + 1, side // block),
    )
    # (rows of blocks, columns of blocks, block, block, 3)
    tiles = image[:side, :side].reshape(side // block, block, side // block, block, 3).swapaxes(1, 2).copy()
    part = tiles[top:bottom, left:right].reshape(-1, block, block, 3)
    tiles[top:bottom, left:right] = part[rng.permutation(len(part))].reshape(
        bottom - top, right - left, block, block, 3
    )
    out = image.copy()
    out[:side, :side] = tiles.swapaxes(1, 2).reshape(side, side, 3)
    return out


def _blurred(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """The edit, blurred until nothing can be recognised."""
    rows, columns = np.nonzero(region)
    size = min(np.ptp(rows), np.ptp(columns)) + 1
    return _blur(truth, max(3, round(float(size) * rng.uniform(0.25, 0.5))))


def _erased(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image:
    """Half of the edit or more replaced by the colour around the region. The rest stays on one side."""
    changed = (np.abs(source - truth).max(axis=2) > 0.1) & region
    out = np.broadcast_to(_ring_color(source, region), source.shape).astype(np.float32).copy()
    rest = _half_plane(changed if changed.any() else region, float(rng.uniform(0.0, 0.5)), rng)
    out[rest] = truth[rest]
    return out + rng.normal(0, 0.02, source.shape).astype(np.float32)


def _half_done(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> Image | None:
    """Source on one side of a line, edit on the other. None where one side has hardly any change."""
    changed = (np.abs(source - truth).max(axis=2) > 0.1) & region
    if not changed.any():
        return None
    # The line divides the changed pixels, not the region.
    edited = _half_plane(changed, float(rng.uniform(0.35, 0.65)), rng)
    # Outside these shares it would be nearly the source, or nearly the whole edit.
    share = np.count_nonzero(edited & changed) / np.count_nonzero(changed)
    return np.where(edited[..., None], truth, source) if 0.3 <= share <= 0.7 else None


def _ghost(source: Image, truth: Image, rng: np.random.Generator) -> Image:
    """Source and edit at once, each half transparent."""
    # Closer to either end the image would show the source, or the edit.
    weight = np.float32(rng.uniform(0.35, 0.65))
    return source * (1 - weight) + truth * weight


def _recolored(image: Image, color: NDArray[np.float32]) -> Image:
    """The image's brightness in one hue."""
    light = image.mean(axis=2, keepdims=True)
    tinted: Image = np.clip(color * (0.4 + light), 0, 1).astype(np.float32)
    return tinted


# --- helpers ----------------------------------------------------------------------------------------


def _images(case: EditCase, index: int) -> tuple[Image, Image, Region]:
    """Source, ground truth and one region of a case."""
    if case.truth is None:
        raise ValueError(f"case {case.id} has no ground truth: a recipe cannot learn from it")
    return _to_float(case.request.source), _to_float(case.truth), mask_array(case.areas[index])


def _claims(case: EditCase, index: int) -> list[Claim]:
    """The expected attribute changes of one region."""
    return [claim for claim in case.claims if claim.region == index]


def _to_float(image: object) -> Image:
    return np.asarray(image, np.float32) / np.float32(255)


def _to_uint8(image: Image) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return out


def _inside(outside: Image, inside: Image, region: Region, soft: bool = False) -> Image:
    """``inside`` within the region, ``outside`` elsewhere. ``soft`` adds an edge of one pixel between them."""
    weight = region.astype(np.float32)[..., None]
    if soft:
        weight = _blur(weight, 1)
    return outside * (1 - weight) + inside.astype(np.float32) * weight


def _some_color(source: Image, truth: Image, region: Region, rng: np.random.Generator) -> NDArray[np.float32]:
    """Float32 (3,): the mean or one pixel of the edit, the mean of the source, or any colour."""
    chance = rng.random()
    if chance < 0.35:
        changed = region & (np.abs(source - truth).max(axis=2) > 0.1)
        color = truth[changed if changed.any() else region].mean(axis=0)
    elif chance < 0.6:
        pixels = truth[region]
        color = pixels[rng.integers(len(pixels))]
    elif chance < 0.75:
        color = source[region].mean(axis=0)
    else:
        color = rng.random(3)
    return np.asarray(color, np.float32)


def _ring_color(source: Image, region: Region) -> NDArray[np.float32]:
    """Float32 (3,): the mean colour outside the region, within its bounding box grown by three pixels."""
    rows, columns = np.nonzero(region)
    # Pixels of the grown bounding box outside the region.
    box = np.zeros_like(region)
    box[max(0, rows.min() - 3) : rows.max() + 4, max(0, columns.min() - 3) : columns.max() + 4] = True
    ring = box & ~region
    return np.asarray(source[ring if ring.any() else ~region].mean(axis=0), np.float32)


def _half_plane(region: Region, share: float, rng: np.random.Generator) -> Region:
    """The pixels on one side of a random line. About ``share`` of the region lies on this side."""
    # Projection on a random direction. The quantile sets the line.
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: region.shape[0], : region.shape[1]]
    along = x * np.cos(angle) + y * np.sin(angle)
    out: Region = along <= np.quantile(along[region], share)
    return out


def _blur(image: Image, radius: int) -> Image:
    """A box blur of ``2 * radius + 1`` pixels, applied twice with repeated edges. float32 (H, W, C)."""
    from scipy.ndimage import uniform_filter1d

    # Two box blurs are a triangle filter, which is close to a Gaussian.
    for _ in range(2):
        for axis in (0, 1):
            image = uniform_filter1d(image, 2 * radius + 1, axis=axis, mode="nearest")
    return image


def _resize(image: Image, side: int) -> Image:
    """Bilinear resize to (side, side, 3)."""
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    out: Image = (
        F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    )
    return out
