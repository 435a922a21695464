"""The head that tags: its logits and loss by hand, what is kept of a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS, Surroundings
from adapters_jax.bert.heads.tokens import NO_TAG, UNKNOWN
from adapters_jax.errors import ConfigError
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

HEAD = aj.TokenClassification(labels=("O", "B", "I"))
TAGS = np.full((3, 12), NO_TAG, np.int32)
TAGS[0, [1, 2, 4]] = 0, 1, 2
TAGS[1, 1] = 2
TAGGED = {name: value for name, value in BATCH.items() if name != "labels"} | {
    "tags": jnp.asarray(TAGS),
    "weight": jnp.asarray((TAGS >= 0).sum(1).astype(np.float32)),
}
MODEL = aj.Model(TINY, aj.HeadOnly(), HEAD)
loss_of = jax.jit(MODEL.loss)


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(MODEL.abstract(BACKBONE)["head"], 3)}


@functools.cache
def output() -> aj.Output:
    return jax.jit(MODEL.apply)(params(), TAGGED)


def logits_by_hand() -> np.ndarray:
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params()["head"]["classifier"].items()}
    return np.asarray(output().hidden, np.float64) @ p["kernel"] + p["bias"]


def test_logits_are_a_linear_layer_over_every_token():
    assert output().logits.shape == (3, 12, 3)
    np.testing.assert_allclose(np.asarray(output().logits), logits_by_hand(), atol=1e-5)
    np.testing.assert_array_equal(output().pooled, output().hidden[:, 0])


def test_loss_is_the_mean_over_the_tags():
    logits, lost = logits_by_hand(), []
    for row, i in zip(*np.nonzero(TAGS != NO_TAG), strict=True):
        lost.append(np.log(np.exp(logits[row, i]).sum()) - logits[row, i, TAGS[row, i]])
    total, weight = loss_of(params(), TAGGED)
    assert float(weight) == len(lost) == 4
    assert float(total / weight) == pytest.approx(np.mean(lost), rel=1e-5)


def test_rows_without_tags_cost_nothing():
    empty = TAGGED | {"tags": jnp.full((3, 12), NO_TAG), "weight": jnp.zeros(3)}
    total, weight = loss_of(params(), empty)
    assert (float(total), float(weight)) == (0.0, 0.0)
    assert not np.asarray(HEAD.loss(output().logits, empty)).any()


def test_answers_are_classes_and_probabilities_where_there_are_tags():
    answers = np.asarray(HEAD.answers(output().logits, TAGGED))
    logits = logits_by_hand()
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert answers.shape == (3, 2 * 12) and answers.dtype == np.float32
    found = answers.reshape(3, 12, HEAD.width)
    for row, i in np.ndindex(3, 12):
        if TAGS[row, i] == NO_TAG:
            assert list(found[row, i]) == [-1, -1]
        else:
            assert found[row, i, 0] == logits[row, i].argmax()
            assert found[row, i, 1] == pytest.approx(shares[row, i].max(), rel=1e-5)
    np.testing.assert_array_equal(HEAD.predictions(answers), found[:, :, 0])
    decoded = HEAD.decode(answers)
    assert [len(row["tags"]) for row in decoded] == [3, 1, 0]
    assert decoded[0]["tags"] == [HEAD.labels[int(tag)] for tag in found[0, [1, 2, 4], 0]]
    assert decoded[1]["scores"] == [pytest.approx(float(found[1, 1, 1]))]


def test_tags_that_are_asked_for_are_answered_and_cost_nothing():
    asked = TAGGED | {"tags": jnp.where(TAGGED["tags"] == NO_TAG, NO_TAG, UNKNOWN)}
    np.testing.assert_array_equal(HEAD.answers(output().logits, asked), HEAD.answers(output().logits, TAGGED))
    assert not np.asarray(HEAD.loss(output().logits, asked)).any()


def test_dropout_is_on_in_training_only():
    hidden = jnp.ones((3, 12, 16))
    logits = lambda key: HEAD(params()["head"], hidden, Surroundings(BACKBONE, TAGGED, key))[0]
    assert float(abs(logits(None) - logits(jax.random.key(0))).max()) > 1e-3


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, HEAD.to_dict()) == HEAD
    assert HEAD.num_labels == 3
    with pytest.raises(ConfigError, match="at least 2 classes"):
        aj.TokenClassification(num_labels=1)
