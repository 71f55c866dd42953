"""Calibration of the success rule's conditions 2 and 3 on damage of known strength. Nothing here is asserted.

Four tables are printed:

1. the strength of each damage at which "it stayed inside" turns from yes to no, per share of the picture that
   is masked and per canvas (median over rendered pictures);
2. how many pictures pass after their whole outside was replaced, and after JPEG and the autoencoder's round trip;
3. what the ideal edits, JPEG and the embedded autoencoder's round trip have inside and outside, on held-out cases;
4. the dilution of ``leak_lpips`` by the mask, and ``leak_lpips_undiluted``, which has none.

    python tests/perf/leak_rule.py
    python tests/perf/leak_rule.py --canvases 64 512 --pictures 4 --cases 100
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.edit import EditRequest, Runtime  # noqa: E402
from bench.images import mask_array, to_array  # noqa: E402
from bench.metrics.features import Features  # noqa: E402
from bench.metrics.leakage import LeakLpips, LeakLpipsUndiluted  # noqa: E402
from bench.metrics.masked import bands, changed_area, masked_mse, psnr  # noqa: E402
from bench.metrics.options import SuccessRule  # noqa: E402
from bench.metrics.types import Pair, RgbImage  # noqa: E402
from methods.controls import AutoencoderRoundTrip, Jpeg  # noqa: E402
from protocols.world.faces import render_face, sample_face  # noqa: E402
from protocols.world.scenes import render_scene, sample_scene  # noqa: E402
from protocols.world.world import MiniWorld  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

RULE = SuccessRule()
SHARES = (0.01, 0.2, 0.5, 0.87, 0.95, 0.99)
# Seed of the first image, far from those of any training or evaluation.
SEED = 900_000


@cache
def picture(index: int, canvas: int) -> Uint8HWC:
    """A rendered portrait or scene; the same one at every canvas."""
    if index % 2:
        return render_face(sample_face(SEED + index), canvas)[0]
    return render_scene(sample_scene(SEED + index), canvas)[0]


def square_mask(share: float, canvas: int, seed: int) -> BoolHW:
    """A square of this share of the canvas at a random place; from one half on, all but a square."""
    side = round(canvas * np.sqrt(min(share, 1 - share)))
    top, left = (np.random.default_rng(seed).uniform(size=2) * (canvas - side)).astype(int)
    mask = np.zeros((canvas, canvas), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask if share < 0.5 else ~mask


# --- damage: (source, valid outside, strength, seed) -> edited, all uint8 (H, W, 3) ------------------------


def noise(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    grain = np.random.default_rng(seed).standard_normal(source.shape, dtype=np.float32)
    return np.clip(source + 255 * strength * grain, 0, 255).round().astype(np.uint8)


def blur(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    sigma = strength * len(source)
    return (
        gaussian_filter(source.astype(np.float32), (sigma, sigma, 0), mode="nearest").round().astype(np.uint8)
    )


def jpeg(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    file = io.BytesIO()
    Image.fromarray(source).save(file, "JPEG", quality=int(strength))
    return np.asarray(Image.open(file).convert("RGB"))


def shift(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    pixels = round(strength * len(source))
    return np.pad(source, ((0, 0), (pixels, 0), (0, 0)), mode="edge")[:, : len(source)]


def patch(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    """Repaints the pixels nearest to a random one: every channel moves by a quarter of its range."""
    rows, columns = np.nonzero(valid)
    centre = int(np.random.default_rng(seed).uniform() * len(rows))
    distance = np.maximum(np.abs(rows - rows[centre]), np.abs(columns - columns[centre]))
    nearest = np.argsort(distance, kind="stable")[: round(strength * len(rows))]
    edited = source.copy()
    edited[rows[nearest], columns[nearest]] ^= 64
    return edited


Damage = Callable[["Uint8HWC", "BoolHW", float, int], "Uint8HWC"]

PATCH = "repainted patch, share of the outside"

DAMAGES: dict[str, tuple[Damage, Sequence[float]]] = {
    "noise, standard deviation / range": (noise, [0.02 * 1.1**k for k in range(28)]),
    "blur, sigma / side": (blur, [2.0**k for k in np.arange(-9, -2.9, 0.25)]),
    "JPEG, quality": (jpeg, [95, 75, 60, 50, 40, 30, 25, 20, 15, 12, 10, 8, 6, 4, 2, 1]),
    "shift, distance / side": (shift, [2.0**k for k in np.arange(-9, -1.9, 0.5)]),
    PATCH: (patch, [0.01 * k for k in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)]),
}
"""Name -> damage and its strengths, from mild to severe."""


def stays_inside(source: Uint8HWC, edited: Uint8HWC, valid: BoolHW) -> bool:
    """The rule's condition 3."""
    mse = masked_mse(source, edited, valid)
    ratio = None if mse is None else psnr(mse)
    return RULE.holds(True, 1.0, changed_area(source, edited, valid), ratio)


def flip(name: str, index: int, canvas: int, valid: BoolHW) -> float:
    """The geometric mean of the last strength that passes and the first that fails, by bisection.

    0 where the mildest fails, infinity where the severest passes.
    """
    source, strengths = picture(index, canvas), DAMAGES[name][1]
    low, high = -1, len(strengths)
    while high - low > 1:
        middle = (low + high) // 2
        if name == PATCH:
            edited = patch(source, valid, strengths[middle], index)
        else:
            edited = damaged(name, index, canvas, strengths[middle])
        if stays_inside(source, edited, valid):
            low = middle
        else:
            high = middle
    if low < 0 or high == len(strengths):
        return 0.0 if low < 0 else float("inf")
    return float(np.sqrt(strengths[low] * strengths[high]))


@lru_cache(maxsize=32)
def damaged(name: str, index: int, canvas: int, strength: float) -> Uint8HWC:
    """A picture after a damage that does not ask where the mask is: computed once for all masks."""
    source = picture(index, canvas)
    return DAMAGES[name][0](source, np.ones(source.shape[:2], dtype=bool), strength, index)


def print_flips(canvases: Sequence[int], pictures: int) -> None:
    print('1. Strength at which "it stayed inside" turns from yes to no, per share of the picture masked')
    print(f"   (median of {pictures} rendered pictures)\n")
    heading = "".join(f" | {share:6.0%}" for share in SHARES)
    for name in DAMAGES:
        print(f"{name:38}{heading}")
        for canvas in canvases:
            valid = {
                (index, share): bands(square_mask(share, canvas, index)).valid
                for index in range(pictures)
                for share in SHARES
            }
            flips = {
                (index, share): flip(name, index, canvas, valid[index, share])
                for index in range(pictures)
                for share in SHARES
            }
            # Order statistics, as some may be infinite.
            cells = [sorted(flips[i, share] for i in range(pictures))[pictures // 2] for share in SHARES]
            print(f"{canvas:35} px" + "".join(f" | {cell:6.3g}" for cell in cells), flush=True)
        print()


def gray(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    return np.full_like(source, 128)


def replaced_by_noise(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    return np.random.default_rng(seed).integers(0, 256, source.shape, dtype=np.uint8)


def another_picture(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    """The next picture of the same kind."""
    return picture(seed + 2, len(source))


@cache
def autoencoder() -> AutoencoderRoundTrip:
    return AutoencoderRoundTrip(AutoencoderRoundTrip.Options(weights="zoo:autoencoder"), Runtime())


def round_trip(source: Uint8HWC, valid: BoolHW, strength: float, seed: int) -> Uint8HWC:
    request = EditRequest(Image.fromarray(source), None, "", "", "", "")
    return to_array(autoencoder().edit([request])[0])


def print_passes(canvases: Sequence[int], pictures: int) -> None:
    print(f"2. Pictures of {pictures} that pass after one damage, per share of the picture masked\n")
    damages: dict[str, tuple[Damage, float]] = {
        "gray": (gray, 1.0),
        "uniform noise": (replaced_by_noise, 1.0),
        "another picture": (another_picture, 1.0),
        "JPEG, quality 20": (jpeg, 20),
        "JPEG, quality 75": (jpeg, 75),
        "round trip of the autoencoder": (round_trip, 1.0),
    }
    heading = "".join(f" | {share:6.0%}" for share in SHARES)
    for name, (damage, strength) in damages.items():
        print(f"{name:38}{heading}")
        for canvas in canvases:
            passes = np.zeros(len(SHARES), dtype=int)
            for index in range(pictures):
                source = picture(index, canvas)
                edited = damage(source, np.ones(source.shape[:2], dtype=bool), strength, index)
                for k, share in enumerate(SHARES):
                    valid = bands(square_mask(share, canvas, index)).valid
                    passes[k] += stays_inside(source, edited, valid)
            print(f"{canvas:35} px" + "".join(f" | {count:6}" for count in passes), flush=True)
        print()


def print_cases(count: int) -> None:
    world = MiniWorld()
    cases = [world.case(-1 - index) for index in range(count)]
    requests = [case.request for case in cases]
    edits = {
        "ideal edit": [to_array(case.truth) for case in cases if case.truth is not None],
        "JPEG, quality 75": [to_array(image) for image in Jpeg(Jpeg.Options(), Runtime()).edit(requests)],
        "JPEG, quality 20": [
            to_array(image) for image in Jpeg(Jpeg.Options(quality=20), Runtime()).edit(requests)
        ],
        "autoencoder": [
            to_array(image)
            for start in range(0, count, 50)
            for image in autoencoder().edit(requests[start : start + 50])
        ],
    }
    print(f"3. {count} held-out cases at 64 px: the least, 1 %, 50 %, 99 % and the largest value\n")
    for name, images in edits.items():
        inside, outside, ratios = [], [], []
        for request, edited in zip(requests, images, strict=True):
            source, mask = to_array(request.source), mask_array(request.mask)
            valid = bands(mask).valid
            inside.append(changed_area(source, edited, mask) or 0.0)
            area, mse = changed_area(source, edited, valid), masked_mse(source, edited, valid)
            if area is not None and mse is not None:
                outside.append(area)
                ratios.append(psnr(mse))
        for what, values, passes in (
            ("edit_area", inside, np.array(inside) > RULE.min_edit_area),
            ("leak_area", outside, np.array(outside) <= RULE.max_leak_area),
            ("leak_psnr", ratios, np.array(ratios) >= RULE.min_leak_psnr),
        ):
            quantiles = " ".join(f"{q:7.3f}" for q in np.quantile(values, [0, 0.01, 0.5, 0.99, 1]))
            print(f"{name:18} {what}: {quantiles}   passes {passes.sum()} of {len(values)}")
    print()


def print_dilution(pictures: int) -> None:
    print("4. leak_lpips and leak_lpips_undiluted at 64 px, per share of the picture masked (means)\n")
    features = Features()
    print(f"{'':38}" + "".join(f" | {share:13.0%}" for share in SHARES))
    damages: dict[str, tuple[Damage, float]] = {
        "gray": (gray, 1.0),
        "noise, .1": (noise, 0.1),
        "JPEG, 20": (jpeg, 20),
        "shift, 1/32": (shift, 1 / 32),
    }
    for name, (damage, strength) in damages.items():
        cells = []
        for share in SHARES:
            pairs = []
            for index in range(pictures):
                source, mask = picture(index, 64), square_mask(share, 64, index)
                edited = damage(source, bands(mask).valid, strength, index)
                pairs.append(Pair(RgbImage(source), RgbImage(edited), mask))
            plain, undiluted = LeakLpips(features).score(pairs), LeakLpipsUndiluted(features).score(pairs)
            cells.append(f"{np.mean(plain):6.3f} {np.mean(undiluted):6.3f}")  # type: ignore[arg-type]
        print(f"{name:38}" + "".join(f" | {cell}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--canvases", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--pictures", type=int, default=9, help="rendered pictures for tables 1 and 2")
    parser.add_argument("--cases", type=int, default=400, help="held-out cases for table 3")
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2, 3, 4), default=[1, 2, 3, 4])
    options = parser.parse_args()
    if 1 in options.tables:
        print_flips(options.canvases, options.pictures)
    if 2 in options.tables:
        print_passes(options.canvases, options.pictures)
    if 3 in options.tables:
        print_cases(options.cases)
    if 4 in options.tables:
        print_dilution(max(24, options.pictures))


if __name__ == "__main__":
    main()
