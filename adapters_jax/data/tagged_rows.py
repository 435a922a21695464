"""Sentences as rows of tokens with a tag each, and what a head says of them as tags, spans and scores.

The first piece of a word carries its tag, the others have none (Devlin et al., 2019, section 5.3). A sentence that is
too long is split between words into several rows, which are put together again when they are scored and decoded; of a
word that is longer than a row the last pieces are lost, and it is counted.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from adapters_jax.bert.heads.tokens import NO_TAG, UNKNOWN
from adapters_jax.bert.pieces import pieces
from adapters_jax.data.rows import AnnotatedRows, encoded_ids, frame
from adapters_jax.data.source import Source
from adapters_jax.data.tagged import NO_TYPE, are_spans
from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.metrics.spans import Counts, count, spans

TAG_METRICS = ("tag_accuracy",)
SPAN_METRICS = ("span_f1", "span_precision", "span_recall", *TAG_METRICS)
NOTHING = -1
"""The class of a word that the answers say nothing of."""


@dataclasses.dataclass(frozen=True)
class Words:
    """What a user gave: a text, or its words.

    Attributes:
      words: as they are tokenised.
      places: (start, end) of each: of characters of the text, or of words.
      text: None where words were given.
    """

    words: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    text: str | None = None

    def between(self, first: int, last: int) -> str:
        """The words from the first to the last one, as the text has them."""
        if self.text is None:
            return " ".join(self.words[first : last + 1])
        return self.text[self.places[first][0] : self.places[last][1]]


@dataclasses.dataclass(frozen=True, eq=False)
class TaggedRows(AnnotatedRows):
    """`Rows` for `heads.TokenClassification`, `Scored` by themselves.

    Attributes:
      tags: of every token, int32, beside `encoded.ids`: a class, NO_TAG or UNKNOWN.
      starts: the first row of each sentence, and the number of rows; int64 [s + 1].
      sentences: s of them.
      names: of the classes; () where no tag is known.
    """

    tags: np.ndarray
    starts: np.ndarray
    sentences: tuple[Words, ...]
    names: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        return SPAN_METRICS if are_spans(self.names) else TAG_METRICS

    @property
    def split(self) -> int:
        """How many sentences are in several rows."""
        return int((np.diff(self.starts) > 1).sum())

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        return *self.encoded.arrays(), self.tags, self.starts

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As of `Encoded`, with "tags" int32 [b t]; a row's weight is the number of its tags that are known."""
        batch, rows = self.encoded.batch(rows, length), np.asarray(rows)
        column = np.arange(length)
        token = column < np.where(rows >= 0, self.lengths[rows], 0)[:, None]
        place = np.where(token, self.encoded.offsets[rows][:, None] + column, 0)
        tags = np.where(token, self.tags[place], np.int32(NO_TAG))
        return batch | {"tags": tags, "weight": (tags >= 0).sum(1).astype(np.float32)}

    @functools.cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, column) of the first piece of every word, in order."""
        places = np.flatnonzero(self.tags != NO_TAG)
        rows = np.searchsorted(self.encoded.offsets, places, side="right") - 1
        return rows, places - self.encoded.offsets[rows]

    def _by_sentence(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Values of all words, sentence by sentence."""
        ends = np.cumsum([len(sentence.words) for sentence in self.sentences])
        return iter(np.split(values, ends[:-1]))

    def _said(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(class or NOTHING, its probability) of every word.

        Raises:
          DataError: answers to other rows.
        """
        if answers.ndim != 2 or len(answers) != len(self):
            raise DataError(
                f"{self.name}: expected [{len(self)} 2t] answers of a token classifier, got {answers.shape}"
            )
        rows, columns = self._words
        # Columns that the answers lack say nothing.
        wide = np.pad(answers, ((0, 0), (0, max(0, 2 * self.max_length - answers.shape[1]))), constant_values=NOTHING)
        return wide[rows, 2 * columns].astype(np.int32), wide[rows, 2 * columns + 1]

    def _named(self, classes: np.ndarray, names: Sequence[str]) -> list[list[str]]:
        """The tags of each sentence; a word of which nothing is said has O."""
        known = [*names, NO_TYPE]  # the last one is what NOTHING, -1, leads to
        return [[known[tag] for tag in row] for row in self._by_sentence(classes)]

    def true_tags(self) -> list[list[str]]:
        """The tags of each sentence.

        Raises:
          DataError: none are known.
        """
        rows, columns = self._words
        tags = self.tags[self.encoded.offsets[rows] + columns]
        if not len(tags) or tags.min() < 0:
            raise DataError(f"{self.name}: expected rows with a tag for every word, got some without")
        return self._named(tags, self.names)

    def predicted_tags(self, answers: np.ndarray) -> list[list[str]]:
        """The tags that the answers [n 2t] give to the words of each sentence."""
        return self._named(self._said(answers)[0], self.names)

    def counts(self, answers: np.ndarray) -> tuple[Counts, dict[str, Counts]]:
        """Of spans (of all types, of each type), or of words (of all tags, of each tag).

        Spans are read as conlleval and seqeval's default mode read them: an I at no span of its type begins one. A
        span is right if its type and both ends are.
        """
        true, predicted = self.true_tags(), self.predicted_tags(answers)
        if are_spans(self.names):
            return count(predicted, true)
        pairs = [pair for rows in zip(predicted, true, strict=True) for pair in zip(*rows, strict=True)]
        right = Counter(ours for ours, theirs in pairs if ours == theirs)
        ours, theirs = Counter(tag for tag, _ in pairs), Counter(tag for _, tag in pairs)
        each = {tag: Counts(right[tag], ours[tag], theirs[tag]) for tag in sorted({*ours, *theirs})}
        return Counts(right.total(), len(pairs), len(pairs)), each

    def score(self, names: Sequence[str], answers: np.ndarray) -> dict[str, float]:
        """See `Scored`; spans over all types together (micro), `tag_accuracy` over all words.

        Raises:
          ConfigError: an unknown name.
          DataError: answers to other rows, or rows without tags.
        """
        for name in names:
            if name not in self.metrics:
                raise ConfigError(unknown("metric", name, self.metrics))
        if not names:
            return {}
        classes, _ = self._said(answers)
        found, _ = self.counts(answers)
        rows, columns = self._words
        right = classes == self.tags[self.encoded.offsets[rows] + columns]
        values = {
            "span_f1": found.f1,
            "span_precision": found.precision,
            "span_recall": found.recall,
            "tag_accuracy": float(right.mean()),
        }
        return {name: values[name] for name in names}

    def decode(self, head: Any, answers: np.ndarray) -> list[dict[str, Any]]:
        """What a head says of each sentence.

        Returns:
          {"tags": [{"word", "start", "end", "tag", "score"}]}, and, where tags name spans, "spans": [{"type", "text",
          "start", "end", "score"}]. Starts and ends count characters of a text, or words where words were given; the
          end is not in it. A word's score is the probability of its tag, a span's the mean of its words'.
        """
        classes, shares = self._said(answers)
        with_spans = are_spans(head.labels)
        found = []
        tagged = zip(self.sentences, self._named(classes, head.labels), self._by_sentence(shares), strict=True)
        for sentence, tags, scores in tagged:
            words = zip(sentence.words, sentence.places, tags, scores.tolist(), strict=True)
            said: dict[str, Any] = {
                "tags": [
                    {"word": word, "start": start, "end": end, "tag": tag, "score": score}
                    for word, (start, end), tag, score in words
                ]
            }
            if with_spans:
                said["spans"] = [
                    {
                        "type": kind,
                        "text": sentence.between(first, stop - 1),
                        "start": sentence.places[first][0],
                        "end": sentence.places[stop - 1][1],
                        "score": float(scores[first:stop].mean()),
                    }
                    for kind, first, stop in spans(tags)
                ]
            found.append(said)
        return found


def encode_tagged(source: Source, labels: Sequence[str], tokenizer: Any, max_length: int) -> TaggedRows:
    """The rows of `Tagged`, or of a sample of it (`take`), tokenised.

    Args:
      source: its rows are {"words", "tags"}.
      labels: the names of the classes; all tags are among them.
      tokenizer: with [CLS] and [SEP].
      max_length: tokens per row, these two included.

    Raises:
      ConfigError: max_length leaves no room for a word, or a tokenizer without [CLS] and [SEP].
    """
    numbers = {name: number for number, name in enumerate(labels)}
    rows = [source[number] for number in range(len(source))]
    sentences = [_of_words(row["words"]) for row in rows]
    classes = [[numbers[tag] for tag in row["tags"]] for row in rows]
    return _encode(sentences, classes, tokenizer, max_length, source.name, tuple(labels))


def encode_texts(texts: Sequence[Any], tokenizer: Any, max_length: int) -> TaggedRows:
    """Rows whose tags are asked for.

    Args:
      texts: strings, which become words as BERT's own tokeniser splits them: at white space, and at punctuation marks,
        each of which is a word; or lists of words, which stay as they are.
      tokenizer, max_length: as of `encode_tagged`.

    Raises:
      ConfigError: as of `encode_tagged`.
      DataError: no texts, or what is neither a text nor a list of words.
    """
    if isinstance(texts, str) or not len(texts):
        raise DataError("expected a list of texts or of lists of words, at least one, got one text or none")
    sentences = [_of_text(text) if isinstance(text, str) else _given(text, n) for n, text in enumerate(texts)]
    unknown_tags = [[UNKNOWN] * len(sentence.words) for sentence in sentences]
    return _encode(sentences, unknown_tags, tokenizer, max_length, "texts", ())


def _of_words(words: Sequence[str]) -> Words:
    return Words(tuple(words), tuple((place, place + 1) for place in range(len(words))))


def _given(words: Any, number: int) -> Words:
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise DataError(f"text {number}: expected a text or a list of words, got {words!r:.80}")
    return _of_words(words)


def _of_text(text: str) -> Words:
    from tokenizers.pre_tokenizers import BertPreTokenizer

    text = text.encode(errors="replace").decode()  # half a surrogate pair is no UTF-8; its question mark is as long
    found = BertPreTokenizer().pre_tokenize_str(text)
    return Words(tuple(text[start:end] for _, (start, end) in found), tuple(place for _, place in found), text)


def _encode(
    sentences: Sequence[Words],
    classes: Sequence[Sequence[int]],
    tokenizer: Any,
    max_length: int,
    name: str,
    names: tuple[str, ...],
) -> TaggedRows:
    first, last = frame(tokenizer, name, max_length, 1)
    room = max_length - 2
    ids = iter(pieces(tokenizer, [word for sentence in sentences for word in sentence.words]))
    made: list[list[int]] = []
    tags: list[list[int]] = []
    starts, truncated = [0], 0
    for numbers in classes:
        row: list[int] = []
        marks: list[int] = []
        for number in numbers:
            # A word of which nothing is left (a stray control character) has a place all the same.
            word = next(ids) or [tokenizer.unk_token_id]
            truncated += len(word) > room
            word = word[:room]
            if len(row) + len(word) > room:
                made.append([first, *row, last])
                tags.append([NO_TAG, *marks, NO_TAG])
                row, marks = [], []
            row += word
            marks += [number] + [NO_TAG] * (len(word) - 1)
        made.append([first, *row, last])
        tags.append([NO_TAG, *marks, NO_TAG])
        starts.append(len(made))
    encoded = encoded_ids(made, None, truncated, max_length, tokenizer.pad_token_id or 0, name)
    flat = np.fromiter((tag for row in tags for tag in row), np.int32, len(encoded.ids))
    return TaggedRows(encoded, flat, np.array(starts, np.int64), tuple(sentences), names)
