"""The table that describes each weight of the backbone once: path, axes, initialiser, name in released files.

Shapes, initial values, shardings and conversion derive from it. Axes are named by the glossary's letters (types.py):
d model, a attention (heads x head width, as wide as d), f feed-forward, v vocabulary, s positions, y token types.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.types import Key, Tree


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row: where it stands here, its axes, how it starts, and what released checkpoints call it."""

    path: str
    axes: tuple[str, ...]
    init: str
    released: str

    def shape(self, config: BertConfig) -> tuple[int, ...]:
        return tuple(sizes(config)[axis] for axis in self.axes)

    @property
    def transposed(self) -> bool:
        """Released kernels are [out in]; ours are [in out]."""
        return self.path.endswith("kernel")


def sizes(config: BertConfig) -> dict[str, int]:
    return {
        "d": config.hidden_size,
        "a": config.hidden_size,
        "f": config.intermediate_size,
        "v": config.vocab_size,
        "s": config.max_position_embeddings,
        "y": config.type_vocab_size,
    }


def _dense(path: str, axes: tuple[str, str], released: str) -> tuple[Weight, Weight]:
    return (
        Weight(f"{path}/kernel", axes, "normal", f"{released}.weight"),
        Weight(f"{path}/bias", axes[1:], "zeros", f"{released}.bias"),
    )


def _norm(path: str, released: str) -> tuple[Weight, Weight]:
    return (
        Weight(f"{path}/scale", ("d",), "ones", f"{released}.weight"),
        Weight(f"{path}/bias", ("d",), "zeros", f"{released}.bias"),
    )


EMBEDDINGS = (
    Weight("embeddings/words", ("v", "d"), "normal", "embeddings.word_embeddings.weight"),
    Weight("embeddings/positions", ("s", "d"), "normal", "embeddings.position_embeddings.weight"),
    Weight("embeddings/types", ("y", "d"), "normal", "embeddings.token_type_embeddings.weight"),
    *_norm("embeddings/norm", "embeddings.LayerNorm"),
)
LAYER = (
    *_dense("query", ("d", "a"), "attention.self.query"),
    *_dense("key", ("d", "a"), "attention.self.key"),
    *_dense("value", ("d", "a"), "attention.self.value"),
    *_dense("attn_out", ("a", "d"), "attention.output.dense"),
    *_norm("attn_norm", "attention.output.LayerNorm"),
    *_dense("ffn_in", ("d", "f"), "intermediate.dense"),
    *_dense("ffn_out", ("f", "d"), "output.dense"),
    *_norm("ffn_norm", "output.LayerNorm"),
)
POOLER = _dense("pooler", ("d", "d"), "pooler.dense")


def numbered(config: BertConfig, pooler: bool = True) -> Iterator[Weight]:
    """Every weight in table order, layer by layer, under its layer-numbered path and its name in released files."""
    yield from EMBEDDINGS
    for layer in range(config.num_hidden_layers):
        for row in LAYER:
            yield dataclasses.replace(
                row, path=f"encoder/{layer}/{row.path}", released=f"encoder.layer.{layer}.{row.released}"
            )
    if pooler:
        yield from POOLER


def abstract(config: BertConfig, pooler: bool = True, dtype: str = "float32") -> Tree:
    """The backbone's tree of `jax.ShapeDtypeStruct`, layers stacked."""
    layers = config.num_hidden_layers
    rows = {row.path: row.shape(config) for row in EMBEDDINGS + (POOLER if pooler else ())}
    rows |= {f"encoder/{row.path}": (layers, *row.shape(config)) for row in LAYER}
    tree = trees.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for path, shape in rows.items()})
    return {part: tree[part] for part in ("embeddings", "encoder", "pooler") if part in tree}


def initialise(key: Key, config: BertConfig, pooler: bool = True) -> Tree:
    """A random backbone: truncated normal of `initializer_range` (Devlin et al.), biases 0, LayerNorm scales 1."""
    table = {row.path: row.init for row in EMBEDDINGS + POOLER} | {f"encoder/{row.path}": row.init for row in LAYER}

    def start(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if table[path] == "normal":
            normal = jax.nn.initializers.truncated_normal(config.initializer_range)
            return normal(trees.fold_path(key, path), leaf.shape, leaf.dtype)
        return (jnp.zeros if table[path] == "zeros" else jnp.ones)(leaf.shape, leaf.dtype)

    return trees.map_paths(start, abstract(config, pooler))
