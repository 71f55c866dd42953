from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.metrics.networks import dino, weights


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees weights that happen to lie in the user's caches, and none writes there."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PROMPTEDITBENCH_WEIGHTS", str(home / "weights"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders in open_clip's own layout with a small model of random weights."""
    folders: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed in folders:
            return folders[seed]
        import open_clip
        import torch
        from safetensors.torch import save_file

        folder = tmp_path_factory.mktemp(f"clip{seed}")
        config = {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        }
        preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**config)
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        (folder / "open_clip_config.json").write_text(text)
        folders[seed] = folder
        return folder

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip: Callable[[int], Path]) -> Path:
    return make_clip(0)


@pytest.fixture
def small_dino(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that puts a tiny transformer of random weights in the place of a DINO network."""
    import timm
    import torch

    def make(net: str) -> Path:
        torch.manual_seed(1)
        architecture = "vit_tiny_patch16_224"
        model = timm.create_model(architecture, num_classes=0)
        # Random biases too: timm sets them to zero, which would hide a missing one.
        state = {name: torch.randn_like(values) * 0.2 for name, values in model.state_dict().items()}
        _, file = dino._NETWORKS[net]
        monkeypatch.setitem(dino._NETWORKS, net, (architecture, file))
        path = weights.weights_folder() / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    return make
