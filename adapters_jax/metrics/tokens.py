"""Scores of hidden words, over all tokens of a set (not the mean of the rows').

Predictions of hidden words are what `heads.MaskedLM` keeps of each row, [n 3]: the chosen tokens' negative
log-likelihood, summed, in nats; their number; how many of them the model ranks first.
"""

from collections.abc import Callable

import numpy as np


def log_likelihood(answers: np.ndarray) -> float:
    """The mean log-likelihood of a token, in nats: at most 0, higher is better."""
    lost, count, _ = answers.sum(0, dtype=np.float64)
    return float(-lost / count)


def perplexity(answers: np.ndarray) -> float:
    """exp of the mean negative log-likelihood: 1 is perfect, lower is better. To choose a step, take the other one."""
    return float(np.exp(min(-log_likelihood(answers), 700.0)))  # finite whatever the input


def masked_accuracy(answers: np.ndarray) -> float:
    """The share of tokens that are ranked first."""
    _, count, first = answers.sum(0, dtype=np.float64)
    return float(first / count)


TOKEN_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "log_likelihood": log_likelihood,
    "perplexity": perplexity,
    "masked_accuracy": masked_accuracy,
}
