"""Fine-tuned networks stored as low-rank differences from their base.

A fine-tuned network differs from its base in every weight, but not in every direction. As in LoRA (Hu et al. 2022,
equation 3), each large weight is W = W0 + B A. A convolution's kernel is reshaped to a matrix of out rows. Unlike in
LoRA, the ranks are high, because the goal is a file of half the size and not a cheap training.

=================  ===============================================================================
LoRA               here
=================  ===============================================================================
W0 (out, in)       the base's weight, the ``original`` of the parametrisation
B (out, r)         ``LowRankDelta.up``, in the file ``NAME.lora_up``
A (r, in)          ``LowRankDelta.down``, in the file ``NAME.lora_down``
r                  ``ranked(...)``: from ``share``, the size of B and A as a share of W's
=================  ===============================================================================

A folder in this form holds ``base.json``, which names the base's folder and its SHA-256. The usual tensor file holds
the small weights whole, under their usual names, and B and A of the large ones.
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
from bench.files import atomic_file, parse_json, sha256_file

BASE = "base.json"
UP, DOWN = ".lora_up", ".lora_down"
# Weights of fewer numbers are stored whole.
SMALLEST = 4_096
_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


class LowRankError(BenchError):
    """A folder in this form or its base is incomplete, or the two do not belong together."""


class LowRankDelta(nn.Module):
    """The parametrisation W = W0 + B A of one weight. B and A are trained, W0 is not."""

    def __init__(self, difference: Tensor, share: float) -> None:
        """``difference``: W - W0, (out, ...). ``share`` in (0, 1]: see :func:`ranked`."""
        super().__init__()
        # torch has no singular value decomposition in half precision.
        matrix = difference.detach().float().flatten(1)
        # The best approximation of a rank keeps the first singular values (Eckart and Young 1936).
        up, values, down = torch.linalg.svd(matrix, full_matrices=False)
        rank = ranked(matrix.shape, share)
        root = values[:rank].sqrt()  # split evenly, so that B and A have the same size
        self.up = nn.Parameter((up[:, :rank] * root).contiguous())
        self.down = nn.Parameter((root[:, None] * down[:rank]).contiguous())

    def forward(self, base: Tensor) -> Tensor:
        """W0 => W, both (out, ...)."""
        return base + (self.up @ self.down).view(base.shape)


def ranked(shape: torch.Size | tuple[int, ...], share: float) -> int:
    """The rank, at least 1, at which B and A have at most ``share`` of the numbers of their product (out, in)."""
    rows, columns = shape
    # B and A have r (rows + columns) numbers, W has rows * columns.
    return max(1, int(share * rows * columns / (rows + columns)))


def cut(network: nn.Module, base: Mapping[str, Tensor], share: float, prefix: str = "") -> list[str]:
    """Makes each large weight of ``network`` its base's plus a low-rank difference. Returns their names.

    ``base`` is the base's state dict. Its ``NAME`` is the network's ``prefix + NAME``. Weights whose shape differs from
    the base's (widened first convolutions) and small ones stay as they are.
    """
    names = []
    # A list: registering a parametrisation changes what is iterated over.
    for name, parameter in list(network.named_parameters()):
        origin = base.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if origin is None or origin.shape != parameter.shape:
            continue
        # Biases and norms are vectors, without a rank. Small matrices would hardly become smaller.
        if parameter.dim() < 2 or parameter.numel() < SMALLEST:
            continue
        owner, _, attribute = name.rpartition(".")
        start = origin.detach().to(parameter)
        difference = LowRankDelta(parameter.detach() - start, share)
        with torch.no_grad():
            parameter.copy_(start)
        parameter.requires_grad_(False)
        parametrize.register_parametrization(network.get_submodule(owner), attribute, difference)
        names.append(name)
    return names


def whole(network: nn.Module) -> nn.Module:
    """A copy with plain weights in place of the parametrised ones."""
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            parts: Any = module.parametrizations
            values = {name: getattr(module, name).detach().clone() for name in parts}
            # Not parametrize.remove_parametrizations: it takes the properties from the class, which the copy shares.
            # torch makes a parametrised module's class a subclass of its own: the base is the plain class.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
    return plain


def factored(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in the file's form: B and A of the weights that :func:`cut` changed, the others whole."""
    inner, original = ".parametrizations.", ".original"
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if inner not in key:
            state[key] = value
            continue
        owner, _, rest = key.partition(inner)
        # "OWNER.parametrizations.weight.0.up" -> "OWNER.weight.lora_up"; W0 itself is in the base's file.
        attribute, _, kind = rest.partition(".")
        if rest == attribute + original:
            continue
        state[f"{owner}.{attribute}{UP if kind.endswith('up') else DOWN}"] = value
    return state


def write(folder: Path, network: nn.Module, base: Path) -> None:
    """Replaces the tensors in ``folder``, which hold all of the network, by its half-precision factored form.

    ``base`` is the folder of its base. Its path is stored relative to ``folder``.
    """
    from safetensors.torch import save_file

    path = _tensors(folder)
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in factored(network).items()
    }
    origin = {"folder": Path(os.path.relpath(base, folder)).as_posix(), "sha256": sha256_file(_tensors(base))}
    with atomic_file(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors makes files that their owner alone may read
        (folder / BASE).write_text(json.dumps(origin, sort_keys=True) + "\n", encoding="utf-8")


def rebase(folder: Path, last_rows: int = 0) -> None:
    """Make a folder in this form follow its base, which was trained again: W = new W0 + B A.

    A weight of the base may have more rows than before, such as the embedding of a larger vocabulary. The new rows
    stand before the ``last_rows`` last ones, and the network has those of the base.
    """
    from safetensors.torch import load_file, save_file

    path = _tensors(folder)
    entry = parse_json((folder / BASE).read_text(encoding="utf-8"))
    base = _tensors(folder / entry["folder"])
    tensors, weights = load_file(path), load_file(base)
    for name, up in tensors.items():
        # A network with a prefix has no such weight.
        start = weights.get(name.removesuffix(UP))
        if not name.endswith(UP) or start is None or len(start) == len(up):
            continue
        # No difference from the base in the new rows.
        rows = len(start) - len(up)
        first, last = up[: len(up) - last_rows], up[len(up) - last_rows :]
        tensors[name] = torch.cat([first, up.new_zeros(rows, up.shape[1]), last])
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
        origin = {"folder": entry["folder"], "sha256": sha256_file(base)}
        (folder / BASE).write_text(json.dumps(origin, sort_keys=True) + "\n", encoding="utf-8")


def stored(folder: Path) -> bool:
    """True for a folder in this form."""
    return (folder / BASE).is_file()


def read(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The whole state dict of a folder in this form, factors multiplied in float32.

    Raises LowRankError where the base is absent, or is not the one that the network was trained on.
    """
    from safetensors.torch import load_file

    # The base, which must be the very one.
    try:
        entry = parse_json((folder / BASE).read_text(encoding="utf-8"))
        # Relative to this folder, so that the two can be moved together.
        origin = (folder / entry["folder"]).resolve()
        expected = entry["sha256"]
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

    # W = W0 + B A for each pair of factors. What has none is whole.
    base, tensors = load_file(file), load_file(_tensors(folder))
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(DOWN):
            continue
        if not name.endswith(UP):
            state[name] = value
            continue
        weight = name.removesuffix(UP)
        start, down = base.get(weight.removeprefix(prefix)), tensors.get(weight + DOWN)
        if start is None or down is None:
            raise LowRankError(f"{folder}: {weight}: {'its base' if start is None else DOWN[1:]} is missing")
        state[weight] = start.float() + (value.float() @ down.float()).view(start.shape)
    return state


def load(cls: Any, folder: Path, dtype: torch.dtype, prefix: str = "", **options: Any) -> Any:
    """``cls.from_pretrained(folder, dtype=dtype, **options)``, in evaluation mode, for both forms of a folder.

    ``cls`` is a model class of diffusers or transformers. ``options`` count only for a folder with whole tensors.
    Raises LowRankError where the base or tensors are missing, or are not those of the configuration.
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
