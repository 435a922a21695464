"""Trees: paths, holes, runs of layers, layer-numbered names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adapters_jax import trees
from adapters_jax.errors import AdapterError

PARAMS = {
    "backbone": {
        "embeddings": {"words": jnp.ones((5, 4))},
        "encoder": {"query": {"kernel": jnp.arange(48.0).reshape(3, 4, 4)}},
    },
    "adapters": {"encoder": {"1": {"ffn_merge": {"up": jnp.arange(8.0).reshape(2, 4)}}}},
    "head": {"bias": jnp.zeros(3)},
}
LABELS = {
    "backbone": {"embeddings": {"words": "frozen"}, "encoder": {"query": {"kernel": "adapter"}}},
    "adapters": {"encoder": {"1": {"ffn_merge": {"up": "frozen"}}}},
    "head": {"bias": "head"},
}


def test_flatten_and_back():
    flat = trees.flatten(PARAMS)
    assert list(flat) == [
        "backbone/embeddings/words",
        "backbone/encoder/query/kernel",
        "adapters/encoder/1/ffn_merge/up",
        "head/bias",
    ]
    assert jax.tree.structure(trees.unflatten(flat)) == jax.tree.structure(PARAMS)


def test_split_leaves_holes_and_join_fills_them():
    trained, frozen = trees.split(PARAMS, LABELS)
    assert list(trees.flatten(trained)) == ["backbone/encoder/query/kernel", "head/bias"]
    assert isinstance(trained["backbone"]["embeddings"]["words"], optax.MaskedNode)
    assert trees.count(trained) == 51 and trees.count(frozen) == 28
    assert not trees.diff(trees.join(trained, frozen), PARAMS)


def test_layers_carry_their_number_whatever_the_runs():
    flat = trees.to_layers(PARAMS)
    assert list(flat) == [
        "backbone/embeddings/words",
        *(f"backbone/encoder/{i}/query/kernel" for i in range(3)),
        *(f"adapters/encoder/{i}/ffn_merge/up" for i in (1, 2)),
        "head/bias",
    ]
    np.testing.assert_array_equal(flat["adapters/encoder/2/ffn_merge/up"], [4, 5, 6, 7])
    assert not trees.diff(trees.from_layers(flat, PARAMS), PARAMS)
    cut = PARAMS["backbone"]["encoder"]
    in_runs = PARAMS | {"backbone": PARAMS["backbone"] | {"encoder": trees.split_runs(cut, 3, [0, 2])}}
    assert not trees.diff(in_runs, PARAMS)


def test_from_layers_names_every_misfit():
    flat = trees.to_layers(PARAMS)
    del flat["head/bias"]
    flat["head/offset"] = jnp.zeros(1)
    flat["backbone/encoder/1/query/kernel"] = jnp.zeros((4, 5))
    flat["backbone/embeddings/words"] = jnp.ones((5, 4), jnp.bfloat16)
    with pytest.raises(AdapterError) as error:
        trees.from_layers(flat, PARAMS)
    for part in (
        "missing head/bias",
        "unexpected head/offset",
        "query/kernel is float32[4, 5], expected float32[4, 4]",
        "words is bfloat16[5, 4], expected float32[5, 4]",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_and_cuts():
    encoder = {"0": {"a": jnp.arange(2)}, "2": {"a": jnp.arange(2, 5)}}
    assert [(a, b) for a, b, _ in trees.runs(encoder, 5)] == [(0, 2), (2, 5)]
    np.testing.assert_array_equal(trees.cut(encoder, 5, 3, 5)["a"], [3, 4])
    np.testing.assert_array_equal(trees.cut({"a": jnp.arange(5)}, 5, 1, 3)["a"], [1, 2])
    assert trees.cut({"2": {"a": jnp.arange(3)}}, 5, 0, 2) == {}
    assert trees.cut({"0": {"a": jnp.arange(3)}}, 5, 3, 5) == {}


def test_diff_sees_a_single_bit_and_signed_zero():
    a = {"x": np.zeros(3, np.float32)}
    b = {"x": np.array([0, -0.0, 0], np.float32)}
    assert trees.diff(a, b) == ["x"]
    assert trees.diff(a, {"x": np.zeros(3, np.float64)}) == ["x"]
    assert trees.diff(a, {}) == ["x"]
    assert trees.diff(a, {"x": jnp.zeros(3)}) == []


def test_keys_depend_on_the_path_alone():
    key = jax.random.key(0)
    same = lambda a, b: bool(jnp.all(jax.random.key_data(a) == jax.random.key_data(b)))
    assert same(trees.fold_path(key, "a", 1), trees.fold_path(trees.fold_path(key, "a"), 1))
    assert not same(trees.fold_path(key, "a"), trees.fold_path(key, "b"))
    traced = jax.jit(lambda n: jax.random.key_data(trees.fold_path(key, "a", n)))(1)
    np.testing.assert_array_equal(traced, jax.random.key_data(trees.fold_path(key, "a", 1)))
