"""The only way by which a picture reaches a rater's browser. Blind.

What leaves here tells nothing of the method: ids are opaque and different for every rater and trial; every
picture of a trial is a PNG of one size in pixels and of exactly one size in bytes (a private chunk of noise
fills up to a whole bucket); it holds pixels, the noise and nothing else, so that its hash is neither the
stored edit's nor another rater's. All pictures of a trial are read, checked, decoded and encoded together,
before the first one is handed out, so that none comes later than another.

A browser fetches them from addresses (``Prepared``), apart from the message that shows the trial, so that the
next trial's are there before it is shown. An address is good for whoever has it, and cannot be guessed.

A file whose SHA-256 is not the design's is refused: nobody votes on a picture that is not the study's.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.files import sha256_bytes
from bench.images import ImageError, dilate, from_array, mask_array, png_bytes, read_mask, read_rgb, resize
from bench.images import to_array as pixels_of
from bench.study import StudyError, security
from bench.study.arrange import rank
from bench.study.design import Design
from bench.study.interface import VoteRefused
from bench.study.types import PictureRef, StudyCase, Trial

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.study.interface import UnblindedTrial
    from bench.study.store import StudyStore

BUCKET = 64 * 1024
"""Bytes: the pictures of a trial are as large as the largest of them, rounded up to a multiple of this."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILL = b"nsEd"
"""The chunk of noise: ancillary, private, safe to copy; every decoder passes over it."""
_CHUNK = 12
"""Bytes of a chunk around its data: length, type, CRC."""
_OUTLINE = ((255, 255, 255), (230, 0, 90))
"""Colours of the mask's outline, outer and inner: one of them stands out on any ground."""


class PictureChanged(StudyError):
    """A file of the study is missing or was changed since the study was made."""


@dataclass(frozen=True)
class Picture:
    """One picture as a browser gets it."""

    id: str
    """Opaque: good as a file name or the last part of a URL."""
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Bundle:
    """All pictures of one trial: of one size in pixels and in bytes."""

    source: Picture
    outlined: Picture
    """The source with the outline of where the edit was asked for."""
    candidates: tuple[Picture, ...]
    """In the order shown; an answer is a position in it."""

    @property
    def all(self) -> tuple[Picture, ...]:
        return (self.source, self.outlined, *self.candidates)

    def find(self, picture: str) -> Picture | None:
        """The picture of that id."""
        return next((entry for entry in self.all if entry.id == picture), None)


@dataclass(frozen=True)
class Prepared:
    """Addresses and size of a trial's pictures, known before the pictures are encoded."""

    addresses: tuple[str, ...]
    """``GROUP/PICTURE`` each, opaque, in the order of ``Bundle.all``; for :meth:`Pictures.find`."""
    size: tuple[int, int]
    """Width and height of every one of them, in pixels."""


class Pictures:
    """Hands out the pictures of trials that were shown. Threads may share one."""

    def __init__(self, store: StudyStore, *, bucket: int = BUCKET, keep: int = 64) -> None:
        """``keep``: bundles in memory; the pictures of a trial are asked for one by one."""
        self._store = store
        self._bucket = bucket
        self._keep = keep
        self._bundles: OrderedDict[tuple[str, str], Bundle] = OrderedDict()
        self._prepared: OrderedDict[str, tuple[str, str, UnblindedTrial]] = OrderedDict()
        self._making: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def prepare(self, rater: str, trial: str, ahead: UnblindedTrial | None = None) -> Prepared:
        """The addresses of a trial's pictures, whose files are checked and not yet encoded.

        ``ahead``: a trial that the rater has not been shown, as ``StudyStore.upcoming`` gives it. Raises
        :class:`PictureChanged`, and ``store.VoteRefused`` for another trial that the rater was not shown.
        """
        shown = ahead or self._store.unblinded(rater, trial)
        design, case = shown.study.design, shown.study.design.case_by_key[shown.trial.case]
        for ref in (case.mask, *(design.picture(case, title) for title in shown.trial.candidates)):
            if not ref.is_noise:
                _check(design, ref)
        size = _load(design, case.source).size
        group = security.opaque(shown.secret, "pictures", rater, trial)
        with self._lock:
            self._prepared[group] = (rater, trial, shown)
            self._prepared.move_to_end(group)
            while len(self._prepared) > 16 * self._keep:
                self._prepared.popitem(last=False)
        return Prepared(tuple(f"{group}/{name}" for name in _ids(rater, trial, shown)), size)

    def whose(self, group: str) -> tuple[str, str]:
        """The rater and the trial of an address. Raises ``store.VoteRefused`` where none was prepared."""
        rater, trial, _ = self._known(group)
        return rater, trial

    def find(self, group: str, picture: str) -> Picture:
        """The picture at an address. Raises :class:`PictureChanged`, and ``store.VoteRefused`` for no address."""
        found = self._bundle(*self._known(group)).find(picture)
        if found is None:
            raise VoteRefused(f"pictures {group[:40]!r}: there is no {picture[:40]!r}.")
        return found

    def _known(self, group: str) -> tuple[str, str, UnblindedTrial]:
        with self._lock:
            found = self._prepared.get(group)
        if found is None:
            raise VoteRefused(f"pictures {group[:40]!r}: none were prepared.")
        return found

    def bundle(self, rater: str, trial: str) -> Bundle:
        """The pictures of a trial (``OpenTrial.id``) that ``StudyStore.next_trial`` has given the rater.

        Raises :class:`PictureChanged`, and ``store.VoteRefused`` for a trial that the rater was not shown.
        """
        return self._bundle(rater, trial, self._store.unblinded(rater, trial))

    def _bundle(self, rater: str, trial: str, shown: UnblindedTrial) -> Bundle:
        key = (rater, trial)
        with self._lock:
            if key in self._bundles:
                self._bundles.move_to_end(key)
                return self._bundles[key]
            making = self._making.setdefault(key, threading.Lock())
        # All pictures of a trial are asked for at once: the first request makes them, the others wait.
        with making:
            with self._lock:
                if key in self._bundles:
                    return self._bundles[key]
            try:
                made = self._make(rater, trial, shown)
                with self._lock:
                    self._bundles[key] = made
                    while len(self._bundles) > self._keep:
                        self._bundles.popitem(last=False)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return made

    def _make(self, rater: str, trial: str, shown: UnblindedTrial) -> Bundle:
        design = shown.study.design
        case = design.case_by_key[shown.trial.case]
        images = trial_images(design, case, shown.trial)
        ids = _ids(rater, trial, shown)
        noise = [(shown.secret, rater, trial, slot) for slot in range(len(images))]
        width, height = images[0].size
        pictures = [
            Picture(name, png, width, height)
            for name, png in zip(ids, _equal_pngs(images, noise, self._bucket), strict=True)
        ]
        return Bundle(pictures[0], pictures[1], tuple(pictures[2:]))


def _ids(rater: str, trial: str, shown: UnblindedTrial) -> list[str]:
    """The opaque ids of a trial's pictures, in the order of ``Bundle.all``."""
    count = 2 + len(shown.trial.candidates)
    return [security.opaque(shown.secret, "picture", rater, trial, slot) for slot in range(count)]


def trial_images(design: Design, case: StudyCase, trial: Trial) -> list[Image]:
    """The source, the source with the outline, and the candidates; ``RGB``, all of the source's size.

    Raises :class:`PictureChanged`.
    """
    source = _load(design, case.source)
    refs = [design.picture(case, candidate) for candidate in trial.candidates]
    candidates = [
        _noise(ref, source.size) if ref.is_noise else resize(_load(design, ref), source.size) for ref in refs
    ]
    _check(design, case.mask)
    try:
        mask = read_mask(design.path(case.mask), source.size)
    except ImageError as error:
        raise PictureChanged(str(error)) from error
    return [source, outline(source, mask), *candidates]


def outline(source: Image, mask: Image) -> Image:
    """``RGB``: the source with a line around the mask (255), two colours wide, outside of it."""
    inside = mask_array(mask)
    side = min(source.size)
    pixels = pixels_of(source)
    # Thick enough to be seen at any size; on the outside, so that the place itself stays visible.
    thick = max(1, round(side / 256))
    near = dilate(inside, thick)
    far = dilate(inside, 2 * thick)
    pixels[far & ~near] = _OUTLINE[0]
    pixels[near & ~inside] = _OUTLINE[1]
    return from_array(pixels)


def _load(design: Design, ref: PictureRef) -> Image:
    _check(design, ref)
    try:
        return read_rgb(design.path(ref))
    except ImageError as error:
        raise PictureChanged(str(error)) from error


def _check(design: Design, ref: PictureRef) -> None:
    path = design.path(ref)
    try:
        found = sha256_bytes(path.read_bytes())
    except OSError as error:
        raise PictureChanged(
            f"{path}: cannot be read ({error.strerror}), so its trial cannot be shown. Restore the run folder."
        ) from error
    if found != ref.sha256:
        raise PictureChanged(
            f"{path}: not the file that the study was made of (SHA-256 {found[:12]}, not {ref.sha256[:12]}). "
            "Restore it, or make a new study of the changed edits."
        )


def _noise(ref: PictureRef, size: tuple[int, int]) -> Image:
    """A mosaic of random colours: no edit of anything, and no larger a file than an edit."""
    width, height = size
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(rank(0, ref.file)[:8], "big")))
    tile = max(1, min(size) // 16)
    colors = rng.integers(0, 256, (-(-height // tile), -(-width // tile), 3), dtype=np.uint8)
    return from_array(np.repeat(np.repeat(colors, tile, axis=0), tile, axis=1)[:height, :width])


def _equal_pngs(images: Sequence[Image], noise: Sequence[tuple[object, ...]], bucket: int) -> list[bytes]:
    """The PNGs, filled up to one length: a multiple of ``bucket`` bytes."""
    encoded = [png_bytes(image) for image in images]
    longest = max(map(len, encoded)) + _CHUNK
    length = -(-longest // bucket) * bucket
    return [
        fill_png(data, security.keystream(str(secret), length - len(data) - _CHUNK, *names))
        for data, (secret, *names) in zip(encoded, noise, strict=True)
    ]


def fill_png(data: bytes, noise: bytes) -> bytes:
    """The PNG with one more chunk that holds ``noise``, before its end; 12 bytes longer than both.

    The chunk's place and type are the same whatever is in the picture.
    """
    end = len(data) - _CHUNK
    if not data.startswith(_SIGNATURE) or data[end + 4 : end + 8] != b"IEND":
        raise ImageError("not a PNG that ends with IEND. Encode it with bench.images.png_bytes.")
    chunk = _FILL + noise
    return (
        data[:end] + struct.pack(">I", len(noise)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[end:]
    )
