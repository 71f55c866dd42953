"""Distance to the reference: the distance of an edit from the ground truth inside the mask, where a case has one.

Several edits can be right for a prompt, and the ground truth is only one of them. A distance of 0 is a perfect edit,
but a larger distance does not prove a wrong one. Compare a value with that of ``copy_input``, which changes nothing,
and compare methods only on the same cases.

Only pixels inside the mask are read. For LPIPS the edited image is filled with the ground truth outside the
mask, and the map is averaged inside. A small mask makes the value smaller (see ``bench.metrics.leakage`` on
dilution). SSIM's local statistics are taken over masked pixels alone.

The metrics keep their stored names ``truth_*``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.leakage import LpipsMetric, PairMetric
from bench.metrics.masked import Bands, masked_mse, masked_ssim
from bench.metrics.types import NoValue, Pair, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _InsideMask(PairMetric):
    """Compares with the ground truth in place of the source, so that it is part of the pair's key."""

    needs = frozenset({"truth", "mask"})

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # Pairs without a ground truth do not get here: the metric declares that it needs one.
        return super().score([replace(pair, source=pair.truth) for pair in pairs if pair.truth is not None])


class TruthRmse(_InsideMask):
    """Root mean squared difference over masked pixels and channels, values in [0, 1]."""

    name = "truth_rmse"
    heading = "RMSE to reference"
    summary = "distance to the reference: root mean squared difference from the ground truth inside the mask"
    computation = "truth-rmse"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        # The pair's source is the ground truth here.
        errors = (masked_mse(pair.source.pixels, pair.edited.pixels, pair.needed_mask) for pair in pairs)
        return [{self.name: None if mse is None else float(np.sqrt(mse))} for mse in errors]


class TruthSsim(_InsideMask):
    """:func:`~bench.metrics.masked.masked_ssim` with the mask as its valid pixels."""

    name = "truth_ssim"
    heading = "SSIM to reference"
    unit = "-1..1"
    higher_is_better = True
    summary = "distance to the reference: SSIM with the ground truth inside the mask"
    computation = "truth-ssim"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        missing = NoValue("no masked pixel has its 11 x 11 window within the image")

        def of_pair(pair: Pair) -> Value:
            (value,) = masked_ssim(pair.source.pixels, [pair.edited.pixels], pair.needed_mask)
            return missing if value is None else value

        # SSIM is slow: one image per thread.
        return [{self.name: value} for value in self.features.map(of_pair, pairs)]


class TruthLpips(_InsideMask, LpipsMetric):
    """AlexNet. The edited image is the ground truth outside the mask."""

    name = "truth_lpips"
    heading = "LPIPS to reference"
    summary = "distance to the reference: LPIPS (AlexNet) from the ground truth inside the mask"
    computation = "truth-lpips-alex"
    bands_of_names = (("truth_lpips", "mask"),)

    def _filled(self, of_case: Bands) -> NDArray[np.bool_]:
        # Outside the mask both images are the ground truth, so that only the inside differs.
        return ~of_case.mask
