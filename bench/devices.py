"""Chooses the device and the number type that models run with."""

from __future__ import annotations

import re

from bench.errors import BenchError
from bench.registry import did_you_mean

DTYPES = ("float32", "float16", "bfloat16")


def resolve_device(name: str) -> str:
    """Returns a device that exists on this machine. ``auto`` takes the best: cuda, then mps, then cpu.

    Raises :class:`BenchError` with the list of existing devices.
    """
    # A misspelt name is reported before torch is imported.
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise BenchError(f"--device {name!r}: one of auto, cpu, cuda, cuda:N, mps is expected.")
    # cpu always exists. Torch is imported only where another device is requested.
    if name == "cpu":
        return "cpu"
    import torch

    cuda_count, has_mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    # Best first.
    if name == "auto":
        return "cuda" if cuda_count else "mps" if has_mps else "cpu"
    # A number counts from 0; `cuda` alone is the first device.
    index = int(name.partition(":")[2] or 0)
    if (name.startswith("cuda") and index >= cuda_count) or (name == "mps" and not has_mps):
        devices = ["cpu", *(f"cuda:{i}" for i in range(cuda_count)), *(["mps"] if has_mps else [])]
        raise BenchError(
            f"--device {name}: this machine has no such device. Choose one of {', '.join(devices)}."
        )
    return name


def resolve_dtype(name: str, device: str) -> str:
    """Returns a name of :data:`DTYPES`. ``auto`` is float16 on cuda and float32 elsewhere."""
    # CPUs compute float16 slowly, and some operations not at all.
    if name == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if name not in DTYPES:
        raise BenchError(
            f"--dtype {name!r}: one of auto, {', '.join(DTYPES)} is expected.{did_you_mean(name, DTYPES)}"
        )
    return name
