"""Prompt tuning: trained rows in front of the embedded text (Lester et al., 2021).

With x [t d] the text's embeddings and l the prompt's length:

    x <- [P ; x]                                          P [l d], the same for every row; never masked

`insertion` says where: "words", before positions, types and LayerNorm, as in peft (the prompt takes positions 0 to
l - 1, the tokens follow); or "encoder", after the embeddings' LayerNorm and dropout, as in adapters (tokens keep their
positions). The head reads the true [CLS]; read="first" reads the prompt's first row in its place, which is what
adapters and peft do, for adapters that were trained there.

    adapters/embed/prompt  [l d]                          ensemble of k: [k l d]

Positions are counted from the backbone's first one (RoBERTa's is 2), as both do. Where an ELECTRA's embeddings are
narrower than the model, rows at "words" are as wide as the embeddings, and rows at "encoder" that start from words
start from the words' projections.

An ensemble trains k prompts at once, each on its own loss, with one head; an answer is their vote. In the paper the k
prompts are trained one by one.

Parameters, k l d: 15,360 on BERT-base with l = 20, 76,800 with l = 100, the paper's; its section 3.2 finds little
gain beyond 20. Source: google-research/prompt-tuning, prompts.py. Initial values, as there: U(+-0.5); rows of the
words' embeddings, drawn from the first 5,000 (in BERT's vocabularies, about 1,000 of them were never trained); the
tokens of a text; the classes' names, each the mean of its tokens. Rows that the last two leave over are drawn. Class
names that do not fit are refused, where the release skips them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads import VOTES
from adapters_jax.bert.ops import Dense
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Mask, Tree

INITS = ("uniform", "vocabulary", "text", "labels")
INSERTIONS = ("words", "encoder")
READS = ("cls", "first")
FREQUENT = 5_000
"""How many of the first rows of the vocabulary are drawn from (section 3.2: "the 5,000 most common")."""
SCALE = 0.5
"""Of the uniform start (section 3.2)."""


class PromptRows(nn.Module):
    """A prompt in front of the embeddings.

    Attributes:
        length: l, of the prompt.
        place: "words" or "encoder".
    """

    length: int
    place: str

    @nn.compact
    def __call__(self, x: Hidden, mask: Mask, ctx: Context) -> tuple[Array, Array]:
        prompt = self.param("prompt", nn.initializers.zeros, (self.length, x.shape[-1])).astype(x.dtype)
        rows = jnp.broadcast_to(prompt[None], (x.shape[0], *prompt.shape))
        seen = jnp.ones((x.shape[0], self.length), bool)
        return jnp.concatenate([rows, x], axis=1), jnp.concatenate([seen, mask], axis=1)


class ReadFirst(nn.Module):
    """The state of the first row, the prompt's, where heads look for [CLS]."""

    def __call__(self, h: Hidden, hidden_states: tuple[Hidden, ...], ctx: Context) -> Hidden:
        cls = h.shape[1] - ctx.input_ids.shape[1]
        return jax.lax.dynamic_update_slice_in_dim(h, h[:, :1], cls, axis=1)


class PromptMethod(Method):
    """What prompt tuning and P-tuning share: where the rows stand and which of them is read.

    Attributes:
        length: l, of the prompt.
        insertion: "words" or "encoder".
        read: what stands for the text: "cls", or "first", the first row of the prompt.
    """

    size: ClassVar[str | None] = "length"
    not_foldable: ClassVar[str] = "its rows stand in front of the text"
    length: int
    insertion: str
    read: str

    def __post_init__(self) -> None:
        checks.whole("length", self.length)
        checks.one_of("insertion", self.insertion, INSERTIONS)
        checks.one_of("read", self.read, READS)

    def positions(self, config: BertConfig) -> int:
        return self.length if self.insertion == "words" else 0

    def width(self, config: BertConfig) -> int:
        """Of a row."""
        return config.embedding_width if self.insertion == "words" else config.hidden_size

    def modules(self, config: BertConfig, segment: int) -> Modules:
        rows: Modules = {"embed": PromptRows(self.length, self.insertion)}
        return {**rows, "output": ReadFirst()} if self.read == "first" else rows


@dataclasses.dataclass(frozen=True)
class Prompt(PromptMethod):
    """Lester et al. (2021), https://arxiv.org/abs/2104.08691.

    Attributes:
        length: l, of the prompt; 100 in the paper, 10 in adapters.
        init: "uniform", "vocabulary", "text" or "labels"; the last two need `prepare`.
        text: what init="text" starts from.
        insertion: "words" (as peft) or "encoder" (as adapters).
        read: "cls", or "first" (as both).
        ensemble: k, how many prompts are trained and asked.
        vote: of an ensemble: "majority" (ties by the mean probability) or "mean" (of the probabilities).
        init_tokens: the ids that each of the first rows starts from, filled in by `prepare`.
    """

    name: ClassVar[str] = "prompt"
    length: int = 20
    init: str = "vocabulary"
    text: str = ""
    insertion: str = "words"
    read: str = "cls"
    ensemble: int = 1
    vote: str = "majority"
    init_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PromptMethod.__post_init__(self)
        checks.one_of("init", self.init, INITS)
        checks.whole("ensemble", self.ensemble)
        checks.one_of("vote", self.vote, VOTES)
        if (self.init == "text") != bool(self.text.strip()):
            raise ConfigError(f"method.text: expected a text with init=text alone, got {self.text!r} and {self.init}")
        if len(self.init_tokens) > self.length:
            raise ConfigError(
                f"method.length: expected at least {len(self.init_tokens)}, a row for each class, got {self.length}"
            )
        for row in self.init_tokens:
            if not row.split() or not all(token.isdecimal() and len(token) < 10 for token in row.split()):
                raise ConfigError(f"method.init_tokens: expected ids with blanks between them, got {row!r:.80}")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            optimizer="adafactor",
            lr=0.3,
            epochs=20.0,
            warmup=0.0,
            schedule="constant",
            weight_decay=1e-5,
            clip_norm=0.0,
            source="google-research/prompt-tuning: prompt_finetune.gin, 30,000 steps on T5; epochs as peft's example",
        )

    @property
    def members(self) -> int:
        return self.ensemble

    def check(self, config: BertConfig) -> None:
        largest = max((int(token) for row in self.init_tokens for token in row.split()), default=0)
        if largest >= config.vocab_size:
            raise ConfigError(f"method.init_tokens: expected ids below {config.vocab_size}, got {largest}")

    def prepare(self, tokenize: Callable[[str], list[int]], labels: Sequence[str]) -> "Prompt":
        if self.init == "text":
            rows = [[token] for token in tokenize(self.text)[: self.length]]
        elif self.init == "labels":
            rows = [tokenize(label) for label in labels]
        else:
            return self
        if not rows or not all(rows):
            given = repr(self.text) if self.init == "text" else f"the classes {tuple(labels)}"
            raise ConfigError(f"method.init: expected {self.init} that the tokenizer knows, got {given}")
        return dataclasses.replace(self, init_tokens=tuple(" ".join(map(str, row)) for row in rows))

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        if self.init in ("text", "labels") and not self.init_tokens:
            raise ConfigError(
                f"method.init: {self.init} needs a tokenizer: expected Prompt(...).prepare(backbone.tokenize, labels)"
            )
        keys = [trees.fold_path(key, "embed", member) for member in range(self.ensemble)]
        drawn: list[Array]
        if self.init == "uniform":
            shape = (self.length, self.width(config))
            drawn = [jax.random.uniform(key, shape, jnp.float32, -SCALE, SCALE) for key in keys]
        else:
            embeddings = backbone["embeddings"]
            drawn = [self._rows(key, embeddings["words"]) for key in keys]
            if self.width(config) != config.embedding_width:
                project = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), embeddings["project"])
                drawn = [Dense(project)(rows) for rows in drawn]
        return {"embed": {"prompt": drawn[0] if self.ensemble == 1 else jnp.stack(drawn)}}

    def _rows(self, key: Key, words: Float[Array, "v e"]) -> Float[Array, "l e"]:
        """One prompt's initial values, from words."""
        population = min(FREQUENT, words.shape[0])
        drawn = jax.random.choice(key, population, (self.length,), replace=self.length > population)
        rows = jnp.take(words, drawn, axis=0).astype(jnp.float32)
        for number, row in enumerate(self.init_tokens):
            tokens = jnp.take(words, np.array(row.split(), np.int32), axis=0)
            rows = rows.at[number].set(tokens.astype(jnp.float32).mean(0))
        return rows
