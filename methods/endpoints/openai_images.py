"""The images-edit endpoint as OpenAI defines it (``POST {base_url}/images/edits``), and servers that speak it.

The request is a multipart form: the source as PNG, further input images, the prompt and a size. With a mask, a PNG of
the source's size follows whose *alpha* is 0 where the image shall be edited. One image comes back, in base64. The
API does not promise to keep the pixels outside the mask.

``openai_images`` gives the mask and edits by a target prompt. ``openai_edit`` gives none and edits by an instruction.
``bench.endpoints.servers`` says which servers there are and which key each of them gets.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image as PilImage

from bench.edit import NearestSize, PixelArea
from bench.endpoints.client import EndpointError, FormFile, Refused
from bench.endpoints.servers import OPENAI, Server, find_server, server_at
from bench.files import sha256_bytes
from methods import batches
from methods.endpoints.base import EndpointMethod, ImageCall, MaskFreeEndpoint, PromptField, RunTime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

SERVER_URL = "PROMPTEDITBENCH_IMAGES_URL"

# Input images of one request at most, the source among them.
MAX_IMAGES = 16
# Sizes (width, height) of the models before gpt-image-2. Later ones take any multiples of 16 up to 3840.
FIXED_SIZES = NearestSize(((1024, 1024), (1536, 1024), (1024, 1536)))
FIXED_MODELS = ("gpt-image-1", "chatgpt-image")

# OpenAI's page of deprecations, as of November 2026.
_SUCCESSOR = (
    "OpenAI names gpt-image-2.6-sunburst and gpt-image-2.6-flare as its successors: set model to one of them."
)
RETIRED: Mapping[str, str] = {
    model: f"OpenAI ended {model} on {day}. {_SUCCESSOR}"
    for model, day in (
        ("dall-e-2", "12 May 2026"),
        ("gpt-image-1", "23 October 2026"),
        ("gpt-image-1-mini", "1 December 2026"),
        ("gpt-image-1.5", "1 December 2026"),
        ("chatgpt-image-latest", "1 December 2026"),
    )
}


def server_url() -> str:
    """The address of the API: the one in the environment, else OpenAI's."""
    return os.environ.get(SERVER_URL, "").strip() or find_server(OPENAI).url


def native_size(size: int | str, model: str, *, is_openai: bool = True) -> int | tuple[int, int] | Any:
    """The working size of an option ``size``: a side, (width, height), or the model's own by the source's shape."""
    if isinstance(size, int):
        return size
    if size != "auto":
        width, height = size.split("x")
        return int(width), int(height)
    if is_openai and model.startswith(FIXED_MODELS):
        return FIXED_SIZES
    # One megapixel. Open models work on multiples of 32.
    return PixelArea(1024**2, 16 if is_openai else 32)


class OpenAiImages(EndpointMethod):
    NAME = "openai_images"
    summary = "OpenAI's images-edit endpoint with a mask, or a compatible server (costs money)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    RETIRED = RETIRED
    REFUSED: Mapping[str, str] = {
        "base_url": f"a suite does not choose where the key is sent. Set the environment variable {SERVER_URL}",
        "key_variable": "a suite does not choose which secret is sent. Set the environment variable OPENAI_API_KEY, "
        "or PROMPTEDITBENCH_IMAGES_KEY for another server",
    }

    @dataclass(frozen=True)
    class Options(EndpointMethod.Options):
        model: str = "gpt-image-2.6-sunburst"
        base_url: str = field(init=False, default_factory=server_url)
        """Set by the environment, never by a suite. It is part of the digest: another server makes other images."""
        size: Literal[256, 512, 1024, "auto"] = 1024
        """Side in pixels of the square image that is sent and of the one that is requested. ``auto``: the size of the
        model that is nearest to the source's aspect ratio."""
        quality: Literal["low", "medium", "high"] | None = None
        """None leaves it to the server."""
        input_fidelity: Literal["low", "high"] | None = None
        """Fidelity to the source, if the model has this setting. None leaves it to the server."""
        prompt_field: PromptField = "target_prompt"
        ask_base64: bool = False
        """Send ``response_format=b64_json``. Some servers answer with a link otherwise. The gpt-image models always
        answer in base64, and refuse the field."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""
        max_bytes: Annotated[int, RunTime] = 4_000_000

    @classmethod
    def needs_of(cls, options: Options) -> frozenset[str]:
        return frozenset({"source", "mask", options.prompt_field})

    @classmethod
    def server(cls, options: Options) -> Server:
        return server_at(options.base_url, SERVER_URL)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = cls.server(options).problems()
        # A worker of a cluster may have another environment than the process that read the suite.
        if options.base_url != server_url():
            problems.append(f"{SERVER_URL} is {server_url()!r}, these options are for {options.base_url!r}")
        return problems + cls.option_problems(options)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.native_size = native_size(options.size, options.model)
        self.needs = self.needs_of(options)
        self.endpoint = self.connect("images/edits")

    def call(self, request: EditRequest, prompt: str) -> ImageCall:
        options = self.options
        # The request is checked here, since a refused one may cost money too.
        source = request.source.convert("RGB")
        side = options.size
        expected = source.size if side == "auto" else (side, side)
        if source.size != expected or request.needed_mask.size != expected:
            raise ValueError(
                f"source of {source.size} and mask of {request.needed_mask.size} pixels: expected "
                f"{expected[0]} x {expected[1]}"
            )
        (mask,) = batches.edit_masks([request])
        fields = {
            "model": options.model,
            "prompt": prompt,
            "n": "1",
            "size": f"{source.width}x{source.height}",
        }
        fields |= _given({"quality": options.quality, "input_fidelity": options.input_fidelity})
        identity = {
            "url": self.endpoint.url,
            "fields": dict(fields),
            **image_hashes(source, request.references),
        }
        identity["mask"] = sha256_bytes(mask.tobytes())
        # Not part of the identity: the field changes the form of the answer, not the image.
        if options.ask_base64:
            fields["response_format"] = "b64_json"

        def send() -> bytes:
            files = image_files(self, source, request.references)
            files.append(FormFile("mask", self.checked_size(mask_png(mask), "mask")))
            return image_of(self.endpoint.post(fields, files))

        return ImageCall(identity, send)

    def _edit(self, request: EditRequest, prompt: str) -> Image:
        edited = super()._edit(request, prompt)
        return batches.composite([request], [edited])[0] if self.options.paste else edited

    def framed(self, edited: Image, size: tuple[int, int]) -> Image:
        """As for other endpoints, but the size must be the one that was asked for."""
        if edited.size != size:
            raise EndpointError(
                f"{self.endpoint.url}: the image has {edited.width}x{edited.height} pixels where "
                f"{size[0]}x{size[1]} were asked for. Choose a size that {self.options.model} has."
            )
        return edited


class OpenAiEdit(MaskFreeEndpoint):
    NAME = "openai_edit"
    summary = "OpenAI's images-edit endpoint by an instruction, or a server such as vLLM-Omni (costs money)"
    RETIRED = RETIRED
    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "gpt-image-1.5": {"model": "gpt-image-1.5", "input_fidelity": "high"},
        # From gpt-image-2 on, input_fidelity must be left out: every input image is read at high fidelity.
        "gpt-image-2": {"model": "gpt-image-2"},
        "gpt-image-2.6-sunburst": {"model": "gpt-image-2.6-sunburst"},
        "gpt-image-2.6-flare": {"model": "gpt-image-2.6-flare"},
        "server": {"server": "images", "model": "", "send_seed": True, "requests_per_minute": 600.0},
    }

    @dataclass(frozen=True)
    class Options(MaskFreeEndpoint.Options):
        server: str = OPENAI
        """``openai``, or another name: its address is in ``PROMPTEDITBENCH_NAME_URL``."""
        model: str = "gpt-image-2"
        size: str = "auto"
        """``auto``: the size of the model that is nearest to the source's aspect ratio, about a megapixel. Or
        ``1536x1024``: a source of another aspect ratio is mirrored at its borders, and the edit cut out again."""
        quality: Literal["low", "medium", "high", "xhigh", "max"] | None = None
        """None leaves it to the server."""
        input_fidelity: Literal["low", "high"] | None = None
        """Fidelity to the source, if the model has this setting. None leaves it to the server."""
        ask_base64: bool = False
        """Send ``response_format=b64_json``, for servers that answer with a link otherwise."""
        # Settings of open models, which OpenAI does not have. None leaves each to the server.
        steps: int | None = None
        guidance: float | None = None
        true_cfg_scale: float | None = None
        negative_prompt: str | None = None

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if options.size != "auto" and not re.fullmatch(r"[1-9]\d{1,3}x[1-9]\d{1,3}", options.size):
            problems.append(f"size {options.size!r}: expected auto, or width and height such as 1536x1024")
        own = [name for name, value in _open_settings(options).items() if value is not None]
        if options.server == OPENAI and (own or options.send_seed):
            names = ", ".join([*own, *(["seed"] if options.send_seed else [])])
            problems.append(f"OpenAI's API has no {names}: leave it out, or name another server")
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.is_openai = options.server == OPENAI
        self.native_size = native_size(options.size, options.model, is_openai=self.is_openai)
        self.endpoint = self.connect("images/edits")

    def call(self, request: EditRequest, prompt: str) -> ImageCall:
        options = self.options
        source = request.source.convert("RGB")
        fields = {
            "model": options.model,
            "prompt": prompt,
            "n": "1",
            "size": f"{source.width}x{source.height}",
        }
        fields |= _given({"quality": options.quality, "input_fidelity": options.input_fidelity})
        fields |= _given(_open_settings(options))
        if options.send_seed:
            fields["seed"] = str(request.seed)
        identity = {
            "url": self.endpoint.url,
            "fields": dict(fields),
            **image_hashes(source, request.references),
        }
        if options.ask_base64:
            fields["response_format"] = "b64_json"

        def send() -> bytes:
            # OpenAI takes several images as `image[]`, vLLM-Omni as repeated `image`.
            files = image_files(
                self, source, request.references, several="image[]" if self.is_openai else "image"
            )
            return image_of(self.endpoint.post(fields, files))

        return ImageCall(identity, send)


def _open_settings(options: OpenAiEdit.Options) -> dict[str, Any]:
    """Name of a form field of vLLM-Omni -> the option's value."""
    return {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "true_cfg_scale": options.true_cfg_scale,
        "negative_prompt": options.negative_prompt,
    }


def _given(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that are not None, as the texts of form fields."""
    return {name: str(value) for name, value in values.items() if value is not None}


def image_hashes(source: Image, references: Sequence[Image]) -> dict[str, Any]:
    """SHA-256 of the pixels of every input image, as a part of a request's identity."""
    hashes: dict[str, Any] = {"source": sha256_bytes(source.tobytes())}
    # Absent without references: stored answers keep their key. The size too: a reference may have any.
    if references:
        hashes["references"] = [[*image.size, sha256_bytes(image.tobytes())] for image in references]
    return hashes


def image_files(
    method: EndpointMethod, source: Image, references: Sequence[Image], *, several: str = "image[]"
) -> list[FormFile]:
    """The source, then the references. ``several``: name of the form's field where there is more than one image."""
    if 1 + len(references) > MAX_IMAGES:
        raise ValueError(f"{1 + len(references)} input images: the endpoint takes {MAX_IMAGES} at most")
    name = several if references else "image"
    pictures = [(source, "image"), *((image.convert("RGB"), "reference") for image in references)]
    return [FormFile(name, method.png(image, what)) for image, what in pictures]


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """Bool (H, W), True = edit => the PNG that the endpoint expects: RGBA, black, alpha 0 = edit, 255 = keep."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., 3] = np.where(mask, 0, 255)
    buffer = io.BytesIO()
    PilImage.fromarray(rgba).save(buffer, format="PNG")
    return buffer.getvalue()


def image_of(answer: Mapping[str, Any]) -> bytes:
    """The bytes of the first image of an answer. Raises Refused for an answer of another form."""
    try:
        first = answer["data"][0]
        text, link = first.get("b64_json"), first.get("url")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Refused(
            "the answer has no data[0], where the image is due. Is it the address of an images API?"
        ) from None
    if not isinstance(text, str):
        raise Refused(
            "the answer is a link, not base64: set ask_base64"
            if isinstance(link, str)
            else "the answer has no data[0].b64_json, where the image is due"
        )
    return decoded(text, "the answer's b64_json")


def decoded(text: str, what: str) -> bytes:
    """The bytes of a base64 text. Raises Refused, naming ``what``, for another text."""
    try:
        # validate: without it, characters outside the alphabet are skipped and give other bytes.
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what} is not base64") from None
