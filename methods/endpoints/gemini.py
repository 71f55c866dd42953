"""Image editing with Gemini (``POST {base_url}/models/{model}:generateContent``).

The request is JSON: the instruction, then the source and further input images as PNG in base64. The server takes an
aspect ratio and a resolution, and chooses the number of pixels itself. There is no mask. ``GEMINI_API_KEY`` goes to
Google's host and nowhere else.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.edit import NearestSize
from bench.endpoints.client import Refused
from bench.endpoints.servers import GEMINI
from methods.endpoints.base import ImageCall, MaskFreeEndpoint
from methods.endpoints.openai_images import decoded, image_hashes

if TYPE_CHECKING:
    from bench.edit import EditRequest, Runtime

# Input images of one request at most, the source among them.
MAX_IMAGES = 14
# Aspect ratio -> (width, height) that is sent at 1K: about a megapixel, as the models answer. The models' own sizes
# differ from these by a few pixels.
RATIOS: Mapping[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
# Google's page of deprecations, as of November 2026.
RETIRED: Mapping[str, str] = {
    "gemini-2.5-flash-image": "Google announced the end of gemini-2.5-flash-image for 2 October 2026. Set model to its "
    "successor gemini-3.1-flash-image.",
    "gemini-3-pro-image-preview": "Google ended gemini-3-pro-image-preview on 25 June 2026. Set model to its "
    "successor gemini-3-pro-image.",
}
SCALES: Mapping[str | None, int] = {None: 1, "1K": 1, "2K": 2, "4K": 4}


class GeminiEdit(MaskFreeEndpoint):
    NAME = "gemini_edit"
    summary = "image editing with Gemini by an instruction (costs money)"
    RETIRED = RETIRED
    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "gemini-2.5-flash-image": {"model": "gemini-2.5-flash-image"},
        "gemini-3.1-flash-image": {"model": "gemini-3.1-flash-image", "resolution": "1K"},
        "gemini-3-pro-image": {"model": "gemini-3-pro-image", "resolution": "1K"},
    }

    @dataclass(frozen=True)
    class Options(MaskFreeEndpoint.Options):
        server: str = GEMINI
        """``gemini``, or another name: its address is in ``PROMPTEDITBENCH_NAME_URL``."""
        model: str = "gemini-3.1-flash-image"
        resolution: Literal["1K", "2K", "4K"] | None = None
        """``imageSize`` of the request, for models that have the setting. None leaves it out: about a megapixel."""
        send_seed: bool = False
        """Send the seed of the case. Whether a model draws by it is not documented."""

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        # The name becomes a part of the address.
        if options.model and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.model):
            problems.append(f"model {options.model!r}: expected a name such as gemini-3.1-flash-image")
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.scale = SCALES[options.resolution]
        self.native_size = NearestSize(
            tuple((self.scale * width, self.scale * height) for width, height in RATIOS.values())
        )
        self.endpoint = self.connect(f"models/{options.model}:generateContent", key_header="x-goog-api-key")

    def call(self, request: EditRequest, prompt: str) -> ImageCall:
        # The request is checked here, since a refused one may cost money too.
        source = request.source.convert("RGB")
        if 1 + len(request.references) > MAX_IMAGES:
            raise ValueError(
                f"{1 + len(request.references)} input images: the endpoint takes {MAX_IMAGES} at most"
            )
        config = self._config(source.size, request.seed)
        identity = {
            "url": self.endpoint.url,
            "prompt": prompt,
            "config": config,
            **image_hashes(source, request.references),
        }

        def send() -> bytes:
            pictures = [
                (source, "source"),
                *((image.convert("RGB"), "reference") for image in request.references),
            ]
            parts = [{"text": prompt}] + [
                {"inlineData": {"mimeType": "image/png", "data": _base64(self.png(image, what))}}
                for image, what in pictures
            ]
            body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
            return image_of(self.endpoint.post_json(body))

        return ImageCall(identity, send)

    def _config(self, size: tuple[int, int], seed: int) -> dict[str, Any]:
        """``generationConfig`` for a source of ``size`` (width, height). Raises ValueError for an unknown size."""
        names = {
            (self.scale * width, self.scale * height): ratio for ratio, (width, height) in RATIOS.items()
        }
        if size not in names:
            raise ValueError(f"source of {size} pixels: expected one of {', '.join(map(str, names))}")
        image: dict[str, Any] = {"aspectRatio": names[size]}
        if self.options.resolution is not None:
            image["imageSize"] = self.options.resolution
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"], "imageConfig": image}
        # The API has a signed integer of 32 bits.
        return config | ({"seed": seed % 2**31} if self.options.send_seed else {})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def image_of(answer: Mapping[str, Any]) -> bytes:
    """The bytes of the last image of an answer. Raises Refused, with the server's reason, where there is none."""
    candidates = answer.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else {}
    content = first.get("content") if isinstance(first, dict) else None
    parts = content.get("parts") if isinstance(content, dict) else None
    texts, pictures = [], []
    for part in parts if isinstance(parts, list) else []:
        # Thinking models draw drafts, marked as thoughts.
        if not isinstance(part, dict) or part.get("thought"):
            continue
        blob = part.get("inlineData") or part.get("inline_data")
        if isinstance(blob, dict) and isinstance(blob.get("data"), str):
            pictures.append(blob["data"])
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
    if pictures:
        return decoded(pictures[-1], "the image of the answer")

    # Why there is none: the prompt was blocked, the image was, or the model only talks.
    feedback = answer.get("promptFeedback")
    blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
    ended = first.get("finishReason") if isinstance(first, dict) else None
    reasons = [
        *([f"the prompt was blocked ({blocked})"] if blocked else []),
        *([f"it ended with {ended}"] if ended not in (None, "STOP") else []),
        *([f"it says: {' '.join(' '.join(texts).split())[:200]}"] if texts else []),
    ]
    raise Refused(f"the answer has no image: {'; '.join(reasons) or 'it is empty'}")
