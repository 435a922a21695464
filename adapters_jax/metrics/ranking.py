"""Scores of an order of candidates, averaged over the queries that have a relevant one.

Where two candidates have the same score, the order between them is nobody's: reciprocal rank and average precision
count the worse place, the gain is the mean over the orders (both as scikit-learn has it).
"""

from collections.abc import Callable, Sequence

import numpy as np

from adapters_jax.errors import DataError


def reciprocal_rank(scores: np.ndarray, relevance: np.ndarray) -> float:
    """1 / the place of the first candidate that is relevant at all.

    Args:
        scores: [k], higher is better.
        relevance: [k], 0 is none; at least one is above 0.
    """
    best = scores[relevance > 0].max()
    others = scores[relevance <= 0]
    return 1.0 / (1 + int((others >= best).sum()))


def average_precision(scores: np.ndarray, relevance: np.ndarray) -> float:
    """The mean, over the relevant candidates, of the share of relevant ones down to their place; arguments as above."""
    from sklearn.metrics import label_ranking_average_precision_score

    return float(label_ranking_average_precision_score((relevance > 0)[None], scores[None]))


def gain(scores: np.ndarray, relevance: np.ndarray) -> float:
    """The discounted gain of the whole order, as a share of the best order's (Järvelin and Kekäläinen, 2002)."""
    from sklearn.metrics import ndcg_score

    return 1.0 if len(scores) == 1 else float(ndcg_score(relevance[None], scores[None]))


RANKING_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mrr": reciprocal_rank,
    "ndcg": gain,
    "map": average_precision,
}


def score(names: Sequence[str], scores: Sequence[np.ndarray], relevance: Sequence[np.ndarray]) -> dict[str, float]:
    """The named metrics, of `RANKING_METRICS`; scores and relevance [k] of each query.

    Raises:
        DataError: no query has a relevant candidate.
    """
    asked = [(ours, true) for ours, true in zip(scores, relevance, strict=True) if (true > 0).any()]
    if not asked:
        raise DataError("ranking: expected a query with a relevant candidate, got none")
    return {name: float(np.mean([RANKING_METRICS[name](*pair) for pair in asked])) for name in names}
