"""The masked-language-model head (Devlin et al., 2019): which word stood at each hidden place.

With h the encoder's output at a place, E the backbone's word embeddings [v e] (e = d but in some ELECTRA), `invert`
what undoes the method's change of the embeddings (`Method.invert`; the identity for most):

    logits = invert(LN(act(W h + b))) E^T + c                W [d e], c [v]

    head/dense/kernel [d e]   and bias;   head/norm/scale [e] and bias;   head/decoder/bias [v]

In training and evaluation only the chosen places go through it, K = 15 % of t: a sixth of the decoder's FLOPs. On a
batch without the arrays of masked training all places do: a plain masked-LM head. All of it in float32. The decoder's
kernel is the embeddings', which stay frozen unless the method trains them.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.bert.backbone import Backbone
from adapters_jax.bert.config import HIDDEN_ACTS, BertConfig
from adapters_jax.bert.heads import masking
from adapters_jax.bert.heads.base import Head, Surroundings, initial_dense
from adapters_jax.bert.ops import ACTIVATIONS, Dense, Norm, across
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.types import Array, Batch, Float, Hidden, Key, Logits, Tree


@dataclasses.dataclass(frozen=True)
class MaskedLM(Head):
    """Predicts hidden words; see `masking.hide`. `MaskedLM.of(backbone)` fills in the fields.

    Attributes:
        mask_id: of [MASK].
        vocab_size: entries of the tokenizer, of which random words are drawn.
        whole_word: hide all pieces of a word or none.
        hidden_act, layer_norm_eps: the backbone's; RoBERTa's and ELECTRA's heads have gelu whatever the backbone has.
    """

    name: ClassVar[str] = "masked_lm"
    inputs: ClassVar[tuple[str, ...]] = masking.INPUTS
    metrics: ClassVar[tuple[str, ...]] = ("log_likelihood", "perplexity", "masked_accuracy")
    learns_from_labels: ClassVar[bool] = False
    inverts: ClassVar[bool] = True
    mask_id: int = 103
    vocab_size: int = 30522
    whole_word: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if not 0 <= self.mask_id < self.vocab_size:
            raise ConfigError(
                f"head: expected mask_id to be one of vocab_size entries, got {self.mask_id} and {self.vocab_size}"
            )
        if self.hidden_act not in HIDDEN_ACTS:
            raise ConfigError(f"head: hidden_act must be one of {', '.join(HIDDEN_ACTS)}, got {self.hidden_act!r}")

    @classmethod
    def of(cls, backbone: Backbone, whole_word: bool = False) -> "MaskedLM":
        """The head of a backbone and its tokenizer.

        Raises:
            ConfigError: the tokenizer has no [MASK].
        """
        tokenizer, config = backbone.tokenizer, backbone.config
        if tokenizer.mask_token_id is None:
            raise ConfigError(f"backbone {backbone.name}: expected a tokenizer with a mask token, got one without")
        return cls(tokenizer.mask_token_id, len(tokenizer), whole_word, config.masked_lm_act, config.layer_norm_eps)

    @property
    def width(self) -> int:
        return 3

    def initialise(self, key: Key, config: BertConfig, pooler: bool) -> Tree:
        own = (self.hidden_act, self.layer_norm_eps)
        if own != (config.masked_lm_act, config.layer_norm_eps) or self.vocab_size > config.vocab_size:
            raise ConfigError(
                f"head: expected {config.masked_lm_act}, layer_norm_eps {config.layer_norm_eps} and at most "
                f"{config.vocab_size} words as the backbone has, got {self}; use MaskedLM.of(backbone)"
            )
        d, e = config.hidden_size, config.embedding_width
        return {
            "dense": initial_dense(key, "dense", config, d, e),
            "norm": {"scale": jnp.ones(e), "bias": jnp.zeros(e)},
            "decoder": {"bias": jnp.zeros(config.vocab_size)},
        }

    def prepare(self, batch: Batch, key: Key | None) -> Batch:
        if not set(self.inputs) <= set(batch):
            return batch
        return masking.hide(batch, key, self.mask_id, self.vocab_size, self.whole_word)

    def __call__(self, params: Tree, hidden: Hidden, around: Surroundings) -> tuple[Float[Array, "b p v"], Array]:
        """(logits of the chosen places [b K v], or of all [b t v]; the last layer's [CLS], without a pooler)."""
        with jax.named_scope("head"):
            seen = jnp.asarray(hidden, jnp.float32)
            if "positions" in around.batch:
                seen = jnp.take_along_axis(seen, around.batch["positions"][..., None], axis=1)
            inner = ACTIVATIONS[self.hidden_act](Dense(params["dense"])(seen))
            undone = around.invert(Norm(params["norm"], self.layer_norm_eps)(inner))
            words = around.backbone["embeddings"]["words"].astype(jnp.float32)
            logits = jnp.einsum("bpd,vd->bpv", undone, words)
            return logits + across(params["decoder"]["bias"], logits), hidden[:, 0]

    def loss(self, logits: Float[Array, "b p v"], batch: Batch) -> Float[Array, " b"]:
        """The mean over a row's chosen tokens; 0 if there is none."""
        chosen = _chosen(batch)
        return _lost(logits, batch).sum(1) / jnp.maximum(chosen.sum(1), 1).astype(jnp.float32)

    def answers(self, logits: Float[Array, "b p v"], batch: Batch) -> Logits:
        """[b 3]: the chosen tokens' negative log-likelihood, summed, in nats; their number; how many come first."""
        chosen = _chosen(batch)
        first = chosen & (jnp.argmax(logits, -1) == batch["targets"])
        counts = (part.sum(1).astype(jnp.float32) for part in (chosen, first))
        return jnp.stack([_lost(logits, batch).sum(1), *counts], axis=1)

    def decode(self, answers: np.ndarray) -> list[dict[str, Any]]:
        """How well each row's hidden words are predicted: nats per word, how many are hidden, how many found."""
        names = ("log_likelihood", "hidden", "found")
        values = ((-lost / max(count, 1.0), int(count), int(first)) for lost, count, first in answers.tolist())
        return [dict(zip(names, row, strict=True)) for row in values]

    def combine(self, logits: Float[Array, "k b p v"], vote: str) -> Float[Array, "b p v"]:
        """The log of the mean probability, however else the members vote: a likelihood needs the whole distribution."""
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - math.log(logits.shape[0])


def _chosen(batch: Batch) -> Array:
    if "chosen" not in batch:
        raise DataError(
            f"masked_lm: expected batches with the arrays {' and '.join(masking.INPUTS)}, got {', '.join(batch)}; "
            "make the rows with adapters_jax.data.text"
        )
    return batch["chosen"]


def _lost(logits: Float[Array, "b p v"], batch: Batch) -> Float[Array, "b p"]:
    """The negative log-likelihood at each chosen place, 0 elsewhere."""
    own = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.where(_chosen(batch), jax.nn.logsumexp(logits, -1) - own, jnp.float32(0))
