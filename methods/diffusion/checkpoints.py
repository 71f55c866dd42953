"""The weights behind the adapter's options: class, row and files. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.downloads import HubFiles, MissingFiles
from methods import weights
from methods.diffusion.inference import row_of
from methods.diffusion.table import PIPELINES, PipelineRow
from methods.file_hashes import sha256_of_each
from methods.published import NEWEST, PUBLIC, WHOLE, missing_weights
from methods.weights import Weights, WeightsError

if TYPE_CHECKING:
    from methods.diffusion.options import DiffusersOptions

CONTROL_PART = ("controlnet",)
# diffusers' default of ``conditioning_embedding_out_channels``, for an autoencoder that reduces images by 8.
_DEFAULT_WIDTHS = (16, 32, 96, 256)
_INDEX = "model_index.json"


@dataclass(frozen=True)
class Checkpoint:
    """Complete weights, and how their pipeline is called."""

    pipeline: str
    """Name of the class."""
    row: PipelineRow
    weights: Weights

    @property
    def pixels(self) -> int:
        """Number of pixels at which the model was trained."""
        return self.row.pixels or self.weights.native_size**2


def class_of(options: DiffusersOptions) -> str:
    """Name of the pipeline's class. Empty where it is neither an option nor on this machine."""
    if options.pipeline or not options.weights:
        return options.pipeline
    try:
        root = _root(options)
        return "" if root is None else _class_in(root)
    except WeightsError:
        return ""


def known_row(options: DiffusersOptions) -> PipelineRow | None:
    """The row of the options' class, None where it is not known yet. Raises nothing."""
    try:
        name = class_of(options)
        return row_of(name) if name else None
    except WeightsError:
        return None


def find(options: DiffusersOptions) -> Checkpoint:
    """The weights of the options. Raises WeightsError with the remedy where something is missing or unfit."""
    root = _root(options)
    if root is None:
        raise WeightsError(missing_weights(options.weights, options.revision, (WHOLE,)))
    name = options.pipeline or _class_in(root)
    row = row_of(name)
    if row.channels:
        return Checkpoint(name, row, weights.find(options.weights, options.revision))
    kind = weights.kind_of(options.weights)
    parts, missing = _parts(root, "controlnet" if options.controlnet else "")
    if missing and kind == "hub":
        raise WeightsError(missing_weights(options.weights, options.revision, (WHOLE,), missing))
    if missing:
        raise WeightsError(f"weights {options.weights!r}: the folder lacks {', '.join(missing)}")
    revision = root.name if kind == "hub" else None
    return Checkpoint(name, row, Weights(kind, options.weights.removeprefix("zoo:"), root, parts, revision))


def prior(options: DiffusersOptions) -> Weights | None:
    """The weights of the first half of a cascade. None where the class has none, or the weights hold it themselves.

    Raises WeightsError with the remedy where they are missing.
    """
    row = known_row(options)
    if row is None or not row.prior:
        return None
    root = _root(options)
    if root is not None and any(part.startswith("prior_") for part in weights.read_json(root / _INDEX)):
        return None
    snapshot = weights.hub_snapshot(row.prior)
    if snapshot is None or not (snapshot / _INDEX).is_file():
        raise WeightsError(missing_weights(row.prior, None, (WHOLE,)))
    parts, missing = _parts(snapshot)
    if missing:
        raise WeightsError(missing_weights(row.prior, None, (WHOLE,), missing))
    return Weights("hub", row.prior, snapshot, parts, snapshot.name)


def problems(options: DiffusersOptions) -> list[str]:
    """Reasons why the weights cannot be used, each with its remedy."""
    try:
        if options.pipeline and (row := row_of(options.pipeline)).channels:
            # The parts of Stable Diffusion are named one by one.
            base = weights.problems(options.weights, options.revision, channels=row.channels)
        else:
            checkpoint = find(options)
            channels = checkpoint.row.channels
            base = weights.problems(options.weights, options.revision, channels=channels) if channels else []
            if not base and not checkpoint.row.pixels:
                checkpoint.weights.native_size  # noqa: B018
    except WeightsError as error:
        base = [error.problem]
    # Both halves of a cascade are reported at once. Weights that cannot be read are one problem, not two.
    base += [problem for problem in weights.problems_of(lambda: prior(options)) if problem not in base]
    control: list[str] = []
    if options.controlnet:
        control = weights.problems(options.controlnet, options.controlnet_revision, CONTROL_PART)
    lacking = [problem for lora in options.loras if (problem := _lora_problem(lora))]
    # The two are compared only where neither has a problem by itself.
    return [*base, *control, *lacking] or _misfit(options)


def identity(options: DiffusersOptions) -> dict[str, Any]:
    """Facts that fix the tensors behind the options: commits, or SHA-256 over the files."""
    facts: dict[str, Any] = {}
    try:
        facts |= weights.identity_of(find(options).weights)
    except WeightsError:
        facts |= weights.identity(options.weights, options.revision)
    facts |= _prior_identity(options)
    if options.controlnet:
        control = weights.identity(options.controlnet, options.controlnet_revision, CONTROL_PART)
        facts |= {f"controlnet_{name}": value for name, value in control.items()}
    if options.loras:
        facts["loras"] = [_lora_identity(lora) for lora in options.loras]
    return facts


def notes(options: DiffusersOptions) -> list[str]:
    """An inferred class, and weights without a pinned commit."""
    from methods.diffusion.inference import description

    texts = []
    name, row = class_of(options), known_row(options)
    if row is not None and name not in PIPELINES:
        texts.append(
            f"{name} is not among the known pipelines: its call is inferred from its signature. {description(row)}"
        )
    is_hub = bool(options.weights) and weights.kind_of(options.weights) == "hub"
    if (
        is_hub
        and options.revision is None
        and not (options.weights in PUBLIC and PUBLIC[options.weights].is_pinned)
    ):
        texts.append(
            f"{options.weights} has no pinned commit: the newest one that was fetched is used, and it is recorded. "
            "Name a commit in the option revision to fix it"
        )
    if row is not None and row.prior:
        texts.append(f"{row.prior} has no pinned commit: the newest one that was fetched is used")
    return texts


def _prior_identity(options: DiffusersOptions) -> dict[str, str]:
    """Facts that fix the tensors of the prior. Without its files it has the name alone."""
    row = known_row(options)
    try:
        files = prior(options)
    except WeightsError:
        return {"prior_hub": row.prior} if row is not None else {}
    if files is None:
        return {}
    return {f"prior_{name}": value for name, value in weights.identity_of(files).items()}


# --- files --------------------------------------------------------------------------------------------


def _root(options: DiffusersOptions) -> Path | None:
    """The folder of the weights. None for a model of the hub that is not on this machine."""
    kind = weights.kind_of(options.weights)
    if kind == "hub":
        root = weights.hub_snapshot(options.weights, options.revision)
        return root if root is not None and (root / _INDEX).is_file() else None
    if options.revision is not None:
        raise WeightsError(
            f"revision {options.revision!r} is for weights of the hub, and {options.weights!r} is a {kind}"
        )
    root = weights.zoo_folder(options.weights) if kind == "zoo" else Path(options.weights).expanduser()
    if not root.is_dir():
        raise WeightsError(f"weights {options.weights!r}: no such folder. {weights.FOLDER_REMEDY}")
    if not (root / _INDEX).is_file():
        raise WeightsError(f"weights {options.weights!r}: the folder lacks {_INDEX}. {weights.FOLDER_REMEDY}")
    return root


def _class_in(root: Path) -> str:
    """The class that ``model_index.json`` names. Raises WeightsError for code that the repository brings along."""
    name = weights.read_json(root / _INDEX).get("_class_name")
    if not isinstance(name, str) or not name.isidentifier():
        raise WeightsError(
            f"{root / _INDEX}: _class_name is {name!r}. Only classes of diffusers are loaded; name one in the option "
            "pipeline"
        )
    return name


def _parts(root: Path, given: str = "") -> tuple[dict[str, Path], list[str]]:
    """(component -> its folder, relative names of the missing files). ``given`` is not looked for."""
    folders: dict[str, Path] = {}
    missing: list[str] = []
    for part, value in weights.read_json(root / _INDEX).items():
        # Components are [library, class], and [null, null] where the pipeline has none.
        is_part = isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
        if not is_part or part in (given, "safety_checker"):
            continue
        folder = root / part
        if Path(part).name != part or not folder.is_dir():
            missing.append(f"{part}/")
            continue
        lacking = [f"{part}/{name}" for name in _missing_files(folder)]
        missing += lacking
        folders[part] = folder
    return folders, missing


def _missing_files(folder: Path) -> list[str]:
    """Names of the files that a component lacks. Every shard of an index is one."""
    if not any(folder.glob("*.json")) and not any(folder.glob("*.model")):
        return ["config.json"]
    missing = []
    for index in sorted(folder.glob("*.index*.json")):
        shards = weights.read_json(index).get("weight_map", {})
        missing += sorted({str(name) for name in shards.values() if not (folder / str(name)).is_file()})
    # A network's configuration names its class (diffusers) or its architecture (transformers).
    config = folder / "config.json"
    is_network = config.is_file() and {"_class_name", "architectures", "model_type"} & set(
        weights.read_json(config)
    )
    if is_network and not weights.stored(folder) and not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    return missing


# --- LoRA and ControlNet ------------------------------------------------------------------------------


def lora_path(lora: str) -> Path | None:
    """The folder or file of a LoRA. None where it is not on this machine."""
    path = Path(lora).expanduser()
    if path.exists():
        return path
    name, _, revision = lora.partition("@")
    return weights.hub_snapshot(name, revision or None) if weights.kind_of(name) == "hub" else None


def _lora_problem(lora: str) -> str:
    try:
        if lora_path(lora) is not None:
            return ""
    except WeightsError as error:
        return error.problem
    name, _, revision = lora.partition("@")
    files = HubFiles(name, revision or NEWEST, ("*.safetensors",))
    return MissingFiles(f"loras: {lora!r} is not on this machine", [files])


def _lora_identity(lora: str) -> str:
    """The commit of a LoRA of the hub, or the SHA-256 of its files."""
    path = lora_path(lora)
    if path is None:
        return lora
    if not Path(lora).expanduser().exists():
        return f"{lora.partition('@')[0]}@{path.name}"
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return ",".join(sha256_of_each({file.name: file for file in files}).values())


def _misfit(options: DiffusersOptions) -> list[str]:
    """Reasons why a base and a ControlNet that both exist cannot work together."""
    if not options.controlnet:
        return []
    base = find(options).weights
    if "unet" not in base.parts:
        return []
    unet = base.config("unet")
    control = weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART).config("controlnet")
    unfit = f"controlnet {options.controlnet!r} does not fit weights {options.weights!r}"
    # A ControlNet is a copy of the base's encoder: it adds to feature maps of the same widths, and reads the same
    # text.
    for name in ("block_out_channels", "cross_attention_dim"):
        if unet.get(name) != control.get(name):
            return [
                f"{unfit}: {name} is {control.get(name)} and {unet.get(name)}. Take one trained for this base"
            ]
    # The layers that bring the control to the size of the latents halve it once less than they have widths.
    widths = control.get("conditioning_embedding_out_channels", _DEFAULT_WIDTHS)
    factor = 2 ** (len(widths) - 1)
    if factor != base.vae_factor:
        return [
            f"{unfit}: it reduces images by {factor}, the autoencoder by {base.vae_factor}. "
            "Take one trained for this base"
        ]
    return []


def control_config(options: DiffusersOptions) -> Mapping[str, Any]:
    """The configuration of the options' ControlNet."""
    return weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART).config("controlnet")
