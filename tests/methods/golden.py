"""Trained leaves of every row, by path and shape: `python -m tests.methods.golden` writes them down anew."""

import json
from pathlib import Path

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import weights
from tests.methods.row import Row
from tests.methods.table import ROWS_BY_NAME
from tests.methods.tiny import TINY

FILE = Path(__file__).resolve().parents[1] / "golden" / "method_trees.json"


def shapes(row: Row) -> dict[str, list[int]]:
    """Layer-numbered path -> shape, of what the method trains."""
    model = aj.Model(TINY, row.tiny, aj.Classification(num_labels=3))
    params = model.abstract(weights.abstract(TINY))
    trained, _ = trees.split(params, model.labels(params))
    own = {part: trained[part] for part in ("adapters", "backbone")}
    flat = {}
    for path, leaf in trees.flatten(own).items():
        shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
        flat.update({name: list(shape) for name in trees.layer_paths(path, leaf)})
    return flat


if __name__ == "__main__":
    rows = [f'"{name}": {json.dumps(shapes(row))}' for name, row in ROWS_BY_NAME.items()]
    FILE.write_text("{" + ",\n".join(rows) + "}\n")
