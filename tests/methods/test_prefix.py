"""Prefix tuning and P-tuning v2: the definition in numpy, the layout, positions, chosen layers, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from adapters_jax.methods.prefix import PrefixKeyValue
from adapters_jax.slots import Context
from tests.methods import numpy_bert
from tests.methods.tiny import BACKBONE, BATCH, THREE, TINY, run
from tests.methods.tiny import fresh_model as tiny

LENGTH = 5


def prefixes(adapters, layers):
    """Layer -> (keys, values), by the definition: one network, layer by layer, keys before values, head by head."""
    if "prefix" not in adapters:
        flat = trees.to_layers(adapters)
        return {n: tuple(np.asarray(flat[f"encoder/{n}/key_value/{name}"]) for name in "kv") for n in layers}
    part = lambda *path: np.asarray(functools.reduce(lambda tree, name: tree[name], path, adapters["prefix"]), float)
    inner = np.tanh(part("embedding") @ part("down", "kernel") + part("down", "bias"))
    made = inner @ part("up", "kernel") + part("up", "bias")
    d, (n, h) = TINY.hidden_size, (TINY.num_attention_heads, TINY.head_width)
    cut = lambda number: made[:, number * d : (number + 1) * d].reshape(LENGTH, n, h)
    return {layer: (cut(2 * i), cut(2 * i + 1)) for i, layer in enumerate(layers)}


@pytest.mark.parametrize(
    ("method", "layers", "first"),
    [
        (aj.Prefix(length=LENGTH, bottleneck=4), (0, 1, 2), 0),
        (aj.Prefix(length=LENGTH, bottleneck=0), (0, 1, 2), 0),
        (aj.Prefix(length=LENGTH, bottleneck=4, position_offset=True), (0, 1, 2), LENGTH),
        (aj.Prefix(length=LENGTH, bottleneck=4, layers=(0, 2)), (0, 2), 0),
        (aj.Prefix(length=LENGTH, bottleneck=0, layers=(1, 2)), (1, 2), 0),
        (aj.Prefix(length=LENGTH, bottleneck=4, layers=(0, 1, 2)), (0, 1, 2), 0),
        (aj.PTuningV2(length=LENGTH), (0, 1, 2), LENGTH),
        (aj.PTuningV2(length=LENGTH, projection=True, bottleneck=4, layers=(1,)), (1,), LENGTH),
    ],
)
def test_the_definition_and_its_flat_form(method, layers, first):
    model, params = tiny(method)
    own = prefixes(params["adapters"], layers)
    expected = numpy_bert.forward(BACKBONE, TINY, BATCH, prefixes=own, positions=range(first, 64))
    output = run(model, params)
    numpy_bert.assert_tokens_agree(output.hidden, expected, BATCH["mask"])

    flat, adapters = method.flattened(params["adapters"], TINY)
    like = aj.Model(TINY, flat, THREE).abstract(BACKBONE)["adapters"]
    assert jax.tree.structure(adapters) == jax.tree.structure(like)
    same = run(aj.Model(TINY, flat, THREE), params | {"adapters": adapters})
    np.testing.assert_allclose(same.logits, output.logits, atol=1e-6)


def test_the_offset_is_that_of_the_positions():
    """Offset tokens see what tokens without one see where the table of positions is moved up."""
    plain, params = tiny(aj.Prefix(length=LENGTH, bottleneck=0))
    offset = aj.Model(TINY, aj.Prefix(length=LENGTH, bottleneck=0, position_offset=True), THREE)
    embeddings = BACKBONE["embeddings"]
    moved = embeddings | {"positions": jnp.roll(embeddings["positions"], -LENGTH, axis=0)}
    expected = run(plain, params | {"backbone": BACKBONE | {"embeddings": moved}})
    found = run(offset, params)
    np.testing.assert_array_equal(found.hidden, expected.hidden)
    assert float(abs(found.hidden - run(plain, params).hidden).max()) > 1e-3
    assert (plain.max_length, offset.max_length) == (64, 64 - LENGTH)


def test_fresh_values():
    wide = aj.BertConfig.tiny(hidden_size=64, num_attention_heads=4)
    backbone = weights.initialise(jax.random.key(0), wide)
    made = lambda method: aj.Model(wide, method, THREE).init(jax.random.key(0), backbone)["adapters"]
    flat = trees.to_layers(made(aj.PTuningV2(length=30)))
    assert len({np.asarray(leaf).tobytes() for leaf in flat.values()}) == 4  # layers, keys and values all differ
    assert all(abs(float(leaf.std()) - 1) < 0.05 and abs(float(leaf.mean())) < 0.05 for leaf in flat.values())
    network = made(aj.Prefix(length=30, bottleneck=100))["prefix"]
    assert abs(float(network["embedding"].std()) - 1) < 0.05
    for part, bound in (("down", 1 / 8), ("up", 1 / 10)):
        for leaf in network[part].values():
            assert 0.9 * bound < float(abs(leaf).max()) <= bound
            assert abs(float(leaf.std()) * np.sqrt(3) / bound - 1) < 0.15


def test_dropout_is_on_the_prefixes_in_training_alone():
    module = PrefixKeyValue(length=40, dropout=0.5)
    k = jnp.zeros((2, 3, 2, 8))
    mask = jnp.ones((2, 3), bool).at[1, 2].set(False)
    ctx = Context(jnp.zeros((2, 3), int), mask, jnp.zeros((2, 3, 16)), 0)
    params = {"k": jnp.ones((40, 2, 8)), "v": jnp.full((40, 2, 8), 3.0)}
    call = lambda **rngs: module.apply({"params": params}, k, k, mask, ctx, rngs=rngs)
    keys, values, seen = call()
    assert (keys[:, :40] == 1).all() and (values[:, :40] == 3).all() and (keys[:, 40:] == 0).all()
    np.testing.assert_array_equal(seen, np.concatenate([np.ones((2, 40), bool), mask], axis=1))
    keys, values, _ = call(dropout=jax.random.key(0))
    assert set(np.unique(keys[:, :40])) == {0, 2} and set(np.unique(values[:, :40])) == {0, 6}
    assert abs(float((keys[:, :40] == 0).mean()) - 0.5) < 0.05
    assert (keys[0] != keys[1]).any() and ((keys == 0) != (values == 0)).any()


def test_one_network_per_pass_and_all_of_it_trained():
    model, params = tiny(aj.Prefix(length=LENGTH, bottleneck=4))
    labels = model.labels(params)
    assert set(trees.flatten(labels["adapters"]).values()) == {"adapter"}
    assert set(trees.flatten(labels["backbone"]).values()) == {"frozen"}
    assert sorted(trees.flatten(params["adapters"])) == [
        "prefix/down/bias",
        "prefix/down/kernel",
        "prefix/embedding",
        "prefix/up/bias",
        "prefix/up/kernel",
    ]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Prefix(length=0), "method.length: expected a whole number of at least 1, got 0"),
        (lambda: aj.Prefix(bottleneck=-1), "method.bottleneck: expected a whole number of at least 0, got -1"),
        (lambda: aj.Prefix(dropout=1.0), "method.dropout: expected a rate"),
        (lambda: aj.PTuningV2(bottleneck=0), "method.bottleneck: expected a whole number of at least 1, got 0"),
        (lambda: aj.Model(TINY, aj.Prefix(layers=(0, 3)), THREE), "method.layers: expected some of 0 to 2"),
        (lambda: aj.Model(TINY, aj.PTuningV2(length=62), THREE), "method.length: expected at most 61.* got 62"),
        (lambda: aj.Model(TINY, aj.Prefix(length=62, position_offset=True), THREE), "method.length: expected at most"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(ConfigError, match=match) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_prefix_without_offset_may_be_longer_than_the_positions():
    assert aj.Model(TINY, aj.Prefix(length=100, bottleneck=4), THREE).max_length == 64
    assert aj.Model(TINY, aj.PTuningV2(length=61), THREE).max_length == 3


def test_peft_states_this_count():
    """peft's documentation: 370,178 trained parameters of BERT-base with a prefix of 20 and a classifier of 2."""
    base = aj.BertConfig.base()
    summary = aj.Model(base, aj.PTuningV2(length=20), aj.Classification(num_labels=2)).summary(weights.abstract(base))
    assert summary.trained == 370_178
