"""Files of the hub: which are chosen, and how they come into the hub's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from bench import hub as hub_files
from bench.downloads import HubFiles
from bench.transfer import DownloadError, download
from tests.bench.hub_server import COMMIT, HubServer, serving

TENSORS = bytes(range(256)) * 20
FILES = {
    "model_index.json": b"{}",
    "vae/config.json": b'{"a": 1}',
    "vae/diffusion_pytorch_model.safetensors": TENSORS,
    "vae/diffusion_pytorch_model.fp16.safetensors": TENSORS[:2000],
    "README.md": b"# card",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(HubServer(repositories={"some/model": dict(FILES)})) as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        yield state


def fetched(files: HubFiles) -> list[str]:
    """Downloads what is missing, and returns its names."""
    listing = hub_files.list_files(files)
    for name, file in listing.missing.items():
        download(file, sleep=lambda _: None)
        hub_files.link(listing, name)
    return list(listing.missing)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_the_hubs_client_finds_what_was_fetched(server: HubServer, tmp_path: Path, revision: str) -> None:
    server.cuts = [1, 2000]
    files = HubFiles("some/model", revision, ("model_index.json", "vae/*"))
    names = ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert fetched(files) == names
    folder = snapshot_download(
        "some/model",
        revision=revision,
        cache_dir=tmp_path / "hub",
        local_files_only=True,
        allow_patterns=names,
    )
    assert Path(folder).name == COMMIT
    for name in names:
        assert (Path(folder) / name).read_bytes() == FILES[name]
    # A second call has nothing to do, and a removed file alone comes again.
    assert fetched(files) == []
    (Path(folder) / "vae" / "config.json").unlink()
    assert fetched(files) == ["vae/config.json"]


def test_the_listing_has_licence_access_and_exact_sizes(server: HubServer) -> None:
    listing = hub_files.list_files(HubFiles("some/model", "main", ("vae/*",)))
    assert (listing.commit, listing.licence, listing.gated) == (COMMIT, "openrail", False)
    assert {name: file.size for name, file in listing.missing.items()} == {
        "vae/config.json": 8,
        "vae/diffusion_pytorch_model.safetensors": len(TENSORS),
    }
    server.gated.add("some/model")
    stated = hub_files.list_files(HubFiles("some/model", "main", ("vae/*",), "OpenRAIL-M"))
    assert (stated.licence, stated.gated) == ("OpenRAIL-M", True)


def test_the_token_comes_from_the_environment_and_goes_to_the_hub_alone(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A token that a login has stored is not used.
    stored = tmp_path / "stored-token"
    stored.write_text("stored")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(stored))
    server.gated.add("some/model")
    files = HubFiles("some/model", COMMIT, ("vae/config.json", "vae/*.fp16.safetensors"))
    with pytest.raises(DownloadError, match=r"HF_TOKEN"):
        fetched(files)
    assert {token for *_, token in server.requests} == {""}
    monkeypatch.setenv("HF_TOKEN", "good")
    assert len(fetched(files)) == 2
    tokens = {
        path.startswith("/large/"): token for _, path, _, token in server.requests if "/api/" not in path
    }
    assert tokens == {True: "", False: "Bearer good"}


def test_errors_name_the_repository_and_the_remedy(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for files, message in (
        (HubFiles("some/other", "main", ("*",)), r"some/other is not there, or it is private"),
        (HubFiles("some/model", "v9", ("*",)), r"some/model has no revision 'v9'"),
        (HubFiles("some/model", "main", ("unet/*",)), r"has none of the files unet/\*"),
        (HubFiles("not a name", "main", ("*",)), "no name of a repository"),
    ):
        with pytest.raises(DownloadError, match=message):
            hub_files.list_files(files)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="Try again later"):
        hub_files.list_files(HubFiles("some/model", "main", ("*",)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # The plain precision first, then half, and pickles last, in each folder by itself.
        (
            [
                "unet/diffusion_pytorch_model.bin",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/model.bin",
            ],
            ["unet/diffusion_pytorch_model.fp16.safetensors", "vae/model.bin"],
        ),
        (
            [
                "t/model.safetensors.index.json",
                "t/model-00001-of-00002.safetensors",
                "t/model-00002-of-00002.safetensors",
                "t/model.safetensors.index.fp16.json",
                "t/model.fp16-00001-of-00002.safetensors",
                "t/pytorch_model.bin",
            ],
            [
                "t/model.safetensors.index.json",
                "t/model-00001-of-00002.safetensors",
                "t/model-00002-of-00002.safetensors",
            ],
        ),
        (
            [
                "u/model.safetensors",
                "u/diffusion_pytorch_model.non_ema.safetensors",
                "u/model.onnx",
                "u/a.json",
            ],
            ["u/model.safetensors", "u/a.json"],
        ),
        (["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], ["open_clip_model.safetensors"]),
        # A name that is asked for is taken.
        (["exact/model.fp16.safetensors", "exact/model.safetensors"], None),
    ],
)
def test_one_form_of_the_tensors_is_chosen_per_folder(names: list[str], expected: list[str] | None) -> None:
    patterns = ["exact/model.fp16.safetensors"] if expected is None else ["*"]
    assert hub_files.chosen(names, patterns) == (expected or patterns)
