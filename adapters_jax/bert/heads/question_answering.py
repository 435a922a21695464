"""Where in a text the answer to a question begins and ends (Devlin et al., 2019, sections 4.2 and 4.3).

With h_i [d] the last layer's state of token i:

    start_i, end_i = W h_i + b                            W [d 2], as `qa_outputs` of transformers

    head/qa_outputs/kernel [d 2] and bias

A softmax over the context's tokens gives the first one of the answer, another the last one; [CLS] is among both, and
stands for "no answer here". A span scores start_i + end_j, no answer start_0 + end_0.

Deviation: google-research/bert lets the softmax see the question's tokens and padding too. It pairs the n best starts
with the n best ends; here the n best pairs are found among all.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Head, Surroundings, initial_dense
from adapters_jax.bert.ops import Dense
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree

OUTSIDE, INSIDE, START = 0, 1, 2
"""In "context": a token of the question, [SEP] or padding; one that an answer may hold, or [CLS]; one that an answer
may also start at (of a token in several windows, only that with most context around it may)."""
NOWHERE = -1
"""In place of a token where there are fewer than n_best spans."""
LOWEST = float(np.finfo(np.float32).min)
"""The score of such a span."""


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Head):
    """First and last token of an answer; the batch brings "context" [b t] and, in training, "answer" [b 2].

    The loss of a row is the mean of the cross entropies of both ends.

    Attributes:
        n_best: how many spans are kept of each row.
        max_answer_tokens: the most tokens of a span.
    """

    name: ClassVar[str] = "question_answering"
    inputs: ClassVar[tuple[str, ...]] = ("context",)
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    learns_from_labels: ClassVar[bool] = False  # "answer" is in the batch, two places for each row
    n_best: int = 20
    max_answer_tokens: int = 30

    def __post_init__(self) -> None:
        for name in ("n_best", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"head: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def width(self) -> int:
        return 3 * self.n_best + 1

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        return {"qa_outputs": initial_dense(key, "qa_outputs", config, config.hidden_size, 2)}

    def __call__(
        self, params: Tree, hidden: Hidden, around: Surroundings
    ) -> tuple[Float[Array, "b t 2"], Float[Array, "b d"]]:
        with jax.named_scope("head"):
            return Dense(params["qa_outputs"])(hidden.astype(jnp.float32)), hidden[:, 0]

    def loss(self, logits: Float[Array, "b t 2"], batch: Batch) -> Float[Array, " b"]:
        """Raises DataError on batches without "answer"."""
        if "answer" not in batch:
            raise DataError("question_answering: expected rows with answers to learn from, got rows without")
        possible = (batch["context"] != OUTSIDE)[:, :, None]
        shares = jax.nn.log_softmax(jnp.where(possible, logits, LOWEST), axis=1)
        return -jnp.take_along_axis(shares, batch["answer"][:, None, :], axis=1)[:, 0].mean(-1)

    def answers(self, logits: Float[Array, "b t 2"], batch: Batch) -> Logits:
        """[first, last, score] of each of the n_best spans, best first, then the score of no answer; [b 3 n_best + 1].

        Where there are fewer spans, NOWHERE and LOWEST stand in their place.
        """
        rows, tokens = logits.shape[:2]
        longest = min(self.max_answer_tokens, tokens)
        last = jnp.arange(tokens)[:, None] + jnp.arange(longest)[None]
        ending = jnp.minimum(last, tokens - 1)
        context = batch["context"]
        possible = (context == START)[:, :, None] & (context != OUTSIDE)[:, ending] & (last < tokens)[None]
        scores = jnp.where(possible, logits[:, :, 0][:, :, None] + logits[:, :, 1][:, ending], LOWEST)
        missing = max(self.n_best - tokens * longest, 0)
        flat = jnp.pad(scores.reshape(rows, -1), ((0, 0), (0, missing)), constant_values=LOWEST)
        best, place = jax.lax.top_k(flat, self.n_best)
        first = place // longest
        found = best > LOWEST
        ends = [jnp.where(found, each, NOWHERE).astype(jnp.float32) for each in (first, first + place % longest)]
        return jnp.concatenate([jnp.stack([*ends, best], -1).reshape(rows, -1), logits[:, 0].sum(-1)[:, None]], -1)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """The best span of each row in tokens; `WindowRows.decode` knows the text."""
        return [
            {"first": int(row[0]), "last": int(row[1]), "score": float(row[2]), "no_answer_score": float(row[-1])}
            for row in answers
        ]

    def combine(self, logits: Float[Array, "k b t 2"], vote: str) -> Float[Array, "b t 2"]:
        """Their mean, however members vote: spans are no classes."""
        return logits.mean(0)
