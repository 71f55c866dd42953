"""A small protocol and small methods with obvious results, for the tests of the engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.edit import (
    CATEGORIES,
    Claim,
    EditCase,
    EditMethod,
    EditProtocol,
    EditRequest,
    Region,
    Runtime,
    stable_digest,
)
from bench.images import from_array, mask_image
from bench.registry import Registry
from bench.suite import ConfiguredMethod, ConfiguredProtocol, configure_method, configure_protocol

# Tables as a plug-in has them.
METHODS = {"fake": "tests.bench.fakes:Fake", "oracle": "tests.bench.fakes:Oracle"}
PROTOCOLS = {"fakes": "tests.bench.fakes:Fakes", "others": "tests.bench.fakes:Others"}


def noise(name: str, side: int) -> Image.Image:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    return from_array(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def square(side: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = np.zeros((side, side), dtype=np.bool_)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask_image(mask)


def make_case(index: int, side: int = 32, *, truth: bool = True, **request: Any) -> EditCase:
    category = CATEGORIES[index % 4]
    regions: tuple[Region, ...] = ()
    if category == "multi_object":
        regions = (
            Region(square(side, (2, 2, 8, 8)), "a red ball", ("red", "ball")),
            Region(square(side, (16, 16, 24, 24)), "a blue cube", ("blue", "cube")),
        )
    fields: dict[str, Any] = {
        "source": noise(f"source-{index // 2}", side),
        "mask": square(side, (2, 2, 10 + index % 8, 12)),
        "source_prompt": "a photo of a room",
        "target_prompt": f"a photo of a room, number {index}",
        "region_prompt": "a chair",
        "instruction": "add a chair",
        "edit_words": ("chair",),
        "regions": regions,
        **request,
    }
    return EditCase(
        id=f"case-{index:03d}",
        category=category,
        request=EditRequest(**fields),
        source_id=f"source-{index // 2}",
        # The attribute classifier reads the region, so that without a mask nothing can be claimed.
        claims=(Claim("category", "none", "chair"),) if fields["mask"] else (),
        truth=noise(f"truth-{index}", side) if truth else None,
        tags={"index": str(index)},
    )


class Fakes(EditProtocol):
    """Noise with square masks."""

    summary = "noise"
    name = "fakes"
    version = "1"

    @dataclass(frozen=True)
    class Options:
        count: int = 8
        canvas: int = 32
        truth: bool = True

    def __init__(self, options: Options) -> None:
        self.options = options
        self.canvas = options.canvas

    @property
    def digest(self) -> str:
        return stable_digest([self.name, self.version, self.canvas, self.options.truth, self.options.count])

    def cases(self) -> Sequence[EditCase]:
        return [make_case(i, self.canvas, truth=self.options.truth) for i in range(self.options.count)]

    def reference(self) -> Iterator[Image.Image]:
        return iter(())


class Others(Fakes):
    name = "others"


@dataclass
class Log:
    """Records the requests of every method of this process."""

    batches: list[int] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    masks: set[bytes] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


# One for the process: methods are created by the code under test.
LOG = Log()


class Fake(EditMethod):
    """Fills the mask with noise of the request's seed, or fails in the way that its options choose."""

    summary = "noise"
    needs = frozenset({"source", "mask", "target_prompt"})

    @dataclass(frozen=True)
    class Options:
        strength: float = 1.0
        native: int | None = None
        fail_on: str = ""
        """The target prompt that makes a batch fail."""
        oom_above: int = 0
        """The largest batch that fits in memory. 0 for any."""
        oom: str = "torch"
        wrong: str = ""
        delay: float = 0.0
        echo: bool = False
        log_to: str = ""

    PRESETS: Mapping[str, Mapping[str, Any]] = {"weak": {"strength": 0.5}}

    def __init__(self, options: Options, runtime: Runtime) -> None:
        self.options = options
        self.native_size = options.native
        LOG.loaded.append(str(options.strength))

    def edit(self, requests: Sequence[EditRequest]) -> list[Any]:
        options = self.options
        LOG.batches.append(len(requests))
        LOG.sizes |= {request.source.size for request in requests}
        LOG.masks |= {bytes({v for _, v in m.getcolors() or []}) for m in all_masks(requests)}
        # Failures that its options ask for.
        if options.oom_above and len(requests) > options.oom_above:
            raise {
                "torch": RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
                "python": MemoryError(),
                "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            }[options.oom]
        if any(request.target_prompt == options.fail_on for request in requests):
            raise ZeroDivisionError("no such chair\nsecond line")
        time.sleep(options.delay * len(requests))
        # Its results, and the log of what it has done.
        LOG.cases += [request.target_prompt for request in requests]
        if options.log_to:
            with Path(options.log_to).open("a") as file:
                file.writelines(request.target_prompt + "\n" for request in requests)
        results: list[Any] = [request.source if options.echo else self.one(request) for request in requests]
        # Results that no method may return.
        if options.wrong == "count":
            return results[:-1] if len(results) > 1 else [*results, results[0]]
        if options.wrong == "size":
            return [image.resize((5, 5)) for image in results]
        if options.wrong == "mode":
            return [image.convert("L") for image in results]
        if options.wrong == "type":
            return ["no image" for _ in results]
        return results

    def one(self, request: EditRequest) -> Image.Image:
        rng = np.random.default_rng(request.seed)
        new = rng.integers(0, 256, (*request.source.size[::-1], 3), dtype=np.uint8)
        new = (new * self.options.strength).astype(np.uint8)
        return Image.composite(from_array(new), request.source, request.mask)


def all_masks(requests: Sequence[EditRequest]) -> list[Image.Image]:
    return [r.mask for r in requests] + [region.mask for r in requests for region in r.regions]


class Oracle(EditMethod):
    """Returns the ground truth."""

    summary = "the truth"
    needs = frozenset({"source"})
    is_control = True
    wants_truth = True

    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        raise AssertionError("the runner must show the oracle its cases")

    def edit_cases(self, cases: Sequence[EditCase]) -> list[Image.Image]:
        return [case.truth for case in cases if case.truth is not None]


METHOD_REGISTRY = Registry("method", METHODS, "")
PROTOCOL_REGISTRY = Registry("protocol", PROTOCOLS, "")


def method(
    name: str = "fake", label: str = "", preset: str | None = None, **options: Any
) -> ConfiguredMethod:
    return configure_method(name, METHOD_REGISTRY, options=options, label=label, preset=preset)


def protocol(name: str = "fakes", **options: Any) -> ConfiguredProtocol:
    return configure_protocol(name, PROTOCOL_REGISTRY, options=options)
