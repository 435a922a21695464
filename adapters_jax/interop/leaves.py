"""What tuning made of a model, by layer-numbered paths, and a model's parameters from it.

That is every leaf under adapters/ and head/, and the backbone's trained ones, as in the native folder (artefact.py).
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapters_jax import tensors, trees
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop.rules import QUANTISED, Flat, refuse
from adapters_jax.model import Model
from adapters_jax.sharding import fetch
from adapters_jax.types import Tree


def _parts(model: Model, backbone: Tree) -> tuple[Tree, Tree]:
    """(the model's abstract parameters, for `trees.split`: "frozen" is what the backbone brings)."""
    template = model.abstract(backbone)
    places = lambda path, label: label if path.startswith("backbone/") else "stored"
    return template, trees.map_paths(places, model.labels(template))


def stored(model: Model, params: Tree, backbone: Any, where: Path) -> Flat:
    """Path -> leaf in float32, of what is not the backbone's.

    Args:
        backbone: the `Backbone` it was trained on.
        where: begins the line of an error.

    Raises:
        ConfigError: the backbone is quantised.
        AdapterError: params are not the model's, not finite, or differ from the backbone where it is not trained.
    """
    refuse((QUANTISED,), backbone, f"backbone {backbone.name}", ConfigError)
    template, places = _parts(model, backbone.params)
    if unlike := set(trees.flatten(params)) ^ set(trees.flatten(template)):
        raise AdapterError(f"{where}: not saved, expected the model's own params, got other leaves: {min(unlike)}")
    own, rest = trees.split(params, places)
    flat = {
        path: np.asarray(leaf, np.float32) for path, leaf in trees.to_layers(trees.map_paths(_fetched, own)).items()
    }
    tensors.refuse_not_finite(where, flat)
    theirs = trees.flatten(_cut(backbone.params, template))
    for path, leaf in trees.flatten(rest["backbone"]).items():
        if leaf is not theirs[path] and not trees.same(leaf, theirs[path]):
            raise AdapterError(
                f"{where}: not saved, backbone/{path} differs from the backbone's, and the method does not train it; "
                "start from this backbone's params"
            )
    return flat


def assembled(model: Model, flat: Flat, backbone: Any, where: Path) -> Tree:
    """The inverse of `stored`: a model's parameters on a backbone, whose unchanged leaves are shared.

    Raises:
        AdapterError: leaves that the model lacks, or misses, or of another shape.
    """
    template, places = _parts(model, backbone.params)
    wanted, _ = trees.split(template, places)
    try:
        made = trees.from_layers({path: jnp.asarray(leaf, jnp.float32) for path, leaf in flat.items()}, wanted)
    except AdapterError as error:
        raise AdapterError(f"{where}: {error}") from None
    _, rest = trees.split(template | {"backbone": _cut(backbone.params, template)}, places)
    return trees.join(made, rest)


def _fetched(path: str, leaf: Any) -> Any:
    return fetch(leaf)


def _cut(backbone: Tree, template: Tree) -> Tree:
    """The backbone's own leaves, its layers in the runs that the template has."""
    layers = next(iter(trees.flatten(backbone["encoder"]).values())).shape[0]
    starts = [start for start, _, _ in trees.runs(template["backbone"]["encoder"], layers)]
    return backbone | {"encoder": trees.split_runs(backbone["encoder"], layers, starts)}
