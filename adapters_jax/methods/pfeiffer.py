"""Pfeiffer adapters: one bottleneck per layer, after the feed-forward (Pfeiffer et al., 2021, AdapterFusion).

With h the feed-forward's output after its dense layer and dropout, r its input, LN the backbone's own LayerNorm:

    x   = LN(r + h)
    out = LN(r + h + W_up act(W_down x + b_down) + b_up)   W_down [d m], W_up [m d]

The same LayerNorm is applied twice and stays frozen; the residual around the bottleneck is h, from before it.

    adapters/encoder/3/ffn_merge/down/kernel  [d m]   and bias [m], up/kernel [m d], up/bias [d]

Parameters, L (2 d m + m + d), m = d / 16: 894,528 on BERT-base, 3,171,840 on BERT-large. Kernels start at
N(0, 0.02^2), biases at 0. Source: adapter-hub/adapters, `seq_bn`. Deviation: AdapterHub puts a two-layer tanh head on
the raw [CLS]; here every head reads the pooler.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
from jax.nn.initializers import normal

from adapters_jax.methods.base import Recipe
from adapters_jax.methods.bottleneck import AdapterMerge, Bottleneck, BottleneckMethod, Initialiser, Normalise
from adapters_jax.types import Hidden


class PfeifferMerge(AdapterMerge):
    """norm(residual + y + B(norm(residual + y)))."""

    def adapter_input(self, y: Hidden, residual: Hidden, norm: Normalise) -> Hidden:
        return norm(residual + y)


@dataclasses.dataclass(frozen=True)
class Pfeiffer(BottleneckMethod):
    """Pfeiffer et al. (2021), https://arxiv.org/abs/2005.00247. Fields: `BottleneckMethod`; m = d / 16, relu."""

    name: ClassVar[str] = "pfeiffer"

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=1e-4, epochs=10.0, source="adapter-hub/adapters: documentation's defaults")

    def published(self) -> dict[str, Any]:
        return {"reduction_factor": 16.0, "activation": "relu", "layer_norms": False}

    def initialisers(self) -> tuple[Initialiser, Initialiser]:
        return normal(0.02), normal(0.02)

    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        return PfeifferMerge(adapter)
