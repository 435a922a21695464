"""Parallel adapters: a bottleneck beside the feed-forward, scaled (He et al., 2022).

With h the feed-forward's output after its dense layer and dropout, r its input, s the scale:

    out = LayerNorm(r + h + s (W_up act(W_down r + b_down) + b_up))        W_down [d m], W_up [m d]

`Parallel` holds s fixed (4, as published); `ScaledParallel` trains it from 1: a scalar, or one for each channel.

    adapters/encoder/3/ffn_merge/down/kernel  [d m]   and bias [m], up/kernel [m d], up/bias [d]
                                /scale        [] or [d], of ScaledParallel

Parameters, L (2 d m + m + d), m = d / 2: 7,091,712 on BERT-base, 25,202,688 on BERT-large; a trained scale adds L, or
L d.
W_down starts uniform in +-1 / sqrt(d), W_up at 0, so that a fresh adapter changes nothing.
Source: adapter-hub/adapters, `par_bn`; He et al., section 4.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn

from adapters_jax.bert.ops import across
from adapters_jax.methods import checks
from adapters_jax.methods.base import Recipe
from adapters_jax.methods.bottleneck import (
    AdapterMerge,
    Bottleneck,
    BottleneckMethod,
    Initialiser,
    Normalise,
)
from adapters_jax.methods.initial import torch_uniform
from adapters_jax.slots import Context
from adapters_jax.types import Hidden

RECIPE = Recipe(
    lr=1e-4, epochs=10.0, warmup=0.06, weight_decay=0.1, source="He et al. (2022), appendix A: MNLI and SST-2"
)


class ParallelMerge(AdapterMerge):
    """norm(residual + y + scale B(residual))."""

    scale: float = 4.0

    def adapter_input(self, y: Hidden, residual: Hidden, norm: Normalise) -> Hidden:
        return residual

    def delta(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        return self.scale * self.adapter(residual)


class ScaledMerge(ParallelMerge):
    """The same, with a trained scale that starts at `scale`."""

    channels: bool = False

    @nn.compact
    def delta(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        shape = (y.shape[-1],) if self.channels else ()
        scale = self.param("scale", nn.initializers.constant(self.scale), shape)
        return across(scale.reshape(-1), y) * self.adapter(residual)


@dataclasses.dataclass(frozen=True)
class Parallel(BottleneckMethod):
    """He et al. (2022), https://arxiv.org/abs/2110.04366. Fields: `BottleneckMethod`; m = d / 2, relu.

    Attributes:
        scale: s, fixed.
    """

    name: ClassVar[str] = "parallel"
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("scale", self.scale, above=0.0)

    @property
    def recipe(self) -> Recipe:
        return RECIPE

    def published(self) -> dict[str, Any]:
        return {"reduction_factor": 2.0, "activation": "relu", "layer_norms": False}

    def initialisers(self) -> tuple[Initialiser, Initialiser]:
        return torch_uniform, nn.initializers.zeros

    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        return ParallelMerge(adapter, self.scale)


@dataclasses.dataclass(frozen=True)
class ScaledParallel(Parallel):
    """The same with a trained scale.

    Attributes:
        scale: where s starts.
        channels: one s for each channel instead of one for each layer.
    """

    name: ClassVar[str] = "scaled_parallel"
    scale: float = 1.0
    channels: bool = False

    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        return ScaledMerge(adapter, self.scale, self.channels)
