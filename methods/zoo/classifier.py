"""The attribute classifier. It predicts the value of each attribute in a region of an image.

A small convolutional network with one softmax head per attribute. It has two views: the whole image, and an enlarged
square around the region, so that small parts are classified as well as large ones. A fourth input channel marks the
region. Every head has the value ``other``: the region shows none of the attribute's values.

The heads also see two means over the region: of the first layers' features, and in the close view of features of single
pixels, which together are a learned histogram of its colours. A part that is one pixel wide has nearly no share in the
features of the last layer, which describe 32 x 32 pixels each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from methods.zoo.data import to_tensor
from methods.zoo.failures import OTHER
from methods.zoo.manifest import ZooError

# See ``ClassifierNetwork``.
WIDTHS = (32, 64, 96, 128)
BLOCKS = (1, 2, 2, 2, 1)
# Learned features of the colour of one pixel.
_COLORS = 32
# Pixels along each side of both views.
SIDE = 64
# Margin around the region in the close view, on each side, as a share of the region's longer side.
MARGIN = 0.15
# The close view spans at least this share of the image's shorter side.
# A closer view of a tiny region would be a blur without surroundings.
LEAST_VIEW = 16 / 64

# Attribute -> value -> probability, ``other`` included.
Answer = dict[str, dict[str, float]]


class ClassifierNetwork(nn.Module):
    """Images and regions => one row of logits per attribute.

    ``labels`` maps each attribute to its values, in the order of the logits. ``other`` is added to each as the last.
    ``widths``: channels at 32, 16, 8 and 4 positions per side. At 2 there are as many as at 4. ``blocks``: residual
    blocks at these five sizes.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[str]],
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
    ) -> None:
        super().__init__()
        self.labels = {name: (*(v for v in values if v != OTHER), OTHER) for name, values in labels.items()}
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        # Five halvings: 64 => 2 positions per side.
        layers: list[nn.Module] = []
        channels = 4
        for width, count in zip((*widths, widths[-1]), blocks, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1)]
            layers += [_ResidualBlock(width) for _ in range(count)]
            channels = width
        self.body = nn.Sequential(*layers)
        self.colors = nn.Sequential(
            nn.Conv2d(3, _COLORS, 1), nn.SiLU(), nn.Conv2d(_COLORS, _COLORS, 1), nn.SiLU()
        )
        # Two views, each with 2 x 2 positions and the mean over the region, and the colours of the close view.
        features = 2 * (4 * widths[-1] + widths[0]) + _COLORS
        self.head = nn.Linear(features, sum(len(v) for v in self.labels.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The two views of :func:`views`, float (N, 2, 4, 64, 64) => attribute -> logits (N, values)."""
        # Both views pass the same body. (2 N, 4, 64, 64) => (2 N, 32, 32, 32) => (2 N, 128, 2, 2)
        both = x.flatten(0, 1)
        early = self.body[:2](both)
        late = F.silu(self.body[2:](early))
        # The features of all positions, (N, 2 * 4 * 128), and the means over the region, (N, 2 * 32) and (N, 32).
        close = x[:, 1]
        colors = region_mean(self.colors(close[:, :3]), close[:, 3:])
        features = [late, region_mean(F.silu(early), both[:, 3:]), colors]
        logits = self.head(torch.cat([one.reshape(len(x), -1) for one in features], 1))
        by_head = logits.split([len(values) for values in self.labels.values()], dim=1)
        return dict(zip(self.labels, by_head, strict=True))

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8], regions: NDArray[np.bool_]) -> list[Answer]:
        """uint8 (N, H, W, 3) and bool (N, H, W) => one answer per image."""
        device = self.head.weight.device
        x = views(to_tensor(images), torch.from_numpy(regions)).to(device)
        probabilities = {name: logits.float().softmax(1).cpu().numpy() for name, logits in self(x).items()}
        return [
            {
                name: dict(zip(self.labels[name], map(float, p[i]), strict=True))
                for name, p in probabilities.items()
            }
            for i in range(len(images))
        ]


def with_labels(model: ClassifierNetwork, labels: Mapping[str, Sequence[str]]) -> ClassifierNetwork:
    """A copy of the model that also answers the attributes of ``labels`` that it lacks.

    The heads of the other attributes keep their weights, and new heads are random. Raises ValueError where an
    attribute has other values than in the model.
    """
    wider = ClassifierNetwork({**model.labels, **labels}, model.widths, model.blocks)
    for name, values in model.labels.items():
        if wider.labels[name] != values:
            raise ValueError(
                f"{name} had the values {values} and now has {wider.labels[name]}: train from scratch"
            )
    wider.body.load_state_dict(model.body.state_dict())
    wider.colors.load_state_dict(model.colors.state_dict())
    # New attributes come last, so the first rows of the head are the old ones.
    with torch.no_grad():
        wider.head.weight[: len(model.head.weight)] = model.head.weight
        wider.head.bias[: len(model.head.bias)] = model.head.bias
    return wider


def region_mean(features: Tensor, marks: Tensor) -> Tensor:
    """Mean of the features (N, C, h, w) over the region: (N, C), and 0 where the region is empty.

    ``marks`` (N, 1, H, W) is 1 in the region and -1 outside, at a whole multiple of the features' size. A position
    counts by the share of its pixels that lie in the region.
    """
    shares = F.adaptive_avg_pool2d((marks + 1) / 2, (features.shape[-2], features.shape[-1]))
    total = (features * shares).sum(dim=(2, 3))
    # Less than one pixel of the smallest position counts as none.
    return total / shares.sum(dim=(2, 3)).clamp(min=1e-3)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm(x)))
        out: Tensor = x + self.conv2(F.silu(h))
        return out


def best(probabilities: Mapping[str, float]) -> str:
    """The most probable value."""
    return max(probabilities, key=probabilities.__getitem__)


def views(x: Tensor, regions: Tensor) -> Tensor:
    """The network's input: the whole image, and a square around the region.

    Float (N, 3, H, W) in [-1, 1] and bool (N, H, W) => float (N, 2, 4, 64, 64). The fourth channel is 1 in the region
    and -1 outside. An empty region has the whole image as its close view.
    """
    # -1 and 1, like the colours.
    marked = torch.cat([x, regions[:, None].to(x.dtype) * 2 - 1], 1)  # (N, 4, H, W)
    whole = _to_side(marked)
    close = []
    for image, region in zip(marked, regions, strict=True):
        left, top, right, bottom = close_box(region)
        close.append(_to_side(image[None, :, top:bottom, left:right]))
    return torch.stack([whole, torch.cat(close)], 1)


def close_box(region: Tensor) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the square around a bool (H, W) region, within the image."""
    height, width = region.shape
    rows, columns = (torch.nonzero(region.any(dim=d)).flatten() for d in (1, 0))
    if not len(rows):
        return 0, 0, width, height
    # The side: the region's longer one with its margin, but neither too small nor larger than the image.
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    longer = max(bottom - top, right - left)
    shorter_side = min(height, width)
    side = min(shorter_side, max(round(LEAST_VIEW * shorter_side), round(longer * (1 + 2 * MARGIN))))

    # Centred on the region, moved inside the image.
    def start(low: int, high: int, size: int) -> int:
        return min(max(0, (low + high - side) // 2), size - side)

    x0, y0 = start(left, right, width), start(top, bottom, height)
    return x0, y0, x0 + side, y0 + side


def to_training_size(
    images: NDArray[np.uint8], regions: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Larger images at the size that the network was trained on, by the mean over areas.

    uint8 (N, H, W, 3) and bool (N, H, W) => (N, 64, 64, 3) and (N, 64, 64). Arrays that are not larger come back
    unchanged. An image that is not square gives a square that holds the region, near the image's middle. A pixel
    belongs to the region where at least half of its area does. A region smaller than that becomes the pixel that has
    most of it, and its content may be invisible at 64 px.
    """
    if max(images.shape[1:3]) <= SIDE:
        return images, regions
    pixels = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    inside = np.empty((len(images), SIDE, SIDE), bool)
    for index, (image, region) in enumerate(zip(images, regions, strict=True)):
        rows, columns = _square_around(region)
        pixels[index] = _area_mean(image[rows, columns])
        share = _area_mean(region[rows, columns].astype(np.uint8) * 255)
        inside[index] = share >= min(128, max(int(share.max()), 1))
    return pixels, inside


def _square_around(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the largest square that holds the region, as near to the image's middle as it can be.

    A region longer than the square loses both of its ends.
    """
    side = min(region.shape)

    def span(axis: int) -> slice:
        places = np.flatnonzero(np.any(region, axis=axis))
        length = region.shape[1 - axis]
        start = (length - side) // 2
        if len(places):
            first, end = int(places[0]), int(places[-1]) + 1
            fits = end - first <= side
            start = min(max(start, end - side), first) if fits else (first + end - side) // 2
        start = min(max(0, start), length - side)
        return slice(start, start + side)

    return span(1), span(0)


def _area_mean(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (S, S) or (S, S, 3) => 64 x 64."""
    from PIL import Image

    # Pillow's box filter weighs every pixel by its share of the area.
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))


def _to_side(x: Tensor) -> Tensor:
    """(N, C, H, W) => (N, C, 64, 64), antialiased where it shrinks."""
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def save(folder: Path, model: ClassifierNetwork) -> None:
    """Write ``config.json`` and half-precision ``reader.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / "reader.safetensors"
    )
    # The order of the values is the order of the logits, so it is stored beside the weights.
    config = {
        "labels": {k: list(v) for k, v in model.labels.items()},
        "widths": list(model.widths),
        "blocks": list(model.blocks),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "cpu") -> ClassifierNetwork:
    """The classifier of a folder that :func:`save` wrote, in evaluation mode, float32.

    Raises ZooError for a folder of an earlier version.
    """
    from safetensors.torch import load_file

    # The configuration fixes the order of the values.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "blocks" not in config:
        raise ZooError(
            f"{folder} holds a classifier of an earlier version, with other layers: train it anew "
            "(`run_bench.py train reader`)."
        )
    model = ClassifierNetwork(config["labels"], config["widths"], config["blocks"])
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "reader.safetensors").items()})
    return model.to(device).eval()
