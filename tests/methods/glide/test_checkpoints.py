from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.downloads import MissingFiles, WebFile
from methods.glide import checkpoints
from methods.glide.method import Glide
from methods.weights import WeightsError
from tests.methods.glide import seeded
from tests.methods.glide.test_tokenizer import MERGES
from tests.methods.glide.test_tokenizer import save as save_byte_pairs

VOCABULARY = 256 + len(MERGES) + 1


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the published form, holding tiny networks, which this module's networks are made to be."""
    for name, config in (("BASE", seeded.BASE), ("UPSAMPLER", seeded.UPSAMPLER)):
        monkeypatch.setattr(checkpoints, name, replace(config, vocabulary=VOCABULARY))
    folder = tmp_path / "published"
    folder.mkdir()
    save_byte_pairs(folder)
    for stem, seed, config in (
        ("base_inpaint", 7, checkpoints.BASE),
        ("upsample_inpaint", 8, checkpoints.UPSAMPLER),
    ):
        torch.save(state_of(config, seed), folder / f"{stem}.pt")
    return folder


def state_of(config: object, seed: int) -> dict[str, torch.Tensor]:
    from methods.glide.unet import GlideUNet

    with torch.device("meta"):
        shapes = GlideUNet(config).state_dict()  # type: ignore[arg-type]
    return seeded.weights(shapes, seed)


def test_published_files_load_as_they_are(published: Path) -> None:
    result = checkpoints.find(str(published))
    assert result.native_size == 32
    for part, seed in (("base", 7), ("upsampler", 8)):
        network = checkpoints.load_network(result, part)  # type: ignore[arg-type]
        assert not network.training
        for name, value in state_of(result.configs[part], seed).items():  # type: ignore[index]
            assert torch.equal(network.state_dict()[name], value), name
    assert checkpoints.load_tokenizer(result).split("hello") == [256 + 7]


def test_safetensors_and_half_precision_load_too(published: Path) -> None:
    before = checkpoints.load_network(checkpoints.find(str(published)), "base").state_dict()
    identity = checkpoints.identity(str(published))
    state = {name: value.half().contiguous() for name, value in before.items()}
    (published / "base_inpaint.pt").unlink()
    save_file(state, published / "base_inpaint.safetensors")
    after = checkpoints.load_network(checkpoints.find(str(published)), "base").state_dict()
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert all(torch.allclose(after[name], before[name], atol=2e-3) for name in before)
    assert checkpoints.identity(str(published)) != identity


def test_missing_files_are_named_with_size_licence_and_the_command(tmp_path: Path) -> None:
    """The user's cache is an empty folder in tests."""
    [message] = checkpoints.problems(checkpoints.PUBLISHED)
    folder = tmp_path / "cache" / "glide"
    url = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021"
    for text in (
        str(folder),
        "base_inpaint.pt",
        "vocab.bpe.gz",
        "3.13 GB",
        "licence: MIT",
        "run_bench.py fetch",
    ):
        assert text in message
    assert isinstance(message, MissingFiles)
    files = {file.path: file.url for file in message.downloads if isinstance(file, WebFile)}
    assert files[folder / "base_inpaint.pt"] == f"{url}/base_inpaint.pt"
    assert files[folder / "upsample_inpaint.pt"] == f"{url}/upsample_inpaint.pt"
    assert {path.name for path in files} > {"encoder.json.gz", "vocab.bpe.gz"}
    assert checkpoints.identity(checkpoints.PUBLISHED) == {"weights": checkpoints.PUBLISHED}
    assert Glide.problems(Glide.Options()) == [message]


def test_only_what_is_missing_is_asked_for(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "cache" / "glide")
    assert checkpoints.problems(checkpoints.PUBLISHED) == []
    (tmp_path / "cache" / "glide" / "upsample_inpaint.pt").unlink()
    [message] = checkpoints.problems(checkpoints.PUBLISHED)
    assert "upsample_inpaint.pt" in message
    assert "base_inpaint.pt" not in message


def test_a_pickle_may_hold_tensors_and_nothing_else(published: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path, ("x",))

    path = published / "base_inpaint.pt"
    torch.save({"input_blocks.0.0.weight": Evil()}, path)
    with pytest.raises(WeightsError, match=r"base_inpaint\.pt: cannot be read as weights"):
        checkpoints.load_network(checkpoints.find(str(published)), "base")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"base_inpaint\.pt: expected a state dict"):
        checkpoints.load_network(checkpoints.find(str(published)), "base")
    path.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=r"base_inpaint\.pt: cannot be read as weights"):
        checkpoints.load_network(checkpoints.find(str(published)), "base")


def test_loading_is_strict(published: Path) -> None:
    path = published / "base_inpaint.pt"
    good = torch.load(path, weights_only=True)

    def refused(state: dict[str, torch.Tensor], message: str) -> None:
        torch.save(state, path)
        with pytest.raises(WeightsError, match=rf"base_inpaint\.pt: .*{message}"):
            checkpoints.load_network(checkpoints.find(str(published)), "base")

    refused({k: v for k, v in good.items() if k != "final_ln.bias"}, r"1 missing, as final_ln\.bias")
    refused(good | {"extra": torch.zeros(1)}, "1 unknown, as extra")
    refused(good | {"out.2.bias": torch.zeros(3)}, r"1 of another shape, as out\.2\.bias")
    # The published base without inpainting, put in the place of the one with it.
    refused(good | {"input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}, "3 input channels, expected 7")


def test_our_own_layout_is_checked_before_anything_loads(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny, folder)
    assert checkpoints.problems(str(folder)) == []
    result = checkpoints.find(str(folder))
    assert result.configs["base"] == replace(seeded.BASE, vocabulary=result.configs["base"].vocabulary)
    config = folder / "upsampler" / "config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"kind": "base"}))
    assert "kind is 'base', expected 'upsampler'" in checkpoints.problems(str(folder))[0]
    config.write_text(json.dumps(json.loads(text) | {"image_size": 40}))
    assert "40 pixels are no multiple of the base's 16" in checkpoints.problems(str(folder))[0]
    config.write_text(text)
    (folder / "base" / "model.safetensors").unlink()
    assert "model.safetensors is missing" in checkpoints.problems(str(folder))[0]
    assert "no such folder" in checkpoints.problems(str(tmp_path / "absent"))[0]
    assert "zoo" in checkpoints.problems("zoo:no-such-thing")[0]


def test_a_tokenizer_of_other_words_is_refused(tiny: Path, tmp_path: Path) -> None:
    from methods.zoo.text import build_tokenizer

    folder = tmp_path / "mine"
    shutil.copytree(tiny, folder)
    build_tokenizer(["one", "two"]).save_pretrained(str(folder / "tokenizer"))
    with pytest.raises(WeightsError, match="the networks know"):
        checkpoints.load_tokenizer(checkpoints.find(str(folder)))


def test_the_identity_is_the_content_whatever_the_path(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny, folder)
    assert checkpoints.identity(str(folder)) == checkpoints.identity(str(tiny))
    path = folder / "upsampler" / "model.safetensors"
    state = load_file(path)
    state["out.2.bias"] += 1
    save_file(state, path)
    assert checkpoints.identity(str(folder)) != checkpoints.identity(str(tiny))
