"""The head that finds heads: its scores, what it may choose from, its loss, what is kept of a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS, Surroundings
from adapters_jax.bert.heads.dependency import NO_HEAD, NO_WORD
from adapters_jax.errors import ConfigError
from adapters_jax.metrics import compute
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

HEAD = aj.DependencyHead()
HEADS_OF = np.full((3, 12), NO_WORD, np.int32)
HEADS_OF[0, [1, 2, 4]] = 4, 0, 1  # words at 1, 2 and 4; the one at 2 is the root
HEADS_OF[1, [1, 2]] = NO_HEAD, 1  # the head of the first was cut off
WEIGHT = (HEADS_OF >= 0).sum(1).astype(np.float32)
TREES = {name: value for name, value in BATCH.items() if name != "labels"} | {
    "heads": jnp.asarray(HEADS_OF),
    "weight": jnp.asarray(WEIGHT),
}


MODEL = aj.Model(TINY, aj.HeadOnly(), HEAD)


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(MODEL.abstract(BACKBONE)["head"], 3)}


@functools.cache
def output() -> aj.Output:
    return jax.jit(MODEL.apply)(params(), TREES)


loss_of = jax.jit(MODEL.loss)


def scores_by_hand() -> np.ndarray:
    """[b t t] in float64, -inf where nothing may be chosen."""
    p = {
        part: {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
        for part, leaves in params()["head"].items()
    }
    hidden = np.asarray(output().hidden, np.float64)
    scores = np.full((3, 12, 12), -np.inf)
    for row in range(3):
        for i in range(12):
            query = hidden[row, i] @ p["query"]["kernel"] + p["query"]["bias"]
            for j in range(12):
                if j != i and (j == 0 or HEADS_OF[row, j] != NO_WORD):
                    scores[row, i, j] = query @ (hidden[row, j] @ p["key"]["kernel"]) / 4.0
    return scores


def test_scores_are_those_of_one_attention_head_over_first_pieces():
    expected, found = scores_by_hand(), np.asarray(output().logits)
    possible = np.isfinite(expected)
    np.testing.assert_allclose(found[possible], expected[possible], atol=1e-5)
    assert (found[~possible] == np.finfo(np.float32).min).all()


def test_loss_is_the_mean_over_the_words_that_are_scored():
    scores, lost = scores_by_hand(), []
    for row, i in zip(*np.nonzero(HEADS_OF >= 0), strict=True):
        shares = np.exp(scores[row, i]) / np.exp(scores[row, i]).sum()
        lost.append(-np.log(shares[HEADS_OF[row, i]]))
    total, weight = loss_of(params(), TREES)
    assert float(weight) == len(lost) == 4
    assert float(total / weight) == pytest.approx(np.mean(lost), rel=1e-5)


def test_a_row_without_words_costs_nothing():
    empty = TREES | {"heads": jnp.full((3, 12), NO_WORD), "weight": jnp.zeros(3)}
    total, weight = loss_of(params(), empty)
    assert (float(total), float(weight)) == (0.0, 0.0)
    gradients = jax.jit(jax.grad(lambda head: MODEL.loss(params() | {"head": head}, empty)[0]))(params()["head"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_answers_count_the_words_whose_head_is_right():
    logits = np.full((3, 12, 12), -5.0, np.float32)
    logits[0, 1, 4] = logits[0, 2, 0] = logits[0, 4, 2] = 5.0  # two of three
    logits[1, 2, 1] = 5.0
    answers = np.asarray(HEAD.answers(jnp.asarray(logits), TREES))
    np.testing.assert_array_equal(answers, [[2, 3], [1, 1], [0, 0]])
    assert compute(HEAD.metrics, HEAD.predictions(answers), None) == {"uas": 0.75}
    assert HEAD.decode(answers)[0] == {"right": 2, "words": 3}
    assert HEAD.width == answers.shape[1]


def test_words_learn_their_heads():
    """A few steps on the head alone lower the loss: the gradient points the right way."""
    loss = lambda head: MODEL.loss(params() | {"head": head}, TREES)[0]
    head, step = params()["head"], jax.jit(jax.value_and_grad(loss))
    first = None
    for _ in range(20):
        value, gradient = step(head)
        first = float(value) if first is None else first
        head = jax.tree.map(lambda leaf, g: leaf - 0.05 * g, head, gradient)
    assert float(value) < 0.5 * first


def test_dropout_is_on_in_training_only():
    hidden = jnp.ones((3, 12, 16))
    logits = lambda key: HEAD(params()["head"], hidden, Surroundings(BACKBONE, TREES, key))[0]
    assert float(abs(logits(None) - logits(jax.random.key(0))).max()) > 1e-3


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, HEAD.to_dict()) == HEAD
    with pytest.raises(ConfigError, match="dropout must be in"):
        aj.DependencyHead(dropout=-0.1)
