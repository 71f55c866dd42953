"""Weight files: found only when they are the published ones, fetched whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import pytest

from bench.metrics.networks import weights
from bench.metrics.networks.clip import ClipSpec
from bench.metrics.types import MetricError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "origin"
    path.write_bytes(CONTENT)
    return path


def published(origin: Path, sha256: str = SHA256) -> weights.WeightFile:
    return weights.WeightFile("net.pt", sha256, origin.as_uri(), (str(origin.parent / "own"),))


def test_fetching(origin: Path) -> None:
    file = published(origin)
    assert file.find() is None
    assert SHA256 in str(file.problem())
    seen: list[int] = []
    path = weights.fetch(file, lambda done, total: seen.append(done))
    assert path.read_bytes() == CONTENT
    assert path == weights.weights_folder() / "net.pt" == file.find()
    assert file.problem() is None
    assert seen[-1] == len(CONTENT)
    origin.unlink()
    assert weights.fetch(file) == path, "what is here is not fetched again"


def test_another_file_is_not_kept(origin: Path) -> None:
    with pytest.raises(MetricError, match="sent a file with SHA-256"):
        weights.fetch(published(origin, "0" * 64))
    assert list(weights.weights_folder().iterdir()) == []


def test_no_network(origin: Path) -> None:
    origin.unlink()
    with pytest.raises(MetricError, match="cannot be fetched"):
        weights.fetch(published(origin))
    assert list(weights.weights_folder().iterdir()) == []


def test_a_damaged_copy_is_named(origin: Path) -> None:
    file = published(origin)
    (origin.parent / "own").mkdir()
    damaged = origin.parent / "own" / "net.pt"
    damaged.write_bytes(CONTENT[:-1])
    assert file.find() is None
    assert str(damaged) in str(file.problem())
    damaged.write_bytes(CONTENT)
    assert file.find() == damaged


def test_the_hubs_cache_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = tmp_path / SHA256
    blob.write_bytes(CONTENT)
    link = tmp_path / "open_clip_model.safetensors"
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(link))
    assert ClipSpec("ViT-L-14", "openai").weights() == link
    blob.write_bytes(CONTENT[:-1])
    (problem,) = ClipSpec("ViT-L-14", "openai").problems()
    assert "damaged" in problem
