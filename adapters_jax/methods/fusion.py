"""AdapterFusion: attention over the adapters of several tasks, learnt in each layer for a new task.

With x what the last adapter's bottleneck sees (for Pfeiffer adapters LN(r + h)), and a_n what the n-th adapter adds:

    s_n = <W_q x + b_q, W_k a_n + b_k>,  p = softmax(dropout(s))
    out = LN(r + h + W_v sum_n p_n a_n)                       W_q, W_k, W_v [d d]

The keys of all adapters are never made: <q, W_k a_n> is <W_k^T q, a_n>, so the cost of the three products does not
grow with the number of adapters; the released code computes W_k a_n and W_v a_n for each of them.

    adapters/NAME/encoder/3/ffn_merge/...                the adapter NAME, as it was trained; frozen
    adapters/fusion/encoder/3/ffn_merge/query/kernel     [d d] and bias [d]
                                       /key/kernel       [d d] and bias [d]
                                       /value/kernel     [d d]

Parameters of the fusion, L (3 d^2 + 2 d): 21,252,096 on BERT-base, 75,546,624 on BERT-large. Query and key start at
N(0, 0.02^2), biases at 0, the value at the identity with 1e-6 off its diagonal; 0.01 times the sum over the layers of
||W_v - I||^2 is added to the loss, and W_v does not decay. The adapters must have left the backbone as it was.

`output.aux["encoder"][slot]["attention"]` holds p, [l b t n], by run of layers.

Source: Pfeiffer et al. (2021), https://arxiv.org/abs/2005.00247, section 3.2, and adapter-hub/adapters, `BertFusion`,
in which the regulariser's gradient reaches the weights one step late.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import normal, zeros

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks
from adapters_jax.methods.adapter_drop import refuse_changed
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.composition import MOST, Composed, Joint, adds
from adapters_jax.slots import MERGE, Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Tree

FUSION = "fusion"
"""The name of the trained part; no adapter may have it."""


def near_identity(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Float[Array, "d d"]:
    """1 on the diagonal, 1e-6 off it."""
    return jnp.where(jnp.eye(shape[0], dtype=bool), 1.0, 1e-6).astype(dtype)


class Square(nn.Module):
    """Leaves of a dense layer [d d]."""

    kernel_init: Callable[..., Array]
    bias: bool = True

    @nn.compact
    def __call__(self, width: int) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, (width, width))
        return kernel, self.param("bias", zeros, (width,)) if self.bias else None


class Attention(nn.Module):
    """Attention of each token over what n adapters give for it: query [b t d], outputs [b t n d] -> [b t d]."""

    dropout: float

    @nn.compact
    def __call__(self, query: Hidden, outputs: Float[Array, "b t n d"]) -> Hidden:
        width, dtype = query.shape[-1], query.dtype
        (w_q, b_q), (w_k, b_k) = (Square(normal(0.02), name=name)(width) for name in ("query", "key"))
        w_v, _ = Square(near_identity, bias=False, name="value")(width)
        q = query @ w_q.astype(dtype) + jnp.broadcast_to(b_q.astype(dtype), query.shape)
        scores = jnp.einsum("btd,btnd->btn", q @ w_k.T.astype(dtype), outputs) + (q @ b_k.astype(dtype))[..., None]
        scores = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(scores)
        shares = jax.nn.softmax(scores.astype(jnp.float32))
        self.sow("aux", "attention", shares, reduce_fn=lambda _, new: new, init_fn=lambda: ())
        return jnp.einsum("btn,btnd->btd", shares.astype(dtype), outputs) @ w_v.astype(dtype)


class FusionMerge(Joint):
    """norm(residual + y + attention over the adapters' deltas)."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        adapters = self.children()
        outputs = jnp.stack([module.delta(y, residual, norm, ctx) for module in adapters], axis=2)
        query = adapters[-1].adapter_input(y, residual, norm)
        return norm(residual + y + Attention(self.dropout, name=FUSION)(query, outputs))


@dataclasses.dataclass(frozen=True)
class Fusion(Composed):
    """Pfeiffer et al. (2021), https://arxiv.org/abs/2005.00247.

    Attributes:
        parts: the trained methods, of the bottleneck family.
        names: of their tasks, in the same order.
        regulariser: times ||W_v - I||^2, added to the loss.
        dropout: on the scores; None for the backbone's rate on attention.
    """

    name: ClassVar[str] = FUSION
    parts: tuple[Method, ...] = ()
    names: tuple[str, ...] = ()
    regulariser: float = 0.01
    dropout: float | None = None

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.names) or len(self.parts) > MOST:
            raise ConfigError(
                f"fusion: expected a name for each of at most {MOST} adapters, got {len(self.parts)} adapters and "
                f"the names {', '.join(self.names) or 'of none'}"
            )
        taken = [name for n, name in enumerate(self.names) if name in (*self.names[:n], FUSION)]
        wrong = [name for name in self.names if not name or "/" in name or name.isdigit()]
        if taken or wrong:
            raise ConfigError(
                f"fusion: expected names without /, each once and none {FUSION!r}, got {(taken + wrong)[0]!r}"
            )
        checks.number("regulariser", self.regulariser)
        checks.rate("dropout", self.dropout or 0.0)

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=5e-5, epochs=10.0, source="adapter-hub/adapters: documentation's defaults")

    @property
    def by_name(self) -> dict[str, Method]:
        return dict(zip(self.names, self.parts, strict=True))

    def components(self) -> Sequence[Method]:
        return self.parts

    def of_flat(self, parts: tuple[Method, ...]) -> "Fusion":
        return dataclasses.replace(self, parts=parts)

    def check(self, config: BertConfig) -> None:
        if len(self.parts) < 2:
            raise ConfigError(f"fusion: expected at least 2 adapters, got {len(self.parts)}; give --adapters=A,B,...")
        super().check(config)
        for name, part in self.by_name.items():
            refuse_changed(part, config)
            modules = [item for start in part.segments(config) for item in part.modules(config, start).items()]
            if wrong := [slot for slot, module in modules if slot not in MERGE or not adds(module)]:
                raise ConfigError(
                    f"fusion: expected adapters that add something after a sublayer (houlsby, pfeiffer, parallel), "
                    f"{name} is {part.name}, which stands at {wrong[0]}"
                )

    def modules(self, config: BertConfig, segment: int) -> Modules:
        rate = config.attention_probs_dropout_prob if self.dropout is None else self.dropout
        return {slot: FusionMerge(named, dropout=rate) for slot, named in self._by_slot(config, segment).items()}

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        layers = Method.initialise(self, trees.fold_path(key, FUSION), config, backbone)["encoder"]
        return super().initialise(key, config, backbone) | {FUSION: {"encoder": _own(layers)}}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        own = adapters.get(FUSION, {}).get("encoder", {})
        made = super().expand(adapters, key, config)["encoder"]
        layers = config.num_hidden_layers

        def joined(start: int, stop: int, run: Tree) -> Tree:
            here = trees.cut(own, layers, start, stop)
            return {slot: leaves | {FUSION: here[slot]} for slot, leaves in run.items()}

        runs = {str(start): joined(start, stop, run) for start, stop, run in trees.runs(made, layers)}
        return {"encoder": runs if any(name.isdigit() for name in made) else runs["0"]}

    def penalty(self, adapters: Tree) -> Float[Array, ""]:
        own = trees.flatten(adapters.get(FUSION, {}))
        values = [leaf for path, leaf in own.items() if path.endswith("value/kernel")]
        away = sum(jnp.sum(jnp.square(leaf - jnp.eye(leaf.shape[-1])[None])) for leaf in values)
        return self.regulariser * away + super().penalty(adapters)

    def decays(self, path: str) -> bool:
        if not path.startswith(f"adapters/{FUSION}/"):
            return Method.decays(self, path)
        return Method.decays(self, path) and "/value/" not in path

    def trainable(self, path: str, config: BertConfig) -> bool:
        return path.startswith(f"adapters/{FUSION}/")

    def standing(self, config: BertConfig, slot: str, layer: int) -> tuple[tuple[str, nn.Module], ...]:
        """(name, module) of the adapters that stand in a slot of a layer, in the order of its attention."""
        return self._by_slot(config, max(start for start in self.segments(config) if start <= layer)).get(slot, ())

    def keep(self, adapters: Tree, names: Iterable[str], config: BertConfig) -> tuple["Fusion", Tree]:
        """The fusion of some of its adapters, and their leaves: those left out get no attention, the rest share it.

        Raises:
            ConfigError: fewer than two of its names.
        """
        names = tuple(name for name in self.names if name in set(names))
        kept = dataclasses.replace(self, names=names, parts=tuple(self.by_name[name] for name in names))
        kept.check(config)
        # Where none of them stands, there is nothing to fuse either.
        like = jax.eval_shape(lambda: kept.initialise(jax.random.key(0), config, {}))[FUSION]
        wanted = [name for path, leaf in trees.flatten(like).items() for name in trees.layer_paths(path, leaf)]
        flat = trees.to_layers(adapters[FUSION])
        fusion = trees.from_layers({name: flat[name] for name in wanted}, like)
        return kept, {name: adapters[name] for name in names} | {FUSION: fusion}


def _own(encoder: Tree) -> Tree:
    """The fusion's leaves of a tree by slot, in whatever runs of layers."""
    return {name: tree[FUSION] if FUSION in tree else _own(tree) for name, tree in encoder.items()}


def attention(aux: Tree, config: BertConfig) -> dict[str, dict[int, Array]]:
    """The attention that a forward pass gave: slot -> layer -> [b t n]."""
    found: dict[str, dict[int, Array]] = {}
    runs = sorted(int(start) for start in aux.get("encoder", {}))
    for start in runs:
        for slot, sown in aux["encoder"][str(start)].items():
            for n, shares in enumerate(sown[FUSION]["attention"]):
                found.setdefault(slot, {})[start + n] = shares
    return found
