"""The unlabelled attachment score: over words, not over rows."""

import numpy as np
import pytest

from adapters_jax.errors import DataError
from adapters_jax.metrics import compute


def test_words_count_alike_whatever_their_sentence():
    answers = np.array([[1, 1], [0, 1], [6, 8]], np.float32)
    assert compute(["uas"], answers, None) == {"uas": 0.7}


@pytest.mark.parametrize("answers", [np.zeros((0, 2)), np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3)])
def test_no_words_are_refused(answers: np.ndarray):
    with pytest.raises(DataError, match="uas: expected .n 2. answers of a dependency head"):
        compute(["uas"], answers, None)
