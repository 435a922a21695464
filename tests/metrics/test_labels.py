"""Scores of several classes per row against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sk

from adapters_jax.errors import DataError
from adapters_jax.metrics import compute

NAMES = ("micro_f1", "macro_f1", "subset_accuracy")
CASES = 1000


def case(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Random predictions and labels; every fifth case has only zeros or ones on a side, or is right throughout."""
    draw = np.random.default_rng(number)
    shape = int(draw.integers(1, 20)), int(draw.integers(2, 7))
    sides = [(draw.random(shape) < draw.random((1, shape[1]))).astype(np.int32) for _ in range(2)]
    if number % 5 == 0:
        sides[number // 5 % 2] = np.full(shape, number // 10 % 2, np.int32)
    if number % 25 == 1:
        sides[1] = sides[0]
    return sides[0], sides[1]


def test_they_are_scikit_learns():
    for number in range(CASES):
        predictions, labels = case(number)
        found = compute(NAMES, predictions, labels.astype(np.float32))
        assert found["micro_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="micro", zero_division=0.0))
        assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="macro", zero_division=0.0))
        assert found["subset_accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))


def test_one_class_and_nothing_anywhere():
    none = np.zeros((3, 1), np.int32)
    assert compute(NAMES, none, none) == {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0}
    assert compute(NAMES, 1 - none, 1 - none) == {"micro_f1": 1.0, "macro_f1": 1.0, "subset_accuracy": 1.0}


def test_macro_f1_of_one_class_per_row_is_what_it_was():
    for number in range(200):
        draw = np.random.default_rng(number)
        predictions, labels = draw.integers(0, 4, (2, 12))
        expected = sk.f1_score(labels, predictions, average="macro", zero_division=0.0)
        assert compute(["macro_f1"], predictions, labels)["macro_f1"] == pytest.approx(expected)


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="expected as many predictions as labels"):
        compute(["micro_f1"], np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(DataError, match="expected as many predictions as labels"):
        compute(["micro_f1"], np.zeros(3), np.zeros(3))
    with pytest.raises(DataError, match="expected as many predictions as labels"):
        compute(["macro_f1"], np.zeros((3, 2)), np.zeros(3))
