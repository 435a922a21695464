"""Heads that compare several texts: which of k choices is right, in which order k candidates come.

Each choice stands in a row of its own beside the text that it answers, [CLS] text [SEP] choice [SEP]; with h the pooled
[CLS] of that row (Devlin et al., 2019, section 4.4, for SWAG):

    s_i = w . dropout(h_i) + b                   head/classifier/kernel [d 1] and bias; a pooler as of PooledHead

and softmax over the k scores of a text. A batch brings input_ids, token_type_ids and mask [b k t], and "choices" [b k],
false where a text has fewer than k. The encoder sees b * k rows.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.heads.base import Surroundings, check_dropout
from adapters_jax.bert.heads.pooled import PooledHead
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree

NO_CHOICE = -1e9
"""The score of a choice that is none: its share is 0 in float32."""


class ChoiceHead(PooledHead):
    """One score for each choice. A subclass is a dataclass with the fields of PooledHead."""

    inputs: ClassVar[tuple[str, ...]] = ("choices",)

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    @property
    def width(self) -> int:
        return 1

    def prepare(self, batch: Batch, key: Key | None) -> Batch:
        """Rows of choices [b k t] -> rows [b*k t]."""
        tokens = {name: batch[name] for name in ("input_ids", "token_type_ids", "mask") if name in batch}
        return dict(batch) | {name: array.reshape(-1, array.shape[-1]) for name, array in tokens.items()}

    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Float[Array, "rows k"], Array]:
        logits, pooled = super().__call__(params, hidden, around)
        there = around.batch["choices"].astype(bool)
        return jnp.where(there, logits.reshape(there.shape), NO_CHOICE), pooled


@dataclasses.dataclass(frozen=True)
class MultipleChoice(ChoiceHead):
    """One of k choices is right: softmax cross entropy; the batch's labels [b] are its number.

    Attributes:
        dropout: before the linear layer.
        own_pooler: bring a pooler along even where the backbone has one.
    """

    name: ClassVar[str] = "multiple_choice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    dropout: float = 0.1
    own_pooler: bool = False

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][:, None], axis=-1)[:, 0]

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        return np.argmax(answers, -1)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """{"choice", "scores"} of each row: a number from 0, and the share of each choice."""
        shares = np.asarray(jax.nn.softmax(jnp.asarray(answers, jnp.float32)))
        rows = zip(answers, shares, strict=True)
        return [
            {"choice": int(np.argmax(row)), "scores": [float(share) for share in part[row > NO_CHOICE]]}
            for row, part in rows
        ]


@dataclasses.dataclass(frozen=True)
class Ranking(ChoiceHead):
    """Candidates come in the order of their scores; the batch's labels [b k] say how relevant each is, from 0.

    The loss is the cross entropy between the relevances, each row's brought to sum 1, and softmax of the scores
    (Cao et al., 2007, ListNet, the top-one probability). A row in which nothing is relevant teaches nothing.

    Attributes:
        dropout: before the linear layer.
        own_pooler: bring a pooler along even where the backbone has one.
    """

    name: ClassVar[str] = "ranking"
    metrics: ClassVar[tuple[str, ...]] = ("mrr", "ndcg", "map")
    dropout: float = 0.1
    own_pooler: bool = False

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        relevance = jnp.where(batch["choices"].astype(bool), batch["labels"].astype(jnp.float32), 0.0)
        wanted = relevance / jnp.maximum(relevance.sum(-1, keepdims=True), 1e-9)
        return -(wanted * jax.nn.log_softmax(logits)).sum(-1)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """{"order", "scores"} of each row: the numbers of the candidates, best first; the score of each by number."""
        there = [row[row > NO_CHOICE] for row in answers]
        return [
            {"order": np.argsort(-row, kind="stable").tolist(), "scores": [float(score) for score in row]}
            for row in there
        ]
