"""One of several classes for each token: names in a text, parts of speech (Devlin et al., 2019, section 5.3)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Surroundings, initial_dense
from adapters_jax.bert.heads.classes import ClassHead
from adapters_jax.bert.ops import Dense, dropout
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Tree

NO_TAG = -1
"""In "tags": a token that has none, such as the further pieces of a word."""


@dataclasses.dataclass(frozen=True)
class TokenClassification(ClassHead):
    """A linear layer over each token's state, after dropout; the batch brings "tags" [b t], a class or NO_TAG.

    The loss of a row is the mean over its tags, so that rows weighted by their tags give the mean over all tags.

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the classes, in order; "0", "1", ... if not given.
        dropout: before the linear layer.
    """

    name: ClassVar[str] = "token_classification"
    inputs: ClassVar[tuple[str, ...]] = ("tags",)
    metrics: ClassVar[tuple[str, ...]] = ("tag_accuracy",)
    learns_from_labels: ClassVar[bool] = False  # they are among `inputs`, a class for each token
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.1

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        return {"classifier": initial_dense(key, "classifier", config, config.hidden_size, self.num_labels)}

    def __call__(
        self, params: Tree, hidden: Hidden, around: Surroundings
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b d"]]:
        with jax.named_scope("head"):
            seen = dropout(hidden, self.dropout, around.key).astype(jnp.float32)
            return Dense(params["classifier"])(seen), hidden[:, 0]

    def loss(self, logits: Float[Array, "b t c"], batch: Batch) -> Float[Array, " b"]:
        tags, scored = batch["tags"], batch["tags"] != NO_TAG
        shares = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(shares, jnp.maximum(tags, 0)[:, :, None], axis=-1)[:, :, 0]
        return -jnp.where(scored, right, 0.0).sum(-1) / jnp.maximum(scored.sum(-1), 1).astype(jnp.float32)

    @property
    def width(self) -> int:
        return 2

    def answers(self, logits: Float[Array, "b t c"], batch: Batch) -> Float[Array, "b 2"]:
        """[right, tags] of each row."""
        tags, scored = batch["tags"], batch["tags"] != NO_TAG
        right = scored & (jnp.argmax(logits, -1) == tags)
        return jnp.stack([right.sum(-1), scored.sum(-1)], -1).astype(jnp.float32)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        return answers

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        return [{"right": int(right), "tags": int(tags)} for right, tags in answers]
