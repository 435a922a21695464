"""Scores where a row may have several classes: predictions and labels are 0 and 1, [n c].

F1 is 2 TP / (2 TP + FP + FN), and 0.0 where nothing is there and nothing predicted.
"""

from collections.abc import Callable

import numpy as np


def micro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 over all decisions of all classes."""
    return float(_f1(predictions.ravel()[:, None], labels.ravel()[:, None])[0])


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of each class, averaged; a class that no row has counts too."""
    return float(_f1(predictions, labels).mean())


def subset_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows with exactly the right classes."""
    return float(np.mean(np.all(predictions == labels, axis=1)))


def _f1(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each column, float64 [c]."""
    right = np.sum((predictions == 1) & (labels == 1), axis=0)
    both = np.sum(predictions == 1, axis=0) + np.sum(labels == 1, axis=0)
    return 2.0 * right / np.maximum(both, 1)


MULTILABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "subset_accuracy": subset_accuracy,
}
