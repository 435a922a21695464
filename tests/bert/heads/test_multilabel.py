"""The head over any number of classes at once: its loss, its answers, what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS
from adapters_jax.errors import ConfigError
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

HEAD = aj.MultiLabel(labels=("art", "sport", "war"))
LABELS = jnp.asarray([[1, 0, 1], [0, 0, 0], [1, 1, 1]], jnp.float32)
MODEL = aj.Model(TINY, aj.HeadOnly(), HEAD)


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(MODEL.abstract(BACKBONE)["head"], 3)}


def logits() -> np.ndarray:
    return np.asarray(jax.jit(MODEL.apply)(params(), BATCH).logits)


def test_the_loss_is_the_mean_of_the_classes_cross_entropies():
    total, weight = jax.jit(MODEL.loss)(params(), BATCH | {"labels": LABELS})
    shares = 1 / (1 + np.exp(-logits().astype(np.float64)))
    expected = log_loss(np.asarray(LABELS).ravel(), shares.ravel(), labels=[0, 1])
    assert float(total) / float(weight) == pytest.approx(expected, rel=1e-5)


def test_positive_weights_count_the_rows_with_a_class_more():
    found = np.array([[0.3, -2.0, 1.0]], np.float32)
    batch = {"labels": jnp.asarray([[1.0, 1.0, 0.0]])}
    shares = 1 / (1 + np.exp(-found[0].astype(np.float64)))
    plain = [-np.log(shares[0]), -np.log(shares[1]), -np.log(1 - shares[2])]
    weighted = aj.MultiLabel(labels=("a", "b", "c"), positive_weights=(2.0, 0.5, 9.0))
    assert float(HEAD.loss(jnp.asarray(found), batch)[0]) == pytest.approx(np.mean(plain), rel=1e-6)
    expected = (2 * plain[0] + 0.5 * plain[1] + plain[2]) / 3
    assert float(weighted.loss(jnp.asarray(found), batch)[0]) == pytest.approx(expected, rel=1e-6)


def test_logits_of_any_size_have_a_finite_loss_and_gradient():
    far = jnp.asarray([[1e4, -1e4, 0.0]])
    loss = lambda x: HEAD.loss(x, {"labels": jnp.asarray([[0.0, 1.0, 1.0]])}).sum()
    assert np.isfinite(loss(far)) and np.isfinite(jax.grad(loss)(far)).all()
    assert HEAD.decode(np.asarray(far, np.float32))[0]["scores"] == {"art": 1.0, "sport": 0.0, "war": 0.5}


def test_answers_name_the_classes_from_the_threshold_on():
    answers = np.array([[0.0, -0.1, 2.0], [-1.0, -1.0, -1.0]], np.float32)
    assert HEAD.predictions(answers).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert [row["labels"] for row in HEAD.decode(answers)] == [["art", "war"], []]
    assert HEAD.decode(answers)[1]["scores"]["war"] == pytest.approx(1 / (1 + np.e))
    strict = aj.MultiLabel(labels=HEAD.labels, threshold=0.8)
    assert [row["labels"] for row in strict.decode(answers)] == [["war"], []]


def test_it_is_stored_and_comes_back():
    head = aj.MultiLabel(labels=("a",), positive_weights=(2.0,), threshold=0.3)
    assert fields.build("head", HEADS, head.to_dict()) == head
    assert aj.MultiLabel(num_labels=2).labels == ("0", "1")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "expected classes, each with a name, got 0"),
        ({"num_labels": 3, "labels": ("a", "b")}, "expected classes, each with a name, got 3"),
        ({"num_labels": 2, "positive_weights": (1.0,)}, "expected 2 positive_weights above 0, or none"),
        ({"num_labels": 1, "positive_weights": (0.0,)}, "expected 1 positive_weights above 0, or none"),
        ({"num_labels": 1, "threshold": 1.0}, r"threshold must be in \(0, 1\)"),
        ({"num_labels": 1, "dropout": 1.0}, "dropout must be in"),
    ],
)
def test_bad_values_are_one_clear_line(given, match):
    with pytest.raises(ConfigError, match=match):
        aj.MultiLabel(**given)


def test_a_predictor_answers_with_it(minilm):
    model = aj.Model(minilm.config, aj.HeadOnly(), HEAD)
    with jax.numpy_dtype_promotion("standard"):
        predictor = aj.Predictor(model, model.init(jax.random.key(0), minilm.params), minilm, max_length=16)
        (answer,) = predictor(["a text"])
    assert set(answer) == {"labels", "scores"} and list(answer["scores"]) == ["art", "sport", "war"]
