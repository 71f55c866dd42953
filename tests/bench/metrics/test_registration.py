"""Known shifts and zooms, made by SciPy's splines, and damage that is no drift."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from bench.metrics.registration import IDENTITY, Similarity, register, undo
from bench.metrics.types import NoValue
from tests.bench.metrics.pictures import box, natural


@cache
def photograph() -> Any:
    """``(512, 512, 3)`` uint8: the photograph that Matplotlib ships."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))[:512]


def picture(name: str) -> Any:
    return photograph() if name == "photograph" else natural(3, int(name))


def warped(image: Any, scale: float, dx: float, dy: float) -> Any:
    """The content of every pixel p moved to scale * p + (dx, dy), by splines of order 5."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    middle_y, middle_x = (np.array(image.shape[:2]) - 1) / 2
    at = [(y - middle_y - dy) / scale + middle_y, (x - middle_x - dx) / scale + middle_x]
    planes = [map_coordinates(image[..., c].astype(float), at, order=5, mode="nearest") for c in range(3)]
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def jpeg(image: Any, quality: int) -> Any:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def repainted(image: Any, share: float) -> Any:
    """Another image in this share of 64 blocks, chosen at random."""
    other, result, side = natural(77, len(image)), image.copy(), len(image) // 8
    for block in np.random.default_rng(0).permutation(64)[: round(share * 64)]:
        rows, columns = (slice(k * side, (k + 1) * side) for k in divmod(int(block), 8))
        result[rows, columns] = other[rows, columns]
    return result


def lit(image: Any) -> Any:
    """Darkened to 40 % at the left, brightened by 20 % at the right."""
    return (image * np.linspace(0.4, 1.2, image.shape[1])[:, None]).clip(0, 255).astype(np.uint8)


def cast(image: Any) -> Any:
    return (image * np.array([1.2, 0.9, 0.7]) + [10, 0, -10]).clip(0, 255).astype(np.uint8)


DAMAGE = {
    "jpeg": lambda image: jpeg(image, 20),
    "blur": lambda image: gaussian_filter(image, (2, 2, 0)),
    "cast": cast,
    "light": lit,
    "noise": lambda image: (
        (image + np.random.default_rng(1).normal(0, 15, image.shape)).clip(0, 255).astype(np.uint8)
    ),
}
DRIFTS = [(1, 3, -2), (1.01, 0, 0), (1.01, 3, -2), (0.95, -10, 6), (1, 0.5, 0.25)]


def assert_close(
    drift: Similarity | NoValue, expected: tuple[float, float, float], factor: float = 1
) -> None:
    """Within 0.1 px and 0.05 %, times a factor."""
    assert isinstance(drift, Similarity), drift
    assert (drift.dx, drift.dy) == pytest.approx(expected[1:], abs=0.1 * factor)
    assert drift.scale == pytest.approx(expected[0], abs=5e-4 * factor)


class TestKnownDrift:
    @pytest.mark.parametrize("drift", DRIFTS)
    @pytest.mark.parametrize("name", ["photograph", "512", "256"])
    def test_shifts_and_zooms_are_recovered(self, name: str, drift: tuple[float, float, float]) -> None:
        image = picture(name)
        assert_close(register(image, warped(image, *drift), None), drift)

    def test_a_window_of_a_larger_photograph_needs_no_interpolation(self) -> None:
        """Two crops of one photograph, 3 px and 2 px apart: the shift is exact and the border is real."""
        whole = photograph()
        source, edited = whole[10:458, 10:490], whole[12:460, 7:487]
        assert_close(register(source, edited, None), (1, 3, -2), factor=0.3)

    def test_a_fifth_of_the_side(self) -> None:
        image = photograph()
        assert_close(register(image, warped(image, 1, 102.4, 0), None), (1, 102.4, 0))

    def test_a_wide_image(self) -> None:
        image = photograph()[100:388]
        assert_close(register(image, warped(image, 1.02, -6, 3), None), (1.02, -6, 3))

    @pytest.mark.parametrize("name", ["64", "128"])
    def test_small_images_to_a_tenth_of_a_pixel_at_the_border(self, name: str) -> None:
        image = picture(name)
        drift = register(image, warped(image, 1.01, 3, -2), None)
        assert isinstance(drift, Similarity)
        error = Similarity(drift.scale - 0.01, drift.dx - 3, drift.dy + 2)
        assert error.displacement(image.shape[:2]).max() < 0.1

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damage_does_not_hide_drift(self, damage: str) -> None:
        image = photograph()
        assert_close(register(image, DAMAGE[damage](warped(image, 1.01, 3, -2)), None), (1.01, 3, -2))


class TestNoDrift:
    @pytest.mark.parametrize("damage", DAMAGE)
    @pytest.mark.parametrize("name", ["photograph", "256", "64"])
    def test_damage_alone_is_exactly_the_identity(self, name: str, damage: str) -> None:
        image = picture(name)
        assert register(image, DAMAGE[damage](image), None) == IDENTITY

    def test_a_copy_is_the_identity_even_without_any_detail(self) -> None:
        flat = np.full((64, 64, 3), 90, np.uint8)
        assert register(flat, flat.copy(), None) == IDENTITY

    def test_an_image_warped_and_back_is_the_identity(self) -> None:
        image = photograph()
        back = warped(warped(image, 1.01, 3, -2), 1 / 1.01, -3 / 1.01, 2 / 1.01)
        assert register(image, back, None) == IDENTITY

    def test_a_period_of_a_pattern_is_not_taken_for_a_drift(self) -> None:
        """Stripes of 16 px fit as well after a shift of 16 px: the identity is kept."""
        stripes = (128 + 90 * np.sin(np.arange(256) * 2 * np.pi / 16))[:, None, None]
        checks = ((stripes + stripes.transpose(1, 0, 2)) / 2).round().astype(np.uint8).repeat(3, axis=2)
        assert register(checks, jpeg(checks, 60), None) == IDENTITY


class TestMask:
    MASK = box(512, 96, 160, 300, 300)

    def test_what_was_painted_inside_does_not_matter(self) -> None:
        image = photograph()
        moved = warped(image, 1.01, 3, -2)
        drifts = []
        for seed in (1, 2):
            # The painted part moves with the rest.
            edit = np.where(self.MASK[..., None], natural(seed, 512), image)
            edit = np.where(
                warped(self.MASK[..., None].repeat(3, 2) * np.uint8(255), 1.01, 3, -2) > 99, edit, moved
            )
            drifts.append(register(image, edit, self.MASK))
            assert_close(drifts[-1], (1.01, 3, -2))

    def test_drift_inside_the_mask_alone_is_none(self) -> None:
        image = photograph()
        edit = np.where(self.MASK[..., None], warped(image, 1, 9, 0), jpeg(image, 75))
        assert register(image, edit, self.MASK) == IDENTITY

    def test_a_mask_of_everything_is_refused(self) -> None:
        image = natural(1, 64)
        assert register(image, image, np.ones((64, 64), bool)) == NoValue("no pixel lies outside the mask")


class TestRefusal:
    @pytest.mark.parametrize("name", ["photograph", "256"])
    @pytest.mark.parametrize("drift", [(1, 0, 0), (1.01, 3, -2)])
    def test_an_edit_of_60_percent_is_refused_and_one_of_40_percent_is_not(
        self, name: str, drift: tuple[float, float, float]
    ) -> None:
        image = picture(name)
        moved = warped(image, *drift)
        refused = register(image, repainted(moved, 0.6), None)
        assert isinstance(refused, NoValue)
        assert "less than half" in refused.reason
        assert_close(register(image, repainted(moved, 0.4), None), drift)

    @pytest.mark.parametrize("kept", [0.4, 0.6])
    @pytest.mark.parametrize("new", ["flat", "texture"])
    def test_the_area_decides_and_not_the_textured_part_alone(self, kept: float, new: str) -> None:
        """The texture is all at the left, which stays. The rest is flat, and becomes another colour or content."""
        left = np.arange(256) < round(kept * 256)
        source = np.where(left[:, None], natural(3, 256), np.uint8(120))
        rest = np.uint8([40, 160, 200]) if new == "flat" else natural(77, 256)
        for drift in (IDENTITY, Similarity(1, 3, -2)):
            edited = warped(np.where(left[:, None], source, rest), drift.scale, drift.dx, drift.dy)
            answer = register(source, edited, None)
            if kept < 0.5:
                assert answer == NoValue(
                    "less than half of the image matches the source: drift cannot be measured"
                )
            else:
                assert_close(answer, (drift.scale, drift.dx, drift.dy))

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_flat_parts_do_not_hide_behind_damage(self, damage: str) -> None:
        """Damage changes the colours of flat parts, too, and is no edit of them."""
        image = photograph().copy()
        image[:, 220:] = [90, 140, 60]
        assert register(image, DAMAGE[damage](image), None) == IDENTITY
        edited = image.copy()
        edited[:, 220:] = [60, 90, 160]
        assert isinstance(register(image, DAMAGE[damage](edited), None), NoValue)

    def test_outside_the_mask_alone_counts(self) -> None:
        image, mask = photograph(), box(512, 0, 0, 512, 256)
        inside, right = (np.where(area[..., None], natural(77, 512), image) for area in (mask, ~mask))
        assert register(image, inside, mask) == IDENTITY
        assert register(image, right, mask) == NoValue(
            "less than half of the part outside the mask matches the source: drift cannot be measured"
        )

    def test_another_image_is_refused(self) -> None:
        assert isinstance(register(natural(1, 256), natural(2, 256), None), NoValue)

    def test_too_little_detail_is_refused(self) -> None:
        """A ramp shows no shift along its levels, and stripes none along themselves."""
        ramp = np.linspace(0, 255, 128).round().astype(np.uint8)[:, None, None].repeat(128, 1).repeat(3, 2)
        stripes = natural(5, 128)[:, :1].repeat(128, axis=1)
        for image in (ramp, stripes):
            for mask, part in ((None, "image"), (box(128, 0, 0, 8, 8), "part outside the mask")):
                assert register(image, np.roll(image, 1, axis=0), mask) == NoValue(
                    f"the {part} has too little detail to measure drift"
                )


class TestUndo:
    @pytest.mark.parametrize("drift", DRIFTS)
    def test_undoing_a_known_drift_returns_the_source(self, drift: tuple[float, float, float]) -> None:
        """To within 1.5 dB of the same warp and its inverse by splines of order 5."""
        image = photograph()
        scale, dx, dy = drift
        moved = warped(image, *drift)
        back, inside = undo(moved, Similarity(*drift))
        floor = warped(moved, 1 / scale, -dx / scale, -dy / scale)
        # 16 px from the border, where nothing was repeated.
        kept = slice(16, -16)

        def error(pixels: Any) -> float:
            return float(np.square(pixels[kept, kept].astype(float) - image[kept, kept]).mean())

        assert inside[kept, kept].all()
        assert error(back) < 10**0.15 * max(error(floor), 1 / 12)
        assert error(moved) > 5 * error(back)

    def test_pixels_from_beyond_the_border_are_marked(self) -> None:
        _, inside = undo(natural(1, 64), Similarity(1, 3, 0))
        # The content of the last three columns lies beyond the edited image.
        assert inside[:, :-3].all()
        assert not inside[:, -3:].any()

    def test_displacement_of_a_zoom_is_proportional_to_the_distance_from_the_centre(self) -> None:
        lengths = Similarity(1.1).displacement((3, 5))
        assert lengths[1].tolist() == pytest.approx([0.2, 0.1, 0, 0.1, 0.2])
        assert lengths[0, 0] == pytest.approx(0.1 * np.hypot(1, 2))
        assert Similarity(1, 3, -4).displacement((2, 2)).tolist() == [[5, 5], [5, 5]]
