"""Scores of hidden words: over all of them, not the mean of the rows'."""

import math

import numpy as np
import pytest

from adapters_jax.errors import DataError
from adapters_jax.metrics import METRICS, compute
from adapters_jax.metrics.tokens import TOKEN_METRICS

NAMES = ("log_likelihood", "perplexity", "masked_accuracy")


def test_scores_are_those_of_the_tokens_one_by_one():
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 20, 300)
    lost = [draw.exponential(3, count) for count in counts]
    first = [draw.random(count) < 0.3 for count in counts]
    answers = np.array([(a.sum(), len(a), b.sum()) for a, b in zip(lost, first, strict=True)], np.float32)
    tokens, hits = np.concatenate(lost), np.concatenate(first)
    scores = compute(NAMES, answers, None)
    assert list(scores) == list(NAMES) == list(TOKEN_METRICS)
    assert scores["log_likelihood"] == pytest.approx(-tokens.mean(), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(math.exp(tokens.mean()), rel=1e-6)
    assert scores["masked_accuracy"] == pytest.approx(hits.mean(), rel=1e-6)
    assert all(type(value) is float for value in scores.values())


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary():
    answers = np.array([[5 * math.log(30522), 5, 0], [math.log(30522), 1, 0]])
    assert compute(["perplexity"], answers, None)["perplexity"] == pytest.approx(30522)
    assert compute(["perplexity"], np.array([[0.0, 4, 4]]), None)["perplexity"] == 1.0


def test_many_tokens_are_summed_in_double_precision():
    answers = np.tile(np.array([[0.1, 1, 1]], np.float32), (2_000_000, 1))
    assert compute(["log_likelihood"], answers, None)["log_likelihood"] == pytest.approx(-np.float32(0.1), rel=1e-9)


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(compute(["perplexity"], np.array([[1e6, 1, 0]]), None)["perplexity"])


def test_higher_is_better_for_what_chooses_the_step():
    better, worse = np.array([[1.0, 4, 3]]), np.array([[2.0, 4, 3]])
    good, bad = compute(NAMES, better, None), compute(NAMES, worse, None)
    assert good["log_likelihood"] > bad["log_likelihood"] and good["perplexity"] < bad["perplexity"]


@pytest.mark.parametrize("shape", [(4,), (4, 2), (0, 3), (4, 3)])  # the last holds zeros: no token was hidden
def test_bad_input(shape):
    for name in NAMES:
        assert name in METRICS
        with pytest.raises(DataError, match=rf"{name}: expected \[n 3\] answers of a masked_lm head"):
            compute([name], np.zeros(shape), None)
