"""Fine-tuned networks stored as differences of low rank from their base.

A fine-tuned network differs from its base in every weight, but not in every direction: as in LoRA (Hu et al. 2022,
equation 3), each large weight is W = W0 + B A with W0 the base's, B (out, r) and A (r, in), a convolution's kernel
taken as a matrix of out rows. Unlike LoRA's, the ranks are high, since they are there to halve a file, not to make
training cheap: ``share`` says how many numbers B and A may have together, as a share of W's.

A folder in this form holds ``base.json``, where the base is and its SHA-256, and in the usual tensor file, under the
usual names, what is stored whole; of the weights that are not, ``NAME.lora_up`` (B) and ``NAME.lora_down`` (A).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.errors import BenchError
from bench.files import parse_json
from methods.zoo.manifest import sha256_file

BASE = "base.json"
UP, DOWN = ".lora_up", ".lora_down"
SMALLEST = 4_096
"""Weights of fewer numbers are stored whole."""
_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


class LowRankError(BenchError):
    """A folder in this form, or its base, is incomplete, or they do not belong together."""


class Difference(nn.Module):
    """A weight W0 (the parametrisation's original, which does not learn) plus B A (which do)."""

    def __init__(self, difference: Tensor, share: float) -> None:
        """``difference`` (out, ...) is cut to its first singular values (Eckart and Young 1936).

        ``share`` in (0, 1]: see ``ranked``.
        """
        super().__init__()
        matrix = difference.detach().float().flatten(1)
        up, values, down = torch.linalg.svd(matrix, full_matrices=False)
        rank = ranked(matrix.shape, share)
        root = values[:rank].sqrt()
        self.up = nn.Parameter((up[:, :rank] * root).contiguous())
        self.down = nn.Parameter((root[:, None] * down[:rank]).contiguous())

    def forward(self, base: Tensor) -> Tensor:
        """W of W0, both (out, ...)."""
        return base + (self.up @ self.down).view(base.shape)


def ranked(shape: torch.Size | tuple[int, ...], share: float) -> int:
    """The rank, at least 1, at which B and A have at most ``share`` of the numbers of their product (out, in)."""
    rows, columns = shape
    return max(1, int(share * rows * columns / (rows + columns)))


def cut(network: nn.Module, base: Mapping[str, Tensor], share: float, prefix: str = "") -> list[str]:
    """Let each large weight of ``network`` learn as its base's plus a difference of low rank; gives their names.

    ``base``: its state dict; its ``NAME`` is the network's ``prefix + NAME``. Weights whose shape differs from the
    base's (widened first convolutions) and small ones stay as they are.
    """
    found = []
    for name, parameter in list(network.named_parameters()):
        origin = base.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if origin is None or origin.shape != parameter.shape:
            continue
        if parameter.dim() < 2 or parameter.numel() < SMALLEST:
            continue
        owner, _, attribute = name.rpartition(".")
        start = origin.detach().to(parameter)
        difference = Difference(parameter.detach() - start, share)
        with torch.no_grad():
            parameter.copy_(start)
        parameter.requires_grad_(False)
        parametrize.register_parametrization(network.get_submodule(owner), attribute, difference)
        found.append(name)
    return found


def whole(network: nn.Module) -> nn.Module:
    """A copy with plain weights in place of the parametrised ones."""
    made = copy.deepcopy(network)
    for module in list(made.modules()):
        if parametrize.is_parametrized(module):
            parts: Any = module.parametrizations
            values = {name: getattr(module, name).detach().clone() for name in parts}
            # Not parametrize.remove_parametrizations: it takes the properties from the class, which the copy shares.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
    return made


def factored(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in the file's form: factors of the weights that ``cut`` found, the others whole."""
    inner, original = ".parametrizations.", ".original"
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if inner not in key:
            state[key] = value
            continue
        owner, _, rest = key.partition(inner)
        attribute, _, kind = rest.partition(".")
        if rest == attribute + original:
            continue
        state[f"{owner}.{attribute}{UP if kind.endswith('up') else DOWN}"] = value
    return state


def write(folder: Path, network: nn.Module, base: Path) -> None:
    """Replace the tensors in ``folder``, which hold all of the network, by its half-precision factored form.

    ``base``: the folder of its base, beside which ``folder`` stays; relative paths are stored.
    """
    from safetensors.torch import save_file

    path = _tensors(folder)
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in factored(network).items()
    }
    where = {"folder": Path(os.path.relpath(base, folder)).as_posix(), "sha256": sha256_file(_tensors(base))}
    part = path.with_suffix(".part")
    save_file(state, part, metadata={"format": "pt"})
    part.chmod(0o644)  # safetensors makes files that their owner alone may read
    (folder / BASE).write_text(json.dumps(where, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def stored(folder: Path) -> bool:
    """Whether a folder is in this form."""
    return (folder / BASE).is_file()


def read(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The whole state dict of a folder in this form, factors multiplied in float32.

    Raises LowRankError where the base is absent, or is not the one that the network was trained on.
    """
    from safetensors.torch import load_file

    try:
        where = parse_json((folder / BASE).read_text(encoding="utf-8"))
        origin = (folder / where["folder"]).resolve()
        expected = where["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LowRankError(f"{folder / BASE}: does not name its base ({error!r}); restore it") from error
    if not origin.is_dir():
        raise LowRankError(
            f"{folder / BASE}: the base {origin} is missing; restore it, or train the network anew"
        )
    file = _tensors(origin)
    if sha256_file(file) != expected:
        raise LowRankError(
            f"{folder / BASE}: {file} is not the base that this network was trained on (its SHA-256 differs). "
            "Restore that base, or train the network anew on this one"
        )
    base, mine = load_file(file), load_file(_tensors(folder))
    state: dict[str, Tensor] = {}
    for name, value in mine.items():
        if name.endswith(DOWN):
            continue
        if not name.endswith(UP):
            state[name] = value
            continue
        weight = name.removesuffix(UP)
        start, down = base.get(weight.removeprefix(prefix)), mine.get(weight + DOWN)
        if start is None or down is None:
            raise LowRankError(f"{folder}: {weight}: {'its base' if start is None else DOWN[1:]} is missing")
        state[weight] = start.float() + (value.float() @ down.float()).view(start.shape)
    return state


def load(cls: Any, folder: Path, dtype: torch.dtype, prefix: str = "", **options: Any) -> Any:
    """``cls.from_pretrained(folder, dtype=dtype, **options)``, in evaluation mode, for both forms of a folder.

    ``cls`` is a model class of diffusers or transformers; ``options`` count for a whole folder alone. Raises
    LowRankError where the base or tensors are missing, or are not those of the configuration.
    """
    if not stored(folder):
        return cls.from_pretrained(str(folder), dtype=dtype, **options).eval()
    state = read(folder, prefix)
    if hasattr(cls, "load_config"):  # diffusers
        model = cls.from_config(cls.load_config(str(folder)))
    else:
        model = cls(cls.config_class.from_pretrained(str(folder)))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LowRankError(f"{folder}: its tensors do not fit its config.json: {error}") from None
    # Not the model's own: that of diffusers warns of layers to be kept in float32, of which there are none.
    nn.Module.to(model, dtype)
    return model.eval()


def _tensors(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise LowRankError(f"{folder}: expected {' or '.join(_FILES)}")
