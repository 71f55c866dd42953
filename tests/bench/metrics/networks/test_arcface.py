"""ArcFace and its detector: the layout of their inputs and outputs, and the crop, against computations by hand."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.downloads import MissingFiles
from bench.metrics.networks import arcface
from bench.metrics.networks.arcface import PLACES, Alignment, FaceNets, decoded, letterboxed, without_overlaps
from bench.metrics.networks.weights import weights_folder
from bench.metrics.types import MetricError

Outputs = list[NDArray[np.float32]]
FACE = np.array([[30.0, 40], [60, 41], [46, 60], [34, 75], [58, 76]])


def outputs(**faces: tuple[float, Sequence[float], NDArray[np.float64]]) -> Outputs:
    """The detector's outputs with a face for each (score, box, points), at the finest stride."""
    sides = [arcface.DETECTED_SIDE // stride for stride in arcface.STRIDES]
    scores = [np.zeros((2 * side * side, 1), np.float32) for side in sides]
    boxes = [np.zeros((2 * side * side, 4), np.float32) for side in sides]
    points = [np.zeros((2 * side * side, 10), np.float32) for side in sides]
    for score, box, place in faces.values():
        # The anchor of the face's nose, and one of the two on its position.
        column, row = (int(value // 8) for value in place[2])
        index = 2 * (row * sides[0] + column) + 1
        centre = np.array([column, row]) * 8
        scores[0][index] = score
        boxes[0][index] = [*(centre - box[:2]) / 8, *(box[2:] - centre) / 8]
        points[0][index] = ((place - centre) / 8).ravel()
    return [*scores, *boxes, *points]


def face(
    points: NDArray[np.float64], score: float = 0.9
) -> tuple[float, Sequence[float], NDArray[np.float64]]:
    (left, top), (right, bottom) = points.min(axis=0) - 15, points.max(axis=0) + 15
    return score, (left, top, right, bottom), points


def nets(detected: Outputs) -> FaceNets:
    return FaceNets(lambda values: detected, lambda values: [values.reshape(len(values), -1)[:, :512]])


def test_outputs_are_decoded_from_the_anchors() -> None:
    scores, boxes, points = decoded(outputs(a=face(FACE)))
    index = int(scores.argmax())
    assert len(scores) == 2 * (80**2 + 40**2 + 20**2)
    assert boxes[index] == pytest.approx([15, 25, 75, 91], abs=1e-4)
    assert points[index] == pytest.approx(FACE, abs=1e-4)


def test_the_largest_likely_face_counts_at_the_images_own_size() -> None:
    image = np.zeros((320, 160, 3), np.uint8)
    small, large = FACE + np.array([300, 100]), FACE * 2 + np.array([10, 200])
    detected = outputs(small=face(small, 0.99), large=face(large, 0.6), unlikely=face(FACE * 3 + 300, 0.4))
    # 320 pixels become 640: half the size.
    assert nets(detected).find(image) == pytest.approx(large / 2, abs=1e-3)
    assert nets(outputs()).find(image) is None


def test_a_larger_box_of_the_same_face_is_left_out() -> None:
    boxes = np.array([[0.0, 0, 99, 99], [0, 0, 119, 119], [200, 200, 299, 299]])
    assert without_overlaps(boxes, np.array([0.9, 0.6, 0.7])) == [0, 2]
    # Overlaps of 0.4 of the union stay: 100 x 40 of 100 x 100.
    assert without_overlaps(np.array([[0.0, 0, 99, 99], [0, 0, 99, 39]]), np.array([0.9, 0.8])) == [0, 1]


@pytest.mark.parametrize(
    ("shape", "size", "scale"), [((320, 160), (640, 320), 2.0), ((64, 256), (160, 640), 2.5)]
)
def test_an_image_lies_in_the_corner_of_the_detectors_input(
    shape: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    canvas, factor = letterboxed(np.full((*shape, 3), 200, np.uint8))
    assert factor == scale
    assert canvas.shape == (640, 640, 3)
    assert (canvas[: size[0], : size[1]] == 200).all()
    assert canvas.sum() == 200 * 3 * size[0] * size[1]


def test_the_crop_is_the_least_squares_similarity_of_the_five_points() -> None:
    # Points that are a rotated, scaled and shifted copy of the expected ones come back exactly.
    angle, scale, shift = 0.3, 2.5, np.array([7.0, -4.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = scale * PLACES @ rotation.T + shift
    found = Alignment.of_points(moved)
    z = moved[:, 0] + 1j * moved[:, 1]
    assert found.factor * z + found.offset == pytest.approx(PLACES[:, 0] + 1j * PLACES[:, 1])
    # Other points: the normal equations of x' = a x - b y + c, y' = b x + a y + d.
    x, y = FACE.T
    one, zero = np.ones(5), np.zeros(5)
    design = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(design, PLACES.T.ravel(), rcond=None)[0]
    fitted = Alignment.of_points(FACE)
    assert (fitted.factor, fitted.offset) == (pytest.approx(a + 1j * b), pytest.approx(c + 1j * d))


def test_a_crop_samples_between_pixels_and_is_black_outside() -> None:
    image = np.arange(112 * 112 * 3, dtype=np.float64).reshape(112, 112, 3)
    assert np.allclose(Alignment(1, 0).crop(image), image)
    # Half a pixel to the right: the mean of two neighbours, and of the last column and black.
    half = Alignment(1, -0.5).crop(image)
    assert np.allclose(half[:, :-1], (image[:, :-1] + image[:, 1:]) / 2)
    assert np.allclose(half[:, -1], image[:, -1] / 2)
    assert (Alignment(1, 50 + 50j).crop(image)[:49, :49] == 0).all()


def test_inputs_are_normalised_as_published() -> None:
    seen: list[NDArray[np.float32]] = []

    def watched(result: Outputs) -> Callable[[NDArray[np.float32]], Outputs]:
        return lambda values: (seen.append(values), result)[1]

    both = FaceNets(watched(outputs()), watched([np.ones((1, 512), np.float32)]))
    both.find(np.full((640, 640, 3), 255, np.uint8))
    rows = both.embeddings([np.zeros((112, 112, 3)), np.full((112, 112, 3), 255.0)])
    assert rows.shape == (2, 512)
    assert [values.shape for values in seen] == [(1, 3, 640, 640), (1, 3, 112, 112), (1, 3, 112, 112)]
    assert [float(values.max()) for values in seen] == [pytest.approx(127.5 / 128), -1.0, 1.0]


def test_missing_files_are_a_download_and_other_files_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(weights_folder() / "nobody"))
    problem = arcface.problems()[-1]
    assert isinstance(problem, MissingFiles)
    assert "non-commercial research only" in problem
    weights_folder().mkdir(parents=True, exist_ok=True)
    path = weights_folder() / "buffalo_l.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(MetricError, match=r"does not hold det_10g\.onnx and w600k_r50\.onnx"):
        FaceNets.load()
    with zipfile.ZipFile(path, "w") as pack:
        pack.writestr("det_10g.onnx", b"")
    with pytest.raises(MetricError, match=r"does not hold .*Delete it"):
        FaceNets.load()


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arcface.importlib.util, "find_spec", lambda name: None)
    assert any("requirements/faces.txt" in problem for problem in arcface.problems())


def test_networks_of_the_published_layout_are_loaded_and_run(tmp_path: Path) -> None:
    """Tiny random ONNX files with the inputs and outputs of the published ones."""
    pytest.importorskip("onnxruntime", reason="requirements/faces.txt is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    weights_folder().mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((512, 3)).astype(np.float32)
    with zipfile.ZipFile(weights_folder() / "buffalo_l.zip", "w") as pack:
        pack.writestr("buffalo_l/det_10g.onnx", _detector(onnx).SerializeToString())
        pack.writestr("buffalo_l/w600k_r50.onnx", _recognizer(onnx, weights).SerializeToString())
    loaded = FaceNets.load()
    crop = rng.integers(0, 256, (112, 112, 3)).astype(np.float64)
    mean = ((crop - 127.5) / 127.5).mean(axis=(0, 1))
    assert loaded.embeddings([crop])[0] == pytest.approx(weights @ mean, abs=1e-4)
    assert loaded.find(np.zeros((640, 640, 3), np.uint8)) == pytest.approx(FACE, abs=1e-4)


def _recognizer(onnx: Any, weights: NDArray[np.float32]) -> Any:
    """Embedding = weights times the mean colour."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input.1"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["683"], transB=1),
        ],
        "arcface",
        [helper.make_tensor_value_info("input.1", kind, ["None", 3, 112, 112])],
        [helper.make_tensor_value_info("683", kind, [1, 512])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def _detector(onnx: Any) -> Any:
    """The outputs of one face, whatever the image."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    constants = {str(448 + 23 * index): values for index, values in enumerate(outputs(a=face(FACE)))}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"value-{name}"], [name]) for name in constants],
        "scrfd",
        [helper.make_tensor_value_info("input.1", kind, [1, 3, "?", "?"])],
        [helper.make_tensor_value_info(name, kind, values.shape) for name, values in constants.items()],
        [onnx.numpy_helper.from_array(values, f"value-{name}") for name, values in constants.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
