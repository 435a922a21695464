"""Scores of relations between entities."""

from collections.abc import Callable

import numpy as np

OTHER = 18
"""The class number of `Other`; before it, 2 r and 2 r + 1 are the two directions of relation r (data.relations)."""


def semeval(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The official score of SemEval-2010 task 8: F1 of each relation, direction taken into account, averaged.

    A relation in the wrong direction is not right, and counts among the predictions of its relation. Relations that no
    label has, and `Other`, are left out of the average. Source: semeval2010_task8_scorer-v1.2.pl, (iii).
    """
    kinds, guessed = labels // 2, predictions // 2
    scores = []
    for kind in np.unique(kinds[labels != OTHER]):
        right = np.sum((predictions == labels) & (kinds == kind))
        scores.append(2.0 * right / (np.sum(guessed == kind) + np.sum(kinds == kind)))
    return float(np.mean(scores)) if scores else 0.0


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of each class that is a label or a prediction, averaged."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


RELATION_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"semeval": semeval, "macro_f1": macro_f1}
