"""Labels, tags, answers and orders for texts, from a backbone and an adapter."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from adapters_jax.data.tokenize import Decoding, Rows
from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.serving.inputs import form_of
from adapters_jax.training.evaluate import evaluate

Text = Any
"""What a head is asked, see `serving.inputs`; others are refused with the place, so the type does not rule them out."""


class Predictor:
    """Callable on texts: `predictor(["a text"])`, `predictor([("a pair", "of texts")])`.

    What a text is depends on the head: a text or a pair for classes and values, a text or a list of words for tags,
    (question, context) for answers, (text, choices) for choices and orders. Rows are sorted by length into few padded
    shapes, each compiled once; answers come in the order of the texts.

    Args:
      model: the model, as `load_adapter` returns it.
      params: its parameters.
      backbone: the backbone they were trained on; its tokenizer is used.
      max_length: tokens of a row; longer texts are cut and counted in `truncated`, but for those that are read in
        several rows, to be tagged or to be searched for an answer. Default: 128, for answers 384, or the backbone's
        positions if they are fewer.
      batch_size: rows of one step.
      options: of the head's rows: for answers `doc_stride`, `max_question_length` and `threshold`, the odds above
        which a question is left without one.

    Raises:
      ConfigError: a value out of range, an unknown option, or a head that has no answer to a text alone (masked_lm,
        relation).
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        backbone: Any,
        *,
        max_length: int | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> None:
        self.form = form_of(model.head)
        for name in options:
            if name not in self.form.options:
                raise ConfigError(unknown("option", name, self.form.options))
        positions = model.max_length
        max_length = min(self.form.max_length, positions) if max_length is None else max_length
        if not 3 <= max_length <= positions:
            raise ConfigError(f"max_length: expected 3 to {positions} (the backbone's positions), got {max_length}")
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
        self.options = options
        self.model = model
        self.params = jax.device_put(params)
        self.tokenizer = backbone.tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.truncated = 0
        """How many were cut so far: of what, `Form.cut` says."""

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What the head says of each text.

        {"label", "scores"} of a classifier, {"labels", "scores"} of one with several, {"score"} of a regression,
        {"tags", "spans"} of a tagger, {"answer", "start", "end", ...} of questions, {"choice", "scores"} of choices,
        {"order", "scores"} of a ranking.

        Raises:
          DataError: what is no input of this head, or texts beside pairs of texts.
        """
        if not self._given(texts):
            return []
        rows = self._encoded(texts)
        answers = self._answers(rows)
        if isinstance(rows, Decoding):
            return rows.decode(self.model.head, answers)
        said: list[dict[str, Any]] = self.model.head.decode(answers)
        return said

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """What the head keeps of each row (`Head.answers`), [n c] in float32: of a classifier its logits."""
        if not self._given(texts):
            return np.zeros((0, self.model.head.width), np.float32)
        return self._answers(self._encoded(texts))

    def _given(self, texts: Sequence[Text]) -> bool:
        if isinstance(texts, str):
            raise DataError("expected a list of texts or of pairs of texts, got one text; put it into a list")
        return len(texts) > 0

    def _encoded(self, texts: Sequence[Text]) -> Rows:
        rows = self.form.encode(texts, self.tokenizer, self.max_length, **self.options)
        self.truncated += rows.truncated
        return rows

    def _answers(self, rows: Rows) -> np.ndarray:
        return evaluate(self.model, self.params, rows, (), self.batch_size)[1]

    def stream(self, texts: Iterable[Text], chunk: int | None = None) -> Iterator[dict[str, Any]]:
        """The same one by one, for inputs of any length: `chunk` texts are held at a time (16 batches)."""
        texts = iter(texts)
        while part := list(itertools.islice(texts, chunk or 16 * self.batch_size)):
            yield from self(part)
