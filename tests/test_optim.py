"""Optimisers: only trained leaves move, decay and clipping stay inside, released updates are reproduced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adapters_jax import optim, trees
from adapters_jax.errors import ConfigError

PARAMS = {
    "backbone": {"dense": {"kernel": jnp.full((3, 2), 2.0)}, "norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}},
    "adapters": {"down": {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.full(2, 0.25)}},
    "head": {"kernel": jnp.ones((2, 3))},
}
LABELS = {
    "backbone": {"dense": {"kernel": "frozen"}, "norm": {"scale": "adapter", "bias": "adapter"}},
    "adapters": {"down": {"kernel": "adapter", "bias": "adapter"}},
    "head": {"kernel": "head"},
}
PLAIN = dict(lr=0.1, total_steps=10, warmup=0.0, schedule="constant", weight_decay=0.0, clip_norm=0.0)


def make(name="adamw", **changes):
    tx, rate = optim.make_optimizer(name, **(PLAIN | changes))
    return optim.freeze(tx, LABELS), rate


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize("holes", [True, False])
def test_frozen_leaves_stay_and_hold_no_state(name, holes):
    tx, _ = make(name, weight_decay=0.1, clip_norm=1.0)
    params = trees.split(PARAMS, LABELS)[0] if holes else PARAMS
    state = tx.init(params)
    assert (3, 2) not in [leaf.shape for leaf in jax.tree.leaves(state)]
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    after = optim.apply_updates(params, updates)
    moved = {path.split("/")[-1] for path in trees.diff(params, after)}
    assert moved == {"scale", "bias", "kernel"}
    frozen = trees.flatten(after).get("backbone/dense/kernel")
    assert (frozen is None) == holes
    if not holes:
        np.testing.assert_array_equal(frozen, PARAMS["backbone"]["dense"]["kernel"])


def test_decay_spares_biases_and_layer_norms():
    tx, _ = make(weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    moved = [path for path, leaf in trees.flatten(updates).items() if np.any(leaf)]
    assert moved == ["adapters/down/kernel", "head/kernel"]
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1 * 0.5 * PARAMS["head"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_head_may_have_a_rate_of_its_own(name):
    """Its updates are the others' times the ratio of the rates, schedule and decay included."""
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    found, expected = (
        trees.flatten(tx.update(grads, tx.init(PARAMS), PARAMS)[0])
        for tx, _ in (make(name, weight_decay=0.1, head_lr=0.3), make(name, weight_decay=0.1))
    )
    for path, update in expected.items():
        np.testing.assert_allclose(
            found[path], update * (3 if path.startswith("head/") else 1), rtol=1e-6, err_msg=path
        )


def test_clipping_takes_one_norm_over_all_trained_leaves_and_none_over_frozen_ones():
    tx = optim.freeze(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), LABELS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    trained = 2 + 2 + 4 + 2 + 6
    np.testing.assert_allclose(updates["head"]["kernel"], np.full((2, 3), -1 / np.sqrt(trained)), rtol=1e-6)


def test_adam_without_bias_correction_is_the_released_update():
    """google-research/adapter-bert, optimization.py: m / (sqrt(v) + 1e-6), decay added, times the rate."""
    tx, _ = make("adam_no_bias_correction", weight_decay=0.01)
    params, state = PARAMS, None
    state = tx.init(params)
    p, m, v = np.ones((2, 3)), 0.0, 0.0
    for step in range(3):
        g = np.full((2, 3), 0.3 * (step + 1))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.1 * (m / (np.sqrt(v) + 1e-6) + 0.01 * p)
        grads = jax.tree.map(lambda leaf, s=step: jnp.full_like(leaf, 0.3 * (s + 1)), params)
        updates, state = tx.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params["head"]["kernel"], p, rtol=1e-5)


def test_the_rate_rises_and_falls():
    _, rate = make(lr=1.0, warmup=0.2, schedule="linear")
    np.testing.assert_allclose([rate(s) for s in (0, 1, 2, 6, 10)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
    _, rate = make(lr=1.0, warmup=0.2)
    np.testing.assert_allclose([rate(s) for s in (0, 2, 10)], [0, 1, 1], atol=1e-6)
    _, rate = make(lr=1.0, schedule="linear", total_steps=1)
    assert float(rate(0)) == 1.0


@pytest.mark.parametrize(
    ("change", "match"), [({"name": "adamv"}, "did you mean 'adamw'"), ({"schedule": "cos"}, "linear")]
)
def test_unknown_names_list_the_known(change, match):
    fields = dict(PLAIN) | {"name": "adamw"} | change
    with pytest.raises(ConfigError, match=match):
        optim.make_optimizer(fields.pop("name"), **fields)
