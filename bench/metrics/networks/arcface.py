"""ArcFace (Deng et al. 2019) and its face detector SCRFD (Guo et al. 2021): InsightFace's published pack ``buffalo_l``.

===================  ====================  ======================================================================
network              input                 output
===================  ====================  ======================================================================
``det_10g.onnx``     (1, 3, 640, 640)      for strides 8, 16 and 32, with two anchors a position: scores (N, 1), boxes
                                           (N, 4) and five points (N, 10), as distances in strides from the anchor
``w600k_r50.onnx``   (N, 3, 112, 112)      embedding (N, 512)
===================  ====================  ======================================================================

Image processing as in ``scrfd.py``, ``face_align.py`` and ``arcface_onnx.py`` of deepinsight/insightface, without
OpenCV: its bilinear weights are rounded to 1/32, ours are exact. The largest face of an image counts.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks.weights import WeightFile
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

# InsightFace states no SHA-256.
FACE_PACK = WeightFile(
    name="buffalo_l.zip",
    sha256="",
    url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
    folders=("~/.insightface/models",),
    licence="non-commercial research only",
)
DETECTOR, RECOGNIZER = "det_10g.onnx", "w600k_r50.onnx"

DETECTED_SIDE, CROP_SIDE = 640, 112
STRIDES, ANCHORS = (8, 16, 32), 2
LEAST_SCORE, LARGEST_OVERLAP = 0.5, 0.4
# Where ArcFace expects both eyes, the nose and both corners of the mouth in its crop: (x, y) in pixels.
PLACES = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

Network = Callable[["Floats"], Sequence["Floats"]]
"""Runs a network on one input, float32, and returns its outputs in order."""


def problems() -> list[str]:
    """Lists what is missing, each with its remedy. Empty where the networks can be loaded."""
    lacking = []
    if importlib.util.find_spec("onnxruntime") is None:
        lacking.append(
            "the package onnxruntime is missing. Install it: "
            "pip install --require-hashes --no-deps -r requirements/faces.txt"
        )
    file = FACE_PACK.problem()
    return lacking if file is None else [*lacking, file]


@dataclass(frozen=True)
class Alignment:
    """The similarity transform from an image to ArcFace's crop: z => ``factor`` z + ``offset`` for z = x + iy."""

    factor: complex
    offset: complex

    @classmethod
    def of_points(cls, points: NDArray[np.floating[Any]]) -> Alignment:
        """The least-squares transform of five points ``(5, 2)`` to :data:`PLACES`."""
        z, w = (_complex(values) for values in (points, PLACES))
        centred = z - z.mean()
        factor = (centred.conj() * (w - w.mean())).sum() / (np.abs(centred) ** 2).sum()
        return cls(complex(factor), complex(w.mean() - factor * z.mean()))

    def crop(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """``(H, W)`` or ``(H, W, C)`` => the crop of 112 x 112, bilinear, 0 outside of the image."""
        from scipy.ndimage import map_coordinates

        rows, columns = np.mgrid[:CROP_SIDE, :CROP_SIDE]
        source = (columns + 1j * rows - self.offset) / self.factor
        places = np.stack([source.imag, source.real])
        channels = image.astype(np.float64).reshape(*image.shape[:2], -1)
        sampled = [
            map_coordinates(channels[..., k], places, order=1, mode="grid-constant", cval=0.0)
            for k in range(channels.shape[2])
        ]
        return np.stack(sampled, axis=-1).reshape(CROP_SIDE, CROP_SIDE, *image.shape[2:])


class FaceNets:
    """The detector and ArcFace."""

    def __init__(self, detector: Network, recognizer: Network) -> None:
        self._detector, self._recognizer = detector, recognizer

    @classmethod
    def load(cls) -> FaceNets:
        """The published networks. Raises :class:`MetricError` where they are missing or are others."""
        path = FACE_PACK.path()
        try:
            with zipfile.ZipFile(path) as pack:
                names = {name.rpartition("/")[2]: name for name in pack.namelist()}
                return cls(*(_network(pack.read(names[name])) for name in (DETECTOR, RECOGNIZER)))
        except Exception as error:
            # Whatever zipfile and onnxruntime raise for other files.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MetricError(
                f"{path} does not hold {DETECTOR} and {RECOGNIZER} ({first:.120}). Delete it and get it again."
            ) from error

    def find(self, image: Pixels) -> NDArray[np.float64] | None:
        """The five points (5, 2) of the largest face of an image, uint8 (H, W, 3). None where there is no face."""
        prepared, scale = letterboxed(image)
        scores, boxes, points = decoded(self._detector(_normalised(prepared[None], 128.0)))
        likely = np.flatnonzero(scores >= LEAST_SCORE)
        faces = without_overlaps(boxes[likely], scores[likely])
        if not faces:
            return None
        areas = [np.prod(boxes[likely[face], 2:] - boxes[likely[face], :2]) for face in faces]
        place: NDArray[np.float64] = points[likely[faces[int(np.argmax(areas))]]] / scale
        return place

    def embeddings(self, crops: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """``(N, 512)``: of crops (112, 112, 3) of 0..255."""
        batch = np.stack([np.rint(crop) for crop in crops])
        # One at a time: the published network has a fixed batch on some versions.
        rows = [self._recognizer(_normalised(one[None], 127.5))[0][0] for one in batch]
        return np.stack(rows).astype(np.float64)


def letterboxed(image: Pixels) -> tuple[Pixels, float]:
    """The image in the upper left corner of the detector's input, black elsewhere, and the factor of its size."""
    import torch

    height, width = image.shape[:2]
    if height > width:
        size = (DETECTED_SIDE, max(1, int(DETECTED_SIDE * width / height)))
    else:
        size = (max(1, int(DETECTED_SIDE * height / width)), DETECTED_SIDE)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    # As OpenCV's bilinear resizing: without antialiasing.
    resized = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    canvas = np.zeros((DETECTED_SIDE, DETECTED_SIDE, 3), np.uint8)
    canvas[: size[0], : size[1]] = resized[0].permute(1, 2, 0).round().byte().numpy()
    return canvas, size[0] / height


def decoded(
    outputs: Sequence[Floats],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The detector's nine outputs => scores (N,), boxes (N, 4) as x1 y1 x2 y2, and points (N, 5, 2), in pixels."""
    scores, boxes, points = [], [], []
    for level, stride in enumerate(STRIDES):
        side = DETECTED_SIDE // stride
        rows, columns = np.mgrid[:side, :side] * stride
        # Both anchors of a position lie on it.
        centres = np.repeat(np.stack([columns, rows], axis=-1).reshape(-1, 2), ANCHORS, axis=0).astype(
            np.float64
        )
        of_level = [
            np.asarray(outputs[level + k * len(STRIDES)], np.float64).reshape(len(centres), -1)
            for k in range(3)
        ]
        scores.append(of_level[0][:, 0])
        distances = of_level[1] * stride
        boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1))
        points.append(centres[:, None] + of_level[2].reshape(-1, 5, 2) * stride)
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)


def without_overlaps(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> list[int]:
    """Indices of the boxes that overlap no better one by more than 0.4 of their union, the best first."""
    best: list[int] = []
    rest = np.argsort(-scores, kind="stable")
    while len(rest):
        best.append(int(rest[0]))
        rest = rest[1:][_overlaps(boxes[rest[0]], boxes[rest[1:]]) <= LARGEST_OVERLAP]
    return best


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N,)``: intersection over union of a box with each of N, whose last pixels belong to them."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    inner = np.maximum(0.0, sides).prod(axis=1)
    union = (box[2:] - box[:2] + 1).prod() + (others[:, 2:] - others[:, :2] + 1).prod(axis=1) - inner
    shares: NDArray[np.float64] = inner / union
    return shares


def _normalised(images: NDArray[Any], deviation: float) -> Floats:
    """``(N, H, W, 3)`` of 0..255, RGB => float32 ``(N, 3, H, W)``."""
    return np.ascontiguousarray(((images.astype(np.float32) - 127.5) / deviation).transpose(0, 3, 1, 2))


def _complex(points: NDArray[np.floating[Any]]) -> NDArray[np.complex128]:
    return points[:, 0].astype(np.float64) + 1j * points[:, 1]


def _network(data: bytes) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread, so that a value does not depend on the machine's number of cores.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda values: session.run(None, {entry.name: values})
