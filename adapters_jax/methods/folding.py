"""Folding into the backbone's dense layers, whatever runs of layers the two trees are stacked over."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax import trees
from adapters_jax.bert.quant import Quantised
from adapters_jax.errors import NotFoldable
from adapters_jax.types import Array, Tree

Change = Callable[[str, str, jax.Array, Tree], Array]
"""(slot, "kernel" or "bias", that leaf, the slot's own leaves) -> the new leaf; all stacked over layers, in float32."""


def rewrite(backbone: Tree, adapters: Tree, change: Change) -> Tree:
    """The backbone with the dense layers that carry adapters changed, and what carries none shared. Pure.

    Args:
        backbone: its leaves may be of any dtype; the new ones are computed in float32 and rounded to it.
        adapters: leaves under `encoder`, by slot.
        change: what becomes of a kernel [l in out] or a bias [l out].

    Raises:
        NotFoldable: a kernel to be changed is quantised; `Model.fold` makes it a float one first.
    """
    layers = trees.unflatten(trees.to_layers(adapters)).get("encoder", {})

    def replaced(path: str, leaf: Any) -> Any:
        if not trees.is_stacked(path):
            return leaf
        slot, kind = path.split("/")[-2:]
        numbers = [name.split("/")[1] for name in trees.layer_paths(path, leaf)]
        at = np.array([i for i, number in enumerate(numbers) if slot in layers.get(number, {})], int)
        if not at.size:
            return leaf
        if isinstance(leaf, Quantised):
            raise NotFoldable(
                f"backbone/{path} is quantised ({leaf.kind}), and what is folded into it would be rounded again: "
                "expected a float kernel; Model.fold and quant.dequantise make one"
            )
        own = jax.tree.map(lambda *each: jnp.stack(each), *(layers[numbers[i]][slot] for i in at))
        old = jnp.asarray(leaf)
        return old.at[at].set(change(slot, kind, old[at].astype(jnp.float32), own).astype(old.dtype))

    return trees.map_paths(replaced, backbone)
