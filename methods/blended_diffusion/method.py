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
from methods.weights import problems_of, training_remark

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime
    from methods.blended_diffusion.guidance import Guidance


@dataclass(frozen=True, eq=False)
class Candidate:
    """One sampled edit with its CLIP distance to the prompt. The smaller, the better."""

    image: Image
    distance: float


class BlendedDiffusion(EditMethod):
    summary = (
        "Blended Diffusion: pixel diffusion guided by CLIP, blended with the source (public or mini weights)"
    )
    needs: frozenset[str] = frozenset({"source", "mask", "region_prompt"})
    native_size: int | None = 256

    @dataclass(frozen=True)
    class Options:
        weights: str = "omriav/blended-diffusion"
        """``owner/name`` of the hub or a ``.pt`` file, holding guided-diffusion's ``256x256_diffusion_uncond.pt``,
        a folder in diffusers' layout (``unet/``, ``scheduler/``), or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub."""
        clip: str = files.CLIP_NAME
        """``ViT-B-16-quickgelu/openai``, a weight file of that model, a folder in open_clip's layout, or
        ``zoo:NAME``."""
        steps: int = 100
        """Steps that the whole noise schedule is divided into."""
        skip: int = 25
        """Steps left out at the noisy end. The edit starts from the source at that noise level."""
        sampler: Literal["ddpm", "ddim"] = "ddpm"
        augmentations: int = 8
        """Number of views of each image that guidance averages over, the plain one included."""
        clip_lambda: float = 1000.0
        range_lambda: float = 50.0
        background_loss: bool = False
        """Guide the background towards the source too, by LPIPS (VGG-16) and squared error."""
        lpips_lambda: float = 1000.0
        l2_lambda: float = 10000.0
        batch: int = 4
        """Candidates sampled together."""
        iterations: int = 8
        """Number of passes. The best of all ``batch * iterations`` candidates is the edit. The authors advise 64."""
        blending: bool = True
        """Off: the paper's baseline "local CLIP-guided diffusion", without blending and compositing."""
        paste: bool = True
        """Composite the result with the source outside the mask."""
        faithful: bool = True
        """Keep the unintended behaviour of the authors' program (listed in the package's documentation)."""
        prompt_field: Literal["region_prompt", "target_prompt"] = "region_prompt"
        """Text of the request that guides. The CLIP sees the masked region alone, so its prompt is the default."""
        view: Literal["masked", "crop", "whole"] = "masked"
        """The CLIP's input: the region on grey, as published, the square around it, or the whole image."""
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
    def needs_of(cls, options: BlendedDiffusion.Options) -> frozenset[str]:
        return frozenset({"source", "mask", options.prompt_field})

    @classmethod
    def remark(cls, options: Options) -> str:
        return training_remark(options.weights)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return files.identity(options.weights, options.revision, options.clip)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = []
        if options.steps < 2:
            problems.append(f"steps {options.steps}: expected at least 2")
        elif not 0 <= options.skip < options.steps:
            problems.append(
                f"skip {options.skip}: expected 0 to {options.steps - 1}, which leaves a step to run"
            )
        for name in ("augmentations", "batch", "iterations"):
            value = getattr(options, name)
            if value < 1:
                problems.append(f"{name} {value}: expected at least 1")
        for name in ("clip_lambda", "range_lambda", "lpips_lambda", "l2_lambda"):
            value = getattr(options, name)
            # NaN compares as False with everything, and would pass a test of `value < 0`.
            if not (np.isfinite(value) and value >= 0):
                problems.append(f"{name} {value}: expected 0 or more")
        if not options.blending and options.paste:
            problems.append("paste: the baseline without blending has no paste; set paste to false with it")

        # The weights of the three networks.
        if options.background_loss and options.lpips_lambda and (missing := files.vgg_problem()):
            problems.append(missing)
        problems += problems_of(lambda: files.native_size(options.weights, options.revision))
        return problems + problems_of(lambda: files.find_clip(options.clip))

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("blended_diffusion", self.problems(options) + runtime_problems(runtime))
        from methods.blended_diffusion.clip import Clip

        self.options = options
        self.device = runtime.device
        self.needs = self.needs_of(options)
        # Sides must be multiples of the factor: the UNet halves them at each level.
        self.native_size, self.factor = files.native_size(options.weights, options.revision)
        self.unet, self.process = _load(options, runtime)
        self.clip = Clip(files.find_clip(options.clip), runtime.device)
        self._lpips = _lpips(runtime.device) if options.background_loss and options.lpips_lambda else None

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Edits sources and masks of one size, sides multiples of the network's factor: the best candidate of each."""
        return [ranked[0].image for ranked in self.candidates(requests)]

    def candidates(self, requests: Sequence[EditRequest]) -> list[list[Candidate]]:
        """Every candidate of each request, the best first."""
        import torch

        from methods.blended_diffusion.sampler import BlendedSettings, Noise, sample

        if not requests:
            return []
        # Checked before the network runs.
        batches.one_size(requests, self.factor)
        batches.edit_masks(requests)
        batches.prompts(requests, self.options.prompt_field)

        options = self.options
        guidance = self._guidance(requests)
        noise = Noise(batches.generators(requests), options.batch, self.device)
        settings = BlendedSettings(
            options.skip, options.augmentations, options.sampler, options.blending, options.faithful
        )
        ranked: list[list[Candidate]] = [[] for _ in requests]
        for _ in range(options.iterations):
            # One pass: float32 (requests * batch, 3, H, W), about [-1, 1].
            result = sample(self.unet, self.process, guidance, noise, settings)
            if options.paste:
                # Before ranking, so that the CLIP judges what is returned.
                result = result * guidance.mask + guidance.source * (1 - guidance.mask)
            distances = guidance.rank_distance(result).cpu().tolist()
            edited = _to_images(result, truncate=options.faithful)

            # Back to the requests. The composite is made again in 8 bits, so that it is exact.
            owners = [request for request in requests for _ in range(options.batch)]
            if options.paste:
                edited = batches.composite(owners, edited)
            for n, (image, distance) in enumerate(zip(edited, distances, strict=True)):
                ranked[n // options.batch].append(Candidate(image, distance))
            # Candidates of all passes are kept as 8-bit images. Device memory is needed for the next pass.
            del result
            if torch.device(self.device).type == "cuda":
                torch.cuda.empty_cache()
        # A stable sort: of two equally good candidates the first stays first.
        return [sorted(group, key=lambda candidate: candidate.distance) for group in ranked]

    def _guidance(self, requests: Sequence[EditRequest]) -> Guidance:
        """The guidance of ``len(requests) * batch`` images: the candidates of one request after another."""
        import torch

        from methods.blended_diffusion.guidance import Guidance, Weighting

        options = self.options

        # float32 (R, 3, H, W) in [-1, 1] and (R, 1, H, W), 1 = edit, one row per request.
        source = batches.to_tensor(batches.sources(requests), "cpu")
        mask = torch.from_numpy(np.stack(batches.edit_masks(requests)))[:, None].float()

        # Regions with their texts: float32 (P, 1, H, W), features (P, D), and the request of each.
        spoken = [self._spoken(request) for request in requests]
        masks = np.stack([images.mask_array(area) for parts in spoken for area, _ in parts])
        regions = torch.from_numpy(masks)[:, None].float()
        texts = self.clip.texts([text for parts in spoken for _, text in parts])
        request_of = torch.tensor([n for n, parts in enumerate(spoken) for _ in parts])
        # Each region counts in every candidate of its request.
        owner = request_of[:, None] * options.batch + torch.arange(options.batch)

        def per_candidate(x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(options.batch, dim=0).to(self.device)

        return Guidance(
            clip=self.clip,
            texts=per_candidate(texts),
            mask=per_candidate(mask),
            source=per_candidate(source),
            weighting=Weighting(
                clip=options.clip_lambda,
                range=options.range_lambda,
                background=options.background_loss,
                lpips=options.lpips_lambda,
                l2=options.l2_lambda,
            ),
            view=options.view,
            candidates=options.batch,
            faithful=options.faithful,
            lpips=self._lpips,
            regions=per_candidate(regions),
            owner=owner.flatten().to(self.device),
        )

    def _spoken(self, request: EditRequest) -> list[tuple[Image, str]]:
        """The regions of a request that guidance uses, each with its text."""
        parts = (
            [(region.mask, region.prompt) for region in request.regions] if self.options.per_region else []
        )
        # One region without a text or a pixel makes the request fall back to its whole mask.
        usable = all(text.strip() and images.mask_array(area).any() for area, text in parts)
        return (usable and parts) or [(request.needed_mask, getattr(request, self.options.prompt_field))]


def _load(options: BlendedDiffusion.Options, runtime: Runtime) -> tuple[Any, Any]:
    """The network, frozen, and its reverse process."""
    from methods.blended_diffusion import adm
    from methods.blended_diffusion.schedule import ReverseProcess, betas_of, linear_betas

    adm_files = files.find_adm(options.weights, options.revision)
    if adm_files.file is not None:
        # guided-diffusion's own file, with the schedule that it was trained with.
        unet = adm.load_file(adm_files.file, dtype=torch_dtype(runtime))
        process = ReverseProcess(linear_betas(), options.steps)
    else:
        checkpoint = adm_files.checkpoint
        assert checkpoint is not None
        unet = pipelines.load_part("unet", checkpoint, runtime, ["diffusers", "UNet2DModel"])
        config = checkpoint.config("scheduler")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction") or config.get("variance_type") != "learned_range":
            raise ValueError(
                f"blended_diffusion: {checkpoint.parts['scheduler']}: prediction_type {prediction!r} with "
                f"variance_type {config.get('variance_type')!r}; expected epsilon or v_prediction, and learned_range"
            )
        process = ReverseProcess(betas_of(config), options.steps, prediction)
    return unet.eval().requires_grad_(False).to(runtime.device), process


def _lpips(device: str) -> Callable[[Any, Any], Any]:
    """LPIPS of two batches in [-1, 1], one distance per pair."""
    import lpips

    network: Callable[[Any, Any], Any] = lpips.LPIPS(net="vgg", verbose=False)
    return network.eval().requires_grad_(False).to(device)  # type: ignore[attr-defined, no-any-return]


def _to_images(x: torch.Tensor, truncate: bool) -> list[Image]:
    """float32 (B, 3, H, W) in [-1, 1] => RGB images."""
    import torch

    # Quirk 9, truncation.
    levels = x.float().add(1).div(2).clamp(0, 1).mul(255)
    array = (levels if truncate else levels.round()).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [images.from_array(image) for image in array]
