"""The gates of the methods on the text-to-image base, with edits and a reader whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditRequest
from methods.blended_latent_diffusion import BlendedLatentDiffusion
from methods.latent_blending import LatentBlending
from methods.sdedit import SdEdit
from methods.zoo import baselines, classifier, thresholds
from methods.zoo.manifest import ZooError
from protocols.world.world import MiniWorld

GATES: list[tuple[Callable[..., list[thresholds.ThresholdCheck]], type, str]] = [
    (baselines.check_blended_latent_diffusion, BlendedLatentDiffusion, "blended_latent_diffusion"),
    (baselines.check_sdedit, SdEdit, "sdedit"),
    (baselines.check_latent_blending, LatentBlending, "latent_blending"),
]
WORLD = MiniWorld()


class Perfect:
    """Reads in a picture whatever the case of that truth claims, and nothing in any other."""

    def __init__(self, cases: int) -> None:
        self.known = {}
        for case in (WORLD.case(-1 - i) for i in range(cases)):
            assert case.truth is not None
            self.known[np.asarray(case.truth).tobytes()] = case.claims

    def read(self, pictures: Any, regions: Any) -> list[dict[str, dict[str, float]]]:
        del regions
        found = []
        for picture in pictures:
            claims = self.known.get(picture.tobytes(), ())
            answer: dict[str, dict[str, float]] = {name: {"": 1.0} for name in WORLD.labels()}
            answer.update({claim.attribute: {claim.after: 1.0} for claim in claims})
            found.append(answer)
        return found


@pytest.mark.parametrize(("gate", "cls", "name"), GATES, ids=[name for _, _, name in GATES])
def test_a_gate_edits_with_the_preset_and_counts_what_shows(
    gate: Callable[..., list[thresholds.ThresholdCheck]],
    cls: Any,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 20  # more than one batch
    options: list[Any] = []
    asked: list[EditRequest] = []
    truths = {
        np.asarray(c.request.source).tobytes(): c.truth for c in (WORLD.case(-1 - i) for i in range(count))
    }

    def build(self: Any, given: Any, runtime: Any) -> None:
        options.append(given)

    def edit(self: Any, requests: Sequence[EditRequest]) -> list[Image.Image]:
        """Three of four are done right."""
        asked.extend(requests)
        return [
            truths[np.asarray(one.source).tobytes()] if one.seed % 4 else one.source  # type: ignore[misc]
            for one in requests
        ]

    monkeypatch.setattr(cls, "__init__", build)
    monkeypatch.setattr(cls, "edit", edit)
    monkeypatch.setattr(baselines, "entry", lambda checkpoint, root: root / checkpoint)
    monkeypatch.setattr(classifier, "load", lambda folder: Perfect(count))
    (found,) = gate(WORLD, tmp_path, count)
    single = sum(not WORLD.case(-1 - i).request.regions for i in range(count))
    assert single >= 10  # cases with several claims of one attribute cannot be told by this reader
    assert found.name == name
    assert found.passed == (found.figure is not None and found.figure >= found.threshold)
    right = sum(_shows(i) for i in range(count))
    assert found.figure == pytest.approx(right / count)
    assert [one.seed for one in asked] == list(range(count))
    (given,) = options
    preset = cls.PRESETS["mini"]
    assert given.weights == str(tmp_path / "text_to_image")
    assert {key: getattr(given, key) for key in preset if key != "weights"} == {
        key: value for key, value in preset.items() if key != "weights"
    }


def _shows(index: int) -> bool:
    """Whether the perfect reader finds the edit of a case right, by hand."""
    last = {claim.attribute: claim.after for claim in WORLD.case(-1 - index).claims}
    return index % 4 != 0 and all(last[c.attribute] == c.after for c in WORLD.case(-1 - index).claims)


@pytest.mark.parametrize(("gate", "cls", "name"), GATES, ids=[name for _, _, name in GATES])
def test_a_missing_checkpoint_is_an_error_of_the_zoo(
    gate: Callable[..., list[thresholds.ThresholdCheck]], cls: type, name: str, tmp_path: Path
) -> None:
    del cls, name
    with pytest.raises(ZooError, match="text_to_image"):
        gate(WORLD, tmp_path, 1)
