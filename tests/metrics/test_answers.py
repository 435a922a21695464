"""Scores of answers are those of SQuAD's official rules, on random answers and degenerate ones."""

from pathlib import Path

import numpy as np
import pytest

from adapters_jax.errors import DataError
from adapters_jax.metrics.answers import best_threshold, exact, f1, normalise, score
from parity.answers import CASES, case

THEIRS = {
    "exact": "exact",
    "f1": "f1",
    "exact_answered": "HasAns_exact",
    "f1_answered": "HasAns_f1",
    "exact_unanswerable": "NoAns_exact",
}


def test_a_thousand_random_cases(golden: Path):
    expected = np.load(golden / "answers.npz")
    unanswerable = 0
    for seed in range(CASES):
        answers, nothing, true = case(seed)
        found = score(answers, true)
        for ours, value in found.items():
            assert 100 * value == pytest.approx(expected[THEIRS[ours]][seed], abs=1e-9), (seed, ours)
        has_both = not np.isnan(expected["NoAns_exact"][seed])
        assert ("exact_unanswerable" in found) == has_both, seed
        unanswerable += has_both
        threshold, best = best_threshold(answers, nothing, true)
        assert threshold == expected["best_f1_thresh"][seed], seed
        assert 100 * best == pytest.approx(expected["best_f1"][seed], abs=1e-9), seed
    assert 300 < unanswerable < 700


def test_what_is_compared():
    assert normalise("The  U.S. Navy's\u3000(an) ") == "us navys"
    assert exact("A cat!", "cat") == 1.0 and exact("cats", "cat") == 0.0
    assert f1("the black cat", "black cats") == 0.5
    assert f1("", "the") == 1.0 and f1("the", "cat") == 0.0


def test_nothing_to_score():
    with pytest.raises(DataError, match="expected at least one question"):
        score({}, {})
    with pytest.raises(DataError, match="got none for 'b'"):
        score({"a": "x"}, {"a": ["x"], "b": []})
    assert score({"a": ""}, {"a": []}) == {"exact": 1.0, "f1": 1.0, "exact_unanswerable": 1.0}
