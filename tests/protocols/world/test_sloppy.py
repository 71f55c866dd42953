"""Sloppy masks: the same cases, other masks for the methods, exact ones for the metrics."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import check_case
from bench.images import mask_array
from bench.imprecise_masks import KINDS
from bench.registry import parse_options
from protocols.world.sloppy import SloppyCelebAHQ, SloppyCoco

DIGESTS = {SloppyCelebAHQ: "3dacf02db3c0", SloppyCoco: "3c751966924b"}


@pytest.fixture(scope="module", params=[SloppyCelebAHQ, SloppyCoco])
def protocol(request: pytest.FixtureRequest, cache: Path):  # type: ignore[no-untyped-def]
    cls = request.param
    return cls(parse_options(cls, {"root": str(cache / cls.exact.name), "cases_per_category": 20}))


def test_only_the_masks_of_the_methods_differ_from_the_exact_cases(protocol) -> None:  # type: ignore[no-untyped-def]
    exact_cases = protocol.exact(protocol.options).cases()
    kinds: Counter[str] = Counter()
    for sloppy, exact in zip(protocol.cases(), exact_cases, strict=True):
        check_case(sloppy)
        kinds[sloppy.tags["mask"]] += 1
        assert (sloppy.id, sloppy.claims, sloppy.category) == (exact.id, exact.claims, exact.category)
        assert sloppy.request.target_prompt == exact.request.target_prompt
        assert sloppy.truth.tobytes() == exact.truth.tobytes()
        # What metrics look at is exact, region by region. What the method sees is not.
        for one, other in zip(sloppy.areas, exact.areas, strict=True):
            assert one.tobytes() == other.tobytes()
        assert sloppy.request.mask.tobytes() != exact.request.mask.tobytes()
        assert len(sloppy.request.regions) == len(exact.request.regions)
    assert set(kinds) == set(KINDS)


def test_each_kind_changes_a_mask_in_its_direction(protocol) -> None:  # type: ignore[no-untyped-def]
    for case in protocol.cases():
        if case.request.regions:
            continue  # a region does not grow into its neighbour, so the union need not contain the exact one
        given, exact = mask_array(case.request.mask), mask_array(case.areas[0])
        if case.tags["mask"] in ("grow", "box", "blob"):
            assert not (exact & ~given).any()
        else:
            assert not (given & ~exact).any()
        # Half of the exact region stays at least.
        assert (given & exact).sum() >= 0.5 * exact.sum()


def test_digests_are_pinned(protocol) -> None:  # type: ignore[no-untyped-def]
    cls = type(protocol)
    assert protocol.digest == DIGESTS[cls]


def test_the_same_case_gets_the_same_mask_again(protocol) -> None:  # type: ignore[no-untyped-def]
    cases = protocol.cases()
    for index in range(0, len(cases), 9):
        assert np.array_equal(mask_array(cases[index].request.mask), mask_array(cases[index].request.mask))
