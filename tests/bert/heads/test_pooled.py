"""A regression head learns the standardised label and answers on the label's own scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields, testing
from adapters_jax.bert.heads import HEADS
from adapters_jax.data.source import as_source
from adapters_jax.errors import ConfigError
from train import common

TINY = aj.BertConfig.tiny()
SCORES = [{"text": "a", "label": value} for value in (1.0, 2.0, 5.0, 4.0)]


def test_the_loss_is_of_the_standardised_label_and_answers_are_not():
    head = aj.Regression(mean=3.0, deviation=2.0)
    logits = np.array([[0.5], [-1.0]], np.float32)
    loss = head.loss(jnp.asarray(logits), {"labels": jnp.asarray([4.0, 3.0])})
    np.testing.assert_allclose(loss, [0.0, 1.0])
    np.testing.assert_allclose(head.predictions(logits), [4.0, 1.0])
    assert head.decode(logits) == [{"score": 4.0}, {"score": 1.0}]


def test_without_mean_and_deviation_it_is_the_squared_error():
    head = aj.Regression()
    np.testing.assert_allclose(head.loss(jnp.ones((2, 1)), {"labels": jnp.asarray([4.0, 0.0])}), [9.0, 1.0])


def test_jobs_take_both_from_the_rows_trained_on():
    assert common.head_for(as_source(SCORES)) == aj.Regression(mean=3.0, deviation=1.5811)
    assert common.head_for(as_source(SCORES[:1])) == aj.Regression(mean=1.0, deviation=1.0)
    named = [{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}]
    assert common.head_for(as_source(named)) == aj.Classification(labels=("no", "yes"))


def test_they_are_stored_with_the_artefact(tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        backbone = testing.tiny_backbone(tmp_path / "backbone", TINY)
        model = aj.Model(TINY, aj.BitFit(), aj.Regression(mean=2.5, deviation=1.25))
        aj.save_adapter(tmp_path / "adapter", model, model.init(jax.random.key(0), backbone.params), backbone)
        assert aj.load_adapter(tmp_path / "adapter", backbone)[0] == model


@pytest.mark.parametrize("values", [{"deviation": 0.0}, {"deviation": -1.0}, {"mean": float("nan")}])
def test_values_that_cannot_be(values):
    with pytest.raises(ConfigError, match="a finite mean and a deviation above 0"):
        aj.Regression(**values)


@pytest.mark.parametrize("head", [aj.Classification(num_labels=3, own_pooler=True), aj.Regression(own_pooler=True)])
def test_a_pooler_of_its_own_beside_the_backbones(head, tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        backbone = testing.tiny_backbone(tmp_path / "backbone", TINY)
        model = aj.Model(TINY, aj.HeadOnly(), head)
        params = model.init(jax.random.key(0), backbone.params)
        labels = model.labels(params)
        assert set(jax.tree.leaves(labels["head"]["pooler"])) == {"head"}
        assert set(jax.tree.leaves(labels["backbone"]["pooler"])) == {"frozen"}
        batch = testing.fake_batch(TINY)
        output = model.apply(params, batch)
        own = params["head"]["pooler"]
        expected = jnp.tanh(output.hidden[:, 0] @ own["kernel"] + own["bias"][None])
        np.testing.assert_allclose(output.pooled, expected, rtol=1e-6)
        aj.save_adapter(tmp_path / "adapter", model, params, backbone)
        again, loaded = aj.load_adapter(tmp_path / "adapter", backbone)
        assert again == model
        testing.assert_same(loaded["head"], params["head"])


def test_heads_of_manifests_before_own_pooler():
    stored = {key: value for key, value in aj.Classification(num_labels=3).to_dict().items() if key != "own_pooler"}
    assert fields.build("head", HEADS, stored) == aj.Classification(num_labels=3)
