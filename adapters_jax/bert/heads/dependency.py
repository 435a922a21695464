"""Which word each word depends on (Wang et al., 2021, section 3.4): one attention head whose weights are the answer.

With h_i the state of word i's first piece, h_0 that of [CLS], which stands for the root:

    s_ij = (W_q h_i + b_q) (W_k h_j) / sqrt(d)            over first pieces and [CLS], j other than i

and softmax over j gives the head of i. A word's key needs no bias: softmax does not see it.

    head/query/kernel [d d] and bias;   head/key/kernel [d d]

Deviation: microsoft/K-Adapter (lin-adapter.py) puts a whole attention layer of one head, two dense layers and a softmax
over max_length positions on top, which ties it to that length; it reports the attention's own choice besides, which is
what is trained here. The root is [CLS] there too.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads.base import Head, Surroundings, check_dropout, initial_dense
from adapters_jax.bert.ops import Dense, dropout
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree

NO_WORD = -1
"""In "heads": not the first piece of a word."""
NO_HEAD = -2
"""In "heads": the first piece of a word whose head was cut off; others may depend on it, it is not scored."""


@dataclasses.dataclass(frozen=True)
class DependencyHead(Head):
    """A head for each word; the batch brings "heads" [b t]: the place of the head's first piece, 0 for the root.

    The loss of a row is the mean over its words, so that rows weighted by their words give the mean over all words.
    """

    name: ClassVar[str] = "dependency"
    inputs: ClassVar[tuple[str, ...]] = ("heads",)
    metrics: ClassVar[tuple[str, ...]] = ("uas",)
    learns_from_labels: ClassVar[bool] = False  # they are among `inputs`, a number for each token
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    @property
    def width(self) -> int:
        return 2

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        d = config.hidden_size
        asked = initial_dense(key, "key", config, d, d)
        return {"query": initial_dense(key, "query", config, d, d), "key": {"kernel": asked["kernel"]}}

    def __call__(
        self, params: Tree, hidden: Hidden, around: Surroundings
    ) -> tuple[Float[Array, "b t t"], Float[Array, "b d"]]:
        with jax.named_scope("head"):
            x = dropout(hidden, self.dropout, around.key).astype(jnp.float32)
            query = Dense(params["query"])(x) * x.shape[-1] ** -0.5
            scores = jnp.einsum("btd,bud->btu", query, x @ params["key"]["kernel"])
            places = (around.batch["heads"] != NO_WORD).at[:, 0].set(True)
            possible = places[:, None] & ~jnp.eye(x.shape[1], dtype=bool)[None]
            return jnp.where(possible, scores, jnp.finfo(jnp.float32).min), hidden[:, 0]

    def loss(self, logits: Float[Array, "b t t"], batch: Batch) -> Float[Array, " b"]:
        heads, scored = batch["heads"], batch["heads"] >= 0
        shares = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(shares, jnp.maximum(heads, 0)[:, :, None], axis=-1)[:, :, 0]
        return -jnp.where(scored, right, 0.0).sum(-1) / jnp.maximum(scored.sum(-1), 1).astype(jnp.float32)

    def answers(self, logits: Float[Array, "b t t"], batch: Batch) -> Logits:
        """[right, words] of each row."""
        heads, scored = batch["heads"], batch["heads"] >= 0
        right = scored & (jnp.argmax(logits, -1) == heads)
        return jnp.stack([right.sum(-1), scored.sum(-1)], -1).astype(jnp.float32)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        return [{"right": int(right), "words": int(words)} for right, words in answers]
