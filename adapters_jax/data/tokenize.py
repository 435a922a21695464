"""Token ids of a whole source in flat arrays, made once and cached by the content of the rows and of the tokenizer."""

import dataclasses
import functools
import hashlib
import os
import struct
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from adapters_jax.data.source import Features, Source
from adapters_jax.errors import ConfigError, DataError

# Part of every cache key: raise it when the arrays come to mean something else.
FORMAT = 1
# Rows that are Python strings at a time.
CHUNK = 4096
ARRAYS = ("ids", "offsets", "second", "labels", "weights")


@runtime_checkable
class Rows(Protocol):
    """Rows as batches are made of them: what `fit` takes where texts with one label each are not enough.

    Attributes:
      lengths: tokens per row, int32 [n].
      max_length: the most that a row may have.
      labels: what metrics compare with; None where the head makes its own.
      truncated: how many rows were cut.
      name: for logs and the manifest.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_length(self) -> int: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def truncated(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        """All that the batches are made of: two sets of rows are the same if these are."""

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The given rows [b], -1 for padding ones of weight 0, padded to `length` tokens; see `Encoded.batch`."""


@runtime_checkable
class Scored(Protocol):
    """`Rows` that judge answers themselves: what several rows say together, or what no label per row can say.

    Attributes:
      metrics: the names that `score` knows; the first chooses the best step.
    """

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def score(self, names: Sequence[str], answers: np.ndarray) -> dict[str, float]:
        """The named metrics as fractions, from what the head keeps of every row [n c] (`Head.answers`)."""


@runtime_checkable
class Decoding(Protocol):
    """`Rows` that say what answers mean, where a text has several rows or its words are needed."""

    def decode(self, head: Any, answers: np.ndarray) -> list[dict[str, Any]]:
        """What a user reads, a dict per text."""


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """The tokens of n rows.

    Attributes:
      ids: token ids of all rows, one after the other, int32.
      offsets: row i is ids[offsets[i]:offsets[i + 1]]; int64 [n + 1].
      second: where a row's second text starts (its token types turn from 0 to 1); the row's length if there is none;
        int32 [n].
      labels: int32 classes or float32 values [n], or, where a row has several, float32 [n c] of 0 and 1; None if the
        source has none.
      truncated: how many rows were longer than max_length.
      max_length: tokens that a row has at most.
      pad_id: what fills a batch up.
      weights: how much each row counts in the loss, float32 [n]; None: all the same.
    """

    ids: np.ndarray
    offsets: np.ndarray
    second: np.ndarray
    labels: np.ndarray | None
    truncated: int
    max_length: int
    pad_id: int = 0
    name: str = "rows"
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.second)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per row, special ones included, int32 [n]."""
        return np.diff(self.offsets).astype(np.int32)

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        # Rows without weights are what they were before there were any: their runs go on.
        return self.ids, self.offsets, self.second, self.labels, *(() if self.weights is None else (self.weights,))

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The given rows, padded.

        Args:
          rows: row numbers [b]; -1 gives a padding row: weight 0, and a mask of one token, so that softmax is finite.
          length: tokens t to pad to; no row may be longer.

        Returns:
          input_ids, token_type_ids and mask, int32 [b t]; weight, float32 [b]; labels [b] or [b c] if there are any.
        """
        rows = np.asarray(rows)
        real = rows >= 0
        lengths = np.where(real, self.lengths[rows], 0)
        assert lengths.max(initial=0) <= length, f"a row of {lengths.max()} tokens does not fit into {length}"
        column = np.arange(length)
        token = column < lengths[:, None]
        ids = self.ids[np.where(token, self.offsets[rows][:, None] + column, 0)]
        batch = {
            "input_ids": np.where(token, ids, np.int32(self.pad_id)),
            "token_type_ids": (token & (column >= self.second[rows][:, None])).astype(np.int32),
            "mask": (token | (~real[:, None] & (column == 0))).astype(np.int32),
            "weight": real.astype(np.float32) if self.weights is None else np.where(real, self.weights[rows], 0),
        }
        if self.labels is not None:
            there = real if self.labels.ndim == 1 else real[:, None]
            batch["labels"] = np.where(there, self.labels[rows], self.labels.dtype.type(0))
        return batch


def encode(source: Source, tokenizer: Any, max_length: int, cache_dir: str | os.PathLike | None = None) -> Encoded:
    """Tokenises every row as BERT is fed: [CLS] text [SEP], or [CLS] text [SEP] text_pair [SEP].

    A row that is too long loses tokens from the end of its longer text first. The arrays are kept in `cache_dir` under
    a hash of the tokenizer, max_length and all rows; a file there that is damaged is made anew, and a folder that
    cannot be written costs a warning.

    Args:
      source: rows; all of them labelled, or none.
      tokenizer: a fast one (`transformers.PreTrainedTokenizerFast`); its own state is left alone.
      max_length: tokens per row, special ones included.
      cache_dir: None for no cache.

    Raises:
      ConfigError: max_length leaves no room for the special tokens.
      DataError: no rows, or some without a label where others have one.
    """
    if len(source) == 0:
        raise DataError(f"{source.name}: expected at least one row, got none")
    backend, identity = _backend(tokenizer.backend_tokenizer.to_str(), max_length, len(source.features.columns) == 2)
    pad_id = tokenizer.pad_token_id or 0
    if cache_dir is None:
        return _tokenise(source, backend, max_length, pad_id)
    path = Path(cache_dir) / f"tokens-{_key(source, identity, max_length, pad_id)}.npz"
    if (found := _read(path, len(source), max_length, pad_id)) is not None:
        return found
    encoded = _tokenise(source, backend, max_length, pad_id)
    _write(path, encoded)
    return encoded


@functools.lru_cache(maxsize=4)
def _backend(serialised: str, max_length: int, pair: bool) -> tuple[Any, str]:
    """(a tokenizer of our own, that truncates; the hash of it without truncation and padding, which users may set)."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(serialised)
    backend.no_padding()
    backend.no_truncation()
    identity = hashlib.sha256(backend.to_str().encode()).hexdigest()
    special = backend.num_special_tokens_to_add(pair)
    if max_length <= special:
        raise ConfigError(f"max_length: expected more than the {special} special tokens of a row, got {max_length}")
    backend.enable_truncation(max_length, strategy="longest_first")
    return backend, identity


def _rows(source: Source) -> Iterator[tuple[list[str], Any, float | None]]:
    """(texts, label, weight) of each row; what UTF-8 cannot say (half a surrogate pair) becomes a question mark."""
    columns, labelled = source.features.columns, None
    for i in range(len(source)):
        row = source[i]
        label = row.get("label")
        labelled = (label is not None) if labelled is None else labelled
        if labelled != (label is not None):
            raise DataError(f"{source.name}, row {i}: expected labels on all rows or none, got {label!r}")
        yield [row[column].encode(errors="replace").decode() for column in columns], label, row.get("weight")


def _key(source: Source, identity: str, max_length: int, pad_id: int) -> str:
    features = source.features
    digest = hashlib.sha256(f"{FORMAT} {identity} {max_length} {pad_id} {features.columns} {features.kind}".encode())
    if features.kind == "multilabel":
        digest.update(struct.pack("<q", len(features.labels)))
    for texts, label, weight in _rows(source):
        for data in (text.encode() for text in texts):
            digest.update(struct.pack("<q", len(data)))
            digest.update(data)
        if isinstance(label, tuple):
            digest.update(struct.pack(f"<{1 + len(label)}q", len(label), *label))
        else:
            digest.update(b"-" if label is None else struct.pack("<d", label))
        digest.update(b"" if weight is None else b"w" + struct.pack("<d", weight))
    return digest.hexdigest()


def _tokenise(source: Source, backend: Any, max_length: int, pad_id: int) -> Encoded:
    ids, lengths, second, labels, weights, truncated = [], [], [], [], [], 0
    rows = _rows(source)
    while chunk := [row for _, row in zip(range(CHUNK), rows, strict=False)]:
        encodings = backend.encode_batch([texts[0] if len(texts) == 1 else tuple(texts) for texts, *_ in chunk])
        ids.append(np.concatenate([np.asarray(encoding.ids, np.int32) for encoding in encodings]))
        lengths += [len(encoding.ids) for encoding in encodings]
        # Token types are zeros, then ones: their number says where the second text starts.
        second += [len(encoding.ids) - sum(encoding.type_ids) for encoding in encodings]
        labels += [label for _, label, _ in chunk]
        weights += [weight for _, _, weight in chunk]
        truncated += sum(bool(encoding.overflowing) for encoding in encodings)
    return Encoded(
        ids=np.concatenate(ids),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        second=np.asarray(second, np.int32),
        labels=None if labels[0] is None else _labels(labels, source.features),
        truncated=truncated,
        max_length=max_length,
        pad_id=pad_id,
        weights=None if weights[0] is None else np.asarray(weights, np.float32),
    )


def _labels(labels: Sequence[Any], features: Features) -> np.ndarray:
    """Those of all rows, as `Encoded` has them."""
    if features.kind != "multilabel":
        return np.asarray(labels, np.int32 if features.kind == "classification" else np.float32)
    several = np.zeros((len(labels), len(features.labels)), np.float32)
    for row, numbers in enumerate(labels):
        several[row, list(numbers)] = 1.0
    return several


def _arrays(encoded: Encoded) -> dict[str, np.ndarray]:
    none = np.zeros(0, np.int32)
    return {
        "ids": encoded.ids,
        "offsets": encoded.offsets,
        "second": encoded.second,
        "labels": none if encoded.labels is None else encoded.labels,
        "weights": none if encoded.weights is None else encoded.weights,
    }


def _checksum(arrays: dict[str, np.ndarray], truncated: int) -> str:
    digest = hashlib.sha256(f"{truncated}".encode())
    for name in ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _read(path: Path, rows: int, max_length: int, pad_id: int) -> Encoded | None:
    """The cached arrays, or None if there are none that can be trusted."""
    try:
        # np.load leaves a file that it opened itself open if that is no zip.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
            truncated, checksum = int(stored["truncated"]), str(stored["checksum"])
    except Exception:  # a damaged zip makes zipfile and NumPy raise nearly anything; all of it means the same
        return None
    if checksum != _checksum(arrays, truncated) or len(arrays["second"]) != rows:
        return None
    labels, weights = arrays.pop("labels"), arrays.pop("weights")
    return Encoded(
        **arrays,
        labels=labels if len(labels) else None,
        weights=weights if len(weights) else None,
        truncated=truncated,
        max_length=max_length,
        pad_id=pad_id,
    )


def _write(path: Path, encoded: Encoded) -> None:
    arrays = _arrays(encoded)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                np.savez(
                    file,
                    allow_pickle=False,
                    truncated=np.int64(encoded.truncated),
                    checksum=np.str_(_checksum(arrays, encoded.truncated)),
                    **arrays,
                )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"{path.parent}: the token cache cannot be written ({error.strerror}); going on", stacklevel=3)
