"""The rule of success, by its parts and as a whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import Claim
from bench.metrics import leakage, masked, success
from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipSpec
from bench.metrics.options import MetricOptions, SuccessRule
from bench.metrics.types import Area, NoValue, Pair, RgbImage
from protocols.world.faces import render_face, sample_face
from tests.bench.metrics.pictures import box, natural, noise, pair, square

COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
MASK = box(64, 16, 16, 24, 24)
PROMPTS = {"source_prompt": "a red ball", "target_prompt": "a blue ball", "region_prompt": "a blue ball"}
CLAIM = Claim("color", "red", "blue")


class ColorClassifier:
    """Tells the mean colour of the region, the nearer the more probable."""

    identity = "colours-1"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Any, masks: Any, /) -> Any:
        self.batches.append(len(images))
        readings = []
        for image, mask in zip(images, masks, strict=True):
            mean = image[mask].mean(axis=0)
            distance = {name: np.linalg.norm(mean - color) for name, color in COLORS.items()}
            weight = {name: float(np.exp(-d / 20)) for name, d in distance.items()}
            total = sum(weight.values())
            readings.append({"color": {name: w / total for name, w in weight.items()}})
        return readings


def painted(*regions: tuple[Any, str], background: int = 1) -> Any:
    image = natural(background)
    for mask, color in regions:
        image = np.where(mask[..., None], np.uint8(COLORS[color]), image)
    return image


def colored(after: str, *, claims: Any = (CLAIM,), background: int = 1) -> Pair:
    source, edited = painted((MASK, "red")), painted((MASK, after), background=background)
    return pair(source, edited, MASK, claims=claims, **PROMPTS)


@pytest.fixture
def features() -> Features:
    return Features(classifier=ColorClassifier())


class TestClaims:
    @pytest.mark.parametrize(
        ("before", "values", "expected"),
        [
            ("red", {"red": 0.2, "blue": 0.7, "green": 0.1}, True),
            ("red", {"red": 0.4, "blue": 0.3, "green": 0.3}, False),
            ("red", {"red": 0.1, "blue": 0.3, "green": 0.6}, False),
            ("red", {"red": 0.5, "blue": 0.5}, False),
            ("unknown", {"red": 0.2, "blue": 0.7, "green": 0.1}, True),
            ("unknown", {"red": 0.7, "blue": 0.2, "green": 0.1}, False),
            ("purple", {"red": 0.2, "blue": 0.7, "green": 0.1}, True),
        ],
    )
    def test_rule(self, before: str, values: dict[str, float], expected: bool) -> None:
        assert success.change_holds(Claim("color", before, "blue"), {"color": values}) is expected

    @pytest.mark.parametrize(
        "reading", [{}, {"shape": {"blue": 1.0}}, {"color": {"red": 1.0}}, {"color": {"blue": float("nan")}}]
    )
    def test_what_the_reader_cannot_tell_is_no_verdict(self, reading: Any) -> None:
        assert isinstance(success.change_holds(CLAIM, reading), NoValue)


class TestTruth:
    def test_verdicts(self, features: Features) -> None:
        pairs = [colored("red"), colored("blue"), colored("green")]
        assert success.JudgeTruth(features).score(pairs) == [0.0, 1.0, 0.0]
        assert success.SuccessTruth(features).score(pairs) == [0.0, 1.0, 0.0]

    def test_every_region_must_hold_and_is_read_in_its_own_place(self, features: Features) -> None:
        left, right = box(64, 4, 4, 20, 20), box(64, 36, 36, 20, 20)
        regions = (Area(left, "a blue hat"), Area(right, "a green tree"))
        claims = (Claim("color", "red", "blue", 0), Claim("color", "red", "green", 1))
        source = painted((left, "red"), (right, "red"))

        def edited(one: str, other: str) -> Pair:
            after = painted((left, one), (right, other))
            return pair(source, after, left | right, regions=regions, claims=claims, **PROMPTS)

        pairs = [edited("blue", "green"), edited("green", "blue"), edited("blue", "red")]
        assert success.SuccessTruth(features).score(pairs) == [1.0, 0.0, 0.0]

    def test_one_call_reads_all(self, features: Features) -> None:
        success.JudgeTruth(features).score([colored("blue") for _ in range(5)])
        assert isinstance(features.classifier, ColorClassifier)
        assert features.classifier.batches == [5]

    def test_no_expected_change_no_verdict(self, features: Features) -> None:
        claims = [(), (Claim("color", "red", "blue", 3),), (Claim("age", "old", "young"),)]
        for verdict in success.JudgeTruth(features).score([colored("blue", claims=c) for c in claims]):
            assert isinstance(verdict, NoValue)

    def test_needs_an_attribute_classifier(self) -> None:
        assert "attribute classifier" in success.SuccessTruth.problems(Features())[0]
        assert success.SuccessTruth.problems(Features(classifier=ColorClassifier())) == []

    def test_another_classifier_is_another_version(self, features: Features) -> None:
        other = ColorClassifier()
        other.identity = "colours-2"
        assert (
            success.SuccessTruth(features).version != success.SuccessTruth(Features(classifier=other)).version
        )


class TestConditions:
    def test_a_leaking_edit_fails_unless_pasted_back(self, features: Features) -> None:
        leaking = colored("blue", background=7)
        assert success.JudgeTruth(features).score([leaking]) == [1.0]
        assert success.SuccessTruth(features).score([leaking, leaking.composite()]) == [0.0, 1.0]

    def test_another_bound_is_another_rule_and_version(self) -> None:
        default = success.SuccessTruth(Features(classifier=ColorClassifier()))
        for rule in (SuccessRule(max_leak_area=1.0, min_leak_psnr=0.0), SuccessRule(min_edit_area=0.999)):
            metric = success.SuccessTruth(Features(MetricOptions(success=rule), classifier=ColorClassifier()))
            pairs = [colored("blue"), colored("blue", background=7)]
            assert metric.score(pairs) == [1.0, float(rule.min_edit_area < 0.5)]
            assert metric.version != default.version

    def test_each_outside_condition_decides(self, features: Features) -> None:
        """Noise repaints nothing but has a low PSNR; a small object has a high PSNR but is repainted."""
        clean = colored("blue")
        outside = ~MASK
        grain = np.random.default_rng(0).normal(0, 0.12 * 255, (64, 64, 3))
        noisy = np.clip(clean.edited.pixels + grain * outside[..., None], 0, 255).astype(np.uint8)
        # 4 % of the outside, one channel by .25 of the range.
        moved = clean.edited.pixels.astype(int)
        moved[46:58, 46:58, 0] += 64 if moved[46:58, 46:58, 0].mean() < 128 else -64
        pairs = [
            clean,
            clean.with_edit(RgbImage(noisy)),
            clean.with_edit(RgbImage(moved.clip(0, 255).astype(np.uint8))),
        ]
        areas, ratios = leakage.LeakArea(features).score(pairs), leakage.LeakPsnr(features).score(pairs)
        assert areas[1] <= 0.02 < areas[2]  # type: ignore[operator]
        assert ratios[1] < 20 < ratios[2]  # type: ignore[operator]
        assert success.SuccessTruth(features).score(pairs) == [1.0, 0.0, 0.0]

    @pytest.mark.parametrize("canvas", [64, 512])
    @pytest.mark.parametrize("share", [0.2, 0.87])
    def test_one_damage_outside_has_one_verdict_at_every_mask_and_canvas(
        self, share: float, canvas: int
    ) -> None:
        """A strong JPEG of a drawn portrait stays inside. A shift by 1/32 of the side and a gray outside do not."""
        source = render_face(sample_face(900_001), canvas)[0]
        file = io.BytesIO()
        Image.fromarray(source).save(file, "JPEG", quality=20)
        compressed = np.asarray(Image.open(file).convert("RGB"))
        shifted = np.roll(source, canvas // 32, axis=1)
        valid = masked.bands(square(share, canvas)).valid
        verdicts = []
        for edited in (compressed, shifted, np.full_like(source, 128)):
            mse = masked.masked_mse(source, edited, valid)
            assert mse is not None
            area = masked.changed_area(source, edited, valid)
            verdicts.append(SuccessRule().holds(True, 1.0, area, masked.psnr(mse)))
        assert verdicts == [True, False, False]

    def test_the_documentation_states_the_rule(self) -> None:
        text = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
        assert success.conditions() in " ".join(text.split())

    def test_an_edit_must_change_something(self) -> None:
        """A classifier that says yes to everything does not make the untouched image a success."""

        class Credulous:
            identity = ""

            def __call__(self, images: Any, masks: Any, /) -> Any:
                return [{"color": {"blue": 1.0, "red": 0.0}}] * len(images)

        metric = success.SuccessTruth(Features(classifier=Credulous()))
        slight = painted((MASK, "red"))
        slight[20, 20, 0] ^= 1
        pairs = [colored("red"), pair(painted((MASK, "red")), slight, MASK, claims=(CLAIM,))]
        assert metric.score(pairs) == [0.0, 0.0]
        assert metric.score([colored("green")]) == [1.0]

    def test_without_an_outside_there_is_nothing_to_leak_into(self, features: Features) -> None:
        full = np.ones((64, 64), bool)
        one = pair(painted((full, "red")), painted((full, "blue")), full, claims=(CLAIM,))
        assert success.SuccessTruth(features).score([one]) == [1.0]

    @pytest.mark.parametrize(
        ("judged", "edit_area", "leak_area", "leak_psnr", "expected"),
        [
            (True, 0.5, 0.01, 30.0, True),
            (True, 0.051, 0.02, 20.0, True),
            (True, 0.5, 0.021, 30.0, False),
            (True, 0.5, 0.0, 19.9, False),
            (True, 0.05, 0.0, 58.0, False),
            (False, 0.5, 0.0, 58.0, False),
            (True, 0.5, None, None, True),
        ],
    )
    def test_bounds(
        self, judged: bool, edit_area: float, leak_area: float | None, leak_psnr: float | None, expected: bool
    ) -> None:
        assert SuccessRule().holds(judged, edit_area, leak_area, leak_psnr) is expected


class TestClip:
    def test_untouched_images_never_succeed(self, clip_folder: Path) -> None:
        features = Features(mini_clip=clip_folder)
        pairs = [
            pair(natural(i), natural(i), MASK, **{**PROMPTS, "target_prompt": f"number {i}"})
            for i in range(20)
        ]
        assert set(success.JudgeMiniClip(features).score(pairs)) == {0.0}
        assert set(success.SuccessMiniClip(features).score(pairs)) == {0.0}

    def test_is_the_rule_that_is_stated(self, clip_folder: Path) -> None:
        features = Features(mini_clip=clip_folder)
        pairs = [
            pair(natural(i), np.where(MASK[..., None], noise(i), natural(i)), MASK, **PROMPTS)
            for i in range(16)
        ]
        verdicts = success.JudgeMiniClip(features).score(pairs)
        text = features.clip_texts("mini_clip", list(PROMPTS.values())).astype(float)
        expected = []
        for one in pairs:
            crops = [picture.crop((14, 14, 42, 42)) for picture in (one.source, one.edited)]
            whole, far, near = features.clip_images("mini_clip", [one.edited, *crops]).astype(float)
            source, target, region = text
            closer = near @ region - far @ region > SuccessRule().mini_region_margin
            expected.append(float(whole @ target > whole @ source and closer))
        assert verdicts == expected
        strict = MetricOptions(success=SuccessRule(clip_margin=3.0))
        strict_judge = success.JudgeMiniClip(Features(strict, mini_clip=clip_folder))
        assert set(strict_judge.score(pairs)) == {0.0}

    def test_both_conditions_decide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the cosines given, so that each side of the rule is seen to matter."""
        whole = {"target_prompt": [0.3, 0.3, 0.2, 0.3], "source_prompt": [0.2, 0.2, 0.3, 0.3]}
        crops = {"source": [0.1, 0.3, 0.1, 0.1], "edited": [0.2, 0.2, 0.2, 0.2]}
        monkeypatch.setattr(
            success, "prompt_cosines", lambda f, slot, pairs, picture, prompt: np.array(whole[prompt])
        )
        monkeypatch.setattr(
            success,
            "region_cosines",
            lambda f, slot, pairs, picture: [np.array([v]) for v in crops[picture]],
        )
        verdicts = success.judge_clip(Features(), [colored("blue")] * 4, "clip", 0.0)
        assert verdicts == [True, False, False, False]
        assert success.judge_clip(Features(), [colored("blue")] * 4, "clip", 0.0, 0.15) == [False] * 4

    def test_each_clip_has_a_region_margin_of_its_own(self, clip_folder: Path) -> None:
        rule = SuccessRule(region_margin=0.01, mini_region_margin=0.2)
        features = Features(
            MetricOptions(success=rule), clip=ClipSpec(folder=str(clip_folder)), mini_clip=clip_folder
        )
        assert success.JudgeClip(features).region_margin == 0.01
        assert success.JudgeMiniClip(features).region_margin == 0.2
        other = Features(MetricOptions(success=SuccessRule(mini_region_margin=0.3)), mini_clip=clip_folder)
        assert success.JudgeMiniClip(features).version != success.JudgeMiniClip(other).version
