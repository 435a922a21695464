"""Which ranks AdaLoRA left to each layer and slot, as a table and as a heat map."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adapters_jax import tensors, trees
from adapters_jax.analysis.figures import drawn
from adapters_jax.artefact import WEIGHTS, read_manifest, verify
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.slots import PROJECT
from adapters_jax.types import Tree

PLACE = re.compile(rf"adapters/((?:[^/]+/)?)encoder/(\d+)/({'|'.join(PROJECT)})/e")
"""The name of a change's E in an artefact; in a composition, its part's name comes first."""


class Rank(NamedTuple):
    """Triplets of a change at the end and at the beginning of its training."""

    left: int
    initial: int


Ranks = dict[str, dict[int, Rank]]
"""Slot (in a composition after its part's name) -> layer -> rank."""


def of_artefact(folder: str | Path) -> Ranks:
    """The ranks in the folder of an artefact.

    Raises:
        AdapterError: no artefact, or one that was changed.
        ConfigError: one of another method.
    """
    where = Path(folder)
    content = read_manifest(where)
    if problems := verify(where):
        raise AdapterError(f"{where}: {problems[0]}; copy it anew from where it was trained")
    found = _counted(tensors.read(where / WEIGHTS))
    if not found:
        raise ConfigError(f"{folder}: expected an adapter of adalora, got one of {content['method'].get('name')}")
    return found


def of_params(params: Tree) -> Ranks:
    """The ranks in a tree of params; empty where no adapter of adalora is in it."""
    return _counted(trees.to_layers({"adapters": params["adapters"]}))


def _counted(flat: Mapping[str, Any]) -> Ranks:
    found: Ranks = {}
    for name, leaf in flat.items():
        if match := PLACE.fullmatch(name):
            part, layer, slot = match.groups()
            found.setdefault(part + slot, {})[int(layer)] = Rank(int(np.count_nonzero(leaf)), leaf.size)
    order = lambda slot: (slot.rpartition("/")[0], PROJECT.index(slot.rpartition("/")[2]))
    return {slot: dict(sorted(found[slot].items())) for slot in sorted(found, key=order)}


def heat_map(ranks: Ranks) -> str:
    """The ranks as text: a line per layer, a column per slot, darker where more is left; sums at the borders."""
    width = max(12, *(len(slot) + 2 for slot in ranks))
    layers = sorted({layer for column in ranks.values() for layer in column})
    lines = [f"{'':<10}" + "".join(f"{slot:>{width}}" for slot in ranks) + f"{'all':>7}"]
    for layer in layers:
        row = [column.get(layer) for column in ranks.values()]
        whole = sum(rank.left for rank in row if rank)
        lines.append(f"layer {layer:<4}" + "".join(f"{_cell(rank):>{width}}" for rank in row) + f"{whole:>7}")
    sums = [sum(rank.left for rank in column.values()) for column in ranks.values()]
    lines.append(f"{'all':<10}" + "".join(f"{total:>{width - 4}}    " for total in sums) + f"{sum(sums):>7}")
    initial = sum(rank.initial for column in ranks.values() for rank in column.values())
    lines.append(f"{sum(sums)} of {initial} triplets are left")
    return "\n".join(lines)


def _cell(rank: Rank | None) -> str:
    """A number and a block, darker from quarter to quarter."""
    return "-" if rank is None else f"{rank.left} {' ░▒▓█'[-(-4 * rank.left // rank.initial)] * 3}"


def save(ranks: Ranks, file: Path, title: str) -> None:
    """Draws the heat map into a file of matplotlib's formats.

    Raises:
        ConfigError: see `drawn`.
    """
    layers = sorted({layer for column in ranks.values() for layer in column})
    values = [[column[layer].left if layer in column else np.nan for column in ranks.values()] for layer in layers]
    with drawn(file, 2 + 0.9 * len(ranks), 1.5 + 0.4 * len(layers)) as axes:
        axes.imshow(values, cmap="Greens", vmin=0, aspect="auto")
        axes.set_xticks(range(len(ranks)), list(ranks), rotation=30)
        axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axes.set(ylabel="layer", title=title)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                axes.text(x, y, "-" if np.isnan(value) else f"{value:g}", ha="center", va="center")
