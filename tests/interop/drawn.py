"""Models with random leaves, made without compiling anything."""

import jax.numpy as jnp
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.heads import Head

LABELS = ("ja", "nein | ☃", "weiß nicht")


def drawn(backbone: aj.Backbone, method: aj.Method, head: Head | None = None) -> tuple[aj.Model, dict]:
    """A model whose own leaves are random, and the backbone's trained ones near what they were."""
    model = aj.Model(backbone.config, method, head or aj.Classification(labels=LABELS))
    template = model.abstract(backbone.params)
    labels, own = trees.flatten(model.labels(template)), trees.to_layers({"backbone": backbone.params})
    rng = np.random.default_rng(0)
    flat = {}
    for path, leaf in trees.flatten(template).items():
        for name in trees.layer_paths(path, leaf):
            shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
            noise = jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
            flat[name] = noise if name not in own else own[name] + (0 if labels[path] == "frozen" else noise)
    return model, trees.from_layers(flat, template)
