"""Success: did the edit do what was asked, and nothing else. The rule: ``bench.metrics.options.SuccessRule``.

``judge_*`` is the first of its three conditions alone, ``success_*`` all three. Judges:

* ``truth`` reads annotated attributes with an injected reader and checks every claim of the case. With
  several regions, each claim is read in its own region, and all must hold. The reader at hand has seen only the
  rendered world, so ``*_truth`` scores nothing else; a judge with a reader of photographs is a metric of its own.
* ``clip`` (and ``mini_clip``) knows prompts only. A request has no prompt of what a region showed before, so
  the whole image decides between the two prompts, and each region's crop must have come closer to what the
  region shall show.

An untouched image never succeeds: nothing changed inside, and no crop came strictly closer to anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics import leakage
from bench.metrics.alignment import prompt_cosines, region_cosines, region_prompts, too_long
from bench.metrics.options import SuccessRule, versioned
from bench.metrics.types import Metric, NoValue, Pair, Value

if TYPE_CHECKING:
    from bench.edit import Claim
    from bench.metrics.features import Features, Reading

Verdict = bool | NoValue


def claim_holds(claim: Claim, reading: Reading) -> Verdict:
    """Whether a reading of the claim's region shows what the claim promises.

    The most probable value must be ``after`` (a tie with another value is no), and more probable than
    ``before`` unless that is ``unknown`` or the value that has to stay. A reader that can answer "none of these"
    has a value for it (``other``), which wins over ``after`` where it is more probable.
    """
    values = reading.get(claim.attribute)
    if not values:
        return NoValue(f"the reader does not know the attribute {claim.attribute!r}")
    if claim.after not in values:
        return NoValue(f"the reader knows no {claim.attribute!r} of {claim.after!r}")
    if not all(np.isfinite(list(values.values()))):
        return NoValue(f"the reader's probabilities of {claim.attribute!r} are not finite")
    others = [p for value, p in values.items() if value != claim.after]
    wins = all(values[claim.after] > p for p in others)
    if claim.before not in ("unknown", claim.after):
        wins = wins and values[claim.after] > values.get(claim.before, 0.0)
    return wins


def judge_truth(features: Features, pairs: Sequence[Pair]) -> list[Verdict]:
    """Whether all claims hold, by the reader."""
    if features.classifier is None:
        return [NoValue("no reader was given")] * len(pairs)
    verdicts: list[Verdict | None] = [None] * len(pairs)
    wanted: dict[tuple[int, int], tuple[int, int]] = {}  # (pair, region) -> image size
    for index, pair in enumerate(pairs):
        if not pair.claims:
            verdicts[index] = NoValue("the case makes no claim that a reader could check")
        for claim in pair.claims:
            if not 0 <= claim.region < len(pair.areas):
                verdicts[index] = NoValue(f"a claim is about region {claim.region}, which the case has not")
            else:
                wanted[index, claim.region] = pair.source.size
    readings: dict[tuple[int, int], Reading] = {}
    by_size: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for place, size in wanted.items():
        by_size[size].append(place)
    for places in by_size.values():
        images = np.stack([pairs[index].edited.pixels for index, _ in places])
        masks = np.stack([pairs[index].areas[region].mask for index, region in places])
        readings.update(zip(places, features.classifier(images, masks), strict=True))
    for index, pair in enumerate(pairs):
        if verdicts[index] is None:
            verdicts[index] = _all(claim_holds(c, readings[index, c.region]) for c in pair.claims)
    return [verdict for verdict in verdicts if verdict is not None]


def judge_clip(
    features: Features, pairs: Sequence[Pair], slot: str, margin: float, region_margin: float = 0.0
) -> list[Verdict]:
    """Whether the image is closer to the target prompt, and every region came closer to its own.

    By more than ``margin`` and ``region_margin`` (cosines). ``slot``: which of the CLIPs judges. No verdict where one
    of the prompts is longer than it reads.
    """
    to_target = prompt_cosines(features, slot, pairs, "edited", "target_prompt")
    to_source = prompt_cosines(features, slot, pairs, "edited", "source_prompt")
    before = region_cosines(features, slot, pairs, "source")
    after = region_cosines(features, slot, pairs, "edited")
    prompts = [
        [pair.source_prompt, pair.target_prompt, *of_regions]
        for pair, of_regions in zip(pairs, region_prompts(pairs), strict=True)
    ]
    return [
        reason or bool(target - source > margin and closer.size and (closer - far > region_margin).all())
        for reason, target, source, far, closer in zip(
            too_long(features, slot, prompts), to_target, to_source, before, after, strict=True
        )
    ]


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    held = True
    for verdict in verdicts:
        if isinstance(verdict, NoValue):
            return verdict
        held = held and verdict
    return held


class _Judge(Metric):
    name = ""
    version = "1"
    unit = "0/1"
    higher_is_better = True
    uses_features = True
    composited = True
    slot = "truth"

    def __init__(self, features: Features) -> None:
        self.features = features
        self.rule = features.options.success
        self.version = versioned(type(self).version, *self._choices())

    def _choices(self) -> list[object]:
        if self.slot == "truth":
            return [str(getattr(self.features.classifier, "identity", ""))]
        rule = self.rule
        margins = SuccessRule(
            clip_margin=rule.clip_margin,
            region_margin=rule.region_margin,
            mini_region_margin=rule.mini_region_margin,
        )
        return [self.features.clip_spec(self.slot).identity, self.features.options.alignment, margins]

    @property
    def region_margin(self) -> float:
        return self.rule.mini_region_margin if self.slot == "mini_clip" else self.rule.region_margin

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        if cls.slot != "truth":
            return features.clip_problems(cls.slot)
        return [] if features.classifier is not None else ["the truth judge needs a reader; none was given."]

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        if self.slot == "truth":
            return judge_truth(self.features, pairs)
        return judge_clip(self.features, pairs, self.slot, self.rule.clip_margin, self.region_margin)

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [v if isinstance(v, NoValue) else float(v) for v in self.judge(pairs)]


class _Success(_Judge):
    version = "2"

    def _choices(self) -> list[object]:
        return [*super()._choices(), self.rule, self.features.options.leakage]

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        areas = leakage.EditArea(self.features).score(pairs)
        leaks = self._leaks(pairs)
        result: list[Value] = []
        for verdict, area, leak in zip(self.judge(pairs), areas, leaks, strict=True):
            if isinstance(verdict, NoValue):
                result.append(verdict)
            elif not isinstance(area, float):
                result.append(area)
            else:
                result.append(float(self.rule.holds(verdict, area, *leak)))
        return result

    def _leaks(self, pairs: Sequence[Pair]) -> list[tuple[float | None, float | None]]:
        """``leak_area`` and ``leak_psnr`` of each pair; None without a valid outside."""
        # Pasted back, nothing outside differs from the source.
        measured = [index for index, pair in enumerate(pairs) if not pair.composited]
        leaks: list[tuple[float | None, float | None]] = [(0.0, leakage.PSNR_CAP)] * len(pairs)
        raw = [pairs[index] for index in measured]
        areas = leakage.LeakArea(self.features).score(raw)
        ratios = leakage.LeakPsnr(self.features).score(raw)
        for index, area, ratio in zip(measured, areas, ratios, strict=True):
            leaks[index] = _number(area), _number(ratio)
        return leaks


def _number(value: Value) -> float | None:
    return value if isinstance(value, float) else None


def conditions(rule: SuccessRule | None = None) -> str:
    """Conditions 2 and 3 of the rule in half a sentence, as the tables and the README have them."""
    rule = rule or SuccessRule()
    return (
        f"more than {rule.min_edit_area:.0%} of the area inside was repainted, at most {rule.max_leak_area:.0%} "
        f"of the area outside was, and the PSNR outside is at least {rule.min_leak_psnr:g} dB"
    ).replace("%", " %")


_CLIP_NEEDS = frozenset({"mask", "source_prompt", "target_prompt", "region_prompt"})
_TRUTH_NEEDS = frozenset({"mask", "claims"})


class JudgeTruth(_Judge):
    name = "judge_truth"
    heading = "judge (truth)"
    needs = _TRUTH_NEEDS
    summary = "the attribute reader sees what was promised (first condition of success_truth)"
    embedded = True


class JudgeClip(_Judge):
    name = "judge_clip"
    heading = "judge (CLIP)"
    version = "2"
    needs = _CLIP_NEEDS
    summary = "CLIP sees the target rather than the source (first condition of success_clip)"
    slot = "clip"


class JudgeMiniClip(JudgeClip):
    name = "judge_mini_clip"
    heading = "judge (mini CLIP)"
    version = "4"
    summary = "as judge_clip, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True


class SuccessTruth(_Success):
    name = "success_truth"
    heading = "success (truth)"
    needs = _TRUTH_NEEDS
    summary = f"the attribute reader sees what was promised; {conditions()}"
    embedded = True


class SuccessClip(_Success):
    name = "success_clip"
    heading = "success (CLIP)"
    version = "3"
    needs = _CLIP_NEEDS
    summary = f"CLIP sees the target rather than the source; {conditions()}"
    slot = "clip"


class SuccessMiniClip(SuccessClip):
    name = "success_mini_clip"
    heading = "success (mini CLIP)"
    version = "5"
    summary = "as success_clip, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True


@dataclass(frozen=True)
class Parts:
    """What the rule was applied to, for one edit."""

    judged: bool
    edit_area: float
    leak_area: float | None
    """None, as ``leak_psnr``: the case has no valid outside."""
    leak_psnr: float | None


@dataclass(frozen=True)
class Sensitivity:
    """Success as a function of one bound, everything else as in the rule."""

    bound: str
    values: tuple[float, ...]
    success: tuple[float, ...]
    """Share of the edits that succeed, at each value."""
    n: int


def sensitivity(
    parts: Sequence[Parts],
    rule: SuccessRule | None = None,
    *,
    min_edit_area: Sequence[float] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5),
    max_leak_area: Sequence[float] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    min_leak_psnr: Sequence[float] = (0.0, 10.0, 15.0, 20.0, 22.0, 24.0, 26.0, 30.0),
) -> list[Sensitivity]:
    """Success at each value of each bound, with the others as in ``rule``; empty without edits."""
    rule = rule or SuccessRule()
    if not parts:
        return []
    swept: list[tuple[str, Sequence[float], Callable[[float], SuccessRule]]] = [
        ("min_edit_area", min_edit_area, lambda value: replace(rule, min_edit_area=value)),
        ("max_leak_area", max_leak_area, lambda value: replace(rule, max_leak_area=value)),
        ("min_leak_psnr", min_leak_psnr, lambda value: replace(rule, min_leak_psnr=value)),
    ]
    result = []
    for bound, values, changed in swept:
        shares = tuple(
            float(np.mean([changed(v).holds(p.judged, p.edit_area, p.leak_area, p.leak_psnr) for p in parts]))
            for v in values
        )
        result.append(Sensitivity(bound, tuple(float(v) for v in values), shares, len(parts)))
    return result
