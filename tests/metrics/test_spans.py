"""Spans and their scores are seqeval's, on random tags and degenerate ones."""

import random
import warnings

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, Entities

from adapters_jax.errors import DataError
from adapters_jax.metrics.spans import count, spans, to_bio

TAGS = ("O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-my-kind", "I-my-kind")


def drawn(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """(predicted, true) tags of a few sentences, some of them equal; with few kinds of tags in some cases."""
    draw = random.Random(seed)
    kinds = TAGS if seed % 3 else draw.sample(TAGS, 3)
    lengths = [draw.randrange(1, 9) for _ in range(draw.randrange(1, 5))]
    true = [[draw.choice(kinds) for _ in range(length)] for length in lengths]
    wrong = seed % 5 / 4
    return [[draw.choice(kinds) if draw.random() < wrong else tag for tag in row] for row in true], true


@pytest.mark.parametrize("strict", [False, True])
def test_a_thousand_random_cases(strict: bool):
    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is undefined: 0 there, and here
        for seed in range(1000):
            predicted, true = drawn(seed)
            found, each = count(predicted, true, strict)
            for name, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
                expected = reference(true, predicted, **how)
                assert getattr(found, name) == pytest.approx(expected, abs=1e-12), (seed, name)
            kinds = f1_score(true, predicted, average=None, **how)
            assert [counts.f1 for counts in each.values()] == pytest.approx(list(kinds), abs=1e-12), seed


def test_spans_are_those_of_seqeval():
    for seed in range(300):
        for tags in drawn(seed)[1]:
            assert [(kind, start, stop - 1) for kind, start, stop in spans(tags)] == get_entities(tags)
            strict = Entities([tags], scheme=IOB2).entities[0]
            assert [(e.tag, e.start, e.end) for e in strict] == spans(tags, strict=True)


def test_iob1_becomes_bio():
    assert to_bio(["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER"]) == [
        *("B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-PER")
    ]
    for seed in range(300):
        for tags in drawn(seed)[1]:
            whole = [f"{kind}" for kind in to_bio(tags)]
            assert spans(whole, strict=True) == spans(tags)
            old = Entities([tags], scheme=IOB1).entities[0]
            if all(not tag.startswith("B") or (i and tags[i - 1][2:] == tag[2:]) for i, tag in enumerate(tags)):
                assert [(e.tag, e.start, e.end) for e in old] == spans(tags)


def test_what_is_no_tag():
    for tag in ("X-PER", "", "O-PER", "PER", "E-PER"):
        with pytest.raises(DataError, match=f"tag '{tag}' of word 1: expected O, B-TYPE or I-TYPE"):
            spans(["O", tag])
    with pytest.raises(DataError, match="sentence 1: expected 2 tags, got 1"):
        count([["O"], ["O"]], [["O"], ["O", "O"]])
    assert count([["O"]], [["O"]])[0].f1 == 0.0
    assert spans([]) == []
