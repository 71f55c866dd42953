"""The checks that all methods on a Stable Diffusion checkpoint share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.edit import Runtime
from methods.blended_latent_diffusion import BlendedLatentDiffusion
from methods.diffusion.base import StableDiffusionMethod, strength_problems
from methods.diffusion.stable_diffusion import ControlNetInpaint, SdEdit, SdInpainting
from methods.latent_blending import LatentBlending
from tests.methods.conftest import SIZE, request
from tests.methods.diffusion.test_controlnet_inpaint import tiny_control

METHODS: tuple[type[StableDiffusionMethod], ...] = (
    BlendedLatentDiffusion,
    ControlNetInpaint,
    LatentBlending,
    SdEdit,
    SdInpainting,
)


@pytest.fixture(scope="module")
def weights(
    tiny_folder: Callable[[int], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[type], dict[str, str]]:
    """Method -> the options that name its tiny weights."""
    control = tmp_path_factory.mktemp("control")
    tiny_control().save_pretrained(control)

    def options(cls: type) -> dict[str, str]:
        more = {"controlnet": str(control)} if cls is ControlNetInpaint else {}
        return {"weights": tiny_folder(4)} | more

    return options


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0: expected at least 1"),
        ({"guidance": 0.5}, "guidance 0.5"),
        ({"guidance": 1.0, "negative_prompt": "x"}, "negative_prompt has no effect"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    weights: Callable[[type], dict[str, str]],
    cls: type[StableDiffusionMethod],
    options: dict[str, Any],
    message: str,
) -> None:
    unfit = cls.Options(**weights(cls), **options)
    (problem,) = cls.problems(unfit)
    assert message in problem
    with pytest.raises(ValueError, match=f"{cls.name}: .*{message}"):
        cls(unfit, Runtime())


@pytest.mark.parametrize("cls", [cls for cls in METHODS if cls is not BlendedLatentDiffusion])
def test_a_strength_that_leaves_no_step_is_refused(
    weights: Callable[[type], dict[str, str]], cls: type[StableDiffusionMethod]
) -> None:
    (problem,) = cls.problems(cls.Options(**weights(cls), steps=4, strength=0.2))
    assert "raise steps to at least 5" in problem
    # The suggested number is enough.
    assert cls.problems(cls.Options(**weights(cls), steps=5, strength=0.2)) == []


def test_the_range_of_strength() -> None:
    assert strength_problems(10, 1.0) == []
    assert "expected more than 0" in strength_problems(10, 0.0)[0]
    assert "at most 1" in strength_problems(10, 1.5)[0]


def test_the_checkpoint_gives_the_native_size_and_the_options_the_needs(
    tiny_folder: Callable[[int], str],
) -> None:
    """``sample_size`` 32, with 2 pixels per latent sample."""
    method = SdInpainting(SdInpainting.Options(weights=tiny_folder(4), steps=1), Runtime())
    assert method.native_size == SIZE
    assert method.needs == {"source", "mask", "target_prompt"}
    composited = SdEdit(SdEdit.Options(weights=tiny_folder(4), steps=2, paste=True), Runtime())
    assert composited.needs == {"source", "target_prompt", "mask"}
    assert composited.edit([request(1)])[0].size == (SIZE, SIZE)


def test_paste_without_a_mask_is_refused_before_the_networks_run(
    tiny_folder: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = SdEdit(SdEdit.Options(weights=tiny_folder(4), steps=2, paste=True), Runtime())
    monkeypatch.setattr(method, "pipeline", None)
    with pytest.raises(ValueError, match="set paste: false"):
        method.edit([request(1), replace(request(2), mask=None)])
