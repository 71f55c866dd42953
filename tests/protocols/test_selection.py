from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import Claim, EditCase
from protocols.selection import ProtocolError, build_case, check_case, fingerprint, pick, rank, select


def a_case(id: str = "1", **changed: Any) -> EditCase:
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    values: dict[str, Any] = {
        "id": id,
        "category": "attribute",
        "source_id": id.split("-")[0],
        "source": Image.new("RGB", (32, 32), (10, 20, 30)),
        "source_prompt": "a red car",
        "target_prompt": "a blue car",
        "instruction": "make the car blue",
        "regions": [(mask, "a blue car", ("blue", "car"))],
        "region_prompt": "a blue car",
        "claims": (Claim("color", "red", "blue"),),
        "tags": {},
    }
    case = build_case(**{**values, **changed})
    assert case is not None
    return case


class Pool:
    """Sources "0", "1", ...; each kind of a source has ``depth`` cases, unless the source is barren."""

    def __init__(self, count: int, depth: int = 3, barren: frozenset[str] = frozenset()) -> None:
        self.sources = [str(i) for i in range(count)]
        self.depth, self.barren, self.decoded = depth, barren, set[str]()

    def kinds(self, source: str) -> list[str]:
        rare = ["rare"] if int(source) % 10 == 0 else []
        return ["a", "b", *rare]

    def cases(self, source: str, kind: str) -> Iterator[EditCase]:
        self.decoded.add(source)
        if source not in self.barren:
            yield from (a_case(f"{source}-{kind}-{n}") for n in range(self.depth))

    def select(self, count: int) -> list[tuple[str, str]]:
        found = select(self.sources, ["a", "b", "rare"], self.kinds, self.cases, salt="t", count=count)
        return [(kind, case.id) for kind, case in found]


def test_kinds_are_balanced_and_sources_fresh() -> None:
    chosen = Pool(300).select(30)
    assert Counter(kind for kind, _ in chosen) == {"a": 10, "b": 10, "rare": 10}
    assert len({id.split("-")[0] for _, id in chosen}) == 30


def test_a_rare_kind_leaves_its_share_to_the_others() -> None:
    chosen = Pool(30, depth=1).select(45)
    assert Counter(kind for kind, _ in chosen) == {"a": 21, "b": 21, "rare": 3}
    assert len(set(chosen)) == 45


def test_all_there_is_is_given_once_and_no_more() -> None:
    chosen = Pool(10, depth=3).select(1000)
    assert len(chosen) == len(set(chosen)) == 10 * 3 * 2 + 3


def test_sources_give_a_second_case_only_after_all_have_given_a_first() -> None:
    chosen = Pool(10, depth=3).select(20)
    assert max(Counter(id.rsplit("-", 1)[0] for _, id in chosen).values()) <= 2


def test_only_as_many_sources_are_decoded_as_are_needed() -> None:
    pool = Pool(5000)
    pool.select(30)
    assert len(pool.decoded) == 30


def test_sources_without_a_case_are_passed_over() -> None:
    pool = Pool(100, barren=frozenset(map(str, range(0, 100, 2))))
    chosen = pool.select(20)
    assert len(chosen) == 20
    assert all(int(id.split("-")[0]) % 2 for _, id in chosen)


@pytest.mark.parametrize(("before", "after"), [(100, 101), (100, 160), (20, 40)])
def test_adding_sources_does_not_reshuffle_the_rest(before: int, after: int) -> None:
    old, new = Pool(before).select(24), Pool(after).select(24)
    stayed = [choice for choice in new if int(choice[1].split("-")[0]) < before]
    assert set(stayed) <= set(old)
    for kind in ("a", "b", "rare"):  # and in the order in which they were
        kept = [choice for choice in stayed if choice[0] == kind]
        assert kept == [choice for choice in old if choice in kept]
    if after == before + 1:
        assert len(set(old) - set(new)) <= 1


def test_the_order_of_sources_does_not_matter() -> None:
    one, other = Pool(60), Pool(60)
    other.sources.reverse()
    assert one.select(24) == other.select(24)


def test_ranks_and_picks_are_hashes_of_all_parts() -> None:
    assert rank("a", "bc") != rank("ab", "c")
    assert rank("a", 1) == "839e11a421d370be28db56fde67e9aadde2f31514becf2626b521ea3b9009ef4"
    options = [str(i) for i in range(8)]
    shares = Counter(pick(options, "seed", i) for i in range(4000))
    assert all(400 < shares[option] < 600 for option in options)
    for i in range(50):
        assert pick(options[:-1], i) == pick(options, i) or pick(options, i) == options[-1]


def test_sound_cases_pass() -> None:
    check_case(a_case())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": Image.new("L", (32, 32), 0)}, "covers 0.0%"),
        ({"mask": Image.new("L", (32, 32), 255)}, "covers 100.0%"),
        ({"mask": Image.new("L", (16, 32), 255)}, "its mask is"),
        ({"target_prompt": "a red car"}, "same"),
        ({"edit_words": ("green",)}, "green"),
        ({"edit_words": ()}, "edit words"),
    ],
)
def test_unsound_cases_are_refused(change: dict[str, Any], message: str) -> None:
    case = a_case()
    with pytest.raises(ProtocolError, match=message):
        check_case(replace(case, request=replace(case.request, **change)))


def test_a_mask_that_leaves_nothing_makes_no_case() -> None:
    for mask in (np.zeros((32, 32), bool), np.ones((32, 32), bool)):
        with pytest.raises(AssertionError):
            a_case(regions=[(mask, "a blue car", ("blue",))])


def test_a_fingerprint_changes_with_everything_in_a_case() -> None:
    case = a_case()
    other = np.zeros((32, 32), bool)
    other[8:20, 8:21] = True
    variants = [
        a_case("2"),
        a_case(category="background"),
        a_case(source=Image.new("RGB", (32, 32), (10, 20, 31))),
        a_case(source_prompt="the red car"),
        a_case(target_prompt="one blue car"),
        a_case(instruction="turn the car blue"),
        a_case(region_prompt="blue car"),
        a_case(claims=(Claim("color", "unknown", "blue"),)),
        a_case(regions=[(other, "a blue car", ("blue", "car"))]),
        a_case(regions=[(other, "a blue car", ("blue",))]),
    ]
    prints = [str(fingerprint(variant)) for variant in [case, *variants]]
    assert len(set(prints)) == len(prints)
    assert fingerprint(case) == fingerprint(a_case())


def test_importing_protocols_imports_nothing_heavy() -> None:
    code = (
        "import sys, protocols, protocols.celeba_hq, protocols.coco\n"
        "heavy = {'torch', 'pycocotools', 'scipy', 'pandas', 'diffusers', 'matplotlib', 'pydantic'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_names_what_exists() -> None:
    from bench.registry import Registry
    from protocols import PROTOCOLS

    registry = Registry("protocol", PROTOCOLS, "")
    assert registry.load("celeba_hq").name == "celeba_hq"
    assert registry.load("coco").name == "coco"
