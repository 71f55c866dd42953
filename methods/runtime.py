"""Precision and device of a run, and the one error that refuses unfit options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bench.edit import Runtime

# Precisions that a run may have, by their names in torch.
DTYPES = ("float32", "float16", "bfloat16")


def torch_dtype(runtime: Runtime) -> torch.dtype:
    """The torch type of ``runtime.dtype``. Raises ValueError for a name that is not in ``DTYPES``."""
    import torch

    if runtime.dtype not in DTYPES:
        raise ValueError(_unknown(runtime.dtype))
    dtype: torch.dtype = getattr(torch, runtime.dtype)
    return dtype


def runtime_problems(runtime: Runtime) -> list[str]:
    """Reasons why models cannot run in this precision on this device."""
    if runtime.dtype not in DTYPES:
        return [_unknown(runtime.dtype)]
    # torch's CPU kernels are incomplete in float16. bfloat16 has them.
    if runtime.dtype == "float16" and runtime.device.split(":")[0] == "cpu":
        return ["dtype float16 does not run on the CPU: use float32, or bfloat16"]
    return []


def refuse(method: str, problems: Sequence[str]) -> None:
    """Raises one ValueError that names the method and lists every problem. Does nothing without a problem."""
    if problems:
        raise ValueError(f"{method}: " + "; ".join(problems))


def _unknown(dtype: str) -> str:
    return f"dtype {dtype!r}: expected float32, float16 or bfloat16"
