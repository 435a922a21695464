"""Initial values that several methods take over from torch's dense layers: uniform in +-1 / sqrt(inputs)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.types import Array, Key, Tree

Initialiser = Callable[..., Array]
"""As those of `jax.nn.initializers`: (key, shape, dtype) -> values."""

torch_uniform: Initialiser = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Of kernels: kaiming_uniform(a=sqrt(5)), torch's default."""


def torch_linear(key: Key, inputs: int, outputs: int, fan: int | None = None) -> Tree:
    """A whole dense layer: kernel and bias from U(+-1/sqrt(fan)); fan: its inputs, if not given."""
    bound = (fan or inputs) ** -0.5
    draw = lambda name, shape: jax.random.uniform(trees.fold_path(key, name), shape, jnp.float32, -bound, bound)
    return {"kernel": draw("kernel", (inputs, outputs)), "bias": draw("bias", (outputs,))}
