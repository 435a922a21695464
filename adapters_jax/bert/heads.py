"""Task heads on the pooled [CLS]: what they compute, their loss, and what their logits mean."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import truncated_normal

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import Dense, dropout, pool
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Float, Hidden, Key, Logits, Tree

VOTES = ("majority", "mean")
"""How several answers to one row become one: each has a vote (ties go to the higher mean), or their mean counts."""


class Head(abc.ABC):
    """A linear layer over the pooled [CLS], after dropout (Devlin et al., 2019, section 4.1).

    The pooler is the backbone's, frozen unless the method trains it. Where the backbone has none, the head brings a
    fresh one along, which is trained and stored with it.
    """

    name: ClassVar[str]
    dropout: float

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """The number of logits, c."""

    @abc.abstractmethod
    def loss(self, logits: Logits, labels: Array) -> Float[Array, " b"]:
        """The loss of each row, in float32."""

    @abc.abstractmethod
    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """What metrics compare with the labels: [n]."""

    @abc.abstractmethod
    def decode(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """What a user reads, a dict per row."""

    def combine(self, logits: Float[Array, "k b c"], vote: str) -> Logits:
        """The logits of k answers to each row as those of one: their mean; where there are classes, see `vote`."""
        return logits.mean(0)

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        """Kernels from a truncated normal of `initializer_range`, biases 0; `pooler`: whether to bring one along."""

        def dense(name: str, outputs: int) -> Tree:
            kernel = truncated_normal(config.initializer_range)
            return {
                "kernel": kernel(trees.fold_path(key, name), (config.hidden_size, outputs), jnp.float32),
                "bias": jnp.zeros(outputs),
            }

        return ({"pooler": dense("pooler", config.hidden_size)} if pooler else {}) | {
            "classifier": dense("classifier", self.width)
        }

    def __call__(self, params: Tree, backbone: Tree, hidden: Hidden, key: Key | None) -> tuple[Logits, Array]:
        """(logits [b c] in float32, pooled [b d])."""
        with jax.named_scope("head"):
            pooled = pool(params["pooler"] if "pooler" in params else backbone["pooler"], hidden)
            seen = dropout(pooled, self.dropout, key).astype(jnp.float32)
            return Dense(params["classifier"])(seen), pooled

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore

    def _check_dropout(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head: dropout must be in [0, 1), got {self.dropout}")


@dataclasses.dataclass(frozen=True)
class Classification(Head):
    """One of c classes: softmax cross entropy.

    Attributes:
        num_labels: c; may be left out where `labels` are given.
        labels: the names of the classes, in order; "0", "1", ... if not given.
    """

    name: ClassVar[str] = "classification"
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_labels", self.num_labels or len(self.labels))
        object.__setattr__(self, "labels", tuple(self.labels) or tuple(str(i) for i in range(self.num_labels)))
        if self.num_labels < 2 or len(self.labels) != self.num_labels:
            raise ConfigError(
                f"head: expected at least 2 classes, each with a name, got {self.num_labels}: {self.labels}"
            )
        self._check_dropout()

    @property
    def width(self) -> int:
        return self.num_labels

    def loss(self, logits: Logits, labels: Array) -> Float[Array, " b"]:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]

    def combine(self, logits: Float[Array, "k b c"], vote: str) -> Logits:
        """The log of the mean probability, or of (votes + mean probability) / (k + 1), whose largest has most votes."""
        members = logits.shape[0]
        mean = jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - math.log(members)
        if vote == "mean":
            return mean
        votes = jax.nn.one_hot(jnp.argmax(logits, -1), self.num_labels, dtype=logits.dtype).sum(0)
        return jnp.logaddexp(jnp.log(votes), mean) - math.log(members + 1)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return np.argmax(logits, -1)

    def decode(self, logits: np.ndarray) -> list[dict[str, Any]]:
        shares = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
        rows = zip(self.predictions(logits), shares, strict=True)
        return [
            {
                "label": self.labels[best],
                "scores": {name: float(share) for name, share in zip(self.labels, row, strict=True)},
            }
            for best, row in rows
        ]


@dataclasses.dataclass(frozen=True)
class Regression(Head):
    """One number: squared error."""

    name: ClassVar[str] = "regression"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self._check_dropout()

    @property
    def width(self) -> int:
        return 1

    def loss(self, logits: Logits, labels: Array) -> Float[Array, " b"]:
        return jnp.square(logits[:, 0] - labels)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits)[:, 0]

    def decode(self, logits: np.ndarray) -> list[dict[str, Any]]:
        return [{"score": float(value)} for value in self.predictions(logits)]


HEADS: dict[str, type[Head]] = {"classification": Classification, "regression": Regression}
