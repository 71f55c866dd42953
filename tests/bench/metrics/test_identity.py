"""Identity of a face outside the mask: known answers with networks that are functions of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.metrics.features import Features
from bench.metrics.identity import COVERED, NO_FACE, FaceIdentity
from bench.metrics.networks import arcface
from bench.metrics.networks.weights import weights_folder
from bench.metrics.types import Pair, RgbImage


class Nets:
    """Finds the face of ArcFace's own places, and takes the pixels of the crop as its embedding."""

    def __init__(self, points: NDArray[np.float64] | None = arcface.PLACES) -> None:
        self.points, self.searched = points, 0

    def find(self, image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        self.searched += 1
        return self.points

    def embeddings(self, crops: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.stack([crop.ravel() - 127.5 for crop in crops])


def image(seed: int) -> RgbImage:
    return RgbImage(np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8))


def metric(monkeypatch: pytest.MonkeyPatch, nets: Nets) -> FaceIdentity:
    weights_folder().mkdir(parents=True, exist_ok=True)
    (weights_folder() / "buffalo_l.zip").write_bytes(b"stands for the pack")
    monkeypatch.setattr(arcface.FaceNets, "load", classmethod(lambda cls: nets))
    return FaceIdentity(Features())


def pair(edited: RgbImage, rows: int = 56) -> Pair:
    """The mask covers the uppermost rows."""
    mask = np.zeros((112, 112), bool)
    mask[:rows] = True
    return Pair(source=image(0), edited=edited, mask=mask)


def test_only_the_kept_part_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    source = image(0).pixels
    inside, outside = source.copy(), source.copy()
    inside[:56] = 255 - inside[:56]
    outside[56:] = 255 - outside[56:]
    nets = Nets()
    values = metric(monkeypatch, nets).score([pair(RgbImage(pixels)) for pixels in (source, inside, outside)])
    assert values[:2] == pytest.approx([1.0, 1.0])
    # The upper half is the same and the lower half negative: the difference of their shares of the squared length.
    squares = np.square(source.astype(float) - 127.5)
    assert values[2] == pytest.approx((squares[:56].sum() - squares[56:].sum()) / squares.sum())
    # One source, three edits: its face is looked for once.
    assert nets.searched == 1


def test_another_face_is_less_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, other = metric(monkeypatch, Nets()).score([pair(image(0)), pair(image(1))])
    assert kept == pytest.approx(1.0)
    assert isinstance(other, float)
    assert other < 0.7


def test_no_face_and_a_covered_face_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metric(monkeypatch, Nets(None)).score([pair(image(1))]) == [NO_FACE]
    few, enough = metric(monkeypatch, Nets()).score([pair(image(1), 102), pair(image(1), 100)])
    assert few == COVERED
    assert isinstance(enough, float)


def test_it_needs_a_mask_and_its_version_changes_with_the_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mask" in FaceIdentity.needs
    before = metric(monkeypatch, Nets()).version
    (weights_folder() / "buffalo_l.zip").write_bytes(b"another pack")
    assert FaceIdentity(Features()).version != before
