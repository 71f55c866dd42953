"""Weight files: they count only when they are the published ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import pytest

from bench.downloads import MissingFiles, WebFile
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


def test_a_damaged_copy_is_named(origin: Path) -> None:
    file = published(origin)
    (origin.parent / "own").mkdir()
    damaged = origin.parent / "own" / "net.pt"
    damaged.write_bytes(CONTENT[:-1])
    assert file.find() is None
    assert str(damaged) in str(file.problem())
    damaged.write_bytes(CONTENT)
    assert file.find() == damaged


def test_a_file_of_a_shared_folder_is_loaded_from_the_own_one(origin: Path) -> None:
    file = published(origin)
    shared = origin.parent / "own" / "net.pt"
    shared.parent.mkdir()
    shared.write_bytes(CONTENT)
    target = weights.weights_folder() / "net.pt"
    assert file.own() == target == file.find()
    shared.write_bytes(b"other code")
    assert file.own().read_bytes() == CONTENT


def test_a_file_that_is_exchanged_after_its_check_is_not_loaded(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published(origin)
    shared = origin.parent / "own" / "net.pt"
    shared.parent.mkdir()
    shared.write_bytes(CONTENT)
    checked = weights.WeightFile.find

    def find_and_exchange(self: weights.WeightFile) -> Path | None:
        path = checked(self)
        shared.write_bytes(b"other code")
        return path

    monkeypatch.setattr(weights.WeightFile, "find", find_and_exchange)
    with pytest.raises(MetricError, match="changed while it was copied"):
        file.own()
    assert not (weights.weights_folder() / "net.pt").exists()


def test_the_own_folder_that_cannot_be_written_is_named(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (origin.parent / "own").mkdir()
    (origin.parent / "own" / "net.pt").write_bytes(CONTENT)
    monkeypatch.setenv("PROMPTEDITBENCH_WEIGHTS", str(origin / "below a file"))
    with pytest.raises(MetricError, match="PROMPTEDITBENCH_WEIGHTS"):
        published(origin).own()


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


@pytest.mark.parametrize("stated", ["", SHA256[:8], SHA256])
def test_a_file_counts_by_the_digits_that_its_publisher_states(origin: Path, stated: str) -> None:
    file = published(origin, stated)
    problem = file.problem()
    assert problem is not None
    assert isinstance(problem, MissingFiles)
    (download,) = problem.downloads
    # It comes into the project's own folder, which is searched first.
    assert download == WebFile(origin.as_uri(), weights.weights_folder() / "net.pt", sha256=stated)
    with pytest.raises(MetricError, match=r"net\.pt is not on this machine"):
        file.path()
    copy = origin.parent / "own" / "net.pt"
    copy.parent.mkdir()
    copy.write_bytes(CONTENT)
    assert file.path() == copy
    assert file.identity() == f"net.pt-{SHA256[:12]}"
    copy.write_bytes(CONTENT + b"more")
    # Another content counts only where the publisher states nothing, and has another identity.
    assert (file.find() is None) == bool(stated)
    if not stated:
        assert file.identity() != f"net.pt-{SHA256[:12]}"
