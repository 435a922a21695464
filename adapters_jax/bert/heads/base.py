"""What a task head is: what it reads of the encoder, what it computes, its loss, and what its logits mean."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import truncated_normal

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree

VOTES = ("majority", "mean")
"""How several answers to one row become one: each has a vote (ties go to the higher mean), or their mean counts."""


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a head may look at besides the last layer's output.

    Attributes:
        backbone: its weights.
        batch: as `Head.prepare` returned it.
        key: of the step, for dropout; None for none.
        invert: undoes what the method does to the embeddings (`Method.invert`), for heads that predict words.
    """

    backbone: Tree
    batch: Batch
    key: Key | None = None
    invert: Callable[[Hidden], Hidden] = lambda x: x


class Head(abc.ABC):
    """What stands on the encoder: subclass as a final frozen dataclass whose fields are its hyper-parameters.

    Where the backbone has no pooler, heads that need one bring a fresh one along, trained and stored with them.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    """Arrays of the batch that it reads, besides input_ids, token_type_ids, mask, labels and weight."""
    metrics: ClassVar[tuple[str, ...]]
    """What it is scored by where nothing else is asked for; the first chooses the best step."""
    learns_from_labels: ClassVar[bool] = True
    """Whether rows bring labels; a head that makes its own (masked words) is scored without."""
    inverts: ClassVar[bool] = False
    """Whether it undoes what the method does to the embeddings, at their width: `Surroundings.invert`."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """The number of values that `answers` gives for a row, c."""

    @abc.abstractmethod
    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        """The tree under head/; `pooler`: whether to bring one along."""

    def prepare(self, batch: Batch, key: Key | None) -> Batch:
        """The batch as the encoder and the loss see it; a head may hide words of it, by the step's key."""
        return batch

    @abc.abstractmethod
    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Array, Array]:
        """(logits in float32, pooled [b d])."""

    @abc.abstractmethod
    def loss(self, logits: Array, batch: Batch) -> Float[Array, " b"]:
        """The loss of each row, in float32; `batch` as prepared."""

    def answers(self, logits: Array, batch: Batch) -> Logits:
        """What evaluation keeps of a row [b c]: the logits, or what its score is made of."""
        return logits

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        """What metrics compare with the labels, [n] or [n c]."""
        return answers

    @abc.abstractmethod
    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """What a user reads, a dict per row."""

    def combine(self, logits: Float[Array, "k b c"], vote: str) -> Logits:
        """The logits of k answers to each row as those of one: their mean; where there are classes, see `vote`."""
        return logits.mean(0)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore


def check_dropout(rate: float) -> None:
    """Refuses what is no rate of dropout."""
    if not 0 <= rate < 1:
        raise ConfigError(f"head: dropout must be in [0, 1), got {rate}")


def initial_dense(key: Key, name: str, config: BertConfig, inputs: int, outputs: int) -> Tree:
    """A dense layer of a head: its kernel from a truncated normal of `initializer_range`, its bias 0."""
    kernel = truncated_normal(config.initializer_range)(trees.fold_path(key, name), (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}
