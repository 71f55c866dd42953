"""The same numerical settings for every forward pass, so that scores do not depend on the caller's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exact(device: str) -> Iterator[None]:
    """Inference in float32: no autocast, no TF32 (cuDNN's convolutions use it by default), no autotuning."""
    import torch

    # TF32 of matrix products has no context manager: it is set and restored by hand.
    kind = torch.device(device).type
    matmul = torch.backends.cuda.matmul
    with (
        torch.inference_mode(),
        torch.autocast(kind, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        before = kind == "cuda" and matmul.allow_tf32
        if before:
            matmul.allow_tf32 = False
        try:
            yield
        finally:
            if before:
                matmul.allow_tf32 = True
