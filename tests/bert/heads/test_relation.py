"""The head over marked entities: what it reads, its loss, what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS, Surroundings
from adapters_jax.errors import ConfigError
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

HEAD = aj.Relation(labels=("P19", "P20", "P30"))
MARKS = jnp.array([[1, 4], [2, 0], [1, 1]], jnp.int32)
MARKED = BATCH | {"marks": MARKS}


MODEL = aj.Model(TINY, aj.HeadOnly(), HEAD)
apply = jax.jit(MODEL.apply)


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(MODEL.abstract(BACKBONE)["head"], 3)}


def test_logits_are_a_dense_layer_on_the_states_of_both_marks():
    output = apply(params(), MARKED)
    hidden = np.asarray(output.hidden, np.float64)
    dense = {name: np.asarray(leaf, np.float64) for name, leaf in params()["head"]["classifier"].items()}
    assert dense["kernel"].shape == (32, 3)
    for row, (subject, other) in enumerate(np.asarray(MARKS)):
        both = np.concatenate([hidden[row, subject], hidden[row, other]])
        np.testing.assert_allclose(output.logits[row], both @ dense["kernel"] + dense["bias"], atol=1e-5)


def test_the_order_of_the_marks_matters():
    turned = MARKED | {"marks": MARKS[:, ::-1]}
    first, second = (np.asarray(apply(params(), batch).logits) for batch in (MARKED, turned))
    assert abs(first[:2] - second[:2]).max() > 1e-3
    np.testing.assert_array_equal(first[2], second[2])  # both at the same place


def test_loss_is_the_cross_entropy_of_the_relation():
    logits = np.asarray(apply(params(), MARKED).logits, np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(shares[np.arange(3), np.asarray(BATCH["labels"])])
    total, weight = jax.jit(MODEL.loss)(params(), MARKED)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-5)
    assert float(weight) == 3


def test_dropout_is_on_in_training_only():
    hidden = jnp.ones((3, 12, 16))
    logits = lambda key: HEAD(params()["head"], hidden, Surroundings(BACKBONE, MARKED, key))[0]
    assert float(abs(logits(None) - logits(jax.random.key(0))).max()) > 1e-3
    np.testing.assert_array_equal(logits(None), logits(None))


def test_answers_name_relations():
    answers = np.asarray(jax.jit(MODEL.answers)(params(), MARKED))
    decoded = HEAD.decode(answers)
    assert [row["label"] for row in decoded] == [HEAD.labels[n] for n in answers.argmax(-1)]
    assert all(sum(row["scores"].values()) == pytest.approx(1) for row in decoded)
    assert HEAD.width == 3


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, HEAD.to_dict()) == HEAD
    assert aj.Relation(num_labels=2).labels == ("0", "1")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Relation(), "expected at least 2 classes, each with a name, got 0"),
        (lambda: aj.Relation(num_labels=3, labels=("a", "b")), "expected at least 2 classes"),
        (lambda: aj.Relation(num_labels=2, dropout=1.0), "dropout must be in"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


def test_texts_alone_are_refused():
    """A predictor has no marks to give."""
    with pytest.raises(ConfigError, match="head relation: expected one that answers texts"):
        aj.Predictor(MODEL, params(), None)
