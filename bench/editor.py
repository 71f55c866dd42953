"""Runs one loaded method on one device. Every executor uses it.

It resizes to the method's native size, edits in batches, halves a batch that does not fit into memory, turns failures
into outcomes, and measures time.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from bench.edit import EditCase, EditMethod, EditRequest, NearestSize, PixelArea
from bench.images import ImageError, fit
from bench.registry import describe

log = logging.getLogger(__name__)

Note = Callable[[str], None]
"""Takes a message that the user should read."""


@dataclass(frozen=True, eq=False)
class EditOutcome:
    """The result of one edit to make. Exactly one of ``image`` and ``error`` is set."""

    case_id: str
    image: Image.Image | None
    """``RGB``, at the method's native size."""
    size: tuple[int, int] | None
    """``(width, height)`` of the case's source, to which the recorder resizes the image."""
    seconds: float | None
    """Wall time of the batch, divided by the images in it."""
    error: str | None = None
    peak_memory: int | None = None
    """Peak memory of the accelerator during the batch, in bytes. None on other devices."""

    @classmethod
    def failed(cls, case_id: str, error: str) -> EditOutcome:
        """The outcome of a case that the method never got."""
        return cls(case_id, None, None, None, error)


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case as the method gets it."""

    case: EditCase
    """Its request is at the method's native size and has the image's seed."""
    size: tuple[int, int]
    """``(width, height)`` of the source before resizing."""


@dataclass(frozen=True, eq=False)
class _Attempt:
    """The images or the error of one batch."""

    images: Sequence[Any]
    error: str | None
    out_of_memory: bool
    # Time per image.
    seconds: float
    peak_memory: int | None


class Editor:
    """Edits with one loaded method. A failure becomes an outcome and never ends the run."""

    def __init__(self, method: EditMethod, *, batch_size: int, device: str, note: Note) -> None:
        self._method = method
        self._device = device
        self._note = note
        self.batch_size = batch_size
        """Largest batch that is tried. It is halved permanently each time memory runs out."""

    def prepare(self, case: EditCase, seed: int) -> PreparedCase:
        """The case as the method gets it. Thread-safe. Raises ``ImageError`` for a needed mask that resizing loses."""
        # The image's own seed, in place of the case's 0.
        request = replace(case.request, seed=seed)
        native = at_native_size(request, self._method.native_size, self._method.needs)
        return PreparedCase(replace(case, request=native), request.source.size)

    def edit(self, batch: Sequence[PreparedCase]) -> list[EditOutcome]:
        """Every case's outcome, in order.

        A batch that runs out of memory is halved and repeated. After any other failure, the cases of the batch are
        edited one by one, so that one bad case does not fail the others.
        """
        outcomes: list[EditOutcome] = []
        while len(outcomes) < len(batch):
            chunk = _of_one_size(batch[len(outcomes) : len(outcomes) + self.batch_size])
            attempt = self._attempt(chunk)
            # A batch of one image cannot be halved: its case has failed.
            if attempt.out_of_memory and len(chunk) > 1:
                free_memory()
                # len(chunk), not batch_size: the last chunk of a session may be smaller.
                self.batch_size = len(chunk) // 2
                self._note(f"out of memory with a batch of {len(chunk)}: going on with {self.batch_size}")
            elif attempt.error is not None and len(chunk) > 1:
                for prepared in chunk:
                    outcomes += _outcomes([prepared], self._attempt([prepared]))
            else:
                outcomes += _outcomes(chunk, attempt)
        return outcomes

    def _attempt(self, chunk: Sequence[PreparedCase]) -> _Attempt:
        """Calls the method with one batch, and measures time and memory."""
        # Peak memory is measured per batch, from here on.
        cuda = _cuda(self._device)
        if cuda is not None:
            cuda.reset_peak_memory_stats(self._device)
        error: str | None = None
        out_of_memory = False
        images: Sequence[Any] = ()
        start = time.perf_counter()
        try:
            images = list(self._call([prepared.case for prepared in chunk]))
            if len(images) != len(chunk):
                error = f"it returned {len(images)} images for {len(chunk)} requests"
        except (Exception, SystemExit) as failure:
            # SystemExit too: a method that calls sys.exit fails its edit and does not end the run.
            log.debug("a batch of %d failed", len(chunk), exc_info=True)
            out_of_memory = is_out_of_memory(failure)
            error = describe(failure)
        seconds = (time.perf_counter() - start) / len(chunk)
        # Peak since the reset above: of this batch, the model included.
        peak = int(cuda.max_memory_allocated(self._device)) if cuda is not None else None
        return _Attempt(images, error, out_of_memory, seconds, peak)

    def _call(self, cases: Sequence[EditCase]) -> Sequence[Any]:
        """Calls the method with what it declares: requests, whole cases, or cases without the ground truth."""
        if self._method.wants_truth:
            return self._method.edit_cases(cases)
        if self._method.wants_cases:
            return self._method.edit_cases(
                [replace(case, claims=(), truth=None, tags={}, scored=None) for case in cases]
            )
        return self._method.edit([case.request for case in cases])


def _outcomes(chunk: Sequence[PreparedCase], attempt: _Attempt) -> list[EditOutcome]:
    outcomes = []
    for index, prepared in enumerate(chunk):
        # A malformed output is an error of its case: if it were stored as an image, it would be scored.
        error = attempt.error or _malformed(attempt.images[index], prepared.case.request.source.size)
        outcomes.append(
            EditOutcome(
                case_id=prepared.case.id,
                image=None if error else attempt.images[index],
                size=prepared.size,
                seconds=attempt.seconds,
                error=error,
                peak_memory=attempt.peak_memory,
            )
        )
    return outcomes


def _of_one_size(batch: Sequence[PreparedCase]) -> Sequence[PreparedCase]:
    """The cases at the beginning of a batch whose sources have one size: a method gets them as one tensor."""
    sizes = [prepared.case.request.source.size for prepared in batch]
    return batch[: next((i for i, size in enumerate(sizes) if size != sizes[0]), len(batch))]


def at_native_size(
    request: EditRequest,
    native: int | tuple[int, int] | PixelArea | NearestSize | None,
    needs: Collection[str],
) -> EditRequest:
    """The request with its source, mask and regions at a method's native size.

    A thin mask may have no pixel left there. Raises ``ImageError`` where the method ``needs`` it. Otherwise the request
    has no mask, or no regions.
    """
    if isinstance(native, (PixelArea, NearestSize)):
        native = native.size(request.source.size)
    size = (native, native) if isinstance(native, int) else native
    if size is None or request.source.size == size:
        return request

    # Padded to the native aspect ratio. Otherwise a source of another one would be distorted.
    mask = None if request.mask is None else fit(request.mask, size, mirror=False)
    regions = tuple(replace(region, mask=fit(region.mask, size, mirror=False)) for region in request.regions)

    # Masks of which nothing is left.
    if mask is not None and _is_empty(mask):
        _refuse_lost("mask", "the mask is", size, needs)
        mask, regions = None, ()
    # Regions go together: a method that saw some of them would leave out a part of the edit.
    lost = [index for index, region in enumerate(regions) if _is_empty(region.mask)]
    if lost:
        _refuse_lost("regions", f"the mask of region {lost[0]} is", size, needs)
        regions = ()
    return replace(request, source=fit(request.source, size, mirror=True), mask=mask, regions=regions)


def _is_empty(mask: Image.Image) -> bool:
    return mask.getextrema()[1] == 0


def _refuse_lost(field: str, which: str, size: tuple[int, int], needs: Collection[str]) -> None:
    """Raises ``ImageError`` where the method needs this field of the request."""
    if field in needs:
        raise ImageError(
            f"{which} too thin: nothing of it is left at the method's native {size[0]}x{size[1]}."
        )


def _malformed(image: object, size: tuple[int, int]) -> str | None:
    """Reason why a method's output is not an ``RGB`` image of ``size``. None where it is."""
    if not isinstance(image, Image.Image):
        return f"it returned {type(image).__name__} where an image is expected"
    if image.size != size:
        return f"it returned an image of {image.size} where {size} is expected"
    if image.mode != "RGB":
        return f"it returned an image of mode {image.mode} where RGB is expected"
    return None


# -- torch, where it is loaded: nothing below imports it ----------------------------------------


def is_out_of_memory(failure: BaseException) -> bool:
    """True where an exception of torch (on any device), of JAX or of Python says that memory ran out."""
    if isinstance(failure, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(failure, torch.cuda.OutOfMemoryError):
        return True
    # Other backends raise a plain RuntimeError: only its message tells.
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "resource_exhausted")
    )


def torch_threads() -> int | None:
    """Number of torch's threads, on which a CPU's rounding depends. None where torch is not loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def free_memory() -> None:
    """Frees memory that no object refers to any more, including the accelerator's cache."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _cuda(device: str) -> Any:
    """``torch.cuda`` where ``device`` is a CUDA device and CUDA is available, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return torch.cuda
