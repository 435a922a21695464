"""The single-adapter variant of Lin et al. (2020): one bottleneck after each layer, with a LayerNorm of its own.

With z the layer's output:

    out = z + W_up act(W_down LN_a(z) + b_down) + b_up     W_down [d m], W_up [m d], LN_a new, from scale 1 and bias 0

    adapters/encoder/3/ffn_merge/norm/scale   [d]     and bias [d]
                                /down/kernel  [d m]   and bias [m], up/kernel [m d], up/bias [d]

Parameters, L (2 d m + m + 3 d), m = d / 16: 912,960 on BERT-base, 3,220,992 on BERT-large.

Source: Lin, Madotto and Fung (2020), https://arxiv.org/abs/2004.03829, section 2. The paper tunes GPT-2 and says
nothing of initial values: W_down starts uniform in +-1 / sqrt(d), W_up at 0, so that a fresh adapter changes nothing.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn

from adapters_jax.methods.base import Recipe
from adapters_jax.methods.bottleneck import Bottleneck, BottleneckMethod, Initialiser, Normalise
from adapters_jax.methods.initial import torch_uniform
from adapters_jax.slots import Context
from adapters_jax.types import Hidden


class LinMerge(nn.Module):
    """z + B(z), z = norm(residual + y)."""

    adapter: Bottleneck

    def setup(self) -> None:
        nn.share_scope(self, self.adapter)

    def __call__(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        z = norm(residual + y)
        return z + self.adapter(z)


@dataclasses.dataclass(frozen=True)
class Lin(BottleneckMethod):
    """Lin et al. (2020). Fields: `BottleneckMethod`; m = d / 16, relu, with the adapter's own LayerNorm."""

    name: ClassVar[str] = "lin"
    inner_norm: bool = True

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=1e-4, epochs=10.0, source="none published for BERT; adapter-hub/adapters' defaults")

    def published(self) -> dict[str, Any]:
        return {"reduction_factor": 16.0, "activation": "relu", "layer_norms": False}

    def initialisers(self) -> tuple[Initialiser, Initialiser]:
        return torch_uniform, nn.initializers.zeros

    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        return LinMerge(adapter)
