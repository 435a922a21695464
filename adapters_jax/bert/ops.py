"""The arithmetic of a BERT layer: dense layers, LayerNorm, activations, dropout, attention, pooling."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from adapters_jax.bert import quant
from adapters_jax.types import BATCH_AXES, Array, Bool, Float, Hidden, Ids, Key, Tree

ACTIVATIONS: dict[str, Callable[[Any], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "swish": jax.nn.silu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}
"""By Hugging Face's names, where it has one: "gelu" is the exact form (erf), "gelu_new" the tanh form of BERT's first
release."""


def across(vector: Float[Array, " d"], x: Array) -> Array:
    """The vector as an array of x's rank, in x's type, to be combined with its last axis."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Dense:
    """A linear layer of the backbone, as slots see it: callable, with its kernel [in out] and bias [out].

    Nothing else computes with quantised kernels (quant.py); `kernel()` gives them in float32.
    """

    params: Tree

    def kernel(self) -> Float[Array, "i o"]:
        kernel = self.params["kernel"]
        return kernel.kernel() if isinstance(kernel, quant.Quantised) else kernel

    @property
    def bias(self) -> Float[Array, " o"]:
        return self.params["bias"]

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        kernel = self.params["kernel"]
        y = quant.product(x, kernel) if isinstance(kernel, quant.Quantised) else x @ kernel.astype(x.dtype)
        return y + across(self.bias, x)


@dataclasses.dataclass(frozen=True)
class Norm:
    """A LayerNorm of the backbone: statistics in float32, the result in the input's type."""

    params: Tree
    eps: float

    def __call__(self, x: Hidden) -> Hidden:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.eps)
        return (normal * across(self.params["scale"], normal) + across(self.params["bias"], normal)).astype(x.dtype)


def by_rows(x: Hidden) -> Hidden:
    """Where a mesh of devices is set, x with its rows split over the axes of batches, and whole otherwise.

    Said once a layer, it makes the compiler fetch weights that are split over these axes, instead of moving x.
    """
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES)) if _on_mesh() else x


def looked_up(table: Float[Array, "v d"], ids: Ids) -> Hidden:
    """Rows of the word embeddings.

    On a mesh over whose second axis of batches their width is split, every device looks up its part of the width for
    the rows of all that share them, and then they exchange; the compiler by itself would copy all rows to all devices.
    """
    if not _on_mesh():
        return table[ids]
    split = BATCH_AXES[1]

    def part(table: Array, ids: Array) -> jax.Array:
        found = table[jax.lax.all_gather(ids, split, tiled=True)]
        return jax.lax.all_to_all(found, split, split_axis=0, concat_axis=2, tiled=True)

    return jax.shard_map(part, in_specs=(P(None, split), P(BATCH_AXES)), out_specs=P(BATCH_AXES))(table, ids)


def _on_mesh() -> bool:
    return set(BATCH_AXES) <= set(jax.sharding.get_abstract_mesh().axis_names)


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Inverted dropout; the identity outside training (key None) or at rate 0."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b u n h"],
    v: Float[Array, "b u n h"],
    mask: Bool[Array, "b u"],
    rate: float,
    key: Key | None,
) -> Float[Array, "b t n h"]:
    """softmax(q k / sqrt(h)) v over the tokens that `mask` [b u] shows; softmax in float32, dropout on its result.

    A row with nothing to attend to attends evenly: finite, and of no account to the caller.
    """
    with jax.named_scope("attend"):
        # Heads before tokens: on CPUs three times as fast as leaving the order to the compiler.
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
        scores = jnp.einsum("bnth,bnuh->bntu", q, k).astype(jnp.float32)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores), rate, key).astype(q.dtype)
        return jnp.einsum("bntu,bnuh->bnth", weights, v).transpose(0, 2, 1, 3)


def pool(params: Tree, hidden: Hidden) -> Float[Array, "b d"]:
    """BERT's pooler: tanh of a dense layer on row 0, which is [CLS]."""
    return jnp.tanh(Dense(params)(hidden[:, 0]))
