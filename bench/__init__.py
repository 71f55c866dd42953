"""PromptEditBench: a benchmark suite for prompt-guided image editing.

The public API is :func:`bench.measure`, :func:`bench.run` and :class:`bench.BenchError`. It is documented in
``docs/api.md``. ``import bench`` imports nothing heavy: the API is loaded on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import Run, Scores, measure, run
    from bench.errors import BenchError

__version__ = "0.1.0"
__all__ = ["BenchError", "Run", "Scores", "measure", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench import api

    return getattr(api, name)
