"""Scores over every row exactly once."""

import jax
import numpy as np
import pytest

from adapters_jax.data.source import as_source
from adapters_jax.data.tokenize import encode
from adapters_jax.errors import TrainingError
from adapters_jax.training.evaluate import evaluate
from adapters_jax.training.step import eval_step


@pytest.fixture
def encoded(job):
    return encode(as_source(job.dev), job.backbone.tokenizer, 16)


def test_every_row_once_whatever_the_batch_size(job, encoded):
    batch = encoded.batch(np.arange(len(encoded)), int(encoded.lengths.max()))
    expected = np.asarray(job.model.apply(job.params, batch).logits)
    labels = np.array([row["label"] for row in job.dev])
    for size in (4, 64):
        metrics, logits = evaluate(job.model, job.params, encoded, ("accuracy", "f1"), size)
        np.testing.assert_allclose(logits, expected, atol=1e-6)
        assert metrics["accuracy"] == np.mean(expected.argmax(-1) == labels) and set(metrics) == {"accuracy", "f1"}


def test_rows_without_labels_share_what_is_compiled(job, encoded):
    forward = eval_step(job.model)
    _, expected = evaluate(job.model, job.params, encoded, (), 8)
    before = forward.compilations
    bare = encode(
        as_source([{"text": r["text"], "text_pair": r["text_pair"]} for r in job.dev]), job.backbone.tokenizer, 16
    )
    metrics, logits = evaluate(job.model, job.params, bare, ("accuracy",), 8)
    assert metrics == {} and forward.compilations == before
    np.testing.assert_array_equal(logits, expected)


def test_logits_that_are_not_finite(job, encoded):
    params = jax.tree.map(lambda leaf: leaf, job.params)
    params["head"] = jax.tree.map(lambda leaf: leaf * np.nan, params["head"])
    with pytest.raises(TrainingError, match="expected finite logits"):
        evaluate(job.model, params, encoded, ("accuracy",))
