"""A model and its parameters as one `flax.nnx.Module`, and back, bit for bit.

    module = to_nnx(model, params)
    logits = module(batch).logits
    nnx.Optimizer(module, optax.adamw(1e-3), wrt=nnx.Param)                trains adapters and head
    nnx.grad(lambda m: m.loss(batch)[0], argnums=nnx.DiffState(0, Adapter))(module)    of the adapters alone
    model, params = from_nnx(module)

`module.params` is the tree itself, each leaf a variable of the kind that `Model.labels` gives it: `Adapter` (also of
the backbone's trained leaves) and `Head`, both `nnx.Param`, and `Frozen`, which is not. The model is static: part of
the graph, not of the state.
"""

from typing import Any

from flax import nnx

from adapters_jax import trees
from adapters_jax.errors import AdapterError
from adapters_jax.model import Model, Output
from adapters_jax.types import Array, Batch, Key, Tree


class Frozen(nnx.Variable):
    """A leaf that the method leaves as it is."""


class Adapter(nnx.Param):
    """A leaf that the method trains."""


class Head(nnx.Param):
    """A leaf of the head."""


KINDS: dict[str, type[nnx.Variable]] = {"frozen": Frozen, "adapter": Adapter, "head": Head}
"""Label of `Model.labels` -> kind of variable."""


class Module(nnx.Module):
    """Callable on a batch.

    Args:
        model: static.
        params: as of `Model.init`.
    """

    def __init__(self, model: Model, params: Tree) -> None:
        labels = trees.flatten(model.labels(params))
        self.model = model
        self.params = nnx.data(trees.map_paths(lambda path, leaf: KINDS[labels[path]](leaf), params))

    def __call__(self, batch: Batch, key: Key | None = None) -> Output:
        """The forward pass, as `Model.apply`."""
        return self.model.apply(self.tree(), batch, key)

    def loss(self, batch: Batch, key: Key | None = None) -> tuple[Array, Array]:
        """As `Model.loss`: (sum of the rows' losses, each times its weight, sum of the weights)."""
        return self.model.loss(self.tree(), batch, key)

    def tree(self) -> Tree:
        """The parameters, as `Model` takes them."""
        return trees.map_paths(lambda path, variable: variable.get_value(), self.params)


def to_nnx(model: Model, params: Tree) -> Module:
    """The model with its parameters; no leaf is copied."""
    return Module(model, params)


def from_nnx(module: Any) -> tuple[Model, Tree]:
    """The inverse of `to_nnx`, with the values that the module's variables have now.

    Raises:
        AdapterError: another module than one of `to_nnx`.
    """
    if not isinstance(module, Module):
        raise AdapterError(f"expected a module of to_nnx, got {type(module).__name__}")
    return module.model, module.tree()
