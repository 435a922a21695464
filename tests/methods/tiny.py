"""Three layers of width 16, a batch, and two ways to fill a model on them: what tests of single methods share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights

TINY = aj.BertConfig.tiny(num_hidden_layers=3)
THREE = aj.Classification(num_labels=3)
BATCH = testing.fake_batch(TINY, rows=3)


def drawn(abstract, seed):
    """Leaves of N(0, 0.2^2), those that multiply something around 1."""
    rng = np.random.default_rng(seed)
    around = lambda path: path.endswith(("scale", "magnitude"))
    draw = lambda path, leaf: (rng.normal(size=leaf.shape) * 0.2 + around(path)).astype(np.float32)
    return jax.tree.map(jnp.asarray, trees.map_paths(draw, abstract))


BACKBONE = drawn(weights.abstract(TINY), 0)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, key=None):
    return model.apply(params, BATCH, key)


def drawn_model(method, backbone=BACKBONE):
    """A model, and parameters away from where they start."""
    model = aj.Model(TINY, method, THREE)
    own = {part: tree for part, tree in model.abstract(backbone).items() if part != "backbone"}
    return model, {"backbone": backbone} | drawn(own, 1)


def fresh_model(method, head=THREE, config=TINY, backbone=BACKBONE):
    """A model, and parameters where they start."""
    model = aj.Model(config, method, head)
    return model, model.init(jax.random.key(0), backbone)
