"""How much attention a fusion gives to each of its adapters, over a set of rows."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from adapters_jax.data.batches import eval_batches
from adapters_jax.data.tokenize import Rows
from adapters_jax.methods.fusion import Fusion, attention
from adapters_jax.sharding import Layout
from adapters_jax.training.evaluate import INPUTS
from adapters_jax.training.step import PerShape
from adapters_jax.types import Array, Batch, Tree

Shares = dict[str, dict[str, dict[str, float]]]
"""Slot -> layer -> adapter's name -> its mean share of the attention."""


def attention_shares(
    model: Any, params: Tree, rows: Rows, batch_size: int = 64, layout: Layout | None = None
) -> Shares:
    """The mean of the attention over all tokens of all rows; padding does not count.

    Args:
        model: its method is a `Fusion` whose adapters all stand in each layer that it fuses.
        params: as trained.
        rows: encoded.
        batch_size: changes speed and memory only.
        layout: of the parameters; None: they are on one device.
    """
    fusion: Fusion = model.method

    def sums(params: Tree, batch: Batch) -> tuple[dict[str, dict[int, Array]], Array]:
        tokens = batch["mask"] * batch["weight"][:, None]
        found = attention(model.apply(params, {name: batch[name] for name in INPUTS}).aux, model.config)
        total = lambda shares: jnp.einsum("bt,btn->n", tokens, shares)
        return {slot: {n: total(s) for n, s in layers.items()} for slot, layers in found.items()}, tokens.sum()

    forward = PerShape(sums) if layout is None else PerShape(sums, mesh=layout.mesh, places=layout.everywhere)
    whole: dict[str, dict[int, np.ndarray]] = {}
    count = 0.0
    for _, batch in eval_batches(rows, batch_size, layout):
        found, tokens = forward(params, {name: batch[name] for name in (*INPUTS, "weight")})
        count += float(tokens)
        for slot, layers in found.items():
            for layer, shares in layers.items():
                own = whole.setdefault(slot, {})
                own[layer] = own.get(layer, 0.0) + np.asarray(shares, np.float64)
    names = lambda slot, layer: [name for name, _ in fusion.standing(model.config, slot, layer)]
    return {
        slot: {
            str(layer): dict(zip(names(slot, layer), (shares / count).tolist(), strict=True))
            for layer, shares in layers.items()
        }
        for slot, layers in whole.items()
    }


def mean_shares(shares: Shares) -> dict[str, float]:
    """Each adapter's mean over the places where several stand, the largest first; where it does not stand, it has 0."""
    every = [layer for layers in shares.values() for layer in layers.values()]
    cells = [cell for cell in every if len(cell) > 1] or every
    names = dict.fromkeys(name for cell in every for name in cell)
    means = {name: sum(cell.get(name, 0.0) for cell in cells) / len(cells) for name in names}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def heat_map(shares: Shares) -> str:
    """The shares as text: a line per layer, a column per adapter, darker where there is more attention."""
    lines = []
    for slot, layers in shares.items():
        names = list(dict.fromkeys(name for cell in layers.values() for name in cell))
        width = max(12, *(len(name) + 2 for name in names))
        lines.append(f"{slot:<14}" + "".join(f"{name:>{width}}" for name in names))
        for layer, cell in layers.items():
            shown = "".join(f"{_cell(cell.get(name)):>{width}}" for name in names)
            lines.append(f"  layer {layer:<6}{shown}")
    means = mean_shares(shares)
    lines.append("mean          " + ", ".join(f"{name} {share:.3f}" for name, share in means.items()))
    return "\n".join(lines)


def _cell(share: float | None) -> str:
    """A number and a block, darker from quarter to quarter."""
    return "-" if share is None else f"{share:.3f} {' ░▒▓█'[min(4, int(share * 5))] * 3}"
