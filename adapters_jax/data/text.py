"""Raw text as rows for masked language modelling: documents, cut into rows that never hold more than one of them.

A file is documents by one of two rules: separated by blank lines ("blank"), or one on each line ("lines"). "auto", the
default, takes the first where a file has a blank line between two others, else the second. Every document is tokenised
as a whole and cut into rows of `max_length` tokens, [CLS] and [SEP] included; its last row may be short, which costs
little where batches hold rows of like length. No token is lost or stands in two rows.
"""

import dataclasses
import functools
import hashlib
import os
import re
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adapters_jax.bert.heads.masking import quotas
from adapters_jax.data.rows import frame, read_lines
from adapters_jax.errors import ConfigError, DataError, unknown

RULES = ("auto", "blank", "lines")
FORMAT = 1
"""Part of every cache key: raise it when the arrays come to mean something else."""
CHUNK = 4096
"""Documents tokenised at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextRows:
    """The tokens of n rows, as `MaskedLM` learns from them; `Rows` of `fit` and `score`.

    Attributes:
      ids: token ids of all rows, one after the other, without [CLS] and [SEP]; int32.
      words: of each, the number of its word in the row, from 1; 0 for special tokens that stand in the text. int32.
      starts, sizes: row i is ids[starts[i]:starts[i] + sizes[i]]; int64 and int32 [n].
      documents: of which document each row is a part; int32 [n].
      numbers: what stays with a row when others are left out: its masks are drawn by it; int32 [n].
      special: ids of [CLS], [SEP] and padding.
    """

    ids: np.ndarray
    words: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    documents: np.ndarray
    numbers: np.ndarray
    special: tuple[int, int, int]
    max_length: int
    name: str = "text"
    labels: None = None
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.sizes)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per row, special ones included, int32 [n]."""
        return self.sizes + np.int32(2)

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        return self.ids, self.words, self.starts, self.sizes, self.numbers

    def subset(self, chosen: np.ndarray, name: str) -> "TextRows":
        """The rows of these indices, in their order, with the masks that they have here."""
        own = {field: getattr(self, field)[chosen] for field in ("starts", "sizes", "documents", "numbers")}
        return dataclasses.replace(self, **own, name=name)

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The given rows, padded.

        Args:
          rows: row indices [b]; -1 gives a padding row: weight 0, and a mask of one token, so that softmax is finite.
          length: tokens t to pad to; no row may be longer.

        Returns:
          input_ids, token_type_ids, mask and words, int32 [b t]; row, int32 [b]; weight, float32 [b]: how many of the
          row's tokens are to be hidden, so that a step's loss is the mean over those.
        """
        rows = np.asarray(rows)
        real = rows >= 0
        sizes = np.where(real, self.sizes[rows], 0)[:, None]
        assert sizes.max(initial=0) + 2 <= length, f"a row of {sizes.max() + 2} tokens does not fit into {length}"
        column = np.arange(length)
        token = (column >= 1) & (column <= sizes)
        place = np.where(token, self.starts[rows][:, None] + column - 1, 0)
        first, last, padding = self.special
        around = np.where(column == 0, first, np.where(column == sizes + 1, last, padding))
        around = np.where(real[:, None], around, padding)
        words = np.where(token, self.words[place], 0)
        return {
            "input_ids": np.where(token, self.ids[place], around).astype(np.int32),
            "token_type_ids": np.zeros(token.shape, np.int32),
            "mask": (column < np.where(real[:, None], sizes + 2, 1)).astype(np.int32),
            "words": words.astype(np.int32),
            "row": np.where(real, self.numbers[rows], -1).astype(np.int32),
            "weight": quotas(length)[(words > 0).sum(1)].astype(np.float32),
        }


class Tokens(NamedTuple):
    """ids of all documents, one after the other, int32; whether a token begins a word; tokens per document, int64."""

    ids: np.ndarray
    begins: np.ndarray
    sizes: np.ndarray


def pack_files(
    files: Sequence[str | os.PathLike],
    tokenizer: Any,
    max_length: int = 128,
    *,
    rule: str = "auto",
    cache_dir: str | os.PathLike | None = None,
) -> TextRows:
    """The rows of text files; the rules are those of this module.

    Args:
      files: UTF-8, one after the other; a document ends where its file does.
      tokenizer: a fast one, with [CLS], [SEP] and [MASK].
      max_length: tokens of a row, special ones included.
      rule: one of `RULES`.
      cache_dir: where token ids are kept, by content; None for no cache.

    Raises:
      ConfigError: an unknown rule, a max_length without room for a token, a tokenizer without the special tokens.
      DataError: a file that is missing, empty or not UTF-8.
    """
    documents = [document for file in files for document in read_documents(file, rule)]
    name = ", ".join(Path(file).name for file in files)
    return pack(documents, tokenizer, max_length, name=name, cache_dir=cache_dir)


def read_documents(file: str | os.PathLike, rule: str = "auto") -> list[str]:
    """The documents of a file, without those of white space alone; see `pack_files`."""
    if rule not in RULES:
        raise ConfigError(unknown("rule", rule, RULES))
    text = "\n".join(read_lines(file)).strip()
    blank = re.compile(r"\n\s*\n")
    documents = blank.split(text) if rule == "blank" or (rule == "auto" and blank.search(text)) else text.split("\n")
    return [document for document in documents if document.strip()]


def pack(
    documents: Sequence[str],
    tokenizer: Any,
    max_length: int = 128,
    *,
    name: str = "text",
    cache_dir: str | os.PathLike | None = None,
) -> TextRows:
    """The rows of documents in memory; arguments and errors as of `pack_files`."""
    first, last = frame(tokenizer, name, max_length, least=1)
    room = max_length - 2
    tokens = _tokens(documents, tokenizer, cache_dir)
    if not len(tokens.ids):
        raise DataError(f"{name}: expected text, got {len(documents)} documents without a token")

    parts = -(-tokens.sizes // room)
    of_document = np.repeat(np.arange(len(parts)), parts)
    nth = np.arange(len(of_document)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = np.repeat(np.cumsum(tokens.sizes) - tokens.sizes, parts) + nth * room
    sizes = np.minimum(tokens.sizes[of_document] - nth * room, room)
    begins = tokens.begins.copy()
    begins[starts] = True
    count = np.cumsum(begins)
    words = count - np.repeat(count[starts] - 1, sizes)
    words[np.isin(tokens.ids, tokenizer.all_special_ids)] = 0
    return TextRows(
        ids=tokens.ids,
        words=words.astype(np.int32),
        starts=starts.astype(np.int64),
        sizes=sizes.astype(np.int32),
        documents=of_document.astype(np.int32),
        numbers=np.arange(len(sizes), dtype=np.int32),
        special=(first, last, tokenizer.pad_token_id or 0),
        max_length=max_length,
        name=name,
    )


def hold_out(rows: TextRows, share: float, seed: int = 0) -> tuple[TextRows, TextRows]:
    """(the rest, a fixed sample of the documents): the same for the same documents and seed, whatever is trained.

    Args:
      rows: of at least two documents.
      share: of the documents, between 0 and 1; at least one is held out, and one kept.

    Raises:
      ConfigError: a share out of range.
      DataError: one document alone.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share of held-out text: expected between 0 and 1, got {share}")
    documents = np.unique(rows.documents)
    if len(documents) < 2:
        raise DataError(f"{rows.name}: expected at least 2 documents, to hold one out, got 1; give a text of its own")
    # RandomState's streams are frozen for good (NEP 19), those of numpy's newer generators are not.
    order = np.random.RandomState(seed).permutation(documents)
    count = min(max(1, round(share * len(documents))), len(documents) - 1)
    out = np.isin(rows.documents, order[:count])
    label = f"{rows.name}[{count} of {len(documents)} documents, seed {seed}]"
    return rows.subset(np.flatnonzero(~out), rows.name), rows.subset(np.flatnonzero(out), label)


def take_rows(rows: TextRows, n: int | None, seed: int = 0) -> TextRows:
    """A fixed sample of n rows, in their order; all, where n is None or not below their number."""
    if n is None or n >= len(rows):
        return rows
    chosen = np.sort(np.random.RandomState(seed).permutation(len(rows))[:n])
    return rows.subset(chosen, f"{rows.name}[{n} of {len(rows)} rows, seed {seed}]")


def _tokens(documents: Sequence[str], tokenizer: Any, cache_dir: str | os.PathLike | None) -> Tokens:
    """Tokenised, or as a cache has it."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    # What UTF-8 cannot say (half a surrogate pair) becomes a question mark.
    documents = [document.encode(errors="replace").decode() for document in documents]
    if cache_dir is None:
        return _tokenise(documents, backend)
    digest = hashlib.sha256(f"text {FORMAT} {backend.to_str()}".encode())
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    path = Path(cache_dir) / f"text-{digest.hexdigest()}.npz"
    found = _read(path)
    if found is None:
        found = _tokenise(documents, backend)
        _write(path, found)
    return found


def _tokenise(documents: Sequence[str], backend: Any) -> Tokens:
    ids, begins, sizes = [np.zeros(0, np.int32)], [np.zeros(0, bool)], []
    for chunk in range(0, len(documents), CHUNK):
        for encoding in backend.encode_batch(list(documents[chunk : chunk + CHUNK]), add_special_tokens=False):
            word = np.array([-1 if number is None else number for number in encoding.word_ids], np.int64)
            ids.append(np.asarray(encoding.ids, np.int32))
            begins.append(np.diff(word, prepend=-2) != 0)
            sizes.append(len(word))
    return Tokens(np.concatenate(ids), np.concatenate(begins), np.asarray(sizes, np.int64))


def _read(path: Path) -> Tokens | None:
    """The cached arrays; None if there are none, or the zip's own checksums do not hold."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return Tokens(*(stored[name] for name in Tokens._fields))
    except Exception:  # a damaged zip makes zipfile and NumPy raise nearly anything; all of it means the same
        return None


def _write(path: Path, tokens: Tokens) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                np.savez(file, allow_pickle=False, **tokens._asdict())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"{path.parent}: the token cache cannot be written ({error.strerror}); going on", stacklevel=4)
