"""What metrics share: each network loaded once, each feature of an image computed once, in batches, and kept.

Features are kept by the image's content (SHA-256 of its pixels) and the network's identity (name and
SHA-256 of its weights), in memory and, where a cache folder is given, on disk across methods and runs.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from bench.errors import BenchWarning
from bench.files import safe_part, sha256_bytes, write_atomic
from bench.metrics.networks.clip import ClipNet, ClipSpec
from bench.metrics.options import MetricOptions
from bench.metrics.streams import batches
from bench.metrics.types import MetricError, Pair, RgbImage

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.networks.inception import InceptionNet
    from bench.metrics.networks.lpips_net import LpipsNet

    FloatND = NDArray[np.float32]

T = TypeVar("T")

Reading = Mapping[str, Mapping[str, float]]
"""What a reader sees in one region: attribute -> value -> probability."""


class AttributeClassifier(Protocol):
    """Reads annotated attributes off images: ``uint8`` NHWC, ``bool`` NHW (the region) -> one reading each.

    An attribute ``identity`` (a string that changes with its weights) makes scores be computed afresh when
    the reader changes.
    """

    def __call__(self, images: NDArray[np.uint8], masks: NDArray[np.bool_], /) -> Sequence[Reading]: ...


CLIPS = ("clip", "mini_clip", "cmmd_clip")
"""The slots for CLIP models: the alignment metrics', the embedded one, and CMMD's."""

_ENCODER_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Per batch of an encoder. On a CPU, a larger one leaves its caches; on an accelerator, it fills it."""
_LEAST = 4
"""Images per batch where they are large, unless the budget was set."""
_MEMO = 200_000
_AT_ONCE = 128
"""Pictures in memory while many are passed over."""


class Features:
    """The networks and the memory of one scoring run.

    ``mini_clip`` is the embedded model's folder; ``reader`` the truth judge's. Nothing is loaded before it
    is used. Torch's threads are the caller's business; ``workers`` threads decode and resize.
    """

    def __init__(
        self,
        options: MetricOptions | None = None,
        *,
        device: str = "cpu",
        cache_dir: Path | str | None = None,
        clip: ClipSpec | None = None,
        mini_clip: ClipSpec | str | Path | None = None,
        cmmd_clip: ClipSpec | None = None,
        classifier: AttributeClassifier | None = None,
        workers: int = 2,
        batch_pixels: int | None = None,
    ) -> None:
        self.options = options or MetricOptions()
        self.device = device
        self.classifier = classifier
        if isinstance(mini_clip, (str, Path)):
            mini_clip = ClipSpec(folder=str(mini_clip))
        self._specs: dict[str, ClipSpec | None] = {
            "clip": clip or ClipSpec(),
            "mini_clip": mini_clip,
            "cmmd_clip": cmmd_clip or ClipSpec("ViT-L-14-336", "openai"),
        }
        self._batch_pixels = batch_pixels
        self._rows = FeatureCache(cache_dir)
        self._cut: dict[str, dict[str, bool]] = {}
        self._clips: dict[str, ClipNet] = {}
        self._lpips: dict[str, LpipsNet] = {}
        self._inception: InceptionNet | None = None
        self._memo: OrderedDict[tuple[str, tuple[str, str, str]], Any] = OrderedDict()
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="features")

    # -- networks -------------------------------------------------------------------------------

    def clip_spec(self, slot: str) -> ClipSpec:
        """Raises :class:`MetricError` for the embedded slot without a folder."""
        spec = self._specs[slot]
        if spec is None:
            raise MetricError("no embedded CLIP was given: name its folder (open_clip's layout).")
        return spec

    def clip_problems(self, slot: str) -> list[str]:
        try:
            return self.clip_spec(slot).problems()
        except MetricError as error:
            return [str(error)]

    def clip(self, slot: str) -> ClipNet:
        if slot not in self._clips:
            self._clips[slot] = self.clip_spec(slot).load(self.device)
        return self._clips[slot]

    def lpips(self, net: str) -> LpipsNet:
        if net not in self._lpips:
            from bench.metrics.networks.lpips_net import LpipsNet

            self._lpips[net] = LpipsNet(net, self.device, self._batch_pixels)
        return self._lpips[net]

    def inception(self) -> InceptionNet:
        if self._inception is None:
            from bench.metrics.networks.inception import InceptionNet

            self._inception = InceptionNet(self.device)
        return self._inception

    # -- features of one image or text ----------------------------------------------------------

    def clip_images(self, slot: str, pictures: Sequence[RgbImage]) -> FloatND:
        """``float32`` ``(N, D)``, rows of length 1."""

        def compute(missing: Sequence[RgbImage]) -> FloatND:
            from bench.images import from_array

            net = self.clip(slot)

            def prepare(picture: RgbImage) -> torch.Tensor:
                return net.prepare(from_array(picture.pixels))

            size = self._batch(net.side**2)
            return self._in_batches(missing, size, prepare, net.encode_images)

        return self._rows.get(self.clip_space(slot), [p.key for p in pictures], pictures, compute)

    def clip_space(self, slot: str) -> str:
        """The name under which :meth:`clip_images` keeps its rows."""
        return f"{self.clip_spec(slot).identity}-image"

    def clip_texts(self, slot: str, prompts: Sequence[str]) -> FloatND:
        """``float32`` ``(N, D)``, rows of length 1."""
        spec = self.clip_spec(slot)

        def compute(missing: Sequence[str]) -> FloatND:
            net = self.clip(slot)
            parts = [net.encode_texts(missing[i : i + 128]) for i in range(0, len(missing), 128)]
            return np.concatenate(parts)

        keys = [sha256_bytes(prompt.encode())[:40] for prompt in prompts]
        return self._rows.get(f"{spec.identity}-text", keys, prompts, compute)

    def clip_cuts(self, slot: str, prompts: Sequence[str]) -> list[bool]:
        """Whether each prompt is longer than the model reads. Loads the tokenizer only."""
        cut = self._cut.setdefault(slot, {})
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cut]
        if new:
            cut.update(zip(new, self.clip_spec(slot).cut(new), strict=True))
        return [cut[prompt] for prompt in prompts]

    def clip_context(self, slot: str) -> int:
        """How many tokens of a prompt the model reads."""
        return int(self.clip_spec(slot).tokenizer.context_length)

    def cut_prompts(self) -> list[str]:
        """A line for each CLIP model that was asked about prompts longer than it reads: how many, and one of them."""
        lines = []
        for slot, prompts in self._cut.items():
            cut = sorted(prompt for prompt, is_cut in prompts.items() if is_cut)
            if cut:
                first = cut[0] if len(cut[0]) <= 60 else cut[0][:57] + "..."
                lines.append(
                    f"{slot}: {len(cut)} of {len(prompts)} prompts are longer than the {self.clip_context(slot)} "
                    f"tokens that it reads: their edits have no value. One of them is {first!r}"
                )
        return lines

    def vgg16(self, pictures: Sequence[RgbImage], side: int) -> FloatND:
        """``float32`` ``(N, 512)``: mean over the plane of VGG16's last ReLU, after clean resizing."""
        return self._pooled(self.vgg16_space(side), pictures, side, lambda: self.lpips("vgg").pooled)

    def vgg16_space(self, side: int) -> str:
        """The name under which :meth:`vgg16` keeps its rows."""
        from bench.metrics.networks import lpips_weights

        return f"{lpips_weights.identity('vgg')}-pooled-{side}"

    def inception_features(self, pictures: Sequence[RgbImage]) -> FloatND:
        """``float32`` ``(N, 2048)`` of FID's Inception, after clean resizing."""
        from bench.metrics.networks.inception import SIDE

        return self._pooled(self.inception_space(), pictures, SIDE, lambda: self.inception().pooled)

    def inception_space(self) -> str:
        """The name under which :meth:`inception_features` keeps its rows."""
        from bench.metrics.networks.weights import INCEPTION

        return f"inception-{INCEPTION.sha256[:12]}-pooled"

    # -- features of many images ----------------------------------------------------------------

    def streamed(
        self,
        space: str,
        compute: Callable[[Sequence[RgbImage]], object],
        pictures: Iterable[RgbImage],
        keys: Sequence[str],
    ) -> FloatND:
        """``float32`` ``(len(keys), D)``: the rows of those among ``pictures`` that have these keys.

        ``pictures`` are passed over, a few at a time in memory, only where rows are missing; ``compute`` is
        the method of this class that fills ``space``. Raises :class:`MetricError` where a picture is not there.
        """
        missing = self._rows.missing(space, keys)
        if missing:
            wanted = (picture for picture in pictures if picture.key in missing)
            for batch in batches(wanted, _AT_ONCE):
                compute(batch)
        return self._rows.known(space, keys)

    # -- values of one pair ---------------------------------------------------------------------

    def pair_values(
        self, kind: str, pairs: Sequence[Pair], compute: Callable[[Sequence[Pair]], Sequence[T]]
    ) -> list[T]:
        """``compute`` of the pairs not seen before under ``kind``, the rest from memory.

        For what depends on source, edited image and mask alone; several metrics then share one computation.
        """
        fresh: dict[tuple[str, str, str], Pair] = {}
        for pair in pairs:
            if (kind, pair.key) not in self._memo:
                fresh.setdefault(pair.key, pair)
        found: dict[tuple[str, str, str], T] = {
            pair.key: self._memo[kind, pair.key] for pair in pairs if pair.key not in fresh
        }
        if fresh:
            values = compute(list(fresh.values()))
            found.update(zip(fresh, values, strict=True))
            for key in fresh:
                self._memo[kind, key] = found[key]
            while len(self._memo) > _MEMO:
                self._memo.popitem(last=False)
        return [found[pair.key] for pair in pairs]

    def flush(self) -> None:
        """Writes what the disk cache does not hold yet."""
        self._rows.flush()

    def close(self) -> None:
        self.flush()
        self._pool.shutdown()

    def map(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """In threads, in order."""
        return list(self._pool.map(function, items))

    def _batch(self, pixels: int) -> int:
        if self._batch_pixels is not None:
            return max(1, self._batch_pixels // max(1, pixels))
        kind = self.device.split(":")[0]
        return max(_LEAST, _ENCODER_PIXELS.get(kind, _ENCODER_PIXELS["cpu"]) // max(1, pixels))

    def _pooled(
        self,
        name: str,
        pictures: Sequence[RgbImage],
        side: int,
        load: Callable[[], Callable[..., torch.Tensor]],
    ) -> FloatND:
        def compute(missing: Sequence[RgbImage]) -> FloatND:
            import torch

            from bench.metrics.networks.inception import clean_resize
            from bench.metrics.networks.precision import exact

            network = load()

            def prepare(picture: RgbImage) -> FloatND:
                return clean_resize(picture.pixels, side)

            def encode(planes: Sequence[FloatND]) -> FloatND:
                with exact(self.device):
                    pixels = torch.from_numpy(np.stack(planes)).to(self.device)
                    return network(pixels).cpu().numpy()

            return self._in_batches(missing, self._batch(side**2), prepare, encode)

        return self._rows.get(name, [p.key for p in pictures], pictures, compute)

    def _in_batches(
        self,
        items: Sequence[Any],
        size: int,
        prepare: Callable[[Any], Any],
        encode: Callable[[Sequence[Any]], FloatND],
    ) -> FloatND:
        """Prepares the next batch in threads while one is encoded."""
        starts = range(0, len(items), size)
        waiting = [self._pool.submit(prepare, item) for item in items[:size]]
        parts = []
        for start in starts:
            ready = [future.result() for future in waiting]
            following = items[start + size : start + 2 * size]
            waiting = [self._pool.submit(prepare, item) for item in following]
            parts.append(encode(ready))
        return np.concatenate(parts)


class FeatureCache:
    """Rows of ``float32`` by name space and key; in memory, and in files where a folder is given.

    A file holds many rows, is written whole or not at all, and is never changed, so that several runs may
    share a folder. A damaged file is as good as none. A folder that cannot be written costs a warning.
    """

    def __init__(self, folder: Path | str | None = None, *, rows_per_file: int = 2048) -> None:
        self._folder = None if folder is None else Path(folder)
        self._rows_per_file = rows_per_file
        self._rows: dict[str, dict[str, FloatND]] = {}
        self._unsaved: dict[str, list[str]] = {}

    def get(
        self,
        space: str,
        keys: Sequence[str],
        items: Sequence[T],
        compute: Callable[[Sequence[T]], FloatND],
    ) -> FloatND:
        """``(len(keys), D)``: each row from memory, else of ``compute`` over the items that have none.

        ``D`` of no keys is 0.
        """
        rows = self._space(space)
        missing: dict[str, T] = {}
        for key, item in zip(keys, items, strict=True):
            if key not in rows:
                missing.setdefault(key, item)
        if missing:
            values = np.asarray(compute(list(missing.values())), dtype=np.float32)
            if values.ndim != 2 or len(values) != len(missing):
                raise MetricError(f"{space}: features of shape {values.shape} for {len(missing)} images.")
            rows.update(zip(missing, values, strict=True))
            self._unsaved.setdefault(space, []).extend(missing)
            if len(self._unsaved[space]) >= self._rows_per_file:
                self.flush()
        return self.known(space, keys)

    def missing(self, space: str, keys: Iterable[str]) -> set[str]:
        """Those keys that have no row yet."""
        rows = self._space(space)
        return {key for key in keys if key not in rows}

    def known(self, space: str, keys: Sequence[str]) -> FloatND:
        """As :meth:`get`, of rows that are there. Raises :class:`MetricError` where one is not."""
        rows = self._space(space)
        try:
            return np.stack([rows[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)
        except KeyError as error:
            raise MetricError(
                f"{space}: no features of a picture {error} that was there before. "
                "The images changed while they were scored; score them again."
            ) from None

    def flush(self) -> None:
        if self._folder is None:
            return
        for space, keys in self._unsaved.items():
            if not keys:
                continue
            buffer = io.BytesIO()
            rows = self._rows[space]
            np.savez(buffer, keys=np.array(keys), rows=np.stack([rows[key] for key in keys]))
            digest = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:24]
            try:
                write_atomic(self._folder / safe_part(space) / f"{digest}.npz", buffer.getvalue())
            except OSError as error:
                warnings.warn(
                    f"features are not kept on disk: {self._folder} cannot be written ({error.strerror}).",
                    BenchWarning,
                    stacklevel=2,
                )
                self._folder = None
                return
            keys.clear()

    def _space(self, space: str) -> dict[str, FloatND]:
        if space not in self._rows:
            self._rows[space] = {}
            if self._folder is not None:
                for path in sorted((self._folder / safe_part(space)).glob("*.npz")):
                    self._rows[space].update(_read_rows(path))
        return self._rows[space]


def _read_rows(path: Path) -> dict[str, FloatND]:
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, rows = file["keys"], file["rows"]
        if (
            rows.ndim != 2
            or rows.dtype != np.float32
            or len(rows) != len(keys)
            or not np.isfinite(rows).all()
        ):
            return {}
        return dict(zip(keys.tolist(), rows, strict=True))
    except Exception:
        # Whatever a damaged file raises (zip, numpy, OS): its features are computed again.
        return {}
