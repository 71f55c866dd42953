"""DreamSim's network at a small size, compared with a forward pass in plain tensor operations."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save

from bench.images import from_array
from bench.metrics import similarity
from bench.metrics.features import Features
from bench.metrics.networks import dreamsim
from bench.metrics.networks.weights import weights_folder
from bench.metrics.types import MetricError, Pair, RgbImage
from tests.bench.metrics.networks.test_dino import transformer
from tests.bench.metrics.pictures import natural

RANK, ALPHA = 4, 10.0
FOLDER = "dino_vitb16_single_lora"


def matrices(bias: float = 0.0) -> dict[str, torch.Tensor]:
    """Low-rank matrices of two layers, under the names of the release."""
    generator = torch.Generator().manual_seed(2)
    prefix = "base_model.model.extractor_list.0.model.blocks"
    return {
        f"{prefix}.{block}.attn.qkv.lora_{side}.weight": torch.randn(shape, generator=generator) * 0.1 + bias
        for block in (0, 11)
        for side, shape in (("A", (RANK, 192)), ("B", (576, RANK)))
    }


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """A tiny transformer of random weights with both files of the release. Returns its state before the changes."""
    torch.manual_seed(1)
    monkeypatch.setattr(dreamsim, "_ARCHITECTURE", "vit_tiny_patch16_224")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    state = {name: torch.randn_like(values) * 0.2 for name, values in model.state_dict().items()}
    weights_folder().mkdir(parents=True, exist_ok=True)
    torch.save(state, weights_folder() / dreamsim.DINO_VITB16.name)
    buffer = io.BytesIO()
    torch.save(matrices(), buffer)
    write_release({"adapter_model.bin": buffer.getvalue()})
    return state


def write_release(files: Mapping[str, bytes]) -> Path:
    path = weights_folder() / dreamsim.DREAMSIM.name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dino_vitb16_pretrain.pth", b"another file")
        config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["qkv"], "bias": "none"}
        archive.writestr(f"{FOLDER}/adapter_config.json", json.dumps(config))
        for name, data in files.items():
            archive.writestr(f"{FOLDER}/{name}", data)
    return path


def expected(state: Mapping[str, Any], image: RgbImage) -> Any:
    """The embedding in float64: changes written out, last normalisation undone by unit weights."""
    changed = dict(state)
    for name, a in matrices().items():
        if "lora_A" in name:
            weight = name[name.index("blocks") :].replace(".lora_A", "")
            b = matrices()[name.replace("lora_A", "lora_B")]
            changed[weight] = state[weight] + ALPHA / RANK * torch.einsum("or,ri->oi", b, a)
    pixels = np.asarray(
        from_array(image.pixels).resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float64
    )
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    token = last_token(changed, torch.from_numpy(normalised).permute(2, 0, 1)[None])
    centred = token - token.mean()
    return (centred / centred.norm()).numpy()


def last_token(state: Mapping[str, Any], pixels: Any) -> Any:
    """The class token before the last normalisation: that of the written-out transformer with it taken out."""
    # The normalisation with weight 1 and bias 0 loses mean and length, which the embedding loses too.
    plain = {
        **state,
        "norm.weight": torch.ones_like(state["norm.weight"]),
        "norm.bias": 0 * state["norm.bias"],
    }
    token, _ = transformer(plain, pixels)
    return token


def test_embeddings_are_those_of_the_written_out_network(release: Mapping[str, Any]) -> None:
    images = [RgbImage(natural(seed, side)) for seed, side in ((1, 96), (2, 224), (3, 300))]
    rows = dreamsim.DreamSimNet().embeddings([dreamsim.prepare(image) for image in images])
    for row, image in zip(rows, images, strict=True):
        np.testing.assert_allclose(row, expected(release, image), atol=2e-5)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_safetensors_and_convolutions_of_other_versions_are_read(release: Mapping[str, Any]) -> None:
    prepared = [dreamsim.prepare(RgbImage(natural(4, 64)))]
    before = dreamsim.DreamSimNet().embeddings(prepared)
    stored = {
        name: (values[..., None] if "lora_B" in name else values).contiguous()
        for name, values in matrices().items()
    }
    write_release({"adapter_model.safetensors": save(stored)})
    np.testing.assert_allclose(dreamsim.DreamSimNet().embeddings(prepared), before, atol=1e-6)


def test_both_metrics_are_distances_of_embeddings(release: Mapping[str, Any]) -> None:
    source, edited, truth = (RgbImage(natural(seed, 64)) for seed in (5, 6, 7))
    pair = Pair(source, edited, None, truth=truth)
    rows = [expected(release, image) for image in (source, edited, truth)]
    (to_source,) = similarity.DreamSim(Features()).score([pair])
    (to_truth,) = similarity.TruthDreamSim(Features()).score([pair])
    assert to_source == pytest.approx(1 - rows[0] @ rows[1], abs=1e-5)
    assert to_truth == pytest.approx(1 - rows[1] @ rows[2], abs=1e-5)
    assert similarity.DreamSim(Features()).score([Pair(source, source, None)]) == pytest.approx([0], abs=1e-6)


@pytest.mark.parametrize("files", [{}, {"adapter_model.bin": b"no"}, {"adapter_model.safetensors": save({})}])
def test_another_archive_is_refused(release: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    path = write_release(files)
    with pytest.raises(MetricError, match=r"do not hold DreamSim's network"):
        dreamsim.DreamSimNet()
    path.write_bytes(b"no archive")
    with pytest.raises(MetricError, match=r"Delete them and get them again"):
        dreamsim.DreamSimNet()


def test_missing_files_are_named_and_the_version_has_both(release: Mapping[str, Any]) -> None:
    features = Features()
    first = similarity.DreamSim(features).version
    (weights_folder() / dreamsim.DREAMSIM.name).write_bytes(b"other")
    assert similarity.DreamSim(features).version != first
    (weights_folder() / dreamsim.DREAMSIM.name).unlink()
    (problem,) = similarity.TruthDreamSim.problems(features)
    assert "dreamsim_dino_vitb16_checkpoint.zip is not on this machine" in str(problem)
