"""The rendered folders, read by the classes of the published data sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.images import mask_array, read_rgb
from bench.registry import parse_options
from protocols.celeba_hq import CelebAHQ
from protocols.coco import Coco
from protocols.selection import ProtocolError
from protocols.world import MiniCelebAHQ, MiniCoco
from protocols.world.faces import render_face
from protocols.world.scenes import render_scene, sample_scene
from protocols.world.world import EVALUATION, edited_scene, sample_face

DIGESTS = {MiniCelebAHQ: "3f76cb859fca", MiniCoco: "53f2675eb1ca"}


@pytest.fixture(scope="module", params=[MiniCelebAHQ, MiniCoco])
def protocol(request: pytest.FixtureRequest, cache: Path):  # type: ignore[no-untyped-def]
    cls = request.param
    return cls(parse_options(cls, {"root": str(cache / cls.name)}))


@pytest.mark.parametrize("cls", [MiniCelebAHQ, MiniCoco])
def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    cls: type[MiniCelebAHQ], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ProtocolError, match=r"file/mini/.*\(Not a directory\).* PROMPTEDITBENCH_CACHE"):
        cls(cls.Options())


def test_fifty_cases_of_each_category_with_their_truth(protocol) -> None:  # type: ignore[no-untyped-def]
    cases = list(protocol.cases())
    assert Counter(case.category for case in cases) == {
        "attribute": 50, "replacement": 50, "background": 50, "multi_object": 50,
    }  # fmt: skip
    assert len({case.id for case in cases}) == 200
    for case in cases:
        assert case.truth is not None
        outside = ~mask_array(case.request.mask)
        assert np.array_equal(np.asarray(case.truth)[outside], np.asarray(case.request.source)[outside])


def test_digests_are_pinned(protocol) -> None:  # type: ignore[no-untyped-def]
    assert protocol.digest == DIGESTS[type(protocol)]


def test_reference_is_large_and_disjoint_from_the_sources(protocol) -> None:  # type: ignore[no-untyped-def]
    reference = {image.tobytes() for image in protocol.reference()}
    assert len(reference) >= 2_000
    assert not reference & {case.request.source.tobytes() for case in protocol.cases()}


def test_the_published_classes_read_the_folder_as_it_is(cache: Path, protocol) -> None:  # type: ignore[no-untyped-def]
    plain = {MiniCelebAHQ: CelebAHQ, MiniCoco: Coco}[type(protocol)]
    values = {"root": str(cache / protocol.name), "canvas": 64, "cases_per_category": 5}
    if plain is Coco:
        values |= {"materials": ()}
    cases = list(plain(parse_options(plain, values)).cases())
    assert len(cases) == 20
    assert all(case.truth is None for case in cases)


def test_the_folder_shows_what_its_seeds_draw(cache: Path, protocol) -> None:  # type: ignore[no-untyped-def]
    number = 7
    if isinstance(protocol, MiniCelebAHQ):
        read = read_rgb(cache / protocol.name / "CelebA-HQ-img" / f"{number}.jpg")
        drawn = render_face(sample_face(EVALUATION + number))[0]
    else:
        read = read_rgb(cache / protocol.name / "val2017" / f"{number:012d}.jpg")
        drawn = render_scene(sample_scene(EVALUATION + number))[0]
    assert np.abs(np.asarray(read).astype(int) - drawn).mean() < 3  # JPEG, quality 95


def test_the_truth_shows_the_claims(protocol) -> None:  # type: ignore[no-untyped-def]
    """Against the re-render itself, wherever the mask's inside is concerned."""
    for case in list(protocol.cases())[::10]:
        seed = EVALUATION + int(case.source_id)
        if isinstance(protocol, MiniCelebAHQ):
            face = sample_face(seed)
            for claim in case.claims:
                face = face.with_claim(claim.attribute, claim.after)
            expected = render_face(face)[0]
        else:
            expected = render_scene(edited_scene(sample_scene(seed), case))[0]
        inside = mask_array(case.request.mask)
        assert np.array_equal(np.asarray(case.truth)[inside], expected[inside])


def test_a_killed_rendering_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocols.world import layout

    def broken(root: Path) -> None:
        (root / "half").write_text("done")
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "write_faces", broken)
    with pytest.raises(KeyboardInterrupt):
        layout.ensure("celeba_hq", str(tmp_path / "faces"))
    assert not list(tmp_path.iterdir())
