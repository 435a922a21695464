"""What heads over classes share: names, loss, votes, probabilities."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.heads.base import Head, check_dropout
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Batch, Float, Logits


class ClassHead(Head):
    """One of c classes: softmax cross entropy. A subclass is a dataclass with these fields.

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the classes, in order; "0", "1", ... if not given.
        dropout: on what the classes are read from.

    Raises:
        ConfigError: fewer than two classes, another number of names, or what is no rate of dropout.
    """

    num_labels: int
    labels: tuple[str, ...]
    dropout: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_labels", self.num_labels or len(self.labels))
        object.__setattr__(self, "labels", tuple(self.labels) or tuple(str(i) for i in range(self.num_labels)))
        if self.num_labels < 2 or len(self.labels) != self.num_labels:
            raise ConfigError(
                f"head: expected at least 2 classes, each with a name, got {self.num_labels}: {self.labels}"
            )
        check_dropout(self.dropout)

    @property
    def width(self) -> int:
        return self.num_labels

    def loss(self, logits: Logits, batch: Batch) -> Float[Array, " b"]:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][:, None], axis=-1)[:, 0]

    def combine(self, logits: Float[Array, "k b ... c"], vote: str) -> Float[Array, "b ... c"]:
        """The log of the mean probability, or of (votes + mean probability) / (k + 1), whose largest has most votes."""
        members = logits.shape[0]
        mean = jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - math.log(members)
        if vote == "mean":
            return mean
        votes = jax.nn.one_hot(jnp.argmax(logits, -1), self.num_labels, dtype=logits.dtype).sum(0)
        return jnp.logaddexp(jnp.log(votes), mean) - math.log(members + 1)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        return np.argmax(answers, -1)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        shares = np.asarray(jax.nn.softmax(jnp.asarray(answers, jnp.float32)))
        rows = zip(self.predictions(answers), shares, strict=True)
        return [
            {
                "label": self.labels[best],
                "scores": {name: float(share) for name, share in zip(self.labels, row, strict=True)},
            }
            for best, row in rows
        ]
