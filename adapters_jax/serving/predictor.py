"""Labels and probabilities for texts, from a backbone and an adapter."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from adapters_jax.data.source import as_source
from adapters_jax.data.tokenize import encode
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.training.evaluate import evaluate

Text = Any
"""A text, or a pair of texts; others are refused with the place, so they are not ruled out by the type."""


class Predictor:
    """Callable on texts: `predictor(["a text"])`, `predictor([("a pair", "of texts")])`.

    Rows are sorted by length into few padded shapes, each compiled once; answers come in the order of the texts.

    Args:
      model: the model, as `load_adapter` returns it.
      params: its parameters.
      backbone: the backbone they were trained on; its tokenizer is used.
      max_length: tokens of a text or pair; longer ones are cut and counted in `truncated`. Default: 128, or the
        backbone's positions if they are fewer.
      batch_size: rows of one step.

    Raises:
      ConfigError: a value out of range, or a head that has no answer to a text alone (masked_lm, relation).
    """

    def __init__(
        self, model: Any, params: Any, backbone: Any, *, max_length: int | None = None, batch_size: int = 64
    ) -> None:
        if not model.head.learns_from_labels or model.head.inputs:
            raise ConfigError(
                f"head {model.head.name}: expected one that answers texts, such as classification; continue this "
                "adapter on a task first: python -m train.glue --init-adapter=FOLDER"
            )
        positions = model.max_length
        max_length = min(128, positions) if max_length is None else max_length
        if not 3 <= max_length <= positions:
            raise ConfigError(f"max_length: expected 3 to {positions} (the backbone's positions), got {max_length}")
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
        self.model = model
        self.params = jax.device_put(params)
        self.tokenizer = backbone.tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.truncated = 0
        """How many texts were cut so far."""

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What the head says of each text: {"label", "scores"} of a classifier, {"score"} of a regression.

        Raises:
          DataError: neither all texts nor all pairs of texts.
        """
        return self.model.head.decode(self.logits(texts))

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """The head's raw outputs, [n c] in float32."""
        if isinstance(texts, str):
            raise DataError("expected a list of texts or of pairs of texts, got one text; put it into a list")
        if not texts:
            return np.zeros((0, self.model.head.width), np.float32)
        encoded = encode(as_source(_rows(texts)), self.tokenizer, self.max_length)
        self.truncated += encoded.truncated
        return evaluate(self.model, self.params, encoded, (), self.batch_size)[1]

    def stream(self, texts: Iterable[Text], chunk: int | None = None) -> Iterator[dict[str, Any]]:
        """The same one by one, for inputs of any length: `chunk` texts are held at a time (16 batches)."""
        texts = iter(texts)
        while part := list(itertools.islice(texts, chunk or 16 * self.batch_size)):
            yield from self(part)


def _rows(texts: Sequence[Text]) -> list[dict[str, str]]:
    pairs = [not isinstance(text, str) for text in texts]
    if any(pairs) != all(pairs):
        raise DataError(f"expected texts or pairs of texts, got both: text {pairs.index(not pairs[0])} differs")
    if not pairs[0]:
        return [{"text": text} for text in texts]
    for n, pair in enumerate(texts):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise DataError(f"text {n}: expected a text or a pair of texts, got {pair!r}")
    return [{"text": first, "text_pair": second} for first, second in texts]
