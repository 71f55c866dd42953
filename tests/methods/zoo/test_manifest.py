from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.edit import Runtime
from methods import pipelines, weights
from methods.controls import AutoencoderRoundTrip
from methods.diffusion.stable_diffusion import SdInpainting
from methods.zoo import manifest
from tests.methods.conftest import picture, request, tiny_pipeline


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A zoo of tiny checkpoints that share autoencoder, tokenizer and text encoder.
    root = tmp_path / "zoo" / "checkpoints"
    monkeypatch.setattr(manifest, "CHECKPOINTS", root)
    pipeline = tiny_pipeline(9)
    half = tiny_pipeline(9)
    half.vae.half().save_pretrained(root / "autoencoder")
    half.text_encoder.half().save_pretrained(root / "text" / "text_encoder")
    pipeline.tokenizer.save_pretrained(root / "text" / "tokenizer")
    shared = {"vae": "autoencoder", "tokenizer": "text", "text_encoder": "text"}
    pipelines.save_pipeline(root / "sd_inpainting", pipeline, shared)
    (root / "sd_inpainting" / "card.json").write_text('{"steps": 1}')
    manifest.write_manifest()
    return root


def test_shared_parts_are_stored_once_and_found(checkpoints: Path, tmp_path: Path) -> None:
    # Only its own parts lie in the folder.
    folder = checkpoints / "sd_inpainting"
    assert {path.name for path in folder.iterdir()} == {
        "unet",
        "scheduler",
        "model_index.json",
        "shared.json",
        "card.json",
    }
    options = SdInpainting.Options(weights="zoo:sd_inpainting", steps=2)
    assert SdInpainting.problems(options) == []
    method = SdInpainting(options, Runtime())
    assert method.native_size == 64
    pipelines.save_pipeline(tmp_path / "whole", tiny_pipeline(9))
    whole = SdInpainting(SdInpainting.Options(weights=str(tmp_path / "whole"), steps=2), Runtime())
    assert method.edit([request(1)])[0].tobytes() == whole.edit([request(1)])[0].tobytes()


def test_the_autoencoder_is_used_by_itself(checkpoints: Path) -> None:
    mini = AutoencoderRoundTrip.Options(**AutoencoderRoundTrip.PRESETS["mini"])
    through_pipeline = AutoencoderRoundTrip.Options(weights="zoo:sd_inpainting")
    assert AutoencoderRoundTrip.problems(mini) == []
    edited = [
        AutoencoderRoundTrip(options, Runtime()).edit([request(1)])[0] for options in (mini, through_pipeline)
    ]
    assert edited[0].tobytes() == edited[1].tobytes() != picture(1).tobytes()


def test_sharing_goes_through_several_checkpoints(checkpoints: Path) -> None:
    pipelines.save_pipeline(
        checkpoints / "second",
        tiny_pipeline(9),
        dict.fromkeys(("vae", "tokenizer", "text_encoder", "scheduler"), "sd_inpainting"),
    )
    manifest.write_manifest()
    checkpoint = weights.find("zoo:second")
    assert checkpoint.parts["vae"] == checkpoints / "autoencoder"
    assert checkpoint.parts["tokenizer"] == checkpoints / "text" / "tokenizer"
    assert checkpoint.parts["scheduler"] == checkpoints / "sd_inpainting" / "scheduler"
    assert manifest.closure("second") == ["autoencoder", "sd_inpainting", "second", "text"]
    options = SdInpainting.Options(weights="zoo:second", steps=2)
    (edited,) = SdInpainting(options, Runtime()).edit([request(1)])
    first = SdInpainting(SdInpainting.Options(weights="zoo:sd_inpainting", steps=2), Runtime())
    assert edited.tobytes() == first.edit([request(1)])[0].tobytes()


def test_the_same_folder_works_by_its_path(checkpoints: Path) -> None:
    by_path = SdInpainting.Options(weights=str(checkpoints / "sd_inpainting"), steps=2)
    by_name = SdInpainting.Options(weights="zoo:sd_inpainting", steps=2)
    edited = [
        SdInpainting(options, Runtime()).edit([request(1)])[0].tobytes() for options in (by_path, by_name)
    ]
    assert edited[0] == edited[1]


def test_manifest_lists_every_file_with_hash_and_size(checkpoints: Path) -> None:
    import hashlib

    # Every file on disk is listed.
    listed = json.loads((checkpoints.parent / "manifest.json").read_text())
    on_disk = {
        path.relative_to(checkpoints).as_posix(): path for path in checkpoints.rglob("*") if path.is_file()
    }
    assert set(listed) == set(on_disk)
    for name, path in on_disk.items():
        data = path.read_bytes()
        assert listed[name] == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.mark.parametrize(
    "file", ["sd_inpainting/unet/diffusion_pytorch_model.safetensors", "autoencoder/config.json"]
)
def test_a_corrupted_file_is_refused_by_name(checkpoints: Path, file: str) -> None:
    # Also where the file belongs to a checkpoint that is only shared from.
    path = checkpoints / file
    data = bytearray(path.read_bytes())
    # One flipped bit.
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(manifest.ZooError, match="SHA-256") as error:
        manifest.verify("sd_inpainting")
    assert str(path) in str(error.value)
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights="zoo:sd_inpainting"))
    assert str(path) in problem
    assert "git checkout" in problem
    with pytest.raises(ValueError, match="SHA-256"):
        SdInpainting(SdInpainting.Options(weights="zoo:sd_inpainting"), Runtime())


def test_truncated_missing_and_foreign_files_are_refused(checkpoints: Path) -> None:
    path = checkpoints / "autoencoder" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(manifest.ZooError, match=f"{len(data) - 1} bytes, expected {len(data)}"):
        manifest.verify("autoencoder")
    path.unlink()
    with pytest.raises(manifest.ZooError, match=r"diffusion_pytorch_model.safetensors is missing"):
        manifest.verify("autoencoder")
    path.write_bytes(data)
    assert path in manifest.verify("autoencoder")
    # A file that the manifest does not list.
    foreign = checkpoints / "autoencoder" / "diffusion_pytorch_model.bin"
    foreign.write_bytes(b"pickle")
    with pytest.raises(manifest.ZooError, match=r"model.bin does not belong .* Delete the file") as caught:
        manifest.verify("autoencoder")
    # Restoring the checkpoint from git leaves an extra file where it is.
    assert "git" not in str(caught.value)


def test_absent_checkpoints_say_how_to_get_them(checkpoints: Path) -> None:
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights="zoo:glide"))
    assert "there: autoencoder, sd_inpainting, text" in problem
    assert "not shipped yet. Train it with `python run_bench.py train glide`" in problem
    shutil.rmtree(checkpoints / "autoencoder")
    # The manifest lists this one, so git has it.
    with pytest.raises(manifest.ZooError, match=r"Restore it with `git checkout.* train autoencoder"):
        manifest.entry("autoencoder")
    # A checkpoint that was trained but is not in the manifest.
    (checkpoints / "new").mkdir()
    (checkpoints / "new" / "config.json").write_text("{}")
    with pytest.raises(manifest.ZooError, match=r"python -m methods.zoo`"):
        manifest.entry("new")


@pytest.mark.parametrize("name", ["..", "../other", "a/b", "", ".hidden"])
def test_names_do_not_leave_the_zoo(checkpoints: Path, name: str) -> None:
    with pytest.raises(manifest.ZooError):
        manifest.verify(name)
    (checkpoints / "sd_inpainting" / "shared.json").write_text(json.dumps({"vae": name}))
    with pytest.raises(manifest.ZooError, match="plain name"):
        manifest.closure("sd_inpainting")


def test_identity_follows_the_bytes_but_not_the_card(checkpoints: Path) -> None:
    options = SdInpainting.Options(weights="zoo:sd_inpainting")
    before = SdInpainting.identity(options)
    assert before["zoo"] == "sd_inpainting"
    assert len(before["sha256"]) == 64
    (checkpoints / "sd_inpainting" / "card.json").write_text('{"steps": 2}')
    manifest.write_manifest()
    # The card is no part of the identity.
    assert SdInpainting.identity(options) == before
    # A shared part is part of the identity.
    config = checkpoints / "autoencoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    manifest.write_manifest()
    assert SdInpainting.identity(options) != before


def test_a_circle_of_shared_parts_ends(checkpoints: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (checkpoints / name).mkdir()
        (checkpoints / name / "shared.json").write_text(json.dumps({"vae": other}))
    assert manifest.closure("one") == ["one", "two"]
    assert weights.locate_part(checkpoints / "one", "vae") is None


def test_the_manifest_is_needed(checkpoints: Path) -> None:
    manifest.manifest_path().unlink()
    with pytest.raises(manifest.ZooError, match=r"manifest.json is missing"):
        manifest.verify("autoencoder")
    manifest.manifest_path().write_text("[")
    with pytest.raises(manifest.ZooError, match="not valid JSON"):
        manifest.verify("autoencoder")
