"""The head that finds answers: its logits, its loss and the spans it keeps, each by brute force."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS
from adapters_jax.bert.heads.question_answering import INSIDE, LOWEST, NOWHERE, OUTSIDE, START
from adapters_jax.errors import ConfigError, DataError
from tests.methods.tiny import BACKBONE, BATCH, TINY, drawn

HEAD = aj.QuestionAnswering(n_best=5, max_answer_tokens=4)
MODEL = aj.Model(TINY, aj.HeadOnly(), HEAD)
CONTEXT = np.full((3, 12), OUTSIDE, np.int32)
CONTEXT[:, 0] = INSIDE
CONTEXT[0, 4:11] = START
CONTEXT[0, 8:11] = INSIDE  # these count in another window
CONTEXT[1, 5:7] = START  # the last row has no context at all
ANSWER = np.array([[5, 6], [0, 0], [0, 0]], np.int32)
ROWS = {name: value for name, value in BATCH.items() if name != "labels"} | {
    "context": jnp.asarray(CONTEXT),
    "answer": jnp.asarray(ANSWER),
}
loss_of = jax.jit(MODEL.loss)


@functools.cache
def params() -> dict:
    return {"backbone": BACKBONE, "adapters": {}, "head": drawn(MODEL.abstract(BACKBONE)["head"], 3)}


@functools.cache
def output() -> aj.Output:
    return jax.jit(MODEL.apply)(params(), ROWS)


def spans(logits: np.ndarray, context: np.ndarray, longest: int) -> list[tuple[float, int, int]]:
    """All that may be an answer in a row, best first."""
    found = [
        (float(np.float32(logits[i, 0]) + np.float32(logits[j, 1])), i, j)
        for i in range(len(context))
        for j in range(i, min(i + longest, len(context)))
        if context[i] == START and context[j] != OUTSIDE
    ]
    return sorted(found, key=lambda span: (-span[0], span[1], span[2]))


def test_logits_are_a_linear_layer_over_every_token():
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params()["head"]["qa_outputs"].items()}
    assert p["kernel"].shape == (16, 2) and p["bias"].shape == (2,)
    by_hand = np.asarray(output().hidden, np.float64) @ p["kernel"] + p["bias"]
    assert output().logits.shape == (3, 12, 2)
    np.testing.assert_allclose(np.asarray(output().logits), by_hand, atol=1e-5)
    np.testing.assert_array_equal(output().pooled, output().hidden[:, 0])


def test_loss_is_the_mean_cross_entropy_over_what_may_be_an_answer():
    logits, lost = np.asarray(output().logits, np.float64), []
    for row in range(3):
        possible = np.flatnonzero(CONTEXT[row])
        for side in (0, 1):
            among = logits[row, possible, side]
            lost.append(np.log(np.exp(among).sum()) - logits[row, ANSWER[row, side], side])
    total, weight = loss_of(params(), ROWS)
    assert float(weight) == 3
    assert float(total) == pytest.approx(np.sum(lost) / 2, rel=1e-5)


def test_what_is_no_context_does_not_change_the_loss():
    logits = np.random.default_rng(0).normal(size=(3, 12, 2)).astype(np.float32)
    before = HEAD.loss(jnp.asarray(logits), ROWS)
    logits[CONTEXT == OUTSIDE] += 50.0
    np.testing.assert_array_equal(HEAD.loss(jnp.asarray(logits), ROWS), before)
    gradient = jax.grad(lambda given: HEAD.loss(given, ROWS).sum())(jnp.asarray(logits))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[CONTEXT == OUTSIDE].any()


def test_rows_without_answers_are_refused_in_training_alone():
    bare = {name: value for name, value in ROWS.items() if name != "answer"}
    with pytest.raises(DataError, match="expected rows with answers to learn from"):
        MODEL.loss(params(), bare)
    np.testing.assert_array_equal(MODEL.answers(params(), bare), MODEL.answers(params(), ROWS))


@pytest.mark.parametrize(("n_best", "longest"), [(1, 1), (5, 4), (20, 30), (3, 12), (50, 2)])
def test_answers_are_the_best_of_all_spans(n_best: int, longest: int):
    """Against every pair, in random contexts; what is too long, starts in another window or leaves the text is none."""
    rng = np.random.default_rng(n_best)
    head = aj.QuestionAnswering(n_best=n_best, max_answer_tokens=longest)
    answers = jax.jit(lambda logits, context: head.answers(logits, {"context": context}))
    fewer = 0
    for _ in range(20):
        logits = rng.normal(size=(3, 12, 2)).astype(np.float32)
        context = np.zeros((3, 12), np.int32)
        for row in range(3):
            start, end = sorted(rng.integers(1, 13, 2))
            context[row, start:end] = rng.integers(INSIDE, START + 1, end - start)
        context[:, 0] = INSIDE
        found = np.asarray(answers(jnp.asarray(logits), jnp.asarray(context)))
        assert found.shape == (3, head.width) and found.dtype == np.float32
        for row in range(3):
            expected = spans(logits[row], context[row], longest)[:n_best]
            triples = found[row, :-1].reshape(n_best, 3)
            assert [(int(i), int(j)) for i, j, _ in triples[: len(expected)]] == [(i, j) for _, i, j in expected]
            np.testing.assert_allclose(triples[: len(expected), 2], [score for score, _, _ in expected], rtol=1e-6)
            assert (triples[len(expected) :] == np.array([NOWHERE, NOWHERE, LOWEST], np.float32)).all()
            fewer += len(expected) < n_best
            assert found[row, -1] == logits[row, 0].sum()
    assert fewer or (n_best, longest) == (1, 1)


def test_logits_that_are_not_finite_show_in_the_answers():
    logits = np.zeros((3, 12, 2), np.float32)
    logits[0, 5] = np.nan
    assert np.isnan(np.asarray(HEAD.answers(jnp.asarray(logits), ROWS))[0]).any()


def test_it_learns_where_the_answer_is():
    loss = lambda head: MODEL.loss(params() | {"head": head}, ROWS)[0]
    head, step = params()["head"], jax.jit(jax.value_and_grad(loss))
    first = float(step(head)[0])
    for _ in range(50):
        value, gradient = step(head)
        head = jax.tree.map(lambda leaf, g: leaf - 0.05 * g, head, gradient)
    assert float(value) < 0.5 * first


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, HEAD.to_dict()) == HEAD
    for name in ("n_best", "max_answer_tokens"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
            aj.QuestionAnswering(**{name: 0})
    row = np.array([[4, 5, 2.5, 1.0]], np.float32)
    assert HEAD.decode(row) == [{"first": 4, "last": 5, "score": 2.5, "no_answer_score": 1.0}]


def test_several_members_answer_by_their_mean():
    logits = np.random.default_rng(1).normal(size=(2, 3, 12, 2)).astype(np.float32)
    np.testing.assert_allclose(HEAD.combine(jnp.asarray(logits), "majority"), logits.mean(0), atol=1e-6)
