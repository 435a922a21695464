"""Heads that compare choices: scores and losses by hand, rows of choices through the encoder, what comes out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax.bert.heads.choices import NO_CHOICE
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

CHOICE = aj.Model(TINY, aj.HeadOnly(), aj.MultipleChoice())
RANKING = aj.Model(TINY, aj.HeadOnly(), aj.Ranking())
K = 2
THERE = np.array([[True, True], [True, True], [True, False]])
IDS = np.stack([np.asarray(BATCH["input_ids"]), np.roll(np.asarray(BATCH["input_ids"]), 1, axis=0)], axis=1)
MASK = np.stack([np.asarray(BATCH["mask"]), np.roll(np.asarray(BATCH["mask"]), 1, axis=0)], axis=1)
ROWS = {
    "input_ids": jnp.asarray(IDS),
    "token_type_ids": jnp.zeros_like(jnp.asarray(IDS)),
    "mask": jnp.asarray(MASK),
    "choices": jnp.asarray(THERE),
    "weight": jnp.ones(3),
}


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(CHOICE.abstract(BACKBONE)["head"], 3)}


@functools.cache
def scores() -> np.ndarray:
    """Each choice alone through a head of one number."""
    alone = aj.Model(TINY, aj.HeadOnly(), aj.Regression())
    flat = {name: ROWS[name].reshape(3 * K, -1) for name in ("input_ids", "token_type_ids", "mask")}
    return np.asarray(jax.jit(alone.apply)(params(), flat).logits).reshape(3, K)


@pytest.mark.parametrize("model", [CHOICE, RANKING])
def test_each_choice_is_scored_as_a_row_of_its_own(model: aj.Model):
    logits = np.asarray(jax.jit(model.apply)(params(), ROWS).logits)
    np.testing.assert_allclose(logits[THERE], scores()[THERE], atol=1e-6)
    assert logits[2, 1] == np.float32(NO_CHOICE)
    np.testing.assert_array_equal(jax.jit(model.answers)(params(), ROWS), logits)


def test_loss_of_a_choice_is_its_cross_entropy_among_those_that_are_there():
    total, weight = jax.jit(CHOICE.loss)(params(), ROWS | {"labels": jnp.array([1, 0, 0])})
    own = scores().astype(np.float64)
    by_hand = [np.log(np.exp(own[0]).sum()) - own[0, 1], np.log(np.exp(own[1]).sum()) - own[1, 0], 0.0]
    assert (float(total), float(weight)) == (pytest.approx(sum(by_hand), rel=1e-5), 3.0)


def test_loss_of_an_order_is_that_of_listnet():
    relevance = np.array([[3.0, 1.0], [0.0, 0.0], [1.0, 7.0]], np.float32)  # the 7 stands where no candidate is
    total, _ = jax.jit(RANKING.loss)(params(), ROWS | {"labels": jnp.asarray(relevance)})
    first = scores()[0].astype(np.float64)
    shares = first - np.log(np.exp(first).sum())
    assert float(total) == pytest.approx(-(0.75 * shares[0] + 0.25 * shares[1]), rel=1e-5)


def test_what_is_chosen():
    answers = np.array([[0.5, 2.0], [1.0, NO_CHOICE]], np.float32)
    first, second = aj.MultipleChoice().decode(answers)
    assert (first["choice"], second["choice"], second["scores"]) == (1, 0, [1.0])
    assert first["scores"] == pytest.approx([1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(-1.5))])
    np.testing.assert_array_equal(aj.MultipleChoice().predictions(answers), [1, 0])


def test_order_has_the_candidates_that_are_there():
    answers = np.array([[0.5, 2.0, -1.0], [1.0, 3.0, NO_CHOICE]], np.float32)
    assert [row["order"] for row in aj.Ranking().decode(answers)] == [[1, 0, 2], [1, 0]]
    assert aj.Ranking().decode(answers)[1]["scores"] == [1.0, 3.0]


def test_members_of_an_ensemble_are_combined():
    model = aj.Model(TINY, aj.Prompt(length=2, ensemble=3), aj.MultipleChoice())
    made = model.init(jax.random.key(0), BACKBONE)
    assert jax.jit(model.answers)(made, ROWS).shape == (3, K)
