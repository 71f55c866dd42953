"""Success: the edit did what was requested, and nothing else. The rule is ``bench.metrics.options.SuccessRule``.

``judge_*`` checks only the first of the rule's three conditions, ``success_*`` all three. Judges:

* ``truth`` reads annotated attributes with an attribute classifier and checks every expected attribute change of the
  case (its ``claims``). With several regions, each change is read in its own region, and all must hold. The embedded
  classifier was trained on the rendered world only, so ``*_truth`` scores nothing else. A judge with a classifier of
  photographs would be a separate metric.
* ``clip`` (and ``mini_clip``) compares images with prompts. A request has no prompt for the region before the edit. So
  the whole image is compared with the source and the target prompt, and each region's crop must have come closer to
  the region prompt.

An unchanged image never succeeds: nothing changed inside, and no crop came strictly closer to its prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics import leakage
from bench.metrics.alignment import prompt_cosines, prompt_reasons, region_cosines, region_prompts
from bench.metrics.masked import PSNR_CAP
from bench.metrics.options import SuccessRule, versioned
from bench.metrics.types import Metric, NoValue, Pair, Value

if TYPE_CHECKING:
    from bench.edit import Claim
    from bench.metrics.features import AttributeProbabilities, Features

Verdict = bool | NoValue


# -- the judges ---------------------------------------------------------------------------------


def change_holds(change: Claim, probabilities: AttributeProbabilities) -> Verdict:
    """True where the classifier's probabilities in the change's region show the expected value.

    The most probable value must be ``after`` (a tie with another value is no), and more probable than
    ``before`` unless that is ``unknown`` or the value that has to stay. A classifier that can answer "none of these"
    has a value for it (``other``), which wins over ``after`` where it is more probable.
    """
    values = probabilities.get(change.attribute)
    if not values:
        return NoValue(f"the attribute classifier does not know the attribute {change.attribute!r}")
    if change.after not in values:
        return NoValue(f"the attribute classifier knows no {change.attribute!r} of {change.after!r}")
    if not all(np.isfinite(list(values.values()))):
        return NoValue(f"the attribute classifier's probabilities of {change.attribute!r} are not finite")
    # The expected value must beat every other value, and the one before.
    # `>` below, not `>=`: a tie is no detected change.
    rivals = [p for value, p in values.items() if value != change.after]
    wins = all(values[change.after] > p for p in rivals)
    # Where the value has to stay, it only has to beat the other values.
    if change.before not in ("unknown", change.after):
        wins = wins and values[change.after] > values.get(change.before, 0.0)
    return wins


def judge_truth(features: Features, pairs: Sequence[Pair]) -> list[Verdict]:
    """True where all expected attribute changes hold, by the attribute classifier."""
    if features.classifier is None:
        return [NoValue("no attribute classifier was given")] * len(pairs)

    # Regions to read, those of images of one size together. A region is read once for all of its changes.
    places_by_size: dict[tuple[int, int], dict[tuple[int, int], None]] = defaultdict(dict)
    problems: dict[int, NoValue] = {}
    for index, pair in enumerate(pairs):
        if not pair.claims:
            problems[index] = NoValue("the case has no expected attribute change to check")
        for change in pair.claims:
            # A plug-in's case may name a region that it does not have.
            if not 0 <= change.region < len(pair.areas):
                problems[index] = NoValue(
                    f"an expected change is about region {change.region}, which the case does not have"
                )
            else:
                places_by_size[pair.source.size][index, change.region] = None

    # Probabilities: (B, H, W, 3) uint8 images and (B, H, W) bool masks, a batch per size.
    probabilities: dict[tuple[int, int], AttributeProbabilities] = {}
    for places in places_by_size.values():
        images = np.stack([pairs[index].edited.pixels for index, _ in places])
        masks = np.stack([pairs[index].areas[region].mask for index, region in places])
        probabilities.update(zip(places, features.classifier(images, masks), strict=True))

    return [
        problems.get(index)
        or _all_hold([change_holds(change, probabilities[index, change.region]) for change in pair.claims])
        for index, pair in enumerate(pairs)
    ]


def _all_hold(verdicts: Sequence[Verdict]) -> Verdict:
    """True where all hold. Without a verdict for one of them, there is none for all."""
    # One reason is enough.
    missing = next((verdict for verdict in verdicts if isinstance(verdict, NoValue)), None)
    return missing or all(verdicts)


def judge_clip(
    features: Features, pairs: Sequence[Pair], slot: str, margin: float, region_margin: float = 0.0
) -> list[Verdict]:
    """True where the image is closer to the target prompt than to the source prompt, and every region came closer.

    The first difference must exceed ``margin``, that of every region's crop to its prompt ``region_margin`` (cosines).
    ``slot`` names the CLIP. No verdict where a prompt is longer than it reads.
    """
    # Cosines of the whole edited image with both prompts, (N,) each.
    to_target = prompt_cosines(features, slot, pairs, "edited", "target_prompt")
    to_source = prompt_cosines(features, slot, pairs, "edited", "source_prompt")
    # Cosines of every region's crop with its prompt, before and after.
    before = region_cosines(features, slot, pairs, "source")
    after = region_cosines(features, slot, pairs, "edited")
    prompts = [
        [pair.source_prompt, pair.target_prompt, *of_regions]
        for pair, of_regions in zip(pairs, region_prompts(pairs), strict=True)
    ]
    return [
        reason or bool(target - source > margin and new.size and (new - old > region_margin).all())
        for reason, target, source, old, new in zip(
            prompt_reasons(features, slot, prompts), to_target, to_source, before, after, strict=True
        )
    ]


# -- metrics ------------------------------------------------------------------------------------


class _YesNoMetric(Metric):
    """A yes-or-no metric. A subclass implements its judge."""

    version = "1"
    unit = "0/1"
    higher_is_better = True
    uses_features = True
    composited = True

    def __init__(self, features: Features) -> None:
        self.features = features
        self.rule = features.options.success
        self.version = versioned(type(self).version, *self._choices())

    def _choices(self) -> list[object]:
        """Options and identities of networks that the value depends on, for the version."""
        raise NotImplementedError

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        raise NotImplementedError

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [v if isinstance(v, NoValue) else float(v) for v in self.judge(pairs)]


class JudgeTruth(_YesNoMetric):
    name = "judge_truth"
    heading = "judge (truth)"
    needs = frozenset({"mask", "claims"})
    summary = "the attribute classifier sees the expected change (first condition of success_truth)"
    embedded = True
    checkpoint = "reader"

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        if features.classifier is not None:
            return []
        return [
            "judge_truth needs an attribute classifier, and none was given. Pass it as Features(classifier=...)."
        ]

    def _choices(self) -> list[object]:
        return [self.features.classifier.identity if self.features.classifier is not None else ""]

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return judge_truth(self.features, pairs)


class JudgeClip(_YesNoMetric):
    name = "judge_clip"
    heading = "judge (CLIP)"
    version = "2"
    needs = frozenset({"mask", "source_prompt", "target_prompt", "region_prompt"})
    summary = "CLIP sees the target rather than the source (first condition of success_clip)"
    slot = "clip"
    """Slot of the CLIP in :class:`~bench.metrics.features.Features` that judges."""

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)

    @property
    def region_margin(self) -> float:
        return self.rule.region_margin

    def _choices(self) -> list[object]:
        # Only the margins: the other bounds do not change what the judge says.
        margins = SuccessRule(
            clip_margin=self.rule.clip_margin,
            region_margin=self.rule.region_margin,
            mini_region_margin=self.rule.mini_region_margin,
        )
        return [self.features.clip_spec(self.slot).identity, self.features.options.alignment, margins]

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return judge_clip(self.features, pairs, self.slot, self.rule.clip_margin, self.region_margin)


class JudgeMiniClip(JudgeClip):
    name = "judge_mini_clip"
    heading = "judge (mini CLIP)"
    version = "4"
    summary = "as judge_clip, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True
    checkpoint = "clip"

    @property
    def region_margin(self) -> float:
        return self.rule.mini_region_margin


class _Success(_YesNoMetric):
    """All three conditions of the rule. Combined with a judge, which comes second in the list of bases."""

    def _choices(self) -> list[object]:
        return [*super()._choices(), self.rule, self.features.options.leakage]

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # The two other conditions. Their values are shared with the leakage metrics, not computed again.
        areas = leakage.EditArea(self.features).score(pairs)
        leaks = self._leaks(pairs)
        values: list[Value] = []
        for verdict, area, leak in zip(self.judge(pairs), areas, leaks, strict=True):
            if isinstance(verdict, NoValue):
                values.append(verdict)
            elif not isinstance(area, float):
                values.append(area)
            else:
                values.append(float(self.rule.holds(verdict, area, *leak)))
        return values

    def _leaks(self, pairs: Sequence[Pair]) -> list[tuple[float | None, float | None]]:
        """``leak_area`` and ``leak_psnr`` of each pair. None without a valid outside."""
        # Outside the mask, a composited edit equals the source: it has no leakage. So only raw edits are measured.
        leaks: list[tuple[float | None, float | None]] = [(0.0, PSNR_CAP)] * len(pairs)
        raw = [index for index, pair in enumerate(pairs) if not pair.composited]
        areas = leakage.LeakArea(self.features).score([pairs[index] for index in raw])
        ratios = leakage.LeakPsnr(self.features).score([pairs[index] for index in raw])
        for index, area, ratio in zip(raw, areas, ratios, strict=True):
            leaks[index] = _number(area), _number(ratio)
        return leaks


def _number(value: Value) -> float | None:
    return value if isinstance(value, float) else None


def conditions(rule: SuccessRule | None = None) -> str:
    """Conditions 2 and 3 of the rule as a phrase, for tables and documentation."""
    rule = rule or SuccessRule()
    return (
        f"more than {rule.min_edit_area:.0%} of the area inside was repainted, at most {rule.max_leak_area:.0%} "
        f"of the area outside was repainted, and the PSNR outside is at least {rule.min_leak_psnr:g} dB"
    ).replace("%", " %")


class SuccessTruth(_Success, JudgeTruth):
    name = "success_truth"
    heading = "success (truth)"
    version = "3"
    summary = f"the attribute classifier sees the expected change; {conditions()}"


class SuccessClip(_Success, JudgeClip):
    name = "success_clip"
    heading = "success (CLIP)"
    version = "4"
    summary = f"CLIP sees the target rather than the source; {conditions()}"


class SuccessMiniClip(_Success, JudgeMiniClip):
    name = "success_mini_clip"
    heading = "success (mini CLIP)"
    version = "6"
    summary = "as success_clip, with the embedded CLIP"
