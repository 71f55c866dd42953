"""The adapter: Blended Diffusion behind the one edit interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench import images
from bench.edit import EditMethod
from methods import batches, pipelines
from methods.blended_diffusion import files
from methods.runtime import refuse, runtime_problems, torch_dtype
from methods.weights import WeightsError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime
    from methods.blended_diffusion.guidance import Guidance


@dataclass(frozen=True, eq=False)
class Candidate:
    """One sampled edit and its rank's measure: the CLIP distance to the prompt, the smaller the better."""

    image: Image
    distance: float


class BlendedDiffusion(EditMethod):
    summary = (
        "Blended Diffusion: pixel diffusion steered by CLIP, blended with the source (public or mini weights)"
    )
    needs: frozenset[str] = frozenset({"source", "mask", "region_prompt"})
    native_size: int | None = 256

    @dataclass(frozen=True)
    class Options:
        weights: str = "omriav/blended-diffusion"
        """``owner/name`` of the hub or a ``.pt`` file, holding guided-diffusion's ``256x256_diffusion_uncond.pt``;
        a folder in diffusers' layout (``unet/``, ``scheduler/``); or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub."""
        clip: str = files.CLIP_NAME
        """``ViT-B-16-quickgelu/openai``, a weight file of that model, a folder in open_clip's layout, or
        ``zoo:NAME``."""
        steps: int = 100
        """Into how many steps the whole noise schedule is divided."""
        skip: int = 25
        """How many of them are left out at the noisy end: the edit starts from the source at that noise level."""
        sampler: Literal["ddpm", "ddim"] = "ddpm"
        augmentations: int = 8
        """Views of each image that guidance averages over, the plain one included."""
        clip_lambda: float = 1000.0
        range_lambda: float = 50.0
        background_loss: bool = False
        """Also pull the background towards the source: LPIPS (VGG-16) and squared error."""
        lpips_lambda: float = 1000.0
        l2_lambda: float = 10000.0
        batch: int = 4
        """Candidates sampled together."""
        iterations: int = 8
        """How often. The best of ``batch * iterations`` candidates is the edit; the authors advise 64 and more."""
        blending: bool = True
        """Off: the paper's baseline "local CLIP-guided diffusion", without blend and without paste."""
        paste: bool = True
        """The final paste of the source outside the mask."""
        faithful: bool = True
        """Keep what the authors' program does unintended (the package's documentation lists it); off: put right."""
        prompt_field: Literal["region_prompt", "target_prompt"] = "region_prompt"
        """Which text of the request guides. The CLIP sees the masked region alone, so its prompt is the default."""
        view: Literal["masked", "crop", "whole"] = "masked"
        """What the CLIP is shown: the region on grey, as published; the square around it; the whole picture."""
        per_region: bool = False
        """Where a request has several regions with prompts of their own, guide each by its own, instead of the
        whole mask by one text. The paper makes such edits one after the other."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:blended_diffusion",
            "clip": "zoo:clip_guide",
            "steps": 20,
            "skip": 2,
            "augmentations": 2,
            "clip_lambda": 4000.0,
            "batch": 1,
            "iterations": 1,
            "faithful": False,
            "view": "crop",
            "per_region": True,
        },
    }

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return files.identity(options.weights, options.revision, options.clip)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        if options.steps < 2:
            found.append(f"steps {options.steps}: expected at least 2")
        elif not 0 <= options.skip < options.steps:
            found.append(
                f"skip {options.skip}: expected 0 to {options.steps - 1}, which leaves a step to run"
            )
        for name in ("augmentations", "batch", "iterations"):
            value = getattr(options, name)
            if value < 1:
                found.append(f"{name} {value}: expected at least 1")
        for name in ("clip_lambda", "range_lambda", "lpips_lambda", "l2_lambda"):
            value = getattr(options, name)
            if not (np.isfinite(value) and value >= 0):
                found.append(f"{name} {value}: expected 0 or more")
        if not options.blending and options.paste:
            found.append("paste: the baseline without blending has no paste; set paste to false with it")
        if options.background_loss and options.lpips_lambda and (problem := files.vgg_problem()):
            found.append(problem)
        for look in (
            lambda: files.native_size(options.weights, options.revision),
            lambda: files.find_clip(options.clip),
        ):
            try:
                look()
            except WeightsError as error:
                found.append(str(error))
        return found

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("blended_diffusion", self.problems(options) + runtime_problems(runtime))
        from methods.blended_diffusion.clip import Clip

        self.options = options
        self.device = runtime.device
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.native_size, self.factor = files.native_size(options.weights, options.revision)
        self.unet, self.schedule = _load(options, runtime)
        self.clip = Clip(files.find_clip(options.clip), runtime.device)
        self._lpips = _lpips(runtime.device) if options.background_loss and options.lpips_lambda else None

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources and masks of one size, sides multiples of the network's factor: the best candidate of each."""
        return [ranked[0].image for ranked in self.candidates(requests)]

    def candidates(self, requests: Sequence[EditRequest]) -> list[list[Candidate]]:
        """Every candidate of each request, the best first."""
        import torch

        if not requests:
            return []
        self._check(requests)
        from methods.blended_diffusion.sampler import Noise, Settings, sample

        options = self.options
        guidance = self._guidance(requests)
        noise = Noise(batches.generators(requests), options.batch, self.device)
        settings = Settings(
            options.skip, options.augmentations, options.sampler, options.blending, options.faithful
        )
        found: list[list[Candidate]] = [[] for _ in requests]
        for _ in range(options.iterations):
            result = sample(self.unet, self.schedule, guidance, noise, settings)
            if options.paste:
                result = result * guidance.mask + guidance.source * (1 - guidance.mask)
            distances = guidance.rank_distance(result).cpu().tolist()
            pictures = _pictures(result, truncate=options.faithful)
            for n, (picture, distance) in enumerate(zip(pictures, distances, strict=True)):
                request = requests[n // options.batch]
                if options.paste:
                    source = request.source.convert("RGB")
                    picture = images.composite(source, picture, request.mask)
                found[n // options.batch].append(Candidate(picture, distance))
            del result
            if torch.device(self.device).type == "cuda":
                torch.cuda.empty_cache()
        # Stable: of two equally good ones the first stays first.
        return [sorted(ranked, key=lambda candidate: candidate.distance) for ranked in found]

    def _check(self, requests: Sequence[EditRequest]) -> None:
        batches.one_size(requests, self.factor)
        batches.prompts(requests, self.options.prompt_field)
        batches.edit_masks(requests)

    def _guidance(self, requests: Sequence[EditRequest]) -> Guidance:
        """The guidance of ``len(requests) * batch`` images, candidates of one request after another."""
        import torch

        from methods.blended_diffusion.guidance import Guidance, Weighting

        options = self.options
        pixels = np.stack([images.to_array(request.source.convert("RGB")) for request in requests])
        source = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        masks = np.stack([images.mask_array(request.mask) for request in requests])
        mask = torch.from_numpy(masks)[:, None].float()
        spoken = [self._spoken(request) for request in requests]
        regions = np.stack([images.mask_array(area) for parts in spoken for area, _ in parts])
        texts = self.clip.texts([text for parts in spoken for _, text in parts])
        # Part n of the requests' parts is looked at in each candidate of its request.
        belongs = torch.tensor([n for n, parts in enumerate(spoken) for _ in parts])
        owner = belongs[:, None] * options.batch + torch.arange(options.batch)

        def each(x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(options.batch, dim=0).to(self.device)

        return Guidance(
            self.clip,
            each(texts),
            each(mask),
            each(source),
            Weighting(
                options.clip_lambda,
                options.range_lambda,
                options.background_loss,
                options.lpips_lambda,
                options.l2_lambda,
            ),
            options.view,
            options.batch,
            options.faithful,
            self._lpips,
            each(torch.from_numpy(regions)[:, None].float()),
            owner.flatten().to(self.device),
        )

    def _spoken(self, request: EditRequest) -> list[tuple[Image, str]]:
        """The regions that guidance looks at, each with its text."""
        parts = (
            [(region.mask, region.prompt) for region in request.regions] if self.options.per_region else []
        )
        usable = all(text.strip() and images.mask_array(area).any() for area, text in parts)
        return (usable and parts) or [(request.mask, getattr(request, self.options.prompt_field))]


def _load(options: BlendedDiffusion.Options, runtime: Runtime) -> tuple[Any, Any]:
    """The network, frozen, and its reverse process."""
    from methods.blended_diffusion import adm
    from methods.blended_diffusion.schedule import Schedule, betas_of, linear_betas

    where = files.find_adm(options.weights, options.revision)
    if where.file is not None:
        unet = adm.load_file(where.file, dtype=torch_dtype(runtime))
        schedule = Schedule(linear_betas(), options.steps)
    else:
        assert where.found is not None
        unet = pipelines.load_part("unet", where.found, runtime, ["diffusers", "UNet2DModel"])
        config = where.found.config("scheduler")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction") or config.get("variance_type") != "learned_range":
            raise ValueError(
                f"blended_diffusion: {where.found.parts['scheduler']}: prediction_type {prediction!r} with "
                f"variance_type {config.get('variance_type')!r}; expected epsilon or v_prediction, and learned_range"
            )
        schedule = Schedule(betas_of(config), options.steps, prediction)
    return unet.eval().requires_grad_(False).to(runtime.device), schedule


def _lpips(device: str) -> Callable[[Any, Any], Any]:
    import lpips

    network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False).to(device)

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(a, b)
        return found

    return distance


def _pictures(x: torch.Tensor, truncate: bool) -> list[Image]:
    """float32 (B, 3, H, W) in [-1, 1] => RGB images. Quirk 9, truncation."""
    import torch

    levels = x.float().add(1).div(2).clamp(0, 1).mul(255)
    array = (levels if truncate else levels.round()).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [images.from_array(np.ascontiguousarray(picture)) for picture in array]
