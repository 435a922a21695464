"""No head: the encoder alone, for its states."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Head, Surroundings
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree


@dataclasses.dataclass(frozen=True)
class NoHead(Head):
    """What is asked for is `Output.hidden` [b t d]; `pooled` is the state of [CLS], there are no logits."""

    name: ClassVar[str] = "none"
    metrics: ClassVar[tuple[str, ...]] = ()
    learns_from_labels: ClassVar[bool] = False

    @property
    def width(self) -> int:
        return 0

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        return {}

    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Logits, Array]:
        return jnp.zeros((hidden.shape[0], 0)), hidden[:, 0]

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        raise ConfigError("head none: has nothing to learn; choose a head, such as Classification")

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        return [{} for _ in answers]
