"""K-Adapter: networks beside the encoder that read some of its hidden states, one for each kind of knowledge.

With H_0 the embeddings' output, H_1 ... H_L the layers', and c_1, c_2, ... the chosen states; each adapter by itself:

    x_i = H_(c_i) + S_(i-1)                      S_0 = 0
    S_i = W_up T(W_down x_i + b_down) + b_up + x_i       W_down [d m], W_up [m d]; T: BERT layers of width m

T's feed-forward is 4 m wide, its activation gelu. The head reads, with h = H_L and a_k the last S of adapter k,

    concat   one adapter: h' = D_1 [h ; a_1]     several: h' = D [D_1 [h ; a_1] ; D_2 [h ; a_2] ; ...]     D: dense
    add      h' = h + a_1 + a_2 + ...

so that nothing is differentiated through the encoder, unless it is tuned.

    adapters/output/factual/0/down/kernel            [d m]   and bias; 0, 1, ...: the place among the chosen states
                             /layers/0/query/kernel  [m m]   and the rest of a layer, named as in the backbone
                             /up/kernel              [m d]   and bias
                   /combine/each/factual/kernel      [2d d]  and bias
                           /all/kernel               [k*d d] and bias, with k > 1 adapters

Parameters of an adapter with three states: 3 (2 d m + d + m + 2 (12 m^2 + 13 m)), 47,251,200 on BERT-large (and
RoBERTa-large) with m = 768; the paper says 42 million. D_1 has 2 d^2 + d more.

Source: microsoft/K-Adapter, fac-adapter.py, lin-adapter.py, examples/run_finetune_TACRED_adapter.py. Fresh values as
there: W_down and W_up N(0, (2e-4)^2) without bias; T and D as torch's dense layers, LayerNorms 1 and 0.

Deviations: padding is masked in T, where the release attends to it. The release names the states 0, 11, 22 (of 24
layers; 0, 11, 23 by default); here they are 0, L // 2 and L - 1. skip=1, at which the release reads past the end of a
list, is refused.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.encoder import layer
from adapters_jax.bert.ops import Dense
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.initial import torch_linear
from adapters_jax.slots import Context, Modules, Slots
from adapters_jax.types import Hidden, Key, Mask, Tree

COMBINE = "combine"
COMBINATIONS = ("concat", "add")
WIDTH = 768
"""The release's m, where the backbone is no narrower."""
HEAD_WIDTH = 64
"""The least width of a head of T: 12 heads at the release's m."""
INIT_STD = 2e-4
"""`adapter_initializer_range` of the release."""
DENSE = {"query": (1, 1), "key": (1, 1), "value": (1, 1), "attn_out": (1, 1), "ffn_in": (1, 4), "ffn_out": (4, 1)}
"""Dense layers of T: inputs and outputs, in m."""


class KnowledgeOutput(nn.Module):
    """Every adapter's network, and the dense layers that combine what they say; `KAdapter.initialise` makes the leaves.

    Attributes:
        adapters: their names.
        states: which hidden states they read.
        inner: T.
        skip: as of `KAdapter`.
        combine: one of COMBINATIONS.
    """

    adapters: tuple[str, ...]
    states: tuple[int, ...]
    inner: BertConfig
    skip: int
    combine: str

    @nn.compact
    def __call__(self, h: Hidden, hidden_states: tuple[Hidden, ...], ctx: Context) -> Hidden:
        added = h.shape[1] - ctx.input_ids.shape[1]
        mask = jnp.pad(ctx.mask, ((0, 0), (added, 0)), constant_values=True)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        read = [hidden_states[number] for number in self.states]
        said = {name: self._network(name, read, mask, key, ctx) for name in self.adapters}
        if self.combine == "add":
            return sum(said.values(), h)
        dense = self.get_variable("params", COMBINE)
        each = [Dense(dense["each"][name])(jnp.concatenate([h, a], -1)) for name, a in said.items()]
        return each[0] if len(each) == 1 else Dense(dense["all"])(jnp.concatenate(each, -1))

    def _network(self, name: str, read: Sequence[Hidden], mask: Mask, key: Key | None, ctx: Context) -> Hidden:
        """The last S of one adapter."""
        params = self.get_variable("params", name)
        last: Any = jnp.zeros_like(read[0])
        found = []
        for place, state in enumerate(read):
            own, x = params[str(place)], state + last
            z: Any = Dense(own["down"])(x)
            for number in range(self.inner.num_hidden_layers):
                here = None if key is None else trees.fold_path(key, name, place, number)
                keys = trees.site_keys(here, ("attend", "attn_dropout", "ffn_dropout"))
                z = layer(own["layers"][str(number)], self.inner, z, mask, Slots({}, {}, keys, ctx))
            last = Dense(own["up"])(z) + x
            found.append(last)
            if self.skip and len(found) % self.skip == 0:
                last = last + found[len(found) // self.skip]
        return last


@dataclasses.dataclass(frozen=True)
class KAdapter(Method):
    """Wang et al. (2021), https://arxiv.org/abs/2002.01808.

    Attributes:
        adapters: their names; each is a network of its own.
        layers: numbers of the hidden states that they read, ascending, 0 for the embeddings' output; None for
            (0, L // 2, L - 1).
        inner: m, the networks' width; None for 768, or d where that is less.
        inner_layers: BERT layers in each T.
        inner_heads: attention heads of T; None for the most that divide m and are no narrower than 64, or one.
        skip: after every so many states, the S of state number (how many so far) / skip, counted from 0, is added; 0
            for never. With 2, the release's own rule counts the second one twice.
        combine: "concat", or "add", which needs no dense layers.
        dropout: on T's attention weights and sublayers, in training.
        train_adapters: False leaves the adapters as they are and trains the dense layers that combine them, as on a
            task after pre-training.
        tune_backbone: train the whole backbone too, as the release does on tasks.
    """

    name: ClassVar[str] = "k_adapter"
    size: ClassVar[str | None] = "inner"
    not_foldable: ClassVar[str] = "its networks stand beside the encoder"
    adapters: tuple[str, ...] = ("adapter",)
    layers: tuple[int, ...] | None = None
    inner: int | None = None
    inner_layers: int = 2
    inner_heads: int | None = None
    skip: int = 0
    combine: str = "concat"
    dropout: float = 0.1
    train_adapters: bool = True
    tune_backbone: bool = False

    def __post_init__(self) -> None:
        for name in self.adapters:
            if not name.isidentifier() or name in (COMBINE, trees.STACKED):
                raise ConfigError(
                    f"method.adapters: expected names of letters, digits and underscores, not {COMBINE} or "
                    f"{trees.STACKED}, got {name!r:.80}"
                )
        if not self.adapters or len(set(self.adapters)) < len(self.adapters):
            raise ConfigError(f"method.adapters: expected at least one name, each once, got {self.adapters}")
        for field in ("inner", "inner_heads"):
            if getattr(self, field) is not None:
                checks.whole(field, getattr(self, field))
        checks.whole("inner_layers", self.inner_layers)
        checks.whole("skip", self.skip, least=0)
        checks.one_of("combine", self.combine, COMBINATIONS)
        checks.rate("dropout", self.dropout)

    @property
    def recipe(self) -> Recipe:
        shared: dict[str, Any] = {"weight_decay": 0.0}
        if self.train_adapters:
            source = "microsoft/K-Adapter: run_pretrain_fac-adapter.sh, on one of its four devices"
            return Recipe(lr=5e-5, epochs=5.0, batch_size=64, warmup=0.01, source=source, **shared)
        source = "microsoft/K-Adapter: README and run_finetune_tacred_adapter.sh, 12,000 steps on TACRED"
        return Recipe(lr=1e-5, epochs=6.6, batch_size=32, warmup=0.02, source=source, **shared)

    def check(self, config: BertConfig) -> None:
        states, inner = self.states(config), self.width(config)
        layers = config.num_hidden_layers
        ascending = all(a < b for a, b in itertools.pairwise(states))
        if not states or not ascending or not 0 <= states[0] <= states[-1] <= layers:
            raise ConfigError(f"method.layers: expected some of 0 to {layers}, ascending, got {states}")
        if inner % self.heads(config):
            raise ConfigError(f"method.inner_heads: expected a divisor of the width {inner}, got {self.inner_heads}")
        if self.skip == 1 or self.skip > len(states):
            raise ConfigError(
                f"method.skip: expected 0, or 2 to the {len(states)} states that are read, got {self.skip}"
            )

    def states(self, config: BertConfig) -> tuple[int, ...]:
        """The hidden states that are read."""
        layers = config.num_hidden_layers
        return tuple(sorted({0, layers // 2, layers - 1})) if self.layers is None else tuple(self.layers)

    def width(self, config: BertConfig) -> int:
        """m."""
        return self.inner or min(WIDTH, config.hidden_size)

    def heads(self, config: BertConfig) -> int:
        """Attention heads of T."""
        width = self.width(config)
        most = max(1, width // HEAD_WIDTH)
        return self.inner_heads or max(n for n in range(1, most + 1) if width % n == 0)

    def transformer(self, config: BertConfig) -> BertConfig:
        """T, as far as a layer of it needs to know; LayerNorms as in torch."""
        return BertConfig(
            hidden_size=self.width(config),
            num_hidden_layers=self.inner_layers,
            num_attention_heads=self.heads(config),
            intermediate_size=4 * self.width(config),
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            layer_norm_eps=1e-5,
        )

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        return (0,)

    def modules(self, config: BertConfig, segment: int) -> Modules:
        inner = self.transformer(config)
        return {"output": KnowledgeOutput(self.adapters, self.states(config), inner, self.skip, self.combine)}

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        key, d = trees.fold_path(key, "output"), config.hidden_size
        made = {name: self._network(trees.fold_path(key, name), config) for name in self.adapters}
        if self.combine == "add":
            return {"output": made}
        place = trees.fold_path(key, COMBINE)
        each = {name: torch_linear(trees.fold_path(place, "each", name), 2 * d, d) for name in self.adapters}
        dense: Tree = {"each": each}
        if len(each) > 1:
            dense["all"] = torch_linear(trees.fold_path(place, "all"), len(each) * d, d)
        return {"output": made | {COMBINE: dense}}

    def _network(self, key: Key, config: BertConfig) -> Tree:
        d, m = config.hidden_size, self.width(config)

        def small(key: Key, inputs: int, outputs: int) -> Tree:
            kernel = INIT_STD * jax.random.normal(key, (inputs, outputs), jnp.float32)
            return {"kernel": kernel, "bias": jnp.zeros(outputs)}

        def inner(key: Key) -> Tree:
            dense = {n: torch_linear(trees.fold_path(key, n), i * m, o * m) for n, (i, o) in DENSE.items()}
            norm = lambda: {"scale": jnp.ones(m), "bias": jnp.zeros(m)}
            return dense | {"attn_norm": norm(), "ffn_norm": norm()}

        def at(place: int) -> Tree:
            own = trees.fold_path(key, place)
            layers = {str(n): inner(trees.fold_path(own, "layers", n)) for n in range(self.inner_layers)}
            down, up = small(trees.fold_path(own, "down"), d, m), small(trees.fold_path(own, "up"), m, d)
            return {"down": down, "layers": layers, "up": up}

        return {str(place): at(place) for place in range(len(self.states(config)))}

    def trainable(self, path: str, config: BertConfig) -> bool:
        if path.startswith("backbone/"):
            return self.tune_backbone
        return self.train_adapters or path.startswith(f"adapters/output/{COMBINE}/")

    def shape(self, config: BertConfig) -> dict[str, Any]:
        """What the networks of two methods must share for one to take over the other's."""
        return {
            "layers": self.states(config),
            "inner": self.width(config),
            "inner_layers": self.inner_layers,
            "inner_heads": self.heads(config),
            "skip": self.skip,
        }


def take_over(method: KAdapter, config: BertConfig, adapters: Tree, name: str, of: Method, others: Tree) -> Tree:
    """A tree of adapters in which one network is another model's; its leaves are shared, not copied. Pure.

    Args:
        method, config: whose tree it is.
        adapters: the tree under adapters/.
        name: the network that is replaced.
        of, others: the method that trained the other one, and its tree; of several adapters, that of the same name is
            taken, one alone whatever its name.

    Raises:
        AdapterError: another method, one that tuned the backbone too, no such network, or one of another shape.
    """
    if not isinstance(of, KAdapter):
        raise AdapterError(f"adapter {name}: expected one that method {method.name} trained, got one of {of.name}")
    if of.tune_backbone:
        raise AdapterError(f"adapter {name}: expected one above the backbone as it is, got one that tuned the backbone")
    source = of.adapters[0] if len(of.adapters) == 1 else name
    if source not in of.adapters:
        raise AdapterError(f"adapter {name}: expected it among the adapters there, got {', '.join(of.adapters)}")
    own, theirs = method.shape(config), of.shape(config)
    unlike = [field for field in own if own[field] != theirs[field]]
    if unlike:
        field = unlike[0]
        raise AdapterError(
            f"adapter {name}: expected {field} {_shown(own[field])}, as the method has, got {_shown(theirs[field])}; "
            f"give --method.{field.replace('_', '-')}={_shown(theirs[field])}"
        )
    return adapters | {"output": adapters["output"] | {name: others["output"][source]}}


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
