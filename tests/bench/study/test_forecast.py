from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import norm

from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.forecast import power_lines, quality_lines
from bench.study.votes.exclusion import Exclusion
from bench.study.votes.power import ICC_CASE, ICC_RATER, TIES


def test_the_share_that_a_design_resolves_has_the_stated_power(run_folder: Path) -> None:
    design = build([run_folder], DesignOptions(raters=120, trials=12, repeats=2, attention=2, practice=1))
    line, _ = power_lines(design, 0.6)
    resolved = re.search(r"resolve a share of (0\.\d+) or more", line)
    assert resolved
    share = float(resolved[1])
    # The weakest pair's votes less the ties, divided by the design effect of raters and cases.
    pairs = math.comb(len(design.methods), 2)
    votes = min(design.pair_votes().values())
    decided = votes * (1 - TIES)
    per_rater = max(1.0, max(1.0, votes / design.options.raters) * (1 - TIES))
    per_case = max(1.0, max(1.0, votes / len(design.cases)) * (1 - TIES))
    independent = decided / (1 + (per_rater - 1) * ICC_RATER + (per_case - 1) * ICC_CASE)
    # The upper tail of a two-sided z test at the level 0.05 / pairs. The lower one is negligible.
    edge = 0.5 + norm.isf(0.05 / pairs / 2) * 0.5 / math.sqrt(independent)
    power = norm.sf(edge, loc=share, scale=math.sqrt(share * (1 - share) / independent))
    assert power == pytest.approx(0.8, abs=0.005)


def test_a_design_without_pairs_or_checks_says_so(design: Design) -> None:
    best = replace(design, options=replace(design.options, kinds=("best",)))
    assert power_lines(best, 0.6) == ["power: computed for pairs only"]
    line = quality_lines(design, Exclusion(max_attention_failures=None))[0]
    assert line.startswith("attention: the exclusion rule does not look at them")
    unchecked = replace(design, options=replace(design.options, attention=0))
    assert quality_lines(unchecked, Exclusion())[0].startswith("attention: there are no attention checks")


def test_a_random_rater_passes_two_checks_of_pairs_in_one_of_four_cases(design: Design) -> None:
    line = quality_lines(design, Exclusion(max_attention_failures=0))[0]
    # One half per check without ties, one third with them.
    assert "25.0% of raters who choose a candidate at random pass the 2 checks (at most 0 failed)" in line
    assert "11.1% of those who choose ties at random too. Ask for more with --attention" in line
