"""Heads on the pooled [CLS]: one of several classes, or one number."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Head, Surroundings, check_dropout, initial_dense
from adapters_jax.bert.heads.classes import ClassHead
from adapters_jax.bert.ops import Dense, dropout, pool
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree


class PooledHead(Head):
    """A linear layer over the pooled [CLS], after dropout (Devlin et al., 2019, section 4.1).

    The pooler is the backbone's, frozen unless the method trains it; with `own_pooler`, or where the backbone has none,
    one of the head's own, trained and stored with it.
    """

    dropout: float
    own_pooler: bool

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        d = config.hidden_size
        own = {"pooler": initial_dense(key, "pooler", config, d, d)} if pooler or self.own_pooler else {}
        return own | {"classifier": initial_dense(key, "classifier", config, d, self.width)}

    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Logits, Array]:
        with jax.named_scope("head"):
            pooled = pool(params["pooler"] if "pooler" in params else around.backbone["pooler"], hidden)
            seen = dropout(pooled, self.dropout, around.key).astype(jnp.float32)
            return Dense(params["classifier"])(seen), pooled


@dataclasses.dataclass(frozen=True)
class Classification(PooledHead, ClassHead):
    """One of c classes: softmax cross entropy.

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the classes, in order; "0", "1", ... if not given.
        dropout: before the linear layer.
        own_pooler: bring a pooler along even where the backbone has one, as AdapterHub's heads do.
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.1
    own_pooler: bool = False


@dataclasses.dataclass(frozen=True)
class Regression(PooledHead):
    """One number: squared error of the standardised label, (label - mean) / deviation.

    A head starts at 0. Where the labels lie far from it, the first steps push every trained leaf one way until the mean
    is met; adapters, whose rates are ten times those of full fine-tuning, do not recover from that within an epoch.
    So training jobs take mean and deviation from the training labels, and answers come back on the labels' own scale.

    Attributes:
        dropout: before the linear layer.
        mean, deviation: of the labels; 0 and 1 leave them as they are (the released code of BERT).
        own_pooler: bring a pooler along even where the backbone has one, as AdapterHub's heads do.
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    dropout: float = 0.1
    mean: float = 0.0
    deviation: float = 1.0
    own_pooler: bool = False

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation > 0):
            raise ConfigError(
                f"head: expected a finite mean and a deviation above 0, got {self.mean} and {self.deviation}"
            )

    @property
    def width(self) -> int:
        return 1

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        return jnp.square(logits[:, 0] - (batch["labels"] - self.mean) / self.deviation)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        return np.asarray(answers)[:, 0] * self.deviation + self.mean

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        return [{"score": float(value)} for value in self.predictions(answers)]
