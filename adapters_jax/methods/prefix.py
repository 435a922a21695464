"""Prefix tuning: trained keys and values in front of each layer's own (Li and Liang, 2021).

With l the prefix length and k, v [t n h] a layer's own keys and values:

    K = [P_k ; k]    V = [P_v ; v]                        P_k, P_v [l n h], the same for every row; never masked
    [P_k ; P_v] of all layers = W_up tanh(W_down E + b_down) + b_up     E [l d], W_down [d m], W_up [m L*2*d]

Once trained, the prefixes are all that is needed: `flattened` drops the network that makes them. With bottleneck=0
(flat) there is none from the start.

    adapters/prefix/embedding    [l d]                    adapters/encoder/3/key_value/k  [l n h]
                   /down/kernel  [d m]                                              /v  [l n h]
                        /bias    [m]                      flat
                   /up/kernel    [m L*2*d]   layer by layer, keys before values
                      /bias      [L*2*d]

Parameters: l d + d m + m + (m + 1) 2 L d, flat 2 L l d. BERT-base, l = 30, m = 512: 9,872,384, flat 552,960;
BERT-large 25,770,496, flat 1,474,560. Embeddings and flat prefixes start at N(0, 1), W and b at U(+-1/sqrt(inputs)).
Source: adapter-hub/adapters, methods/prefix_tuning.py, whose layout is peft's too. Tokens keep their positions, as
there; with `position_offset` they start at l, as peft and P-tuning v2 have it (past keys move BERT's positions).
"""

import abc
import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import normal

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import Dense
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.initial import torch_linear
from adapters_jax.slots import Context, Modules
from adapters_jax.types import Array, Key, Mask, Tree


class PrefixKeyValue(nn.Module):
    """A prefix in front of a layer's keys and values, which every token sees.

    Attributes:
        length: l, of the prefix.
        dropout: on the prefixes, in training; each row draws its own.
    """

    length: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, k: Array, v: Array, mask: Mask, ctx: Context) -> tuple[Array, Array, Array]:
        def extended(name: str, x: Array) -> Array:
            prefix = self.param(name, normal(1.0), (self.length, *x.shape[2:])).astype(x.dtype)
            rows = jnp.broadcast_to(prefix[None], (x.shape[0], *prefix.shape))
            rows = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(rows)
            return jnp.concatenate([rows, x], axis=1)

        seen = jnp.ones((k.shape[0], self.length), bool)
        return extended("k", k), extended("v", v), jnp.concatenate([seen, mask], axis=1)


class PrefixMethod(Method):
    """What prefix tuning and P-tuning v2 share; each says by `width` and `positions` what it is.

    Attributes:
        length: l, of the prefix.
        dropout: on the prefixes, in training.
        layers: those that get a prefix; None for all.
    """

    size: ClassVar[str | None] = "length"
    not_foldable: ClassVar[str] = "its keys and values stand beside the layers' own"
    length: int
    dropout: float

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """m, of the network that makes the prefixes; 0: they are trained themselves."""

    def __post_init__(self) -> None:
        checks.whole("length", self.length)
        checks.rate("dropout", self.dropout)

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {"key_value": PrefixKeyValue(self.length, self.dropout)} if self.lives_in(segment, config) else {}

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        if not self.width:
            return Method.initialise(self, key, config, backbone)
        key, d = trees.fold_path(key, "prefix"), config.hidden_size
        prefixes = len(checks.in_layers(self.layers, config)) * 2 * d
        network = {
            "embedding": jax.random.normal(trees.fold_path(key, "embedding"), (self.length, d), jnp.float32),
            "down": torch_linear(trees.fold_path(key, "down"), d, self.width),
            "up": torch_linear(trees.fold_path(key, "up"), self.width, prefixes),
        }
        return {"prefix": network}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        if not self.width:
            return adapters
        network = adapters["prefix"]
        made = Dense(network["up"])(jnp.tanh(Dense(network["down"])(network["embedding"])))
        made = made.reshape(self.length, -1, 2, config.num_attention_heads, config.head_width)
        k, v = made.transpose(2, 1, 0, 3, 4)
        return {"encoder": _by_runs({"key_value": {"k": k, "v": v}}, self.layers, config)}

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple[Method, Tree]:
        return self.flat(), self.expand(adapters, None, config)

    @abc.abstractmethod
    def flat(self) -> Method:
        """The same method with `width` 0."""


def _by_runs(stacked: Tree, layers: tuple[int, ...] | None, config: BertConfig) -> Tree:
    """Leaves stacked over the chosen layers, as runs of neighbours under the number of their first layer."""
    chosen = checks.in_layers(layers, config)
    if len(chosen) == config.num_hidden_layers:
        return stacked
    borders = (*checks.segments(layers, config), config.num_hidden_layers)
    cut = lambda start, stop: jax.tree.map(lambda leaf: leaf[chosen.index(start) :][: stop - start], stacked)
    return {str(start): cut(start, stop) for start, stop in itertools.pairwise(borders) if start in chosen}


@dataclasses.dataclass(frozen=True)
class Prefix(PrefixMethod):
    """Li and Liang (2021), https://arxiv.org/abs/2101.00190.

    Attributes:
        length: l, of the prefix; 30 in adapters, 5 to 200 in the paper.
        bottleneck: m, of the network that makes the prefixes; 0 trains them themselves.
        position_offset: token positions start at l, not at 0.
        dropout: on the prefixes, in training; none as published.
        layers: those that get a prefix; None for all.
    """

    name: ClassVar[str] = "prefix"
    length: int = 30
    bottleneck: int = 512
    position_offset: bool = False
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        PrefixMethod.__post_init__(self)
        checks.whole("bottleneck", self.bottleneck, least=0)

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=5e-5, epochs=10.0, batch_size=5, source="Li and Liang (2021), section 6.3, on GPT-2")

    @property
    def width(self) -> int:
        return self.bottleneck

    def positions(self, config: BertConfig) -> int:
        return self.length if self.position_offset else 0

    def flat(self) -> Method:
        return dataclasses.replace(self, bottleneck=0)
