"""Dropout's generator on CPUs: its bits look random, across places and across keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters_jax.training.prng import COUNTER_HASH, IMPLEMENTATIONS, platform_default

N = 1 << 20


def key(seed=0, *path):
    made = jax.random.key(seed, impl=COUNTER_HASH)
    for part in path:
        made = jax.random.fold_in(made, part)
    return made


def bits(made, shape=(N,)):
    return np.asarray(jax.random.bits(made, shape))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_bit_is_fair_and_independent_of_its_neighbours(seed):
    drawn = np.unpackbits(bits(key(seed)).view(np.uint8)).reshape(N, 32).astype(np.float32)
    bound = 5 / np.sqrt(N)
    assert np.abs(2 * drawn.mean(0) - 1).max() < bound
    signs = 2 * drawn - 1
    correlation = signs.T @ signs / N - np.eye(32)
    assert np.abs(correlation).max() < bound
    for lag in (1, 2, 12, 128, 768, 4096):
        assert np.abs((signs[lag:] * signs[:-lag]).mean(0)).max() < bound, lag


def test_bytes_are_uniform():
    counts = np.bincount(bits(key(3)).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)


def test_keys_that_differ_in_one_fold_are_unrelated():
    masks = [np.asarray(jax.random.bernoulli(key(0, step, site), 0.9, (N,))) for step in range(4) for site in range(4)]
    signs = np.stack(masks).astype(np.float64) - 0.9
    correlation = np.corrcoef(signs) - np.eye(16)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(N)
    assert np.abs(np.stack(masks).mean(1) - 0.9).max() < 5 * 0.3 / np.sqrt(N)


def test_streams_of_overlapping_counters_are_unrelated():
    """Keys (k0, k1) and (k0 + 1, k1'): the same counters one place on, told apart by the second word."""
    one = jax.random.wrap_key_data(jnp.array([7, 1], jnp.uint32), impl=COUNTER_HASH)
    two = jax.random.wrap_key_data(jnp.array([8, 2], jnp.uint32), impl=COUNTER_HASH)
    a = np.unpackbits(bits(one)[1:].view(np.uint8)).astype(np.float32) - 0.5
    b = np.unpackbits(bits(two)[:-1].view(np.uint8)).astype(np.float32) - 0.5
    assert abs(float((a * b).mean() * 4)) < 5 / np.sqrt(a.size)


def test_a_value_depends_on_its_place_alone():
    np.testing.assert_array_equal(bits(key(1), (4, 6)).reshape(-1), bits(key(1), (24,)))
    np.testing.assert_array_equal(bits(key(1), (24,)), bits(key(1), (48,))[:24])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint16, jnp.uint32])
def test_narrower_integers(dtype):
    drawn = np.asarray(jax.random.bits(key(2), (4096,), dtype))
    assert drawn.dtype == dtype and len(np.unique(drawn)) > 250


def test_every_name_makes_keys():
    assert platform_default() in IMPLEMENTATIONS
    for impl in IMPLEMENTATIONS.values():
        assert jax.random.bernoulli(jax.random.key(0, impl=impl), 0.5, (8,)).shape == (8,)
