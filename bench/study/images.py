"""Serves images to raters' browsers, without a trace of the methods (blind).

* Ids are opaque, and different for every rater and trial.
* All images of a trial are PNGs of one size in pixels and of exactly one size in bytes: a private chunk of noise fills
  each up to a multiple of ``BUCKET``. They hold pixels and noise alone, so that a file's hash is neither the stored
  edit's nor another rater's.
* All images of a trial are read, checked and encoded before the first is handed out, so that none comes later.

Images larger than ``DISPLAY`` pixels are sent at that size. Each has a second address with all of its pixels, which a
browser fetches when the rater zooms. Those of a trial are of one size too.

A browser fetches them from addresses (:class:`PreparedTrial`), apart from the message that shows the trial. It can
therefore load the next trial's images in advance. Whoever has an address can use it, but nobody can guess one.

A file whose SHA-256 is not the design's is refused, so that nobody votes on an image that is not the study's.

Many raters see one image. Its PNG is encoded once and kept without noise (:class:`PngShelf`): decoding, resizing
and encoding a 2,000-pixel picture takes 0.2 seconds of a processor, and adding the noise takes 2 milliseconds.
:meth:`ImageServer.warm` does it before the first rater comes.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.files import sha256_file
from bench.images import (
    ImageError,
    dilate,
    from_array,
    mask_array,
    png_bytes,
    read_mask,
    read_rgb,
    resize,
    to_array,
)
from bench.study import StudyError, security
from bench.study.arrange import rank
from bench.study.design import Design
from bench.study.interface import UnblindedTrial, VoteRefused
from bench.study.types import ImageRef, StudyCase, Trial

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.study.store import StudyStore

# Bytes. All images of a trial are as large as the largest one, rounded up to a multiple of this.
BUCKET = 64 * 1024

# Longer side in pixels of the images that a page loads first. On a laptop a picture of a pair is about 450 points wide.
DISPLAY = 1024

# Bytes of the PNGs without noise, and of those of trials, that stay in memory.
SHELF_BYTES, TRIAL_BYTES = 512 * 2**20, 256 * 2**20

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Type of the chunk of noise. The case of its letters says: ancillary, private, safe to copy. Decoders ignore it.
_FILL = b"nsEd"
# Bytes of a chunk beside its data: length, type, CRC.
_CHUNK = 12
# Colours of the outer and the inner outline of the mask. One of them stands out on any background.
_OUTLINE = ((255, 255, 255), (230, 0, 90))


class ImageChanged(StudyError):
    """A file of the study is missing, or was changed after the study was made."""


@dataclass(frozen=True)
class PreparedTrial:
    """Addresses and size of a trial's images. They are ready before the images are encoded."""

    # GROUP/IMAGE for ImageServer.find, opaque: the source, the source with the mask's outline, the candidates in the
    # order shown. An answer is a position among the candidates.
    addresses: tuple[str, ...]
    # (width, height) of each image in pixels.
    size: tuple[int, int]
    # Addresses of the same images with all of their pixels. Empty where `addresses` have them.
    full: tuple[str, ...] = ()


class PngShelf:
    """PNGs in memory, up to a number of bytes. The least recently used ones go first. Threads may share one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pngs: OrderedDict[object, Mapping[str, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: object) -> Mapping[str, bytes] | None:
        """The PNGs of a key by their names. None where they are not here (any more)."""
        with self._lock:
            if key in self._pngs:
                self._pngs.move_to_end(key)
            return self._pngs.get(key)

    @property
    def full(self) -> bool:
        """True where one more entry would most likely push another out."""
        with self._lock:
            mean = self._bytes / max(1, len(self._pngs))
            return self._bytes + 2 * mean > self._most

    def put(self, key: object, pngs: Mapping[str, bytes]) -> None:
        with self._lock:
            self._bytes -= _bytes_of(self._pngs.pop(key, {}))
            self._pngs[key] = pngs
            self._bytes += _bytes_of(pngs)
            # The newest entry stays, however large it is.
            while self._bytes > self._most and len(self._pngs) > 1:
                self._bytes -= _bytes_of(self._pngs.popitem(last=False)[1])


def _bytes_of(pngs: Mapping[str, bytes]) -> int:
    return sum(map(len, pngs.values()))


class ImageServer:
    """Hands out the images of trials that were shown. Threads may share one."""

    def __init__(
        self,
        store: StudyStore,
        *,
        bucket: int = BUCKET,
        keep: int = 1024,
        shelf_bytes: int = SHELF_BYTES,
        trial_bytes: int = TRIAL_BYTES,
    ) -> None:
        """``keep``: number of trials whose addresses are valid."""
        self._store = store
        self._bucket = bucket
        self._keep = keep
        # Group of addresses -> rater, trial and its content. The least recently used entry comes first.
        self._prepared: OrderedDict[str, tuple[str, str, UnblindedTrial]] = OrderedDict()
        # (rater, trial) -> group.
        self._groups: dict[tuple[str, str], str] = {}
        # Images without noise, and (rater, trial, full) -> PNG by image id. A browser asks for the images of a trial
        # one by one.
        self._plain = PngShelf(shelf_bytes)
        self._encoded = PngShelf(trial_bytes)
        # SHA-256 of a file -> size of its image.
        self._sizes: dict[str, tuple[int, int]] = {}
        # A lock per key of a shelf whose PNGs are being made.
        self._making: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def prepare(self, rater: str, trial: str, ahead: UnblindedTrial | None = None) -> PreparedTrial:
        """The addresses of a trial's images. Checks the files, but does not encode them yet.

        ``trial``: ``OpenTrial.id`` of a trial that the rater was shown. ``ahead``: the content of a trial of
        ``StudyStore.upcoming``, which the rater was not shown yet. Raises :class:`ImageChanged`, and
        ``interface.VoteRefused`` for another trial.
        """
        # A trial that was prepared before has the same content now.
        unblinded = ahead or self._known(rater, trial) or self._store.unblinded(rater, trial)
        # Check every file of the trial now, while another trial can still be shown in its place.
        design, case = unblinded.study.design, unblinded.study.design.case_by_key[unblinded.trial.case]
        for ref in (case.mask, *(design.image_of(case, title) for title in unblinded.trial.candidates)):
            if ref is not None and not ref.is_noise:
                _check(design, ref)
        _check(design, case.source)
        size = self._size(design, case.source)
        # Store the trial of these addresses. The least recently used ones are dropped.
        group = security.opaque(unblinded.secret, "pictures", rater, trial)
        with self._lock:
            self._prepared[group] = (rater, trial, unblinded)
            self._prepared.move_to_end(group)
            self._groups[rater, trial] = group
            while len(self._prepared) > self._keep:
                old_rater, old_trial, _ = self._prepared.popitem(last=False)[1]
                del self._groups[old_rater, old_trial]
        addresses, full = (
            tuple(f"{group}/{image_id}" for image_id in _ids(rater, trial, unblinded, full=full))
            for full in (False, True)
        )
        return PreparedTrial(addresses, size, full if max(size) > DISPLAY else ())

    def _known(self, rater: str, trial: str) -> UnblindedTrial | None:
        """The content of a trial that was prepared before."""
        with self._lock:
            group = self._groups.get((rater, trial))
            return None if group is None else self._prepared[group][2]

    def _size(self, design: Design, ref: ImageRef) -> tuple[int, int]:
        """(width, height) of a file that was checked. A large image is decoded once, not for every rater."""
        if ref.sha256 not in self._sizes:
            self._sizes[ref.sha256] = _load(design, ref).size
        return self._sizes[ref.sha256]

    def owner(self, group: str) -> tuple[str, str]:
        """Rater and trial of a group of addresses. Raises ``interface.VoteRefused`` where none was prepared."""
        rater, trial, _ = self._lookup(group)
        return rater, trial

    def find(self, group: str, image_id: str) -> bytes:
        """The PNG at an address. Raises :class:`ImageChanged`, and ``interface.VoteRefused`` for no address."""
        rater, trial, unblinded = self._lookup(group)
        full = image_id in _ids(rater, trial, unblinded, full=True)
        png = self._pngs(rater, trial, unblinded, full=full).get(image_id)
        if png is None:
            raise VoteRefused(f"pictures {group[:40]!r}: there is no {image_id[:40]!r}.")
        return png

    def _lookup(self, group: str) -> tuple[str, str, UnblindedTrial]:
        with self._lock:
            prepared = self._prepared.get(group)
        if prepared is None:
            raise VoteRefused(f"pictures {group[:40]!r}: none were prepared.")
        return prepared

    def warm(self, design: Design) -> None:
        """Encodes the images of all trials at display size, until the memory for them is full.

        Without it, the first raters of a study of large images would wait for it. Images whose file was changed are
        left out: :meth:`prepare` reports them.
        """
        seen: set[tuple[str, str]] = set()
        for trial in design.trials:
            if self._plain.full:
                return
            edits = {(trial.case, title) for title in trial.candidates}
            if edits <= seen:
                continue
            seen |= edits
            try:
                for name, load in trial_images(design, design.case_by_key[trial.case], trial):
                    self._plain_png(name, load, full=False)
            except ImageChanged:
                continue

    def _pngs(self, rater: str, trial: str, unblinded: UnblindedTrial, *, full: bool) -> Mapping[str, bytes]:
        """The PNGs of a trial by image id, at display size or ``full``."""
        # A browser asks for all images of a trial at once. The first request encodes them, the others wait.
        return self._once(
            self._encoded, (rater, trial, full), lambda: self._encode(rater, trial, unblinded, full=full)
        )

    def _once(
        self, shelf: PngShelf, key: object, make: Callable[[], Mapping[str, bytes]]
    ) -> Mapping[str, bytes]:
        """The PNGs of a key. Of several threads that need them at once, one makes them and the others wait."""
        if (pngs := shelf.get(key)) is not None:
            return pngs
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if (pngs := shelf.get(key)) is not None:
                return pngs
            try:
                pngs = make()
                shelf.put(key, pngs)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return pngs

    def _plain_png(self, name: object, load: Callable[[], Image], *, full: bool) -> bytes:
        """The PNG of an image without noise."""

        def make() -> Mapping[str, bytes]:
            image = load()
            return {"": png_bytes(image if full else for_display(image))}

        return self._once(self._plain, (name, full), make)[""]

    def _encode(
        self, rater: str, trial: str, unblinded: UnblindedTrial, *, full: bool
    ) -> Mapping[str, bytes]:
        design = unblinded.study.design
        case = design.case_by_key[unblinded.trial.case]
        encoded = [
            self._plain_png(name, load, full=full)
            for name, load in trial_images(design, case, unblinded.trial)
        ]
        # Fill all up to one length, a whole number of buckets.
        longest = max(map(len, encoded)) + _CHUNK
        length = -(-longest // self._bucket) * self._bucket
        filled = []
        for slot, png in enumerate(encoded):
            noise_length = length - len(png) - _CHUNK
            noise = security.keystream(unblinded.secret, noise_length, rater, trial, slot, full)
            filled.append(fill_png(png, noise))
        return dict(zip(_ids(rater, trial, unblinded, full=full), filled, strict=True))


def _ids(rater: str, trial: str, unblinded: UnblindedTrial, *, full: bool) -> list[str]:
    """Opaque ids of a trial's images, in the order of ``PreparedTrial.addresses``."""
    count = 2 + len(unblinded.trial.candidates)
    name = "full" if full else "picture"
    return [security.opaque(unblinded.secret, name, rater, trial, slot) for slot in range(count)]


def for_display(image: Image) -> Image:
    """An image at the size in which a page shows it first, with its aspect ratio."""
    width, height = image.size
    scale = DISPLAY / max(width, height)
    return (
        image if scale >= 1 else resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    )


def trial_images(design: Design, case: StudyCase, trial: Trial) -> list[tuple[object, Callable[[], Image]]]:
    """The source, the source with the outline, and the candidates: the ingredients and a function that makes the image.

    Each image is RGB and has the source's size. Without a mask the source comes twice, so that the addresses of a trial
    are always the same in number. All files are checked now. Raises :class:`ImageChanged`.
    """
    _check(design, case.source)

    @cache
    def source() -> Image:
        return _load(design, case.source)

    def outlined(ref: ImageRef) -> Image:
        try:
            return outline(source(), read_mask(design.path(ref), source().size))
        except ImageError as error:
            raise ImageChanged(str(error)) from error

    def candidate(ref: ImageRef) -> Image:
        # An edit of another size is resized to the source's, because its size would reveal the method.
        size = source().size
        return _noise(ref, size) if ref.is_noise else resize(_load(design, ref), size)

    first = ("source", case.source.sha256)
    parts: list[tuple[object, Callable[[], Image]]] = [(first, source)]
    if case.mask is None:
        parts.append((first, source))
    else:
        _check(design, case.mask)
        parts.append((("outline", case.source.sha256, case.mask.sha256), partial(outlined, case.mask)))
    for title in trial.candidates:
        ref = design.image_of(case, title)
        if not ref.is_noise:
            _check(design, ref)
        # Noise has no file, and its name is all that it is made of.
        name = ("candidate", case.source.sha256, ref.file if ref.is_noise else ref.sha256)
        parts.append((name, partial(candidate, ref)))
    return parts


def outline(source: Image, mask: Image) -> Image:
    """The source (RGB) with two lines around the mask (255 = edit), outside of it."""
    inside = mask_array(mask)  # (H, W) bool
    pixels = to_array(source)  # (H, W, 3) uint8
    # Thick enough to be visible at any size. Outside, so that the edited region stays visible.
    thickness = max(1, round(min(source.size) / 256))
    near = dilate(inside, thickness)
    far = dilate(inside, 2 * thickness)
    pixels[far & ~near] = _OUTLINE[0]
    pixels[near & ~inside] = _OUTLINE[1]
    return from_array(pixels)


def _load(design: Design, ref: ImageRef) -> Image:
    _check(design, ref)
    try:
        return read_rgb(design.path(ref))
    except ImageError as error:
        raise ImageChanged(str(error)) from error


def _check(design: Design, ref: ImageRef) -> None:
    """Raises :class:`ImageChanged` unless the file's SHA-256 is the design's."""
    path = design.path(ref)
    try:
        # Looked at again each time: a file may change while the study runs. Nobody can write a file and keep the time
        # of its last change (ctime).
        stat = path.stat()
        sha256 = _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    except OSError as error:
        raise ImageChanged(
            f"{path}: cannot be read ({error.strerror}), so its trial cannot be shown. Restore the run folder."
        ) from error
    if sha256 != ref.sha256:
        raise ImageChanged(
            f"{path}: not the file that the study was made of (SHA-256 {sha256[:12]}, not {ref.sha256[:12]}). "
            "Restore it, or make a new study of the changed edits."
        )


@lru_cache(maxsize=100_000)
def _sha256(path: Path, *_identity: int) -> str:
    """The SHA-256 of a file, which is read once as long as its identity stays the same."""
    return sha256_file(path)


def _noise(ref: ImageRef, size: tuple[int, int]) -> Image:
    """A mosaic of random colours, RGB of ``size``. Tiles keep its file from being larger than an edit's."""
    width, height = size
    # One generator per image, seeded by its name.
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(rank(0, ref.file)[:8], "big")))
    tile = max(1, min(size) // 16)
    colors = rng.integers(0, 256, (-(-height // tile), -(-width // tile), 3), dtype=np.uint8)
    return from_array(np.repeat(np.repeat(colors, tile, axis=0), tile, axis=1)[:height, :width])


def fill_png(png: bytes, noise: bytes) -> bytes:
    """The PNG with a chunk of ``noise`` before its end. It is 12 bytes longer than both together.

    Place and type of the chunk do not depend on the image.
    """
    # IEND is the last chunk, and has no data.
    end = len(png) - _CHUNK
    if not png.startswith(_SIGNATURE) or png[end + 4 : end + 8] != b"IEND":
        raise ImageError("not a PNG that ends with IEND. Encode it with bench.images.png_bytes.")
    chunk = _FILL + noise
    return (
        png[:end] + struct.pack(">I", len(noise)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[end:]
    )
