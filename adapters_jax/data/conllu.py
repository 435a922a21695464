"""Treebanks in CoNLL-U, as rows in which every word knows its head (https://universaldependencies.org/format.html).

Words are the syntactic ones, numbered 1, 2, ...: what HEAD counts. The line of a multiword token (3-4) repeats two of
them, that of an empty node (8.1) belongs to the enhanced graph: both are passed over. Each word's FORM is tokenised by
itself, as microsoft/K-Adapter does. Sentences that are too long lose their last words, and are counted; these words,
and those whose head is lost, are not scored. The release leaves such sentences out.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.bert.heads.dependency import NO_HEAD, NO_WORD
from adapters_jax.bert.pieces import pieces
from adapters_jax.data.rows import AnnotatedRows, encoded_ids, frame, read_lines
from adapters_jax.data.source import Features, Source
from adapters_jax.data.tagged import PASSED_OVER, WORD
from adapters_jax.errors import DataError

COLUMNS = 10
ID, FORM, HEAD = 0, 1, 6
NO_LABELS = Features()
"""Of a row; its words have them."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Words, and the number of each one's head, counted from 1; 0 for the root."""

    words: tuple[str, ...]
    heads: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Treebank:
    """A `Source`; its rows are {"text", "sentence": Sentence, "id"}."""

    sentences: tuple[Sentence, ...]
    name: str
    features: Features = NO_LABELS

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sentence = self.sentences[index]
        return {"text": " ".join(sentence.words), "sentence": sentence, "id": str(index)}


def read_conllu(file: str | os.PathLike) -> Treebank:
    """The sentences of a file.

    Raises:
      DataError: a file that is missing, not of the format, or without heads; with the line.
    """
    sentences: list[Sentence] = []
    words: list[str] = []
    heads: list[int] = []
    lines: list[int] = []
    for line, text in enumerate([*read_lines(file), ""], 1):
        if text.startswith("#"):
            continue
        if text.strip():
            place = f"{file}:{line}"
            fields = text.split("\t")
            if len(fields) != COLUMNS:
                raise DataError(f"{place}: expected {COLUMNS} tab-separated columns, got {len(fields)}: {text!r:.80}")
            if PASSED_OVER.fullmatch(fields[ID]):
                continue
            if not WORD.fullmatch(fields[ID]) or int(fields[ID]) != len(words) + 1:
                raise DataError(f"{place}: expected the word number {len(words) + 1}, got {fields[ID]!r:.80}")
            if not re.fullmatch(r"\d{1,9}", fields[HEAD]):
                raise DataError(
                    f"{place}: expected the number of the word's head in column {HEAD + 1}, got {fields[HEAD]!r:.80}; "
                    "give a file with dependencies"
                )
            words.append(fields[FORM])
            heads.append(int(fields[HEAD]))
            lines.append(line)
        elif words:
            for number, (head, at) in enumerate(zip(heads, lines, strict=True), 1):
                if head > len(words) or head == number:
                    raise DataError(
                        f"{file}:{at}: expected another of the sentence's {len(words)} words as the head of word "
                        f"{number}, or 0 for the root, got {head}"
                    )
            sentences.append(Sentence(tuple(words), tuple(heads)))
            words, heads, lines = [], [], []
    if not sentences:
        raise DataError(f"{file}: expected sentences, got comments alone")
    return Treebank(tuple(sentences), Path(file).name)


@dataclasses.dataclass(frozen=True, eq=False)
class TreeRows(AnnotatedRows):
    """`Rows` for `heads.DependencyHead`.

    Attributes:
      heads: of every token, int32, beside `encoded.ids`: where in its row the head's first piece stands, 0 for the
        root; NO_WORD and NO_HEAD as of `heads.dependency`.
    """

    heads: np.ndarray

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        return *self.encoded.arrays(), self.heads

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As of `Encoded`, with "heads" int32 [b t]; a row's weight is the number of its words that are scored."""
        batch, rows = self.encoded.batch(rows, length), np.asarray(rows)
        column = np.arange(length)
        token = column < np.where(rows >= 0, self.lengths[rows], 0)[:, None]
        place = np.where(token, self.encoded.offsets[rows][:, None] + column, 0)
        heads = np.where(token, self.heads[place], np.int32(NO_WORD))
        return batch | {"heads": heads, "weight": (heads >= 0).sum(1).astype(np.float32)}


def encode_treebank(source: Source, tokenizer: Any, max_length: int) -> TreeRows:
    """The rows of a `Treebank`, or of a sample of it (`take`), tokenised.

    Raises:
      ConfigError: max_length leaves no room for a word, or a tokenizer without [CLS] and [SEP].
    """
    first, last = frame(tokenizer, source.name, max_length, 1)
    sentences = [source[number]["sentence"] for number in range(len(source))]
    ids = iter(pieces(tokenizer, [word for sentence in sentences for word in sentence.words]))
    made, places, truncated = [], [], 0
    for sentence in sentences:
        # A word of which nothing is left (a stray control character) has a place all the same.
        words = [next(ids) or [tokenizer.unk_token_id] for _ in sentence.words]
        starts = 1 + np.concatenate([[0], np.cumsum([len(word) for word in words])])
        fit = int(np.searchsorted(starts, max_length - 1, side="right")) - 1
        truncated += fit < len(words)
        row = np.full(int(starts[fit]) + 1, NO_WORD, np.int32)
        root_and_words = [0, *starts[:fit]]
        for word, head in enumerate(sentence.heads[:fit]):
            row[starts[word]] = root_and_words[head] if head <= fit else NO_HEAD
        made.append([first, *(token for word in words[:fit] for token in word), last])
        places.append(row)
    encoded = encoded_ids(made, None, truncated, max_length, tokenizer.pad_token_id or 0, source.name)
    return TreeRows(encoded, np.concatenate(places))
