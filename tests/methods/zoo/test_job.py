"""The card of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods.zoo import job
from methods.zoo.autoencoder import load_vae, psnr
from methods.zoo.data import World
from methods.zoo.job import Job
from protocols.world.world import MiniWorld


def test_figures_are_also_measured_on_each_level_of_a_mixture(tmp_path: Path) -> None:
    vae = load_vae()

    def measure(world: World) -> dict[str, float]:
        return {"psnr_db": psnr(vae, world, 6)}

    alone = Job(MiniWorld(), tmp_path).figures(measure)
    assert alone == {"psnr_db": psnr(vae, MiniWorld(), 6)}
    mixed = Job(MiniWorld((1, 3)), tmp_path).figures(measure)
    assert list(mixed) == ["psnr_db", "level_1_psnr_db", "level_3_psnr_db"]
    assert mixed["level_1_psnr_db"] == alone["psnr_db"]
    assert mixed["level_3_psnr_db"] == psnr(vae, MiniWorld((3,)), 6)


def test_a_card_names_the_levels_that_were_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import shutil

    from methods.training import TrainingResult
    from methods.zoo import manifest, publish

    root = tmp_path / "checkpoints"
    shutil.copytree(manifest.CHECKPOINTS / "autoencoder", root / "autoencoder")
    monkeypatch.setattr(job, "HELD_OUT", 6)
    states = {name: getattr(load_vae(), name).state_dict() for name in ("decoder", "post_quant_conv")}
    monkeypatch.setattr(
        publish.ae, "run_decoder", lambda *args: TrainingResult(states, samples=64, seconds=1.0, figures={})
    )
    publish.decoder(Job(MiniWorld((1, 2, 3)), tmp_path / "work", root=root))
    card = json.loads((root / "autoencoder" / "card.json").read_text())
    assert "levels 1 2 3" in card["data"]
    assert list(card["held_out"]) == ["psnr_db", *(f"level_{level}_psnr_db" for level in (1, 2, 3))]
