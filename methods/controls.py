"""Controls: methods whose result is known in advance. They test the benchmark and give its noise floor.

``copy_input`` must leak nothing and succeed at nothing, and ``oracle`` must lead. The three round trips show how a
metric reacts to invisible changes. ``noise_fill`` and ``flat_color_fill`` put junk into the region and change nothing
outside. Their success rate shows how often a metric accepts junk.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from bench import images
from bench.edit import EditMethod
from methods import batches, pipelines, weights
from methods.runtime import refuse, runtime_problems

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditCase, EditRequest, Runtime


class CopyInput(EditMethod):
    summary = "the source, unchanged: the floor of leakage and of success"
    is_control = True
    needs: frozenset[str] = frozenset({"source"})

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        return [request.source.copy() for request in requests]


class Oracle(EditMethod):
    """The ground truth itself. The runner calls ``edit_cases`` instead of ``edit``."""

    summary = "the ground truth, where a protocol has one: the ceiling"
    is_control = True
    needs: frozenset[str] = frozenset()
    wants_truth = True

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        raise ValueError(
            "oracle cannot answer a request, which does not hold the ground truth: it runs inside a benchmark only"
        )

    def edit_cases(self, cases: Sequence[EditCase]) -> list[Image]:
        """The ground truth of each case. Raises ValueError that names the first case without one."""
        edited: list[Image] = []
        for case in cases:
            if case.truth is None:
                raise ValueError(
                    f"oracle: case {case.id!r} has no ground truth; only protocols that render it have one, "
                    "so leave oracle out of this suite"
                )
            # A copy, since whoever gets it may draw on it.
            edited.append(case.truth.copy())
        return edited


class Jpeg(EditMethod):
    """The source through JPEG as Pillow writes it (4:2:0 chroma subsampling)."""

    summary = "the source through JPEG: the loss of a lossy file format"
    is_control = True
    needs: frozenset[str] = frozenset({"source"})

    @dataclass(frozen=True)
    class Options:
        quality: int = 75
        """JPEG quality, 1 to 95, on Pillow's scale."""

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        if 1 <= options.quality <= 95:
            return []
        return [f"quality {options.quality}: expected 1 to 95"]

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("jpeg", self.problems(options))
        self.quality = options.quality

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        return [self._round_trip(request.source) for request in requests]

    def _round_trip(self, source: Image) -> Image:
        file = io.BytesIO()
        source.convert("RGB").save(file, "JPEG", quality=self.quality)
        file.seek(0)
        with PilImage.open(file) as decoded:
            return decoded.convert("RGB")


class ResizeRoundTrip(EditMethod):
    """The source resized by ``scale`` and back, Lanczos both ways. It shows the loss of a lower resolution alone."""

    summary = "the source, resized and back: the loss of a lower native resolution"
    is_control = True
    needs: frozenset[str] = frozenset({"source"})

    @dataclass(frozen=True)
    class Options:
        scale: float = 0.5
        """Size of the intermediate image over the source's."""

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        if 0 < options.scale <= 8 and options.scale != 1:
            return []
        return [f"scale {options.scale}: expected more than 0, at most 8, and not 1"]

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("resize_round_trip", self.problems(options))
        self.scale = options.scale

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        return [self._round_trip(request.source) for request in requests]

    def _round_trip(self, source: Image) -> Image:
        width, height = (max(1, round(side * self.scale)) for side in source.size)
        return images.resize(images.resize(source.convert("RGB"), (width, height)), source.size)


class AutoencoderRoundTrip(EditMethod):
    """The source through an AutoencoderKL (encoder's mode, decoder). Every latent diffusion method has this error.

    The default is the autoencoder of the inpainting checkpoint, so the noise floor is that method's own.
    """

    summary = "the source through the latent autoencoder: the loss of latent diffusion before any edit"
    is_control = True
    needs: frozenset[str] = frozenset({"source"})

    @dataclass(frozen=True)
    class Options:
        weights: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
        """``owner/name`` of the hub or a folder, either with a ``vae/``, a folder that is itself an
        AutoencoderKL, or ``zoo:NAME``."""
        revision: str | None = None

    PRESETS: Mapping[str, Mapping[str, Any]] = {"mini": {"weights": "zoo:autoencoder"}}

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return weights.identity(options.weights, options.revision, ("vae",))

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        return weights.problems(options.weights, options.revision, ("vae",))

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("autoencoder_round_trip", self.problems(options) + runtime_problems(runtime))
        checkpoint = weights.find(options.weights, options.revision, ("vae",))
        self.factor = checkpoint.vae_factor
        self.vae = pipelines.load_part("vae", checkpoint, runtime).to(runtime.device)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Takes sources of one size, any size. They are edge-padded to the autoencoder's factor and cropped again."""
        import torch

        if not requests:
            return []
        width, height = batches.one_size(requests, 1)
        pixels = np.stack([images.to_array(source) for source in batches.sources(requests)])
        # Edge pixels are repeated: a black border would bleed into the image through the convolutions.
        pixels = np.pad(
            pixels, ((0, 0), (0, -height % self.factor), (0, -width % self.factor), (0, 0)), mode="edge"
        )
        # uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1], in the precision of the autoencoder.
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.vae.device, self.vae.dtype) / 127.5 - 1
        with torch.inference_mode():
            decoded = self.vae.decode(self.vae.encode(batch).latent_dist.mode()).sample
        return batches.to_images(decoded[:, :, :height, :width])


class NoiseFill(EditMethod):
    """The region filled with uniform noise, independent for each pixel and channel, from the request's seed."""

    summary = "the region filled with noise: shows how much junk a metric accepts"
    is_control = True
    needs: frozenset[str] = frozenset({"source", "mask"})

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        return [self._fill(request) for request in requests]

    def _fill(self, request: EditRequest) -> Image:
        pixels = images.to_array(request.source.convert("RGB")).copy()
        inside = images.mask_array(request.needed_mask)
        # Drawn for the whole image, so that a pixel's noise does not depend on the mask.
        noise = np.random.default_rng(request.seed).integers(0, 256, pixels.shape, dtype=np.uint8)
        pixels[inside] = noise[inside]
        return images.from_array(pixels)


# Name of a colour in a prompt -> its RGB value, for ``flat_color_fill``.
COLORS: Mapping[str, tuple[int, int, int]] = {
    "black": (30, 30, 30), "white": (240, 240, 240), "gray": (150, 150, 150), "silver": (190, 190, 195),
    "red": (215, 40, 40), "orange": (245, 135, 25), "yellow": (245, 215, 45), "green": (45, 160, 65),
    "blue": (45, 90, 215), "purple": (135, 60, 185), "pink": (245, 130, 180), "brown": (120, 70, 35),
    "blond": (235, 200, 90), "gold": (240, 195, 50), "beige": (225, 205, 170),
    "blonde": (235, 200, 90), "golden": (240, 195, 50), "grey": (150, 150, 150),
}  # fmt: skip


class FlatColorFill(EditMethod):
    """Every region filled with one colour: the one that its prompt names, else the mean of the source's region."""

    summary = "the region filled with the prompted colour: shows how often a metric accepts a colour alone"
    is_control = True
    needs: frozenset[str] = frozenset({"source", "mask", "region_prompt"})

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        return [self._fill(request) for request in requests]

    def _fill(self, request: EditRequest) -> Image:
        pixels = images.to_array(request.source.convert("RGB")).copy()
        # Each region with its prompt, or the whole mask with the region's prompt.
        areas = [(region.mask, region.prompt) for region in request.regions]
        for mask, prompt in areas or [(request.needed_mask, request.region_prompt)]:
            inside = images.mask_array(mask)
            # The first colour that the prompt names. Whole words: "red" must not match in "covered".
            colors = [COLORS[word] for word in re.findall("[a-z]+", prompt.lower()) if word in COLORS]
            pixels[inside] = colors[0] if colors else pixels[inside].mean(axis=0).round().astype(np.uint8)
        return images.from_array(pixels)
