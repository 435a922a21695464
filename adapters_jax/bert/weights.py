"""The table that describes each weight of the backbone once: path, axes, initialiser, name in released files.

Shapes, initial values, shardings and conversion derive from it. Axes are named by the glossary's letters (types.py):
d model, e embeddings (as wide as d, but in some ELECTRA), a attention (heads x head width, as wide as d),
f feed-forward, v vocabulary, s positions, y token types. What a family lacks is left out (`embeddings`).
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.families import tensor_name
from adapters_jax.types import Key, Tree


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row: where it stands here, its axes, how it starts, and what released checkpoints of BERT call it."""

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
        "e": config.embedding_width,
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


def _norm(path: str, released: str, axis: str = "d") -> tuple[Weight, Weight]:
    return (
        Weight(f"{path}/scale", (axis,), "ones", f"{released}.weight"),
        Weight(f"{path}/bias", (axis,), "zeros", f"{released}.bias"),
    )


EMBEDDINGS = (
    Weight("embeddings/words", ("v", "e"), "normal", "embeddings.word_embeddings.weight"),
    Weight("embeddings/positions", ("s", "e"), "normal", "embeddings.position_embeddings.weight"),
    Weight("embeddings/types", ("y", "e"), "normal", "embeddings.token_type_embeddings.weight"),
    *_norm("embeddings/norm", "embeddings.LayerNorm", "e"),
)
PROJECTION = _dense("embeddings/project", ("e", "d"), "embeddings_project")
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


def embeddings(config: BertConfig) -> tuple[Weight, ...]:
    """The rows of `EMBEDDINGS` that the config has, and `PROJECTION` where it has one."""
    rows = tuple(row for row in EMBEDDINGS if row.path != "embeddings/types" or config.type_vocab_size)
    return rows + (PROJECTION if config.projects else ())


def numbered(config: BertConfig, pooler: bool = True) -> Iterator[Weight]:
    """Every weight in table order, layer by layer, under its layer-numbered path and its name in released files."""
    yield from embeddings(config)
    for layer in range(config.num_hidden_layers):
        for row in LAYER:
            name = tensor_name(config.model_type, f"encoder.layer.{layer}.{row.released}")
            yield dataclasses.replace(row, path=f"encoder/{layer}/{row.path}", released=name)
    if pooler:
        yield from POOLER


def abstract(config: BertConfig, pooler: bool = True, dtype: str = "float32") -> Tree:
    """The backbone's tree of `jax.ShapeDtypeStruct`, layers stacked."""
    layers = config.num_hidden_layers
    rows = {row.path: row.shape(config) for row in embeddings(config) + (POOLER if pooler else ())}
    rows |= {f"encoder/{row.path}": (layers, *row.shape(config)) for row in LAYER}
    tree = trees.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for path, shape in rows.items()})
    return {part: tree[part] for part in ("embeddings", "encoder", "pooler") if part in tree}


def initialise(key: Key, config: BertConfig, pooler: bool = True) -> Tree:
    """A random backbone: truncated normal of `initializer_range` (Devlin et al.), biases 0, LayerNorm scales 1."""
    table = {row.path: row.init for row in embeddings(config) + POOLER}
    table |= {f"encoder/{row.path}": row.init for row in LAYER}

    def start(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if table[path] == "normal":
            normal = jax.nn.initializers.truncated_normal(config.initializer_range)
            return normal(trees.fold_path(key, path), leaf.shape, leaf.dtype)
        return (jnp.zeros if table[path] == "zeros" else jnp.ones)(leaf.shape, leaf.dtype)

    return trees.map_paths(start, abstract(config, pooler))
