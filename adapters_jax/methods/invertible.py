"""NICE couplings on the embeddings (Dinh et al., 2015): the invertible adapters of MAD-X (Pfeiffer et al., 2020).

With x1, x2 the halves of an embedding, after its LayerNorm and dropout:

    y1 = x1 + F(x2)        y2 = x2 + G(y1)        F, G: d/2 -> d/2/factor -> d/2, with the adapter's activation

The inverse stands in the masked-LM head, between its transform and the tied decoder (`Method.invert`).

    adapters/embed/f/down/kernel [d/2 d/4]  and bias;  f/up;  the same under g

Parameters at factor 2: 296,064 on BERT-base, 525,824 on BERT-large. Kernels start at N(0, 0.02^2), biases at 0, as in
AdapterHub's `nice` blocks: near the identity, not equal to it. Source: adapter-hub/adapters, methods/modeling.py.
"""

import jax.numpy as jnp
from flax import linen as nn

from adapters_jax.bert.ops import ACTIVATIONS
from adapters_jax.slots import Context
from adapters_jax.types import Array, Float, Hidden, Mask


class Half(nn.Module):
    """F or G: [.. d/2] -> [.. d/2]."""

    activation: str
    factor: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
        width = x.shape[-1]
        dense = lambda size, name: nn.Dense(size, name=name, dtype=x.dtype, kernel_init=nn.initializers.normal(0.02))
        return dense(width, "up")(ACTIVATIONS[self.activation](dense(max(1, int(width / self.factor)), "down")(x)))


class Coupling(nn.Module):
    """The coupling at the embeddings, and its inverse."""

    activation: str
    factor: float
    place: str = "encoder"

    def setup(self) -> None:
        self.f, self.g = Half(self.activation, self.factor), Half(self.activation, self.factor)

    def __call__(self, x: Hidden, mask: Mask, ctx: Context) -> tuple[Hidden, Mask]:
        first, second = jnp.split(x, 2, axis=-1)
        first = first + self.f(second)
        return jnp.concatenate([first, second + self.g(first)], -1), mask

    def inverse(self, y: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        first, second = jnp.split(y, 2, axis=-1)
        second = second - self.g(first)
        return jnp.concatenate([first - self.f(second), second], -1)
