"""The metrics of GLUE (Wang et al. 2019, table 1), each a finite number whatever the input; `compute` for all kinds.

Where a metric is undefined it is 0.0: Matthews and F1 with an empty margin, a correlation of a constant, of fewer than
two rows, or of values that are not finite.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.metrics.dependencies import ATTACHMENT_METRICS
from adapters_jax.metrics.labels import MULTILABEL_METRICS
from adapters_jax.metrics.relations import RELATION_METRICS
from adapters_jax.metrics.tokens import TOKEN_METRICS


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose class is predicted."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1, "equivalent" in MRPC and "duplicate" in QQP: 2 TP / (2 TP + FP + FN)."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predictions == 1, zero_division=0.0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The Matthews correlation coefficient; 0.0 if either side holds one class only."""
    if _constant(predictions) or _constant(labels):
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation, in float64."""
    from scipy import stats

    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation; ties get their mean rank."""
    from scipy import stats

    return _correlation(stats.spearmanr, predictions, labels)


LABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    **RELATION_METRICS,
}
METRICS: dict[str, Callable[..., float]] = MULTILABEL_METRICS | LABEL_METRICS | TOKEN_METRICS | ATTACHMENT_METRICS


def compute(names: Sequence[str], predictions: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """The named metrics.

    Args:
      names: keys of `METRICS`.
      predictions: [n] class numbers, or values for the correlations; [n c] of 0 and 1 where a row may have several
        classes; for `TOKEN_METRICS` [n 3] and
        `ATTACHMENT_METRICS` [n 2], see `metrics.tokens` and `metrics.dependencies`.
      labels: of the same kind and shape; not looked at by these two.

    Returns:
      Name -> fraction (never percent), or nats and perplexity of tokens; finite.

    Raises:
      ConfigError: an unknown name.
      DataError: no rows, or shapes that differ.
    """
    predictions = np.asarray(predictions)
    scores = {}
    for name in names:
        if name in TOKEN_METRICS:
            _check_tokens(name, predictions)
            scores[name] = TOKEN_METRICS[name](predictions)
        elif name in ATTACHMENT_METRICS:
            scores[name] = METRICS[name](predictions)
        elif name in MULTILABEL_METRICS and (predictions.ndim == 2 or name not in LABEL_METRICS):
            scores[name] = MULTILABEL_METRICS[name](predictions, _checked(predictions, labels, 2))
        elif name in LABEL_METRICS:
            scores[name] = LABEL_METRICS[name](predictions, _checked(predictions, labels))
        else:
            raise ConfigError(unknown("metric", name, METRICS))
    return scores


def _checked(predictions: np.ndarray, labels: np.ndarray | None, dims: int = 1) -> np.ndarray:
    """The labels, as many as there are predictions."""
    known = np.zeros(0) if labels is None else np.asarray(labels)
    if predictions.ndim != dims or predictions.shape != known.shape or len(known) == 0:
        raise DataError(
            f"metrics: expected as many predictions as labels, at least 1, got {predictions.shape} and {known.shape}"
        )
    return known


def _check_tokens(name: str, answers: np.ndarray) -> None:
    if answers.ndim != 2 or answers.shape[1] != 3 or not answers[:, 1].any():
        raise DataError(f"{name}: expected [n 3] answers of a masked_lm head with hidden words, got {answers.shape}")


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))


def _correlation(function: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    predictions, labels = predictions.astype(np.float64), labels.astype(np.float64)
    if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        return 0.0
    if _constant(predictions) or _constant(labels):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant values, whose correlation is noise
        value = float(function(predictions, labels).statistic)
    return value if np.isfinite(value) else 0.0
