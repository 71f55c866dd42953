"""The images-edit endpoint as OpenAI defines it (``POST {base_url}/images/edits``), and servers that speak it.

Only the user, by the environment, chooses the server and the secret that it gets. ``OPENAI_API_KEY`` goes to OpenAI and
nowhere else. ``PROMPTEDITBENCH_IMAGES_URL`` names another server and ``PROMPTEDITBENCH_IMAGES_KEY`` its key. A suite
file is data that may come from anybody, and names neither.

The request is a multipart form: the source as PNG, a mask of the same size whose *alpha* is 0 where the image shall be
edited, and the prompt. One image comes back, in base64. Nothing is promised outside the mask.

Each answer is stored on disk by its request (server, model, settings, prompt, pixels of source and mask, seed), so that
a run that was killed, or is repeated, pays for no edit twice.
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
from bench.files import sha256_bytes
from methods import batches, file_hashes
from methods.endpoints.client import (
    AnswerCache,
    Endpoint,
    EndpointError,
    FormFile,
    Refused,
    RequestPacer,
    request_key,
)
from methods.runtime import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
SERVER_URL = "PROMPTEDITBENCH_IMAGES_URL"
SERVER_KEY = "PROMPTEDITBENCH_IMAGES_KEY"

# Marks an option that changes no pixel. Such options are not part of the method's digest.
RunTime = Field(exclude=True)


def server_url() -> str:
    """The address of the API: the one in the environment, else OpenAI's."""
    return os.environ.get(SERVER_URL, "").strip() or OPENAI_URL


def key_variable(url: str) -> str:
    """The environment variable whose key may be sent to ``url``."""
    # Scheme and host with port. A host such as api.openai.com.example.org is another one.
    same = _address(url)[:2] == _address(OPENAI_URL)[:2]
    return OPENAI_KEY if same else SERVER_KEY


@dataclass(frozen=True)
class CostEstimate:
    """Cost of a number of edits, if none of them is in the cache and none has to be retried."""

    requests: int
    # Least duration, by the rate limit.
    minutes: float
    # Price in the currency of ``price_per_image``. None where no price is given.
    cost: float | None

    def __str__(self) -> str:
        cost = "cost unknown: set price_per_image" if self.cost is None else f"cost {self.cost:.2f}"
        return f"{self.requests} requests, at least {self.minutes:.1f} minutes, {cost}"


class OpenAiImages(EditMethod):
    summary = "OpenAI's images-edit endpoint, or a compatible server (costs money)"
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
        """Set by the environment, never by a suite. It is part of the digest: another server makes other images."""
        size: Literal[256, 512, 1024] = 1024
        """Side length in pixels of the image that is sent and of the one that is requested."""
        quality: Literal["low", "medium", "high"] | None = None
        """None leaves it to the server."""
        input_fidelity: Literal["low", "high"] | None = None
        """Fidelity to the source, if the model has this setting. None leaves it to the server."""
        prompt_field: Literal["target_prompt", "region_prompt", "instruction"] = "target_prompt"
        ask_base64: bool = False
        """Send ``response_format=b64_json``. Some servers answer with a link otherwise. The gpt-image models always
        answer in base64, and refuse the field."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""

        # From here on the options are not part of the digest.
        requests_per_minute: Annotated[float, RunTime] = 5.0
        timeout: Annotated[float, RunTime] = 180.0
        """Seconds without an answer after which a request is tried again. It may have been charged for."""
        retries: Annotated[int, RunTime] = 5
        max_requests: Annotated[int | None, RunTime] = None
        """Ceiling of calls for one run, retries included. None for no ceiling."""
        price_per_image: Annotated[float | None, RunTime] = None
        """Price of one image by the provider's list, for the estimate."""
        max_bytes: Annotated[int, RunTime] = 4_000_000
        """Largest size of a PNG that is sent. The endpoint refuses larger ones."""
        cache: Annotated[str, RunTime] = ""
        """Folder of the stored answers. Empty for the user's cache folder."""

    @classmethod
    def estimate(cls, options: Options, edits: int) -> CostEstimate:
        price = options.price_per_image
        return CostEstimate(
            edits, edits / options.requests_per_minute, None if price is None else edits * price
        )

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = _server_problems(options.base_url)
        if not options.model:
            problems.append("model is empty: name the one to use")
        if options.requests_per_minute <= 0 or options.timeout <= 0:
            problems.append(
                f"requests_per_minute {options.requests_per_minute} and timeout {options.timeout}: expected "
                "more than 0"
            )
        if options.retries < 0 or (options.max_requests is not None and options.max_requests < 1):
            problems.append(
                f"retries {options.retries} and max_requests {options.max_requests}: expected at least 0 and 1"
            )
        folder = cache_folder(options)
        # The folder need not exist yet. The nearest one that does must be writable.
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            problems.append(
                f"cache {folder}: cannot be written, and an answer that is not stored is paid for again. "
                "Name another folder with cache"
            )
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        del runtime
        refuse("openai_images", self.problems(options))
        self.options = options
        self.native_size = options.size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.cache = AnswerCache(cache_folder(options))
        self.endpoint = Endpoint(
            options.base_url.rstrip("/") + "/images/edits",
            os.environ[key_variable(options.base_url)].strip(),
            pacer=RequestPacer(options.requests_per_minute),
            timeout=options.timeout,
            retries=options.retries,
            max_calls=options.max_requests,
        )
        self._refusals: dict[str, str] = {}

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits square sources of the option's size. The requests of a batch are sent at the same time.

        Where one of them fails, the answers to the others are stored and cost nothing the next time.
        """
        if not requests:
            return []
        prompts = batches.prompts(requests, self.options.prompt_field)
        # Threads suffice: they wait for the network.
        with ThreadPoolExecutor(len(requests), thread_name_prefix="edit") as pool:
            futures = [pool.submit(self._edit, *pair) for pair in zip(requests, prompts, strict=True)]
        # All of them have ended here: one that fails takes back none of the others.
        return [future.result() for future in futures]

    def _edit(self, request: EditRequest, prompt: str) -> Image:
        """One edit, from the cache where its answer is stored."""
        options = self.options

        # The request is checked here, since a refused one may cost money too.
        source = request.source.convert("RGB")
        side = options.size
        if source.size != (side, side) or request.needed_mask.size != source.size:
            raise ValueError(
                f"source of {source.size} and mask of {request.needed_mask.size} pixels: expected {side} x {side}"
            )
        (mask,) = batches.edit_masks([request])

        # The fields of the form, and the key of everything that the answer depends on.
        fields = {"model": options.model, "prompt": prompt, "n": "1", "size": f"{side}x{side}"}
        if options.quality is not None:
            fields["quality"] = options.quality
        if options.input_fidelity is not None:
            fields["input_fidelity"] = options.input_fidelity
        key = request_key(
            {
                "url": self.endpoint.url,
                "fields": fields,
                "source": sha256_bytes(source.tobytes()),
                "mask": sha256_bytes(mask.tobytes()),
                # The endpoint has no seed: two seeds are two draws, and each is stored.
                "seed": request.seed,
            }
        )
        # Below the key: the field changes the form of the answer, not the image.
        if options.ask_base64:
            fields["response_format"] = "b64_json"

        # The answer, stored or new.
        # Read from disk in either case, so that a stored answer and a new one are the same pixels.
        file = self.cache.find(key) or self._request(key, fields, source, mask)
        edited = images.read_rgb(file)
        if edited.size != source.size:
            raise EndpointError(
                f"{self.endpoint.url}: the image has {edited.width}x{edited.height} pixels where {side}x{side} were "
                f"asked for. Choose a size that {options.model} has."
            )
        return batches.composite([request], [edited])[0] if options.paste else edited

    def _request(self, key: str, fields: Mapping[str, str], source: Image, mask: NDArray[np.bool_]) -> Path:
        """The file of a new answer. Raises Refused again for a request that was refused before."""
        if key in self._refusals:
            raise Refused(self._refusals[key])
        files = [FormFile("image", images.png_bytes(source)), FormFile("mask", mask_png(mask))]
        for file in files:
            if len(file.data) > self.options.max_bytes:
                raise ValueError(
                    f"the {file.name} is a PNG of {len(file.data)} bytes, max_bytes is {self.options.max_bytes}: "
                    "choose a smaller size"
                )
        try:
            # Stored before it is checked: what was paid for is not lost if decoding is interrupted.
            path = self.cache.store(key, image_of(self.endpoint.post(fields, files)))
            try:
                images.read_rgb(path)
            except images.ImageError as error:
                path.unlink(missing_ok=True)
                reason = str(error).removeprefix(f"{path}: ")
                raise Refused(f"{self.endpoint.url}: the answer holds no usable image: {reason}") from None
        except Refused as error:
            # Refused, or answered unreadably: the same request is not paid for a second time.
            self._refusals[key] = str(error)
            raise
        return path


def _server_problems(base_url: str) -> list[str]:
    """Reasons why requests cannot be sent to ``base_url`` with a key from the environment."""
    problems = []

    # The address: encrypted, and the one that the environment names.
    address = _address(base_url)
    local = address.hostname in ("localhost", "127.0.0.1", "::1")
    if address.scheme != "https" and not (address.scheme == "http" and local):
        problems.append(
            f"{SERVER_URL} {base_url!r}: expected https://..., since the key is sent there "
            "(http only for this machine)"
        )
    if base_url != server_url():
        problems.append(f"{SERVER_URL} is {server_url()!r}, these options are for {base_url!r}")

    # The key: there, and fit for a header.
    variable = key_variable(base_url)
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        # The value itself is in no message.
        problems.append(f"the environment variable {variable} holds what cannot be a key")
    if not key:
        problems.append(
            f"the environment variable {variable} is not set: put the API key of {address.hostname} there "
            f"(export {variable}=...)"
        )
    return problems


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        address = urllib.parse.urlsplit(url)
        address.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        return urllib.parse.urlsplit("")
    return address


def cache_folder(options: OpenAiImages.Options) -> Path:
    """Folder of the stored answers: the option, ``PROMPTEDITBENCH_CACHE``, or the user's cache folder."""
    if options.cache:
        return Path(options.cache).expanduser().absolute()
    return file_hashes.cache_folder().absolute() / "openai_images"


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
    try:
        # validate: without it, characters outside the alphabet are skipped and give other bytes.
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("the answer's b64_json is not base64") from None
