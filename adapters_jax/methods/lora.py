"""LoRA: a low-rank change beside a dense layer (Hu et al., 2022); DoRA: its columns rescaled (Liu et al., 2024).

With x a dense layer's input, W [in out] and b its weights, r the rank:

    y = x W + b + s dropout(x) A B                    A [in r], B [r out]; s = alpha / r, or alpha / sqrt(r)

    DoRA: V = W + s A B;  c = m / |V|                 |V| [out]: the norm of each column, without gradient
          y = x W + b + (c - 1) (x' W) + c s x' A B   x' = dropout(x); without dropout, y = c (x V) + b

At initialisation B is 0 and m is the norm of W's columns: exactly the plain backbone.

    adapters/encoder/3/query/a          [in r]
                            /b          [r out]
                            /magnitude  [out]     DoRA's m
             and the same under every other slot; kernels here are [in out], so that DoRA's "row of V" is a column

Parameters, r (in + out) for each dense layer, and out more with DoRA. Rank 8 on query and value: BERT-base 294,912,
BERT-large 786,432; with DoRA 313,344 and 835,584.

Source: microsoft/LoRA, loralib/layers.py and examples/NLU; peft for the rank-stabilised scale (Kalajdzievski, 2023),
for a rank and alpha for each slot, and for what DoRA does with dropout: the plain product sees x whole, what is added
to it sees dropout(x). Differences: the release's RoBERTa trains its own dense layer in the head, here the head is the
pooled [CLS] of a frozen pooler; the norm is taken in float32 whatever the computation's type.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import Dense, across
from adapters_jax.errors import ConfigError, NotFoldable
from adapters_jax.methods import checks, folding
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.initial import torch_uniform
from adapters_jax.slots import PROJECT, Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Tree

INITS = {"loralib": torch_uniform, "he": nn.initializers.he_uniform()}
"""How A starts: uniform within 1 / sqrt(in) as in loralib and peft, or sqrt(6 / in) as in qwix. B starts at 0."""


def column_norms(kernel: Float[Array, "*l i o"]) -> Float[Array, "*l o"]:
    return jnp.linalg.norm(jnp.asarray(kernel, jnp.float32), axis=-2)


def _ratio(magnitude: Float[Array, "*l o"], norms: Float[Array, "*l o"]) -> Float[Array, "*l o"]:
    """magnitude / norms; 1 for a column of zeros, which has no direction to scale."""
    return jnp.where(norms > 0, magnitude / jnp.where(norms > 0, norms, 1.0), 1.0)


def _factors(module: Any, inputs: int, outputs: int) -> tuple[Array, Array]:
    a = module.param("a", INITS[module.init_a], (inputs, module.rank))
    return a, module.param("b", nn.initializers.zeros, (module.rank, outputs))


def _dropped(module: Any, x: Hidden) -> Hidden:
    return nn.Dropout(module.dropout, deterministic=not module.has_rng("dropout"))(x)


class LowRank(nn.Module):
    """dense(x) + scale dropout(x) A B.

    Attributes:
        rank: r.
        scale: s.
        init_a: a key of INITS.
        dropout: on the input of A, in training.
    """

    rank: int
    scale: float
    init_a: str = "loralib"
    dropout: float = 0.0

    @nn.compact
    def delta(self, x: Float[Array, "b t i"], outputs: int) -> Float[Array, "b t o"]:
        """What is added to the dense layer's result."""
        a, b = _factors(self, x.shape[-1], outputs)
        return _dropped(self, x) @ a.astype(x.dtype) @ b.astype(x.dtype) * self.scale

    def __call__(self, x: Float[Array, "b t i"], dense: Any, ctx: Context) -> Float[Array, "b t o"]:
        y = dense(x)
        return y + self.delta(x, y.shape[-1])


class Decomposed(nn.Module):
    """DoRA: the columns of W + scale A B scaled to a trained norm. Attributes: as of `LowRank`."""

    reads_weights: ClassVar[bool] = True

    rank: int
    scale: float
    init_a: str = "loralib"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], dense: Any, ctx: Context) -> Float[Array, "b t o"]:
        kernel, seen = dense.kernel(), _dropped(self, x)
        a, b = _factors(self, *kernel.shape)
        # The backbone's norms take the place of these ones once it is known (LoRA.initialise).
        magnitude = self.param("magnitude", nn.initializers.ones, kernel.shape[1:])
        # On accelerators a float32 product is otherwise one of bfloat16.
        change = self.scale * jnp.matmul(a, b, precision="highest")
        ratio = _ratio(magnitude, jax.lax.stop_gradient(column_norms(kernel.astype(jnp.float32) + change)))
        low = seen @ a.astype(x.dtype) @ b.astype(x.dtype) * self.scale
        whole = dense(x)
        # The same product where nothing is dropped: two would have two gradients by x.
        product = (whole if seen is x else dense(seen)) - across(dense.bias, x)
        return whole + across(ratio - 1, x) * product + across(ratio, x) * low


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """Hu et al. (2022), https://arxiv.org/abs/2106.09685; with `dora`, Liu et al. (2024), arxiv.org/abs/2402.09353.

    Attributes:
        slots: the dense layers with a change: any of query, key, value, attn_out, ffn_in, ffn_out.
        rank: r, of all slots.
        alpha: the change is multiplied by alpha / r.
        ranks: a rank for each of `slots`, in their order, instead of `rank`.
        alphas: an alpha for each of `slots`, instead of `alpha`.
        rank_stabilised: multiply by alpha / sqrt(r) (rsLoRA).
        dropout: on the input of A.
        init: how A starts: "loralib" or "he".
        dora: train the norm of each column by itself (DoRA).
        layers: the layers with a change; all, if not given.
    """

    name: ClassVar[str] = "lora"
    size: ClassVar[str | None] = "rank"
    slots: tuple[str, ...] = ("query", "value")
    rank: int = 8
    alpha: float = 16.0
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    rank_stabilised: bool = False
    dropout: float = 0.0
    init: str = "loralib"
    dora: bool = False
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checks.some_of("slots", self.slots, PROJECT)
        for field, values in (("ranks", self.ranks), ("alphas", self.alphas)):
            if values and len(values) != len(self.slots):
                raise ConfigError(
                    f"method.{field}: expected {len(self.slots)} values, one for each of {', '.join(self.slots)}, "
                    f"got {len(values)}"
                )
        checks.whole("rank", self.rank)
        checks.number("alpha", self.alpha, above=0.0)
        for rank in self.ranks:
            checks.whole("ranks", rank)
        for alpha in self.alphas:
            checks.number("alphas", alpha, above=0.0)
        checks.rate("dropout", self.dropout)
        checks.one_of("init", self.init, INITS)

    def check(self, config: BertConfig) -> None:
        super().check(config)
        for slot, (rank, _) in self.sizes().items():
            narrow = slot.startswith("ffn") and config.intermediate_size < config.hidden_size
            width = config.intermediate_size if narrow else config.hidden_size
            if rank > width:
                field = "ranks" if self.ranks else "rank"
                raise ConfigError(f"method.{field}: expected at most {width}, the width at {slot}, got {rank}")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=5e-4,
            epochs=30.0,
            batch_size=128,
            warmup=0.06,
            weight_decay=0.1,
            source="microsoft/LoRA, examples/NLU/roberta_base_mnli.sh: 8 devices with 16 rows each",
        )

    def sizes(self) -> dict[str, tuple[int, float]]:
        """Slot -> (rank, scale)."""
        ranks = self.ranks or (self.rank,) * len(self.slots)
        alphas = self.alphas or (self.alpha,) * len(self.slots)
        divisor = math.sqrt if self.rank_stabilised else float
        each = zip(self.slots, ranks, alphas, strict=True)
        return {slot: (rank, alpha / divisor(rank)) for slot, rank, alpha in each}

    def modules(self, config: BertConfig, segment: int) -> Modules:
        if not self.lives_in(segment, config):
            return {}
        module = Decomposed if self.dora else LowRank
        sizes = self.sizes().items()
        return {slot: module(rank, scale, self.init, self.dropout) for slot, (rank, scale) in sizes}

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        adapters = Method.initialise(self, key, config, backbone)
        whole = trees.join_runs(backbone["encoder"], config.num_hidden_layers)

        def start(path: str, leaf: Array) -> Array:
            slot, kind = path.split("/")[-2:]
            if kind != "magnitude":
                return leaf
            norms = jax.lax.map(lambda p: column_norms(Dense(p).kernel()), whole[slot])
            first = int(trees.layer_paths(path, leaf)[0].split("/")[1])
            return norms[first : first + leaf.shape[0]]

        return trees.map_paths(start, adapters)

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self._moved(backbone, adapters, 1)

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        if self.dora:
            raise NotFoldable(
                "lora with dora cannot be unfolded: the folded weights no longer tell the norm they were divided by; "
                "keep the backbone from before, which fold never changes"
            )
        return self._moved(backbone, adapters, -1)

    def _moved(self, backbone: Tree, adapters: Tree, sign: int) -> Tree:
        """The backbone with the change added `sign` times, and rescaled with DoRA."""
        sizes = self.sizes()

        def change(slot: str, kind: str, leaf: jax.Array, own: Tree) -> Array:
            if kind != "kernel":
                return leaf
            # On TPUs a float32 product is otherwise one of bfloat16.
            moved = leaf + sign * sizes[slot][1] * jnp.matmul(own["a"], own["b"], precision="highest")
            return moved * _ratio(own["magnitude"], column_norms(moved))[:, None] if self.dora else moved

        return folding.rewrite(backbone, adapters, change)
