"""The functional BERT encoder: embeddings, layers with slots, runs of layers under `lax.scan`."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import ACTIVATIONS, Dense, Norm, attend, by_rows, dropout, looked_up
from adapters_jax.slots import Context, Modules, Slots
from adapters_jax.types import Array, Batch, Hidden, Key, Mask, Tree

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What the backward pass keeps of a layer: all, the dense layers' results, or its input alone."""

SITES = ("attend", "attn_dropout", "ffn_dropout")
"""Where the backbone's own layers drop out."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of identical layers, and the modules that stand in their slots."""

    start: int
    stop: int
    modules: Modules


class Encoded(NamedTuple):
    """hidden [b t d] after the last layer; hidden_states: the embeddings' and every layer's output, if asked for."""

    hidden: Hidden
    hidden_states: tuple[Hidden, ...]
    aux: Tree


def embeddings(params: Tree, config: BertConfig, batch: Batch, first: int, slots: Slots, dtype: Any) -> tuple:
    """Word, position and type embeddings, summed, normalised, dropped out: (x [b t d], mask [b t]).

    Rows that a method adds in front of the words get the positions before `first`, and type 0. A family without token
    types adds none; where there is but one, all are of it. Where the config projects, "words" is as wide as the
    embeddings, and the dense layer stands after the dropout, before "encoder".
    """
    ids = batch["input_ids"]
    types = batch.get("token_type_ids")
    with jax.named_scope("embeddings"):
        words, mask = slots.embed("words", looked_up(params["words"], ids).astype(dtype), slots.ctx.mask)
        added = words.shape[1] - ids.shape[1]
        positions = params["positions"][first - added : first + ids.shape[1]]
        summed = words + positions[None].astype(dtype)
        if config.type_vocab_size:
            types = jnp.zeros_like(ids) if types is None or config.type_vocab_size == 1 else types
            summed = summed + params["types"][jnp.pad(types, ((0, 0), (added, 0)))].astype(dtype)
        x = Norm(params["norm"], config.layer_norm_eps)(summed)
        x = dropout(x, config.hidden_dropout_prob, slots.keys.get("embeddings"))
        if config.projects:
            x = Dense(params["project"])(x)
        return slots.embed("encoder", x, mask)


def layer(p: Tree, config: BertConfig, h: Hidden, mask: Mask, slots: Slots) -> Hidden:
    """One post-LayerNorm BERT layer (Devlin et al., 2019), every slot called."""
    keys, hidden_rate = slots.keys, config.hidden_dropout_prob
    norm = lambda name: Norm(p[name], config.layer_norm_eps)
    project = lambda name, x: slots.project(name, x, Dense(p[name]))
    heads = lambda x: x.reshape(*x.shape[:-1], config.num_attention_heads, config.head_width)

    with jax.named_scope("attention"):
        q, k, v = (heads(project(name, h)) for name in ("query", "key", "value"))
        k, v, seen = slots.key_value(k, v, mask)
        mixed = attend(q, k, v, seen, config.attention_probs_dropout_prob, keys.get("attend")).reshape(h.shape)
        y = dropout(project("attn_out", mixed), config.attn_out_dropout_prob, keys.get("attn_dropout"))
        h = slots.merge("attn_merge", y, h, norm("attn_norm"))
    with jax.named_scope("feed_forward"):
        wide = ACTIVATIONS[config.hidden_act](project("ffn_in", h))
        y = dropout(project("ffn_out", wide), hidden_rate, keys.get("ffn_dropout"))
        return slots.merge("ffn_merge", y, h, norm("ffn_norm"))


def encode(
    backbone: Tree,
    adapters: Tree,
    config: BertConfig,
    segments: Sequence[Segment],
    outer: Modules,
    batch: Batch,
    *,
    key: Key | None = None,
    first_position: int = 0,
    dtype: str = "float32",
    remat: str = "none",
    scan: bool = True,
    hidden_states: bool = False,
    depth: Array | None = None,
    below: Hidden | None = None,
) -> Encoded:
    """The encoder with its slots.

    Args:
        backbone: {"embeddings", "encoder", ...}; layers stacked (trees.py).
        adapters: {"encoder": by layer run and slot, "embed", "output"}.
        segments: runs of layers that carry the same modules, each beginning where the one before ends.
        outer: modules of the slots `embed` and `output`.
        batch: input_ids [b t], and optionally token_type_ids and mask [b t].
        key: the step's dropout key; None means no dropout.
        first_position: the position of the first token, counted from the config's own first.
        dtype: of the computation.
        remat: a key of REMAT.
        scan: False unrolls the layers: for counting FLOPs, and as a reference.
        hidden_states: keep every layer's output; they are also kept if a module stands in `output`.
        depth: layers before this one run without modules, and outside of what is differentiated; a scalar that may be
            traced. Their leaves in `backbone` must be frozen.
        below: the state that enters the first segment, in place of the embeddings'; no module stands in `embed`.
    """
    ids = batch["input_ids"]
    mask = jnp.ones(ids.shape, bool) if batch.get("mask") is None else batch["mask"].astype(bool)
    ctx = Context(ids, mask, jnp.zeros((*ids.shape, config.hidden_size), dtype), config.num_hidden_layers)
    around = Slots(outer, adapters, trees.site_keys(key, ("embeddings", *outer)), ctx)
    if below is None:
        first = config.position_offset + first_position
        x, mask = embeddings(backbone["embeddings"], config, batch, first, around, jnp.dtype(dtype))
    else:
        x = below
    keep = hidden_states or "output" in outer

    layers = _Layers(config, ctx, mask, key, remat, scan, keep, depth)
    states, aux = [x[None]] if keep else [], {}
    x = layers.below(backbone, x)
    for segment in segments:
        x, (kept, sown) = layers.run(backbone, adapters, segment, x)
        states += [kept] if keep else []
        aux.update({str(segment.start): sown} if sown else {})
    stacked = tuple(itertools.chain.from_iterable(tuple(part) for part in states))

    ctx = dataclasses.replace(ctx, hidden=x)
    around = dataclasses.replace(around, ctx=ctx)
    x = around.output(x, stacked)
    tokens = lambda h: h[:, h.shape[1] - ids.shape[1] :]
    return Encoded(tokens(x), tuple(map(tokens, stacked)), ({"encoder": aux} if aux else {}) | around.aux)


@dataclasses.dataclass(frozen=True)
class _Layers:
    """What all layers of a forward pass share; `depth` and `keep` as in `encode`."""

    config: BertConfig
    ctx: Context
    mask: Mask
    key: Key | None
    remat: str
    scan: bool
    keep: bool
    depth: Array | None

    def run(self, backbone: Tree, adapters: Tree, segment: Segment, x: Hidden) -> tuple:
        """A segment's layers; returns (h, (outputs [l b t d] if kept, aux stacked over layers))."""
        layers = self.config.num_hidden_layers
        weights = trees.cut(backbone["encoder"], layers, segment.start, segment.stop)
        own = trees.cut(adapters.get("encoder", {}), layers, segment.start, segment.stop)
        numbers = range(segment.start, segment.stop)
        keys = trees.site_keys(self.key, (*SITES, *segment.modules), numbers)

        def body(h: Hidden, xs: tuple) -> tuple:
            if self.depth is None:
                h, aux = self.one(h, segment.modules, *xs)
            else:
                h, aux = self.skipping(h, segment.modules, *xs)
            return h, (h if self.keep else None, aux)

        xs = (weights, own, jnp.array(numbers), keys)
        return jax.lax.scan(_remat(body, self.remat), x, xs, unroll=1 if self.scan else len(numbers))

    def one(self, h: Hidden, modules: Modules, p: Tree, own: Tree, number: Any, keys: Any) -> tuple[Hidden, Tree]:
        """One layer, and what its modules sow."""
        h = by_rows(h)
        slots = Slots(modules, own, keys, dataclasses.replace(self.ctx, hidden=h, layer=number))
        return layer(p, self.config, h, self.mask, slots), slots.aux

    def skipping(self, h: Hidden, modules: Modules, p: Tree, own: Tree, number: Any, keys: Any) -> tuple[Hidden, Tree]:
        """The layer, if it is not below `depth`; one below was run before (`below`), or is run without modules."""
        full = lambda h: self.one(h, modules, p, own, number, keys)
        sown = jax.eval_shape(full, h)[1]

        def skip(h: Hidden) -> tuple[Hidden, Tree]:
            plain = self.one(h, {}, p, {}, number, keys)[0] if self.keep else h
            return plain, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sown)

        return jax.lax.cond(number >= self.depth, full, skip, h)

    def below(self, backbone: Tree, x: Hidden) -> Hidden:
        """The layers below `depth`, without modules: a loop of as many turns, outside of what is differentiated."""
        if self.depth is None or self.keep:
            return x
        numbers = range(self.config.num_hidden_layers)
        stacked = backbone["encoder"], trees.site_keys(self.key, SITES, numbers)

        def turn(number: Any, h: Hidden) -> Hidden:
            p, keys = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), stacked)
            return self.one(h, {}, p, {}, number, keys)[0]

        return jax.lax.fori_loop(0, self.depth, turn, x)


def _remat(body: Callable, name: str) -> Callable:
    return body if name == "none" else jax.checkpoint(body, policy=REMAT[name], prevent_cse=False)
