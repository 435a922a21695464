"""Metrics against their definitions and scikit-learn and scipy, and where they are undefined."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from adapters_jax.errors import ConfigError, DataError
from adapters_jax.metrics import METRICS, compute
from adapters_jax.metrics.scores import LABEL_METRICS

CASES = 1000


def classes(case):
    """A random case: every tenth predicts one class only, every tenth has labels of one class only."""
    draw = np.random.default_rng(case)
    n, k = int(draw.integers(1, 60)), int(draw.integers(2, 4))
    predictions, labels = draw.integers(0, k, n), draw.integers(0, k, n)
    if case % 10 == 0:
        predictions[:] = draw.integers(0, k)
    if case % 10 == 1:
        labels[:] = draw.integers(0, k)
    if case % 10 == 2:
        predictions = labels.copy()
    return predictions, labels


def values(case):
    """A random case, with ties and negative correlations; every tenth has a constant side."""
    draw = np.random.default_rng(case)
    n = int(draw.integers(2, 60))
    labels = np.round(draw.uniform(0, 5, n), int(draw.integers(0, 3)))
    predictions = (draw.normal() * labels + draw.normal(size=n)).astype(np.float32)
    if case % 10 == 0:
        predictions[:] = predictions[0]
    if case % 10 == 1:
        labels[:] = labels[0]
    return predictions, labels


def test_accuracy():
    for case in range(CASES):
        predictions, labels = classes(case)
        assert compute(["accuracy"], predictions, labels)["accuracy"] == pytest.approx(
            sk.accuracy_score(labels, predictions), abs=1e-12
        )


def test_f1_is_that_of_class_one():
    for case in range(CASES):
        predictions, labels = classes(case)
        got = compute(["f1"], predictions, labels)["f1"]
        hits = int(((predictions == 1) & (labels == 1)).sum())
        counted = int((predictions == 1).sum() + (labels == 1).sum())
        assert got == pytest.approx(2 * hits / counted if counted else 0.0, abs=1e-12)
        assert got == pytest.approx(
            sk.f1_score(labels, predictions, labels=[1], average="macro", zero_division=0.0), abs=1e-12
        )


def test_matthews():
    for case in range(CASES):
        predictions, labels = classes(case)
        got = compute(["matthews"], predictions, labels)["matthews"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert got == pytest.approx(sk.matthews_corrcoef(labels, predictions), abs=1e-12)
        if labels.max() <= 1 and predictions.max() <= 1:
            tp, tn = ((predictions == 1) & (labels == 1)).sum(), ((predictions == 0) & (labels == 0)).sum()
            fp, fn = ((predictions == 1) & (labels == 0)).sum(), ((predictions == 0) & (labels == 1)).sum()
            margin = math.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
            assert got == pytest.approx((tp * tn - fp * fn) / margin if margin else 0.0, abs=1e-12)


@pytest.mark.parametrize(("name", "oracle"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_correlations(name, oracle):
    for case in range(CASES):
        predictions, labels = values(case)
        got = compute([name], predictions, labels)[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = float(oracle(predictions.astype(np.float64), labels).statistic)
        assert got == (pytest.approx(expected, abs=1e-12) if math.isfinite(expected) else 0.0)


def test_correlations_by_their_definitions():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=200), draw.integers(0, 6, 200)
    scores = compute(["pearson", "spearman"], x + y, y)

    def ranks(a):
        return np.array([(a < value).sum() + ((a == value).sum() + 1) / 2 for value in a])

    def correlation(a, b):
        a, b = a - a.mean(), b - b.mean()
        return (a @ b) / math.sqrt((a @ a) * (b @ b))

    assert scores["pearson"] == pytest.approx(correlation(x + y, y), abs=1e-12)
    assert scores["spearman"] == pytest.approx(correlation(ranks(x + y), ranks(y)), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([1.0], [2.0]),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
        ([np.nan, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([np.inf, 2.0, 3.0], [1.0, 2.0, 3.0]),
    ],
)
def test_undefined_correlations_are_zero(name, predictions, labels):
    assert compute([name], np.array(predictions), np.array(labels)) == {name: 0.0}


def test_nearly_constant_values_give_a_finite_score():
    predictions = np.array([1.0, 1.0, 1.0 + 2e-16, 1.0])
    for name in ("pearson", "spearman"):
        assert math.isfinite(compute([name], predictions, np.arange(4.0))[name])


def test_undefined_scores_of_classes_are_zero():
    zeros, mixed = np.zeros(4, int), np.array([0, 1, 0, 1])
    assert compute(["matthews", "f1"], zeros, mixed) == {"matthews": 0.0, "f1": 0.0}
    assert compute(["matthews", "f1"], mixed, zeros) == {"matthews": 0.0, "f1": 0.0}
    assert compute(["matthews", "f1", "accuracy"], zeros, zeros) == {"matthews": 0.0, "f1": 0.0, "accuracy": 1.0}


def test_scores_are_fractions_in_the_order_asked():
    scores = compute(["f1", "accuracy"], np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]))
    assert list(scores.items()) == [("f1", pytest.approx(2 / 3)), ("accuracy", 0.75)]
    assert all(type(value) is float for value in scores.values())
    assert {"accuracy", "f1", "matthews", "pearson", "spearman"} <= set(LABEL_METRICS)
    assert set(LABEL_METRICS) < set(METRICS)


def test_bad_input():
    with pytest.raises(ConfigError, match=r"unknown metric 'acuracy': .*did you mean 'accuracy'\?"):
        compute(["acuracy"], np.array([1]), np.array([1]))
    for shapes in ((2, 3), (0, 0)):
        with pytest.raises(DataError, match="expected as many predictions as labels, at least 1"):
            compute(["accuracy"], *map(np.zeros, shapes))
    with pytest.raises(DataError, match=r"expected as many predictions as labels, at least 1, got \(3,\) and \(0,\)"):
        compute(["accuracy"], np.zeros(3), None)
    with pytest.raises(DataError, match="expected as many predictions as labels"):
        compute(["accuracy"], np.zeros((2, 3)), np.zeros((2, 3)))
