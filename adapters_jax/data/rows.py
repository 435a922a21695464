"""What readers of annotated text share: lines of a file, `Encoded` rows with more than tokens."""

import abc
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.data.tokenize import Encoded
from adapters_jax.errors import ConfigError, DataError


def read_lines(file: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 file, split at line feeds alone; a byte-order mark and carriage returns are dropped.

    Raises:
      DataError: a file that is missing, unreadable, empty or not UTF-8, with the line.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a text file, got: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: expected UTF-8, got {data[error.start : error.end]!r}") from None
    if not text.strip():
        raise DataError(f"{path}: expected text, got an empty file")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def frame(tokenizer: Any, name: str, max_length: int, least: int) -> tuple[int, int]:
    """The ids of [CLS] and [SEP].

    Raises:
      ConfigError: the tokenizer has none, or `max_length` leaves less than `least` tokens between them.
    """
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    if first is None or last is None:
        raise ConfigError(f"{name}: expected a tokenizer with [CLS] and [SEP], got {type(tokenizer).__name__} without")
    if max_length < least + 2:
        raise ConfigError(f"max_length: expected at least {least + 2} for these rows, got {max_length}")
    return first, last


def encoded_ids(
    rows: Sequence[Sequence[int]], labels: np.ndarray | None, truncated: int, max_length: int, pad_id: int, name: str
) -> Encoded:
    """`Encoded` of rows of token ids, special ones included; each is one text."""
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.fromiter((token for row in rows for token in row), np.int32, int(lengths.sum()))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(ids, offsets, lengths.astype(np.int32), labels, truncated, max_length, pad_id, name)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedRows(abc.ABC):
    """`Rows` whose batches bring more than tokens and labels.

    Attributes:
      encoded: the tokens.
    """

    encoded: Encoded

    @property
    def name(self) -> str:
        return self.encoded.name

    @property
    def max_length(self) -> int:
        return self.encoded.max_length

    @property
    def labels(self) -> np.ndarray | None:
        return self.encoded.labels

    @property
    def truncated(self) -> int:
        return self.encoded.truncated

    @property
    def lengths(self) -> np.ndarray:
        return self.encoded.lengths

    def __len__(self) -> int:
        return len(self.encoded)

    @abc.abstractmethod
    def arrays(self) -> tuple[np.ndarray | None, ...]:
        """See `Rows`."""

    @abc.abstractmethod
    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """See `Rows`."""
