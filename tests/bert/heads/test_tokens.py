"""The head that tags: its logits and loss by hand, what it counts, what is kept of a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS, Surroundings
from adapters_jax.bert.heads.tokens import NO_TAG
from adapters_jax.errors import ConfigError
from adapters_jax.metrics import compute
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


def test_answers_count_the_tags_that_are_right():
    logits = np.zeros((3, 12, 3), np.float32)
    logits[0, 1, 0] = logits[0, 2, 1] = logits[0, 4, 0] = logits[1, 1, 2] = 5.0
    answers = np.asarray(HEAD.answers(jnp.asarray(logits), TAGGED))
    np.testing.assert_array_equal(answers, [[2, 3], [1, 1], [0, 0]])
    assert compute(HEAD.metrics, HEAD.predictions(answers), None) == {"tag_accuracy": 0.75}
    assert HEAD.decode(answers)[0] == {"right": 2, "tags": 3}
    assert HEAD.width == answers.shape[1]


def test_dropout_is_on_in_training_only():
    hidden = jnp.ones((3, 12, 16))
    logits = lambda key: HEAD(params()["head"], hidden, Surroundings(BACKBONE, TAGGED, key))[0]
    assert float(abs(logits(None) - logits(jax.random.key(0))).max()) > 1e-3


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, HEAD.to_dict()) == HEAD
    assert HEAD.num_labels == 3
    with pytest.raises(ConfigError, match="at least 2 classes"):
        aj.TokenClassification(num_labels=1)
