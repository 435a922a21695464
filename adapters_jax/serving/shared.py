"""Many tasks on the same texts: the layers that none of the adapters touches run once for all of them.

    model, params = aj.together({"mnli": (mnli, mnli_params), "sst2": (sst2, sst2_params)})
    aj.Predictor(model, params, backbone)(["a text"])        # [{"mnli": {"label", "scores"}, "sst2": {...}}]

Adapters that were trained without the first n layers (AdapterDrop) see the same states there; only what lies above is
computed task by task (Rücklé et al., 2021, section 4).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from adapters_jax import trees
from adapters_jax.bert.encoder import Segment, encode
from adapters_jax.errors import ConfigError
from adapters_jax.methods.adapter_drop import refuse_changed
from adapters_jax.methods.base import LAYER_ARGUMENTS
from adapters_jax.model import Model
from adapters_jax.types import Batch, Logits, Tree


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of several tasks, their answers side by side."""

    inputs: ClassVar[tuple[str, ...]] = ()
    learns_from_labels: ClassVar[bool] = True
    named: tuple[tuple[str, Any], ...]

    @property
    def width(self) -> int:
        return sum(head.width for _, head in self.named)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        return answers

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """Of each row, what each task's head says."""
        ends = np.cumsum([head.width for _, head in self.named])
        parts = np.split(np.asarray(answers), ends[:-1], axis=-1)
        columns = [head.decode(part) for (_, head), part in zip(self.named, parts, strict=True)]
        names = [name for name, _ in self.named]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclasses.dataclass(frozen=True)
class Together:
    """Models over one backbone, run on the same rows. Static and hashable, like a `Model`.

    Attributes:
        models: (task, model), in the order of the answers.
    """

    models: tuple[tuple[str, Model], ...]

    @property
    def head(self) -> Heads:
        return Heads(tuple((name, model.head) for name, model in self.models))

    @property
    def max_length(self) -> int:
        return min(model.max_length for _, model in self.models)

    @property
    def shared(self) -> int:
        """The number of layers that run once: those below the lowest that any of the methods stands in."""
        return min(_lowest(model) for _, model in self.models)

    def answers(self, params: Tree, batch: Batch) -> Logits:
        """The tasks' answers side by side [b c], c the sum of their widths, in float32.

        Args:
            params: {"backbone", "tasks": {task: {"adapters", "head"}}}.
            batch: input_ids [b t]; optional token_type_ids and mask [b t].
        """
        _, first = self.models[0]
        below = (Segment(0, self.shared, {}),) if self.shared else ()
        backbone, config = params["backbone"], first.config
        hidden = encode(backbone, {}, config, below, {}, batch, dtype=first.dtype, scan=first.scan_layers).hidden
        found = []
        for name, model in self.models:
            own = {"backbone": params["backbone"]} | params["tasks"][name]
            found.append(model.answers(own, batch, below=(self.shared, hidden)))
        return jnp.concatenate(found, axis=-1)


def together(tasks: Mapping[str, tuple[Model, Tree]]) -> tuple[Together, Tree]:
    """(model, params) of several tasks at once, for `Predictor`.

    Args:
        tasks: name -> (model, params) as `load_adapter` returns them for one and the same backbone.

    Raises:
        ConfigError: no task, models of other backbones or dtypes, adapters that changed the backbone (the leaves are
            named) or that do not live in layers alone.
    """
    if not tasks:
        raise ConfigError("together: expected at least one task, got none")
    name, (first, params) = next(iter(tasks.items()))
    frozen = params["backbone"]
    for other, (model, own) in tasks.items():
        if (model.config, model.dtype) != (first.config, first.dtype):
            raise ConfigError(f"together: expected one backbone and dtype, got others for {name} and {other}")
        if model.head.inputs or not model.head.learns_from_labels:
            raise ConfigError(f"together: expected heads that read texts alone, {other} has {model.head.name}")
        refuse_changed(model.method, model.config)
        outside = model.method.modules(model.config, 0).keys() - LAYER_ARGUMENTS.keys()
        if outside or model.method.positions(model.config):
            raise ConfigError(f"together: expected adapters that live in layers, {other} is {model.method.name}")
        leaves = zip(trees.flatten(frozen).items(), trees.flatten(own["backbone"]).values(), strict=True)
        for (path, leaf), mine in leaves:
            if leaf is not mine and not trees.same(leaf, mine):
                raise ConfigError(f"together: expected one backbone, {name} and {other} differ in {path}")
    parts = {task: {"adapters": own["adapters"], "head": own["head"]} for task, (_, own) in tasks.items()}
    models = tuple((task, model) for task, (model, _) in tasks.items())
    return Together(models), {"backbone": frozen, "tasks": parts}


def _lowest(model: Model) -> int:
    """The first layer that carries something of the method."""
    starts = model.method.segments(model.config)
    standing = [start for start in starts if model.method.modules(model.config, start).keys() & LAYER_ARGUMENTS.keys()]
    return min(standing, default=model.config.num_hidden_layers)
