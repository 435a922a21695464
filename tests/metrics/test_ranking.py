"""Scores of orders beside scikit-learn's, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from adapters_jax.errors import DataError
from adapters_jax.metrics import ranking


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(seed)
    count = int(draw.randint(2, 12))
    scores = draw.randn(count).astype(np.float32) if seed % 3 else draw.randint(0, 3, count).astype(np.float32)
    relevance = draw.randint(0, 4, count).astype(np.float32) * (draw.rand(count) < 0.4)
    relevance[int(draw.randint(count))] = 1.0
    return scores, relevance


def test_equal_to_scikit_learn_on_a_thousand_orders():
    for seed in range(1000):
        scores, relevance = drawn(seed)
        found = ranking.score(("mrr", "ndcg", "map"), [scores], [relevance])
        assert found["ndcg"] == pytest.approx(ndcg_score([relevance], [scores]))
        assert found["map"] == pytest.approx(label_ranking_average_precision_score([relevance > 0], [scores]))
        # Average precision of the best relevant candidate alone is its reciprocal rank among the others.
        best = np.flatnonzero(relevance > 0)[np.argmax(scores[relevance > 0])]
        kept = (relevance <= 0) | (np.arange(len(scores)) == best)
        alone = label_ranking_average_precision_score([(np.arange(len(scores)) == best)[kept]], [scores[kept]])
        assert found["mrr"] == pytest.approx(alone)


def test_queries_without_a_relevant_candidate_do_not_count():
    scores = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    relevance = [np.array([1.0, 0.0]), np.array([0.0, 0.0])]
    assert ranking.score(("mrr",), scores, relevance) == {"mrr": 0.5}
    with pytest.raises(DataError, match="expected a query with a relevant candidate"):
        ranking.score(("mrr",), scores[1:], relevance[1:])


def test_ties_count_the_worse_place():
    assert ranking.reciprocal_rank(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0])) == 0.5
    assert ranking.gain(np.array([1.0]), np.array([2.0])) == 1.0
