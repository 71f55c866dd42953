"""The shape of a GLIDE network as data: the two published networks, and reading and writing ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from methods.glide.schedule import ScheduleName
from methods.weights import WeightsError, read_json

CLASS_NAME = "GlideUNet"

Part = Literal["base", "upsampler"]


@dataclass(frozen=True)
class UNetConfig:
    """One network. The defaults are those that the published base and upsampler share."""

    kind: Part
    # Side length in pixels of the images that it denoises.
    image_size: int
    # Channels of each level, as multiples of ``channels``. Each level halves the side.
    channel_mult: tuple[int, ...]
    res_blocks: int
    # The levels with attention, each by its downsampling factor: 2 is half of the image's side.
    attention_factors: tuple[int, ...]
    schedule: ScheduleName
    channels: int = 192
    head_channels: int = 64
    norm_groups: int = 32
    dropout: float = 0.1
    # Tokens of a prompt, padding included.
    text_ctx: int = 128
    text_width: int = 512
    text_layers: int = 16
    text_heads: int = 8
    vocabulary: int = 50257

    @property
    def in_channels(self) -> int:
        """Channels of x_t (3), the visible pixels (3), their mask (1), and for the upsampler the low resolution (3)."""
        return 10 if self.kind == "upsampler" else 7

    def problems(self) -> list[str]:
        """Reasons why a network of this shape cannot be built."""
        problems = [
            f"{field.name}: expected a number above 0"
            for field in dataclasses.fields(self)
            if field.type == "int" and getattr(self, field.name) < 1
        ]
        if problems:
            return problems
        if not self.channel_mult or min(self.channel_mult) < 1:
            return ["channel_mult: expected a list of numbers above 0"]

        # Every level must halve evenly, and its channels must divide into groups and heads.
        levels = [2**level for level in range(len(self.channel_mult))]
        if self.image_size % levels[-1]:
            problems.append(
                f"image_size {self.image_size}: {len(levels)} levels need a multiple of {levels[-1]}"
            )
        for factor, mult in zip(levels, self.channel_mult, strict=True):
            width = mult * self.channels
            if width % self.norm_groups:
                problems.append(f"{width} channels do not divide into norm_groups {self.norm_groups}")
            # The middle block, at the lowest resolution, always has attention.
            attends = factor in self.attention_factors or factor == levels[-1]
            if attends and width % self.head_channels:
                problems.append(f"{width} channels do not divide into heads of {self.head_channels}")
        if set(self.attention_factors) - set(levels):
            problems.append(f"attention_factors {list(self.attention_factors)}: the levels are {levels}")
        if self.text_width % self.text_heads:
            problems.append(f"text_width {self.text_width} does not divide into {self.text_heads} heads")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout {self.dropout}: expected a share from 0 to 1")
        return problems


# ``base_inpaint.pt``: 385,037,638 parameters.
BASE = UNetConfig(
    kind="base",
    image_size=64,
    channel_mult=(1, 2, 3, 4),
    res_blocks=3,
    attention_factors=(2, 4, 8),
    schedule="squaredcos_cap_v2",
)

# ``upsample_inpaint.pt``: 398,368,198 parameters.
UPSAMPLER = UNetConfig(
    kind="upsampler",
    image_size=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    res_blocks=2,
    attention_factors=(8, 16, 32),
    schedule="linear",
)


def to_json(config: UNetConfig) -> dict[str, Any]:
    """The object of a ``config.json``."""
    return {"_class_name": CLASS_NAME, **dataclasses.asdict(config)}


def read_config(path: Path) -> UNetConfig:
    """The network of a ``config.json``. Raises WeightsError that names the file and the fault in it."""
    return from_json(read_json(path), str(path))


def from_json(values: Mapping[str, Any], source: str) -> UNetConfig:
    """The reverse of :func:`to_json`. Raises WeightsError that begins with ``source``."""
    # Imported here: GLIDE can be listed without it.
    from pydantic import TypeAdapter, ValidationError

    if values.get("_class_name") != CLASS_NAME:
        raise WeightsError(f"{source}: a {values.get('_class_name')}, expected a {CLASS_NAME}")
    fields = [field.name for field in dataclasses.fields(UNetConfig)]
    unknown = sorted(set(values) - {*fields, "_class_name"})
    if unknown:
        raise WeightsError(f"{source}: unknown {', '.join(unknown)}; a network has {', '.join(fields)}")
    # Through text: in JSON mode pydantic takes a list for a tuple, and strict still refuses "64" for a number.
    text = json.dumps({name: values[name] for name in fields if name in values})
    try:
        config = TypeAdapter(UNetConfig).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        # A missing field has no value of its own: its input is the whole object.
        value = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise WeightsError(f"{source}: {path}: {first['msg']}{value}") from error
    if problems := config.problems():
        raise WeightsError(f"{source}: {'; '.join(problems)}")
    return config
