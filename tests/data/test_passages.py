"""Texts in tokens that know their characters, and their windows: by hand, against the released rules by brute force."""

import numpy as np
import pytest

from adapters_jax.data.passages import Passage


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 8, 9, 30, 101])
@pytest.mark.parametrize(("room", "stride"), [(1, 1), (8, 3), (8, 8), (8, 100), (30, 7)])
def test_windows_are_the_released_ones(tokens: int, room: int, stride: int):
    """run_squad.py: its loop over spans, and _check_is_max_context, for every token of every window."""
    spans, start = [], 0
    while start < tokens:
        length = min(tokens - start, room)
        spans.append((start, length))
        if start + length == tokens:
            break
        start += min(length, stride)
    best = {}
    for place in range(tokens):
        scores = {
            number: min(place - start, start + length - 1 - place) + 0.01 * length
            for number, (start, length) in enumerate(spans)
            if start <= place < start + length
        }
        best[place] = max(scores, key=lambda number: (scores[number], -number))
    passage = Passage([0] * tokens, np.zeros((tokens, 2), np.int32))
    found = list(passage.windows(room, stride))
    assert [(start, end - start) for start, end, _ in found] == (spans or [(0, 0)])
    for number, (start, end, most) in enumerate(found):
        assert most.tolist() == [best[place] == number for place in range(start, end)]


def test_tokens_of_an_answer():
    text = " Roma  is"
    passage = Passage([1, 2, 3], np.array([[1, 3], [3, 5], [7, 9]], np.int32))
    assert passage.tokens_of("Roma", 1) == (0, 1)
    assert passage.tokens_of("oma ", 2) == (0, 1)  # borders within tokens, and white space
    assert passage.tokens_of("ma", 3) == (1, 1)
    assert passage.tokens_of("  ", 5) is None
    assert text[5:7] == "  "


def test_spaces_are_not_of_a_token():
    """Byte-level and SentencePiece tokenizers count the space before a word as the word's."""
    encoding = type("Encoding", (), {"ids": [1, 2, 3], "offsets": [(0, 2), (2, 5), (5, 6)]})
    assert Passage.of("Is it ", encoding).characters.tolist() == [[0, 2], [3, 5], [6, 6]]
