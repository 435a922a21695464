"""The relation between two marked entities (Wang et al., 2021; Baldini Soares et al., 2019, "entity start").

With h_s, h_o [d] the states of the marks in front of the subject and of the object:

    logits = W dropout([h_s ; h_o]) + b                   W [2d c]

    head/classifier/kernel [2d c] and bias

Deviation: microsoft/K-Adapter has another dense layer [2d d] before W, with nothing between the two.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Surroundings, initial_dense
from adapters_jax.bert.heads.classes import ClassHead
from adapters_jax.bert.ops import Dense, dropout
from adapters_jax.types import Array, Hidden, Key, Logits, Tree


@dataclasses.dataclass(frozen=True)
class Relation(ClassHead):
    """One of c relations; the batch brings "marks", the places of both marks [b 2].

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the relations, in order; "0", "1", ... if not given.
    """

    name: ClassVar[str] = "relation"
    inputs: ClassVar[tuple[str, ...]] = ("marks",)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.1

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        return {"classifier": initial_dense(key, "classifier", config, 2 * config.hidden_size, self.width)}

    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Logits, Array]:
        with jax.named_scope("head"):
            marked = jnp.take_along_axis(hidden, around.batch["marks"][:, :, None], axis=1)
            both = marked.reshape(marked.shape[0], -1)
            seen = dropout(both, self.dropout, around.key).astype(jnp.float32)
            return Dense(params["classifier"])(seen), hidden[:, 0]
