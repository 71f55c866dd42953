"""What a GLIDE network looks like, as data: the two published ones, and what a ``config.json`` may say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from methods.glide.schedule import ScheduleName
from methods.weights import WeightsError, read_json

CLASS_NAME = "GlideUNet"

Part = Literal["base", "upsampler"]


@dataclass(frozen=True)
class UNetConfig:
    """One network. The defaults are those that the published base and upsampler share."""

    kind: Part
    image_size: int
    """Side length in pixels of what it denoises."""
    channel_mult: tuple[int, ...]
    """Channels of each level, as multiples of ``channels``; each level halves the side."""
    res_blocks: int
    attention_factors: tuple[int, ...]
    """The levels with attention, by how much smaller than the image they are."""
    schedule: ScheduleName
    channels: int = 192
    head_channels: int = 64
    norm_groups: int = 32
    dropout: float = 0.1
    text_ctx: int = 128
    """Tokens of a prompt, padding included."""
    text_width: int = 512
    text_layers: int = 16
    text_heads: int = 8
    vocabulary: int = 50257

    @property
    def in_channels(self) -> int:
        """x_t (3), the known pixels (3), where they are (1), and for the upsampler the low resolution (3)."""
        return 10 if self.kind == "upsampler" else 7

    def problems(self) -> list[str]:
        """What keeps a network of this shape from being built."""
        found = [
            f"{field.name}: expected a number above 0"
            for field in dataclasses.fields(self)
            if field.type == "int" and getattr(self, field.name) < 1
        ]
        if found:
            return found
        if not self.channel_mult or min(self.channel_mult) < 1:
            return ["channel_mult: expected a list of numbers above 0"]
        levels = [2**level for level in range(len(self.channel_mult))]
        if self.image_size % levels[-1]:
            found.append(
                f"image_size {self.image_size}: {len(levels)} levels need a multiple of {levels[-1]}"
            )
        for factor, mult in zip(levels, self.channel_mult, strict=True):
            width = mult * self.channels
            if width % self.norm_groups:
                found.append(f"{width} channels do not divide into norm_groups {self.norm_groups}")
            attends = factor in self.attention_factors or factor == levels[-1]
            if attends and width % self.head_channels:
                found.append(f"{width} channels do not divide into heads of {self.head_channels}")
        if set(self.attention_factors) - set(levels):
            found.append(f"attention_factors {list(self.attention_factors)}: the levels are {levels}")
        if self.text_width % self.text_heads:
            found.append(f"text_width {self.text_width} does not divide into {self.text_heads} heads")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout {self.dropout}: expected a share from 0 to 1")
        return found


BASE = UNetConfig(
    kind="base",
    image_size=64,
    channel_mult=(1, 2, 3, 4),
    res_blocks=3,
    attention_factors=(2, 4, 8),
    schedule="squaredcos_cap_v2",
)
"""``base_inpaint.pt``: 385,037,638 parameters."""

UPSAMPLER = UNetConfig(
    kind="upsampler",
    image_size=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    res_blocks=2,
    attention_factors=(8, 16, 32),
    schedule="linear",
)
"""``upsample_inpaint.pt``: 398,368,198 parameters."""


def to_json(config: UNetConfig) -> dict[str, Any]:
    """The object of a ``config.json``."""
    return {"_class_name": CLASS_NAME, **dataclasses.asdict(config)}


def read_config(path: Path) -> UNetConfig:
    """The network of a ``config.json``. Raises WeightsError that names the file and what is wrong in it."""
    return from_json(read_json(path), str(path))


def from_json(values: Mapping[str, Any], where: str) -> UNetConfig:
    """The reverse of :func:`to_json`. Raises WeightsError that begins with ``where``."""
    if values.get("_class_name") != CLASS_NAME:
        raise WeightsError(f"{where}: a {values.get('_class_name')}, expected a {CLASS_NAME}")
    fields = {field.name: field for field in dataclasses.fields(UNetConfig)}
    unknown = sorted(set(values) - set(fields) - {"_class_name"})
    if unknown:
        raise WeightsError(f"{where}: unknown {', '.join(unknown)}; a network has {', '.join(fields)}")
    asked: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise WeightsError(f"{where}: {name} is missing")
            continue
        value = values[name]
        if not _fits(str(field.type), value):
            raise WeightsError(f"{where}: {name} is {value!r}, expected {_EXPECTED[str(field.type)]}")
        asked[name] = tuple(value) if isinstance(value, list) else value
    config = UNetConfig(**asked)
    found = config.problems()
    if found:
        raise WeightsError(f"{where}: {'; '.join(found)}")
    return config


_EXPECTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "tuple[int, ...]": "a list of whole numbers",
    "Part": " or ".join(get_args(Part)),
    "ScheduleName": " or ".join(get_args(ScheduleName)),
}


def _fits(wanted: str, value: Any) -> bool:
    if wanted == "int":
        return type(value) is int
    if wanted == "float":
        return type(value) in (int, float)
    if wanted == "tuple[int, ...]":
        return isinstance(value, list | tuple) and all(type(item) is int for item in value)
    return value in get_args(ScheduleName if wanted == "ScheduleName" else Part)
