from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from methods.attention_maps.words import TextTokens, alignment, refined, swapped, token_map, tokens_of
from tests.methods.conftest import tiny_tokenizer


@pytest.fixture(scope="module")
def words() -> object:
    """A tokenizer with one token per word and punctuation mark, but ``snowman``, which is three."""
    from methods.zoo.text import build_tokenizer

    return build_tokenizer(
        ["a", "red", "blue", "car", "bus", "and", "cup", "old", "at", "night", "snow", "man"]
    )


def one(tokenizer: object, text: str) -> TextTokens:
    (tokens,) = tokens_of(tokenizer, [text])
    return tokens


@pytest.mark.parametrize(
    ("source", "target", "published"),
    [
        # What the authors' program (google/prompt-to-prompt, seq_aligner.get_mapper) aligns: for each token of the
        # target the token of the source, or -1.
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 2, 3], [1, 4, 3], [0, -1, 2]),
        ([1, 2, 3], [1, 5, 2, 3, 6], [0, -1, 1, 2, -1]),
        ([1, 2, 1, 3], [1, 3], [0, 3]),
        ([1, 2], [1, 1, 2, 2], [0, -1, 1, -1]),
        ([4, 5], [6, 7, 8], [-1, -1, -1]),
    ],
)
def test_the_alignment_is_the_authors(source: list[int], target: list[int], published: list[int]) -> None:
    pairs = {j: i for i, j in alignment(source, target)}
    assert [pairs.get(j, -1) for j in range(len(target))] == published


def test_an_alignment_matches_as_many_tokens_as_any_other() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        a, b = (random.integers(0, 4, random.integers(1, 7)).tolist() for _ in range(2))
        pairs = alignment(a, b)
        assert all(a[i] == b[j] for i, j in pairs)
        assert pairs == sorted(pairs)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        # The longest common subsequence, by trying every subsequence of `a`.
        common = max(n for n in range(len(a) + 1) for part in combinations(a, n) if is_within(list(part), b))
        assert len(pairs) == common


def is_within(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


def test_equal_prompts_take_over_every_map_once(words: object) -> None:
    tokens = one(words, "a red car, at night")
    for rule in (swapped, refined):
        mapping = rule(tokens, tokens)
        assert mapping is not None
        assert np.array_equal(mapping.matrix, np.eye(len(tokens.ids)))
        assert not mapping.own.any()


def test_a_swapped_word_takes_over_the_map_of_the_word_at_its_place(words: object) -> None:
    source, target = one(words, "a red car, at night"), one(words, "a blue bus, at night")
    mapping = swapped(source, target)
    assert mapping is not None
    assert np.array_equal(mapping.matrix, np.eye(len(source.ids)))


def test_a_word_of_three_tokens_shares_the_map_of_a_word_of_one(words: object) -> None:
    source, target = one(words, "a car at night"), one(words, "a snowman at night")
    mapping = swapped(source, target)
    assert mapping is not None
    # start, a, car -> sno w man, at, night, end, and the padding behind.
    assert mapping.matrix[2, 2:5].tolist() == [pytest.approx(1 / 3)] * 3
    assert [int(row.argmax()) for row in mapping.matrix[[3, 4, 5, 6]]] == [5, 6, 7, 8]
    # The other way round, one token takes all three maps.
    back = swapped(target, source)
    assert back is not None
    assert back.matrix[:, 2].tolist()[:6] == [0, 0, 1, 1, 1, 0]
    # The last paddings have no counterpart, and keep their own attention.
    assert back.own.tolist() == [0.0] * (len(source.ids) - 2) + [1.0] * 2


def test_other_numbers_of_words_are_refined(words: object) -> None:
    source, target = one(words, "a car at night"), one(words, "a red car at night")
    assert swapped(source, target) is None
    mapping = token_map(source, target)
    assert mapping.own.nonzero()[0].tolist() == [2]
    assert [int(column.argmax()) for column in mapping.matrix.T[[0, 1, 3, 4, 5, 6]]] == [0, 1, 2, 3, 4, 5]
    # The last padding of the source has no counterpart.
    assert mapping.matrix.sum() == len(source.ids) - 1


def test_commas_do_not_glue_words_together(words: object) -> None:
    """A split at spaces would see ``car,`` and ``car`` as two words."""
    source, target = one(words, "a car, a cup"), one(words, "a car and a cup")
    mapping = swapped(source, target)
    assert mapping is not None
    assert mapping.matrix[2, 2] == 1


def test_long_prompts_are_cut_and_aligned() -> None:
    tokenizer = tiny_tokenizer()
    long = one(tokenizer, "many words " * 30)
    assert long.end == len(long.ids) - 1
    mapping = token_map(long, one(tokenizer, "many"))
    assert np.isin(mapping.matrix.sum(0) + mapping.own, 1).all()
