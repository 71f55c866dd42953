"""The rendered protocols of large images: cases, ground truths, masks, and bad options."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from bench.casefile import protocol_info
from bench.edit import EditProtocol
from bench.errors import BenchError
from bench.images import check_mask, mask_array, to_array
from bench.metrics import ground_truth, leakage
from bench.metrics.features import Features
from bench.metrics.masked import bands, masked_mse
from bench.metrics.types import Pair, RgbImage
from bench.registry import parse_options
from protocols import PROTOCOLS
from protocols.selection import check_case
from protocols.world.faces import render_face, sample_face
from protocols.world.large import WorldFaces, WorldFaces1024, WorldScenes, WorldScenes1024, canvas_size
from protocols.world.scenes import render_scene, sample_scene
from protocols.world.world import EVALUATION, edited_scene

ALL = [WorldFaces, WorldScenes]
SIZES = [128, "192x128", "128x192"]
# With three cases per category and four reference images. A change of pixels, masks or selection changes them.
DIGESTS = {
    (WorldFaces, 128): "74d66988c8df",
    (WorldFaces, "192x128"): "0e0f7b044137",
    (WorldScenes, 128): "a5b306fc17db",
    (WorldScenes, "192x128"): "1c3315011b93",
}


def make(cls: type[EditProtocol], **options: Any) -> Any:
    return cls(parse_options(cls, {"cases_per_category": 3, "reference_count": 4, **options}))


@pytest.fixture(scope="module", params=[(cls, size) for cls in ALL for size in SIZES], ids=str)
def protocol(request: pytest.FixtureRequest) -> Any:
    cls, canvas = request.param
    return make(cls, canvas=canvas)


def test_all_categories_are_filled_with_whole_cases(protocol: Any) -> None:
    cases = list(protocol.cases())
    assert Counter(case.category for case in cases) == dict.fromkeys(protocol.categories, 3)
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        check_case(case)
        assert case.request.source.size == protocol.size
        for mask in (case.request.mask, *(region.mask for region in case.request.regions)):
            assert mask.size == protocol.size
            check_mask(mask)


def test_the_truth_is_the_scene_drawn_again_with_the_claims(protocol: Any) -> None:
    for case in protocol.cases():
        seed = EVALUATION + int(case.source_id)
        if isinstance(protocol, WorldFaces):
            face = sample_face(seed)
            for claim in case.claims:
                face = face.with_claim(claim.attribute, claim.after)
            expected = render_face(face, protocol.size, detail=True)[0]
        else:
            scene = edited_scene(sample_scene(seed, protocol.size), case)
            expected = render_scene(scene, protocol.size, detail=True)[0]
        inside = mask_array(case.request.mask)
        source, truth = to_array(case.request.source), to_array(case.truth)
        assert np.array_equal(truth[inside], expected[inside])
        # No leakage at all, outside and at the edge, and something changes inside.
        assert masked_mse(source, truth, ~inside) == 0
        assert masked_mse(source, truth, bands(inside).valid) == 0
        assert masked_mse(source, truth, inside) > 0


def test_metrics_score_the_truth_as_perfect_and_the_copied_input_as_not(protocol: Any) -> None:
    features = Features()
    for case in protocol.cases()[:4]:
        perfect, copied = (
            Pair.of_case(case, RgbImage.of(edit)) for edit in (case.truth, case.request.source)
        )
        distances = ground_truth.TruthRmse(features).score([perfect, copied])
        assert distances[0] == 0
        # The independent value: the mean square over the mask's pixels and channels.
        difference = to_array(case.truth).astype(float) - to_array(case.request.source)
        inside = difference[mask_array(case.request.mask)] / 255
        assert distances[1] == pytest.approx(np.sqrt((inside**2).mean()))
        assert leakage.LeakMse(features).score([perfect, copied]) == [0, 0]


def test_the_reference_shows_other_images(protocol: Any) -> None:
    reference = list(protocol.reference())
    assert len(reference) == 4
    assert {image.size for image in reference} == {protocol.size}
    assert not {image.tobytes() for image in reference} & {
        case.request.source.tobytes() for case in protocol.cases()
    }


def test_the_same_options_give_the_same_digest_and_others_another(protocol: Any) -> None:
    cls, canvas = type(protocol), protocol.options.canvas
    assert make(cls, canvas=canvas).digest == protocol.digest
    assert make(cls, canvas=canvas, cases_per_category=2).digest != protocol.digest
    assert make(cls, canvas=136).digest != protocol.digest


@pytest.mark.parametrize(("cls", "canvas"), DIGESTS)
def test_digests_are_pinned(cls: Any, canvas: int | str) -> None:
    assert make(cls, canvas=canvas).digest == DIGESTS[cls, canvas]


@pytest.mark.parametrize("cls", ALL)
def test_a_wide_canvas_states_both_sides(cls: Any) -> None:
    assert protocol_info(make(cls, canvas=128, cases_per_category=1))["canvas"] == 128
    assert protocol_info(make(cls, canvas="192x128", cases_per_category=1))["canvas"] == [192, 128]


def test_every_size_selects_the_same_cases() -> None:
    for small, large in ((WorldFaces, WorldFaces1024), (WorldScenes, WorldScenes1024)):
        one, other = (make(cls, canvas=128) for cls in (small, large))
        assert [case.id for case in one.cases()] == [case.id for case in other.cases()]
        assert one.digest != other.digest


def test_the_names_say_the_default_sizes() -> None:
    for cls, side in ((WorldFaces, 512), (WorldScenes, 512), (WorldFaces1024, 1024), (WorldScenes1024, 1024)):
        options = parse_options(cls, {})
        assert options.canvas == side
        assert str(side) in cls.name
        assert options.cases_per_category == 50
        assert PROTOCOLS[cls.name] == f"protocols.world.large:{cls.__name__}"
        assert cls.rendered


@pytest.mark.parametrize(
    ("canvas", "size"), [(64, (64, 64)), (1024, (1024, 1024)), ("768x512", (768, 512)), ("512", (512, 512))]
)
def test_a_canvas_is_a_side_or_two(canvas: int | str, size: tuple[int, int]) -> None:
    assert canvas_size(canvas) == size


@pytest.mark.parametrize(
    "canvas", [56, 1032, 100, 0, -64, "512x", "x512", "512x1032", "512x500", "64x64x64", "wide"]
)
@pytest.mark.parametrize("cls", ALL)
def test_other_canvases_are_refused(cls: Any, canvas: int | str) -> None:
    with pytest.raises(
        BenchError, match=r"canvas is .*name a side such as 512, or WIDTHxHEIGHT such as 768x512"
    ):
        parse_options(cls, {"canvas": canvas})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"backgrounds": ["meadow", "moon"]}, "backgrounds are .*moon.*choose from meadow, beach"),
        ({"backgrounds": []}, "backgrounds are"),
        ({"cases_per_category": 0}, "must be at least 1"),
        ({"reference_count": 5000}, "must be at most 2048"),
    ],
)
def test_bad_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse_options(WorldFaces, option)
