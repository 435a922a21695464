"""A model: a backbone's configuration, a method and a head. Static; parameters are a tree of their own.

params = {"backbone": ..., "adapters": ..., "head": ...}
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adapters_jax import trees
from adapters_jax.bert import quant
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.encoder import REMAT, Segment, encode
from adapters_jax.bert.heads import Head, Surroundings
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.methods.base import LAYER_ARGUMENTS, Method
from adapters_jax.methods.full import Full
from adapters_jax.summary import Summary, summarise
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree

DTYPES = ("float32", "bfloat16")
SHORTEST = 3
"""Tokens of the shortest text: a word between [CLS] and [SEP]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass returns.

    Where a method runs every row several times (`Method.members`), `logits` combine the answers as the head does,
    hidden states and `pooled` are means over the members, and `aux` keeps a leading axis of them.

    Attributes:
        logits: [b c], float32; of a head that compares k choices [b/k k].
        hidden: [b t d], the last layer's output.
        pooled: [b d].
        hidden_states: [b t d] of the embeddings and every layer, if asked for.
        aux: what modules sowed, by slot; under "encoder", by run of layers and stacked over them.
    """

    logits: Float[Array, "rows ..."]
    hidden: Hidden
    pooled: Float[Array, "b d"]
    hidden_states: tuple[Hidden, ...]
    aux: Tree


@dataclasses.dataclass(frozen=True)
class Model:
    """Static and hashable: what jit may close over.

    Attributes:
        config: of the backbone.
        method, head: see `methods` and `bert.heads`.
        dtype: of the computation, "float32" or "bfloat16"; trained leaves, loss, LayerNorm statistics and softmax stay
            in float32.
        remat: what the backward pass recomputes in each layer: "none", "dots" (all but the dense layers' results) or
            "full".
        scan_layers: False unrolls the layers: for counting FLOPs, and as a reference.
    """

    config: BertConfig
    method: Method
    head: Head
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(unknown("dtype", self.dtype, DTYPES))
        if self.remat not in REMAT:
            raise ConfigError(unknown("remat", self.remat, REMAT))
        try:
            hash(self.method)
        except TypeError:
            raise ConfigError(f"method: expected tuples in its fields, not lists, got {self.method}") from None
        self.method.check(self.config)
        if self.head.inverts and self.method.inverts and self.config.projects:
            raise ConfigError(
                f"method.invertible: expected false, or a head as wide as the model, {self.config.hidden_size}; a "
                f"{self.head.name} head on this backbone is {self.config.embedding_width} wide, as its embeddings are"
            )
        if self.max_length < SHORTEST:
            field = "method.length" if self.method.size == "length" else f"method {self.method.name}"
            raise ConfigError(
                f"{field}: expected at most {self.config.positions - SHORTEST}, so that texts have "
                f"{SHORTEST} of the backbone's positions, got {self.method.positions(self.config)}"
            )

    @property
    def max_length(self) -> int:
        """The most tokens of a text: the backbone's positions, less those that the method passes over."""
        return self.config.positions - self.method.positions(self.config)

    def init(self, key: Key, backbone: Tree) -> Tree:
        """Fresh adapters and head beside the backbone's weights.

        Args:
            key: of the run's seed; every leaf is drawn by its own path.
            backbone: `Backbone.params`. Leaves that the method trains are taken in float32, the rest as they are.

        Raises:
            ConfigError: the method trains a quantised leaf of the backbone.
        """
        adapters = self.method.initialise(trees.fold_path(key, "adapters"), self.config, backbone)
        head = self.head.initialise(trees.fold_path(key, "head"), self.config, pooler="pooler" not in backbone)
        params = {"backbone": self._cut(backbone), "adapters": adapters, "head": head}
        labels = trees.flatten(self.labels(params))
        for path, leaf in trees.flatten(params).items():
            if labels[path] != "frozen" and isinstance(leaf, quant.Quantised):
                pattern = re.sub(r"/\d+/", "/*/", trees.layer_paths(path, leaf)[0])
                raise ConfigError(
                    f"method {self.method.name} trains {pattern}, which is quantised ({leaf.kind}): expected an "
                    "adapter method or a float backbone"
                )
        widen = lambda path, leaf: leaf if labels[path] == "frozen" else jnp.asarray(leaf, jnp.float32)
        return trees.map_paths(widen, params)

    def abstract(self, backbone: Tree) -> Tree:
        """The shapes and dtypes of `init`'s result, without arrays; `backbone` may be abstract too."""
        return jax.eval_shape(lambda tree: self.init(jax.random.key(0), tree), backbone)

    def labels(self, params: Tree) -> Tree:
        """The same tree of "frozen", "adapter" (what the method trains, backbone leaves included) or "head"."""

        def label(path: str, leaf: Any) -> str:
            if path.startswith("head/"):
                return "head"
            return "adapter" if self.method.trainable(trees.layer_paths(path, leaf)[0], self.config) else "frozen"

        return trees.map_paths(label, params)

    def apply(self, params: Tree, batch: Batch, key: Key | None = None, *, hidden_states: bool = False) -> Output:
        """The forward pass.

        Args:
            params: as of `init`.
            batch: input_ids [b t]; optional token_type_ids and mask [b t], bool or integer, 1 = token.
            key: of the step, for dropout; None for none.
            hidden_states: return every layer's output too.
        """
        return self._apply(params, self._prepared(batch, key), key, hidden_states)

    def answers(self, params: Tree, batch: Batch, below: tuple[int, Hidden] | None = None) -> Logits:
        """What evaluation keeps of each row [b c], in float32 and without dropout: logits, or what its score needs.

        Args:
            params, batch: as of `apply`.
            below: (n, the state after the first n layers), if these have run already; the method has nothing there.
        """
        batch = self._prepared(batch, None)
        return self.head.answers(self._apply(params, batch, None, False, below).logits.astype(jnp.float32), batch)

    def _prepared(self, batch: Batch, key: Key | None) -> Batch:
        return self.head.prepare(batch, None if key is None else trees.fold_path(key, "prepare"))

    def _apply(
        self,
        params: Tree,
        batch: Batch,
        key: Key | None,
        hidden_states: bool,
        below: tuple[int, Hidden] | None = None,
    ) -> Output:
        logits, pooled, encoded = self._forward(params, batch, key, hidden_states, below)
        hidden, states, aux = encoded
        if self.method.members > 1:
            logits = self.head.combine(logits, self.method.vote)
            pooled, hidden, states = jax.tree.map(lambda leaf: leaf.mean(0), (pooled, hidden, states))
        return Output(logits, hidden, pooled, states if hidden_states else (), aux)

    def _forward(
        self,
        params: Tree,
        batch: Batch,
        key: Key | None,
        hidden_states: bool = False,
        below: tuple[int, Hidden] | None = None,
    ) -> tuple:
        """(logits, pooled, Encoded), each with a leading axis of the method's members where there are several."""
        if self.method.members == 1:
            return self._member(params, batch, key, hidden_states, below)

        def member(adapters: Tree, number: Any) -> tuple:
            own = None if key is None else trees.fold_path(key, "member", number)
            return self._member(params | {"adapters": adapters}, batch, own, hidden_states)

        return jax.vmap(member)(params["adapters"], jnp.arange(self.method.members))

    def _member(
        self,
        params: Tree,
        batch: Batch,
        key: Key | None,
        hidden_states: bool,
        below: tuple[int, Hidden] | None = None,
    ) -> tuple:
        first, state = (0, None) if below is None else below
        places = trees.site_keys(key, ("expand", "head", "depth"))
        adapters = self.method.expand(params["adapters"], places.get("expand"), self.config)
        outer = {s: m for s, m in self.method.modules(self.config, 0).items() if s not in LAYER_ARGUMENTS}
        encoded = encode(
            params["backbone"],
            adapters,
            self.config,
            self._segments(params["backbone"], first),
            outer,
            batch,
            key=key,
            first_position=self.method.positions(self.config),
            dtype=self.dtype,
            remat=self.remat,
            scan=self.scan_layers,
            hidden_states=hidden_states,
            depth=self.method.depth(places["depth"], self.config) if places else None,
            below=state,
        )
        invert = lambda x: self.method.invert(params["adapters"], x)
        around = Surroundings(params["backbone"], batch, places.get("head"), invert)
        logits, pooled = self.head(params["head"], encoded.hidden, around)
        return logits, pooled, encoded

    def loss(self, params: Tree, batch: Batch, key: Key | None = None) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum of the rows' losses, each times its weight, sum of the weights); the method's penalty is not in it.

        A row's loss is the mean of those of the method's members: each learns by its own answer.
        """
        batch = self._prepared(batch, key)
        each = lambda logits: self.head.loss(logits, batch)
        logits = self._forward(params, batch, key)[0]
        rows = each(logits) if self.method.members == 1 else jax.vmap(each)(logits).mean(0)
        weight = batch["weight"].astype(jnp.float32)
        return jnp.sum(jnp.where(weight > 0, rows * weight, 0.0)), jnp.sum(weight)

    def penalty(self, params: Tree) -> Float[Array, ""]:
        """What the method adds to the mean loss of a step."""
        return self.method.penalty(params["adapters"])

    def measures(self, params: Tree) -> dict[str, Array]:
        """What the method logs of a step besides its loss: name -> scalar."""
        return self.method.measures(params["adapters"])

    def fold(self, params: Tree) -> tuple["Model", Tree]:
        """(model, params) of the same function without adapters, folded into the backbone's weights, in float32. Pure.

        Quantised kernels become floats, and stay so: `quant.quantise` goes back, and says how far each is off then.

        Raises:
            NotFoldable: the method's change is no change of weights.
        """
        backbone = quant.dequantise(params["backbone"])
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), backbone)
        backbone = self.method.fold(wide, params["adapters"])
        backbone |= {"encoder": trees.join_runs(backbone["encoder"], self.config.num_hidden_layers)}
        return dataclasses.replace(self, method=Full()), params | {"backbone": backbone, "adapters": {}}

    def flattened(self, params: Tree) -> tuple["Model", Tree]:
        """(model, params) of the same function without the networks that only make prefixes and prompts in training."""
        method, adapters = self.method.flattened(params["adapters"], self.config)
        return dataclasses.replace(self, method=method), params | {"adapters": adapters}

    def summary(self, backbone: Tree) -> Summary:
        """What is trained, counted without arrays; `backbone` as in `init`."""
        params = self.abstract(backbone)
        return summarise(params, self.labels(params))

    def _segments(self, backbone: Tree, first: int) -> tuple[Segment, ...]:
        """Runs of layers, from layer `first` on."""
        layers = self.config.num_hidden_layers
        own = self.method.segments(self.config)
        starts = {start for start, _, _ in trees.runs(backbone["encoder"], layers)} | set(own)
        modules: Callable[[int], dict] = lambda start: {
            slot: m
            for slot, m in self.method.modules(self.config, max(s for s in own if s <= start)).items()
            if slot in LAYER_ARGUMENTS
        }
        borders = (*sorted({first} | {start for start in starts if start > first}), layers)
        return tuple(Segment(a, b, modules(a)) for a, b in itertools.pairwise(borders))

    def _cut(self, backbone: Tree) -> Tree:
        """The backbone with its layers cut into runs within which the method trains the same leaves."""
        paths = [path.split("/", 1)[1] for path in trees.flatten({"encoder": backbone["encoder"]})]

        def trained(layer: int) -> tuple[bool, ...]:
            return tuple(self.method.trainable(f"backbone/encoder/{layer}/{path}", self.config) for path in paths)

        layers = range(self.config.num_hidden_layers)
        starts = [i for i in layers if i == 0 or trained(i) != trained(i - 1)]
        return backbone | {"encoder": trees.split_runs(backbone["encoder"], len(layers), starts)}
