"""Where dropout's random bits come from: on TPUs and GPUs JAX's `rbg`, on CPUs a hash of a counter.

JAX's generators spend a fifth of a training step on CPUs, and most of its compilation. Dropout needs masks that look
random, not a strong generator: here keys are still made and folded by threefry, but a key's bits are

    bits_i = mix(mix(i + k0) xor k1),    mix = MurmurHash3's 32-bit finaliser (Appleby, 2011, public domain)

with i the place in the array and (k0, k1) the key. Every bit depends on every bit of i, k0 and k1, and a value depends
on its place alone, so the masks are the same however an array is sharded.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Unsigned integers of `width` bits, for less than 2^32 places."""
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _mix(_mix(place + key[0]) ^ key[1])
    if width <= 32:
        return bits.astype(jnp.dtype(f"uint{width}"))
    high = _mix(_mix(place + key[1]) ^ key[0])
    return bits.astype(jnp.uint64) | (high.astype(jnp.uint64) << 32)


COUNTER_HASH = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    fold_in=threefry_prng_impl.fold_in,
    random_bits=_random_bits,
    name="counter_hash",
    tag="counter",
)

IMPLEMENTATIONS: dict[str, Any] = {"counter_hash": COUNTER_HASH, "rbg": "rbg", "threefry2x32": "threefry2x32"}
"""By the name that runs record: what `jax.random.key(seed, impl=...)` takes."""


def platform_default() -> str:
    """The name of the fastest generator for dropout on this machine's devices."""
    return "counter_hash" if jax.default_backend() == "cpu" else "rbg"
