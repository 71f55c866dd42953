"""Networks and features that metrics share: each network is loaded once, each feature computed once, in batches.

Features are cached by the image's content (SHA-256 of its pixels) and the network's identity (name and SHA-256 of its
weights), in memory and, where a cache folder is given, on disk across methods and runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from bench.files import sha256_bytes
from bench.metrics.feature_cache import FeatureCache
from bench.metrics.networks.clip import ClipNet, ClipSpec
from bench.metrics.networks.weights import HPS_V21, PICK_SCORE
from bench.metrics.options import MetricOptions
from bench.metrics.streams import batches
from bench.metrics.types import MetricError, Pair, RgbImage

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.networks.dino import DinoNet
    from bench.metrics.networks.dreamsim import DreamSimNet
    from bench.metrics.networks.inception import InceptionNet
    from bench.metrics.networks.lpips_net import LpipsNet

    Rows = NDArray[np.float32]
    """Feature rows ``(N, D)``, one per image or text."""

T = TypeVar("T")

AttributeProbabilities = Mapping[str, Mapping[str, float]]
"""Attribute -> value -> probability, in one region."""


class RegionClassifier(Protocol):
    """An attribute classifier: it predicts annotated attributes of image regions."""

    identity: str
    """Changes with its weights, so that scores are then computed again. May be empty."""

    def __call__(
        self, images: NDArray[np.uint8], masks: NDArray[np.bool_], /
    ) -> Sequence[AttributeProbabilities]:
        """``(B, H, W, 3)`` images and ``(B, H, W)`` regions -> probabilities of each region."""
        ...


# Pixels per batch of an encoder. On a CPU a batch should fit into the caches. An accelerator needs large batches.
_ENCODER_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 23}
# Smallest number of images per batch, however large they are, unless the caller set the number of pixels.
_LEAST_BATCH = 4
# Values of pairs in memory.
_MEMO_PAIRS = 200_000
# Images in memory while a stream is read.
_STREAMED_IMAGES = 128
_TEXT_BATCH = 128


@dataclass(frozen=True)
class FeatureNews:
    """The features that one process has computed, for another one."""

    rows: Mapping[str, Mapping[str, Rows]]
    """Space -> key of the image or text -> its feature row ``(D,)``."""
    is_cut: Mapping[str, Mapping[str, bool]]
    """Slot of CLIP -> prompt -> whether it is longer than the model reads."""


class Features:
    """The networks and the cached features of one scoring run.

    ``mini_clip`` is the embedded CLIP's folder, ``classifier`` the attribute classifier of ``judge_truth``.
    ``clip_l14`` and ``clip_b32`` are the models of the published benchmarks, ``hps_v21`` and ``pick_score`` those
    of the rewards, whatever ``clip`` is. ``workers`` threads decode and resize. Networks are loaded on first use. The
    caller sets the number of torch's threads.
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
        clip_l14: ClipSpec | None = None,
        clip_b32: ClipSpec | None = None,
        hps_v21: ClipSpec | None = None,
        pick_score: ClipSpec | None = None,
        classifier: RegionClassifier | None = None,
        workers: int = 2,
        batch_pixels: int | None = None,
    ) -> None:
        self.options = options or MetricOptions()
        self.device = device
        self.classifier = classifier
        # The embedded CLIP is usually named by its folder.
        if isinstance(mini_clip, (str, Path)):
            mini_clip = ClipSpec(folder=str(mini_clip))
        # Slots of CLIP models: the alignment metrics', the embedded one, CMMD's, the published benchmarks', rewards'.
        self._specs: dict[str, ClipSpec | None] = {
            "clip": clip or ClipSpec(),
            "mini_clip": mini_clip,
            "cmmd_clip": cmmd_clip or ClipSpec("ViT-L-14-336", "openai"),
            "clip_l14": clip_l14 or ClipSpec("ViT-L-14", "openai"),
            "clip_b32": clip_b32 or ClipSpec("ViT-B-32", "openai"),
            "hps_v21": hps_v21 or ClipSpec("ViT-H-14", file=HPS_V21, resize="longest"),
            "pick_score": pick_score or ClipSpec("ViT-H-14", file=PICK_SCORE),
        }
        self._batch_pixels = batch_pixels
        self._rows = FeatureCache(cache_dir)
        # Slot -> prompt -> whether it is longer than the model reads.
        self._is_cut: dict[str, dict[str, bool]] = {}
        self._clips: dict[ClipSpec, ClipNet] = {}
        self._dinos: dict[str, DinoNet] = {}
        self._lpips: dict[str, LpipsNet] = {}
        self._inception: InceptionNet | None = None
        self._dreamsim: DreamSimNet | None = None
        # (computation, key of the pair) -> its values, the oldest first.
        self._memo: OrderedDict[tuple[str, tuple[str, str, str]], Any] = OrderedDict()
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="features")

    # -- networks -------------------------------------------------------------------------------

    def clip_spec(self, slot: str) -> ClipSpec:
        """The CLIP of a slot. Raises :class:`MetricError` for the embedded slot without a folder."""
        spec = self._specs[slot]
        if spec is None:
            raise MetricError("no embedded CLIP was given: name its folder (open_clip's layout).")
        return spec

    def clip_problems(self, slot: str) -> list[str]:
        """Lists what is missing to load a slot's CLIP, each with its remedy."""
        try:
            return self.clip_spec(slot).problems()
        except MetricError as error:
            return [error.problem]

    def clip(self, slot: str) -> ClipNet:
        # Slots with the same model share one network.
        spec = self.clip_spec(slot)
        if spec not in self._clips:
            self._clips[spec] = ClipNet(spec, self.device)
        return self._clips[spec]

    def lpips(self, net: str) -> LpipsNet:
        """LPIPS with the backbone ``alex``, ``vgg`` or ``squeeze``."""
        if net not in self._lpips:
            from bench.metrics.networks.lpips_net import LpipsNet

            self._lpips[net] = LpipsNet(net, self.device, self._batch_pixels)
        return self._lpips[net]

    def dino(self, net: str) -> DinoNet:
        """DINO's ``vits16`` or ``vitb8``."""
        if net not in self._dinos:
            from bench.metrics.networks.dino import DinoNet

            self._dinos[net] = DinoNet(net, self.device)
        return self._dinos[net]

    def inception(self) -> InceptionNet:
        if self._inception is None:
            from bench.metrics.networks.inception import InceptionNet

            self._inception = InceptionNet(self.device)
        return self._inception

    # -- features of one image or text ----------------------------------------------------------

    def clip_images(self, slot: str, images: Sequence[RgbImage]) -> Rows:
        """``(N, D)`` float32, rows of length 1."""

        def compute(missing: Sequence[RgbImage]) -> Rows:
            from bench.images import from_array

            net = self.clip(slot)

            def prepare(image: RgbImage) -> torch.Tensor:
                return net.prepare(from_array(image.pixels))

            return self._in_batches(missing, self._batch_size(net.side**2), prepare, net.encode_images)

        return self._rows.get(self.clip_space(slot), [image.key for image in images], images, compute)

    def clip_space(self, slot: str) -> str:
        """Space in the cache of the rows of :meth:`clip_images`."""
        return f"{self.clip_spec(slot).identity}-image"

    def clip_texts(self, slot: str, prompts: Sequence[str]) -> Rows:
        """``(N, D)`` float32, rows of length 1."""

        def compute(missing: Sequence[str]) -> Rows:
            net = self.clip(slot)
            return np.concatenate([net.encode_texts(batch) for batch in batches(missing, _TEXT_BATCH)])

        # Texts have keys of the same form as images.
        keys = [sha256_bytes(prompt.encode())[:40] for prompt in prompts]
        return self._rows.get(f"{self.clip_spec(slot).identity}-text", keys, prompts, compute)

    def clip_cuts(self, slot: str, prompts: Sequence[str]) -> list[bool]:
        """Per prompt, True where it is longer than the model reads. Loads the tokenizer only."""
        is_cut = self._is_cut.setdefault(slot, {})
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in is_cut]
        if new:
            is_cut.update(zip(new, self.clip_spec(slot).cut(new), strict=True))
        return [is_cut[prompt] for prompt in prompts]

    def clip_context(self, slot: str) -> int:
        """Number of tokens of a prompt that the model reads."""
        return int(self.clip_spec(slot).tokenizer.context_length)

    def cut_prompts(self) -> list[str]:
        """One warning per CLIP model that got prompts longer than its context: their number, and one of them."""
        lines = []
        for slot, is_cut in self._is_cut.items():
            cut = sorted(prompt for prompt, is_long in is_cut.items() if is_long)
            if cut:
                first = cut[0] if len(cut[0]) <= 60 else cut[0][:57] + "..."
                lines.append(
                    f"{slot}: {len(cut)} of {len(is_cut)} prompts are longer than the {self.clip_context(slot)} "
                    f"tokens that it reads: their edits have no value. One of them is {first!r}"
                )
        return lines

    def dino_images(self, net: str, images: Sequence[RgbImage]) -> Rows:
        """``(N, D)`` float32: DINO's class token of each image, not of length 1."""
        from bench.metrics.networks import dino

        def compute(missing: Sequence[RgbImage]) -> Rows:
            network = self.dino(net)
            return self._in_batches(
                missing, self._batch_size(dino.SIDE**2), dino.prepare, network.class_tokens
            )

        space = f"{dino.identity(net)}-class"
        return self._rows.get(space, [image.key for image in images], images, compute)

    def dreamsim_images(self, images: Sequence[RgbImage]) -> Rows:
        """``(N, 768)`` float32: DreamSim's embedding of each image, of length 1."""
        from bench.metrics.networks import dreamsim

        def compute(missing: Sequence[RgbImage]) -> Rows:
            if self._dreamsim is None:
                self._dreamsim = dreamsim.DreamSimNet(self.device)
            size = self._batch_size(dreamsim.SIDE**2)
            return self._in_batches(missing, size, dreamsim.prepare, self._dreamsim.embeddings)

        return self._rows.get(dreamsim.identity(), [image.key for image in images], images, compute)

    def vgg16(self, images: Sequence[RgbImage], side: int) -> Rows:
        """``(N, 512)`` float32: mean over the plane of VGG16's last ReLU, after clean resizing to ``side``."""
        return self._pooled(self.vgg16_space(side), images, side, lambda: self.lpips("vgg").pooled)

    def vgg16_space(self, side: int) -> str:
        """Space in the cache of the rows of :meth:`vgg16`."""
        from bench.metrics.networks import lpips_weights

        return f"{lpips_weights.identity('vgg')}-pooled-{side}"

    def inception_features(self, images: Sequence[RgbImage]) -> Rows:
        """``(N, 2048)`` float32 of FID's Inception, after clean resizing to 299."""
        from bench.metrics.networks.inception import SIDE

        return self._pooled(self.inception_space(), images, SIDE, lambda: self.inception().pooled)

    def inception_space(self) -> str:
        """Space in the cache of the rows of :meth:`inception_features`."""
        from bench.metrics.networks.weights import INCEPTION

        return f"inception-{INCEPTION.sha256[:12]}-pooled"

    def _pooled(
        self,
        space: str,
        images: Sequence[RgbImage],
        side: int,
        load: Callable[[], Callable[..., torch.Tensor]],
    ) -> Rows:
        """Rows of a network that reads ``(B, 3, side, side)`` float32 in [0, 255]."""

        def compute(missing: Sequence[RgbImage]) -> Rows:
            import torch

            from bench.metrics.networks.inception import clean_resize
            from bench.metrics.networks.precision import exact

            # Networks are loaded only when some image is new.
            network = load()

            # In a worker thread: Pillow releases the lock while it resizes.
            def prepare(image: RgbImage) -> NDArray[np.float32]:
                return clean_resize(image.pixels, side)

            def encode(planes: Sequence[NDArray[np.float32]]) -> Rows:
                with exact(self.device):
                    # (B, 3, side, side) float32 in [0, 255].
                    pixels = torch.from_numpy(np.stack(planes)).to(self.device)
                    return network(pixels).cpu().numpy()

            return self._in_batches(missing, self._batch_size(side**2), prepare, encode)

        return self._rows.get(space, [image.key for image in images], images, compute)

    def streamed(
        self,
        space: str,
        compute: Callable[[Sequence[RgbImage]], object],
        images: Iterable[RgbImage],
        keys: Sequence[str],
    ) -> Rows:
        """``(len(keys), D)`` float32: the rows of those among ``images`` that have these keys.

        Iterates over ``images`` only where rows are missing, with few in memory at once. ``compute`` is
        the method of this class that fills ``space``. Raises :class:`MetricError` where an image has disappeared.
        """
        # Images that ``SetMetric.see`` got have their rows. The others are decoded again.
        missing = self._rows.missing(space, keys)
        if missing:
            for batch in batches((image for image in images if image.key in missing), _STREAMED_IMAGES):
                compute(batch)
        return self._rows.remembered(space, keys)

    # -- values of one pair ---------------------------------------------------------------------

    def pair_values(
        self, computation: str, pairs: Sequence[Pair], compute: Callable[[Sequence[Pair]], Sequence[T]]
    ) -> list[T]:
        """Values of pairs, cached by the name of the computation and the pixels of source, edit and mask.

        ``compute`` gets the pairs that are new. Several metrics thus share one computation.
        """
        # Pairs with equal pixels in one call are computed once.
        new: dict[tuple[str, str, str], Pair] = {}
        for pair in pairs:
            if (computation, pair.key) not in self._memo:
                new.setdefault(pair.key, pair)
        values: dict[tuple[str, str, str], T] = {
            pair.key: self._memo[computation, pair.key] for pair in pairs if pair.key not in new
        }
        if new:
            values.update(zip(new, compute(list(new.values())), strict=True))
            for key in new:
                self._memo[computation, key] = values[key]
            # First in, first out: a run scores source by source, so old pairs do not come back.
            while len(self._memo) > _MEMO_PAIRS:
                self._memo.popitem(last=False)
        return [values[pair.key] for pair in pairs]

    # -- between processes ----------------------------------------------------------------------

    def take(self) -> FeatureNews:
        """All that was computed. It is forgotten here. Networks stay loaded."""
        self._memo.clear()
        for network in self._lpips.values():
            network.forget()
        news = FeatureNews(self._rows.take(), self._is_cut)
        self._is_cut = {}
        return news

    def add(self, news: FeatureNews) -> None:
        """Adds what another process has computed. Rows that are here stay."""
        self._rows.add(news.rows)
        for slot, is_cut in news.is_cut.items():
            self._is_cut.setdefault(slot, {}).update(is_cut)

    # -- threads and batches --------------------------------------------------------------------

    def map(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """``function`` of each item, computed in threads, in order."""
        return list(self._pool.map(function, items))

    def flush(self) -> None:
        """Writes the features that the disk cache does not hold yet."""
        self._rows.flush()

    def _batch_size(self, pixels: int) -> int:
        """Number of images per batch, for images of this many pixels."""
        if self._batch_pixels is not None:
            return max(1, self._batch_pixels // max(1, pixels))
        kind = self.device.split(":")[0]
        return max(_LEAST_BATCH, _ENCODER_PIXELS.get(kind, _ENCODER_PIXELS["cpu"]) // max(1, pixels))

    def _in_batches(
        self,
        items: Sequence[Any],
        size: int,
        prepare: Callable[[Any], Any],
        encode: Callable[[Sequence[Any]], Rows],
    ) -> Rows:
        """Encodes items batch by batch. Threads prepare the next batch at the same time."""
        # Two batches in memory: one encoded, one prepared.
        waiting = [self._pool.submit(prepare, item) for item in items[:size]]
        parts = []
        for start in range(0, len(items), size):
            ready = [future.result() for future in waiting]
            following = items[start + size : start + 2 * size]
            waiting = [self._pool.submit(prepare, item) for item in following]
            parts.append(encode(ready))
        return np.concatenate(parts)
