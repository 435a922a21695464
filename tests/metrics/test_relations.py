"""SemEval's official score against a transcription of its scorer, by hand, and against scikit-learn; macro F1."""

from collections import Counter

import numpy as np
import pytest
from sklearn import metrics as sk

from adapters_jax.data.relations import KINDS, SEMEVAL
from adapters_jax.metrics import compute
from adapters_jax.metrics.relations import OTHER

CASES = 500


def official(proposed: list[str], key: list[str]) -> float:
    """semeval2010_task8_scorer-v1.2.pl, section 2.4 and `evaluate` with useWrongDir, on names as it reads them."""
    proposed, key = ([f"_{name}" if name == "Other" else name for name in names] for names in (proposed, key))
    confusion, all_proposed, all_answers = Counter(), Counter(), Counter()
    for label_proposed, label_answer in zip(proposed, key, strict=True):
        proposed_no_dir, answer_no_dir = (name.split("(")[0] for name in (label_proposed, label_answer))
        all_answers[answer_no_dir] += 1
        if label_proposed != label_answer and proposed_no_dir == answer_no_dir:
            proposed_no_dir = "WRONG_DIR"
        confusion[proposed_no_dir, answer_no_dir] += 1
        all_proposed[proposed_no_dir] += 1
    macro_f1 = 0.0
    for answer, count in all_answers.items():
        wrong_direction = confusion["WRONG_DIR", answer]
        right = confusion[answer, answer]
        p = 100.0 * right / (all_proposed[answer] + wrong_direction) if all_proposed[answer] else 0.0
        r = 100.0 * right / count
        if answer != "_Other":
            macro_f1 += 2 * p * r / (p + r) if p + r else 0.0
    distinct = len(all_answers) - ("_Other" in all_answers)
    return macro_f1 / distinct


def numbers(names: list[str]) -> np.ndarray:
    return np.array([SEMEVAL.index(name) for name in names])


def score(proposed: list[str], key: list[str]) -> float:
    return compute(["semeval"], numbers(proposed), numbers(key))["semeval"]


def test_the_order_of_the_classes_is_what_the_metric_counts_on():
    assert len(SEMEVAL) == 19
    assert SEMEVAL[OTHER] == "Other"
    assert [SEMEVAL[2 * kind].split("(")[0] for kind in range(9)] == list(KINDS)
    assert [SEMEVAL[2 * kind + 1] for kind in range(9)] == [f"{name}(e2,e1)" for name in KINDS]


def test_a_confusion_matrix_by_hand():
    """Two relations. Cause-Effect: 4 in the key, 2 right, 1 turned round, 1 missed; 1 Other taken for it: P 2/4, R 2/4.
    Message-Topic: 2 in the key, 1 right, 1 taken for Other: P 1/1, R 1/2. F1 1/2 and 2/3."""
    there, back, topic = "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)"
    key = [there, there, there, back, topic, topic, "Other", "Other"]
    proposed = [there, there, back, "Other", topic, "Other", "Other", there]
    assert score(proposed, key) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_official_scorer():
    for case in range(CASES):
        draw = np.random.default_rng(case)
        rows, classes = int(draw.integers(1, 80)), draw.permutation(19)[: int(draw.integers(2, 20))]
        key = draw.choice(classes, rows)
        proposed = np.where(draw.random(rows) < 0.5, key, draw.choice(classes, rows))
        if (key == OTHER).all():
            continue
        names = [[SEMEVAL[number] for number in side] for side in (proposed, key)]
        assert compute(["semeval"], proposed, key)["semeval"] == pytest.approx(official(*names) / 100, abs=1e-12)


def test_without_wrong_directions_it_is_scikit_learns_macro_f1():
    """Where no relation is turned round, the official score is F1 over relations, averaged without Other."""
    for case in range(100):
        draw = np.random.default_rng(case)
        kinds, guessed = draw.integers(0, 10, 60), draw.integers(0, 10, 60)
        way = draw.integers(0, 2, 60)
        number = lambda kind, way=way: np.where(kind == 9, OTHER, 2 * kind + way)
        present = [kind for kind in range(9) if (kinds == kind).any()]
        expected = sk.f1_score(kinds, guessed, labels=present, average="macro", zero_division=0.0)
        assert compute(["semeval"], number(guessed), number(kinds))["semeval"] == pytest.approx(expected, abs=1e-12)


def test_direction_counts_and_other_alone_scores_nothing():
    there, back = "Entity-Origin(e1,e2)", "Entity-Origin(e2,e1)"
    assert score([there, back], [there, back]) == 1.0
    assert score([back, there], [there, back]) == 0.0
    assert score(["Other", "Other"], ["Other", "Other"]) == 0.0


def test_macro_f1():
    for case in range(100):
        draw = np.random.default_rng(case)
        predictions, labels = draw.integers(0, 5, 40), draw.integers(0, 4, 40)
        one = lambda c, p=predictions, y=labels: 2 * ((p == c) & (y == c)).sum() / ((p == c).sum() + (y == c).sum())
        seen = np.union1d(predictions, labels)
        found = compute(["macro_f1"], predictions, labels)["macro_f1"]
        assert found == pytest.approx(np.mean([one(c) for c in seen]), abs=1e-12)
