"""No head at all: the encoder's states, and nothing to learn."""

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields
from adapters_jax.bert.heads import HEADS
from adapters_jax.errors import ConfigError
from tests.methods.tiny import BACKBONE, BATCH, TINY

MODEL = aj.Model(TINY, aj.HeadOnly(), aj.NoHead())
PARAMS = {"backbone": BACKBONE, "adapters": {}, "head": {}}


def test_it_gives_the_states_of_the_encoder_and_no_logits():
    found = jax.jit(MODEL.apply)(PARAMS, BATCH)
    tagged = aj.Model(TINY, aj.HeadOnly(), aj.TokenClassification(num_labels=2))
    identity = {"classifier": {"kernel": np.eye(16, 2, dtype="f4"), "bias": np.zeros(2, "f4")}}
    expected = jax.jit(tagged.apply)(PARAMS | {"head": identity}, BATCH).logits
    assert found.logits.shape == (3, 0)
    np.testing.assert_array_equal(found.pooled, found.hidden[:, 0])
    np.testing.assert_allclose(found.hidden[..., :2], expected, atol=1e-6)


def test_it_has_no_leaves_and_no_pooler():
    without = {name: tree for name, tree in BACKBONE.items() if name != "pooler"}
    assert MODEL.abstract(BACKBONE)["head"] == MODEL.abstract(without)["head"] == {}


def test_it_has_nothing_to_learn():
    with pytest.raises(ConfigError, match="head none: has nothing to learn"):
        MODEL.loss(PARAMS, BATCH)
    assert MODEL.head.decode(np.zeros((2, 0))) == [{}, {}]


def test_it_is_stored_and_comes_back():
    assert fields.build("head", HEADS, MODEL.head.to_dict()) == aj.NoHead()
