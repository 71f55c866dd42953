"""Rows of features on disk: damaged files, folders and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.feature_cache import FeatureCache
from bench.metrics.types import MetricError


class TestCache:
    def test_a_damaged_file_is_computed_again(self, tmp_path: Path) -> None:
        def compute(items: Any) -> Any:
            return np.array([[float(item)] for item in items])

        cache = FeatureCache(tmp_path)
        cache.get("net", ["a", "b"], [1, 2], compute)
        cache.flush()
        (file,) = (tmp_path / "net").glob("*.npz")
        assert FeatureCache(tmp_path).get("net", ["b"], [9], compute).tolist() == [[2.0]]
        file.write_bytes(file.read_bytes()[:60])
        assert FeatureCache(tmp_path).get("net", ["b"], [9], compute).tolist() == [[9.0]]

    def test_a_folder_that_cannot_be_written_costs_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        cache = FeatureCache(tmp_path / "file")
        rows = cache.get("net", ["a"], [1], lambda items: np.ones((1, 2)))
        with pytest.warns(UserWarning, match="cannot be written"):
            cache.flush()
        assert rows.shape == (1, 2)

    def test_features_of_a_wrong_shape_are_refused(self) -> None:
        with pytest.raises(MetricError, match="for 2 images"):
            FeatureCache().get("net", ["a", "b"], [1, 2], lambda items: np.ones((1, 2)))

    def test_a_name_space_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot become a file name"):
            FeatureCache(tmp_path).get("../net", ["a"], [1], lambda items: np.ones((1, 2)))
