"""Scores of dependency trees."""

from collections.abc import Callable

import numpy as np

from adapters_jax.errors import DataError


def uas(answers: np.ndarray) -> float:
    """Unlabelled attachment score: the share of all words whose head is right.

    Args:
      answers: what `heads.DependencyHead` keeps of each row, [n 2]: words whose head is right, words.

    Raises:
      DataError: other answers, or no words.
    """
    if answers.ndim != 2 or answers.shape[1] != 2 or not answers[:, 1].any():
        raise DataError(f"uas: expected [n 2] answers of a dependency head with words, got {answers.shape}")
    right, words = answers.sum(0, dtype=np.float64)
    return float(right / words)


ATTACHMENT_METRICS: dict[str, Callable[[np.ndarray], float]] = {"uas": uas}
