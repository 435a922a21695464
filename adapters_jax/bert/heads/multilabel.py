"""Any number of c classes at once: a sigmoid for each over the pooled [CLS].

With s the logits [c], y the labels in {0, 1}, w_c the weight of a class's rows:

    loss = mean over c of -( w_c y log sigmoid(s) + (1 - y) log(1 - sigmoid(s)) )

    head/classifier/kernel [d c] and bias;   head/pooler where the backbone has none
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.heads.base import check_dropout
from adapters_jax.bert.heads.pooled import PooledHead
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Batch, Float, Logits


@dataclasses.dataclass(frozen=True)
class MultiLabel(PooledHead):
    """Which of c classes a text has: binary cross entropy of each, their mean.

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the classes, in order; "0", "1", ... if not given.
        dropout: before the linear layer.
        own_pooler: bring a pooler along even where the backbone has one.
        threshold: the probability from which on a text has a class.
        positive_weights: w_c, how much more the rows with a class count than those without, in the loss; () for 1.

    Raises:
        ConfigError: no class, another number of names or weights, or values out of range.
    """

    name: ClassVar[str] = "multilabel"
    metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.1
    own_pooler: bool = False
    threshold: float = 0.5
    positive_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_labels", self.num_labels or len(self.labels))
        object.__setattr__(self, "labels", tuple(self.labels) or tuple(str(i) for i in range(self.num_labels)))
        object.__setattr__(self, "positive_weights", tuple(float(weight) for weight in self.positive_weights))
        if self.num_labels < 1 or len(self.labels) != self.num_labels:
            raise ConfigError(f"head: expected classes, each with a name, got {self.num_labels}: {self.labels}")
        if len(self.positive_weights) not in (0, self.num_labels) or not all(
            math.isfinite(weight) and weight > 0 for weight in self.positive_weights
        ):
            raise ConfigError(
                f"head: expected {self.num_labels} positive_weights above 0, or none, got {self.positive_weights}"
            )
        if not 0 < self.threshold < 1:
            raise ConfigError(f"head: threshold must be in (0, 1), got {self.threshold}")
        check_dropout(self.dropout)

    @property
    def width(self) -> int:
        return self.num_labels

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        labels = batch["labels"].astype(jnp.float32)
        weights = jnp.asarray(self.positive_weights or (1.0,) * self.num_labels)[None]
        there, absent = weights * labels * jax.nn.log_sigmoid(logits), (1.0 - labels) * jax.nn.log_sigmoid(-logits)
        return -(there + absent).mean(-1)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        """0 and 1, int32 [n c]."""
        return (_sigmoid(answers) >= self.threshold).astype(np.int32)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """{"labels": the names from the threshold on, "scores": the probability of each class}."""
        rows = zip(self.predictions(answers), _sigmoid(answers), strict=True)
        return [
            {
                "labels": [name for name, there in zip(self.labels, chosen, strict=True) if there],
                "scores": {name: float(share) for name, share in zip(self.labels, shares, strict=True)},
            }
            for chosen, shares in rows
        ]


def _sigmoid(answers: np.ndarray) -> np.ndarray:
    """In float64, where exp(-x) may overflow to inf without harm: 1 / inf is 0."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-np.asarray(answers, np.float64)))
