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
UNKNOWN = -2
"""In "tags": a token whose tag is asked for."""


@dataclasses.dataclass(frozen=True)
class TokenClassification(ClassHead):
    """A linear layer over each token's state, after dropout; the batch brings "tags" [b t]: a class, NO_TAG, UNKNOWN.

    The loss of a row is the mean over its tags, so that rows weighted by their tags give the mean over all tags. Rows
    score themselves (`data.tagged_rows`): spans, and words in several rows, are more than the answers to one.

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
        tags, scored = batch["tags"], batch["tags"] >= 0
        shares = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(shares, jnp.maximum(tags, 0)[:, :, None], axis=-1)[:, :, 0]
        return -jnp.where(scored, right, 0.0).sum(-1) / jnp.maximum(scored.sum(-1), 1).astype(jnp.float32)

    @property
    def width(self) -> int:
        """Of each token."""
        return 2

    def answers(self, logits: Float[Array, "b t c"], batch: Batch) -> Float[Array, "b n"]:
        """[class, its probability] of each token, one after the other, n = 2 t; -1 for both where there is no tag."""
        found = jnp.stack([jnp.argmax(logits, -1).astype(jnp.float32), jax.nn.softmax(logits).max(-1)], -1)
        kept = jnp.where((batch["tags"] != NO_TAG)[:, :, None], found, -1.0)
        return kept.reshape(kept.shape[0], -1)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        """Classes [b t]; -1 where there is no tag."""
        return answers[:, ::2].astype(np.int32)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """The tags of each row, in order; `data.tagged_rows.TaggedRows.decode` gives those of words and texts."""
        rows = []
        for classes, shares in zip(self.predictions(answers), answers[:, 1::2], strict=True):
            kept = classes >= 0
            rows.append({"tags": [self.labels[tag] for tag in classes[kept]], "scores": shares[kept].tolist()})
        return rows
