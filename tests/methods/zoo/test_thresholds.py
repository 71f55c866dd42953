"""The gates of the methods on the text-to-image base, with edits and a reader whose answers are known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditCase, EditRequest
from bench.errors import BenchError
from bench.images import mask_array
from bench.thresholds import ThresholdCheck
from methods.blended_latent_diffusion import BlendedLatentDiffusion
from methods.diffusion.stable_diffusion import SdEdit
from methods.latent_blending import LatentBlending
from methods.prompt_edit_diff import VARIANTS
from methods.zoo import classifier, thresholds
from methods.zoo.manifest import ZooError
from methods.zoo.recipes import recipe_samples
from protocols.world import level2, level3
from protocols.world.world import MiniWorld

GATES: list[tuple[Callable[..., list[ThresholdCheck]], type, str]] = [
    (thresholds._MEASURES["blended_latent_diffusion"], BlendedLatentDiffusion, "blended_latent_diffusion"),
    (thresholds._MEASURES["sdedit"], SdEdit, "sdedit"),
    (thresholds._MEASURES["latent_blending"], LatentBlending, "latent_blending"),
]
WORLD = MiniWorld()


class Perfect:
    """Reads in a picture whatever the case of that truth claims, and nothing in any other."""

    def __init__(self, cases: int) -> None:
        self.claims = {}
        for case in (WORLD.case(-1 - i) for i in range(cases)):
            assert case.truth is not None
            self.claims[np.asarray(case.truth).tobytes()] = case.claims

    def read(self, pictures: Any, regions: Any) -> list[dict[str, dict[str, float]]]:
        del regions
        answers = []
        for picture in pictures:
            claims = self.claims.get(picture.tobytes(), ())
            # Attributes without an expected change have an empty value.
            answer: dict[str, dict[str, float]] = {name: {"": 1.0} for name in WORLD.labels()}
            answer.update({claim.attribute: {claim.after: 1.0} for claim in claims})
            answers.append(answer)
        return answers


@pytest.mark.parametrize(("gate", "cls", "name"), GATES, ids=[name for _, _, name in GATES])
def test_a_gate_edits_with_the_preset_and_counts_what_shows(
    gate: Callable[..., list[ThresholdCheck]],
    cls: Any,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 20  # more than one batch
    options: list[Any] = []
    requests_seen: list[EditRequest] = []
    truths = {
        np.asarray(c.request.source).tobytes(): c.truth for c in (WORLD.case(-1 - i) for i in range(count))
    }

    def build(self: Any, method_options: Any, runtime: Any) -> None:
        options.append(method_options)

    def edit(self: Any, requests: Sequence[EditRequest]) -> list[Image.Image]:
        # Three of four are done right.
        requests_seen.extend(requests)
        return [
            truths[np.asarray(one.source).tobytes()] if one.seed % 4 else one.source  # type: ignore[misc]
            for one in requests
        ]

    monkeypatch.setattr(cls, "__init__", build)
    monkeypatch.setattr(cls, "edit", edit)
    monkeypatch.setattr(thresholds, "entry", lambda checkpoint, root: root / checkpoint)
    monkeypatch.setattr(classifier, "load", lambda folder: Perfect(count))
    # One check, whose figure counts the edits that show their target.
    (result,) = gate(WORLD, tmp_path, count)
    single = sum(not WORLD.case(-1 - i).request.regions for i in range(count))
    assert single >= 10  # cases with several claims of one attribute cannot be told by this reader
    assert result.name == name
    assert result.passed == (result.figure is not None and result.figure >= result.threshold)
    right = sum(_shows(i) for i in range(count))
    assert result.figure == pytest.approx(right / count)
    assert [one.seed for one in requests_seen] == list(range(count))
    (method_options,) = options
    # The options are the preset's, on the zoo's base.
    preset = cls.PRESETS["mini"]
    assert method_options.weights == str(tmp_path / "text_to_image")
    assert {key: getattr(method_options, key) for key in preset if key != "weights"} == {
        key: value for key, value in preset.items() if key != "weights"
    }


def _shows(index: int) -> bool:
    # Whether the perfect reader finds the edit of a case right, by hand.
    last = {claim.attribute: claim.after for claim in WORLD.case(-1 - index).claims}
    return index % 4 != 0 and all(last[c.attribute] == c.after for c in WORLD.case(-1 - index).claims)


@pytest.mark.parametrize(("gate", "cls", "name"), GATES, ids=[name for _, _, name in GATES])
def test_a_missing_checkpoint_is_an_error_of_the_zoo(
    gate: Callable[..., list[ThresholdCheck]], cls: type, name: str, tmp_path: Path
) -> None:
    del cls, name
    with pytest.raises(ZooError, match="text_to_image"):
        gate(WORLD, tmp_path, 1)


def test_gates_pass_the_truth_and_fail_the_source() -> None:
    # With a reader that knows the world, not a trained one: the rule itself is under test.
    cases = [WORLD.case(-1 - i) for i in range(12)]
    truths = {np.asarray(c.truth).tobytes(): c for c in cases}

    class Knows:
        def read(self, pictures, regions):  # type: ignore[no-untyped-def]
            answers = []
            for picture in pictures:
                case = truths.get(picture.tobytes())
                answers.append(
                    {
                        claim.attribute: {claim.after: 0.9 if case is not None else 0.1, "other": 0.5}
                        for claim in (c for case in cases for c in case.claims)
                    }
                )
                if case is not None:
                    answers[-1].update({c.attribute: {c.after: 0.9, "other": 0.1} for c in case.claims})
            return answers

    # Only ground truths are recognised.
    single = [c for c in cases if len(c.claims) == 1]
    assert all(thresholds.recognised(Knows(), [c.truth for c in single], single))  # type: ignore[arg-type, misc]
    assert not any(thresholds.recognised(Knows(), [c.request.source for c in cases], cases))  # type: ignore[arg-type]


def test_comparable_methods_share_their_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 8 edits, 5 show their target: enough for nobody, by one and the same threshold for every trained editor.
    cases = [WORLD.case(-1 - i) for i in range(8)]
    monkeypatch.setattr(
        thresholds, "recognised", lambda classifier, edited, of: [True] * 5 + [False] * (len(of) - 5)
    )

    def judged(name: str, limits: tuple[float, float | None]) -> list[ThresholdCheck]:
        return thresholds.judged(name, None, [], cases, limits, tmp_path)  # type: ignore[arg-type]

    for name in ("sd_inpainting", "instruct_pix2pix", "glide", *VARIANTS):
        overall, *by_category = judged(name, thresholds.TRAINED)
        assert (overall.figure, overall.threshold, overall.passed) == (0.625, 0.8, False)
        assert {gate.threshold for gate in by_category} == {0.65}
        assert len(by_category) == len({case.category for case in cases})
    for name in ("sdedit", "blended_diffusion"):
        [gate] = judged(name, thresholds.STEERED)
        assert (gate.figure, gate.threshold, gate.passed) == (0.625, 0.65, False)
        assert "%: " in gate.detail


class Exact:
    """Reads every expected value off the ground truths of these cases, region by region. Sees nothing elsewhere."""

    def __init__(self, cases: Sequence[EditCase], labels: Sequence[str]) -> None:
        self.labels = dict.fromkeys(labels, ("",))
        self.values: dict[tuple[bytes, bytes], dict[str, dict[str, float]]] = {}
        for case in cases:
            for claim in case.claims:
                key = (np.asarray(case.truth).tobytes(), mask_array(case.areas[claim.region]).tobytes())
                self.values.setdefault(key, {})[claim.attribute] = {claim.after: 1.0}

    def read(self, images: Any, regions: Any) -> list[dict[str, dict[str, float]]]:
        return [
            {name: {"": 1.0} for name in self.labels}
            | {
                name: value
                for name, value in self.values.get((image.tobytes(), region.tobytes()), {}).items()
                if name in self.labels
            }
            for image, region in zip(images, regions, strict=True)
        ]


def test_each_level_above_1_has_a_figure_per_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, count = MiniWorld((1, 2, 3)), 24
    by_level = {level: [part.case(-1 - i) for i in range(count)] for level, part in world.by_level().items()}
    cases = [case for of in by_level.values() for case in of]
    exact = Exact(cases, [name for name in world.labels() if name != "trim"])
    monkeypatch.setattr(thresholds, "classifier_of", lambda root: exact)

    def edit(edits: Sequence[EditCase]) -> list[Image.Image]:
        # Every case of level 3 is edited, none of level 2, and three of four of level 1.
        return [
            thresholds.truth_of(case)
            if case.category in level3.PAPER_CATEGORIES
            or (case.category not in level2.PAPER_CATEGORIES and i % 4)
            else case.request.source
            for i, case in enumerate(edits)
        ]

    checks = thresholds.judge_levels("sdedit", edit, world, tmp_path, count, thresholds.STEERED)
    first, beside = checks[0], checks[1:]
    # Level 1 as without the others.
    assert [first] == thresholds.judge_levels("sdedit", edit, WORLD, tmp_path, count, thresholds.STEERED)
    assert (first.figure, first.threshold, first.state) == (0.75, 0.65, "passed")
    # The kinds of the others, counted from the cases.
    kinds = {level: Counter(case.category for case in by_level[level]) for level in (2, 3)}
    expected = [
        (f"level {level}, {kind}, {n} edits", float(level == 3))
        for level in (2, 3)
        for kind, n in sorted(kinds[level].items())
        if kind != "trim"
    ]
    assert [(one.detail, one.figure) for one in beside if one.figure is not None] == expected
    assert {one.state for one in beside} == {"measured"}
    # No figure, and no zero, where the classifier lacks the attribute.
    [trim] = [one for one in beside if one.figure is None]
    assert trim.detail == "level 3, trim: the classifier has no attribute trim"


def test_the_classifier_must_read_the_ground_truths_of_each_level() -> None:
    world, count = MiniWorld((1, 2, 3)), 30
    for level in (2, 3):
        part = world.by_level()[level]
        cases = [part.case(-1 - i) for i in range(count)]
        complete = thresholds._truths_read(Exact(cases, list(world.labels())), level, part, count)  # type: ignore[arg-type]
        assert (complete.figure, complete.threshold, complete.passed) == (1.0, 0.98, True)
        # A classifier that lacks an attribute reads none of its kind.
        without = thresholds._truths_read(Exact(cases, ["category", "color"]), level, part, count)  # type: ignore[arg-type]
        trims = sum(case.category == "trim" for case in cases)
        assert without.figure == pytest.approx(1 - trims / count)
        assert ("trim 0.0" in without.detail) == (trims > 0) == (level == 3) == (not without.passed)


def test_a_check_without_level_1_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="levels 2, 3: thresholds are measured on level 1"):
        thresholds.check(MiniWorld((2, 3)), tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "stages", "gap"),
    [
        (
            "blended_diffusion",
            {"blended_diffusion": [50_016, 18_016]},
            "68,032 of 160,000 samples of its recipe",
        ),
        ("blended_diffusion", {"blended_diffusion": [160_000]}, ""),
        ("sd_inpainting", {"sd_inpainting": [200_000]}, "200,000 of 240,000 samples of its recipe"),
        ("prompt_edit_diff", {"prompt_edit_diff": [100_032, 100_032, 40_000]}, ""),
        # Of several networks, the one that lacks most.
        (
            "glide",
            {"base": [80_000, 70_016], "upsampler": [123_008]},
            "150,016 of 370,000 samples of its recipe (base)",
        ),
    ],
)
def test_a_card_is_compared_with_its_recipe(
    tmp_path: Path, checkpoint: str, stages: dict[str, list[int]], gap: str
) -> None:
    listed = [{"recipe": name, "samples": n} for name, of in stages.items() for n in of]
    (tmp_path / checkpoint).mkdir()
    card = {"stages": listed, "recipe_samples": dict(recipe_samples(checkpoint))}
    (tmp_path / checkpoint / "card.json").write_text(json.dumps(card))
    assert thresholds.training_gap(checkpoint, tmp_path) == gap
    assert thresholds.at_least(checkpoint, 0.5, 0.8, "", gap).training_gap == gap
    assert thresholds.at_least(checkpoint, 0.9, 0.8, "", gap).training_gap == ""
