"""The oracles' random backbones in the package's own tree."""

from collections.abc import Mapping
from typing import Any

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.types import Tree
from parity import recipe


def backbone(config: aj.BertConfig, known: Mapping[str, Any] | None = None) -> Tree:
    """The recipe's weights at every path that `known` (layer-numbered path -> leaf) leaves open."""
    flat = dict(known or {})
    for row in weights.numbered(config):
        if row.path not in flat:
            shape = row.shape(config)[::-1] if row.transposed else row.shape(config)
            tensor = recipe.backbone_tensor(row.released, shape)
            flat[row.path] = tensor.T if row.transposed else tensor
    return trees.from_layers(flat, weights.abstract(config))
