"""The common part of editors behind an endpoint: limits, prices, the cache of answers, batches in threads.

Each answer is stored on disk by its request (server, model, settings, prompt, pixels of all images, seed), so that a
run that was killed, or is repeated, pays for no edit twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from bench import files, images
from bench.edit import EditMethod
from bench.endpoints.client import (
    AnswerCache,
    Ceiling,
    Endpoint,
    EndpointError,
    Refused,
    RequestPacer,
    request_key,
)
from bench.endpoints.servers import Server, find_server, server_problems
from methods import batches
from methods.runtime import refuse

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

# Marks an option that changes no pixel. Such options are not part of the method's digest.
RunTime = Field(exclude=True)

# Options that a user may look for, and that a suite must not have.
ADDRESS_OPTIONS: Mapping[str, str] = dict.fromkeys(
    ("base_url", "url", "key", "api_key", "key_variable"),
    "a suite names a server, whose address and key stand in the environment. Set the option server",
)

PromptField = Literal["target_prompt", "region_prompt", "instruction"]

# Largest difference of two aspect ratios that still show the same frame: sizes are rounded to multiples.
SAME_FRAME = 0.05


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


@dataclass(frozen=True)
class ImageCall:
    """One request to the server."""

    identity: Mapping[str, Any]
    """Everything that the image depends on, but the seed."""
    send: Callable[[], bytes]
    """Sends it and returns the bytes of the image. Raises EndpointError."""


class EndpointMethod(EditMethod):
    """An editor that is called over HTTP. A subclass builds the calls."""

    NAME: ClassVar[str]
    """Its name in the registry."""
    RETIRED: ClassVar[Mapping[str, str]] = {}
    """Model -> when its maker ends it, and its successor. The error says so where the server refuses the model."""
    # Ceilings and rate limits hold for one process.
    in_driver = True

    @dataclass(frozen=True)
    class Options:
        """Options that change no pixel."""

        requests_per_minute: Annotated[float, RunTime] = 5.0
        timeout: Annotated[float, RunTime] = 180.0
        """Seconds without an answer after which a request is tried again. It may have been charged for."""
        retries: Annotated[int, RunTime] = 5
        max_requests: Annotated[int | None, RunTime] = None
        """Ceiling of calls for one run, retries included. None for no ceiling."""
        price_per_image: Annotated[float | None, RunTime] = None
        """Price of one image by the provider's list, for the estimate and for ``max_cost``."""
        max_cost: Annotated[float | None, RunTime] = None
        """Ceiling of the cost of one run, in the currency of ``price_per_image``. None for no ceiling."""
        max_bytes: Annotated[int, RunTime] = 20_000_000
        """Largest size of a PNG that is sent. Servers refuse larger ones."""
        cache: Annotated[str, RunTime] = ""
        """Folder of the stored answers. Empty for the user's cache folder."""

    @classmethod
    def server(cls, options: Any) -> Server:
        """The server that gets the requests. Raises EndpointError where the environment does not name it."""
        return find_server(options.server)

    @classmethod
    def estimate(cls, options: Any, edits: int) -> CostEstimate:
        price = options.price_per_image
        return CostEstimate(
            edits, edits / options.requests_per_minute, None if price is None else edits * price
        )

    @classmethod
    def problems(cls, options: Any) -> list[str]:
        return server_problems(options.server) + cls.option_problems(options)

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        """Reasons why the options cannot be used with any server."""
        problems = []
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
        if options.max_cost is not None and not (options.price_per_image or 0) > 0:
            problems.append("max_cost needs price_per_image, the price of one image: set it")
        return problems + AnswerCache(cls.cache_folder(options)).problems()

    @classmethod
    def cache_folder(cls, options: Any) -> Path:
        """Folder of the stored answers: the option, ``PROMPTEDITBENCH_CACHE``, or the user's cache folder."""
        if options.cache:
            return Path(options.cache).expanduser().absolute()
        return files.cache_folder().absolute() / cls.NAME

    def __init__(self, options: Any, runtime: Runtime) -> None:
        del runtime
        refuse(self.NAME, self.problems(options))
        self.options = options
        self.cache = AnswerCache(self.cache_folder(options))
        self._refusals: dict[str, str] = {}

    def connect(self, path: str, *, key_header: str = "Authorization") -> Endpoint:
        """The endpoint at ``path`` of the server, with the limits of the options."""
        options, server = self.options, self.server(self.options)
        return Endpoint(
            f"{server.url}/{path}",
            server.key,
            key_header=key_header,
            pacer=RequestPacer(options.requests_per_minute),
            timeout=options.timeout,
            retries=options.retries,
            ceiling=Ceiling(options.max_requests, options.max_cost, options.price_per_image),
        )

    def call(self, request: EditRequest, prompt: str) -> ImageCall:
        """The request to the server for one edit. Raises ValueError for what must not be sent."""
        raise NotImplementedError

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits sources of the method's size. The requests of a batch are sent at the same time.

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
        call = self.call(request, prompt)
        # Endpoints have no seed, or ignore it: two seeds are two draws, and each is stored.
        key = request_key({**call.identity, "seed": request.seed})
        # Read from disk in either case, so that a stored answer and a new one are the same pixels.
        edited = images.read_rgb(self.cache.find(key) or self._request(key, call))
        return self.framed(edited, request.source.size)

    def framed(self, edited: Image, size: tuple[int, int]) -> Image:
        """The answer at the source's ``size`` (width, height). Raises EndpointError for an answer of another frame."""
        ratio = (edited.width / edited.height) / (size[0] / size[1])
        if abs(math.log(ratio)) > SAME_FRAME:
            raise EndpointError(
                f"{self.NAME}: the image has {edited.width}x{edited.height} pixels where about "
                f"{size[0]}x{size[1]} were asked for: another frame, which cannot be compared with the source."
            )
        return images.resize(edited, size)

    def _request(self, key: str, call: ImageCall) -> Path:
        """The file of a new answer. Raises Refused again for a request that was refused before."""
        if key in self._refusals:
            raise Refused(self._refusals[key])
        try:
            # Stored before it is checked: what was paid for is not lost if decoding is interrupted.
            path = self.cache.store(key, call.send())
            try:
                images.read_rgb(path)
            except images.ImageError as error:
                path.unlink(missing_ok=True)
                reason = str(error).removeprefix(f"{path}: ")
                raise Refused(f"{self.NAME}: the answer holds no usable image: {reason}") from None
        except Refused as error:
            # Refused, or answered unreadably: the same request is not paid for a second time.
            retired = self.RETIRED.get(self.options.model)
            if retired and (error.status == 404 or "model" in error.code):
                error = type(error)(f"{error} {retired}", error.status, error.code)
            self._refusals[key] = str(error)
            raise error from None
        return path

    def png(self, image: Image, name: str) -> bytes:
        """The PNG of an image that is sent. Raises ValueError where it is too large."""
        return self.checked_size(images.png_bytes(image), name)

    def checked_size(self, data: bytes, name: str) -> bytes:
        """``data`` itself. Raises ValueError where it has more than ``max_bytes``."""
        if len(data) > self.options.max_bytes:
            raise ValueError(
                f"the {name} is a PNG of {len(data)} bytes, max_bytes is {self.options.max_bytes}: "
                "choose a smaller size"
            )
        return data


class MaskFreeEndpoint(EndpointMethod):
    """An editor behind an endpoint that takes no mask. A suite names its server."""

    needs: frozenset[str] = frozenset({"source", "instruction"})
    REFUSED: Mapping[str, str] = ADDRESS_OPTIONS

    @dataclass(frozen=True)
    class Options(EndpointMethod.Options):
        server: str = ""
        """Name of the server that gets the requests."""
        model: str = ""
        prompt_field: PromptField = "instruction"
        """Text of the request that is sent."""
        send_seed: bool = False
        """Send the seed of the case, for servers that draw by it."""

    @classmethod
    def needs_of(cls, options: Options) -> frozenset[str]:
        return frozenset({"source", options.prompt_field})

    @classmethod
    def optional_needs(cls, options: Options) -> Mapping[str, str]:
        return batches.caption_hint(options.prompt_field)

    @classmethod
    def remark(cls, options: Options) -> str:
        return batches.caption_remark(options.prompt_field)

    @classmethod
    def identity(cls, options: Options) -> Mapping[str, Any]:
        # Another server makes other images.
        return {"url": cls.server(options).url}

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.needs = self.needs_of(options)
