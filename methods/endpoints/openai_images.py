"""The images-edit endpoint as OpenAI defines it (``POST {base_url}/images/edits``), and servers that speak it.

Which server is asked, and which secret it gets, is the user's choice alone, by the environment: ``OPENAI_API_KEY`` goes
to OpenAI and nowhere else; ``PROMPTEDITBENCH_IMAGES_URL`` names another server and ``PROMPTEDITBENCH_IMAGES_KEY`` its
key. A suite file is data that may come from anybody, and names neither.

A multipart form: the source as PNG, a mask of the same size whose *alpha* is 0 where the image shall be edited,
the prompt. One image comes back, in base64. Nothing is promised outside the mask.

Each answer is kept on disk by what was asked (server, model, settings, prompt, pixels of source and mask, seed),
so that a run that was killed, or is made again, pays for no edit twice.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image as PilImage
from pydantic import Field

from bench import images
from bench.edit import EditMethod
from methods import batches
from methods.endpoints.client import Endpoint, EndpointError, Kept, Part, RateLimit, Refused, key_of
from methods.runtime import refuse

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
SERVER_URL = "PROMPTEDITBENCH_IMAGES_URL"
SERVER_KEY = "PROMPTEDITBENCH_IMAGES_KEY"

RunTime = Field(exclude=True)
"""Marks what changes no pixel: such options are no part of the method's digest."""


def server_url() -> str:
    """The address of the API: what the environment names, else OpenAI's."""
    return os.environ.get(SERVER_URL, "").strip() or OPENAI_URL


def key_variable(url: str) -> str:
    """The environment variable whose key may be sent to ``url``."""
    same = _address(url)[:2] == _address(OPENAI_URL)[:2]
    return OPENAI_KEY if same else SERVER_KEY


@dataclass(frozen=True)
class Estimate:
    """What a number of edits takes, if none of them is kept already and none has to be retried."""

    requests: int
    minutes: float
    """At least, by the rate limit."""
    cost: float | None
    """In the currency of ``price_per_image``; None where no price is given."""

    def __str__(self) -> str:
        cost = "cost unknown: set price_per_image" if self.cost is None else f"cost {self.cost:.2f}"
        return f"{self.requests} requests, at least {self.minutes:.1f} minutes, {cost}"


class OpenAiImages(EditMethod):
    summary = "the OpenAI images-edit endpoint, and servers with the same one; costs money"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 1024
    REFUSED: Mapping[str, str] = {
        "base_url": f"a suite does not choose where the key is sent. Set the environment variable {SERVER_URL}",
        "key_variable": f"a suite does not choose which secret is sent. Set the environment variable {OPENAI_KEY}, "
        f"or {SERVER_KEY} for another server",
    }

    @dataclass(frozen=True)
    class Options:
        model: str = "gpt-image-1"
        base_url: str = field(init=False, default_factory=server_url)
        """Set by the environment, never by a suite. Part of the digest: another server makes other pictures."""
        size: Literal[256, 512, 1024] = 1024
        """Side length in pixels of what is sent and of what is asked for."""
        quality: Literal["low", "medium", "high"] | None = None
        """None leaves it to the server."""
        input_fidelity: Literal["low", "high"] | None = None
        """How closely the source is kept, where the model knows of it; None leaves it to the server."""
        prompt_field: Literal["target_prompt", "region_prompt", "instruction"] = "target_prompt"
        ask_base64: bool = False
        """Send ``response_format=b64_json``: some servers answer with a link otherwise; the gpt-image models
        always answer in base64, and refuse the field."""
        paste: bool = False
        """Paste the result into the source along the mask. Off: the raw output; both are scored."""
        # From here on: no part of the digest.
        requests_per_minute: Annotated[float, RunTime] = 5.0
        timeout: Annotated[float, RunTime] = 180.0
        """Seconds without an answer after which a request is tried again; it may have been charged for."""
        retries: Annotated[int, RunTime] = 5
        max_requests: Annotated[int | None, RunTime] = None
        """A ceiling for one run, retries counted; None for none."""
        price_per_image: Annotated[float | None, RunTime] = None
        """By the provider's price list, for the estimate."""
        max_bytes: Annotated[int, RunTime] = 4_000_000
        """Of each PNG that is sent; the endpoint refuses larger ones."""
        cache: Annotated[str, RunTime] = ""
        """The folder of the kept answers; empty for the user's cache folder."""

    @classmethod
    def estimate(cls, options: Options, edits: int) -> Estimate:
        """What ``edits`` edits take."""
        price = options.price_per_image
        return Estimate(edits, edits / options.requests_per_minute, None if price is None else edits * price)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        address = _address(options.base_url)
        local = address.hostname in ("localhost", "127.0.0.1", "::1")
        if address.scheme != "https" and not (address.scheme == "http" and local):
            found.append(
                f"{SERVER_URL} {options.base_url!r}: expected https://..., since the key is sent there "
                "(http only for this machine)"
            )
        if options.base_url != server_url():
            found.append(f"{SERVER_URL} is {server_url()!r}, these options are for {options.base_url!r}")
        variable = key_variable(options.base_url)
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            found.append(f"the environment variable {variable} holds what cannot be a key")
        if not key:
            found.append(
                f"the environment variable {variable} is not set: put the API key of {address.hostname} there "
                f"(export {variable}=...)"
            )
        if not options.model:
            found.append("model is empty: name the one to ask")
        if options.requests_per_minute <= 0 or options.timeout <= 0:
            found.append(
                f"requests_per_minute {options.requests_per_minute} and timeout {options.timeout}: expected "
                "more than 0"
            )
        if options.retries < 0 or (options.max_requests is not None and options.max_requests < 1):
            found.append(
                f"retries {options.retries} and max_requests {options.max_requests}: expected at least 0 and 1"
            )
        folder = cache_folder(options)
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            found.append(
                f"cache {folder}: cannot be written, and an answer that is not kept is paid for again. "
                "Name another folder with cache"
            )
        return found

    def __init__(self, options: Options, runtime: Runtime) -> None:
        del runtime
        refuse("openai_images", self.problems(options))
        self.options = options
        self.native_size = options.size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.kept = Kept(cache_folder(options))
        self.endpoint = Endpoint(
            options.base_url.rstrip("/") + "/images/edits",
            os.environ[key_variable(options.base_url)].strip(),
            limit=RateLimit(options.requests_per_minute),
            timeout=options.timeout,
            retries=options.retries,
            max_calls=options.max_requests,
        )
        self._refused: dict[str, str] = {}

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Square sources of the option's size; the requests of a batch are under way at the same time.

        Where one of them fails the others are kept, so that they cost nothing when they are asked for again.
        """
        if not requests:
            return []
        prompts = batches.prompts(requests, self.options.prompt_field)
        with ThreadPoolExecutor(len(requests), thread_name_prefix="edit") as pool:
            asked = [pool.submit(self._edit, *one) for one in zip(requests, prompts, strict=True)]
        # All of them have ended here: one that fails takes back none of the others.
        return [one.result() for one in asked]

    def _edit(self, request: EditRequest, prompt: str) -> Image:
        options = self.options
        source = request.source.convert("RGB")
        side = options.size
        if source.size != (side, side) or request.mask.size != source.size:
            raise ValueError(
                f"source of {source.size} and mask of {request.mask.size} pixels: expected {side} x {side}"
            )
        mask = images.mask_array(request.mask)
        if not mask.any():
            raise ValueError("the mask is empty: there is nothing to edit")
        fields = {"model": options.model, "prompt": prompt, "n": "1", "size": f"{side}x{side}"}
        if options.quality is not None:
            fields["quality"] = options.quality
        if options.input_fidelity is not None:
            fields["input_fidelity"] = options.input_fidelity
        key = key_of(
            {
                "url": self.endpoint.url,
                "fields": fields,
                "source": images.sha256_bytes(source.tobytes()),
                "mask": images.sha256_bytes(mask.tobytes()),
                # The endpoint has no seed: two seeds are two draws, and each is kept.
                "seed": request.seed,
            }
        )
        if options.ask_base64:
            fields["response_format"] = "b64_json"
        file = self.kept.find(key) or self._ask(key, fields, source, mask)
        edited = images.read_rgb(file)
        if edited.size != source.size:
            raise EndpointError(
                f"{self.endpoint.url}: the image has {edited.width}x{edited.height} pixels where {side}x{side} were "
                f"asked for. Choose a size that {options.model} has."
            )
        return images.paste_back(source, edited, request.mask) if options.paste else edited

    def _ask(
        self, key: str, fields: Mapping[str, str], source: Image, mask: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> Path:
        """The file of the answer. What was refused, or answered unreadably, is not asked a second time."""
        if key in self._refused:
            raise Refused(self._refused[key])
        parts = [Part("image", images.png_bytes(source)), Part("mask", mask_png(mask))]
        for part in parts:
            if len(part.data) > self.options.max_bytes:
                raise ValueError(
                    f"the {part.name} is a PNG of {len(part.data)} bytes, max_bytes is {self.options.max_bytes}: "
                    "choose a smaller size"
                )
        try:
            file = self.kept.keep(key, image_of(self.endpoint.post(fields, parts)))
            try:
                images.read_rgb(file)
            except images.ImageError as error:
                file.unlink(missing_ok=True)
                why = str(error).removeprefix(f"{file}: ")
                raise Refused(f"{self.endpoint.url}: the answer holds no usable image: {why}") from None
        except Refused as error:
            self._refused[key] = str(error)
            raise
        return file


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        address = urllib.parse.urlsplit(url)
        address.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        return urllib.parse.urlsplit("")
    return address


def cache_folder(options: OpenAiImages.Options) -> Path:
    """Where the answers are kept: the option, ``PROMPTEDITBENCH_CACHE``, or the user's cache folder."""
    if options.cache:
        return Path(options.cache).expanduser().absolute()
    base = os.environ.get("PROMPTEDITBENCH_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(base) if base else home / "prompteditbench").absolute() / "openai_images"


def mask_png(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> bytes:
    """Bool (H, W), True = edit => the PNG that the endpoint wants: RGBA, black, alpha 0 = edit, 255 = keep."""
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
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("the answer's b64_json is not base64") from None
