"""The columns of judges as metrics: their units, directions and one line of meaning.

They are computed by ``run_bench.py judge`` and never by ``score``, which makes no call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.metrics.types import Metric, NoValue, Pair, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features


_REMEDY = "a judge scores it. Run: python run_bench.py judge edits RUN --rubric NAME --model MODEL"


class JudgeColumn(Metric):
    """A column of a judge's rubric. The version of a stored score has the rubric and the model that answered."""

    version = "1"
    higher_is_better = True
    on_request = True
    judged = True

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return [_REMEDY]

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # It is never called: the problem above refuses the metric.
        return [NoValue(_REMEDY)] * len(pairs)


class JudgeFollow(JudgeColumn):
    name, unit = "judge_follow", "0..10"
    summary = "a judge's score: how well the inside of the mask shows the request"


class JudgeKeep(JudgeColumn):
    name, unit = "judge_keep", "0..10"
    summary = "a judge's score: how well the outside of the mask is kept"


class JudgeReal(JudgeColumn):
    name, unit = "judge_real", "0..10"
    summary = "a judge's score: how natural the edited image looks"


class VieSc(JudgeColumn):
    name, unit, published, heading = "vie_sc", "0..10", "VIEScore", "SC"
    summary = "VIEScore's semantic consistency, the smaller of success and minimal editing, by a judge"


class ViePq(JudgeColumn):
    name, unit, published, heading = "vie_pq", "0..10", "VIEScore", "PQ"
    summary = (
        "VIEScore's perceptual quality, the smaller of naturalness and freedom from artifacts, by a judge"
    )


class VieO(JudgeColumn):
    name, unit, published, heading = "vie_o", "0..10", "VIEScore", "O"
    summary = "VIEScore's overall score, the square root of SC times PQ of each edit, by a judge"


class ImgEdit1(JudgeColumn):
    name, unit, published, heading = "imgedit_1", "1..5", "ImgEdit-Bench", "first"
    summary = "ImgEdit-Bench's first score, such as prompt compliance, by a judge"


class ImgEdit2(JudgeColumn):
    name, unit, published, heading = "imgedit_2", "1..5", "ImgEdit-Bench", "second"
    summary = "ImgEdit-Bench's second score, such as visual naturalness, by a judge"


class ImgEdit3(JudgeColumn):
    name, unit, published, heading = "imgedit_3", "1..5", "ImgEdit-Bench", "third"
    summary = "ImgEdit-Bench's third score, such as physical and detail integrity, by a judge"


class ImgEditScore(JudgeColumn):
    name, unit, published, heading = "imgedit_score", "1..5", "ImgEdit-Bench", "score"
    summary = "ImgEdit-Bench's score of an edit, the mean of its three, rounded to two decimals, by a judge"
