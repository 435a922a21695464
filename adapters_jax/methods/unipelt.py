"""UniPELT: prefixes, an adapter and LoRA, each behind a gate that reads the input (Mao et al., 2022).

A preset of `compose` with gates: prefix tuning (length 10), Pfeiffer's adapter (m = d / 16), LoRA (query and value,
rank 8). A gate is one number for each row of the batch,

    g = mean over the row's tokens of sigmoid(x w + b)     w [d 1], b [1]

with x the layer's input for the prefixes (on keys and values alike), the bottleneck's input for the adapter, and the
projection's input for LoRA, one gate for each matrix; LoRA's takes the place of alpha / r.

    adapters/prefix/{embedding, down, up}                      as of `prefix`
            /prefix/encoder/3/key_value/gate/kernel [d 1]      and bias [1]
            /pfeiffer/encoder/3/ffn_merge/{down, up, gate}
            /lora/encoder/3/query/{a, b, gate}                 and value

Parameters: 11,083,376 on BERT-base, 29,806,688 on BERT-large. Source: adapter-hub/adapters, `unipelt`, whose mean
counts the padding; here it does not, so that padding changes nothing, unless `gate_padding` says so. Gates' weights
start at N(0, 0.02^2), their bias at 0.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.composition import Composed
from adapters_jax.methods.lora import LoRA
from adapters_jax.methods.pfeiffer import Pfeiffer
from adapters_jax.methods.prefix import Prefix
from adapters_jax.slots import Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Mask, Tree


class Gate(nn.Module):
    """x [b t d] -> one number in (0, 1) for each row, [b 1 1]; `padding`: the mean is over padding too."""

    padding: bool = False

    @nn.compact
    def __call__(self, x: Hidden, ctx: Context) -> Float[Array, "b 1 1"]:
        one = nn.Dense(1, dtype=x.dtype, kernel_init=nn.initializers.normal(0.02), name="gate")
        if self.padding:
            return jax.nn.sigmoid(one(x)).mean(axis=1, keepdims=True)
        # Rows that prompts put in front of the tokens count as tokens.
        front = x.shape[1] - ctx.mask.shape[1]
        seen = jnp.pad(ctx.mask, ((0, 0), (front, 0)), constant_values=True)[..., None].astype(x.dtype)
        total = (jax.nn.sigmoid(one(x)) * seen).sum(axis=1, keepdims=True)
        return total / jnp.maximum(seen.sum(axis=1, keepdims=True), 1)


class Gated(nn.Module):
    """A module behind a gate, whose leaves stand beside its own."""

    inner: nn.Module
    padding: bool = False

    def setup(self) -> None:
        self.open = Gate(self.padding)
        nn.share_scope(self, self.inner)
        nn.share_scope(self, self.open)


class GatedKeyValue(Gated):
    """What the prefix puts in front, times the gate of the layer's input."""

    def __call__(self, k: Array, v: Array, mask: Mask, ctx: Context) -> tuple[Array, Array, Array]:
        tokens = k.shape[1]
        k, v, mask = self.inner(k, v, mask, ctx)
        gate, added = self.open(ctx.hidden, ctx)[..., None], k.shape[1] - tokens
        scaled = lambda x: jnp.concatenate([x[:, :added] * gate, x[:, added:]], axis=1)
        return scaled(k), scaled(v), mask


class GatedMerge(Gated):
    """The adapter's delta, times the gate of its input."""

    additive: ClassVar[bool] = True

    def delta(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        gate = self.open(self.inner.adapter_input(y, residual, norm), ctx)
        return gate * self.inner.delta(y, residual, norm, ctx)

    def __call__(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        return norm(residual + y + self.delta(y, residual, norm, ctx))


class GatedProject(Gated):
    """The low-rank change, times the gate of the layer's input."""

    def __call__(self, x: Hidden, dense: Any, ctx: Context) -> Array:
        y = dense(x)
        return y + self.open(x, ctx) * self.inner.delta(x, y.shape[-1])


GATED = {"key_value": GatedKeyValue, "ffn_merge": GatedMerge, "query": GatedProject, "value": GatedProject}


@dataclasses.dataclass(frozen=True)
class GatedPart(Method):
    """A part with a gate in each of its slots; its own leaves keep their names."""

    part: Method
    padding: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.part.name

    @property
    def recipe(self) -> Recipe:
        return self.part.recipe

    def check(self, config: BertConfig) -> None:
        self.part.check(config)

    def modules(self, config: BertConfig, segment: int) -> Modules:
        own = self.part.modules(config, segment)
        return {slot: GATED[slot](module, self.padding) for slot, module in own.items()}

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        own = self.part.initialise(key, config, backbone)
        gates = Method.initialise(self, key, config, backbone)["encoder"]
        if "encoder" in own:
            return own | {"encoder": {slot: gates[slot] | leaves for slot, leaves in own["encoder"].items()}}
        return own | {"encoder": {slot: {"gate": leaves["gate"]} for slot, leaves in gates.items()}}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        made, layers = self.part.expand(adapters, key, config).get("encoder", {}), config.num_hidden_layers
        gates = adapters.get("encoder", {})

        def joined(start: int, stop: int, run: Tree) -> Tree:
            here = trees.cut(made, layers, start, stop)
            return {slot: here.get(slot, {}) | {"gate": leaves["gate"]} for slot, leaves in run.items()}

        runs = {str(start): joined(start, stop, run) for start, stop, run in trees.runs(gates, layers)}
        return {"encoder": runs if any(name.isdigit() for name in gates) else runs["0"]}

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple[Method, Tree]:
        part, _ = self.part.flattened(adapters, config)
        return GatedPart(part, self.padding), self.expand(adapters, None, config)


@dataclasses.dataclass(frozen=True)
class UniPELT(Composed):
    """Mao et al. (2022), https://arxiv.org/abs/2110.07577.

    Attributes:
        length: of the prefix.
        prefix_bottleneck: the width of the network that makes the prefixes; 0 trains them themselves.
        reduction_factor: of the adapter, m = d / reduction_factor.
        rank: of LoRA.
        gate_padding: the gates' means are over padding too, as AdapterHub has it: answers then depend on how far rows
            are padded. For adapters that were trained there.
    """

    name: ClassVar[str] = "unipelt"
    size: ClassVar[str | None] = "rank"
    length: int = 10
    prefix_bottleneck: int = 512
    reduction_factor: float = 16.0
    rank: int = 8
    gate_padding: bool = False

    def __post_init__(self) -> None:
        checks.whole("prefix_bottleneck", self.prefix_bottleneck, least=0)
        self.components()

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=5e-4, epochs=50.0, batch_size=16, source="Mao et al. (2022), section 4.1")

    def components(self) -> Sequence[Method]:
        parts = (
            Prefix(length=self.length, bottleneck=self.prefix_bottleneck),
            Pfeiffer(reduction_factor=self.reduction_factor),
            LoRA(rank=self.rank, alpha=float(self.rank)),
        )
        return tuple(GatedPart(part, self.gate_padding) for part in parts)

    def of_flat(self, parts: tuple[Method, ...]) -> "UniPELT":
        return dataclasses.replace(self, prefix_bottleneck=0)
