from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bench.downloads import HubFiles, MissingFiles, WebFile
from methods.blended_diffusion import files
from methods.weights import WeightsError
from methods.zoo import manifest

COMMIT = "0123456789" * 4


def hub_file(tmp_path: Path, name: str, file: str, content: bytes = b"x") -> Path:
    """A file in the (temporary) hub cache, at revision main."""
    folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    path = folder / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_absent_weights_are_named_with_size_licence_and_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        files.find_adm("omriav/blended-diffusion", None)
    for part in ("omriav/blended-diffusion", "2.21 GB", "MIT", "run_bench.py fetch"):
        assert part in str(error.value)
    problem = error.value.problem
    assert isinstance(problem, MissingFiles)
    assert problem.downloads == (
        HubFiles(
            "omriav/blended-diffusion",
            "main",
            ("checkpoints/256x256_diffusion_uncond.pt",),
            "MIT",
            552_814_086 * 4,
        ),
    )
    with pytest.raises(WeightsError) as error:
        files.find_clip(files.CLIP_NAME)
    for part in ("ViT-B-16-quickgelu/openai", "ViT-B-16.pt", "0.35 GB", "MIT", "run_bench.py fetch"):
        assert part in str(error.value)
    problem = error.value.problem
    assert isinstance(problem, MissingFiles)
    (file,) = problem.downloads
    assert isinstance(file, WebFile)
    # The publisher puts the SHA-256 into the address.
    assert f"/{file.sha256}/ViT-B-16.pt" in file.url
    assert file.path == tmp_path / "home" / ".cache" / "clip" / "ViT-B-16.pt"


def test_the_hubs_file_is_found_where_the_command_puts_it(tmp_path: Path) -> None:
    path = hub_file(tmp_path, "omriav/blended-diffusion", files.HUB_FILE)
    assert files.find_adm("omriav/blended-diffusion", None).file == path
    assert files.native_size("omriav/blended-diffusion", None) == (256, 32)
    with pytest.raises(WeightsError, match="at revision other are not on this machine"):
        files.find_adm("omriav/blended-diffusion", "other")


def test_a_file_is_refused_where_it_cannot_be_the_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        files.find_adm(str(tmp_path / "a.pt"), None)
    (tmp_path / "a.pt").write_bytes(b"short")
    with pytest.raises(WeightsError, match="5 bytes are too few"):
        files.find_adm(str(tmp_path / "a.pt"), None)
    with (tmp_path / "a.pt").open("r+b") as file:
        file.truncate(2_211_300_000)  # sparse: it takes no room
    assert files.find_adm(str(tmp_path / "a.pt"), None).file == tmp_path / "a.pt"
    with pytest.raises(WeightsError, match="revision 'main' is for weights of the hub"):
        files.find_adm(str(tmp_path / "a.pt"), "main")


def test_the_clips_cached_file_is_taken_from_either_cache(tmp_path: Path) -> None:
    own = tmp_path / "home" / ".cache" / "clip" / "ViT-B-16.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"tensors")
    assert files.find_clip(files.CLIP_NAME).file == own
    hub = hub_file(tmp_path, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    assert files.find_clip(files.CLIP_NAME).file == hub


def test_an_archive_with_code_is_refused_unless_it_is_openais(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/constants.pkl", b"")
    with pytest.raises(WeightsError, match="is a TorchScript archive and not OpenAI's"):
        files.find_clip(str(path))
    monkeypatch.setattr(files, "CLIP_SHA256", manifest.sha256_file(path))
    assert files.find_clip(str(path)).is_archive
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(b"tensors")
    assert not files.find_clip(str(plain)).is_archive


def test_other_forms_of_a_clip_are_named_where_none_fits(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file or folder.*looked up in the local caches"):
        files.find_clip("ViT-L-14/openai")
    with pytest.raises(WeightsError, match=r"has no open_clip_config\.json"):
        files.find_clip(str(tmp_path))
    with pytest.raises(WeightsError, match="'absent'"):
        files.find_clip("zoo:absent")
    assert files.find_clip("zoo:clip").folder == manifest.CHECKPOINTS / "clip"


def test_lpips_network_is_asked_for_before_torchvision_would_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = files.vgg_problem()
    assert problem is not None
    assert "0.55 GB" in problem
    assert "BSD-3" in problem
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert files.vgg_problem() is None


def test_identity_follows_the_bytes_of_both(tmp_path: Path) -> None:
    absent = files.identity("omriav/blended-diffusion", None, files.CLIP_NAME)
    assert absent == {"weights": "omriav/blended-diffusion", "clip_weights": files.CLIP_NAME}
    path = hub_file(tmp_path, "omriav/blended-diffusion", files.HUB_FILE, b"one")
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "card.json").write_text("{}")
    first = files.identity("omriav/blended-diffusion", None, str(folder))
    assert set(first) == {"sha256", "clip_sha256"}
    (folder / "card.json").write_text('{"changed": true}')
    assert files.identity("omriav/blended-diffusion", None, str(folder)) == first
    (folder / "open_clip_config.json").write_text('{"changed": true}')
    path.write_bytes(b"three")
    second = files.identity("omriav/blended-diffusion", None, str(folder))
    assert second["sha256"] != first["sha256"]
    assert second["clip_sha256"] != first["clip_sha256"]
    assert files.identity("omriav/blended-diffusion", None, "zoo:clip")["clip_zoo"] == "clip"
