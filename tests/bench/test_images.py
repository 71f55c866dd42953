from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter, PngImagePlugin

from bench.images import (
    ImageError,
    check_mask,
    composite,
    crop_square,
    dilate,
    fit,
    from_array,
    mask_array,
    mask_image,
    png_bytes,
    read_mask,
    read_rgb,
    resize,
    resize_mask,
    to_array,
    unfit,
    write_png,
)


@pytest.fixture
def smooth() -> Image.Image:
    y, x = np.mgrid[0:48, 0:64]
    return from_array(np.stack([x * 4, y * 5, 255 - x * 2], axis=2).astype(np.uint8))


# Reading


def test_rgb_png_is_read_bit_for_bit(tmp_path: Path, smooth: Image.Image) -> None:
    smooth.save(tmp_path / "a.png")
    image = read_rgb(tmp_path / "a.png")
    assert image.mode == "RGB"
    assert (to_array(image) == to_array(smooth)).all()


@pytest.mark.parametrize("reader", [read_rgb, read_mask])
def test_truncated_jpeg(tmp_path: Path, smooth: Image.Image, reader: Callable[[Path], object]) -> None:
    # Large enough for the decoder to begin before it meets the end.
    smooth.resize((256, 256)).save(tmp_path / "whole.jpg", quality=95)
    data = (tmp_path / "whole.jpg").read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg: the image is truncated or damaged.*Fetch it again"):
        reader(path)


def test_truncated_png(tmp_path: Path, smooth: Image.Image) -> None:
    data = png_bytes(smooth)
    for end in (len(data) // 2, 40):
        (tmp_path / "cut.png").write_bytes(data[:end])
        with pytest.raises(ImageError, match=r"cut\.png: .*etch it again"):
            read_rgb(tmp_path / "cut.png")


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, smooth: Image.Image) -> None:
    # Four random bytes of a PNG or JPEG are changed, 60 times each.
    rng = np.random.default_rng(0)
    jpeg = io.BytesIO()
    smooth.save(jpeg, "JPEG")
    refused: list[str] = []
    for data in (png_bytes(smooth), jpeg.getvalue()):
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(4):
                broken[rng.integers(len(broken))] = rng.integers(256)
            (tmp_path / "x").write_bytes(broken)
            try:
                mode = read_rgb(tmp_path / "x").mode
            except ImageError as error:
                refused.append(str(error))
            else:
                assert mode == "RGB"
    assert refused
    assert all(message.startswith(f"{tmp_path / 'x'}: ") for message in refused)


def test_16_bit_gray_png_is_scaled_and_rounded(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65535, 65406, 65407]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = to_array(read_rgb(tmp_path / "deep.png"))
    # 65535 = 255 * 257.
    expected = np.round(values / 257).astype(np.uint8)
    assert (image == expected[..., None]).all()
    assert expected.tolist() == [[0, 0, 1, 1], [128, 255, 254, 255]]


def test_16_bit_mask(tmp_path: Path) -> None:
    mask = np.zeros((6, 6), dtype=np.uint16)
    mask[1:3, 1:3] = 65535
    Image.fromarray(mask).save(tmp_path / "deep.png")
    assert (mask_array(read_mask(tmp_path / "deep.png")) == (mask > 0)).all()


def test_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match=r"deep\.tif: .*beyond 16 bits.*8-bit PNG"):
        read_rgb(tmp_path / "deep.tif")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"float\.tif: images of mode F are not supported"):
        read_rgb(tmp_path / "float.tif")


def test_transparent_pixels_of_an_image_are_refused(tmp_path: Path) -> None:
    # A palette with one transparent colour.
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 0, 1, 2, 0, 1])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    plain = to_array(read_rgb(tmp_path / "plain.png")).reshape(-1, 3)
    assert [tuple(p) for p in plain] == [red, green, blue, red, green, blue, red, green]
    with pytest.raises(
        ImageError, match=r"clear\.png: 37\.5% of its pixels are transparent.*save it without"
    ):
        read_rgb(tmp_path / "clear.png")
    # Gray with an alpha channel: opaque, then with one pixel that is nearly so.
    gray = Image.new("LA", (2, 1), (90, 255))
    gray.save(tmp_path / "gray.png")
    assert to_array(read_rgb(tmp_path / "gray.png")).tolist() == [[[90] * 3] * 2]
    gray.putpixel((0, 0), (90, 254))
    gray.save(tmp_path / "gray.png")
    with pytest.raises(ImageError, match=r"gray\.png: 50\.0% of its pixels are transparent"):
        read_rgb(tmp_path / "gray.png")


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_becomes_three_equal_channels(tmp_path: Path, smooth: Image.Image, mode: str) -> None:
    gray = smooth.convert(mode)
    gray.save(tmp_path / "gray.png")
    image = to_array(read_rgb(tmp_path / "gray.png"))
    assert (image == np.asarray(gray.convert("L"))[..., None]).all()


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    for colour in [(255, 0, 0), (0, 0, 255), (250, 250, 250), (10, 10, 10)]:
        Image.new("RGB", (32, 32), colour).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
        assert Image.open(tmp_path / "cmyk.jpg").mode == "CMYK"
        got = to_array(read_rgb(tmp_path / "cmyk.jpg")).astype(int)
        assert abs(got - np.array(colour)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[:8, -8:] = (0, 255, 0)
    # EXIF 2.32, 4.6.5.1: where row 0 and column 0 of the stored image belong.
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    from_array(undo[orientation](upright)).save(tmp_path / "turned.png", exif=exif)
    assert (to_array(read_rgb(tmp_path / "turned.png")) == upright).all()


def test_missing_empty_folder_and_non_image_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    for name, message in {
        "none.png": r"none\.png: no such file\. Check the path",
        "empty.png": r"empty\.png: the file is empty",
        "text.png": r"text\.png: not a readable image.*Give a PNG or a JPEG",
        ".": "is a folder",
    }.items():
        with pytest.raises(ImageError, match=message):
            read_rgb(tmp_path / name)


# Masks


def test_mask_of_another_size(tmp_path: Path) -> None:
    mask_image(np.eye(8, dtype=np.bool_)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (8, 8)).size == (8, 8)
    with pytest.raises(ImageError, match=r"m\.png: the mask is 8x8 pixels, its image 16x8.*nearest"):
        read_mask(tmp_path / "m.png", (16, 8))


def test_gray_mask_is_split_at_128(tmp_path: Path) -> None:
    from_array(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert to_array(read_mask(tmp_path / "m.png")).tolist() == [[0, 0, 255, 255]]


def test_mask_of_zeros_and_ones_is_refused_rather_than_read_as_empty(tmp_path: Path) -> None:
    from_array(np.eye(4, dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"m\.png: the mask's brightest value is 1; 255 marks"):
        read_mask(tmp_path / "m.png")


def test_bilevel_and_black_masks_are_read(tmp_path: Path) -> None:
    mask_image(np.eye(4, dtype=np.bool_)).convert("1").save(tmp_path / "m.png")
    assert (mask_array(read_mask(tmp_path / "m.png")) == np.eye(4, dtype=bool)).all()
    Image.new("L", (4, 4)).save(tmp_path / "m.png")
    assert not mask_array(read_mask(tmp_path / "m.png")).any()


def test_check_mask_refuses_empty_and_full_and_names_which() -> None:
    check_mask(mask_image(np.eye(4, dtype=np.bool_)))
    with pytest.raises(ImageError, match=r"a\.png is empty.*Mark the region"):
        check_mask(Image.new("L", (4, 4), 0), "a.png")
    with pytest.raises(ImageError, match=r"a\.png is full.*Leave something"):
        check_mask(Image.new("L", (4, 4), 255), "a.png")


def ellipse(width: int = 96, height: int = 80) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray((x - 48) ** 2 + (y - 38) ** 2 <= 18**2)


@pytest.fixture
def photo() -> Image.Image:
    # A smooth image of many colours, as photos are.
    coarse = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


def test_a_photo_is_to_be_edited_where_it_is_transparent(tmp_path: Path, photo: Image.Image) -> None:
    region = ellipse()
    hole = photo.convert("RGBA")
    hole.putalpha(mask_image(~region))
    hole.save(tmp_path / "hole.png")
    assert (mask_array(read_mask(tmp_path / "hole.png", photo.size)) == region).all()
    # What lies under the hole does not matter, and a soft edge is split at 128.
    emptied = np.asarray(hole).copy()
    emptied[region] = 0
    Image.fromarray(emptied).filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "hole.webp", lossless=True)
    soft = mask_array(read_mask(tmp_path / "hole.webp"))
    assert (soft != region).mean() < 0.01


def test_transparency_that_is_not_a_hole_in_a_photo_is_refused(tmp_path: Path, photo: Image.Image) -> None:
    region = mask_image(ellipse())
    inverse = mask_image(~ellipse())
    white, black = Image.new("L", region.size, 255), Image.new("L", region.size, 0)
    # Two alpha channels that are no hole in a photo.
    ramp = photo.convert("RGBA")
    ramp.putalpha(Image.linear_gradient("L").resize(region.size))
    brush = Image.new("RGBA", region.size, (250, 60, 60, 255))
    brush.putalpha(region)
    cases = {
        "white where opaque": Image.merge("LA", (white, region)),
        "black with a hole": Image.merge("LA", (black, inverse)),
        "white region, transparent region": Image.merge("LA", (region, inverse)),
        "one colour of a brush": brush,
        "a ramp of transparency": ramp,
        "nothing opaque": Image.new("RGBA", region.size, (0, 0, 0, 0)),
    }
    for name, image in cases.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        with pytest.raises(ImageError, match=rf"{name}\.png: .*white \(255\) where to edit, or .*OpenAI"):
            read_mask(path)


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    region = mask_image(ellipse())
    opaque = Image.new("L", region.size, 255)
    Image.merge("RGBA", (region, region, region, opaque)).save(tmp_path / "m.png")
    assert (mask_array(read_mask(tmp_path / "m.png")) == ellipse()).all()


def test_soft_edges_and_lossy_files_are_masks(tmp_path: Path) -> None:
    region = mask_image(ellipse())
    # Feathered by hand, and disturbed by lossy compression.
    region.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "soft.png")
    region.resize((384, 320)).filter(ImageFilter.GaussianBlur(16)).save(tmp_path / "feather.png")
    region.save(tmp_path / "ringing.jpg", quality=30)
    region.convert("RGB").save(tmp_path / "colour.jpg", quality=30)
    region.point(lambda v: 200 if v else 20).save(tmp_path / "gray.png")
    for name in ("soft.png", "ringing.jpg", "colour.jpg", "gray.png"):
        assert (mask_array(read_mask(tmp_path / name)) != ellipse()).mean() < 0.003, name
    large = np.kron(ellipse(), np.ones((4, 4), dtype=bool))
    assert (mask_array(read_mask(tmp_path / "feather.png")) != large).mean() < 0.01


def test_a_picture_or_a_map_of_labels_is_no_mask(tmp_path: Path, photo: Image.Image) -> None:
    region = ellipse()
    # Gray values that have a meaning of their own.
    trimap = np.where(dilate(region, 6), np.uint8(128), np.uint8(0))
    trimap[region] = 255
    labels = np.where(region, np.uint8(150), np.uint8(0))
    labels[:20, :20] = 250
    palette = Image.fromarray(region.astype(np.uint8))
    palette.putpalette([0, 0, 0, 0, 255, 0])
    red_on_white = np.where(region[..., None], (255, 0, 0), (255, 255, 255)).astype(np.uint8)
    for message, image in {
        "colours": photo,
        "has colours": palette,
        "the mask has colours": from_array(red_on_white),
        "many gray values": photo.convert("L"),
        "many gray values that": from_array(trimap),
        "has many gray values": from_array(labels),
        "many gray": Image.linear_gradient("L"),
        "gray values": Image.effect_noise((96, 80), 80),
    }.items():
        image.save(tmp_path / "m.png")
        with pytest.raises(ImageError, match=rf"m\.png: .*{message}.*black and white.*OpenAI"):
            read_mask(tmp_path / "m.png")


# Geometry and conversion


def test_resize_keeps_constants_and_its_own_size(smooth: Image.Image) -> None:
    flat = Image.new("RGB", (30, 20), (7, 77, 177))
    assert (to_array(resize(flat, (64, 11))) == np.array([7, 77, 177])).all()
    assert resize(flat, 16).size == (16, 16)
    assert resize(smooth, (64, 48)) is smooth
    with pytest.raises(ImageError, match="0x4"):
        resize(flat, (0, 4))


def test_resize_mask_adds_no_values_and_inverts_exactly() -> None:
    mask = mask_image(np.random.default_rng(0).random((16, 16)) < 0.5)
    # Every pixel becomes a block of 4x4 equal ones, and comes back from it.
    large = resize_mask(mask, 64)
    assert set(np.unique(to_array(large))) == {0, 255}
    assert (to_array(large) == np.kron(to_array(mask), np.ones((4, 4), dtype=np.uint8))).all()
    assert (to_array(resize_mask(large, 16)) == to_array(mask)).all()


def test_crop_square_cuts_what_it_says_and_never_pads(smooth: Image.Image) -> None:
    assert (to_array(crop_square(smooth, (10, 4, 30, 24))) == to_array(smooth)[4:24, 10:30]).all()
    # Not square, empty.
    for box in [(0, 0, 10, 11), (5, 5, 5, 5)]:
        with pytest.raises(ImageError, match="not a square"):
            crop_square(smooth, box)
    # Beyond the left and the lower edge.
    for box in [(-1, 0, 9, 10), (0, 40, 10, 50)]:
        with pytest.raises(ImageError, match="leaves the image of 64x48"):
            crop_square(smooth, box)


def test_arrays_are_checked_and_copied(smooth: Image.Image) -> None:
    array = to_array(smooth)
    array[:] = 0
    assert to_array(smooth).any()
    with pytest.raises(ImageError, match="float64 where uint8"):
        from_array(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"\(4, 4, 4\)"):
        from_array(np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(ImageError, match="mode RGBA"):
        to_array(smooth.convert("RGBA"))
    with pytest.raises(ImageError, match="mask of mode RGB"):
        mask_array(smooth)
    with pytest.raises(ImageError, match="uint8"):
        mask_image(np.zeros((4, 4), dtype=np.uint8))  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.floats(0, 9))
def test_dilate_is_the_euclidean_disc(seed: int, radius: float) -> None:
    mask = np.random.default_rng(seed).random((13, 17)) < 0.05
    # By definition: the least squared distance to any True pixel, (13, 17).
    points = np.argwhere(mask)
    grid = np.stack(np.mgrid[0:13, 0:17], axis=-1)
    if len(points):
        squares = ((grid[:, :, None] - points) ** 2).sum(axis=-1).min(axis=-1)
        expected = squares <= radius**2
    else:
        expected = mask
    assert (dilate(mask, radius) == expected).all()


def test_a_negative_radius_is_refused() -> None:
    with pytest.raises(ImageError, match="negative"):
        dilate(np.ones((9, 9), dtype=np.bool_), -1)


def test_paste_back_is_exact_on_both_sides(smooth: Image.Image) -> None:
    edited = from_array(255 - to_array(smooth))
    inside = np.random.default_rng(1).random((48, 64)) < 0.5
    result = to_array(composite(smooth, edited, mask_image(inside)))
    assert (result[inside] == to_array(edited)[inside]).all()
    assert (result[~inside] == to_array(smooth)[~inside]).all()
    with pytest.raises(ImageError, match="sizes differ"):
        composite(smooth, edited.resize((4, 4)), mask_image(inside))


# Writing


def test_png_has_pixels_only_and_the_same_bytes_for_the_same_pixels(smooth: Image.Image) -> None:
    # An image with text, a colour profile and a resolution.
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    buffer = io.BytesIO()
    smooth.save(buffer, "PNG", pnginfo=info, icc_profile=b"profile", dpi=(300, 300))
    marked = Image.open(buffer)
    assert marked.info
    assert png_bytes(marked) == png_bytes(smooth) == png_bytes(smooth.copy())
    # None of it is in our PNG.
    again = Image.open(io.BytesIO(png_bytes(marked)))
    assert again.info == {}
    assert (np.asarray(again) == to_array(smooth)).all()


def test_write_png_makes_folders(tmp_path: Path, smooth: Image.Image) -> None:
    path = tmp_path / "deep" / "a.png"
    write_png(path, smooth)
    assert (to_array(read_rgb(path)) == to_array(smooth)).all()


# Native sizes


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (10, 50), (31, 20)])
def test_padding_to_a_square_mirrors_and_is_undone_exactly(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = from_array(pixels)
    side = max(size)
    padded = fit(image, (side, side), mirror=True)
    assert padded.size == (side, side)
    assert unfit(padded, size).tobytes() == image.tobytes()
    # The first line beyond a border is the border itself, seen in a mirror.
    longer = 0 if size[1] < size[0] else 1
    start = (side - min(size)) // 2
    lines = np.moveaxis(to_array(padded), longer, 0)
    assert np.array_equal(lines[start - 1], lines[start])
    assert np.array_equal(lines[start - 2], lines[start + 1])


def test_a_padded_mask_has_nothing_to_edit_beyond_the_image() -> None:
    mask = mask_image(np.ones((20, 30), bool))
    padded = mask_array(fit(mask, (30, 30), mirror=False))
    assert padded[5:25].all()
    assert not padded[:5].any()
    assert not padded[25:].any()
    # Also where the frame is larger than the native size, and is no whole number of pixels.
    native = mask_array(fit(mask, (24, 20), mirror=False))
    assert native.shape == (20, 24)
    # 30 x 20 in a frame of 30 x 25 at a scale of 0.8.
    assert np.flatnonzero(native.any(axis=1)).tolist() == list(range(2, 18))
    assert native[2:18].all()


def test_an_image_of_the_size_is_the_same_object(smooth: Image.Image) -> None:
    assert fit(smooth, smooth.size, mirror=True) is smooth
    assert unfit(smooth, smooth.size) is smooth


# Frames of whole pixels and frames that end within a pixel, wider and higher than the source.
FITS = [((96, 64), (48, 48)), ((640, 480), (512, 288)), ((300, 500), (97, 64)), ((123, 457), (64, 512))]


@pytest.mark.parametrize(("size", "native"), FITS)
def test_both_axes_are_scaled_alike_and_the_middle_stays_the_middle(
    size: tuple[int, int], native: tuple[int, int]
) -> None:
    # Red is the x of a pixel's centre, green its y, each in 0..255 over the source.
    (w, h), (nw, nh) = size, native
    x, y = np.meshgrid((np.arange(w) + 0.5) * 255 / w, (np.arange(h) + 0.5) * 255 / h)
    ramp = from_array(np.stack([x, y, 0 * x], axis=2).round().astype(np.uint8))
    seen = to_array(fit(ramp, native, mirror=True)).astype(float)
    # One scale for both axes: that at which the source just fits.
    scale = min(nw / w, nh / h)
    # The margins are whole pixels of the source, so the middle may be off by one of them.
    left = (math.ceil(nw / scale - 1e-9) - w) // 2
    top = (math.ceil(nh / scale - 1e-9) - h) // 2
    expected_x = ((np.arange(nw) + 0.5) / scale - left) * 255 / w
    expected_y = ((np.arange(nh) + 0.5) / scale - top) * 255 / h
    # Away from the source's borders, where the mirrored ramp turns. Rounding of both images is one level.
    for values, expected in ((seen[nh // 2, :, 0], expected_x), (seen[:, nw // 2, 1], expected_y)):
        inner = (expected > 20) & (expected < 235)
        assert inner.sum() > 10
        assert np.abs(values[inner] - expected[inner]).max() <= 1.01


@pytest.mark.parametrize(("size", "native"), FITS)
def test_the_way_back_is_the_inverse(size: tuple[int, int], native: tuple[int, int]) -> None:
    (w, h), rng = size, np.random.default_rng(0)
    # A picture of low frequencies, which survives a smaller native size.
    coarse = from_array(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    image = coarse.resize((w, h), Image.Resampling.BICUBIC)
    back = unfit(fit(image, native, mirror=True), size)
    assert back.size == size
    difference = np.abs(to_array(back).astype(float) - to_array(image))[h // 8 : -h // 8, w // 8 : -w // 8]
    assert difference.mean() < 1.0
    # A shift by one pixel of the source would be seen.
    shifted = np.abs(np.roll(to_array(back), 1, axis=1).astype(float) - to_array(image))
    assert shifted[h // 8 : -h // 8, w // 8 : -w // 8].mean() > 2 * difference.mean()
