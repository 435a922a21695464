"""Eleven named places of a BERT layer where a method may plug in, and how each is called.

    project(slot, x, dense, ctx) -> y           query key value attn_out ffn_in ffn_out
        dense: callable, with .kernel() [in out] and .bias [out]; the default is dense(x)
    key_value(k, v, mask, ctx) -> k, v, mask    key_value            k, v [b t n h]; mask [b t] bool, True = attend
    merge(slot, y, residual, norm, ctx) -> h    attn_merge ffn_merge
        y [b t d]: the sublayer's output after dropout; the default is norm(residual + y)
    embed(x, mask, ctx) -> x, mask              embed
        the module's static `place` says when: "words" (before positions and types) or "encoder" (after LayerNorm and
        dropout)
    output(h, hidden_states, ctx) -> h          output
        once, after the last layer, h still with the rows that `embed` added in front; they are stripped from its
        result, so that row 0 is [CLS] for every head

Every layer calls all of them unconditionally; a slot without a module does the plain thing. A module is a Flax Linen
module called with these arguments; it may use `self.has_rng("dropout")` (true in training only), and what it sows into
the collection `aux` comes back in the model's output, stacked over the layers of a run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from adapters_jax.types import Array, Float, Hidden, Ids, Key, Mask, Tree

PROJECT = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
MERGE = ("attn_merge", "ffn_merge")
IN_LAYERS = (*PROJECT, "key_value", *MERGE)
SLOTS = (*IN_LAYERS, "embed", "output")

Modules = Mapping[str, nn.Module]
"""Slot name -> the Linen module that stands there."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a slot may look at besides its arguments.

    Attributes:
        input_ids: [b t], as given.
        mask: [b t], as given, True = token.
        hidden: this layer's input [b u d], u counting rows that `embed` added; outside the layers, the same as the
            slot's own input.
        layer: the layer's number, traced under scan; the number of layers outside them.
    """

    input_ids: Ids
    mask: Mask
    hidden: Float[Array, "b u d"]
    layer: Any


@dataclasses.dataclass(frozen=True)
class Slots:
    """The only dispatch: one dict lookup per place.

    Attributes:
        modules, params: by slot; a module without parameters needs no entry in `params`.
        keys: dropout keys by slot and by place in the backbone; empty outside training.
        ctx: passed on to every module.
        aux: filled with what modules sow, by slot.
    """

    modules: Modules
    params: Tree
    keys: Mapping[str, Key]
    ctx: Context
    aux: dict[str, Tree] = dataclasses.field(default_factory=dict)

    def _call(self, slot: str, plain: Callable[..., Any], *args: Any) -> Any:
        module = self.modules.get(slot)
        if module is None:
            return plain(*args)
        rngs = {"dropout": self.keys[slot]} if slot in self.keys else {}
        result, sown = module.apply({"params": self.params.get(slot, {})}, *args, self.ctx, rngs=rngs, mutable=["aux"])
        self.aux.update({slot: sown["aux"]} if sown.get("aux") else {})
        return result

    def project(self, slot: str, x: Array, dense: Callable[[Array], Array]) -> Array:
        return self._call(slot, lambda x, dense: dense(x), x, dense)

    def key_value(self, k: Array, v: Array, mask: Mask) -> tuple[Array, Array, Array]:
        return self._call("key_value", lambda *kvm: kvm, k, v, mask)

    def merge(self, slot: str, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden]) -> Hidden:
        return self._call(slot, lambda y, residual, norm: norm(residual + y), y, residual, norm)

    def embed(self, place: str, x: Hidden, mask: Mask) -> tuple[Array, Array]:
        module = self.modules.get("embed")
        if module is None or module.place != place:
            return x, mask
        return self._call("embed", lambda *xm: xm, x, mask)

    def output(self, h: Hidden, hidden_states: tuple[Hidden, ...]) -> Hidden:
        return self._call("output", lambda h, _: h, h, hidden_states)
